//! What kernels cost per gradient beside the density.
//!
//! `cargo bench --bench kernels [-- DIM ...]` prints nanoseconds per gradient, with those of a standard normal density, timed
//! alone, subtracted: momenta, trees, statistics and stored draws included. No kernel adapts anything; all have the same step
//! size, and mean times of 1.4 where they are set. Each is timed several times, in turns, and the least counts.

#![allow(clippy::expect_used)]

#[path = "../rust/core/tests/common/validity_harness.rs"]
#[allow(dead_code)]
mod harness;
#[path = "measuring.rs"]
mod measuring;

use nutpie_core::device::Device;
use nutpie_core::error::Result;
use nutpie_core::integrate::Integrator;
use nutpie_core::kernel::hmc::{HmcSettings, Trajectory};
use nutpie_core::kernel::transitions::{Tuned, TunedState};
use nutpie_core::kernel::{KernelState, Sampler};
use nutpie_core::settings::Settings;
use nutpie_core::trace::{Records, Store};

use measuring::{Normal, density, metric_of, seconds};

/// Dimension, rank of the metric, and gradients of a run.
const SIZES: [(usize, usize, f64); 4] =
    [(10, 0, 400_000.0), (100, 0, 200_000.0), (1_000, 0, 40_000.0), (1_000, 20, 20_000.0)];
const RUNS: usize = 7;

/// A kernel with its settings.
struct Timed {
    name: &'static str,
    state: fn(TunedState) -> KernelState,
    settings: Settings,
}

fn kernels() -> Vec<Timed> {
    use Integrator::{ExactNormal, Leapfrog};
    let settings = |sampler, integrator| Settings { sampler, integrator, ..Settings::default() };
    let multinomial = HmcSettings { trajectory: Trajectory::Multinomial, ..HmcSettings::default() };
    let exact: fn(TunedState) -> KernelState = |state| KernelState::ExactNuts(state.tuned);
    let walnuts: fn(TunedState) -> KernelState = |state| KernelState::Walnuts(state.tuned);
    vec![
        Timed { name: "nuts", state: |_| KernelState::Nuts, settings: Settings::default() },
        Timed { name: "nuts, exact normal", state: exact, settings: settings(Sampler::Nuts, ExactNormal) },
        Timed { name: "mams", state: KernelState::Mams, settings: settings(Sampler::Mams, Leapfrog) },
        Timed { name: "hmc", state: KernelState::Hmc, settings: settings(Sampler::Hmc, Leapfrog) },
        Timed {
            name: "hmc, exact normal",
            state: KernelState::Hmc,
            settings: settings(Sampler::Hmc, ExactNormal),
        },
        Timed {
            name: "hmc, multinomial",
            state: KernelState::Hmc,
            settings: Settings { hmc: multinomial, ..settings(Sampler::Hmc, Leapfrog) },
        },
        Timed { name: "walnuts", state: walnuts, settings: settings(Sampler::Walnuts, Leapfrog) },
    ]
}

/// Forgets everything.
struct Nowhere;

impl Store for Nowhere {
    fn append(&mut self, _dev: &mut dyn Device, _records: &Records<'_>) -> Result<()> {
        Ok(())
    }
}

impl Timed {
    /// Nanoseconds per gradient, and gradients per draw.
    fn run(&self, dim: usize, rank: usize, gradients: f64) -> [f64; 2] {
        let step = 1.2 * (dim as f64).powf(-0.25);
        let tuned = Tuned { length: 1.4, step, transitions: 1 };
        let state = (self.state)(TunedState { tuned, phase: 0.1, rejections: 0 });
        let kernel = harness::Kernel { seed: 1, metric: metric_of(rank, dim), step, max_depth: 10 };
        let draws = (gradients * step / 4.0) as u64;
        let start = (0..dim).map(|i| if i % 2 == 0 { 1.0 } else { -1.0 }).collect();
        let mut block = kernel.block_in(&self.settings, &state, &Normal(dim), &[start], draws);
        for _ in 0..10 {
            block.round(&mut Nowhere, |_| ()).expect("a round");
        }
        let (clock, before) = (seconds(), block.chains()[0].n_gradients());
        while !block.done() {
            block.round(&mut Nowhere, |_| ()).expect("a round");
        }
        let gradients = (block.chains()[0].n_gradients() - before) as f64;
        [(seconds() - clock) * 1e9 / gradients, gradients / draws as f64]
    }
}

fn main() {
    let chosen: Vec<usize> = std::env::args().filter_map(|a| a.parse().ok()).collect();
    println!("{:>20} {:>6} {:>5} {:>10} {:>16}", "kernel", "dim", "rank", "ns", "gradients/draw");
    for (dim, rank, gradients) in SIZES {
        if !chosen.is_empty() && !chosen.contains(&dim) {
            continue;
        }
        let (kernels, density) = (kernels(), density(dim));
        let mut best = vec![[f64::INFINITY, 0.0]; kernels.len()];
        for _ in 0..RUNS {
            for (kernel, best) in kernels.iter().zip(&mut best) {
                let run = kernel.run(dim, rank, gradients);
                *best = if run[0] < best[0] { run } else { *best };
            }
        }
        for (kernel, [time, per_draw]) in kernels.iter().zip(best) {
            println!("{:>20} {dim:>6} {rank:>5} {:>10.0} {per_draw:>16.1}", kernel.name, time - density);
        }
    }
}
