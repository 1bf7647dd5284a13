//! The leapfrog step as phases over the arrays of a device, for all active chains at once.
//!
//! p' = p + e/2 grad log pi(x), x' = x + e M^-1 p', p'' = p' + e/2 grad log pi(x'). One gradient each.

use crate::density::Density;
use crate::device::{Device, Dots, Leaf, Metrics, Phase, Span, Step};
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

/// What a leapfrog step found.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    /// Log density at the new point.
    pub logp: f64,
    /// Kinetic energy at the new point.
    pub kinetic: f64,
    /// Inner products of the spans that were asked for.
    pub dots: &'a [Dots],
}

impl Arrival<'_> {
    /// Energy of the new point. Not finite where the density, its gradient or the position is not.
    pub fn energy(&self) -> f64 {
        self.kinetic - self.logp
    }
}

/// The leapfrog steps of one round. Its lists are kept between rounds, so that a round allocates nothing.
#[derive(Default)]
pub struct Batch {
    steps: Vec<Step>,
    leaves: Vec<Leaf>,
    rows: Vec<usize>,
    spans: Vec<Span>,
    logp: Vec<f64>,
    kinetic: Vec<f64>,
    dots: Vec<Dots>,
}

impl Batch {
    /// Lists with room for `steps` steps and `spans` spans.
    pub fn new(steps: usize, spans: usize) -> Self {
        Batch {
            steps: Vec::with_capacity(steps),
            leaves: Vec::with_capacity(steps),
            rows: Vec::with_capacity(steps),
            spans: Vec::with_capacity(spans),
            logp: Vec::with_capacity(steps),
            kinetic: Vec::with_capacity(steps),
            dots: Vec::with_capacity(spans),
        }
    }

    /// Forget the steps of the last round.
    pub fn clear(&mut self) {
        self.steps.clear();
        self.leaves.clear();
        self.rows.clear();
        self.spans.clear();
    }

    /// Add a step, and the spans to be measured when it is done.
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
    }

    /// Number of steps, which is the number of gradients that [`Batch::run`] takes.
    pub fn len(&self) -> usize {
        self.leaves.len()
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.leaves.is_empty()
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
        self.kinetic.resize(self.rows.len(), 0.0);
        self.dots.resize(self.spans.len(), [0.0; 2]);
        dev.kick_drift(phase, metrics, &self.steps)?;
        density.logp_grad(dev, phase, &self.rows, &mut self.logp)?;
        dev.finish_leaf(phase, metrics, &self.leaves, &self.spans, &mut self.kinetic, &mut self.dots)
    }

    /// What each step found, in the order of the requests.
    pub fn arrivals(&self) -> impl Iterator<Item = Arrival<'_>> {
        let mut at = 0;
        self.leaves.iter().enumerate().map(move |(i, leaf)| {
            let dots = &self.dots[at..at + leaf.spans];
            at += leaf.spans;
            Arrival { logp: self.logp[i], kinetic: self.kinetic[i], dots }
        })
    }
}
