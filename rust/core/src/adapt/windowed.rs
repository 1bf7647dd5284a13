//! Adaptation of each chain by itself in foreground and background windows (Seyboldt, Carlson and Carpenter 2025).

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::group::Reason;
use super::member::Change;
use super::settings::{AdaptSettings, Scheme};
use super::step_size::DualAverage;
use super::windows::Windows;
use super::{MIN_STEPS_OF_DIVERGENT, Made, Seen, Verdict};
use crate::device::{Device, Metrics};
use crate::error::Result;
use crate::estimator::fisher_diag::FisherDiag;
use crate::estimator::fisher_span;
use crate::estimator::points::PointSample;
use crate::metric::Metric;

/// Fewer points than this do not make a metric.
const MIN_POINTS: u64 = 3;

/// Draws between fits of a low-rank metric, where no window ends.
const LOW_RANK_FIT_EVERY: u64 = 20;

/// State of the adaptation of one chain, but for the numbers that live on the device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Windowed {
    pub(super) settings: AdaptSettings,
    windows: Windows,
    pub(super) step: DualAverage,
    /// Points for a low-rank metric; the others need their moments only, which are on the device.
    points: Option<PointSample>,
    /// The latest low-rank metric.
    metric: Arc<Metric>,
    last_fit: u64,
    changes: Vec<Arc<Change>>,
    changes_in_place: u64,
    /// Whether the metric has changed since its first guess.
    metric_changed: bool,
    pub(super) search_pending: bool,
}

impl Windowed {
    /// The adaptation of `tune` warm-up draws.
    pub fn new(tune: u64, dim: usize, settings: &AdaptSettings) -> Self {
        let low_rank = settings.scheme == Scheme::LowRankWindows;
        Windowed {
            settings: settings.clone(),
            windows: Windows::new(tune, settings),
            step: DualAverage::new(settings.initial_step),
            metric: Arc::default(),
            points: low_rank.then(|| PointSample::new(dim, tune as usize + 1)),
            last_fit: 0,
            changes: Vec::new(),
            changes_in_place: 0,
            metric_changed: false,
            search_pending: true,
        }
    }

    /// Whether it wants positions and gradients on the host.
    pub fn wants_points(&self) -> bool {
        self.points.is_some()
    }

    /// How often it has changed the metric on the device.
    pub fn changes_in_place(&self) -> u64 {
        self.changes_in_place
    }

    /// The first point, whose gradient made the first metric.
    pub fn start(&mut self, seen: &mut Seen<'_>, metric: Arc<Metric>) {
        self.changes = vec![Change::new(0, Reason::Start, 1, &metric)];
        self.metric = metric;
        self.add(seen);
    }

    /// How the metric changed so far. A diagonal one changes with every draw, of which the ends of windows are kept.
    pub fn changes(&self) -> &[Arc<Change>] {
        &self.changes
    }

    fn add(&mut self, seen: &mut Seen<'_>) {
        match (&mut self.points, seen.draw.point) {
            (Some(points), Some([x, g])) => points.push(x, g),
            _ => seen.moments.add(seen.updates, seen.row),
        }
    }

    fn counts(&self, seen: &Seen<'_>) -> [u64; 2] {
        match &self.points {
            Some(points) => [points.seen().iter().sum(), points.seen()[1]],
            None => [seen.moments.count(), seen.moments.newer_count()],
        }
    }

    /// Take in a warm-up draw.
    pub fn observe(&mut self, seen: &mut Seen<'_>) -> Verdict {
        let draw = seen.draw;
        let usable = draw.distance > if draw.diverging { MIN_STEPS_OF_DIVERGENT } else { 0 };
        let [_, background] = self.counts(seen);
        let plan = self.windows.plan(draw.index, background, usable, &self.settings);
        if plan.collect {
            self.add(seen);
        }
        if plan.switch {
            match &mut self.points {
                Some(points) => points.forget_older(),
                None => seen.moments.forget_older(),
            }
        }
        self.step.update(draw.accept[usize::from(plan.late)], &self.settings);
        let [count, _] = self.counts(seen);
        let every = if self.points.is_some() { LOW_RANK_FIT_EVERY } else { 1 };
        let due = plan.switch || (plan.collect && draw.index >= self.last_fit + every);
        if !due || count < MIN_POINTS {
            return Verdict::Keep;
        }
        self.last_fit = draw.index;
        let made = Made { draw: draw.index, points: count as usize, ends: plan.switch };
        if let Some(points) = &self.points {
            let Some(metric) = self.fit_low_rank(points) else {
                return if made.ends { Verdict::Settle(made) } else { Verdict::Keep };
            };
            self.use_from_now_on(&metric, made);
            return Verdict::Use(metric);
        }
        if self.settings.scheme != Scheme::DrawDiag {
            seen.moments.fit(seen.updates);
            self.changes_in_place += 1;
        }
        Verdict::Settle(made)
    }

    /// The moments are complete, and the fit is done if it was asked for. Returns the metric, unless it is already in place.
    pub fn settle(
        &mut self,
        made: Made,
        moments: &FisherDiag,
        dev: &dyn Device,
        metrics: &Metrics,
    ) -> Result<Option<Arc<Metric>>> {
        if self.settings.scheme == Scheme::DrawDiag {
            let metric = Arc::new(moments.variances(dev, &self.metric)?);
            self.use_from_now_on(&metric, made);
            return Ok(Some(metric));
        }
        if made.ends {
            let metric = Arc::new(moments.metric(dev, metrics)?);
            self.note(&metric, made);
        }
        if self.points.is_none() {
            self.search_again();
        }
        Ok(None)
    }

    /// A metric that is not in place yet.
    fn use_from_now_on(&mut self, metric: &Arc<Metric>, made: Made) {
        self.metric = metric.clone();
        if made.ends || self.points.is_some() {
            self.note(metric, made);
        }
        self.search_again();
    }

    fn note(&mut self, metric: &Arc<Metric>, Made { draw, points, ends }: Made) {
        let reason = if ends { Reason::Window } else { Reason::Fit };
        self.changes.push(Change::new(draw, reason, points, metric));
    }

    /// The step size is searched for once more under the first metric that is not a guess.
    fn search_again(&mut self) {
        self.search_pending = !self.metric_changed;
        self.metric_changed = true;
    }

    fn fit_low_rank(&self, points: &PointSample) -> Option<Arc<Metric>> {
        let AdaptSettings { gamma, eigval_cutoff, max_rank, .. } = self.settings;
        let max_rank = max_rank as usize;
        let fitted =
            fisher_span::fit(&points.select(usize::MAX), &self.metric, gamma, eigval_cutoff, max_rank);
        fitted.filter(Metric::is_usable).map(Arc::new)
    }
}
