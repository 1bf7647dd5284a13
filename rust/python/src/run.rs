//! A run, from Python.

use std::sync::Arc;

use numpy::{IntoPyArray, PyArrayMethods, PyReadonlyArray1, PyReadonlyArray2, ToPyArray};
use nutpie_core::adapt::pool::Check;
use nutpie_core::adapt::{AdaptSettings, Scheme};
use nutpie_core::density::{Density, OnHost};
use nutpie_core::device::{Device, DeviceOptions, open};
use nutpie_core::error::{Error, Result as CoreResult};
use nutpie_core::kernel::Sampler;
use nutpie_core::metric::Metric;
use nutpie_core::run::{ChainReport, Control as CoreControl, Output, Run};
use nutpie_core::settings::{Settings, Value};
use nutpie_core::trace::{ChainTrace, Keep};
use pyo3::exceptions::{PyMemoryError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyInt};

use crate::batch::{BatchDensity, BatchFunction, fatal};
use crate::density::{PyDensity, to_python};
use crate::pydensity::ResidentDensity;
use crate::pydevice::PyDevice;
use crate::shared::DeviceFunction;
use crate::source::SourceFunction;

/// Watches and stops a run. It can be used from any thread.
#[pyclass(frozen, module = "nutpie._lib")]
pub struct Control {
    inner: Arc<CoreControl>,
}

#[pymethods]
impl Control {
    #[new]
    fn new(chains: usize) -> Self {
        Control { inner: Arc::new(CoreControl::new(chains)) }
    }

    /// Ask the run to stop; the draws so far are kept.
    fn stop(&self) {
        self.inner.stop();
    }

    /// Ask the run to rest.
    fn pause(&self) {
        self.inner.pause();
    }

    /// Let the run go on.
    fn resume(&self) {
        self.inner.resume();
    }

    /// Whether the run was asked to rest.
    #[getter]
    fn paused(&self) -> bool {
        self.inner.paused()
    }

    /// The draws so far, a dict for each chain as `sample` gives it; empty when the run is over.
    fn traces<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyDict>>> {
        py.detach(|| self.inner.traces()).into_iter().map(|trace| trace_to_python(py, trace)).collect()
    }

    /// A dict for each chain.
    fn progress<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyDict>>> {
        self.inner
            .progress()
            .into_iter()
            .map(|p| {
                let d = PyDict::new(py);
                d.set_item("started", p.started)?;
                d.set_item("tuning", p.tuning)?;
                d.set_item("tune", p.tune)?;
                d.set_item("finished_draws", p.finished_draws)?;
                d.set_item("divergences", p.divergences)?;
                d.set_item("divergent_draws", p.divergent_draws)?;
                d.set_item("total_num_steps", p.total_num_steps)?;
                d.set_item("latest_num_steps", p.latest_num_steps)?;
                d.set_item("step_size", p.step_size)?;
                d.set_item("runtime_ms", p.runtime.as_millis() as u64)?;
                Ok(d)
            })
            .collect()
    }
}

/// What is known of the draws of a chain. Arrays are flat, draw by draw.
fn trace_to_python(py: Python<'_>, trace: ChainTrace) -> PyResult<Bound<'_, PyDict>> {
    let d = PyDict::new(py);
    d.set_item("warmup", trace.warmup)?;
    d.set_item("kernel", trace.kernel.name())?;
    let blocks = trace.blocks.into_iter().map(|block| {
        let arrays = [block.positions, block.stats, block.gradients, block.metrics];
        (block.draws, arrays.map(|numbers| numbers.into_pyarray(py)))
    });
    d.set_item("blocks", blocks.collect::<Vec<_>>())?;
    let divergences = trace.divergences.into_iter().map(|found| {
        let points = found.points.map(|point| point.into_pyarray(py));
        (found.draw, found.tuning, found.energy, found.energy_error, points)
    });
    d.set_item("divergences", divergences.collect::<Vec<_>>())?;
    Ok(d)
}

/// Which draws to keep, from the arguments of `sample`.
fn keep_from(options: &Bound<'_, PyDict>) -> PyResult<Keep> {
    let mut keep = Keep::default();
    for (name, value) in options {
        match name.extract::<String>()?.as_str() {
            "warmup" => keep.warmup = value.extract()?,
            "thin" => keep.thin = value.extract()?,
            "gradient" => keep.gradient = value.extract()?,
            "metric" => keep.metric = value.extract()?,
            "divergences" => keep.divergences = value.extract()?,
            other => return Err(PyValueError::new_err(format!("nothing is kept under the name {other}"))),
        }
    }
    Ok(keep)
}

fn settings_from(sampler: &str, adaptation: &str, options: &Bound<'_, PyDict>) -> PyResult<Settings> {
    let sampler = Sampler::from_name(sampler)
        .ok_or_else(|| PyValueError::new_err(format!("there is no sampler {sampler:?}")))?;
    let scheme = Scheme::from_name(adaptation)
        .ok_or_else(|| PyValueError::new_err(format!("there is no adaptation {adaptation:?}")))?;
    let mut settings = Settings { sampler, adapt: AdaptSettings::new(scheme), ..Settings::default() };
    for (name, value) in options {
        let name: String = name.extract()?;
        if let Ok(value) = value.extract::<String>() {
            settings.choose(&name, &value).map_err(error_to_python)?;
            continue;
        }
        let value = if value.is_instance_of::<PyBool>() {
            Value::Bool(value.extract()?)
        } else if value.is_instance_of::<PyInt>() {
            Value::Int(value.extract()?)
        } else {
            Value::Float(value.extract()?)
        };
        settings.set(&name, value).map_err(error_to_python)?;
    }
    Ok(settings)
}

/// Scales, eigenvalues, eigenvectors (one row each) and centre of an inverse mass matrix.
type Matrix<'py> = (
    PyReadonlyArray1<'py, f64>,
    PyReadonlyArray1<'py, f64>,
    PyReadonlyArray2<'py, f64>,
    PyReadonlyArray1<'py, f64>,
);

fn metric_from((stds, values, vectors, center): &Matrix<'_>, dim: usize) -> PyResult<Arc<Metric>> {
    let metric = Metric {
        stds: stds.as_array().to_vec(),
        values: values.as_array().to_vec(),
        vectors: vectors.as_array().iter().copied().collect(),
        center: center.as_array().to_vec(),
    };
    if metric.dim() != dim || metric.center.len() != dim || !metric.is_usable() {
        return Err(PyValueError::new_err(format!("the metric does not fit a model of {dim} parameters")));
    }
    Ok(Arc::new(metric))
}

fn metric_to_python<'py>(py: Python<'py>, metric: Metric) -> PyResult<Bound<'py, PyDict>> {
    let d = PyDict::new(py);
    let shape = [metric.rank(), metric.dim()];
    d.set_item("stds", metric.stds.into_pyarray(py))?;
    d.set_item("values", metric.values.into_pyarray(py))?;
    d.set_item("vectors", metric.vectors.into_pyarray(py).reshape(shape)?)?;
    d.set_item("center", metric.center.into_pyarray(py))?;
    Ok(d)
}

fn checks_to_python(checks: &[Check]) -> Vec<(u64, f64, bool)> {
    checks.iter().map(|check| (check.draws, check.top_eigenvalue, check.extended)).collect()
}

/// What is known of the warm-up of a chain.
fn report_to_python(py: Python<'_>, report: ChainReport) -> PyResult<Bound<'_, PyDict>> {
    let d = PyDict::new(py);
    d.set_item("tune", report.tune)?;
    d.set_item("gradients", report.gradients)?;
    d.set_item("lagging", report.lagging)?;
    d.set_item("shares", report.shares)?;
    d.set_item("fits", (report.fits.done, report.fits.rejected, report.fits.skipped))?;
    d.set_item("checks", checks_to_python(&report.checks))?;
    d.set_item("kernel", report.choice.map(|choice| (choice.kernel.name(), choice.why.text())))?;
    d.set_item("tuned", report.tuned.map(|tuned| (tuned.length, tuned.step, tuned.transitions)))?;
    d.set_item("tuning", report.tuning)?;
    let changes = report.changes.iter().map(|change| {
        let (stds, values) = (change.stds.to_pyarray(py), change.values.to_pyarray(py));
        (change.draw, change.reason.name(), change.points, stds, values)
    });
    d.set_item("changes", changes.collect::<Vec<_>>())?;
    d.set_item("metric", metric_to_python(py, report.metric)?)?;
    Ok(d)
}

/// The exception that stands for an error of the core.
pub fn error_to_python(error: Error) -> PyErr {
    match error {
        Error::Density(source) => to_python(source),
        Error::Setting(_) | Error::Start { .. } | Error::State(_) | Error::Metric(_) => {
            PyValueError::new_err(error.to_string())
        }
        Error::Memory(_) => PyMemoryError::new_err(error.to_string()),
        Error::Device(_) | Error::Internal(_) => PyRuntimeError::new_err(error.to_string()),
    }
}

/// The ways to evaluate a density.
enum Entry {
    /// One point in a call of a C function.
    Pointwise(PyDensity),
    /// Many points in a call of a Python function.
    Batch(Arc<BatchFunction>),
    /// Where the device is a Python object, by that.
    Resident(usize),
    /// In source, by a device that compiles it.
    Source(Py<SourceFunction>),
    /// Many points in a call of a Python function that works on memory of a device.
    Shared(Py<DeviceFunction>),
}

impl Entry {
    /// From a `Density` or a `BatchDensity` of `nutpie.models.base`.
    fn new(density: &Bound<'_, PyAny>, dim: usize, devices: &Devices) -> PyResult<Self> {
        if matches!(devices, Devices::Made(_)) {
            return Ok(Entry::Resident(dim));
        }
        let get = |name| density.getattr(name);
        if density.hasattr("address")? {
            let found = PyDensity::new(get("address")?.extract()?, get("user_data")?.extract()?, dim)?;
            return Ok(Entry::Pointwise(found));
        }
        let function = get("function")?;
        if devices.compile()
            && let Ok(function) = function.cast::<SourceFunction>()
        {
            return Ok(Entry::Source(function.clone().unbind()));
        }
        if let Ok(function) = function.cast::<DeviceFunction>() {
            return Ok(Entry::Shared(function.clone().unbind()));
        }
        let found = BatchFunction::new(function.unbind(), get("width")?.extract()?, dim)?;
        Ok(Entry::Batch(Arc::new(found)))
    }

    fn density(&self) -> Box<dyn Density> {
        match self {
            Entry::Pointwise(density) => Box::new(OnHost::new(*density)),
            Entry::Batch(function) => Box::new(BatchDensity(function.clone())),
            Entry::Resident(dim) => Box::new(ResidentDensity::new(*dim)),
            Entry::Source(function) => Box::new(function.get().density()),
            Entry::Shared(function) => Box::new(function.get().density()),
        }
    }
}

/// Where chains run; blocks take turns.
enum Devices {
    /// Devices of the core by name, and how they work.
    Named(Vec<String>, DeviceOptions),
    /// Python functions that make objects for [`PyDevice`].
    Made(Vec<Py<PyAny>>),
}

impl Devices {
    fn new(devices: Vec<Bound<'_, PyAny>>, single: bool) -> PyResult<Self> {
        let names: Vec<String> = devices.iter().filter_map(|device| device.extract().ok()).collect();
        match names.len() {
            0 if !devices.is_empty() => Ok(Devices::Made(devices.into_iter().map(Bound::unbind).collect())),
            n if n > 0 && n == devices.len() => Ok(Devices::Named(names, DeviceOptions { single })),
            _ => {
                Err(PyValueError::new_err("devices are names, or functions that make some, and one at least"))
            }
        }
    }

    /// Whether they compile densities in source.
    fn compile(&self) -> bool {
        matches!(self, Devices::Named(names, _) if names.iter().all(|name| name != "cpu"))
    }

    fn open(&self, block: usize) -> CoreResult<Box<dyn Device>> {
        match self {
            Devices::Named(names, options) => open(&names[block % names.len()], *options),
            Devices::Made(makers) => Python::attach(|py| {
                let object = makers[block % makers.len()].call0(py).map_err(fatal)?;
                Ok(Box::new(PyDevice::new(object)) as Box<dyn Device>)
            }),
        }
    }
}

/// Open a device of the core and close it again. Raises a ValueError that says what is missing.
#[pyfunction]
pub fn check_device(py: Python<'_>, name: &str, single: bool) -> PyResult<()> {
    let opened = py.detach(|| open(name, DeviceOptions { single }).map(drop));
    opened.map_err(|error| PyValueError::new_err(error.to_string()))
}

/// What a run leaves behind.
type Sampled<'py> = (Vec<Bound<'py, PyDict>>, Bound<'py, PyDict>, Option<PyErr>);

/// Sample. Returns a dict for each chain, one of what they shared in the warm-up, and the exception that ended the run if
/// one did.
#[pyfunction]
#[pyo3(signature = (
    control, density, starts, options, *, sampler, adaptation, seed, tune, extend, draws, keep, cores, per_block, metrics,
    devices, single
))]
#[allow(clippy::too_many_arguments)]
pub fn sample<'py>(
    py: Python<'py>,
    control: &Control,
    density: &Bound<'py, PyAny>,
    starts: PyReadonlyArray2<'py, f64>,
    options: &Bound<'py, PyDict>,
    sampler: &str,
    adaptation: &str,
    seed: u64,
    tune: u64,
    extend: bool,
    draws: u64,
    keep: &Bound<'py, PyDict>,
    cores: usize,
    per_block: usize,
    metrics: Vec<Option<Matrix<'py>>>,
    devices: Vec<Bound<'py, PyAny>>,
    single: bool,
) -> PyResult<Sampled<'py>> {
    let mut settings = Settings { seed, tune, draws, ..settings_from(sampler, adaptation, options)? };
    settings.adapt.extend = extend;
    let keep = keep_from(keep)?;
    let starts: Vec<Vec<f64>> = starts.as_array().rows().into_iter().map(|row| row.to_vec()).collect();
    if starts.len() != control.inner.progress().len() {
        return Err(PyValueError::new_err("the control is for another number of chains"));
    }
    let dim = starts.first().map_or(0, Vec::len);
    let devices = Devices::new(devices, single)?;
    let entry = Entry::new(density, dim, &devices)?;
    let metrics: Vec<Option<Arc<Metric>>> = metrics
        .iter()
        .map(|matrix| matrix.as_ref().map(|matrix| metric_from(matrix, dim)).transpose())
        .collect::<PyResult<_>>()?;
    let inner = control.inner.clone();
    let output: Output = py.detach(|| {
        Run {
            settings: &settings,
            starts: &starts,
            metrics: &metrics,
            keep,
            cores,
            per_block,
            device: &|block| devices.open(block),
            density: &|| entry.density(),
            // A thread state for the whole life of the thread, so that an exception set by the density outlives the call
            // in which it was set.
            on_thread: &|work| Python::attach(|py| py.detach(work)),
        }
        .execute(&inner)
    });
    let pooled = PyDict::new(py);
    pooled.set_item("checks", checks_to_python(output.pool.checks()))?;
    let fits = output.pool.group().map(|group| group.counts()).unwrap_or_default();
    pooled.set_item("fits", (fits.done, fits.rejected, fits.skipped))?;
    let chains = output.chains.into_iter().zip(output.n_gradients).zip(output.reports);
    let chains = chains.map(|((trace, n_gradients), report)| {
        let chain = trace_to_python(py, trace)?;
        chain.set_item("n_gradients", n_gradients)?;
        chain.set_item("warmup_report", report_to_python(py, report)?)?;
        Ok(chain)
    });
    Ok((chains.collect::<PyResult<_>>()?, pooled, output.error.map(error_to_python)))
}
