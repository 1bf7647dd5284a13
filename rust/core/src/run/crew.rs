//! Worker threads and the blocks of chains that they run, which meet where a pooled warm-up wants them to.
//!
//! A block is run by one thread at a time, from one meeting to the next; after the warm-up, to its end. The thread that
//! brings the last block holds the meeting. Draws depend neither on which thread runs what nor on the size of the blocks.

use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::report::ChainReport;
use super::{Control, Progress, Run};
use crate::adapt::Adaptation;
use crate::adapt::pool::Pool;
use crate::block::{Block, Pooling, Start};
use crate::chain::{Chain, N_STATISTICS};
use crate::error::{Error, Result};
use crate::trace::{ChainTrace, MemoryStore};

/// Chains that advance together, and what belongs to them.
pub(super) struct Task {
    chains: Range<usize>,
    running: Option<Running>,
    /// The thread that ran them last, whose cache may still hold them.
    thread: usize,
}

struct Running {
    block: Block,
    stores: Vec<Arc<Mutex<MemoryStore>>>,
}

/// What a chain leaves behind.
#[derive(Default)]
pub(super) struct Finished {
    pub trace: ChainTrace,
    pub n_gradients: u64,
    pub report: ChainReport,
    pub error: Option<Error>,
}

/// Why a thread lets go of a block.
enum Parted {
    /// It waits for the others.
    Waiting(Box<Task>),
    /// Others are to go on, too.
    Turn(Box<Task>),
    /// It is over.
    Over(Range<usize>, Vec<Finished>),
}

/// Why chains rest.
enum Rest {
    Meeting,
    Turn,
    Over,
}

/// Rounds after which others have their turn, in an ensemble: of a run that is stopped all chains have draws.
const TURN: u64 = 64;

struct State {
    ready: Vec<Task>,
    waiting: Vec<Task>,
    /// Blocks that are not over.
    left: usize,
    pool: Pool,
    finished: Vec<Finished>,
}

/// Sends all threads home when one of them panics, since its chains will never come to a meeting.
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
        let size = run.block_size();
        let task = |thread| {
            let first = thread * size;
            Task { chains: first..chains.min(first + size), running: None, thread }
        };
        let ready: Vec<Task> = (0..chains.div_ceil(size)).rev().map(task).collect();
        let finished = (0..chains).map(|_| Finished::default()).collect();
        let left = ready.len();
        let state = State { ready, waiting: Vec::new(), left, pool: Pool::default(), finished };
        Crew { run, control, state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Run blocks until there are none left.
    pub fn work(&self, thread: usize) {
        let _alarm = Alarm(self);
        while let Some(task) = self.next(thread) {
            let parted = self.advance(task, thread);
            let mut state = self.lock();
            match parted {
                Parted::Waiting(task) => state.waiting.push(*task),
                Parted::Turn(task) => state.ready.insert(0, *task),
                Parted::Over(chains, finished) => {
                    if finished.iter().any(|chain| chain.error.is_some()) {
                        self.control.stop();
                    }
                    for (place, chain) in state.finished[chains].iter_mut().zip(finished) {
                        *place = chain;
                    }
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

    /// A block to run; None when there will be none.
    fn next(&self, thread: usize) -> Option<Task> {
        let mut state = self.lock();
        loop {
            if let Some(last) = state.ready.len().checked_sub(1) {
                // Those of an ensemble take turns, whoever ran them last.
                let mine = |task: &Task| task.thread == thread && !self.run.is_ensemble();
                let mine = state.ready.iter().position(mine);
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
        waiting.sort_by_key(|task| task.chains.start);
        if !self.control.stopped() {
            let blocks = waiting.iter_mut().filter_map(|task| task.running.as_mut());
            let chains: Vec<&mut Adaptation> =
                blocks.flat_map(|running| running.block.members().map(|(_, chain)| chain)).collect();
            pool.hold(chains);
        }
        ready.extend(waiting.drain(..).rev());
        self.changed.notify_all();
    }

    /// Run a block until it waits or is over.
    fn advance(&self, mut task: Task, thread: usize) -> Parted {
        task.thread = thread;
        match self.sample(&mut task) {
            Ok(Rest::Meeting) => Parted::Waiting(Box::new(task)),
            Ok(Rest::Turn) => Parted::Turn(Box::new(task)),
            Ok(Rest::Over) => self.over(task, None),
            Err(error) => self.over(task, Some(error)),
        }
    }

    /// What the chains of a block leave behind; an error goes to the first.
    fn over(&self, task: Task, error: Option<Error>) -> Parted {
        let Task { chains, running, .. } = task;
        let mut all: Vec<Finished> = chains.clone().map(|_| Finished::default()).collect();
        self.control.chains[chains.clone()].iter().for_each(|chain| chain.end());
        if let Some(Running { block, stores }) = running {
            for (index, (finished, store)) in all.iter_mut().zip(stores).enumerate() {
                finished.trace = store.lock().unwrap_or_else(PoisonError::into_inner).take();
                finished.n_gradients = block.chains()[index].n_gradients();
                match ChainReport::new(&block, index) {
                    Ok(report) => finished.report = report,
                    Err(error) => finished.error = Some(error),
                }
            }
        }
        if let Some(first) = all.first_mut() {
            first.error = error.or(first.error.take());
        }
        Parted::Over(chains, all)
    }

    /// Run chains until they come to a meeting, have gone on for long enough, or are over.
    fn sample(&self, task: &mut Task) -> Result<Rest> {
        let control = self.control;
        if !control.go_on() {
            return Ok(Rest::Over);
        }
        let progress = &control.chains[task.chains.clone()];
        let Running { block, stores } = match &mut task.running {
            Some(running) => {
                running.block.after_meeting()?;
                plan(progress, &running.block);
                running
            }
            none => {
                let running = self.begin(task.chains.clone())?;
                progress.iter().for_each(|chain| chain.begin());
                none.insert(running)
            }
        };
        let elsewhere = block.pools().is_empty();
        let longest = if self.run.is_ensemble() { TURN } else { u64::MAX };
        let mut rounds = 0;
        while !block.done() {
            if !control.go_on() {
                return Ok(Rest::Over);
            }
            if elsewhere && block.waiting() {
                return Ok(Rest::Meeting);
            }
            if rounds == longest {
                return Ok(Rest::Turn);
            }
            rounds += 1;
            let meets = !elsewhere && block.chains().iter().any(Chain::waiting);
            block.round(stores, |done| {
                progress[done.index].draw(&done.outcome, done.step_size, done.tuning);
                if done.last {
                    progress[done.index].end();
                }
            })?;
            if meets {
                plan(progress, block);
            }
        }
        Ok(Rest::Over)
    }

    fn begin(&self, chains: Range<usize>) -> Result<Running> {
        let Run { settings, starts, metrics, device, density, .. } = *self.run;
        let number = chains.start / self.run.block_size();
        let stores = chains.clone().map(|chain| self.store(chain)).collect::<Result<_>>()?;
        let start = |chain: usize| Start {
            chain: chain as u64,
            x: &starts[chain],
            metric: metrics.get(chain).cloned().flatten(),
        };
        let begun: Vec<Start> = chains.map(start).collect();
        let pooled = self.run.is_ensemble()
            || settings.adapt.scheme.is_pooled() && settings.adapt.pool && starts.len() > 1;
        let pooling = if pooled { Pooling::Among(starts.len()) } else { Pooling::Here };
        let block = Block::start(device(number)?, density(), settings, &begun, pooling)?;
        Ok(Running { block, stores })
    }

    /// The store of a chain, which others can look into from now on.
    fn store(&self, chain: usize) -> Result<Arc<Mutex<MemoryStore>>> {
        let Run { settings, starts, keep, .. } = *self.run;
        let dim = starts[chain].len();
        let store = MemoryStore::new(dim, N_STATISTICS, settings.longest_tune(), settings.draws, keep)?;
        Ok(self.control.stores[chain].get_or_init(|| Arc::new(Mutex::new(store))).clone())
    }
}

/// Tell the watchers how long the warm-ups are to be.
fn plan(progress: &[Arc<Progress>], block: &Block) {
    for (progress, chain) in progress.iter().zip(block.chains()) {
        progress.plan(chain.tune());
    }
}
