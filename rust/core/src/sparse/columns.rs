//! A factor that is kept column by column: the better form where columns have few entries, as in a band.
//!
//! The inverse takes the columns from the last one on:
//!
//! - Z_ij = -(sum over k > j of Z_ik L_kj) / L_jj for i > j,
//! - Z_jj = (1 / L_jj - sum over k > j of Z_kj L_kj) / L_jj.

use faer::dyn_stack::MemStack;
use faer::linalg::cholesky::llt::factor::LltRegularization;
use faer::sparse::linalg::cholesky::simplicial;

use super::form::{Form, Triangle, buffer, out_of_memory};
use crate::error::Result;

/// The pattern of such a factor.
#[derive(Debug)]
pub(super) struct Columns {
    dim: usize,
    upper: Triangle,
    symbolic: simplicial::SymbolicSimplicialCholesky<usize>,
}

impl Columns {
    /// From the upper triangle, its elimination tree and how many entries each column of L has.
    pub(super) fn new(
        dim: usize,
        upper: Triangle,
        tree: simplicial::EliminationTreeRef<'_, usize>,
        counts: &[usize],
    ) -> Result<Self> {
        let scratch = simplicial::factorize_simplicial_symbolic_cholesky_scratch::<usize>(dim);
        let mut buffer = buffer(scratch).ok_or_else(out_of_memory)?;
        let stack = MemStack::new(&mut buffer);
        let symbolic =
            simplicial::factorize_simplicial_symbolic_cholesky(upper.pattern(dim), tree, counts, stack)
                .map_err(|_| out_of_memory())?;
        Ok(Columns { dim, upper, symbolic })
    }

    /// The diagonal entry of a column of L, and the entries below it with their rows.
    fn column<'a>(&'a self, factor: &'a [f64], j: usize) -> (f64, impl Iterator<Item = (usize, f64)> + 'a) {
        let (start, end) = (self.symbolic.col_ptr()[j], self.symbolic.col_ptr()[j + 1]);
        let rows = &self.symbolic.row_idx()[start + 1..end];
        (factor[start], rows.iter().copied().zip(factor[start + 1..end].iter().copied()))
    }
}

impl Form for Columns {
    fn entries(&self) -> usize {
        self.symbolic.len_val()
    }

    fn slot(&self, row: usize, col: usize) -> Option<usize> {
        let start = self.symbolic.col_ptr()[col];
        let column = &self.symbolic.row_idx()[start..self.symbolic.col_ptr()[col + 1]];
        column.binary_search(&row).ok().map(|found| start + found)
    }

    fn factor(&self, entries: &[f64]) -> Option<Vec<f64>> {
        let upper = self.upper.fill(entries);
        let mut values = vec![0.0; self.entries()];
        let mut buffer =
            buffer(simplicial::factorize_simplicial_numeric_llt_scratch::<usize, f64>(self.dim))?;
        simplicial::factorize_simplicial_numeric_llt(
            &mut values,
            self.upper.matrix(self.dim, &upper),
            LltRegularization::default(),
            &self.symbolic,
            MemStack::new(&mut buffer),
        )
        .ok()?;
        Some(values)
    }

    fn log_det(&self, factor: &[f64]) -> f64 {
        let starts = self.symbolic.col_ptr();
        2.0 * starts[..self.dim].iter().map(|&start| factor[start].ln()).sum::<f64>()
    }

    fn forward(&self, factor: &[f64], y: &mut [f64]) {
        for j in 0..self.dim {
            let (pivot, below) = self.column(factor, j);
            y[j] /= pivot;
            let y_j = y[j];
            below.for_each(|(i, l)| y[i] -= l * y_j);
        }
    }

    fn backward(&self, factor: &[f64], y: &mut [f64]) {
        for j in (0..self.dim).rev() {
            let (pivot, below) = self.column(factor, j);
            let sum: f64 = below.map(|(i, l)| l * y[i]).sum();
            y[j] = (y[j] - sum) / pivot;
        }
    }

    fn inverse(&self, factor: &[f64]) -> Vec<f64> {
        let starts = self.symbolic.col_ptr();
        let rows = self.symbolic.row_idx();
        let mut inverse = vec![0.0; rows.len()];
        // Of the column at hand, by row: sums over k, and entries of L. And which column each row was last met in.
        let (mut sums, mut column) = (vec![0.0; self.dim], vec![0.0; self.dim]);
        let mut met = vec![usize::MAX; self.dim];
        for j in (0..self.dim).rev() {
            let (start, end) = (starts[j], starts[j + 1]);
            for (&i, &l_ij) in rows[start + 1..end].iter().zip(&factor[start + 1..end]) {
                met[i] = j;
                sums[i] = 0.0;
                column[i] = l_ij;
            }
            for at in start + 1..end {
                let (k, l_kj) = (rows[at], factor[at]);
                sums[k] += inverse[starts[k]] * l_kj;
                for other in starts[k] + 1..starts[k + 1] {
                    let i = rows[other];
                    if met[i] == j {
                        sums[i] += inverse[other] * l_kj;
                        // The same entry is (k, i), too.
                        sums[k] += inverse[other] * column[i];
                    }
                }
            }
            let pivot = factor[start];
            let mut diagonal = 1.0 / pivot;
            for at in start + 1..end {
                inverse[at] = -sums[rows[at]] / pivot;
                diagonal -= inverse[at] * factor[at];
            }
            inverse[start] = diagonal / pivot;
        }
        inverse
    }
}
