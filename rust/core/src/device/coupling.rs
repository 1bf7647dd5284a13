//! A metric that couples parameters, in the form that the CPU device works with: M^-1 = D + T^T C T.
//!
//! D = S^2 is diagonal and T = U S has a row for each eigenvector, so a product takes two passes over T. Since M^-1 is
//! linear, T p follows from T of the gradients by the kicks that p gets ([`super::along::Along`]). What is left for a
//! leapfrog is one pass to get T g of its new gradient, and one to move the position by T^T C T p.
//!
//! The rows of U need not be exactly orthonormal. With U U^T = R^T R the rows of V = R^-T U are, up to rounding, and
//! M^-1 = S (I + V^T (Lambda - I) V) S, which is what momenta are drawn for and energies are computed with.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::along::padded;
use super::array::Array;
use super::directions::Directions;
use super::ops::{self, Cells};
use super::triangular::{self, add_scaled};
use crate::error::{Error, Result};
use crate::metric::Metric;

/// A metric of rank one or more.
pub struct Coupling {
    /// Unlike any other in this process, and not 0.
    pub id: u64,
    metric: Arc<Metric>,
    /// D, then D^-1/2.
    scales: Array,
    directions: Directions,
    /// C = R^-1 (Lambda - I) R^-T.
    inv_mass: Square,
    /// R^-1 (Lambda^-1/2 - I) R^-T: p = D^-1/2 z + D^-1 T^T times that times T D^-1/2 z.
    momentum: Square,
    /// R^-1 (Lambda^-1 - I) R^-T: M = D^-1 + D^-1 T^T times that times T D^-1.
    mass: Square,
}

impl Coupling {
    /// Prepare a metric, which must be usable.
    fn new(metric: &Arc<Metric>) -> Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let (dim, rank) = (metric.dim(), metric.rank());
        let Metric { stds, values, vectors, .. } = &**metric;
        let mut scales = Array::new(2, dim)?;
        for (i, s) in stds.iter().enumerate() {
            scales.exact_mut(0)[i] = s * s;
            scales.exact_mut(1)[i] = 1.0 / s;
        }
        let directions = Directions::new(rank, dim, |row, i| vectors[row * dim + i] * stds[i])?;
        let mut gram = vec![0.0; rank * rank];
        let mut unscaled = Array::new(1, dim)?;
        for (row, products) in metric.rows().zip(gram.chunks_exact_mut(rank)) {
            for ((unscaled, u), s) in unscaled.exact_mut(0).iter_mut().zip(row).zip(stds) {
                *unscaled = u / s;
            }
            directions.project(cells(unscaled.row_mut(0)), products);
        }
        if !triangular::cholesky(&mut gram, rank) {
            return Err(Error::Device("the directions of an inverse mass matrix are not independent".into()));
        }
        let root = triangular::inverse(&gram, rank);
        let square = |of: fn(f64) -> f64| Square::sandwich(&root, values, of);
        Ok(Coupling {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            metric: metric.clone(),
            scales,
            directions,
            inv_mass: square(|v| v - 1.0),
            momentum: square(|v| 1.0 / v.sqrt() - 1.0),
            mass: square(|v| 1.0 / v - 1.0),
        })
    }

    /// The metric that it was made from.
    pub fn metric(&self) -> &Metric {
        &self.metric
    }

    /// Number of rows of T.
    pub fn rank(&self) -> usize {
        self.inv_mass.n
    }

    /// D, with padding.
    pub fn diagonal(&self) -> &[f64] {
        self.scales.row(0)
    }

    /// T v and C T v.
    pub fn measure(&self, v: Cells<'_>, [along, weighed]: [&mut [f64]; 2]) {
        self.directions.project(v, &mut along[..self.rank()]);
        self.inv_mass.times(along, weighed);
    }

    /// x += drift T^T weighed, where `weighed` is C T p.
    pub fn drift(&self, drift: f64, weighed: &[f64], x: Cells<'_>, scratch: &mut Vec<f64>) {
        scratch.clear();
        scratch.extend(weighed[..self.rank()].iter().map(|v| drift * v));
        self.directions.spread(scratch, x);
    }

    /// Make standard normal numbers z into a momentum with covariance M; returns |z|^2, which is p M^-1 p.
    pub fn momentum(&self, z: &mut [f64], scratch: &mut Vec<f64>) -> f64 {
        let (mass_sqrt, n) = (self.scales.row(1), padded(self.rank()));
        let square = ops::scale_normal(z, mass_sqrt);
        let p = z;
        scratch.clear();
        scratch.resize(2 * n + p.len(), 0.0);
        let (along, rest) = scratch.split_at_mut(n);
        let (by, more) = rest.split_at_mut(n);
        self.directions.project(cells(p), &mut along[..self.rank()]);
        self.momentum.times(along, by);
        self.directions.spread(&by[..self.rank()], cells(more));
        for ((p, more), m) in p.iter_mut().zip(more).zip(mass_sqrt) {
            *p += m * m * *more;
        }
        square
    }

    /// |z|^2 in the norm of M, z = x - centre + M^-1 g; `along` is T g and C T g.
    pub fn distance(
        &self,
        x: &[f64],
        g: &[f64],
        center: &[f64],
        along_g: [&[f64]; 2],
        scratch: &mut Vec<f64>,
    ) -> f64 {
        let n = padded(self.rank());
        scratch.clear();
        scratch.resize(2 * n + x.len(), 0.0);
        let (along, rest) = scratch.split_at_mut(n);
        let (by, scaled) = rest.split_at_mut(n);
        let (diagonal, mass_sqrt) = (self.scales.row(0), self.scales.row(1));
        for (i, m) in mass_sqrt.iter().enumerate() {
            scaled[i] = m * m * (x[i] - center[i]);
        }
        self.directions.project(cells(scaled), &mut along[..self.rank()]);
        self.mass.times(along, by);
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let of_diagonal = ops::fisher_distance([x, g, center, diagonal, mass_sqrt]);
        of_diagonal + dot(along, by) + dot(along_g[0], along_g[1])
    }
}

fn cells(slice: &mut [f64]) -> Cells<'_> {
    Cell::from_mut(slice).as_slice_of_cells()
}

/// A symmetric matrix.
struct Square {
    n: usize,
    /// Columns with padding.
    columns: Vec<f64>,
}

impl Square {
    /// X F X^T, X upper triangular, F the function of the values.
    fn sandwich(x: &[f64], values: &[f64], of: impl Fn(f64) -> f64) -> Self {
        let n = values.len();
        let mut columns = vec![0.0; n * padded(n)];
        for (k, value) in values.iter().enumerate() {
            let column: Vec<f64> = (0..=k).map(|i| x[i * n + k]).collect();
            for (out, v) in columns.chunks_exact_mut(padded(n)).zip(&column) {
                add_scaled(out, of(*value) * v, &column);
            }
        }
        Square { n, columns }
    }

    /// `out` = the product with `v`, both with padding.
    fn times(&self, v: &[f64], out: &mut [f64]) {
        out.fill(0.0);
        for (column, v) in self.columns.chunks_exact(padded(self.n)).zip(v) {
            add_scaled(out, *v, column);
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
