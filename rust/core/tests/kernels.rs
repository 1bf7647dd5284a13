//! Kernels of the draws other than that of the warm-up: their integrators lead back and keep volume, and they leave the target
//! as it is. The microcanonical one has a file of its own.
//!
//! The slow ones want `cargo test --release -p nutpie-core --test kernels -- --ignored`: the same with millions of gradients.
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic)]

#[path = "common/validity_harness.rs"]
#[allow(dead_code)]
mod harness;
#[path = "common/validity_kernels.rs"]
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

use harness::{Compared, Marginal, check_seeds, compare, diagonal, finish, positions};
use kernels::{gaussian, gaussian_functionals, log_determinant, logistic_functionals, normals};
use metrics::{coupled, momentum};
use nutpie_core::density::HostDensity;
use nutpie_core::integrate::{Batch, Integrator, Request};
use nutpie_core::kernel::hmc::{HmcSettings, Trajectory};
use nutpie_core::kernel::transitions::{Tuned, TunedState};
use nutpie_core::kernel::walnuts::{Walnuts, WalnutsSettings};
use nutpie_core::kernel::{Begin, KernelState, Sampler};
use nutpie_core::metric::Metric;
use nutpie_core::rng::{Key, Purpose, Stream};
use nutpie_core::settings::Settings;
use plain::{Plain, Rule};
use points::{DIM, Points, metrics_to_try, near};
use reference::normal_quantiles;
use targets::{Autoregressive, Funnel, Logistic, Student};

// ---------------------------------------------------------------------------------------------------- integrators

impl<D: HostDensity + Clone + 'static> Points<D> {
    /// Steps from row 0; the row of the end, and its energy.
    fn steps(&mut self, integrator: Integrator, steps: usize, h: f64) -> (usize, f64) {
        let mut batch = Batch::default();
        let mut energy = f64::NAN;
        for i in 0..steps {
            batch.clear();
            let (from, to) = (if i == 0 { 0 } else { 1 + (i - 1) % 2 }, 1 + i % 2);
            let request = Request { metric: 0, from, to, step: h, begun: false, onward: None };
            match integrator {
                Integrator::Leapfrog => batch.push(request, std::iter::empty()),
                Integrator::ExactNormal => batch.push_turn(request, std::iter::empty()),
            }
            self.run(&mut batch);
            energy = batch.arrivals().next().unwrap().energy();
        }
        (1 + (steps - 1) % 2, energy)
    }
}

#[test]
fn steps_lead_back() {
    for (metric, seed) in metrics_to_try().into_iter().zip(0..) {
        for integrator in [Integrator::Leapfrog, Integrator::ExactNormal] {
            for (steps, h) in [(1, 0.4), (1, -1.3), (7, 0.2), (30, 0.05)] {
                let target = Student { dim: DIM, freedom: 5.0 };
                let mut points = Points::new(&target, &metric, 3);
                let (x, p) = (normals(seed, 1, DIM), momentum(&metric, &normals(seed, 2, DIM)));
                points.put(0, &x, &p);
                let (end, _) = points.steps(integrator, steps, h);
                let [x_end, p_end, pull] = points.get(end);
                points.put(0, &x_end, &p_end);
                // What goes along with the point is what it is afresh.
                let [_, _, afresh] = points.get(0);
                assert!(integrator == Integrator::Leapfrog || near(&pull, &afresh, 1e-9), "{steps} of {h}");
                let (end, _) = points.steps(integrator, steps, -h);
                let [x_back, p_back, _] = points.get(end);
                assert!(near(&x_back, &x, 1e-9) && near(&p_back, &p, 1e-9), "{integrator:?} {steps} of {h}");
                assert!(!near(&x_end, &x, 1e-3), "it has moved");
            }
        }
    }
}

/// Log of the Jacobian determinant of a map of (x, p), by central differences.
fn volume_change(x: &[f64], p: &[f64], mut map: impl FnMut(&[f64], &[f64]) -> [Vec<f64>; 2]) -> f64 {
    let (dim, e) = (x.len(), 1e-5);
    let jacobian = (0..2 * dim).map(|direction| {
        let mut moved = |by: f64| {
            let (mut x, mut p) = (x.to_vec(), p.to_vec());
            if direction < dim {
                x[direction] += by
            } else {
                p[direction - dim] += by
            }
            map(&x, &p).concat()
        };
        let (up, down) = (moved(e), moved(-e));
        up.iter().zip(down).map(|(a, b)| (a - b) / (2.0 * e)).collect()
    });
    log_determinant(jacobian.collect())
}

#[test]
fn steps_keep_volume() {
    for (metric, seed) in metrics_to_try().into_iter().zip(0..) {
        for integrator in [Integrator::Leapfrog, Integrator::ExactNormal] {
            for (steps, h) in [(1, 0.9), (4, 0.3)] {
                let mut points = Points::new(&Student { dim: DIM, freedom: 5.0 }, &metric, 3);
                let (x, p) = (normals(seed, 1, DIM), momentum(&metric, &normals(seed, 2, DIM)));
                let change = volume_change(&x, &p, |x, p| {
                    points.put(0, x, p);
                    let (end, _) = points.steps(integrator, steps, h);
                    let [x, p, _] = points.get(end);
                    [x, p]
                });
                assert!(change.abs() < 1e-6, "{integrator:?}: {change}");
            }
        }
    }
}

#[test]
fn the_exact_normal_integrator_is_exact_for_the_normal_distribution() {
    let target = Autoregressive { mean: vec![1.0, -2.0], sd: vec![1.0, 3.0], rho: 0.0 };
    let metric = Metric { center: vec![1.0, -2.0], ..diagonal(&[1.0, 9.0]) };
    for h in [0.3, 1.0, 1.4] {
        let mut points = Points::new(&target, &metric, 3);
        let (x, p) = (normals(1, 1, 2), normals(1, 2, 2));
        let logp = points.put(0, &x, &p);
        let before = points.kinetic(0) - logp;
        let (_, after) = points.steps(Integrator::ExactNormal, 7, h);
        assert!((after - before).abs() < 1e-12, "{h}: {before} and {after}");
        let (_, leapfrog) = points.steps(Integrator::Leapfrog, 7, h);
        assert!((leapfrog - before).abs() > 1e-4, "the leapfrog is not");
    }
}

/// One point of a trajectory of WALNUTS, forward, from (x, p): whether it was reached, its (x, p), and the most halvings.
fn walnuts_step(
    target: &Funnel,
    settings: &Settings,
    h: f64,
    x: &[f64],
    p: &[f64],
) -> (bool, [Vec<f64>; 2], f64) {
    let metric = diagonal(&vec![1.0; x.len()]);
    let mut points = Points::new(target, &metric, Walnuts::slots(&settings.nuts));
    let logp = points.put(0, x, p);
    let kinetic = points.kinetic(0);
    // A stream whose first decision is to go forward.
    let stream = |draw| Stream::new(Key { seed: 1, chain: 0, draw }, Purpose::Trajectory);
    let draw = (0..).find(|draw| stream(*draw).bits() & 1 == 1).unwrap();
    let tuned = Tuned { length: 0.0, step: h, transitions: 1 };
    let mut kernel = Walnuts::new(settings, tuned, stream(draw));
    let begin = Begin {
        slot: 0,
        logp,
        kinetic,
        transition: 0,
        step: f64::NAN,
        max_depth: Some(1),
        stream: stream(draw),
    };
    kernel.begin(begin);
    let mut batch = Batch::default();
    loop {
        batch.clear();
        kernel.request(0, 0, &mut batch);
        points.run(&mut batch);
        let done = kernel.absorb(&batch.arrivals().next().unwrap());
        if done {
            break;
        }
    }
    let stats = kernel.outcome().statistics;
    // The tree puts the first new point into slot 1.
    let [x, p, _] = points.get(1);
    (stats[0] == 1.0, [x, p], stats[10])
}

#[test]
fn adaptive_steps_lead_back_and_keep_volume() {
    let target = Funnel { dim: 3, sd: 2.0 };
    let mut settings = Settings::default();
    settings.walnuts = WalnutsSettings { energy_range: 0.3, ..settings.walnuts };
    let (mut halved, mut refused) = (0, 0);
    for seed in 0..200 {
        let (x, p) = (target.point(&normals(seed, 1, 3)), normals(seed, 2, 3));
        let (reached, [x_end, p_end], halvings) = walnuts_step(&target, &settings, 0.8, &x, &p);
        if !reached {
            refused += 1;
            continue;
        }
        halved += u32::from(halvings > 0.0);
        let turned: Vec<f64> = p_end.iter().map(|p| -p).collect();
        let (reached, [x_back, p_back], again) = walnuts_step(&target, &settings, 0.8, &x_end, &turned);
        assert!(reached && halvings == again, "{seed}");
        let turned: Vec<f64> = p_back.iter().map(|p| -p).collect();
        assert!(near(&x_back, &x, 1e-8) && near(&turned, &p, 1e-8), "{seed}");
        if seed % 10 == 0 {
            let mut all_same = true;
            let change = volume_change(&x, &p, |x, p| {
                let (reached, end, moved) = walnuts_step(&target, &settings, 0.8, x, p);
                all_same &= reached && moved == halvings;
                end
            });
            assert!(!all_same || change.abs() < 1e-5, "{seed}: {change}");
        }
    }
    // All kinds occur.
    assert!(halved > 20 && refused > 5, "{halved} of 200 halved, {refused} refused");
}

// ------------------------------------------------------------------------------------------------------ invariance

/// A kernel that adapts nothing, with its settings.
struct Fixed {
    name: &'static str,
    state: fn(TunedState) -> KernelState,
    settings: Settings,
    tuned: Tuned,
}

fn hmc(trajectory: Trajectory, integrator: Integrator) -> Settings {
    let hmc = HmcSettings { trajectory, ..HmcSettings::default() };
    Settings { sampler: Sampler::Hmc, hmc, integrator, ..Settings::default() }
}

/// Long steps under a metric that does not fit, so that much is rejected.
fn rough_kernels() -> Vec<Fixed> {
    use Integrator::{ExactNormal, Leapfrog};
    use Trajectory::{Jittered, Multinomial, Static};
    let tuned = |length, step| Tuned { length, step, transitions: 1 };
    let of_hmc = |name, trajectory, integrator| Fixed {
        name,
        state: KernelState::Hmc,
        settings: hmc(trajectory, integrator),
        tuned: tuned(1.3, 0.6),
    };
    let mut nuts = Settings { integrator: ExactNormal, ..Settings::default() };
    nuts.nuts.max_depth = 5;
    let mut walnuts = Settings { sampler: Sampler::Walnuts, ..Settings::default() };
    walnuts.nuts.max_depth = 5;
    walnuts.walnuts = WalnutsSettings { energy_range: 0.7, ..walnuts.walnuts };
    vec![
        of_hmc("jittered", Jittered, Leapfrog),
        of_hmc("static", Static, Leapfrog),
        of_hmc("multinomial", Multinomial, Leapfrog),
        of_hmc("jittered, exact normal", Jittered, ExactNormal),
        of_hmc("multinomial, exact normal", Multinomial, ExactNormal),
        Fixed {
            name: "nuts, exact normal",
            state: |state| KernelState::ExactNuts(state.tuned),
            settings: nuts,
            tuned: tuned(0.0, 0.8),
        },
        Fixed {
            name: "walnuts",
            state: |state| KernelState::Walnuts(state.tuned),
            settings: walnuts,
            tuned: tuned(0.0, 0.9),
        },
    ]
}

impl Fixed {
    /// Draws from a start.
    fn draws<D: HostDensity + Clone + 'static>(
        &self,
        density: &D,
        start: Vec<f64>,
        metric: &Metric,
        seed: u64,
        draws: u64,
    ) -> Vec<Vec<f64>> {
        let phase = normals(seed, 9, 1)[0].abs().fract();
        let state = (self.state)(TunedState { tuned: self.tuned, phase, rejections: 0 });
        let kernel = harness::Kernel {
            seed,
            metric: metric.clone(),
            step: self.tuned.step,
            max_depth: self.settings.nuts.max_depth,
        };
        let mut block = kernel.block_in(&self.settings, &state, density, &[start], draws);
        finish(&mut block, density.dim()).into_iter().map(|d| d.x).collect()
    }
}

/// The kernel of the warm-up, which `validity.rs` looks at more closely.
fn rough_nuts() -> Fixed {
    let tuned = Tuned { length: 0.0, step: 0.6, transitions: 1 };
    Fixed { name: "nuts", state: |_| KernelState::Nuts, settings: Settings::default(), tuned }
}

fn check_fixed(kernels: Vec<Fixed>, draws: u64, seeds: u64) {
    let target = gaussian();
    // Neither the scales nor the centre are those of the target.
    let wrong = Metric { center: vec![0.0, -2.1, 4.0, 2.0], ..diagonal(&[0.6, 0.02, 60.0, 16.0]) };
    let eigenvector = Metric { center: vec![0.2; 3], ..coupled(3, 1, 4) };
    let logistic = Logistic { scale: vec![1.0, 0.5, 2.0] };
    for kernel in kernels {
        check_seeds(&format!("gaussian, {}", kernel.name), seeds, &gaussian_functionals(), |seed| {
            kernel.draws(&target, target.point(normals(seed, 0, 4)), &wrong, seed, draws)
        });
        let exact = |seed| {
            let mut random = harness::uniforms(seed, 5);
            logistic.scale.iter().map(|s| (random(), *s)).map(|(p, s)| s * (p / (1.0 - p)).ln()).collect()
        };
        check_seeds(&format!("logistic, {}", kernel.name), seeds, &logistic_functionals(2.0), |seed| {
            kernel.draws(&logistic, exact(seed), &eigenvector, seed, draws)
        });
    }
}

#[test]
fn exact_draws_stay_exact() {
    check_fixed(rough_kernels(), 4000, 32);
}

#[test]
#[ignore = "slow: millions of gradients"]
fn exact_draws_stay_exact_at_high_precision() {
    check_fixed(rough_kernels().into_iter().chain([rough_nuts()]).collect(), 30_000, 64);
}

fn samplers() -> Vec<(&'static str, Settings)> {
    use Integrator::{ExactNormal, Leapfrog};
    let with = |sampler, settings| Settings { sampler, ..settings };
    vec![
        ("hmc", with(Sampler::Hmc, hmc(Trajectory::Jittered, Leapfrog))),
        ("static", with(Sampler::Hmc, hmc(Trajectory::Static, Leapfrog))),
        ("multinomial", with(Sampler::Hmc, hmc(Trajectory::Multinomial, Leapfrog))),
        ("hmc, exact normal", with(Sampler::Hmc, hmc(Trajectory::Jittered, ExactNormal))),
        ("nuts, exact normal", with(Sampler::Nuts, hmc(Trajectory::Jittered, ExactNormal))),
        ("walnuts", with(Sampler::Walnuts, Settings::default())),
        ("nuts", Settings::default()),
    ]
}

/// With their own warm-up.
fn check_whole(draws: u64, seeds: u64) {
    for (name, settings) in samplers() {
        check_seeds(&format!("gaussian, {name}"), seeds, &gaussian_functionals(), |seed| {
            positions(&gaussian(), &Settings { seed, tune: 150, draws, ..settings.clone() }, 0..2)
        });
    }
}

#[test]
fn draws_after_a_warm_up_are_right() {
    check_whole(600, 32);
}

#[test]
#[ignore = "slow: millions of gradients"]
fn draws_after_a_warm_up_are_right_at_high_precision() {
    check_whole(15_000, 64);
}

// ---------------------------------------------------------------------------------------------------------- a funnel

/// Neal's funnel, centred: v is normal(0, 3), and each of nine others normal(0, exp(v / 2)).
fn funnel(sampler: Sampler, draws: u64, seeds: u64) -> Vec<Compared> {
    let target = Funnel { dim: 10, sd: 3.0 };
    let settings = |seed| Settings { seed, tune: 300, draws, sampler, ..Settings::default() };
    let of: fn(&[f64]) -> f64 = |x| x[0];
    let below = normal_quantiles(0.0, 3.0);
    let functionals = Marginal { name: "v", of, mean: 0.0, variance: 9.0, below }.functionals();
    compare(&format!("funnel, {sampler:?}"), seeds, &functionals, |seed| {
        positions(&target, &settings(seed), 0..4)
    })
}

/// The quantiles of v are where they should be with steps that adapt, and with others they are not: they never get into the
/// neck.
fn check_funnel(draws: u64, seeds: u64, largest_error: f64) {
    for compared in funnel(Sampler::Walnuts, draws, seeds) {
        assert!(compared.is_right(largest_error), "{}", compared.line);
    }
    let lowest = funnel(Sampler::Nuts, draws, seeds).into_iter().nth(2).unwrap();
    assert!(lowest.line.contains("P(v <= -4.9346)") && lowest.z < -10.0, "{}", lowest.line);
}

#[test]
fn adaptive_steps_find_all_of_a_funnel_where_others_do_not() {
    check_funnel(300, 16, 0.15);
}

#[test]
#[ignore = "slow: millions of gradients"]
fn adaptive_steps_find_all_of_a_funnel_at_high_precision() {
    check_funnel(4000, 32, 0.04);
}

// ---------------------------------------------------------------------------------------------------- broken kernels

/// Plain implementations are right, and wrong once something is broken.
fn is_right(
    transition: impl Fn(&mut Plain<Logistic>, &[f64]) -> Vec<f64> + std::panic::RefUnwindSafe,
) -> bool {
    let scale = vec![1.0; 3];
    let run = |seed| {
        let mut random = harness::uniforms(seed, 5);
        let mut x: Vec<f64> =
            scale.iter().map(|s| (random(), s)).map(|(p, s)| s * (p / (1.0 - p)).ln()).collect();
        let mut plain = Plain::new(Logistic { scale: scale.clone() }, seed);
        (0..6000)
            .map(|_| {
                x = transition(&mut plain, &x);
                x.clone()
            })
            .collect::<Vec<_>>()
    };
    catch_unwind(|| check_seeds("plain", 32, &logistic_functionals(1.0), run)).is_ok()
}

#[test]
fn broken_weights_are_noticed() {
    let end = Rule { factor: 1.0, multinomial: false, offset: false };
    let any = Rule { factor: 1.0, multinomial: true, offset: true };
    let lengths = |count: u32| 1 + u64::from(count % 6);
    assert!(is_right(|plain, x| plain.hmc(x, lengths(plain.count), 2.4, end)), "the right weight");
    assert!(is_right(|plain, x| plain.hmc(x, 6, 2.6, any)), "the right weights");
    for factor in [0.5, 2.0, 0.0] {
        let end = Rule { factor, ..end };
        assert!(!is_right(|plain, x| plain.hmc(x, lengths(plain.count), 2.4, end)), "exp(-{factor} error)");
    }
    for broken in [Rule { factor: 0.5, ..any }, Rule { offset: false, ..any }] {
        assert!(!is_right(|plain, x| plain.hmc(x, 3, 2.6, broken)), "{}", broken.factor);
    }
}

#[test]
fn steps_that_do_not_lead_back_are_noticed() {
    assert!(is_right(|plain, x| plain.walnuts(x, 3.4, 0.3, true)), "with the way back");
    assert!(!is_right(|plain, x| plain.walnuts(x, 3.4, 0.3, false)), "without");
}
