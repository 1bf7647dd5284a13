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
//! Times cover (0, 2 T) evenly ([`super::transitions`]). All this is fixed after the warm-up, which chooses e and T
//! ([`crate::adapt::handover`]).

use serde::{Deserialize, Serialize};

use super::transitions::{Ended, MOST_STEPS, Sums, Tuned, TunedState, metropolis};
use super::{Begin, Diverged, Next};
use crate::device::Glide;
use crate::integrate::{Arrival, Batch};
use crate::rng::Stream;
use crate::settings::{Configure, Field, Setting, Value};
use crate::trace::Statistic;
use crate::tree::Slot;

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

/// Gradients of a transition, on average over the lengths of trajectories.
pub fn gradients(tuned: &Tuned) -> f64 {
    (tuned.length / tuned.step + 0.5).clamp(1.0, MOST_STEPS as f64)
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

/// One chain's transition under way.
pub struct Mams {
    dim: usize,
    max_energy_error: f64,
    state: TunedState,
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
    pub const STATISTICS: &'static [Statistic] = Sums::STATISTICS;

    /// A kernel for `dim` parameters, at least two. A trajectory whose energy error at the end is larger than
    /// `max_energy_error` is a divergence.
    pub fn new(dim: usize, max_energy_error: f64, state: TunedState, stream: Stream) -> Self {
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
    pub fn state(&self) -> TunedState {
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
        (self.steps, self.h) = self.state.next_steps();
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
        let free = |slot: &Slot| *slot != self.slot && !self.sums.keeps(*slot);
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
        // It is a number, or infinite where something was not finite.
        if error > self.max_energy_error {
            let energy = self.work - logp;
            let (from, to) = (self.slot, self.trial);
            // The first one of a draw.
            self.sums.divergence.get_or_insert(Diverged { from, to, energy, energy_error: error });
        }
        let (accepted, accept) = metropolis(error, &mut self.stream);
        if accepted {
            (self.slot, self.logp) = (self.trial, logp);
        }
        let moved = accepted.then_some(self.taken);
        self.sums.end(&mut self.state, Ended { accept, error, moved });
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
