//! The no-U-turn sampler (Hoffman and Gelman 2014) with multinomial selection (Betancourt 2017).
//!
//! A point of the trajectory has weight exp(E_0 - E), E = p M^-1 p / 2 - log pi(x). A span from a to b is a U-turn when
//! rho M^-1 p_a <= 0 or rho M^-1 p_b <= 0, where rho is the sum of the momenta at its points (Betancourt 2017, A.4.2). For
//! leapfrog steps that sum follows from the ends ([`crate::device::Dots`]), so there are no running sums. The displacement
//! x_b - x_a in its place reads less, but ends trajectories earlier: on the correlated Gaussian W1 of the benchmarks it had
//! half the minimum ESS per gradient, on others the same.

use serde::{Deserialize, Serialize};

use super::Diverged;
use super::common;
use super::transitions::Tuned;
use crate::device::Span;
use crate::integrate::{Arrival, Batch, Request};
use crate::rng::Stream;
use crate::settings::{Configure, Field, Setting, Value};
use crate::trace::{Kind, Statistic};
use crate::tree::{self, Chooser, End, Pair, Slot, Tree};

/// Settings of the kernel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NutsSettings {
    /// Largest number of doublings.
    pub max_depth: u64,
    /// Energy error from which a step is a divergence.
    pub max_energy_error: f64,
}

impl Default for NutsSettings {
    fn default() -> Self {
        NutsSettings { max_depth: 10, max_energy_error: 1000.0 }
    }
}

impl Configure for NutsSettings {
    const SETTINGS: &'static [Setting] = &[
        Setting {
            name: "maxdepth",
            default: Value::Int(10),
            min: 1.0,
            max: 20.0,
            doc: "Largest number of doublings of a trajectory; a draw takes at most 2**maxdepth - 1 gradients.",
        },
        Setting {
            name: "max_energy_error",
            default: Value::Float(1000.0),
            min: 0.0,
            max: f64::MAX,
            doc: "A leapfrog step whose energy exceeds the start's by more than this is a divergence.",
        },
    ];

    fn field(&mut self, name: &str) -> Option<Field<'_>> {
        match name {
            "maxdepth" => Some(Field::Int(&mut self.max_depth)),
            "max_energy_error" => Some(Field::Float(&mut self.max_energy_error)),
            _ => None,
        }
    }
}

/// Statistics of one transition.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// Slot of the draw.
    pub slot: Slot,
    /// Completed doublings.
    pub depth: u32,
    /// Whether the trajectory ended at the largest depth.
    pub max_depth_reached: bool,
    /// Signed number of leapfrog steps from the start to the draw.
    pub index: i64,
    /// Log density of the draw.
    pub logp: f64,
    /// Energy of the draw.
    pub energy: f64,
    /// Energy of the draw less that of the start.
    pub energy_error: f64,
    /// The energy error with the largest absolute value among all points of the trajectory; infinite if one is not finite.
    pub max_energy_error: f64,
    /// Mean over all leapfrog steps of min(1, exp(E_0 - E)).
    pub accept: f64,
    /// Mean over all leapfrog steps of 2 min(1, r) / (1 + r), r = exp(E_0 - E).
    pub accept_sym: f64,
    /// Leapfrog steps.
    pub n_steps: u64,
    /// Whether a step diverged.
    pub diverging: bool,
    /// That step, if one did.
    pub divergence: Option<Diverged>,
}

impl Outcome {
    /// The statistics that the kernel adds to the result; [`Outcome::values`] gives them in this order.
    pub const STATISTICS: &'static [Statistic] = &[
        common::DEPTH,
        common::MAXDEPTH_REACHED,
        Statistic {
            name: "index_in_trajectory",
            kind: Kind::Int,
            doc: "Signed number of leapfrog steps from the start of the trajectory to the draw.",
        },
        common::LOGP,
        common::ENERGY,
        common::ENERGY_ERROR,
        common::MAX_ENERGY_ERROR,
        Statistic {
            name: "mean_tree_accept",
            kind: Kind::Float,
            doc: "Mean over the leapfrog steps of min(1, r), r = exp(-energy error).",
        },
        Statistic {
            name: "mean_tree_accept_sym",
            kind: Kind::Float,
            doc: "Mean over the leapfrog steps of 2 min(1, r) / (1 + r), r = exp(-energy error).",
        },
        Statistic {
            name: "n_steps",
            kind: Kind::UInt,
            doc: "Number of leapfrog steps, each with one gradient.",
        },
        Statistic { name: "diverging", kind: Kind::Bool, doc: "Whether a leapfrog step diverged." },
    ];

    /// The values of [`Outcome::STATISTICS`].
    pub fn values(&self) -> [f64; 11] {
        let flag = |b: bool| f64::from(u8::from(b));
        [
            f64::from(self.depth),
            flag(self.max_depth_reached),
            self.index as f64,
            self.logp,
            self.energy,
            self.energy_error,
            self.max_energy_error,
            self.accept,
            self.accept_sym,
            self.n_steps as f64,
            flag(self.diverging),
        ]
    }
}

impl From<Outcome> for super::Outcome {
    fn from(outcome: Outcome) -> Self {
        super::Outcome {
            slot: outcome.slot,
            logp: outcome.logp,
            index: outcome.index,
            accept: [outcome.accept, outcome.accept_sym],
            n_steps: outcome.n_steps,
            divergence: outcome.divergence,
            statistics: super::padded(&outcome.values()),
        }
    }
}

impl Chooser for Stream {
    fn forward(&mut self) -> bool {
        self.bits() & 1 == 1
    }

    fn accept(&mut self, probability: f64) -> bool {
        self.uniform() < probability
    }
}

/// What is known of a stored point.
#[derive(Clone, Copy, Debug, Default)]
struct Point {
    logp: f64,
    energy: f64,
    index: i64,
}

/// One chain's transition under way.
pub struct Nuts {
    settings: NutsSettings,
    /// With the exact-normal integrator, what it is tuned to.
    exact: Option<Tuned>,
    tree: Tree,
    points: Vec<Point>,
    stream: Stream,
    step: f64,
    start_energy: f64,
    from: Slot,
    to: Slot,
    /// Energy at the end of the latest step.
    energy: f64,
    turning: Vec<bool>,
    worst: f64,
    sum_accept: f64,
    sum_accept_sym: f64,
    n_steps: u64,
}

impl Nuts {
    /// A kernel whose first point is in slot 0.
    pub fn new(settings: &NutsSettings, stream: Stream) -> Self {
        let depth = settings.max_depth as u32;
        Nuts {
            settings: settings.clone(),
            exact: None,
            tree: Tree::new(depth),
            points: vec![Point::default(); Self::slots(settings)],
            stream,
            step: 0.0,
            start_energy: 0.0,
            from: 0,
            to: 0,
            energy: 0.0,
            turning: Vec::with_capacity(tree::pairs(depth)),
            worst: 0.0,
            sum_accept: 0.0,
            sum_accept_sym: 0.0,
            n_steps: 0,
        }
    }

    /// A kernel with the exact-normal integrator, and a step size of its own.
    pub fn exact(settings: &NutsSettings, tuned: Tuned, stream: Stream) -> Self {
        Nuts { exact: Some(tuned), ..Self::new(settings, stream) }
    }

    /// With the exact-normal integrator, what it is tuned to.
    pub fn tuned(&self) -> Option<Tuned> {
        self.exact
    }

    /// Go on with another choice, if it has one of its own.
    pub fn tune(&mut self, tuned: Tuned) -> bool {
        self.exact = self.exact.map(|_| tuned);
        self.exact.is_some()
    }

    /// Number of points that a transition stores.
    pub fn slots(settings: &NutsSettings) -> usize {
        tree::slots(settings.max_depth as u32)
    }

    /// Largest number of spans that a leapfrog step asks for.
    pub fn spans(settings: &NutsSettings) -> usize {
        tree::pairs(settings.max_depth as u32)
    }

    /// Begin a transition from the point in `origin`, whose momentum is fresh. `max_depth` may limit the number of doublings
    /// further than the settings do.
    pub fn begin(
        &mut self,
        origin: Slot,
        logp: f64,
        kinetic: f64,
        step: f64,
        max_depth: Option<u32>,
        stream: Stream,
    ) {
        self.stream = stream;
        self.step = step;
        self.start_energy = kinetic - logp;
        self.points[origin] = Point { logp, energy: self.start_energy, index: 0 };
        self.worst = 0.0;
        self.sum_accept = 0.0;
        self.sum_accept_sym = 0.0;
        self.n_steps = 0;
        self.tree.start(origin, max_depth, &mut self.stream);
    }

    /// The point of the latest step: its slot, its distance from the start in steps, and its energy error.
    pub fn latest(&self) -> (Slot, i64, f64) {
        (self.to, self.points[self.to].index, self.energy - self.start_energy)
    }

    /// Ask for the next leapfrog step. `row` is the row of slot 0.
    pub fn request(&mut self, metric: usize, row: usize, batch: &mut Batch) {
        let leaf = self.tree.next_leaf();
        (self.from, self.to) = (leaf.from, leaf.to);
        let sign = if leaf.forward { 1.0 } else { -1.0 };
        self.points[leaf.to].index = self.points[leaf.from].index + if leaf.forward { 1 } else { -1 };
        let request = Request {
            metric,
            from: row + leaf.from,
            to: row + leaf.to,
            step: sign * self.step,
            begun: leaf.expected,
            onward: leaf.onward.map(|slot| row + slot),
        };
        let span = |pair: &Pair| Span { start: row + pair.start, adjacent: pair.adjacent };
        let spans = self.tree.pairs().iter().map(span);
        match self.exact {
            Some(_) => batch.push_turn(request, spans),
            None => batch.push(request, spans),
        }
    }

    /// Take in the step that was asked for. True when the transition is complete.
    pub fn absorb(&mut self, arrival: &Arrival<'_>) -> bool {
        self.n_steps += 1;
        let energy = arrival.energy();
        self.energy = energy;
        let error = energy - self.start_energy;
        if !error.is_finite() {
            self.worst = f64::INFINITY;
            self.tree.diverge();
            return true;
        }
        if error.abs() > self.worst.abs() {
            self.worst = error;
        }
        if error > self.settings.max_energy_error {
            self.tree.diverge();
            return true;
        }
        let ratio = (-error).exp();
        self.sum_accept += ratio.min(1.0);
        self.sum_accept_sym += 2.0 * ratio.min(1.0) / (1.0 + ratio);
        let point = &mut self.points[self.to];
        point.logp = arrival.logp;
        point.energy = energy;
        self.turning.clear();
        // Written so that a product that is not a number counts as a turn.
        self.turning.extend(arrival.dots.iter().map(|[a, b]| !(*a > 0.0 && *b > 0.0)));
        let turning = &self.turning;
        self.tree.grow(-error, |i| turning[i], &mut self.stream);
        self.tree.end().is_some()
    }

    /// Slot and log density of the draw of a complete transition.
    pub fn position(&self) -> (Slot, f64) {
        let slot = self.tree.proposal();
        (slot, self.points[slot].logp)
    }

    /// The statistics of a complete transition.
    pub fn outcome(&self) -> Outcome {
        let slot = self.tree.proposal();
        let point = self.points[slot];
        let steps = self.n_steps.max(1) as f64;
        let diverging = self.tree.end() == Some(End::Diverged);
        Outcome {
            slot,
            depth: self.tree.depth(),
            max_depth_reached: self.tree.end() == Some(End::MaxDepth),
            index: point.index,
            logp: point.logp,
            energy: point.energy,
            energy_error: point.energy - self.start_energy,
            max_energy_error: self.worst,
            accept: self.sum_accept / steps,
            accept_sym: self.sum_accept_sym / steps,
            n_steps: self.n_steps,
            diverging,
            divergence: diverging.then_some(Diverged {
                from: self.from,
                to: self.to,
                energy: self.energy,
                energy_error: self.energy - self.start_energy,
            }),
        }
    }
}
