//! Running means and covariances of draws (Welford 1962), and the metrics that they give without gradients.
//!
//! After draw n, with d = x_n - mean_(n-1): mean_n = mean_(n-1) + d / n and S_n = S_(n-1) + (n - 1) / n d d^T, of which the
//! diagonal or all is kept. Then M^-1 is
//!
//! - Stan's: n / (n + 5) S / (n - 1) + 0.001 * 5 / (n + 5) I;
//! - plain: S / n.

use faer::Mat;
use serde::{Deserialize, Serialize};

use super::linalg::{self, Eigen};
use crate::metric::Metric;

/// Stan's regularisation: so many observations of a variance of so much.
const STAN_COUNT: f64 = 5.0;
const STAN_VARIANCE: f64 = 1e-3;

/// A running mean and covariance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Welford {
    dense: bool,
    count: u64,
    mean: Vec<f64>,
    /// The diagonal of S, or its lower triangle row by row.
    squares: Vec<f64>,
}

impl Welford {
    /// Of variances alone.
    pub fn diag(dim: usize) -> Self {
        Welford { dense: false, count: 0, mean: vec![0.0; dim], squares: vec![0.0; dim] }
    }

    /// Of variances and covariances.
    pub fn dense(dim: usize) -> Self {
        Welford { dense: true, count: 0, mean: vec![0.0; dim], squares: vec![0.0; dim * (dim + 1) / 2] }
    }

    /// Number of draws.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Forget all draws.
    pub fn reset(&mut self) {
        self.count = 0;
        self.mean.fill(0.0);
        self.squares.fill(0.0);
    }

    /// Add a draw.
    pub fn push(&mut self, x: &[f64]) {
        let (before, mean) = (self.count as f64, &mut self.mean);
        self.count += 1;
        let share = before / self.count as f64;
        if self.dense {
            let mut rest = &mut self.squares[..];
            for (i, (x_i, m_i)) in x.iter().zip(&*mean).enumerate() {
                let (row, below) = rest.split_at_mut(i + 1);
                let scaled = share * (x_i - m_i);
                row.iter_mut().zip(x.iter().zip(&*mean)).for_each(|(s, (x, m))| *s += scaled * (x - m));
                rest = below;
            }
        } else {
            self.squares.iter_mut().zip(x.iter().zip(&*mean)).for_each(|(s, (x, m))| {
                *s += share * (x - m) * (x - m);
            });
        }
        mean.iter_mut().zip(x).for_each(|(m, x)| *m += (x - *m) / self.count as f64);
    }

    /// Stan's metric; `None` of fewer than two draws, or where the numbers do not allow one.
    pub fn fit_stan(&self) -> Option<Metric> {
        if self.count < 2 {
            return None;
        }
        let n = self.count as f64;
        let total = n + STAN_COUNT;
        self.metric(n / total / (n - 1.0), |variance| variance + STAN_VARIANCE * STAN_COUNT / total)
    }

    /// The metric of the covariance itself; `None` of fewer than two draws, or where the numbers do not allow one, as those
    /// of a dense metric of no more draws than parameters. A coordinate that does not vary has the scale of the previous
    /// metric.
    pub fn fit_plain(&self, previous: &Metric) -> Option<Metric> {
        if self.count < 2 || previous.dim() != self.mean.len() {
            return None;
        }
        let mut kept = previous.stds.iter().map(|s| s * s);
        self.metric(1.0 / self.count as f64, move |variance| {
            let old = kept.next().unwrap_or(1.0);
            if variance == 0.0 { old } else { variance }
        })
    }

    /// The metric of `factor` S with an adjusted diagonal.
    fn metric(&self, factor: f64, adjust: impl FnMut(f64) -> f64) -> Option<Metric> {
        let dim = self.mean.len();
        let diagonal = |i: usize| if self.dense { self.squares[i * (i + 3) / 2] } else { self.squares[i] };
        let variances: Vec<f64> = (0..dim).map(|i| factor * diagonal(i)).map(adjust).collect();
        let mut metric = Metric::diagonal(&variances, self.mean.clone());
        if self.dense && metric.is_usable() {
            let Eigen { values, vectors } = linalg::eigen(self.correlation(factor, &metric.stds).as_ref())?;
            metric.vectors = (0..dim).flat_map(|j| vectors.col_as_slice(j)).copied().collect();
            metric.values = values;
        }
        metric.is_usable().then_some(metric)
    }

    /// Lower triangle of the correlations of `factor` S whose diagonal has these roots.
    fn correlation(&self, factor: f64, stds: &[f64]) -> Mat<f64> {
        let mut c = Mat::identity(stds.len(), stds.len());
        let mut rest = &self.squares[..];
        for i in 0..stds.len() {
            let (row, below) = rest.split_at(i + 1);
            row[..i].iter().enumerate().for_each(|(j, s)| c[(i, j)] = factor * s / (stds[i] * stds[j]));
            rest = below;
        }
        c
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{full, max_difference};
    use super::*;

    const DRAWS: [[f64; 2]; 4] = [[1.0, 10.0], [2.0, 8.0], [4.0, 9.0], [5.0, 5.0]];
    /// Mean and S of them, by hand.
    const MEAN: [f64; 2] = [3.0, 8.0];
    const S: [[f64; 2]; 2] = [[10.0, -9.0], [-9.0, 14.0]];

    fn after(mut welford: Welford) -> Welford {
        DRAWS.iter().for_each(|x| welford.push(x));
        welford
    }

    fn unit(dim: usize) -> Metric {
        Metric::diagonal(&vec![1.0; dim], vec![0.0; dim])
    }

    #[test]
    fn known_variances() {
        let welford = after(Welford::diag(2));
        assert_eq!(welford.count(), 4);
        let plain = welford.fit_plain(&unit(2)).unwrap();
        assert_eq!(plain.center, MEAN);
        assert_eq!(plain.rank(), 0);
        let expected = [2.5, 3.5];
        assert!(max_difference(&plain.inv_mass_diagonal(), &expected) < 1e-14);
        let stan = welford.fit_stan().unwrap();
        let expected = [10.0, 14.0].map(|s| 4.0 / 9.0 * s / 3.0 + 1e-3 * 5.0 / 9.0);
        assert!(max_difference(&stan.inv_mass_diagonal(), &expected) < 1e-14);
    }

    #[test]
    fn known_covariances() {
        let welford = after(Welford::dense(2));
        let plain = full(&welford.fit_plain(&unit(2)).unwrap());
        let stan = full(&welford.fit_stan().unwrap());
        for i in 0..2 {
            for j in 0..2 {
                assert!((plain[i][j] - S[i][j] / 4.0).abs() < 1e-13);
                let ridge = if i == j { 1e-3 * 5.0 / 9.0 } else { 0.0 };
                assert!((stan[i][j] - (4.0 / 9.0 * S[i][j] / 3.0 + ridge)).abs() < 1e-13);
            }
        }
    }

    #[test]
    fn far_from_zero_nothing_is_lost() {
        let mut welford = Welford::diag(1);
        [4.0, 7.0, 13.0, 16.0].iter().for_each(|x| welford.push(&[1e9 + x]));
        let metric = welford.fit_plain(&unit(1)).unwrap();
        assert!((metric.inv_mass_diagonal()[0] - 22.5).abs() < 1e-6);
        assert_eq!(metric.center, [1e9 + 10.0]);
    }

    #[test]
    fn what_gives_no_metric() {
        let mut welford = Welford::dense(3);
        welford.push(&[1.0, 2.0, 3.0]);
        assert!(welford.fit_stan().is_none() && welford.fit_plain(&unit(3)).is_none());
        welford.push(&[2.0, 1.0, 3.5]);
        // Singular, but regularised by Stan.
        assert!(welford.fit_plain(&unit(3)).is_none());
        assert!(welford.fit_stan().is_some());
        welford.push(&[f64::NAN, 0.0, 0.0]);
        assert!(welford.fit_stan().is_none());
        welford.reset();
        assert_eq!(welford, Welford::dense(3));
    }

    #[test]
    fn a_coordinate_that_does_not_vary_keeps_its_scale() {
        for mut welford in [Welford::diag(2), Welford::dense(2)] {
            [1.0, 3.0].iter().for_each(|x| welford.push(&[*x, 7.0]));
            let previous = Metric::diagonal(&[5.0, 9.0], vec![0.0; 2]);
            let metric = welford.fit_plain(&previous).unwrap();
            assert!(max_difference(&metric.inv_mass_diagonal(), &[1.0, 9.0]) < 1e-14);
        }
    }

    #[test]
    fn numbers_survive_serialisation() {
        let mut welford = after(Welford::dense(2));
        let bytes = postcard::to_allocvec(&welford).unwrap();
        let mut back: Welford = postcard::from_bytes(&bytes).unwrap();
        [&mut welford, &mut back].into_iter().for_each(|w| w.push(&[0.1, 0.2]));
        assert_eq!(back, welford);
    }
}
