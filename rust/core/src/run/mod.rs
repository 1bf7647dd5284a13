//! Chains on threads: who runs what, how far it is, and when to stop.

mod crew;
mod pilot;
mod progress;
mod report;

pub use progress::{Progress, Snapshot};
pub use report::ChainReport;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};

use crate::adapt::pool::Pool;
use crate::density::Density;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::kernel::Sampler;
use crate::metric::Metric;
use crate::settings::Settings;
use crate::trace::{ChainTrace, Keep, MemoryStore};
use crew::Crew;

/// Blocks of an ensemble for each thread, so that none has to wait long for others.
const BLOCKS_OF_THREAD: usize = 4;

/// What a run does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Running,
    Paused,
    Stopped,
}

/// Pauses and stops chains.
struct Switch {
    /// Whether the state is another than running; so that a chain takes the lock only then.
    interrupted: AtomicBool,
    state: Mutex<State>,
    changed: Condvar,
}

/// What a run shares with those who watch it.
pub struct Control {
    switch: Arc<Switch>,
    chains: Vec<Arc<Progress>>,
    stores: Vec<OnceLock<Arc<Mutex<MemoryStore>>>>,
}

impl Control {
    /// For a run of `chains` chains.
    pub fn new(chains: usize) -> Self {
        let switch = Switch {
            interrupted: AtomicBool::new(false),
            state: Mutex::new(State::Running),
            changed: Condvar::new(),
        };
        Self::with(Arc::new(switch), (0..chains).map(|_| Arc::default()).collect())
    }

    fn with(switch: Arc<Switch>, chains: Vec<Arc<Progress>>) -> Self {
        let stores = chains.iter().map(|_| OnceLock::new()).collect();
        Control { switch, chains, stores }
    }

    /// For a run before this one, of which those who watch the chains `shown` see that it goes on.
    fn before(&self, shown: impl Iterator<Item = usize>) -> Self {
        Self::with(self.switch.clone(), shown.map(|chain| self.chains[chain].clone()).collect())
    }

    /// Change the state; one that has stopped stays so.
    fn set(&self, new: State) {
        let Switch { interrupted, state, changed } = &*self.switch;
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        if *state != State::Stopped {
            *state = new;
        }
        interrupted.store(*state != State::Running, Ordering::Release);
        changed.notify_all();
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
        *self.switch.state.lock().unwrap_or_else(PoisonError::into_inner) == State::Paused
    }

    /// Whether the run was asked to stop.
    fn stopped(&self) -> bool {
        self.switch.interrupted.load(Ordering::Acquire)
            && *self.switch.state.lock().unwrap_or_else(PoisonError::into_inner) == State::Stopped
    }

    /// Rest while the run is paused. True when it goes on, false when it stops.
    fn go_on(&self) -> bool {
        let Switch { interrupted, state, changed } = &*self.switch;
        if !interrupted.load(Ordering::Acquire) {
            return true;
        }
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        while *state == State::Paused {
            state = changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        *state != State::Stopped
    }

    /// How far each chain is.
    pub fn progress(&self) -> Vec<Snapshot> {
        self.chains.iter().map(|chain| chain.snapshot()).collect()
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

/// A run of many chains in blocks, each on a device of its own and on one thread at a time.
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
    /// Opens the device of a block, by the number of the block.
    pub device: &'a (dyn Fn(usize) -> Result<Box<dyn Device>> + Sync),
    /// Makes the density of a block.
    pub density: &'a (dyn Fn() -> Box<dyn Density> + Sync),
    /// Called on each worker thread; it must call what it is given, once.
    pub on_thread: &'a (dyn Fn(&mut (dyn FnMut() + Send)) + Sync),
}

impl Run<'_> {
    /// Run all chains. Whatever happens, the draws so far are in the output.
    pub fn execute(&self, control: &Control) -> Output {
        if self.is_ensemble() && self.settings.meads.pilot > 0 {
            pilot::execute(self, control)
        } else {
            self.execute_chains(control)
        }
    }

    /// Chains of a block. Those of an ensemble meet after each step, so that a few of them go together.
    fn block_size(&self) -> usize {
        let few = self.starts.len().div_ceil(BLOCKS_OF_THREAD * self.cores.max(1));
        self.per_block.max(if self.is_ensemble() { few } else { 1 })
    }

    /// Whether all chains are an ensemble.
    fn is_ensemble(&self) -> bool {
        self.settings.sampler == Sampler::Meads
    }

    fn execute_chains(&self, control: &Control) -> Output {
        control.chains.iter().for_each(|chain| chain.plan(self.settings.tune));
        let crew = Crew::new(self, control);
        let blocks = self.starts.len().div_ceil(self.block_size());
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
