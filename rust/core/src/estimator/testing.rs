//! Targets and slow, plain formulas for the tests of estimators.

use super::points::Point;
use crate::metric::Metric;
use crate::rng::{Key, Purpose, fill_normal};

/// A square matrix, row by row.
pub type Matrix = Vec<Vec<f64>>;

/// Standard normals.
pub fn normals(seed: u64, len: usize) -> Vec<f64> {
    let mut out = vec![0.0; len];
    fill_normal(Key { seed, chain: 0, draw: 0 }, Purpose::Momentum, &mut out);
    out
}

/// Points: positions and gradients.
#[derive(Clone)]
pub struct Points(pub Vec<(Vec<f64>, Vec<f64>)>);

impl Points {
    pub fn view(&self) -> Vec<Point<'_>> {
        self.0.iter().map(|(x, g)| Point { x, g }).collect()
    }

    /// In coordinates `scales` x.
    pub fn rescaled(&self, scales: &[f64]) -> Points {
        let by =
            |v: &[f64], f: &dyn Fn(f64, f64) -> f64| v.iter().zip(scales).map(|(v, s)| f(*v, *s)).collect();
        Points(self.0.iter().map(|(x, g)| (by(x, &|x, s| x * s), by(g, &|g, s| g / s))).collect())
    }
}

/// A normal distribution with covariance diag(stds) (I + sum_k (value_k - 1) u_k u_k^T) diag(stds).
pub struct Normal {
    pub metric: Metric,
}

impl Normal {
    /// With orthonormal random directions for `values`.
    pub fn new(seed: u64, stds: Vec<f64>, values: &[f64]) -> Self {
        let dim = stds.len();
        let mut rows: Vec<Vec<f64>> = Vec::new();
        for k in 0..values.len() {
            let mut row = normals(seed + 1000 * (k as u64 + 1), dim);
            for _ in 0..2 {
                for other in &rows {
                    let along = dot(other, &row);
                    row.iter_mut().zip(other).for_each(|(r, o)| *r -= along * o);
                }
            }
            let size = dot(&row, &row).sqrt();
            row.iter_mut().for_each(|r| *r /= size);
            rows.push(row);
        }
        let center = normals(seed + 999, dim);
        Normal { metric: Metric { stds, values: values.to_vec(), vectors: rows.concat(), center } }
    }

    /// Independent draws with their gradients -Sigma^-1 (x - mu).
    pub fn draw(&self, seed: u64, n: usize) -> Points {
        let metric = &self.metric;
        let mut root = metric.clone();
        root.values.iter_mut().for_each(|v| *v = v.sqrt());
        let one = |i: usize| {
            let mut deviation = normals(seed + 7919 * (i as u64 + 1), metric.dim());
            // S (I + U^T (Lambda^(1/2) - I) U) z, as M^-1 applied to S^-1 z of a metric of roots.
            deviation.iter_mut().zip(&metric.stds).for_each(|(d, s)| *d /= s);
            root.apply(&mut deviation);
            let mut g = deviation.clone();
            metric.whiten(&mut g);
            // Sigma^-1 = W^T W with W = metric.whiten; W^T is W with the scaling last.
            let mut half = g.clone();
            half.iter_mut().zip(&metric.stds).for_each(|(h, s)| *h *= s);
            metric.whiten(&mut half);
            let g = half.iter().zip(&metric.stds).map(|(h, s)| -h / s).collect();
            let x = deviation.iter().zip(&metric.center).map(|(d, c)| d + c).collect();
            (x, g)
        };
        Points((0..n).map(one).collect())
    }
}

pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

pub fn unit(dim: usize) -> Metric {
    Metric::diagonal(&vec![1.0; dim], vec![0.0; dim])
}

/// All of M^-1.
pub fn full(metric: &Metric) -> Matrix {
    let dim = metric.dim();
    let column = |j: usize| {
        let mut e = vec![0.0; dim];
        e[j] = 1.0;
        metric.apply(&mut e);
        e
    };
    (0..dim).map(column).collect()
}

pub fn max_difference(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

/// Largest difference of entries in units of the roots of the diagonals.
pub fn relative_difference(a: &Matrix, expected: &Matrix) -> f64 {
    let scale = |i: usize, j: usize| (expected[i][i] * expected[j][j]).sqrt();
    let dim = expected.len();
    let at = |i: usize, j: usize| (a[i][j] - expected[i][j]).abs() / scale(i, j);
    (0..dim).flat_map(|i| (0..dim).map(move |j| (i, j))).map(|(i, j)| at(i, j)).fold(0.0, f64::max)
}

/// Largest deviation of U U^T from the identity.
pub fn orthonormality(metric: &Metric) -> f64 {
    let rows: Vec<&[f64]> = metric.rows().collect();
    let mut worst = 0.0f64;
    for (i, a) in rows.iter().enumerate() {
        for (j, b) in rows.iter().enumerate() {
            worst = worst.max((dot(a, b) - f64::from(u8::from(i == j))).abs());
        }
    }
    worst
}

/// Eigenvalues and eigenvectors (in rows) of a symmetric matrix by Jacobi's rotations.
#[allow(clippy::needless_range_loop)]
pub fn jacobi(mut a: Matrix) -> (Vec<f64>, Matrix) {
    let n = a.len();
    let mut v: Matrix = (0..n).map(|i| (0..n).map(|j| f64::from(u8::from(i == j))).collect()).collect();
    for _ in 0..60 {
        let off: f64 = (0..n).flat_map(|i| (0..i).map(move |j| (i, j))).map(|(i, j)| a[i][j] * a[i][j]).sum();
        if off == 0.0 {
            break;
        }
        for p in 0..n {
            for q in p + 1..n {
                if a[p][q] == 0.0 {
                    continue;
                }
                let theta = (a[q][q] - a[p][p]) / (2.0 * a[p][q]);
                let t = theta.signum() / (theta.abs() + (theta * theta + 1.0).sqrt());
                let c = 1.0 / (t * t + 1.0).sqrt();
                let s = t * c;
                for k in 0..n {
                    (a[k][p], a[k][q]) = (c * a[k][p] - s * a[k][q], s * a[k][p] + c * a[k][q]);
                }
                for k in 0..n {
                    (a[p][k], a[q][k]) = (c * a[p][k] - s * a[q][k], s * a[p][k] + c * a[q][k]);
                    (v[p][k], v[q][k]) = (c * v[p][k] - s * v[q][k], s * v[p][k] + c * v[q][k]);
                }
            }
        }
    }
    ((0..n).map(|i| a[i][i]).collect(), v)
}

/// sigma, and C_x # C_g^-1 in scaled coordinates, of all coordinates and without tricks.
pub fn plain_fisher(points: &Points, k: f64) -> (Vec<f64>, Matrix) {
    let n = points.0.len() as f64;
    let dim = points.0[0].0.len();
    let centred = |values: Vec<f64>| -> Vec<f64> {
        let mean = values.iter().sum::<f64>() / n;
        values.iter().map(|v| v - mean).collect()
    };
    let mut x: Matrix = (0..dim).map(|i| centred(points.0.iter().map(|p| p.0[i]).collect())).collect();
    let mut g: Matrix = (0..dim).map(|i| centred(points.0.iter().map(|p| p.1[i]).collect())).collect();
    let stds: Vec<f64> = x.iter().zip(&g).map(|(x, g)| (dot(x, x) / dot(g, g)).powf(0.25)).collect();
    for i in 0..dim {
        x[i].iter_mut().for_each(|v| *v /= stds[i]);
        g[i].iter_mut().for_each(|v| *v *= stds[i]);
    }
    let covariance = |a: &Matrix| -> Matrix {
        let entry = |i: usize, j: usize| (dot(&a[i], &a[j]) + if i == j { k } else { 0.0 }) / (n + k);
        (0..dim).map(|i| (0..dim).map(|j| entry(i, j)).collect()).collect()
    };
    let (c_x, c_g) = (covariance(&x), covariance(&g));
    let root = function_of(&c_g, f64::sqrt);
    let inverse_root = function_of(&c_g, |v| 1.0 / v.sqrt());
    let inner = function_of(&times(&times(&root, &c_x), &root), |v| v.max(0.0).sqrt());
    (stds, times(&times(&inverse_root, &inner), &inverse_root))
}

/// f of a symmetric matrix.
pub fn function_of(a: &Matrix, f: impl Fn(f64) -> f64) -> Matrix {
    let (values, vectors) = jacobi(a.clone());
    let n = a.len();
    let entry = |i: usize, j: usize| (0..n).map(|k| f(values[k]) * vectors[k][i] * vectors[k][j]).sum();
    (0..n).map(|i| (0..n).map(|j| entry(i, j)).collect()).collect()
}

pub fn times(a: &Matrix, b: &Matrix) -> Matrix {
    let n = b[0].len();
    a.iter().map(|row| (0..n).map(|j| row.iter().zip(b).map(|(r, b)| r * b[j]).sum()).collect()).collect()
}

/// Smallest and largest eigenvalue of a normal's covariance in the coordinates of a metric.
pub fn extremes(metric: &Metric, truth: &Metric) -> (f64, f64) {
    let mut half = full(truth);
    half.iter_mut().for_each(|row| metric.whiten(row));
    let columns = (0..metric.dim()).map(|i| half.iter().map(|row| row[i]).collect());
    let mut whitened: Matrix = columns.collect();
    whitened.iter_mut().for_each(|row| metric.whiten(row));
    let mut values = jacobi(whitened).0;
    values.sort_by(f64::total_cmp);
    (values[0], values[values.len() - 1])
}

/// An estimator.
pub type Fit<'a> = &'a dyn Fn(&[Point<'_>], &Metric) -> Option<Metric>;

/// It gives a metric of these points, and none of what is too little or not finite.
pub fn check_refusals(fit: Fit<'_>, points: &Points) {
    let dim = points.0[0].0.len();
    assert!(fit(&points.view(), &unit(dim)).is_some());
    assert!(fit(&points.view(), &unit(dim + 1)).is_none());
    assert!(fit(&points.view()[..2], &unit(dim)).is_none());
    for bad in [f64::NAN, f64::INFINITY, 1e200] {
        let mut broken = points.clone();
        broken.0[1].0[7] = bad;
        assert!(fit(&broken.view(), &unit(dim)).is_none());
        let mut broken = points.clone();
        broken.0[2].1[3] = bad;
        assert!(fit(&broken.view(), &unit(dim)).is_none());
    }
    let constant = Points(vec![points.0[0].clone(); points.0.len()]);
    assert!(fit(&constant.view(), &unit(dim)).is_none());
}

/// In other units it gives the same metric in these.
pub fn check_rescaled(fit: Fit<'_>, points: &Points, tolerance: f64) {
    let dim = points.0[0].0.len();
    let scales: Vec<f64> = normals(12, dim).into_iter().map(|z| (4.0 * z).exp()).collect();
    let metric = fit(&points.view(), &unit(dim)).unwrap();
    let rescaled = fit(&points.rescaled(&scales).view(), &unit(dim)).unwrap();
    let mut expected = full(&metric);
    for (row, scale) in expected.iter_mut().zip(&scales) {
        row.iter_mut().zip(&scales).for_each(|(e, other)| *e *= scale * other);
    }
    assert!(relative_difference(&full(&rescaled), &expected) < tolerance);
    for (i, scale) in scales.iter().enumerate() {
        assert!((rescaled.center[i] - scale * metric.center[i]).abs() < tolerance * rescaled.stds[i]);
    }
}

/// Where numbers lie in memory does not matter.
pub fn check_alignment(fit: Fit<'_>, points: &Points) {
    let dim = points.0[0].0.len();
    let metric = fit(&points.view(), &unit(dim));
    assert!(metric.is_some());
    for shift in 1..8 {
        let pad = |v: &[f64]| [&vec![0.0; shift], v].concat();
        let moved: Vec<_> = points.0.iter().map(|(x, g)| (pad(x), pad(g))).collect();
        let view: Vec<_> = moved.iter().map(|(x, g)| Point { x: &x[shift..], g: &g[shift..] }).collect();
        let _other: Vec<f64> = Vec::with_capacity(3 + 5 * shift);
        assert_eq!(fit(&view, &unit(dim)), metric);
    }
}
