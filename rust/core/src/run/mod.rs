//! Chains on threads: who runs what, how far it is, and when to stop.

mod progress;

pub use progress::{Progress, Snapshot};

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::block::Block;
use crate::chain::N_STATISTICS;
use crate::density::Density;
use crate::device::Cpu;
use crate::error::{Error, Result};
use crate::settings::Settings;
use crate::trace::{ChainTrace, MemoryStore, Store};

/// What a run shares with those who watch it.
pub struct Control {
    stop: AtomicBool,
    chains: Vec<Progress>,
}

impl Control {
    /// For a run of `chains` chains.
    pub fn new(chains: usize) -> Self {
        Control { stop: AtomicBool::new(false), chains: (0..chains).map(|_| Progress::default()).collect() }
    }

    /// Ask the run to stop after the leapfrog step under way. The draws so far are kept.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Whether the run was asked to stop.
    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// How far each chain is.
    pub fn progress(&self) -> Vec<Snapshot> {
        self.chains.iter().map(Progress::snapshot).collect()
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
    /// Whether to keep the draws of the warm-up.
    pub keep_warmup: bool,
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
        if control.stopped() {
            return finished;
        }
        match MemoryStore::new(dim, N_STATISTICS, tune, draws, self.keep_warmup) {
            Ok(mut store) => {
                finished.error = self.sample(chain, control, &mut store, &mut finished.n_gradients).err();
                finished.trace = store.finish();
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
        while result.is_ok() && !block.done() && !control.stopped() {
            result = block.round(store, |done| progress.draw(&done.outcome, done.step_size, done.tuning));
        }
        *n_gradients = block.chains()[0].n_gradients();
        progress.end();
        result
    }
}
