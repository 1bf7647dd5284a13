//! Points that other libraries read where they are.

use std::sync::Arc;

use nutpie_core::device::{Memory, Shared};
use nutpie_core::error::Result;
use pyo3::exceptions::{PyAttributeError, PyBufferError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::dlpack;

/// Most arrays that are kept for the next calls.
const KEPT: usize = 4;

/// Points of the shape (k, n_dim) in memory of a device, for libraries that take arrays by DLPack or by the CUDA array
/// interface. They are not written again as long as somebody has the array, or one that was made of it.
#[pyclass(frozen, module = "nutpie._lib")]
pub struct DeviceArray {
    memory: Arc<Shared>,
    rows: usize,
}

impl DeviceArray {
    /// Number of points.
    pub fn height(&self) -> usize {
        self.rows
    }

    /// Let the stream of a consumer, as the protocols number them, see the numbers.
    fn ready(&self, stream: Option<i64>) -> PyResult<()> {
        let on_host = self.memory.raw().memory == Memory::Host;
        match stream {
            Some(-1) => return Ok(()),
            Some(stream) if on_host => {
                return Err(PyValueError::new_err(format!(
                    "stream={stream}: memory of the host has no streams"
                )));
            }
            Some(stream) if stream <= 0 => {
                return Err(PyValueError::new_err(format!("stream={stream} is none of CUDA's")));
            }
            _ => {}
        }
        self.memory
            .ready_for(stream.map(|stream| stream as usize))
            .map_err(|e| PyRuntimeError::new_err(e.to_string()))
    }
}

#[pymethods]
impl DeviceArray {
    /// (k, n_dim).
    #[getter]
    fn shape(&self) -> (usize, usize) {
        (self.rows, self.memory.raw().dim)
    }

    /// "float64" or "float32".
    #[getter]
    fn dtype(&self) -> &'static str {
        if self.memory.raw().bytes == 4 { "float32" } else { "float64" }
    }

    /// A capsule of DLPack, by the array API standard. The array must not be written.
    #[pyo3(signature = (*, stream=None, max_version=None, dl_device=None, copy=None))]
    fn __dlpack__<'py>(
        &self,
        py: Python<'py>,
        stream: Option<i64>,
        max_version: Option<(u32, u32)>,
        dl_device: Option<(i32, usize)>,
        copy: Option<bool>,
    ) -> PyResult<Bound<'py, PyAny>> {
        if dl_device.is_some_and(|device| self.__dlpack_device__().is_ok_and(|own| own != device)) {
            return Err(PyBufferError::new_err(
                "the points are on another device, and are not copied to this one",
            ));
        }
        if copy == Some(true) {
            return Err(PyBufferError::new_err(
                "the points are not copied here: copy the array that you make of them",
            ));
        }
        self.ready(stream)?;
        dlpack::export(py, &self.memory, self.rows, max_version.is_some_and(|version| version.0 >= 1))
    }

    /// Type and number of the device.
    fn __dlpack_device__(&self) -> PyResult<(i32, usize)> {
        dlpack::device_of(self.memory.raw().memory)
    }

    /// Version 3 of the CUDA array interface; there is none for memory of the host.
    #[getter]
    fn __cuda_array_interface__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let raw = self.memory.raw();
        if !matches!(raw.memory, Memory::Cuda(_)) {
            return Err(PyAttributeError::new_err("__cuda_array_interface__: this is not memory of CUDA"));
        }
        let found = PyDict::new(py);
        found.set_item("shape", self.shape())?;
        found.set_item("typestr", if raw.bytes == 4 { "<f4" } else { "<f8" })?;
        // PyTorch refuses arrays that are not to be written.
        found.set_item("data", (raw.address, false))?;
        found.set_item("strides", py.None())?;
        found.set_item("stream", raw.stream)?;
        found.set_item("version", 3)?;
        Ok(found)
    }

    fn __repr__(&self) -> PyResult<String> {
        let (device, (rows, dim)) = (self.__dlpack_device__()?, self.shape());
        Ok(format!(
            "<nutpie DeviceArray of shape ({rows}, {dim}), {}, DLPack device {device:?}>",
            self.dtype()
        ))
    }
}

/// Memory for the points of the next calls. What a library still has is left alone.
#[derive(Default)]
pub struct Pool {
    kept: Vec<Arc<Shared>>,
}

impl Pool {
    /// Points that `fill` writes into memory which nobody else has; `make` makes more. The memory of the call before is not
    /// taken, even if it is free: a library may give an array back while its device has still to read it.
    pub fn points(
        &mut self,
        rows: usize,
        make: impl FnOnce() -> Result<Shared>,
        fill: impl FnOnce(&mut Shared) -> Result<()>,
    ) -> Result<DeviceArray> {
        let others = self.kept.len().saturating_sub(1);
        let free = self.kept[..others]
            .iter_mut()
            .position(|memory| memory.raw().rows >= rows && Arc::get_mut(memory).is_some());
        let mut memory = match free {
            Some(place) => self.kept.remove(place),
            None => Arc::new(make()?),
        };
        // It is free, or new.
        if let Some(memory) = Arc::get_mut(&mut memory) {
            fill(memory)?;
        }
        if self.kept.len() >= KEPT {
            self.kept.remove(0);
        }
        self.kept.push(memory.clone());
        Ok(DeviceArray { memory, rows })
    }
}
