//! Whether the sampler draws from the right distribution: every answer here is exact, by algebra or quadrature, and every
//! seed is fixed, so that a test passes or fails for good.
//!
//! - Averages over the draws of many seeds against exact expectations, after the default warm-up.
//! - Transitions from exact draws of the target, with fixed step size and metric: the result has the target's
//!   distribution again, after any number of transitions, with no warm-up and no autocorrelation to allow for.
//! - Simulation-based calibration.
//! - Trajectories replayed by a second, plain implementation, and what a draw reports against what it is.
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic)]

#[path = "common/validity_harness.rs"]
#[allow(dead_code)]
mod harness;
#[path = "common/metrics.rs"]
mod metrics;
#[path = "common/validity_plain_nuts.rs"]
mod plain_nuts;
#[path = "common/validity_reference.rs"]
mod reference;
#[path = "common/validity_targets.rs"]
#[allow(dead_code)]
mod targets;

use harness::{
    Draw, Functional, Kernel, Marginal, SEEDS, check, check_uniform, diagonal, finish, new_block, positions,
    product, uniforms,
};
use metrics::{coupled, exact, momentum};
use nutpie_core::adapt::step_size::DualAverage;
use nutpie_core::adapt::{AdaptSettings, Scheme};
use nutpie_core::density::HostDensity;
use nutpie_core::device::{Addition, Cpu, Device, Fit, Moments, Phase, Row, Sample};
use nutpie_core::integrate::{Arrival, Batch};
use nutpie_core::kernel::nuts::Nuts;
use nutpie_core::metric::Metric;
use nutpie_core::rng::{Key, Purpose, Stream, fill_normal};
use nutpie_core::settings::Settings;
use plain_nuts::Orbit;
use reference::{
    Line, Mixture, groups, nodes, normal_cdf, normal_quantiles, normalise, principal, quantiles,
};
use targets::{Autoregressive, Conjugate, EightSchools, Exponential, Logistic, Radon, Regression, Student};

/// Compare two chains of the default sampler for each seed.
fn check_default<D: HostDensity + Clone + 'static>(
    name: &str,
    density: &D,
    functionals: &[Functional],
    draws: u64,
) {
    check_scheme(Scheme::Auto, 150, name, density, functionals, draws);
}

/// Compare two chains, which warm up together if the scheme pools.
fn check_scheme<D: HostDensity + Clone + 'static>(
    scheme: Scheme,
    tune: u64,
    name: &str,
    density: &D,
    functionals: &[Functional],
    draws: u64,
) {
    let adapt = AdaptSettings::new(scheme);
    check(&format!("{name}, {scheme:?}"), functionals, |seed| {
        let settings = Settings { seed, tune, draws, adapt: adapt.clone(), ..Settings::default() };
        positions(density, &settings, 0..2)
    });
}

fn diag() -> AdaptSettings {
    AdaptSettings::new(Scheme::Diag)
}

fn gaussian(dim: usize, rho: f64) -> Autoregressive {
    Autoregressive {
        mean: (0..dim).map(|i| i as f64 - 3.0).collect(),
        sd: (0..dim).map(|i| [1.0, 0.1, 10.0, 3.0][i % 4]).collect(),
        rho,
    }
}

fn all_marginals(marginals: &[Marginal]) -> Vec<Functional> {
    marginals.iter().flat_map(Marginal::functionals).collect()
}

// -------------------------------------------------------------------------------------------- exact expectations

fn gaussian_functionals() -> Vec<Functional> {
    // A condition number of 81, before the scales.
    let target = gaussian(10, 0.8);
    let marginal = |name, of: fn(&[f64]) -> f64, weights: [f64; 10]| {
        let mean = of(&target.mean);
        let variance: f64 = (0..10)
            .flat_map(|i| (0..10).map(move |j| (i, j)))
            .map(|(i, j)| weights[i] * weights[j] * target.covariance(i, j))
            .sum();
        Marginal { name, of, mean, variance, below: normal_quantiles(mean, variance.sqrt()) }
    };
    let mut out = all_marginals(&[
        marginal("x0", |x| x[0], std::array::from_fn(|i| f64::from(u8::from(i == 0)))),
        marginal("x5", |x| x[5], std::array::from_fn(|i| f64::from(u8::from(i == 5)))),
        // Along and across the correlation: x4 and x8 have the scale of x0.
        marginal(
            "x0 + x4 + x8",
            |x| x[0] + x[4] + x[8],
            std::array::from_fn(|i| f64::from(u8::from(i % 4 == 0))),
        ),
        marginal("sum", |x| x.iter().sum(), [1.0; 10]),
        marginal(
            "x0 - 10 x1",
            |x| x[0] - 10.0 * x[1],
            std::array::from_fn(|i| [1.0, -10.0].get(i).copied().unwrap_or(0.0)),
        ),
    ]);
    for (name, i, j) in [("covariance of x0, x1", 0, 1), ("of x2, x3", 2, 3), ("of x1, x9", 1, 9)] {
        let (mean_i, mean_j) = (target.mean[i], target.mean[j]);
        out.push(product(name, move |x| x[i] - mean_i, move |x| x[j] - mean_j, target.covariance(i, j)));
    }
    out
}

#[test]
fn correlated_gaussian() {
    check_default("gaussian", &gaussian(10, 0.8), &gaussian_functionals(), 1000);
}

fn check_gaussian_with(metric: &Metric, step: f64, max_depth: u64) {
    let target = gaussian(10, 0.8);
    let name = format!("gaussian, rank {}, step {step}, depth {max_depth}", metric.rank());
    check(&name, &gaussian_functionals(), |seed| {
        let kernel = Kernel { seed, metric: metric.clone(), step, max_depth };
        let starts: Vec<Vec<f64>> = (0..2).map(|chain| target.point(normals(seed, chain, 10))).collect();
        finish(&mut kernel.block(&target, &starts, 1500), 10).into_iter().map(|d| d.x).collect()
    });
}

#[test]
fn correlated_gaussian_by_every_other_scheme() {
    for (scheme, tune) in [
        (Scheme::LowRank, 150),
        (Scheme::Dense, 150),
        (Scheme::Diag, 300),
        (Scheme::DrawDiag, 300),
        (Scheme::LowRankWindows, 300),
        (Scheme::Stan, 300),
        (Scheme::StanDense, 300),
        (Scheme::Fixed, 50),
        // Too short for anything but a rough guess, which must be right all the same.
        (Scheme::Auto, 20),
    ] {
        check_scheme(scheme, tune, "gaussian", &gaussian(10, 0.8), &gaussian_functionals(), 1000);
    }
}

#[test]
fn correlated_gaussian_with_a_fixed_metric() {
    // A metric that fits badly and long steps, so that energy errors are large and selection and rejection matter.
    let sd = gaussian(10, 0.8).sd;
    let inv_mass = sd.iter().enumerate().map(|(i, s)| s * s * [0.5, 2.0][i % 2]).collect::<Vec<_>>();
    for (step, max_depth) in [(0.5, 10), (0.6, 10), (0.5, 3)] {
        check_gaussian_with(&diagonal(&inv_mass), step, max_depth);
    }
}

#[test]
fn correlated_gaussian_with_a_fixed_coupled_metric() {
    let target = gaussian(10, 0.8);
    let fitting = |rank| {
        let (values, vectors) =
            principal(10, rank, |i, j| target.covariance(i, j) / (target.sd[i] * target.sd[j]));
        Metric { stds: target.sd.clone(), values, vectors, center: Vec::new() }
    };
    // Some directions of the covariance, nearly all and all of them; and metrics that know nothing of it.
    let unfit = |rank| {
        let other = coupled(10, rank, 7);
        let values = other.values.iter().map(|v| v.powf(0.4)).collect();
        Metric { stds: target.sd.clone(), values, center: Vec::new(), ..other }
    };
    for (metric, step) in
        [(fitting(2), 0.6), (fitting(10), 1.2), (fitting(9), 1.1), (unfit(3), 0.35), (unfit(10), 0.3)]
    {
        assert!(metric.is_usable());
        check_gaussian_with(&metric, step, 10);
    }
}

#[test]
fn student() {
    // Fourth moments exist, so averages of squares have a finite variance.
    let freedom = 8.0;
    let log_density = |x: f64| -0.5 * (freedom + 1.0) * (1.0 + x * x / freedom).ln();
    // x = sinh u: the tails vanish doubly exponentially.
    let u = nodes(-6.0, 6.0, 4001);
    let weights = normalise(&u.iter().map(|u| log_density(u.sinh()) + u.cosh().ln()).collect::<Vec<_>>());
    let line = Line { nodes: u, weights };
    assert!((line.variance(f64::sinh) - freedom / (freedom - 2.0)).abs() < 1e-6);
    let below: Vec<(f64, f64)> = line.below().into_iter().map(|(u, p)| (u.sinh(), p)).collect();
    let marginal = |name, of| Marginal { name, of, mean: 0.0, variance: 4.0 / 3.0, below: below.clone() };
    let mut functionals = all_marginals(&[marginal("x0", |x| x[0]), marginal("x3", |x| x[3])]);
    functionals.push(product("x0 x1", |x| x[0], |x| x[1], 0.0));
    // Independence beyond correlation: E[x0^2 x1^2] = (4/3)^2.
    functionals.push(product("x0^2 x1^2", |x| x[0] * x[0], |x| x[1] * x[1], 16.0 / 9.0));
    check_default("student", &Student { dim: 4, freedom }, &functionals, 2000);
}

#[test]
fn half_bounded_density_with_errors_outside() {
    // Trajectories run into the bound all the time; the draws must not care.
    let below: Vec<(f64, f64)> = [0.05, 0.25, 0.5, 0.75, 0.95].map(|p: f64| (-(1.0 - p).ln(), p)).into();
    let marginal = |name, of| Marginal { name, of, mean: 1.0, variance: 1.0, below: below.clone() };
    let mut functionals = all_marginals(&[marginal("x0", |x| x[0]), marginal("x1", |x| x[1])]);
    functionals.push(product("covariance of x0, x1", |x| x[0] - 1.0, |x| x[1] - 1.0, 0.0));
    check_default("exponential", &Exponential { dim: 2 }, &functionals, 5000);
}

#[test]
fn logistic_regression() {
    let rows: Vec<[f64; 3]> =
        (0..30).map(|i| [1.0, (1.7 * f64::from(i)).sin(), 0.1 * f64::from(i) - 1.5]).collect();
    let outcome = (0..30).map(|i| (2.3 * f64::from(i)).cos() + 0.05 * f64::from(i) > 0.6).collect();
    let target = Regression { rows, outcome, prior_sd: 2.0 };
    // A coarse grid finds the place, a fine one the answer.
    let mut axes = vec![nodes(-8.0, 8.0, 33); 3];
    let mut lines = Vec::new();
    for (points, reach) in [(45, 5.5), (71, 6.5), (1, 0.0)] {
        let mut log_density = Vec::new();
        for &a in &axes[0] {
            for &b in &axes[1] {
                log_density.extend(axes[2].iter().map(|&c| target.logp(&[a, b, c])));
            }
        }
        let weights = normalise(&log_density);
        let n = axes[0].len();
        lines = (0..3)
            .map(|axis| {
                let mut line = Line { nodes: axes[axis].clone(), weights: vec![0.0; n] };
                for (i, w) in weights.iter().enumerate() {
                    line.weights[i / n.pow(2 - axis as u32) % n] += w;
                }
                line
            })
            .collect::<Vec<_>>();
        axes = lines
            .iter()
            .map(|line| {
                let (mean, sd) = (line.mean(|x| x), line.variance(|x| x).sqrt());
                nodes(mean - reach * sd, mean + reach * sd, points)
            })
            .collect();
    }
    let coefficient: [fn(&[f64]) -> f64; 3] = [|x| x[0], |x| x[1], |x| x[2]];
    let marginals: Vec<Marginal> = lines
        .iter()
        .zip(["b0", "b1", "b2"])
        .zip(coefficient)
        .map(|((line, name), of)| Marginal {
            name,
            of,
            mean: line.mean(|x| x),
            variance: line.variance(|x| x),
            below: line.below(),
        })
        .collect();
    check_default("logistic regression", &target, &all_marginals(&marginals), 1000);
}

#[test]
fn eight_schools() {
    let log_tau = nodes(-14.0, 7.0, 2101);
    let at = |l: &f64| groups(&EightSchools::Y, &EightSchools::SE, l.exp(), EightSchools::MU_SD);
    let conditional: Vec<_> = log_tau.iter().map(at).collect();
    let prior = log_tau.iter().map(|l| EightSchools::log_tau_prior(*l).0);
    let weights =
        normalise(&prior.zip(&conditional).map(|(prior, c)| prior + c.log_evidence).collect::<Vec<_>>());
    let parts = || weights.iter().zip(&conditional);
    let mu = Mixture(parts().map(|(w, c)| (*w, c.mu.0, c.mu.1)).collect());
    let theta_0 = Mixture(parts().map(|(w, c)| (*w, c.theta_0.0, c.theta_0.1)).collect());
    let line = Line { nodes: log_tau, weights: weights.clone() };
    let below: Vec<(f64, f64)> = line.below().into_iter().map(|(l, p)| (l.exp(), p)).collect();
    let of_tau: fn(&[f64]) -> f64 = |x| x[1].exp();
    let functionals = all_marginals(&[
        mixture("mu", |x| x[0], &mu),
        mixture("theta0", |x| x[0] + x[1].exp() * x[2], &theta_0),
        Marginal {
            name: "tau",
            of: of_tau,
            mean: line.mean(f64::exp),
            variance: line.variance(f64::exp),
            below,
        },
        Marginal {
            name: "log tau",
            of: |x| x[1],
            mean: line.mean(|l| l),
            variance: line.variance(|l| l),
            below: Vec::new(),
        },
    ]);
    check_default("eight schools", &EightSchools, &functionals, 2000);
}

fn mixture(name: &'static str, of: fn(&[f64]) -> f64, mixture: &Mixture) -> Marginal {
    Marginal { name, of, mean: mixture.mean(), variance: mixture.variance(), below: mixture.below() }
}

#[test]
fn hierarchical_intercepts() {
    let target = Radon::new(20);
    let (log_a, log_y) = (nodes(-6.0, 2.0, 401), nodes(-1.2, 0.8, 201));
    let total: f64 = target.size.iter().sum();
    let mut log_density = Vec::new();
    let mut conditional = Vec::new();
    for &a in &log_a {
        for &y in &log_y {
            let se: Vec<f64> = target.size.iter().map(|n| y.exp() / n.sqrt()).collect();
            let c = groups(&target.y, &se, a.exp(), Radon::MU_SD);
            // What the deviations inside the groups say.
            let inside = -(total - se.len() as f64) * y - 0.5 * target.within * (-2.0 * y).exp();
            let prior = Radon::log_scale_prior(a).0 + Radon::log_scale_prior(y).0;
            log_density.push(prior + inside + c.log_evidence);
            conditional.push(c);
        }
    }
    let weights = normalise(&log_density);
    let line_a = Line {
        nodes: log_a.clone(),
        weights: weights.chunks(log_y.len()).map(|row| row.iter().sum()).collect(),
    };
    let line_y = Line {
        weights: (0..log_y.len()).map(|j| weights.iter().skip(j).step_by(log_y.len()).sum()).collect(),
        nodes: log_y,
    };
    // Nearly all of the grid has no weight worth a term.
    let parts = || weights.iter().zip(&conditional).filter(|(w, _)| **w > 1e-12);
    let mu = Mixture(parts().map(|(w, c)| (*w, c.mu.0, c.mu.1)).collect());
    let alpha_0 = Mixture(parts().map(|(w, c)| (*w, c.theta_0.0, c.theta_0.1)).collect());
    let line = |name, of, line: &Line| Marginal {
        name,
        of,
        mean: line.mean(|l| l),
        variance: line.variance(|l| l),
        below: line.below(),
    };
    let functionals = all_marginals(&[
        mixture("mu", |x| x[0], &mu),
        mixture("alpha0", |x| x[3], &alpha_0),
        line("log sigma_alpha", |x| x[1], &line_a),
        line("log sigma_y", |x| x[2], &line_y),
    ]);
    check_default("hierarchical intercepts", &target, &functionals, 1000);
}

// -------------------------------------------------------------------------------------- transitions from exact draws

/// Bins of the histograms of probability integral transforms.
const BINS: usize = 20;

fn normals(seed: u64, chain: u64, n: usize) -> Vec<f64> {
    let mut out = vec![0.0; n];
    let key = Key { seed: seed + 1_000_000, chain: chain as u32, draw: 0 };
    fill_normal(key, Purpose::Momentum, &mut out);
    out
}

/// Where chains that start in exact draws of the target are after a few transitions.
fn moved<D: HostDensity + Clone + 'static>(
    density: &D,
    kernel: &Kernel,
    exact: impl Fn(u64) -> Vec<f64>,
    chains: u64,
) -> Vec<Vec<f64>> {
    const TRANSITIONS: u64 = 3;
    const BLOCK: u64 = 500;
    let mut out = Vec::new();
    for block in 0..chains / BLOCK {
        let kernel = Kernel { seed: kernel.seed + block, ..kernel.clone() };
        let starts: Vec<Vec<f64>> = (0..BLOCK).map(|i| exact(block * BLOCK + i)).collect();
        let draws = finish(&mut kernel.block(density, &starts, TRANSITIONS), density.dim());
        let mut last = starts;
        draws.into_iter().for_each(|d| last[d.chain as usize] = d.x);
        out.extend(last);
    }
    out
}

/// A scalar function of the position that is uniform on (0, 1) under the target, with its name.
type Transform<'a> = (&'a str, &'a dyn Fn(&[f64]) -> f64);

fn check_transforms(what: &str, draws: &[Vec<f64>], transforms: &[Transform]) {
    for (name, transform) in transforms {
        let bin = |x: &Vec<f64>| ((BINS as f64 * transform(x)) as usize).min(BINS - 1);
        check_uniform(&format!("{what}: {name}"), BINS, draws.iter().map(bin));
    }
}

#[test]
fn transitions_keep_a_gaussian() {
    let target = gaussian(4, 0.6);
    let inv_mass: Vec<f64> = target.sd.iter().zip([2.0, 1.0, 0.4, 1.0]).map(|(s, f)| s * s * f).collect();
    let plain = || diagonal(&inv_mass);
    let unfit = |rank| Metric { stds: target.sd.clone(), center: Vec::new(), ..coupled(4, rank, 1) };
    for (metric, step, max_depth) in [
        (plain(), 0.3, 10),
        (plain(), 0.8, 10),
        (plain(), 1.1, 10),
        (plain(), 0.7, 1),
        (plain(), 0.4, 2),
        (unfit(1), 0.4, 10),
        (unfit(2), 0.4, 2),
        (unfit(4), 0.4, 10),
    ] {
        let kernel = Kernel { seed: 5, metric, step, max_depth };
        let draws = moved(&target, &kernel, |i| target.point(normals(0, i, 4)), 40_000);
        let z = |x: &[f64]| target.whiten(x);
        check_transforms(
            &format!("gaussian, rank {}, step {step}, depth {max_depth}", kernel.metric.rank()),
            &draws,
            &[
                ("x0", &|x| normal_cdf(z(x)[0])),
                ("x3", &|x| normal_cdf((x[3] - target.mean[3]) / target.sd[3])),
                ("|z1|", &|x| 2.0 * normal_cdf(z(x)[1].abs()) - 1.0),
                // Chi-square with four degrees of freedom: the level of the log density.
                ("level", &|x| {
                    let half = 0.5 * z(x).iter().map(|z| z * z).sum::<f64>();
                    1.0 - (-half).exp() * (1.0 + half)
                }),
                ("z0 - z1", &|x| normal_cdf((z(x)[0] - z(x)[1]) / 2f64.sqrt())),
            ],
        );
    }
}

#[test]
fn transitions_keep_a_logistic_distribution() {
    let scale = vec![1.0, 0.2, 5.0];
    let target = Logistic { scale: scale.clone() };
    let exact = |i: u64| {
        let mut random = uniforms(3, i);
        let mut quantile = || {
            let u: f64 = random();
            (u / (1.0 - u)).ln()
        };
        scale.iter().map(|s| s * quantile()).collect::<Vec<f64>>()
    };
    let cdf = |x: f64| 1.0 / (1.0 + (-x).exp());
    let plain = || diagonal(&[1.0, 0.1, 10.0]);
    let unfit = |rank| Metric { stds: scale.clone(), center: Vec::new(), ..coupled(3, rank, 1) };
    for (metric, step, max_depth) in [
        (plain(), 0.5, 10),
        (plain(), 2.0, 10),
        (plain(), 3.0, 10),
        (plain(), 1.5, 1),
        (plain(), 0.7, 2),
        (unfit(1), 1.0, 10),
        (unfit(3), 1.0, 10),
        (unfit(2), 0.5, 2),
    ] {
        let kernel = Kernel { seed: 77, metric, step, max_depth };
        let draws = moved(&target, &kernel, exact, 40_000);
        check_transforms(
            &format!("logistic, rank {}, step {step}, depth {max_depth}", kernel.metric.rank()),
            &draws,
            &[
                ("x0", &|x| cdf(x[0] / scale[0])),
                ("x1", &|x| cdf(x[1] / scale[1])),
                ("|x2|", &|x| 2.0 * cdf((x[2] / scale[2]).abs()) - 1.0),
                ("largest", &|x| x.iter().zip(&scale).map(|(x, s)| cdf(x / s)).fold(0.0, f64::max).powi(3)),
            ],
        );
    }
}

#[test]
fn transitions_keep_a_density_with_a_bound() {
    let target = Exponential { dim: 2 };
    let exact = |i: u64| {
        let mut random = uniforms(9, i);
        vec![-random().ln(), -random().ln()]
    };
    let (plain, unfit) = (diagonal(&[1.0, 2.0]), Metric { center: Vec::new(), ..coupled(2, 1, 1) });
    for (metric, step, max_depth) in
        [(&plain, 0.3, 10), (&plain, 1.0, 10), (&plain, 0.5, 2), (&unfit, 0.3, 10)]
    {
        let kernel = Kernel { seed: 11, metric: metric.clone(), step, max_depth };
        let draws = moved(&target, &kernel, exact, 40_000);
        check_transforms(
            &format!("exponential, rank {}, step {step}, depth {max_depth}", kernel.metric.rank()),
            &draws,
            &[
                ("x0", &|x| 1.0 - (-x[0]).exp()),
                ("x1", &|x| 1.0 - (-x[1]).exp()),
                ("sum", &|x| 1.0 - (-x[0] - x[1]).exp() * (1.0 + x[0] + x[1])),
                ("share", &|x| x[0] / (x[0] + x[1])),
            ],
        );
    }
}

// -------------------------------------------------------------------------------------- simulation-based calibration

#[test]
fn simulation_based_calibration() {
    // Truths from the prior, data from the truths: among draws from the posterior the truth has any rank with equal
    // probability. Exact only for independent draws, so the chain is thinned.
    const SIMULATIONS: u64 = 2000;
    const DRAWS: usize = 15;
    const THINNING: usize = 8;
    let mut ranks = [Vec::new(), Vec::new(), Vec::new()];
    for simulation in 0..SIMULATIONS {
        let mut random = uniforms(123, simulation);
        let z = normals(123, simulation, 5);
        // A Gamma(3, rate 2) number is a sum of three exponentials.
        let precision = -(random() * random() * random()).ln() / 2.0;
        let s = precision.sqrt().recip();
        let mu = 2f64.sqrt() * s * z[0];
        let target = Conjugate { y: z[1..].iter().map(|z| mu + s * z).collect() };
        let quantities = |x: &[f64]| [x[0], x[1], x[0] * (-0.5 * x[1]).exp()];
        let truth = quantities(&[mu, 2.0 * s.ln()]);
        let settings =
            Settings { seed: 123, tune: 150, draws: (DRAWS * THINNING) as u64, ..Settings::default() };
        let draws = positions(&target, &settings, simulation..simulation + 1);
        for (k, ranks) in ranks.iter_mut().enumerate() {
            let below = |x: &&Vec<f64>| quantities(x)[k] < truth[k];
            ranks.push(draws.iter().step_by(THINNING).filter(below).count());
        }
    }
    for (name, ranks) in ["mu", "log s^2", "mu / s"].iter().zip(ranks) {
        check_uniform(&format!("calibration of {name}"), DRAWS + 1, ranks.into_iter());
    }
}

// ------------------------------------------------------------------------------------------------ what a draw says

fn assert_close(what: &str, a: f64, b: f64) {
    assert!((a - b).abs() <= 1e-9 * (1.0 + a.abs().max(b.abs())), "{what}: {a} and {b}");
}

/// Replay each draw from the one before with the plain implementation: the momentum from its address, as many leapfrog
/// steps as the draw says, and whether there are directions with which the trajectory has all the statistics of the draw.
fn check_replay<D: HostDensity + Clone + 'static>(density: &D, kernel: &Kernel, starts: &[Vec<f64>]) -> f64 {
    const DRAWS: u64 = 250;
    let dim = density.dim();
    let mut block = kernel.block(density, starts, DRAWS);
    let draws = finish(&mut block, dim);
    let (mut diverging, mut forward) = (0.0, [0.0; 2]);
    for (chain, start) in starts.iter().enumerate() {
        let own: Vec<&Draw> = draws.iter().filter(|d| d.chain == chain as u64).collect();
        assert_eq!(own.len(), DRAWS as usize);
        let mut x = start.clone();
        let mut jitter = Vec::new();
        for (number, draw) in own.iter().enumerate() {
            let mut z = vec![0.0; dim];
            let key = Key { seed: kernel.seed, chain: chain as u32, draw: number as u32 };
            fill_normal(key, Purpose::Momentum, &mut z);
            let step = draw.stat("step_size");
            let mut orbit =
                Orbit::new(density.clone(), &kernel.metric, step, &x, &momentum(&kernel.metric, &z));

            let index = draw.stat("index_in_trajectory") as i64;
            let (there, momentum) = orbit.place(index);
            for i in 0..dim {
                assert_close("position", there[i], draw.x[i]);
                assert_close("momentum", momentum[i], draw.p[i]);
            }
            let logp = density.clone().logp_grad(&draw.x, &mut vec![0.0; dim]).unwrap();
            assert_close("logp", logp, draw.stat("logp"));
            assert_close("energy", orbit.energy(index), draw.stat("energy"));
            let energy_error = orbit.energy(index) - orbit.energy(0);
            assert!((energy_error - draw.stat("energy_error")).abs() < 1e-9 * (1.0 + orbit.energy(0).abs()));

            let depth = draw.stat("depth") as u32;
            // One doubling more than were completed, unless there was no more to do.
            let directions = |bits: u32| (0..=depth).map(move |k| bits >> k & 1 == 1).collect::<Vec<bool>>();
            let found = (0..2u32 << depth).find(|&bits| {
                let t = orbit.trajectory(&directions(bits), kernel.max_depth as u32, 1000.0);
                let close = |a: f64, name| {
                    let b = draw.stat(name);
                    a == b || (a - b).abs() < 1e-8 * (1.0 + a.abs())
                };
                let flag = |a: bool, name| f64::from(u8::from(a)) == draw.stat(name);
                t.depth == depth
                    && t.n_steps as f64 == draw.stat("n_steps")
                    && flag(t.diverging, "diverging")
                    && flag(t.max_depth_reached, "maxdepth_reached")
                    && close(t.max_energy_error, "max_energy_error")
                    && close(t.accept, "mean_tree_accept")
                    && close(t.accept_sym, "mean_tree_accept_sym")
                    && (t.first..=t.last).contains(&index)
            });
            let bits =
                found.unwrap_or_else(|| panic!("draw {number} of chain {chain}: no directions fit it"));
            forward[0] += 1.0;
            forward[1] += f64::from(bits & 1);

            assert_eq!(draw.stat("tuning"), 0.0);
            assert_close("averaged step size", draw.stat("step_size_bar"), kernel.step);
            diverging += draw.stat("diverging");
            jitter.push(step / kernel.step);
            x.clone_from(&draw.x);
        }
        // The jitter is uniform on 1 - 0.1 .. 1 + 0.1: its mean has standard deviation 0.0037.
        let mean = jitter.iter().sum::<f64>() / DRAWS as f64;
        assert!(jitter.iter().all(|j| (0.9..1.1).contains(j)));
        assert!((mean - 1.0).abs() < 0.017, "mean jitter {mean}");
        let middle = jitter.iter().filter(|j| (*j - 1.0).abs() < 0.05).count();
        assert!(middle.abs_diff(DRAWS as usize / 2) < 36, "{middle} of {DRAWS} in the middle half");
        // One gradient for each step and no other.
        let steps: f64 = own.iter().map(|d| d.stat("n_steps")).sum();
        assert_eq!(steps, block.chains()[chain].n_gradients() as f64);
    }
    let [n, forward] = forward;
    assert!((forward - 0.5 * n).abs() < 4.5 * (0.25 * n).sqrt(), "{forward} of {n} go forward first");
    diverging
}

#[test]
fn trajectories_are_those_of_a_plain_implementation() {
    let target = gaussian(5, 0.6);
    let inv_mass: Vec<f64> =
        target.sd.iter().zip([2.0, 1.0, 0.4, 1.0, 0.5]).map(|(s, f)| s * s * f).collect();
    let starts: Vec<Vec<f64>> = (0..3).map(|i| target.point(normals(1, i, 5))).collect();
    for (step, max_depth) in [(0.6, 10), (0.15, 10), (0.9, 10), (0.1, 3)] {
        let kernel = Kernel { seed: 42, metric: diagonal(&inv_mass), step, max_depth };
        assert_eq!(check_replay(&target, &kernel, &starts), 0.0);
    }
    let target = gaussian(9, 0.6);
    let starts: Vec<Vec<f64>> = (0..2).map(|i| target.point(normals(1, i, 9))).collect();
    let kernel = Kernel { seed: 42, metric: exact(9), step: 0.05, max_depth: 5 };
    assert_eq!(check_replay(&target, &kernel, &starts), 0.0);
    let kernel = Kernel { seed: 3, metric: diagonal(&[1.0, 2.0]), step: 0.2, max_depth: 10 };
    let diverging = check_replay(&Exponential { dim: 2 }, &kernel, &[vec![1.0, 0.5], vec![2.0, 3.0]]);
    assert!(diverging > 100.0, "{diverging} trajectories ran into the bound");
}

/// A span is a U-turn when one of its products is not positive, and a product that is not a number is not.
#[test]
fn a_turn_at_either_end_ends_a_trajectory() {
    let settings = Settings::default().nuts;
    for (dots, ends) in [
        ([1.0, 1.0], false),
        ([-1.0, 1.0], true),
        ([1.0, -1.0], true),
        ([-1.0, -1.0], true),
        ([1.0, 0.0], true),
        ([f64::NAN, 1.0], true),
        ([1.0, f64::NAN], true),
    ] {
        let stream = Stream::new(Key { seed: 1, chain: 0, draw: 0 }, Purpose::Trajectory);
        let mut nuts = Nuts::new(&settings, stream.clone());
        nuts.begin(0, -1.0, 1.0, 0.1, None, stream);
        let mut batch = Batch::default();
        nuts.request(0, 0, &mut batch);
        assert_eq!(nuts.absorb(&Arrival { logp: -1.0, kinetic: 1.0, dots: &[dots] }), ends, "{dots:?}");
        // A U-turn of the whole keeps the doubling.
        assert_eq!(nuts.outcome().depth, 1);
    }
}

/// Trajectories of one doubling are one leapfrog step, so the acceptance statistics can be computed from the energy error.
#[test]
fn acceptance_statistics_are_what_they_are_called() {
    let target = gaussian(3, 0.3);
    let inv_mass: Vec<f64> = target.sd.iter().map(|s| s * s).collect();
    let kernel = Kernel { seed: 1, metric: diagonal(&inv_mass), step: 1.2, max_depth: 1 };
    let starts = [target.point(normals(2, 0, 3))];
    let draws = finish(&mut kernel.block(&target, &starts, 2000), 3);
    let mut moved = 0.0;
    let mut expected = 0.0;
    for draw in &draws {
        assert_eq!(draw.stat("n_steps"), 1.0);
        let ratio = (-draw.stat("max_energy_error")).exp();
        assert_close("acceptance", draw.stat("mean_tree_accept"), ratio.min(1.0));
        let symmetric = 2.0 * ratio.min(1.0) / (1.0 + ratio);
        assert_close("symmetric acceptance", draw.stat("mean_tree_accept_sym"), symmetric);
        assert!(draw.stat("depth") == 1.0);
        let index = draw.stat("index_in_trajectory");
        assert!(index.abs() <= 1.0);
        if index == 0.0 {
            assert_eq!(draw.stat("energy_error"), 0.0);
        } else {
            assert_close("energy error", draw.stat("energy_error"), draw.stat("max_energy_error"));
        }
        moved += index.abs();
        expected += ratio.min(1.0);
    }
    // With two points the new one is taken with probability min(1, ratio).
    assert!((moved - expected).abs() < 4.5 * (0.25f64 * 2000.0).sqrt(), "{moved} moved, {expected} expected");
}

#[test]
fn diverging_and_deep_trajectories_are_marked() {
    let target = gaussian(3, 0.3);
    let inv_mass: Vec<f64> = target.sd.iter().map(|s| s * s).collect();
    let starts = [target.point(normals(2, 0, 3))];
    let long = Kernel { seed: 1, metric: diagonal(&inv_mass), step: 200.0, max_depth: 10 };
    for draw in finish(&mut long.block(&target, &starts, 50), 3) {
        assert_eq!((draw.stat("diverging"), draw.stat("n_steps")), (1.0, 1.0));
        assert_eq!((draw.stat("index_in_trajectory"), draw.stat("depth")), (0.0, 0.0));
        assert_eq!((draw.stat("mean_tree_accept"), draw.stat("maxdepth_reached")), (0.0, 0.0));
        assert!(draw.stat("max_energy_error") > 1000.0);
        assert_eq!(draw.x, starts[0]);
    }
    let short = Kernel { seed: 1, metric: diagonal(&inv_mass), step: 0.01, max_depth: 4 };
    for draw in finish(&mut short.block(&target, &starts, 50), 3) {
        assert_eq!((draw.stat("diverging"), draw.stat("n_steps")), (0.0, 15.0));
        assert_eq!((draw.stat("maxdepth_reached"), draw.stat("depth")), (1.0, 4.0));
    }
    // At a bound the error has no size.
    let kernel = Kernel { seed: 1, metric: diagonal(&[1.0]), step: 1.0, max_depth: 10 };
    let draws = finish(&mut kernel.block(&Exponential { dim: 1 }, &[vec![1.0]], 200), 1);
    assert!(draws.iter().any(|d| d.stat("diverging") == 1.0));
    for draw in &draws {
        assert_eq!(draw.stat("diverging") == 1.0, draw.stat("max_energy_error") == f64::INFINITY);
    }
}

// --------------------------------------------------------------------------------------------------------- warm-up

#[test]
fn warm_up_finds_step_size_and_metric() {
    let (dim, rho) = (10, 0.8);
    let target = gaussian(dim, rho);
    let mut accept = Vec::new();
    let mut inv_mass = vec![0.0; dim];
    for seed in 0..SEEDS {
        let settings = Settings { seed, tune: 400, draws: 400, adapt: diag(), ..Settings::default() };
        let mut block = new_block(&target, &settings, 0);
        let draws = finish(&mut block, dim);
        assert!(draws.iter().enumerate().all(|(i, d)| d.tuning == (i < 400)));
        let sampling = &draws[400..];
        // One gradient for each step, one at the start, and those of the two searches for a step size.
        let steps: f64 = draws.iter().map(|d| d.stat("n_steps")).sum();
        let searches = block.chains()[0].n_gradients() as f64 - steps - 1.0;
        assert!((2.0..40.0).contains(&searches), "{searches} gradients for searches");
        // After warm-up nothing adapts: the step size is the averaged one with its jitter.
        let bar = sampling[0].stat("step_size_bar");
        for draw in sampling {
            assert_eq!(draw.stat("step_size_bar"), bar);
            assert!((draw.stat("step_size") / bar - 1.0).abs() <= 0.1);
            assert_eq!(draw.stat("diverging"), 0.0);
        }
        let symmetric = sampling.iter().map(|d| d.stat("mean_tree_accept_sym")).sum::<f64>() / 400.0;
        assert!((0.65..0.95).contains(&symmetric), "mean symmetric acceptance {symmetric}");
        accept.push(symmetric);
        let state = block.save(0).unwrap().expect("a state, since the chain is done");
        for ((sum, inverse), std) in inv_mass.iter_mut().zip(&state.inv_mass).zip(&state.metric.stds) {
            *sum += inverse.ln() / SEEDS as f64;
            assert_close("scale", std * std / inverse, 1.0);
        }
    }
    let mean = accept.iter().sum::<f64>() / SEEDS as f64;
    println!("mean symmetric acceptance {mean:.3}");
    assert!((mean - 0.8).abs() < 0.03, "mean symmetric acceptance {mean}");
    // The gradient of a Gaussian is the precision matrix times the position, so its variance is the diagonal of the
    // precision: 1 / (1 - rho^2) / sd^2 at the ends, (1 + rho^2) times that elsewhere.
    for (i, log) in inv_mass.iter().enumerate() {
        let end = i == 0 || i == dim - 1;
        let precision = (if end { 1.0 } else { 1.0 + rho * rho }) / (1.0 - rho * rho);
        let ideal = target.sd[i].powi(2) / precision.sqrt();
        println!("inverse mass {i}: {:.4} of the ideal", log.exp() / ideal);
        assert!((log.exp() / ideal - 1.0).abs() < 0.05, "inverse mass {i}: {} of {ideal}", log.exp());
    }
}

/// The step sizes of a warm-up are those of dual averaging, fed with the statistics that the draws report: the plain
/// acceptance first, the symmetric one from the moment that no window of the metric will end any more.
#[test]
fn step_sizes_follow_dual_averaging() {
    let target = gaussian(4, 0.6);
    let mut settings = Settings { seed: 8, tune: 400, draws: 3, adapt: diag(), ..Settings::default() };
    settings.adapt.step_size_jitter = 0.0;
    let draws = finish(&mut new_block(&target, &settings, 0), 4);
    let same = |a: f64, b: f64| (a / b - 1.0).abs() < 1e-12;
    let mut average = DualAverage::new(draws[0].stat("step_size"));
    let mut searches = vec![0];
    let mut late = Vec::new();
    for (number, draw) in draws[..400].iter().enumerate() {
        if !same(draw.stat("step_size"), average.current()) {
            // Another search: averaging begins again.
            searches.push(number);
            average = DualAverage::new(draw.stat("step_size"));
        }
        let after = |name| {
            let mut after = average.clone();
            after.update(draw.stat(name), &settings.adapt);
            after
        };
        let fed = [after("mean_tree_accept"), after("mean_tree_accept_sym")];
        let fits = fed.iter().map(|d| same(draw.stat("step_size_bar"), d.average())).collect::<Vec<_>>();
        assert!(fits[0] || fits[1], "draw {number}: neither statistic gives the averaged step size");
        late.extend((fits[0] != fits[1]).then_some((number, fits[1])));
        average = fed[usize::from(!fits[0])].clone();
    }
    // One search at the start, one when the metric of the first gradient is replaced.
    assert!(searches.len() == 2 && searches[1] < 10, "searches before draws {searches:?}");
    // The last window ends near draw 200, when it has 80 draws that moved: the next two would be of 120 and 180 draws,
    // and the metric is final at 340.
    let first = late.iter().position(|(_, late)| *late).expect("a late draw");
    assert!((180..=221).contains(&late[first].0), "late from draw {}", late[first].0);
    assert!(late[first..].iter().all(|(_, late)| *late));
    assert!(late.len() > 300, "hardly any draw tells the statistics apart");
    assert!(draws[400..].iter().all(|d| same(d.stat("step_size"), average.average())));
}

/// The estimate of the metric takes in the start, and of the draws before the final part those that moved: of divergent
/// trajectories only those that moved by more than four steps.
#[test]
fn only_draws_that_moved_are_collected() {
    let (mut collected, mut passed_over) = (0, 0);
    for seed in 0..20 {
        // Too short for a window to end, so that nothing is forgotten; the final part is three draws.
        let settings = Settings { seed, tune: 20, draws: 0, adapt: diag(), ..Settings::default() };
        let mut block = new_block(&Exponential { dim: 2 }, &settings, 0);
        let draws = finish(&mut block, 2);
        let usable = |d: &&Draw| {
            let least = if d.stat("diverging") == 1.0 { 5.0 } else { 1.0 };
            d.stat("index_in_trajectory").abs() >= least
        };
        let moved = draws[..17].iter().filter(usable).count() as u64;
        let state = block.save(0).unwrap().expect("a state, since the chain is done");
        assert_eq!(state.moments.counts, [0, 1 + moved], "seed {seed}");
        collected += moved;
        passed_over += 17 - moved;
    }
    // Both kinds occur.
    assert!(collected > 50 && passed_over > 50, "{collected} collected, {passed_over} not");
}

/// Below the largest step size, where the average of logarithms is not that of the steps.
#[test]
fn dual_averaging_averages_logarithms() {
    let settings = Settings::default().adapt;
    let mut average = DualAverage::new(0.01);
    let (mut h, mut bar) = (0.0, 0f64);
    for (count, accept) in [0.5, 0.95, 0.2, 0.8, 1.0, 0.7].into_iter().enumerate() {
        average.update(accept, &settings);
        let count = count as f64 + 1.0;
        h += (0.8 - accept - h) / (count + 10.0);
        let log_step = 0.1f64.ln() - h * count.sqrt() / 0.05;
        bar += count.powf(-0.75) * (log_step - bar);
        assert_close("step size", average.current(), log_step.exp());
        assert_close("averaged step size", average.average(), bar.exp());
        assert!(average.current() < settings.max_step_size);
    }
}

/// The metric of a sample is computed from variances by their definition.
#[test]
fn metric_is_the_ratio_of_the_variances() {
    let dim = 11;
    let mut dev = Cpu::new();
    let phase = Phase::alloc(&mut dev, 1, dim).unwrap();
    let metrics = dev.alloc_metrics(1, dim).unwrap();
    let moments = Moments::alloc(&mut dev, 2, dim).unwrap();
    for sizes in [[7u64, 30], [0, 12], [12, 0], [1, 3]] {
        let mut points = Vec::new();
        let mut samples = [0, 1].map(|row| Sample { row, count: 0 });
        for (sample, size) in samples.iter_mut().zip(sizes) {
            for _ in 0..size {
                // Means far from zero, and different in the two samples.
                let at = points.len() as u64;
                let shift = 100.0 + sample.row as f64;
                let x: Vec<f64> = normals(4, at, dim).iter().map(|z| shift + z).collect();
                let g: Vec<f64> = normals(5, at, dim).iter().map(|z| 3.0 * (z - shift)).collect();
                dev.write(Row { buf: phase.x, index: 0 }, &x).unwrap();
                dev.write(Row { buf: phase.g, index: 0 }, &g).unwrap();
                sample.count += 1;
                dev.accumulate(&moments, &phase, &[Addition { sample: *sample, point: 0 }]).unwrap();
                points.push((x, g));
            }
        }
        dev.fit_fisher_diag(&metrics, &moments, &[Fit { metric: 0, samples }]).unwrap();
        let [mut inv_mass, mut mass_sqrt] = [vec![0.0; dim], vec![0.0; dim]];
        dev.read(Row { buf: metrics.inv_mass, index: 0 }, &mut inv_mass).unwrap();
        dev.read(Row { buf: metrics.mass_sqrt, index: 0 }, &mut mass_sqrt).unwrap();
        let variance = |value: &dyn Fn(usize) -> f64| {
            let n = points.len();
            let mean = (0..n).map(value).sum::<f64>() / n as f64;
            (0..n).map(|k| (value(k) - mean).powi(2)).sum::<f64>()
        };
        for (i, inv_mass) in inv_mass.into_iter().enumerate() {
            let ratio = variance(&|k| points[k].0[i]) / variance(&|k| points[k].1[i]);
            assert_close("inverse mass", inv_mass, ratio.sqrt());
            assert_close("mass", mass_sqrt[i] * mass_sqrt[i] * inv_mass, 1.0);
        }
    }
}

// ------------------------------------------------------------------------------------------------ the tests themselves

#[test]
fn gradients_of_the_targets_are_right() {
    fn check<D: HostDensity>(mut density: D) {
        let dim = density.dim();
        let x: Vec<f64> = (0..dim).map(|i| 0.3 + 0.1 * (i as f64).sin()).collect();
        let (mut g, mut other) = (vec![0.0; dim], vec![0.0; dim]);
        density.logp_grad(&x, &mut g).unwrap();
        for i in 0..dim {
            let mut at = |h: f64| {
                let mut y = x.clone();
                y[i] += h;
                density.logp_grad(&y, &mut other).unwrap()
            };
            let difference = (at(1e-5) - at(-1e-5)) / 2e-5;
            assert!((difference - g[i]).abs() < 1e-5 * (1.0 + g[i].abs()), "{i}: {difference} {}", g[i]);
        }
    }
    check(gaussian(5, 0.7));
    check(Student { dim: 3, freedom: 8.0 });
    check(Logistic { scale: vec![1.0, 0.2] });
    check(Exponential { dim: 2 });
    check(EightSchools);
    check(Radon::new(20));
    check(Conjugate { y: vec![0.3, -1.0, 2.0] });
    let rows = vec![[1.0, 0.5, -0.3], [1.0, -2.0, 0.7]];
    check(Regression { rows, outcome: vec![true, false], prior_sd: 2.0 });
}

#[test]
fn the_references_are_right() {
    assert!((normal_cdf(1.959_963_984_540_054) - 0.975).abs() < 1e-14);
    assert!((normal_cdf(-6.0) - 9.865_876_450_376_98e-10).abs() < 1e-15);
    let logistic = quantiles(|x| 1.0 / (1.0 + f64::exp(-x)), -50.0, 50.0);
    assert!((logistic[4].0 - 19f64.ln()).abs() < 1e-12);
    // A point and its whitening.
    let target = gaussian(4, 0.5);
    let z = [0.3, -1.0, 2.0, 0.1];
    target.whiten(&target.point(z)).iter().zip(z).for_each(|(a, b)| assert!((a - b).abs() < 1e-12));
}
