//! Arrays of the CPU device: rows that begin on cache lines and end in zeros.

use std::cell::Cell;
use std::ops::Range;

use super::{Memory, RawBuffer, ops};
use crate::error::{Error, Result};
use crate::memory;

/// Rows start at multiples of this many numbers: one cache line, and one vector of the loops.
const ALIGN: usize = super::simd::LANES;

pub struct Array {
    storage: Vec<f64>,
    offset: usize,
    rows: usize,
    stride: usize,
    pub dim: usize,
    /// The dimension, rounded up to whole vectors.
    padded: usize,
}

impl Array {
    pub fn new(rows: usize, dim: usize) -> Result<Self> {
        // One line more than the length, so that equal coordinates of the arrays do not share a cache set when the
        // dimension is a power of two.
        let padded = dim.next_multiple_of(ALIGN);
        let stride = padded + ALIGN;
        let length = rows
            .checked_mul(stride)
            .and_then(|n| n.checked_add(ALIGN))
            .filter(|n| *n < isize::MAX as usize / 8)
            .ok_or_else(|| too_large(rows, dim))?;
        let mut probe: Vec<f64> = Vec::new();
        probe.try_reserve_exact(length).map_err(|_| too_large(rows, dim))?;
        drop(probe);
        // Zeroed pages come from the system untouched: rows that no tree is deep enough to use cost no memory.
        let storage = vec![0.0; length];
        memory::ask_for_huge_pages(&storage);
        let offset = storage.as_ptr().align_offset(64).min(ALIGN);
        Ok(Array { storage, offset, rows, stride, dim, padded })
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    fn start(&self, row: usize) -> usize {
        assert!(row < self.rows, "row {row} of an array of {} rows", self.rows);
        self.offset + row * self.stride
    }

    /// All rows, to read and write beside each other.
    pub fn shared(&mut self) -> Shared<'_> {
        let Array { offset, rows, stride, .. } = *self;
        Shared { cells: Cell::from_mut(&mut self.storage[offset..]).as_slice_of_cells(), rows, stride }
    }

    /// Where it lies.
    pub fn raw(&mut self) -> RawBuffer {
        let address = self.storage[self.offset..].as_mut_ptr() as usize;
        let Array { rows, dim, stride, .. } = *self;
        RawBuffer { memory: Memory::Host, address, rows, dim, stride, bytes: size_of::<f64>(), stream: 0 }
    }

    /// A row without its padding.
    pub fn exact(&self, row: usize) -> &[f64] {
        &self.row(row)[..self.dim]
    }

    /// A row without its padding.
    pub fn exact_mut(&mut self, row: usize) -> &mut [f64] {
        let dim = self.dim;
        &mut self.row_mut(row)[..dim]
    }

    /// A row with its padding of zeros.
    pub fn row(&self, row: usize) -> &[f64] {
        let start = self.start(row);
        &self.storage[start..start + self.padded]
    }

    /// A row with its padding of zeros, which must stay zero.
    pub fn row_mut(&mut self, row: usize) -> &mut [f64] {
        let start = self.start(row);
        &mut self.storage[start..start + self.padded]
    }

    /// A row to read and another to write, with padding.
    pub fn pair(&mut self, read: usize, write: usize) -> (&[f64], &mut [f64]) {
        assert_ne!(read, write, "a row cannot be used twice");
        let (a, b, length) = (self.start(read), self.start(write), self.padded);
        if a < b {
            let (low, high) = self.storage.split_at_mut(b);
            (&low[a..a + length], &mut high[..length])
        } else {
            let (low, high) = self.storage.split_at_mut(a);
            (&high[..length], &mut low[b..b + length])
        }
    }
}

/// The rows of an array.
pub struct Shared<'a> {
    cells: &'a [Cell<f64>],
    rows: usize,
    stride: usize,
}

impl<'a> Shared<'a> {
    pub fn row(&self, row: usize, block: &Range<usize>) -> ops::Cells<'a> {
        assert!(row < self.rows, "row {row} of an array of {} rows", self.rows);
        let start = row * self.stride;
        &self.cells[start + block.start..start + block.end]
    }
}

fn too_large(rows: usize, dim: usize) -> Error {
    Error::Memory(format!("{rows} vectors of {dim} numbers do not fit"))
}
