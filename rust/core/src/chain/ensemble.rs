//! A chain of an ensemble, which does what the ensemble says ([`crate::adapt::ensemble`]).

use super::{Arrays, Chain};
use crate::adapt::walker::{Order, Walker};
use crate::device::Device;
use crate::error::Result;
use crate::metric::Metric;

/// Metrics that chains had before a meeting, by their rows: many chains have the same one.
#[derive(Default)]
pub struct Before(Vec<(usize, Metric)>);

impl Before {
    /// The metric of a chain that still has it.
    fn of(&mut self, dev: &dyn Device, arrays: &Arrays, chain: usize) -> Result<&Metric> {
        let row = dev.metric_row(&arrays.metrics, chain);
        let place = match self.0.iter().position(|(known, _)| *known == row) {
            Some(place) => place,
            None => {
                self.0.push((row, dev.metric(&arrays.metrics, chain)?));
                self.0.len() - 1
            }
        };
        Ok(&self.0[place].1)
    }
}

impl Chain {
    /// Use what the ensemble has chosen. If the metric is another one, the momentum is to come to the host, for
    /// [`Chain::rescaled`].
    pub(super) fn follow(
        &mut self,
        dev: &mut dyn Device,
        arrays: &Arrays,
        before: &mut Before,
    ) -> Result<()> {
        let order = self.adaptation.walker_mut().and_then(Walker::take_order);
        let Some(Order { metric, tuned }) = order else { return Ok(()) };
        self.kernel.tune(tuned);
        let Some(metric) = metric else { return Ok(()) };
        let before = before.of(dev, arrays, self.index)?;
        let refused = self.refused_metrics;
        self.use_metric(&metric, dev, arrays)?;
        if self.refused_metrics > refused {
            return Ok(());
        }
        if before.rank() + metric.rank() > 0 {
            self.kernel.restart();
            return Ok(());
        }
        self.host[1].clear();
        self.host[1].extend(before.stds.iter().zip(&metric.stds).map(|(old, new)| old / new));
        self.host[0].resize(arrays.dim, 0.0);
        self.wanted[0] = Some(self.current_row());
        Ok(())
    }

    /// The momentum has come. It stays what it is in the coordinates in which the metric is the identity.
    pub fn rescaled(&mut self) -> Option<(usize, &[f64])> {
        let row = self.wanted[0].take()?;
        let [p, factors, ..] = &mut self.host;
        p.iter_mut().zip(factors).for_each(|(p, factor)| *p *= *factor);
        Some((row, p))
    }
}
