/* Loops over a gradient: of the library itself, and through the function that the sampler calls. */
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

typedef int (*bridgestan_fn)(const void *, bool, bool, const double *, double *, double *, char **);
typedef int64_t (*nutpie_fn)(uint64_t, const double *, double *, double *, void *);

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}

/* Seconds for a number of calls; positive sum of the values, so that no call is left out. */
double loop_library(bridgestan_fn f, const void *model, int n, const double *x, double *grad, double *sum) {
    char *error = 0;
    double value, start = now();
    for (int i = 0; i < n; i++) {
        f(model, true, true, x, &value, grad, &error);
        *sum += value;
    }
    return now() - start;
}

double loop_sampler(nutpie_fn f, void *user_data, int dim, int n, const double *x, double *grad, double *sum) {
    double value, start = now();
    for (int i = 0; i < n; i++) {
        f(dim, x, grad, &value, user_data);
        *sum += value;
    }
    return now() - start;
}
