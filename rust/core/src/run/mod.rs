//! Chains on threads: who runs what, how far it is, and when to stop.

mod progress;

pub use progress::{Progress, Snapshot};

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};

use crate::block::Block;
use crate::chain::N_STATISTICS;
use crate::density::Density;
use crate::device::Cpu;
use crate::error::{Error, Result};
use crate::settings::Settings;
use crate::trace::{ChainTrace, Keep, MemoryStore, Store};

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
pub struct Output {
    /// The draws of each chain.
    pub chains: Vec<ChainTrace>,
    /// Gradients taken by each chain.
    pub n_gradients: Vec<u64>,
    /// The error of the chain that failed first.
    pub error: Option<Error>,
}

/// A run of many chains, each on the CPU and on one thread at a time.
pub struct Run<'a> {
    /// Settings of all chains.
    pub settings: &'a Settings,
    /// Initial point of each chain.
    pub starts: &'a [Vec<f64>],
    /// Which draws to keep, and what of them.
    pub keep: Keep,
    /// Number of threads.
    pub cores: usize,
    /// Makes the density of a chain.
    pub density: &'a (dyn Fn() -> Box<dyn Density> + Sync),
    /// Called on each worker thread; it must call what it is given, once.
    pub on_thread: &'a (dyn Fn(&mut (dyn FnMut() + Send)) + Sync),
}

/// What a chain leaves behind.
#[derive(Default)]
struct Finished {
    trace: ChainTrace,
    n_gradients: u64,
    error: Option<Error>,
}

impl Run<'_> {
    /// Run all chains. Whatever happens, the draws so far are in the output.
    pub fn execute(&self, control: &Control) -> Output {
        let next = AtomicUsize::new(0);
        let results: Vec<Mutex<Finished>> = self.starts.iter().map(|_| Mutex::default()).collect();
        let worker = || loop {
            let chain = next.fetch_add(1, Ordering::Relaxed);
            let Some(result) = results.get(chain) else { break };
            let finished = self.chain(chain, control);
            if finished.error.is_some() {
                control.stop();
            }
            *result.lock().unwrap_or_else(PoisonError::into_inner) = finished;
        };
        let threads = self.cores.clamp(1, self.starts.len().max(1));
        let panicked = std::thread::scope(|scope| {
            let spawn = || scope.spawn(|| (self.on_thread)(&mut || worker()));
            let handles: Vec<_> = (0..threads).map(|_| spawn()).collect();
            handles.into_iter().fold(false, |any, handle| any | handle.join().is_err())
        });
        let mut output = Output { chains: Vec::new(), n_gradients: Vec::new(), error: None };
        for result in results {
            let finished = result.into_inner().unwrap_or_else(PoisonError::into_inner);
            output.chains.push(finished.trace);
            output.n_gradients.push(finished.n_gradients);
            output.error = output.error.or(finished.error);
        }
        if panicked && output.error.is_none() {
            output.error = Some(Error::Internal("a worker thread panicked".into()));
        }
        output
    }

    fn chain(&self, chain: usize, control: &Control) -> Finished {
        let Settings { tune, draws, .. } = *self.settings;
        let dim = self.starts[chain].len();
        let mut finished = Finished::default();
        if !control.go_on() {
            return finished;
        }
        match MemoryStore::new(dim, N_STATISTICS, tune, draws, self.keep) {
            Ok(store) => {
                let store = control.stores[chain].get_or_init(|| Arc::new(Mutex::new(store)));
                finished.error =
                    self.sample(chain, control, &mut store.clone(), &mut finished.n_gradients).err();
                finished.trace = store.lock().unwrap_or_else(PoisonError::into_inner).take();
            }
            Err(error) => finished.error = Some(error),
        }
        finished
    }

    fn sample(
        &self,
        chain: usize,
        control: &Control,
        store: &mut dyn Store,
        n_gradients: &mut u64,
    ) -> Result<()> {
        let start = (chain as u64, &self.starts[chain][..]);
        let progress = &control.chains[chain];
        let mut block = Block::start(Box::new(Cpu::new()), (self.density)(), self.settings, &[start])?;
        progress.begin();
        let mut result = Ok(());
        while result.is_ok() && !block.done() && control.go_on() {
            result = block.round(store, |done| progress.draw(&done.outcome, done.step_size, done.tuning));
        }
        *n_gradients = block.chains()[0].n_gradients();
        progress.end();
        result
    }
}
