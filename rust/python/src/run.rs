//! A run, from Python.

use std::sync::Arc;

use numpy::{IntoPyArray, PyReadonlyArray2};
use nutpie_core::density::{Density, OnHost};
use nutpie_core::error::Error;
use nutpie_core::run::{Control as CoreControl, Output, Run};
use nutpie_core::settings::{Settings, Value};
use nutpie_core::trace::{ChainTrace, Keep};
use pyo3::exceptions::{PyMemoryError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyInt};

use crate::density::{PyDensity, to_python};

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

fn settings_from(options: &Bound<'_, PyDict>, seed: u64, tune: u64, draws: u64) -> PyResult<Settings> {
    let mut settings = Settings { seed, tune, draws, ..Settings::default() };
    for (name, value) in options {
        let name: String = name.extract()?;
        let value = if value.is_instance_of::<PyInt>() {
            Value::Int(value.extract()?)
        } else {
            Value::Float(value.extract()?)
        };
        settings.set(&name, value).map_err(error_to_python)?;
    }
    Ok(settings)
}

fn error_to_python(error: Error) -> PyErr {
    match error {
        Error::Density(source) => to_python(source),
        Error::Setting(_) | Error::Start { .. } | Error::State(_) => PyValueError::new_err(error.to_string()),
        Error::Device(_) => PyMemoryError::new_err(error.to_string()),
        Error::Internal(_) => PyRuntimeError::new_err(error.to_string()),
    }
}

/// Sample. Returns a dict for each chain, and the exception that ended the run if one did.
#[pyfunction]
#[pyo3(signature = (control, address, user_data, starts, options, *, seed, tune, draws, keep, cores))]
#[allow(clippy::too_many_arguments)]
pub fn sample<'py>(
    py: Python<'py>,
    control: &Control,
    address: usize,
    user_data: usize,
    starts: PyReadonlyArray2<'py, f64>,
    options: &Bound<'py, PyDict>,
    seed: u64,
    tune: u64,
    draws: u64,
    keep: &Bound<'py, PyDict>,
    cores: usize,
) -> PyResult<(Vec<Bound<'py, PyDict>>, Option<PyErr>)> {
    let settings = settings_from(options, seed, tune, draws)?;
    let keep = keep_from(keep)?;
    let starts: Vec<Vec<f64>> = starts.as_array().rows().into_iter().map(|row| row.to_vec()).collect();
    if starts.len() != control.inner.progress().len() {
        return Err(PyValueError::new_err("the control is for another number of chains"));
    }
    let dim = starts.first().map_or(0, Vec::len);
    let density = PyDensity::new(address, user_data, dim)?;
    let inner = control.inner.clone();
    let output: Output = py.detach(|| {
        Run {
            settings: &settings,
            starts: &starts,
            keep,
            cores,
            density: &|| Box::new(OnHost::new(density)) as Box<dyn Density>,
            // A thread state for the whole life of the thread, so that an exception set by the density outlives the call
            // in which it was set.
            on_thread: &|work| Python::attach(|py| py.detach(work)),
        }
        .execute(&inner)
    });
    let chains = output.chains.into_iter().zip(output.n_gradients).map(|(trace, n_gradients)| {
        let chain = trace_to_python(py, trace)?;
        chain.set_item("n_gradients", n_gradients)?;
        Ok(chain)
    });
    Ok((chains.collect::<PyResult<_>>()?, output.error.map(error_to_python)))
}
