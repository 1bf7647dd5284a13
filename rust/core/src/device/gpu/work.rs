//! Launching kernels over operations and chunks of columns, and adding up what they find.

use super::runtime::{Arg, Mem, Runtime};
use crate::error::{Error, Result};

/// Numbers in the record of an operation.
pub const RECORD: usize = 8;

/// Columns of a chunk. The result depends on it, so it depends on the dimension only.
const CHUNK: usize = 2048;

/// Largest number of chunks: grids have less than 2^16 rows.
const MOST_CHUNKS: usize = 32_768;

/// Memory that grows.
#[derive(Default)]
struct Room {
    mem: Option<Mem>,
    bytes: usize,
}

impl Room {
    fn at_least(&mut self, runtime: &mut dyn Runtime, bytes: usize) -> Result<Mem> {
        if let Some(mem) = self.mem.filter(|_| bytes <= self.bytes) {
            return Ok(mem);
        }
        if let Some(mem) = self.mem.take() {
            runtime.free(mem);
        }
        let bytes = bytes.max(1024).next_power_of_two();
        let mem = runtime.alloc(bytes)?;
        (self.mem, self.bytes) = (Some(mem), bytes);
        Ok(mem)
    }
}

/// What is uploaded for a launch.
#[derive(Clone, Copy)]
pub enum Table {
    /// Records of operations.
    Ops,
    /// What else a kernel wants to know, such as spans.
    More,
}

/// Memory for the time of one phase.
#[derive(Clone, Copy)]
pub enum Scratch {
    /// Weights of directions.
    Weights,
    /// Products with directions.
    Found,
    /// Rows of numbers.
    Rows,
    /// Partial sums that do not meet those of the phase.
    Partials,
}

/// How a row is cut.
#[derive(Clone, Copy)]
pub struct Cut {
    pub dim: usize,
    /// Columns of a chunk, a multiple of 16.
    pub chunk: usize,
    pub chunks: usize,
}

impl Cut {
    pub fn new(dim: usize) -> Self {
        let chunk = CHUNK * dim.div_ceil(CHUNK * MOST_CHUNKS).max(1);
        Cut { dim, chunk, chunks: dim.div_ceil(chunk).max(1) }
    }

    /// Partial sums of each sum: one for each chunk, and one for the rest.
    pub fn stride(&self) -> usize {
        self.chunks + 1
    }

    /// The last arguments of a kernel over columns.
    pub fn args(&self) -> [Arg; 2] {
        [int(self.dim), int(self.chunk)]
    }
}

/// A whole number for a kernel.
pub fn int(v: usize) -> Arg {
    Arg::Int(v as i64)
}

/// A runtime with the memory that every phase needs.
pub struct Work {
    pub runtime: Box<dyn Runtime>,
    tables: [Room; 2],
    scratch: [Room; 4],
    partials: Room,
    sums: Room,
}

impl Work {
    pub fn new(runtime: Box<dyn Runtime>) -> Self {
        Work {
            runtime,
            tables: Default::default(),
            scratch: Default::default(),
            partials: Room::default(),
            sums: Room::default(),
        }
    }

    /// Upload a table.
    pub fn table(&mut self, which: Table, numbers: &[f64]) -> Result<Mem> {
        let bytes = bytes(numbers);
        let mem = self.tables[which as usize].at_least(&mut *self.runtime, bytes.len())?;
        if !bytes.is_empty() {
            self.runtime.write(mem, 0, bytes)?;
        }
        Ok(mem)
    }

    /// Memory whose numbers are lost with the phase.
    pub fn scratch(&mut self, which: Scratch, bytes: usize) -> Result<Mem> {
        self.scratch[which as usize].at_least(&mut *self.runtime, bytes)
    }

    /// Room for the partial sums of `n` sums.
    pub fn partials(&mut self, n: usize, cut: Cut) -> Result<Mem> {
        let length = n.checked_mul(cut.stride() * size_of::<f64>());
        let length = length.ok_or_else(|| Error::Memory("too many sums".into()))?;
        self.partials.at_least(&mut *self.runtime, length)
    }

    /// Run a kernel for each operation and chunk.
    pub fn launch(&self, kernel: &str, ops: usize, cut: Cut, args: &[Arg]) -> Result<()> {
        self.runtime.launch(kernel, [ops, cut.chunks], &[args, &cut.args()].concat())
    }

    /// Run a kernel for each operation.
    pub fn launch_each(&self, kernel: &str, ops: usize, args: &[Arg]) -> Result<()> {
        self.runtime.launch(kernel, [ops, 1], args)
    }

    /// Add up `out.len()` sums.
    pub fn add_up(&mut self, cut: Cut, out: &mut [f64]) -> Result<()> {
        if out.is_empty() {
            return Ok(());
        }
        let partials = self.partials(out.len(), cut)?;
        let sums = self.sums.at_least(&mut *self.runtime, size_of_val(out))?;
        let args = [Arg::Mem(partials), int(cut.stride()), Arg::Mem(sums), int(0), int(0), Arg::Mem(sums)];
        self.launch_each("gather", out.len(), &args)?;
        self.runtime.read(sums, 0, bytes_mut(out))
    }
}

/// Numbers as bytes.
#[allow(unsafe_code)]
pub fn bytes<T: Number>(numbers: &[T]) -> &[u8] {
    // SAFETY: numbers have no padding, and any byte is a byte.
    unsafe { std::slice::from_raw_parts(numbers.as_ptr().cast(), size_of_val(numbers)) }
}

/// Numbers as bytes.
#[allow(unsafe_code)]
pub fn bytes_mut<T: Number>(numbers: &mut [T]) -> &mut [u8] {
    // SAFETY: as above, and any bytes are a number.
    unsafe { std::slice::from_raw_parts_mut(numbers.as_mut_ptr().cast(), size_of_val(numbers)) }
}

/// Types of which any bytes are a value.
pub trait Number: Copy {}
impl Number for f32 {}
impl Number for f64 {}
