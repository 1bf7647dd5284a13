//! The factor A = L L^T of a sparse positive definite matrix, and the entries of A^-1 on the pattern of L.
//!
//! Ordering, symbolic and numeric factorisation are faer's. The entries of the inverse Z come from Z L = L^-T, from the
//! last columns on (Takahashi, Fagan and Chen 1973; Erisman and Tinney 1975), where only entries on the pattern of L are
//! met, because that pattern has (i, k) with (i, j) and (k, j).

use faer::dyn_stack::MemStack;
use faer::sparse::linalg::amd;
use faer::sparse::linalg::cholesky::simplicial;

use super::blocks::Blocks;
use super::columns::Columns;
use super::form::{Form, Triangle, buffer, out_of_memory};
use crate::error::{Error, Result};

/// Multiplications for each entry of L from which on columns with one pattern are taken together: with fewer, blocks
/// are too small to gain from dense products. Square grids of 32 x 32 take as long either way.
const WORTH_BLOCKS: f64 = 25.0;

/// What all matrices of one pattern have in common.
#[derive(Debug)]
pub struct Cholesky {
    dim: usize,
    /// Column of the permuted matrix for each row of the given one.
    place: Vec<usize>,
    form: Box<dyn Form>,
    /// Where each given entry lies in the factor.
    slots: Vec<usize>,
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
        let place = if reorder { minimum_degree(dim, rows, cols)? } else { (0..dim).collect() };
        let worth = if reorder { WORTH_BLOCKS } else { f64::INFINITY };
        Self::in_order(dim, rows, cols, place, worth)
    }

    fn in_order(
        dim: usize,
        rows: &[usize],
        cols: &[usize],
        place: Vec<usize>,
        worth_blocks: f64,
    ) -> Result<Self> {
        let placed: Vec<_> = rows.iter().zip(cols).map(|(&r, &c)| ordered(place[r], place[c])).collect();
        let form = choose_form(dim, &placed, worth_blocks)?;
        let slot = |&(low, high): &(usize, usize)| {
            form.slot(high, low).ok_or_else(|| {
                Error::Internal("an entry of a matrix is not in the pattern of its factor".into())
            })
        };
        let slots = placed.iter().map(slot).collect::<Result<_>>()?;
        Ok(Cholesky { dim, place, form, slots })
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
        self.form.entries()
    }

    /// Factorise the matrix with these entries; `None` if it is not positive definite, or not of finite numbers.
    pub fn factor(&self, entries: &[f64]) -> Option<Factor> {
        let factor = Factor { values: self.form.factor(entries)? };
        self.log_det(&factor).is_finite().then_some(factor)
    }

    /// log det A.
    pub fn log_det(&self, factor: &Factor) -> f64 {
        self.form.log_det(&factor.values)
    }

    /// x <- A^-1 x.
    pub fn solve(&self, factor: &Factor, x: &mut [f64]) {
        let mut y = vec![0.0; self.dim];
        for (&to, &value) in self.place.iter().zip(&*x) {
            y[to] = value;
        }
        self.form.forward(&factor.values, &mut y);
        self.back_substitute(factor, y, x);
    }

    /// x <- P^T L^-T x, which has covariance A^-1 if x is standard normal; P is the permutation.
    pub fn color(&self, factor: &Factor, x: &mut [f64]) {
        self.back_substitute(factor, x.to_vec(), x);
    }

    /// The given entries of A^-1.
    pub fn inverse(&self, factor: &Factor) -> Vec<f64> {
        let inverse = self.form.inverse(&factor.values);
        self.slots.iter().map(|&slot| inverse[slot]).collect()
    }

    /// Solve L^T z = y and put z back in the given order.
    fn back_substitute(&self, factor: &Factor, mut y: Vec<f64>, x: &mut [f64]) {
        self.form.backward(&factor.values, &mut y);
        for (value, &from) in x.iter_mut().zip(&self.place) {
            *value = y[from];
        }
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

/// For each row its place in an order that keeps the factor sparse.
fn minimum_degree(dim: usize, rows: &[usize], cols: &[usize]) -> Result<Vec<usize>> {
    let upper = Triangle::new(dim, rows.iter().copied().zip(cols.iter().copied()));
    let (mut order, mut place) = (vec![0; dim], vec![0; dim]);
    let mut buffer = buffer(amd::order_scratch::<usize>(dim, rows.len())).ok_or_else(out_of_memory)?;
    let (control, stack) = (amd::Control::default(), MemStack::new(&mut buffer));
    amd::order(&mut order, &mut place, upper.pattern(dim), control, stack).map_err(|_| out_of_memory())?;
    Ok(place)
}

/// Where the numbers of the factor lie, for entries at (column, row) of the permuted lower triangle.
fn choose_form(dim: usize, placed: &[(usize, usize)], worth_blocks: f64) -> Result<Box<dyn Form>> {
    let upper = Triangle::new(dim, placed.iter().map(|&(low, high)| (high, low)));
    let scratch = simplicial::prefactorize_symbolic_cholesky_scratch::<usize>(dim, placed.len());
    let mut buffer = buffer(scratch).ok_or_else(out_of_memory)?;
    let (mut parents, mut counts) = (vec![0; dim], vec![0; dim]);
    let tree = simplicial::prefactorize_symbolic_cholesky(
        &mut parents,
        &mut counts,
        upper.pattern(dim),
        MemStack::new(&mut buffer),
    );
    let entries: f64 = counts.iter().map(|&count| count as f64).sum();
    let work: f64 = counts.iter().map(|&count| (count as f64).powi(2)).sum();
    Ok(if work > worth_blocks * entries {
        let lower = Triangle::new(dim, placed.iter().copied());
        Box::new(Blocks::new(dim, &upper, lower, tree, &counts)?)
    } else {
        Box::new(Columns::new(dim, upper, tree, &counts)?)
    })
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

    /// All that can be had for a pattern: in the given order or another, by columns or by blocks.
    fn all_forms(dim: usize, rows: &[usize], cols: &[usize]) -> Vec<Cholesky> {
        let orders = [(0..dim).collect(), minimum_degree(dim, rows, cols).unwrap()];
        let made = |(order, worth): (&Vec<usize>, f64)| {
            Cholesky::in_order(dim, rows, cols, order.clone(), worth).unwrap()
        };
        orders.iter().flat_map(|order| [0.0, f64::INFINITY].map(|worth| made((order, worth)))).collect()
    }

    #[test]
    fn agrees_with_dense_algebra() {
        for (side, hub) in [(6, false), (6, true), (13, true)] {
            let (dim, rows, cols, values) = grid(side, hub);
            let a = dense(dim, &rows, &cols, &values);
            let inverse = a.partial_piv_lu().solve(Mat::<f64>::identity(dim, dim));
            for cholesky in all_forms(dim, &rows, &cols) {
                let factor = cholesky.factor(&values).unwrap();
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
    }

    #[test]
    fn colours_noise() {
        // With C = P^T L^-T, C C^T is the inverse.
        let (dim, rows, cols, values) = grid(7, true);
        for cholesky in all_forms(dim, &rows, &cols) {
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
    }

    #[test]
    fn refuses_what_has_no_factor() {
        let (dim, rows, cols, mut values) = grid(3, false);
        let last = values.len() - 1;
        for cholesky in all_forms(dim, &rows, &cols) {
            for wrong in [-1.0, f64::NAN, f64::INFINITY] {
                values[last] = wrong;
                assert!(cholesky.factor(&values).is_none());
            }
        }
    }

    #[test]
    fn large_grids_are_factorised_by_blocks() {
        let blocks = |side| {
            let (dim, rows, cols, _) = grid(side, false);
            format!("{:?}", Cholesky::new(dim, &rows, &cols, true).unwrap().form).starts_with("Blocks")
        };
        assert!(!blocks(10) && blocks(60));
    }

    #[test]
    #[ignore = "prints seconds"]
    fn seconds_of_a_large_grid() {
        for (side, worth) in [32, 60, 100, 316].into_iter().flat_map(|s| [(s, 0.0), (s, f64::INFINITY)]) {
            let (dim, rows, cols, values) = grid(side, false);
            let mut clock = std::time::Instant::now();
            let mut lap = |what: &str| {
                println!("{what} {:.4} s", clock.elapsed().as_secs_f64());
                clock = std::time::Instant::now();
            };
            let order = minimum_degree(dim, &rows, &cols).unwrap();
            lap("order");
            let cholesky = Cholesky::in_order(dim, &rows, &cols, order, worth).unwrap();
            lap("analysis");
            let factor = cholesky.factor(&values).unwrap();
            lap("factor");
            cholesky.inverse(&factor);
            lap("inverse");
            cholesky.solve(&factor, &mut vec![1.0; dim]);
            lap("solve");
            println!("{side} x {side}, {worth}: {} entries", cholesky.factor_entries());
        }
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
