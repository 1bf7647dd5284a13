//! The warm-up of Stan: a fast part, windows that double, a fast part (Stan reference manual, "HMC algorithm parameters").
//!
//! Metrics come from the draws of one window, shrunk towards a small multiple of the identity. The step size is searched
//! for again after each.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Draw;
use super::group::Reason;
use super::member::Change;
use super::settings::{AdaptSettings, Scheme};
use super::step_size::DualAverage;
use crate::estimator::welford::Welford;
use crate::metric::Metric;

/// Draws of the first part, of the first window and of the last part.
const INITIAL: u64 = 75;
const WINDOW: u64 = 25;
const LAST: u64 = 50;

/// Warm-ups shorter than this are for the step size only.
const SHORTEST: u64 = 20;

/// State of the adaptation of one chain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stan {
    pub(super) settings: AdaptSettings,
    initial: u64,
    /// The draws after which a window ends, the last first.
    ends: Vec<u64>,
    pub(super) step: DualAverage,
    pub(super) sample: Welford,
    changes: Vec<Arc<Change>>,
    pub(super) search_pending: bool,
}

/// Length of the first part, and the last draw of each window.
fn schedule(tune: u64) -> (u64, Vec<u64>) {
    if tune < SHORTEST {
        return (tune, Vec::new());
    }
    let (initial, last, mut window) = if INITIAL + WINDOW + LAST > tune {
        let (initial, last) = ((0.15 * tune as f64) as u64, (0.1 * tune as f64) as u64);
        (initial, last, tune - initial - last)
    } else {
        (INITIAL, LAST, WINDOW)
    };
    let stop = tune - last;
    let (mut start, mut ends) = (initial, Vec::new());
    while start < stop {
        // A window that leaves no room for one of twice its length takes all.
        let end = if start + 3 * window > stop { stop } else { start + window };
        ends.push(end - 1);
        start = end;
        window *= 2;
    }
    (initial, ends)
}

impl Stan {
    /// The adaptation of `tune` warm-up draws.
    pub fn new(tune: u64, dim: usize, settings: &AdaptSettings) -> Self {
        let (initial, mut ends) = schedule(tune);
        ends.reverse();
        let dense = settings.scheme == Scheme::StanDense;
        Stan {
            settings: settings.clone(),
            initial,
            ends,
            step: DualAverage::new(settings.initial_step),
            sample: if dense { Welford::dense(dim) } else { Welford::diag(dim) },
            changes: Vec::new(),
            search_pending: true,
        }
    }

    /// The first metric.
    pub fn start(&mut self, metric: &Metric) {
        self.changes = vec![Change::new(0, Reason::Start, 1, metric)];
    }

    /// How the metric changed so far.
    pub fn changes(&self) -> &[Arc<Change>] {
        &self.changes
    }

    /// Whether it wants the position of a draw on the host.
    pub fn wants_points(&self, draw: u64) -> bool {
        draw >= self.initial && !self.ends.is_empty()
    }

    /// Take in a warm-up draw. Returns a new metric, if there is one.
    pub fn observe(&mut self, draw: &Draw<'_>) -> Option<Arc<Metric>> {
        self.step.update(draw.accept[0], &self.settings);
        let [x, _] = draw.point.filter(|_| self.wants_points(draw.index))?;
        self.sample.push(x);
        if self.ends.last() != Some(&draw.index) {
            return None;
        }
        self.ends.pop();
        let points = self.sample.count() as usize;
        let metric = self.sample.fit_stan();
        self.sample.reset();
        self.search_pending = true;
        let metric = metric.filter(Metric::is_usable).map(Arc::new)?;
        self.changes.push(Change::new(draw.index, Reason::Window, points, &metric));
        Some(metric)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_those_of_stan() {
        assert_eq!(schedule(1000), (75, vec![99, 149, 249, 449, 949]));
        assert_eq!(schedule(150), (75, vec![99]));
        assert_eq!(schedule(100), (15, vec![89]));
        assert_eq!(schedule(19), (19, vec![]));
        assert_eq!(schedule(0), (0, vec![]));
    }
}
