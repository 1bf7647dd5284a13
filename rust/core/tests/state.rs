//! Draws do not depend on threads, and the saved state of a chain is all that it needs.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::{Duration, Instant};

use common::{Collected, Uneven, reproducible};
use nutpie_core::adapt::handover::Why;
use nutpie_core::adapt::pool::Pool;
use nutpie_core::adapt::{AdaptSettings, Scheme};
use nutpie_core::block::{Block, Pooling, Start};
use nutpie_core::chain::{ChainState, DURATION, N_STATISTICS, statistics};
use nutpie_core::density::{Density, Failure, HostDensity, OnHost};
use nutpie_core::device::{Cpu, DeviceOptions, open};
use nutpie_core::error::Error;
use nutpie_core::integrate::Integrator;
use nutpie_core::kernel::hmc::{HmcSettings, Trajectory};
use nutpie_core::kernel::{Kind, Sampler};
use nutpie_core::run::{Control, Output, Run};
use nutpie_core::settings::Settings;
use nutpie_core::trace::Keep;

const DIM: usize = 9;

fn starts(n: usize) -> Vec<Vec<f64>> {
    (0..n).map(|c| (0..DIM).map(|i| 1.0 + c as f64 - i as f64 * 0.3).collect()).collect()
}

fn run_of<'a>(
    settings: &'a Settings,
    starts: &'a [Vec<f64>],
    cores: usize,
    density: &'a (dyn Fn() -> Box<dyn Density> + Sync),
) -> Run<'a> {
    Run {
        settings,
        starts,
        metrics: &[],
        keep: Keep::default(),
        cores,
        per_block: 1,
        device: &|_| open("cpu", DeviceOptions::default()),
        density,
        on_thread: &|work| work(),
    }
}

fn execute(settings: &Settings, cores: usize, density: &(dyn Fn() -> Box<dyn Density> + Sync)) -> Output {
    run_of(settings, &starts(5), cores, density).execute(&Control::new(5))
}

fn settings_of(scheme: Scheme, seed: u64, tune: u64, draws: u64) -> Settings {
    Settings { seed, tune, draws, adapt: AdaptSettings::new(scheme), ..Settings::default() }
}

fn schemes() -> impl Iterator<Item = Scheme> {
    Scheme::ALL.iter().map(|info| info.scheme)
}

#[test]
fn draws_do_not_depend_on_the_number_of_threads() {
    let density = || Box::new(OnHost::new(Uneven(DIM))) as Box<dyn Density>;
    for scheme in schemes() {
        let settings = settings_of(scheme, 8, 100, 80);
        let one = execute(&settings, 1, &density);
        for cores in [2, 3, 16] {
            let many = execute(&settings, cores, &density);
            assert_eq!(reproducible(&one.chains), reproducible(&many.chains), "{scheme:?}");
            assert_eq!(one.n_gradients, many.n_gradients);
            assert_eq!(one.pool, many.pool);
        }
        assert_eq!(one.chains[0].draws(), 180);
        assert_ne!(one.chains[0].blocks, one.chains[1].blocks);
    }
}

#[test]
fn draws_of_other_kernels_do_not_depend_on_the_number_of_threads() {
    let density = || Box::new(OnHost::new(Uneven(DIM))) as Box<dyn Density>;
    for (sampler, pool) in [(Sampler::Mams, true), (Sampler::Mams, false), (Sampler::Auto, true)] {
        let mut settings = Settings { sampler, ..settings_of(Scheme::Auto, 8, 100, 80) };
        settings.adapt.pool = pool;
        let one = execute(&settings, 1, &density);
        for cores in [2, 3, 16] {
            let many = execute(&settings, cores, &density);
            assert_eq!(reproducible(&one.chains), reproducible(&many.chains), "{sampler:?}");
            assert_eq!(one.n_gradients, many.n_gradients);
        }
        assert!(one.chains.iter().all(|chain| chain.kernel == Kind::Mams && chain.draws() == 180));
        let tuned: Vec<_> = one.reports.iter().map(|report| report.tuned.unwrap()).collect();
        assert!(tuned.iter().all(|t| t.length >= 1.4 && t.transitions > 0));
        assert_eq!(tuned.iter().all(|t| t.step == tuned[0].step), pool);
    }
}

#[test]
fn chains_pool_alike_in_one_block_and_in_many() {
    for sampler in [Sampler::Nuts, Sampler::Mams] {
        let settings = Settings { sampler, ..settings_of(Scheme::Auto, 3, 100, 20) };
        let density = || Box::new(OnHost::new(Uneven(DIM))) as Box<dyn Density>;
        let apart = execute(&settings, 2, &density);
        let points = starts(5);
        let (all, _) = whole_run(&settings, &points);
        for (chain, trace) in apart.chains.iter().enumerate() {
            assert_eq!(trace.flat(|block| &block.positions), all.draws[chain].concat());
        }
    }
}

#[test]
fn the_rule_keeps_the_kernel_where_it_should() {
    let density = |dim| move || Box::new(OnHost::new(Uneven(dim))) as Box<dyn Density>;
    let choice = |sampler, dim: usize, chains: usize, tune, pool| {
        let mut settings = Settings { sampler, ..settings_of(Scheme::Auto, 8, tune, 5) };
        settings.adapt.pool = pool;
        let starts: Vec<Vec<f64>> = (0..chains).map(|c| vec![0.3 + c as f64; dim]).collect();
        let output = run_of(&settings, &starts, 1, &density(dim)).execute(&Control::new(chains));
        assert!(output.error.is_none());
        let choice = output.reports[0].choice;
        let made = output.chains[0].kernel;
        assert_eq!(made, choice.map_or(Kind::Nuts, |choice| choice.kernel));
        choice.map(|choice| (choice.kernel, choice.why))
    };
    use Sampler::{Auto, Mams, Nuts};
    assert_eq!(choice(Nuts, 3, 2, 100, true), None);
    assert_eq!(choice(Auto, 3, 2, 100, true), Some((Kind::Mams, Why::GoodMetric)));
    assert_eq!(choice(Auto, 2, 2, 100, true), Some((Kind::Nuts, Why::FewParameters)));
    assert_eq!(choice(Mams, 2, 2, 100, true), Some((Kind::Mams, Why::Asked)));
    assert_eq!(choice(Mams, 1, 2, 100, true), Some((Kind::Nuts, Why::FewParameters)));
    assert_eq!(choice(Auto, 3, 2, 100, false), Some((Kind::Nuts, Why::Unpooled)));
    assert_eq!(choice(Auto, 3, 1, 100, true), Some((Kind::Nuts, Why::Unpooled)));
    assert_eq!(choice(Mams, 3, 1, 100, true), Some((Kind::Mams, Why::Asked)));
    // Without a warm-up there is nothing that could prepare another kernel.
    assert_eq!(choice(Mams, 3, 2, 0, true), None);
    assert_eq!(choice(Mams, 3, 2, 1, true), Some((Kind::Mams, Why::Asked)));
}

/// Settings of the samplers beside those that have tests of their own.
fn further_samplers() -> Vec<Settings> {
    let plain = settings_of(Scheme::Auto, 8, 100, 80);
    let hmc = |trajectory| HmcSettings { trajectory, ..HmcSettings::default() };
    let exact = Settings { integrator: Integrator::ExactNormal, ..plain.clone() };
    vec![
        Settings { sampler: Sampler::Hmc, ..plain.clone() },
        Settings { sampler: Sampler::Hmc, hmc: hmc(Trajectory::Static), ..exact.clone() },
        Settings { sampler: Sampler::Hmc, hmc: hmc(Trajectory::Multinomial), ..plain.clone() },
        exact,
        Settings { sampler: Sampler::Walnuts, ..plain },
    ]
}

#[test]
fn draws_of_further_samplers_do_not_depend_on_the_number_of_threads() {
    let density = || Box::new(OnHost::new(Uneven(DIM))) as Box<dyn Density>;
    for settings in further_samplers() {
        let one = execute(&settings, 1, &density);
        for cores in [2, 16] {
            let many = execute(&settings, cores, &density);
            assert_eq!(reproducible(&one.chains), reproducible(&many.chains), "{:?}", settings.sampler);
            assert_eq!(one.n_gradients, many.n_gradients);
        }
        assert!(one.reports.iter().all(|report| report.tuned.is_some_and(|tuned| tuned.step > 0.0)));
    }
}

#[test]
fn further_samplers_go_on_as_if_they_had_never_stopped() {
    for (settings, chains) in further_samplers().into_iter().flat_map(|s| [(s.clone(), 3), (s, 1)]) {
        let (whole, saved) = whole_run(&settings, &starts(chains));
        // Before and after the transitions that tune it, and between them.
        for &(stop, ref state) in saved.iter().step_by(9) {
            let (states, pools): (Vec<ChainState>, Vec<Pool>) = postcard::from_bytes(state).unwrap();
            let density = Box::new(OnHost::new(Uneven(DIM)));
            let mut block =
                Block::resume(Box::new(Cpu::new()), density, &states, &pools, settings.draws).unwrap();
            let mut rest = common::Collected::new(chains);
            for chain in 0..chains {
                rest.draws[chain] = whole.draws[chain][..stop as usize].to_vec();
                rest.stats[chain] = whole.stats[chain][..stop as usize].to_vec();
            }
            while !block.done() {
                block.round(&mut rest, |_| ()).unwrap();
            }
            assert!(rest == whole, "{:?} resumed after draw {stop}", settings.sampler);
        }
        let after = saved.iter().filter(|(draw, _)| *draw > settings.tune).count();
        assert!(chains > 1 || after > 60, "{after} states after the warm-up");
    }
}

/// Chains in one block, and the state of the block before each draw at which all chains stood still together.
fn whole_run(settings: &Settings, points: &[Vec<f64>]) -> (Collected, Vec<(u64, Vec<u8>)>) {
    let starts: Vec<Start> = points.iter().zip(4..).map(|(x, id)| Start::at(id - 4, x)).collect();
    let density = Box::new(OnHost::new(Uneven(DIM)));
    let mut block = Block::start(Box::new(Cpu::new()), density, settings, &starts, Pooling::Here).unwrap();
    let mut whole = Collected::new(points.len());
    let mut saved: Vec<(u64, Vec<u8>)> = Vec::new();
    while !block.done() {
        let states: Option<Vec<ChainState>> = (0..points.len()).map(|i| block.save(i).unwrap()).collect();
        if let Some(states) = states.filter(|states| states.iter().all(|state| state.draw == states[0].draw))
        {
            saved.push((states[0].draw, postcard::to_allocvec(&(&states, block.pools())).unwrap()));
        }
        block.round(&mut whole, |_| ()).unwrap();
    }
    (whole, saved)
}

#[test]
fn resumed_chains_go_on_as_if_they_had_never_stopped() {
    let with = |sampler| move |(scheme, chains)| (sampler, scheme, chains);
    let nuts = schemes().map(|scheme| (scheme, 1)).chain([(Scheme::Auto, 3), (Scheme::Dense, 2)]);
    let mams = [(Scheme::Auto, 3), (Scheme::LowRank, 1)].map(with(Sampler::Mams));
    for (sampler, scheme, chains) in nuts.map(with(Sampler::Nuts)).chain(mams) {
        let settings = Settings { sampler, ..settings_of(scheme, 2, 120, 60) };
        let (whole, saved) = whole_run(&settings, &starts(chains));
        // In the early windows, in the main ones, in the final part of the warm-up, and after it.
        let mut tried = 0;
        // Rounds that tune another kernel come before the same draw, each with a state of its own.
        let tuning = saved.iter().filter(|(draw, _)| *draw == settings.tune).count();
        assert_eq!(tuning > 10, sampler == Sampler::Mams, "{tuning}");
        for &(stop, ref state) in saved.iter().step_by(if chains == 1 { 17 } else { 5 }) {
            tried += 1;
            let (states, pools): (Vec<ChainState>, Vec<Pool>) = postcard::from_bytes(state).unwrap();
            let density = Box::new(OnHost::new(Uneven(DIM)));
            let mut block = Block::resume(Box::new(Cpu::new()), density, &states, &pools, 60).unwrap();
            assert_eq!(block.save(0).unwrap().unwrap(), states[0]);
            let mut rest = common::Collected::new(chains);
            for chain in 0..chains {
                rest.draws[chain] = whole.draws[chain][..stop as usize].to_vec();
                rest.stats[chain] = whole.stats[chain][..stop as usize].to_vec();
            }
            while !block.done() {
                block.round(&mut rest, |_| ()).unwrap();
            }
            assert!(rest == whole, "{scheme:?}, {chains} chains, resumed after draw {stop}");
        }
        assert!(tried > 5, "{scheme:?}: {tried} states");
    }
}

#[test]
fn a_state_that_does_not_fit_is_refused() {
    let settings = Settings { seed: 2, tune: 5, draws: 5, ..Settings::default() };
    let density = Box::new(OnHost::new(Uneven(DIM)));
    let block =
        Block::start(Box::new(Cpu::new()), density, &settings, &[Start::at(0, &starts(1)[0])], Pooling::Here)
            .unwrap();
    let state = block.save(0).unwrap().unwrap();
    let other = Box::new(OnHost::new(Uneven(DIM + 1)));
    let resumed = Block::resume(Box::new(Cpu::new()), other, &[state], block.pools(), 5);
    assert!(matches!(resumed, Err(Error::State(_))));
}

/// Fails for good after a number of calls.
struct Breaks(usize);

impl HostDensity for Breaks {
    fn dim(&self) -> usize {
        DIM
    }

    fn logp_grad(&mut self, x: &[f64], grad: &mut [f64]) -> Result<f64, Failure> {
        self.0 = self.0.checked_sub(1).ok_or_else(|| Failure::Fatal("broken".into()))?;
        Uneven(DIM).logp_grad(x, grad)
    }
}

#[test]
fn a_fatal_error_ends_the_run_and_keeps_the_draws() {
    let settings = Settings { seed: 1, tune: 50, draws: 10_000, ..Settings::default() };
    let density = || Box::new(OnHost::new(Breaks(4_000))) as Box<dyn Density>;
    let output = execute(&settings, 1, &density);
    assert!(matches!(&output.error, Some(Error::Density(e)) if e.to_string() == "broken"));
    assert!(output.chains[0].draws() > 20);
    assert_eq!(output.chains[0].flat(|block| &block.positions).len(), output.chains[0].draws() * DIM);
}

#[test]
fn a_start_without_a_density_is_an_error() {
    struct Nowhere;
    impl HostDensity for Nowhere {
        fn dim(&self) -> usize {
            DIM
        }
        fn logp_grad(&mut self, _: &[f64], _: &mut [f64]) -> Result<f64, Failure> {
            Err(Failure::Recoverable)
        }
    }
    let density = || Box::new(OnHost::new(Nowhere)) as Box<dyn Density>;
    let output = execute(&Settings { draws: 10, ..Settings::default() }, 2, &density);
    assert!(matches!(output.error, Some(Error::Start { .. })));
}

#[test]
fn dimension_zero_and_no_draws_are_fine() {
    let settings = Settings { seed: 1, tune: 10, draws: 10, ..Settings::default() };
    let density = || Box::new(OnHost::new(Uneven(0))) as Box<dyn Density>;
    let starts = vec![vec![], vec![]];
    let run = Run {
        settings: &settings,
        starts: &starts,
        metrics: &[],
        keep: Keep { warmup: false, ..Keep::default() },
        cores: 2,
        per_block: 1,
        device: &|_| open("cpu", DeviceOptions::default()),
        density: &density,
        on_thread: &|work| work(),
    };
    let output = run.execute(&Control::new(2));
    assert!(output.error.is_none());
    assert_eq!(output.chains[1].draws(), 10);
    let none = Settings { tune: 0, draws: 0, ..Settings::default() };
    let output = Run { settings: &none, ..run }.execute(&Control::new(2));
    assert!(output.error.is_none() && output.chains[0].draws() == 0);
}

#[test]
fn a_paused_run_can_be_looked_at_and_goes_on() {
    let settings = Settings { seed: 8, tune: 300, draws: 300, ..Settings::default() };
    let density = || Box::new(OnHost::new(Uneven(DIM))) as Box<dyn Density>;
    let whole = execute(&settings, 2, &density);
    let (starts, control) = (starts(5), Control::new(5));
    control.pause();
    let made = |control: &Control| control.progress().iter().map(|p| p.finished_draws).sum::<u64>();
    let run = run_of(&settings, &starts, 2, &density);
    let output = std::thread::scope(|scope| {
        let worker = scope.spawn(|| run.execute(&control));
        assert!(control.paused() && made(&control) == 0);
        control.resume();
        while made(&control) < 50 {
            std::thread::yield_now();
        }
        control.pause();
        let traces = control.traces();
        for (part, all) in traces.iter().zip(&whole.chains) {
            assert!(all.flat(|block| &block.positions).starts_with(&part.flat(|block| &block.positions)));
        }
        control.resume();
        worker.join().unwrap()
    });
    assert_eq!(reproducible(&output.chains), reproducible(&whole.chains));
    assert!(control.traces().iter().all(|trace| trace.draws() == 0), "the draws were given away");
}

#[test]
fn a_run_that_was_stopped_while_paused_ends() {
    let settings = Settings { seed: 8, tune: 300, draws: u64::from(u32::MAX) / 1000, ..Settings::default() };
    let density = || Box::new(OnHost::new(Uneven(DIM))) as Box<dyn Density>;
    let (starts, control) = (starts(2), Control::new(2));
    control.pause();
    control.stop();
    control.resume();
    let run = run_of(&settings, &starts, 2, &density);
    assert!(run.execute(&control).chains.iter().all(|trace| trace.draws() == 0));
}

/// Takes at least a millisecond.
struct Slow;

impl HostDensity for Slow {
    fn dim(&self) -> usize {
        DIM
    }

    fn logp_grad(&mut self, x: &[f64], grad: &mut [f64]) -> Result<f64, Failure> {
        std::thread::sleep(Duration::from_millis(1));
        Uneven(DIM).logp_grad(x, grad)
    }
}

#[test]
fn draws_know_how_long_they_took() {
    let settings = Settings { seed: 3, tune: 10, draws: 10, ..Settings::default() };
    let density = || Box::new(OnHost::new(Slow)) as Box<dyn Density>;
    let starts = starts(1);
    let begin = Instant::now();
    let output = run_of(&settings, &starts, 1, &density).execute(&Control::new(1));
    let passed = begin.elapsed().as_secs_f64();
    let column = |name| statistics(Kind::Nuts).find(|(_, s)| s.name == name).unwrap().0;
    let (seconds, steps) = (column(DURATION), column("n_steps"));
    let stats = output.chains[0].flat(|block| &block.stats);
    for draw in stats.chunks(N_STATISTICS) {
        assert!(draw[seconds] >= 1e-3 * draw[steps], "{} s for {} steps", draw[seconds], draw[steps]);
    }
    assert!(stats.chunks(N_STATISTICS).map(|draw| draw[seconds]).sum::<f64>() <= passed);
}
