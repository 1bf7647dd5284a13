//! What a chain does in the warm-up besides drawing: it tells its adaptation of each draw and takes metrics from it.

use std::sync::Arc;

use super::{Arrays, Chain};
use crate::adapt::{Draw, Seen};
use crate::device::{Device, Row};
use crate::error::{Error, Result};
use crate::kernel::Outcome;
use crate::metric::Metric;

impl Chain {
    /// Perhaps keep the latest point of the trajectory, whether it becomes the draw or not.
    pub(super) fn recycle(&mut self, dev: &mut dyn Device, arrays: &Arrays) -> Result<()> {
        let Some(reservoir) = &mut self.reservoir else { return Ok(()) };
        let Some((slot, index, energy_error)) = self.kernel.latest() else { return Ok(()) };
        if reservoir.offer(index, energy_error) {
            for buf in [arrays.phase.x, arrays.phase.g] {
                let row = |index| Row { buf, index };
                dev.copy(row(self.row + slot), row(self.row + Self::rows(&self.settings) - 1), arrays.dim)?;
            }
        }
        Ok(())
    }

    /// Tell the adaptation of a warm-up draw.
    pub(super) fn adapt(&mut self, outcome: &Outcome, dev: &mut dyn Device, arrays: &Arrays) -> Result<()> {
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
            accept: outcome.accept,
            n_steps: outcome.n_steps,
            distance: outcome.index.unsigned_abs(),
            diverging: outcome.diverging(),
            point: wants.then_some([x, g]),
            recycled: recycled.then_some([x_other, g_other]),
        };
        let seen = Seen { draw, dev, metrics: &arrays.metrics, phase: &arrays.phase, row, moments };
        if let Some(metric) = adaptation.observe(seen)? {
            self.use_metric(&metric, dev, arrays)?;
        }
        Ok(())
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
