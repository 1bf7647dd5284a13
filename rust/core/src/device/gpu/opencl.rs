//! OpenCL, loaded at run time.
#![allow(unsafe_code)]

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::c_void;
use std::ptr;
use std::sync::{Mutex, PoisonError};

use opencl3::command_queue::CommandQueue;
use opencl3::context::Context;
use opencl3::device::{CL_DEVICE_TYPE_ALL, CL_DEVICE_TYPE_CPU, CL_DEVICE_TYPE_GPU, Device, get_all_devices};
use opencl3::error_codes::ClError;
use opencl3::kernel::Kernel;
use opencl3::memory::{Buffer, CL_MEM_READ_WRITE, ClMem};
use opencl3::program::Program;
use opencl3::types::{CL_BLOCKING, CL_NON_BLOCKING};

use super::runtime::{Arg, Build, Mem, Runtime};
use crate::device::Memory;
use crate::error::{Error, Result};

const PRELUDE: &str = include_str!("kernels/prelude_opencl.h");

/// Items of a work group on a GPU, and on a processor, which runs them one after the other.
const GROUPS: [usize; 2] = [256, 64];

/// An OpenCL device with a queue that keeps the order.
pub struct OpenCl {
    // Released in this order.
    kernels: HashMap<String, Kernel>,
    programs: Vec<Program>,
    buffers: Vec<Option<Buffer<u8>>>,
    queue: CommandQueue,
    context: Context,
    device: Device,
    name: String,
    group: usize,
    /// What the queue copies from, until something has waited for it.
    under_way: RefCell<Vec<Vec<u8>>>,
}

/// The devices that compute in double precision, GPUs first.
fn devices() -> Result<Vec<Device>> {
    if !cl3_is_there() {
        return Err(Error::Device(
            "device='opencl' needs an OpenCL library (libOpenCL.so.1), which was not found; install one, on Debian the \
             package ocl-icd-libopencl1 with the driver of the device, or name it in the environment variable \
             OPENCL_DYLIB_PATH"
                .into(),
        ));
    }
    // Without any driver the library reports an error instead of an empty list.
    let all = get_all_devices(CL_DEVICE_TYPE_ALL).unwrap_or_default();
    let mut usable: Vec<(bool, Device)> = all
        .into_iter()
        .map(Device::new)
        .filter(|device| device.double_fp_config().is_ok_and(|config| config != 0))
        .map(|device| (device.dev_type().is_ok_and(|kind| kind & CL_DEVICE_TYPE_GPU != 0), device))
        .collect();
    usable.sort_by_key(|(is_gpu, _)| !is_gpu);
    Ok(usable.into_iter().map(|(_, device)| device).collect())
}

fn cl3_is_there() -> bool {
    // The only call that tells a missing library from a missing device.
    !matches!(
        opencl3::platform::get_platforms(),
        Err(ClError(opencl3::error_codes::DLOPEN_RUNTIME_LOAD_FAILED))
    )
}

/// What a call did not manage.
fn failed(what: &str) -> impl Fn(ClError) -> Error {
    move |e| Error::Device(format!("OpenCL: {what} failed: {e} ({})", e.0))
}

impl OpenCl {
    /// The device with a number among those that compute in double precision, GPUs first.
    pub fn open(index: usize) -> Result<Self> {
        // Drivers make their devices when they are first asked for, and not all of them (pocl 3.1) expect two threads to ask.
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let devices = devices()?;
        let Some(&device) = devices.get(index) else {
            let names: Vec<String> = devices.iter().filter_map(|device| device.name().ok()).collect();
            return Err(Error::Device(match names.len() {
                0 => "device='opencl' needs a device with double precision, and OpenCL has none; install the driver of the \
                      GPU, or for a processor pocl (Debian: pocl-opencl-icd)"
                    .into(),
                n => format!("device='opencl:{index}': there are {n}, counted from 0: {}", names.join(", ")),
            }));
        };
        let context = Context::from_device(&device).map_err(failed("making a context"))?;
        // SAFETY: the device belongs to the context.
        let queue =
            unsafe { CommandQueue::create(&context, device.id(), 0) }.map_err(failed("making a queue"))?;
        let name = device.name().map_err(failed("asking for the name"))?;
        let on_processor = device.dev_type().is_ok_and(|kind| kind & CL_DEVICE_TYPE_CPU != 0);
        let most = device.max_work_group_size().map_err(failed("asking for the size of work groups"))?;
        let mut group = GROUPS[usize::from(on_processor)];
        while group > most {
            group /= 2;
        }
        Ok(OpenCl {
            kernels: HashMap::new(),
            programs: Vec::new(),
            buffers: Vec::new(),
            queue,
            context,
            device,
            name,
            group,
            under_way: RefCell::default(),
        })
    }

    fn buffer(&self, mem: Mem) -> Result<&Buffer<u8>> {
        self.buffers
            .get(mem.0)
            .and_then(Option::as_ref)
            .ok_or_else(|| Error::Device("OpenCL: memory that was given back".into()))
    }
}

impl Runtime for OpenCl {
    fn name(&self) -> String {
        format!("opencl: {}", self.name)
    }

    fn group(&self) -> usize {
        self.group
    }

    fn compile(&mut self, source: &str, build: Build) -> Result<()> {
        let defines = build.defines();
        let source = format!("{PRELUDE}{defines}{source}");
        let program = Program::create_and_build_from_source(&self.context, &source, "-cl-std=CL1.2")
            .map_err(|log| Error::Device(format!("OpenCL: compiling failed: {}", log.trim())))?;
        for name in program.kernel_names().split(';').filter(|name| !name.is_empty()) {
            let kernel = Kernel::create(&program, name).map_err(failed("making a kernel"))?;
            self.kernels.insert(name.to_string(), kernel);
        }
        self.programs.push(program);
        Ok(())
    }

    fn alloc(&mut self, bytes: usize) -> Result<Mem> {
        let size = bytes.max(8);
        let out_of_memory = |e: ClError| {
            let most = self.device.max_mem_alloc_size().unwrap_or(0);
            Error::Memory(format!(
                "{size} bytes do not fit, one array of this device has at most {most} ({e})"
            ))
        };
        // SAFETY: no host memory is given.
        let mut buffer =
            unsafe { Buffer::<u8>::create(&self.context, CL_MEM_READ_WRITE, size, ptr::null_mut()) }
                .map_err(out_of_memory)?;
        // SAFETY: the pattern is copied by the call, and the buffer has this size.
        unsafe { self.queue.enqueue_fill_buffer(&mut buffer, &[0u8], 0, size, &[]) }
            .map_err(out_of_memory)?;
        // Drivers find out here that the memory is not there.
        self.queue.finish().map_err(out_of_memory)?;
        self.buffers.push(Some(buffer));
        Ok(Mem(self.buffers.len() - 1))
    }

    fn free(&mut self, mem: Mem) {
        // OpenCL keeps what the queue still uses.
        self.buffers[mem.0] = None;
    }

    fn write(&self, mem: Mem, offset: usize, bytes: &[u8]) -> Result<()> {
        let buffer = self.buffer(mem)?.get();
        let source = bytes.to_vec();
        // SAFETY: the source lives until a blocking call has seen the end of the queue; the driver checks the range.
        unsafe {
            cl3::command_queue::enqueue_write_buffer(
                self.queue.get(),
                buffer,
                CL_NON_BLOCKING,
                offset,
                source.len(),
                source.as_ptr().cast::<c_void>(),
                0,
                ptr::null(),
            )
        }
        .map_err(|code| failed("writing")(ClError(code)))?;
        self.under_way.borrow_mut().push(source);
        Ok(())
    }

    fn read(&self, mem: Mem, offset: usize, bytes: &mut [u8]) -> Result<()> {
        let buffer = self.buffer(mem)?;
        // SAFETY: the call returns when the bytes are there; the driver checks the range.
        unsafe { self.queue.enqueue_read_buffer(buffer, CL_BLOCKING, offset, bytes, &[]) }
            .map_err(failed("reading"))?;
        self.under_way.borrow_mut().clear();
        Ok(())
    }

    fn copy(&self, src: (Mem, usize), dst: (Mem, usize), bytes: usize) -> Result<()> {
        let (from, to) = (self.buffer(src.0)?.get(), self.buffer(dst.0)?.get());
        // SAFETY: both are buffers of this context; the driver checks the ranges.
        unsafe {
            cl3::command_queue::enqueue_copy_buffer(
                self.queue.get(),
                from,
                to,
                src.1,
                dst.1,
                bytes,
                0,
                ptr::null(),
            )
        }
        .map_err(|code| failed("copying")(ClError(code)))?;
        Ok(())
    }

    fn launch(&self, kernel: &str, grid: [usize; 2], args: &[Arg]) -> Result<()> {
        let name = kernel;
        let kernel = self
            .kernels
            .get(name)
            .ok_or_else(|| Error::Device(format!("OpenCL: there is no kernel {name}")))?;
        // Some drivers end the process where there are too many.
        if kernel.num_args().map_err(failed(name))? as usize != args.len() {
            return Err(Error::Internal(format!("{} arguments for the kernel {name}", args.len())));
        }
        for (i, arg) in args.iter().enumerate() {
            match arg {
                // SAFETY: this argument is a buffer in the source of the kernel; the driver checks its size.
                Arg::Mem(mem) => unsafe { kernel.set_arg(i as u32, &self.buffer(*mem)?.get()) },
                // SAFETY: this one is an integer of 64 bits there.
                Arg::Int(v) => unsafe { kernel.set_arg(i as u32, v) },
            }
            .map_err(failed(name))?;
        }
        let (global, local) = ([grid[0] * self.group, grid[1]], [self.group, 1]);
        // SAFETY: both sizes have two numbers.
        unsafe {
            self.queue.enqueue_nd_range_kernel(
                kernel.get(),
                2,
                ptr::null(),
                global.as_ptr(),
                local.as_ptr(),
                &[],
            )
        }
        .map_err(failed(name))?;
        Ok(())
    }

    fn place(&self, mem: Mem) -> (Memory, usize, usize) {
        let address = self.buffer(mem).map_or(0, |buffer| buffer.get() as usize);
        (Memory::OpenCl, address, self.queue.get() as usize)
    }
}
