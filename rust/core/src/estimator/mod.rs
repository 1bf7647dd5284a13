//! Estimators of a metric from draws and gradients, one file each.

pub mod cost;
pub mod fisher_dense;
pub mod fisher_diag;
pub mod fisher_diag_points;
pub mod fisher_low_rank;
pub mod fisher_pursuit;
pub mod fisher_span;
mod geometric_mean;
mod linalg;
pub mod metric_check;
pub mod points;
mod scaling;
#[cfg(test)]
mod testing;
pub mod welford;

/// Bounds of the pseudo-count that is chosen from the number of points.
const PSEUDO_COUNTS: (f64, f64) = (1e-3, 5.0);

/// Observations of the identity that are added to covariances of `n` points in `dim` directions.
fn shrinkage(n: usize, dim: usize) -> f64 {
    let ratio = dim as f64 / n as f64;
    (0.5 * ratio * ratio).clamp(PSEUDO_COUNTS.0, PSEUDO_COUNTS.1)
}
