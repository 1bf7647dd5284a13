"""Posteriors of posteriordb; `../shared/posteriordb/README.md` has the models, and the folder data and references."""

import math

import numpy as np

from densities.base import Workload, posteriordb_reference, shared_json
from densities.gaussian_process import PoissonProcess
from densities.ode import LotkaVolterra, OneCompartment
from densities.regression import Regression, half_cauchy, half_normal


def _data(name):
    return {key: np.array(value) for key, value in shared_json(f"posteriordb/data/{name}.json").items()}


def _sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


class EightSchools(Workload):
    """Effects in eight schools, centred or not."""

    title = "eight schools, 10"

    def __init__(self, name, *, centred):
        self.name, self.centred = name, centred
        self.blocks = (("theta" if centred else "theta_trans", 8, "identity"), ("mu", 1, "identity"), ("tau", 1, "log"))
        self.data = _data("eight_schools")

    def expand(self, draws):
        values = super().expand(draws)
        if not self.centred:
            values["theta"] = values["mu"] + values["tau"] * values.pop("theta_trans")
        return values

    def reference(self):
        return posteriordb_reference("eight_schools-eight_schools_noncentered")

    def numba_logp(self):
        import numba

        from densities.parts import scale_prior

        y, sigma, centred = self.data["y"].astype(float), self.data["sigma"].astype(float), self.centred

        @numba.njit(error_model="numpy")
        def logp(x, grad):
            mu, tau = x[8], math.exp(x[9])
            total, grad[9] = scale_prior(x[9], 1.0, 5.0)
            total -= 0.02 * mu * mu
            grad[8] = -0.04 * mu
            if centred:
                total -= 8.0 * x[9]
                grad[9] -= 8.0
            for i in range(8):
                raw = (x[i] - mu) / tau if centred else x[i]
                residual = (y[i] - (x[i] if centred else mu + tau * x[i])) / sigma[i]
                total -= 0.5 * (raw * raw + residual * residual)
                pull = residual / sigma[i]
                if centred:
                    grad[i] = pull - raw / tau
                    grad[8] += raw / tau
                    grad[9] += raw * raw
                else:
                    grad[i] = pull * tau - raw
                    grad[8] += pull
                    grad[9] += pull * tau * raw
            return total

        return logp


class Garch(Workload):
    """GARCH(1, 1); beta1 is below 1 - alpha1."""

    name, title = "garch11", "GARCH, 4"
    blocks = (("mu", 1, "identity"), ("alpha0", 1, "log"), ("alpha1", 1, "logit"), ("beta1", 1, "logit"))

    def __init__(self):
        self.data = _data("garch")

    def expand(self, draws):
        alpha1 = _sigmoid(draws[..., 2:3])
        beta1 = (1 - alpha1) * _sigmoid(draws[..., 3:4])
        return {"mu": draws[..., 0:1], "alpha0": np.exp(draws[..., 1:2]), "alpha1": alpha1, "beta1": beta1}

    def reference(self):
        return posteriordb_reference("garch-garch11")

    def numba_logp(self):
        import numba

        from densities.parts import log_sigmoid

        y, first = self.data["y"].astype(float), float(self.data["sigma1"])
        n = len(y)

        @numba.njit(error_model="numpy")
        def logp(x, grad):
            mu, alpha0 = x[0], math.exp(x[1])
            log_alpha1, alpha1 = log_sigmoid(x[2])
            log_rest, rest = log_sigmoid(-x[2])
            log_share, share = log_sigmoid(x[3])
            beta1 = rest * share
            total = x[1] + log_alpha1 + 2.0 * log_rest + log_share + log_sigmoid(-x[3])[0]
            variance = first * first
            # Derivatives of the variance by mu, alpha0, alpha1 and beta1, and of the log density by the same.
            v0 = v1 = v2 = v3 = 0.0
            g0 = g1 = g2 = g3 = 0.0
            for t in range(n):
                if t > 0:
                    shock = y[t - 1] - mu
                    v0 = beta1 * v0 - 2.0 * alpha1 * shock
                    v1 = beta1 * v1 + 1.0
                    v2 = beta1 * v2 + shock * shock
                    v3 = beta1 * v3 + variance
                    variance = alpha0 + alpha1 * shock * shock + beta1 * variance
                residual = y[t] - mu
                total -= 0.5 * (math.log(variance) + residual * residual / variance)
                slope = 0.5 * (residual * residual / variance - 1.0) / variance
                g0 += slope * v0 + residual / variance
                g1 += slope * v1
                g2 += slope * v2
                g3 += slope * v3
            grad[0] = g0
            grad[1] = 1.0 + g1 * alpha0
            grad[2] = 1.0 - 3.0 * alpha1 + (g2 - g3 * share) * alpha1 * rest
            grad[3] = 1.0 - 2.0 * share + g3 * rest * share * (1.0 - share)
            return total

        return logp


class HiddenMarkov(Workload):
    """Two states with normal emissions."""

    name, title = "hmm_example", "hidden Markov, 4"
    blocks = (("theta1", 1, "logit"), ("theta2", 1, "logit"), ("mu", 2, "ordered"))

    def __init__(self):
        self.data = _data("hmm_example")

    def expand(self, draws):
        stay, back = _sigmoid(draws[..., 0]), _sigmoid(draws[..., 1])
        first = np.exp(draws[..., 2])
        return {
            "theta1": np.stack([stay, 1 - stay], axis=-1),
            "theta2": np.stack([back, 1 - back], axis=-1),
            "mu": np.stack([first, first + np.exp(draws[..., 3])], axis=-1),
        }

    def reference(self):
        return posteriordb_reference("hmm_example-hmm_example")

    def numba_logp(self):
        import numba

        from densities.parts import log_sigmoid

        y = self.data["y"].astype(float)
        n = len(y)

        @numba.njit(error_model="numpy")
        def logp(x, grad):
            log_a, a = log_sigmoid(x[0])
            log_b, b = log_sigmoid(x[1])
            low, gap = math.exp(x[2]), math.exp(x[3])
            high = low + gap
            total = log_a + log_sigmoid(-x[0])[0] + log_b + log_sigmoid(-x[1])[0] + x[2] + x[3]
            total -= 0.5 * ((low - 3.0) ** 2 + (high - 10.0) ** 2)
            # Filtered probability of the first state, emissions scaled by the larger, and the normalisers.
            filtered, emission, norm = np.empty(n), np.empty((n, 2)), np.empty(n)
            for t in range(n):
                e0, e1 = -0.5 * (y[t] - low) ** 2, -0.5 * (y[t] - high) ** 2
                top = max(e0, e1)
                emission[t, 0], emission[t, 1] = math.exp(e0 - top), math.exp(e1 - top)
                p = filtered[t - 1] if t else 0.0
                p0 = p * a + (1.0 - p) * b if t else 1.0
                p1 = p * (1.0 - a) + (1.0 - p) * (1.0 - b) if t else 1.0
                norm[t] = p0 * emission[t, 0] + p1 * emission[t, 1]
                filtered[t] = p0 * emission[t, 0] / norm[t]
                total += top + math.log(norm[t])
            # Expected transitions and occupations, backwards.
            back0 = back1 = 1.0
            grad_a = grad_b = grad_low = grad_high = 0.0
            for t in range(n - 1, -1, -1):
                p = filtered[t]
                grad_low += p * back0 * (y[t] - low)
                grad_high += (1.0 - p) * back1 * (y[t] - high)
                if t == 0:
                    break
                to0, to1 = emission[t, 0] * back0 / norm[t], emission[t, 1] * back1 / norm[t]
                before = filtered[t - 1]
                grad_a += before * a * (1.0 - a) * (to0 - to1)
                grad_b += (1.0 - before) * b * (1.0 - b) * (to0 - to1)
                back0, back1 = a * to0 + (1.0 - a) * to1, b * to0 + (1.0 - b) * to1
            grad_low -= low - 3.0
            grad_high -= high - 10.0
            grad[0] = 1.0 - 2.0 * a + grad_a
            grad[1] = 1.0 - 2.0 * b + grad_b
            grad[2] = 1.0 + low * (grad_low + grad_high)
            grad[3] = 1.0 + gap * grad_high
            return total

        return logp


class GaussMixture(Workload):
    """Two normals in one dimension."""

    name, title = "low_dim_gauss_mix", "mixture of normals, 5"
    blocks = (("mu", 2, "ordered"), ("sigma", 2, "log"), ("theta", 1, "logit"))

    def __init__(self):
        self.data = _data("low_dim_gauss_mix")

    def expand(self, draws):
        mu = np.stack([draws[..., 0], draws[..., 0] + np.exp(draws[..., 1])], axis=-1)
        return {"mu": mu, "sigma": np.exp(draws[..., 2:4]), "theta": _sigmoid(draws[..., 4:5])}

    def reference(self):
        return posteriordb_reference("low_dim_gauss_mix-low_dim_gauss_mix")

    def numba_logp(self):
        import numba

        from densities.parts import log_sigmoid, scale_prior, sigmoid_and_factor

        y = self.data["y"].astype(float)
        n = len(y)

        @numba.njit(error_model="numpy")
        def logp(x, grad):
            gap = math.exp(x[1])
            low, high = x[0], x[0] + gap
            log_theta, theta = log_sigmoid(x[4])
            log_rest = log_sigmoid(-x[4])[0]
            precision0, precision1 = math.exp(-2.0 * x[2]), math.exp(-2.0 * x[3])
            total = 5.0 * (log_theta + log_rest) + x[1] - 0.125 * (low * low + high * high)
            grad_low, grad_high = -0.25 * low, -0.25 * high
            prior, grad2 = scale_prior(x[2], math.inf, 2.0)
            total += prior
            prior, grad3 = scale_prior(x[3], math.inf, 2.0)
            total += prior
            grad4, product = 5.0 - 10.0 * theta, 1.0
            for i in range(n):
                z0, z1 = (y[i] - low) ** 2 * precision0, (y[i] - high) ** 2 * precision1
                l0, l1 = log_theta - x[2] - 0.5 * z0, log_rest - x[3] - 0.5 * z1
                r, factor = sigmoid_and_factor(l0 - l1)
                total += max(l0, l1)
                product *= factor
                grad_low += r * (y[i] - low) * precision0
                grad_high += (1.0 - r) * (y[i] - high) * precision1
                grad2 += r * (z0 - 1.0)
                grad3 += (1.0 - r) * (z1 - 1.0)
                grad4 += r - theta
            grad[0] = grad_low + grad_high
            grad[1] = 1.0 + gap * grad_high
            grad[2], grad[3], grad[4] = grad2, grad3, grad4
            return total + math.log(product)

        return logp


class CentredRadon(Workload):
    """Varying intercepts of the 85 counties of Minnesota, centred."""

    name, title = "radon_hierarchical_intercept_centered", "radon, centred, 90"
    blocks = (
        ("sigma_alpha", 1, "log"),
        ("sigma_y", 1, "log"),
        ("mu_alpha", 1, "identity"),
        ("beta", 2, "identity"),
        ("alpha", 85, "identity"),
    )

    def __init__(self):
        self.data = _data("radon_mn")

    def numba_logp(self):
        import numba

        from densities.parts import scale_prior

        county = self.data["county_idx"] - 1
        uranium, floor, y = (self.data[key].astype(float) for key in ("log_uppm", "floor_measure", "log_radon"))
        n = len(y)

        @numba.njit(error_model="numpy")
        def logp(x, grad):
            precision_alpha, precision = math.exp(-2.0 * x[0]), math.exp(-2.0 * x[1])
            prior_alpha, grad0 = scale_prior(x[0], math.inf, 1.0)
            prior_y, grad1 = scale_prior(x[1], math.inf, 1.0)
            total = prior_alpha + prior_y - 85.0 * x[0] - n * x[1]
            for k in range(2, 5):
                total -= 0.005 * x[k] * x[k]
                grad[k] = -0.01 * x[k]
            squares_alpha = squares = 0.0
            for k in range(5, 90):
                deviation = x[k] - x[2]
                squares_alpha += deviation * deviation * precision_alpha
                grad[k] = -deviation * precision_alpha
                grad[2] += deviation * precision_alpha
            for i in range(n):
                k = 5 + county[i]
                residual = y[i] - x[k] - x[3] * uranium[i] - x[4] * floor[i]
                squares += residual * residual * precision
                grad[k] += residual * precision
                grad[3] += residual * precision * uranium[i]
                grad[4] += residual * precision * floor[i]
            grad[0] = grad0 - 85.0 + squares_alpha
            grad[1] = grad1 - n + squares
            return total - 0.5 * (squares_alpha + squares)

        return logp


def kidscore():
    data = _data("kidiq")
    both = data["mom_hs"] * data["mom_iq"]
    X = np.stack([np.ones(len(both)), data["mom_hs"], data["mom_iq"], both], axis=1)
    settings = {"prior_sd": math.inf, "sigma": half_cauchy(2.5), "reference": "kidiq-kidscore_interaction"}
    return Regression("kidscore_interaction", [("beta", 4)], X, data["kid_score"], **settings)


def ark():
    data = _data("arK")
    order, y = int(data["K"]), data["y"]
    columns = [y[order - k : len(y) - k] for k in range(1, order + 1)]
    X = np.stack([np.ones(len(y) - order), *columns], axis=1)
    settings = {"prior_sd": 10.0, "sigma": half_cauchy(2.5), "reference": "arK-arK"}
    return Regression("arK", [("alpha", 1), ("beta", order)], X, y[order:], **settings)


def blr():
    data = _data("sblrc")
    settings = {"prior_sd": 10.0, "sigma": half_normal(10.0), "reference": "sblrc-blr"}
    return Regression("sblrc-blr", [("beta", 5)], data["X"], data["y"], **settings)


def logmesquite():
    data = _data("mesquite")
    d1, d2 = data["diam1"], data["diam2"]
    columns = [np.log(d1 * d2 * data["canopy_height"]), np.log(d1 * d2), np.log(d1 / d2)]
    columns += [np.log(data["total_height"]), data["group"]]
    X = np.stack([np.ones(len(d1)), *columns], axis=1)
    settings = {"prior_sd": math.inf, "reference": "mesquite-logmesquite_logvash"}
    return Regression("logmesquite_logvash", [("beta", 6)], X, np.log(data["weight"]), **settings)


WORKLOADS = {
    "eight_schools_centered": lambda: EightSchools("eight_schools_centered", centred=True),
    "eight_schools_noncentered": lambda: EightSchools("eight_schools_noncentered", centred=False),
    "arK": ark,
    "garch11": Garch,
    "kidscore_interaction": kidscore,
    "hmm_example": HiddenMarkov,
    "gp_pois_regr": lambda: PoissonProcess(_data("gp_pois_regr")),
    "low_dim_gauss_mix": GaussMixture,
    "sblrc-blr": blr,
    "logmesquite_logvash": logmesquite,
    "lotka_volterra": lambda: LotkaVolterra(_data("hudson_lynx_hare")),
    "one_comp_mm_elim_abs": lambda: OneCompartment(_data("one_comp_mm_elim_abs")),
    "radon_hierarchical_intercept_centered": CentredRadon,
}
