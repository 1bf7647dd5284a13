//! A store in memory, allocated once.

use std::sync::{Arc, Mutex, PoisonError};

use super::{Keep, Record, Store};
use crate::device::{Buf, Device, Row};
use crate::error::{Error, Result};

/// Where and how a trajectory diverged.
#[derive(Clone, Debug, PartialEq)]
pub struct Divergent {
    /// Index of the draw, warm-up included.
    pub draw: u64,
    /// Whether it belongs to the warm-up.
    pub tuning: bool,
    /// Energy where the step that diverged ended.
    pub energy: f64,
    /// That less the energy at the start of the trajectory.
    pub energy_error: f64,
    /// Position, momentum and gradient where the step started, and position where it ended; empty if they are not kept.
    pub points: [Vec<f64>; 4],
}

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
    /// Gradients, one draw after the other, if they are kept.
    pub gradients: Vec<f64>,
    /// Diagonals of the inverse mass matrix, one draw after the other, if they are kept.
    pub metrics: Vec<f64>,
    /// All divergences, of draws that are not kept too.
    pub divergences: Vec<Divergent>,
}

/// Keeps the draws of one chain.
pub struct MemoryStore {
    trace: ChainTrace,
    dim: usize,
    keep: Keep,
}

impl MemoryStore {
    /// Room for `tune` warm-up draws, if they are to be kept, and `draws` others.
    pub fn new(dim: usize, n_stats: usize, tune: u64, draws: u64, keep: Keep) -> Result<Self> {
        let thinned = |draws: u64| draws.div_ceil(keep.thin.max(1));
        let rows = thinned(draws).saturating_add(if keep.warmup { thinned(tune) } else { 0 });
        let mut trace = ChainTrace::default();
        let columns = [
            (&mut trace.positions, dim),
            (&mut trace.stats, n_stats),
            (&mut trace.gradients, if keep.gradient { dim } else { 0 }),
            (&mut trace.metrics, if keep.metric { dim } else { 0 }),
        ];
        for (numbers, columns) in columns {
            reserve(numbers, rows, columns)?;
        }
        Ok(MemoryStore { trace, dim, keep })
    }

    /// The draws so far.
    pub fn trace(&self) -> &ChainTrace {
        &self.trace
    }

    /// Give the draws away.
    pub fn take(&mut self) -> ChainTrace {
        std::mem::take(&mut self.trace)
    }

    fn note_divergence(&mut self, record: &Record<'_>) -> Result<()> {
        let Some(found) = record.divergence else { return Ok(()) };
        let mut points: [Vec<f64>; 4] = Default::default();
        if self.keep.divergences {
            let phase = record.phase;
            let rows =
                [(phase.x, found.from), (phase.p, found.from), (phase.g, found.from), (phase.x, found.to)];
            for (numbers, (buf, index)) in points.iter_mut().zip(rows) {
                append_row(numbers, record.dev, buf, index, self.dim)?;
            }
        }
        let Record { draw, tuning, .. } = *record;
        let (energy, energy_error) = (found.energy, found.energy_error);
        self.trace.divergences.push(Divergent { draw, tuning, energy, energy_error, points });
        Ok(())
    }
}

fn reserve(v: &mut Vec<f64>, rows: u64, columns: usize) -> Result<()> {
    usize::try_from(rows)
        .ok()
        .and_then(|rows| rows.checked_mul(columns))
        .and_then(|n| v.try_reserve_exact(n).ok())
        .ok_or_else(|| {
            Error::Device(format!(
                "out of memory: {rows} draws of {columns} numbers do not fit; ask for fewer draws, or thin them"
            ))
        })
}

fn append_row(to: &mut Vec<f64>, dev: &dyn Device, buf: Buf, index: usize, dim: usize) -> Result<()> {
    let start = to.len();
    to.resize(start + dim, 0.0);
    dev.read(Row { buf, index }, &mut to[start..])
}

impl Store for MemoryStore {
    fn append(&mut self, record: &Record<'_>) -> Result<()> {
        self.note_divergence(record)?;
        let skipped =
            record.tuning && !self.keep.warmup || !record.draw_of_phase.is_multiple_of(self.keep.thin.max(1));
        if skipped {
            return Ok(());
        }
        let (trace, dim) = (&mut self.trace, self.dim);
        append_row(&mut trace.positions, record.dev, record.phase.x, record.row, dim)?;
        if self.keep.gradient {
            append_row(&mut trace.gradients, record.dev, record.phase.g, record.row, dim)?;
        }
        if self.keep.metric {
            let [inv_mass, _] = record.metric.bufs();
            append_row(&mut trace.metrics, record.dev, inv_mass, record.index, dim)?;
        }
        trace.stats.extend_from_slice(record.stats);
        trace.draws += 1;
        trace.warmup += usize::from(record.tuning);
        Ok(())
    }
}

/// A store that others may look at between two draws.
impl Store for Arc<Mutex<MemoryStore>> {
    fn append(&mut self, record: &Record<'_>) -> Result<()> {
        self.lock().unwrap_or_else(PoisonError::into_inner).append(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{Cpu, Metric, Phase};

    /// A store after draws whose only coordinate is their index.
    fn stored(tune: u64, draws: u64, keep: Keep) -> ChainTrace {
        let mut dev = Cpu::new();
        let phase = Phase::alloc(&mut dev, 2, 1).unwrap();
        let metric = Metric::alloc_diag(&mut dev, 1, 1).unwrap();
        dev.write(Row { buf: metric.bufs()[0], index: 0 }, &[7.0]).unwrap();
        let mut store = MemoryStore::new(1, 1, tune, draws, keep).unwrap();
        for draw in 0..tune + draws {
            dev.write(Row { buf: phase.x, index: 1 }, &[draw as f64]).unwrap();
            dev.write(Row { buf: phase.g, index: 1 }, &[-(draw as f64)]).unwrap();
            let tuning = draw < tune;
            let divergence = (draw == 1).then_some(super::super::Divergence {
                from: 1,
                to: 0,
                energy: 3.0,
                energy_error: 2.0,
            });
            let draw_of_phase = if tuning { draw } else { draw - tune };
            let record = Record {
                chain: 0,
                index: 0,
                draw,
                draw_of_phase,
                tuning,
                dev: &dev,
                phase,
                row: 1,
                dim: 1,
                metric,
                divergence,
                stats: &[0.5],
            };
            store.append(&record).unwrap();
        }
        store.take()
    }

    #[test]
    fn keeps_what_is_asked_for() {
        let all = stored(3, 4, Keep::default());
        assert_eq!((all.warmup, all.draws, all.positions.len(), all.stats.len()), (3, 7, 7, 7));
        assert!(all.gradients.is_empty() && all.metrics.is_empty());
        let thinned = stored(3, 5, Keep { thin: 2, gradient: true, metric: true, ..Keep::default() });
        assert_eq!(thinned.positions, [0.0, 2.0, 3.0, 5.0, 7.0]);
        assert_eq!(thinned.gradients, [0.0, -2.0, -3.0, -5.0, -7.0]);
        assert_eq!(thinned.metrics, [7.0; 5]);
        assert_eq!(thinned.warmup, 2);
        let after = stored(3, 4, Keep { warmup: false, ..Keep::default() });
        assert_eq!(after.positions, [3.0, 4.0, 5.0, 6.0]);
        assert!(after.positions.capacity() < 7, "no room for the warm-up");
    }

    #[test]
    fn notes_divergences_of_all_draws() {
        let brief = stored(3, 4, Keep { warmup: false, ..Keep::default() });
        let [found] = &brief.divergences[..] else { panic!("one divergence") };
        assert_eq!((found.draw, found.tuning, found.energy, found.energy_error), (1, true, 3.0, 2.0));
        assert!(found.points.iter().all(Vec::is_empty));
        let full = stored(3, 4, Keep { divergences: true, ..Keep::default() });
        assert_eq!(full.divergences[0].points, [vec![1.0], vec![0.0], vec![-1.0], vec![0.0]]);
    }
}
