/* Eight schools (Rubin 1981) behind the interface of nutpie.h, in C.
 *
 *     cc -O2 -shared -fPIC -I "$(python -c 'import nutpie; print(nutpie.include_dir())')" schools.c -o schools.so -lm
 *
 * mu ~ normal(0, 5), tau ~ half-Cauchy(0, 5), theta[i] = mu + tau * z[i] with z[i] ~ normal(0, 1), and
 * effect[i] ~ normal(theta[i], error[i]). The parameters are mu, log(tau) and z. The data are n effects and then n errors.
 */
#include <math.h>

#include "nutpie.h"

int64_t schools_logp(uint64_t dim, const double *x, double *grad, double *logp, void *user_data) {
    if (dim < 2) return NUTPIE_BAD_DIMENSION;
    const uint64_t n = dim - 2;
    const double *effect = user_data, *error = effect + n, *z = x + 2;
    const double mu = x[0], tau = exp(x[1]);
    if (!isfinite(tau)) return NUTPIE_RECOVERABLE;

    const double ratio = tau * tau / 25.0;
    double value = -mu * mu / 50.0 + x[1] - log1p(ratio);
    grad[0] = -mu / 25.0;
    grad[1] = 1.0 - 2.0 * ratio / (1.0 + ratio);
    for (uint64_t i = 0; i < n; i++) {
        const double residual = (effect[i] - mu - tau * z[i]) / error[i], slope = residual / error[i];
        value -= 0.5 * (residual * residual + z[i] * z[i]);
        grad[0] += slope;
        grad[1] += slope * tau * z[i];
        grad[2 + i] = slope * tau - z[i];
    }
    *logp = value;
    return NUTPIE_OK;
}

/* mu, tau and theta. */
int64_t schools_expand(uint64_t dim, uint64_t n_out, const double *x, double *out, void *user_data) {
    (void) user_data;
    if (n_out != dim) return NUTPIE_BAD_DIMENSION;
    out[0] = x[0];
    out[1] = exp(x[1]);
    for (uint64_t i = 2; i < dim; i++) out[i] = out[0] + out[1] * x[i];
    return NUTPIE_OK;
}

/* Let the compiler compare the types with the header. */
nutpie_logp_fn check_logp = schools_logp;
nutpie_expand_fn check_expand = schools_expand;
