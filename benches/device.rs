//! What the phases of a step reach of the bandwidth of their device.
//!
//! `cargo bench --bench device [-- NAME ... CHAINSxDIM ... rank=20 single]` prints, for each device and shape, the bytes that
//! a step must read and write, without the model, its time, and the quotient beside that of a copy on the same device. The
//! chains have one metric in common. Per coordinate and chain and in numbers:
//!
//! - hmc: p, g and x are read, the next p and x written, the second half of one step and the first of the next being one pass:
//!   5, and the diagonal, once for all chains.
//! - nuts: the leaf's own p is written too, and the U-turn checks of an average leaf read one momentum from the point before and
//!   one other point (x, p, g): 10, and the diagonal.
//! - a metric with eigenvectors: the gradient once more, and each vector twice, once for all chains.

#![allow(clippy::expect_used)]

#[path = "measuring.rs"]
#[allow(dead_code)]
mod measuring;

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use measuring::{metric_of, seconds};

use nutpie_core::device::{Device, DeviceOptions, Dots, Leaf, Metrics, Phase, Row, Span, open};

/// Rows of a chain: the leaf, the next point, and where spans start.
const ROWS: usize = 4;

struct Shape {
    chains: usize,
    dim: usize,
}

/// Rounds, in each of which everything is timed once: a busy machine is alike to all.
const ROUNDS: usize = 9;

/// The least seconds of some work, by a clock.
struct Least(f64);

impl Least {
    fn time(&mut self, clock: fn() -> f64, work: impl FnOnce()) {
        let start = clock();
        work();
        self.0 = self.0.min(clock() - start);
    }
}

fn on_the_wall() -> f64 {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_secs_f64()
}

/// A leaf of each chain, whose gradient is new.
struct Work {
    phase: Phase,
    metrics: Metrics,
    leaves: Vec<Leaf>,
    spans: Vec<Span>,
}

impl Work {
    fn new(phase: Phase, metrics: Metrics, chains: usize, checks: bool) -> Self {
        let leaf = |c: usize| Leaf {
            metric: c,
            row: ROWS * c,
            kick: 1e-9,
            onward: Some((ROWS * c + 1, 2e-9)),
            spans: if checks { 2 } else { 0 },
            passing: !checks,
        };
        let span = |start, adjacent| Span { start, adjacent };
        let spans = |c: usize| [span(ROWS * c + 2, true), span(ROWS * c + 3, false)];
        let spans = (0..chains).filter(|_| checks).flat_map(spans).collect();
        Work { phase, metrics, leaves: (0..chains).map(leaf).collect(), spans }
    }

    fn step(&self, dev: &mut dyn Device) {
        let (mut kinetic, mut dots) = (vec![0.0; self.leaves.len()], vec![Dots::default(); self.spans.len()]);
        self.leaves.iter().for_each(|leaf| dev.written(Row { buf: self.phase.g, index: leaf.row }));
        dev.finish_leaf(&self.phase, &self.metrics, &self.leaves, &self.spans, &mut kinetic, &mut dots)
            .expect("a leaf");
    }
}

fn measure(name: &str, single: bool, shape: &Shape, rank: usize) {
    let Shape { chains, dim } = *shape;
    let mut dev = match open(name, DeviceOptions { single }) {
        Ok(dev) => dev,
        Err(e) => return println!("{name}: {e}"),
    };
    // The CPU device works in this thread, whose time others do not take away.
    let clock = if name == "cpu" { seconds } else { on_the_wall };
    let (bytes, all) = (if single { 4 } else { 8 }, chains * dim);
    let (pair, one) = (dev.alloc(2, all).expect("memory"), dev.alloc(1, 1).expect("memory"));
    let phase = Phase::alloc(&mut *dev, ROWS * chains, dim).expect("memory");
    let metrics = dev.alloc_metrics(chains, dim).expect("memory");
    let metric = Arc::new(metric_of(rank, dim));
    (0..chains).for_each(|chain| dev.set_metric(&metrics, chain, &metric).expect("a metric"));
    let kernels = [("hmc", 5, false), ("nuts", 10, true)]
        .map(|(kernel, numbers, checks)| (kernel, numbers, Work::new(phase, metrics, chains, checks)));
    let (mut copy, mut steps) = (Least(f64::INFINITY), kernels.each_ref().map(|_| Least(f64::INFINITY)));
    for round in 0..=ROUNDS {
        if round == 1 {
            // The first one has brought the memory.
            (copy, steps) = (Least(f64::INFINITY), kernels.each_ref().map(|_| Least(f64::INFINITY)));
        }
        copy.time(clock, || {
            dev.copy(pair, pair, &[[0, 1]]).expect("a copy");
            // Waits for it.
            dev.read(Row { buf: one, index: 0 }, &mut [0.0]).expect("a number");
        });
        for ((.., work), least) in kernels.iter().zip(&mut steps) {
            least.time(clock, || work.step(&mut *dev));
        }
    }
    let copy = (2 * bytes * all) as f64 / copy.0;
    for ((kernel, numbers, _), Least(seconds)) in kernels.iter().zip(steps) {
        let numbers = (numbers + usize::from(rank > 0)) as f64 + (1 + 2 * rank) as f64 / chains as f64;
        let rate = numbers * (bytes * all) as f64 / seconds;
        println!(
            "{name:<8} {:>6} {:>16} {rank:>4} {kernel:<5} {:>9.3} ms {:>7.1} GB/s {:>7.1} GB/s {:>6.2}",
            if single { "single" } else { "double" },
            format!("{chains} x {dim}"),
            1e3 * seconds,
            1e-9 * rate,
            1e-9 * copy,
            rate / copy
        );
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let shapes: Vec<Shape> = args
        .iter()
        .filter_map(|arg| arg.split_once('x'))
        .filter_map(|(chains, dim)| Some(Shape { chains: chains.parse().ok()?, dim: dim.parse().ok()? }))
        .collect();
    let shapes = if shapes.is_empty() {
        vec![Shape { chains: 64, dim: 100_000 }, Shape { chains: 1024, dim: 10_000 }]
    } else {
        shapes
    };
    let mut names: Vec<&str> = args.iter().map(String::as_str).filter(|arg| *arg != "single").collect();
    let rank = args.iter().find_map(|arg| arg.strip_prefix("rank=")?.parse().ok()).unwrap_or(0);
    names.retain(|name| !name.contains(['x', '=']));
    if names.is_empty() {
        names = vec!["cpu", "opencl", "cuda"];
    }
    println!("device          chains x dim rank step       time        reached          copy  quotient");
    for shape in &shapes {
        for name in &names {
            measure(name, args.iter().any(|arg| arg == "single"), shape, rank);
        }
    }
}
