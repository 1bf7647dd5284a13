//! Adaptation of a diagonal metric and a step size, for one chain.

use serde::{Deserialize, Serialize};

use super::AdaptSettings;
use super::step_size::DualAverage;
use super::windows::Windows;
use crate::device::{Device, Metrics, Phase};
use crate::error::Result;
use crate::estimator::fisher_diag::FisherDiag;
use crate::kernel::nuts::Outcome;

/// Fewer points than this do not make a metric.
const MIN_POINTS: u64 = 3;

/// A divergent trajectory's draw is used only if it is more than this many steps from the start: others say more about
/// a bad step size than about the target.
const MIN_STEPS_OF_DIVERGENT: u64 = 4;

/// State of the adaptation of one chain, but for the numbers that live on the device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DiagAdaptation {
    settings: AdaptSettings,
    tune: u64,
    windows: Windows,
    step: DualAverage,
    /// Whether the metric has changed since its first guess.
    metric_changed: bool,
    /// Whether a step size is to be searched before the next draw.
    pub search_pending: bool,
}

impl DiagAdaptation {
    /// The adaptation of `tune` warm-up draws.
    pub fn new(tune: u64, settings: &AdaptSettings) -> Self {
        DiagAdaptation {
            settings: settings.clone(),
            tune,
            windows: Windows::new(tune, settings),
            step: DualAverage::new(settings.initial_step),
            metric_changed: false,
            search_pending: true,
        }
    }

    /// The settings.
    pub fn settings(&self) -> &AdaptSettings {
        &self.settings
    }

    /// The step size of draw `draw`; `uniform` in [0, 1) gives the jitter.
    pub fn step_size(&self, draw: u64, uniform: f64) -> f64 {
        let step = if draw < self.tune { self.step.current() } else { self.step.average() };
        step * (1.0 + self.settings.step_size_jitter * (2.0 * uniform - 1.0))
    }

    /// The averaged step size so far.
    pub fn step_size_bar(&self) -> f64 {
        self.step.average()
    }

    /// A search found a step size.
    pub fn found_step(&mut self, step: f64) {
        self.step = DualAverage::new(step);
        self.search_pending = false;
    }

    /// Take in a warm-up draw, which is in row `point` of `phase`.
    #[allow(clippy::too_many_arguments)]
    pub fn observe(
        &mut self,
        draw: u64,
        outcome: &Outcome,
        estimator: &mut FisherDiag,
        dev: &mut dyn Device,
        metrics: &Metrics,
        phase: &Phase,
        point: usize,
    ) -> Result<()> {
        let steps = outcome.index.unsigned_abs();
        let usable = steps > if outcome.diverging { MIN_STEPS_OF_DIVERGENT } else { 0 };
        let plan = self.windows.plan(draw, estimator.newer_count(), usable, &self.settings);
        if plan.collect {
            estimator.add(dev, phase, point)?;
        }
        if plan.switch {
            estimator.forget_older();
        }
        if (plan.collect || plan.switch) && estimator.count() >= MIN_POINTS {
            estimator.fit(dev, metrics)?;
            self.search_pending = !self.metric_changed;
            self.metric_changed = true;
        }
        let accept = if plan.late { outcome.accept_sym } else { outcome.accept };
        self.step.update(accept, &self.settings);
        Ok(())
    }
}
