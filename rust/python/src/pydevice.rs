//! A device that is a Python object: arrays of a library such as JAX, and functions of it that are the phases.
//!
//! Lists of operations go there as tables of whole numbers and of floats, one line for each operation. Rows that the host
//! writes are kept here until a phase needs them, and so are arrays that it reads more than a little of, so that many
//! chains do not need a call of Python each.

use std::any::Any;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use numpy::{IntoPyArray, PyArray1, PyArrayMethods};
use nutpie_core::device::{
    Buf, Device, Dots, Glide, Leaf, Metrics, Moments, Phase, Place, Reach, Refresh, Renewal, Row, Sample,
    Span, Step, Turn,
};
use nutpie_core::error::{Error, Result};
use nutpie_core::metric::Metric;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::batch::fatal;

/// Arrays of up to this many bytes are read as a whole.
const SMALL: usize = 1 << 23;

/// Where an array is larger, it is read as a whole after one of so many of its rows was.
const SHARE: usize = 8;

/// A list of operations: whole numbers and floats, one line for each.
#[derive(Default)]
pub struct Table {
    ints: Vec<i64>,
    floats: Vec<f64>,
    lines: usize,
}

impl Table {
    /// Add an operation.
    pub fn add<const I: usize, const F: usize>(&mut self, ints: [usize; I], floats: [f64; F]) {
        self.ints.extend(ints.map(|i| i as i64));
        self.floats.extend(floats);
        self.lines += 1;
    }

    fn from<T, const I: usize, const F: usize>(
        ops: &[T],
        line: impl Fn(&T) -> ([usize; I], [f64; F]),
    ) -> Self {
        let mut table = Table::default();
        ops.iter().map(line).for_each(|(ints, floats)| table.add(ints, floats));
        table
    }

    fn into_python(self, py: Python<'_>) -> PyResult<[Bound<'_, PyAny>; 2]> {
        let Table { ints, floats, lines } = self;
        let widths = [ints.len(), floats.len()].map(|length| length / lines.max(1));
        Ok([
            ints.into_pyarray(py).reshape([lines, widths[0]])?.into_any(),
            floats.into_pyarray(py).reshape([lines, widths[1]])?.into_any(),
        ])
    }
}

/// No row.
pub const NONE: usize = usize::MAX;

/// What the host knows of an array.
struct Mirror {
    rows: usize,
    dim: usize,
    /// All of it.
    whole: Option<Vec<f64>>,
    /// Rows that were read since it changed.
    reads: usize,
    /// Rows that the device does not have yet.
    written: BTreeMap<usize, Vec<f64>>,
}

/// Points that estimators are to take in.
#[derive(Default)]
struct Pending {
    bufs: Vec<Buf>,
    rows: Vec<usize>,
    table: Table,
}

/// A Python object with the phases as methods.
pub struct PyDevice {
    object: Py<PyAny>,
    mirrors: RefCell<Vec<Mirror>>,
    /// The metrics that are not diagonal, by [`Metrics::id`] and row.
    couplings: Vec<Vec<Option<Arc<Metric>>>>,
    pending: RefCell<Pending>,
}

impl PyDevice {
    /// Work with an object that has no arrays yet.
    pub fn new(object: Py<PyAny>) -> Self {
        PyDevice { object, mirrors: RefCell::default(), couplings: Vec::new(), pending: RefCell::default() }
    }

    /// Call a phase; `changed` are the arrays that it writes. Returns the scalars that it found.
    pub fn call(
        &self,
        name: &str,
        bufs: &[Buf],
        tables: impl IntoIterator<Item = Table>,
        changed: &[Buf],
    ) -> Result<Vec<f64>> {
        self.settle()?;
        let found = Python::attach(|py| -> PyResult<Vec<f64>> {
            let mut arguments = vec![handles(py, bufs)?.into_any()];
            for table in tables {
                arguments.extend(table.into_python(py)?);
            }
            let found = self.object.bind(py).call_method1(name, PyTuple::new(py, arguments)?)?;
            if found.is_none() { Ok(Vec::new()) } else { Ok(found.cast::<PyArray1<f64>>()?.to_vec()?) }
        })
        .map_err(fatal)?;
        let mut mirrors = self.mirrors.borrow_mut();
        for buf in changed {
            (mirrors[buf.0].whole, mirrors[buf.0].reads) = (None, 0);
        }
        Ok(found)
    }

    /// Let the device have all that it was told.
    fn settle(&self) -> Result<()> {
        self.send_written()?;
        if self.pending.borrow().rows.is_empty() {
            return Ok(());
        }
        let Pending { bufs, table, .. } = self.pending.take();
        self.call("accumulate", &bufs, [table], &bufs[..4]).map(|_| ())
    }

    fn send_written(&self) -> Result<()> {
        for (buf, mirror) in self.mirrors.borrow_mut().iter_mut().enumerate() {
            if mirror.written.is_empty() {
                continue;
            }
            let rows: Vec<i64> = mirror.written.keys().map(|row| *row as i64).collect();
            let shape = [rows.len(), mirror.dim];
            let values: Vec<f64> = mirror.written.values().flatten().copied().collect();
            mirror.written.clear();
            Python::attach(|py| {
                let values = values.into_pyarray(py).reshape(shape)?;
                self.object.bind(py).call_method1("upload", (buf, rows.into_pyarray(py), values)).map(|_| ())
            })
            .map_err(fatal)?;
        }
        Ok(())
    }

    /// Points of a phase, then metrics.
    fn bufs(phase: &Phase, metrics: &Metrics) -> Vec<Buf> {
        let Metrics { inv_mass, mass_sqrt, center, id } = *metrics;
        // Without pulls there is the position again, which nobody looks at.
        vec![phase.x, phase.p, phase.g, phase.pull.unwrap_or(phase.x), inv_mass, mass_sqrt, center, Buf(id)]
    }

    /// Call a phase of points under metrics.
    pub fn phase(
        &self,
        name: &str,
        phase: &Phase,
        metrics: &Metrics,
        tables: impl IntoIterator<Item = Table>,
        changed: &[Buf],
    ) -> Result<Vec<f64>> {
        self.call(name, &Self::bufs(phase, metrics), tables, changed)
    }

    fn set_coupling(&mut self, id: usize, row: usize, metric: Option<&Arc<Metric>>) -> Result<()> {
        let all = &mut self.couplings[id];
        if metric.is_none() && all[row].is_none() {
            return Ok(());
        }
        let known = metric.is_some_and(|m| all.iter().flatten().any(|other| Arc::ptr_eq(m, other)));
        all[row] = metric.cloned();
        Python::attach(|py| {
            let object = self.object.bind(py);
            let Some(metric) = metric else {
                return object.call_method1("set_coupling", (id, row, py.None())).map(|_| ());
            };
            let key = Arc::as_ptr(metric) as usize;
            if known {
                return object.call_method1("set_coupling", (id, row, key)).map(|_| ());
            }
            let shape = [metric.rank(), metric.dim()];
            let vectors = metric.vectors.clone().into_pyarray(py).reshape(shape)?;
            let (stds, values) = (metric.stds.clone(), metric.values.clone());
            let matrix = (stds.into_pyarray(py), values.into_pyarray(py), vectors);
            object.call_method1("set_coupling", (id, row, key, matrix)).map(|_| ())
        })
        .map_err(fatal)
    }

    /// Read rows from the device.
    fn fetch(&self, method: &str, arguments: &[usize], to: &mut [f64]) -> Result<()> {
        Python::attach(|py| {
            let arguments = PyTuple::new(py, arguments)?;
            let found = self.object.bind(py).call_method1(method, arguments)?;
            to.copy_from_slice(found.cast::<PyArray1<f64>>()?.try_readonly()?.as_slice()?);
            Ok(())
        })
        .map_err(|error: PyErr| fatal(error))
    }
}

fn handles<'py>(py: Python<'py>, bufs: &[Buf]) -> PyResult<Bound<'py, PyTuple>> {
    PyTuple::new(py, bufs.iter().map(|buf| buf.0))
}

/// Put what a phase found, all of one kind after all of another, where it belongs.
pub fn deal(found: &[f64], into: &mut [&mut [f64]]) -> Result<()> {
    let mut rest = found;
    for out in into {
        let Some((own, others)) = rest.split_at_checked(out.len()) else {
            return Err(Error::Device("a phase of the device found too little".into()));
        };
        out.copy_from_slice(own);
        rest = others;
    }
    Ok(())
}

fn key_words(fresh: &Refresh) -> [usize; 7] {
    let Refresh { metric, row, key, purpose } = *fresh;
    let (low, high) = (key.seed as u32, (key.seed >> 32) as u32);
    let words = [low, high, key.draw, key.chain, purpose.code()].map(|word| word as usize);
    [metric, row, words[0], words[1], words[2], words[3], words[4]]
}

fn place_line(place: &Place) -> ([usize; 2], [f64; 0]) {
    ([place.metric, place.row], [])
}

fn turn_line(op: &Turn) -> ([usize; 3], [f64; 2]) {
    ([op.metric, op.from, op.to], [op.kick, op.angle])
}

/// Start, leaf it belongs to, and whether that is the next point.
pub fn span_table(counts: impl Iterator<Item = usize>, spans: &[Span]) -> Table {
    let owners = counts.enumerate().flat_map(|(leaf, count)| std::iter::repeat_n((leaf, count), count));
    let mut table = Table::default();
    let mut last = NONE;
    for ((leaf, _), span) in owners.zip(spans) {
        // Only the first span of a leaf may be that from the point just before.
        let adjacent = usize::from(span.adjacent && leaf != last);
        last = leaf;
        table.add([span.start, leaf, adjacent], []);
    }
    table
}

impl Device for PyDevice {
    fn alloc(&mut self, rows: usize, dim: usize) -> Result<Buf> {
        let found =
            Python::attach(|py| self.object.bind(py).call_method1("alloc", (rows, dim))?.extract::<usize>());
        let mirror = Mirror { rows, dim, whole: None, reads: 0, written: BTreeMap::new() };
        let mirrors = self.mirrors.get_mut();
        mirrors.push(mirror);
        match found.map_err(fatal)? {
            handle if handle + 1 == mirrors.len() => Ok(Buf(handle)),
            _ => Err(Error::Device("the arrays of a device are numbered from 0".into())),
        }
    }

    fn write(&mut self, dst: Row, src: &[f64]) -> Result<()> {
        if self.pending.borrow().bufs.contains(&dst.buf) {
            self.settle()?;
        }
        let mirror = &mut self.mirrors.get_mut()[dst.buf.0];
        if let Some(whole) = &mut mirror.whole {
            whole[dst.index * mirror.dim..(dst.index + 1) * mirror.dim].copy_from_slice(src);
        }
        mirror.written.insert(dst.index, src.to_vec());
        Ok(())
    }

    fn read(&self, src: Row, dst: &mut [f64]) -> Result<()> {
        if self.pending.borrow().bufs.iter().take(4).any(|buf| *buf == src.buf) {
            self.settle()?;
        }
        let mut mirrors = self.mirrors.borrow_mut();
        let Mirror { rows, dim, whole, reads, written } = &mut mirrors[src.buf.0];
        if let Some(row) = written.get(&src.index) {
            dst.copy_from_slice(row);
            return Ok(());
        }
        let (length, handle) = (*rows * *dim, src.buf.0);
        if whole.is_none() && (8 * length <= SMALL || *reads > *rows / SHARE) {
            let mut all = vec![0.0; length];
            self.fetch("download", &[handle], &mut all)?;
            for (row, values) in written {
                all[row * *dim..(row + 1) * *dim].copy_from_slice(values);
            }
            *whole = Some(all);
        }
        if let Some(all) = whole {
            dst.copy_from_slice(&all[src.index * *dim..(src.index + 1) * *dim]);
            return Ok(());
        }
        *reads += 1;
        self.fetch("download_row", &[handle, src.index], dst)
    }

    fn host_pair(&mut self, _: Row, _: Row) -> Option<(&[f64], &mut [f64])> {
        None
    }

    fn foreign(&mut self) -> Option<&mut dyn Any> {
        Some(self)
    }

    fn copy(&mut self, src: Row, dst: Row, _dim: usize) -> Result<()> {
        let table = Table::from(&[()], |()| ([src.index, dst.index], []));
        self.call("copy", &[src.buf, dst.buf], [table], &[dst.buf]).map(|_| ())
    }

    fn alloc_metrics(&mut self, rows: usize, dim: usize) -> Result<Metrics> {
        self.couplings.push(vec![None; rows]);
        let id = self.couplings.len() - 1;
        let [inv_mass, mass_sqrt, center] =
            [self.alloc(rows, dim)?, self.alloc(rows, dim)?, self.alloc(rows, dim)?];
        self.call("alloc_metrics", &[inv_mass, mass_sqrt, Buf(id)], [], &[inv_mass, mass_sqrt])?;
        Ok(Metrics { inv_mass, mass_sqrt, center, id })
    }

    fn set_metric(&mut self, metrics: &Metrics, row: usize, metric: &Arc<Metric>) -> Result<()> {
        let dim = self.mirrors.borrow()[metrics.inv_mass.0].dim;
        let diagonal = metric.inv_mass_diagonal();
        if !metric.is_usable() || metric.dim() != dim || ![0, dim].contains(&metric.center.len()) {
            return Err(Error::Metric(format!("not an inverse mass matrix of {dim} parameters")));
        }
        let mut center = metric.center.clone();
        center.resize(dim, 0.0);
        let roots: Vec<f64> = diagonal.iter().map(|v| (1.0 / v).sqrt()).collect();
        self.set_coupling(metrics.id, row, (metric.rank() > 0).then_some(metric))?;
        self.write(Row { buf: metrics.center, index: row }, &center)?;
        self.write(Row { buf: metrics.inv_mass, index: row }, &diagonal)?;
        self.write(Row { buf: metrics.mass_sqrt, index: row }, &roots)
    }

    fn metric(&self, metrics: &Metrics, row: usize) -> Result<Metric> {
        if let Some(metric) = &self.couplings[metrics.id][row] {
            return Ok((**metric).clone());
        }
        let dim = self.mirrors.borrow()[metrics.inv_mass.0].dim;
        let mut rows = [vec![0.0; dim], vec![0.0; dim]];
        for (buf, out) in [metrics.inv_mass, metrics.center].into_iter().zip(&mut rows) {
            self.read(Row { buf, index: row }, out)?;
        }
        let [inv_mass, center] = rows;
        Ok(Metric::diagonal(&inv_mass, center))
    }

    fn refresh(
        &mut self,
        phase: &Phase,
        metrics: &Metrics,
        ops: &[Refresh],
        kinetic: &mut [f64],
    ) -> Result<()> {
        let table = Table::from(ops, |op| (key_words(op), []));
        deal(&self.phase("refresh", phase, metrics, [table], &[phase.p])?, &mut [kinetic])
    }

    fn renew(
        &mut self,
        phase: &Phase,
        metrics: &Metrics,
        ops: &[Renewal],
        kinetic: &mut [f64],
    ) -> Result<()> {
        let table = Table::from(ops, |op| (key_words(&op.fresh), [op.keep]));
        deal(&self.phase("renew", phase, metrics, [table], &[phase.p])?, &mut [kinetic])
    }

    fn kick_drift(&mut self, phase: &Phase, metrics: &Metrics, ops: &[Step]) -> Result<()> {
        let line = |op: &Step| ([op.metric, op.from, op.to], [1.0, op.kick, op.drift]);
        let table = Table::from(ops, line);
        self.phase("glide", phase, metrics, [table], &[phase.x, phase.p]).map(|_| ())
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
        let line = |leaf: &Leaf| {
            let (on, drift) = leaf.onward.unwrap_or((NONE, 0.0));
            ([leaf.metric, leaf.row, on], [leaf.kick, drift])
        };
        let tables = [Table::from(leaves, line), span_table(leaves.iter().map(|leaf| leaf.spans), spans)];
        let found = self.phase("finish_leaf", phase, metrics, tables, &[phase.x, phase.p])?;
        deal(&found, &mut [kinetic, dots.as_flattened_mut()])
    }

    fn glide(&mut self, phase: &Phase, metrics: &Metrics, ops: &[Glide]) -> Result<()> {
        let line = |op: &Glide| ([op.metric, op.from, op.to], [op.scale, op.kick, op.drift]);
        let table = Table::from(ops, line);
        self.phase("glide", phase, metrics, [table], &[phase.x, phase.p]).map(|_| ())
    }

    fn products(
        &mut self,
        phase: &Phase,
        metrics: &Metrics,
        places: &[Place],
        kinetic: &mut [f64],
        dots: &mut [Dots],
    ) -> Result<()> {
        let found = self.phase("products", phase, metrics, [Table::from(places, place_line)], &[])?;
        deal(&found, &mut [kinetic, dots.as_flattened_mut()])
    }

    fn pull(&mut self, phase: &Phase, metrics: &Metrics, places: &[Place]) -> Result<()> {
        let table = Table::from(places, place_line);
        self.phase("pull", phase, metrics, [table], &[phase.pulls()?]).map(|_| ())
    }

    fn turn(&mut self, phase: &Phase, metrics: &Metrics, ops: &[Turn]) -> Result<()> {
        let changed = [phase.x, phase.p, phase.pulls()?];
        self.phase("turn", phase, metrics, [Table::from(ops, turn_line)], &changed).map(|_| ())
    }

    fn finish_turn(
        &mut self,
        phase: &Phase,
        metrics: &Metrics,
        ops: &[Turn],
        kinetic: &mut [f64],
    ) -> Result<()> {
        phase.pulls()?;
        let found = self.phase("finish_turn", phase, metrics, [Table::from(ops, turn_line)], &[phase.p])?;
        deal(&found, &mut [kinetic])
    }

    fn reach(
        &mut self,
        phase: &Phase,
        metrics: &Metrics,
        reaches: &[Reach],
        spans: &[Span],
        dots: &mut [Dots],
    ) -> Result<()> {
        let points = Table::from(reaches, |op| ([op.metric, op.row], [op.half]));
        let tables = [points, span_table(reaches.iter().map(|op| op.spans), spans)];
        deal(&self.phase("reach", phase, metrics, tables, &[])?, &mut [dots.as_flattened_mut()])
    }

    fn accumulate(&mut self, moments: &Moments, sample: Sample, phase: &Phase, point: usize) -> Result<()> {
        let bufs = [&moments.bufs()[..], &[phase.x, phase.g]].concat();
        let known = {
            let pending = self.pending.borrow();
            pending.bufs == bufs && !pending.rows.contains(&sample.row)
        };
        if !known {
            self.settle()?;
        }
        let pending = self.pending.get_mut();
        pending.bufs = bufs;
        pending.rows.push(sample.row);
        pending.table.add([sample.row, point], [sample.count as f64]);
        Ok(())
    }

    fn fisher_distance(
        &mut self,
        phase: &Phase,
        metrics: &Metrics,
        places: &[Place],
        out: &mut [f64],
    ) -> Result<()> {
        let table = Table::from(places, place_line);
        deal(&self.phase("fisher_distance", phase, metrics, [table], &[])?, &mut [out])
    }

    fn metric_from_gradient(
        &mut self,
        metrics: &Metrics,
        row: usize,
        phase: &Phase,
        point: usize,
    ) -> Result<()> {
        self.set_coupling(metrics.id, row, None)?;
        let Metrics { inv_mass, mass_sqrt, center, .. } = *metrics;
        let table = Table::from(&[()], |()| ([row, point], []));
        let changed = [inv_mass, mass_sqrt, center];
        self.phase("metric_from_gradient", phase, metrics, [table], &changed).map(|_| ())
    }

    fn fit_fisher_diag(
        &mut self,
        metrics: &Metrics,
        row: usize,
        moments: &Moments,
        samples: [Sample; 2],
    ) -> Result<()> {
        self.set_coupling(metrics.id, row, None)?;
        let Metrics { inv_mass, mass_sqrt, center, .. } = *metrics;
        let bufs = [&moments.bufs()[..], &[inv_mass, mass_sqrt, center]].concat();
        let [one, two] = if samples[0].count == 0 { [samples[1], samples[0]] } else { samples };
        // The row of an empty sample may hold old numbers, so the other one stands in, with weight zero.
        let second = if two.count == 0 { one.row } else { two.row };
        let line = |_: &()| ([row, one.row, second], [one.count as f64, two.count as f64]);
        let table = Table::from(&[()], line);
        self.call("fit_fisher_diag", &bufs, [table], &bufs[4..]).map(|_| ())
    }
}
