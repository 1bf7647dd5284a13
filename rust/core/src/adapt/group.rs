//! The metric that one or more chains share in a pooled warm-up: their points, the windows, and when to fit.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::fit;
use super::settings::AdaptSettings;
use super::windows::Windows;
use crate::estimator::points::PointSample;
use crate::metric::Metric;

/// Draws between fits, where no window ends: so many, or this share of a long warm-up.
const FIT_EVERY: u64 = 10;
const FITS_OF_LONG: u64 = 50;

/// Points of a fit. Where they are cheap, a long warm-up takes as many as it has draws, up to a limit.
const POINTS: usize = 200;
const MOST_POINTS: usize = 1000;

/// Up to this dimension fits are always cheap enough.
const FREE_DIM: usize = 400;

/// What a fit may cost: this share of a run on a density of 10 ns for each parameter, of which the draws after warm-up
/// take this many gradients for each chain.
const SHARE_OF_RUN: f64 = 0.05;
const SECONDS_PER_PARAMETER: f64 = 1e-8;
const GRADIENTS_AFTER_WARMUP: f64 = 16_000.0;

/// Share of that which may be spent in the early phase: what is found there is soon forgotten.
const SHARE_OF_EARLY: f64 = 0.25;

/// Chains that share a metric, or one chain with a metric of its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Group {
    points: PointSample,
    max_points: usize,
    fit_every: u64,
    windows: Windows,
    metric: Arc<Metric>,
    /// Draws of each chain in the newer sample, on average.
    background: f64,
    chains: usize,
    last_fit: u64,
    gradients: f64,
    spent: f64,
    /// Whether no window will end any more.
    late: bool,
    counts: FitCounts,
}

/// How often a group fitted its metric.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FitCounts {
    /// Fits that gave a new metric.
    pub done: u64,
    /// Fits whose numbers could not be used, so that the old metric stayed.
    pub rejected: u64,
    /// Fits that would have cost too much.
    pub skipped: u64,
}

/// Why the metric changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reason {
    /// The first metric, from a gradient or passed in.
    Start,
    /// There were more draws.
    Fit,
    /// A window ended.
    Window,
    /// Chains joined their samples.
    Merge,
}

impl Reason {
    /// Its name in results.
    pub fn name(self) -> &'static str {
        match self {
            Reason::Start => "start",
            Reason::Fit => "fit",
            Reason::Window => "window",
            Reason::Merge => "merge",
        }
    }
}

impl Group {
    /// A chain by itself, with the metric of its first point.
    pub fn new(tune: u64, settings: &AdaptSettings, metric: Arc<Metric>) -> Self {
        let max_points =
            if metric.dim() <= FREE_DIM { (tune as usize).clamp(POINTS, MOST_POINTS) } else { POINTS };
        Group {
            points: PointSample::new(metric.dim(), max_points),
            max_points,
            fit_every: FIT_EVERY.max(tune / FITS_OF_LONG),
            windows: Windows::new(tune, settings),
            metric,
            background: 0.0,
            chains: 1,
            last_fit: 0,
            gradients: 0.0,
            spent: 0.0,
            late: false,
            counts: FitCounts::default(),
        }
    }

    /// The groups of chains that join, in the order of the chains.
    pub fn merge(groups: Vec<Group>) -> Option<Self> {
        let chains = groups.len();
        let sum = |of: fn(&Group) -> f64| groups.iter().map(of).sum::<f64>();
        let counts = groups.iter().fold(FitCounts::default(), |sum, group| FitCounts {
            done: sum.done + group.counts.done,
            rejected: sum.rejected + group.counts.rejected,
            skipped: sum.skipped + group.counts.skipped,
        });
        let (background, gradients, spent) =
            (sum(|g| g.background) / chains as f64, sum(|g| g.gradients), sum(|g| g.spent));
        let mut groups = groups.into_iter();
        let mut first = groups.next()?;
        groups.for_each(|group| first.points.absorb(&group.points));
        Some(Group { background, chains, gradients, spent, counts, ..first })
    }

    /// A further chain joins. Returns the metric for it.
    pub fn join(&mut self) -> Arc<Metric> {
        self.chains += 1;
        self.metric.clone()
    }

    /// Add a point.
    pub fn push(&mut self, x: &[f64], g: &[f64]) {
        self.points.push(x, g);
    }

    /// The metric in force.
    pub fn metric(&self) -> &Arc<Metric> {
        &self.metric
    }

    /// Whether no window will end any more.
    pub fn is_late(&self) -> bool {
        self.late
    }

    /// How often the metric was fitted.
    pub fn counts(&self) -> FitCounts {
        self.counts
    }

    /// Points in the sample that the metric is fitted to.
    pub fn n_points(&self) -> usize {
        self.points.len().min(self.max_points)
    }

    /// The schedule.
    pub fn windows(&self) -> &Windows {
        &self.windows
    }

    /// The warm-up is longer than was planned.
    pub fn extend(&mut self, draws: u64) {
        self.windows.extend(draws);
        self.late = false;
    }

    /// Go on to the next draw, when `usable` of the chains have added points of this one and taken `gradients`. Says why
    /// the metric changed, if it did.
    pub fn advance(
        &mut self,
        draw: u64,
        usable: usize,
        gradients: u64,
        settings: &AdaptSettings,
    ) -> Option<Reason> {
        self.gradients += gradients as f64;
        let share = usable as f64 / self.chains as f64;
        // Windows count whole draws, this one included.
        let before = (self.background + 1e-9).floor() as u64;
        let after = (self.background + share + 1e-9).floor() as u64;
        let plan = self.windows.plan(draw, before, after > before, settings);
        self.late = plan.late;
        if draw >= self.windows.final_start() {
            return None;
        }
        self.background += share;
        if plan.switch {
            self.points.forget_older();
            self.background = 0.0;
        }
        let last = draw + 1 == self.windows.final_start();
        let due = plan.switch || last || draw >= self.last_fit + self.fit_every;
        let reason = if plan.switch { Reason::Window } else { Reason::Fit };
        (due && self.fit(draw, last, settings)).then_some(reason)
    }

    /// Fit the metric to the points, for the last time or not. False if the old one stays.
    pub fn fit(&mut self, draw: u64, last: bool, settings: &AdaptSettings) -> bool {
        // The last fit, which matters most, must be paid too.
        let reserve = if last { 0.0 } else { fit::seconds_of_last(self.max_points, self.metric.dim()) };
        let seconds = self.budget(draw) - self.spent - reserve;
        let Some((fitted, cost)) =
            fit::fit(&self.points, self.max_points, &self.metric, settings, seconds, last)
        else {
            self.counts.skipped += u64::from(!self.points.is_empty());
            return false;
        };
        self.spent += cost;
        self.last_fit = draw;
        match fitted.filter(Metric::is_usable) {
            Some(metric) => {
                self.metric = Arc::new(metric);
                self.counts.done += 1;
                true
            }
            None => {
                self.counts.rejected += 1;
                false
            }
        }
    }

    /// Seconds that fits may take until this draw.
    fn budget(&self, draw: u64) -> f64 {
        let dim = self.metric.dim();
        if dim <= FREE_DIM {
            return f64::INFINITY;
        }
        let gradients = self.gradients + GRADIENTS_AFTER_WARMUP * self.chains as f64;
        let early = draw + 1 < self.windows.early_end();
        let share = if early { SHARE_OF_EARLY } else { 1.0 };
        share * SHARE_OF_RUN * SECONDS_PER_PARAMETER * dim as f64 * gradients
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapt::settings::Scheme;
    use crate::rng::{Key, Purpose, fill_normal};

    const TUNE: u64 = 150;

    /// A group of four chains, from the merge to the end of the warm-up.
    fn warmed_up(dim: usize, scheme: Scheme, gradients_per_draw: u64) -> Group {
        let settings = AdaptSettings::new(scheme);
        let one = || Group::new(TUNE, &settings, Arc::new(Metric::diagonal(&vec![1.0; dim], vec![0.0; dim])));
        let mut group = Group::merge((0..4).map(|_| one()).collect()).unwrap();
        let mut x = vec![0.0; dim];
        for draw in 45..TUNE {
            for chain in 0..4 {
                fill_normal(Key { seed: 3, chain, draw: draw as u32 }, Purpose::Momentum, &mut x);
                // One wide direction.
                let along: f64 = x.iter().sum::<f64>() / dim as f64;
                let g: Vec<f64> = x.iter().map(|x| -(x - 0.9 * along)).collect();
                group.push(&x, &g);
            }
            group.advance(draw, 4, 4 * gradients_per_draw, &settings);
        }
        group
    }

    #[test]
    fn fits_take_a_twentieth_of_the_run_at_most_and_the_last_one_is_made() {
        for scheme in [Scheme::Auto, Scheme::LowRank] {
            for dim in [500, 1000, 5000] {
                let group = warmed_up(dim, scheme, 15);
                let gradients = group.gradients + GRADIENTS_AFTER_WARMUP * 4.0;
                let run = SECONDS_PER_PARAMETER * dim as f64 * gradients;
                assert!(group.spent > 0.0 && group.spent <= SHARE_OF_RUN * run, "{scheme:?} {dim}");
                assert_eq!(group.last_fit + 1, group.windows.final_start());
                assert!(group.counts.done >= 2, "{scheme:?} {dim}");
                assert!(group.metric.rank() > 0 || scheme != Scheme::Auto, "{dim}");
            }
        }
    }

    #[test]
    fn small_models_are_fitted_whenever_it_helps() {
        let group = warmed_up(20, Scheme::Auto, 7);
        assert_eq!((group.counts.skipped, group.counts.rejected), (0, 0));
        assert!(group.counts.done >= (TUNE - 45) / FIT_EVERY - 2, "{:?}", group.counts);
    }
}
