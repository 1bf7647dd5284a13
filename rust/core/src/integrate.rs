//! Steps of integrators as phases over the arrays of a device, for all active chains at once. One gradient each.
//!
//! - Leapfrog: p' = p + e/2 grad log pi(x), x' = x + e M^-1 p', p'' = p' + e/2 grad log pi(x').
//! - Exact normal: half kicks by the gradient of log pi less that of the normal distribution with the covariance M^-1 and the
//!   centre of the metric, r = g + M (x - c), and between them the exact motion under that distribution, a rotation of
//!   (x - c, M^-1 p) by the angle e. Of the normal distribution itself it makes no error. The pull M (x - c) goes along with
//!   its point: it is rotated, too.
//! - Isokinetic: a kick that keeps p M^-1 p = 1 and depends on inner products ([`crate::kernel::mams`]), then a drift; the
//!   gradient at the new point belongs to the next kick.
//!
//! A round may hold steps of different kinds.

use serde::{Deserialize, Serialize};

use crate::density::Density;
use crate::device::{Device, Dots, Glide, Leaf, Metrics, Phase, Place, Reach, Span, Step, Turn};
use crate::error::Result;
use crate::settings::{Configure, Field, Named, Setting, Value};

/// How steps are made, where a kernel leaves a choice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Integrator {
    /// The leapfrog.
    #[default]
    Leapfrog,
    /// That which is exact for the normal distribution of the metric.
    ExactNormal,
}

/// Largest step of the exact-normal integrator. One of pi would only turn the sign of each parameter.
pub const LARGEST_TURN: f64 = 1.4;

impl Integrator {
    const NAMES: &'static [&'static str] = &["leapfrog", "exact_normal"];
}

impl Named for Integrator {
    fn name(&self) -> &'static str {
        Self::NAMES[*self as usize]
    }

    fn choose(&mut self, name: &str) -> bool {
        *self = match name {
            "leapfrog" => Integrator::Leapfrog,
            "exact_normal" => Integrator::ExactNormal,
            _ => return false,
        };
        true
    }
}

impl Configure for Integrator {
    const SETTINGS: &'static [Setting] = &[Setting {
        name: "integrator",
        default: Value::Name(Self::NAMES),
        min: 0.0,
        max: 0.0,
        doc: "How the steps of 'nuts' and 'hmc' are made after the warm-up. 'exact_normal' makes no error where the posterior \
              is normal with the covariance of the metric, so that steps may be long, up to 1.4; it is for posteriors of many \
              parameters that are nearly that.",
    }];

    fn field(&mut self, name: &str) -> Option<Field<'_>> {
        (name == "integrator").then_some(Field::Name(self))
    }
}

/// One chain's step of a Hamiltonian trajectory.
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
    /// Of an isokinetic step, and of the start of such a trajectory, p M^-1 g and g M^-1 g; of other steps the inner products
    /// of the spans that were asked for.
    pub dots: &'a [Dots],
}

impl Arrival<'_> {
    /// Energy of the new point. Not finite where the density, its gradient or the position is not.
    pub fn energy(&self) -> f64 {
        self.kinetic - self.logp
    }
}

/// What the steps of a round ask of the device, in the order in which it is done. The gradient at `rows` comes between.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// First halves of leapfrog steps.
    pub steps: &'a [Step],
    /// First halves of exact-normal steps.
    pub turns: &'a [Turn],
    /// Isokinetic steps.
    pub glides: &'a [Glide],
    /// The new points of all steps.
    pub rows: &'a [usize],
    /// Those of isokinetic steps.
    pub places: &'a [Place],
    /// Those of leapfrog steps, which have the spans.
    pub leaves: &'a [Leaf],
    /// Spans that are measured with the leaves.
    pub spans: &'a [Span],
    /// Points whose spans are measured after the steps.
    pub reaches: &'a [Reach],
    /// These spans.
    pub reached: &'a [Span],
}

/// Where what the steps of a round find goes, list by list of [`Asked`].
#[derive(Debug)]
pub struct Found<'a> {
    /// Log densities at the rows.
    pub logp: &'a mut [f64],
    /// Kinetic energies and inner products of the places.
    pub of_places: (&'a mut [f64], &'a mut [Dots]),
    /// Kinetic energies of the leaves, and inner products of the spans.
    pub of_leaves: (&'a mut [f64], &'a mut [Dots]),
    /// Kinetic energies at the ends of the turns.
    pub of_turns: &'a mut [f64],
    /// Inner products of the spans that are measured after the steps.
    pub reached: &'a mut [Dots],
}

impl Asked<'_> {
    /// What comes before the gradient.
    pub fn before(&self, dev: &mut dyn Device, phase: &Phase, metrics: &Metrics) -> Result<()> {
        if !self.steps.is_empty() {
            dev.kick_drift(phase, metrics, self.steps)?;
        }
        if !self.turns.is_empty() {
            dev.turn(phase, metrics, self.turns)?;
        }
        if !self.glides.is_empty() {
            dev.glide(phase, metrics, self.glides)?;
        }
        Ok(())
    }

    /// What comes after it.
    pub fn after(
        &self,
        dev: &mut dyn Device,
        phase: &Phase,
        metrics: &Metrics,
        found: &mut Found<'_>,
    ) -> Result<()> {
        if !self.places.is_empty() {
            let (kinetic, dots) = &mut found.of_places;
            dev.products(phase, metrics, self.places, kinetic, dots)?;
        }
        if !self.leaves.is_empty() {
            let (kinetic, dots) = &mut found.of_leaves;
            dev.finish_leaf(phase, metrics, self.leaves, self.spans, kinetic, dots)?;
        }
        if !self.turns.is_empty() {
            dev.finish_turn(phase, metrics, self.turns, found.of_turns)?;
        }
        self.reach(dev, phase, metrics, found)
    }

    /// Measure the spans that are measured after the steps.
    pub fn reach(
        &self,
        dev: &mut dyn Device,
        phase: &Phase,
        metrics: &Metrics,
        found: &mut Found<'_>,
    ) -> Result<()> {
        if !self.reaches.is_empty() {
            dev.reach(phase, metrics, self.reaches, self.reached, found.reached)?;
        }
        Ok(())
    }
}

/// Where what a step found is: an index into the lists of its kind, and a range of inner products.
#[derive(Clone, Copy, Debug)]
enum Where {
    /// A leapfrog step, its spans measured with it.
    Leaf(usize, [usize; 2]),
    /// A leapfrog step, its spans measured after it.
    Reached(usize, [usize; 2]),
    /// An exact-normal step.
    Turned(usize, [usize; 2]),
    /// An isokinetic step.
    Glided(usize),
}

/// Spans, and what was found of them.
#[derive(Default)]
struct Spans {
    asked: Vec<Span>,
    dots: Vec<Dots>,
}

impl Spans {
    fn new(spans: usize) -> Self {
        Spans { asked: Vec::with_capacity(spans), dots: Vec::with_capacity(spans) }
    }

    /// Add some; their range.
    fn add(&mut self, spans: impl Iterator<Item = Span>) -> [usize; 2] {
        let before = self.asked.len();
        self.asked.extend(spans);
        [before, self.asked.len()]
    }
}

/// The steps of one round. Its lists are kept between rounds, so that a round allocates nothing.
#[derive(Default)]
pub struct Batch {
    /// In the order of the requests: the row of the new point, its log density, and where the rest is.
    rows: Vec<usize>,
    logp: Vec<f64>,
    found: Vec<Where>,
    steps: Vec<Step>,
    leaves: Vec<Leaf>,
    spans: Spans,
    kinetic: Vec<f64>,
    reaches: Vec<Reach>,
    reached: Spans,
    turns: Vec<Turn>,
    of_turns: Vec<f64>,
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
            logp: Vec::with_capacity(steps),
            found: Vec::with_capacity(steps),
            steps: Vec::with_capacity(steps),
            leaves: Vec::with_capacity(steps),
            spans: Spans::new(spans),
            kinetic: Vec::with_capacity(steps),
            reaches: Vec::with_capacity(steps),
            reached: Spans::new(spans),
            turns: Vec::with_capacity(steps),
            of_turns: Vec::with_capacity(steps),
            glides: Vec::with_capacity(steps),
            places: Vec::with_capacity(steps),
            of_places: (Vec::with_capacity(steps), Vec::with_capacity(steps)),
        }
    }

    /// Forget the steps of the last round.
    pub fn clear(&mut self) {
        self.rows.clear();
        self.found.clear();
        self.steps.clear();
        self.leaves.clear();
        self.spans.asked.clear();
        self.reaches.clear();
        self.reached.asked.clear();
        self.turns.clear();
        self.glides.clear();
        self.places.clear();
    }

    fn push_leapfrog(&mut self, request: Request, spans: usize) {
        let Request { metric, from, to, step, begun, onward } = request;
        if !begun {
            self.steps.push(Step { metric, from, to, kick: 0.5 * step, drift: step });
        }
        let onward = onward.map(|to| (to, step));
        self.leaves.push(Leaf { metric, row: to, kick: 0.5 * step, onward, spans, passing: false });
        self.rows.push(to);
    }

    /// Add a leapfrog step, and the spans to be measured when it is done.
    pub fn push(&mut self, request: Request, spans: impl Iterator<Item = Span>) {
        let range = self.spans.add(spans);
        self.found.push(Where::Leaf(self.leaves.len(), range));
        self.push_leapfrog(request, range[1] - range[0]);
    }

    /// Add a leapfrog step whose new momentum nobody wants if there is one onward ([`Leaf::passing`]).
    pub fn push_passing(&mut self, request: Request) {
        let place = self.spans.asked.len();
        self.found.push(Where::Leaf(self.leaves.len(), [place; 2]));
        self.push_leapfrog(request, 0);
        if let Some(leaf) = self.leaves.last_mut() {
            leaf.passing = leaf.onward.is_some();
        }
    }

    /// Add a leapfrog step that is part of a larger one of size `reach`, with spans of larger ones ([`Reach`]).
    pub fn push_part(&mut self, request: Request, reach: f64, spans: impl Iterator<Item = Span>) {
        let range = self.reach(request.metric, request.to, reach, spans);
        self.found.push(Where::Reached(self.leaves.len(), range));
        self.push_leapfrog(request, 0);
    }

    /// Add an exact-normal step.
    pub fn push_turn(&mut self, request: Request, spans: impl Iterator<Item = Span>) {
        let Request { metric, from, to, step, .. } = request;
        let range = self.reach(metric, to, step, spans);
        self.found.push(Where::Turned(self.turns.len(), range));
        self.turns.push(Turn { metric, from, to, kick: 0.5 * step, angle: step });
        self.rows.push(to);
    }

    fn reach(
        &mut self,
        metric: usize,
        row: usize,
        step: f64,
        spans: impl Iterator<Item = Span>,
    ) -> [usize; 2] {
        let range = self.reached.add(spans);
        let spans = range[1] - range[0];
        if spans > 0 {
            self.reaches.push(Reach { metric, row, half: 0.5 * step, spans });
        }
        range
    }

    /// Add an isokinetic step.
    pub fn push_glide(&mut self, glide: Glide) {
        self.found.push(Where::Glided(self.places.len()));
        self.places.push(Place { metric: glide.metric, row: glide.to });
        self.rows.push(glide.to);
        self.glides.push(glide);
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
        self.make_room();
        let asked = Asked {
            steps: &self.steps,
            turns: &self.turns,
            glides: &self.glides,
            rows: &self.rows,
            places: &self.places,
            leaves: &self.leaves,
            spans: &self.spans.asked,
            reaches: &self.reaches,
            reached: &self.reached.asked,
        };
        let (kinetic, dots) = &mut self.of_places;
        let mut found = Found {
            logp: &mut self.logp,
            of_places: (kinetic, dots),
            of_leaves: (&mut self.kinetic, &mut self.spans.dots),
            of_turns: &mut self.of_turns,
            reached: &mut self.reached.dots,
        };
        density.round(dev, phase, metrics, &asked, &mut found)
    }

    fn make_room(&mut self) {
        self.logp.resize(self.rows.len(), 0.0);
        self.kinetic.resize(self.leaves.len(), 0.0);
        self.of_turns.resize(self.turns.len(), 0.0);
        for Spans { asked, dots } in [&mut self.spans, &mut self.reached] {
            dots.resize(asked.len(), [0.0; 2]);
        }
        let (kinetic, dots) = &mut self.of_places;
        kinetic.resize(self.places.len(), 0.0);
        dots.resize(self.places.len(), [0.0; 2]);
    }

    /// What each step found, in the order of the requests.
    pub fn arrivals(&self) -> impl Iterator<Item = Arrival<'_>> {
        let (of_places, dots) = &self.of_places;
        self.found.iter().zip(&self.logp).map(move |(found, &logp)| {
            let (kinetic, dots) = match *found {
                Where::Leaf(i, [from, to]) => (self.kinetic[i], &self.spans.dots[from..to]),
                Where::Reached(i, [from, to]) => (self.kinetic[i], &self.reached.dots[from..to]),
                Where::Turned(i, [from, to]) => (self.of_turns[i], &self.reached.dots[from..to]),
                Where::Glided(i) => (of_places[i], &dots[i..=i]),
            };
            Arrival { logp, kinetic, dots }
        })
    }
}
