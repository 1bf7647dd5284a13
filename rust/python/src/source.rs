//! Densities in source that a device compiles and evaluates.

use std::sync::{Mutex, PoisonError};

use numpy::{PyArrayMethods, PyReadonlyArray1, PyReadonlyArray2, PyUntypedArrayMethods, ToPyArray};
use nutpie_core::device::gpu::SourceDensity;
use nutpie_core::error::Result;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::batch::Evaluated;
use crate::own::Own;
use crate::run::error_to_python;

/// A density in source, which can also be called with points on the host: then a device of its own evaluates them.
#[pyclass(frozen, module = "nutpie._lib")]
pub struct SourceFunction {
    source: String,
    dim: usize,
    data: Vec<f64>,
    device: String,
    own: Mutex<Option<Own<SourceDensity>>>,
}

impl SourceFunction {
    /// For the chains of a block.
    pub fn density(&self) -> SourceDensity {
        SourceDensity::new(&self.source, self.dim, self.data.clone())
    }

    fn evaluate(&self, x: &[f64], logp: &mut [f64], grad: &mut [f64]) -> Result<()> {
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        let own = match &mut *own {
            Some(own) => own,
            none => none.insert(Own::open(&self.device, self.density())?),
        };
        own.evaluate(x, logp, grad)
    }
}

#[pymethods]
impl SourceFunction {
    #[new]
    fn new(source: String, dim: usize, data: PyReadonlyArray1<'_, f64>, device: String) -> PyResult<Self> {
        if dim == 0 {
            return Err(PyValueError::new_err("a density needs a parameter"));
        }
        Ok(SourceFunction { source, dim, data: data.as_slice()?.to_vec(), device, own: Mutex::new(None) })
    }

    /// Log densities and gradients at the points that are the rows of `x`.
    fn __call__<'py>(&self, py: Python<'py>, x: PyReadonlyArray2<'py, f64>) -> PyResult<Evaluated<'py>> {
        let &[n, dim] = x.shape() else { return Err(PyValueError::new_err("x must have two dimensions")) };
        if dim != self.dim {
            return Err(PyValueError::new_err(format!("points of {dim} numbers, not {}", self.dim)));
        }
        let x = x.as_slice()?;
        let (mut logp, mut grad) = (vec![f64::NAN; n], vec![f64::NAN; n * dim]);
        py.detach(|| self.evaluate(x, &mut logp, &mut grad)).map_err(error_to_python)?;
        Ok((logp.to_pyarray(py), grad.to_pyarray(py).reshape([n, dim])?))
    }
}
