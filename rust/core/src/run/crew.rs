//! Worker threads and the chains that they run, which meet where a pooled warm-up wants them to.
//!
//! A chain is run by one thread at a time, from one meeting to the next; after the warm-up, to its end. The thread that
//! brings the last chain holds the meeting. Draws do not depend on which thread runs what.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::report::ChainReport;
use super::{Control, Run};
use crate::adapt::Adaptation;
use crate::adapt::pool::Pool;
use crate::block::{Block, Pooling, Start};
use crate::chain::N_STATISTICS;
use crate::device::Cpu;
use crate::error::{Error, Result};
use crate::kernel::Sampler;
use crate::trace::{ChainTrace, MemoryStore};

/// A chain, and what belongs to it.
pub(super) struct Task {
    chain: usize,
    running: Option<Running>,
    /// The thread that ran it last, whose cache may still hold it.
    thread: usize,
}

struct Running {
    block: Block,
    store: Arc<Mutex<MemoryStore>>,
}

/// What a chain leaves behind.
#[derive(Default)]
pub(super) struct Finished {
    pub trace: ChainTrace,
    pub n_gradients: u64,
    pub report: ChainReport,
    pub error: Option<Error>,
}

/// Why a thread lets go of a chain.
enum Parted {
    /// It waits for the others.
    Waiting(Box<Task>),
    /// It is over.
    Over(usize, Box<Finished>),
}

struct State {
    ready: Vec<Task>,
    waiting: Vec<Task>,
    /// Chains that are not over.
    left: usize,
    pool: Pool,
    finished: Vec<Finished>,
}

/// Sends all threads home when one of them panics, since its chain will never come to a meeting.
struct Alarm<'a>(&'a Crew<'a>);

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.control.stop();
            self.0.lock().left = 0;
            self.0.changed.notify_all();
        }
    }
}

/// The chains of a run, for threads to take from.
pub(super) struct Crew<'a> {
    run: &'a Run<'a>,
    control: &'a Control,
    state: Mutex<State>,
    changed: Condvar,
}

impl<'a> Crew<'a> {
    pub fn new(run: &'a Run<'a>, control: &'a Control) -> Self {
        let chains = run.starts.len();
        let ready = (0..chains).rev().map(|chain| Task { chain, running: None, thread: chain }).collect();
        let finished = (0..chains).map(|_| Finished::default()).collect();
        let state = State { ready, waiting: Vec::new(), left: chains, pool: Pool::default(), finished };
        Crew { run, control, state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Run chains until there are none left.
    pub fn work(&self, thread: usize) {
        let _alarm = Alarm(self);
        while let Some(task) = self.next(thread) {
            let parted = self.advance(task, thread);
            let mut state = self.lock();
            match parted {
                Parted::Waiting(task) => state.waiting.push(*task),
                Parted::Over(chain, finished) => {
                    if finished.error.is_some() {
                        self.control.stop();
                    }
                    state.finished[chain] = *finished;
                    state.left = state.left.saturating_sub(1);
                }
            }
            // Chains end during the warm-up only where the run ends; the others are to notice that.
            if state.waiting.len() == state.left || self.control.stopped() {
                self.meet(&mut state);
            }
        }
    }

    /// What the chains left behind, and what they shared.
    pub fn finish(self) -> (Vec<Finished>, Pool) {
        let state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        (state.finished, state.pool)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A chain to run; None when there will be none.
    fn next(&self, thread: usize) -> Option<Task> {
        let mut state = self.lock();
        loop {
            if let Some(last) = state.ready.len().checked_sub(1) {
                let mine = state.ready.iter().position(|task| task.thread == thread);
                return Some(state.ready.swap_remove(mine.unwrap_or(last)));
            }
            if state.left == 0 {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Let the waiting chains meet and go on.
    fn meet(&self, state: &mut State) {
        let State { ready, waiting, pool, .. } = state;
        waiting.sort_by_key(|task| task.chain);
        if !self.control.stopped() {
            let blocks = waiting.iter_mut().filter_map(|task| task.running.as_mut());
            let chains: Vec<&mut Adaptation> =
                blocks.flat_map(|running| running.block.members().map(|(_, chain)| chain)).collect();
            pool.hold(chains);
        }
        ready.extend(waiting.drain(..).rev());
        self.changed.notify_all();
    }

    /// Run a chain until it waits or is over.
    fn advance(&self, mut task: Task, thread: usize) -> Parted {
        task.thread = thread;
        match self.sample(&mut task) {
            Ok(true) => Parted::Waiting(Box::new(task)),
            Ok(false) => self.over(task, None),
            Err(error) => self.over(task, Some(error)),
        }
    }

    fn over(&self, task: Task, error: Option<Error>) -> Parted {
        self.control.chains[task.chain].end();
        let mut finished = Finished { error, ..Finished::default() };
        if let Some(Running { block, store }) = task.running {
            finished.trace = store.lock().unwrap_or_else(PoisonError::into_inner).take();
            finished.n_gradients = block.chains().iter().map(|chain| chain.n_gradients()).sum();
            match ChainReport::new(&block) {
                Ok(report) => finished.report = report,
                Err(error) => finished.error = finished.error.or(Some(error)),
            }
        }
        Parted::Over(task.chain, Box::new(finished))
    }

    /// True if the chain has come to a meeting.
    fn sample(&self, task: &mut Task) -> Result<bool> {
        let control = self.control;
        if !control.go_on() {
            return Ok(false);
        }
        let progress = &control.chains[task.chain];
        let Running { block, store } = match &mut task.running {
            Some(running) => {
                running.block.after_meeting()?;
                progress.plan(running.block.tune());
                running
            }
            none => {
                let running = self.begin(task.chain)?;
                progress.begin();
                none.insert(running)
            }
        };
        while !block.done() {
            if !control.go_on() {
                return Ok(false);
            }
            if block.waiting() && block.pools().is_empty() {
                return Ok(true);
            }
            let waited = block.waiting();
            block.round(store, |done| progress.draw(&done.outcome, done.step_size, done.tuning))?;
            if waited {
                progress.plan(block.tune());
            }
        }
        Ok(false)
    }

    fn begin(&self, chain: usize) -> Result<Running> {
        let Run { settings, starts, metrics, keep, density, .. } = *self.run;
        let dim = starts[chain].len();
        let store = MemoryStore::new(dim, N_STATISTICS, settings.longest_tune(), settings.draws, keep)?;
        let store = self.control.stores[chain].get_or_init(|| Arc::new(Mutex::new(store)));
        let metric = metrics.get(chain).cloned().flatten();
        let start = Start { chain: chain as u64, x: &starts[chain], metric };
        let ensemble = settings.sampler == Sampler::Meads;
        let pooled = ensemble || settings.adapt.scheme.is_pooled() && settings.adapt.pool && starts.len() > 1;
        let pooling = if pooled { Pooling::Among(starts.len()) } else { Pooling::Here };
        let block = Block::start(Box::new(Cpu::new()), density(), settings, &[start], pooling)?;
        Ok(Running { block, store: store.clone() })
    }
}
