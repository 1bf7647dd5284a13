//! Inverse mass matrices for tests, and products with them by their definition.
#![allow(dead_code)]

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
