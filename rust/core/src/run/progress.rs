//! How far a chain is, in numbers that another thread can read at any time without holding the chain up.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::kernel::Outcome;

/// Progress of one chain, written by its thread.
#[derive(Default)]
pub struct Progress {
    started: OnceLock<Instant>,
    /// Whether a run before this one is under way, whose draws do not count.
    before: AtomicBool,
    finished: OnceLock<Instant>,
    tuning: AtomicBool,
    tune: AtomicU64,
    draws: AtomicU64,
    // A lock, but taken only where a trajectory diverges.
    divergent: Mutex<Divergent>,
    steps: AtomicU64,
    latest_steps: AtomicU64,
    step_size: AtomicU64,
}

/// Divergent draws so far.
#[derive(Clone, Debug, Default)]
struct Divergent {
    draws: Vec<u64>,
    after_warmup: u64,
}

/// Progress of one chain at a moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// Whether the chain has begun.
    pub started: bool,
    /// Whether the latest draw belongs to the warm-up.
    pub tuning: bool,
    /// Warm-up draws that it is to make, as far as is known.
    pub tune: u64,
    /// Finished draws, warm-up included.
    pub finished_draws: u64,
    /// Number of divergent draws after warm-up.
    pub divergences: u64,
    /// Indices of all divergent draws, warm-up included.
    pub divergent_draws: Vec<u64>,
    /// Leapfrog steps so far.
    pub total_num_steps: u64,
    /// Leapfrog steps of the latest draw.
    pub latest_num_steps: u64,
    /// Step size of the latest draw.
    pub step_size: f64,
    /// Time since the chain began, or that it took.
    pub runtime: Duration,
}

impl Progress {
    /// The chain begins.
    pub fn begin(&self) {
        self.started.get_or_init(Instant::now);
        self.tuning.store(true, Relaxed);
    }

    /// A run before this one begins, or is over.
    pub(super) fn before(&self, under_way: bool) {
        self.before.store(under_way, Relaxed);
    }

    /// The warm-up has so many draws.
    pub fn plan(&self, tune: u64) {
        if !self.before.load(Relaxed) {
            self.tune.store(tune, Relaxed);
        }
    }

    /// The chain is done, or was stopped.
    pub fn end(&self) {
        if !self.before.load(Relaxed) {
            self.finished.get_or_init(Instant::now);
        }
    }

    /// The chain finished a draw.
    pub fn draw(&self, outcome: &Outcome, step_size: f64, tuning: bool) {
        let before = self.before.load(Relaxed);
        let index = if before { 0 } else { self.draws.fetch_add(1, Relaxed) };
        if outcome.diverging() && !before {
            let mut divergent = self.divergent.lock().unwrap_or_else(PoisonError::into_inner);
            divergent.draws.push(index);
            divergent.after_warmup += u64::from(!tuning);
        }
        self.steps.fetch_add(outcome.n_steps, Relaxed);
        self.latest_steps.store(outcome.n_steps, Relaxed);
        self.step_size.store(step_size.to_bits(), Relaxed);
        self.tuning.store(tuning || before, Relaxed);
    }

    /// The progress now.
    pub fn snapshot(&self) -> Snapshot {
        let Divergent { draws, after_warmup } =
            self.divergent.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let until = || self.finished.get().copied().unwrap_or_else(Instant::now);
        Snapshot {
            started: self.started.get().is_some(),
            tuning: self.tuning.load(Relaxed),
            tune: self.tune.load(Relaxed),
            finished_draws: self.draws.load(Relaxed),
            divergences: after_warmup,
            divergent_draws: draws,
            total_num_steps: self.steps.load(Relaxed),
            latest_num_steps: self.latest_steps.load(Relaxed),
            step_size: f64::from_bits(self.step_size.load(Relaxed)),
            runtime: self.started.get().map_or(Duration::ZERO, |started| until() - *started),
        }
    }
}
