//! The low-rank estimator of Seyboldt, Carlson and Carpenter (2025), section 2.4.3, for comparison.
//!
//! In the joint span of all scaled draws and gradients, M^-1 is the geometric mean of P_x P_x^T / gamma + I and the inverse
//! of P_g P_g^T / gamma + I with gamma = 1e-5 by default, and eigenvalues between 1/2 and 2 become 1. A common factor of both matrices
//! cancels, so this is the estimator of `fisher_low_rank.rs` with a pseudo-count of gamma, which hardly regularises, and
//! without a limit on the directions that are looked at.

use super::fisher_low_rank::{self, FisherOptions};
use super::points::Point;
use crate::metric::Metric;

/// The metric of some points; `None` if there are fewer than three or the numbers do not allow one.
///
/// Eigenvalues between `cutoff` and its inverse become 1, and of the others at most `max_rank` are kept.
pub fn fit(
    points: &[Point<'_>],
    previous: &Metric,
    gamma: f64,
    cutoff: f64,
    max_rank: usize,
) -> Option<Metric> {
    let options =
        FisherOptions { pseudo_count: Some(gamma), cutoff, directions: usize::MAX, max_rank: Some(max_rank) };
    fisher_low_rank::fit(points, previous, &options)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Normal, full, function_of, plain_fisher, relative_difference, unit};
    use super::*;

    /// C = P P^T / gamma + I is (P P^T + gamma I) / gamma.
    #[test]
    fn it_is_the_formula_of_the_paper() {
        for (dim, n) in [(30, 8), (14, 10)] {
            let target = Normal::new(2, vec![1.0; dim], &[30.0, 6.0, 0.1]);
            let mut points = target.draw(1, n);
            points
                .0
                .iter_mut()
                .for_each(|(x, g)| g.iter_mut().zip(x).for_each(|(g, x)| *g += 0.3 * x.tanh()));
            let metric = fit(&points.view(), &unit(dim), 1e-5, 2.0, dim).unwrap();
            let (sigma, s) = plain_fisher(&points, 1e-5);
            let s = function_of(&s, |v| if v.ln().abs() > 2f64.ln() { v } else { 1.0 });
            let expected =
                (0..dim).map(|i| (0..dim).map(|j| sigma[i] * s[i][j] * sigma[j]).collect()).collect();
            // The plain formula takes roots of squares of numbers as small as gamma / n.
            assert!(relative_difference(&full(&metric), &expected) < 1e-3);
            assert_eq!(fit(&points.view(), &unit(dim), 1e-5, 2.0, 2).unwrap().rank(), 2);
        }
    }
}
