//! A GPU as a device: one kernel for each phase, over all operations of its list.
//!
//! Positions, momenta, gradients, estimators and metrics stay on the device; the host sends lists of operations and gets
//! sums. All kernels are in one source in the common subset of CUDA C and OpenCL C (`kernels/`), compiled when the device is
//! opened. Nothing of CUDA or OpenCL is needed to build: their libraries are looked for when a device is asked for.

mod coupling;
#[cfg(feature = "cuda")]
mod cuda;
#[cfg(feature = "cuda")]
mod cuda_share;
mod estimate;
#[cfg(feature = "opencl")]
mod opencl;
mod phases;
mod pulls;
mod rows;
mod runtime;
mod share;
mod source;
mod work;

use std::sync::Arc;

use coupling::{Along, Coupling, Prepared};
#[cfg(feature = "cuda")]
pub use cuda::Cuda;
#[cfg(feature = "opencl")]
pub use opencl::OpenCl;
pub use runtime::{Arg, Build, Mem, Runtime};
pub use share::Addresses;
pub use source::SourceDensity;
use work::{Cut, Work, bytes, bytes_mut};

use super::{
    Addition, Buf, Device, DeviceOptions, Dots, Fit, Glide, Holders, Leaf, Metrics, Moments, OfChain, Phase,
    Place, RawBuffer, Reach, Refresh, Renewal, Row, Sharing, Span, Turn,
};
use crate::error::{Error, Result};
use crate::metric::Metric;

/// The kernels of the phases.
pub const SOURCE: &str = concat!(
    include_str!("kernels/common.c"),
    include_str!("kernels/steps.c"),
    include_str!("kernels/random.c"),
    include_str!("kernels/coupled.c"),
    include_str!("kernels/estimate.c"),
);

/// Rows of numbers.
struct Array {
    mem: Mem,
    rows: usize,
    dim: usize,
    along: Along,
}

/// A device behind a [`Runtime`].
pub struct Gpu {
    work: Work,
    single: bool,
    arrays: Vec<Array>,
    /// The rows of metrics by [`Metrics::id`], and those of them that are not diagonal.
    holders: Vec<Holders>,
    couplings: Vec<Vec<Option<Arc<Coupling>>>>,
    prepared: Prepared,
    /// Number of densities compiled.
    densities: usize,
}

/// A device without double-precision arrays keeps numbers in this type.
type Single = f32;

impl Gpu {
    /// Compile the kernels.
    pub fn new(mut runtime: Box<dyn Runtime>, options: DeviceOptions) -> Result<Self> {
        let build = Build { group: runtime.group(), single: options.single };
        runtime.compile(SOURCE, build)?;
        Ok(Gpu {
            work: Work::new(runtime),
            single: options.single,
            arrays: Vec::new(),
            holders: Vec::new(),
            couplings: Vec::new(),
            prepared: Prepared::default(),
            densities: 0,
        })
    }

    /// What it is.
    pub fn name(&self) -> String {
        self.work.runtime.name()
    }

    /// Bytes of a number in an array.
    fn bytes(&self) -> usize {
        if self.single { size_of::<Single>() } else { size_of::<f64>() }
    }

    /// The four words that Philox makes of a seed and a counter, for known-answer tests.
    pub fn words(&mut self, seed: u64, counter: [u32; 4]) -> Result<[u32; 4]> {
        let halves = [seed as u32, (seed >> 32) as u32];
        let mut op: Vec<f64> = halves.iter().chain(&counter).map(|v| f64::from(*v)).collect();
        op.resize(work::RECORD, 0.0);
        let ops = self.work.table(work::Table::Ops, &op)?;
        let out = self.work.scratch(work::Scratch::Found, 4 * size_of::<f64>())?;
        self.work.launch_each("words", 1, &[Arg::Mem(ops), Arg::Mem(out)])?;
        let mut words = [0.0; 4];
        self.work.runtime.read(out, 0, bytes_mut(&mut words))?;
        Ok(words.map(|word| word as u32))
    }

    fn array(&self, buf: Buf) -> &Array {
        &self.arrays[buf.0]
    }

    /// Operations with rows of metrics instead of chains, as everything below this file has them.
    fn placed<T: OfChain>(&self, metrics: &Metrics, ops: &[T]) -> Vec<T> {
        self.holders[metrics.id].placed(ops)
    }

    /// How the rows of an array are cut.
    fn cut(&self, buf: Buf) -> Cut {
        Cut::new(self.arrays[buf.0].dim)
    }

    /// The memory of an array, for a kernel.
    fn mem(&self, buf: Buf) -> Arg {
        Arg::Mem(self.arrays[buf.0].mem)
    }

    /// Where a row begins, in numbers.
    fn start(&self, row: Row) -> usize {
        let array = self.array(row.buf);
        assert!(row.index < array.rows, "row {} of an array of {} rows", row.index, array.rows);
        row.index * array.dim
    }

    /// Write numbers from some place on.
    fn write_reals(&self, mem: Mem, start: usize, numbers: &[f64]) -> Result<()> {
        let offset = start * self.bytes();
        if numbers.is_empty() {
            return Ok(());
        }
        if self.single {
            let numbers: Vec<Single> = numbers.iter().map(|v| *v as Single).collect();
            return self.work.runtime.write(mem, offset, bytes(&numbers));
        }
        self.work.runtime.write(mem, offset, bytes(numbers))
    }

    fn read_reals(&self, mem: Mem, start: usize, numbers: &mut [f64]) -> Result<()> {
        let offset = start * self.bytes();
        if numbers.is_empty() {
            return Ok(());
        }
        if !self.single {
            return self.work.runtime.read(mem, offset, bytes_mut(numbers));
        }
        let mut found = vec![0.0 as Single; numbers.len()];
        self.work.runtime.read(mem, offset, bytes_mut(&mut found))?;
        numbers.iter_mut().zip(found).for_each(|(to, v)| *to = v.into());
        Ok(())
    }

    /// What one of the device's lists refers to must be there, or a kernel would read what is not its own.
    fn check(&self, buf: Buf, mut rows: impl Iterator<Item = usize>) {
        let n = self.array(buf).rows;
        assert!(rows.all(|row| row < n), "a row of an array of {n} rows");
    }
}

impl Device for Gpu {
    fn alloc(&mut self, rows: usize, dim: usize) -> Result<Buf> {
        let bytes = rows.checked_mul(dim).and_then(|n| n.checked_mul(self.bytes()));
        let bytes =
            bytes.ok_or_else(|| Error::Memory(format!("{rows} vectors of {dim} numbers do not fit")))?;
        let mem = self.work.runtime.alloc(bytes)?;
        self.arrays.push(Array { mem, rows, dim, along: Along::default() });
        Ok(Buf(self.arrays.len() - 1))
    }

    fn write(&mut self, dst: Row, src: &[f64]) -> Result<()> {
        assert_eq!(src.len(), self.array(dst.buf).dim, "a row of another length");
        self.arrays[dst.buf.0].along.forget(dst.index);
        self.write_reals(self.array(dst.buf).mem, self.start(dst), src)
    }

    fn read(&self, src: Row, dst: &mut [f64]) -> Result<()> {
        assert_eq!(dst.len(), self.array(src.buf).dim, "a row of another length");
        self.read_reals(self.array(src.buf).mem, self.start(src), dst)
    }

    fn read_rows(&mut self, src: Buf, rows: &mut dyn Iterator<Item = (usize, &mut [f64])>) -> Result<()> {
        self.download_rows(src, &mut rows.collect::<Vec<_>>())
    }

    fn write_rows(&mut self, dst: Buf, rows: &mut dyn Iterator<Item = (usize, &[f64])>) -> Result<()> {
        self.upload_rows(dst, &rows.collect::<Vec<_>>())
    }

    fn host_pair(&mut self, _src: Row, _dst: Row) -> Option<(&[f64], &mut [f64])> {
        None
    }

    fn raw(&mut self, buf: Buf) -> Option<RawBuffer> {
        let Array { mem, rows, dim, .. } = *self.arrays.get(buf.0)?;
        let (memory, address, stream) = self.work.runtime.place(mem);
        Some(RawBuffer { memory, address, rows, dim, stride: dim, bytes: self.bytes(), stream })
    }

    fn sharing(&mut self) -> Option<&mut dyn Sharing> {
        self.work.runtime.addresses()?;
        Some(self)
    }

    fn written(&mut self, row: Row) {
        self.arrays[row.buf.0].along.forget(row.index);
    }

    fn gpu(&mut self) -> Option<&mut Gpu> {
        Some(self)
    }

    fn copy(&mut self, src: Buf, dst: Buf, rows: &[[usize; 2]]) -> Result<()> {
        self.copy_rows(src, dst, rows)
    }

    fn alloc_metrics(&mut self, rows: usize, dim: usize) -> Result<Metrics> {
        self.holders.push(Holders::new(rows));
        self.couplings.push(vec![None; rows]);
        let id = self.couplings.len() - 1;
        let [inv_mass, mass_sqrt, center] =
            [self.alloc(rows, dim)?, self.alloc(rows, dim)?, self.alloc(rows, dim)?];
        let ones = vec![1.0; dim];
        for index in 0..rows {
            self.write(Row { buf: inv_mass, index }, &ones)?;
            self.write(Row { buf: mass_sqrt, index }, &ones)?;
        }
        Ok(Metrics { inv_mass, mass_sqrt, center, id })
    }

    fn set_metric(&mut self, metrics: &Metrics, row: usize, metric: &Arc<Metric>) -> Result<()> {
        let before = self.holders[metrics.id].row(row);
        if self.holders[metrics.id].join(row, metric) {
            if self.holders[metrics.id].is_free(before) {
                self.couplings[metrics.id][before] = None;
            }
            return Ok(());
        }
        let numbers = Metrics::numbers_of(metric, self.array(metrics.inv_mass).dim)?;
        let coupling = if metric.rank() > 0 { Some(self.prepare(metric)?) } else { None };
        let [own, _] = self.holders[metrics.id].part(row);
        metrics.write(self, own, &numbers)?;
        self.couplings[metrics.id][own] = coupling;
        self.holders[metrics.id].note(row, metric);
        Ok(())
    }

    fn metric_row(&self, metrics: &Metrics, chain: usize) -> usize {
        self.holders[metrics.id].row(chain)
    }

    fn metric(&self, metrics: &Metrics, row: usize) -> Result<Metric> {
        let row = self.metric_row(metrics, row);
        match &self.couplings[metrics.id][row] {
            Some(coupling) => Ok(Metric::clone(&coupling.metric)),
            None => metrics.read_diagonal(self, row, self.array(metrics.inv_mass).dim),
        }
    }

    fn refresh(
        &mut self,
        phase: &Phase,
        metrics: &Metrics,
        ops: &[Refresh],
        kinetic: &mut [f64],
    ) -> Result<()> {
        self.draw_momenta(phase, metrics, &self.placed(metrics, ops), kinetic)
    }

    fn renew(
        &mut self,
        phase: &Phase,
        metrics: &Metrics,
        ops: &[Renewal],
        kinetic: &mut [f64],
    ) -> Result<()> {
        self.renew_momenta(phase, metrics, &self.placed(metrics, ops), kinetic)
    }

    fn finish_leaf(
        &mut self,
        phase: &Phase,
        metrics: &Metrics,
        leaves: &[Leaf],
        spans: &[Span],
        kinetic: &mut [f64],
        dots: &mut [Dots],
    ) -> Result<()> {
        self.finish_leaves(phase, metrics, &self.placed(metrics, leaves), spans, kinetic, dots)
    }

    fn glide(&mut self, phase: &Phase, metrics: &Metrics, ops: &[Glide]) -> Result<()> {
        self.step(phase, metrics, &self.placed(metrics, ops))
    }

    fn products(
        &mut self,
        phase: &Phase,
        metrics: &Metrics,
        places: &[Place],
        kinetic: &mut [f64],
        dots: &mut [Dots],
    ) -> Result<()> {
        self.inner_products(phase, metrics, &self.placed(metrics, places), kinetic, dots)
    }

    fn pull(&mut self, phase: &Phase, metrics: &Metrics, places: &[Place]) -> Result<()> {
        self.find_pulls(phase, metrics, &self.placed(metrics, places))
    }

    fn turn(&mut self, phase: &Phase, metrics: &Metrics, ops: &[Turn]) -> Result<()> {
        self.begin_turns(phase, metrics, &self.placed(metrics, ops))
    }

    fn finish_turn(
        &mut self,
        phase: &Phase,
        metrics: &Metrics,
        ops: &[Turn],
        kinetic: &mut [f64],
    ) -> Result<()> {
        self.finish_turns(phase, metrics, &self.placed(metrics, ops), kinetic)
    }

    fn reach(
        &mut self,
        phase: &Phase,
        metrics: &Metrics,
        reaches: &[Reach],
        spans: &[Span],
        dots: &mut [Dots],
    ) -> Result<()> {
        self.measure_reaches(phase, metrics, &self.placed(metrics, reaches), spans, dots)
    }

    fn accumulate(&mut self, moments: &Moments, phase: &Phase, ops: &[Addition]) -> Result<()> {
        self.add_to_moments(moments, phase, ops)
    }

    fn fisher_distance(
        &mut self,
        phase: &Phase,
        metrics: &Metrics,
        places: &[Place],
        out: &mut [f64],
    ) -> Result<()> {
        self.distances(phase, metrics, &self.placed(metrics, places), out)
    }

    fn metric_from_gradient(&mut self, metrics: &Metrics, phase: &Phase, places: &[Place]) -> Result<()> {
        self.metrics_of_gradients(metrics, phase, places)
    }

    fn fit_fisher_diag(&mut self, metrics: &Metrics, moments: &Moments, fits: &[Fit]) -> Result<()> {
        self.fit_diagonals(metrics, moments, fits)
    }
}
