/* A library with the C interface of BridgeStan that was not made by Stan: independent normals in two dimensions.
 *
 * MAJOR, THREADS and WITHOUT_RNG are set by the tests. It tells how many calls were in it at once, and every error has the
 * code -1, as in BridgeStan itself. */
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#ifndef MAJOR
#define MAJOR 2
#endif
#ifndef THREADS
#define THREADS "false"
#endif

const int bs_major_version = MAJOR, bs_minor_version = 5, bs_patch_version = 0;

int inside, most_inside;

static void enter(void) {
    int now = __atomic_add_fetch(&inside, 1, __ATOMIC_SEQ_CST);
    if (now > most_inside) most_inside = now;
    for (volatile int i = 0; i < 2000; i++) {}
}

static void leave(void) { __atomic_sub_fetch(&inside, 1, __ATOMIC_SEQ_CST); }

void *bs_model_construct(const char *data, unsigned int seed, char **error) {
    if (strstr(data, "bad")) {
        *error = strdup("no such data");
        return NULL;
    }
    return malloc(1);
}

void bs_model_destruct(void *model) { free(model); }
void bs_free_error_msg(char *text) { free(text); }
const char *bs_name(const void *model) { return "fake_model"; }
const char *bs_model_info(const void *model) { return "Stan version: 2.30.1\nSTAN_THREADS=" THREADS "\n"; }
const char *bs_param_names(const void *model, bool tp, bool gq) { return tp ? "x.1,x.2,total" : "x.1,x.2"; }
const char *bs_param_unc_names(const void *model) { return "x.1,x.2"; }
int bs_param_num(const void *model, bool tp, bool gq) { return tp ? 3 : 2; }
int bs_param_unc_num(const void *model) { return 2; }

int bs_param_constrain(const void *model, bool tp, bool gq, const double *x, double *values, void *rng, char **error) {
    enter();
    values[0] = x[0];
    values[1] = x[1];
    if (tp) values[2] = x[0] + x[1];
    leave();
    return 0;
}

int bs_param_unconstrain(const void *model, const double *values, double *x, char **error) {
    x[0] = values[0];
    x[1] = values[1];
    return 0;
}

int bs_log_density_gradient(const void *model, bool propto, bool jacobian, const double *x, double *value, double *grad,
                            char **error) {
    int code = 0;
    enter();
    if (x[0] > 1.0) {
        *error = strdup("x is too large");
        code = -1;
    } else {
        *value = -0.5 * (x[0] * x[0] + x[1] * x[1]);
        grad[0] = -x[0];
        grad[1] = -x[1];
    }
    leave();
    return code;
}

#ifndef WITHOUT_RNG
void *bs_rng_construct(unsigned int seed, char **error) { return malloc(1); }
void bs_rng_destruct(void *rng) { free(rng); }
#endif
