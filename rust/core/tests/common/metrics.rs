//! Inverse mass matrices for tests, and products with them by their definition.
#![allow(dead_code, clippy::expect_used)]

use std::sync::Arc;

use nutpie_core::device::{Device, Metrics, Phase, Row, Step};
use nutpie_core::metric::Metric;

/// a . b, summed from the end.
pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).rev().map(|(a, b)| a * b).sum()
}

/// The numbers that a function has for each coordinate.
pub fn combine(n: usize, f: impl Fn(usize) -> f64) -> Vec<f64> {
    (0..n).map(f).collect()
}

/// S^left Q S^right v, where Q has the eigenvectors of S^-1 M^-1 S^-1 and its eigenvalues to some power.
pub fn stretch(metric: &Metric, [left, power, right]: [f64; 3], v: &[f64]) -> Vec<f64> {
    let scaled = combine(v.len(), |i| metric.stds[i].powf(right) * v[i]);
    let mut out = scaled.clone();
    for (value, u) in metric.values.iter().zip(metric.rows()) {
        let along = (value.powf(power) - 1.0) * dot(u, &scaled);
        out.iter_mut().zip(u).for_each(|(out, u)| *out += along * u);
    }
    combine(v.len(), |i| metric.stds[i].powf(left) * out[i])
}

/// M^-1 p.
pub fn velocity(metric: &Metric, p: &[f64]) -> Vec<f64> {
    stretch(metric, [1.0, 1.0, 1.0], p)
}

/// A momentum of covariance M from standard normal numbers.
pub fn momentum(metric: &Metric, z: &[f64]) -> Vec<f64> {
    stretch(metric, [-1.0, -0.5, 0.0], z)
}

/// Numbers without a pattern, between -1 and 1.
pub fn scattered(n: usize, seed: usize) -> Vec<f64> {
    (0..n).map(|i| ((i * 7919 + seed * 104_729) as f64 * 0.618_033_988_75).fract() * 2.0 - 1.0).collect()
}

/// A metric of some rank without a pattern, with eigenvalues between 1/30 and 30; `offset` makes others of it.
pub fn coupled(dim: usize, rank: usize, offset: usize) -> Metric {
    let mut rows: Vec<Vec<f64>> = Vec::new();
    for k in 0..rank {
        let mut row = scattered(dim, 1000 + offset + k);
        // Twice is enough (Giraud et al. 2005).
        for _ in 0..2 {
            for other in &rows {
                let along = dot(other, &row);
                row.iter_mut().zip(other).for_each(|(v, o)| *v -= along * o);
            }
        }
        let norm = dot(&row, &row).sqrt();
        rows.push(row.iter().map(|v| v / norm).collect());
    }
    let exp = |v: Vec<f64>, by: f64| v.iter().map(|v| (by * v).exp()).collect();
    Metric {
        stds: exp(scattered(dim, 99 + offset), 1.0),
        values: exp(scattered(rank, 98 + offset), 3.4),
        vectors: rows.concat(),
        center: scattered(dim, 97 + offset),
    }
}

/// A metric that devices store without rounding, of rank `dim` / 4: directions that have no parameter in common, and few
/// digits.
pub fn exact(dim: usize) -> Metric {
    let rank = dim / 4;
    let entry = |row: usize, i: usize| match i / 4 == row {
        true => [0.5, -0.5, 0.5, 0.5][(i + row) % 4],
        false => 0.0,
    };
    Metric {
        stds: combine(dim, |i| [1.0, 0.25, 4.0, 2.0, 0.5][i % 5]),
        values: combine(rank, |k| [0.3, 5.0, 0.7][k % 3]),
        vectors: (0..rank).flat_map(|row| (0..dim).map(move |i| entry(row, i))).collect(),
        center: scattered(dim, 97),
    }
}

/// The matrix M^-1 that a device has made of a metric, row by row: where its unit momenta go. It may differ from the
/// metric's by the rounding of directions, but has to be the same in everything that the device does.
pub fn probe(dev: &mut dyn Device, metrics: &Metrics, metric: usize, dim: usize) -> Vec<Vec<f64>> {
    let phase = Phase::alloc(dev, 2, dim).expect("memory");
    let column = |j: usize| {
        let unit = combine(dim, |i| f64::from(u8::from(i == j)));
        let mut out = vec![0.0; dim];
        dev.write(Row { buf: phase.p, index: 0 }, &unit).expect("a row");
        let step = Step { metric, from: 0, to: 1, kick: 0.0, drift: 1.0 };
        dev.kick_drift(&phase, metrics, &[step]).expect("a step");
        dev.read(Row { buf: phase.x, index: 1 }, &mut out).expect("a row");
        out
    };
    (0..dim).map(column).collect()
}

/// [`probe`] of a device that has one metric, with a check that the matrix is that of the metric but for rounding.
pub fn probed(dev: &mut dyn Device, metric: &Metric) -> Vec<Vec<f64>> {
    let dim = metric.dim();
    let metrics = dev.alloc_metrics(1, dim).expect("memory");
    dev.set_metric(&metrics, 0, &Arc::new(metric.clone())).expect("a metric");
    let matrix = probe(dev, &metrics, 0, dim);
    let diagonal = metric.inv_mass_diagonal();
    for (j, row) in matrix.iter().enumerate() {
        let unit = combine(dim, |i| f64::from(u8::from(i == j)));
        for (i, v) in velocity(metric, &unit).into_iter().enumerate() {
            let size = (diagonal[i] * diagonal[j]).sqrt();
            assert!((row[i] - v).abs() < 1e-5 * size, "{dim}, rank {}: {} and {v}", metric.rank(), row[i]);
            assert!((row[i] - matrix[i][j]).abs() < 1e-12 * size, "not symmetric");
        }
    }
    matrix
}

/// A matrix times a vector.
pub fn times(matrix: &[Vec<f64>], v: &[f64]) -> Vec<f64> {
    matrix.iter().map(|row| dot(row, v)).collect()
}

/// x with A x = b, by elimination with pivots.
pub fn solve(mut a: Vec<Vec<f64>>, mut b: Vec<f64>) -> Vec<f64> {
    let n = b.len();
    for k in 0..n {
        let pivot = (k..n).max_by(|i, j| a[*i][k].abs().total_cmp(&a[*j][k].abs())).expect("a row");
        a.swap(k, pivot);
        b.swap(k, pivot);
        for i in (0..n).filter(|i| *i != k) {
            let factor = a[i][k] / a[k][k];
            let row = a[k].clone();
            a[i].iter_mut().zip(row).for_each(|(v, w)| *v -= factor * w);
            b[i] -= factor * b[k];
        }
    }
    combine(n, |i| b[i] / a[i][i])
}
