//! How far a chain is, in numbers that another thread can read at any time without holding the chain up.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use crate::kernel::nuts::Outcome;

/// Progress of one chain, written by its thread.
#[derive(Default)]
pub struct Progress {
    started: AtomicBool,
    tuning: AtomicBool,
    draws: AtomicU64,
    divergences: AtomicU64,
    steps: AtomicU64,
    latest_steps: AtomicU64,
    step_size: AtomicU64,
}

/// Progress of one chain at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// Whether the chain has begun.
    pub started: bool,
    /// Whether the latest draw belongs to the warm-up.
    pub tuning: bool,
    /// Finished draws, warm-up included.
    pub finished_draws: u64,
    /// Divergent draws after warm-up.
    pub divergences: u64,
    /// Leapfrog steps so far.
    pub total_num_steps: u64,
    /// Leapfrog steps of the latest draw.
    pub latest_num_steps: u64,
    /// Step size of the latest draw.
    pub step_size: f64,
}

impl Progress {
    /// The chain begins.
    pub fn begin(&self) {
        self.started.store(true, Relaxed);
        self.tuning.store(true, Relaxed);
    }

    /// The chain finished a draw.
    pub fn draw(&self, outcome: &Outcome, step_size: f64, tuning: bool) {
        self.draws.fetch_add(1, Relaxed);
        self.divergences.fetch_add(u64::from(outcome.diverging && !tuning), Relaxed);
        self.steps.fetch_add(outcome.n_steps, Relaxed);
        self.latest_steps.store(outcome.n_steps, Relaxed);
        self.step_size.store(step_size.to_bits(), Relaxed);
        self.tuning.store(tuning, Relaxed);
    }

    /// The progress now.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            started: self.started.load(Relaxed),
            tuning: self.tuning.load(Relaxed),
            finished_draws: self.draws.load(Relaxed),
            divergences: self.divergences.load(Relaxed),
            total_num_steps: self.steps.load(Relaxed),
            latest_num_steps: self.latest_steps.load(Relaxed),
            step_size: f64::from_bits(self.step_size.load(Relaxed)),
        }
    }
}
