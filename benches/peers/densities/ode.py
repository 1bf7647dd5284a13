"""Posteriors with differential equations, by Runge-Kutta steps of a fixed size with forward sensitivities."""

import math

import numpy as np

from densities.base import Workload, posteriordb_reference


def _lotka_volterra_step(h):
    """Numba function: one step of length `h`."""
    import numba

    @numba.njit(error_model="numpy")
    def slope(theta, z, out):
        """The right side for both animals (first column) and its sensitivities to theta and the first state."""
        a, b, c, d = theta[0], theta[1], theta[2], theta[3]
        u, v = z[0, 0], z[1, 0]
        out[0, 0], out[1, 0] = (a - b * v) * u, (d * u - c) * v
        for k in range(1, 7):
            out[0, k] = (a - b * v) * z[0, k] - b * u * z[1, k]
            out[1, k] = d * v * z[0, k] + (d * u - c) * z[1, k]
        out[0, 1] += u
        out[0, 2] -= u * v
        out[1, 3] -= v
        out[1, 4] += u * v

    @numba.njit(error_model="numpy")
    def step(theta, z, work):
        """One step of `z` in place; loops, because sums of arrays would be allocated."""
        k1, k2, k3, k4, middle = work[0], work[1], work[2], work[3], work[4]
        slope(theta, z, k1)
        for i in range(2):
            for j in range(7):
                middle[i, j] = z[i, j] + 0.5 * h * k1[i, j]
        slope(theta, middle, k2)
        for i in range(2):
            for j in range(7):
                middle[i, j] = z[i, j] + 0.5 * h * k2[i, j]
        slope(theta, middle, k3)
        for i in range(2):
            for j in range(7):
                middle[i, j] = z[i, j] + h * k3[i, j]
        slope(theta, middle, k4)
        for i in range(2):
            for j in range(7):
                z[i, j] += h / 6.0 * (k1[i, j] + 2.0 * k2[i, j] + 2.0 * k3[i, j] + k4[i, j])

    return step


def _one_compartment_step(dose, volume):
    """Numba function: one step."""
    import numba

    @numba.njit(error_model="numpy")
    def slope(t, k_a, k_m, v_m, z, out):
        """The right side and its sensitivities to the three constants."""
        c = z[0]
        decay = math.exp(-k_a * t) * dose / volume
        out[0] = decay * k_a - v_m / volume * c / (k_m + c)
        inner = -v_m / volume * k_m / (k_m + c) ** 2
        out[1] = inner * z[1] + decay * (1.0 - k_a * t)
        out[2] = inner * z[2] + v_m / volume * c / (k_m + c) ** 2
        out[3] = inner * z[3] - c / (volume * (k_m + c))

    @numba.njit(error_model="numpy")
    def step(now, h, values, z, work):
        k_a, k_m, v_m = values[0], values[1], values[2]
        k1, k2, k3, k4, middle = work[0], work[1], work[2], work[3], work[4]
        slope(now, k_a, k_m, v_m, z, k1)
        for m in range(4):
            middle[m] = z[m] + 0.5 * h * k1[m]
        slope(now + 0.5 * h, k_a, k_m, v_m, middle, k2)
        for m in range(4):
            middle[m] = z[m] + 0.5 * h * k2[m]
        slope(now + 0.5 * h, k_a, k_m, v_m, middle, k3)
        for m in range(4):
            middle[m] = z[m] + h * k3[m]
        slope(now + h, k_a, k_m, v_m, middle, k4)
        for m in range(4):
            z[m] += h / 6.0 * (k1[m] + 2.0 * k2[m] + 2.0 * k3[m] + k4[m])

    return step


class LotkaVolterra(Workload):
    """Lynx and hare: u' = (a - b v) u and v' = (d u - c) v, with lognormal observations."""

    name, title = "lotka_volterra", "Lotka-Volterra, 8"
    blocks = (("theta", 4, "log"), ("sigma", 2, "log"), ("z_init", 2, "log"))
    #: A year, which leaves an error of 1e-5 in the log density at the posterior mean.
    steps = 10

    def __init__(self, data):
        self.data = data

    def reference(self):
        return posteriordb_reference("hudson_lynx_hare-lotka_volterra")

    def numba_logp(self):
        import numba

        log_first, log_y = np.log(self.data["y_init"]), np.log(self.data["y"])
        years, steps = len(log_y), self.steps
        step = _lotka_volterra_step(1.0 / steps)
        location, width = np.array([1.0, 0.05, 1.0, 0.05]), np.array([0.5, 0.05, 0.5, 0.05])
        prior_z = math.log(10.0)

        @numba.njit(error_model="numpy")
        def logp(x, grad):
            values = np.exp(x)
            total = 0.0
            for k in range(4):
                scaled = (values[k] - location[k]) / width[k]
                total += x[k] - 0.5 * scaled * scaled
                grad[k] = 1.0 - scaled / width[k] * values[k]
            z = np.zeros((2, 7))
            for k in range(2):
                log_sigma, log_z = x[4 + k], x[6 + k]
                residual = (log_first[k] - log_z) / values[4 + k]
                total -= 0.5 * ((log_sigma + 1.0) ** 2 + (log_z - prior_z) ** 2 + residual * residual) + log_sigma
                grad[4 + k] = -(log_sigma + 1.0) - 1.0 + residual * residual
                grad[6 + k] = -(log_z - prior_z) + residual / values[4 + k]
                z[k, 0] = values[6 + k]
                # By the logarithm of the first state.
                z[k, 5 + k] = values[6 + k]
            work = np.empty((5, 2, 7))
            for t in range(years):
                for _ in range(steps):
                    step(values, z, work)
                if not (z[0, 0] > 0.0 and z[1, 0] > 0.0):
                    return math.nan
                for k in range(2):
                    residual = (log_y[t, k] - math.log(z[k, 0])) / values[4 + k]
                    total -= 0.5 * residual * residual + x[4 + k]
                    grad[4 + k] += residual * residual - 1.0
                    pull = residual / (values[4 + k] * z[k, 0])
                    for j in range(4):
                        grad[j] += pull * z[k, 1 + j] * values[j]
                    grad[6] += pull * z[k, 5]
                    grad[7] += pull * z[k, 6]
            return total

        return logp


class OneCompartment(Workload):
    """A drug taken orally and eliminated after Michaelis and Menten, with lognormal observations."""

    name, title = "one_comp_mm_elim_abs", "one compartment, 4"
    blocks = (("k_a", 1, "log"), ("K_m", 1, "log"), ("V_m", 1, "log"), ("sigma", 1, "log"))
    #: In half an hour, between two observations.
    steps = 10

    def __init__(self, data):
        self.data = data

    def reference(self):
        return posteriordb_reference("one_comp_mm_elim_abs-one_comp_mm_elim_abs")

    def numba_logp(self):
        import numba

        from densities.parts import scale_prior

        times, log_y = self.data["times"].astype(float), np.log(self.data["C_hat"])
        begin, dose, volume = float(self.data["t0"]), float(self.data["D"]), float(self.data["V"])
        steps, step = self.steps, _one_compartment_step(dose, volume)

        @numba.njit(error_model="numpy")
        def logp(x, grad):
            total = 0.0
            for k in range(4):
                prior, grad[k] = scale_prior(x[k], 1.0, 1.0)
                total += prior
            values = np.exp(x)
            sigma = values[3]
            z, work = np.zeros(4), np.empty((5, 4))
            t = begin
            for i in range(len(times)):
                h = (times[i] - t) / steps
                for j in range(steps):
                    step(t + j * h, h, values, z, work)
                t = times[i]
                if not z[0] > 0.0:
                    return math.nan
                residual = (log_y[i] - math.log(z[0])) / sigma
                total -= 0.5 * residual * residual + x[3]
                grad[3] += residual * residual - 1.0
                for j in range(3):
                    grad[j] += residual / (sigma * z[0]) * z[1 + j] * values[j]
            return total

        return logp
