//! Where draws go: the schema of the statistics and the stores.

mod memory;

pub use memory::{ChainTrace, Divergent, DrawBlock, MemoryStore};

use crate::chain::N_STATISTICS;
use crate::device::{Device, Metrics, Phase};
use crate::error::Result;
use crate::kernel;

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

/// A finished draw.
#[derive(Clone, Copy, Debug)]
pub struct Record {
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
    /// The kernel that made it.
    pub kernel: kernel::Kind,
    /// Row of its point.
    pub row: usize,
    /// Row of its chain's metric.
    pub metric: usize,
    /// The divergence of its trajectory, if there was one.
    pub divergence: Option<Divergence>,
    /// Values of the statistics, in the order of [`crate::chain::statistics`].
    pub stats: [f64; N_STATISTICS],
}

/// The draws that a round completed, at most one of each chain, while their points are still on the device.
#[derive(Clone, Copy, Debug)]
pub struct Records<'a> {
    /// The draws, in the order of their chains.
    pub draws: &'a [Record],
    /// The arrays that their points are in.
    pub phase: Phase,
    /// The metrics.
    pub metrics: Metrics,
    /// Number of parameters.
    pub dim: usize,
}

/// Takes in the draws of the chains of a block; those of a chain come in order.
pub trait Store: Send {
    /// Keep the draws of a round.
    fn append(&mut self, dev: &mut dyn Device, records: &Records<'_>) -> Result<()>;
}
