//! A chain of an ensemble ([`super::ensemble`]): what it shows the others when they meet, and what it is told there.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::meads::{MeadsSettings, Pace};
use super::settings::AdaptSettings;
use super::step_size::DualAverage;
use super::{Draw, Seen};
use crate::kernel::transitions::Tuned;
use crate::metric::Metric;
use crate::settings::Settings;

/// What a chain is to do from now on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Order {
    /// The metric, if it is another one.
    pub metric: Option<Arc<Metric>>,
    /// What its kernel is tuned to.
    pub tuned: Tuned,
}

/// What one chain of an ensemble knows between two meetings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Walker {
    pub(super) settings: AdaptSettings,
    /// What the adaptation of other schemes has; it is not used.
    pub(super) step: DualAverage,
    pub(super) meads: MeadsSettings,
    pub(super) seed: u64,
    pub(super) tune: u64,
    pub(super) made: u64,
    pub(super) x: Vec<f64>,
    pub(super) g: Vec<f64>,
    pub(super) logp: f64,
    pub(super) accept: f64,
    /// Whether the chain has moved, or tried to, since the last meeting.
    pub(super) moved: bool,
    pub(super) waiting: bool,
    pub(super) lagging: bool,
    pub(super) metric: Arc<Metric>,
    pub(super) order: Option<Order>,
}

impl Walker {
    /// A chain of an ensemble.
    pub fn new(settings: &Settings) -> Self {
        Walker {
            settings: settings.adapt.clone(),
            step: DualAverage::new(settings.adapt.initial_step),
            meads: settings.meads.clone(),
            seed: settings.seed,
            tune: settings.tune,
            made: 0,
            x: Vec::new(),
            g: Vec::new(),
            logp: f64::NAN,
            accept: 1.0,
            moved: false,
            waiting: true,
            lagging: false,
            metric: Arc::default(),
            order: None,
        }
    }

    /// The first point, and the metric to begin with.
    pub fn start(&mut self, first: &Draw<'_>, logp: f64, metric: Arc<Metric>) {
        self.keep(first);
        (self.logp, self.metric) = (logp, metric);
    }

    /// Keep the point of a draw.
    pub(super) fn keep(&mut self, draw: &Draw<'_>) {
        if let Some([x, g]) = draw.point {
            self.x.clear();
            self.x.extend_from_slice(x);
            self.g.clear();
            self.g.extend_from_slice(g);
        }
    }

    /// Take in a warm-up draw.
    pub fn observe(&mut self, seen: &Seen<'_>) {
        self.keep(&seen.draw);
        (self.logp, self.accept) = (seen.draw.logp, seen.draw.accept[0]);
        self.made = seen.draw.index + 1;
        (self.moved, self.waiting) = (true, true);
    }

    /// Whether the chain must wait for the others.
    pub fn is_waiting(&self) -> bool {
        self.waiting
    }

    /// Whether the chain was far below the others when they met last.
    pub fn is_lagging(&self) -> bool {
        self.lagging
    }

    /// What the chain is to do from now on, once.
    pub fn take_order(&mut self) -> Option<Order> {
        self.order.take()
    }

    /// Tell it the metric and the pace to go on with.
    pub(super) fn give(&mut self, metric: &Arc<Metric>, pace: Pace) {
        // Of a saved state two that were one are two.
        let changed = !Arc::ptr_eq(metric, &self.metric) && **metric != *self.metric;
        let earlier = self.order.take().is_some_and(|order| order.metric.is_some());
        self.metric = metric.clone();
        let tuned =
            Tuned { length: 1.0 / pace.damping, step: pace.step, transitions: self.meads.transitions };
        self.order = Some(Order { metric: (changed || earlier).then(|| metric.clone()), tuned });
    }
}
