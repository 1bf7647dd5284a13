//! Arrays of other libraries, by DLPack 1.0 and the form before it.
//!
//! The structures are those of `dlpack.h`. A capsule that nobody has taken gives its array back when it is collected; who
//! takes it renames the capsule, and calls the deleter of the structure.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_void};
use std::sync::Arc;

use nutpie_core::device::{Memory, RawBuffer, Shared};
use pyo3::exceptions::{PyBufferError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use pyo3::{PyTypeInfo, ffi, intern};

const NAME: &CStr = c"dltensor";
const NAME_VERSIONED: &CStr = c"dltensor_versioned";
const VERSION: [u32; 2] = [1, 0];

const CPU: i32 = 1;
const CUDA: i32 = 2;
const FLOAT: u8 = 2;
const READ_ONLY: u64 = 1;

#[repr(C)]
struct DlTensor {
    data: *mut c_void,
    device: [i32; 2],
    ndim: i32,
    code: u8,
    bits: u8,
    lanes: u16,
    shape: *mut i64,
    strides: *mut i64,
    byte_offset: u64,
}

/// A `DLManagedTensor`.
#[repr(C)]
struct Plain {
    tensor: DlTensor,
    context: *mut c_void,
    deleter: Option<unsafe extern "C" fn(*mut Plain)>,
}

/// A `DLManagedTensorVersioned`.
#[repr(C)]
struct Versioned {
    version: [u32; 2],
    context: *mut c_void,
    deleter: Option<unsafe extern "C" fn(*mut Versioned)>,
    flags: u64,
    tensor: DlTensor,
}

/// What an exported structure refers to.
struct Context {
    _memory: Arc<Shared>,
    shape: [i64; 2],
    strides: [i64; 2],
}

/// Type and number of a device, as `__dlpack_device__` has it.
pub fn device_of(memory: Memory) -> PyResult<(i32, usize)> {
    match memory {
        Memory::Host => Ok((CPU, 0)),
        Memory::Cuda(index) => Ok((CUDA, index)),
        Memory::OpenCl => Err(PyBufferError::new_err("memory of OpenCL cannot be shared")),
    }
}

/// The first `rows` lines of some memory. The context is its own and has to be given back.
fn tensor(memory: &Arc<Shared>, rows: usize) -> PyResult<(DlTensor, *mut Context)> {
    let raw = memory.raw();
    let (kind, index) = device_of(raw.memory)?;
    let context = Box::into_raw(Box::new(Context {
        _memory: memory.clone(),
        shape: [rows as i64, raw.dim as i64],
        strides: [raw.stride as i64, 1],
    }));
    // SAFETY: made just now.
    let (shape, strides) = unsafe { (&raw mut (*context).shape, &raw mut (*context).strides) };
    let tensor = DlTensor {
        data: raw.address as *mut c_void,
        device: [kind, index as i32],
        ndim: 2,
        code: FLOAT,
        bits: 8 * raw.bytes as u8,
        lanes: 1,
        shape: shape.cast(),
        strides: strides.cast(),
        byte_offset: 0,
    };
    Ok((tensor, context))
}

unsafe extern "C" fn delete_plain(managed: *mut Plain) {
    // SAFETY: called once, with what `export` made; no part of it needs Python.
    unsafe {
        drop(Box::from_raw((*managed).context.cast::<Context>()));
        drop(Box::from_raw(managed));
    }
}

unsafe extern "C" fn delete_versioned(managed: *mut Versioned) {
    // SAFETY: as above.
    unsafe {
        drop(Box::from_raw((*managed).context.cast::<Context>()));
        drop(Box::from_raw(managed));
    }
}

/// Destructor of capsules: gives back what nobody has taken.
unsafe extern "C" fn forget(capsule: *mut ffi::PyObject) {
    // SAFETY: a capsule that `export` made, under the name that tells what is in it; one that was taken has another.
    unsafe {
        if ffi::PyCapsule_IsValid(capsule, NAME.as_ptr()) == 1 {
            delete_plain(ffi::PyCapsule_GetPointer(capsule, NAME.as_ptr()).cast());
        } else if ffi::PyCapsule_IsValid(capsule, NAME_VERSIONED.as_ptr()) == 1 {
            delete_versioned(ffi::PyCapsule_GetPointer(capsule, NAME_VERSIONED.as_ptr()).cast());
        }
    }
}

/// A capsule with the first `rows` lines of some memory, which stays as long as somebody has it.
pub fn export<'py>(
    py: Python<'py>,
    memory: &Arc<Shared>,
    rows: usize,
    versioned: bool,
) -> PyResult<Bound<'py, PyAny>> {
    let (tensor, context) = tensor(memory, rows)?;
    let context = context.cast();
    let (pointer, name): (*mut c_void, &CStr) = if versioned {
        let (deleter, flags) = (Some(delete_versioned as unsafe extern "C" fn(*mut Versioned)), READ_ONLY);
        let managed = Versioned { version: VERSION, context, deleter, flags, tensor };
        (Box::into_raw(Box::new(managed)).cast(), NAME_VERSIONED)
    } else {
        let managed = Plain { tensor, context, deleter: Some(delete_plain) };
        (Box::into_raw(Box::new(managed)).cast(), NAME)
    };
    // SAFETY: the pointer is what the name says, and `forget` the destructor of both.
    unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyCapsule_New(pointer, name.as_ptr(), Some(forget))) }
}

/// An array of another library, which it keeps as long as the value lives.
pub struct Borrowed<'py> {
    raw: RawBuffer,
    shape: Vec<usize>,
    _capsule: Bound<'py, PyAny>,
}

impl<'py> Borrowed<'py> {
    /// Ask for an array, with its writes finished as far as `stream` can see. None where it is no array of numbers in this
    /// memory whose rows are contiguous.
    pub fn new(value: &Bound<'py, PyAny>, memory: Memory, stream: usize) -> PyResult<Option<Self>> {
        let py = value.py();
        let (ask, device) = (intern!(py, "__dlpack__"), intern!(py, "__dlpack_device__"));
        if !value.hasattr(ask)? || !value.hasattr(device)? {
            return Ok(None);
        }
        if value.call_method0(device)?.extract::<(i32, usize)>()? != device_of(memory)? {
            return Ok(None);
        }
        let options = PyDict::new(py);
        if memory != Memory::Host {
            options.set_item(intern!(py, "stream"), stream)?;
        }
        options.set_item(intern!(py, "max_version"), (VERSION[0], VERSION[1]))?;
        let capsule = match value.call_method(ask, (), Some(&options)) {
            // Written before there were versions.
            Err(error) if error.is_instance(py, &PyTypeError::type_object(py)) => {
                options.del_item(intern!(py, "max_version"))?;
                value.call_method(ask, (), Some(&options))?
            }
            other => other?,
        };
        let found = describe(&content(&capsule)?, memory);
        Ok(found.map(|(raw, shape)| Borrowed { raw, shape, _capsule: capsule }))
    }

    /// Where the numbers are: a row for each row of a matrix; a vector is one row if its numbers lie beside each other, and
    /// else as many as it has numbers. Good as long as the value lives.
    pub fn raw(&self) -> RawBuffer {
        self.raw
    }

    /// Its shape.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }
}

/// What is in a capsule.
struct Content<'a> {
    data: usize,
    bytes: usize,
    shape: &'a [i64],
    strides: Option<&'a [i64]>,
}

/// Look into a capsule that is left as it is.
fn content<'a>(capsule: &'a Bound<'_, PyAny>) -> PyResult<Option<Content<'a>>> {
    let object = capsule.as_ptr();
    // SAFETY: the name tells what the pointer is, and the structure stays as long as the capsule, which nobody else has.
    let tensor: &DlTensor = unsafe {
        if ffi::PyCapsule_IsValid(object, NAME_VERSIONED.as_ptr()) == 1 {
            let managed: *const Versioned = ffi::PyCapsule_GetPointer(object, NAME_VERSIONED.as_ptr()).cast();
            if (*managed).version[0] != VERSION[0] {
                return Err(PyBufferError::new_err("a DLPack capsule of a version that was not asked for"));
            }
            &(*managed).tensor
        } else if ffi::PyCapsule_IsValid(object, NAME.as_ptr()) == 1 {
            &(*ffi::PyCapsule_GetPointer(object, NAME.as_ptr()).cast::<Plain>()).tensor
        } else {
            return Err(PyTypeError::new_err("__dlpack__ returned something else than a new DLPack capsule"));
        }
    };
    if tensor.code != FLOAT || ![32, 64].contains(&tensor.bits) || tensor.lanes != 1 || tensor.ndim < 1 {
        return Ok(None);
    }
    let ndim = tensor.ndim as usize;
    // SAFETY: both have `ndim` numbers; strides may be missing.
    let (shape, strides) = unsafe {
        let strides = (!tensor.strides.is_null()).then(|| std::slice::from_raw_parts(tensor.strides, ndim));
        (std::slice::from_raw_parts(tensor.shape, ndim), strides)
    };
    let data = tensor.data as usize + tensor.byte_offset as usize;
    Ok(Some(Content { data, bytes: usize::from(tensor.bits / 8), shape, strides }))
}

fn describe(content: &Option<Content<'_>>, memory: Memory) -> Option<(RawBuffer, Vec<usize>)> {
    let Content { data, bytes, shape, strides } = content.as_ref()?;
    let shape: Vec<usize> = shape.iter().map(|n| usize::try_from(*n).ok()).collect::<Option<_>>()?;
    // Of a dimension with one number the stride means nothing.
    let stride = |axis: usize, compact: usize| match strides {
        Some(strides) if shape[axis] > 1 => usize::try_from(strides[axis]).ok(),
        _ => Some(compact),
    };
    let (rows, dim, stride) = match shape[..] {
        [n] if stride(0, 1)? == 1 => (1, n, n),
        [n] => (n, 1, stride(0, 1)?),
        [n, dim] if stride(1, 1)? == 1 => (n, dim, stride(0, dim)?),
        // What shape it has can still be told.
        _ => (0, 0, 0),
    };
    if shape.len() <= 2 && rows == 0 && shape.iter().product::<usize>() > 0 {
        return None;
    }
    Some((RawBuffer { memory, address: *data, rows, dim, stride, bytes: *bytes, stream: 0 }, shape))
}
