//! What a GPU programming interface has to offer: memory, and kernels of the common source.

use super::share::Addresses;
use crate::device::Memory;
use crate::error::Result;

/// Handle of memory on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mem(pub usize);

/// An argument of a kernel.
#[derive(Clone, Copy, Debug)]
pub enum Arg {
    /// Memory.
    Mem(Mem),
    /// A whole number.
    Int(i64),
}

/// How kernels are compiled.
#[derive(Clone, Copy, Debug)]
pub struct Build {
    /// Items of a work group, a power of two.
    pub group: usize,
    /// Whether arrays hold numbers in single precision.
    pub single: bool,
}

impl Build {
    /// What a source is told of it.
    pub fn defines(self) -> String {
        let real = if self.single { "float" } else { "double" };
        format!("#define GROUP {}\ntypedef {real} real;\n", self.group)
    }
}

/// A device behind CUDA or OpenCL. Calls take effect in their order; reading waits for all of them.
pub trait Runtime: Send {
    /// What it is, for messages.
    fn name(&self) -> String;

    /// Items of a work group that suit it.
    fn group(&self) -> usize;

    /// Compile a source and keep its kernels.
    fn compile(&mut self, source: &str, build: Build) -> Result<()>;

    /// Memory, all zero.
    fn alloc(&mut self, bytes: usize) -> Result<Mem>;

    /// Give memory back.
    fn free(&mut self, mem: Mem);

    /// Copy from the host.
    fn write(&self, mem: Mem, offset: usize, bytes: &[u8]) -> Result<()>;

    /// Copy to the host.
    fn read(&self, mem: Mem, offset: usize, bytes: &mut [u8]) -> Result<()>;

    /// Copy on the device.
    fn copy(&self, src: (Mem, usize), dst: (Mem, usize), bytes: usize) -> Result<()>;

    /// Run a kernel over a grid of work groups.
    fn launch(&self, kernel: &str, grid: [usize; 2], args: &[Arg]) -> Result<()>;

    /// Kind of the memory, its address, and the stream.
    fn place(&self, mem: Mem) -> (Memory, usize, usize);

    /// The runtime itself, if other libraries can work on its memory.
    fn addresses(&self) -> Option<&dyn Addresses> {
        None
    }
}
