//! Where draws go: the schema of the statistics and the stores.

mod memory;

pub use memory::{ChainTrace, Divergent, DrawBlock, MemoryStore};

use crate::device::{Device, Metrics, Phase};
use crate::error::Result;

/// Type of a statistic's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A real number.
    Float,
    /// A whole number.
    Int,
    /// A whole number that is not negative.
    UInt,
    /// True or false.
    Bool,
}

/// Declaration of a statistic: one number for each draw.
#[derive(Clone, Copy, Debug)]
pub struct Statistic {
    /// Its name in the result.
    pub name: &'static str,
    /// Type of its values.
    pub kind: Kind,
    /// What it is.
    pub doc: &'static str,
}

/// Which draws a store keeps, and what of them beside positions and statistics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// Whether to keep draws of the warm-up.
    pub warmup: bool,
    /// Of every so many draws one is kept, the first; counted anew after the warm-up.
    pub thin: u64,
    /// Whether to keep gradients.
    pub gradient: bool,
    /// Whether to keep the diagonal of the inverse mass matrix with each draw.
    pub metric: bool,
    /// Whether to keep the points where trajectories diverged.
    pub divergences: bool,
}

impl Default for Keep {
    fn default() -> Self {
        Keep { warmup: true, thin: 1, gradient: false, metric: false, divergences: false }
    }
}

/// The step that diverged.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Divergence {
    /// Row of the point where it started.
    pub from: usize,
    /// Row of the point where it ended.
    pub to: usize,
    /// Energy at its end.
    pub energy: f64,
    /// Energy at its end less that at the start of the trajectory; not finite if density, gradient or position is not.
    pub energy_error: f64,
}

/// A finished draw, while its point is still on the device.
pub struct Record<'a> {
    /// Index of the chain in the run.
    pub chain: u64,
    /// Index of the chain in its block.
    pub index: usize,
    /// Index of the draw, warm-up included.
    pub draw: u64,
    /// Index of the draw within the warm-up, or within the draws after it.
    pub draw_of_phase: u64,
    /// Whether it belongs to the warm-up.
    pub tuning: bool,
    /// The device.
    pub dev: &'a dyn Device,
    /// The arrays that the point is in.
    pub phase: Phase,
    /// Its row there.
    pub row: usize,
    /// Number of parameters.
    pub dim: usize,
    /// The metrics, of which that in row `index` is the chain's.
    pub metrics: Metrics,
    /// The divergence of its trajectory, if there was one.
    pub divergence: Option<Divergence>,
    /// Values of the statistics, in the order of [`crate::chain::statistics`].
    pub stats: &'a [f64],
}

/// Takes in the draws of the chains of a block; those of a chain come in order.
pub trait Store: Send {
    /// Keep a draw.
    fn append(&mut self, record: &Record<'_>) -> Result<()>;
}
