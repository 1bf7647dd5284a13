//! The no-U-turn sampler with steps that adapt within a trajectory (WALNUTS: Bou-Rabee, Carpenter, Kleppe and Liu 2025).
//!
//! Points of a trajectory are as far apart as a step e of [`super::nuts`], but the way between two of them is made of 2^k
//! leapfrog steps of e / 2^k. From z, k is the smallest number for which the energy along the way, both ends included, keeps
//! within a range of delta. With that k the way back from the new point z' is the same, but from there a smaller k might do.
//! Then z' would never lead to z, and the trajectory ends before that step. So every step of a trajectory is the same from
//! both of its ends, whichever point is its start, and all that makes the no-U-turn sampler exact holds.
//!
//! What looks for a smaller k on the way back costs gradients, fewer than the step itself. The trajectory ends, too, where no k
//! up to a largest one will do, which is a divergence.
//!
//! The step size is tuned after the warm-up, and fixed: the mean of exp(-r) is to reach a target, where r is the range of the
//! energy along a step before it is halved. Where one scale fits all, that is the step size of the no-U-turn sampler, and hardly
//! any step is halved; where it does not, steps are as long as the wide places want, and halving sees to the narrow ones. The
//! share of steps that need no halving says the same, but it takes many more steps to know, and made steps a third shorter on
//! a normal distribution.

use serde::{Deserialize, Serialize};

use super::common;
use super::nuts::NutsSettings;
use super::transitions::Tuned;
use super::{Begin, Diverged, padded};
use crate::device::Span;
use crate::integrate::{Arrival, Batch, Request};
use crate::rng::Stream;
use crate::settings::{Configure, Field, Setting, Settings, Value};
use crate::trace::{Kind, Statistic};
use crate::tree::{self, End, Pair, Slot, Tree};

/// Settings of the kernel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WalnutsSettings {
    /// Largest range of the energy within a step.
    pub energy_range: f64,
    /// Most halvings of a step.
    pub max_halvings: u64,
    /// Mean of exp(-range of the energy) over steps before they are halved.
    pub target: f64,
}

impl Default for WalnutsSettings {
    fn default() -> Self {
        WalnutsSettings { energy_range: 2.0, max_halvings: 10, target: 0.8 }
    }
}

impl Configure for WalnutsSettings {
    const SETTINGS: &'static [Setting] = &[
        Setting {
            name: "walnuts_energy_range",
            default: Value::Float(2.0),
            min: 1e-3,
            max: 1e3,
            doc: "Range within which the energy is kept along a step of 'walnuts', which is halved until it is.",
        },
        Setting {
            name: "walnuts_max_halvings",
            default: Value::Int(10),
            min: 0.0,
            max: 20.0,
            doc: "How often a step of 'walnuts' is halved before it counts as a divergence.",
        },
        Setting {
            name: "walnuts_target",
            default: Value::Float(0.8),
            min: 0.1,
            max: 0.999,
            doc: "Mean of exp(-r) that the step size of 'walnuts' is tuned to after the warm-up, where r is the range of the energy \
                  along a step before it is halved.",
        },
    ];

    fn field(&mut self, name: &str) -> Option<Field<'_>> {
        match name {
            "walnuts_energy_range" => Some(Field::Float(&mut self.energy_range)),
            "walnuts_max_halvings" => Some(Field::Int(&mut self.max_halvings)),
            "walnuts_target" => Some(Field::Float(&mut self.target)),
            _ => None,
        }
    }
}

/// What is known of a stored point.
#[derive(Clone, Copy, Debug, Default)]
struct Point {
    logp: f64,
    energy: f64,
    index: i64,
}

/// A way between two points, tried with a number of halvings.
#[derive(Clone, Copy, Debug, Default)]
struct Way {
    halvings: u64,
    /// Leapfrog steps taken.
    taken: u64,
    /// Lowest and highest energy so far.
    low: f64,
    high: f64,
    /// Whether the second half of the latest kick is the first of the next one.
    begun: bool,
}

impl Way {
    fn new(energy: f64, halvings: u64) -> Self {
        Way { halvings, taken: 0, low: energy, high: energy, begun: false }
    }

    fn is_complete(&self) -> bool {
        self.taken == 1 << self.halvings
    }

    /// Take in the energy after a leapfrog step; false if the range is too large.
    fn take(&mut self, energy: f64, range: f64) -> bool {
        self.taken += 1;
        (self.low, self.high) = (self.low.min(energy), self.high.max(energy));
        energy.is_finite() && self.high - self.low <= range
    }
}

/// What the kernel is at.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Stage {
    /// On the way to a new point.
    There,
    /// On the way back from it, with fewer halvings.
    Back,
}

/// What a trajectory comes to.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    gradients: u64,
    steps: u64,
    /// First tries of steps, and the sum of exp(-range) over them.
    tries: u64,
    smooth: f64,
    most_halvings: u64,
    accept: f64,
    worst: f64,
    irreversible: bool,
}

/// One chain's transition under way.
pub struct Walnuts {
    settings: WalnutsSettings,
    tuned: Tuned,
    tree: Tree,
    points: Vec<Point>,
    stream: Stream,
    start_energy: f64,
    stage: Stage,
    way: Way,
    /// Halvings of the way there.
    halvings: u64,
    from: Slot,
    to: Slot,
    /// Where the latest leapfrog step ended.
    at: Slot,
    forward: bool,
    turning: Vec<bool>,
    sums: Sums,
    energy: f64,
}

impl Walnuts {
    /// The statistics of a draw.
    pub const STATISTICS: &'static [Statistic] = &[
        common::DEPTH,
        common::MAXDEPTH_REACHED,
        Statistic {
            name: "index_in_trajectory",
            kind: Kind::Int,
            doc: "Signed number of steps from the start of the trajectory to the draw, each as long as the step size.",
        },
        common::LOGP,
        common::ENERGY,
        common::ENERGY_ERROR,
        common::MAX_ENERGY_ERROR,
        Statistic {
            name: "mean_tree_accept",
            kind: Kind::Float,
            doc: "Mean over the points of min(1, r), r = exp(-energy error).",
        },
        Statistic {
            name: "mean_first_accept",
            kind: Kind::Float,
            doc: "Mean over the steps of exp(-r), r the range of the energy along a step before it is halved.",
        },
        Statistic {
            name: "n_steps",
            kind: Kind::UInt,
            doc: "Number of leapfrog steps, each with one gradient, of ways that were given up and of ways back, too.",
        },
        Statistic { name: "n_points", kind: Kind::UInt, doc: "Number of points of the trajectory." },
        Statistic {
            name: "max_halvings",
            kind: Kind::UInt,
            doc: "How often a step was halved that was halved most.",
        },
        Statistic {
            name: "irreversible",
            kind: Kind::Bool,
            doc: "Whether the trajectory ended before a step that is another one on the way back.",
        },
        Statistic {
            name: "diverging",
            kind: Kind::Bool,
            doc: "Whether the trajectory ended before a step that even the most halvings could not make.",
        },
    ];

    /// A kernel whose first point is in slot 0.
    pub fn new(settings: &Settings, tuned: Tuned, stream: Stream) -> Self {
        let depth = settings.nuts.max_depth as u32;
        Walnuts {
            settings: settings.walnuts.clone(),
            tuned,
            tree: Tree::new(depth),
            points: vec![Point::default(); tree::slots(depth)],
            stream,
            start_energy: f64::NAN,
            stage: Stage::There,
            way: Way::default(),
            halvings: 0,
            from: 0,
            to: 0,
            at: 0,
            forward: true,
            turning: Vec::with_capacity(tree::pairs(depth)),
            sums: Sums::default(),
            energy: f64::NAN,
        }
    }

    /// Number of points that a transition stores: those of the tree, and two for ways.
    pub fn slots(settings: &NutsSettings) -> usize {
        tree::slots(settings.max_depth as u32) + 2
    }

    /// What the warm-up chose.
    pub fn tuned(&self) -> Tuned {
        self.tuned
    }

    /// Go on with another choice.
    pub fn tune(&mut self, tuned: Tuned) {
        self.tuned = tuned;
    }

    /// Begin a transition.
    pub fn begin(&mut self, begin: Begin) {
        let Begin { slot, logp, kinetic, max_depth, stream, .. } = begin;
        self.stream = stream;
        self.start_energy = kinetic - logp;
        self.points[slot] = Point { logp, energy: self.start_energy, index: 0 };
        self.sums = Sums::default();
        self.tree.start(slot, max_depth, &mut self.stream);
        self.next_point();
    }

    /// Set out for the next point, if the trajectory goes on.
    fn next_point(&mut self) {
        if self.tree.end().is_some() {
            return;
        }
        let leaf = self.tree.next_leaf();
        (self.from, self.to, self.forward) = (leaf.from, leaf.to, leaf.forward);
        self.points[leaf.to].index = self.points[leaf.from].index + if leaf.forward { 1 } else { -1 };
        self.stage = Stage::There;
        self.way = Way::new(self.points[leaf.from].energy, 0);
    }

    /// Ask for the next leapfrog step. `row` is the row of slot 0.
    pub fn request(&mut self, metric: usize, row: usize, batch: &mut Batch) {
        let Way { halvings, taken, begun, .. } = self.way;
        let there = self.stage == Stage::There;
        let (start, last) = (if there { self.from } else { self.to }, (1 << halvings) - 1);
        let spare = |taken: u64| self.points.len() + (taken % 2) as usize;
        // The end of the way back is no point of the trajectory.
        let slot = |taken| if there && taken == last { self.to } else { spare(taken) };
        let from = if taken == 0 { start } else { slot(taken - 1) };
        let sign = if self.forward == there { 1.0 } else { -1.0 };
        let step = sign * self.tuned.step / (1u64 << halvings) as f64;
        let onward = (taken < last).then(|| row + slot(taken + 1));
        let request = Request { metric, from: row + from, to: row + slot(taken), step, begun, onward };
        let span = |pair: &Pair| Span { start: row + pair.start, adjacent: pair.adjacent };
        let pairs = if there && taken == last { self.tree.pairs() } else { &[] };
        batch.push_part(request, sign * self.tuned.step, pairs.iter().map(span));
        (self.way.begun, self.at) = (onward.is_some(), slot(taken));
    }

    /// Take in the step that was asked for. True when the transition is complete.
    pub fn absorb(&mut self, arrival: &Arrival<'_>) -> bool {
        self.sums.gradients += 1;
        let energy = arrival.energy();
        let within = self.way.take(energy, self.settings.energy_range);
        if self.stage == Stage::There && self.way.halvings == 0 {
            self.sums.tries += 1;
            self.sums.smooth += if energy.is_finite() { (self.way.low - self.way.high).exp() } else { 0.0 };
        }
        match (self.stage, within, self.way.is_complete()) {
            (_, true, false) => {}
            (Stage::There, false, _) => self.halve(energy),
            (Stage::There, true, true) => self.arrive(arrival),
            (Stage::Back, true, true) => {
                self.sums.irreversible = true;
                self.tree.give_up();
            }
            (Stage::Back, false, _) => self.way_back(self.way.halvings + 1),
        }
        self.tree.end().is_some()
    }

    /// The way there was not good enough.
    fn halve(&mut self, energy: f64) {
        if self.way.halvings >= self.settings.max_halvings {
            self.energy = energy;
            self.sums.steps += 1;
            self.sums.worst = f64::INFINITY;
            self.tree.diverge();
            return;
        }
        self.way = Way::new(self.points[self.from].energy, self.way.halvings + 1);
    }

    /// A new point has been reached.
    fn arrive(&mut self, arrival: &Arrival<'_>) {
        let point = &mut self.points[self.to];
        (point.logp, point.energy) = (arrival.logp, arrival.energy());
        self.turning.clear();
        // Written so that a product that is not a number counts as a turn.
        self.turning.extend(arrival.dots.iter().map(|[a, b]| !(*a > 0.0 && *b > 0.0)));
        self.halvings = self.way.halvings;
        self.sums.steps += 1;
        self.sums.most_halvings = self.sums.most_halvings.max(self.halvings);
        self.stage = Stage::Back;
        self.way_back(0);
    }

    /// Try the way back with so many halvings, or go on if they are those of the way there.
    fn way_back(&mut self, halvings: u64) {
        if halvings < self.halvings {
            self.way = Way::new(self.points[self.to].energy, halvings);
            return;
        }
        let error = self.points[self.to].energy - self.start_energy;
        self.sums.accept += (-error).exp().min(1.0);
        if error.abs() > self.sums.worst.abs() {
            self.sums.worst = error;
        }
        let turning = &self.turning;
        self.tree.grow(-error, |i| turning[i], &mut self.stream);
        self.next_point();
    }

    /// Slot and log density of the draw of a complete transition.
    pub fn position(&self) -> (Slot, f64) {
        let slot = self.tree.proposal();
        (slot, self.points[slot].logp)
    }

    /// The draw, when it is complete.
    pub fn outcome(&self) -> super::Outcome {
        let Sums { gradients, steps, tries, smooth, most_halvings, accept, worst, irreversible } = self.sums;
        let (slot, points) = (self.tree.proposal(), steps.max(1) as f64);
        let smooth = smooth / tries.max(1) as f64;
        let Point { logp, energy, index } = self.points[slot];
        let diverging = self.tree.end() == Some(End::Diverged);
        let flag = |b: bool| f64::from(u8::from(b));
        super::Outcome {
            slot,
            logp,
            index,
            accept: [smooth; 2],
            n_steps: gradients,
            divergence: diverging.then_some(Diverged {
                from: self.from,
                to: self.at,
                energy: self.energy,
                energy_error: self.energy - self.start_energy,
            }),
            statistics: padded(&[
                f64::from(self.tree.depth()),
                flag(self.tree.end() == Some(End::MaxDepth)),
                index as f64,
                logp,
                energy,
                energy - self.start_energy,
                worst,
                accept / points,
                smooth,
                gradients as f64,
                steps as f64,
                most_halvings as f64,
                flag(irreversible),
                flag(diverging),
            ]),
        }
    }
}
