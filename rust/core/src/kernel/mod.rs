//! Transition kernels, one file each, behind one interface.
//!
//! A kernel is a state machine. It begins at a point whose momentum is fresh, asks for one step of an integrator at a time and
//! takes in what the step found; then it wants another step, or a fresh momentum for the next transition of the same draw,
//! or the draw is complete. Its points are in slots, rows of the device that belong to the chain; the chain's current point
//! stays in its slot until the kernel says otherwise.
//!
//! A new kernel is a file with its settings ([`crate::settings::Configure`]), its statistics and its state machine, an entry
//! of [`Kind`] and a line in each match of [`Kernel`].

mod common;
pub mod ghmc;
pub mod hmc;
pub mod mams;
pub mod nuts;
pub mod transitions;
pub mod walnuts;

use serde::{Deserialize, Serialize};

use crate::adapt::meads::MeadsSettings;
use crate::device::Dots;
use crate::integrate::{Arrival, Batch, Integrator};
use crate::rng::Stream;
use crate::settings::{Configure, Setting, Settings};
use crate::trace::Statistic;
use crate::tree::Slot;
use ghmc::{Ghmc, GhmcState};
use hmc::{Hmc, HmcSettings};
use mams::{Mams, MamsSettings};
use nuts::Nuts;
use transitions::{Tuned, TunedState};
use walnuts::{Walnuts, WalnutsSettings};

/// How the kernel of the draws after the warm-up is chosen. The warm-up is that of [`Kind::Nuts`], but for an ensemble.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Sampler {
    /// The no-U-turn sampler.
    #[default]
    Nuts,
    /// The Metropolis-adjusted microcanonical sampler.
    Mams,
    /// That where the warm-up went well, otherwise the no-U-turn sampler.
    Auto,
    /// Hamiltonian Monte Carlo with trajectories whose length is fixed.
    Hmc,
    /// The no-U-turn sampler with steps that adapt within a trajectory.
    Walnuts,
    /// An ensemble of chains with generalised Hamiltonian Monte Carlo, in the warm-up too.
    Meads,
}

/// What a front end needs to know of a sampler.
#[derive(Clone, Copy, Debug)]
pub struct SamplerInfo {
    /// The sampler.
    pub sampler: Sampler,
    /// Its name.
    pub name: &'static str,
    /// What it is.
    pub doc: &'static str,
    /// Settings that have no effect without it, or another sampler that has them too.
    pub settings: &'static [&'static [Setting]],
}

impl Sampler {
    /// All samplers.
    pub const ALL: &'static [SamplerInfo] = &[
        SamplerInfo {
            sampler: Sampler::Nuts,
            name: "nuts",
            doc: "The no-U-turn sampler.",
            settings: &[Integrator::SETTINGS],
        },
        SamplerInfo {
            sampler: Sampler::Mams,
            name: "mams",
            doc: "The Metropolis-adjusted microcanonical sampler, after a warm-up with the no-U-turn sampler.",
            settings: &[MamsSettings::SETTINGS],
        },
        SamplerInfo {
            sampler: Sampler::Auto,
            name: "auto",
            doc: "As 'mams' where the warm-up found a good metric and no chain lags, otherwise as 'nuts'.",
            settings: &[MamsSettings::SETTINGS],
        },
        SamplerInfo {
            sampler: Sampler::Hmc,
            name: "hmc",
            doc: "Hamiltonian Monte Carlo with trajectories whose length does not depend on where they go, after a warm-up with \
                  the no-U-turn sampler.",
            settings: &[Integrator::SETTINGS, HmcSettings::SETTINGS],
        },
        SamplerInfo {
            sampler: Sampler::Walnuts,
            name: "walnuts",
            doc: "The no-U-turn sampler with steps that adapt within a trajectory, after a warm-up without; for posteriors whose \
                  scales vary.",
            settings: &[WalnutsSettings::SETTINGS],
        },
        SamplerInfo {
            sampler: Sampler::Meads,
            name: "meads",
            doc: "Generalised Hamiltonian Monte Carlo with many chains, which warm up as an ensemble from draws of a short run \
                  of the no-U-turn sampler; for many short chains at once.",
            settings: &[MeadsSettings::SETTINGS],
        },
    ];

    /// The sampler of a name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|info| info.name == name).map(|info| info.sampler)
    }

    /// The kernels that it may use.
    pub fn kernels(self) -> &'static [Kind] {
        match self {
            Sampler::Nuts => &[Kind::Nuts],
            Sampler::Mams | Sampler::Auto => &[Kind::Nuts, Kind::Mams],
            Sampler::Hmc => &[Kind::Nuts, Kind::Hmc],
            Sampler::Walnuts => &[Kind::Nuts, Kind::Walnuts],
            Sampler::Meads => &[Kind::Ghmc],
        }
    }

    /// Rows of the points of a chain.
    pub fn slots(self, settings: &Settings) -> usize {
        self.kernels().iter().map(|kind| kind.slots(settings)).max().unwrap_or(0)
    }

    /// Largest number of spans that a step of a chain asks for.
    pub fn spans(self, settings: &Settings) -> usize {
        self.kernels().iter().map(|kind| kind.spans(settings)).max().unwrap_or(0)
    }
}

/// Which kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// The no-U-turn sampler.
    #[default]
    Nuts,
    /// The Metropolis-adjusted microcanonical kernel.
    Mams,
    /// Trajectories of fixed length.
    Hmc,
    /// The no-U-turn sampler with steps that adapt within a trajectory.
    Walnuts,
    /// Generalised Hamiltonian Monte Carlo.
    Ghmc,
}

impl Kind {
    /// All kernels.
    pub const ALL: &'static [Kind] = &[Kind::Nuts, Kind::Mams, Kind::Hmc, Kind::Walnuts, Kind::Ghmc];

    /// Its name in results.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Nuts => "nuts",
            Kind::Mams => "mams",
            Kind::Hmc => "hmc",
            Kind::Walnuts => "walnuts",
            Kind::Ghmc => "ghmc",
        }
    }

    /// The statistics of its draws, in the order of [`Outcome::statistics`].
    pub const fn statistics(self) -> &'static [Statistic] {
        match self {
            Kind::Nuts => nuts::Outcome::STATISTICS,
            Kind::Mams => Mams::STATISTICS,
            Kind::Hmc => Hmc::STATISTICS,
            Kind::Walnuts => Walnuts::STATISTICS,
            Kind::Ghmc => Ghmc::STATISTICS,
        }
    }

    /// Number of points that it stores.
    pub fn slots(self, settings: &Settings) -> usize {
        match self {
            Kind::Nuts => Nuts::slots(&settings.nuts),
            Kind::Mams => Mams::SLOTS,
            Kind::Hmc => Hmc::SLOTS,
            Kind::Walnuts => Walnuts::slots(&settings.nuts),
            Kind::Ghmc => Ghmc::SLOTS,
        }
    }

    /// Largest number of spans that one of its steps asks for.
    pub fn spans(self, settings: &Settings) -> usize {
        match self {
            Kind::Nuts | Kind::Walnuts => Nuts::spans(&settings.nuts),
            Kind::Mams | Kind::Hmc | Kind::Ghmc => 0,
        }
    }
}

/// Largest number of statistics that a kernel has.
pub const MOST_STATISTICS: usize = {
    let (mut most, mut i) = (0, 0);
    while i < Kind::ALL.len() {
        let n = Kind::ALL[i].statistics().len();
        most = if n > most { n } else { most };
        i += 1;
    }
    most
};

/// Where a transition begins.
#[derive(Clone, Debug)]
pub struct Begin {
    /// Slot of the point.
    pub slot: Slot,
    /// Its log density.
    pub logp: f64,
    /// Kinetic energy of its fresh momentum.
    pub kinetic: f64,
    /// Which transition of the draw it is, from 0.
    pub transition: u64,
    /// Step size, where it is not the kernel that knows it.
    pub step: f64,
    /// Largest number of doublings, if it is limited further than by the settings.
    pub max_depth: Option<u32>,
    /// Random numbers of the transition.
    pub stream: Stream,
}

/// What a kernel wants after a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Another step.
    Step,
    /// A fresh momentum at [`Kernel::position`]: the draw takes a further transition.
    Refresh,
    /// Nothing: the draw is complete.
    Draw,
}

/// A step that diverged.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Diverged {
    /// Slot of the point where it started.
    pub from: Slot,
    /// Slot of the point where it ended.
    pub to: Slot,
    /// Energy at its end.
    pub energy: f64,
    /// That less the energy at the start of the trajectory.
    pub energy_error: f64,
}

/// A complete draw, as all kernels tell of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Slot of the draw.
    pub slot: Slot,
    /// Its log density.
    pub logp: f64,
    /// Signed number of steps from the start of the trajectory to the draw, or the steps of all transitions that were
    /// accepted. Zero if the chain has not moved.
    pub index: i64,
    /// The acceptance statistics that the step size can be adapted to, the plain and the symmetric one; twice the plain one
    /// where a kernel has no other.
    pub accept: [f64; 2],
    /// Steps, each with one gradient.
    pub n_steps: u64,
    /// The step that diverged, if one did.
    pub divergence: Option<Diverged>,
    /// Values of [`Kind::statistics`], followed by zeros.
    pub statistics: [f64; MOST_STATISTICS],
}

impl Outcome {
    /// Whether a step diverged.
    pub fn diverging(&self) -> bool {
        self.divergence.is_some()
    }
}

/// Statistics in the first places of a list as long as the longest.
fn padded(values: &[f64]) -> [f64; MOST_STATISTICS] {
    let mut all = [0.0; MOST_STATISTICS];
    all[..values.len()].copy_from_slice(values);
    all
}

/// The kernel of one chain.
pub enum Kernel {
    /// The no-U-turn sampler.
    Nuts(Nuts),
    /// The Metropolis-adjusted microcanonical kernel.
    Mams(Mams),
    /// Trajectories of fixed length.
    Hmc(Hmc),
    /// The no-U-turn sampler with steps that adapt within a trajectory.
    Walnuts(Walnuts),
    /// Generalised Hamiltonian Monte Carlo.
    Ghmc(Ghmc),
}

/// What a kernel remembers between two draws.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum KernelState {
    /// Nothing: the adaptation knows the step size of the no-U-turn sampler.
    Nuts,
    /// The no-U-turn sampler with the exact-normal integrator.
    ExactNuts(Tuned),
    /// The Metropolis-adjusted microcanonical kernel.
    Mams(TunedState),
    /// Trajectories of fixed length.
    Hmc(TunedState),
    /// The no-U-turn sampler with steps that adapt within a trajectory.
    Walnuts(Tuned),
    /// Generalised Hamiltonian Monte Carlo.
    Ghmc(GhmcState),
}

impl KernelState {
    /// The state in which a kernel that has been tuned begins.
    pub fn new(kernel: Kind, state: TunedState) -> Self {
        match kernel {
            Kind::Nuts => KernelState::ExactNuts(state.tuned),
            Kind::Mams => KernelState::Mams(state),
            Kind::Hmc => KernelState::Hmc(state),
            Kind::Walnuts => KernelState::Walnuts(state.tuned),
            Kind::Ghmc => KernelState::Ghmc(GhmcState { tuned: state.tuned, ..GhmcState::new(state.phase) }),
        }
    }

    /// What the kernel is tuned to, unless the adaptation does it.
    pub fn tuned(&self) -> Option<Tuned> {
        match self {
            KernelState::Nuts => None,
            KernelState::ExactNuts(tuned) | KernelState::Walnuts(tuned) => Some(*tuned),
            KernelState::Mams(state) | KernelState::Hmc(state) => Some(state.tuned),
            KernelState::Ghmc(state) => Some(state.tuned),
        }
    }
}

impl Kernel {
    /// A kernel for `dim` parameters with these settings. The stream is to be replaced when a transition begins.
    pub fn new(state: KernelState, settings: &Settings, dim: usize, stream: Stream) -> Self {
        match state {
            KernelState::Nuts => Kernel::Nuts(Nuts::new(&settings.nuts, stream)),
            KernelState::ExactNuts(tuned) => Kernel::Nuts(Nuts::exact(&settings.nuts, tuned, stream)),
            KernelState::Mams(state) => {
                Kernel::Mams(Mams::new(dim, settings.nuts.max_energy_error, state, stream))
            }
            KernelState::Hmc(state) => Kernel::Hmc(Hmc::new(settings, state, stream)),
            KernelState::Walnuts(tuned) => Kernel::Walnuts(Walnuts::new(settings, tuned, stream)),
            KernelState::Ghmc(state) => Kernel::Ghmc(Ghmc::new(settings.nuts.max_energy_error, state)),
        }
    }

    /// What it remembers between two draws.
    pub fn state(&self) -> KernelState {
        match self {
            Kernel::Nuts(nuts) => nuts.tuned().map_or(KernelState::Nuts, KernelState::ExactNuts),
            Kernel::Mams(mams) => KernelState::Mams(mams.state()),
            Kernel::Hmc(hmc) => KernelState::Hmc(hmc.state()),
            Kernel::Walnuts(walnuts) => KernelState::Walnuts(walnuts.tuned()),
            Kernel::Ghmc(ghmc) => KernelState::Ghmc(ghmc.state()),
        }
    }

    /// Go on with another choice; false if this is the kernel of the warm-up, which has none.
    pub fn tune(&mut self, tuned: Tuned) -> bool {
        match self {
            Kernel::Nuts(nuts) => return nuts.tune(tuned),
            Kernel::Mams(mams) => mams.tune(tuned),
            Kernel::Hmc(hmc) => hmc.tune(tuned),
            Kernel::Walnuts(walnuts) => walnuts.tune(tuned),
            Kernel::Ghmc(ghmc) => ghmc.tune(tuned),
        }
        true
    }

    /// Which one it is.
    pub fn kind(&self) -> Kind {
        match self {
            Kernel::Nuts(_) => Kind::Nuts,
            Kernel::Mams(_) => Kind::Mams,
            Kernel::Hmc(_) => Kind::Hmc,
            Kernel::Walnuts(_) => Kind::Walnuts,
            Kernel::Ghmc(_) => Kind::Ghmc,
        }
    }

    /// Its step size, if it is not that of the adaptation.
    pub fn step_size(&self) -> Option<f64> {
        self.state().tuned().map(|tuned| tuned.step)
    }

    /// Whether it begins a transition with the inner products of [`crate::device::Device::products`].
    pub fn wants_products(&self) -> bool {
        matches!(self, Kernel::Mams(_))
    }

    /// Whether it begins a transition with the pull of its point ([`crate::device::Device::pull`]).
    pub fn wants_pull(&self) -> bool {
        match self {
            Kernel::Nuts(nuts) => nuts.tuned().is_some(),
            Kernel::Hmc(hmc) => hmc.integrator() == Integrator::ExactNormal,
            Kernel::Mams(_) | Kernel::Walnuts(_) | Kernel::Ghmc(_) => false,
        }
    }

    /// The share of the momentum that the next transition keeps, negative where it turns it round; 0 where it wants a fresh
    /// one.
    pub fn keeps(&self) -> f64 {
        if let Kernel::Ghmc(ghmc) = self { ghmc.keeps() } else { 0.0 }
    }

    /// Begin the next transition with a fresh momentum.
    pub fn restart(&mut self) {
        if let Kernel::Ghmc(ghmc) = self {
            ghmc.restart();
        }
    }

    /// Begin a transition, the first of a draw or another; with the inner products, if it wants them.
    pub fn begin(&mut self, begin: Begin, products: Dots) {
        match self {
            Kernel::Nuts(nuts) => {
                let Begin { slot, logp, kinetic, step, max_depth, stream, .. } = begin;
                nuts.begin(slot, logp, kinetic, step, max_depth, stream);
            }
            Kernel::Mams(mams) => mams.begin(begin, products),
            Kernel::Hmc(hmc) => hmc.begin(begin),
            Kernel::Walnuts(walnuts) => walnuts.begin(begin),
            Kernel::Ghmc(ghmc) => ghmc.begin(begin),
        }
    }

    /// Ask for the next step. `row` is the row of slot 0.
    pub fn request(&mut self, metric: usize, row: usize, batch: &mut Batch) {
        match self {
            Kernel::Nuts(nuts) => nuts.request(metric, row, batch),
            Kernel::Mams(mams) => mams.request(metric, row, batch),
            Kernel::Hmc(hmc) => hmc.request(metric, row, batch),
            Kernel::Walnuts(walnuts) => walnuts.request(metric, row, batch),
            Kernel::Ghmc(ghmc) => ghmc.request(metric, row, batch),
        }
    }

    /// Take in the step that was asked for.
    pub fn absorb(&mut self, arrival: &Arrival<'_>) -> Next {
        let complete = match self {
            Kernel::Nuts(nuts) => nuts.absorb(arrival),
            Kernel::Walnuts(walnuts) => walnuts.absorb(arrival),
            Kernel::Mams(mams) => return mams.absorb(arrival),
            Kernel::Hmc(hmc) => return hmc.absorb(arrival),
            Kernel::Ghmc(ghmc) => return ghmc.absorb(arrival),
        };
        if complete { Next::Draw } else { Next::Step }
    }

    /// Where the chain is after a transition: its slot and the log density there.
    pub fn position(&self) -> (Slot, f64) {
        match self {
            Kernel::Nuts(nuts) => nuts.position(),
            Kernel::Mams(mams) => mams.position(),
            Kernel::Hmc(hmc) => hmc.position(),
            Kernel::Walnuts(walnuts) => walnuts.position(),
            Kernel::Ghmc(ghmc) => ghmc.position(),
        }
    }

    /// The point of the latest step, where it may become a draw of the warm-up: its slot, its distance from the start in
    /// steps, and its energy error.
    pub fn latest(&self) -> Option<(Slot, i64, f64)> {
        match self {
            Kernel::Nuts(nuts) => Some(nuts.latest()),
            Kernel::Mams(_) | Kernel::Hmc(_) | Kernel::Walnuts(_) | Kernel::Ghmc(_) => None,
        }
    }

    /// The draw, when it is complete.
    pub fn outcome(&self) -> Outcome {
        match self {
            Kernel::Nuts(nuts) => nuts.outcome().into(),
            Kernel::Mams(mams) => mams.outcome(),
            Kernel::Hmc(hmc) => hmc.outcome(),
            Kernel::Walnuts(walnuts) => walnuts.outcome(),
            Kernel::Ghmc(ghmc) => ghmc.outcome(),
        }
    }
}
