//! The CPU device: each phase is one vectorised pass, by one thread.

use std::cell::Cell;
use std::ops::Range;

use super::{Buf, Device, Dots, Leaf, Metrics, Moments, Phase, Refresh, Row, Sample, Span, Step, ops};
use crate::error::{Error, Result};
use crate::{memory, rng};

/// Coordinates of a leaf that are finished before the next ones, where it has more spans than one pass takes, so that the
/// other passes find the leaf in the nearest cache.
const BLOCK: usize = 512;

/// Spans that are measured in the pass that finishes a leaf, beside that from the point just before.
const FUSED: usize = 2;

/// Rows start at multiples of this many numbers: one cache line, and one vector of the loops.
const ALIGN: usize = super::simd::LANES;

struct Array {
    storage: Vec<f64>,
    offset: usize,
    rows: usize,
    stride: usize,
    dim: usize,
    /// The dimension, rounded up to whole vectors.
    padded: usize,
}

impl Array {
    fn new(rows: usize, dim: usize) -> Result<Self> {
        // One line more than the length, so that equal coordinates of the arrays do not share a cache set when the
        // dimension is a power of two.
        let padded = dim.next_multiple_of(ALIGN);
        let stride = padded + ALIGN;
        let length = rows
            .checked_mul(stride)
            .and_then(|n| n.checked_add(ALIGN))
            .filter(|n| *n < isize::MAX as usize / 8)
            .ok_or_else(|| too_large(rows, dim))?;
        let mut probe: Vec<f64> = Vec::new();
        probe.try_reserve_exact(length).map_err(|_| too_large(rows, dim))?;
        drop(probe);
        // Zeroed pages come from the system untouched: rows that no tree is deep enough to use cost no memory.
        let storage = vec![0.0; length];
        memory::ask_for_huge_pages(&storage);
        let offset = storage.as_ptr().align_offset(64).min(ALIGN);
        Ok(Array { storage, offset, rows, stride, dim, padded })
    }

    fn start(&self, row: usize) -> usize {
        assert!(row < self.rows, "row {row} of an array of {} rows", self.rows);
        self.offset + row * self.stride
    }

    /// All rows, to read and write beside each other.
    fn shared(&mut self) -> Shared<'_> {
        let Array { offset, rows, stride, .. } = *self;
        Shared { cells: Cell::from_mut(&mut self.storage[offset..]).as_slice_of_cells(), rows, stride }
    }

    /// A row without its padding.
    fn exact(&self, row: usize) -> &[f64] {
        &self.row(row)[..self.dim]
    }

    /// A row without its padding.
    fn exact_mut(&mut self, row: usize) -> &mut [f64] {
        let dim = self.dim;
        &mut self.row_mut(row)[..dim]
    }

    /// A row with its padding of zeros.
    fn row(&self, row: usize) -> &[f64] {
        let start = self.start(row);
        &self.storage[start..start + self.padded]
    }

    /// A row with its padding of zeros, which must stay zero.
    fn row_mut(&mut self, row: usize) -> &mut [f64] {
        let start = self.start(row);
        &mut self.storage[start..start + self.padded]
    }

    /// A row to read and another to write, with padding.
    fn pair(&mut self, read: usize, write: usize) -> (&[f64], &mut [f64]) {
        assert_ne!(read, write, "a row cannot be used twice");
        let (a, b, length) = (self.start(read), self.start(write), self.padded);
        if a < b {
            let (low, high) = self.storage.split_at_mut(b);
            (&low[a..a + length], &mut high[..length])
        } else {
            let (low, high) = self.storage.split_at_mut(a);
            (&high[..length], &mut low[b..b + length])
        }
    }
}

/// The rows of an array.
struct Shared<'a> {
    cells: &'a [Cell<f64>],
    rows: usize,
    stride: usize,
}

impl<'a> Shared<'a> {
    fn row(&self, row: usize, block: &Range<usize>) -> ops::Cells<'a> {
        assert!(row < self.rows, "row {row} of an array of {} rows", self.rows);
        let start = row * self.stride;
        &self.cells[start + block.start..start + block.end]
    }
}

fn too_large(rows: usize, dim: usize) -> Error {
    Error::Device(format!("out of memory: {rows} vectors of {dim} numbers do not fit"))
}

/// Arrays in the memory of the process.
#[derive(Default)]
pub struct Cpu {
    arrays: Vec<Array>,
}

impl Cpu {
    /// A device without arrays.
    pub fn new() -> Self {
        Self::default()
    }

    /// Arrays to work on beside each other.
    fn together<const N: usize>(&mut self, bufs: [Buf; N]) -> Result<[&mut Array; N]> {
        self.arrays
            .get_disjoint_mut(bufs.map(|b| b.0))
            .map_err(|e| Error::Device(format!("arrays of a phase: {e}")))
    }
}

impl Device for Cpu {
    fn alloc(&mut self, rows: usize, dim: usize) -> Result<Buf> {
        self.arrays.push(Array::new(rows, dim)?);
        Ok(Buf(self.arrays.len() - 1))
    }

    fn write(&mut self, dst: Row, src: &[f64]) -> Result<()> {
        self.arrays[dst.buf.0].exact_mut(dst.index).copy_from_slice(src);
        Ok(())
    }

    fn read(&self, src: Row, dst: &mut [f64]) -> Result<()> {
        dst.copy_from_slice(self.arrays[src.buf.0].exact(src.index));
        Ok(())
    }

    fn host_pair(&mut self, src: Row, dst: Row) -> Option<(&[f64], &mut [f64])> {
        if src.buf == dst.buf {
            let array = &mut self.arrays[src.buf.0];
            let dim = array.dim;
            let (a, b) = array.pair(src.index, dst.index);
            return Some((&a[..dim], &mut b[..dim]));
        }
        let [a, b] = self.arrays.get_disjoint_mut([src.buf.0, dst.buf.0]).ok()?;
        Some((a.exact(src.index), b.exact_mut(dst.index)))
    }

    fn alloc_metrics(&mut self, rows: usize, dim: usize) -> Result<Metrics> {
        Metrics::alloc_diag(self, rows, dim)
    }
    fn set_metric(&mut self, metrics: &Metrics, row: usize, metric: &std::sync::Arc<crate::metric::Metric>) -> Result<()> {
        let [a, b] = metrics.bufs();
        let inv: Vec<f64> = metric.stds.iter().map(|s| s * s).collect();
        let ms: Vec<f64> = metric.stds.iter().map(|s| 1.0 / s).collect();
        self.write(Row { buf: a, index: row }, &inv)?;
        self.write(Row { buf: b, index: row }, &ms)
    }
    fn metric(&self, metrics: &Metrics, row: usize) -> Result<crate::metric::Metric> {
        let inv = self.arrays[metrics.bufs()[0].0].exact(row).to_vec();
        let n = inv.len();
        Ok(crate::metric::Metric::diagonal(&inv, vec![0.0; n]))
    }
    fn copy_point(&mut self, phase: &Phase, from: usize, to: usize) -> Result<()> {
        for buf in [phase.x, phase.g] {
            let (a, b) = self.arrays[buf.0].pair(from, to);
            b.copy_from_slice(a);
        }
        Ok(())
    }

    fn refresh(
        &mut self,
        phase: &Phase,
        metric: &Metrics,
        ops: &[Refresh],
        kinetic: &mut [f64],
    ) -> Result<()> {
        let Metrics::Diag { mass_sqrt, .. } = *metric;
        let [p, mass_sqrt] = self.together([phase.p, mass_sqrt])?;
        for (op, kinetic) in ops.iter().zip(kinetic) {
            rng::fill_normal(op.key, op.purpose, p.exact_mut(op.row));
            *kinetic = 0.5 * ops::scale_normal(p.row_mut(op.row), mass_sqrt.row(op.metric));
        }
        Ok(())
    }

    fn kick_drift(&mut self, phase: &Phase, metric: &Metrics, ops: &[Step]) -> Result<()> {
        let Metrics::Diag { inv_mass, .. } = *metric;
        let [x, p, g, inv_mass] = self.together([phase.x, phase.p, phase.g, inv_mass])?;
        for op in ops {
            let (x, x_new) = x.pair(op.from, op.to);
            let (p, p_new) = p.pair(op.from, op.to);
            ops::kick_drift(x, p, g.row(op.from), inv_mass.row(op.metric), op.kick, op.drift, x_new, p_new);
        }
        Ok(())
    }

    fn finish_leaf(
        &mut self,
        phase: &Phase,
        metric: &Metrics,
        leaves: &[Leaf],
        mut spans: &[Span],
        kinetic: &mut [f64],
        mut dots: &mut [Dots],
    ) -> Result<()> {
        let Metrics::Diag { inv_mass, .. } = *metric;
        let [x, p, g, inv_mass] = self.together([phase.x, phase.p, phase.g, inv_mass])?;
        let points = Points { x: x.shared(), p: p.shared(), g: g.shared() };
        for (leaf, kinetic) in leaves.iter().zip(kinetic) {
            let (mine, others) = spans.split_at(leaf.spans);
            let (out, rest) = dots.split_at_mut(leaf.spans);
            *kinetic = 0.5 * points.finish(inv_mass.row(leaf.metric), leaf, mine, out);
            (spans, dots) = (others, rest);
        }
        Ok(())
    }

    fn accumulate(&mut self, moments: &Moments, sample: Sample, phase: &Phase, point: usize) -> Result<()> {
        for (mean, ss, value) in
            [(moments.mean_x, moments.ss_x, phase.x), (moments.mean_g, moments.ss_g, phase.g)]
        {
            let [mean, ss, value] = self.together([mean, ss, value])?;
            ops::welford(mean.row_mut(sample.row), ss.row_mut(sample.row), value.row(point), sample.count);
        }
        Ok(())
    }

    fn metric_from_gradient(
        &mut self,
        metric: &Metrics,
        row: usize,
        phase: &Phase,
        point: usize,
    ) -> Result<()> {
        let Metrics::Diag { inv_mass, mass_sqrt } = *metric;
        let [inv_mass, mass_sqrt, g] = self.together([inv_mass, mass_sqrt, phase.g])?;
        ops::metric_from_gradient(inv_mass.exact_mut(row), mass_sqrt.exact_mut(row), g.exact(point));
        Ok(())
    }

    fn fit_fisher_diag(
        &mut self,
        metric: &Metrics,
        row: usize,
        moments: &Moments,
        samples: [Sample; 2],
    ) -> Result<()> {
        let Metrics::Diag { inv_mass, mass_sqrt } = *metric;
        let [mean_x, ss_x, mean_g, ss_g] = moments.bufs();
        let [inv_mass, mass_sqrt, mean_x, ss_x, mean_g, ss_g] =
            self.together([inv_mass, mass_sqrt, mean_x, ss_x, mean_g, ss_g])?;
        let summary = |s: Sample| ops::Summary {
            mean_x: mean_x.row(s.row),
            ss_x: ss_x.row(s.row),
            mean_g: mean_g.row(s.row),
            ss_g: ss_g.row(s.row),
        };
        let [first, second] = if samples[0].count == 0 { [samples[1], samples[0]] } else { samples };
        let (n1, n2) = (first.count as f64, second.count as f64);
        let union = ops::Union {
            // The row of an empty sample may hold old numbers, so the other one stands in, with weight zero.
            first: summary(first),
            second: summary(if second.count == 0 { first } else { second }),
            weight: if second.count == 0 { 0.0 } else { 1.0 },
            between: n1 * n2 / (n1 + n2).max(1.0),
        };
        ops::fit_fisher_diag(inv_mass.row_mut(row), mass_sqrt.row_mut(row), &union);
        Ok(())
    }
}

/// The rows of a phase.
struct Points<'a> {
    x: Shared<'a>,
    p: Shared<'a>,
    g: Shared<'a>,
}

impl<'a> Points<'a> {
    fn get(&self, row: usize, block: &Range<usize>) -> ops::Point<'a> {
        ops::Point { x: self.x.row(row, block), p: self.p.row(row, block), g: self.g.row(row, block) }
    }

    /// Finish a leaf; returns p M^-1 p.
    fn finish(&self, inv_mass: &[f64], leaf: &Leaf, spans: &[Span], dots: &mut [Dots]) -> f64 {
        dots.fill([0.0; 2]);
        // The span from the point just before needs less than the others.
        let adjacent = usize::from(spans.first().is_some_and(|span| span.adjacent));
        let (before, spans) = spans.split_at(adjacent);
        let (dots_of_before, dots) = dots.split_at_mut(adjacent);
        let length = inv_mass.len();
        let size = if spans.len() <= FUSED { length.max(1) } else { BLOCK };
        let mut kinetic = 0.0;
        for start in (0..length).step_by(size) {
            let block = start..(start + size).min(length);
            let onward = leaf.onward.map(|(to, drift)| {
                let ops::Point { x, p, .. } = self.get(to, &block);
                ops::Onward { x, p, drift }
            });
            let work = ops::Leaf {
                point: self.get(leaf.row, &block),
                inv_mass: &inv_mass[block.clone()],
                kick: leaf.kick,
                onward,
                before: before.first().map(|span| self.p.row(span.start, &block)),
            };
            let start = |span: &Span| self.get(span.start, &block);
            kinetic += match spans {
                [] => work.finish([], dots_of_before, dots),
                [a] => work.finish([start(a)], dots_of_before, dots),
                [a, b, ..] => work.finish([start(a), start(b)], dots_of_before, dots),
            };
            for (span, dots) in spans.iter().zip(&mut *dots).skip(FUSED) {
                work.span(start(span), dots);
            }
        }
        for dots in dots {
            *dots = dots.map(|dot| dot / (2.0 * leaf.kick));
        }
        kinetic
    }
}
