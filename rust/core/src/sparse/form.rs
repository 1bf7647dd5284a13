//! What the two forms of a factor have in common.

use faer::dyn_stack::{MemBuffer, StackReq};
use faer::sparse::{SparseColMatRef, SymbolicSparseColMatRef};

use crate::error::Error;

/// Where the numbers of a factor L lie, and what is computed from them. Rows and columns are permuted ones.
pub(super) trait Form: std::fmt::Debug + Send + Sync {
    /// How many numbers there are.
    fn entries(&self) -> usize;
    /// Where an entry of the lower triangle is, if it is in the pattern.
    fn slot(&self, row: usize, col: usize) -> Option<usize>;
    /// L of the matrix with the given entries, if it is positive definite.
    fn factor(&self, entries: &[f64]) -> Option<Vec<f64>>;
    /// log det A.
    fn log_det(&self, factor: &[f64]) -> f64;
    /// y <- L^-1 y.
    fn forward(&self, factor: &[f64], y: &mut [f64]);
    /// y <- L^-T y.
    fn backward(&self, factor: &[f64], y: &mut [f64]);
    /// Entries of A^-1, where those of L are.
    fn inverse(&self, factor: &[f64]) -> Vec<f64>;
}

/// A triangle of the permuted matrix, by columns.
#[derive(Debug)]
pub(super) struct Triangle {
    col_ptr: Vec<usize>,
    row_idx: Vec<usize>,
    /// Where each given entry lies.
    slots: Vec<usize>,
}

impl Triangle {
    /// From (column, row) of each given entry.
    pub(super) fn new(dim: usize, entries: impl Iterator<Item = (usize, usize)>) -> Self {
        let mut sorted: Vec<(usize, usize, usize)> =
            entries.enumerate().map(|(e, (col, row))| (col, row, e)).collect();
        sorted.sort_unstable();
        let mut col_ptr = vec![0; dim + 1];
        let mut slots = vec![0; sorted.len()];
        for (at, &(col, _, e)) in sorted.iter().enumerate() {
            col_ptr[col + 1] += 1;
            slots[e] = at;
        }
        for col in 0..dim {
            col_ptr[col + 1] += col_ptr[col];
        }
        Triangle { col_ptr, row_idx: sorted.into_iter().map(|(_, row, _)| row).collect(), slots }
    }

    /// The given numbers in its order.
    pub(super) fn fill(&self, entries: &[f64]) -> Vec<f64> {
        let mut values = vec![0.0; self.slots.len()];
        for (&slot, &value) in self.slots.iter().zip(entries) {
            values[slot] = value;
        }
        values
    }

    pub(super) fn pattern(&self, dim: usize) -> SymbolicSparseColMatRef<'_, usize> {
        SymbolicSparseColMatRef::new_checked(dim, dim, &self.col_ptr, None, &self.row_idx)
    }

    pub(super) fn matrix<'a>(&'a self, dim: usize, values: &'a [f64]) -> SparseColMatRef<'a, usize, f64> {
        SparseColMatRef::new(self.pattern(dim), values)
    }
}

pub(super) fn buffer(scratch: StackReq) -> Option<MemBuffer> {
    MemBuffer::try_new(scratch).ok()
}

pub(super) fn out_of_memory() -> Error {
    Error::Memory("the factor of a sparse matrix does not fit".into())
}
