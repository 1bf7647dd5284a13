//! The Metropolis-adjusted microcanonical kernel (Robnik, Cohn-Gordon and Seljak 2025), in the coordinates y = L^-1 x of the
//! metric M^-1 = L L^T.
//!
//! A transition begins with a velocity u, uniform on the unit sphere, and follows, for a time t in n = ceil(t / e) steps of
//! h = t / n,
//!
//! dy/dt = D^1/2 u, du/dt = D^1/2 / (D - 1) (g - u (u . g)), g = L^T grad log pi,
//!
//! by kicks at fixed y and drifts at fixed u. A kick of length d is, with e = g / |g|, c = e . u and a = d D^1/2 |g| / (D - 1),
//!
//! u' = (u + e (sinh a + c (cosh a - 1))) / (cosh a + c sinh a), W += (D - 1) ln(cosh a + c sinh a).
//!
//! It does not keep volume on the sphere: exp(-W) is the density change of the trajectory. So the end is accepted with
//! probability min(1, pi(x') / pi(x) exp(-W)); with the velocity turned round the trajectory leads back, and W changes its sign.
//! Velocities are held as momenta p = L^-T u: |u|^2 = p M^-1 p, and a kick is a sum of multiples of p and of grad log pi.
//! Two kicks with the same gradient are one of the summed length, so the half kicks between two drifts are taken together.
//!
//! Times are t = 2 T nu, where nu = nu_0 + i phi mod 1 for the i-th transition of a chain, phi the golden ratio: the whole of
//! (0, 2 T) is covered evenly. All this is fixed after the warm-up, which chooses e and T ([`crate::adapt::handover`]).

use serde::{Deserialize, Serialize};

use super::{Begin, Diverged, Next};
use crate::device::Glide;
use crate::integrate::{Arrival, Batch};
use crate::rng::Stream;
use crate::settings::{Configure, Field, Setting, Value};
use crate::trace::{Kind, Statistic};
use crate::tree::Slot;

/// Step of the sequence of trajectory lengths.
const GOLDEN: f64 = 0.618_033_988_749_894_9;

/// Shortest trajectory, as a multiple of T.
const SHORTEST: f64 = 1e-3;

/// Most steps of a trajectory, which is cut short rather than made of larger steps.
const MOST_STEPS: u64 = 1000;

/// Settings of the kernel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MamsSettings {
    /// Mean acceptance probability that the step size aims at.
    pub target_accept: f64,
    /// T; 0 for that of the late draws of the warm-up.
    pub length: f64,
    /// Transitions for each draw; 0 for as many as cost no more than a draw of the warm-up.
    pub transitions: u64,
}

impl Default for MamsSettings {
    fn default() -> Self {
        // With 0.9 easy posteriors cost a tenth less, but chains got stuck where scales vary.
        MamsSettings { target_accept: 0.94, length: 0.0, transitions: 0 }
    }
}

impl Configure for MamsSettings {
    const SETTINGS: &'static [Setting] = &[
        Setting {
            name: "mams_target_accept",
            default: Value::Float(0.94),
            min: 0.1,
            max: 0.999,
            doc: "Mean acceptance probability that the step size of 'mams' is tuned to after the warm-up.",
        },
        Setting {
            name: "mams_length",
            default: Value::Float(0.0),
            min: 0.0,
            max: 1e3,
            doc: "Mean length of the trajectories of 'mams', in standard deviations under a perfect metric. 0 stands for \
                  max(1.4, sqrt(ell)), where ell is the largest eigenvalue of the covariance of late warm-up draws in the \
                  coordinates of the metric.",
        },
        Setting {
            name: "mams_transitions",
            default: Value::Int(0),
            min: 0.0,
            max: 1e6,
            doc: "Transitions of 'mams' for each draw. 0 stands for as many as take no more gradients than a late \
                  warm-up draw, on average.",
        },
    ];

    fn field(&mut self, name: &str) -> Option<Field<'_>> {
        match name {
            "mams_target_accept" => Some(Field::Float(&mut self.target_accept)),
            "mams_length" => Some(Field::Float(&mut self.length)),
            "mams_transitions" => Some(Field::Int(&mut self.transitions)),
            _ => None,
        }
    }
}

/// What the warm-up chooses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Tuned {
    /// T, the mean length of a trajectory.
    pub length: f64,
    /// Largest step size.
    pub step: f64,
    /// Transitions for each draw.
    pub transitions: u64,
}

impl Tuned {
    /// Gradients of a transition, on average over the lengths of trajectories.
    pub fn gradients(&self) -> f64 {
        (self.length / self.step + 0.5).clamp(1.0, MOST_STEPS as f64)
    }
}

/// What the kernel remembers between two draws.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MamsState {
    /// What the warm-up chose.
    pub tuned: Tuned,
    /// nu of the latest transition.
    pub phase: f64,
    /// Rejections in a row until now.
    pub rejections: u64,
}

/// A kick, as multiples of momentum and gradient.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Kick {
    /// Multiple of the momentum.
    pub scale: f64,
    /// Multiple of the gradient.
    pub kick: f64,
    /// What it adds to W.
    pub work: f64,
}

impl Kick {
    /// The kick of length `length` in `dim` dimensions, at a point with p M^-1 p / 2 = `kinetic`, where `dots` has p M^-1 g and
    /// g M^-1 g. A momentum of another length than one is brought to that.
    pub fn new(length: f64, dim: usize, kinetic: f64, dots: [f64; 2]) -> Self {
        let [along, square] = dots;
        let (speed, force) = ((2.0 * kinetic).sqrt(), square.sqrt());
        if force == 0.0 {
            return Kick { scale: 1.0 / speed, kick: 0.0, work: 0.0 };
        }
        let (dim, d) = (dim as f64, length * (dim as f64).sqrt());
        let a = d * force / (dim - 1.0);
        let c = (along / (speed * force)).clamp(-1.0, 1.0);
        // Both sides of the fractions times 2 exp(-a), so that nothing overflows.
        let (decay, fall) = ((-a).exp(), -(-2.0 * a).exp_m1());
        let below = (2.0 - fall) + c * fall;
        let towards = fall + c * ((2.0 - fall) - 2.0 * decay);
        Kick {
            scale: 2.0 * decay / (below * speed),
            kick: towards / (below * force),
            work: (dim - 1.0) * (a + (0.5 * fall * (c - 1.0)).ln_1p()),
        }
    }

    fn is_finite(&self) -> bool {
        (self.scale + self.kick + self.work).is_finite()
    }
}

/// Statistics of a draw, which may take several transitions.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Sums {
    transitions: u64,
    accepted: u64,
    steps: u64,
    moved: u64,
    accept: f64,
    /// Longest run of rejections that lasted into the draw, those before it included.
    longest_run: u64,
    energy_error: f64,
    divergence: Option<Diverged>,
}

/// One chain's transition under way.
pub struct Mams {
    dim: usize,
    max_energy_error: f64,
    state: MamsState,
    stream: Stream,
    slot: Slot,
    /// Slot of the point that moves.
    trial: Slot,
    logp: f64,
    /// Steps of the trajectory, those taken so far, and their size.
    steps: u64,
    taken: u64,
    h: f64,
    kick: Kick,
    work: f64,
    sums: Sums,
}

impl Mams {
    /// Points that it stores: the current one and the end of the trajectory, and those of a divergence.
    pub const SLOTS: usize = 4;

    /// The statistics of a draw.
    pub const STATISTICS: &'static [Statistic] = &[
        Statistic {
            name: "logp",
            kind: Kind::Float,
            doc: "Log density of the draw on the unconstrained scale.",
        },
        Statistic {
            name: "energy_error",
            kind: Kind::Float,
            doc: "Minus the logarithm of the ratio by which the end of the draw's last trajectory was accepted or rejected.",
        },
        Statistic {
            name: "acceptance_rate",
            kind: Kind::Float,
            doc: "Mean acceptance probability of the transitions of the draw.",
        },
        Statistic {
            name: "n_steps",
            kind: Kind::UInt,
            doc: "Number of steps of all transitions, each with one gradient.",
        },
        Statistic { name: "n_accepted", kind: Kind::UInt, doc: "Number of transitions that were accepted." },
        Statistic {
            name: "rejection_run",
            kind: Kind::UInt,
            doc: "Longest run of transitions rejected in a row, those of earlier draws included, that lasted into the draw.",
        },
        Statistic {
            name: "diverging",
            kind: Kind::Bool,
            doc: "Whether a trajectory met numbers that are not finite or ended with an energy error above max_energy_error.",
        },
    ];

    /// A kernel for `dim` parameters, at least two. A trajectory whose energy error at the end is larger than
    /// `max_energy_error` is a divergence.
    pub fn new(dim: usize, max_energy_error: f64, state: MamsState, stream: Stream) -> Self {
        Mams {
            dim,
            max_energy_error,
            state,
            stream,
            slot: 0,
            trial: 1,
            logp: f64::NAN,
            steps: 0,
            taken: 0,
            h: 0.0,
            kick: Kick::default(),
            work: 0.0,
            sums: Sums::default(),
        }
    }

    /// What it remembers between two draws.
    pub fn state(&self) -> MamsState {
        self.state
    }

    /// Go on with another choice.
    pub fn tune(&mut self, tuned: Tuned) {
        self.state.tuned = tuned;
    }

    /// Begin a transition; the first one of a draw has number 0.
    pub fn begin(&mut self, begin: Begin, dots: [f64; 2]) {
        let Begin { slot, logp, kinetic, transition, stream, .. } = begin;
        if transition == 0 {
            self.sums = Sums::default();
        }
        (self.slot, self.logp, self.stream) = (slot, logp, stream);
        self.trial = self.free_slot();
        let Tuned { length, step, .. } = self.state.tuned;
        self.state.phase = (self.state.phase + GOLDEN).fract();
        let time = length * (2.0 * self.state.phase).max(SHORTEST);
        let steps = (time / step).ceil();
        (self.steps, self.h) = if steps > MOST_STEPS as f64 {
            (MOST_STEPS, step)
        } else {
            (steps.max(1.0) as u64, time / steps.max(1.0))
        };
        (self.taken, self.work) = (0, 0.0);
        self.push_on(0.5 * self.h, kinetic, dots);
    }

    /// Prepare a kick.
    fn push_on(&mut self, length: f64, kinetic: f64, dots: [f64; 2]) {
        self.kick = Kick::new(length, self.dim, kinetic, dots);
        self.work += self.kick.work;
    }

    /// A slot whose point nobody wants any more.
    fn free_slot(&self) -> Slot {
        let kept = self.sums.divergence.map(|found| [found.from, found.to]);
        let free = |slot: &Slot| *slot != self.slot && kept.is_none_or(|kept| !kept.contains(slot));
        (0..Self::SLOTS).find(free).unwrap_or(usize::from(self.slot == 0))
    }

    /// Ask for the next step. `row` is the row of slot 0.
    pub fn request(&mut self, metric: usize, row: usize, batch: &mut Batch) {
        let to = row + self.trial;
        let from = if self.taken == 0 { row + self.slot } else { to };
        let Kick { scale, kick, .. } = self.kick;
        let drift = self.h * (self.dim as f64).sqrt();
        batch.push_glide(Glide { metric, from, to, scale, kick, drift });
    }

    /// Take in the step that was asked for.
    pub fn absorb(&mut self, arrival: &Arrival<'_>) -> Next {
        self.taken += 1;
        self.sums.steps += 1;
        let last = self.taken == self.steps;
        let dots = arrival.dots.first().copied().unwrap_or([f64::NAN; 2]);
        self.push_on(if last { 0.5 * self.h } else { self.h }, arrival.kinetic, dots);
        let usable = arrival.logp.is_finite() && self.kick.is_finite();
        if usable && !last {
            return Next::Step;
        }
        let error = if usable { self.logp - arrival.logp + self.work } else { f64::INFINITY };
        self.decide(error, arrival.logp);
        if self.sums.transitions < self.state.tuned.transitions { Next::Refresh } else { Next::Draw }
    }

    /// Accept or reject the end of the trajectory.
    fn decide(&mut self, error: f64, logp: f64) {
        let accept = (-error).exp().min(1.0);
        self.sums.transitions += 1;
        self.sums.accept += accept;
        self.sums.energy_error = error;
        // It is a number, or infinite where something was not finite.
        if error > self.max_energy_error {
            let energy = self.work - logp;
            let (from, to) = (self.slot, self.trial);
            // The first one of a draw.
            self.sums.divergence.get_or_insert(Diverged { from, to, energy, energy_error: error });
        }
        if self.stream.uniform() < accept {
            (self.slot, self.logp) = (self.trial, logp);
            self.sums.accepted += 1;
            self.sums.moved += self.taken;
            self.state.rejections = 0;
        } else {
            self.state.rejections += 1;
            self.sums.longest_run = self.sums.longest_run.max(self.state.rejections);
        }
    }

    /// Slot of the chain's point, and its log density.
    pub fn position(&self) -> (Slot, f64) {
        (self.slot, self.logp)
    }

    /// The draw, when it is complete.
    pub fn outcome(&self) -> super::Outcome {
        let Sums { transitions, accepted, steps, moved, accept, longest_run, energy_error, divergence } =
            self.sums;
        let accept = accept / transitions.max(1) as f64;
        let diverging = f64::from(u8::from(divergence.is_some()));
        super::Outcome {
            slot: self.slot,
            logp: self.logp,
            index: moved as i64,
            accept: [accept; 2],
            n_steps: steps,
            divergence,
            statistics: super::padded(&[
                self.logp,
                energy_error,
                accept,
                steps as f64,
                accepted as f64,
                longest_run as f64,
                diverging,
            ]),
        }
    }
}
