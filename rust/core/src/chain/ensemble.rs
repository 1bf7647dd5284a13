//! A chain of an ensemble, which does what the ensemble says ([`crate::adapt::ensemble`]).

use super::{Arrays, Chain};
use crate::adapt::walker::{Order, Walker};
use crate::device::{Device, Row};
use crate::error::Result;

impl Chain {
    /// Use what the ensemble has chosen.
    pub(super) fn follow(&mut self, dev: &mut dyn Device, arrays: &Arrays) -> Result<()> {
        let order = self.adaptation.walker_mut().and_then(Walker::take_order);
        let Some(Order { metric, tuned }) = order else { return Ok(()) };
        self.kernel.tune(tuned);
        let Some(metric) = metric else { return Ok(()) };
        let before = dev.metric(&arrays.metrics, self.index)?;
        let refused = self.refused_metrics;
        self.use_metric(&metric, dev, arrays)?;
        if self.refused_metrics > refused {
            return Ok(());
        }
        if before.rank() + metric.rank() > 0 {
            self.kernel.restart();
            return Ok(());
        }
        // The momentum stays what it is in the coordinates in which the metric is the identity.
        let row = Row { buf: arrays.phase.p, index: self.current_row() };
        let p = &mut self.host[0];
        p.resize(arrays.dim, 0.0);
        dev.read(row, p)?;
        p.iter_mut().zip(before.stds.iter().zip(&metric.stds)).for_each(|(p, (old, new))| *p *= old / new);
        dev.write(row, p)
    }
}
