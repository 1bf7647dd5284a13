//! How chains begin, and their way out of a bad start ([`crate::adapt::descent`]).

use std::sync::Arc;
use std::time::Instant;

use super::{Arrays, Chain, Task};
use crate::adapt::descent::Descent;
use crate::adapt::{Draw, Seen};
use crate::device::{Device, Place};
use crate::error::{Error, Result};
use crate::estimator::fisher_diag::Updates;
use crate::metric::Metric;
use crate::stopwatch::Stopwatch;

impl Chain {
    /// Stand at the current row, where position and gradient are, with a metric or that of the gradient.
    pub fn arrive(
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
        if let Some(metric) = metric {
            dev.set_metric(&arrays.metrics, self.index, metric)?;
            self.rank = metric.rank();
            self.has_metric = true;
        }
        self.want(0, self.current_row(), arrays.dim);
        Ok(())
    }

    /// Position and gradient of the start have come. Whether the start may be a bad one, to be left by [`Chain::go_down`].
    pub fn look_around(&mut self) -> bool {
        self.served();
        let pooled = self.settings.adapt.scheme.is_pooled() && self.adaptation.walker().is_none();
        let leaves = !self.has_metric && pooled && self.settings.tune > 0;
        if leaves {
            self.task = Task::Descent(Descent::new(&self.host[1]));
        }
        leaves
    }

    /// Where to go next from a bad start, if anywhere: row and position. Those of the current point have come.
    pub fn go_down(&mut self) -> Option<(usize, &[f64])> {
        self.served();
        let tries = self.row + self.spare_slot();
        let Task::Descent(descent) = &self.task else { return None };
        if descent.is_over() {
            return None;
        }
        let [x, g, ..] = &mut self.host;
        descent.shift(x, g);
        Some((tries, x))
    }

    /// Let the position come that was tried.
    pub fn want_tried(&mut self, dim: usize) {
        self.want(0, self.row + self.spare_slot(), dim);
    }

    /// Take in what was found at the position that was tried, which has come, and let the current one come.
    pub fn descend(&mut self, dim: usize) {
        self.served();
        let Task::Tried(mut descent, logp) = std::mem::replace(&mut self.task, Task::Done) else { return };
        if descent.update(logp - self.logp, &self.host[1]) {
            (self.current, self.logp) = (self.spare_slot(), logp);
        }
        self.task = Task::Descent(descent);
        self.want(0, self.current_row(), dim);
    }

    /// Where the chain begins to sample, if its first metric is that of the gradient there.
    pub fn first_metric(&self) -> Option<Place> {
        (!self.has_metric).then(|| Place { metric: self.index, row: self.current_row() })
    }

    /// Begin to sample at the current row, whose position and gradient have come, with the metric in force.
    pub fn begin(&mut self, dev: &dyn Device, arrays: &Arrays, updates: &mut Updates) -> Result<()> {
        self.served();
        let metric = Arc::new(dev.metric(&arrays.metrics, self.index)?);
        let row = self.current_row();
        let Chain { adaptation, moments, logp, host: [x, g, ..], .. } = self;
        let draw = Draw { logp: *logp, point: Some([x, g]), ..Draw::default() };
        adaptation.start(Seen { draw, row, moments, updates }, metric);
        self.watch = Stopwatch::new(Instant::now());
        self.next_task();
        Ok(())
    }
}
