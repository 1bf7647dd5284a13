//! Hamiltonian Monte Carlo with trajectories whose length does not depend on where they go (Duane, Kennedy, Pendleton and
//! Roweth 1987; Neal 2011).
//!
//! A transition begins with a momentum from N(0, M) and takes n = ceil(t / e) steps of h = t / n of a reversible integrator
//! that keeps volume.
//!
//! - Jittered: t = 2 T nu with nu from a sequence that covers (0, 1) evenly ([`super::transitions`]). The end is accepted with
//!   probability min(1, exp(E_0 - E)).
//! - Static: t = T, else the same.
//! - Multinomial: t = 2 T, with b of the steps, uniform on 0..=n, before the start and the others after it, so that each point
//!   of the trajectory could have been its start with the same probability. One of the n + 1 points is the next, with
//!   probability proportional to exp(-E).

use serde::{Deserialize, Serialize};

use super::transitions::{Ended, MOST_STEPS, Sums, Tuned, TunedState, metropolis};
use super::{Begin, Diverged, Next};
use crate::integrate::{Arrival, Batch, Integrator, Request};
use crate::rng::Stream;
use crate::settings::{Configure, Field, Named, Setting, Settings, Value};
use crate::trace::Statistic;
use crate::tree::{Chooser, Slot, add_weights};

/// How long trajectories are, and which of their points is next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Trajectory {
    /// The end, after a time spread over (0, 2 T).
    #[default]
    Jittered,
    /// The end, after T.
    Static,
    /// One of the points of a trajectory of 2 T around the start.
    Multinomial,
}

impl Trajectory {
    const NAMES: &'static [&'static str] = &["jittered", "static", "multinomial"];
}

impl Named for Trajectory {
    fn name(&self) -> &'static str {
        Self::NAMES[*self as usize]
    }

    fn choose(&mut self, name: &str) -> bool {
        *self = match name {
            "jittered" => Trajectory::Jittered,
            "static" => Trajectory::Static,
            "multinomial" => Trajectory::Multinomial,
            _ => return false,
        };
        true
    }
}

/// Settings of the kernel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HmcSettings {
    /// How long trajectories are, and which of their points is next.
    pub trajectory: Trajectory,
    /// Mean acceptance probability that the step size aims at.
    pub target_accept: f64,
    /// T; 0 for that of the late draws of the warm-up.
    pub length: f64,
    /// Transitions for each draw; 0 for as many as cost no more than a draw of the warm-up.
    pub transitions: u64,
}

impl Default for HmcSettings {
    fn default() -> Self {
        HmcSettings { trajectory: Trajectory::default(), target_accept: 0.9, length: 0.0, transitions: 0 }
    }
}

impl Configure for HmcSettings {
    const SETTINGS: &'static [Setting] = &[
        Setting {
            name: "trajectory",
            default: Value::Name(Trajectory::NAMES),
            min: 0.0,
            max: 0.0,
            doc: "Trajectories of 'hmc': 'jittered', whose lengths are spread evenly over 0 to twice the mean and whose end is \
                  accepted or not; 'static', all of the same length; 'multinomial', around the start, of which any point is \
                  the next one with the probability that its energy gives it.",
        },
        Setting {
            name: "hmc_target_accept",
            default: Value::Float(0.9),
            min: 0.1,
            max: 0.999,
            doc: "Mean acceptance probability that the step size of 'hmc' is tuned to after the warm-up; of all points where \
                  any of them may be the next.",
        },
        Setting {
            name: "hmc_length",
            default: Value::Float(0.0),
            min: 0.0,
            max: 1e3,
            doc: "Mean length of the trajectories of 'hmc' from start to end, in standard deviations under a perfect metric. 0 \
                  stands for max(1.4, sqrt(ell)), where ell is the largest eigenvalue of the covariance of late warm-up draws \
                  in the coordinates of the metric, or for pi / 2 where that is not known.",
        },
        Setting {
            name: "hmc_transitions",
            default: Value::Int(0),
            min: 0.0,
            max: 1e6,
            doc: "Transitions of 'hmc' for each draw. 0 stands for as many as take no more gradients than a late warm-up \
                  draw, on average.",
        },
    ];

    fn field(&mut self, name: &str) -> Option<Field<'_>> {
        match name {
            "trajectory" => Some(Field::Name(&mut self.trajectory)),
            "hmc_target_accept" => Some(Field::Float(&mut self.target_accept)),
            "hmc_length" => Some(Field::Float(&mut self.length)),
            "hmc_transitions" => Some(Field::Int(&mut self.transitions)),
            _ => None,
        }
    }
}

impl HmcSettings {
    /// Gradients of a transition, on average.
    pub fn gradients(&self, tuned: &Tuned) -> f64 {
        let steps = tuned.length / tuned.step;
        let steps = match self.trajectory {
            Trajectory::Jittered => steps + 0.5,
            Trajectory::Static => steps.ceil(),
            Trajectory::Multinomial => (2.0 * steps).ceil(),
        };
        steps.clamp(1.0, MOST_STEPS as f64)
    }
}

/// One chain's transition under way.
pub struct Hmc {
    trajectory: Trajectory,
    integrator: Integrator,
    max_energy_error: f64,
    state: TunedState,
    stream: Stream,
    /// The start, and the point that is next as far as is known.
    slot: Slot,
    chosen: Slot,
    /// Where the latest step starts, where it ends, and the end of the one after it if the two are taken together.
    from: Slot,
    to: Slot,
    onward: Option<Slot>,
    logp: f64,
    chosen_logp: f64,
    start_energy: f64,
    /// Steps of the trajectory, those of them before the start, those taken so far, and their size.
    steps: u64,
    back: u64,
    taken: u64,
    h: f64,
    /// Steps from the start to the point that is next.
    distance: u64,
    log_weight: f64,
    chosen_error: f64,
    sum_accept: f64,
    sums: Sums,
}

impl Hmc {
    /// Points that it stores: the start, the next one as far as is known, those of the steps under way, and those of a
    /// divergence.
    pub const SLOTS: usize = 7;

    /// The statistics of a draw.
    pub const STATISTICS: &'static [Statistic] = Sums::STATISTICS;

    /// A kernel.
    pub fn new(settings: &Settings, state: TunedState, stream: Stream) -> Self {
        Hmc {
            trajectory: settings.hmc.trajectory,
            integrator: settings.integrator,
            max_energy_error: settings.nuts.max_energy_error,
            state,
            stream,
            slot: 0,
            chosen: 0,
            from: 0,
            to: 0,
            onward: None,
            logp: f64::NAN,
            chosen_logp: f64::NAN,
            start_energy: f64::NAN,
            steps: 0,
            back: 0,
            taken: 0,
            h: 0.0,
            distance: 0,
            log_weight: 0.0,
            chosen_error: 0.0,
            sum_accept: 0.0,
            sums: Sums::default(),
        }
    }

    /// What it remembers between two draws.
    pub fn state(&self) -> TunedState {
        self.state
    }

    /// Go on with another choice.
    pub fn tune(&mut self, tuned: Tuned) {
        self.state.tuned = tuned;
    }

    /// How it makes steps.
    pub fn integrator(&self) -> Integrator {
        self.integrator
    }

    /// Begin a transition; the first one of a draw has number 0.
    pub fn begin(&mut self, begin: Begin) {
        let Begin { slot, logp, kinetic, transition, stream, .. } = begin;
        if transition == 0 {
            self.sums = Sums::default();
        }
        (self.slot, self.logp, self.stream) = (slot, logp, stream);
        (self.chosen, self.chosen_logp, self.chosen_error) = (slot, logp, 0.0);
        self.start_energy = kinetic - logp;
        let tuned = self.state.tuned;
        (self.steps, self.h) = match self.trajectory {
            Trajectory::Jittered => self.state.next_steps(),
            Trajectory::Static => tuned.steps(tuned.length),
            Trajectory::Multinomial => tuned.steps(2.0 * tuned.length),
        };
        self.back = match self.trajectory {
            // Uniform: 2^64 is so much more that the remainder does not show.
            Trajectory::Multinomial => self.stream.bits() % (self.steps + 1),
            _ => 0,
        };
        (self.taken, self.distance, self.log_weight, self.sum_accept) = (0, 0, 0.0, 0.0);
        self.onward = None;
    }

    /// A slot whose point nobody wants any more, and that is not among those given.
    fn free_slot(&self, taken: [Slot; 2]) -> Slot {
        let used = |slot: &Slot| {
            taken.contains(slot) || [self.slot, self.chosen].contains(slot) || self.sums.keeps(*slot)
        };
        (0..Self::SLOTS).find(|slot| !used(slot)).unwrap_or_default()
    }

    /// Ask for the next step. `row` is the row of slot 0.
    pub fn request(&mut self, metric: usize, row: usize, batch: &mut Batch) {
        let begun = self.onward.is_some();
        let restart = self.taken == 0 || self.taken == self.back;
        self.from = if restart { self.slot } else { self.to };
        self.to = self.onward.take().unwrap_or_else(|| self.free_slot([self.from; 2]));
        let ends = self.taken + 1 == self.back || self.taken + 1 == self.steps;
        let step = if self.taken < self.back { -self.h } else { self.h };
        let from_to = [row + self.from, row + self.to];
        let request = |onward| {
            let [from, to] = from_to;
            Request { metric, from, to, step, begun, onward }
        };
        match self.integrator {
            Integrator::Leapfrog => {
                self.onward = (!ends).then(|| self.free_slot([self.from, self.to]));
                batch.push_passing(request(self.onward.map(|slot| row + slot)));
            }
            Integrator::ExactNormal => batch.push_turn(request(None), std::iter::empty()),
        }
    }

    /// Take in the step that was asked for.
    pub fn absorb(&mut self, arrival: &Arrival<'_>) -> Next {
        self.taken += 1;
        self.sums.steps += 1;
        let energy = arrival.energy();
        let error = if energy.is_finite() { energy - self.start_energy } else { f64::INFINITY };
        let any_may_be_next = self.trajectory == Trajectory::Multinomial;
        let over = error.is_infinite() || self.taken == self.steps;
        if error > self.max_energy_error && (over || any_may_be_next) {
            let (from, to, energy) = (self.from, self.to, error + self.start_energy);
            // The first one of a draw.
            self.sums.divergence.get_or_insert(Diverged { from, to, energy, energy_error: error });
        }
        if any_may_be_next && error.is_finite() {
            self.weigh(error, arrival.logp);
        }
        if !over {
            return Next::Step;
        }
        self.decide(error, arrival.logp);
        if self.sums.transitions < self.state.tuned.transitions { Next::Refresh } else { Next::Draw }
    }

    /// Perhaps the latest point is the next one: each of those so far with the probability that its weight gives it.
    fn weigh(&mut self, error: f64, logp: f64) {
        self.sum_accept += (-error).exp().min(1.0);
        let (log_weight, share) = add_weights(self.log_weight, -error);
        self.log_weight = log_weight;
        if self.stream.accept(share) {
            (self.chosen, self.chosen_logp, self.chosen_error) = (self.to, logp, error);
            self.distance = if self.taken <= self.back { self.taken } else { self.taken - self.back };
        }
    }

    /// The trajectory is at its end, or where something was not finite.
    fn decide(&mut self, error: f64, logp: f64) {
        let (moved, accept, error) = if self.trajectory == Trajectory::Multinomial {
            // No point of a trajectory that does not come to its end is better than the start, or exactness is lost: from
            // the other points of the trajectory the chain stays, too.
            let complete = error.is_finite();
            let moved = complete && self.chosen != self.slot;
            (moved, self.sum_accept / self.steps as f64, if complete { self.chosen_error } else { error })
        } else {
            let (accepted, accept) = metropolis(error, &mut self.stream);
            (self.chosen, self.chosen_logp, self.distance) = (self.to, logp, self.taken);
            (accepted, accept, error)
        };
        if moved {
            (self.slot, self.logp) = (self.chosen, self.chosen_logp);
        }
        let moved = moved.then_some(self.distance);
        self.sums.end(&mut self.state.rejections, Ended { accept, error, moved });
    }

    /// Slot of the chain's point, and its log density.
    pub fn position(&self) -> (Slot, f64) {
        (self.slot, self.logp)
    }

    /// The draw, when it is complete.
    pub fn outcome(&self) -> super::Outcome {
        self.sums.outcome(self.slot, self.logp)
    }
}
