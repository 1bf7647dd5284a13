//! Targets of the tests of kernels with what is known of them, and the linear algebra of these tests.

use nutpie_core::rng::{Key, Purpose, fill_normal};

use super::harness::{Functional, Marginal, product};
use super::reference::normal_quantiles;
use super::targets::Autoregressive;

/// Standard normal numbers that the sampler does not use.
pub fn normals(seed: u64, chain: u32, n: usize) -> Vec<f64> {
    let mut z = vec![0.0; n];
    fill_normal(Key { seed, chain, draw: u32::MAX }, Purpose::Momentum, &mut z);
    z
}

/// Log of the absolute value of a determinant, by elimination.
pub fn log_determinant(mut a: Vec<Vec<f64>>) -> f64 {
    let (n, mut sum) = (a.len(), 0.0);
    for k in 0..n {
        let pivot = (k..n).max_by(|i, j| a[*i][k].abs().total_cmp(&a[*j][k].abs())).unwrap();
        a.swap(k, pivot);
        sum += a[k][k].abs().ln();
        for i in k + 1..n {
            let factor = a[i][k] / a[k][k];
            let row = a[k].clone();
            a[i].iter_mut().zip(row).for_each(|(v, w)| *v -= factor * w);
        }
    }
    sum
}

/// A correlated normal distribution with scales of all sizes.
pub fn gaussian() -> Autoregressive {
    Autoregressive { mean: vec![1.0, -2.0, 0.0, 3.0], sd: vec![1.0, 0.1, 10.0, 3.0], rho: 0.7 }
}

/// What is known of it.
pub fn gaussian_functionals() -> Vec<Functional> {
    let target = gaussian();
    let mut out = Vec::new();
    for (i, of) in [(0, (|x| x[0]) as fn(&[f64]) -> f64), (3, |x| x[3])] {
        let (mean, sd) = (target.mean[i], target.sd[i]);
        let below = normal_quantiles(mean, sd);
        out.extend(Marginal { name: "x", of, mean, variance: sd * sd, below }.functionals());
    }
    let (mean_2, mean_3) = (target.mean[2], target.mean[3]);
    out.push(product("covariance", move |x| x[2] - mean_2, move |x| x[3] - mean_3, target.covariance(2, 3)));
    out
}

/// What is known of the third parameter of logistic distributions.
pub fn logistic_functionals(scale: f64) -> Vec<Functional> {
    let below = [0.05, 0.25, 0.5, 0.75, 0.95].map(|p: f64| (scale * (p / (1.0 - p)).ln(), p)).into();
    let variance = (scale * std::f64::consts::PI).powi(2) / 3.0;
    let of: fn(&[f64]) -> f64 = |x| x[2];
    Marginal { name: "x2", of, mean: 0.0, variance, below }.functionals()
}
