//! Runs whose chains advance together, several to a block: the same draws, and one call of the density for all of them.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::{Arc, Mutex};

use common::{Collected, Uneven, reproducible};
use nutpie_core::adapt::{AdaptSettings, Scheme};
use nutpie_core::block::{Block, Finished, Pooling, Start};
use nutpie_core::density::{Density, OnHost};
use nutpie_core::device::{Cpu, Device, DeviceOptions, Phase, open};
use nutpie_core::error::{Error, Result};
use nutpie_core::kernel::Sampler;
use nutpie_core::run::{Control, Output, Run};
use nutpie_core::settings::Settings;
use nutpie_core::trace::Keep;

const DIM: usize = 5;

/// Notes how many points each call has, and fails for good after a number of calls.
struct Batched {
    points: OnHost<Uneven>,
    heights: Arc<Mutex<Vec<usize>>>,
    fails_after: usize,
}

impl Density for Batched {
    fn dim(&self) -> usize {
        DIM
    }

    fn logp_grad(
        &mut self,
        dev: &mut dyn Device,
        phase: &Phase,
        rows: &[usize],
        logp: &mut [f64],
    ) -> Result<()> {
        let mut heights = self.heights.lock().unwrap();
        if heights.len() == self.fails_after {
            return Err(Error::Density("broken".into()));
        }
        heights.push(rows.len());
        self.points.logp_grad(dev, phase, rows, logp)
    }
}

/// Threads, and chains in a block.
type Grouping = (usize, usize);

/// The output, and the number of points of each call of the density.
fn execute(
    settings: &Settings,
    chains: usize,
    (cores, per_block): Grouping,
    fails_after: usize,
) -> (Output, Vec<usize>) {
    let starts: Vec<Vec<f64>> =
        (0..chains).map(|c| (0..DIM).map(|i| 1.0 + c as f64 - i as f64 * 0.3).collect()).collect();
    let heights = Arc::new(Mutex::new(Vec::new()));
    let density = || {
        let points = OnHost::new(Uneven(DIM));
        Box::new(Batched { points, heights: heights.clone(), fails_after }) as Box<dyn Density>
    };
    let run = Run {
        settings,
        starts: &starts,
        metrics: &[],
        keep: Keep::default(),
        cores,
        per_block,
        device: &|_| open("cpu", DeviceOptions::default()),
        density: &density,
        on_thread: &|work| work(),
    };
    let output = run.execute(&Control::new(chains));
    let heights = heights.lock().unwrap().clone();
    (output, heights)
}

fn settings_of(scheme: Scheme, sampler: Sampler, pool: bool) -> Settings {
    let adapt = AdaptSettings { pool, ..AdaptSettings::new(scheme) };
    Settings { seed: 4, tune: 90, draws: 40, sampler, adapt, ..Settings::default() }
}

#[test]
fn draws_do_not_depend_on_the_size_of_the_blocks() {
    let schemes = Scheme::ALL.iter().map(|info| (info.scheme, Sampler::Nuts, true));
    let others = [
        (Scheme::Auto, Sampler::Nuts, false),
        (Scheme::Auto, Sampler::Mams, true),
        (Scheme::Auto, Sampler::Mams, false),
    ];
    for (scheme, sampler, pool) in schemes.chain(others) {
        let settings = settings_of(scheme, sampler, pool);
        let (one, _) = execute(&settings, 5, (2, 1), usize::MAX);
        for grouping in [(1, 5), (2, 3), (1, 2), (8, 9)] {
            let (many, _) = execute(&settings, 5, grouping, usize::MAX);
            let what = format!("{scheme:?}, {sampler:?}, pool {pool}, {grouping:?}");
            assert_eq!(reproducible(&one.chains), reproducible(&many.chains), "{what}");
            assert_eq!((&one.n_gradients, &one.pool), (&many.n_gradients, &many.pool), "{what}");
            for (a, b) in one.reports.iter().zip(&many.reports) {
                assert_eq!((&a.metric, &a.checks, a.fits), (&b.metric, &b.checks, b.fits), "{what}");
                assert_eq!((a.tune, a.gradients, a.tuned), (b.tune, b.gradients, b.tuned), "{what}");
            }
        }
    }
}

#[test]
fn one_call_serves_all_chains_that_run() {
    let settings = settings_of(Scheme::Diag, Sampler::Nuts, true);
    let (output, heights) = execute(&settings, 6, (3, 6), usize::MAX);
    let gradients: u64 = output.n_gradients.iter().sum();
    assert_eq!(heights.iter().sum::<usize>() as u64, gradients);
    // Chains do not wait for each other's trajectories: no call has fewer points than chains that are not done.
    assert!(heights.is_sorted_by(|a, b| a >= b) && heights[0] == 6, "{heights:?}");
    assert_eq!(heights.len() as u64, *output.n_gradients.iter().max().unwrap());
}

#[test]
fn an_error_in_a_call_ends_the_run_and_keeps_the_draws_of_all_chains() {
    let settings = settings_of(Scheme::Auto, Sampler::Nuts, true);
    for grouping in [(1, 4), (2, 2)] {
        let (output, _) = execute(&settings, 4, grouping, 600);
        assert!(matches!(&output.error, Some(Error::Density(e)) if e.to_string() == "broken"));
        assert!(output.chains.iter().all(|chain| chain.draws() > 5), "{grouping:?}");
    }
}

#[test]
fn the_last_draw_of_each_chain_is_known_when_it_is_made() {
    let settings = settings_of(Scheme::Diag, Sampler::Nuts, true);
    let points: Vec<Vec<f64>> = (0..3).map(|chain| vec![chain as f64; DIM]).collect();
    let starts: Vec<Start> = points.iter().zip(0..).map(|(x, id)| Start::at(id, x)).collect();
    let density = Box::new(OnHost::new(Uneven(DIM)));
    let mut block = Block::start(Box::new(Cpu::new()), density, &settings, &starts, Pooling::Here).unwrap();
    let mut store = Collected::new(3);
    let (mut draws, mut last) = ([0; 3], Vec::new());
    while !block.done() {
        let found = |done: Finished| {
            draws[done.index] += 1;
            assert_eq!(done.last, draws[done.index] == 130);
            last.extend(done.last.then_some(done.index));
        };
        block.round(&mut store, found).unwrap();
    }
    // A round is a step of each chain, so that the one with the fewest gradients is done first.
    let gradients = |index: &usize| block.chains()[*index].n_gradients();
    assert!(last.len() == 3 && last.is_sorted_by_key(gradients), "{last:?}");
}
