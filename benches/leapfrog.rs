//! Nanoseconds per leapfrog, without the density, beside a copy of the bytes that a leapfrog must touch.
//!
//! `cargo bench --bench leapfrog [-- DIM ...]` prints a table for diagonal metrics, and with `rank=20` among the arguments one
//! that has leapfrogs of a metric of that rank beside them. The density is a standard normal, timed alone and subtracted. "all" is
//! CPU time of sampling per gradient, everything included: momenta, trees, stored draws. "copy" moves as many bytes as one
//! leapfrog with its U-turn checks by sums of momenta must read and write at the least, 82 per coordinate (half read, half
//! written), over as many arrays as a trajectory cycles through. (With displacements in place of the sums it would be 66.)

#![allow(clippy::expect_used)]

#[path = "measuring.rs"]
mod measuring;

use std::hint::black_box;
use std::sync::Arc;

use nutpie_core::adapt::{AdaptSettings, Scheme};
use nutpie_core::block::{Block, Pooling, Start};
use nutpie_core::chain::{Chain, N_STATISTICS};
use nutpie_core::density::OnHost;
use nutpie_core::device::{
    Addition, Cpu, Device, Fit, Leaf, Moments, Phase, Place, Refresh, Sample, Span, Step,
};
use nutpie_core::rng::{Key, Purpose};
use nutpie_core::settings::Settings;
use nutpie_core::trace::{Keep, MemoryStore};

use measuring::{Normal, best, density, metric_of, seconds};

const BYTES_PER_COORDINATE: usize = 82;

/// Dimension, warm-up draws and draws.
const SIZES: [(usize, u64, u64); 6] = [
    (10, 400, 20_000),
    (100, 400, 10_000),
    (1_000, 400, 2_000),
    (10_000, 200, 200),
    (100_000, 60, 60),
    (1_000_000, 10, 5),
];

/// Nanoseconds per gradient of a whole run, and leapfrogs per draw.
fn sampling(dim: usize, tune: u64, draws: u64) -> (f64, f64) {
    // The adaptation that costs the least beside the leapfrogs.
    let adapt = AdaptSettings::new(Scheme::Diag);
    let settings = Settings { seed: 1, tune, draws, adapt, ..Settings::default() };
    let start = vec![0.5; dim];
    let mut best = f64::INFINITY;
    let mut per_draw = 0.0;
    for _ in 0..3 {
        let density = Box::new(OnHost::new(Normal(dim)));
        let mut store = MemoryStore::new(dim, N_STATISTICS, tune, draws, Keep::default()).expect("memory");
        let starts = [Start::at(0, &start)];
        let mut block =
            Block::start(Box::new(Cpu::new()), density, &settings, &starts, Pooling::Here).expect("start");
        let clock = seconds();
        while !block.done() {
            block.round(&mut store, |_| ()).expect("round");
        }
        let gradients = block.chains()[0].n_gradients() as f64;
        best = best.min((seconds() - clock) * 1e9 / gradients);
        per_draw = gradients / (tune + draws) as f64;
    }
    (best, per_draw)
}

/// Nanoseconds per gradient of a chain that adapts nothing, with a metric of some rank, and leapfrogs per draw. All
/// eigenvalues are near 1, so that trajectories do not depend on the rank.
fn fixed(dim: usize, rank: usize, draws: u64) -> (f64, f64) {
    let mut adapt = AdaptSettings::new(Scheme::Fixed);
    // The step size of the search, which is not adapted in a warm-up without draws.
    adapt.max_step_size = 1.2 * (dim as f64).powf(-0.25);
    let settings = Settings { seed: 1, tune: 0, draws, adapt, ..Settings::default() };
    let start = vec![0.5; dim];
    let starts = [Start { metric: Some(Arc::new(metric_of(rank, dim))), ..Start::at(0, &start) }];
    let density = Box::new(OnHost::new(Normal(dim)));
    let mut store = MemoryStore::new(dim, N_STATISTICS, 0, draws, Keep::default()).expect("memory");
    let mut block =
        Block::start(Box::new(Cpu::new()), density, &settings, &starts, Pooling::Here).expect("a start");
    block.round(&mut store, |_| ()).expect("round");
    let clock = seconds();
    while !block.done() {
        block.round(&mut store, |_| ()).expect("round");
    }
    let gradients = block.chains()[0].n_gradients() as f64;
    ((seconds() - clock) * 1e9 / gradients, gradients / draws as f64)
}

/// Nanoseconds to give a new metric to a chain.
fn setting(dim: usize, rank: usize) -> f64 {
    let mut dev = Cpu::new();
    let metrics = dev.alloc_metrics(1, dim).expect("memory");
    let metric = metric_of(rank, dim);
    // A copy of its own each time, for the device would know it again.
    let mut copies = (0..9).map(|_| Arc::new(metric.clone())).collect::<Vec<_>>().into_iter();
    1e9 * best(1, || {
        let metric = copies.next().expect("a copy");
        dev.set_metric(&metrics, 0, &metric).expect("a metric");
    })
}

/// Diagonal and coupled leapfrogs in turn, several times over, since the machine may be busy.
fn coupled(rank: usize, chosen: &[usize]) {
    println!(
        "nanoseconds per gradient, density subtracted; ratio without density, with that of a standard normal, and with \
         one of 10 ns per parameter; nanoseconds to set the metric"
    );
    println!(
        "{:>8} {:>7} {:>10} {:>10} {:>7} {:>7} {:>7} {:>7} {:>7} | {:>10}",
        "dim", "rank", "diagonal", "coupled", "ratio", "+normal", "+10ns", "steps", "ns/dim", "set"
    );
    for (dim, draws) in [(10, 20_000), (100, 10_000), (1_000, 1_500), (10_000, 100), (100_000, 8)] {
        if rank >= dim || !chosen.is_empty() && !chosen.contains(&dim) {
            continue;
        }
        let density = density(dim);
        let mut best = [f64::INFINITY; 2];
        let mut steps = 0.0;
        for _ in 0..7 {
            for (best, rank) in best.iter_mut().zip([0, rank]) {
                let (time, per_draw) = fixed(dim, rank, draws);
                *best = best.min(time - density);
                steps = per_draw;
            }
        }
        let [diagonal, coupled] = best;
        let own = 10.0 * dim as f64;
        println!(
            "{dim:>8} {rank:>7} {diagonal:>10.0} {coupled:>10.0} {:>7.2} {:>7.2} {:>7.2} {steps:>7.1} {:>7.2} | {:>10.0}",
            coupled / diagonal,
            (coupled + density) / (diagonal + density),
            (coupled + own) / (diagonal + own),
            (coupled - diagonal) / dim as f64,
            setting(dim, rank)
        );
    }
}

/// Nanoseconds of a copy of the bytes of one leapfrog, cycling through a trajectory's arrays.
fn copy(dim: usize) -> f64 {
    let n = dim * BYTES_PER_COORDINATE / 16;
    let arrays = 6;
    let mut storage = vec![1.0f64; 2 * n * arrays];
    let calls = (20_000_000 / n).clamp(5, 1_000_000);
    let mut at = 0;
    1e9 * best(calls, || {
        let (src, dst) = storage[2 * n * at..2 * n * (at + 1)].split_at_mut(n);
        dst.copy_from_slice(black_box(src));
        black_box(&dst);
        at = (at + 1) % arrays;
    })
}

/// Nanoseconds of each phase alone.
fn phases(dim: usize) -> [f64; 5] {
    let mut dev = Cpu::new();
    let rows = Chain::rows(&Settings::default());
    let phase = Phase::alloc(&mut dev, rows, dim).expect("memory");
    let metrics = dev.alloc_metrics(1, dim).expect("memory");
    let moments = Moments::alloc(&mut dev, 2, dim).expect("memory");
    let calls = (10_000_000 / dim).clamp(5, 1_000_000);
    let key = Key { seed: 1, chain: 0, draw: 0 };
    let mut kinetic = [0.0];
    let mut dots = [[0.0; 2]; 4];
    dev.metric_from_gradient(&metrics, &phase, &[Place { metric: 0, row: 0 }]).expect("metric");
    let mut at = 0;
    let mut next = || {
        at = (at + 1) % 6;
        at
    };
    let refresh = best(calls, || {
        let ops = [Refresh { metric: 0, row: 0, key, purpose: Purpose::Momentum }];
        dev.refresh(&phase, &metrics, &ops, &mut kinetic).expect("refresh");
    });
    let kick_drift = best(calls, || {
        let from = next();
        let op = Step { metric: 0, from, to: (from + 1) % 6, kick: 1e-3, drift: 1e-3 };
        dev.kick_drift(&phase, &metrics, &[op]).expect("step");
    });
    let mut leaf = |spans: usize| {
        best(calls, || {
            let row = next();
            let span = |k: usize| Span { start: (row + k) % 6, adjacent: false };
            let spans_of = [span(1), span(2), span(3), span(4)];
            let leaf = Leaf { metric: 0, row, kick: 1e-3, onward: None, spans, passing: false };
            dev.finish_leaf(&phase, &metrics, &[leaf], &spans_of[..spans], &mut kinetic, &mut dots[..spans])
                .expect("leaf");
        })
    };
    let (bare, two) = (leaf(0), leaf(2));
    let adapt = best(calls, || {
        let samples = [Sample { row: 0, count: 10 }, Sample { row: 1, count: 10 }];
        let addition = Addition { sample: samples[1], point: 0 };
        dev.accumulate(&moments, &phase, &[addition]).expect("moments");
        dev.fit_fisher_diag(&metrics, &moments, &[Fit { metric: 0, samples }]).expect("fit");
    });
    [refresh, kick_drift, bare, two, adapt].map(|s| s * 1e9)
}

fn main() {
    let chosen: Vec<usize> = std::env::args().filter_map(|a| a.parse().ok()).collect();
    let rank = std::env::args().find_map(|a| a.strip_prefix("rank=").and_then(|r| r.parse().ok()));
    if let Some(rank) = rank {
        coupled(rank, &chosen);
        return;
    }
    println!("nanoseconds; phases: one call each, over the arrays of a small trajectory");
    println!(
        "{:>8} {:>10} {:>10} {:>10} {:>10} {:>7} {:>7} | {:>10} {:>10} {:>10} {:>10} {:>10}",
        "dim",
        "all",
        "density",
        "leapfrog",
        "copy",
        "ratio",
        "steps",
        "momentum",
        "kick+drift",
        "leaf",
        "leaf+2",
        "adapt"
    );
    for (dim, tune, draws) in SIZES {
        if !chosen.is_empty() && !chosen.contains(&dim) {
            continue;
        }
        let (all, steps) = sampling(dim, tune, draws);
        let density = density(dim);
        let copy = copy(dim);
        let leapfrog = all - density;
        let [momentum, kick_drift, leaf, leaf2, adapt] = phases(dim);
        println!(
            "{dim:>8} {all:>10.0} {density:>10.0} {leapfrog:>10.0} {copy:>10.0} {:>7.2} {steps:>7.1} | {momentum:>10.0} {kick_drift:>10.0} {leaf:>10.0} {leaf2:>10.0} {adapt:>10.0}",
            leapfrog / copy
        );
    }
}
