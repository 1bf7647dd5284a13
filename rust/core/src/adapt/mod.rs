//! Warm-up: step size, metric and the schedule that ties them together.
//!
//! Each scheme is a file: [`windowed`] and [`stan`] for chains by themselves, [`pool`] with [`member`] and [`group`] for
//! chains that share what they know, [`ensemble`] with [`walker`] and [`meads`] for many chains that move by what others know.

pub mod descent;
pub mod ensemble;
mod fit;
pub mod group;
pub mod handover;
pub mod meads;
pub mod member;
pub mod plan;
pub mod pool;
mod recycle;
pub mod settings;
pub mod stan;
pub mod step_size;
pub mod walker;
pub mod windowed;
pub mod windows;

pub use recycle::Reservoir;
pub use settings::{AdaptSettings, Scheme};

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::device::{Device, Metrics};
use crate::error::Result;
use crate::estimator::fisher_diag::{FisherDiag, Updates};
use crate::metric::Metric;
use crate::settings::Settings;
use member::{Change, Member};
use stan::Stan;
use step_size::DualAverage;
use walker::Walker;
use windowed::Windowed;

/// A divergent trajectory is used only if it got further than this many steps: others say more about a bad step size than
/// about the target.
const MIN_STEPS_OF_DIVERGENT: u64 = 4;

/// A warm-up draw of a chain.
#[derive(Clone, Copy, Debug, Default)]
pub struct Draw<'a> {
    /// Its index.
    pub index: u64,
    /// Its log density.
    pub logp: f64,
    /// Acceptance statistics of its trajectory, the plain and the symmetric one.
    pub accept: [f64; 2],
    /// Leapfrog steps of its trajectory.
    pub n_steps: u64,
    /// Steps from the start of the trajectory to the draw.
    pub distance: u64,
    /// Whether its trajectory diverged.
    pub diverging: bool,
    /// Position and gradient of the draw, where the adaptation wants them.
    pub point: Option<[&'a [f64]; 2]>,
    /// Position and gradient of another point of the trajectory.
    pub recycled: Option<[&'a [f64]; 2]>,
}

/// What an adaptation may look at after a warm-up draw.
pub struct Seen<'a> {
    /// The draw.
    pub draw: Draw<'a>,
    /// Its row on the device.
    pub row: usize,
    /// Moments of the chain's draws and gradients, for those who want them.
    pub moments: &'a mut FisherDiag,
    /// What these ask of the device. It is done before [`Adaptation::settle`].
    pub updates: &'a mut Updates,
}

/// What becomes of the metric after a warm-up draw.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// It stays.
    Keep,
    /// There is another one.
    Use(Arc<Metric>),
    /// One comes from moments that are on the device: [`Adaptation::settle`].
    Settle(Made),
}

/// A metric made of moments.
#[derive(Clone, Copy, Debug)]
pub struct Made {
    /// Index of the draw.
    draw: u64,
    /// Number of points.
    points: usize,
    /// Whether a window ends.
    ends: bool,
}

/// How the warm-up of a chain goes about it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Adaptation {
    /// By itself, in foreground and background windows.
    Windowed(Windowed),
    /// By itself, in Stan's windows.
    Stan(Stan),
    /// The step size only.
    Fixed(StepOnly),
    /// Together with others.
    Pooled(Box<Member>),
    /// As one of an ensemble.
    Ensemble(Box<Walker>),
}

/// A warm-up that leaves the metric alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepOnly {
    settings: AdaptSettings,
    step: DualAverage,
    search_pending: bool,
}

impl Adaptation {
    /// For a chain of `dim` parameters, one of `chains` of its pool.
    pub fn new(tune: u64, chains: usize, dim: usize, settings: &AdaptSettings) -> Self {
        match settings.scheme {
            Scheme::Auto | Scheme::LowRank | Scheme::Dense => {
                Adaptation::Pooled(Box::new(Member::new(tune, chains, dim, settings)))
            }
            Scheme::Diag | Scheme::DrawDiag | Scheme::LowRankWindows => {
                Adaptation::Windowed(Windowed::new(tune, dim, settings))
            }
            Scheme::Stan | Scheme::StanDense => Adaptation::Stan(Stan::new(tune, dim, settings)),
            Scheme::Fixed => Adaptation::Fixed(StepOnly {
                settings: settings.clone(),
                step: DualAverage::new(settings.initial_step),
                search_pending: true,
            }),
        }
    }

    /// For a chain of an ensemble.
    pub fn ensemble(settings: &Settings) -> Self {
        Adaptation::Ensemble(Box::new(Walker::new(settings)))
    }

    /// The settings.
    pub fn settings(&self) -> &AdaptSettings {
        match self {
            Adaptation::Windowed(a) => &a.settings,
            Adaptation::Stan(a) => &a.settings,
            Adaptation::Fixed(a) => &a.settings,
            Adaptation::Pooled(a) => a.settings(),
            Adaptation::Ensemble(a) => &a.settings,
        }
    }

    fn step(&self) -> &DualAverage {
        match self {
            Adaptation::Windowed(a) => &a.step,
            Adaptation::Stan(a) => &a.step,
            Adaptation::Fixed(a) => &a.step,
            Adaptation::Pooled(a) => a.step(),
            Adaptation::Ensemble(a) => &a.step,
        }
    }

    /// The step size of a draw; `uniform` in [0, 1) gives the jitter.
    pub fn step_size(&self, tuning: bool, uniform: f64) -> f64 {
        let step = if tuning { self.step().current() } else { self.step().average() };
        step * (1.0 + self.settings().step_size_jitter * (2.0 * uniform - 1.0))
    }

    /// The averaged step size so far.
    pub fn step_size_bar(&self) -> f64 {
        self.step().average()
    }

    /// Whether a step size is to be searched before the next draw, and from where.
    pub fn search_from(&self) -> Option<f64> {
        let (pending, from) = match self {
            Adaptation::Windowed(a) => (a.search_pending, a.settings.initial_step),
            Adaptation::Stan(a) => (a.search_pending, a.step.current()),
            Adaptation::Fixed(a) => (a.search_pending, a.settings.initial_step),
            Adaptation::Pooled(a) => (a.search_pending(), a.settings().initial_step),
            Adaptation::Ensemble(_) => return None,
        };
        pending.then_some(from)
    }

    /// A search found a step size.
    pub fn found_step(&mut self, found: f64) {
        let (step, pending) = match self {
            Adaptation::Windowed(a) => (&mut a.step, &mut a.search_pending),
            Adaptation::Stan(a) => (&mut a.step, &mut a.search_pending),
            Adaptation::Fixed(a) => (&mut a.step, &mut a.search_pending),
            Adaptation::Pooled(a) => a.step_to_search(),
            Adaptation::Ensemble(_) => return,
        };
        *step = DualAverage::new(found);
        *pending = false;
    }

    /// Largest number of doublings of a warm-up draw, if there is a limit besides the kernel's.
    pub fn max_depth(&self, draw: u64) -> Option<u32> {
        self.member().and_then(|member| member.max_depth(draw))
    }

    /// Whether it wants position and gradient of a draw on the host.
    pub fn wants_point(&self, draw: u64) -> bool {
        match self {
            Adaptation::Windowed(a) => a.wants_points(),
            Adaptation::Stan(a) => a.wants_points(draw),
            Adaptation::Fixed(_) => false,
            Adaptation::Pooled(_) | Adaptation::Ensemble(_) => true,
        }
    }

    /// Whether it wants another point of a draw's trajectory.
    pub fn recycles(&self, draw: u64) -> bool {
        self.member().is_some_and(|member| member.collects(draw))
    }

    /// The first point of the chain, and the first metric.
    pub fn start(&mut self, mut seen: Seen<'_>, metric: Arc<Metric>) {
        match self {
            Adaptation::Windowed(a) => a.start(&mut seen, metric),
            Adaptation::Pooled(a) => a.start(&seen.draw, metric),
            Adaptation::Stan(a) => a.start(&metric),
            Adaptation::Ensemble(a) => a.start(&seen.draw, seen.draw.logp, metric),
            Adaptation::Fixed(_) => {}
        }
    }

    /// How the metric changed so far.
    pub fn changes(&self) -> &[Arc<Change>] {
        match self {
            Adaptation::Windowed(a) => a.changes(),
            Adaptation::Stan(a) => a.changes(),
            Adaptation::Fixed(_) | Adaptation::Ensemble(_) => &[],
            Adaptation::Pooled(a) => a.changes(),
        }
    }

    /// How often it has changed the metric in place.
    pub fn changes_in_place(&self) -> u64 {
        match self {
            Adaptation::Windowed(a) => a.changes_in_place(),
            _ => 0,
        }
    }

    /// Take in a warm-up draw. Returns what is to be done when the device has done the updates.
    pub fn observe(&mut self, mut seen: Seen<'_>) -> Verdict {
        let metric = match self {
            Adaptation::Windowed(a) => return a.observe(&mut seen),
            Adaptation::Stan(a) => a.observe(&seen.draw),
            Adaptation::Fixed(a) => {
                a.step.update(seen.draw.accept[0], &a.settings);
                None
            }
            Adaptation::Pooled(a) => {
                a.observe(&seen.draw);
                a.take_metric()
            }
            Adaptation::Ensemble(a) => {
                a.observe(&seen);
                None
            }
        };
        metric.map_or(Verdict::Keep, Verdict::Use)
    }

    /// A metric was made of moments. Returns it, unless it is already in place.
    pub fn settle(
        &mut self,
        made: Made,
        moments: &FisherDiag,
        dev: &dyn Device,
        metrics: &Metrics,
    ) -> Result<Option<Arc<Metric>>> {
        match self {
            Adaptation::Windowed(a) => a.settle(made, moments, dev, metrics),
            _ => Ok(None),
        }
    }

    /// Whether the chain must wait for others.
    pub fn is_waiting(&self) -> bool {
        match self {
            Adaptation::Pooled(member) => member.is_waiting(),
            Adaptation::Ensemble(walker) => walker.is_waiting(),
            _ => false,
        }
    }

    /// What a chain of an ensemble knows.
    pub fn walker(&self) -> Option<&Walker> {
        if let Adaptation::Ensemble(walker) = self { Some(walker) } else { None }
    }

    /// What a chain of an ensemble knows.
    pub fn walker_mut(&mut self) -> Option<&mut Walker> {
        if let Adaptation::Ensemble(walker) = self { Some(walker) } else { None }
    }

    /// What the chain shares with others, if it does.
    pub fn member(&self) -> Option<&Member> {
        match self {
            Adaptation::Pooled(member) => Some(member),
            _ => None,
        }
    }

    /// What the chain shares with others, if it does.
    pub fn member_mut(&mut self) -> Option<&mut Member> {
        match self {
            Adaptation::Pooled(member) => Some(member),
            _ => None,
        }
    }
}
