//! Estimators of a metric from draws and gradients, one file each.

pub mod cost;
pub mod fisher_dense;
pub mod fisher_diag;
pub mod fisher_diag_points;
pub mod fisher_low_rank;
pub mod fisher_span;
mod geometric_mean;
mod linalg;
pub mod metric_check;
pub mod points;
mod scaling;
#[cfg(test)]
mod testing;
pub mod welford;
