//! The factor A = L L^T of a sparse positive definite matrix, and the entries of A^-1 on the pattern of L.
//!
//! Ordering, symbolic and numeric factorisation are faer's. The entries of the inverse Z come from Z L = L^-T, column by
//! column from the last one on (Takahashi, Fagan and Chen 1973; Erisman and Tinney 1975):
//!
//! - Z_ij = -(sum over k > j of Z_ik L_kj) / L_jj for i > j,
//! - Z_jj = (1 / L_jj - sum over k > j of Z_kj L_kj) / L_jj,
//!
//! where only entries on the pattern of L are met, because that pattern has (i, k) with (i, j) and (k, j).

use faer::dyn_stack::{MemBuffer, MemStack, StackReq};
use faer::linalg::cholesky::llt::factor::LltRegularization;
use faer::sparse::linalg::amd;
use faer::sparse::linalg::cholesky::simplicial;
use faer::sparse::{SparseColMatRef, SymbolicSparseColMatRef};

use crate::error::{Error, Result};

/// What all matrices of one pattern have in common.
#[derive(Debug)]
pub struct Cholesky {
    dim: usize,
    /// Column of the permuted matrix for each row of the given one.
    place: Vec<usize>,
    /// The upper triangle of the permuted matrix, by columns.
    col_ptr: Vec<usize>,
    row_idx: Vec<usize>,
    /// Where each given entry lies in it, and in the factor.
    slots: Vec<usize>,
    factor_slots: Vec<usize>,
    symbolic: simplicial::SymbolicSimplicialCholesky<usize>,
}

/// The numbers of L, for a [`Cholesky`].
#[derive(Clone, Debug)]
pub struct Factor {
    values: Vec<f64>,
}

impl Cholesky {
    /// Analyse a pattern.
    ///
    /// The entries (rows\[e\], cols\[e\]) are those of the lower triangle, each once, all of the diagonal among them.
    /// With `reorder`, rows and columns are permuted to get a sparse factor, otherwise they stay as they are.
    pub fn new(dim: usize, rows: &[usize], cols: &[usize], reorder: bool) -> Result<Self> {
        check_pattern(dim, rows, cols)?;
        let natural: Vec<usize> = (0..dim).collect();
        let place = if reorder { minimum_degree(dim, rows, cols, &natural)? } else { natural };
        let (col_ptr, row_idx, slots) = upper_triangle(dim, rows, cols, &place);
        let symbolic = analyse(dim, &col_ptr, &row_idx)?;
        let mut factor_slots = Vec::with_capacity(rows.len());
        for (&r, &c) in rows.iter().zip(cols) {
            let (low, high) = ordered(place[r], place[c]);
            let start = symbolic.col_ptr()[low];
            let column = &symbolic.row_idx()[start..symbolic.col_ptr()[low + 1]];
            let Ok(found) = column.binary_search(&high) else {
                return Err(Error::Internal(
                    "an entry of a matrix is not in the pattern of its factor".into(),
                ));
            };
            factor_slots.push(start + found);
        }
        Ok(Cholesky { dim, place, col_ptr, row_idx, slots, factor_slots, symbolic })
    }

    /// Number of rows.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Number of given entries.
    pub fn entries(&self) -> usize {
        self.slots.len()
    }

    /// Number of entries of the factor.
    pub fn factor_entries(&self) -> usize {
        self.symbolic.len_val()
    }

    /// Factorise the matrix with these entries; `None` if it is not positive definite, or not of finite numbers.
    pub fn factor(&self, entries: &[f64]) -> Option<Factor> {
        let mut upper = vec![0.0; self.row_idx.len()];
        for (&slot, &value) in self.slots.iter().zip(entries) {
            upper[slot] = value;
        }
        let mut values = vec![0.0; self.symbolic.len_val()];
        let mut buffer =
            buffer(simplicial::factorize_simplicial_numeric_llt_scratch::<usize, f64>(self.dim))?;
        simplicial::factorize_simplicial_numeric_llt(
            &mut values,
            SparseColMatRef::new(pattern(self.dim, &self.col_ptr, &self.row_idx), &upper),
            LltRegularization::default(),
            &self.symbolic,
            MemStack::new(&mut buffer),
        )
        .ok()?;
        let factor = Factor { values };
        self.log_det(&factor).is_finite().then_some(factor)
    }

    /// log det A.
    pub fn log_det(&self, factor: &Factor) -> f64 {
        let starts = self.symbolic.col_ptr();
        2.0 * starts[..self.dim].iter().map(|&start| factor.values[start].ln()).sum::<f64>()
    }

    /// x <- A^-1 x.
    pub fn solve(&self, factor: &Factor, x: &mut [f64]) {
        let mut y = vec![0.0; self.dim];
        for (&to, &value) in self.place.iter().zip(&*x) {
            y[to] = value;
        }
        for j in 0..self.dim {
            let (pivot, below) = self.column(factor, j);
            y[j] /= pivot;
            let y_j = y[j];
            below.for_each(|(i, l)| y[i] -= l * y_j);
        }
        self.back_substitute(factor, y, x);
    }

    /// x <- P^T L^-T x, which has covariance A^-1 if x is standard normal; P is the permutation.
    pub fn color(&self, factor: &Factor, x: &mut [f64]) {
        self.back_substitute(factor, x.to_vec(), x);
    }

    /// The given entries of A^-1.
    pub fn inverse(&self, factor: &Factor) -> Vec<f64> {
        let starts = self.symbolic.col_ptr();
        let rows = self.symbolic.row_idx();
        let mut inverse = vec![0.0; rows.len()];
        // Of the column at hand, by row: sums over k, and entries of L. And which column each row was last met in.
        let (mut sums, mut column) = (vec![0.0; self.dim], vec![0.0; self.dim]);
        let mut met = vec![usize::MAX; self.dim];
        for j in (0..self.dim).rev() {
            let (start, end) = (starts[j], starts[j + 1]);
            for (&i, &l_ij) in rows[start + 1..end].iter().zip(&factor.values[start + 1..end]) {
                met[i] = j;
                sums[i] = 0.0;
                column[i] = l_ij;
            }
            for at in start + 1..end {
                let (k, l_kj) = (rows[at], factor.values[at]);
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
            let pivot = factor.values[start];
            let mut diagonal = 1.0 / pivot;
            for at in start + 1..end {
                inverse[at] = -sums[rows[at]] / pivot;
                diagonal -= inverse[at] * factor.values[at];
            }
            inverse[start] = diagonal / pivot;
        }
        self.factor_slots.iter().map(|&slot| inverse[slot]).collect()
    }

    /// Solve L^T z = y and put z back in the given order.
    fn back_substitute(&self, factor: &Factor, mut y: Vec<f64>, x: &mut [f64]) {
        for j in (0..self.dim).rev() {
            let (pivot, below) = self.column(factor, j);
            let sum: f64 = below.map(|(i, l)| l * y[i]).sum();
            y[j] = (y[j] - sum) / pivot;
        }
        for (value, &from) in x.iter_mut().zip(&self.place) {
            *value = y[from];
        }
    }

    /// The diagonal entry of a column of L, and the entries below it with their rows.
    fn column<'a>(&'a self, factor: &'a Factor, j: usize) -> (f64, impl Iterator<Item = (usize, f64)> + 'a) {
        let (start, end) = (self.symbolic.col_ptr()[j], self.symbolic.col_ptr()[j + 1]);
        let rows = &self.symbolic.row_idx()[start + 1..end];
        (factor.values[start], rows.iter().copied().zip(factor.values[start + 1..end].iter().copied()))
    }
}

fn ordered(a: usize, b: usize) -> (usize, usize) {
    (a.min(b), a.max(b))
}

fn check_pattern(dim: usize, rows: &[usize], cols: &[usize]) -> Result<()> {
    let mut on_diagonal = vec![false; dim];
    for (&r, &c) in rows.iter().zip(cols) {
        if r >= dim || c > r {
            return Err(Error::Setting(format!("({r}, {c}) is not in the lower triangle of {dim} rows")));
        }
        if r == c {
            on_diagonal[r] = true;
        }
    }
    if rows.len() != cols.len() || !on_diagonal.iter().all(|&found| found) {
        return Err(Error::Setting("a pattern needs a column for each row, and all of the diagonal".into()));
    }
    let mut entries: Vec<_> = rows.iter().zip(cols).collect();
    entries.sort_unstable();
    if entries.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(Error::Setting("an entry of the pattern is there twice".into()));
    }
    Ok(())
}

/// The upper triangle of the permuted matrix by columns, and where each entry lies in it.
fn upper_triangle(
    dim: usize,
    rows: &[usize],
    cols: &[usize],
    place: &[usize],
) -> (Vec<usize>, Vec<usize>, Vec<usize>) {
    let mut entries: Vec<(usize, usize, usize)> = (rows.iter().zip(cols).enumerate())
        .map(|(e, (&r, &c))| {
            let (low, high) = ordered(place[r], place[c]);
            (high, low, e)
        })
        .collect();
    entries.sort_unstable();
    let mut col_ptr = vec![0; dim + 1];
    let mut slots = vec![0; entries.len()];
    for (at, &(col, _, e)) in entries.iter().enumerate() {
        col_ptr[col + 1] += 1;
        slots[e] = at;
    }
    for col in 0..dim {
        col_ptr[col + 1] += col_ptr[col];
    }
    (col_ptr, entries.into_iter().map(|(_, row, _)| row).collect(), slots)
}

/// For each row its place in an order that keeps the factor sparse.
fn minimum_degree(dim: usize, rows: &[usize], cols: &[usize], natural: &[usize]) -> Result<Vec<usize>> {
    let (col_ptr, row_idx, _) = upper_triangle(dim, rows, cols, natural);
    let (mut order, mut place) = (vec![0; dim], vec![0; dim]);
    let scratch = amd::order_scratch::<usize>(dim, row_idx.len());
    let mut buffer = buffer(scratch).ok_or_else(out_of_memory)?;
    amd::order(
        &mut order,
        &mut place,
        pattern(dim, &col_ptr, &row_idx),
        amd::Control::default(),
        MemStack::new(&mut buffer),
    )
    .map_err(|_| out_of_memory())?;
    Ok(place)
}

fn analyse(
    dim: usize,
    col_ptr: &[usize],
    row_idx: &[usize],
) -> Result<simplicial::SymbolicSimplicialCholesky<usize>> {
    let matrix = pattern(dim, col_ptr, row_idx);
    let scratch = simplicial::prefactorize_symbolic_cholesky_scratch::<usize>(dim, row_idx.len())
        .or(simplicial::factorize_simplicial_symbolic_cholesky_scratch::<usize>(dim));
    let mut buffer = buffer(scratch).ok_or_else(out_of_memory)?;
    let (mut tree, mut counts) = (vec![0; dim], vec![0; dim]);
    let stack = MemStack::new(&mut buffer);
    let tree = simplicial::prefactorize_symbolic_cholesky(&mut tree, &mut counts, matrix, stack);
    simplicial::factorize_simplicial_symbolic_cholesky(matrix, tree, &counts, stack)
        .map_err(|_| out_of_memory())
}

fn pattern<'a>(dim: usize, col_ptr: &'a [usize], row_idx: &'a [usize]) -> SymbolicSparseColMatRef<'a, usize> {
    SymbolicSparseColMatRef::new_checked(dim, dim, col_ptr, None, row_idx)
}

fn buffer(scratch: StackReq) -> Option<MemBuffer> {
    MemBuffer::try_new(scratch).ok()
}

fn out_of_memory() -> Error {
    Error::Memory("the factor of a sparse matrix does not fit".into())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;
    use faer::Mat;
    use faer::prelude::Solve;

    /// A grid of so many rows and columns, with an entry that couples all to the first.
    fn grid(side: usize, hub: bool) -> (usize, Vec<usize>, Vec<usize>, Vec<f64>) {
        let dim = side * side;
        let mut entries = std::collections::BTreeMap::new();
        for i in 0..dim {
            entries.insert((i, i), 5.0 + (i % 7) as f64 + if hub && i == 0 { dim as f64 } else { 0.0 });
            if (i + 1) % side != 0 {
                entries.insert((i + 1, i), -1.0 - 0.1 * (i % 3) as f64);
            }
            if i + side < dim {
                entries.insert((i + side, i), -0.9);
            }
            if hub && i > 0 {
                entries.insert((i, 0), 0.5);
            }
        }
        let rows = entries.keys().map(|k| k.0).collect();
        let cols = entries.keys().map(|k| k.1).collect();
        (dim, rows, cols, entries.into_values().collect())
    }

    fn dense(dim: usize, rows: &[usize], cols: &[usize], values: &[f64]) -> Mat<f64> {
        let mut a = Mat::zeros(dim, dim);
        for ((&r, &c), &v) in rows.iter().zip(cols).zip(values) {
            a[(r, c)] = v;
            a[(c, r)] = v;
        }
        a
    }

    #[test]
    fn agrees_with_dense_algebra() {
        for (hub, reorder) in [(false, false), (false, true), (true, false), (true, true)] {
            let (dim, rows, cols, values) = grid(6, hub);
            let a = dense(dim, &rows, &cols, &values);
            let cholesky = Cholesky::new(dim, &rows, &cols, reorder).unwrap();
            let factor = cholesky.factor(&values).unwrap();
            let inverse = a.partial_piv_lu().solve(Mat::<f64>::identity(dim, dim));
            for ((&r, &c), z) in rows.iter().zip(&cols).zip(cholesky.inverse(&factor)) {
                assert!((z - inverse[(r, c)]).abs() < 1e-13, "{r} {c}: {z} {}", inverse[(r, c)]);
            }
            assert!((cholesky.log_det(&factor) - a.determinant().ln()).abs() < 1e-10);
            let b: Vec<f64> = (0..dim).map(|i| (i as f64).sin()).collect();
            let mut x = b.clone();
            cholesky.solve(&factor, &mut x);
            for i in 0..dim {
                let back: f64 = (0..dim).map(|j| a[(i, j)] * x[j]).sum();
                assert!((back - b[i]).abs() < 1e-12);
            }
        }
    }

    #[test]
    fn colours_noise() {
        // With C = P^T L^-T, C C^T is the inverse.
        let (dim, rows, cols, values) = grid(4, true);
        let cholesky = Cholesky::new(dim, &rows, &cols, true).unwrap();
        let factor = cholesky.factor(&values).unwrap();
        let mut c = Mat::zeros(dim, dim);
        for j in 0..dim {
            let mut x = vec![0.0; dim];
            x[j] = 1.0;
            cholesky.color(&factor, &mut x);
            (0..dim).for_each(|i| c[(i, j)] = x[i]);
        }
        let back = dense(dim, &rows, &cols, &values) * &c * c.transpose();
        for i in 0..dim {
            for j in 0..dim {
                assert!((back[(i, j)] - f64::from(u8::from(i == j))).abs() < 1e-12);
            }
        }
    }

    #[test]
    fn refuses_what_has_no_factor() {
        let (dim, rows, cols, mut values) = grid(3, false);
        let cholesky = Cholesky::new(dim, &rows, &cols, true).unwrap();
        let last = values.len() - 1;
        values[last] = -1.0;
        assert!(cholesky.factor(&values).is_none());
        values[last] = f64::NAN;
        assert!(cholesky.factor(&values).is_none());
        values[last] = f64::INFINITY;
        assert!(cholesky.factor(&values).is_none());
    }

    #[test]
    fn refuses_what_is_no_pattern() {
        assert!(Cholesky::new(2, &[0, 1, 0], &[0, 1, 1], true).is_err());
        assert!(Cholesky::new(2, &[0, 1], &[0, 0], true).is_err());
        assert!(Cholesky::new(2, &[0, 1, 1, 1], &[0, 1, 0, 0], true).is_err());
        assert!(Cholesky::new(2, &[0, 1, 2], &[0, 1, 0], true).is_err());
        assert_eq!(Cholesky::new(0, &[], &[], true).unwrap().factor(&[]).unwrap().values.len(), 0);
    }

    #[test]
    fn reordering_keeps_an_arrow_sparse() {
        let dim = 500;
        let rows: Vec<usize> = (0..dim).chain(1..dim).collect();
        let cols: Vec<usize> = (0..dim).chain(std::iter::repeat_n(0, dim - 1)).collect();
        assert_eq!(Cholesky::new(dim, &rows, &cols, true).unwrap().factor_entries(), 2 * dim - 1);
        assert_eq!(Cholesky::new(dim, &rows, &cols, false).unwrap().factor_entries(), dim * (dim + 1) / 2);
    }
}
