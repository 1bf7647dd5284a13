//! Transition kernels, one file each, behind one interface.
//!
//! A kernel is a state machine. It begins at a point whose momentum is fresh, asks for one step of an integrator at a time and
//! takes in what the step found; then it wants another step, or a fresh momentum for the next transition of the same draw,
//! or the draw is complete. Its points are in slots, rows of the device that belong to the chain; the chain's current point
//! stays in its slot until the kernel says otherwise.
//!
//! A new kernel is a file with its settings ([`crate::settings::Configure`]), its statistics and its state machine, an entry
//! of [`Kind`] and a line in each match of [`Kernel`].

pub mod nuts;

use crate::integrate::{Arrival, Batch};
use crate::rng::Stream;
use crate::settings::Settings;
use crate::trace::Statistic;
use crate::tree::Slot;
use nuts::Nuts;

/// Which kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The no-U-turn sampler.
    Nuts,
}

impl Kind {
    /// All kernels.
    pub const ALL: &'static [Kind] = &[Kind::Nuts];

    /// Its name in results.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Nuts => "nuts",
        }
    }

    /// The statistics of its draws, in the order of [`Outcome::statistics`].
    pub const fn statistics(self) -> &'static [Statistic] {
        match self {
            Kind::Nuts => nuts::Outcome::STATISTICS,
        }
    }

    /// Number of points that it stores.
    pub fn slots(self, settings: &Settings) -> usize {
        match self {
            Kind::Nuts => Nuts::slots(&settings.nuts),
        }
    }

    /// Largest number of spans that one of its steps asks for.
    pub fn spans(self, settings: &Settings) -> usize {
        match self {
            Kind::Nuts => Nuts::spans(&settings.nuts),
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
    /// Step size.
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
    /// A fresh momentum at the point in a slot, with its log density: the draw takes a further transition.
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
}

impl Kernel {
    /// A kernel with these settings.
    pub fn new(kind: Kind, settings: &Settings, stream: Stream) -> Self {
        match kind {
            Kind::Nuts => Kernel::Nuts(Nuts::new(&settings.nuts, stream)),
        }
    }

    /// Which one it is.
    pub fn kind(&self) -> Kind {
        match self {
            Kernel::Nuts(_) => Kind::Nuts,
        }
    }

    /// Begin a transition, the first of a draw or another.
    pub fn begin(&mut self, begin: Begin) {
        let Begin { slot, logp, kinetic, step, max_depth, stream } = begin;
        match self {
            Kernel::Nuts(nuts) => nuts.begin(slot, logp, kinetic, step, max_depth, stream),
        }
    }

    /// Ask for the next step. `row` is the row of slot 0.
    pub fn request(&mut self, metric: usize, row: usize, batch: &mut Batch) {
        match self {
            Kernel::Nuts(nuts) => nuts.request(metric, row, batch),
        }
    }

    /// Take in the step that was asked for.
    pub fn absorb(&mut self, arrival: &Arrival<'_>) -> Next {
        match self {
            Kernel::Nuts(nuts) => {
                if nuts.absorb(arrival) {
                    Next::Draw
                } else {
                    Next::Step
                }
            }
        }
    }

    /// Where the chain is after a transition: its slot and the log density there.
    pub fn position(&self) -> (Slot, f64) {
        match self {
            Kernel::Nuts(nuts) => nuts.position(),
        }
    }

    /// The point of the latest step, where it may become a draw: its slot, its distance from the start in steps, and its
    /// energy error.
    pub fn latest(&self) -> Option<(Slot, i64, f64)> {
        match self {
            Kernel::Nuts(nuts) => Some(nuts.latest()),
        }
    }

    /// The draw, when it is complete.
    pub fn outcome(&self) -> Outcome {
        match self {
            Kernel::Nuts(nuts) => nuts.outcome().into(),
        }
    }
}
