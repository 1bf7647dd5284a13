//! A chain between its warm-up and its draws, where another kernel takes over ([`crate::adapt::handover`]).

use super::{Arrays, Chain};
use crate::adapt::handover::Handover;
use crate::adapt::member::Member;
use crate::kernel::transitions::TunedState;
use crate::kernel::{Kernel, KernelState};
use crate::rng::{Purpose, Stream};

impl Chain {
    /// The number of the transition that tunes the kernel of the draws, while it does.
    pub(super) fn tuning_round(&self) -> Option<u64> {
        self.adaptation.member().and_then(Member::handover).and_then(Handover::round)
    }

    /// What the random numbers of the next transition are for: momentum and trajectory.
    pub(super) fn purposes(&self) -> [Purpose; 2] {
        match (self.tuning_round(), self.transition) {
            (Some(round), _) => {
                [Purpose::TuningMomentum(round as u32), Purpose::TuningTrajectory(round as u32)]
            }
            (None, 0) => [Purpose::Momentum, Purpose::Trajectory],
            (None, i) => [Purpose::MomentumOf(i as u32), Purpose::TrajectoryOf(i as u32)],
        }
    }

    /// Use what the pool has chosen for the kernel of the draws.
    pub(super) fn take_over(&mut self, arrays: &Arrays) {
        let handover = self.member_mut().and_then(Member::handover_mut);
        let Some((kernel, tuned)) = handover.and_then(Handover::take_tuned) else { return };
        if self.kernel.tune(tuned) {
            return;
        }
        let phase = Stream::new(self.key(), Purpose::Lengths).uniform();
        let state = KernelState::new(kernel, TunedState { tuned, phase, rejections: 0 });
        let stream = Stream::new(self.key(), Purpose::Trajectory);
        self.kernel = Kernel::new(state, &self.settings, arrays.dim, stream);
    }

    /// A transition that tunes the kernel is complete.
    pub(super) fn finish_round(&mut self) {
        let outcome = self.kernel.outcome();
        (self.current, self.logp) = (outcome.slot, outcome.logp);
        self.warmup_gradients = self.n_gradients;
        if let Some(member) = self.member_mut() {
            member.observe_tuning(outcome.accept[0], outcome.n_steps);
        }
        self.next_task();
    }
}
