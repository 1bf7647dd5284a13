//! Densities behind the C ABI, with Python exceptions as errors.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::time::Instant;

use numpy::{PyArray1, PyArrayMethods, PyReadonlyArray1};
use nutpie_core::density::{CDensity, CodeError, Failure, HostDensity, LogpFunction, code};
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

/// A C density that may leave a Python exception behind in its thread's state.
#[derive(Clone, Copy)]
pub struct PyDensity {
    inner: CDensity,
}

impl PyDensity {
    /// From the addresses of a function and of its data.
    pub fn new(address: usize, user_data: usize, dim: usize) -> PyResult<Self> {
        if address == 0 {
            return Err(PyValueError::new_err("the address of the log density is null"));
        }
        // SAFETY: the caller of the Python function vouches for the address; the front ends keep what is behind it alive.
        let function: LogpFunction = unsafe { std::mem::transmute(address) };
        // SAFETY: as above.
        let inner = unsafe { CDensity::new(function, user_data as *mut c_void, dim) };
        Ok(PyDensity { inner })
    }

    /// Call the function once on a thread that holds the interpreter.
    fn call(&self, py: Python<'_>, x: &[f64], grad: &mut [f64]) -> PyResult<f64> {
        let result = py.detach(|| self.inner.call(x, grad));
        match result {
            (code::OK, logp) => Ok(logp),
            (code, _) if code > 0 => Ok(f64::NAN),
            (code, _) => match classify(code) {
                Failure::Recoverable => Ok(f64::NAN),
                Failure::Fatal(error) => Err(to_python(error)),
            },
        }
    }
}

impl HostDensity for PyDensity {
    fn dim(&self) -> usize {
        self.inner.dim()
    }

    fn logp_grad(&mut self, x: &[f64], grad: &mut [f64]) -> Result<f64, Failure> {
        match self.inner.call(x, grad) {
            (code::OK, logp) => Ok(logp),
            (code, _) if code > 0 => Err(Failure::Recoverable),
            (code, _) => Err(classify(code)),
        }
    }
}

/// What a negative return code means.
fn classify(code: i64) -> Failure {
    if code != code::PYTHON_EXCEPTION {
        return Failure::Fatal(Box::new(CodeError(code)));
    }
    Python::attach(|py| match PyErr::take(py) {
        Some(error) if is_recoverable(py, &error) => Failure::Recoverable,
        Some(error) => Failure::Fatal(Box::new(error)),
        None => Failure::Fatal("the log density reported a Python exception, but none is set".into()),
    })
}

/// Arithmetic that has no result at a point says nothing against the model: the step is rejected.
pub fn is_recoverable(py: Python<'_>, error: &PyErr) -> bool {
    if let Ok(flag) = error.value(py).getattr("is_recoverable") {
        return flag.is_truthy().unwrap_or(false);
    }
    let arithmetic = py.import("builtins").and_then(|m| m.getattr("ArithmeticError"));
    let linear = py.import("numpy.linalg").and_then(|m| m.getattr("LinAlgError"));
    [arithmetic, linear].into_iter().flatten().any(|class| error.matches(py, class).unwrap_or(false))
}

/// The Python exception for an error of the density.
pub fn to_python(error: Box<dyn std::error::Error + Send + Sync>) -> PyErr {
    match error.downcast::<PyErr>() {
        Ok(error) => *error,
        Err(error) => PyRuntimeError::new_err(error.to_string()),
    }
}

/// Log density and gradient at a point; NaN where the density has a recoverable error.
#[pyfunction]
pub fn evaluate<'py>(
    py: Python<'py>,
    address: usize,
    user_data: usize,
    x: PyReadonlyArray1<'py, f64>,
) -> PyResult<(f64, Bound<'py, PyArray1<f64>>)> {
    let x = x.as_slice()?;
    let density = PyDensity::new(address, user_data, x.len())?;
    let grad = PyArray1::zeros(py, x.len(), false);
    let logp = {
        let mut grad = grad.try_readwrite()?;
        density.call(py, x, grad.as_slice_mut()?)?
    };
    Ok((logp, grad))
}

/// Seconds of each of `num_evals` evaluations at a point, on each of `cores` threads at once: a tuple for each thread.
#[pyfunction]
pub fn benchmark_logp<'py>(
    py: Python<'py>,
    address: usize,
    user_data: usize,
    x: PyReadonlyArray1<'py, f64>,
    num_evals: usize,
    cores: usize,
) -> PyResult<Vec<Bound<'py, PyTuple>>> {
    let x = x.as_slice()?.to_vec();
    let density = PyDensity::new(address, user_data, x.len())?;
    seconds_of_calls(py, num_evals, cores, || {
        let (mut density, x, mut grad) = (density, &x, vec![0.0; x.len()]);
        move || match density.logp_grad(x, &mut grad) {
            Ok(_) | Err(Failure::Recoverable) => Ok(()),
            Err(Failure::Fatal(error)) => Err(to_python(error)),
        }
    })
}

/// Seconds of each of `num_evals` calls on each of `cores` threads at once. `prepare` makes what a thread calls.
pub fn seconds_of_calls<'py, F: FnMut() -> PyResult<()>>(
    py: Python<'py>,
    num_evals: usize,
    cores: usize,
    prepare: impl Fn() -> F + Sync,
) -> PyResult<Vec<Bound<'py, PyTuple>>> {
    let one_thread = || -> PyResult<Vec<f64>> {
        let mut call = prepare();
        (0..num_evals)
            .map(|_| {
                let start = Instant::now();
                call().map(|()| start.elapsed().as_secs_f64())
            })
            .collect()
    };
    // Attached for its whole life, so that an exception set by the density outlives the call in which it was set.
    let attached = || Python::attach(|py| py.detach(one_thread));
    let results: Vec<_> = py.detach(|| {
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..cores.max(1)).map(|_| scope.spawn(attached)).collect();
            threads.into_iter().map(|t| t.join()).collect()
        })
    });
    let failed = |_| PyRuntimeError::new_err("a benchmark thread failed");
    results.into_iter().map(|result| PyTuple::new(py, result.map_err(failed)??)).collect()
}
