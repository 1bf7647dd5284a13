//! What a fit costs, as a formula: a refit must be paid by the run, and a run must not depend on clocks.
//!
//! In nanoseconds, of n points of D parameters, `fisher_pursuit` takes D n (40 + p (0.7 + 1.7 r)) with p directions in each of r
//! rounds. The other estimators, with e(m) = 70 m^2 + 0.13 m^3 for an eigendecomposition of m rows:
//!
//! - in the space of all coordinates, 2 e(D) + 0.15 D^3 + 0.06 n D^2;
//! - by the Gram matrix, 2 l + 3 e(q) + 0.1 q^3 + 0.2 n^2 q + D (6 n + 0.06 n^2 + 0.05 n r + 0.06 r^2). Here l finds the leading
//!   directions, e(n) or by iteration 0.2 n^2 p + 0.3 n p^2 with p of them, q = 2 min(n, p), and r is the rank, which is not
//!   known before and taken to be 20 where it is not limited to less.
//!
//! Constants are those of a busy core of a server of 2023 (`benches/estimators.rs` has the formula beside measurements);
//! others are off by a common factor.

use super::fisher_low_rank::{self, FisherOptions};
use super::fisher_pursuit;

/// The rank that a fit is taken to find.
const RANK: usize = 20;

/// Seconds that a fit of `n` points of `dim` parameters takes, about.
pub fn cost_seconds(n: usize, dim: usize, options: &FisherOptions) -> f64 {
    let eigen = |m: f64| m * m * (70.0 + 0.13 * m);
    let (points, d) = (n as f64, dim as f64);
    let nanoseconds = if FisherOptions::in_full_space(n, dim) {
        2.0 * eigen(d) + d * d * (0.15 * d + 0.06 * points)
    } else {
        let p = n.min(options.directions) as f64;
        let iterated = fisher_low_rank::by_iteration_pays(n, options.directions);
        let leading = if iterated { points * p * (0.2 * points + 0.3 * p) } else { eigen(points) };
        let (q, r) = (2.0 * p, RANK.min(options.rank_limit()) as f64);
        let small = 2.0 * leading + 3.0 * eigen(q) + q * (0.1 * q * q + 0.2 * points * points);
        small + d * (points * (6.0 + 0.06 * points + 0.05 * r) + 0.06 * r * r)
    };
    1e-9 * nanoseconds
}

/// Seconds that `fisher_pursuit` takes for `n` points of `dim` parameters and so many rounds, about.
pub fn pursuit_seconds(n: usize, dim: usize, rounds: usize) -> f64 {
    let p = fisher_pursuit::directions(n, dim) as f64;
    let (n, d, rounds) = (n as f64, dim as f64, rounds as f64);
    1e-9 * d * n * (40.0 + p * (0.7 + 1.7 * rounds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_costs_more() {
        let cost = |n, dim| cost_seconds(n, dim, &FisherOptions::default());
        for dim in [10, 100, 1_000, 10_000] {
            assert!(cost(50, dim) > 0.0 && cost(50, dim).is_finite());
            assert!(cost(200, dim) > cost(50, dim));
            assert!(cost(50, 10 * dim) > cost(50, dim));
        }
        let narrow = FisherOptions { directions: 16, max_rank: Some(4), ..FisherOptions::default() };
        assert!(cost_seconds(200, 5_000, &narrow) < cost(200, 5_000));
    }
}
