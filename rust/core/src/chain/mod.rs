//! One chain as a state machine: it asks for leapfrog steps and takes in what they found.

mod descend;
mod ensemble;
mod handover;
mod state;
mod statistics;
mod warmup;

pub use ensemble::Before;
pub use state::ChainState;
pub use statistics::{DURATION, N_STATISTICS, statistics};
use statistics::{SECONDS, STEP_SIZE_BAR};

use std::time::Instant;

use crate::adapt::descent::Descent;
use crate::adapt::handover::Handover;
use crate::adapt::member::Member;
use crate::adapt::step_size::{Found, StepSearch};
use crate::adapt::{Adaptation, Reservoir, Verdict};
use crate::device::{Device, Dots, Metrics, Moments, Phase, Place, Refresh};
use crate::error::Result;
use crate::estimator::fisher_diag::FisherDiag;
use crate::integrate::{Arrival, Batch, Request};
use crate::kernel::ghmc::GhmcState;
use crate::kernel::transitions::Tuned;
use crate::kernel::{Begin, Kernel, KernelState, MOST_STATISTICS, Next, Outcome, Sampler};
use crate::rng::{Key, Purpose, Stream};
use crate::settings::Settings;
use crate::stopwatch::Stopwatch;
use crate::trace::{Divergence, Record};
use crate::tree::Slot;

/// What all chains of a block share.
#[derive(Clone, Copy, Debug)]
pub struct Arrays {
    /// Number of parameters.
    pub dim: usize,
    /// Points; each chain has a row for each slot of its kernel.
    pub phase: Phase,
    /// Metrics, a row for each chain.
    pub metrics: Metrics,
    /// Moments, two rows for each chain.
    pub moments: Moments,
}

enum Task {
    /// The chains of the pool must meet before the next draw.
    Waiting,
    /// Far from anything that matters.
    Descent(Descent),
    /// There, with the log density at the position that was tried.
    Tried(Descent, f64),
    /// A fresh momentum is needed.
    Refresh,
    Search(StepSearch),
    Transition,
    Done,
}

/// What a step was to a chain.
#[derive(Clone, Copy, Debug)]
pub enum Absorbed {
    /// One of many.
    Step,
    /// A try on the way out of a bad start: [`Chain::descend`].
    Try,
    /// The last one of a draw, which is there: [`Chain::record`].
    Draw(Place),
}

/// A chain.
pub struct Chain {
    settings: Settings,
    id: u64,
    /// Index within the block.
    index: usize,
    row: usize,
    draw: u64,
    current: Slot,
    logp: f64,
    start_energy: f64,
    step: f64,
    kernel: Kernel,
    /// Which transition of the draw comes next or is under way.
    transition: u64,
    adaptation: Adaptation,
    moments: FisherDiag,
    reservoir: Option<Reservoir>,
    /// Positions and gradients on the host, of the draw and of a recycled point.
    host: [Vec<f64>; 4],
    /// Rows of the points that are to come there.
    wanted: [Option<usize>; 2],
    /// What the adaptation makes of the draw.
    verdict: Verdict,
    task: Task,
    /// Whether the first metric was passed in.
    has_metric: bool,
    metric_changes: u64,
    refused_metrics: u64,
    rank: usize,
    n_gradients: u64,
    warmup_gradients: u64,
    watch: Stopwatch,
}

impl Chain {
    /// Rows of the points that a chain needs.
    pub fn rows(settings: &Settings) -> usize {
        // A search for a step size wants one point beside the current one. The last row is for a recycled point.
        settings.sampler.slots(settings).max(2) + 1
    }

    /// A chain that has no point yet, the `index`-th of its block and one of `pooled` that warm up together.
    pub fn new(settings: &Settings, id: u64, index: usize, pooled: usize, arrays: &Arrays) -> Self {
        let key = Key { seed: settings.seed, chain: id as u32, draw: 0 };
        let stream = Stream::new(key, Purpose::Trajectory);
        let ensemble = settings.sampler == Sampler::Meads;
        let mut adaptation = match ensemble {
            true => Adaptation::ensemble(settings),
            false => Adaptation::new(settings.tune, pooled, arrays.dim, &settings.adapt),
        };
        let first = match ensemble {
            true => {
                KernelState::Ghmc(GhmcState::new(2.0 * Stream::new(key, Purpose::Lengths).uniform() - 1.0))
            }
            false => KernelState::Nuts,
        };
        if let (Some(member), Some(handover)) = (adaptation.member_mut(), Handover::new(settings, arrays.dim))
        {
            member.hand_over(handover);
        }
        Chain {
            settings: settings.clone(),
            id,
            index,
            row: index * Self::rows(settings),
            draw: 0,
            current: 0,
            logp: f64::NAN,
            start_energy: f64::NAN,
            step: f64::NAN,
            kernel: Kernel::new(first, settings, arrays.dim, stream),
            transition: 0,
            adaptation,
            moments: FisherDiag::new(arrays.moments, index),
            reservoir: None,
            host: Default::default(),
            wanted: [None; 2],
            verdict: Verdict::Keep,
            task: Task::Done,
            has_metric: false,
            metric_changes: 0,
            refused_metrics: 0,
            rank: 0,
            n_gradients: 0,
            warmup_gradients: 0,
            watch: Stopwatch::new(Instant::now()),
        }
    }

    /// Index of the chain in the run.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Gradients taken so far, by searches for a step size too.
    pub fn n_gradients(&self) -> u64 {
        self.n_gradients
    }

    /// Gradients of the warm-up so far.
    pub fn warmup_gradients(&self) -> u64 {
        self.warmup_gradients
    }

    /// Step size of the latest draw, jitter included.
    pub fn step_size(&self) -> f64 {
        self.step
    }

    /// What its kernel is tuned to, if it is one that is tuned.
    pub fn tuned(&self) -> Option<Tuned> {
        self.kernel.state().tuned()
    }

    /// Number of warm-up draws, which can grow while it warms up.
    pub fn tune(&self) -> u64 {
        self.adaptation.member().map_or(self.settings.tune, Member::tune)
    }

    /// Whether the draw under way belongs to the warm-up.
    pub fn tuning(&self) -> bool {
        self.draw < self.tune()
    }

    /// How the chain adapts.
    pub fn adaptation_mut(&mut self) -> &mut Adaptation {
        &mut self.adaptation
    }

    /// How the chain adapts.
    pub fn adaptation(&self) -> &Adaptation {
        &self.adaptation
    }

    /// Whether the chain waits for the other chains of its pool.
    pub fn waiting(&self) -> bool {
        matches!(self.task, Task::Waiting)
    }

    /// What the chain shares with its pool.
    pub fn member_mut(&mut self) -> Option<&mut Member> {
        self.adaptation.member_mut()
    }

    /// Go on after the pool has met. Some chains want their momentum: [`Chain::rescaled`].
    pub fn after_meeting(
        &mut self,
        dev: &mut dyn Device,
        arrays: &Arrays,
        before: &mut Before,
    ) -> Result<()> {
        if let Some(metric) = self.member_mut().and_then(Member::take_metric) {
            self.use_metric(&metric, dev, arrays)?;
        }
        self.take_over(arrays);
        self.follow(dev, arrays, before)?;
        // The time that the chain waited is not its own.
        self.watch = Stopwatch::new(Instant::now());
        self.next_task();
        Ok(())
    }

    /// Whether all draws are made.
    pub fn done(&self) -> bool {
        matches!(self.task, Task::Done)
    }

    /// Row of the current point.
    pub fn current_row(&self) -> usize {
        self.row + self.current
    }

    /// What is to come to the host, positions or gradients: from which rows, and where to.
    pub fn wanted(&mut self, gradients: bool) -> impl Iterator<Item = (usize, &mut [f64])> {
        let [x, g, x_other, g_other] = &mut self.host;
        let to = if gradients { [g, g_other] } else { [x, x_other] };
        self.wanted.into_iter().zip(to).filter_map(|(row, to)| Some((row?, &mut to[..])))
    }

    /// Let position and gradient of a row come to the host with the next ones that do; `which` says where to.
    fn want(&mut self, which: usize, row: usize, dim: usize) {
        self.wanted[which] = Some(row);
        self.host[2 * which..2 * which + 2].iter_mut().for_each(|numbers| numbers.resize(dim, 0.0));
    }

    /// What was wanted has come.
    fn served(&mut self) {
        self.wanted = [None; 2];
    }

    fn next_task(&mut self) {
        self.transition = 0;
        let total = self.tune() + self.settings.draws;
        let waits = self.adaptation.is_waiting();
        self.task = match self.draw < total {
            true if waits => Task::Waiting,
            true => Task::Refresh,
            false => Task::Done,
        };
    }

    fn key(&self) -> Key {
        Key { seed: self.settings.seed, chain: self.id as u32, draw: self.draw as u32 }
    }

    /// The fresh momentum that the chain needs now, if it does.
    pub fn refresh(&self) -> Option<Refresh> {
        let searching = self.adaptation.search_from().is_some();
        let purpose = if searching { Purpose::StepSizeSearch } else { self.purposes()[0] };
        matches!(self.task, Task::Refresh).then(|| Refresh {
            metric: self.index,
            row: self.current_row(),
            key: self.key(),
            purpose,
        })
    }

    /// The share of its momentum that the chain keeps, 0 where it needs a fresh one.
    pub fn keeps(&self) -> f64 {
        self.kernel.keeps()
    }

    /// Whether the kernel begins with inner products of momentum and gradient.
    pub fn wants_products(&self) -> bool {
        self.kernel.wants_products()
    }

    /// Whether the kernel begins with the pull of its point.
    pub fn wants_pull(&self) -> bool {
        self.kernel.wants_pull()
    }

    /// The fresh momentum has this kinetic energy, and these inner products where they are wanted.
    pub fn refreshed(&mut self, kinetic: f64, products: Dots) {
        self.start_energy = kinetic - self.logp;
        if let Some(from) = self.adaptation.search_from() {
            self.task = Task::Search(StepSearch::new(from));
            return;
        }
        let tuning = self.tuning();
        let jitter = Stream::new(self.key(), Purpose::StepSize).uniform();
        let adapted = self.adaptation.step_size(tuning, jitter);
        self.step = self.kernel.step_size().unwrap_or(adapted);
        let stream = Stream::new(self.key(), self.purposes()[1]);
        let max_depth = if tuning { self.adaptation.max_depth(self.draw) } else { None };
        let Chain { current: slot, logp, step, transition, .. } = *self;
        self.kernel.begin(Begin { slot, logp, kinetic, transition, step, max_depth, stream }, products);
        let recycles = tuning && self.adaptation.recycles(self.draw);
        self.reservoir = recycles.then(|| Reservoir::new(self.key()));
        self.task = Task::Transition;
    }

    /// A step from the current point that is not part of a trajectory.
    fn single_step(&self, step: f64) -> Request {
        let (from, to) = (self.current_row(), self.row + self.spare_slot());
        Request { metric: self.index, from, to, step, begun: false, onward: None }
    }

    /// A slot that the current point is not in.
    fn spare_slot(&self) -> Slot {
        usize::from(self.current == 0)
    }

    /// Ask for a leapfrog step. False when the chain wants none.
    pub fn request(&mut self, batch: &mut Batch) -> bool {
        match &self.task {
            Task::Search(search) => {
                batch.push(self.single_step(search.signed_step()), std::iter::empty());
                true
            }
            Task::Descent(_) => {
                // The position is already there, so the step only evaluates the density.
                batch.push(Request { begun: true, ..self.single_step(1.0) }, std::iter::empty());
                true
            }
            Task::Transition => {
                self.kernel.request(self.index, self.row, batch);
                true
            }
            Task::Waiting | Task::Refresh | Task::Tried(..) | Task::Done => false,
        }
    }

    /// Take in the step that was asked for. Points that are to be kept go to `kept`: the row of each, and where it goes.
    pub fn absorb(&mut self, arrival: &Arrival<'_>, kept: &mut Vec<[usize; 2]>) -> Absorbed {
        self.n_gradients += 1;
        match &mut self.task {
            Task::Search(search) => {
                let error = arrival.energy() - self.start_energy;
                let accept = if error.is_finite() { (-error).exp().min(1.0) } else { 0.0 };
                if let Found::Step(step) = search.update(accept, self.adaptation.settings()) {
                    self.adaptation.found_step(step);
                    self.task = Task::Refresh;
                }
            }
            Task::Descent(descent) => {
                self.task = Task::Tried(descent.clone(), arrival.logp);
                return Absorbed::Try;
            }
            Task::Transition => {
                let next = self.kernel.absorb(arrival);
                self.recycle(kept);
                match next {
                    Next::Step => {}
                    Next::Refresh => {
                        (self.current, self.logp) = self.kernel.position();
                        (self.task, self.transition) = (Task::Refresh, self.transition + 1);
                    }
                    Next::Draw if self.tuning_round().is_some() => self.finish_round(),
                    Next::Draw => {
                        let outcome = self.kernel.outcome();
                        (self.current, self.logp) = (outcome.slot, outcome.logp);
                        return Absorbed::Draw(Place { metric: self.index, row: self.current_row() });
                    }
                }
            }
            _ => {}
        }
        Absorbed::Step
    }

    /// Metrics that the device could not use.
    pub fn refused_metrics(&self) -> u64 {
        self.refused_metrics
    }

    /// A complete draw, without what [`Chain::finish_draw`] adds. `distance` is its [`Device::fisher_distance`].
    pub fn record(&self, outcome: &Outcome, distance: f64) -> Record {
        let tuning = self.tuning();
        let divergence = outcome.divergence.map(|found| Divergence {
            from: self.row + found.from,
            to: self.row + found.to,
            energy: found.energy,
            energy_error: found.energy_error,
        });
        let mut stats = [0.0; N_STATISTICS];
        let (kernel, own) = stats.split_at_mut(MOST_STATISTICS);
        kernel.copy_from_slice(&outcome.statistics);
        // Of the metric under which the draw was made.
        let changes = (self.metric_changes + self.adaptation.changes_in_place()) as f64;
        let tuning_or_not = f64::from(u8::from(tuning));
        own.copy_from_slice(&[self.step, 0.0, tuning_or_not, distance, changes, self.rank as f64, 0.0]);
        Record {
            chain: self.id,
            index: self.index,
            draw: self.draw,
            draw_of_phase: if tuning { self.draw } else { self.draw - self.tune() },
            tuning,
            kernel: self.kernel.kind(),
            row: self.current_row(),
            metric: self.index,
            divergence,
            stats,
        }
    }

    /// Use what the adaptation has made of the draw, complete its statistics and go on.
    pub fn finish_draw(
        &mut self,
        outcome: &Outcome,
        record: &mut Record,
        dev: &mut dyn Device,
        arrays: &Arrays,
    ) -> Result<()> {
        self.settle(dev, arrays)?;
        record.metric = dev.metric_row(&arrays.metrics, self.index);
        let seconds = self.watch.lap(outcome.n_steps, Instant::now);
        let bar = self.kernel.step_size().unwrap_or_else(|| self.adaptation.step_size_bar());
        [record.stats[STEP_SIZE_BAR], record.stats[SECONDS]] = [bar, seconds];
        self.draw += 1;
        self.next_task();
        Ok(())
    }

    /// The draw that is complete.
    pub fn outcome(&self) -> Outcome {
        self.kernel.outcome()
    }
}
