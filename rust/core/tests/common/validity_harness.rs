//! Running the sampler in a test, and comparing what comes out with what should.

use std::ops::Range;

use nutpie_core::adapt::pool::Pool;
use nutpie_core::adapt::{AdaptSettings, Adaptation, Scheme};
use nutpie_core::block::{Block, Pooling, Start};
use nutpie_core::chain::{ChainState, statistics};
use nutpie_core::density::{HostDensity, OnHost};
use nutpie_core::device::{Cpu, Device, Row};
use nutpie_core::error::Result;
use nutpie_core::estimator::fisher_diag::FisherDiagState;
use nutpie_core::kernel::{KernelState, Kind};
use nutpie_core::metric::Metric;
use nutpie_core::rng::{Key, Purpose, Stream};
use nutpie_core::settings::Settings;
use nutpie_core::trace::{Record, Records, Store};

/// One draw with all that the sampler says about it, and the momentum that it had at the end of its trajectory.
#[derive(Clone)]
pub struct Draw {
    pub chain: u64,
    pub tuning: bool,
    pub x: Vec<f64>,
    pub p: Vec<f64>,
    stats: Vec<f64>,
}

impl Draw {
    /// The statistic of a name.
    pub fn stat(&self, name: &str) -> f64 {
        self.stats[statistics(Kind::Nuts).find(|(_, s)| s.name == name).expect("a statistic of this name").0]
    }
}

/// Keeps everything.
pub struct Everything {
    dim: usize,
    pub draws: Vec<Draw>,
}

impl Store for Everything {
    fn append(&mut self, dev: &mut dyn Device, records: &Records<'_>) -> Result<()> {
        for &Record { chain, tuning, stats, row: index, .. } in records.draws {
            let (mut x, mut p) = (vec![0.0; self.dim], vec![0.0; self.dim]);
            dev.read(Row { buf: records.phase.x, index }, &mut x)?;
            dev.read(Row { buf: records.phase.p, index }, &mut p)?;
            self.draws.push(Draw { chain, tuning, x, p, stats: stats.to_vec() });
        }
        Ok(())
    }
}

/// Run a block to its end.
pub fn finish(block: &mut Block, dim: usize) -> Vec<Draw> {
    let mut store = Everything { dim, draws: Vec::new() };
    while !block.done() {
        block.round(&mut store, |_| ()).expect("a round");
    }
    store.draws
}

/// A chain from a random start in the unit cube, where all targets are defined.
pub fn new_block<D: HostDensity + Clone + 'static>(density: &D, settings: &Settings, chain: u64) -> Block {
    block_of(density, settings, chain..chain + 1)
}

/// Chains from random starts in the unit cube.
fn block_of<D: HostDensity + Clone + 'static>(density: &D, settings: &Settings, chains: Range<u64>) -> Block {
    let start = |chain| {
        let mut random = uniforms(settings.seed, chain);
        (0..density.dim()).map(|_| random()).collect()
    };
    let points: Vec<Vec<f64>> = chains.clone().map(start).collect();
    let starts: Vec<Start> = chains.zip(&points).map(|(chain, x)| Start::at(chain, x)).collect();
    let density = Box::new(OnHost::new(density.clone()));
    Block::start(Box::new(Cpu::new()), density, settings, &starts, Pooling::Here).expect("starts")
}

/// Positions of the draws after warm-up of some chains.
pub fn positions<D: HostDensity + Clone + 'static>(
    density: &D,
    settings: &Settings,
    chains: Range<u64>,
) -> Vec<Vec<f64>> {
    let mut block = block_of(density, settings, chains);
    finish(&mut block, density.dim()).into_iter().filter(|d| !d.tuning).map(|d| d.x).collect()
}

/// Uniform numbers in (0, 1) for the test itself; the sampler never uses this purpose with this draw.
pub fn uniforms(seed: u64, chain: u64) -> impl FnMut() -> f64 {
    let key = Key { seed, chain: chain as u32, draw: u32::MAX };
    let mut stream = Stream::new(key, Purpose::StepSize);
    move || stream.uniform() + 0.5f64.powi(54)
}

/// A transition kernel that adapts nothing.
#[derive(Clone)]
pub struct Kernel {
    pub seed: u64,
    pub metric: Metric,
    pub step: f64,
    pub max_depth: u64,
}

impl Kernel {
    /// Chains with this kernel, in one block, from given points.
    pub fn block<D: HostDensity + Clone + 'static>(
        &self,
        density: &D,
        starts: &[Vec<f64>],
        draws: u64,
    ) -> Block {
        self.block_with(&KernelState::Nuts, density, starts, draws)
    }

    /// The same with another kernel.
    pub fn block_with<D: HostDensity + Clone + 'static>(
        &self,
        kernel: &KernelState,
        density: &D,
        starts: &[Vec<f64>],
        draws: u64,
    ) -> Block {
        self.block_in(&Settings::default(), kernel, density, starts, draws)
    }

    /// The same with settings of that kernel.
    pub fn block_in<D: HostDensity + Clone + 'static>(
        &self,
        settings: &Settings,
        kernel: &KernelState,
        density: &D,
        starts: &[Vec<f64>],
        draws: u64,
    ) -> Block {
        let dim = density.dim();
        let mut settings = Settings { seed: self.seed, tune: 0, draws, ..settings.clone() };
        settings.nuts.max_depth = self.max_depth;
        settings.adapt = AdaptSettings::new(Scheme::Fixed);
        let mut adaptation = Adaptation::new(0, 1, dim, &settings.adapt);
        adaptation.found_step(self.step);
        let mut evaluate = density.clone();
        let state = |(chain, x): (usize, &Vec<f64>)| {
            let mut g = vec![0.0; dim];
            let logp = evaluate.logp_grad(x, &mut g).expect("the target is defined at the start");
            ChainState {
                settings: settings.clone(),
                chain: chain as u64,
                draw: 0,
                n_gradients: 0,
                metric_changes: 0,
                x: x.clone(),
                g,
                p: Vec::new(),
                logp,
                kernel: *kernel,
                metric: self.metric.clone(),
                inv_mass: self.metric.inv_mass_diagonal(),
                moments: FisherDiagState {
                    counts: [0; 2],
                    moments: std::array::from_fn(|_| std::array::from_fn(|_| vec![0.0; dim])),
                },
                adaptation: adaptation.clone(),
            }
        };
        let states: Vec<ChainState> = starts.iter().enumerate().map(state).collect();
        Block::resume(
            Box::new(Cpu::new()),
            Box::new(OnHost::new(density.clone())),
            &states,
            &[Pool::default()],
            draws,
        )
        .expect("a block")
    }
}

/// A diagonal metric.
pub fn diagonal(inv_mass: &[f64]) -> Metric {
    Metric::diagonal(inv_mass, Vec::new())
}

type Scalar = Box<dyn Fn(&[f64]) -> f64>;

/// An expectation with its exact value.
pub struct Functional {
    name: String,
    truth: f64,
    of: Scalar,
}

/// What is known exactly about a scalar function of the parameters.
pub struct Marginal {
    pub name: &'static str,
    pub of: fn(&[f64]) -> f64,
    pub mean: f64,
    pub variance: f64,
    /// Pairs of a number and the probability to be below it.
    pub below: Vec<(f64, f64)>,
}

impl Marginal {
    /// Its mean, variance and quantiles as expectations. A quantile q of order p is tested as P(value <= q) = p, and the
    /// variance around the *exact* mean: such averages of draws have no bias of order 1 / n, as estimated quantiles and
    /// variances have.
    pub fn functionals(&self) -> Vec<Functional> {
        let Marginal { name, of, mean, variance, .. } = *self;
        let mut out = vec![
            Functional { name: format!("mean of {name}"), truth: mean, of: Box::new(of) },
            Functional {
                name: format!("variance of {name}"),
                truth: variance,
                of: Box::new(move |x| (of(x) - mean).powi(2)),
            },
        ];
        out.extend(self.below.iter().map(|&(q, p)| Functional {
            name: format!("P({name} <= {q:.4})"),
            truth: p,
            of: Box::new(move |x| f64::from(u8::from(of(x) <= q))),
        }));
        out
    }
}

/// E[a b], for a covariance.
pub fn product(
    name: &'static str,
    a: impl Fn(&[f64]) -> f64 + 'static,
    b: impl Fn(&[f64]) -> f64 + 'static,
    truth: f64,
) -> Functional {
    Functional { name: name.into(), truth, of: Box::new(move |x| a(x) * b(x)) }
}

/// Largest |z| of an estimate. With n seeds z follows Student's t with n - 1 degrees of freedom; for n = 64 it exceeds
/// 4.5 with probability 3e-5. All tests together look at fewer than 300 expectations, so a correct sampler with new random
/// numbers fails somewhere with probability below 1 % (Bonferroni); with the seeds as they are, it does not.
const MAX_Z: f64 = 4.5;

/// Seeds of each target.
pub const SEEDS: u64 = 64;

/// Largest standard error, as a share of the standard deviation that the functional has under the target: then a bias of
/// a tenth of a standard deviation is ten standard errors.
const MAX_STANDARD_ERROR: f64 = 0.01;

/// Compare averages of the draws of independent seeds with the exact expectations. The Monte-Carlo error is the spread
/// between seeds, so it needs no formula for effective sample sizes.
pub fn check(target: &str, functionals: &[Functional], run: impl Fn(u64) -> Vec<Vec<f64>>) {
    check_seeds(target, SEEDS, functionals, run);
}

/// [`check`] with another number of seeds.
pub fn check_seeds(target: &str, seeds: u64, functionals: &[Functional], run: impl Fn(u64) -> Vec<Vec<f64>>) {
    let compared = compare(target, seeds, functionals, run);
    let wrong: Vec<&str> =
        compared.iter().filter(|c| !c.is_right(MAX_STANDARD_ERROR)).map(|c| &*c.line).collect();
    assert!(wrong.is_empty(), "{target}\n{}", wrong.join("\n"));
}

/// An estimate beside the exact value.
pub struct Compared {
    pub line: String,
    /// How many standard errors it is off.
    pub z: f64,
    /// The standard error, as a share of the standard deviation that the functional has under the target.
    pub error: f64,
}

impl Compared {
    /// Whether it is as near as it should be, and known well enough to tell.
    pub fn is_right(&self, largest_error: f64) -> bool {
        // Written so that NaN is wrong.
        self.z.abs() < MAX_Z && self.error < largest_error
    }
}

/// Averages of the draws of independent seeds beside the exact expectations.
pub fn compare(
    target: &str,
    seeds: u64,
    functionals: &[Functional],
    run: impl Fn(u64) -> Vec<Vec<f64>>,
) -> Vec<Compared> {
    assert!(!functionals.is_empty());
    let mut estimates = vec![Vec::new(); functionals.len()];
    let mut variances = vec![0.0; functionals.len()];
    for seed in 0..seeds {
        let draws = run(seed);
        for ((f, estimates), variance) in functionals.iter().zip(&mut estimates).zip(&mut variances) {
            let n = draws.len() as f64;
            estimates.push(draws.iter().map(|x| (f.of)(x)).sum::<f64>() / n);
            *variance += draws.iter().map(|x| ((f.of)(x) - f.truth).powi(2)).sum::<f64>() / n / seeds as f64;
        }
    }
    let one = |((f, estimates), variance): ((&Functional, &Vec<f64>), &f64)| {
        let n = estimates.len() as f64;
        let mean = estimates.iter().sum::<f64>() / n;
        let spread = estimates.iter().map(|e| (e - mean).powi(2)).sum::<f64>() / (n - 1.0);
        let error = (spread / n).sqrt();
        let (z, error) = ((mean - f.truth) / error, error / variance.sqrt());
        let line = format!("{}: {mean:.5}, exactly {:.5}, z {z:.2}, error {error:.4} sd", f.name, f.truth);
        println!("{target}: {line}");
        Compared { line, z, error }
    };
    let compared: Vec<Compared> = functionals.iter().zip(&estimates).zip(&variances).map(one).collect();
    let largest = compared.iter().map(|c| c.z.abs()).fold(0.0, f64::max);
    println!("{target}: largest |z| of {} is {largest:.2}", functionals.len());
    compared
}

/// Assert that integers are uniform on 0..bins: the chi-square statistic is below its quantile of order 1 - 1e-6, in
/// Wilson and Hilferty's approximation.
pub fn check_uniform(what: &str, bins: usize, values: impl Iterator<Item = usize>) {
    let mut counts = vec![0.0; bins];
    values.for_each(|v| counts[v] += 1.0);
    let expected = counts.iter().sum::<f64>() / bins as f64;
    assert!(expected > 20.0, "{what}: too few values for the approximation");
    let statistic: f64 = counts.iter().map(|c| (c - expected).powi(2) / expected).sum();
    let (k, z) = (bins as f64 - 1.0, 4.753);
    let a = 2.0 / (9.0 * k);
    let bound = k * (1.0 - a + z * a.sqrt()).powi(3);
    println!("{what}: chi-square {statistic:.1} of {k} degrees of freedom, bound {bound:.1}");
    assert!(statistic < bound, "{what}: chi-square {statistic:.1} above {bound:.1}; counts {counts:?}");
}
