//! CUDA, loaded at run time: the driver, and NVRTC to compile kernels for the device that is there.
#![allow(unsafe_code)]

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::result::DriverError;
use cudarc::driver::sys::{CUdeviceptr, CUfunction, CUmodule};
use cudarc::driver::{CudaContext, CudaStream, result, sys};
use cudarc::nvrtc::{self, CompileError, CompileOptions};

use super::runtime::{Arg, Build, Mem, Runtime};
use super::share::Addresses;
use crate::device::Memory;
use crate::error::{Error, Result};

const PRELUDE: &str = include_str!("kernels/prelude_cuda.h");

const GROUP: usize = 256;

/// A CUDA device with a stream.
pub struct Cuda {
    kernels: HashMap<String, CUfunction>,
    modules: Vec<CUmodule>,
    buffers: Vec<Option<CUdeviceptr>>,
    pub(super) stream: Arc<CudaStream>,
    pub(super) context: Arc<CudaContext>,
    name: String,
    pub(super) ordinal: usize,
}

// SAFETY: the handles belong to the context, which every call binds to its thread first; there is no other use at the time,
// since the device is owned.
unsafe impl Send for Cuda {}

pub(super) fn failed(what: &str) -> impl Fn(DriverError) -> Error {
    move |e| Error::Device(format!("CUDA: {what} failed: {e}"))
}

/// The libraries must be asked for before they are used, or a missing one ends the process's thread.
fn need_libraries() -> Result<()> {
    // SAFETY: opens a library that is meant to be opened.
    if !unsafe { sys::is_culib_present() } {
        return Err(Error::Device(
            "device='cuda' needs an NVIDIA driver (libcuda.so.1), which was not found".into(),
        ));
    }
    // SAFETY: as above.
    if !unsafe { nvrtc::sys::is_culib_present() } {
        return Err(Error::Device(
            "device='cuda' needs the CUDA run-time compiler (libnvrtc.so), which was not found; install the CUDA toolkit, or \
             nvidia-cuda-nvrtc with pip and put the folder of its library into LD_LIBRARY_PATH"
                .into(),
        ));
    }
    Ok(())
}

impl Cuda {
    /// The device with this number.
    pub fn open(ordinal: usize) -> Result<Self> {
        need_libraries()?;
        result::init()
            .map_err(|e| Error::Device(format!("device='cuda': the NVIDIA driver has no device ({e})")))?;
        let count = CudaContext::device_count().map_err(failed("counting the devices"))?;
        if ordinal >= usize::try_from(count).unwrap_or(0) {
            return Err(Error::Device(format!("device='cuda:{ordinal}': there are {count}, counted from 0")));
        }
        let context = CudaContext::new(ordinal).map_err(failed("opening the device"))?;
        let stream = context.new_stream().map_err(failed("making a stream"))?;
        let name = context.name().map_err(failed("asking for the name"))?;
        Ok(Cuda {
            kernels: HashMap::new(),
            modules: Vec::new(),
            buffers: Vec::new(),
            stream,
            context,
            name,
            ordinal,
        })
    }

    /// The address of memory, with the context bound to this thread.
    fn buffer(&self, mem: Mem) -> Result<CUdeviceptr> {
        self.context.bind_to_thread().map_err(failed("binding the context"))?;
        let found = self.buffers.get(mem.0).copied().flatten();
        found.ok_or_else(|| Error::Device("CUDA: memory that was given back".into()))
    }
}

impl Drop for Cuda {
    fn drop(&mut self) {
        for mem in 0..self.buffers.len() {
            self.free(Mem(mem));
        }
        if self.context.bind_to_thread().is_ok() {
            for module in self.modules.drain(..) {
                // SAFETY: loaded by `compile`, and its functions are not called any more.
                let _ = unsafe { result::module::unload(module) };
            }
        }
    }
}

/// The names of the kernels of a source.
fn kernel_names(source: &str) -> impl Iterator<Item = &str> {
    source.split("KERNEL void ").skip(1).filter_map(|rest| rest.split('(').next()).map(str::trim)
}

impl Runtime for Cuda {
    fn name(&self) -> String {
        format!("cuda:{} {}", self.ordinal, self.name)
    }

    fn group(&self) -> usize {
        GROUP
    }

    fn compile(&mut self, source: &str, build: Build) -> Result<()> {
        let (major, minor) =
            self.context.compute_capability().map_err(failed("asking for the capability"))?;
        let options = CompileOptions {
            // Rounded like everywhere else.
            fmad: Some(false),
            options: vec![format!("--gpu-architecture=compute_{major}{minor}")],
            ..CompileOptions::default()
        };
        let defines = build.defines();
        let all = format!("{PRELUDE}{defines}{source}");
        if all.contains('\0') {
            return Err(Error::Device("CUDA: a source with a zero byte".into()));
        }
        let ptx = nvrtc::compile_ptx_with_opts(all, options).map_err(|e| match e {
            CompileError::CompileError { log, .. } => {
                Error::Device(format!("CUDA: compiling failed: {}", log.to_string_lossy().trim()))
            }
            other => Error::Device(format!("CUDA: compiling failed: {other:?}")),
        })?;
        let image = ptx.as_bytes().ok_or_else(|| Error::Device("CUDA: compiling gave nothing".into()))?;
        self.context.bind_to_thread().map_err(failed("binding the context"))?;
        // SAFETY: the image is PTX that ends in a zero byte, as the compiler gives it.
        let module = unsafe { result::module::load_data(image.as_ptr().cast()) }
            .map_err(failed("loading the kernels"))?;
        self.modules.push(module);
        for name in kernel_names(source) {
            let c_name =
                std::ffi::CString::new(name).map_err(|_| Error::Device("CUDA: a kernel's name".into()))?;
            // SAFETY: the module is loaded, and kept as long as the function.
            let function = unsafe { result::module::get_function(module, c_name) }.map_err(failed(name))?;
            self.kernels.insert(name.to_string(), function);
        }
        Ok(())
    }

    fn alloc(&mut self, bytes: usize) -> Result<Mem> {
        let size = bytes.max(8);
        let out_of_memory = |e| Error::Memory(format!("{size} bytes do not fit on the device ({e})"));
        self.context.bind_to_thread().map_err(failed("binding the context"))?;
        // SAFETY: the address is given back once, by `free`.
        let address = unsafe { result::malloc_sync(size) }.map_err(out_of_memory)?;
        self.buffers.push(Some(address));
        // SAFETY: all of the memory just allocated, on a stream of its context.
        unsafe { result::memset_d8_async(address, 0, size, self.stream.cu_stream()) }
            .map_err(failed("clearing"))?;
        Ok(Mem(self.buffers.len() - 1))
    }

    fn free(&mut self, mem: Mem) {
        if self.context.bind_to_thread().is_err() {
            return;
        }
        if let Some(address) = self.buffers[mem.0].take() {
            // SAFETY: it came from `malloc_sync`; the call waits for all work on the device. A driver that fails here has
            // failed before.
            let _ = unsafe { result::free_sync(address) };
        }
    }

    fn write(&self, mem: Mem, offset: usize, bytes: &[u8]) -> Result<()> {
        let address = self.buffer(mem)? + offset as u64;
        // SAFETY: the driver has copied memory that is not page-locked when the call returns.
        unsafe { result::memcpy_htod_async(address, bytes, self.stream.cu_stream()) }
            .map_err(failed("writing"))
    }

    fn read(&self, mem: Mem, offset: usize, bytes: &mut [u8]) -> Result<()> {
        let address = self.buffer(mem)? + offset as u64;
        // SAFETY: the bytes are not used before the stream has come to its end.
        unsafe { result::memcpy_dtoh_async(bytes, address, self.stream.cu_stream()) }
            .map_err(failed("reading"))?;
        self.stream.synchronize().map_err(failed("reading"))
    }

    fn copy(&self, src: (Mem, usize), dst: (Mem, usize), bytes: usize) -> Result<()> {
        let (from, to) = (self.buffer(src.0)? + src.1 as u64, self.buffer(dst.0)? + dst.1 as u64);
        // SAFETY: both are memory of this context, on its stream.
        unsafe { result::memcpy_dtod_async(to, from, bytes, self.stream.cu_stream()) }
            .map_err(failed("copying"))
    }

    fn launch(&self, kernel: &str, grid: [usize; 2], args: &[Arg]) -> Result<()> {
        let function = *self
            .kernels
            .get(kernel)
            .ok_or_else(|| Error::Device(format!("CUDA: there is no kernel {kernel}")))?;
        let mut values = Vec::with_capacity(args.len());
        for arg in args {
            values.push(match arg {
                Arg::Mem(mem) => self.buffer(*mem)?,
                Arg::Int(v) => *v as u64,
            });
        }
        let mut pointers: Vec<*mut c_void> = values.iter_mut().map(|v| (v as *mut u64).cast()).collect();
        let (grid, group) = ((grid[0] as u32, grid[1] as u32, 1), (GROUP as u32, 1, 1));
        self.context.bind_to_thread().map_err(failed("binding the context"))?;
        // SAFETY: kernels take addresses and integers, 64 bits each, in the order of their source.
        unsafe { result::launch_kernel(function, grid, group, 0, self.stream.cu_stream(), &mut pointers) }
            .map_err(failed(kernel))
    }

    fn place(&self, mem: Mem) -> (Memory, usize, usize) {
        let address = self.buffers.get(mem.0).copied().flatten().unwrap_or(0);
        (Memory::Cuda(self.ordinal), address as usize, self.stream.cu_stream() as usize)
    }

    fn addresses(&self) -> Option<&dyn Addresses> {
        Some(self)
    }
}
