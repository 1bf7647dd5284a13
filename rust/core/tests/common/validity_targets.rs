//! Log densities with gradients for the tests, written by hand.

use nutpie_core::density::{Failure, HostDensity};

/// A density from a function of the position that writes the gradient and returns the log density.
macro_rules! host_density {
    ($name:ty) => {
        impl HostDensity for $name {
            fn dim(&self) -> usize {
                self.n()
            }
            fn logp_grad(&mut self, x: &[f64], grad: &mut [f64]) -> Result<f64, Failure> {
                self.evaluate(x, grad)
            }
        }
    };
}

/// A Gaussian: x_i = mean_i + sd_i u_i with u an autoregressive process of order one, whose condition number is about
/// ((1 + rho) / (1 - rho))^2.
#[derive(Clone)]
pub struct Autoregressive {
    pub mean: Vec<f64>,
    pub sd: Vec<f64>,
    pub rho: f64,
}

host_density!(Autoregressive);

impl Autoregressive {
    fn n(&self) -> usize {
        self.mean.len()
    }

    /// Covariance of two coordinates.
    pub fn covariance(&self, i: usize, j: usize) -> f64 {
        self.sd[i] * self.sd[j] * self.rho.powi(i.abs_diff(j) as i32)
    }

    /// The point made of independent standard normals; it has the target's distribution.
    pub fn point(&self, z: impl IntoIterator<Item = f64>) -> Vec<f64> {
        let innovation = (1.0 - self.rho * self.rho).sqrt();
        let mut u = 0.0;
        let step = |(i, z)| {
            u = if i == 0 { z } else { self.rho * u + innovation * z };
            self.mean[i] + self.sd[i] * u
        };
        z.into_iter().take(self.n()).enumerate().map(step).collect()
    }

    /// Independent standard normals of a point: the inverse of `point`.
    pub fn whiten(&self, x: &[f64]) -> Vec<f64> {
        let innovation = (1.0 - self.rho * self.rho).sqrt();
        let u: Vec<f64> = (0..self.n()).map(|i| (x[i] - self.mean[i]) / self.sd[i]).collect();
        (0..self.n()).map(|i| if i == 0 { u[0] } else { (u[i] - self.rho * u[i - 1]) / innovation }).collect()
    }

    fn evaluate(&self, x: &[f64], grad: &mut [f64]) -> Result<f64, Failure> {
        let innovation = (1.0 - self.rho * self.rho).sqrt();
        let z = self.whiten(x);
        for i in 0..self.n() {
            let own = if i == 0 { z[0] } else { z[i] / innovation };
            let next = z.get(i + 1).map_or(0.0, |next| self.rho * next / innovation);
            grad[i] = (next - own) / self.sd[i];
        }
        Ok(-0.5 * z.iter().map(|z| z * z).sum::<f64>())
    }
}

/// Independent Student distributions of one number of degrees of freedom.
#[derive(Clone)]
pub struct Student {
    pub dim: usize,
    pub freedom: f64,
}

host_density!(Student);

impl Student {
    fn n(&self) -> usize {
        self.dim
    }

    fn evaluate(&self, x: &[f64], grad: &mut [f64]) -> Result<f64, Failure> {
        let mut logp = 0.0;
        for (x, g) in x.iter().zip(grad) {
            let inner = 1.0 + x * x / self.freedom;
            logp -= 0.5 * (self.freedom + 1.0) * inner.ln();
            *g = -(self.freedom + 1.0) / self.freedom * x / inner;
        }
        Ok(logp)
    }
}

/// Independent logistic distributions of several scales; the simplest density off the Gaussian with a distribution
/// function in closed form.
#[derive(Clone)]
pub struct Logistic {
    pub scale: Vec<f64>,
}

host_density!(Logistic);

impl Logistic {
    fn n(&self) -> usize {
        self.scale.len()
    }

    fn evaluate(&self, x: &[f64], grad: &mut [f64]) -> Result<f64, Failure> {
        let mut logp = 0.0;
        for i in 0..self.n() {
            let u = x[i] / self.scale[i];
            logp -= u.abs() + 2.0 * (-u.abs()).exp().ln_1p();
            grad[i] = -(0.5 * u).tanh() / self.scale[i];
        }
        Ok(logp)
    }
}

/// Independent exponential distributions, an error the moment that one coordinate is negative.
#[derive(Clone)]
pub struct Exponential {
    pub dim: usize,
}

host_density!(Exponential);

impl Exponential {
    fn n(&self) -> usize {
        self.dim
    }

    fn evaluate(&self, x: &[f64], grad: &mut [f64]) -> Result<f64, Failure> {
        if x.iter().any(|x| *x <= 0.0) {
            return Err(Failure::Recoverable);
        }
        grad.fill(-1.0);
        Ok(-x.iter().sum::<f64>())
    }
}

/// Logistic regression with normal priors: rows of covariates, outcomes.
#[derive(Clone)]
pub struct Regression {
    pub rows: Vec<[f64; 3]>,
    pub outcome: Vec<bool>,
    pub prior_sd: f64,
}

host_density!(Regression);

impl Regression {
    fn n(&self) -> usize {
        3
    }

    /// Its log density.
    pub fn logp(&self, x: &[f64]) -> f64 {
        let mut logp = -0.5 * x.iter().map(|x| x * x).sum::<f64>() / self.prior_sd.powi(2);
        for (row, outcome) in self.rows.iter().zip(&self.outcome) {
            let eta: f64 = row.iter().zip(x).map(|(a, b)| a * b).sum();
            let eta = if *outcome { eta } else { -eta };
            logp -= (-eta.abs()).exp().ln_1p() + (-eta).max(0.0);
        }
        logp
    }

    fn evaluate(&self, x: &[f64], grad: &mut [f64]) -> Result<f64, Failure> {
        for (g, x) in grad.iter_mut().zip(x) {
            *g = -x / self.prior_sd.powi(2);
        }
        for (row, outcome) in self.rows.iter().zip(&self.outcome) {
            let eta: f64 = row.iter().zip(x).map(|(a, b)| a * b).sum();
            let residual = f64::from(u8::from(*outcome)) - 1.0 / (1.0 + (-eta).exp());
            grad.iter_mut().zip(row).for_each(|(g, a)| *g += residual * a);
        }
        Ok(self.logp(x))
    }
}

/// Eight schools, not centred: mu, log tau, then the standardised effects.
#[derive(Clone)]
pub struct EightSchools;

host_density!(EightSchools);

impl EightSchools {
    pub const Y: [f64; 8] = [28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0];
    pub const SE: [f64; 8] = [15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0];
    pub const MU_SD: f64 = 5.0;

    fn n(&self) -> usize {
        10
    }

    /// Log prior density of log tau, for a half-Cauchy tau of scale 5, and its derivative.
    pub fn log_tau_prior(log_tau: f64) -> (f64, f64) {
        let square = (2.0 * log_tau).exp() / 25.0;
        (log_tau - square.ln_1p(), 1.0 - 2.0 * square / (1.0 + square))
    }

    fn evaluate(&self, x: &[f64], grad: &mut [f64]) -> Result<f64, Failure> {
        let (mu, tau) = (x[0], x[1].exp());
        let (prior, prior_slope) = Self::log_tau_prior(x[1]);
        let mut logp = prior - 0.5 * (mu / Self::MU_SD).powi(2);
        grad[0] = -mu / Self::MU_SD.powi(2);
        grad[1] = prior_slope;
        for j in 0..8 {
            let raw = x[2 + j];
            let residual = (Self::Y[j] - mu - tau * raw) / Self::SE[j];
            logp -= 0.5 * (raw * raw + residual * residual);
            let slope = residual / Self::SE[j];
            grad[0] += slope;
            grad[1] += slope * tau * raw;
            grad[2 + j] = slope * tau - raw;
        }
        Ok(logp)
    }
}

/// Groups with intercepts of their own, centred, as in the radon study: mu ~ N(0, 3), sigma_alpha and sigma_y ~ N+(0, 1),
/// alpha_j ~ N(mu, sigma_alpha), y_ij ~ N(alpha_j, sigma_y). Parameters: mu, log sigma_alpha, log sigma_y, alpha.
#[derive(Clone)]
pub struct Radon {
    /// Mean of each group.
    pub y: Vec<f64>,
    /// Size of each group.
    pub size: Vec<f64>,
    /// Sum of squared deviations inside the groups.
    pub within: f64,
}

host_density!(Radon);

impl Radon {
    pub const MU_SD: f64 = 3.0;

    /// Made-up data, with groups so different that sigma_alpha is surely not near zero: there a centred hierarchy is a
    /// funnel, which no sampler with a fixed metric explores.
    pub fn new(groups: usize) -> Self {
        let size: Vec<f64> = (0..groups).map(|j| (2 + (5 * j) % 7) as f64).collect();
        let total: f64 = size.iter().sum();
        let y =
            (0..groups).map(|j| 1.2 + 1.1 * (2.1 * j as f64).sin() + 0.9 * (5.3 * j as f64).cos()).collect();
        Radon { y, size, within: 0.6 * (total - groups as f64) }
    }

    fn n(&self) -> usize {
        3 + self.y.len()
    }

    /// Log prior density of the log of a half-normal scale, and its derivative.
    pub fn log_scale_prior(log_scale: f64) -> (f64, f64) {
        let square = (2.0 * log_scale).exp();
        (log_scale - 0.5 * square, 1.0 - square)
    }

    fn evaluate(&self, x: &[f64], grad: &mut [f64]) -> Result<f64, Failure> {
        let (mu, alpha) = (x[0], &x[3..]);
        let [inverse_a, inverse_y] = [1, 2].map(|i| (-2.0 * x[i]).exp());
        let priors = [1, 2].map(|i| Self::log_scale_prior(x[i]));
        let total: f64 = self.size.iter().sum();
        let mut logp = priors[0].0 + priors[1].0 - 0.5 * (mu / Self::MU_SD).powi(2);
        logp -= alpha.len() as f64 * x[1] + total * x[2] + 0.5 * self.within * inverse_y;
        grad[0] = -mu / Self::MU_SD.powi(2);
        grad[1] = priors[0].1 - alpha.len() as f64;
        grad[2] = priors[1].1 - total + self.within * inverse_y;
        for (j, alpha) in alpha.iter().enumerate() {
            let (between, inside) = (alpha - mu, self.y[j] - alpha);
            logp -= 0.5 * (between * between * inverse_a + self.size[j] * inside * inside * inverse_y);
            grad[0] += between * inverse_a;
            grad[1] += between * between * inverse_a;
            grad[2] += self.size[j] * inside * inside * inverse_y;
            grad[3 + j] = self.size[j] * inside * inverse_y - between * inverse_a;
        }
        Ok(logp)
    }
}

/// Normal observations with conjugate priors: 1 / s^2 ~ Gamma(3, rate 2), mu ~ N(0, 2 s^2), y ~ N(mu, s^2). Parameters:
/// mu, log s^2.
#[derive(Clone)]
pub struct Conjugate {
    pub y: Vec<f64>,
}

host_density!(Conjugate);

impl Conjugate {
    fn n(&self) -> usize {
        2
    }

    fn evaluate(&self, x: &[f64], grad: &mut [f64]) -> Result<f64, Failure> {
        let (mu, inverse) = (x[0], (-x[1]).exp());
        let square: f64 = 0.5 * mu * mu + self.y.iter().map(|y| (y - mu).powi(2)).sum::<f64>();
        // Half a log s^2 for each normal, three for the gamma prior.
        let power = 0.5 * (self.y.len() as f64 + 1.0) + 3.0;
        grad[0] = inverse * (self.y.iter().map(|y| y - mu).sum::<f64>() - 0.5 * mu);
        grad[1] = -power + inverse * (2.0 + 0.5 * square);
        Ok(-power * x[1] - inverse * (2.0 + 0.5 * square))
    }
}

/// Neal's funnel: v ~ N(0, sd^2), then the others ~ N(0, e^v).
#[derive(Clone)]
pub struct Funnel {
    pub dim: usize,
    pub sd: f64,
}

host_density!(Funnel);

impl Funnel {
    fn n(&self) -> usize {
        self.dim
    }

    /// A draw from standard normal numbers.
    pub fn point(&self, z: &[f64]) -> Vec<f64> {
        let v = self.sd * z[0];
        std::iter::once(v).chain(z[1..].iter().map(|z| z * (0.5 * v).exp())).collect()
    }

    fn evaluate(&self, x: &[f64], grad: &mut [f64]) -> Result<f64, Failure> {
        let (v, others) = (x[0], x.len() as f64 - 1.0);
        let square: f64 = x[1..].iter().map(|x| x * x).sum::<f64>() * (-v).exp();
        grad[0] = -v / self.sd.powi(2) - 0.5 * others + 0.5 * square;
        grad[1..].iter_mut().zip(&x[1..]).for_each(|(g, x)| *g = -x * (-v).exp());
        Ok(-0.5 * (v / self.sd).powi(2) - 0.5 * others * v - 0.5 * square)
    }
}
