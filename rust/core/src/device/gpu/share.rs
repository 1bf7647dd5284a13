//! Memory of a GPU that other libraries work on.

use super::rows::Move;
use super::runtime::Arg;
use super::work::bytes_mut;
use super::{Gpu, Single};
use crate::device::{Buf, Memory, Owner, RawBuffer, Shared, Sharing};
use crate::error::{Error, Result};

/// A runtime whose memory has addresses that other libraries understand.
pub trait Addresses {
    /// Kind of the memory.
    fn memory(&self) -> Memory;

    /// New memory with its address, which is given back with its owner.
    fn own(&self, bytes: usize) -> Result<(usize, Box<dyn Owner>)>;

    /// The stream of the device.
    fn stream(&self) -> usize;

    /// Copy to the host, after all that was asked of the stream.
    ///
    /// # Safety
    /// So many bytes must be there.
    #[allow(unsafe_code)]
    unsafe fn read_at(&self, address: usize, bytes: &mut [u8]) -> Result<()>;
}

/// An address as an argument of a kernel.
fn at(address: usize) -> Arg {
    Arg::Int(address as i64)
}

impl Gpu {
    fn addresses(&self) -> Result<&dyn Addresses> {
        self.work.runtime.addresses().ok_or_else(|| Error::Device("this device shares no memory".into()))
    }
}

#[allow(unsafe_code)]
impl Sharing for Gpu {
    fn memory(&self) -> Memory {
        // The kind that is asked for where there is none is of no consequence: `Device::sharing` has said so before.
        self.addresses().map_or(Memory::OpenCl, |there| there.memory())
    }

    fn share(&mut self, rows: usize, dim: usize) -> Result<Shared> {
        let there = self.addresses()?;
        let length = rows.checked_mul(dim).and_then(|n| n.checked_mul(self.bytes()));
        let length =
            length.ok_or_else(|| Error::Memory(format!("{rows} points of {dim} numbers do not fit")))?;
        let (memory, stream) = (there.memory(), there.stream());
        let (address, owner) = there.own(length)?;
        let raw = RawBuffer { memory, address, rows, dim, stride: dim, bytes: self.bytes(), stream };
        // SAFETY: it is as large, and given back with its owner.
        Ok(unsafe { Shared::new(raw, owner) })
    }

    fn gather(&mut self, src: Buf, rows: &[usize], dst: &mut Shared) -> Result<()> {
        let (raw, from) = (dst.raw(), self.array(src));
        let fits = raw.bytes == self.bytes() && raw.dim == from.dim && rows.len() <= raw.rows;
        assert!(fits && raw.memory == self.memory(), "memory of another device, or too little");
        self.check(src, rows.iter().copied());
        let dim = raw.dim;
        let which = Move { src: (self.mem(src), dim), dst: (at(raw.address), raw.stride), dim };
        self.move_rows(which, rows.iter().copied().zip(0..))
    }

    unsafe fn scatter(&mut self, src: &RawBuffer, dst: Buf, rows: &[usize]) -> Result<()> {
        let dim = self.array(dst).dim;
        let fits = src.dim == dim && rows.len() <= src.rows && src.memory == self.memory();
        assert!(fits, "memory of another device, or too little");
        self.check(dst, rows.iter().copied());
        if src.bytes != self.bytes() {
            let mut numbers = vec![0.0; src.rows * dim];
            // SAFETY: the caller's promise.
            unsafe { self.fetch(src, &mut numbers)? };
            let lines = numbers.chunks_exact(dim.max(1)).zip(rows);
            return lines.into_iter().try_for_each(|(numbers, &index)| {
                crate::device::Device::write(self, crate::device::Row { buf: dst, index }, numbers)
            });
        }
        rows.iter().for_each(|row| self.arrays[dst.0].along.forget(*row));
        let which = Move { src: (at(src.address), src.stride), dst: (self.mem(dst), dim), dim };
        self.move_rows(which, (0..).zip(rows.iter().copied()))
    }

    unsafe fn fetch(&mut self, src: &RawBuffer, dst: &mut [f64]) -> Result<()> {
        assert!(dst.len() == src.rows * src.dim && src.memory == self.memory(), "memory of another device");
        let there = self.addresses()?;
        for (i, dst) in dst.chunks_mut(src.dim.max(1)).enumerate() {
            let address = src.address + i * src.stride * src.bytes;
            if src.bytes == size_of::<f64>() {
                // SAFETY: the caller's promise.
                unsafe { there.read_at(address, bytes_mut(dst))? };
                continue;
            }
            let mut found = vec![0.0 as Single; dst.len()];
            // SAFETY: the caller's promise.
            unsafe { there.read_at(address, bytes_mut(&mut found))? };
            dst.iter_mut().zip(found).for_each(|(to, v)| *to = v.into());
        }
        Ok(())
    }
}

#[cfg(all(test, feature = "opencl"))]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::device::gpu::OpenCl;
    use crate::device::{Device, DeviceOptions, Row};

    /// OpenCL shares no memory, but runs the same kernel. Without OpenCL there is nothing to test.
    #[test]
    fn rows_move_between_strides() {
        for single in [false, true] {
            let Ok(runtime) = OpenCl::open(0) else { return };
            let mut gpu = Gpu::new(Box::new(runtime), DeviceOptions { single }).unwrap();
            assert!(gpu.sharing().is_none());
            for (dim, stride) in [(1, 1), (5, 7), (4097, 4100)] {
                let [from, to] = [(4, stride), (3, dim)].map(|(rows, dim)| gpu.alloc(rows, dim).unwrap());
                let number = |row: usize, j: usize| (1000 * row + j % 1000) as f64;
                for index in 0..4 {
                    let line: Vec<f64> = (0..stride).map(|j| number(index, j)).collect();
                    gpu.write(Row { buf: from, index }, &line).unwrap();
                }
                let which = Move { src: (gpu.mem(from), stride), dst: (gpu.mem(to), dim), dim };
                gpu.move_rows(which, [(3, 0), (1, 2)].into_iter()).unwrap();
                for (index, source) in [(0, Some(3)), (1, None), (2, Some(1))] {
                    let mut found = vec![f64::NAN; dim];
                    gpu.read(Row { buf: to, index }, &mut found).unwrap();
                    let wanted: Vec<f64> =
                        (0..dim).map(|j| source.map_or(0.0, |row| number(row, j))).collect();
                    assert_eq!(found, wanted, "{dim} of {stride}");
                }
            }
        }
    }
}
