//! Chains that warm up together.
//!
//! Early on every chain has a metric and a step size of its own, so that none that is stuck far away can spoil the others,
//! and none that is far out is kept from learning. Then the chains near the best one join their points and share a metric
//! and a step size; the others go on by themselves. Chains meet after a draw, in the order of their numbers, so nothing
//! depends on which was first.

use serde::{Deserialize, Serialize};

use super::Adaptation;
use super::ensemble::Ensemble;
use super::group::{Group, Reason};
use super::handover::{self, Verdict};
use super::member::{Change, Member};
use super::step_size::DualAverage;
use super::walker::Walker;
use crate::estimator::metric_check::top_eigenvalue;
use crate::estimator::points::Point;

/// Above this top eigenvalue of the distribution in the coordinates of the metric, as late draws show it, the metric is bad.
const BAD_EIGENVALUE: f64 = 9.0;

/// Draws between the occasions on which chains may join the others.
const JOIN_EVERY: u64 = 10;

/// Draws by which a warm-up is extended, the most it may have before, and the share of the last top eigenvalue below which
/// a second extension is worth its cost.
const EXTENSION: u64 = 100;
const LONGEST_EXTENDED: u64 = 550;
const WORTHWHILE: f64 = 0.65;

/// Most draws of a warm-up that may be extended, unless it was planned longer.
pub const LONGEST_TUNE: u64 = LONGEST_EXTENDED + EXTENSION;

/// The check of the metric at the end of a warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// Warm-up draws so far.
    pub draws: u64,
    /// Top eigenvalue of the distribution's covariance in the coordinates of the metric, estimated from late draws.
    pub top_eigenvalue: f64,
    /// Whether the warm-up was extended.
    pub extended: bool,
}

/// What the chains of a run share while they warm up.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Pool {
    group: Option<Group>,
    step: Option<DualAverage>,
    checks: Vec<Check>,
    ensemble: Option<Box<Ensemble>>,
}

impl Pool {
    /// The checks at the end of the warm-up.
    pub fn checks(&self) -> &[Check] {
        &self.checks
    }

    /// What the chains that joined share.
    pub fn group(&self) -> Option<&Group> {
        self.group.as_ref()
    }

    /// All chains wait for each other, in the order of their numbers.
    pub fn hold(&mut self, chains: Vec<&mut Adaptation>) {
        let (mut members, mut walkers): (Vec<&mut Member>, Vec<&mut Walker>) = (Vec::new(), Vec::new());
        for chain in chains {
            match chain {
                Adaptation::Pooled(member) => members.push(member),
                Adaptation::Ensemble(walker) => walkers.push(walker),
                _ => (),
            }
        }
        self.meet(&mut members);
        self.ensemble = self.ensemble.take().or_else(|| Ensemble::new(&walkers).map(Box::new));
        let check = self.ensemble.as_mut().and_then(|ensemble| ensemble.meet(&mut walkers));
        self.checks.extend(check);
    }

    /// All chains of the pool have made the same number of draws and wait. Afterwards none does.
    pub fn meet(&mut self, members: &mut [&mut Member]) {
        let Some(first) = members.first() else { return };
        if first.handover().is_some_and(|handover| handover.round().is_some()) {
            let shared = self.group.is_some();
            handover::tune(members, |member| member.goes_alone(shared));
            members.iter_mut().for_each(|member| member.waiting = false);
            return;
        }
        let (draw, tune) = (first.latest.draw, first.tune);
        let (early_end, first_final, pooled_from) = (first.early_end, first.final_start, first.pooled_from());
        find_lagging(members);
        if members.len() > 1 {
            self.advance(draw, members);
            let since = (draw + 1).checked_sub(early_end);
            if since.is_some_and(|draws| draws.is_multiple_of(JOIN_EVERY)) && draw + 1 < first_final {
                self.join(members);
            }
        }
        if draw >= pooled_from {
            self.update_step(members);
        }
        if draw + 1 == tune {
            let verdict = self.check(tune, members);
            if members.iter().all(|member| member.tune == tune) {
                handover::choose(members, verdict);
            }
        }
        members.iter_mut().for_each(|member| member.waiting = false);
    }

    /// Join the chains that do not lag and have a metric of their own.
    fn join(&mut self, members: &mut [&mut Member]) {
        let Some(group) = &mut self.group else { return self.merge(members) };
        let late = group.is_late();
        for member in members.iter_mut().filter(|member| !member.lagging && member.group.is_some()) {
            // What it has seen on its way does not help the others.
            member.share(
                group.join(),
                late,
                Change::new(member.latest.draw, Reason::Merge, 0, group.metric()),
            );
        }
    }

    /// The first chains to share a metric.
    fn merge(&mut self, members: &mut [&mut Member]) {
        let near: Vec<&mut &mut Member> = members.iter_mut().filter(|member| !member.lagging).collect();
        if near.len() < 2 {
            return;
        }
        let (draw, settings) = (near[0].latest.draw, near[0].settings.clone());
        let groups = near.into_iter().filter_map(|member| member.group.take()).collect();
        let Some(mut group) = Group::merge(groups) else { return };
        group.fit(draw, false, &settings);
        order(members, &group, Reason::Merge);
        self.group = Some(group);
    }

    /// Take in the points of the chains that share a metric.
    fn advance(&mut self, draw: u64, members: &mut [&mut Member]) {
        let Some(group) = &mut self.group else { return };
        let (mut usable, mut gradients) = (0, 0);
        let mut settings = None;
        for member in members.iter_mut().filter(|member| member.group.is_none()) {
            for [x, g] in member.fresh.drain(..) {
                group.push(&x, &g);
            }
            usable += usize::from(member.latest.usable);
            gradients += member.latest.n_steps;
            settings.get_or_insert_with(|| member.settings.clone());
        }
        let Some(settings) = settings else { return };
        let reason = group.advance(draw, usable, gradients, &settings);
        for member in members.iter_mut().filter(|member| member.group.is_none()) {
            member.late = group.is_late();
        }
        if let Some(reason) = reason {
            order(members, group, reason);
        }
    }

    /// One step size for all chains that do not lag, by dual averaging of their mean acceptance statistic. Others, and those
    /// with another metric than the rest, have a step size of their own.
    fn update_step(&mut self, members: &mut [&mut Member]) {
        let shared = self.group.is_some();
        let (near, apart): (Vec<&mut &mut Member>, Vec<_>) =
            members.iter_mut().partition(|member| !member.goes_alone(shared));
        for member in apart {
            let accept = member.accept();
            member.step.update(accept, &member.settings);
        }
        let Some(settings) = near.first().map(|member| member.settings.clone()) else { return };
        let step = self.step.get_or_insert_with(|| {
            DualAverage::near(median(near.iter().map(|member| member.step.average()).collect()))
        });
        let accept = near.iter().map(|member| member.accept()).sum::<f64>() / near.len() as f64;
        step.update(accept, &settings);
        for member in near {
            member.step = step.clone();
        }
    }

    /// At the end of the warm-up: is the metric good? If not, go on for a while.
    fn check(&mut self, tune: u64, members: &mut [&mut Member]) -> Verdict {
        let nothing = Verdict { top_eigenvalue: None, bad_metric: false };
        // Chains that went on by themselves have metrics of their own, which nobody else uses.
        let of_group = |member: &&&mut Member| self.group.is_none() || member.group.is_none();
        let own = members.first().and_then(|member| member.group.as_ref());
        let Some(metric) = self.group.as_ref().or(own).map(|group| group.metric().clone()) else {
            return nothing;
        };
        let recent: Vec<Point<'_>> = members
            .iter()
            .filter(of_group)
            .flat_map(|member| member.recent.iter().map(|[x, g]| Point { x, g }))
            .collect();
        let Some(top) = top_eigenvalue(&recent, &metric) else { return nothing };
        let verdict = Verdict { top_eigenvalue: Some(top), bad_metric: top > BAD_EIGENVALUE };
        let bad = top > BAD_EIGENVALUE || members.iter().any(|member| member.lagging);
        let worthwhile = self.checks.last().is_none_or(|last| top < WORTHWHILE * last.top_eigenvalue);
        let wanted = members.first().is_some_and(|member| member.settings.extend);
        let extended = wanted && bad && worthwhile && tune <= LONGEST_EXTENDED;
        self.checks.push(Check { draws: tune, top_eigenvalue: top, extended });
        if extended {
            if let Some(group) = &mut self.group {
                group.extend(EXTENSION);
            }
            members.iter_mut().for_each(|member| member.extend(EXTENSION));
        }
        verdict
    }
}

/// Mark the chains that are far below the best one: the best of their last draws below what is typical of it. Where scales
/// vary, as in a funnel, single draws are often that far apart.
fn find_lagging(members: &mut [&mut Member]) {
    let best = members.iter().map(|member| member.typical()).fold(f64::NEG_INFINITY, f64::max);
    for member in members {
        member.lagging = member.highest() < best - member.tolerance();
    }
}

/// Give the metric of a group to the chains that share it.
fn order(members: &mut [&mut Member], group: &Group, reason: Reason) {
    let draw = members.first().map_or(0, |member| member.latest.draw);
    let change = Change::new(draw, reason, group.n_points(), group.metric());
    for member in members.iter_mut().filter(|member| member.group.is_none()) {
        member.order(change.clone(), group.metric().clone());
    }
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    let n = numbers.len();
    // Of logarithms, since these are step sizes.
    if n == 0 { f64::NAN } else { (numbers[n / 2] * numbers[(n - 1) / 2]).sqrt() }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::adapt::Draw;
    use crate::adapt::settings::{AdaptSettings, Scheme};
    use crate::metric::Metric;
    use crate::rng::{Key, Purpose, fill_normal};

    const DIM: usize = 3;
    const TUNE: u64 = 150;
    const NEAR: f64 = -5.0;
    const FAR: f64 = -1000.0;

    /// What a chain reports of a draw.
    #[derive(Clone, Copy)]
    struct Told {
        logp: f64,
        accept: f64,
        /// Standard deviation of the first coordinate.
        width: f64,
    }

    const WELL: Told = Told { logp: NEAR, accept: 0.8, width: 1.0 };

    struct Chains {
        pool: Pool,
        members: Vec<Member>,
        draw: u64,
    }

    impl Chains {
        fn new(extend: bool) -> Self {
            let settings = AdaptSettings { extend, ..AdaptSettings::new(Scheme::Auto) };
            let metric = Arc::new(Metric::diagonal(&[1.0; DIM], vec![0.0; DIM]));
            let members = (0..4).map(|_| {
                let mut member = Member::new(TUNE, 4, DIM, &settings);
                member.start(
                    &Draw { point: Some([&[1.0; DIM], &[-1.0; DIM]]), ..Draw::default() },
                    metric.clone(),
                );
                member
            });
            Chains { pool: Pool::default(), members: members.collect(), draw: 0 }
        }

        /// Draws up to, but without, that of an index.
        fn go(&mut self, until: u64, of: impl Fn(u64, usize) -> Told) {
            while self.draw < until {
                for (chain, member) in self.members.iter_mut().enumerate() {
                    let Told { logp, accept, width } = of(self.draw, chain);
                    let mut x = [0.0; DIM];
                    let key = Key { seed: 1, chain: chain as u32, draw: self.draw as u32 };
                    fill_normal(key, Purpose::Momentum, &mut x);
                    let mut g = x.map(|x| -x);
                    (x[0], g[0]) = (x[0] * width, g[0] / width);
                    let accept = [accept; 2];
                    let draw = Draw {
                        index: self.draw,
                        logp,
                        accept,
                        n_steps: 7,
                        distance: 3,
                        point: Some([&x, &g]),
                        ..Draw::default()
                    };
                    member.observe(&draw);
                }
                let waiting = self.members.iter().filter(|member| member.is_waiting()).count();
                assert!(waiting == 0 || waiting == 4);
                if waiting > 0 {
                    self.pool.meet(&mut self.members.iter_mut().collect::<Vec<_>>());
                }
                self.draw += 1;
            }
        }

        fn alone(&self) -> Vec<usize> {
            (0..4).filter(|chain| self.members[*chain].group().is_some()).collect()
        }

        fn steps(&self) -> Vec<f64> {
            self.members.iter().map(|member| member.step().current()).collect()
        }
    }

    #[test]
    fn chains_near_the_best_join_and_late_ones_later() {
        let mut chains = Chains::new(false);
        let told = |draw, chain| Told { logp: if chain == 2 && draw < 58 { FAR } else { NEAR }, ..WELL };
        chains.go(44, told);
        assert_eq!(chains.alone(), [0, 1, 2, 3]);
        chains.go(64, told);
        assert_eq!(chains.alone(), [2]);
        chains.go(65, told);
        assert!(chains.alone().is_empty());
        let metric = chains.pool.group().unwrap().metric().clone();
        assert_eq!(chains.members[2].take_metric().as_ref(), Some(&metric));
    }

    #[test]
    fn single_draws_do_not_make_a_chain_lag() {
        let mut chains = Chains::new(false);
        // As in a funnel: each chain is far down now and then, and one far up at the wrong moment.
        let told = |draw: u64, chain: usize| match (draw % 7 == chain as u64, draw == 44 && chain == 0) {
            (true, _) => Told { logp: FAR, ..WELL },
            (_, true) => Told { logp: 1000.0, ..WELL },
            _ => WELL,
        };
        chains.go(45, told);
        assert!(chains.alone().is_empty());
        assert!(chains.members.iter().all(|member| !member.is_lagging()));
    }

    #[test]
    fn one_step_size_for_those_that_share_and_another_for_those_behind() {
        let mut chains = Chains::new(false);
        let told = |draw: u64, chain| {
            let logp = if chain == 3 { FAR } else { NEAR };
            let accept = if chain == 3 { 0.2 } else { 0.7 + 0.1 * ((draw as usize + chain) % 3) as f64 };
            Told { logp, accept, ..WELL }
        };
        chains.go(19, told);
        let own = chains.steps();
        assert!((0..3).all(|chain| own[chain] != own[(chain + 1) % 3]), "{own:?}");
        chains.go(100, told);
        let steps = chains.steps();
        assert!(steps[0] == steps[1] && steps[1] == steps[2]);
        // Dual averaging moves against the mean acceptance, here that of three chains: 0.8 in every draw.
        assert!(steps[3] < 0.2 * steps[0], "{steps:?}");
    }

    #[test]
    fn a_bad_metric_lengthens_the_warm_up_as_long_as_that_helps() {
        // After the last fit the first direction turns out to be wider than the metric says.
        let told = |widths: [f64; 2]| {
            move |draw: u64, _| Told {
                width: match draw {
                    0..128 => 1.0,
                    128..228 => widths[0],
                    _ => widths[1],
                },
                ..WELL
            }
        };
        let lengths = |extend, widths| {
            let mut chains = Chains::new(extend);
            chains.go(TUNE, told(widths));
            let first = chains.members[0].tune();
            chains.go(first, told(widths));
            let again = chains.members[3].tune();
            let top: Vec<f64> = chains.pool.checks().iter().map(|check| check.top_eigenvalue).collect();
            (first, again, top)
        };
        // Narrow points are in the sample still when the first extension ends.
        let (first, again, top) = lengths(true, [20.0, 20.0]);
        assert_eq!((first, again), (250, 350), "{top:?}");
        assert!(top[0] > 9.0 && top[1] > 9.0 && top[1] < 0.65 * top[0], "{top:?}");
        let (first, _, top) = lengths(true, [1.0, 1.0]);
        assert_eq!((first, top.len()), (TUNE, 1));
        let (first, _, top) = lengths(false, [20.0, 20.0]);
        assert!(first == TUNE && top.len() == 1 && top[0] > 9.0);
        // Worse than before is no reason to go on.
        let (first, again, top) = lengths(true, [20.0, 40_000.0]);
        assert_eq!((first, again), (250, 250), "{top:?}");
        assert!(top[1] > 0.65 * top[0], "{top:?}");
    }
}
