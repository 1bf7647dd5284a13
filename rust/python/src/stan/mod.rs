//! Stan models: libraries that have the C interface of BridgeStan.
#![allow(unsafe_code)]

mod api;
mod messages;
mod model;

use std::ffi::{c_char, c_void};
use std::path::PathBuf;
use std::sync::Arc;

use numpy::{PyArray1, PyArray2, PyArrayMethods, PyReadonlyArray1, PyReadonlyArray2, PyUntypedArrayMethods};
use nutpie_core::density::{LogpFunction, code};
use pyo3::exceptions::{PyOSError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;

use api::Api;
use messages::Messages;
use model::{Model, Refusal, c_string};

/// What a print statement of a program writes goes where Python's own output goes.
extern "C" fn print(text: *const c_char, length: usize) {
    // SAFETY: the library gives a text and its length.
    let bytes = unsafe { std::slice::from_raw_parts(text.cast::<u8>(), length) };
    let text = String::from_utf8_lossy(bytes);
    // Not after the end of the interpreter. A closed stream is no reason to end a run.
    let _ = Python::try_attach(|py| {
        py.import("sys").and_then(|sys| sys.getattr("stdout")?.call_method1("write", (text,)))?;
        PyResult::Ok(())
    });
}

fn to_python(refusal: Refusal) -> PyErr {
    if refusal.recoverable {
        PyValueError::new_err(refusal.message)
    } else {
        PyRuntimeError::new_err(refusal.message)
    }
}

/// A library; it stays loaded until the process ends.
#[pyclass(frozen, module = "nutpie._lib")]
pub struct StanLibrary {
    api: &'static Api,
}

#[pymethods]
impl StanLibrary {
    #[new]
    fn new(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        let api = py.detach(|| Api::load(path.as_os_str())).map_err(PyOSError::new_err)?;
        Ok(StanLibrary { api })
    }

    /// Version of the interface.
    #[getter]
    fn version(&self) -> (i32, i32, i32) {
        self.api.version
    }

    /// Whether errors after which other points may work are told from others.
    #[getter]
    fn tells_rejections(&self) -> bool {
        self.api.codes
    }

    /// A model from data as JSON, and a seed for the random numbers of the block `transformed data`.
    fn model(&self, py: Python<'_>, data: &str, seed: u32) -> PyResult<StanModel> {
        let data = c_string(data).map_err(to_python)?;
        let model = py.detach(|| Model::new(self.api, &data, seed)).map_err(to_python)?;
        Ok(StanModel { model: Arc::new(model) })
    }
}

/// Values at each point, and messages with how often they came.
type Expanded<'py> = (Bound<'py, PyArray2<f64>>, Vec<(String, u64)>);

/// A program with its data.
#[pyclass(frozen, module = "nutpie._lib")]
pub struct StanModel {
    model: Arc<Model>,
}

#[pymethods]
impl StanModel {
    /// Number of unconstrained parameters.
    #[getter]
    fn dim(&self) -> usize {
        self.model.dim
    }

    /// Name of the program.
    #[getter]
    fn name(&self) -> String {
        self.model.name()
    }

    /// Version of Stan and flags.
    #[getter]
    fn info(&self) -> &str {
        &self.model.info
    }

    /// Whether several threads may use the model at once.
    #[getter]
    fn threads(&self) -> bool {
        self.model.threads
    }

    /// Names of the elements of the variables, separated by commas.
    fn names(&self, transformed: bool, generated: bool) -> String {
        self.model.names(transformed, generated)
    }

    /// Names of the unconstrained parameters, separated by commas.
    fn unconstrained_names(&self) -> String {
        self.model.unconstrained_names()
    }

    /// A line for each variable with block, name and sizes, if the library tells.
    fn shapes(&self) -> Option<String> {
        self.model.shapes()
    }

    /// The log density as a C function, with messages of its own.
    fn density(&self) -> StanDensity {
        StanDensity {
            evaluator: Box::new(Evaluator { model: self.model.clone(), messages: Messages::default() }),
        }
    }

    /// Values at unconstrained points (rows), and messages of the rows that failed with how many they are.
    ///
    /// A seed for each row is needed for generated quantities. What cannot be computed is NaN.
    fn constrain<'py>(
        &self,
        py: Python<'py>,
        points: PyReadonlyArray2<'py, f64>,
        transformed: bool,
        seeds: Option<PyReadonlyArray1<'py, u32>>,
        threads: usize,
    ) -> PyResult<Expanded<'py>> {
        let rows = points.shape()[0];
        if points.shape()[1] != self.model.dim {
            return Err(PyValueError::new_err("points of the wrong length"));
        }
        let seeds = seeds.as_ref().map(PyReadonlyArray1::as_slice).transpose()?;
        if seeds.is_some_and(|seeds| seeds.len() != rows) {
            return Err(PyValueError::new_err("a seed for each point is needed"));
        }
        let width = self.model.size(transformed, seeds.is_some());
        let values = PyArray2::zeros(py, [rows, width], false);
        let job = Job { model: &self.model, transformed, points: points.as_slice()?, seeds, width };
        let messages = Messages::default();
        {
            let mut values = values.try_readwrite()?;
            let values = values.as_slice_mut()?;
            py.detach(|| job.run(values, rows, threads, &messages));
        }
        Ok((values, messages.list()))
    }

    /// The unconstrained point with given values of all parameters.
    fn unconstrain<'py>(
        &self,
        py: Python<'py>,
        values: PyReadonlyArray1<'py, f64>,
    ) -> PyResult<Bound<'py, PyArray1<f64>>> {
        let values = values.as_slice()?;
        if values.len() != self.model.size(false, false) {
            return Err(PyValueError::new_err("values of the wrong length"));
        }
        let mut x = vec![0.0; self.model.dim];
        py.detach(|| self.model.unconstrain(values, &mut x)).map_err(to_python)?;
        Ok(PyArray1::from_vec(py, x))
    }
}

/// Points whose values are wanted.
struct Job<'a> {
    model: &'a Model,
    transformed: bool,
    points: &'a [f64],
    seeds: Option<&'a [u32]>,
    width: usize,
}

impl Job<'_> {
    /// Compute all rows, in several threads where that is allowed.
    fn run(&self, values: &mut [f64], rows: usize, threads: usize, messages: &Messages) {
        if rows == 0 || self.width == 0 {
            return;
        }
        let threads = if self.model.threads { threads.clamp(1, rows) } else { 1 };
        let per_thread = rows.div_ceil(threads);
        std::thread::scope(|scope| {
            for (part, values) in values.chunks_mut(per_thread * self.width).enumerate() {
                let mut work = move || {
                    for (row, values) in values.chunks_mut(self.width).enumerate() {
                        self.row(part * per_thread + row, values, messages);
                    }
                };
                if threads == 1 {
                    work();
                } else {
                    scope.spawn(work);
                }
            }
        });
    }

    /// One row: what comes before the block that fails is still computed.
    fn row(&self, row: usize, values: &mut [f64], messages: &Messages) {
        let x = &self.points[row * self.model.dim..(row + 1) * self.model.dim];
        let seed = self.seeds.map(|seeds| seeds[row]);
        let mut attempts = vec![(self.transformed, seed)];
        if seed.is_some() {
            attempts.push((self.transformed, None));
        }
        if self.transformed {
            attempts.push((false, None));
        }
        for (attempt, (transformed, seed)) in attempts.into_iter().enumerate() {
            match self.model.constrain(transformed, seed, x, values) {
                Ok(()) => return,
                Err(refusal) => {
                    values.fill(f64::NAN);
                    if attempt == 0 {
                        messages.add(refusal.message);
                    }
                }
            }
        }
    }
}

/// What the C function of a density works with.
struct Evaluator {
    model: Arc<Model>,
    messages: Messages,
}

/// The log density of a Stan model behind the C ABI of `nutpie.h`.
#[pyclass(frozen, module = "nutpie._lib")]
pub struct StanDensity {
    evaluator: Box<Evaluator>,
}

#[pymethods]
impl StanDensity {
    /// Address of the function.
    #[getter]
    fn address(&self) -> usize {
        logp as LogpFunction as usize
    }

    /// Its data, which live as long as this object.
    #[getter]
    fn user_data(&self) -> usize {
        std::ptr::from_ref(&*self.evaluator) as usize
    }

    /// Messages of rejections, and how often they came.
    fn messages(&self) -> Vec<(String, u64)> {
        self.evaluator.messages.list()
    }
}

/// The function of the C ABI.
unsafe extern "C" fn logp(
    dim: u64,
    x: *const f64,
    grad: *mut f64,
    value: *mut f64,
    user_data: *mut c_void,
) -> i64 {
    // SAFETY: the pointer is that of `StanDensity::user_data`, whose owner keeps it alive.
    let evaluator = unsafe { &*user_data.cast::<Evaluator>() };
    let dim = dim as usize;
    if dim != evaluator.model.dim {
        return code::BAD_DIMENSION;
    }
    // SAFETY: the contract of `nutpie.h`.
    let (x, grad) =
        unsafe { (std::slice::from_raw_parts(x, dim), std::slice::from_raw_parts_mut(grad, dim)) };
    match evaluator.model.logp_grad(x, grad) {
        Ok(logp) => {
            // SAFETY: as above.
            unsafe { *value = logp };
            code::OK
        }
        Err(refusal) if refusal.recoverable => {
            evaluator.messages.add(refusal.message);
            code::RECOVERABLE
        }
        Err(refusal) => Python::attach(|py| {
            to_python(refusal).restore(py);
            code::PYTHON_EXCEPTION
        }),
    }
}
