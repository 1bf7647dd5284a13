//! CUDA memory that other libraries work on, on streams of theirs.
#![allow(unsafe_code)]

use std::ptr;
use std::sync::Arc;

use cudarc::driver::sys::{CUdeviceptr, CUevent_flags, CUevent_wait_flags, CUstream};
use cudarc::driver::{CudaContext, CudaStream, result};

use super::cuda::{Cuda, failed};
use super::share::Addresses;
use crate::device::{Memory, Owner};
use crate::error::{Error, Result};

/// Memory that keeps the context of the device alive.
struct CudaMemory {
    address: CUdeviceptr,
    stream: Arc<CudaStream>,
    context: Arc<CudaContext>,
}

impl Owner for CudaMemory {
    fn ready_for(&self, stream: Option<usize>) -> Result<()> {
        // A null handle is the legacy default stream.
        let other = stream.map_or(ptr::null_mut(), |stream| stream as CUstream);
        let own = self.stream.cu_stream();
        if own == other {
            return Ok(());
        }
        self.context.bind_to_thread().map_err(failed("binding the context"))?;
        let event = result::event::create(CUevent_flags::CU_EVENT_DISABLE_TIMING)
            .map_err(failed("making an event"))?;
        // SAFETY: the event was made just now, and is destroyed by the driver only when it has happened. The other stream is
        // one of the library that asks, in the context of the same device, which all share.
        let waiting = unsafe {
            result::event::record(event, own).and_then(|()| {
                result::stream::wait_event(other, event, CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT)
            })
        };
        // SAFETY: as above; it is not used any more.
        let destroyed = unsafe { result::event::destroy(event) };
        waiting.and(destroyed).map_err(failed("waiting for the stream of another library"))
    }
}

impl Drop for CudaMemory {
    fn drop(&mut self) {
        if self.context.bind_to_thread().is_ok() {
            // SAFETY: it came from `malloc_sync`; the call waits for all work on the device.
            let _ = unsafe { result::free_sync(self.address) };
        }
    }
}

impl Addresses for Cuda {
    fn memory(&self) -> Memory {
        Memory::Cuda(self.ordinal)
    }

    fn own(&self, bytes: usize) -> Result<(usize, Box<dyn Owner>)> {
        self.context.bind_to_thread().map_err(failed("binding the context"))?;
        let size = bytes.max(8);
        // SAFETY: given back once, by `drop`.
        let address = unsafe { result::malloc_sync(size) }
            .map_err(|e| Error::Memory(format!("{size} bytes do not fit on the device ({e})")))?;
        let (stream, context) = (self.stream.clone(), self.context.clone());
        Ok((address as usize, Box::new(CudaMemory { address, stream, context })))
    }

    fn stream(&self) -> usize {
        self.stream.cu_stream() as usize
    }

    unsafe fn read_at(&self, address: usize, bytes: &mut [u8]) -> Result<()> {
        self.context.bind_to_thread().map_err(failed("binding the context"))?;
        // SAFETY: the caller's promise; the bytes are not used before the stream has come to its end.
        unsafe { result::memcpy_dtoh_async(bytes, address as CUdeviceptr, self.stream.cu_stream()) }
            .map_err(failed("reading"))?;
        self.stream.synchronize().map_err(failed("reading"))
    }
}
