//! Steps of integrators as phases over the arrays of a device, for all active chains at once. One gradient each.
//!
//! - Leapfrog: p' = p + e/2 grad log pi(x), x' = x + e M^-1 p', p'' = p' + e/2 grad log pi(x').
//! - Isokinetic: a kick that keeps p M^-1 p = 1 and depends on inner products ([`crate::kernel::mams`]), then a drift; the
//!   gradient at the new point belongs to the next kick.
//!
//! A round may hold steps of different kinds.

use crate::density::Density;
use crate::device::{Device, Dots, Glide, Leaf, Metrics, Phase, Place, Span, Step};
use crate::error::Result;

/// One chain's leapfrog step.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// Row of the chain's metric.
    pub metric: usize,
    /// Row of the point to start from.
    pub from: usize,
    /// Row of the new point.
    pub to: usize,
    /// Step size, negative to go back in time.
    pub step: f64,
    /// Whether the step before has taken the first half of this one.
    pub begun: bool,
    /// Row of the point after the new one, if the trajectory goes on from there by the same step unless it ends.
    pub onward: Option<usize>,
}

/// What a step found.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    /// Log density at the new point.
    pub logp: f64,
    /// Kinetic energy at the new point.
    pub kinetic: f64,
    /// Of a leapfrog step the inner products of the spans that were asked for; of an isokinetic step, and of the start of
    /// such a trajectory, p M^-1 g and g M^-1 g.
    pub dots: &'a [Dots],
}

impl Arrival<'_> {
    /// Energy of the new point. Not finite where the density, its gradient or the position is not.
    pub fn energy(&self) -> f64 {
        self.kinetic - self.logp
    }
}

/// The steps of one round. Its lists are kept between rounds, so that a round allocates nothing.
#[derive(Default)]
pub struct Batch {
    /// In the order of the requests: the row of the new point, and whether the step is isokinetic.
    rows: Vec<usize>,
    isokinetic: Vec<bool>,
    logp: Vec<f64>,
    steps: Vec<Step>,
    leaves: Vec<Leaf>,
    spans: Vec<Span>,
    kinetic: Vec<f64>,
    dots: Vec<Dots>,
    glides: Vec<Glide>,
    places: Vec<Place>,
    /// Kinetic energies and inner products of the places.
    of_places: (Vec<f64>, Vec<Dots>),
}

impl Batch {
    /// Lists with room for `steps` steps and `spans` spans.
    pub fn new(steps: usize, spans: usize) -> Self {
        Batch {
            rows: Vec::with_capacity(steps),
            isokinetic: Vec::with_capacity(steps),
            logp: Vec::with_capacity(steps),
            steps: Vec::with_capacity(steps),
            leaves: Vec::with_capacity(steps),
            spans: Vec::with_capacity(spans),
            kinetic: Vec::with_capacity(steps),
            dots: Vec::with_capacity(spans),
            glides: Vec::with_capacity(steps),
            places: Vec::with_capacity(steps),
            of_places: (Vec::with_capacity(steps), Vec::with_capacity(steps)),
        }
    }

    /// Forget the steps of the last round.
    pub fn clear(&mut self) {
        self.rows.clear();
        self.isokinetic.clear();
        self.steps.clear();
        self.leaves.clear();
        self.spans.clear();
        self.glides.clear();
        self.places.clear();
    }

    /// Add a leapfrog step, and the spans to be measured when it is done.
    pub fn push(&mut self, request: Request, spans: impl Iterator<Item = Span>) {
        let Request { metric, from, to, step, begun, onward } = request;
        let before = self.spans.len();
        self.spans.extend(spans);
        if !begun {
            self.steps.push(Step { metric, from, to, kick: 0.5 * step, drift: step });
        }
        let (onward, spans) = (onward.map(|to| (to, step)), self.spans.len() - before);
        self.leaves.push(Leaf { metric, row: to, kick: 0.5 * step, onward, spans });
        self.rows.push(to);
        self.isokinetic.push(false);
    }

    /// Add an isokinetic step.
    pub fn push_glide(&mut self, glide: Glide) {
        self.places.push(Place { metric: glide.metric, row: glide.to });
        self.rows.push(glide.to);
        self.glides.push(glide);
        self.isokinetic.push(true);
    }

    /// Number of steps, which is the number of gradients that [`Batch::run`] takes.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Take the steps.
    pub fn run(
        &mut self,
        dev: &mut dyn Device,
        density: &mut dyn Density,
        phase: &Phase,
        metrics: &Metrics,
    ) -> Result<()> {
        self.logp.resize(self.rows.len(), 0.0);
        self.kinetic.resize(self.leaves.len(), 0.0);
        self.dots.resize(self.spans.len(), [0.0; 2]);
        let (kinetic, dots) = &mut self.of_places;
        kinetic.resize(self.places.len(), 0.0);
        dots.resize(self.places.len(), [0.0; 2]);
        if !self.steps.is_empty() {
            dev.kick_drift(phase, metrics, &self.steps)?;
        }
        if !self.glides.is_empty() {
            dev.glide(phase, metrics, &self.glides)?;
        }
        density.logp_grad(dev, phase, &self.rows, &mut self.logp)?;
        if !self.places.is_empty() {
            dev.products(phase, metrics, &self.places, kinetic, dots)?;
        }
        if !self.leaves.is_empty() {
            dev.finish_leaf(phase, metrics, &self.leaves, &self.spans, &mut self.kinetic, &mut self.dots)?;
        }
        Ok(())
    }

    /// What each step found, in the order of the requests.
    pub fn arrivals(&self) -> impl Iterator<Item = Arrival<'_>> {
        let (mut leaf, mut span, mut place) = (0, 0, 0);
        self.isokinetic.iter().zip(&self.logp).map(move |(isokinetic, &logp)| {
            if *isokinetic {
                let (kinetic, dots) = &self.of_places;
                place += 1;
                return Arrival { logp, kinetic: kinetic[place - 1], dots: &dots[place - 1..place] };
            }
            let spans = self.leaves[leaf].spans;
            (leaf, span) = (leaf + 1, span + spans);
            Arrival { logp, kinetic: self.kinetic[leaf - 1], dots: &self.dots[span - spans..span] }
        })
    }
}
