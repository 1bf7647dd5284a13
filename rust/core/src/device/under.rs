//! The arrays that a phase of the CPU device is about: points, and the metrics of their chains.

use std::sync::Arc;

use super::Holders;
use super::along::Along;
use super::array::Array;
use super::coupled::Coupled;
use super::coupling::Coupling;

/// The arrays of metrics, by chain.
pub struct Scales<'a> {
    pub arrays: [&'a Array; 3],
    pub holders: &'a Holders,
}

impl<'a> Scales<'a> {
    pub fn inv_mass(&self, chain: usize) -> &'a [f64] {
        self.arrays[0].row(self.holders.row(chain))
    }

    pub fn mass_sqrt(&self, chain: usize) -> &'a [f64] {
        self.arrays[1].row(self.holders.row(chain))
    }

    pub fn center(&self, chain: usize) -> &'a [f64] {
        self.arrays[2].row(self.holders.row(chain))
    }
}

/// The points of a phase, with all that coupled metrics need.
pub struct Together<'a> {
    pub phase: [&'a mut Array; 3],
    pub along: [&'a mut Along; 2],
    pub holders: &'a Holders,
    pub couplings: &'a [Option<Arc<Coupling>>],
    pub scratch: &'a mut Vec<f64>,
}

impl Together<'_> {
    /// The points, if a metric is coupled.
    pub fn coupled(&mut self, metric: usize) -> Option<Coupled<'_>> {
        let coupling = self.couplings[self.holders.row(metric)].as_deref()?;
        let [x, p, g] = &mut self.phase;
        let [along_p, along_g] = &mut self.along;
        Some(Coupled { coupling, phase: [x, p, g], along: [along_p, along_g], scratch: self.scratch })
    }

    /// A momentum has changed under a diagonal metric.
    pub fn forget(&mut self, row: usize) {
        self.along[0].forget(row);
    }
}
