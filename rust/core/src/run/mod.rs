//! Chains on threads: who runs what, how far it is, and when to stop.

mod crew;
mod progress;
mod report;

pub use progress::{Progress, Snapshot};
pub use report::ChainReport;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};

use crate::adapt::pool::Pool;
use crate::density::Density;
use crate::error::Error;
use crate::metric::Metric;
use crate::settings::Settings;
use crate::trace::{ChainTrace, Keep, MemoryStore};
use crew::Crew;

/// What a run does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Running,
    Paused,
    Stopped,
}

/// What a run shares with those who watch it.
pub struct Control {
    /// Whether the state is another than running; so that a chain takes the lock only then.
    interrupted: AtomicBool,
    state: Mutex<State>,
    changed: Condvar,
    chains: Vec<Progress>,
    stores: Vec<OnceLock<Arc<Mutex<MemoryStore>>>>,
}

impl Control {
    /// For a run of `chains` chains.
    pub fn new(chains: usize) -> Self {
        Control {
            interrupted: AtomicBool::new(false),
            state: Mutex::new(State::Running),
            changed: Condvar::new(),
            chains: (0..chains).map(|_| Progress::default()).collect(),
            stores: (0..chains).map(|_| OnceLock::new()).collect(),
        }
    }

    /// Change the state; one that has stopped stays so.
    fn set(&self, new: State) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if *state != State::Stopped {
            *state = new;
        }
        self.interrupted.store(*state != State::Running, Ordering::Release);
        self.changed.notify_all();
    }

    /// Ask the run to stop after the leapfrog step under way. The draws so far are kept.
    pub fn stop(&self) {
        self.set(State::Stopped);
    }

    /// Ask the run to rest after the leapfrog step under way.
    pub fn pause(&self) {
        self.set(State::Paused);
    }

    /// Let a paused run go on.
    pub fn resume(&self) {
        self.set(State::Running);
    }

    /// Whether the run was asked to rest.
    pub fn paused(&self) -> bool {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) == State::Paused
    }

    /// Whether the run was asked to stop.
    fn stopped(&self) -> bool {
        self.interrupted.load(Ordering::Acquire)
            && *self.state.lock().unwrap_or_else(PoisonError::into_inner) == State::Stopped
    }

    /// Rest while the run is paused. True when it goes on, false when it stops.
    fn go_on(&self) -> bool {
        if !self.interrupted.load(Ordering::Acquire) {
            return true;
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while *state == State::Paused {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        *state != State::Stopped
    }

    /// How far each chain is.
    pub fn progress(&self) -> Vec<Snapshot> {
        self.chains.iter().map(Progress::snapshot).collect()
    }

    /// Copies of the draws so far; empty for chains that have not begun, and when the run is over.
    pub fn traces(&self) -> Vec<ChainTrace> {
        let copy = |store: &Arc<Mutex<MemoryStore>>| {
            store.lock().unwrap_or_else(PoisonError::into_inner).trace().clone()
        };
        self.stores.iter().map(|store| store.get().map(copy).unwrap_or_default()).collect()
    }
}

/// The draws of a run, and the error that ended it, if one did.
#[derive(Default)]
pub struct Output {
    /// The draws of each chain.
    pub chains: Vec<ChainTrace>,
    /// Gradients taken by each chain.
    pub n_gradients: Vec<u64>,
    /// The warm-up of each chain.
    pub reports: Vec<ChainReport>,
    /// What chains shared that warmed up together.
    pub pool: Pool,
    /// The error of the chain that failed first.
    pub error: Option<Error>,
}

/// A run of many chains in blocks, each on the CPU and on one thread at a time.
pub struct Run<'a> {
    /// Settings of all chains.
    pub settings: &'a Settings,
    /// Initial point of each chain.
    pub starts: &'a [Vec<f64>],
    /// First metric of each chain; those of the first gradients where there is none.
    pub metrics: &'a [Option<Arc<Metric>>],
    /// Which draws to keep, and what of them.
    pub keep: Keep,
    /// Number of threads.
    pub cores: usize,
    /// Chains that share a density and advance together, one leapfrog step of each at a time.
    pub per_block: usize,
    /// Makes the density of a block.
    pub density: &'a (dyn Fn() -> Box<dyn Density> + Sync),
    /// Called on each worker thread; it must call what it is given, once.
    pub on_thread: &'a (dyn Fn(&mut (dyn FnMut() + Send)) + Sync),
}

impl Run<'_> {
    /// Run all chains. Whatever happens, the draws so far are in the output.
    pub fn execute(&self, control: &Control) -> Output {
        control.chains.iter().for_each(|chain| chain.plan(self.settings.tune));
        let crew = Crew::new(self, control);
        let blocks = self.starts.len().div_ceil(self.per_block.max(1));
        let threads = self.cores.clamp(1, blocks.max(1));
        let panicked = std::thread::scope(|scope| {
            let crew = &crew;
            let spawn = |thread| scope.spawn(move || (self.on_thread)(&mut || crew.work(thread)));
            let handles: Vec<_> = (0..threads).map(spawn).collect();
            handles.into_iter().fold(false, |any, handle| any | handle.join().is_err())
        });
        let (finished, pool) = crew.finish();
        let mut output = Output { pool, ..Output::default() };
        for chain in finished {
            output.chains.push(chain.trace);
            output.n_gradients.push(chain.n_gradients);
            output.reports.push(chain.report);
            output.error = output.error.or(chain.error);
        }
        if panicked && output.error.is_none() {
            output.error = Some(Error::Internal("a worker thread panicked".into()));
        }
        output
    }
}
