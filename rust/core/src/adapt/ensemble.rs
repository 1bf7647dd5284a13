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
use super::walker::Walker;
use crate::estimator::metric_check::top_eigenvalue;
use crate::estimator::points::PointSample;
use crate::estimator::welford::Welford;
use crate::metric::Metric;
use crate::rng::{Key, Purpose, Stream};

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapt::Draw;
    use crate::kernel::Sampler;
    use crate::kernel::transitions::Tuned;
    use crate::rng::fill_normal;
    use crate::settings::Settings;

    const DIM: usize = 3;
    const TUNE: u64 = 50;

    /// Twelve chains in four folds on a normal distribution of which each may know another width.
    struct Chains {
        ensemble: Ensemble,
        walkers: Vec<Walker>,
        checks: Vec<Check>,
    }

    fn walker(chain: usize, made: u64, width: f64) -> [Vec<f64>; 2] {
        let mut x = vec![0.0; DIM];
        fill_normal(Key { seed: 2, chain: chain as u32, draw: made as u32 }, Purpose::Momentum, &mut x);
        let g = x.iter().map(|x| -x / width).collect();
        x.iter_mut().for_each(|x| *x *= width);
        [x, g]
    }

    impl Chains {
        fn new(meads: MeadsSettings) -> Self {
            let settings =
                Settings { seed: 1, tune: TUNE, sampler: Sampler::Meads, meads, ..Settings::default() };
            let metric = Arc::new(Metric::diagonal(&[4.0; DIM], vec![0.0; DIM]));
            let walkers = (0..12).map(|chain| {
                let mut walker = Walker::new(&settings);
                let [x, g] = self::walker(chain, 0, 1.0);
                walker.start(&Draw { point: Some([&x, &g]), ..Draw::default() }, -1.0, metric.clone());
                walker
            });
            let mut walkers: Vec<Walker> = walkers.collect();
            let ensemble = Ensemble::new(&walkers.iter_mut().collect::<Vec<_>>()).unwrap();
            Chains { ensemble, walkers, checks: Vec::new() }
        }

        fn meet(&mut self) {
            self.checks.extend(self.ensemble.meet(&mut self.walkers.iter_mut().collect::<Vec<_>>()));
        }

        /// Each chain that may go makes a draw of some width, with this acceptance.
        fn draw(&mut self, width: impl Fn(usize) -> f64, accept: f64) {
            for (chain, walker) in self.walkers.iter_mut().enumerate().filter(|(_, walker)| !walker.waiting) {
                let [x, g] = self::walker(chain, walker.made + 1, width(chain));
                walker.keep(&Draw { point: Some([&x, &g]), ..Draw::default() });
                (walker.accept, walker.moved, walker.waiting) = (accept, true, true);
                walker.made += 1;
            }
        }

        fn finish(&mut self, width: impl Fn(usize) -> f64 + Copy, accept: f64) -> Tuned {
            self.meet();
            while self.checks.is_empty() {
                self.draw(width, accept);
                self.meet();
            }
            let tuned: Vec<Tuned> =
                self.walkers.iter_mut().map(|walker| walker.take_order().unwrap().tuned).collect();
            assert!(tuned.iter().all(|t| *t == tuned[0]));
            tuned[0]
        }
    }

    #[test]
    fn each_fold_follows_the_one_before_it() {
        let mut chains = Chains::new(MeadsSettings::default());
        chains.meet();
        // Round 0, in which fold 0 rests.
        for fold in 0..4 {
            let before: Vec<&[f64]> = chains
                .ensemble
                .members((fold + 3) % 4)
                .iter()
                .map(|chain| &chains.walkers[*chain].x[..])
                .collect();
            let scales = meads::scales(&before, &[f64::NAN; DIM]);
            for chain in chains.ensemble.members(fold) {
                let walker = &chains.walkers[*chain];
                assert_eq!(walker.waiting, fold == 0);
                assert_eq!(walker.order.is_none(), fold == 0);
                let metric = walker.order.as_ref().and_then(|order| order.metric.as_ref());
                assert!(metric.is_none_or(|metric| metric.stds == scales), "{fold}");
            }
        }
    }

    #[test]
    fn chains_change_places_when_all_folds_have_rested() {
        let mut chains = Chains::new(MeadsSettings::default());
        let mut places = Vec::new();
        for _ in 0..12 {
            chains.meet();
            places.push(chains.ensemble.places.clone());
            chains.draw(|_| 1.0, 0.9);
        }
        for (round, pair) in places.windows(2).enumerate() {
            assert_eq!(pair[0] != pair[1], round % 4 == 3, "{round}");
        }
        let mut sorted = places[11].clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..12).collect::<Vec<_>>());
    }

    #[test]
    fn the_metric_of_the_draws_is_that_of_all_chains() {
        // One fold of chains would never see the others' widths at once.
        let width = |chain: usize| if chain < 6 { 1.0 } else { 7.0 };
        let mut chains = Chains::new(MeadsSettings::default());
        chains.finish(width, 0.9);
        let variance = (1.0 + 49.0) / 2.0;
        let stds = &chains.ensemble.fixed.as_ref().unwrap().stds;
        assert!(stds.iter().all(|s| (s * s / variance - 1.0).abs() < 0.3), "{stds:?}");
        assert!(chains.walkers.iter().all(|walker| walker.metric.stds == *stds));
    }

    #[test]
    fn steps_get_smaller_where_too_many_are_rejected() {
        let tuned = |accept, target_accept| {
            let mut chains = Chains::new(MeadsSettings { target_accept, ..MeadsSettings::default() });
            chains.finish(|_| 1.0, accept)
        };
        let plain = tuned(0.9, 0.8);
        // 0.5 / (tr(C^2) / tr(C))^(1/2) with C near I, or so from twelve draws.
        assert!((0.3..0.9).contains(&plain.step) && (0.5..2.0).contains(&plain.length), "{plain:?}");
        assert_eq!(tuned(0.99, 0.8), plain);
        assert_eq!(tuned(0.5, 0.0), plain);
        let small = tuned(0.5, 0.8);
        assert!(small.step < 0.1 * plain.step && small.length == plain.length, "{small:?}");
    }

    #[test]
    fn chains_far_below_the_others_do_not_count() {
        let (mut chains, lost) = (Chains::new(MeadsSettings::default()), 4);
        let plain = chains.finish(|_| 1.0, 0.9);
        let mut chains = Chains::new(MeadsSettings::default());
        chains.walkers[lost].logp = -1e6;
        let width = |chain| if chain == lost { 1e5 } else { 1.0 };
        let tuned = chains.finish(width, 0.9);
        assert!(
            chains.walkers[lost].lagging && (tuned.step / plain.step).ln().abs() < 0.4,
            "{tuned:?} {plain:?}"
        );
        assert!(chains.ensemble.fixed.unwrap().stds.iter().all(|s| *s < 2.0));
    }

    #[test]
    fn damping_is_strong_at_first() {
        let mut chains = Chains::new(MeadsSettings { slowdown: 5.0, ..MeadsSettings::default() });
        chains.meet();
        let Tuned { length, step, .. } = chains.walkers.iter().find_map(|w| w.order.as_ref()).unwrap().tuned;
        assert!((length * 5.0 / step - 1.0).abs() < 1e-12, "1 / (5 / (1 e))");
    }
}
