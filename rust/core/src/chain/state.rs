//! What a chain needs to go on, saved and loaded between two draws.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Arrays, Chain, Task};
use crate::adapt::Adaptation;
use crate::device::{Device, Row};
use crate::error::{Error, Result};
use crate::estimator::fisher_diag::FisherDiagState;
use crate::kernel::{Kernel, KernelState};
use crate::metric::Metric;
use crate::rng::{Purpose, Stream};
use crate::settings::Settings;

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
    /// Momentum there, where the kernel keeps it; otherwise empty.
    pub p: Vec<f64>,
    /// Log density there.
    pub logp: f64,
    /// What the kernel remembers.
    pub kernel: KernelState,
    /// The metric in force.
    pub metric: Metric,
    /// Its diagonal as the device has it: what `metric` says of it may differ in the last bit.
    pub inv_mass: Vec<f64>,
    /// Moments of draws and gradients.
    pub moments: FisherDiagState,
    /// Step size, schedule and what else the warm-up knows.
    pub adaptation: Adaptation,
}

impl Chain {
    /// The state between two draws; `None` in the middle of one.
    pub fn save(&self, dev: &dyn Device, arrays: &Arrays) -> Result<Option<ChainState>> {
        let between = matches!(self.task, Task::Refresh | Task::Waiting | Task::Done);
        if !between || self.transition > 0 {
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
            p: if self.keeps() == 0.0 { Vec::new() } else { read(arrays.phase.p, self.current_row())? },
            logp: self.logp,
            kernel: self.kernel.state(),
            metric: dev.metric(&arrays.metrics, self.index)?,
            inv_mass: read(arrays.metrics.inv_mass, dev.metric_row(&arrays.metrics, self.index))?,
            moments: self.moments.save(dev, arrays.dim)?,
            adaptation: self.adaptation.clone(),
        }))
    }

    /// Go on from a state, with its metric, which may be that of other chains too. More draws than before may be asked for.
    pub fn load(
        &mut self,
        dev: &mut dyn Device,
        arrays: &Arrays,
        state: &ChainState,
        metric: &Arc<Metric>,
    ) -> Result<()> {
        for (what, length) in [("x", state.x.len()), ("g", state.g.len()), ("metric", state.inv_mass.len())] {
            if length != arrays.dim {
                return Err(Error::State(format!(
                    "its {what} has {length} parameters, the density {}",
                    arrays.dim
                )));
            }
        }
        let Arrays { phase, metrics, .. } = arrays;
        dev.set_metric(metrics, self.index, metric)?;
        let held = dev.metric_row(metrics, self.index);
        let mut write = |buf, index, numbers: &[f64]| dev.write(Row { buf, index }, numbers);
        write(phase.x, self.current_row(), &state.x)?;
        write(phase.g, self.current_row(), &state.g)?;
        if state.p.len() == arrays.dim {
            write(phase.p, self.current_row(), &state.p)?;
        }
        if state.metric.rank() == 0 {
            let mass_sqrt: Vec<f64> = state.inv_mass.iter().map(|v| (1.0 / v).sqrt()).collect();
            write(metrics.inv_mass, held, &state.inv_mass)?;
            write(metrics.mass_sqrt, held, &mass_sqrt)?;
        }
        self.id = state.chain;
        self.draw = state.draw;
        self.n_gradients = state.n_gradients;
        (self.metric_changes, self.rank) = (state.metric_changes, state.metric.rank());
        self.logp = state.logp;
        let stream = Stream::new(self.key(), Purpose::Trajectory);
        self.kernel = Kernel::new(state.kernel, &self.settings, arrays.dim, stream);
        self.adaptation = state.adaptation.clone();
        self.moments.load(dev, arrays.dim, &state.moments)?;
        self.next_task();
        Ok(())
    }
}
