//! Moments of draws and gradients, from which diagonal metrics are estimated.

use super::{Buf, Device};
use crate::error::Result;

/// Running mean and sum of squared deviations of positions and of gradients; one row per estimator.
#[derive(Clone, Copy, Debug)]
pub struct Moments {
    /// Mean of the positions.
    pub mean_x: Buf,
    /// Sum of squared deviations of the positions.
    pub ss_x: Buf,
    /// Mean of the gradients.
    pub mean_g: Buf,
    /// Sum of squared deviations of the gradients.
    pub ss_g: Buf,
}

impl Moments {
    /// Allocate `rows` estimators.
    pub fn alloc(dev: &mut dyn Device, rows: usize, dim: usize) -> Result<Self> {
        Ok(Moments {
            mean_x: dev.alloc(rows, dim)?,
            ss_x: dev.alloc(rows, dim)?,
            mean_g: dev.alloc(rows, dim)?,
            ss_g: dev.alloc(rows, dim)?,
        })
    }

    /// Its arrays, in order.
    pub fn bufs(&self) -> [Buf; 4] {
        [self.mean_x, self.ss_x, self.mean_g, self.ss_g]
    }
}

/// One row of [`Moments`] with the number of points in it.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Row in the moments.
    pub row: usize,
    /// Number of points.
    pub count: u64,
}

/// A point that a sample takes in.
#[derive(Clone, Copy, Debug)]
pub struct Addition {
    /// The sample; its count counts the point already.
    pub sample: Sample,
    /// Row of the point.
    pub point: usize,
}

/// A metric that is made from the union of two samples.
#[derive(Clone, Copy, Debug)]
pub struct Fit {
    /// The chain whose metric it is.
    pub metric: usize,
    /// The samples, of which one may be empty.
    pub samples: [Sample; 2],
}

impl Fit {
    /// One sample that is not empty, and the other one.
    pub fn ordered(&self) -> [Sample; 2] {
        let [one, two] = self.samples;
        if one.count == 0 { [two, one] } else { [one, two] }
    }
}
