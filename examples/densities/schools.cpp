// Eight schools behind the interface of nutpie.h, in C++; schools.c says what the model is.
//
//     c++ -O2 -shared -fPIC -I "$(python -c 'import nutpie; print(nutpie.include_dir())')" schools.cpp -o schools.so
//
// No exception may leave a function that others call through a C interface, so they become return codes here.
#include <cmath>
#include <cstddef>
#include <stdexcept>

#include "nutpie.h"

namespace {

struct Schools {
    std::size_t n;
    const double *effect;
    const double *error;

    double operator()(const double *x, double *grad) const {
        const double mu = x[0], tau = std::exp(x[1]), *z = x + 2;
        if (!std::isfinite(tau)) throw std::domain_error("tau overflows");
        const double ratio = tau * tau / 25.0;
        double value = -mu * mu / 50.0 + x[1] - std::log1p(ratio);
        grad[0] = -mu / 25.0;
        grad[1] = 1.0 - 2.0 * ratio / (1.0 + ratio);
        for (std::size_t i = 0; i < n; i++) {
            const double residual = (effect[i] - mu - tau * z[i]) / error[i], slope = residual / error[i];
            value -= 0.5 * (residual * residual + z[i] * z[i]);
            grad[0] += slope;
            grad[1] += slope * tau * z[i];
            grad[2 + i] = slope * tau - z[i];
        }
        return value;
    }
};

}  // namespace

extern "C" int64_t schools_logp(uint64_t dim, const double *x, double *grad, double *logp, void *user_data) {
    if (dim < 2) return NUTPIE_BAD_DIMENSION;
    const auto *effect = static_cast<const double *>(user_data);
    try {
        *logp = Schools{dim - 2, effect, effect + (dim - 2)}(x, grad);
        return NUTPIE_OK;
    } catch (const std::domain_error &) {
        return NUTPIE_RECOVERABLE;
    } catch (...) {
        return NUTPIE_FATAL;
    }
}

extern "C" int64_t schools_expand(uint64_t dim, uint64_t n_out, const double *x, double *out, void *) {
    if (n_out != dim) return NUTPIE_BAD_DIMENSION;
    out[0] = x[0];
    out[1] = std::exp(x[1]);
    for (std::size_t i = 2; i < dim; i++) out[i] = out[0] + out[1] * x[i];
    return NUTPIE_OK;
}

[[maybe_unused]] static const nutpie_logp_fn check_logp = schools_logp;
[[maybe_unused]] static const nutpie_expand_fn check_expand = schools_expand;
