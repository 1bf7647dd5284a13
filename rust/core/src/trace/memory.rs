//! A store in memory, allocated once.

use std::ops::DerefMut;
use std::sync::{Arc, Mutex, PoisonError};

use super::{Keep, Record, Records, Store};
use crate::device::{Buf, Device};
use crate::error::{Error, Result};
use crate::{kernel, memory};

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
    /// The momentum is that of the step with the kernel of the warm-up only.
    pub points: [Vec<f64>; 4],
}

/// Bytes of a block of draws. Whoever takes the draws over frees them block by block.
const BLOCK_BYTES: usize = 8 << 20;

/// Consecutive draws of one chain. The numbers of a draw follow those of the draw before.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DrawBlock {
    /// Number of draws.
    pub draws: usize,
    /// Unconstrained positions.
    pub positions: Vec<f64>,
    /// Statistics.
    pub stats: Vec<f64>,
    /// Gradients, if they are kept.
    pub gradients: Vec<f64>,
    /// Diagonals of the inverse mass matrix, if they are kept.
    pub metrics: Vec<f64>,
}

impl DrawBlock {
    fn new(draws: usize, dim: usize, n_stats: usize, keep: Keep) -> Result<Self> {
        let mut block = DrawBlock::default();
        let columns = [
            (&mut block.positions, dim),
            (&mut block.stats, n_stats),
            (&mut block.gradients, if keep.gradient { dim } else { 0 }),
            (&mut block.metrics, if keep.metric { dim } else { 0 }),
        ];
        for (numbers, columns) in columns {
            reserve(numbers, draws, columns)?;
        }
        Ok(block)
    }

    /// Add a draw, with zeros for what is on the device.
    fn append(&mut self, record: &Record, dim: usize, keep: Keep) {
        if self.draws == 0 {
            memory::take_pages(&self.positions);
        }
        let kept = [
            (&mut self.positions, true),
            (&mut self.gradients, keep.gradient),
            (&mut self.metrics, keep.metric),
        ];
        for (numbers, _) in kept.into_iter().filter(|(_, kept)| *kept) {
            numbers.resize(numbers.len() + dim, 0.0);
        }
        self.stats.extend_from_slice(&record.stats);
        self.draws += 1;
    }
}

/// The draws of one chain.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ChainTrace {
    /// Number of draws kept that belong to the warm-up; they come first.
    pub warmup: usize,
    /// The kernel that made the draws after the warm-up.
    pub kernel: kernel::Kind,
    /// The draws kept, in order.
    pub blocks: Vec<DrawBlock>,
    /// All divergences, of draws that are not kept too.
    pub divergences: Vec<Divergent>,
}

impl ChainTrace {
    /// Number of draws kept.
    pub fn draws(&self) -> usize {
        self.blocks.iter().map(|block| block.draws).sum()
    }

    /// Some numbers of all draws, one draw after the other.
    pub fn flat(&self, of: impl Fn(&DrawBlock) -> &Vec<f64>) -> Vec<f64> {
        self.blocks.iter().flat_map(|block| of(block).iter().copied()).collect()
    }
}

/// Keeps the draws of one chain.
pub struct MemoryStore {
    trace: ChainTrace,
    /// Index of the block under way, and draws that a block has room for.
    current: usize,
    per_block: usize,
    dim: usize,
    keep: Keep,
    /// Whether the latest draw and its divergence wait for what is on the device.
    waits: [bool; 2],
}

impl MemoryStore {
    /// Room for `tune` warm-up draws, if they are to be kept, and `draws` others.
    pub fn new(dim: usize, n_stats: usize, tune: u64, draws: u64, keep: Keep) -> Result<Self> {
        Self::with_blocks(BLOCK_BYTES, dim, n_stats, tune, draws, keep)
    }

    fn with_blocks(
        bytes: usize,
        dim: usize,
        n_stats: usize,
        tune: u64,
        draws: u64,
        keep: Keep,
    ) -> Result<Self> {
        let thinned = |draws: u64| draws.div_ceil(keep.thin.max(1));
        let rows = thinned(draws).saturating_add(if keep.warmup { thinned(tune) } else { 0 });
        let mut left = usize::try_from(rows).map_err(|_| too_many(rows, dim))?;
        let per_block = (bytes / (size_of::<f64>() * (dim + n_stats))).max(1);
        let mut blocks = Vec::new();
        blocks.try_reserve_exact(left.div_ceil(per_block)).map_err(|_| too_many(rows, dim))?;
        while left > 0 {
            let draws = left.min(per_block);
            blocks.push(DrawBlock::new(draws, dim, n_stats, keep)?);
            left -= draws;
        }
        let trace = ChainTrace { blocks, ..ChainTrace::default() };
        Ok(MemoryStore { trace, current: 0, per_block, dim, keep, waits: [false; 2] })
    }

    /// The draws so far.
    pub fn trace(&self) -> &ChainTrace {
        &self.trace
    }

    /// Give the draws away.
    pub fn take(&mut self) -> ChainTrace {
        let mut trace = std::mem::take(&mut self.trace);
        trace.blocks.retain(|block| block.draws > 0);
        trace
    }

    fn note_divergence(&mut self, record: &Record) {
        self.waits[1] = record.divergence.is_some() && self.keep.divergences;
        let Some(found) = record.divergence else { return };
        let points =
            if self.keep.divergences { [(); 4].map(|()| vec![0.0; self.dim]) } else { Default::default() };
        let Record { draw, tuning, .. } = *record;
        let (energy, energy_error) = (found.energy, found.energy_error);
        self.trace.divergences.push(Divergent { draw, tuning, energy, energy_error, points });
    }

    /// Take in all of a draw that is not on the device.
    fn note(&mut self, record: &Record) -> Result<()> {
        self.note_divergence(record);
        if !record.tuning {
            self.trace.kernel = record.kernel;
        }
        let skipped =
            record.tuning && !self.keep.warmup || !record.draw_of_phase.is_multiple_of(self.keep.thin.max(1));
        self.waits[0] = !skipped;
        if skipped {
            return Ok(());
        }
        if self.trace.blocks.get(self.current).is_some_and(|block| block.draws >= self.per_block) {
            self.current += 1;
        }
        let Some(block) = self.trace.blocks.get_mut(self.current) else {
            return Err(Error::State("a draw more than there is room for".into()));
        };
        block.append(record, self.dim, self.keep);
        self.trace.warmup += usize::from(record.tuning);
        Ok(())
    }

    /// Where some numbers of the latest draw go, if they are kept.
    fn place(&mut self, of: impl Fn(&mut DrawBlock) -> &mut Vec<f64>) -> Option<&mut [f64]> {
        let numbers = of(self.trace.blocks.get_mut(self.current).filter(|_| self.waits[0])?);
        let start = numbers.len().checked_sub(self.dim)?;
        Some(&mut numbers[start..])
    }

    /// Where a point of the latest divergence goes, if it is kept.
    fn place_of_divergence(&mut self, which: usize) -> Option<&mut [f64]> {
        let found = self.trace.divergences.last_mut().filter(|_| self.waits[1])?;
        Some(&mut found.points[which])
    }
}

/// The row that a draw wants, and where it goes.
type Place<'f> = dyn for<'a> Fn(&'a mut MemoryStore, &Record) -> Option<(usize, &'a mut [f64])> + 'f;

/// Keep the draws of a round, each in its store.
fn keep<S: DerefMut<Target = MemoryStore>>(
    stores: &mut [S],
    dev: &mut dyn Device,
    records: &Records<'_>,
) -> Result<()> {
    let Records { draws, phase, metrics, .. } = *records;
    stores.iter_mut().zip(draws).try_for_each(|(store, draw)| store.note(draw))?;
    let mut read = |buf: Buf, place: &Place<'_>| {
        dev.read_rows(buf, &mut stores.iter_mut().zip(draws).filter_map(|(store, draw)| place(store, draw)))
    };
    read(phase.x, &|store, draw| Some((draw.row, store.place(|block| &mut block.positions)?)))?;
    read(phase.g, &|store, draw| Some((draw.row, store.place(|block| &mut block.gradients)?)))?;
    read(metrics.inv_mass, &|store, draw| Some((draw.metric, store.place(|block| &mut block.metrics)?)))?;
    if draws.iter().all(|draw| draw.divergence.is_none()) {
        return Ok(());
    }
    for (which, buf) in [phase.x, phase.p, phase.g, phase.x].into_iter().enumerate() {
        read(buf, &|store, draw| {
            let found = draw.divergence?;
            Some((if which < 3 { found.from } else { found.to }, store.place_of_divergence(which)?))
        })?;
    }
    Ok(())
}

fn too_many(draws: impl std::fmt::Display, columns: usize) -> Error {
    Error::Memory(format!("{draws} draws of {columns} numbers do not fit; ask for fewer draws, or thin them"))
}

fn reserve(v: &mut Vec<f64>, draws: usize, columns: usize) -> Result<()> {
    draws
        .checked_mul(columns)
        .and_then(|n| v.try_reserve_exact(n).ok())
        .ok_or_else(|| too_many(draws, columns))
}

impl Store for MemoryStore {
    fn append(&mut self, dev: &mut dyn Device, records: &Records<'_>) -> Result<()> {
        keep(&mut [self], dev, records)
    }
}

/// Stores that others may look at between two draws, one for each chain of a block.
impl Store for Vec<Arc<Mutex<MemoryStore>>> {
    fn append(&mut self, dev: &mut dyn Device, records: &Records<'_>) -> Result<()> {
        let store = |record: &Record| self[record.index].lock().unwrap_or_else(PoisonError::into_inner);
        if let [record] = records.draws {
            return keep(&mut [store(record)], dev, records);
        }
        keep(&mut records.draws.iter().map(store).collect::<Vec<_>>(), dev, records)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::N_STATISTICS;
    use crate::device::{Cpu, Phase, Row};

    /// A store after draws whose only coordinate is their index.
    fn stored(tune: u64, draws: u64, keep: Keep) -> ChainTrace {
        let mut dev = Cpu::new();
        let phase = Phase::alloc(&mut dev, 2, 1).unwrap();
        let metrics = dev.alloc_metrics(1, 1).unwrap();
        dev.write(Row { buf: metrics.inv_mass, index: 0 }, &[7.0]).unwrap();
        // Two draws in a block.
        let mut store =
            MemoryStore::with_blocks(2 * 8 * (1 + N_STATISTICS), 1, N_STATISTICS, tune, draws, keep).unwrap();
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
                kernel: kernel::Kind::Nuts,
                row: 1,
                metric: 0,
                divergence,
                stats: [0.5; N_STATISTICS],
            };
            store.append(&mut dev, &Records { draws: &[record], phase, metrics, dim: 1 }).unwrap();
        }
        store.take()
    }

    fn positions(trace: &ChainTrace) -> Vec<f64> {
        trace.flat(|block| &block.positions)
    }

    #[test]
    fn keeps_what_is_asked_for() {
        let all = stored(3, 4, Keep::default());
        assert_eq!((all.warmup, all.draws()), (3, 7));
        assert_eq!(all.blocks.iter().map(|block| block.draws).collect::<Vec<_>>(), [2, 2, 2, 1]);
        assert_eq!(positions(&all), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        assert_eq!(all.flat(|block| &block.stats).len(), 7 * N_STATISTICS);
        assert!(all.blocks.iter().all(|block| block.gradients.is_empty() && block.metrics.is_empty()));
        let thinned = stored(3, 5, Keep { thin: 2, gradient: true, metric: true, ..Keep::default() });
        assert_eq!(positions(&thinned), [0.0, 2.0, 3.0, 5.0, 7.0]);
        assert_eq!(thinned.flat(|block| &block.gradients), [0.0, -2.0, -3.0, -5.0, -7.0]);
        assert_eq!(thinned.flat(|block| &block.metrics), [7.0; 5]);
        assert_eq!(thinned.warmup, 2);
        let after = stored(3, 4, Keep { warmup: false, ..Keep::default() });
        assert_eq!(positions(&after), [3.0, 4.0, 5.0, 6.0]);
        let room: usize = after.blocks.iter().map(|block| block.positions.capacity()).sum();
        assert!(room < 7, "no room for the warm-up");
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
