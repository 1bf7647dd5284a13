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

use std::sync::Arc;
use std::time::Instant;

use measuring::metric_of;

use nutpie_core::device::{Device, DeviceOptions, Dots, Leaf, Metrics, Phase, Row, Span, open};

/// Rows of a chain: the leaf, the next point, and where spans start.
const ROWS: usize = 4;

struct Shape {
    chains: usize,
    dim: usize,
}

/// Best seconds of a call among several.
fn best(mut f: impl FnMut()) -> f64 {
    f();
    (0..7)
        .map(|_| {
            let start = Instant::now();
            f();
            start.elapsed().as_secs_f64()
        })
        .fold(f64::INFINITY, f64::min)
}

/// Bytes per second of a copy on the device, over as many bytes as a step.
fn copy_rate(dev: &mut dyn Device, shape: &Shape, bytes: usize) -> f64 {
    let all = shape.chains * shape.dim;
    let (buf, one) = (dev.alloc(2, all).expect("memory"), dev.alloc(1, 1).expect("memory"));
    let seconds = best(|| {
        dev.copy(buf, buf, &[[0, 1]]).expect("a copy");
        // Waits for it.
        dev.read(Row { buf: one, index: 0 }, &mut [0.0]).expect("a number");
    });
    (2 * bytes * all) as f64 / seconds
}

/// Best seconds of finishing one leaf of each chain, whose gradient is new.
fn step(dev: &mut dyn Device, phase: &Phase, metrics: &Metrics, chains: usize, checks: bool) -> f64 {
    let leaf = |c: usize| Leaf {
        metric: c,
        row: ROWS * c,
        kick: 1e-9,
        onward: Some((ROWS * c + 1, 2e-9)),
        spans: if checks { 2 } else { 0 },
        passing: !checks,
    };
    let leaves: Vec<Leaf> = (0..chains).map(leaf).collect();
    let span = |start, adjacent| Span { start, adjacent };
    let spans: Vec<Span> =
        (0..chains).flat_map(|c| [span(ROWS * c + 2, true), span(ROWS * c + 3, false)]).collect();
    let spans = if checks { &spans[..] } else { &[] };
    let (mut kinetic, mut dots) = (vec![0.0; chains], vec![Dots::default(); spans.len()]);
    best(|| {
        leaves.iter().for_each(|leaf| dev.written(Row { buf: phase.g, index: leaf.row }));
        dev.finish_leaf(phase, metrics, &leaves, spans, &mut kinetic, &mut dots).expect("a leaf");
    })
}

fn measure(name: &str, single: bool, shape: &Shape, rank: usize) {
    let Shape { chains, dim } = *shape;
    let mut dev = match open(name, DeviceOptions { single }) {
        Ok(dev) => dev,
        Err(e) => return println!("{name}: {e}"),
    };
    let bytes = if single { 4 } else { 8 };
    let copy = copy_rate(&mut *dev, shape, bytes);
    // A fresh device, for the memory of the copy.
    drop(dev);
    let mut dev = open(name, DeviceOptions { single }).expect("as before");
    let phase = Phase::alloc(&mut *dev, ROWS * chains, dim).expect("memory");
    let metrics = dev.alloc_metrics(chains, dim).expect("memory");
    let metric = Arc::new(metric_of(rank, dim));
    (0..chains).for_each(|chain| dev.set_metric(&metrics, chain, &metric).expect("a metric"));
    for (kernel, numbers, checks) in [("hmc", 5, false), ("nuts", 10, true)] {
        let numbers = (numbers + usize::from(rank > 0)) as f64 + (1 + 2 * rank) as f64 / chains as f64;
        let seconds = step(&mut *dev, &phase, &metrics, chains, checks);
        let rate = numbers * (bytes * chains * dim) as f64 / seconds;
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
