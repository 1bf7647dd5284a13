//! Generalised Hamiltonian Monte Carlo (Horowitz 1991): momenta that persist, one leapfrog step for each transition, and an
//! acceptance variable that is updated without reversibility (Neal 2020).
//!
//! The state is (x, p, u) with the density pi(x) N(p; 0, M) on u in (-1, 1), uniform. A transition with step size e and
//! damping g, where a = 1 - exp(-2 g e), does the following, each part of which leaves that density as it is:
//!
//! 1. p <- (1 - a)^(1/2) p + a^(1/2) xi, xi from N(0, M).
//! 2. u <- u + a / 2, from the upper end of (-1, 1) on to the lower one.
//! 3. A leapfrog step to (x', p'), with the energy error D = H(x', p') - H(x, p). If |u| <= exp(-D) it is accepted and
//!    u <- u exp(D), so that |u| pi(x) N(p) stays what it was; otherwise p <- -p.
//!
//! Since u moves slowly, rejections come in a row, and momenta persist for long between them. The turned sign of p is kept as a
//! factor of the next refreshment.

use serde::{Deserialize, Serialize};

use super::transitions::{Ended, Sums, Tuned};
use super::{Begin, Diverged, Next};
use crate::integrate::{Arrival, Batch, Request};
use crate::trace::Statistic;
use crate::tree::Slot;

/// What the kernel remembers between two draws, beside the momentum of its point.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct GhmcState {
    /// What it is tuned to; the length is 1 / g, the time in which momenta are forgotten.
    pub tuned: Tuned,
    /// u.
    pub slice: f64,
    /// The sign with which the momentum goes on, 0 if there is none yet.
    pub sign: f64,
    /// Rejections in a row until now.
    pub rejections: u64,
}

impl GhmcState {
    /// A beginning with some u.
    pub fn new(slice: f64) -> Self {
        let tuned = Tuned { length: 1.0, step: 0.1, transitions: 1 };
        GhmcState { tuned, slice, sign: 0.0, rejections: 0 }
    }
}

/// One chain's transition under way.
pub struct Ghmc {
    max_energy_error: f64,
    state: GhmcState,
    slot: Slot,
    to: Slot,
    logp: f64,
    start_energy: f64,
    sums: Sums,
}

impl Ghmc {
    /// Points that it stores: the current one, the end of the step, and those of a divergence.
    pub const SLOTS: usize = 4;

    /// The statistics of a draw.
    pub const STATISTICS: &'static [Statistic] = Sums::STATISTICS;

    /// A kernel that takes a step with a larger energy error for a divergence.
    pub fn new(max_energy_error: f64, state: GhmcState) -> Self {
        Ghmc {
            max_energy_error,
            state,
            slot: 0,
            to: 1,
            logp: f64::NAN,
            start_energy: f64::NAN,
            sums: Sums::default(),
        }
    }

    /// What it remembers between two draws.
    pub fn state(&self) -> GhmcState {
        self.state
    }

    /// Go on with another choice.
    pub fn tune(&mut self, tuned: Tuned) {
        self.state.tuned = tuned;
    }

    /// Forget the momentum.
    pub fn restart(&mut self) {
        self.state.sign = 0.0;
    }

    /// The factor of the momentum in its next refreshment, with the sign; 0 for a fresh one.
    pub fn keeps(&self) -> f64 {
        let Tuned { length, step, .. } = self.state.tuned;
        self.state.sign * (-step / length).exp()
    }

    /// Begin a transition; the first one of a draw has number 0.
    pub fn begin(&mut self, begin: Begin) {
        let Begin { slot, logp, kinetic, transition, .. } = begin;
        if transition == 0 {
            self.sums = Sums::default();
        }
        (self.slot, self.logp) = (slot, logp);
        self.start_energy = kinetic - logp;
        self.to = self.free_slot();
        let Tuned { length, step, .. } = self.state.tuned;
        let renewed = -(-2.0 * step / length).exp_m1();
        self.state.slice = (self.state.slice + 1.0 + 0.5 * renewed).rem_euclid(2.0) - 1.0;
    }

    /// A slot whose point nobody wants any more.
    fn free_slot(&self) -> Slot {
        let free = |slot: &Slot| *slot != self.slot && !self.sums.keeps(*slot);
        (0..Self::SLOTS).find(free).unwrap_or(usize::from(self.slot == 0))
    }

    /// Ask for the step. `row` is the row of slot 0.
    pub fn request(&mut self, metric: usize, row: usize, batch: &mut Batch) {
        let (from, to) = (row + self.slot, row + self.to);
        let step = self.state.tuned.step;
        batch.push(Request { metric, from, to, step, begun: false, onward: None }, std::iter::empty());
    }

    /// Take in the step that was asked for.
    pub fn absorb(&mut self, arrival: &Arrival<'_>) -> Next {
        self.sums.steps += 1;
        let energy = arrival.energy();
        let error = if energy.is_finite() { energy - self.start_energy } else { f64::INFINITY };
        if error > self.max_energy_error {
            let (from, to, energy) = (self.slot, self.to, error + self.start_energy);
            // The first one of a draw.
            self.sums.divergence.get_or_insert(Diverged { from, to, energy, energy_error: error });
        }
        let ratio = (-error).exp();
        let accepted = error.is_finite() && self.state.slice.abs() <= ratio;
        if accepted {
            self.state.slice *= error.exp();
            (self.slot, self.logp, self.state.sign) = (self.to, arrival.logp, 1.0);
        } else {
            self.state.sign = -1.0;
        }
        let moved = accepted.then_some(1);
        self.sums.end(&mut self.state.rejections, Ended { accept: ratio.min(1.0), error, moved });
        if self.sums.transitions < self.state.tuned.transitions { Next::Refresh } else { Next::Draw }
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
