//! Densities that work on memory of a device: functions of Python that get points through DLPack.

use std::sync::{Arc, Mutex, PoisonError};

use numpy::{PyArrayDyn, PyArrayMethods, PyReadonlyArray2, PyUntypedArrayMethods, ToPyArray};
use nutpie_core::density::Density;
use nutpie_core::device::{Device, Memory, Phase, RawBuffer, Sharing};
use nutpie_core::error::{Error, Result};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::batch::{Doubles, Evaluated, check_shape, doubles, fatal, pair};
use crate::density::is_recoverable;
use crate::device_array::{DeviceArray, Pool};
use crate::dlpack::Borrowed;
use crate::own::Own;
use crate::run::error_to_python;

/// A function of points on a device, and what it wants.
struct Call {
    function: Py<PyAny>,
    /// Number of rows of every call, if it is always the same.
    width: Option<usize>,
    dim: usize,
    /// "cpu", "cuda", or one of several such as "cuda:1".
    device: String,
}

impl Call {
    /// Whether this is memory that the function works on.
    fn works_on(&self, memory: Memory) -> bool {
        match (self.device.split_once(':'), memory) {
            (None, Memory::Host) => self.device == "cpu",
            (None, Memory::Cuda(_)) => self.device == "cuda",
            (Some(("cuda", number)), Memory::Cuda(index)) => number.parse() == Ok(index),
            _ => false,
        }
    }
}

/// Numbers that a function returned.
enum Numbers<'py> {
    /// On the device.
    There(Borrowed<'py>),
    /// On the host.
    Here(Doubles<'py>),
}

impl<'py> Numbers<'py> {
    fn new(value: &Bound<'py, PyAny>, what: &str, shape: &[usize], there: &RawBuffer) -> PyResult<Self> {
        // The quickest way to what NumPy has.
        if value.cast::<PyArrayDyn<f64>>().is_err()
            && let Some(found) = Borrowed::new(value, there.memory, there.stream)?
        {
            check_shape(found.shape(), what, shape)?;
            return Ok(Numbers::There(found));
        }
        Ok(Numbers::Here(doubles(value, what, shape)?))
    }
}

/// The arrays of a block of chains.
struct There<'a> {
    dev: &'a mut dyn Device,
    phase: &'a Phase,
    dim: usize,
}

impl There<'_> {
    fn sharing(&mut self) -> Result<&mut dyn Sharing> {
        self.dev.sharing().ok_or_else(|| Error::Device("this device shares no memory".into()))
    }

    /// Put gradients and log densities of the first rows of a call where they belong. When this returns all is read.
    fn put(
        &mut self,
        py: Python<'_>,
        (logp, grad): (&Numbers<'_>, &Numbers<'_>),
        rows: &[usize],
        out: &mut [f64],
    ) -> Result<()> {
        let g = self.phase.g;
        match grad {
            Numbers::There(grad) => self.scatter(&grad.raw(), rows)?,
            Numbers::Here(grad) => {
                let grad = grad.try_readonly().map_err(fatal)?;
                let grad = grad.as_slice().map_err(fatal)?;
                self.dev.write_rows(g, &mut rows.iter().copied().zip(grad.chunks_exact(self.dim)))?;
            }
        }
        match (logp, grad) {
            (Numbers::There(logp), _) => {
                let raw = logp.raw();
                let mut all = vec![0.0; raw.rows * raw.dim];
                self.fetch(py, &raw, &mut all)?;
                out.copy_from_slice(&all[..rows.len()]);
            }
            (Numbers::Here(logp), _) => {
                out.copy_from_slice(
                    &logp.try_readonly().map_err(fatal)?.as_slice().map_err(fatal)?[..rows.len()],
                );
                if let Numbers::There(grad) = grad {
                    // Reading waits until the gradients, which go back to their owner then, have been copied.
                    self.fetch(py, &RawBuffer { rows: 1, dim: 1, ..grad.raw() }, &mut [0.0])?;
                }
            }
        }
        Ok(())
    }

    #[allow(unsafe_code)]
    fn scatter(&mut self, raw: &RawBuffer, rows: &[usize]) -> Result<()> {
        let g = self.phase.g;
        // SAFETY: `Borrowed` has asked for an array that is finished for the stream, and lives until `put` has read it.
        unsafe { self.sharing()?.scatter(raw, g, rows) }
    }

    #[allow(unsafe_code)]
    fn fetch(&mut self, py: Python<'_>, raw: &RawBuffer, out: &mut [f64]) -> Result<()> {
        let sharing = self.sharing()?;
        // SAFETY: as above.
        py.detach(|| unsafe { sharing.fetch(raw, out) })
    }
}

/// The density of a block of chains.
pub struct SharedDensity {
    call: Arc<Call>,
    pool: Pool,
    /// For points that are elsewhere.
    own: Option<Box<Own<SharedDensity>>>,
}

impl SharedDensity {
    fn new(call: Arc<Call>) -> Self {
        SharedDensity { call, pool: Pool::default(), own: None }
    }

    /// Evaluate a few rows in one call. If that raises an exception after which other points may work, each is tried alone.
    fn piece(
        &mut self,
        py: Python<'_>,
        there: &mut There<'_>,
        rows: &[usize],
        logp: &mut [f64],
    ) -> Result<()> {
        let points = self.points(there, rows)?;
        let memory = RawBuffer { rows: 0, ..there.dev.raw(there.phase.x).ok_or_else(nowhere)? };
        match self.ask(py, points, &memory) {
            Ok((found, grad)) => there.put(py, (&found, &grad), rows, logp),
            Err(error) if !is_recoverable(py, &error) => Err(fatal(error)),
            Err(_) if rows.len() == 1 => {
                logp.fill(f64::NAN);
                Ok(())
            }
            Err(_) => {
                let single = rows.chunks(1).zip(logp.chunks_mut(1));
                single.into_iter().try_for_each(|(row, logp)| self.piece(py, there, row, logp))
            }
        }
    }

    /// The points of a call; the first is repeated where there are fewer than it wants.
    fn points(&mut self, there: &mut There<'_>, rows: &[usize]) -> Result<DeviceArray> {
        let (height, dim, x) = (self.call.width.unwrap_or(rows.len()), self.call.dim, there.phase.x);
        let mut all = rows.to_vec();
        all.resize(height, rows.first().copied().unwrap_or(0));
        let sharing = std::cell::RefCell::new(there.sharing()?);
        self.pool.points(
            height,
            || sharing.borrow_mut().share(height, dim),
            |memory| sharing.borrow_mut().gather(x, &all, memory),
        )
    }

    fn ask<'py>(
        &self,
        py: Python<'py>,
        points: DeviceArray,
        there: &RawBuffer,
    ) -> PyResult<(Numbers<'py>, Numbers<'py>)> {
        let height = points.height();
        let result = self.call.function.bind(py).call1((points,))?;
        let [logp, grad] = pair(&result)?;
        let logp = Numbers::new(&logp, "logp", &[height], there)?;
        Ok((logp, Numbers::new(&grad, "grad", &[height, self.call.dim], there)?))
    }

    /// Evaluate points that are not in memory that the function works on.
    fn elsewhere(
        &mut self,
        dev: &mut dyn Device,
        phase: &Phase,
        rows: &[usize],
        logp: &mut [f64],
    ) -> Result<()> {
        let dim = self.call.dim;
        let mut x = vec![0.0; rows.len() * dim];
        let rows = rows.iter().copied();
        dev.read_rows(phase.x, &mut rows.clone().zip(x.chunks_exact_mut(dim)))?;
        let mut grad = vec![0.0; x.len()];
        self.on_host(&x, &mut logp[..rows.len()], &mut grad)?;
        dev.write_rows(phase.g, &mut rows.zip(grad.chunks_exact(dim)))
    }

    /// Evaluate points of the host, on a device of its own.
    fn on_host(&mut self, x: &[f64], logp: &mut [f64], grad: &mut [f64]) -> Result<()> {
        let own = match &mut self.own {
            Some(own) => own,
            none => {
                let density = SharedDensity::new(self.call.clone());
                none.insert(Box::new(Own::open(&self.call.device, density)?))
            }
        };
        own.evaluate(x, logp, grad)
    }
}

fn nowhere() -> Error {
    Error::Device("this device shares no memory".into())
}

impl Density for SharedDensity {
    fn dim(&self) -> usize {
        self.call.dim
    }

    fn logp_grad(
        &mut self,
        dev: &mut dyn Device,
        phase: &Phase,
        rows: &[usize],
        logp: &mut [f64],
    ) -> Result<()> {
        if !dev.sharing().is_some_and(|there| self.call.works_on(there.memory())) {
            return self.elsewhere(dev, phase, rows, logp);
        }
        let most = self.call.width.unwrap_or(rows.len()).max(1);
        let mut there = There { dev, phase, dim: self.call.dim };
        Python::attach(|py| {
            let pieces = rows.chunks(most).zip(logp[..rows.len()].chunks_mut(most));
            pieces.into_iter().try_for_each(|(rows, logp)| self.piece(py, &mut there, rows, logp))
        })
    }
}

/// A Python function of points on a device, which can also be called with points on the host.
#[pyclass(frozen, module = "nutpie._lib")]
pub struct DeviceFunction {
    call: Arc<Call>,
    own: Mutex<SharedDensity>,
}

impl DeviceFunction {
    /// For the chains of a block.
    pub fn density(&self) -> SharedDensity {
        SharedDensity::new(self.call.clone())
    }
}

#[pymethods]
impl DeviceFunction {
    #[new]
    fn new(function: Py<PyAny>, dim: usize, width: Option<usize>, device: String) -> PyResult<Self> {
        if dim == 0 || width == Some(0) {
            return Err(PyValueError::new_err("dim and width must be at least 1"));
        }
        if !["cpu", "cuda"].contains(&device.split(':').next().unwrap_or_default()) {
            return Err(PyValueError::new_err(format!("device={device:?} shares no memory")));
        }
        let call = Arc::new(Call { function, width, dim, device });
        Ok(DeviceFunction { own: Mutex::new(SharedDensity::new(call.clone())), call })
    }

    /// Log densities and gradients at the points that are the rows of `x`.
    fn __call__<'py>(&self, py: Python<'py>, x: PyReadonlyArray2<'py, f64>) -> PyResult<Evaluated<'py>> {
        let &[n, dim] = x.shape() else { return Err(PyValueError::new_err("x must have two dimensions")) };
        if dim != self.call.dim {
            return Err(PyValueError::new_err(format!("points of {dim} numbers, not {}", self.call.dim)));
        }
        let x = x.as_slice()?;
        let (mut logp, mut grad) = (vec![f64::NAN; n], vec![f64::NAN; n * dim]);
        // Who waits for the lock must not keep that of the interpreter, which the function needs.
        py.detach(|| {
            let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
            own.on_host(x, &mut logp, &mut grad)
        })
        .map_err(error_to_python)?;
        Ok((logp.to_pyarray(py), grad.to_pyarray(py).reshape([n, dim])?))
    }
}
