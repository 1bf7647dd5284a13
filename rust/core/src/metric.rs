//! The inverse mass matrix, as the host knows it.
//!
//! M^-1 = S (I + U^T (Lambda - I) U) S, where S is diagonal and the rows of U are orthonormal: diagonal without rows, dense
//! with as many as there are parameters. Devices turn it into the form that suits them.

use serde::{Deserialize, Serialize};

/// An inverse mass matrix, with an estimate of the centre of the distribution that it was made for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Metric {
    /// Diagonal of S.
    pub stds: Vec<f64>,
    /// Diagonal of Lambda: the eigenvalues of S^-1 M^-1 S^-1 that are not 1.
    pub values: Vec<f64>,
    /// Rows of U, one after the other: their eigenvectors.
    pub vectors: Vec<f64>,
    /// Estimated centre. It does not enter a leapfrog step.
    pub center: Vec<f64>,
}

impl Metric {
    /// A diagonal one.
    pub fn diagonal(inv_mass: &[f64], center: Vec<f64>) -> Self {
        let stds = inv_mass.iter().map(|v| v.sqrt()).collect();
        Metric { stds, values: Vec::new(), vectors: Vec::new(), center }
    }

    /// Number of parameters.
    pub fn dim(&self) -> usize {
        self.stds.len()
    }

    /// Number of eigenvalues that are not 1.
    pub fn rank(&self) -> usize {
        self.values.len()
    }

    /// The rows of U.
    pub fn rows(&self) -> impl Iterator<Item = &[f64]> {
        self.vectors.chunks_exact(self.dim().max(1))
    }

    /// Whether all of it can be used: finite numbers, positive scales and eigenvalues, and these not so far apart that
    /// rounding makes the diagonal negative.
    pub fn is_usable(&self) -> bool {
        let positive = |v: &[f64]| v.iter().all(|v| v.is_finite() && *v > 0.0);
        positive(&self.stds)
            && positive(&self.values)
            && self.vectors.len() == self.rank() * self.dim()
            && self.vectors.iter().chain(&self.center).all(|v| v.is_finite())
            && positive(&self.inv_mass_diagonal())
    }

    /// Diagonal of M^-1.
    pub fn inv_mass_diagonal(&self) -> Vec<f64> {
        let mut diagonal = vec![1.0; self.dim()];
        for (value, row) in self.values.iter().zip(self.rows()) {
            for (d, u) in diagonal.iter_mut().zip(row) {
                *d += (value - 1.0) * u * u;
            }
        }
        diagonal.iter().zip(&self.stds).map(|(d, s)| d * s * s).collect()
    }

    /// y = (S^-1 M^-1 S^-1)^(-1/2) S^-1 x, in place: coordinates in which a distribution with covariance M^-1 has covariance
    /// I.
    pub fn whiten(&self, x: &mut [f64]) {
        for (x, s) in x.iter_mut().zip(&self.stds) {
            *x /= s;
        }
        self.stretch(x, |value| 1.0 / value.sqrt());
    }

    /// The gradient of a log density in the coordinates of [`Metric::whiten`]: (S^-1 M^-1 S^-1)^(1/2) S g, in place.
    pub fn whiten_gradient(&self, g: &mut [f64]) {
        for (g, s) in g.iter_mut().zip(&self.stds) {
            *g *= s;
        }
        self.stretch(g, f64::sqrt);
    }

    /// p <- M^-1 p: the velocity of a momentum.
    pub fn apply(&self, p: &mut [f64]) {
        let scale = |p: &mut [f64]| p.iter_mut().zip(&self.stds).for_each(|(p, s)| *p *= s);
        scale(p);
        self.stretch(p, |value| value);
        scale(p);
    }

    /// x <- (I + U^T (F - I) U) x, F the function of the eigenvalues.
    fn stretch(&self, x: &mut [f64], of: impl Fn(f64) -> f64) {
        for (value, row) in self.values.iter().zip(self.rows()) {
            let along: f64 = row.iter().zip(&*x).map(|(u, x)| u * x).sum();
            let more = (of(*value) - 1.0) * along;
            for (x, u) in x.iter_mut().zip(row) {
                *x += more * u;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Metric {
        let r = 0.5f64.sqrt();
        Metric {
            stds: vec![2.0, 0.5, 3.0],
            values: vec![4.0, 0.25],
            vectors: vec![r, r, 0.0, r, -r, 0.0],
            center: vec![0.0; 3],
        }
    }

    /// Column `j` of M^-1 by its definition.
    fn column(metric: &Metric, j: usize) -> Vec<f64> {
        let dim = metric.dim();
        let mut out = vec![0.0; dim];
        for (i, out) in out.iter_mut().enumerate() {
            let mut sum = f64::from(u8::from(i == j));
            for (value, row) in metric.values.iter().zip(metric.rows()) {
                sum += (value - 1.0) * row[i] * row[j];
            }
            *out = metric.stds[i] * sum * metric.stds[j];
        }
        out
    }

    #[test]
    fn the_diagonal_is_that_of_the_matrix() {
        let metric = example();
        for (j, d) in metric.inv_mass_diagonal().into_iter().enumerate() {
            assert!((d - column(&metric, j)[j]).abs() < 1e-14);
        }
    }

    #[test]
    fn applying_the_matrix_gives_its_columns() {
        let metric = example();
        for j in 0..3 {
            let mut unit: Vec<f64> = (0..3).map(|i| f64::from(u8::from(i == j))).collect();
            metric.apply(&mut unit);
            unit.iter().zip(column(&metric, j)).for_each(|(a, b)| assert!((a - b).abs() < 1e-14));
        }
    }

    #[test]
    fn whitening_makes_the_matrix_the_identity() {
        let metric = example();
        // Whitening a column and whitening the result as a column of the transpose gives W M^-1 W^T.
        let mut once: Vec<Vec<f64>> = (0..3).map(|j| column(&metric, j)).collect();
        once.iter_mut().for_each(|c| metric.whiten(c));
        for i in 0..3 {
            let mut row: Vec<f64> = once.iter().map(|c| c[i]).collect();
            metric.whiten(&mut row);
            for (j, v) in row.into_iter().enumerate() {
                assert!((v - f64::from(u8::from(i == j))).abs() < 1e-14);
            }
        }
        // x . g does not depend on coordinates.
        let (mut x, mut g) = (vec![1.0, -2.0, 0.3], vec![0.7, 0.1, -5.0]);
        let dot = |x: &[f64], g: &[f64]| x.iter().zip(g).map(|(a, b)| a * b).sum::<f64>();
        let before = dot(&x, &g);
        metric.whiten(&mut x);
        metric.whiten_gradient(&mut g);
        assert!((dot(&x, &g) - before).abs() < 1e-14);
    }

    #[test]
    fn numbers_that_cannot_be_used_are_noticed() {
        assert!(example().is_usable());
        assert!(!Metric { values: vec![4.0, f64::NAN], ..example() }.is_usable());
        assert!(!Metric { stds: vec![0.0, 1.0, 1.0], ..example() }.is_usable());
        assert!(!Metric { vectors: vec![1.0], ..example() }.is_usable());
        let apart = Metric { values: vec![1e-20, 1e-20], ..example() };
        assert!(!apart.is_usable());
    }
}
