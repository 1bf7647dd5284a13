//! What kernels have in common that are tuned after the warm-up, and of which several transitions, each accepted or
//! rejected, make a draw.
//!
//! Times are t = 2 T nu, where nu = nu_0 + i phi mod 1 for the i-th transition of a chain, phi the golden ratio: the whole of
//! (0, 2 T) is covered evenly.

use serde::{Deserialize, Serialize};

use super::common;
use super::{Diverged, Outcome, padded};
use crate::rng::Stream;
use crate::trace::{Kind, Statistic};
use crate::tree::Slot;

/// Step of the sequence of trajectory lengths.
pub const GOLDEN: f64 = 0.618_033_988_749_894_9;

/// Shortest trajectory, as a multiple of T.
const SHORTEST: f64 = 1e-3;

/// Most steps of a trajectory, which is cut short rather than made of larger steps.
pub(super) const MOST_STEPS: u64 = 1000;

/// What the warm-up chooses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Tuned {
    /// T, the mean length of a trajectory; 0 where the kernel itself finds out how long they are to be.
    pub length: f64,
    /// Largest step size.
    pub step: f64,
    /// Transitions for each draw.
    pub transitions: u64,
}

impl Tuned {
    /// Steps of a trajectory of a length, and their size.
    pub(super) fn steps(&self, time: f64) -> (u64, f64) {
        let steps = (time / self.step).ceil().max(1.0);
        if steps > MOST_STEPS as f64 { (MOST_STEPS, self.step) } else { (steps as u64, time / steps) }
    }
}

/// What such a kernel remembers between two draws.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TunedState {
    /// What the warm-up chose.
    pub tuned: Tuned,
    /// nu of the latest transition.
    pub phase: f64,
    /// Rejections in a row until now.
    pub rejections: u64,
}

impl TunedState {
    /// Steps of the next trajectory, and their size, by the sequence of lengths.
    pub(super) fn next_steps(&mut self) -> (u64, f64) {
        self.phase = (self.phase + GOLDEN).fract();
        self.tuned.steps(self.tuned.length * (2.0 * self.phase).max(SHORTEST))
    }
}

/// How a transition ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended {
    /// Acceptance probability, or what stands in its place.
    pub accept: f64,
    /// Energy error of the end.
    pub error: f64,
    /// Steps between the old point and the new one; `None` if the chain has not moved.
    pub moved: Option<u64>,
}

/// What a draw comes to, which may take several transitions.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Sums {
    pub transitions: u64,
    pub steps: u64,
    pub divergence: Option<Diverged>,
    accepted: u64,
    moved: u64,
    accept: f64,
    /// Longest run of rejections that lasted into the draw, those before it included.
    longest_run: u64,
    energy_error: f64,
}

impl Sums {
    /// The statistics of a draw.
    pub const STATISTICS: &'static [Statistic] = &[
        common::LOGP,
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

    /// Take in a transition, after so many rejections in a row.
    pub fn end(&mut self, rejections: &mut u64, ended: Ended) {
        self.transitions += 1;
        self.accept += ended.accept;
        self.energy_error = ended.error;
        match ended.moved {
            Some(steps) => {
                self.accepted += 1;
                self.moved += steps;
                *rejections = 0;
            }
            None => {
                *rejections += 1;
                self.longest_run = self.longest_run.max(*rejections);
            }
        }
    }

    /// Whether the points of the divergence that the draw tells of are in this slot.
    pub fn keeps(&self, slot: Slot) -> bool {
        self.divergence.is_some_and(|found| [found.from, found.to].contains(&slot))
    }

    /// The draw.
    pub fn outcome(&self, slot: Slot, logp: f64) -> Outcome {
        let Sums { transitions, accepted, steps, moved, longest_run, energy_error, divergence, .. } = *self;
        let accept = self.accept / transitions.max(1) as f64;
        let diverging = f64::from(u8::from(divergence.is_some()));
        Outcome {
            slot,
            logp,
            index: moved as i64,
            accept: [accept; 2],
            n_steps: steps,
            divergence,
            statistics: padded(&[
                logp,
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

/// Whether an end is accepted, with which probability.
pub(super) fn metropolis(error: f64, stream: &mut Stream) -> (bool, f64) {
    let accept = (-error).exp().min(1.0);
    (stream.uniform() < accept, accept)
}
