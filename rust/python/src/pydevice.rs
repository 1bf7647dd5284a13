//! A device that is a Python object: arrays of a library such as JAX, and functions of it that are the phases.
//!
//! Lists of operations go there as tables of whole numbers and of floats, one line for each operation. Rows that the host
//! writes are kept here until a phase needs them, and so are arrays of which it reads many rows one by one.

use std::any::Any;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use numpy::{IntoPyArray, PyArray1, PyArrayMethods};
use nutpie_core::device::{
    Addition, Buf, Device, Dots, Fit, Glide, Holders, Leaf, Metrics, Moments, OfChain, Phase, Place, Reach,
    Refresh, Renewal, Row, Span, Turn,
};
use nutpie_core::error::{Error, Result};
use nutpie_core::metric::Metric;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::batch::fatal;
use crate::lines::{NONE, Table, deal, key_words, place_line, span_table, turn_line};

/// Arrays of up to this many bytes are read as a whole.
const SMALL: usize = 1 << 23;

/// Bytes of rows that come in one call.
const TRANSFER: usize = 1 << 26;

/// Where an array is larger, it is read as a whole after one of so many of its rows was.
const SHARE: usize = 8;

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

impl Mirror {
    /// A row, if it is here.
    fn known(&self, index: usize) -> Option<&[f64]> {
        let of_whole = || Some(&self.whole.as_ref()?[index * self.dim..(index + 1) * self.dim]);
        self.written.get(&index).map(|row| &row[..]).or_else(of_whole)
    }
}

fn too_little() -> PyErr {
    PyValueError::new_err("the device returned too few numbers")
}

/// A Python object with the phases as methods.
pub struct PyDevice {
    object: Py<PyAny>,
    mirrors: RefCell<Vec<Mirror>>,
    /// The rows of metrics by [`Metrics::id`], and those of them that are not diagonal.
    holders: Vec<Holders>,
    couplings: Vec<Vec<Option<Arc<Metric>>>>,
}

impl PyDevice {
    /// Work with an object that has no arrays yet.
    pub fn new(object: Py<PyAny>) -> Self {
        PyDevice { object, mirrors: RefCell::default(), holders: Vec::new(), couplings: Vec::new() }
    }

    /// Call a phase; `changed` are the arrays that it writes. Returns the scalars that it found.
    pub fn call(
        &self,
        name: &str,
        bufs: &[Buf],
        tables: impl IntoIterator<Item = Table>,
        changed: &[Buf],
    ) -> Result<Vec<f64>> {
        self.send_written()?;
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

    /// Let the device have all rows that it was given.
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

    /// Operations with rows of metrics instead of chains.
    pub fn placed<T: OfChain>(&self, metrics: &Metrics, ops: &[T]) -> Vec<T> {
        self.holders[metrics.id].placed(ops)
    }

    /// Give chains rows for metrics that are written in place; with the numbers that they have, if they are wanted.
    fn own_rows(&mut self, metrics: &Metrics, chains: impl Iterator<Item = usize>, copy: bool) -> Result<()> {
        let mut moves = Vec::new();
        for chain in chains {
            let [row, before] = self.holders[metrics.id].part(chain);
            self.set_coupling(metrics.id, row, None)?;
            if copy && row != before {
                moves.push([before, row]);
            }
        }
        let bufs = [metrics.inv_mass, metrics.mass_sqrt, metrics.center];
        bufs.into_iter().filter(|_| !moves.is_empty()).try_for_each(|buf| self.copy(buf, buf, &moves))
    }

    fn dim_of(&self, metrics: &Metrics) -> usize {
        self.mirrors.borrow()[metrics.inv_mass.0].dim
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
        let mirror = &mut self.mirrors.get_mut()[dst.buf.0];
        if let Some(whole) = &mut mirror.whole {
            whole[dst.index * mirror.dim..(dst.index + 1) * mirror.dim].copy_from_slice(src);
        }
        mirror.written.insert(dst.index, src.to_vec());
        Ok(())
    }

    fn read(&self, src: Row, dst: &mut [f64]) -> Result<()> {
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

    fn read_rows(&mut self, src: Buf, rows: &mut dyn Iterator<Item = (usize, &mut [f64])>) -> Result<()> {
        let mut there = Vec::new();
        let mirror = &self.mirrors.get_mut()[src.0];
        for (index, to) in rows {
            match mirror.known(index) {
                Some(row) => to.copy_from_slice(row),
                None => there.push((index, to)),
            }
        }
        let together = (TRANSFER / (8 * mirror.dim).max(1)).max(1);
        for rows in there.chunks_mut(together) {
            let wanted: Vec<i64> = rows.iter().map(|(index, _)| *index as i64).collect();
            Python::attach(|py| {
                let wanted = wanted.into_pyarray(py);
                let found = self.object.bind(py).call_method1("download_rows", (src.0, wanted))?;
                let found = found.cast::<PyArray1<f64>>()?.try_readonly()?;
                let mut found = found.as_slice()?;
                for (_, to) in rows {
                    let (own, others) = found.split_at_checked(to.len()).ok_or_else(too_little)?;
                    to.copy_from_slice(own);
                    found = others;
                }
                Ok(())
            })
            .map_err(|error: PyErr| fatal(error))?;
        }
        Ok(())
    }

    fn host_pair(&mut self, _: Row, _: Row) -> Option<(&[f64], &mut [f64])> {
        None
    }

    fn foreign(&mut self) -> Option<&mut dyn Any> {
        Some(self)
    }

    fn copy(&mut self, src: Buf, dst: Buf, rows: &[[usize; 2]]) -> Result<()> {
        self.call("copy", &[src, dst], [Table::from(rows, |row| (*row, []))], &[dst]).map(|_| ())
    }

    fn alloc_metrics(&mut self, rows: usize, dim: usize) -> Result<Metrics> {
        self.holders.push(Holders::new(rows));
        self.couplings.push(vec![None; rows]);
        let id = self.couplings.len() - 1;
        let [inv_mass, mass_sqrt, center] =
            [self.alloc(rows, dim)?, self.alloc(rows, dim)?, self.alloc(rows, dim)?];
        self.call("alloc_metrics", &[inv_mass, mass_sqrt, Buf(id)], [], &[inv_mass, mass_sqrt])?;
        Ok(Metrics { inv_mass, mass_sqrt, center, id })
    }

    fn set_metric(&mut self, metrics: &Metrics, row: usize, metric: &Arc<Metric>) -> Result<()> {
        let before = self.holders[metrics.id].row(row);
        if self.holders[metrics.id].join(row, metric) {
            if self.holders[metrics.id].is_free(before) {
                self.set_coupling(metrics.id, before, None)?;
            }
            return Ok(());
        }
        let numbers = Metrics::numbers_of(metric, self.dim_of(metrics))?;
        let [own, _] = self.holders[metrics.id].part(row);
        self.set_coupling(metrics.id, own, (metric.rank() > 0).then_some(metric))?;
        self.holders[metrics.id].note(row, metric);
        metrics.write(self, own, &numbers)
    }

    fn metric_row(&self, metrics: &Metrics, chain: usize) -> usize {
        self.holders[metrics.id].row(chain)
    }

    fn metric(&self, metrics: &Metrics, row: usize) -> Result<Metric> {
        let row = self.metric_row(metrics, row);
        match &self.couplings[metrics.id][row] {
            Some(metric) => Ok((**metric).clone()),
            None => metrics.read_diagonal(self, row, self.dim_of(metrics)),
        }
    }

    fn refresh(
        &mut self,
        phase: &Phase,
        metrics: &Metrics,
        ops: &[Refresh],
        kinetic: &mut [f64],
    ) -> Result<()> {
        let table = Table::from(&self.placed(metrics, ops), |op| (key_words(op), []));
        deal(&self.phase("refresh", phase, metrics, [table], &[phase.p])?, &mut [kinetic])
    }

    fn renew(
        &mut self,
        phase: &Phase,
        metrics: &Metrics,
        ops: &[Renewal],
        kinetic: &mut [f64],
    ) -> Result<()> {
        let table = Table::from(&self.placed(metrics, ops), |op| (key_words(&op.fresh), [op.keep]));
        deal(&self.phase("renew", phase, metrics, [table], &[phase.p])?, &mut [kinetic])
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
            ([leaf.metric, leaf.row, on, usize::from(leaf.passing)], [leaf.kick, drift])
        };
        let tables = [
            Table::from(&self.placed(metrics, leaves), line),
            span_table(leaves.iter().map(|leaf| leaf.spans), spans),
        ];
        let found = self.phase("finish_leaf", phase, metrics, tables, &[phase.x, phase.p])?;
        deal(&found, &mut [kinetic, dots.as_flattened_mut()])
    }

    fn glide(&mut self, phase: &Phase, metrics: &Metrics, ops: &[Glide]) -> Result<()> {
        let line = |op: &Glide| ([op.metric, op.from, op.to], [op.scale, op.kick, op.drift]);
        let table = Table::from(&self.placed(metrics, ops), line);
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
        let table = Table::from(&self.placed(metrics, places), place_line);
        let found = self.phase("products", phase, metrics, [table], &[])?;
        deal(&found, &mut [kinetic, dots.as_flattened_mut()])
    }

    fn pull(&mut self, phase: &Phase, metrics: &Metrics, places: &[Place]) -> Result<()> {
        let table = Table::from(&self.placed(metrics, places), place_line);
        self.phase("pull", phase, metrics, [table], &[phase.pulls()?]).map(|_| ())
    }

    fn turn(&mut self, phase: &Phase, metrics: &Metrics, ops: &[Turn]) -> Result<()> {
        let changed = [phase.x, phase.p, phase.pulls()?];
        let table = Table::from(&self.placed(metrics, ops), turn_line);
        self.phase("turn", phase, metrics, [table], &changed).map(|_| ())
    }

    fn finish_turn(
        &mut self,
        phase: &Phase,
        metrics: &Metrics,
        ops: &[Turn],
        kinetic: &mut [f64],
    ) -> Result<()> {
        phase.pulls()?;
        let table = Table::from(&self.placed(metrics, ops), turn_line);
        let found = self.phase("finish_turn", phase, metrics, [table], &[phase.p])?;
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
        let points = Table::from(&self.placed(metrics, reaches), |op| ([op.metric, op.row], [op.half]));
        let tables = [points, span_table(reaches.iter().map(|op| op.spans), spans)];
        deal(&self.phase("reach", phase, metrics, tables, &[])?, &mut [dots.as_flattened_mut()])
    }

    fn accumulate(&mut self, moments: &Moments, phase: &Phase, ops: &[Addition]) -> Result<()> {
        let bufs = [&moments.bufs()[..], &[phase.x, phase.g]].concat();
        let line = |op: &Addition| ([op.sample.row, op.point], [op.sample.count as f64]);
        self.call("accumulate", &bufs, [Table::from(ops, line)], &bufs[..4]).map(|_| ())
    }

    fn fisher_distance(
        &mut self,
        phase: &Phase,
        metrics: &Metrics,
        places: &[Place],
        out: &mut [f64],
    ) -> Result<()> {
        let table = Table::from(&self.placed(metrics, places), place_line);
        deal(&self.phase("fisher_distance", phase, metrics, [table], &[])?, &mut [out])
    }

    fn metric_from_gradient(&mut self, metrics: &Metrics, phase: &Phase, places: &[Place]) -> Result<()> {
        self.own_rows(metrics, places.iter().map(|place| place.metric), false)?;
        let changed = [metrics.inv_mass, metrics.mass_sqrt, metrics.center];
        let table = Table::from(&self.placed(metrics, places), place_line);
        self.phase("metric_from_gradient", phase, metrics, [table], &changed).map(|_| ())
    }

    fn fit_fisher_diag(&mut self, metrics: &Metrics, moments: &Moments, fits: &[Fit]) -> Result<()> {
        self.own_rows(metrics, fits.iter().map(|fit| fit.metric), true)?;
        let Metrics { inv_mass, mass_sqrt, center, .. } = *metrics;
        let bufs = [&moments.bufs()[..], &[inv_mass, mass_sqrt, center]].concat();
        let line = |fit: &Fit| {
            let [one, two] = fit.ordered();
            // The row of an empty sample may hold old numbers, so the other one stands in, with weight zero.
            let second = if two.count == 0 { one.row } else { two.row };
            ([self.metric_row(metrics, fit.metric), one.row, second], [one.count as f64, two.count as f64])
        };
        self.call("fit_fisher_diag", &bufs, [Table::from(fits, line)], &bufs[4..]).map(|_| ())
    }
}
