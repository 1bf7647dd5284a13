//! The metric of small Fisher divergence in the space of all coordinates.
//!
//! The equations of `fisher_low_rank.rs` with Q = I: M^-1 = sigma (C_x # C_g^-1) sigma with C_x = (X X^T + k I) / (n + k) and
//! C_g = (G G^T + k I) / (n + k). The cost grows with the cube of the number of parameters.

use faer::Mat;

use super::fisher_low_rank::{self, FisherOptions};
use super::geometric_mean::{self, Pairs};
use super::points::Point;
use super::scaling::Scaled;
use crate::metric::Metric;

impl FisherOptions {
    /// Options that keep all directions, of however many points.
    pub fn dense() -> Self {
        FisherOptions { cutoff: 1.0, ..FisherOptions::default() }
    }
}

/// The metric of some points; `None` if there are fewer than three or the numbers do not allow one.
///
/// Options and treatment of coordinates that do not vary are those of [`fisher_low_rank::fit`], but for `directions`, which
/// has no part in it.
pub fn fit(points: &[Point<'_>], previous: &Metric, options: &FisherOptions) -> Option<Metric> {
    fit_scaled(Scaled::new(points, previous)?, options)
}

pub(super) fn fit_scaled(scaled: Scaled<'_>, options: &FisherOptions) -> Option<Metric> {
    let (dim, n) = (scaled.dim(), scaled.count());
    let mut all = Mat::zeros(dim, 2 * n);
    scaled.for_each_block(|rows, block| {
        all.as_mut().subrows_mut(rows.start, rows.len()).copy_from(block);
    });
    let shrinkage = options.shrinkage(n, dim);
    let c_x = fisher_low_rank::covariance(all.subcols(0, n), shrinkage);
    let c_g = fisher_low_rank::covariance(all.subcols(n, n), shrinkage);
    let Pairs { values, vectors } =
        geometric_mean::eigenpairs(c_x, c_g, options.cutoff, options.rank_limit())?;
    let vectors = (0..values.len()).flat_map(|j| vectors.col_as_slice(j)).copied().collect();
    scaled.into_metric(values, vectors)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{
        Normal, full, function_of, orthonormality, plain_fisher, relative_difference, times, unit,
    };
    use super::*;

    fn target(dim: usize) -> Normal {
        let stds = (0..dim).map(|i| 10f64.powf((i % 5) as f64 - 2.0)).collect();
        let values: Vec<f64> = (0..dim).map(|i| 0.3 * 1.6f64.powi(i as i32)).collect();
        Normal::new(11, stds, &values)
    }

    #[test]
    fn a_normal_is_recovered_exactly_from_few_more_points_than_parameters() {
        let dim = 12;
        let target = target(dim);
        let points = target.draw(1, dim + 5);
        let options = FisherOptions { pseudo_count: Some(1e-10), ..FisherOptions::dense() };
        let metric = fit(&points.view(), &unit(dim), &options).unwrap();
        assert!(relative_difference(&full(&metric), &full(&target.metric)) < 1e-6);
        for i in 0..dim {
            let off = metric.center[i] - target.metric.center[i];
            assert!(off.abs() < 1e-6 * full(&target.metric)[i][i].sqrt());
        }
    }

    #[test]
    fn with_its_own_pseudo_count_it_approaches_the_truth() {
        let dim = 12;
        let target = target(dim);
        let error = |n: usize| {
            let metric = fit(&target.draw(1, n).view(), &unit(dim), &FisherOptions::dense()).unwrap();
            relative_difference(&full(&metric), &full(&target.metric))
        };
        assert!(error(100) < 0.01, "{}", error(100));
        assert!(error(4000) < 0.0005, "{}", error(4000));
    }

    #[test]
    fn it_is_the_plain_formula() {
        let dim = 10;
        let mut points = target(dim).draw(3, 30);
        points.0.iter_mut().for_each(|(x, g)| g.iter_mut().zip(x).for_each(|(g, x)| *g += 0.3 * x.tanh()));
        for cutoff in [1.0, 2.0] {
            let options = FisherOptions { pseudo_count: Some(0.5), cutoff, ..FisherOptions::dense() };
            let metric = fit(&points.view(), &unit(dim), &options).unwrap();
            let (sigma, s) = plain_fisher(&points, 0.5);
            let s = function_of(&s, |v| if v.ln().abs() > cutoff.ln() { v } else { 1.0 });
            let diagonal: Vec<Vec<f64>> =
                (0..dim).map(|i| (0..dim).map(|j| if i == j { sigma[i] } else { 0.0 }).collect()).collect();
            let expected = times(&times(&diagonal, &s), &diagonal);
            assert!(relative_difference(&full(&metric), &expected) < 1e-10);
            assert!(orthonormality(&metric) < 1e-12);
            assert_eq!(metric.rank() == dim, cutoff == 1.0);
        }
    }
}
