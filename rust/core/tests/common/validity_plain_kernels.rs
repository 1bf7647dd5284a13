//! Transitions written plainly, under a diagonal metric of one and with parts that can be broken.
#![allow(clippy::expect_used)]

use nutpie_core::density::HostDensity;
use nutpie_core::rng::{Key, Purpose, Stream, fill_normal};

/// A point with its momentum and gradient.
#[derive(Clone)]
pub struct Point {
    pub x: Vec<f64>,
    pub p: Vec<f64>,
    pub g: Vec<f64>,
    pub logp: f64,
}

impl Point {
    pub fn energy(&self) -> f64 {
        0.5 * self.p.iter().map(|p| p * p).sum::<f64>() - self.logp
    }
}

/// A density, and the random numbers of one transition after the other.
pub struct Plain<D> {
    pub density: D,
    pub seed: u64,
    pub count: u32,
}

impl<D: HostDensity> Plain<D> {
    pub fn new(density: D, seed: u64) -> Self {
        Plain { density, seed, count: 0 }
    }

    /// The start of the next transition, and its random numbers.
    fn begin(&mut self, x: &[f64]) -> (Point, Stream) {
        self.count += 1;
        let key = Key { seed: self.seed, chain: 79, draw: self.count };
        let mut start = Point { x: x.to_vec(), p: vec![0.0; x.len()], g: vec![0.0; x.len()], logp: 0.0 };
        fill_normal(key, Purpose::Momentum, &mut start.p);
        start.logp = self.density.logp_grad(x, &mut start.g).expect("a target without errors");
        (start, Stream::new(key, Purpose::Trajectory))
    }

    fn leapfrog(&mut self, from: &Point, h: f64) -> Point {
        let mut to = from.clone();
        to.p.iter_mut().zip(&from.g).for_each(|(p, g)| *p += 0.5 * h * g);
        let Point { x, p, g, logp } = &mut to;
        x.iter_mut().zip(&*p).for_each(|(x, p)| *x += h * p);
        *logp = self.density.logp_grad(x, g).expect("a target without errors");
        p.iter_mut().zip(&*g).for_each(|(p, g)| *p += 0.5 * h * g);
        to
    }

    /// A trajectory with its end accepted with probability exp(-factor error), or, with a random share of its steps before
    /// the start (or none), any of its points with weight exp(-factor error).
    pub fn hmc(&mut self, x: &[f64], steps: u64, h: f64, rule: Rule) -> Vec<f64> {
        let (start, mut random) = self.begin(x);
        let Rule { factor, multinomial, offset } = rule;
        let back = if multinomial && offset { random.bits() % (steps + 1) } else { 0 };
        let mut points = vec![start.clone()];
        for (steps, h) in [(back, -h), (steps - back, h)] {
            let mut point = start.clone();
            for _ in 0..steps {
                point = self.leapfrog(&point, h);
                points.push(point.clone());
            }
        }
        let weights: Vec<f64> =
            points.iter().map(|point| (factor * (start.energy() - point.energy())).exp()).collect();
        if !multinomial {
            let accept = weights[steps as usize];
            return if random.uniform() < accept { points[steps as usize].x.clone() } else { start.x };
        }
        let mut left = random.uniform() * weights.iter().sum::<f64>();
        let chosen = weights.iter().position(|w| {
            left -= w;
            left < 0.0
        });
        points[chosen.unwrap_or(0)].x.clone()
    }

    /// The step of WALNUTS from a point: the fewest halvings that keep the energy within the range, and the end.
    fn adaptive(&mut self, from: &Point, h: f64, range: f64) -> Option<(u32, Point)> {
        (0..12).find_map(|halvings| {
            let (mut point, mut low, mut high) = (from.clone(), from.energy(), from.energy());
            for _ in 0..1 << halvings {
                point = self.leapfrog(&point, h / f64::from(1 << halvings));
                (low, high) = (low.min(point.energy()), high.max(point.energy()));
            }
            (high - low <= range).then_some((halvings, point))
        })
    }

    /// One such step, accepted or not, and refused if it does not lead back, or not.
    pub fn walnuts(&mut self, x: &[f64], h: f64, range: f64, checked: bool) -> Vec<f64> {
        let (start, mut random) = self.begin(x);
        let Some((there, end)) = self.adaptive(&start, h, range) else { return start.x };
        let back = self.adaptive(&end, -h, range).map(|(back, _)| back);
        let accept = (start.energy() - end.energy()).exp();
        if (checked && back != Some(there)) || random.uniform() >= accept { start.x } else { end.x }
    }
}

/// How a trajectory gives the next point.
#[derive(Clone, Copy)]
pub struct Rule {
    pub factor: f64,
    pub multinomial: bool,
    pub offset: bool,
}
