//! Sparse Cholesky factors of many matrices of one pattern, for Laplace approximations.

use std::sync::Arc;

use numpy::{PyArray1, PyArray2, PyArrayMethods, PyReadonlyArray1, PyReadonlyArray2, PyUntypedArrayMethods};
use nutpie_core::sparse::{self, Cholesky, Factor};
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;

/// Entries of a factor from which on several matrices are worked on at once.
const WORTH_THREADS: usize = 20_000;

/// A pattern, analysed.
#[pyclass(frozen, module = "nutpie._lib")]
pub struct SparseCholesky {
    inner: Arc<Cholesky>,
}

/// Factors of matrices of that pattern.
#[pyclass(frozen, module = "nutpie._lib")]
pub struct SparseFactors {
    cholesky: Arc<Cholesky>,
    factors: Vec<Option<Factor>>,
}

#[pymethods]
impl SparseCholesky {
    #[new]
    fn new(
        py: Python<'_>,
        dim: usize,
        rows: PyReadonlyArray1<'_, i64>,
        cols: PyReadonlyArray1<'_, i64>,
        reorder: bool,
    ) -> PyResult<Self> {
        let (rows, cols) = (indices(&rows)?, indices(&cols)?);
        let made = py.detach(|| Cholesky::new(dim, &rows, &cols, reorder));
        let inner = Arc::new(made.map_err(|error| PyValueError::new_err(error.to_string()))?);
        Ok(SparseCholesky { inner })
    }

    /// Entries of a factor.
    #[getter]
    fn factor_entries(&self) -> usize {
        self.inner.factor_entries()
    }

    /// Factorise the matrices whose entries are the rows of an array.
    fn factor(&self, py: Python<'_>, entries: PyReadonlyArray2<'_, f64>) -> PyResult<SparseFactors> {
        let count = rows_of(&entries, self.inner.entries())?;
        let entries = entries.as_slice()?;
        let width = self.inner.entries();
        let work = |row: usize| self.inner.factor(&entries[row * width..(row + 1) * width]);
        let factors = py.detach(|| each(count, self.inner.factor_entries(), work))?;
        Ok(SparseFactors { cholesky: self.inner.clone(), factors })
    }
}

#[pymethods]
impl SparseFactors {
    /// Whether each matrix is positive definite.
    fn ok<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<bool>> {
        PyArray1::from_iter(py, self.factors.iter().map(Option::is_some))
    }

    /// log det of each matrix; NaN where it has no factor, as in all that follows.
    fn log_det<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<f64>> {
        let value = |f: &Option<Factor>| f.as_ref().map_or(f64::NAN, |f| self.cholesky.log_det(f));
        PyArray1::from_iter(py, self.factors.iter().map(value))
    }

    /// Solve with each matrix for its row.
    fn solve<'py>(
        &self,
        py: Python<'py>,
        rhs: PyReadonlyArray2<'py, f64>,
    ) -> PyResult<Bound<'py, PyArray2<f64>>> {
        self.map_rows(py, &rhs, |factor, x| self.cholesky.solve(factor, x))
    }

    /// Turn rows of standard normal numbers into normal ones whose covariances are the inverse matrices.
    fn color<'py>(
        &self,
        py: Python<'py>,
        noise: PyReadonlyArray2<'py, f64>,
    ) -> PyResult<Bound<'py, PyArray2<f64>>> {
        self.map_rows(py, &noise, |factor, x| self.cholesky.color(factor, x))
    }

    /// The given entries of the inverse matrices.
    fn inverse<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray2<f64>>> {
        let width = self.cholesky.entries();
        let work = |row: usize| match &self.factors[row] {
            Some(factor) => self.cholesky.inverse(factor),
            None => vec![f64::NAN; width],
        };
        let rows = py.detach(|| each(self.factors.len(), self.cholesky.factor_entries(), work))?;
        to_array(py, &rows, width)
    }
}

impl SparseFactors {
    fn map_rows<'py>(
        &self,
        py: Python<'py>,
        given: &PyReadonlyArray2<'py, f64>,
        work: impl Fn(&Factor, &mut [f64]) + Sync,
    ) -> PyResult<Bound<'py, PyArray2<f64>>> {
        let width = self.cholesky.dim();
        if rows_of(given, width)? != self.factors.len() {
            return Err(PyValueError::new_err("as many rows as matrices are needed"));
        }
        let given = given.as_slice()?;
        let one = |row: usize| {
            let mut x = given[row * width..(row + 1) * width].to_vec();
            match &self.factors[row] {
                Some(factor) => work(factor, &mut x),
                None => x.fill(f64::NAN),
            }
            x
        };
        let rows = py.detach(|| each(self.factors.len(), self.cholesky.factor_entries(), one))?;
        to_array(py, &rows, width)
    }
}

/// A colour for each vertex of the graph of a symmetric matrix, with which products for each colour tell all entries.
#[pyfunction]
pub fn star_coloring<'py>(
    py: Python<'py>,
    starts: PyReadonlyArray1<'py, i64>,
    neighbors: PyReadonlyArray1<'py, i64>,
) -> PyResult<Bound<'py, PyArray1<i64>>> {
    let (starts, neighbors) = (indices(&starts)?, indices(&neighbors)?);
    let n = starts.len().saturating_sub(1);
    let fits = starts.windows(2).all(|pair| pair[0] <= pair[1])
        && starts.last().copied().unwrap_or(0) <= neighbors.len();
    if !fits || neighbors.iter().any(|&v| v >= n) {
        return Err(PyValueError::new_err("these are not the rows of a square pattern"));
    }
    let colors = py.detach(|| sparse::star_coloring(&starts, &neighbors));
    Ok(PyArray1::from_iter(py, colors.into_iter().map(|color| color as i64)))
}

/// Do something for each row, on several threads if it is worth that. The order of the results is that of the rows.
fn each<T: Send>(count: usize, size: usize, work: impl Fn(usize) -> T + Sync) -> PyResult<Vec<T>> {
    let most = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = if size < WORTH_THREADS { 1 } else { count.min(most) };
    if threads <= 1 {
        return Ok((0..count).map(work).collect());
    }
    let share = count.div_ceil(threads);
    let parts: Vec<_> = std::thread::scope(|scope| {
        let part = |first: usize| first..(first + share).min(count);
        let work = &work;
        let spawned: Vec<_> = (0..count)
            .step_by(share)
            .map(|first| scope.spawn(move || part(first).map(work).collect::<Vec<T>>()))
            .collect();
        spawned.into_iter().map(|thread| thread.join()).collect()
    });
    let mut all = Vec::with_capacity(count);
    for part in parts {
        all.extend(part.map_err(|_| PyRuntimeError::new_err("a thread that factorises matrices failed"))?);
    }
    Ok(all)
}

fn rows_of(array: &PyReadonlyArray2<'_, f64>, width: usize) -> PyResult<usize> {
    if array.shape()[1] != width {
        return Err(PyValueError::new_err(format!(
            "rows have {} numbers, {width} are needed",
            array.shape()[1]
        )));
    }
    Ok(array.shape()[0])
}

fn to_array<'py>(py: Python<'py>, rows: &[Vec<f64>], width: usize) -> PyResult<Bound<'py, PyArray2<f64>>> {
    let array = PyArray2::zeros(py, [rows.len(), width], false);
    {
        let mut view = array.try_readwrite()?;
        let out = view.as_slice_mut()?;
        for (row, to) in rows.iter().zip(out.chunks_exact_mut(width.max(1))) {
            to.copy_from_slice(row);
        }
    }
    Ok(array)
}

fn indices(array: &PyReadonlyArray1<'_, i64>) -> PyResult<Vec<usize>> {
    let negative = |_| PyValueError::new_err("an index is negative");
    array.as_slice()?.iter().map(|&v| usize::try_from(v).map_err(negative)).collect()
}
