//! The kernel with persistent momenta: what it does can be undone, and it leaves the target as it is.
//!
//! The slow one wants `cargo test --release -p nutpie-core --test ghmc -- --ignored`: the same with millions of gradients.
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic)]

#[path = "common/validity_harness.rs"]
#[allow(dead_code)]
mod harness;
#[path = "common/validity_kernels.rs"]
#[allow(dead_code)]
mod kernels;
#[path = "common/metrics.rs"]
mod metrics;
#[path = "common/validity_plain_kernels.rs"]
mod plain;
#[path = "common/validity_points.rs"]
mod points;
#[path = "common/validity_reference.rs"]
#[allow(dead_code)]
mod reference;
#[path = "common/validity_targets.rs"]
#[allow(dead_code)]
mod targets;

use std::panic::catch_unwind;

use harness::{check_seeds, diagonal, finish};
use kernels::{gaussian, gaussian_functionals, logistic_functionals, normals};
use metrics::{coupled, momentum};
use nutpie_core::integrate::Batch;
use nutpie_core::kernel::ghmc::{Ghmc, GhmcState};
use nutpie_core::kernel::transitions::Tuned;
use nutpie_core::kernel::{Begin, KernelState, Sampler};
use nutpie_core::metric::Metric;
use nutpie_core::rng::{Key, Purpose, Stream};
use nutpie_core::settings::Settings;
use plain::{Persistent, Plain, Slicing};
use points::{DIM, Points, metrics_to_try, near};
use targets::{Logistic, Student};

/// A transition of the kernel with persistent momenta from (x, p, u), of which nothing is renewed: its end.
fn ghmc_step(
    target: &Student,
    metric: &Metric,
    step: f64,
    x: &[f64],
    p: &[f64],
    u: f64,
) -> ([Vec<f64>; 2], GhmcState, f64) {
    let mut points = Points::new(target, metric, Ghmc::SLOTS);
    let logp = points.put(0, x, p);
    let kinetic = points.kinetic(0);
    let tuned = Tuned { length: f64::INFINITY, step, transitions: 1 };
    let mut kernel = Ghmc::new(1000.0, GhmcState { tuned, sign: 1.0, ..GhmcState::new(u) });
    assert_eq!(kernel.keeps(), 1.0);
    let stream = Stream::new(Key { seed: 1, chain: 0, draw: 0 }, Purpose::Trajectory);
    kernel.begin(Begin { slot: 0, logp, kinetic, transition: 0, step: f64::NAN, max_depth: None, stream });
    let mut batch = Batch::default();
    kernel.request(0, 0, &mut batch);
    points.run(&mut batch);
    kernel.absorb(&batch.arrivals().next().unwrap());
    let (slot, logp) = kernel.position();
    let [x, p, _] = points.get(slot);
    ([x, p], kernel.state(), points.kinetic(slot) - logp)
}

#[test]
fn persistent_momenta_lead_back_and_the_slice_stays() {
    let target = Student { dim: DIM, freedom: 5.0 };
    let (mut accepted, mut rejected) = (0, 0);
    for seed in 0..60 {
        let metric = &metrics_to_try()[seed as usize % 3];
        let (x, p) = (normals(seed, 1, DIM), momentum(metric, &normals(seed, 2, DIM)));
        let u = 2.0 * normals(seed, 3, 1)[0].abs().fract() - 1.0;
        let energy = {
            let mut points = Points::new(&target, metric, 1);
            let logp = points.put(0, &x, &p);
            points.kinetic(0) - logp
        };
        let ([x_end, p_end], state, energy_end) = ghmc_step(&target, metric, 1.1, &x, &p, u);
        if state.sign < 0.0 {
            rejected += 1;
            // It stands, and its momentum turns round.
            assert_eq!((x_end, p_end, state.slice), (x, p, u));
            continue;
        }
        accepted += 1;
        // |u| exp(-H) is what is compared with the density of the next point.
        let level = |u: f64, energy: f64| u.abs().ln() - energy;
        assert!((level(state.slice, energy_end) - level(u, energy)).abs() < 1e-9 && state.slice * u > 0.0);
        let turned: Vec<f64> = p_end.iter().map(|p| -p).collect();
        let ([x_back, p_back], back, _) = ghmc_step(&target, metric, 1.1, &x_end, &turned, state.slice);
        let turned: Vec<f64> = p_back.iter().map(|p| -p).collect();
        assert!(near(&x_back, &x, 1e-9) && near(&turned, &p, 1e-9) && (back.slice - u).abs() < 1e-9);
    }
    assert!(accepted > 20 && rejected > 5, "{accepted} accepted, {rejected} rejected");
}

#[test]
fn momenta_and_slices_are_renewed_by_the_same_measure() {
    let tuned = Tuned { length: 2.0, step: 0.5, transitions: 1 };
    let mut kernel = Ghmc::new(1000.0, GhmcState { tuned, ..GhmcState::new(0.9) });
    assert_eq!(kernel.keeps(), 0.0, "the first momentum is a fresh one");
    let stream = Stream::new(Key { seed: 1, chain: 0, draw: 0 }, Purpose::Trajectory);
    kernel.begin(Begin {
        slot: 0,
        logp: 0.0,
        kinetic: 0.0,
        transition: 0,
        step: 0.0,
        max_depth: None,
        stream,
    });
    let renewed = 1.0 - (-2.0 * 0.5 / 2.0f64).exp();
    assert!(
        (kernel.state().slice - (0.9 + 0.5 * renewed - 2.0)).abs() < 1e-15,
        "beyond 1 it goes on from -1"
    );
    let kernel = Ghmc::new(1000.0, GhmcState { sign: -1.0, ..kernel.state() });
    assert!((kernel.keeps() + (1.0 - renewed).sqrt()).abs() < 1e-15);
}

// ------------------------------------------------------------------------------------------------------ invariance

/// Long steps under metrics that do not fit, so that much is rejected.
fn check_invariance(draws: u64, seeds: u64) {
    let target = gaussian();
    let wrong = diagonal(&[0.6, 0.02, 60.0, 16.0]);
    let eigenvector = coupled(3, 1, 4);
    let logistic = Logistic { scale: vec![1.0, 0.5, 2.0] };
    for (name, length, step, transitions) in [("one", 0.9, 0.7, 1), ("three", 2.0, 0.5, 3)] {
        let tuned = Tuned { length, step, transitions };
        let settings = Settings { sampler: Sampler::Meads, ..Settings::default() };
        let block = |seed: u64, metric: &Metric| {
            let u = 2.0 * harness::uniforms(seed, 6)() - 1.0;
            let state = KernelState::Ghmc(GhmcState { tuned, ..GhmcState::new(u) });
            (harness::Kernel { seed, metric: metric.clone(), step: 0.1, max_depth: 10 }, state)
        };
        check_seeds(&format!("gaussian, {name}"), seeds, &gaussian_functionals(), |seed| {
            let (kernel, state) = block(seed, &wrong);
            let start = target.point(normals(seed, 0, 4));
            let mut block = kernel.block_in(&settings, &state, &target, &[start], draws);
            finish(&mut block, 4).into_iter().map(|d| d.x).collect()
        });
        check_seeds(&format!("logistic, {name}"), seeds, &logistic_functionals(2.0), |seed| {
            let (kernel, state) = block(seed, &eigenvector);
            let mut random = harness::uniforms(seed, 5);
            let start = logistic.scale.iter().map(|s| (random(), *s)).map(|(p, s)| s * (p / (1.0 - p)).ln());
            let mut block = kernel.block_in(&settings, &state, &logistic, &[start.collect()], draws);
            finish(&mut block, 3).into_iter().map(|d| d.x).collect()
        });
    }
}

#[test]
fn exact_draws_stay_exact() {
    check_invariance(10_000, 32);
}

#[test]
#[ignore = "slow: millions of gradients"]
fn exact_draws_stay_exact_at_high_precision() {
    check_invariance(200_000, 64);
}

#[test]
fn broken_persistence_is_noticed() {
    let run = |slicing: Slicing| {
        move |seed| {
            let mut random = harness::uniforms(seed, 5);
            let x: Vec<f64> = (0..3).map(|_| random()).map(|p: f64| (p / (1.0 - p)).ln()).collect();
            let mut plain = Plain::new(Logistic { scale: vec![1.0; 3] }, seed);
            let mut state = Persistent { x, p: normals(seed, 6, 3), u: 2.0 * random() - 1.0 };
            (0..16_000)
                .map(|_| {
                    plain.ghmc(&mut state, 2.6, 20.0, slicing);
                    state.x.clone()
                })
                .collect::<Vec<_>>()
        }
    };
    let right = Slicing { factor: 1.0, turns: true, follows: true };
    let is_right =
        |slicing| catch_unwind(|| check_seeds("plain", 32, &logistic_functionals(1.0), run(slicing))).is_ok();
    assert!(is_right(right), "as it is");
    assert!(!is_right(Slicing { factor: 0.5, ..right }), "half the weight");
    assert!(!is_right(Slicing { turns: false, ..right }), "rejected momenta go on");
    assert!(!is_right(Slicing { follows: false, ..right }), "u is not corrected");
}
