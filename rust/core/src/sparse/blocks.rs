//! A factor whose columns are taken together where they have one pattern (supernodes): nearly all work is dense products.
//!
//! With columns S and the rows R below them, Y = L_RS L_SS^-1, the inverse Z follows from the last block on:
//!
//! - Z_RS = -Z_RR Y,
//! - Z_SS = L_SS^-T L_SS^-1 - Y^T Z_RS,
//!
//! where Z_RR is gathered from the blocks that its columns belong to, which come after S.

use std::ops::Range;

use faer::dyn_stack::MemStack;
use faer::linalg::cholesky::llt::factor::LltRegularization;
use faer::linalg::matmul::matmul;
use faer::linalg::triangular_solve::{solve_lower_triangular_in_place, solve_upper_triangular_in_place};
use faer::sparse::linalg::cholesky::{simplicial, supernodal};
use faer::{Accum, MatMut, MatRef, Par};

use super::form::{Form, Triangle, buffer, out_of_memory};
use crate::error::Result;

/// The pattern of such a factor.
#[derive(Debug)]
pub(super) struct Blocks {
    dim: usize,
    lower: Triangle,
    symbolic: supernodal::SymbolicSupernodalCholesky<usize>,
    /// The block of each column.
    owner: Vec<usize>,
}

/// One block: columns `start..end`, and the rows below them. Its numbers are a matrix, column by column.
struct Block<'a> {
    start: usize,
    end: usize,
    below: &'a [usize],
    numbers: Range<usize>,
}

impl Block<'_> {
    fn width(&self) -> usize {
        self.end - self.start
    }

    fn height(&self) -> usize {
        self.width() + self.below.len()
    }

    fn column<'v>(&self, values: &'v [f64], j: usize) -> &'v [f64] {
        &values[self.numbers.start + (j - self.start) * self.height()..][..self.height()]
    }

    /// Where rows are in this block, for ascending ones from its start on.
    fn local_rows(&self, rows: &[usize], local: &mut Vec<usize>) {
        local.clear();
        let mut at = 0;
        for &row in rows {
            if row < self.end {
                local.push(row - self.start);
            } else {
                at += self.below[at..].partition_point(|&other| other < row);
                local.push(self.width() + at);
            }
        }
    }
}

impl Blocks {
    /// From both triangles, the elimination tree and how many entries each column of L has.
    pub(super) fn new(
        dim: usize,
        upper: &Triangle,
        lower: Triangle,
        tree: simplicial::EliminationTreeRef<'_, usize>,
        counts: &[usize],
    ) -> Result<Self> {
        let scratch = supernodal::factorize_supernodal_symbolic_cholesky_scratch::<usize>(dim);
        let mut buffer = buffer(scratch).ok_or_else(out_of_memory)?;
        let symbolic = supernodal::factorize_supernodal_symbolic_cholesky(
            upper.pattern(dim),
            tree,
            counts,
            MemStack::new(&mut buffer),
            Default::default(),
        )
        .map_err(|_| out_of_memory())?;
        let mut owner = vec![0; dim];
        for (s, (&start, &end)) in symbolic.supernode_begin().iter().zip(symbolic.supernode_end()).enumerate()
        {
            owner[start..end].fill(s);
        }
        Ok(Blocks { dim, lower, symbolic, owner })
    }

    fn count(&self) -> usize {
        self.symbolic.n_supernodes()
    }

    fn block(&self, s: usize) -> Block<'_> {
        let starts = self.symbolic.col_ptr_for_val();
        Block {
            start: self.symbolic.supernode_begin()[s],
            end: self.symbolic.supernode_end()[s],
            below: self.symbolic.supernode(s).pattern(),
            numbers: starts[s]..starts[s + 1],
        }
    }

    /// The entries of Z for rows and columns `rows`, as a full matrix, from the blocks that these belong to.
    fn gather(&self, inverse: &[f64], rows: &[usize], local: &mut Vec<usize>, out: &mut [f64]) {
        let size = rows.len();
        let mut first = 0;
        while first < size {
            let block = self.block(self.owner[rows[first]]);
            block.local_rows(&rows[first..], local);
            let last = first + rows[first..].partition_point(|&row| row < block.end);
            for c in first..last {
                let column = block.column(inverse, rows[c]);
                for (r, &at) in (c..size).zip(&local[c - first..]) {
                    out[c * size + r] = column[at];
                    out[r * size + c] = column[at];
                }
            }
            first = last;
        }
    }
}

/// The first numbers of a buffer, as a matrix.
fn matrix(numbers: &mut [f64], rows: usize, cols: usize) -> MatMut<'_, f64> {
    MatMut::from_column_major_slice_mut(&mut numbers[..rows * cols], rows, cols)
}

impl Form for Blocks {
    fn entries(&self) -> usize {
        self.symbolic.len_val()
    }

    fn slot(&self, row: usize, col: usize) -> Option<usize> {
        let block = self.block(self.owner[col]);
        let local = if row < block.end {
            row - block.start
        } else {
            block.width() + block.below.binary_search(&row).ok()?
        };
        Some(block.numbers.start + (col - block.start) * block.height() + local)
    }

    fn factor(&self, entries: &[f64]) -> Option<Vec<f64>> {
        let lower = self.lower.fill(entries);
        let mut values = vec![0.0; self.entries()];
        let scratch = supernodal::factorize_supernodal_numeric_llt_scratch::<usize, f64>(
            &self.symbolic,
            Par::Seq,
            Default::default(),
        );
        let mut buffer = buffer(scratch)?;
        supernodal::factorize_supernodal_numeric_llt(
            &mut values,
            self.lower.matrix(self.dim, &lower),
            LltRegularization::default(),
            &self.symbolic,
            Par::Seq,
            MemStack::new(&mut buffer),
            Default::default(),
        )
        .ok()?;
        Some(values)
    }

    fn log_det(&self, factor: &[f64]) -> f64 {
        let of_block = |s| {
            let block = self.block(s);
            (block.start..block.end).map(|j| block.column(factor, j)[j - block.start].ln()).sum::<f64>()
        };
        2.0 * (0..self.count()).map(of_block).sum::<f64>()
    }

    fn forward(&self, factor: &[f64], y: &mut [f64]) {
        for s in 0..self.count() {
            let block = self.block(s);
            for j in block.start..block.end {
                let (inside, below) = block.column(factor, j).split_at(block.width());
                let at = j - block.start;
                y[j] /= inside[at];
                let y_j = y[j];
                y[j + 1..block.end].iter_mut().zip(&inside[at + 1..]).for_each(|(y_i, l)| *y_i -= l * y_j);
                block.below.iter().zip(below).for_each(|(&i, l)| y[i] -= l * y_j);
            }
        }
    }

    fn backward(&self, factor: &[f64], y: &mut [f64]) {
        for s in (0..self.count()).rev() {
            let block = self.block(s);
            for j in (block.start..block.end).rev() {
                let (inside, below) = block.column(factor, j).split_at(block.width());
                let at = j - block.start;
                let near: f64 =
                    y[j + 1..block.end].iter().zip(&inside[at + 1..]).map(|(y_i, l)| l * y_i).sum();
                let far: f64 = block.below.iter().zip(below).map(|(&i, l)| l * y[i]).sum();
                y[j] = (y[j] - near - far) / inside[at];
            }
        }
    }

    fn inverse(&self, factor: &[f64]) -> Vec<f64> {
        let most = |number: fn(&Block<'_>) -> usize| {
            (0..self.count()).map(|s| number(&self.block(s))).max().unwrap_or(0)
        };
        let mut y = vec![0.0; most(|b| b.width() * b.below.len())];
        let mut z_rr = vec![0.0; most(|b| b.below.len() * b.below.len())];
        let mut root = vec![0.0; most(|b| b.width() * b.width())];
        let mut inverse = vec![0.0; factor.len()];
        let mut local = Vec::new();
        for s in (0..self.count()).rev() {
            let block = self.block(s);
            let (width, rows) = (block.width(), block.below.len());
            self.gather(&inverse, block.below, &mut local, &mut z_rr);
            let l = MatRef::from_column_major_slice(&factor[block.numbers.clone()], block.height(), width);
            let (l_ss, l_rs) = l.split_at_row(width);
            let (mut y, z_rr) = (matrix(&mut y, rows, width), matrix(&mut z_rr, rows, rows));
            y.copy_from(l_rs);
            solve_upper_triangular_in_place(l_ss.transpose(), y.as_mut().transpose_mut(), Par::Seq);
            let mut root = matrix(&mut root, width, width);
            root.fill(0.0);
            root.as_mut().diagonal_mut().fill(1.0);
            solve_lower_triangular_in_place(l_ss, root.as_mut(), Par::Seq);
            let z = matrix(&mut inverse[block.numbers.clone()], block.height(), width);
            let (mut z_ss, mut z_rs) = z.split_at_row_mut(width);
            matmul(z_rs.as_mut(), Accum::Replace, z_rr.as_ref(), y.as_ref(), -1.0, Par::Seq);
            matmul(z_ss.as_mut(), Accum::Replace, root.as_ref().transpose(), root.as_ref(), 1.0, Par::Seq);
            matmul(z_ss.as_mut(), Accum::Add, y.as_ref().transpose(), z_rs.as_ref(), -1.0, Par::Seq);
        }
        inverse
    }
}
