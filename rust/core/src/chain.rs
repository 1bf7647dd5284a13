//! One chain as a state machine: it asks for leapfrog steps and takes in what they found.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::adapt::DiagAdaptation;
use crate::adapt::step_size::{Found, StepSearch};
use crate::device::{Device, Metrics, Moments, Phase, Refresh, Row};
use crate::error::{Error, Result};
use crate::estimator::fisher_diag::{FisherDiag, FisherDiagState};
use crate::integrate::{Arrival, Batch, Request};
use crate::kernel::nuts::{Nuts, Outcome};
use crate::metric::Metric;
use crate::rng::{Key, Purpose, Stream};
use crate::settings::Settings;
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
];

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
    /// Position.
    pub x: Vec<f64>,
    /// Gradient of the log density there.
    pub g: Vec<f64>,
    /// Log density there.
    pub logp: f64,
    /// The metric.
    pub metric: Metric,
    /// Its diagonal as the device has it: what `metric` says of it may differ in the last bit.
    pub inv_mass: Vec<f64>,
    /// The estimator of the metric.
    pub estimator: FisherDiagState,
    /// Step size and schedule.
    pub adaptation: DiagAdaptation,
}

enum Task {
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
    adaptation: DiagAdaptation,
    estimator: FisherDiag,
    task: Task,
    n_gradients: u64,
}

impl Chain {
    /// Rows of the points that a chain needs.
    pub fn rows(settings: &Settings) -> usize {
        // A search for a step size wants one point beside the current one.
        Nuts::slots(&settings.nuts).max(2)
    }

    /// A chain that has no point yet, the `index`-th of its block.
    pub fn new(settings: &Settings, id: u64, index: usize, arrays: &Arrays) -> Self {
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
            adaptation: DiagAdaptation::new(settings.tune, &settings.adapt),
            estimator: FisherDiag::new(arrays.moments, index),
            task: Task::Done,
            n_gradients: 0,
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

    /// Step size of the latest draw, jitter included.
    pub fn step_size(&self) -> f64 {
        self.step
    }

    /// Whether the draw under way belongs to the warm-up.
    pub fn tuning(&self) -> bool {
        self.draw < self.settings.tune
    }

    /// Whether all draws are made.
    pub fn done(&self) -> bool {
        matches!(self.task, Task::Done)
    }

    /// Row of the current point.
    pub fn current_row(&self) -> usize {
        self.row + self.current
    }

    /// Begin at the current row, where position and gradient are; the first metric comes from that gradient.
    pub fn start(&mut self, dev: &mut dyn Device, arrays: &Arrays, logp: f64) -> Result<()> {
        self.n_gradients += 1;
        if !logp.is_finite() {
            return Err(Error::Start { chain: self.id });
        }
        self.logp = logp;
        let row = self.current_row();
        dev.metric_from_gradient(&arrays.metrics, self.index, &arrays.phase, row)?;
        self.estimator.add(dev, &arrays.phase, row)?;
        self.next_task();
        Ok(())
    }

    fn next_task(&mut self) {
        let total = self.settings.tune + self.settings.draws;
        self.task = if self.draw < total { Task::Refresh } else { Task::Done };
    }

    fn key(&self) -> Key {
        Key { seed: self.settings.seed, chain: self.id as u32, draw: self.draw as u32 }
    }

    /// The fresh momentum that the chain needs now, if it does.
    pub fn refresh(&self) -> Option<Refresh> {
        let purpose =
            if self.adaptation.search_pending { Purpose::StepSizeSearch } else { Purpose::Momentum };
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
        if self.adaptation.search_pending {
            self.task = Task::Search(StepSearch::new(self.adaptation.settings().initial_step));
            return;
        }
        let jitter = Stream::new(self.key(), Purpose::StepSize).uniform();
        self.step = self.adaptation.step_size(self.draw, jitter);
        let stream = Stream::new(self.key(), Purpose::Trajectory);
        self.kernel.begin(self.current, self.logp, kinetic, self.step, stream);
        self.task = Task::Transition;
    }

    /// Ask for a leapfrog step. False when the chain wants none.
    pub fn request(&mut self, batch: &mut Batch) -> bool {
        match &self.task {
            Task::Search(search) => {
                let to = self.row + usize::from(self.current == 0);
                let (from, step) = (self.current_row(), search.signed_step());
                let request = Request { metric: self.index, from, to, step, begun: false, onward: None };
                batch.push(request, std::iter::empty());
                true
            }
            Task::Transition => {
                self.kernel.request(self.index, self.row, batch);
                true
            }
            Task::Refresh | Task::Done => false,
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
            Task::Transition if self.kernel.absorb(arrival) => self.finish_draw(dev, arrays, store).map(Some),
            _ => Ok(None),
        }
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
        if tuning {
            let Arrays { phase, metrics, .. } = arrays;
            self.adaptation.observe(self.draw, &outcome, &mut self.estimator, dev, metrics, phase, row)?;
        }
        let mut stats = [0.0; N_STATISTICS];
        let (kernel, own) = stats.split_at_mut(Outcome::STATISTICS.len());
        kernel.copy_from_slice(&outcome.values());
        own.copy_from_slice(&[self.step, self.adaptation.step_size_bar(), f64::from(u8::from(tuning))]);
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
            draw_of_phase: if tuning { self.draw } else { self.draw - self.settings.tune },
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
        if !matches!(self.task, Task::Refresh | Task::Done) {
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
            x: read(arrays.phase.x, self.current_row())?,
            g: read(arrays.phase.g, self.current_row())?,
            logp: self.logp,
            metric: dev.metric(&arrays.metrics, self.index)?,
            inv_mass: read(arrays.metrics.inv_mass, self.index)?,
            estimator: self.estimator.save(dev, arrays.dim)?,
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
        self.logp = state.logp;
        self.adaptation = state.adaptation.clone();
        self.estimator.load(dev, arrays.dim, &state.estimator)?;
        self.next_task();
        Ok(())
    }
}
