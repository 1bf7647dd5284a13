//! What a kernel that makes the draws after the warm-up wants to be tuned to.

use std::f64::consts::FRAC_PI_2;

use serde::{Deserialize, Serialize};

use crate::integrate::{Integrator, LARGEST_TURN};
use crate::kernel::hmc::HmcSettings;
use crate::kernel::transitions::Tuned;
use crate::kernel::{Kind, Sampler, mams};
use crate::settings::Settings;

/// Shortest mean length of trajectories.
const SHORTEST: f64 = 1.4;

/// Transitions of each chain that tune the step size at least, and where they cost as much as draws: a share of the gradients
/// of the warm-up is then soon taken.
const LEAST_ROUNDS: u64 = 10;
const LEAST_DEAR_ROUNDS: u64 = 40;

/// How to tune a kernel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The kernel.
    pub kernel: Kind,
    /// Mean acceptance statistic that the step size aims at.
    pub target_accept: f64,
    /// Largest step size.
    pub largest_step: f64,
    /// Transitions that tune it at least.
    pub least_rounds: u64,
    /// Mean length of trajectories, 0 for what the warm-up says.
    length: f64,
    /// Transitions for each draw, 0 for as many as cost no more than a draw of the warm-up.
    transitions: u64,
    hmc: HmcSettings,
}

impl Plan {
    /// What comes after the warm-up with these settings; `None` if the kernel of the warm-up goes on.
    pub fn new(settings: &Settings) -> Option<Self> {
        let exact = settings.integrator == Integrator::ExactNormal;
        let Settings { mams, hmc, adapt, .. } = settings;
        let (kernel, target_accept, length, transitions) = match settings.sampler {
            Sampler::Nuts if exact => (Kind::Nuts, adapt.target_accept, 0.0, 1),
            Sampler::Nuts => return None,
            Sampler::Mams | Sampler::Auto => (Kind::Mams, mams.target_accept, mams.length, mams.transitions),
            Sampler::Hmc => (Kind::Hmc, hmc.target_accept, hmc.length, hmc.transitions),
            Sampler::Walnuts => (Kind::Walnuts, settings.walnuts.target, 0.0, 1),
        };
        let turns = exact && matches!(kernel, Kind::Nuts | Kind::Hmc);
        let largest_step = if turns { adapt.max_step_size.min(LARGEST_TURN) } else { adapt.max_step_size };
        let dear = matches!(kernel, Kind::Nuts | Kind::Walnuts);
        let least_rounds = if dear { LEAST_DEAR_ROUNDS } else { LEAST_ROUNDS };
        Some(Plan {
            kernel,
            target_accept,
            largest_step,
            least_rounds,
            length,
            transitions,
            hmc: hmc.clone(),
        })
    }

    /// Mean length of trajectories, where late draws of the warm-up have this top eigenvalue.
    pub fn length(&self, top_eigenvalue: Option<f64>) -> f64 {
        match (self.kernel, top_eigenvalue) {
            (Kind::Nuts | Kind::Walnuts, _) => 0.0,
            _ if self.length > 0.0 => self.length,
            (Kind::Hmc, None) => FRAC_PI_2,
            (_, ell) => ell.unwrap_or(1.0).sqrt().max(SHORTEST),
        }
    }

    /// Transitions for each draw, where a late draw of the warm-up took so many gradients.
    pub fn transitions(&self, tuned: &Tuned, price: f64) -> u64 {
        if self.transitions > 0 {
            return self.transitions;
        }
        let gradients =
            if self.kernel == Kind::Hmc { self.hmc.gradients(tuned) } else { mams::gradients(tuned) };
        (price / gradients).floor().max(1.0) as u64
    }
}
