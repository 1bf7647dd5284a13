//! Adaptation of each chain by itself in foreground and background windows (Seyboldt, Carlson and Carpenter 2025).

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::group::Reason;
use super::member::Change;
use super::settings::{AdaptSettings, Scheme};
use super::step_size::DualAverage;
use super::windows::Windows;
use super::{MIN_STEPS_OF_DIVERGENT, Seen};
use crate::error::Result;
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
    pub fn start(&mut self, mut seen: Seen<'_>, metric: Arc<Metric>) -> Result<()> {
        self.changes = vec![Change::new(0, Reason::Start, 1, &metric)];
        self.metric = metric;
        self.add(&mut seen)
    }

    /// How the metric changed so far. A diagonal one changes with every draw, of which the ends of windows are kept.
    pub fn changes(&self) -> &[Arc<Change>] {
        &self.changes
    }

    fn add(&mut self, seen: &mut Seen<'_>) -> Result<()> {
        match (&mut self.points, seen.draw.point) {
            (Some(points), Some([x, g])) => {
                points.push(x, g);
                Ok(())
            }
            _ => seen.moments.add(seen.dev, seen.phase, seen.row),
        }
    }

    fn counts(&self, seen: &Seen<'_>) -> [u64; 2] {
        match &self.points {
            Some(points) => [points.seen().iter().sum(), points.seen()[1]],
            None => [seen.moments.count(), seen.moments.newer_count()],
        }
    }

    /// Take in a warm-up draw. Returns a new metric, unless it is already in place.
    pub fn observe(&mut self, mut seen: Seen<'_>) -> Result<Option<Arc<Metric>>> {
        let draw = seen.draw;
        let usable = draw.distance > if draw.diverging { MIN_STEPS_OF_DIVERGENT } else { 0 };
        let [_, background] = self.counts(&seen);
        let plan = self.windows.plan(draw.index, background, usable, &self.settings);
        if plan.collect {
            self.add(&mut seen)?;
        }
        if plan.switch {
            match &mut self.points {
                Some(points) => points.forget_older(),
                None => seen.moments.forget_older(),
            }
        }
        self.step.update(draw.accept[usize::from(plan.late)], &self.settings);
        let [count, _] = self.counts(&seen);
        let every = if self.points.is_some() { LOW_RANK_FIT_EVERY } else { 1 };
        let due = plan.switch || (plan.collect && draw.index >= self.last_fit + every);
        if !due || count < MIN_POINTS {
            return Ok(None);
        }
        self.last_fit = draw.index;
        let found = self.fit(&mut seen)?;
        self.changes_in_place += u64::from(found.is_none() && self.points.is_none());
        if let Some(metric) = &found {
            self.metric = metric.clone();
        }
        if plan.switch || (found.is_some() && self.points.is_some()) {
            let reason = if plan.switch { Reason::Window } else { Reason::Fit };
            let metric = match &found {
                Some(metric) => metric.clone(),
                None => Arc::new(seen.moments.metric(seen.dev, seen.metrics)?),
            };
            self.changes.push(Change::new(draw.index, reason, count as usize, &metric));
        }
        if found.is_some() || self.points.is_none() {
            self.search_pending = !self.metric_changed;
            self.metric_changed = true;
        }
        Ok(found)
    }

    fn fit(&self, seen: &mut Seen<'_>) -> Result<Option<Arc<Metric>>> {
        let Some(points) = &self.points else {
            if self.settings.scheme == Scheme::DrawDiag {
                return seen.moments.variances(seen.dev, &self.metric).map(|metric| Some(Arc::new(metric)));
            }
            seen.moments.fit(seen.dev, seen.metrics)?;
            return Ok(None);
        };
        let AdaptSettings { gamma, eigval_cutoff, max_rank, .. } = self.settings;
        let fitted = fisher_span::fit(
            &points.select(usize::MAX),
            &self.metric,
            gamma,
            eigval_cutoff,
            max_rank as usize,
        );
        Ok(fitted.filter(Metric::is_usable).map(Arc::new))
    }
}
