//! Memory of a device that other libraries work on, through DLPack or the CUDA array interface.
//!
//! A library may read an array longer than the device lives, and at a time when nobody waits for it. So points for it are
//! copied into memory of their own ([`Shared`]), which is counted, and written only while nobody else has it.
#![allow(unsafe_code)]

use std::alloc::{self, Layout};

use super::{Buf, Cpu, Device, Memory, RawBuffer, Row};
use crate::error::{Error, Result};

/// What memory belongs to; it is given back when this is dropped, by any thread.
pub trait Owner: Send + Sync {
    /// Let `stream` wait for what the device was told to write so far; `None` is the default stream of the memory's kind.
    fn ready_for(&self, stream: Option<usize>) -> Result<()>;
}

/// Lines of numbers, one right after the other, whoever else has them.
pub struct Shared {
    raw: RawBuffer,
    owner: Box<dyn Owner>,
}

impl Shared {
    /// Memory that belongs to `owner`.
    ///
    /// # Safety
    /// All of `raw` must be memory that stays as long as the owner, and that nobody else writes.
    pub unsafe fn new(raw: RawBuffer, owner: Box<dyn Owner>) -> Self {
        Shared { raw, owner }
    }

    /// Where it lies.
    pub fn raw(&self) -> RawBuffer {
        self.raw
    }

    /// As [`Owner::ready_for`].
    pub fn ready_for(&self, stream: Option<usize>) -> Result<()> {
        self.owner.ready_for(stream)
    }
}

/// A device whose memory other libraries can work on.
pub trait Sharing: Send {
    /// Kind of the memory.
    fn memory(&self) -> Memory;

    /// New memory for so many lines, in the precision of the device's arrays.
    fn share(&mut self, rows: usize, dim: usize) -> Result<Shared>;

    /// Copy rows of an array, one after the other. The copy is there for those who asked [`Shared::ready_for`].
    fn gather(&mut self, src: Buf, rows: &[usize], dst: &mut Shared) -> Result<()>;

    /// Copy lines into rows of an array; perhaps later, but before the next [`Sharing::fetch`] returns.
    ///
    /// # Safety
    /// `src` must be memory of the device's kind, with finished writes as far as the device's stream can see, and stay
    /// until the device has read it.
    unsafe fn scatter(&mut self, src: &RawBuffer, dst: Buf, rows: &[usize]) -> Result<()>;

    /// Copy all lines to the host, one after the other.
    ///
    /// # Safety
    /// As of [`Sharing::scatter`].
    unsafe fn fetch(&mut self, src: &RawBuffer, dst: &mut [f64]) -> Result<()>;
}

/// What libraries want arrays to be aligned to if they are not to copy them.
const ALIGN: usize = 64;

/// Memory of the process. Nothing in here refers to it but addresses, so that others may.
struct HostMemory {
    address: usize,
    layout: Layout,
}

impl Owner for HostMemory {
    fn ready_for(&self, _stream: Option<usize>) -> Result<()> {
        Ok(())
    }
}

impl Drop for HostMemory {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout, and nobody has it any more.
        unsafe { alloc::dealloc(self.address as *mut u8, self.layout) }
    }
}

/// New memory of the process.
fn host_memory(rows: usize, dim: usize) -> Result<Shared> {
    let too_large = || Error::Memory(format!("{rows} points of {dim} numbers do not fit"));
    let bytes = rows.checked_mul(dim).and_then(|n| n.checked_mul(size_of::<f64>())).ok_or_else(too_large)?;
    let layout = Layout::from_size_align(bytes.max(ALIGN), ALIGN).map_err(|_| too_large())?;
    // SAFETY: the size is not zero.
    let address = unsafe { alloc::alloc_zeroed(layout) } as usize;
    if address == 0 {
        return Err(too_large());
    }
    let owner = Box::new(HostMemory { address, layout });
    let raw = RawBuffer { memory: Memory::Host, address, rows, dim, stride: dim, bytes: 8, stream: 0 };
    // SAFETY: it is as large, and given back with its owner.
    Ok(unsafe { Shared::new(raw, owner) })
}

/// A line of host memory in double precision: itself where it is, else a copy in `room`.
///
/// # Safety
/// `src` must be memory of the process that nobody writes as long as the result is there.
unsafe fn line<'a>(src: &RawBuffer, index: usize, room: &'a mut Vec<f64>) -> &'a [f64] {
    let start = src.address + index * src.stride * src.bytes;
    if src.bytes == size_of::<f64>() && start.is_multiple_of(align_of::<f64>()) {
        // SAFETY: the caller's promise, and it is aligned.
        return unsafe { std::slice::from_raw_parts(start as *const f64, src.dim) };
    }
    room.clear();
    room.extend((0..src.dim).map(|i| match src.bytes {
        // SAFETY: the caller's promise.
        4 => unsafe { ((start + 4 * i) as *const f32).read_unaligned() }.into(),
        // SAFETY: the caller's promise.
        _ => unsafe { ((start + 8 * i) as *const f64).read_unaligned() },
    }));
    room
}

impl Sharing for Cpu {
    fn memory(&self) -> Memory {
        Memory::Host
    }

    fn share(&mut self, rows: usize, dim: usize) -> Result<Shared> {
        host_memory(rows, dim)
    }

    fn gather(&mut self, src: Buf, rows: &[usize], dst: &mut Shared) -> Result<()> {
        let RawBuffer { memory, address, dim, .. } = dst.raw;
        assert!(
            memory == Memory::Host && rows.len() <= dst.raw.rows,
            "memory of another device, or too little"
        );
        // SAFETY: its numbers, and nobody else has the memory, since it is borrowed for writing.
        let all = unsafe { std::slice::from_raw_parts_mut(address as *mut f64, rows.len() * dim) };
        for (i, &index) in rows.iter().enumerate() {
            self.read(Row { buf: src, index }, &mut all[i * dim..(i + 1) * dim])?;
        }
        Ok(())
    }

    unsafe fn scatter(&mut self, src: &RawBuffer, dst: Buf, rows: &[usize]) -> Result<()> {
        assert!(
            src.memory == Memory::Host && rows.len() <= src.rows,
            "memory of another device, or too little"
        );
        let mut room = Vec::new();
        for (i, &index) in rows.iter().enumerate() {
            // SAFETY: the caller's promise.
            let numbers = unsafe { line(src, i, &mut room) };
            self.write(Row { buf: dst, index }, numbers)?;
        }
        Ok(())
    }

    unsafe fn fetch(&mut self, src: &RawBuffer, dst: &mut [f64]) -> Result<()> {
        assert!(src.memory == Memory::Host && dst.len() == src.rows * src.dim, "memory of another device");
        let mut room = Vec::new();
        for (i, dst) in dst.chunks_mut(src.dim.max(1)).enumerate() {
            // SAFETY: the caller's promise.
            dst.copy_from_slice(unsafe { line(src, i, &mut room) });
        }
        Ok(())
    }
}
