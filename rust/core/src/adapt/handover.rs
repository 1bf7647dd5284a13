//! From the warm-up to the draws: which kernel makes them, and the transitions that tune it.
//!
//! The warm-up is done with the no-U-turn sampler. At its end the last check of the metric decides whether another kernel
//! takes over. That one makes some transitions that are no draws, one at a time: after each the chains meet, and those that
//! do not lag share a step size by dual averaging of their mean acceptance probability. Then all is fixed.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::member::Member;
use super::plan::Plan;
use super::settings::AdaptSettings;
use super::step_size::DualAverage;
use crate::kernel::transitions::Tuned;
use crate::kernel::{Kind, Sampler};
use crate::settings::Settings;

/// Draws of the warm-up whose cost a draw of the other kernel is to have.
const PRICED_DRAWS: usize = 50;

/// Transitions of each chain that tune the step size: these, or fewer when they have taken a share of the gradients of the
/// warm-up, but no fewer than the kernel wants at least. With a quarter of them the step size was noise where acceptance varies from place to
/// place, and chains got stuck in one run of five.
const ROUNDS: u64 = 100;
const SHARE_OF_WARMUP: f64 = 0.15;

/// Fewest parameters of 'auto', and of the microcanonical kernel at all.
const FEW_PARAMETERS: usize = 3;
const LEAST_PARAMETERS: usize = 2;

/// Why a kernel was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Why {
    /// It was asked for.
    Asked,
    /// The metric is good and no chain lags.
    GoodMetric,
    /// The metric does not fit the late draws.
    BadMetric,
    /// There were too few late draws to judge the metric by.
    NoCheck,
    /// A chain lags.
    Lagging,
    /// There are too few parameters.
    FewParameters,
    /// Chains warmed up by themselves.
    Unpooled,
}

impl Why {
    /// As a result puts it.
    pub fn text(self) -> &'static str {
        match self {
            Why::Asked => "it was asked for",
            Why::GoodMetric => "the metric is good and no chain lags",
            Why::BadMetric => "the metric did not fit the late draws of the warm-up",
            Why::NoCheck => "the warm-up had too few draws to judge the metric by",
            Why::Lagging => "a chain lagged at the end of the warm-up",
            Why::FewParameters => "the model has too few parameters for another sampler",
            Why::Unpooled => "chains warmed up by themselves",
        }
    }
}

/// What was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    /// The kernel.
    pub kernel: Kind,
    /// Why.
    pub why: Why,
}

/// What the end of a warm-up says of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Verdict {
    /// Top eigenvalue of the covariance of late draws in the coordinates of the metric, if there were enough.
    pub top_eigenvalue: Option<f64>,
    /// Whether it is that of a bad metric.
    pub bad_metric: bool,
}

/// How far a chain is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Stage {
    /// In the warm-up.
    Warmup,
    /// It tunes the other kernel.
    Tuning { step: DualAverage, rounds: u64 },
    /// All is fixed.
    Over,
}

/// The way of one chain from the warm-up to the draws.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Handover {
    sampler: Sampler,
    plan: Plan,
    dim: usize,
    stage: Stage,
    choice: Option<Choice>,
    tuned: Tuned,
    /// Steps of the latest draws of the warm-up, of all of them, and of the transitions since then.
    prices: VecDeque<u64>,
    warmup_steps: u64,
    tuning_steps: u64,
    /// Transitions that tuned the kernel.
    rounds: u64,
    accept: f64,
    /// Whether the chain is to take over what was chosen.
    changed: bool,
}

impl Handover {
    /// Of a chain with `dim` parameters; `None` if the kernel of the warm-up goes on.
    pub fn new(settings: &Settings, dim: usize) -> Option<Self> {
        Some(Handover {
            sampler: settings.sampler,
            plan: Plan::new(settings)?,
            dim,
            stage: Stage::Warmup,
            choice: None,
            tuned: Tuned::default(),
            prices: VecDeque::with_capacity(PRICED_DRAWS),
            warmup_steps: 0,
            tuning_steps: 0,
            rounds: 0,
            accept: 0.0,
            changed: false,
        })
    }

    /// The kernel that makes the draws, and why; `None` before the end of the warm-up.
    pub fn choice(&self) -> Option<Choice> {
        self.choice
    }

    /// What was chosen for the kernel, if it is another one than that of the warm-up.
    pub fn tuned(&self) -> Option<Tuned> {
        self.choice.filter(|choice| choice.kernel == self.plan.kernel).map(|_| self.tuned)
    }

    /// Number of transitions that tuned the kernel, and the gradients that they took.
    pub fn tuning(&self) -> [u64; 2] {
        [self.rounds, self.tuning_steps]
    }

    /// The number of the tuning transition that the chain is to make now, if it is.
    pub fn round(&self) -> Option<u64> {
        match &self.stage {
            Stage::Tuning { rounds, .. } => Some(*rounds),
            _ => None,
        }
    }

    /// The kernel, and what it is to use from now on, if that has changed.
    pub fn take_tuned(&mut self) -> Option<(Kind, Tuned)> {
        std::mem::take(&mut self.changed).then_some((self.plan.kernel, self.tuned))
    }

    /// A draw of the warm-up took so many steps.
    pub(super) fn price(&mut self, steps: u64) {
        if self.prices.len() == PRICED_DRAWS {
            self.prices.pop_front();
        }
        self.prices.push_back(steps);
        self.warmup_steps += steps;
    }

    /// Take in a tuning transition.
    pub fn observe(&mut self, accept: f64, steps: u64) {
        self.accept = accept;
        self.tuning_steps += steps;
    }

    fn decide(&self, verdict: Verdict, lagging: bool, alone: bool) -> Choice {
        let nuts = |why| Choice { kernel: Kind::Nuts, why };
        let asked = Choice { kernel: self.plan.kernel, why: Why::Asked };
        match self.sampler {
            Sampler::Mams | Sampler::Auto if self.dim < LEAST_PARAMETERS => nuts(Why::FewParameters),
            Sampler::Nuts | Sampler::Mams | Sampler::Hmc | Sampler::Walnuts => asked,
            Sampler::Auto if self.dim < FEW_PARAMETERS => nuts(Why::FewParameters),
            Sampler::Auto if alone => nuts(Why::Unpooled),
            Sampler::Auto if lagging => nuts(Why::Lagging),
            Sampler::Auto if verdict.top_eigenvalue.is_none() => nuts(Why::NoCheck),
            Sampler::Auto if verdict.bad_metric => nuts(Why::BadMetric),
            Sampler::Auto => Choice { kernel: Kind::Mams, why: Why::GoodMetric },
        }
    }

    fn use_step(&mut self, step: f64, transitions: u64) {
        self.tuned = Tuned { step, transitions, ..self.tuned };
        self.changed = true;
    }
}

/// All chains are at the end of their warm-up: choose the kernel.
pub(super) fn choose(members: &mut [&mut Member], verdict: Verdict) {
    let lagging = members.iter().any(|member| member.lagging);
    let alone = members.len() == 1;
    for member in members {
        let first_step = member.step.average();
        let Some(handover) = member.handover.as_mut() else { continue };
        let choice = handover.decide(verdict, lagging, alone);
        handover.choice = Some(choice);
        if choice.kernel != handover.plan.kernel {
            handover.stage = Stage::Over;
            continue;
        }
        let length = handover.plan.length(verdict.top_eigenvalue);
        handover.tuned = Tuned { length, ..Tuned::default() };
        let step = DualAverage::near(first_step.min(handover.plan.largest_step));
        handover.use_step(step.current(), 1);
        handover.stage = Stage::Tuning { step, rounds: 0 };
    }
}

/// All chains have made a tuning transition: adapt the step size, and end the tuning when there were enough. The chains of
/// which `apart` is true go by themselves.
pub(super) fn tune(members: &mut [&mut Member], apart: impl Fn(&Member) -> bool) {
    let (of_warmup, of_tuning) = members
        .iter()
        .filter_map(|member| member.handover.as_ref())
        .fold((0, 0), |(warmup, tuning), handover| {
            (warmup + handover.warmup_steps, tuning + handover.tuning_steps)
        });
    let dear = of_tuning as f64 >= SHARE_OF_WARMUP * of_warmup as f64;
    let (near, others): (Vec<&mut &mut Member>, Vec<_>) =
        members.iter_mut().partition(|member| !apart(member));
    let mut groups: Vec<Vec<&mut &mut Member>> = others.into_iter().map(|member| vec![member]).collect();
    groups.push(near);
    for group in groups {
        let settings = group.first().map(|member| member.settings.clone());
        let mut together: Vec<&mut Handover> =
            group.into_iter().filter_map(|member| member.handover.as_mut()).collect();
        if let Some(settings) = settings {
            tune_together(&mut together, &settings, dear);
        }
    }
}

/// The chains share a step size.
fn tune_together(chains: &mut [&mut Handover], settings: &AdaptSettings, dear: bool) {
    let n = chains.len() as f64;
    let accept = chains.iter().map(|chain| chain.accept).sum::<f64>() / n;
    let Some(first) = chains.first() else { return };
    let Stage::Tuning { step, rounds } = &first.stage else { return };
    let (mut step, rounds) = (step.clone(), rounds + 1);
    let Plan { target_accept, largest_step: max_step_size, .. } = first.plan;
    step.update(accept, &AdaptSettings { target_accept, max_step_size, ..settings.clone() });
    let over = rounds >= ROUNDS || (rounds >= first.plan.least_rounds && dear);
    let fixed = Tuned { step: step.average(), ..first.tuned };
    let priced: f64 = chains.iter().map(|chain| chain.prices.len() as f64).sum();
    let price = chains.iter().flat_map(|chain| &chain.prices).sum::<u64>() as f64 / priced.max(1.0);
    let transitions = first.plan.transitions(&fixed, price);
    for chain in chains {
        chain.rounds = rounds;
        if over {
            chain.stage = Stage::Over;
            chain.use_step(fixed.step, transitions);
        } else {
            chain.stage = Stage::Tuning { step: step.clone(), rounds };
            chain.use_step(step.current(), 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handover(sampler: Sampler, dim: usize) -> Handover {
        Handover::new(&Settings { sampler, ..Settings::default() }, dim).unwrap()
    }

    #[test]
    fn the_rule() {
        let good = Verdict { top_eigenvalue: Some(2.0), bad_metric: false };
        let bad = Verdict { top_eigenvalue: Some(20.0), bad_metric: true };
        let unknown = Verdict { top_eigenvalue: None, bad_metric: false };
        for (sampler, dim, verdict, lagging, alone, kernel, why) in [
            (Sampler::Hmc, 1, bad, true, true, Kind::Hmc, Why::Asked),
            (Sampler::Walnuts, 1, bad, true, true, Kind::Walnuts, Why::Asked),
            (Sampler::Mams, 5, bad, true, true, Kind::Mams, Why::Asked),
            (Sampler::Mams, 1, good, false, false, Kind::Nuts, Why::FewParameters),
            (Sampler::Auto, 5, good, false, false, Kind::Mams, Why::GoodMetric),
            (Sampler::Auto, 5, bad, false, false, Kind::Nuts, Why::BadMetric),
            (Sampler::Auto, 5, unknown, false, false, Kind::Nuts, Why::NoCheck),
            (Sampler::Auto, 5, good, true, false, Kind::Nuts, Why::Lagging),
            (Sampler::Auto, 5, good, false, true, Kind::Nuts, Why::Unpooled),
            (Sampler::Auto, 2, good, false, false, Kind::Nuts, Why::FewParameters),
        ] {
            let choice = handover(sampler, dim).decide(verdict, lagging, alone);
            assert_eq!(choice, Choice { kernel, why }, "{sampler:?} {dim} {verdict:?}");
        }
    }

    /// Chains that have come to the tuning, with a step size of their own.
    fn tuning(price: u64) -> Handover {
        let mut handover = handover(Sampler::Mams, 5);
        (0..80).for_each(|draw| handover.price(if draw < 30 { 1000 } else { price }));
        handover.tuned = Tuned { length: 1.4, step: 0.7, transitions: 1 };
        handover.stage = Stage::Tuning { step: DualAverage::near(0.7), rounds: 0 };
        handover
    }

    #[test]
    fn chains_tune_together_towards_the_target_and_then_all_is_fixed() {
        let (mut one, mut two) = (tuning(12), tuning(8));
        let settings = AdaptSettings::default();
        let mut rounds = 0;
        while one.round().is_some() {
            // A smooth acceptance curve, above which one chain is and below which the other.
            let accept = (-0.2 * one.take_tuned().map_or(0.7, |(_, tuned)| tuned.step)).exp();
            one.observe(accept + 0.02, 2);
            two.observe(accept - 0.02, 2);
            tune_together(&mut [&mut one, &mut two], &settings, false);
            rounds += 1;
        }
        assert_eq!((rounds, one.tuning()), (ROUNDS, [ROUNDS, 2 * ROUNDS]));
        assert_eq!(one.tuned, two.tuned);
        let Tuned { step, transitions, .. } = one.tuned;
        let ideal = -one.plan.target_accept.ln() / 0.2;
        assert!((step / ideal - 1.0).abs() < 0.1, "{step} {ideal}");
        // Ten gradients for each of the last draws, on average, and a transition takes 1.4 / step + 1 / 2.
        assert_eq!(transitions, (10.0 / (1.4 / step + 0.5)).floor() as u64);
    }

    #[test]
    fn dear_transitions_end_the_tuning_early() {
        let mut chain = tuning(10);
        let settings = AdaptSettings::default();
        let mut rounds = 0;
        while chain.round().is_some() {
            chain.observe(0.9, 50);
            tune_together(&mut [&mut chain], &settings, true);
            rounds += 1;
        }
        assert_eq!(rounds, chain.plan.least_rounds);
        assert!(chain.take_tuned().is_some() && chain.take_tuned().is_none());
    }
}
