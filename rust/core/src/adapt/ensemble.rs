//! The warm-up of an ensemble: chains in folds, each of which moves at the pace that another fold calls for.
//!
//! Before every transition all chains meet, in the order of their numbers. For the first part of the warm-up it is algorithm 3
//! of Hoffman and Sountsov (2022): the metric of fold k, its step size and its damping come from the positions and gradients of
//! fold k - 1, one fold rests in turn, and after as many rounds as there are folds chains change places by chance. Since a fold
//! never depends on itself, chains that are in the target's distribution stay there.
//!
//! Then the metric is fitted to positions of all chains, and folds only go on with the pace, whose averages are what the draws
//! are made with. Nothing adapts after the warm-up: chains are then independent, need no meetings, and each has the target for
//! its stationary distribution whatever the others do. A metric of all chains over many rounds is also better than one of a
//! fold, whose scales are off by 18 % with 16 chains.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::fit;
use super::meads::{self, MeadsSettings, MomentumMetric, Pace};
use super::pool::Check;
use super::settings::AdaptSettings;
use super::step_size::DualAverage;
use super::{Draw, Seen};
use crate::estimator::metric_check::top_eigenvalue;
use crate::estimator::points::PointSample;
use crate::estimator::welford::Welford;
use crate::kernel::transitions::Tuned;
use crate::metric::Metric;
use crate::rng::{Key, Purpose, Stream};
use crate::settings::Settings;

/// Share of the warm-up after which the metric is fixed, and after which positions count for it.
const METRIC_FIXED: f64 = 0.6;
const METRIC_FROM: f64 = 0.2;

/// How fast steps get smaller where too many are rejected.
const RATE: f64 = 0.2;

/// Points of a fit, and of the check of the metric.
const FITTED_POINTS: usize = 1000;
const CHECKED_POINTS: usize = 200;

/// A chain does not count for the others where its log density is below their median by more than this or the number of
/// parameters.
const MIN_LAG: f64 = 20.0;

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
    meads: MeadsSettings,
    seed: u64,
    tune: u64,
    made: u64,
    x: Vec<f64>,
    g: Vec<f64>,
    logp: f64,
    accept: f64,
    /// Whether the chain has moved, or tried to, since the last meeting.
    moved: bool,
    waiting: bool,
    lagging: bool,
    metric: Arc<Metric>,
    order: Option<Order>,
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

    fn keep(&mut self, draw: &Draw<'_>) {
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

    fn give(&mut self, metric: &Arc<Metric>, pace: Pace) {
        // Of a saved state two that were one are two.
        let changed = !Arc::ptr_eq(metric, &self.metric) && **metric != *self.metric;
        let earlier = self.order.take().is_some_and(|order| order.metric.is_some());
        self.metric = metric.clone();
        let tuned =
            Tuned { length: 1.0 / pace.damping, step: pace.step, transitions: self.meads.transitions };
        self.order = Some(Order { metric: (changed || earlier).then(|| metric.clone()), tuned });
    }
}

/// What a fold calls for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Fold {
    metric: Arc<Metric>,
    pace: Pace,
}

/// What the chains of an ensemble share.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ensemble {
    meads: MeadsSettings,
    seed: u64,
    round: u64,
    /// Chains in the order of their folds.
    places: Vec<usize>,
    folds: Vec<Fold>,
    moments: Welford,
    sample: PointSample,
    /// The metric that all share, once it is fixed.
    fixed: Option<Arc<Metric>>,
    /// Logarithm of the factor, at most 1, by which steps are smaller than gradients call for.
    shrinkage: f64,
    /// Sums of the logarithms of step sizes and dampings, and how many.
    sums: [f64; 2],
    count: f64,
}

impl Ensemble {
    /// Of the chains that meet for the first time.
    pub fn new(walkers: &[&mut Walker]) -> Option<Self> {
        let first = walkers.first()?;
        let dim = first.x.len();
        let start = Fold { metric: first.metric.clone(), pace: Pace { step: 0.1, damping: 1.0 } };
        Some(Ensemble {
            meads: first.meads.clone(),
            seed: first.seed,
            round: 0,
            places: (0..walkers.len()).collect(),
            folds: vec![start; (first.meads.folds as usize).min(walkers.len() / 2).max(1)],
            moments: Welford::diag(dim),
            sample: PointSample::new(
                dim,
                FITTED_POINTS.min(FITTED_POINTS * 400 / dim.max(1)).max(CHECKED_POINTS),
            ),
            fixed: None,
            shrinkage: 0.0,
            sums: [0.0; 2],
            count: 0.0,
        })
    }

    /// All chains of the ensemble wait. Afterwards those wait still that rest, or that have made all draws of the warm-up while
    /// others have not. A check of the metric, at the end.
    pub fn meet(&mut self, walkers: &mut [&mut Walker]) -> Option<Check> {
        let tune = walkers.first()?.tune;
        let least = walkers.iter().map(|walker| walker.made).min()?;
        find_lagging(walkers);
        self.collect(least, tune, walkers);
        if self.fixed.is_none() && least as f64 >= METRIC_FIXED * tune as f64 {
            self.fix_metric(walkers);
        }
        if self.round.is_multiple_of(self.folds.len() as u64) {
            self.shuffle();
        }
        self.look(walkers);
        if least >= tune {
            return self.finish(tune, walkers);
        }
        self.give(tune, walkers);
        self.round += 1;
        None
    }

    fn members(&self, fold: usize) -> &[usize] {
        let (chains, folds) = (self.places.len(), self.folds.len());
        &self.places[fold * chains / folds..(fold + 1) * chains / folds]
    }

    /// Chains change places by chance (Fisher and Yates).
    fn shuffle(&mut self) {
        let key = Key { seed: self.seed, chain: u32::MAX, draw: self.round as u32 };
        let mut stream = Stream::new(key, Purpose::Places);
        for last in (1..self.places.len()).rev() {
            self.places.swap(last, (stream.bits() % (last as u64 + 1)) as usize);
        }
    }

    /// Take in the positions and the acceptance of the chains that moved.
    fn collect(&mut self, least: u64, tune: u64, walkers: &mut [&mut Walker]) {
        let counts = self.fixed.is_none() && least as f64 >= METRIC_FROM * tune as f64;
        let (mut accept, mut moved) = (0.0, 0.0);
        for walker in walkers.iter_mut().filter(|walker| walker.moved) {
            walker.moved = false;
            (accept, moved) = (accept + walker.accept, moved + 1.0);
            if counts && !walker.lagging {
                self.moments.push(&walker.x);
                self.sample.push(&walker.x, &walker.g);
            }
        }
        if moved > 0.0 {
            self.shrinkage = (self.shrinkage + RATE * (accept / moved - self.meads.target_accept)).min(0.0);
        }
    }

    /// The metric of the draws.
    fn fix_metric(&mut self, walkers: &[&mut Walker]) {
        let Some(first) = walkers.first() else { return };
        let before = self.folds[0].metric.clone();
        let metric = match self.meads.metric {
            MomentumMetric::Diag => {
                self.moments.fit_plain(&Metric::diagonal(&before.inv_mass_diagonal(), before.center.clone()))
            }
            MomentumMetric::LowRank => {
                let most = FITTED_POINTS.max(CHECKED_POINTS);
                fit::fit(&self.sample, most, &before, &first.settings, f64::INFINITY, true)
                    .and_then(|(metric, _)| metric)
            }
        };
        let metric = metric.filter(Metric::is_usable).map_or(before, Arc::new);
        self.folds.iter_mut().for_each(|fold| fold.metric = metric.clone());
        self.fixed = Some(metric);
    }

    /// What the folds call for now.
    fn look(&mut self, walkers: &[&mut Walker]) {
        for fold in 0..self.folds.len() {
            let all = self.members(fold).iter().map(|chain| &walkers[*chain]);
            let mut members: Vec<_> = all.clone().filter(|walker| !walker.lagging).collect();
            if members.len() < 2 {
                members = all.collect();
            }
            let positions: Vec<&[f64]> = members.iter().map(|walker| &walker.x[..]).collect();
            let gradients: Vec<&[f64]> = members.iter().map(|walker| &walker.g[..]).collect();
            let diagonal = self.meads.metric == MomentumMetric::Diag && self.fixed.is_none();
            let Fold { metric, pace } = &mut self.folds[fold];
            if diagonal {
                let scales = meads::scales(&positions, &metric.stds);
                let (values, vectors, center) = (Vec::new(), Vec::new(), metric.center.clone());
                let found = Metric { stds: scales, values, vectors, center };
                if found.is_usable() {
                    *metric = Arc::new(found);
                }
            }
            if let Some(found) = meads::pace(&positions, &gradients, metric, self.meads.step_scale) {
                *pace = found;
            }
            if self.fixed.is_some() {
                let Pace { step, damping } = *pace;
                self.sums = [self.sums[0] + step.ln(), self.sums[1] + damping.ln()];
                self.count += 1.0;
            }
        }
    }

    /// Let each fold follow the one before it.
    fn give(&self, tune: u64, walkers: &mut [&mut Walker]) {
        let folds = self.folds.len();
        let resting = (self.fixed.is_none() && folds > 1).then_some(self.round as usize % folds);
        for fold in 0..folds {
            let Fold { metric, pace } = &self.folds[(fold + folds - 1) % folds];
            let step = pace.step * self.shrinkage.exp();
            let slow = if self.fixed.is_some() {
                0.0
            } else {
                self.meads.slowdown / ((self.round + 1) as f64 * step)
            };
            let pace = Pace { step, damping: pace.damping.max(slow) };
            for chain in self.members(fold) {
                let walker = &mut walkers[*chain];
                if Some(fold) != resting && walker.made < tune {
                    walker.give(metric, pace);
                    walker.waiting = false;
                }
            }
        }
    }

    /// The warm-up is over: all chains go on with the same.
    fn finish(&mut self, tune: u64, walkers: &mut [&mut Walker]) -> Option<Check> {
        let [step, damping] = self.sums.map(|sum| (sum / self.count.max(1.0)).exp());
        let pace = Pace { step: step * self.shrinkage.exp(), damping };
        let metric = self.fixed.clone()?;
        for walker in walkers {
            walker.give(&metric, pace);
            walker.waiting = false;
        }
        let top = top_eigenvalue(&self.sample.select(CHECKED_POINTS), &metric)?;
        Some(Check { draws: tune, top_eigenvalue: top, extended: false })
    }
}

/// Mark the chains that are far below the others.
fn find_lagging(walkers: &mut [&mut Walker]) {
    let mut heights: Vec<f64> = walkers.iter().map(|walker| walker.logp).collect();
    heights.sort_by(f64::total_cmp);
    let Some(median) = heights.get(heights.len() / 2) else { return };
    for walker in walkers {
        walker.lagging = walker.logp < median - MIN_LAG.max(walker.x.len() as f64);
    }
}
