//! Where draws go: the schema of the statistics and the stores.

mod memory;

pub use memory::{ChainTrace, MemoryStore};

use crate::device::{Device, Phase};
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

/// A finished draw, while its point is still on the device.
pub struct Record<'a> {
    /// Index of the chain in the run.
    pub chain: u64,
    /// Index of the chain in its block.
    pub index: usize,
    /// Index of the draw, warm-up included.
    pub draw: u64,
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
    /// Values of the statistics, in the order of [`crate::chain::statistics`].
    pub stats: &'a [f64],
}

/// Takes in the draws of the chains of a block; those of a chain come in order.
pub trait Store: Send {
    /// Keep a draw.
    fn append(&mut self, record: &Record<'_>) -> Result<()>;
}
