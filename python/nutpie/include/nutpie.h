/* nutpie.h: what a compiled log density looks like to nutpie.
 *
 * A model is one C function, and perhaps a second one that computes what a result holds. The first is called from several
 * threads at once, with distinct x, grad and logp, and must not write anywhere else without a lock of its own. Nothing here
 * depends on Python: a density runs without its interpreter.
 */
#ifndef NUTPIE_H
#define NUTPIE_H

#include <stdint.h>

/* Version of this interface. It grows when something is added and changes its thousands when something else changes. */
#define NUTPIE_ABI_VERSION 2

/* Return codes. Zero is success. Positive: the density is not defined at x; the leapfrog step counts as a divergence and
 * sampling goes on. Negative: something is wrong with the model itself; the run ends and keeps the draws so far. */
#define NUTPIE_OK 0
#define NUTPIE_RECOVERABLE 1
#define NUTPIE_FATAL (-1)
#define NUTPIE_BAD_DIMENSION (-2)
/* A Python exception is set in the state of the calling thread; it is raised to the user as it is. An ArithmeticError, a
 * numpy.linalg.LinAlgError, or one whose attribute `is_recoverable` is true counts as recoverable instead. */
#define NUTPIE_PYTHON_EXCEPTION (-3)

#ifdef __cplusplus
extern "C" {
#endif

/* Log density, up to a constant, of an unconstrained point and its gradient.
 *
 * dim        number of parameters; return NUTPIE_BAD_DIMENSION if it is not the model's
 * x          in: the point, dim numbers
 * grad       out: the gradient of the log density, dim numbers; it does not overlap x
 * logp       out: the log density; a value or gradient that is not finite counts as a divergence
 * user_data  whatever was registered with the function
 */
typedef int64_t (*nutpie_logp_fn)(uint64_t dim, const double *x, double *grad, double *logp, void *user_data);

/* Variables of the result at a draw; since version 2. A positive code makes them NaN for this draw, a negative one is an
 * error. It is called after the run, by one thread.
 *
 * dim        number of parameters
 * n_out      number of elements of all variables
 * x          in: the draw, dim numbers
 * out        out: the variables one after the other, each in the order of C, n_out numbers
 * user_data  the same as that of the log density
 */
typedef int64_t (*nutpie_expand_fn)(uint64_t dim, uint64_t n_out, const double *x, double *out, void *user_data);

#ifdef __cplusplus
}
#endif

#endif
