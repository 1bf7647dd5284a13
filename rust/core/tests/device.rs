//! Nothing above the device trait leans on the CPU device: a naive device without host memory, without merged passes and
//! with sums in another order gives the same chains.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/metrics.rs"]
mod metrics;
#[path = "common/naive.rs"]
mod naive;

use std::sync::Arc;

use common::{Collected, Uneven};
use metrics::{coupled, probed, scattered};
use naive::Naive;
use nutpie_core::adapt::{AdaptSettings, Scheme};
use nutpie_core::block::{Block, Pooling, Start};
use nutpie_core::density::OnHost;
use nutpie_core::device::{
    Cpu, Device, Dots, Glide, Leaf, Phase, Place, Reach, Refresh, Renewal, Row, Span, Step, Turn,
};
use nutpie_core::kernel::Sampler;
use nutpie_core::metric::Metric;
use nutpie_core::rng::{Key, Purpose};
use nutpie_core::settings::Settings;

fn run(dev: Box<dyn Device>, dim: usize, draws: u64) -> (Collected, u64) {
    run_with(Sampler::Nuts, dev, dim, draws)
}

fn run_with(sampler: Sampler, dev: Box<dyn Device>, dim: usize, draws: u64) -> (Collected, u64) {
    let settings = Settings { seed: 3, tune: 60, draws, sampler, ..Settings::default() };
    let start: Vec<f64> = (0..dim).map(|i| 0.5 + (i as f64).sin()).collect();
    let density = Box::new(OnHost::new(Uneven(dim)));
    let mut block = Block::start(dev, density, &settings, &[Start::at(0, &start)], Pooling::Here).unwrap();
    let mut keep = Collected::new(1);
    while !block.done() {
        block.round(&mut keep, |_| ()).unwrap();
    }
    let gradients = block.chains()[0].n_gradients();
    (keep, gradients)
}

#[test]
fn a_naive_device_gives_the_same_ensemble() {
    let settings = Settings { seed: 3, tune: 20, draws: 10, sampler: Sampler::Meads, ..Settings::default() };
    let points: Vec<Vec<f64>> =
        (0..8).map(|chain| (0..7).map(|i| ((7 * chain + i) as f64).sin()).collect()).collect();
    let run = |dev: Box<dyn Device>| {
        let starts: Vec<Start> = points.iter().zip(0..).map(|(x, id)| Start::at(id, x)).collect();
        let density = Box::new(OnHost::new(Uneven(7)));
        let mut block = Block::start(dev, density, &settings, &starts, Pooling::Here).unwrap();
        let mut keep = Collected::new(8);
        while !block.done() {
            block.round(&mut keep, |_| ()).unwrap();
        }
        keep
    };
    let (cpu, naive) = (run(Box::new(Cpu::new())), run(Box::<Naive>::default()));
    for (a, b) in cpu.draws.concat().concat().iter().zip(naive.draws.concat().concat()) {
        assert!((a - b).abs() < 1e-6 * (1.0 + b.abs()), "{a} and {b}");
    }
}

#[test]
fn momenta_are_renewed_in_part_under_any_metric() {
    let diagonal = Metric::diagonal(&[1.0, 4.0, 0.25, 9.0, 1.0], Vec::new());
    for (metric, keep) in [diagonal, coupled(5, 2, 1), coupled(5, 5, 2)].iter().zip([0.9, -0.6, 0.3]) {
        let mut dev = Cpu::new();
        let phase = Phase::alloc(&mut dev, 2, 5).unwrap();
        let metrics = dev.alloc_metrics(1, 5).unwrap();
        dev.set_metric(&metrics, 0, &Arc::new(metric.clone())).unwrap();
        let old = scattered(5, 3);
        dev.write(Row { buf: phase.p, index: 1 }, &old).unwrap();
        let key = Key { seed: 1, chain: 2, draw: 3 };
        let into = |row| Refresh { metric: 0, row, key, purpose: Purpose::Momentum };
        let mut kinetic = [f64::NAN];
        dev.refresh(&phase, &metrics, &[into(0)], &mut kinetic).unwrap();
        dev.renew(&phase, &metrics, &[Renewal { fresh: into(1), keep }], &mut kinetic).unwrap();
        let (mut fresh, mut p) = (vec![0.0; 5], vec![0.0; 5]);
        dev.read(Row { buf: phase.p, index: 0 }, &mut fresh).unwrap();
        dev.read(Row { buf: phase.p, index: 1 }, &mut p).unwrap();
        for i in 0..5 {
            let expected = keep * old[i] + (1.0 - keep * keep).sqrt() * fresh[i];
            assert!((p[i] - expected).abs() < 1e-14, "{p:?}");
        }
        let expected = 0.5 * metrics::dot(&p, &metrics::velocity(metric, &p));
        assert!((kinetic[0] / expected - 1.0).abs() < 1e-4, "{} and {expected}", kinetic[0]);
    }
}

#[test]
fn a_naive_device_gives_the_same_chain() {
    for dim in [1, 7, 16, 37] {
        let (cpu, n_cpu) = run(Box::new(Cpu::new()), dim, 20);
        let (naive, n_naive) = run(Box::new(Naive::default()), dim, 20);
        assert_eq!(n_cpu, n_naive, "dimension {dim}");
        for (a, b) in cpu.draws[0].iter().zip(&naive.draws[0]) {
            for (a, b) in a.iter().zip(b) {
                assert!((a - b).abs() < 1e-5 * (1.0 + b.abs()), "dimension {dim}: {a} and {b}");
            }
        }
    }
}

/// What finishing a leaf leaves behind: all rows, the kinetic energy and the inner products.
fn finished(
    mut dev: impl Device,
    dim: usize,
    metric: &Arc<Metric>,
    leaf: Leaf,
    spans: &[Span],
) -> (Vec<Vec<f64>>, f64, Vec<Dots>) {
    const ROWS: usize = 8;
    let phase = Phase::alloc(&mut dev, ROWS, dim).unwrap();
    let metrics = dev.alloc_metrics(2, dim).unwrap();
    let bufs = [phase.x, phase.p, phase.g];
    for (i, buf) in bufs.into_iter().enumerate() {
        for index in 0..ROWS {
            dev.write(Row { buf, index }, &scattered(dim, 3 * index + i)).unwrap();
        }
    }
    dev.set_metric(&metrics, leaf.metric, metric).unwrap();
    // Row 0 is the leaf, a step and a half kick on from row 1.
    let step = Step { metric: leaf.metric, from: 1, to: 0, kick: leaf.kick, drift: 2.0 * leaf.kick };
    dev.kick_drift(&phase, &metrics, &[step]).unwrap();
    let (mut kinetic, mut dots) = ([f64::NAN], vec![[f64::NAN; 2]; spans.len()]);
    dev.finish_leaf(&phase, &metrics, &[leaf], spans, &mut kinetic, &mut dots).unwrap();
    let mut rows = Vec::new();
    for buf in bufs {
        for index in 0..ROWS {
            rows.push(vec![0.0; dim]);
            dev.read(Row { buf, index }, rows.last_mut().unwrap()).unwrap();
        }
    }
    (rows, kinetic[0], dots)
}

#[test]
fn leaves_are_finished_as_documented() {
    let shapes = [1, 7, 8, 500, 1030].map(|dim| (dim, 0));
    let small =
        (1..=40).flat_map(|dim| [1, 2, dim / 3, dim / 2, dim - 1, dim].map(|rank| (dim, rank.min(dim))));
    let large = [(200, 9), (500, 20)];
    for (dim, rank) in shapes.into_iter().chain(small).chain(large) {
        let metric = Arc::new(coupled(dim, rank, 0));
        let matrix = probed(&mut Cpu::new(), &metric);
        for (kick, n_spans, adjacent, goes_on) in [
            (0.1, 0, false, false),
            (-0.1, 0, false, true),
            (0.1, 1, true, true),
            (-0.2, 1, false, false),
            (0.2, 3, true, false),
            (-0.2, 2, false, true),
            (-0.1, 5, true, true),
            (0.1, 5, false, false),
        ] {
            let spans: Vec<Span> =
                (1..=n_spans).map(|start| Span { start, adjacent: adjacent && start == 1 }).collect();
            let onward = goes_on.then_some((7, 2.0 * kick));
            let leaf = Leaf { metric: 1, row: 0, kick, onward, spans: n_spans, passing: false };
            let (rows, kinetic, dots) = finished(Cpu::new(), dim, &metric, leaf, &spans);
            let naive = Naive::with(1, &matrix);
            let (rows_naive, kinetic_naive, dots_naive) = finished(naive, dim, &metric, leaf, &spans);
            let near = |a: f64, b: f64| (a - b).abs() <= 1e-12 * (1.0 + b.abs()) * (dim + 40 * rank) as f64;
            let what = format!("{dim}, rank {rank}, {n_spans} spans");
            assert!(near(kinetic, kinetic_naive), "{what}: {kinetic} and {kinetic_naive}");
            for (a, b) in rows.iter().flatten().zip(rows_naive.iter().flatten()) {
                assert!(near(*a, *b), "{what}: {a} and {b}");
            }
            for (a, b) in dots.iter().flatten().zip(dots_naive.iter().flatten()) {
                assert!(near(*a, *b), "{what}: {dots:?} and {dots_naive:?}");
            }
        }
    }
}

/// What a glide and the inner products after it leave behind, where the next one begins at the same point.
fn glided(mut dev: impl Device, dim: usize, metric: &Arc<Metric>, to: usize) -> (Vec<Vec<f64>>, Vec<f64>) {
    const ROWS: usize = 3;
    let phase = Phase::alloc(&mut dev, ROWS, dim).unwrap();
    let metrics = dev.alloc_metrics(2, dim).unwrap();
    for (i, buf) in [phase.x, phase.p, phase.g].into_iter().enumerate() {
        for index in 0..ROWS {
            dev.write(Row { buf, index }, &scattered(dim, 3 * index + i)).unwrap();
        }
    }
    dev.set_metric(&metrics, 1, metric).unwrap();
    let (mut kinetic, mut dots) = ([f64::NAN; 2], [[f64::NAN; 2]; 2]);
    let places = [0, to].map(|row| Place { metric: 1, row });
    let glide = |from, scale, kick| Glide { metric: 1, from, to, scale, kick, drift: 0.3 };
    dev.glide(&phase, &metrics, &[glide(0, 0.7, 0.4)]).unwrap();
    dev.products(&phase, &metrics, &places, &mut kinetic, &mut dots).unwrap();
    let mut numbers = [&kinetic[..], dots.as_flattened()].concat();
    // With another gradient, in place.
    dev.write(Row { buf: phase.g, index: to }, &scattered(dim, 50)).unwrap();
    dev.glide(&phase, &metrics, &[glide(to, 1.2, -0.1)]).unwrap();
    dev.products(&phase, &metrics, &places, &mut kinetic, &mut dots).unwrap();
    numbers.extend(kinetic.iter().chain(dots.as_flattened()));
    let mut rows = Vec::new();
    for buf in [phase.x, phase.p] {
        for index in 0..ROWS {
            rows.push(vec![0.0; dim]);
            dev.read(Row { buf, index }, rows.last_mut().unwrap()).unwrap();
        }
    }
    (rows, numbers)
}

#[test]
fn glides_and_products_are_as_documented() {
    let small = (1..=20).flat_map(|dim| [0, 1, 2, dim / 3, dim / 2, dim].map(|rank| (dim, rank.min(dim))));
    for (dim, rank) in small.chain([(500, 0), (200, 9), (60, 60)]) {
        let metric = Arc::new(coupled(dim, rank, 0));
        let matrix = probed(&mut Cpu::new(), &metric);
        for to in [0, 2] {
            let (rows, numbers) = glided(Cpu::new(), dim, &metric, to);
            let (rows_naive, numbers_naive) = glided(Naive::with(1, &matrix), dim, &metric, to);
            let near = |a: f64, b: f64| (a - b).abs() <= 1e-12 * (1.0 + b.abs()) * (dim + 40 * rank) as f64;
            for (a, b) in rows.iter().flatten().zip(rows_naive.iter().flatten()) {
                assert!(near(*a, *b), "{dim}, rank {rank}: {a} and {b}");
            }
            assert!(numbers.iter().zip(&numbers_naive).all(|(a, b)| near(*a, *b)), "{dim}, rank {rank}");
        }
    }
}

/// What pulls, a turn and the ends of spans leave behind.
fn turned(mut dev: impl Device, dim: usize, metric: &Arc<Metric>) -> (Vec<Vec<f64>>, Vec<f64>) {
    const ROWS: usize = 3;
    let phase = Phase::alloc_with_pull(&mut dev, ROWS, dim).unwrap();
    let metrics = dev.alloc_metrics(2, dim).unwrap();
    for (i, buf) in [phase.x, phase.p, phase.g].into_iter().enumerate() {
        for index in 0..ROWS {
            dev.write(Row { buf, index }, &scattered(dim, 3 * index + i)).unwrap();
        }
    }
    dev.set_metric(&metrics, 1, metric).unwrap();
    let (mut kinetic, mut dots) = ([f64::NAN], [[f64::NAN; 2]; 2]);
    dev.pull(&phase, &metrics, &[0, 1].map(|row| Place { metric: 1, row })).unwrap();
    let turn = [Turn { metric: 1, from: 0, to: 2, kick: 0.35, angle: 0.7 }];
    dev.turn(&phase, &metrics, &turn).unwrap();
    dev.write(Row { buf: phase.g, index: 2 }, &scattered(dim, 50)).unwrap();
    dev.finish_turn(&phase, &metrics, &turn, &mut kinetic).unwrap();
    let reach = [Reach { metric: 1, row: 2, half: -0.4, spans: 2 }];
    let spans = [0, 1].map(|start| Span { start, adjacent: false });
    dev.reach(&phase, &metrics, &reach, &spans, &mut dots).unwrap();
    let mut rows = Vec::new();
    for buf in [phase.x, phase.p, phase.pulls().unwrap()] {
        for index in 0..ROWS {
            rows.push(vec![0.0; dim]);
            dev.read(Row { buf, index }, rows.last_mut().unwrap()).unwrap();
        }
    }
    (rows, [&kinetic[..], dots.as_flattened()].concat())
}

#[test]
fn turns_and_ends_of_spans_are_as_documented() {
    let small = (1..=20).flat_map(|dim| [0, 1, 2, dim / 3, dim / 2, dim].map(|rank| (dim, rank.min(dim))));
    for (dim, rank) in small.chain([(500, 0), (200, 9), (60, 60)]) {
        let metric = Arc::new(Metric { center: scattered(dim, 77), ..coupled(dim, rank, 0) });
        let matrix = probed(&mut Cpu::new(), &metric);
        let (rows, numbers) = turned(Cpu::new(), dim, &metric);
        let (rows_naive, numbers_naive) = turned(Naive::with(1, &matrix), dim, &metric);
        let near = |a: f64, b: f64| (a - b).abs() <= 1e-10 * (1.0 + b.abs()) * (dim + 40 * rank) as f64;
        for (a, b) in rows.iter().flatten().zip(rows_naive.iter().flatten()) {
            assert!(near(*a, *b), "{dim}, rank {rank}: {a} and {b}");
        }
        assert!(
            numbers.iter().zip(&numbers_naive).all(|(a, b)| near(*a, *b)),
            "{dim}, rank {rank}: {numbers:?} {numbers_naive:?}"
        );
    }
}

#[test]
fn a_naive_device_gives_the_same_chain_of_another_kernel() {
    for dim in [2, 7, 16] {
        let run = |dev: Box<dyn Device>| run_with(Sampler::Mams, dev, dim, 10);
        let ((cpu, n_cpu), (naive, n_naive)) = (run(Box::new(Cpu::new())), run(Box::<Naive>::default()));
        assert_eq!(n_cpu, n_naive);
        for (a, b) in cpu.draws[0].iter().flatten().zip(naive.draws[0].iter().flatten()) {
            assert!((a - b).abs() <= 1e-4 * (1.0 + b.abs()), "{dim}: {a} and {b}");
        }
    }
}

#[test]
fn chains_of_a_block_do_not_depend_on_each_other() {
    let dim = 11;
    let starts: Vec<Vec<f64>> =
        (0..3).map(|c| (0..dim).map(|i| (c as f64) - 0.1 * i as f64).collect()).collect();
    let run = |settings: &Settings, ids: std::ops::Range<usize>| {
        let starts: Vec<Start> = ids.map(|id| Start::at(id as u64, &starts[id])).collect();
        let density = Box::new(OnHost::new(Uneven(dim)));
        let mut block =
            Block::start(Box::new(Cpu::new()), density, settings, &starts, Pooling::Here).unwrap();
        let mut all = Collected::new(starts.len());
        while !block.done() {
            block.round(&mut all, |_| ()).unwrap();
        }
        all
    };
    for scheme in Scheme::ALL.iter().map(|info| info.scheme) {
        // Chains that pool nothing: what they do in company they do alone.
        let adapt = AdaptSettings { pool: false, ..AdaptSettings::new(scheme) };
        let settings = Settings { seed: 5, tune: 60, draws: 30, adapt, ..Settings::default() };
        let all = run(&settings, 0..3);
        for id in 0..3 {
            let alone = run(&settings, id..id + 1);
            assert_eq!(alone.draws[0], all.draws[id], "{scheme:?}");
            assert_eq!(alone.stats[0], all.stats[id], "{scheme:?}");
        }
    }
}

#[test]
fn leapfrog_steps_are_reversible_and_keep_volume() {
    // Forward with e and back with -e restores position and momentum.
    let mut dev = Cpu::new();
    let dim = 13;
    let phase = Phase::alloc(&mut dev, 3, dim).unwrap();
    let metrics = dev.alloc_metrics(1, dim).unwrap();
    let mut density = OnHost::new(Uneven(dim));
    let x: Vec<f64> = (0..dim).map(|i| (i as f64).cos()).collect();
    dev.write(Row { buf: phase.x, index: 0 }, &x).unwrap();
    dev.write(Row { buf: phase.p, index: 0 }, &x).unwrap();
    let mut logp = [0.0];
    nutpie_core::density::Density::logp_grad(&mut density, &mut dev, &phase, &[0], &mut logp).unwrap();
    dev.metric_from_gradient(&metrics, &phase, &[Place { metric: 0, row: 0 }]).unwrap();
    let mut batch = nutpie_core::integrate::Batch::default();
    for (from, to, step) in [(0, 1, 0.1), (1, 2, -0.1)] {
        batch.clear();
        let request =
            nutpie_core::integrate::Request { metric: 0, from, to, step, begun: false, onward: None };
        batch.push(request, std::iter::empty());
        batch.run(&mut dev, &mut density, &phase, &metrics).unwrap();
    }
    for buf in [phase.x, phase.p] {
        let mut back = vec![0.0; dim];
        dev.read(Row { buf, index: 2 }, &mut back).unwrap();
        assert!(back.iter().zip(&x).all(|(a, b)| (a - b).abs() < 1e-13));
    }
}
