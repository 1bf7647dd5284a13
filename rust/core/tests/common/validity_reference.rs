//! Exact answers: quadrature and distribution functions.

/// Orders of the quantiles that the tests look at.
const ORDERS: [f64; 5] = [0.05, 0.25, 0.5, 0.75, 0.95];

/// Distribution function of the standard normal (Marsaglia 2004: a Taylor series, good to 15 digits for |x| < 7).
pub fn normal_cdf(x: f64) -> f64 {
    if x.abs() > 7.0 {
        return if x > 0.0 { 1.0 } else { 0.0 };
    }
    let (mut sum, mut term, mut k) = (x, x, 1.0);
    while f64::abs(term) > 1e-17 * f64::abs(sum) {
        k += 2.0;
        term *= x * x / k;
        sum += term;
    }
    0.5 + sum * (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt()
}

/// The quantiles of a continuous distribution, with their orders.
pub fn quantiles(cdf: impl Fn(f64) -> f64, mut low: f64, mut high: f64) -> Vec<(f64, f64)> {
    let bounds = (low, high);
    ORDERS
        .iter()
        .map(|&order| {
            (low, high) = bounds;
            for _ in 0..80 {
                let middle = 0.5 * (low + high);
                *(if cdf(middle) < order { &mut low } else { &mut high }) = middle;
            }
            (low, order)
        })
        .collect()
}

/// The quantiles of a normal distribution.
pub fn normal_quantiles(mean: f64, sd: f64) -> Vec<(f64, f64)> {
    quantiles(|x| normal_cdf((x - mean) / sd), mean - 10.0 * sd, mean + 10.0 * sd)
}

/// Evenly spaced nodes.
pub fn nodes(from: f64, to: f64, n: usize) -> Vec<f64> {
    (0..n).map(|i| from + (to - from) * i as f64 / (n - 1) as f64).collect()
}

/// Weights from log densities, with sum one.
pub fn normalise(log_density: &[f64]) -> Vec<f64> {
    let largest = log_density.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = log_density.iter().map(|l| (l - largest).exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.iter().map(|w| w / sum).collect()
}

/// A density on the line by its weights at evenly spaced nodes, at whose ends it has vanished: then sums over the nodes
/// are integrals to nearly all digits (the trapezoidal rule).
pub struct Line {
    pub nodes: Vec<f64>,
    pub weights: Vec<f64>,
}

impl Line {
    /// Expectation of a function.
    pub fn mean(&self, f: impl Fn(f64) -> f64) -> f64 {
        self.nodes.iter().zip(&self.weights).map(|(x, w)| w * f(*x)).sum()
    }

    pub fn variance(&self, f: impl Fn(f64) -> f64) -> f64 {
        let mean = self.mean(&f);
        self.mean(|x| (f(x) - mean).powi(2))
    }

    /// The nodes nearest to the quantiles with the probabilities to be below them, by the trapezoidal rule with its
    /// correction at the end.
    pub fn below(&self) -> Vec<(f64, f64)> {
        let (mut out, mut before) = (Vec::new(), 0.0);
        for i in 1..self.nodes.len() - 1 {
            before += self.weights[i - 1];
            let slope = self.weights[i + 1] - self.weights[i - 1];
            let cdf = before + 0.5 * self.weights[i] - slope / 24.0;
            if ORDERS.get(out.len()).is_some_and(|order| cdf >= *order) {
                out.push((self.nodes[i], cdf));
            }
        }
        assert_eq!(out.len(), ORDERS.len(), "the nodes are too far apart");
        out
    }
}

/// A mixture of normal distributions: weight, mean and variance of each.
pub struct Mixture(pub Vec<(f64, f64, f64)>);

impl Mixture {
    pub fn mean(&self) -> f64 {
        self.0.iter().map(|(w, m, _)| w * m).sum()
    }

    pub fn variance(&self) -> f64 {
        let mean = self.mean();
        self.0.iter().map(|(w, m, v)| w * (v + (m - mean).powi(2))).sum()
    }

    pub fn below(&self) -> Vec<(f64, f64)> {
        let (mean, sd) = (self.mean(), self.variance().sqrt());
        let cdf = |x: f64| self.0.iter().map(|(w, m, v)| w * normal_cdf((x - m) / v.sqrt())).sum();
        quantiles(cdf, mean - 20.0 * sd, mean + 20.0 * sd)
    }
}

/// Group effects theta_j ~ N(mu, tau), mu ~ N(0, prior_sd), observed as y_j ~ N(theta_j, se_j), for fixed tau and se.
pub struct Groups {
    /// log p(y | tau, se).
    pub log_evidence: f64,
    /// Mean and variance of mu given y.
    pub mu: (f64, f64),
    /// Mean and variance of theta_0 given y.
    pub theta_0: (f64, f64),
}

/// Integrate theta and mu out, which are normal.
pub fn groups(y: &[f64], se: &[f64], tau: f64, prior_sd: f64) -> Groups {
    // y_j ~ N(mu, v_j), independent given mu.
    let v: Vec<f64> = se.iter().map(|s| s * s + tau * tau).collect();
    let precision = 1.0 / prior_sd.powi(2) + v.iter().map(|v| 1.0 / v).sum::<f64>();
    let mean = y.iter().zip(&v).map(|(y, v)| y / v).sum::<f64>() / precision;
    let square: f64 = y.iter().zip(&v).map(|(y, v)| y * y / v).sum();
    let log_det: f64 = v.iter().map(|v| v.ln()).sum();
    let shrink = tau * tau / v[0];
    Groups {
        log_evidence: -0.5 * (log_det + square - precision * mean * mean + precision.ln()),
        mu: (mean, 1.0 / precision),
        // theta_0 = shrink y_0 + (1 - shrink) mu + N(0, shrink se_0^2), whatever the other y are.
        theta_0: (
            shrink * y[0] + (1.0 - shrink) * mean,
            shrink * se[0].powi(2) + (1.0 - shrink).powi(2) / precision,
        ),
    }
}

/// The eigenvalues of a correlation matrix that are farthest from 1, and their eigenvectors one after the other, by
/// Jacobi's rotations.
pub fn principal(dim: usize, rank: usize, matrix: impl Fn(usize, usize) -> f64) -> (Vec<f64>, Vec<f64>) {
    let mut a: Vec<Vec<f64>> = (0..dim).map(|i| (0..dim).map(|j| matrix(i, j)).collect()).collect();
    let mut rows: Vec<Vec<f64>> =
        (0..dim).map(|i| (0..dim).map(|j| f64::from(u8::from(i == j))).collect()).collect();
    for _ in 0..30 {
        for p in 0..dim {
            for q in p + 1..dim {
                let angle = 0.5 * (2.0 * a[p][q]).atan2(a[q][q] - a[p][p]);
                let (s, c) = angle.sin_cos();
                let rotate = |x: &mut f64, y: &mut f64| (*x, *y) = (c * *x - s * *y, s * *x + c * *y);
                for k in 0..dim {
                    let [x, y] = a.get_disjoint_mut([p, q]).unwrap();
                    rotate(&mut x[k], &mut y[k]);
                    let [x, y] = rows.get_disjoint_mut([p, q]).unwrap();
                    rotate(&mut x[k], &mut y[k]);
                }
                for row in &mut a {
                    let [x, y] = row.get_disjoint_mut([p, q]).unwrap();
                    rotate(x, y);
                }
            }
        }
    }
    let mut order: Vec<usize> = (0..dim).collect();
    order.sort_by(|i, j| a[*j][*j].ln().abs().total_cmp(&a[*i][*i].ln().abs()));
    order.truncate(rank);
    (order.iter().map(|i| a[*i][*i]).collect(), order.iter().flat_map(|i| rows[*i].clone()).collect())
}
