//! A store in memory, allocated once.

use super::{Record, Store};
use crate::device::Row;
use crate::error::{Error, Result};

/// The draws of one chain.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ChainTrace {
    /// Number of draws kept that belong to the warm-up; they come first.
    pub warmup: usize,
    /// Number of draws kept.
    pub draws: usize,
    /// Unconstrained positions, one draw after the other.
    pub positions: Vec<f64>,
    /// Statistics, one draw after the other.
    pub stats: Vec<f64>,
}

/// Keeps the draws of one chain.
pub struct MemoryStore {
    trace: ChainTrace,
    dim: usize,
    keep_warmup: bool,
}

impl MemoryStore {
    /// Room for `tune` warm-up draws, if they are to be kept, and `draws` others.
    pub fn new(dim: usize, n_stats: usize, tune: u64, draws: u64, keep_warmup: bool) -> Result<Self> {
        let rows = draws.saturating_add(if keep_warmup { tune } else { 0 });
        let mut trace = ChainTrace::default();
        reserve(&mut trace.positions, rows, dim)?;
        reserve(&mut trace.stats, rows, n_stats)?;
        Ok(MemoryStore { trace, dim, keep_warmup })
    }

    /// The draws so far.
    pub fn finish(self) -> ChainTrace {
        self.trace
    }
}

fn reserve(v: &mut Vec<f64>, rows: u64, columns: usize) -> Result<()> {
    usize::try_from(rows)
        .ok()
        .and_then(|rows| rows.checked_mul(columns))
        .and_then(|n| v.try_reserve_exact(n).ok())
        .ok_or_else(|| {
            Error::Device(format!(
                "out of memory: {rows} draws of {columns} numbers do not fit; ask for fewer draws"
            ))
        })
}

impl Store for MemoryStore {
    fn append(&mut self, record: &Record<'_>) -> Result<()> {
        if record.tuning && !self.keep_warmup {
            return Ok(());
        }
        let start = self.trace.positions.len();
        self.trace.positions.resize(start + self.dim, 0.0);
        let row = Row { buf: record.phase.x, index: record.row };
        record.dev.read(row, &mut self.trace.positions[start..])?;
        self.trace.stats.extend_from_slice(record.stats);
        self.trace.draws += 1;
        self.trace.warmup += usize::from(record.tuning);
        Ok(())
    }
}
