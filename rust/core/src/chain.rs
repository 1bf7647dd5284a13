//! One chain as a state machine: it asks for leapfrog steps and takes in what they found.

use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::adapt::descent::Descent;
use crate::adapt::member::Member;
use crate::adapt::step_size::{Found, StepSearch};
use crate::adapt::{Adaptation, Draw, Reservoir, Seen};
use crate::device::{Device, Metrics, Moments, Phase, Place, Refresh, Row};
use crate::error::{Error, Result};
use crate::estimator::fisher_diag::{FisherDiag, FisherDiagState};
use crate::integrate::{Arrival, Batch, Request};
use crate::kernel::nuts::{Nuts, Outcome};
use crate::metric::Metric;
use crate::rng::{Key, Purpose, Stream};
use crate::settings::Settings;
use crate::stopwatch::Stopwatch;
use crate::trace::{Divergence, Kind, Record, Statistic, Store};
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

/// The statistics that a chain adds to its kernel's.
const CHAIN_STATISTICS: &[Statistic] = &[
    Statistic { name: "step_size", kind: Kind::Float, doc: "Step size of the draw, jitter included." },
    Statistic { name: "step_size_bar", kind: Kind::Float, doc: "Averaged step size of the adaptation." },
    Statistic { name: "tuning", kind: Kind::Bool, doc: "Whether the draw belongs to the warm-up." },
    Statistic {
        name: "fisher_distance",
        kind: Kind::Float,
        doc: "Squared length of y + grad, y the draw and grad the gradient in coordinates in which the estimated posterior is \
              a standard normal distribution. For a normal posterior and a perfect metric it is 0.",
    },
    Statistic {
        name: "transformation_index",
        kind: Kind::Int,
        doc: "How often the inverse mass matrix had changed before the draw.",
    },
    Statistic {
        name: "num_eigenvalues",
        kind: Kind::UInt,
        doc: "Number of eigenvectors of the inverse mass matrix.",
    },
    Statistic {
        name: DURATION,
        kind: Kind::Float,
        doc: "Seconds that the draw took, by the clock on the wall. Draws of microseconds are timed a few at once. It \
              differs between runs with the same seed.",
    },
];

/// Name of the only statistic that is not reproducible.
pub const DURATION: &str = "process_time_diff";

/// All statistics of a draw, in the order of [`Record::stats`].
pub fn statistics() -> impl Iterator<Item = &'static Statistic> {
    Outcome::STATISTICS.iter().chain(CHAIN_STATISTICS)
}

/// Number of statistics of a draw.
pub const N_STATISTICS: usize = Outcome::STATISTICS.len() + CHAIN_STATISTICS.len();

/// Everything that a chain needs to go on, between two draws.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChainState {
    /// Settings of the run.
    pub settings: Settings,
    /// Index of the chain.
    pub chain: u64,
    /// Index of the next draw, warm-up included. Random numbers are addressed by it, so it is the state of the generator.
    pub draw: u64,
    /// Gradients taken so far.
    pub n_gradients: u64,
    /// How often the metric was replaced.
    pub metric_changes: u64,
    /// Position.
    pub x: Vec<f64>,
    /// Gradient of the log density there.
    pub g: Vec<f64>,
    /// Log density there.
    pub logp: f64,
    /// The metric in force.
    pub metric: Metric,
    /// Its diagonal as the device has it: what `metric` says of it may differ in the last bit.
    pub inv_mass: Vec<f64>,
    /// Moments of draws and gradients.
    pub moments: FisherDiagState,
    /// Step size, schedule and what else the warm-up knows.
    pub adaptation: Adaptation,
}

enum Task {
    /// The chains of the pool must meet before the next draw.
    Waiting,
    /// Far from anything that matters.
    Descent(Descent),
    /// A fresh momentum is needed.
    Refresh,
    Search(StepSearch),
    Transition,
    Done,
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
    kernel: Nuts,
    adaptation: Adaptation,
    moments: FisherDiag,
    reservoir: Option<Reservoir>,
    /// Positions and gradients on the host, of the draw and of a recycled point.
    host: [Vec<f64>; 4],
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
        Nuts::slots(&settings.nuts).max(2) + 1
    }

    /// A chain that has no point yet, the `index`-th of its block and one of `pooled` that warm up together.
    pub fn new(settings: &Settings, id: u64, index: usize, pooled: usize, arrays: &Arrays) -> Self {
        let key = Key { seed: settings.seed, chain: id as u32, draw: 0 };
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
            kernel: Nuts::new(&settings.nuts, Stream::new(key, Purpose::Trajectory)),
            adaptation: Adaptation::new(settings.tune, pooled, arrays.dim, &settings.adapt),
            moments: FisherDiag::new(arrays.moments, index),
            reservoir: None,
            host: Default::default(),
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

    /// Number of warm-up draws, which can grow while it warms up.
    pub fn tune(&self) -> u64 {
        self.adaptation.member().map_or(self.settings.tune, Member::tune)
    }

    /// Whether the draw under way belongs to the warm-up.
    pub fn tuning(&self) -> bool {
        self.draw < self.tune()
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

    /// Go on after the pool has met.
    pub fn after_meeting(&mut self, dev: &mut dyn Device, arrays: &Arrays) -> Result<()> {
        if let Some(metric) = self.member_mut().and_then(Member::take_metric) {
            self.use_metric(&metric, dev, arrays);
        }
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

    /// Begin at the current row, where position and gradient are, with a metric or that of the gradient.
    pub fn start(
        &mut self,
        dev: &mut dyn Device,
        arrays: &Arrays,
        logp: f64,
        metric: Option<&Arc<Metric>>,
    ) -> Result<()> {
        self.n_gradients += 1;
        if !logp.is_finite() {
            return Err(Error::Start { chain: self.id });
        }
        self.logp = logp;
        let row = self.current_row();
        if let Some(metric) = metric {
            dev.set_metric(&arrays.metrics, self.index, metric)?;
            self.rank = metric.rank();
            self.has_metric = true;
        } else if self.settings.adapt.scheme.is_pooled() && self.settings.tune > 0 {
            self.read_points(dev, arrays, 0, row)?;
            return self.go_down(Descent::new(&self.host[1]), dev, arrays);
        }
        self.begin(dev, arrays)
    }

    /// Begin to sample at the current row, with the metric in force.
    fn begin(&mut self, dev: &mut dyn Device, arrays: &Arrays) -> Result<()> {
        let row = self.current_row();
        if !self.has_metric {
            dev.metric_from_gradient(&arrays.metrics, self.index, &arrays.phase, row)?;
        }
        let metric = Arc::new(dev.metric(&arrays.metrics, self.index)?);
        self.read_points(dev, arrays, 0, row)?;
        let Chain { adaptation, moments, host: [x, g, ..], .. } = self;
        let draw = Draw { point: Some([x, g]), ..Draw::default() };
        adaptation.start(
            Seen { draw, dev, metrics: &arrays.metrics, phase: &arrays.phase, row, moments },
            metric,
        )?;
        self.watch = Stopwatch::new(Instant::now());
        self.next_task();
        Ok(())
    }

    /// Copy position and gradient of a row to the host.
    fn read_points(&mut self, dev: &dyn Device, arrays: &Arrays, which: usize, row: usize) -> Result<()> {
        let [x, g] = [2 * which, 2 * which + 1];
        for (at, buf) in [(x, arrays.phase.x), (g, arrays.phase.g)] {
            self.host[at].resize(arrays.dim, 0.0);
            dev.read(Row { buf, index: row }, &mut self.host[at])?;
        }
        Ok(())
    }

    fn next_task(&mut self) {
        let total = self.tune() + self.settings.draws;
        let waits = self.adaptation.member().is_some_and(Member::is_waiting);
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
        let purpose = if searching { Purpose::StepSizeSearch } else { Purpose::Momentum };
        matches!(self.task, Task::Refresh).then(|| Refresh {
            metric: self.index,
            row: self.current_row(),
            key: self.key(),
            purpose,
        })
    }

    /// The fresh momentum has this kinetic energy.
    pub fn refreshed(&mut self, kinetic: f64) {
        self.start_energy = kinetic - self.logp;
        if let Some(from) = self.adaptation.search_from() {
            self.task = Task::Search(StepSearch::new(from));
            return;
        }
        let tuning = self.tuning();
        let jitter = Stream::new(self.key(), Purpose::StepSize).uniform();
        self.step = self.adaptation.step_size(tuning, jitter);
        let stream = Stream::new(self.key(), Purpose::Trajectory);
        let max_depth = if tuning { self.adaptation.max_depth(self.draw) } else { None };
        self.kernel.begin(self.current, self.logp, kinetic, self.step, max_depth, stream);
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
            Task::Waiting | Task::Refresh | Task::Done => false,
        }
    }

    /// Take in the step that was asked for; a complete draw goes to the store. True when there was one.
    pub fn absorb(
        &mut self,
        arrival: &Arrival<'_>,
        dev: &mut dyn Device,
        arrays: &Arrays,
        store: &mut dyn Store,
    ) -> Result<Option<Outcome>> {
        self.n_gradients += 1;
        match &mut self.task {
            Task::Search(search) => {
                let error = arrival.energy() - self.start_energy;
                let accept = if error.is_finite() { (-error).exp().min(1.0) } else { 0.0 };
                if let Found::Step(step) = search.update(accept, self.adaptation.settings()) {
                    self.adaptation.found_step(step);
                    self.task = Task::Refresh;
                }
                Ok(None)
            }
            Task::Descent(_) => {
                self.descend(arrival.logp, dev, arrays)?;
                Ok(None)
            }
            Task::Transition => {
                let complete = self.kernel.absorb(arrival);
                self.recycle(dev, arrays)?;
                if complete { self.finish_draw(dev, arrays, store).map(Some) } else { Ok(None) }
            }
            _ => Ok(None),
        }
    }

    /// Leave a bad start: write the next position to try, or begin to sample.
    fn go_down(&mut self, descent: Descent, dev: &mut dyn Device, arrays: &Arrays) -> Result<()> {
        if descent.is_over() {
            return self.begin(dev, arrays);
        }
        self.read_points(dev, arrays, 0, self.current_row())?;
        let [x, g, ..] = &mut self.host;
        descent.shift(x, g);
        dev.write(Row { buf: arrays.phase.x, index: self.row + usize::from(self.current == 0) }, x)?;
        self.task = Task::Descent(descent);
        Ok(())
    }

    /// Take in the log density of the position that was tried.
    fn descend(&mut self, logp: f64, dev: &mut dyn Device, arrays: &Arrays) -> Result<()> {
        let Task::Descent(mut descent) = std::mem::replace(&mut self.task, Task::Done) else { return Ok(()) };
        let tried = self.row + self.spare_slot();
        self.read_points(dev, arrays, 0, tried)?;
        if descent.update(logp - self.logp, &self.host[1]) {
            (self.current, self.logp) = (self.spare_slot(), logp);
        }
        self.go_down(descent, dev, arrays)
    }

    /// Perhaps keep the latest point of the trajectory, whether it becomes the draw or not.
    fn recycle(&mut self, dev: &mut dyn Device, arrays: &Arrays) -> Result<()> {
        let Some(reservoir) = &mut self.reservoir else { return Ok(()) };
        let (slot, index, energy_error) = self.kernel.latest();
        if reservoir.offer(index, energy_error) {
            for buf in [arrays.phase.x, arrays.phase.g] {
                let row = |index| Row { buf, index };
                dev.copy(row(self.row + slot), row(self.row + Self::rows(&self.settings) - 1), arrays.dim)?;
            }
        }
        Ok(())
    }

    /// Tell the adaptation of a warm-up draw.
    fn adapt(&mut self, outcome: &Outcome, dev: &mut dyn Device, arrays: &Arrays) -> Result<()> {
        let row = self.current_row();
        let wants = self.adaptation.wants_point(self.draw);
        let chosen = self.reservoir.take().and_then(|reservoir| reservoir.chosen());
        let recycled = chosen.is_some_and(|index| index != outcome.index);
        if wants {
            self.read_points(dev, arrays, 0, row)?;
        }
        if recycled {
            self.read_points(dev, arrays, 1, self.row + Self::rows(&self.settings) - 1)?;
        }
        let Chain { adaptation, moments, host: [x, g, x_other, g_other], .. } = self;
        let draw = Draw {
            index: self.draw,
            logp: outcome.logp,
            accept: [outcome.accept, outcome.accept_sym],
            n_steps: outcome.n_steps,
            distance: outcome.index.unsigned_abs(),
            diverging: outcome.diverging,
            point: wants.then_some([x, g]),
            recycled: recycled.then_some([x_other, g_other]),
        };
        let seen = Seen { draw, dev, metrics: &arrays.metrics, phase: &arrays.phase, row, moments };
        if let Some(metric) = adaptation.observe(seen)? {
            self.use_metric(&metric, dev, arrays);
        }
        Ok(())
    }

    /// Use another metric from the next draw on; the one in force stays if the device cannot use it.
    fn use_metric(&mut self, metric: &Arc<Metric>, dev: &mut dyn Device, arrays: &Arrays) {
        match dev.set_metric(&arrays.metrics, self.index, metric) {
            Ok(()) => (self.metric_changes, self.rank) = (self.metric_changes + 1, metric.rank()),
            Err(_) => self.refused_metrics += 1,
        }
    }

    /// Metrics that the device could not use.
    pub fn refused_metrics(&self) -> u64 {
        self.refused_metrics
    }

    /// Statistics of the metric under which the draw was made.
    fn metric_statistics(&self, dev: &mut dyn Device, arrays: &Arrays) -> Result<[f64; 3]> {
        let place = Place { metric: self.index, row: self.current_row() };
        let mut distance = [0.0];
        dev.fisher_distance(&arrays.phase, &arrays.metrics, &[place], &mut distance)?;
        let changes = self.metric_changes + self.adaptation.changes_in_place();
        Ok([distance[0], changes as f64, self.rank as f64])
    }

    fn finish_draw(
        &mut self,
        dev: &mut dyn Device,
        arrays: &Arrays,
        store: &mut dyn Store,
    ) -> Result<Outcome> {
        let outcome = self.kernel.outcome();
        self.current = outcome.slot;
        self.logp = outcome.logp;
        let row = self.current_row();
        let tuning = self.tuning();
        let [distance, changes, rank] = self.metric_statistics(dev, arrays)?;
        let draw_of_phase = if tuning { self.draw } else { self.draw - self.tune() };
        if tuning {
            self.warmup_gradients = self.n_gradients;
            self.adapt(&outcome, dev, arrays)?;
        }
        let mut stats = [0.0; N_STATISTICS];
        let (kernel, own) = stats.split_at_mut(Outcome::STATISTICS.len());
        kernel.copy_from_slice(&outcome.values());
        let seconds = self.watch.lap(outcome.n_steps, Instant::now);
        own.copy_from_slice(&[
            self.step,
            self.adaptation.step_size_bar(),
            f64::from(u8::from(tuning)),
            distance,
            changes,
            rank,
            seconds,
        ]);
        let divergence = outcome.divergence.map(|(from, to, energy)| Divergence {
            from: self.row + from,
            to: self.row + to,
            energy,
            energy_error: energy - self.start_energy,
        });
        let record = Record {
            chain: self.id,
            index: self.index,
            draw: self.draw,
            draw_of_phase,
            tuning,
            dev,
            phase: arrays.phase,
            row,
            dim: arrays.dim,
            metrics: arrays.metrics,
            divergence,
            stats: &stats,
        };
        store.append(&record)?;
        self.draw += 1;
        self.next_task();
        Ok(outcome)
    }

    /// The state between two draws; `None` in the middle of one.
    pub fn save(&self, dev: &dyn Device, arrays: &Arrays) -> Result<Option<ChainState>> {
        if !matches!(self.task, Task::Refresh | Task::Waiting | Task::Done) {
            return Ok(None);
        }
        let read = |buf, index| -> Result<Vec<f64>> {
            let mut host = vec![0.0; arrays.dim];
            dev.read(Row { buf, index }, &mut host)?;
            Ok(host)
        };
        Ok(Some(ChainState {
            settings: self.settings.clone(),
            chain: self.id,
            draw: self.draw,
            n_gradients: self.n_gradients,
            metric_changes: self.metric_changes,
            x: read(arrays.phase.x, self.current_row())?,
            g: read(arrays.phase.g, self.current_row())?,
            logp: self.logp,
            metric: dev.metric(&arrays.metrics, self.index)?,
            inv_mass: read(arrays.metrics.inv_mass, self.index)?,
            moments: self.moments.save(dev, arrays.dim)?,
            adaptation: self.adaptation.clone(),
        }))
    }

    /// Go on from a state. More draws than before may be asked for.
    pub fn load(&mut self, dev: &mut dyn Device, arrays: &Arrays, state: &ChainState) -> Result<()> {
        for (what, length) in [("x", state.x.len()), ("g", state.g.len()), ("metric", state.inv_mass.len())] {
            if length != arrays.dim {
                return Err(Error::State(format!(
                    "its {what} has {length} parameters, the density {}",
                    arrays.dim
                )));
            }
        }
        let Arrays { phase, metrics, .. } = arrays;
        dev.set_metric(metrics, self.index, &Arc::new(state.metric.clone()))?;
        let mut write = |buf, index, numbers: &[f64]| dev.write(Row { buf, index }, numbers);
        write(phase.x, self.current_row(), &state.x)?;
        write(phase.g, self.current_row(), &state.g)?;
        if state.metric.rank() == 0 {
            let mass_sqrt: Vec<f64> = state.inv_mass.iter().map(|v| (1.0 / v).sqrt()).collect();
            write(metrics.inv_mass, self.index, &state.inv_mass)?;
            write(metrics.mass_sqrt, self.index, &mass_sqrt)?;
        }
        self.id = state.chain;
        self.draw = state.draw;
        self.n_gradients = state.n_gradients;
        (self.metric_changes, self.rank) = (state.metric_changes, state.metric.rank());
        self.logp = state.logp;
        self.adaptation = state.adaptation.clone();
        self.moments.load(dev, arrays.dim, &state.moments)?;
        self.next_task();
        Ok(())
    }
}
