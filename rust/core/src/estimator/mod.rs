//! Estimators of a metric from draws and gradients, one file each.

pub mod fisher_diag;
