//! What a chain does in the warm-up besides drawing: it tells its adaptation of each draw and takes metrics from it.

use std::sync::Arc;

use super::{Arrays, Chain};
use crate::adapt::{Draw, Seen, Verdict};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::estimator::fisher_diag::Updates;
use crate::kernel::Outcome;
use crate::metric::Metric;

impl Chain {
    /// Perhaps keep the latest point of the trajectory, whether it becomes the draw or not.
    pub(super) fn recycle(&mut self, kept: &mut Vec<[usize; 2]>) {
        let Some(reservoir) = &mut self.reservoir else { return };
        let Some((slot, index, energy_error)) = self.kernel.latest() else { return };
        if reservoir.offer(index, energy_error) {
            kept.push([self.row + slot, self.spare_row()]);
        }
    }

    /// Row of the recycled point.
    fn spare_row(&self) -> usize {
        self.row + Self::rows(&self.settings) - 1
    }

    /// Let the points come to the host that the adaptation wants of a draw.
    pub fn show(&mut self, outcome: &Outcome, dim: usize) {
        if !self.tuning() {
            return;
        }
        if self.adaptation.wants_point(self.draw) {
            self.want(0, self.current_row(), dim);
        }
        let chosen = self.reservoir.take().and_then(|reservoir| reservoir.chosen());
        if chosen.is_some_and(|index| index != outcome.index) {
            self.want(1, self.spare_row(), dim);
        }
    }

    /// Tell the adaptation of a warm-up draw, whose points have come.
    pub fn adapt(&mut self, outcome: &Outcome, updates: &mut Updates) {
        let [wants, recycled] = self.wanted.map(|row| row.is_some());
        self.served();
        if !self.tuning() {
            return;
        }
        self.warmup_gradients = self.n_gradients;
        let row = self.current_row();
        let Chain { adaptation, moments, host: [x, g, x_other, g_other], .. } = self;
        let draw = Draw {
            index: self.draw,
            logp: outcome.logp,
            accept: outcome.accept,
            n_steps: outcome.n_steps,
            distance: outcome.index.unsigned_abs(),
            diverging: outcome.diverging(),
            point: wants.then_some([x, g]),
            recycled: recycled.then_some([x_other, g_other]),
        };
        self.verdict = adaptation.observe(Seen { draw, row, moments, updates });
    }

    /// Use the metric that the adaptation has made, if it has.
    pub(super) fn settle(&mut self, dev: &mut dyn Device, arrays: &Arrays) -> Result<()> {
        let metric = match std::mem::replace(&mut self.verdict, Verdict::Keep) {
            Verdict::Keep => None,
            Verdict::Use(metric) => Some(metric),
            Verdict::Settle(made) => self.adaptation.settle(made, &self.moments, dev, &arrays.metrics)?,
        };
        metric.map_or(Ok(()), |metric| self.use_metric(&metric, dev, arrays))
    }

    /// Use another metric from the next draw on; the one in force stays if the device cannot use it.
    pub(super) fn use_metric(
        &mut self,
        metric: &Arc<Metric>,
        dev: &mut dyn Device,
        arrays: &Arrays,
    ) -> Result<()> {
        match dev.set_metric(&arrays.metrics, self.index, metric) {
            Ok(()) => (self.metric_changes, self.rank) = (self.metric_changes + 1, metric.rank()),
            Err(Error::Metric(_)) => self.refused_metrics += 1,
            Err(other) => return Err(other),
        }
        Ok(())
    }
}
