//! What one chain knows in a pooled warm-up, between its meetings with the others.

use std::collections::VecDeque;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::group::{Group, Reason};
use super::handover::Handover;
use super::settings::AdaptSettings;
use super::step_size::DualAverage;
use super::{Draw, MIN_STEPS_OF_DIVERGENT};
use crate::metric::Metric;

/// In the first draws each chain has a step size of its own and trajectories are short: chains may still be far from each
/// other.
const SOLO: u64 = 20;

/// A chain lags where its log density is below the best by more than this or the number of parameters.
const MIN_LAG: f64 = 20.0;

/// The check of the metric at the end looks at the last draws: so many, no more than this share of the warm-up, whose
/// beginning is on the way in, and at most so many of all chains, or fewer where each has many parameters.
const CHECKED_DRAWS: u64 = 90;
const CHECKED_SHARE: f64 = 0.6;
const CHECKED_POINTS: u64 = 200;
const CHECKED_NUMBERS: u64 = 200_000;
const LEAST_CHECKED: u64 = 100;

/// Whether a chain lags is judged by so many of its last draws.
const RECENT: usize = 10;

/// A change of the metric.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// Index of the draw after which it changed.
    pub draw: u64,
    /// Why.
    pub reason: Reason,
    /// Points that the metric was fitted to.
    pub points: usize,
    /// Scales of the new metric.
    pub stds: Vec<f64>,
    /// Eigenvalues of the new metric that are not 1.
    pub values: Vec<f64>,
}

impl Change {
    pub(super) fn new(draw: u64, reason: Reason, points: usize, metric: &Metric) -> Arc<Self> {
        // Not the eigenvectors, which would fill the memory where there are many parameters.
        Arc::new(Change { draw, reason, points, stds: metric.stds.clone(), values: metric.values.clone() })
    }
}

/// The state of a chain in a pooled warm-up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Member {
    pub(super) settings: AdaptSettings,
    /// Warm-up draws, which the pool may increase.
    pub(super) tune: u64,
    dim: usize,
    /// Chains of the pool.
    chains: u64,
    pub(super) step: DualAverage,
    /// The metric and points of the chain, until it shares those of the pool.
    pub(super) group: Option<Group>,
    /// Positions and gradients that the pool has not taken yet.
    pub(super) fresh: Vec<[Vec<f64>; 2]>,
    pub(super) early_end: u64,
    pub(super) final_start: u64,
    pub(super) late: bool,
    pub(super) lagging: bool,
    pub(super) waiting: bool,
    pub(super) latest: Latest,
    /// Log densities of the last draws.
    heights: VecDeque<f64>,
    /// Positions and gradients of late draws.
    pub(super) recent: Vec<[Vec<f64>; 2]>,
    /// What comes after the warm-up, unless the kernel stays.
    pub(super) handover: Option<Handover>,
    /// Metric to be used from the next draw on.
    ordered: Option<Arc<Metric>>,
    metric_changed: bool,
    search_pending: bool,
    changes: Vec<Arc<Change>>,
}

/// What the pool needs to know of the latest draw.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Latest {
    pub draw: u64,
    pub accept: [f64; 2],
    pub n_steps: u64,
    pub usable: bool,
}

impl Member {
    /// One of `chains` that pool what they know.
    pub fn new(tune: u64, chains: usize, dim: usize, settings: &AdaptSettings) -> Self {
        let group = Group::new(tune, settings, Arc::new(Metric::diagonal(&vec![1.0; dim], vec![0.0; dim])));
        Member {
            settings: settings.clone(),
            tune,
            dim,
            chains: chains as u64,
            step: DualAverage::new(settings.initial_step),
            early_end: group.windows().early_end(),
            final_start: group.windows().final_start(),
            group: Some(group),
            fresh: Vec::new(),
            late: false,
            lagging: false,
            waiting: false,
            latest: Latest::default(),
            heights: VecDeque::new(),
            recent: Vec::new(),
            handover: None,
            ordered: None,
            metric_changed: false,
            search_pending: true,
            changes: Vec::new(),
        }
    }

    /// The first point, and the metric to begin with.
    pub fn start(&mut self, first: &Draw<'_>, metric: Arc<Metric>) {
        let mut group = Group::new(self.tune, &self.settings, metric.clone());
        if let Some([x, g]) = first.point {
            group.push(x, g);
        }
        self.group = Some(group);
        self.changes = vec![Change::new(0, Reason::Start, 1, &metric)];
    }

    /// The settings.
    pub fn settings(&self) -> &AdaptSettings {
        &self.settings
    }

    /// Warm-up draws.
    pub fn tune(&self) -> u64 {
        self.tune
    }

    /// The adaptation of the step size.
    pub(super) fn step(&self) -> &DualAverage {
        &self.step
    }

    /// Whether a step size is to be searched before the next draw.
    pub fn search_pending(&self) -> bool {
        self.search_pending
    }

    /// The adaptation of the step size, and whether a search is to begin it anew.
    pub(super) fn step_to_search(&mut self) -> (&mut DualAverage, &mut bool) {
        (&mut self.step, &mut self.search_pending)
    }

    /// Largest number of doublings of a draw, if there is a limit of its own.
    pub fn max_depth(&self, draw: u64) -> Option<u32> {
        (draw < SOLO.min(self.tune)).then_some(self.settings.early_max_depth as u32)
    }

    /// Whether points of this draw's trajectory are of use.
    pub fn collects(&self, draw: u64) -> bool {
        draw < self.final_start
    }

    /// Whether the chain must wait for the others before its next draw.
    pub fn is_waiting(&self) -> bool {
        self.waiting
    }

    /// The metric to use from the next draw on, if it is a new one.
    pub fn take_metric(&mut self) -> Option<Arc<Metric>> {
        self.ordered.take()
    }

    /// How the metric changed so far.
    pub fn changes(&self) -> &[Arc<Change>] {
        &self.changes
    }

    /// The metric and points of the chain, unless it shares those of the pool.
    pub fn group(&self) -> Option<&Group> {
        self.group.as_ref()
    }

    /// Whether the chain was far below the best one when they met last.
    pub fn is_lagging(&self) -> bool {
        self.lagging
    }

    /// Whether the chain keeps a step size of its own where others share one, and perhaps (`shared`) a metric.
    pub(super) fn goes_alone(&self, shared: bool) -> bool {
        self.lagging || (self.group.is_some() && shared)
    }

    /// How far the log density may be below that of the best chain: the number of parameters, or so.
    pub(super) fn tolerance(&self) -> f64 {
        MIN_LAG.max(self.dim as f64)
    }

    /// The warm-up is longer than was planned.
    pub(super) fn extend(&mut self, draws: u64) {
        self.tune += draws;
        self.final_start += draws;
        self.late = false;
        self.recent.clear();
        if let Some(group) = &mut self.group {
            group.extend(draws);
        }
    }

    /// Another kernel may take over after the warm-up.
    pub fn hand_over(&mut self, handover: Handover) {
        self.handover = Some(handover);
    }

    /// What comes after the warm-up, unless the kernel stays.
    pub fn handover(&self) -> Option<&Handover> {
        self.handover.as_ref()
    }

    /// What comes after the warm-up, unless the kernel stays.
    pub fn handover_mut(&mut self) -> Option<&mut Handover> {
        self.handover.as_mut()
    }

    /// Take in a transition that tunes the kernel of the draws.
    pub fn observe_tuning(&mut self, accept: f64, steps: u64) {
        if let Some(handover) = &mut self.handover {
            handover.observe(accept, steps);
            self.waiting = true;
        }
    }

    /// First draw with the step size of the pool.
    pub(super) fn pooled_from(&self) -> u64 {
        if self.chains == 1 { u64::MAX } else { SOLO.min(self.early_end) }
    }

    /// Take in a warm-up draw.
    pub fn observe(&mut self, draw: &Draw<'_>) {
        if let Some(point) = draw.point {
            self.remember(draw.index, point);
        }
        if self.heights.len() == RECENT {
            self.heights.pop_front();
        }
        self.heights.push_back(draw.logp);
        let usable = self.collects(draw.index) && self.take_points(draw);
        let Draw { index, accept, n_steps, .. } = *draw;
        self.latest = Latest { draw: index, accept, n_steps, usable };
        if let Some(handover) = &mut self.handover {
            handover.price(n_steps);
        }
        if let Some(group) = &mut self.group {
            let reason = group.advance(index, usize::from(usable), n_steps, &self.settings);
            self.late = group.is_late();
            if let Some(reason) = reason {
                let metric = group.metric().clone();
                let change = Change::new(index, reason, group.n_points(), &metric);
                self.order(change, metric);
            }
        }
        if index < self.pooled_from() {
            self.step.update(self.accept(), &self.settings);
        }
        self.waiting = index >= self.pooled_from()
            || index + 1 == self.tune
            || (self.chains > 1 && index + 1 == self.early_end);
    }

    /// Share the metric of the pool from now on.
    pub(super) fn share(&mut self, metric: Arc<Metric>, late: bool, change: Arc<Change>) {
        self.group = None;
        self.late = late;
        self.order(change, metric);
    }

    /// The acceptance statistic of the latest draw.
    pub(super) fn accept(&self) -> f64 {
        // Where the metric is not going to change much, the statistic that lets the step size be a little larger.
        self.latest.accept[usize::from(self.late)]
    }

    fn take_points(&mut self, draw: &Draw<'_>) -> bool {
        if draw.diverging && draw.n_steps <= MIN_STEPS_OF_DIVERGENT {
            return false;
        }
        let points = draw.point.filter(|_| draw.distance > 0).into_iter().chain(draw.recycled);
        let mut any = false;
        for [x, g] in points {
            any = true;
            match &mut self.group {
                Some(group) => group.push(x, g),
                None => self.fresh.push([x.to_vec(), g.to_vec()]),
            }
        }
        any
    }

    /// Keep a late draw for the check at the end.
    fn remember(&mut self, draw: u64, point: [&[f64]; 2]) {
        let checked = CHECKED_DRAWS.min((CHECKED_SHARE * self.tune as f64) as u64);
        let most = (CHECKED_NUMBERS / self.dim.max(1) as u64).clamp(LEAST_CHECKED, CHECKED_POINTS);
        let every = (checked * self.chains).div_ceil(most).max(1);
        if draw + checked >= self.tune && draw.is_multiple_of(every) {
            self.recent.push(point.map(<[f64]>::to_vec));
        }
    }

    /// The largest log density of the last draws.
    pub(super) fn highest(&self) -> f64 {
        self.heights.iter().copied().fold(f64::NEG_INFINITY, f64::max)
    }

    /// The median log density of the last draws.
    pub(super) fn typical(&self) -> f64 {
        let mut heights: Vec<f64> = self.heights.iter().copied().collect();
        heights.sort_by(f64::total_cmp);
        heights.get(heights.len() / 2).copied().unwrap_or(f64::NEG_INFINITY)
    }

    /// Use another metric from the next draw on.
    pub(super) fn order(&mut self, change: Arc<Change>, metric: Arc<Metric>) {
        // The first metric is a guess from one gradient; what fits it says little about the next one.
        self.search_pending = !self.metric_changed;
        self.metric_changed = true;
        self.changes.push(change);
        self.ordered = Some(metric);
    }
}
