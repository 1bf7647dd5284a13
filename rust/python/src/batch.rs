//! Densities that evaluate many points in one call of a Python function.

use std::sync::Arc;

use numpy::{
    PyArray1, PyArray2, PyArrayDyn, PyArrayMethods, PyReadonlyArray2, PyUntypedArrayMethods, ToPyArray,
};
use nutpie_core::density::Density;
use nutpie_core::device::{Device, Phase};
use nutpie_core::error::{Error, Result};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple};

use crate::density::{is_recoverable, seconds_of_calls};
use crate::run::error_to_python;

/// A Python function of points, one in each row of an array, that returns their log densities and gradients.
pub struct BatchFunction {
    function: Py<PyAny>,
    /// Number of rows of every call, if it is always the same.
    width: Option<usize>,
    dim: usize,
}

/// Where the points of a call are, and where its results go.
trait Rows {
    /// Copy points, one after the other, from some row on.
    fn read(&mut self, first: usize, x: &mut [f64]) -> Result<()>;
    /// Copy log densities to rows from some row on, with gradients one after the other where there are any.
    fn write(&mut self, first: usize, logp: &[f64], grad: Option<&[f64]>) -> Result<()>;
}

impl BatchFunction {
    /// From the function and the number of rows that it wants.
    pub fn new(function: Py<PyAny>, width: Option<usize>, dim: usize) -> PyResult<Self> {
        if width == Some(0) {
            return Err(PyValueError::new_err("width must be at least 1"));
        }
        Ok(BatchFunction { function, width, dim })
    }

    /// Evaluate `n` rows.
    fn evaluate(&self, py: Python<'_>, n: usize, rows: &mut dyn Rows) -> Result<()> {
        let most = self.width.unwrap_or(n).max(1);
        (0..n).step_by(most).try_for_each(|first| self.piece(py, first, most.min(n - first), rows))
    }

    /// Evaluate a few rows in one call. If that raises an exception after which other points may work, each is tried alone.
    fn piece(&self, py: Python<'_>, first: usize, n: usize, rows: &mut dyn Rows) -> Result<()> {
        let x = self.points(py, first, n, rows)?;
        match self.call(py, x) {
            Ok((logp, grad)) => self.write(first, n, &logp, &grad, rows),
            Err(error) if !is_recoverable(py, &error) => Err(fatal(error)),
            Err(_) if n == 1 => rows.write(first, &[f64::NAN], None),
            Err(_) => (first..first + n).try_for_each(|row| self.piece(py, row, 1, rows)),
        }
    }

    /// The points of a call; the first is repeated where there are fewer than it wants.
    fn points<'py>(
        &self,
        py: Python<'py>,
        first: usize,
        n: usize,
        rows: &mut dyn Rows,
    ) -> Result<Bound<'py, PyArray2<f64>>> {
        let (dim, height) = (self.dim, self.width.unwrap_or(n));
        // A new one for each call: the function may keep it.
        let array = PyArray2::zeros(py, [height, dim], false);
        {
            let mut array = array.try_readwrite().map_err(fatal)?;
            let x = array.as_slice_mut().map_err(fatal)?;
            rows.read(first, &mut x[..n * dim])?;
            for row in n..height {
                x.copy_within(..dim, row * dim);
            }
        }
        Ok(array)
    }

    fn call<'py>(
        &self,
        py: Python<'py>,
        x: Bound<'py, PyArray2<f64>>,
    ) -> PyResult<(Doubles<'py>, Doubles<'py>)> {
        let height = x.shape()[0];
        let result = self.function.bind(py).call1((x,))?;
        let [logp, grad] = pair(&result)?;
        let logp = doubles(&logp, "logp", &[height])?;
        Ok((logp, doubles(&grad, "grad", &[height, self.dim])?))
    }

    fn write(
        &self,
        first: usize,
        n: usize,
        logp: &Doubles<'_>,
        grad: &Doubles<'_>,
        rows: &mut dyn Rows,
    ) -> Result<()> {
        let (logp, grad) = (logp.try_readonly().map_err(fatal)?, grad.try_readonly().map_err(fatal)?);
        let (logp, grad) = (logp.as_slice().map_err(fatal)?, grad.as_slice().map_err(fatal)?);
        rows.write(first, &logp[..n], Some(&grad[..n * self.dim]))
    }
}

/// What a log density returned: log densities and gradients.
pub fn pair<'py>(result: &Bound<'py, PyAny>) -> PyResult<[Bound<'py, PyAny>; 2]> {
    let pair = match result.cast::<PyList>() {
        Ok(list) => Some(list.to_tuple()),
        Err(_) => result.cast::<PyTuple>().ok().cloned(),
    };
    let Some(pair) = pair.filter(|pair| pair.len() == 2) else {
        return Err(PyTypeError::new_err(format!(
            "the log density must return a pair (logp, grad), not {}",
            result.get_type().name()?
        )));
    };
    Ok([pair.get_item(0)?, pair.get_item(1)?])
}

/// An array of NumPy.
pub type Doubles<'py> = Bound<'py, PyArrayDyn<f64>>;

/// A result as a C-contiguous array of doubles.
pub fn doubles<'py>(value: &Bound<'py, PyAny>, what: &str, shape: &[usize]) -> PyResult<Doubles<'py>> {
    let py = value.py();
    let array = match value.cast::<PyArrayDyn<f64>>() {
        Ok(array) if array.is_c_contiguous() => array.clone(),
        _ => {
            let options = PyDict::new(py);
            options.set_item(intern!(py, "dtype"), intern!(py, "float64"))?;
            options.set_item(intern!(py, "order"), intern!(py, "C"))?;
            let numpy = py.import(intern!(py, "numpy"))?;
            numpy.call_method(intern!(py, "asarray"), (value,), Some(&options))?.cast_into()?
        }
    };
    check_shape(array.shape(), what, shape)?;
    Ok(array)
}

/// Check the shape of a result.
pub fn check_shape(found: &[usize], what: &str, shape: &[usize]) -> PyResult<()> {
    if found == shape {
        return Ok(());
    }
    Python::attach(|py| {
        let python = |shape: &[usize]| PyTuple::new(py, shape).map(|tuple| tuple.to_string());
        Err(PyValueError::new_err(format!(
            "the log density returned {what} of shape {}, {} is needed",
            python(found)?,
            python(shape)?
        )))
    })
}

/// An error of Python that ends the run.
pub fn fatal(error: impl Into<PyErr>) -> Error {
    Error::Density(Box::new(error.into()))
}

/// Rows of a device's arrays.
struct OnDevice<'a> {
    dim: usize,
    dev: &'a mut dyn Device,
    phase: &'a Phase,
    rows: &'a [usize],
    logp: &'a mut [f64],
}

impl Rows for OnDevice<'_> {
    fn read(&mut self, first: usize, x: &mut [f64]) -> Result<()> {
        let rows = self.rows[first..].iter().copied();
        self.dev.read_rows(self.phase.x, &mut rows.zip(x.chunks_mut(self.dim.max(1))))
    }

    fn write(&mut self, first: usize, logp: &[f64], grad: Option<&[f64]>) -> Result<()> {
        self.logp[first..first + logp.len()].copy_from_slice(logp);
        let Some(grad) = grad else { return Ok(()) };
        let rows = self.rows[first..].iter().copied();
        self.dev.write_rows(self.phase.g, &mut rows.zip(grad.chunks(self.dim.max(1))))
    }
}

/// The density of a block of chains.
pub struct BatchDensity(pub Arc<BatchFunction>);

impl Density for BatchDensity {
    fn dim(&self) -> usize {
        self.0.dim
    }

    fn logp_grad(
        &mut self,
        dev: &mut dyn Device,
        phase: &Phase,
        rows: &[usize],
        logp: &mut [f64],
    ) -> Result<()> {
        let mut there = OnDevice { dim: self.0.dim, dev, phase, rows, logp };
        Python::attach(|py| self.0.evaluate(py, rows.len(), &mut there))
    }
}

/// Rows on the host.
struct OnHost<'a> {
    dim: usize,
    x: &'a [f64],
    logp: Vec<f64>,
    grad: Vec<f64>,
}

impl<'a> OnHost<'a> {
    fn new(dim: usize, x: &'a [f64], n: usize) -> Self {
        OnHost { dim, x, logp: vec![f64::NAN; n], grad: vec![f64::NAN; n * dim] }
    }
}

impl Rows for OnHost<'_> {
    fn read(&mut self, first: usize, x: &mut [f64]) -> Result<()> {
        x.copy_from_slice(&self.x[first * self.dim..][..x.len()]);
        Ok(())
    }

    fn write(&mut self, first: usize, logp: &[f64], grad: Option<&[f64]>) -> Result<()> {
        self.logp[first..first + logp.len()].copy_from_slice(logp);
        if let Some(grad) = grad {
            self.grad[first * self.dim..][..grad.len()].copy_from_slice(grad);
        }
        Ok(())
    }
}

/// Log densities and gradients.
pub type Evaluated<'py> = (Bound<'py, PyArray1<f64>>, Bound<'py, PyArray2<f64>>);

/// Log densities and gradients at the points that are the rows of `x`; NaN where there is a recoverable error.
#[pyfunction]
pub fn evaluate_batch<'py>(
    py: Python<'py>,
    function: Py<PyAny>,
    width: Option<usize>,
    x: PyReadonlyArray2<'py, f64>,
) -> PyResult<Evaluated<'py>> {
    let &[n, dim] = x.shape() else { return Err(PyValueError::new_err("x must have two dimensions")) };
    let mut rows = OnHost::new(dim, x.as_slice()?, n);
    BatchFunction::new(function, width, dim)?.evaluate(py, n, &mut rows).map_err(error_to_python)?;
    Ok((rows.logp.to_pyarray(py), rows.grad.to_pyarray(py).reshape([n, dim])?))
}

/// Seconds of each of `num_evals` evaluations of all rows of `x`, on each of `cores` threads at once: a tuple for each
/// thread.
#[pyfunction]
pub fn benchmark_batch<'py>(
    py: Python<'py>,
    function: Py<PyAny>,
    width: Option<usize>,
    x: PyReadonlyArray2<'py, f64>,
    num_evals: usize,
    cores: usize,
) -> PyResult<Vec<Bound<'py, PyTuple>>> {
    let &[n, dim] = x.shape() else { return Err(PyValueError::new_err("x must have two dimensions")) };
    let x = x.as_slice()?.to_vec();
    let function = BatchFunction::new(function, width, dim)?;
    seconds_of_calls(py, num_evals, cores, || {
        let (function, mut rows) = (&function, OnHost::new(dim, &x, n));
        move || Python::attach(|py| function.evaluate(py, n, &mut rows)).map_err(error_to_python)
    })
}
