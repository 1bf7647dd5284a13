//! A metric that couples parameters, in the form that the CPU device works with: M^-1 = D + T^T C T, D diagonal.
//!
//! A product takes two passes over T. Since M^-1 is linear, T p follows from T of the gradients by the kicks that p gets
//! ([`super::along::Along`]). What is left for a leapfrog is one pass to get T g of its new gradient, and one to move the
//! position by T^T C T p.
//!
//! With few eigenvectors D = S^2 and T = U S, up to the rounding of its numbers. That and whatever else keeps the rows of
//! T S^-1 from being orthonormal does no harm: with T D^-1 T^T = R^T R those of V = R^-T T S^-1 are orthonormal, and the matrix
//! is S (I + V^T (Lambda - I) V) S. With many eigenvectors D = 0, C = I and T is triangular. Either way momenta are drawn
//! for the very matrix that energies are computed with.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::along::padded;
use super::array::Array;
use super::directions::Directions;
use super::ops::{self, Cells};
use super::simd::{self, LANES, Loop, Vector};
use super::triangular::{self, add_scaled};
use crate::error::{Error, Result};
use crate::metric::Metric;

/// How near to each other the columns of a triangular T may be, for its rounding to do no harm.
const LEAST_PIVOT: f64 = 1e-4;

/// How near to each other directions may be.
const LEAST_ANGLE: f64 = 1e-6;

/// A metric of rank one or more.
pub struct Coupling {
    /// Unlike any other in this process, and not 0.
    pub id: u64,
    metric: Arc<Metric>,
    /// D, then S^-1.
    scales: Array,
    directions: Directions,
    /// `None` if T is triangular.
    few: Option<Few>,
}

/// What belongs to a T that is not triangular.
struct Few {
    rank: usize,
    /// C = R^-1 (Lambda - I) R^-T.
    inv_mass: Square,
    /// R^-1 (Lambda^-1/2 - I) R^-T: p = S^-1 z + D^-1 T^T times that times T S^-1 z.
    momentum: Square,
    /// R^T Lambda^-1/2 R^-T: T p = that times T S^-1 z.
    along_momentum: Square,
    /// R^-1 (Lambda^-1 - I) R^-T: M = D^-1 + D^-1 T^T times that times T D^-1.
    mass: Square,
}

impl Coupling {
    /// Prepare a metric, which must be usable.
    fn new(metric: &Arc<Metric>) -> Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let (directions, few) = match Self::triangular(metric)? {
            Some(directions) => (directions, None),
            None => Self::few(metric).map(|(directions, few)| (directions, Some(few)))?,
        };
        let mut scales = Array::new(2, metric.dim())?;
        for (i, s) in metric.stds.iter().enumerate() {
            scales.exact_mut(0)[i] = if few.is_some() { s * s } else { 0.0 };
            scales.exact_mut(1)[i] = 1.0 / s;
        }
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        Ok(Coupling { id, metric: metric.clone(), scales, directions, few })
    }

    /// T with T^T T = M^-1, where that is less work: a triangular matrix has half the numbers of a square one. Not if M^-1
    /// is nearly singular.
    fn triangular(metric: &Metric) -> Result<Option<Directions>> {
        let dim = metric.dim();
        if 2 * metric.rank() <= dim {
            return Ok(None);
        }
        let mut matrix = vec![0.0; dim * dim];
        for (i, row) in matrix.chunks_exact_mut(dim).enumerate() {
            row[i] = 1.0;
            for (value, u) in metric.values.iter().zip(metric.rows()) {
                add_scaled(&mut row[i..], (value - 1.0) * u[i], &u[i..]);
            }
        }
        if !triangular::cholesky(&mut matrix, dim, LEAST_PIVOT) {
            return Ok(None);
        }
        Directions::triangular(dim, |row, i| matrix[row * dim + i] * metric.stds[i]).map(Some)
    }

    fn few(metric: &Metric) -> Result<(Directions, Few)> {
        let (dim, rank) = (metric.dim(), metric.rank());
        let Metric { stds, values, vectors, .. } = metric;
        let directions = Directions::new(rank, dim, |row, i| vectors[row * dim + i] * stds[i])?;
        let mut gram = vec![0.0; rank * rank];
        directions.for_each_row(|k, row| {
            row.iter_mut().zip(stds).for_each(|(v, s)| *v /= s * s);
            directions.project(cells(row), &mut gram[k * rank..(k + 1) * rank]);
        });
        if !triangular::cholesky(&mut gram, rank, LEAST_ANGLE) {
            return Err(Error::Metric("the directions of an inverse mass matrix are not independent".into()));
        }
        let inverse = triangular::inverse(&gram, rank);
        let left = |i: usize, k: usize| inverse[i * rank + k];
        let square = |of: fn(f64) -> f64| Square::product(left, values, of, left);
        let root = |i: usize, k: usize| if k <= i { gram[k * rank + i] } else { 0.0 };
        let few = Few {
            rank,
            inv_mass: square(|v| v - 1.0),
            momentum: square(|v| 1.0 / v.sqrt() - 1.0),
            along_momentum: Square::product(root, values, |v| 1.0 / v.sqrt(), left),
            mass: square(|v| 1.0 / v - 1.0),
        };
        Ok((directions, few))
    }

    /// The metric that it was made from.
    pub fn metric(&self) -> &Metric {
        &self.metric
    }

    /// Number of rows of T.
    pub fn rank(&self) -> usize {
        self.few.as_ref().map_or(self.metric.dim(), |few| few.rank)
    }

    /// D, with padding.
    pub fn diagonal(&self) -> &[f64] {
        self.scales.row(0)
    }

    /// T v and C T v.
    pub fn measure(&self, v: Cells<'_>, [along, weighed]: [&mut [f64]; 2]) {
        let (own, padding) = along.split_at_mut(self.rank());
        self.directions.project(v, own);
        padding.fill(0.0);
        match &self.few {
            Some(few) => few.inv_mass.times(along, weighed),
            None => weighed.copy_from_slice(along),
        }
    }

    /// x += drift T^T weighed, where `weighed` is C T p.
    pub fn drift(&self, drift: f64, weighed: &[f64], x: Cells<'_>, scratch: &mut Vec<f64>) {
        scratch.clear();
        scratch.extend(weighed[..self.rank()].iter().map(|v| drift * v));
        self.directions.spread(scratch, x);
    }

    /// Make standard normal numbers z into a momentum p with covariance M, and find T p and C T p; returns |z|^2, which is
    /// p M^-1 p.
    pub fn momentum(&self, z: &mut [f64], [along, weighed]: [&mut [f64]; 2], scratch: &mut Vec<f64>) -> f64 {
        let Some(few) = &self.few else {
            let square = ops::dot(z, z);
            along.copy_from_slice(z);
            weighed.copy_from_slice(z);
            self.directions.solve(cells(z));
            return square;
        };
        let mass_sqrt = self.scales.row(1);
        let square = ops::scale_normal(z, mass_sqrt);
        let p = z;
        let [first, by, more] = few.room(scratch, p.len());
        self.directions.project(cells(p), &mut first[..self.rank()]);
        few.momentum.times(first, by);
        self.directions.spread(&by[..self.rank()], cells(more));
        for ((p, more), m) in p.iter_mut().zip(more).zip(mass_sqrt) {
            *p += m * m * *more;
        }
        few.along_momentum.times(first, along);
        few.inv_mass.times(along, weighed);
        square
    }

    /// |z|^2 in the norm of M, z = x - centre + M^-1 g, where `along_g` is T g and C T g.
    pub fn distance(&self, point: [&[f64]; 3], along_g: [&[f64]; 2], scratch: &mut Vec<f64>) -> f64 {
        let [x, g, center] = point;
        let Some(few) = &self.few else {
            // M = T^-1 T^-T, so it is |T^-T (x - centre) + T g|^2.
            scratch.clear();
            scratch.extend(x.iter().zip(center).map(|(x, c)| x - c));
            self.directions.solve_transposed(cells(scratch));
            scratch.iter_mut().zip(along_g[0]).for_each(|(y, g)| *y += g);
            return ops::dot(scratch, scratch);
        };
        let (diagonal, mass_sqrt) = (self.scales.row(0), self.scales.row(1));
        let [along, by, scaled] = few.room(scratch, x.len());
        for (i, m) in mass_sqrt.iter().enumerate() {
            scaled[i] = m * m * (x[i] - center[i]);
        }
        self.directions.project(cells(scaled), &mut along[..self.rank()]);
        few.mass.times(along, by);
        let of_diagonal = ops::fisher_distance([x, g, center, diagonal, mass_sqrt]);
        of_diagonal + ops::dot(along, by) + ops::dot(along_g[0], along_g[1])
    }

    /// m = M (x - centre).
    pub fn pull(&self, x: &[f64], center: &[f64], out: &mut [f64], scratch: &mut Vec<f64>) {
        let Some(few) = &self.few else {
            out.iter_mut().zip(x).zip(center).for_each(|((m, x), c)| *m = x - c);
            self.directions.solve_transposed(cells(out));
            self.directions.solve(cells(out));
            return;
        };
        let mass_sqrt = self.scales.row(1);
        ops::pull(x, center, mass_sqrt, out);
        let [along, by, more] = few.room(scratch, x.len());
        self.directions.project(cells(out), &mut along[..self.rank()]);
        few.mass.times(along, by);
        self.directions.spread(&by[..self.rank()], cells(more));
        for ((m, more), root) in out.iter_mut().zip(more).zip(mass_sqrt) {
            *m += root * root * *more;
        }
    }
}

impl Few {
    /// Two lists as long as T has rows, and one as long as it has columns, all zero.
    fn room<'a>(&self, scratch: &'a mut Vec<f64>, columns: usize) -> [&'a mut [f64]; 3] {
        let n = padded(self.rank);
        scratch.clear();
        scratch.resize(2 * n + columns, 0.0);
        let (first, rest) = scratch.split_at_mut(n);
        let (second, third) = rest.split_at_mut(n);
        [first, second, third]
    }
}

fn cells(slice: &mut [f64]) -> Cells<'_> {
    Cell::from_mut(slice).as_slice_of_cells()
}

/// A square matrix, eight rows at a time.
struct Square {
    n: usize,
    numbers: Vec<f64>,
}

impl Square {
    /// X F Y^T, F the function of the values.
    fn product(
        x: impl Fn(usize, usize) -> f64,
        values: &[f64],
        of: impl Fn(f64) -> f64,
        y: impl Fn(usize, usize) -> f64,
    ) -> Self {
        let n = values.len();
        let mut numbers = vec![0.0; padded(n) * n];
        for (k, value) in values.iter().enumerate() {
            let column: Vec<f64> = (0..n).map(|i| of(*value) * x(i, k)).collect();
            for j in 0..n {
                let factor = y(j, k);
                for (i, v) in column.iter().enumerate() {
                    numbers[(i / LANES * n + j) * LANES + i % LANES] += factor * v;
                }
            }
        }
        Square { n, numbers }
    }

    /// `out` = the product with `v`, both with padding.
    fn times(&self, v: &[f64], out: &mut [f64]) {
        simd::run(Times { square: self, v, out });
    }
}

struct Times<'a> {
    square: &'a Square,
    v: &'a [f64],
    out: &'a mut [f64],
}

impl Loop for Times<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let Times { square: Square { n, numbers }, v, out } = self;
        let rows = numbers.as_chunks().0.chunks_exact((*n).max(1));
        for (out, columns) in out.as_chunks_mut().0.iter_mut().zip(rows) {
            let mut sum = V::splat(0.0);
            for (column, v) in columns.iter().zip(v) {
                sum = V::splat(*v).mul_add(V::load(column), sum);
            }
            sum.store(out);
        }
    }
}

/// A metric and what was made of it, as long as someone uses it.
struct Prepared {
    metric: Weak<Metric>,
    coupling: Arc<Mutex<Weak<Coupling>>>,
}

/// The prepared form of a metric. All devices of the process share one for each metric, so that chains with a common
/// metric neither prepare it again nor read it from different places.
pub fn prepared(metric: &Arc<Metric>) -> Result<Arc<Coupling>> {
    static ALL: Mutex<Vec<Prepared>> = Mutex::new(Vec::new());
    let coupling = {
        let mut all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|p| p.metric.strong_count() > 0);
        match all.iter().find(|p| p.metric.as_ptr() == Arc::as_ptr(metric)) {
            Some(found) => found.coupling.clone(),
            None => {
                let coupling = Arc::default();
                all.push(Prepared { metric: Arc::downgrade(metric), coupling: Arc::clone(&coupling) });
                coupling
            }
        }
    };
    // Who else wants this metric waits until it is prepared; who wants another does not.
    let mut known = coupling.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(found) = known.upgrade() {
        return Ok(found);
    }
    let made = Arc::new(Coupling::new(metric)?);
    *known = Arc::downgrade(&made);
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_share_what_is_prepared_as_long_as_one_uses_it() {
        let metric = || {
            let (stds, values, vectors) = (vec![1.0, 2.0], vec![3.0], vec![0.6, 0.8]);
            Arc::new(Metric { stds, values, vectors, center: Vec::new() })
        };
        let (one, equal) = (metric(), metric());
        let first = prepared(&one).unwrap();
        assert!(Arc::ptr_eq(&first, &prepared(&one.clone()).unwrap()));
        let threads: Vec<_> = (0..4)
            .map(|_| {
                std::thread::spawn({
                    let one = one.clone();
                    move || prepared(&one).unwrap().id
                })
            })
            .collect();
        assert!(threads.into_iter().all(|t| t.join().unwrap() == first.id));
        let other = prepared(&equal).unwrap();
        assert_ne!(other.id, first.id);
        let (gone, id) = (Arc::downgrade(&first), first.id);
        drop(first);
        assert!(gone.upgrade().is_none());
        assert_ne!(prepared(&one).unwrap().id, id);
    }
}
