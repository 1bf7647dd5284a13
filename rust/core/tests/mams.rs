//! The Metropolis-adjusted microcanonical kernel: its trajectories lead back, change volume as it says, and leave the target
//! as it is.
//!
//! The slow ones want `cargo test --release -p nutpie-core --test mams -- --ignored`: the same with some millions of gradients.
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic)]

#[path = "common/validity_harness.rs"]
#[allow(dead_code)]
mod harness;
#[path = "common/validity_kernels.rs"]
#[allow(dead_code)]
mod kernels;
#[path = "common/metrics.rs"]
mod metrics;
#[path = "common/validity_plain_mams.rs"]
mod plain_mams;
#[path = "common/validity_reference.rs"]
#[allow(dead_code)]
mod reference;
#[path = "common/validity_targets.rs"]
#[allow(dead_code)]
mod targets;

use std::panic::catch_unwind;
use std::sync::Arc;

use harness::{Functional, Marginal, check_seeds, diagonal, finish, positions};
use kernels::{gaussian, gaussian_functionals, log_determinant, logistic_functionals, normals};
use metrics::{coupled, momentum, velocity};
use nutpie_core::density::{Density, HostDensity, OnHost};
use nutpie_core::device::{Cpu, Device, Glide, Metrics, Phase, Place, Row};
use nutpie_core::integrate::Batch;
use nutpie_core::kernel::mams::{Kick, Mams};
use nutpie_core::kernel::transitions::{Tuned, TunedState};
use nutpie_core::kernel::{Begin, KernelState, Next, Sampler};
use nutpie_core::metric::Metric;
use nutpie_core::rng::{Key, Purpose, Stream};
use nutpie_core::settings::Settings;
use plain_mams::PlainMams;
use targets::{Logistic, Student};

const DIM: usize = 5;

fn stream(chain: u32, draw: u32) -> Stream {
    Stream::new(Key { seed: 3, chain, draw }, Purpose::Trajectory)
}

fn student() -> Student {
    Student { dim: DIM, freedom: 5.0 }
}

/// A trajectory of the kernel from a position and a momentum, of which only the direction matters: the end, and W.
struct Trajectories {
    metric: Metric,
    steps: u64,
    h: f64,
}

struct End {
    x: Vec<f64>,
    p: Vec<f64>,
    /// What the kernel takes for minus the logarithm of the acceptance ratio.
    error: f64,
    /// Log density at the start and at the end.
    logp: [f64; 2],
}

impl Trajectories {
    fn run<D: HostDensity + Clone + 'static>(&self, density: &D, x: &[f64], p: &[f64]) -> End {
        let (mut dev, dim) = (Cpu::new(), x.len());
        let phase = Phase::alloc(&mut dev, Mams::SLOTS, dim).unwrap();
        let metrics = dev.alloc_metrics(1, dim).unwrap();
        dev.set_metric(&metrics, 0, &Arc::new(self.metric.clone())).unwrap();
        dev.write(Row { buf: phase.x, index: 0 }, x).unwrap();
        dev.write(Row { buf: phase.p, index: 0 }, p).unwrap();
        let mut density = OnHost::new(density.clone());
        let mut logp = [0.0];
        density.logp_grad(&mut dev, &phase, &[0], &mut logp).unwrap();
        let (kinetic, dots) = products(&mut dev, &phase, &metrics, 0);
        // With the golden ratio added the phase is a half, so that the time is the length.
        let tuned = Tuned { length: self.steps as f64 * self.h, step: 1.000001 * self.h, transitions: 1 };
        let state = TunedState { tuned, phase: 1.5 - 0.618_033_988_749_894_9, rejections: 0 };
        let mut kernel = Mams::new(dim, 1000.0, state, stream(0, 0));
        let begin = Begin {
            slot: 0,
            logp: logp[0],
            kinetic,
            transition: 0,
            step: f64::NAN,
            max_depth: None,
            stream: stream(0, 0),
        };
        kernel.begin(begin, dots);
        let mut batch = Batch::default();
        let (mut gradients, mut last) = (0, 0.0);
        loop {
            batch.clear();
            kernel.request(0, 0, &mut batch);
            batch.run(&mut dev, &mut density, &phase, &metrics).unwrap();
            gradients += 1;
            let arrival = batch.arrivals().next().unwrap();
            last = if arrival.logp.is_finite() { arrival.logp } else { last };
            if kernel.absorb(&arrival) == Next::Draw {
                break;
            }
        }
        assert_eq!(gradients, self.steps);
        // The kernel leaves out the last half kick, of which it needs only what it adds to W.
        let (kinetic, dots) = products(&mut dev, &phase, &metrics, 1);
        let Kick { scale, kick, .. } = Kick::new(0.5 * self.h, dim, kinetic, dots);
        let half = Glide { metric: 0, from: 1, to: 1, scale, kick, drift: 0.0 };
        dev.glide(&phase, &metrics, &[half]).unwrap();
        let read = |buf| {
            let mut out = vec![0.0; dim];
            dev.read(Row { buf, index: 1 }, &mut out).unwrap();
            out
        };
        let error = kernel.outcome().statistics[1];
        End { x: read(phase.x), p: read(phase.p), error, logp: [logp[0], last] }
    }
}

fn products(dev: &mut Cpu, phase: &Phase, metrics: &Metrics, row: usize) -> (f64, [f64; 2]) {
    let (mut kinetic, mut dots) = ([0.0], [[0.0; 2]]);
    dev.products(phase, metrics, &[Place { metric: 0, row }], &mut kinetic, &mut dots).unwrap();
    (kinetic[0], dots[0])
}

fn metrics_to_try() -> [Metric; 3] {
    [diagonal(&[1.0, 4.0, 0.25, 9.0, 1.0]), coupled(DIM, 2, 1), coupled(DIM, DIM, 2)]
}

#[test]
fn trajectories_lead_back() {
    for (metric, seed) in metrics_to_try().into_iter().zip(0..) {
        for (steps, h) in [(1, 0.4), (2, 0.3), (7, 0.2), (30, 0.05)] {
            let trajectories = Trajectories { metric: metric.clone(), steps, h };
            let (x, z) = (normals(seed, 1, DIM), normals(seed, 2, DIM));
            let there = trajectories.run(&student(), &x, &momentum(&metric, &z));
            let square: f64 = there.p.iter().zip(velocity(&metric, &there.p)).map(|(p, v)| p * v).sum();
            assert!((square - 1.0).abs() < 1e-5, "{square}");
            let turned: Vec<f64> = there.p.iter().map(|p| -p).collect();
            let back = trajectories.run(&student(), &there.x, &turned);
            for (a, b) in back.x.iter().zip(&x) {
                assert!((a - b).abs() < 1e-10, "{steps} steps: {a} and {b}");
            }
            assert!((there.error + back.error).abs() < 1e-10, "{} and {}", there.error, back.error);
            assert!(there.error.abs() > 1e-6, "the error is no accident");
        }
    }
}

/// Orthonormal directions at right angles to a unit vector.
fn tangents(u: &[f64]) -> Vec<Vec<f64>> {
    let mut basis = vec![u.to_vec()];
    for k in 0..u.len() {
        let mut v: Vec<f64> = (0..u.len()).map(|i| f64::from(u8::from(i == k))).collect();
        for _ in 0..2 {
            for b in &basis {
                let along: f64 = b.iter().zip(&v).map(|(b, v)| b * v).sum();
                v.iter_mut().zip(b).for_each(|(v, b)| *v -= along * b);
            }
        }
        let norm = v.iter().map(|v| v * v).sum::<f64>().sqrt();
        if norm > 0.3 && basis.len() < u.len() {
            basis.push(v.iter().map(|v| v / norm).collect());
        }
    }
    assert_eq!(basis.len(), u.len());
    basis.split_off(1)
}

#[test]
fn the_density_changes_as_they_say() {
    // In the coordinates y of the identity, where u = p: the Jacobian of (y, u) on R^D x S^(D-1) by central differences.
    let metric = diagonal(&[1.0; DIM]);
    for (steps, h, seed) in [(1, 0.5, 1), (2, 0.7, 2), (5, 0.4, 3)] {
        let trajectories = Trajectories { metric: metric.clone(), steps, h };
        let (x, z) = (normals(seed, 1, DIM), normals(seed, 2, DIM));
        let norm = z.iter().map(|z| z * z).sum::<f64>().sqrt();
        let u: Vec<f64> = z.iter().map(|z| z / norm).collect();
        let end = trajectories.run(&student(), &x, &u);
        let (from, to) = (tangents(&u), tangents(&end.p));
        let e = 1e-5;
        let moved = |by: f64, direction: usize| {
            let (mut x, mut u) = (x.clone(), u.clone());
            if direction < DIM {
                x[direction] += by;
            } else {
                u.iter_mut().zip(&from[direction - DIM]).for_each(|(u, t)| *u += by * t);
            }
            let End { x, p, .. } = trajectories.run(&student(), &x, &u);
            let along = to.iter().map(|t| t.iter().zip(&p).map(|(t, p)| t * p).sum::<f64>());
            x.iter().copied().chain(along).collect::<Vec<f64>>()
        };
        let jacobian: Vec<Vec<f64>> = (0..2 * DIM - 1)
            .map(|direction| {
                let (up, down) = (moved(e, direction), moved(-e, direction));
                up.iter().zip(down).map(|(a, b)| (a - b) / (2.0 * e)).collect()
            })
            .collect();
        let work = end.error - end.logp[0] + end.logp[1];
        let found = log_determinant(jacobian);
        assert!(work.abs() > 0.01 && (found + work).abs() < 1e-6, "{found} and {work}");
    }
}

#[test]
fn kicks_are_the_formula_and_survive_extremes() {
    // The formula of the module, with hyperbolic functions, for a unit momentum and a metric of one.
    let (dim, length) = (4, 0.7);
    let (p, g) = ([0.5, -0.5, 0.5, 0.5], [2.0, 1.0, -0.3, 0.4]);
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let force = dot(&g, &g).sqrt();
    let (a, c) = (length * 2.0 * force / 3.0, dot(&p, &g) / force);
    let below = a.cosh() + c * a.sinh();
    let kick = Kick::new(length, dim, 0.5, [dot(&p, &g), dot(&g, &g)]);
    for (p, g) in p.iter().zip(g) {
        let expected = (p + g / force * (a.sinh() + c * (a.cosh() - 1.0))) / below;
        assert!((kick.scale * p + kick.kick * g - expected).abs() < 1e-14);
    }
    assert!((kick.work - 3.0 * below.ln()).abs() < 1e-13);
    // Two kicks are one of the summed length.
    let half = Kick::new(0.5 * length, dim, 0.5, [dot(&p, &g), dot(&g, &g)]);
    let between: Vec<f64> = p.iter().zip(g).map(|(p, g)| half.scale * p + half.kick * g).collect();
    let rest = Kick::new(0.5 * length, dim, 0.5 * dot(&between, &between), [dot(&between, &g), dot(&g, &g)]);
    assert!((half.work + rest.work - kick.work).abs() < 1e-13);
    let none = Kick::new(length, dim, 2.0, [0.0, 0.0]);
    assert_eq!((none.scale, none.kick, none.work), (0.5, 0.0, 0.0));
    let huge = Kick::new(length, dim, 0.5, [0.5e150, 1e300]);
    assert!(huge.scale.is_finite() && huge.kick.is_finite() && huge.work > 0.0);
}

// ------------------------------------------------------------------------------------------------------ invariance

/// P(|t| <= a) by Simpson's rule on the density of Student's distribution.
fn student_functionals(freedom: f64) -> Vec<Functional> {
    let density = |x: f64| (1.0 + x * x / freedom).powf(-0.5 * (freedom + 1.0));
    // x = tan(v): the integrals are over a finite interval.
    let integral = |to: f64| {
        let n = 20_000;
        let (low, step) =
            (-std::f64::consts::FRAC_PI_2, (to.atan() + std::f64::consts::FRAC_PI_2) / n as f64);
        (0..n)
            .map(|i| {
                let v = low + (i as f64 + 0.5) * step;
                density(v.tan()) / v.cos().powi(2) * step
            })
            .sum::<f64>()
    };
    let all = integral(f64::INFINITY);
    let below: Vec<(f64, f64)> = [-2.0, -0.7, 0.0, 1.0, 2.5].map(|q| (q, integral(q) / all)).into();
    let variance = freedom / (freedom - 2.0);
    let of: fn(&[f64]) -> f64 = |x| x[1];
    Marginal { name: "x1", of, mean: 0.0, variance, below }.functionals()
}

/// Draws by the kernel with a fixed choice, from exact draws of the target.
fn fixed<D: HostDensity + Clone + 'static>(
    density: &D,
    starts: &[Vec<f64>],
    metric: &Metric,
    tuned: Tuned,
    seed: u64,
    draws: u64,
) -> Vec<Vec<f64>> {
    let state =
        KernelState::Mams(TunedState { tuned, phase: normals(seed, 9, 1)[0].abs().fract(), rejections: 0 });
    let kernel = harness::Kernel { seed, metric: metric.clone(), step: 0.1, max_depth: 2 };
    let dim = density.dim();
    finish(&mut kernel.block_with(&state, density, starts, draws), dim).into_iter().map(|d| d.x).collect()
}

/// Long steps under a metric that does not fit, so that many trajectories are rejected.
const ROUGH: Tuned = Tuned { length: 1.3, step: 0.9, transitions: 1 };

fn check_fixed(draws: u64, seeds: u64) {
    let (target, metric) = (gaussian(), diagonal(&[0.6, 0.02, 60.0, 16.0]));
    check_seeds("gaussian, fixed", seeds, &gaussian_functionals(), |seed| {
        let start = target.point(normals(seed, 0, 4));
        fixed(&target, &[start], &metric, ROUGH, seed, draws)
    });
    // Several transitions for each draw, and a metric with an eigenvector.
    let metric = coupled(3, 1, 4);
    let target = Logistic { scale: vec![1.0, 0.5, 2.0] };
    let exact = |seed| {
        let mut random = harness::uniforms(seed, 5);
        target.scale.iter().map(|s| (random(), *s)).map(|(p, s)| s * (p / (1.0 - p)).ln()).collect()
    };
    let tuned = Tuned { length: 1.0, step: 0.5, transitions: 3 };
    check_seeds("logistic, fixed", seeds, &logistic_functionals(2.0), |seed| {
        fixed(&target, &[exact(seed)], &metric, tuned, seed, draws)
    });
}

/// With its own warm-up.
fn check_whole(draws: u64, seeds: u64) {
    let settings = |seed| Settings { seed, tune: 150, draws, sampler: Sampler::Mams, ..Settings::default() };
    check_seeds("gaussian", seeds, &gaussian_functionals(), |seed| {
        positions(&gaussian(), &settings(seed), 0..2)
    });
    let freedom = 8.0;
    let target = Student { dim: 4, freedom };
    check_seeds("student", seeds, &student_functionals(freedom), |seed| {
        positions(&target, &settings(seed), 0..2)
    });
}

#[test]
fn exact_draws_stay_exact() {
    check_fixed(4000, 32);
}

#[test]
fn draws_after_a_warm_up_are_right() {
    check_whole(2000, 32);
}

#[test]
#[ignore = "slow: millions of gradients"]
fn exact_draws_stay_exact_at_high_precision() {
    check_fixed(30_000, 64);
}

#[test]
#[ignore = "slow: millions of gradients"]
fn draws_after_a_warm_up_are_right_at_high_precision() {
    check_whole(10_000, 64);
}

/// A plain implementation agrees with the kernel; with a weight that is a little off it is noticed.
#[test]
fn a_broken_weight_is_noticed() {
    let target = gaussian();
    let plain = |factor: f64| {
        move |seed: u64| {
            let target = gaussian();
            let scales = [0.6f64, 0.02, 60.0, 16.0].map(f64::sqrt);
            let mut random = PlainMams::new(seed, scales.to_vec(), ROUGH, factor);
            let mut x = target.point(normals(seed, 0, 4));
            let mut density = target.clone();
            (0..4000)
                .map(|_| {
                    x = random.transition(&mut density, &x);
                    x.clone()
                })
                .collect::<Vec<_>>()
        }
    };
    let check =
        |factor| catch_unwind(|| check_seeds("plain", 32, &gaussian_functionals(), plain(factor))).is_ok();
    assert!(check(1.0), "the right weight");
    for factor in [0.9, 1.1, 0.0] {
        assert!(!check(factor), "the weight exp(-{factor} W) was not noticed");
    }
    drop(target);
}
