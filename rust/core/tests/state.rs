//! Draws do not depend on threads, and the saved state of a chain is all that it needs.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::{Duration, Instant};

use common::{Collected, Uneven, reproducible};
use nutpie_core::block::Block;
use nutpie_core::chain::{ChainState, DURATION, N_STATISTICS, statistics};
use nutpie_core::density::{Density, Failure, HostDensity, OnHost};
use nutpie_core::device::Cpu;
use nutpie_core::error::Error;
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
    Run { settings, starts, keep: Keep::default(), cores, density, on_thread: &|work| work() }
}

fn execute(settings: &Settings, cores: usize, density: &(dyn Fn() -> Box<dyn Density> + Sync)) -> Output {
    run_of(settings, &starts(5), cores, density).execute(&Control::new(5))
}

#[test]
fn draws_do_not_depend_on_the_number_of_threads() {
    let settings = Settings { seed: 8, tune: 100, draws: 80, ..Settings::default() };
    let density = || Box::new(OnHost::new(Uneven(DIM))) as Box<dyn Density>;
    let one = execute(&settings, 1, &density);
    for cores in [2, 3, 16] {
        let many = execute(&settings, cores, &density);
        assert_eq!(reproducible(&one.chains), reproducible(&many.chains));
        assert_eq!(one.n_gradients, many.n_gradients);
    }
    assert_eq!(one.chains[0].draws(), 180);
    assert_ne!(one.chains[0].blocks, one.chains[1].blocks);
}

#[test]
fn a_resumed_chain_goes_on_as_if_it_had_never_stopped() {
    let settings = Settings { seed: 2, tune: 120, draws: 60, ..Settings::default() };
    let start = &starts(1)[0];
    let density = || Box::new(OnHost::new(Uneven(DIM)));
    let mut block = Block::start(Box::new(Cpu::new()), density(), &settings, &[(4, start)]).unwrap();
    let mut whole = Collected::new(1);
    let mut saved: Vec<Vec<u8>> = Vec::new();
    while !block.done() {
        if let Some(state) = block.save(0).unwrap()
            && saved.len() == state.draw as usize
        {
            saved.push(postcard::to_allocvec(&state).unwrap());
        }
        block.round(&mut whole, |_| ()).unwrap();
    }
    // In the early windows, in the main ones, in the final part of the warm-up, and after it.
    for stop in [0, 1, 2, 30, 77, 110, 150] {
        let state: ChainState = postcard::from_bytes(&saved[stop]).unwrap();
        let mut block =
            Block::resume(Box::new(Cpu::new()), density(), std::slice::from_ref(&state), 60).unwrap();
        assert_eq!(block.save(0).unwrap().unwrap(), state);
        let mut rest = common::Collected::new(1);
        rest.draws[0] = whole.draws[0][..stop].to_vec();
        rest.stats[0] = whole.stats[0][..stop].to_vec();
        while !block.done() {
            block.round(&mut rest, |_| ()).unwrap();
        }
        assert!(rest == whole, "resumed after draw {stop}");
    }
}

#[test]
fn a_state_that_does_not_fit_is_refused() {
    let settings = Settings { seed: 2, tune: 5, draws: 5, ..Settings::default() };
    let density = Box::new(OnHost::new(Uneven(DIM)));
    let block = Block::start(Box::new(Cpu::new()), density, &settings, &[(0, &starts(1)[0])]).unwrap();
    let state = block.save(0).unwrap().unwrap();
    let other = Box::new(OnHost::new(Uneven(DIM + 1)));
    let resumed = Block::resume(Box::new(Cpu::new()), other, &[state], 5);
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
    let density = || Box::new(OnHost::new(Breaks(2_000))) as Box<dyn Density>;
    let output = execute(&settings, 1, &density);
    assert!(matches!(&output.error, Some(Error::Density(e)) if e.to_string() == "broken"));
    assert!(output.chains[0].draws() > 50);
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
        keep: Keep { warmup: false, ..Keep::default() },
        cores: 2,
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
    let column = |name| statistics().position(|s| s.name == name).unwrap();
    let (seconds, steps) = (column(DURATION), column("n_steps"));
    let stats = output.chains[0].flat(|block| &block.stats);
    for draw in stats.chunks(N_STATISTICS) {
        assert!(draw[seconds] >= 1e-3 * draw[steps], "{} s for {} steps", draw[seconds], draw[steps]);
    }
    assert!(stats.chunks(N_STATISTICS).map(|draw| draw[seconds]).sum::<f64>() <= passed);
}
