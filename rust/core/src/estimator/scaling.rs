//! Points centred and scaled, a block of coordinates at a time, so that no copy of all points is ever held.
//!
//! sigma_i = (Var x_i / Var g_i)^(1/4), X = (x - mean x) / sigma, G = (g - mean g) sigma: in these coordinates positions and
//! gradients vary alike.
//!
//! A coordinate whose positions or gradients do not vary, as those of a density that is flat or linear in it, tells nothing
//! about its scale. It keeps the scale that it had and is zero in X and G, so that it does not take part in correlations.

use std::ops::Range;

use faer::{Mat, MatRef};
use multiversion::multiversion;

use super::points::Point;
use crate::metric::Metric;

/// Coordinates in a block: few enough for the block of all points to stay in the cache.
const BLOCK: usize = 512;

/// Fewest points that say anything about correlations.
const MIN_POINTS: usize = 3;

/// Smallest and largest sigma^2.
const INV_MASS_BOUNDS: (f64, f64) = (1e-20, 1e20);

/// Points with what it takes to centre and to scale them.
pub(super) struct Scaled<'a> {
    points: &'a [Point<'a>],
    mean_x: Vec<f64>,
    mean_g: Vec<f64>,
    /// sigma.
    stds: Vec<f64>,
    /// 1 / sigma, or 0.
    factor_x: Vec<f64>,
    /// sigma, or 0.
    factor_g: Vec<f64>,
}

/// Mean and sum of squared deviations of each coordinate of a block.
struct Moments {
    mean: Vec<f64>,
    squares: Vec<f64>,
    /// Sum of deviations from the rounded mean, zero but for rounding.
    rest: Vec<f64>,
}

impl<'a> Scaled<'a> {
    /// `None` with too few points, with one that has another number of parameters than the previous metric or numbers that
    /// are not finite, and where no coordinate tells its scale.
    pub fn new(points: &'a [Point<'a>], previous: &Metric) -> Option<Self> {
        let dim = previous.dim();
        let fits = |p: &Point<'_>| p.x.len() == dim && p.g.len() == dim;
        if points.len() < MIN_POINTS || !points.iter().all(fits) {
            return None;
        }
        let (mut mean_x, mut mean_g) = (Vec::with_capacity(dim), Vec::with_capacity(dim));
        let mut stds = previous.stds.clone();
        let (mut factor_x, mut factor_g) = (vec![0.0; dim], vec![0.0; dim]);
        for rows in blocks(dim) {
            let x = Moments::new(points.iter().map(|p| &p.x[rows.clone()]), rows.len());
            let g = Moments::new(points.iter().map(|p| &p.g[rows.clone()]), rows.len());
            for (i, at) in rows.enumerate() {
                let (var_x, var_g) = (x.variance(i, points.len())?, g.variance(i, points.len())?);
                if var_x > 0.0 && var_g > 0.0 {
                    let square = (var_x / var_g).sqrt().clamp(INV_MASS_BOUNDS.0, INV_MASS_BOUNDS.1);
                    stds[at] = square.sqrt();
                    (factor_x[at], factor_g[at]) = (1.0 / stds[at], stds[at]);
                }
            }
            mean_x.extend(x.mean);
            mean_g.extend(g.mean);
        }
        let any = factor_g.iter().any(|f| *f > 0.0);
        any.then_some(Scaled { points, mean_x, mean_g, stds, factor_x, factor_g })
    }

    /// Number of parameters.
    pub fn dim(&self) -> usize {
        self.stds.len()
    }

    /// Number of points.
    pub fn count(&self) -> usize {
        self.points.len()
    }

    /// Call a function with each block of rows of [X G], points in columns.
    pub fn for_each_block(&self, mut f: impl FnMut(Range<usize>, MatRef<'_, f64>)) {
        let count = self.count();
        let mut block = Mat::zeros(BLOCK.min(self.dim()), 2 * count);
        for rows in blocks(self.dim()) {
            let centred = |to: &mut [f64], from: &[f64], mean: &[f64], factor: &[f64]| {
                centre(
                    &mut to[..rows.len()],
                    &from[rows.clone()],
                    &mean[rows.clone()],
                    &factor[rows.clone()],
                );
            };
            for (j, point) in self.points.iter().enumerate() {
                centred(block.col_as_slice_mut(j), point.x, &self.mean_x, &self.factor_x);
                centred(block.col_as_slice_mut(count + j), point.g, &self.mean_g, &self.factor_g);
            }
            f(rows.clone(), block.subrows(0, rows.len()));
        }
    }

    /// Multiply sigma by these factors.
    pub fn rescale(&mut self, factors: &[f64]) {
        for (i, factor) in factors.iter().enumerate() {
            if self.factor_g[i] > 0.0 {
                let square = (self.stds[i] * factor).powi(2).clamp(INV_MASS_BOUNDS.0, INV_MASS_BOUNDS.1);
                self.stds[i] = square.sqrt();
                (self.factor_x[i], self.factor_g[i]) = (1.0 / self.stds[i], self.stds[i]);
            }
        }
    }

    /// The metric with these eigenvalues and eigenvectors (one after the other) in scaled coordinates, centred at
    /// mean x + M^-1 mean g; `None` if it cannot be used.
    pub fn into_metric(self, values: Vec<f64>, vectors: Vec<f64>) -> Option<Metric> {
        let mut metric = Metric { stds: self.stds, values, vectors, center: Vec::new() };
        let mut center = self.mean_g;
        metric.apply(&mut center);
        center.iter_mut().zip(&self.mean_x).for_each(|(c, x)| *c += x);
        metric.center = center;
        metric.is_usable().then_some(metric)
    }
}

impl Moments {
    fn new<'a>(rows: impl Iterator<Item = &'a [f64]> + Clone, len: usize) -> Self {
        let (mut mean, mut squares, mut rest) = (vec![0.0; len], vec![0.0; len], vec![0.0; len]);
        let mut count = 0.0;
        for row in rows.clone() {
            add(&mut mean, row);
            count += 1.0;
        }
        mean.iter_mut().for_each(|m| *m /= count);
        for row in rows {
            add_deviations(&mut squares, &mut rest, row, &mean);
        }
        Moments { mean, squares, rest }
    }

    /// The variance of coordinate `i`: zero if it is rounding alone, `None` if it is not finite.
    fn variance(&self, i: usize, count: usize) -> Option<f64> {
        let count = count as f64;
        let variance = (self.squares[i] - self.rest[i] * self.rest[i] / count) / count;
        if !variance.is_finite() {
            return None;
        }
        let rounding = 16.0 * f64::EPSILON * self.mean[i];
        Some(if variance > rounding * rounding { variance } else { 0.0 })
    }
}

fn blocks(dim: usize) -> impl Iterator<Item = Range<usize>> {
    (0..dim).step_by(BLOCK).map(move |start| start..(start + BLOCK).min(dim))
}

#[multiversion(targets("x86_64+avx512f+avx512dq+avx512vl+avx512bw", "x86_64+avx2", "aarch64+neon"))]
fn add(sum: &mut [f64], row: &[f64]) {
    sum.iter_mut().zip(row).for_each(|(s, v)| *s += v);
}

#[multiversion(targets("x86_64+avx512f+avx512dq+avx512vl+avx512bw", "x86_64+avx2", "aarch64+neon"))]
fn add_deviations(squares: &mut [f64], rest: &mut [f64], row: &[f64], mean: &[f64]) {
    let n = row.len();
    let (squares, rest, mean) = (&mut squares[..n], &mut rest[..n], &mean[..n]);
    for i in 0..n {
        let deviation = row[i] - mean[i];
        squares[i] += deviation * deviation;
        rest[i] += deviation;
    }
}

/// to = (from - mean) factor.
#[multiversion(targets("x86_64+avx512f+avx512dq+avx512vl+avx512bw", "x86_64+avx2", "aarch64+neon"))]
fn centre(to: &mut [f64], from: &[f64], mean: &[f64], factor: &[f64]) {
    let n = to.len();
    let (from, mean, factor) = (&from[..n], &mean[..n], &factor[..n]);
    for i in 0..n {
        to[i] = (from[i] - mean[i]) * factor[i];
    }
}
