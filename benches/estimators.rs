//! Milliseconds per fit of a metric, beside the model of its cost that decides whether a refit is paid.
//!
//! `cargo bench --bench estimators [-- DIM ...]` prints a table. Points are those of a correlated normal with noise in the
//! gradients. "1 round" and "3 rounds" are `fisher_pursuit` with so many rounds at most.

#![allow(clippy::expect_used)]

use std::hint::black_box;
use std::time::Instant;

use nutpie_core::estimator::cost::{cost_seconds, pursuit_seconds};
use nutpie_core::estimator::fisher_low_rank::{self, FisherOptions};
use nutpie_core::estimator::fisher_pursuit::{self, PursuitOptions};
use nutpie_core::estimator::points::{Point, PointSample};
use nutpie_core::estimator::{fisher_diag_points, fisher_span, metric_check};
use nutpie_core::metric::Metric;
use nutpie_core::rng::{Key, Purpose, fill_normal};

const DIMENSIONS: [usize; 6] = [100, 200, 400, 1_000, 5_000, 20_000];
const POINTS: [usize; 3] = [50, 100, 200];
/// Directions of large variance.
const FACTORS: usize = 12;

fn normals(draw: u32, len: usize) -> Vec<f64> {
    let mut out = vec![0.0; len];
    fill_normal(Key { seed: 7, chain: 0, draw }, Purpose::Momentum, &mut out);
    out
}

/// Points of a normal with a few large factors; gradients are those of independent coordinates, with noise.
fn sample(dim: usize, n: usize) -> PointSample {
    let factors: Vec<Vec<f64>> = (0..FACTORS as u32).map(|k| normals(1_000 + k, dim)).collect();
    let mut sample = PointSample::new(dim, n);
    for i in 0..n as u32 {
        let mut x = normals(2 * i, dim);
        let noise = normals(2 * i + 1, dim);
        let g: Vec<f64> = x.iter().zip(noise).map(|(x, e)| -x + 0.1 * e).collect();
        for (k, (factor, z)) in factors.iter().zip(normals(5_000 + i, FACTORS)).enumerate() {
            let size = 30.0 * z / (((k + 1) * dim) as f64).sqrt();
            x.iter_mut().zip(factor).for_each(|(x, f)| *x += size * f);
        }
        sample.push(&x, &g);
    }
    sample
}

/// Seconds that this thread has had a processor for, which other work on the machine does not lengthen.
fn processor_seconds(since: Instant) -> f64 {
    let own = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanoseconds = own.and_then(|s| s.split_whitespace().next()?.parse::<u64>().ok());
    nanoseconds.map_or(since.elapsed().as_secs_f64(), |ns| ns as f64 * 1e-9)
}

/// Milliseconds of a call, the best of several rounds of many calls.
fn best<T>(mut f: impl FnMut() -> T) -> f64 {
    let begin = Instant::now();
    let mut round = |calls: u64| {
        let start = processor_seconds(begin);
        for _ in 0..calls {
            black_box(f());
        }
        processor_seconds(begin) - start
    };
    // The clock of the processor has ticks of milliseconds.
    let mut calls = 1;
    while round(calls) < 0.05 {
        calls *= 2;
    }
    let rounds = (0..4).map(|_| round(calls)).fold(f64::INFINITY, f64::min);
    1e3 * rounds / calls as f64
}

fn main() {
    println!("milliseconds; rank: eigenvalues kept; check: largest eigenvalue of the whitened points");
    println!(
        "{:>6} {:>5} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>5}",
        "dim",
        "n",
        "1 round",
        "model",
        "3 rounds",
        "model",
        "low rank",
        "model",
        "span",
        "diag",
        "check",
        "rank"
    );
    let chosen: Vec<usize> = std::env::args().filter_map(|a| a.parse().ok()).collect();
    for dim in DIMENSIONS {
        if !chosen.is_empty() && !chosen.contains(&dim) {
            continue;
        }
        for n in POINTS {
            let sample = sample(dim, n);
            let points: Vec<Point<'_>> = sample.points().collect();
            let start = Metric::diagonal(&vec![1.0; dim], vec![0.0; dim]);
            let options = FisherOptions::default();
            let metric = fisher_low_rank::fit(&points, &start, &options).expect("a metric");
            let pursuit = |rounds: usize| {
                let options = PursuitOptions { rounds, ..PursuitOptions::default() };
                best(|| fisher_pursuit::fit(&points, &start, &options))
            };
            let made =
                fisher_pursuit::fit(&points, &start, &PursuitOptions { rounds: 3, ..Default::default() });
            let made = made.expect("a metric").1;
            let (one, three) = (pursuit(1), pursuit(3));
            let low_rank = best(|| fisher_low_rank::fit(&points, &start, &options));
            let span = best(|| fisher_span::fit(&points, &start, 1e-5, 2.0, usize::MAX));
            let diag = best(|| fisher_diag_points::fit(&points, &start));
            let check = best(|| metric_check::top_eigenvalue(&points, &metric));
            let model = 1e3 * cost_seconds(n, dim, &options);
            let [one_model, three_model] = [1, made].map(|rounds| 1e3 * pursuit_seconds(n, dim, rounds));
            println!(
                "{dim:>6} {n:>5} {one:>9.3} {one_model:>9.3} {three:>9.3} {three_model:>9.3} {low_rank:>9.3} {model:>9.3} {span:>9.3} {diag:>9.3} {check:>9.3} {:>5}",
                metric.rank()
            );
        }
    }
}
