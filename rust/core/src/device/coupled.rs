//! The phases of a leapfrog step for a coupled metric: those of the diagonal D, with what its directions add.
//!
//! Everything is a product of the form a M^-1 b = a D b + (T a) C (T b), so beside the passes for D there is arithmetic on
//! T p, T g, C T p and C T g only, some tens of numbers each.

use super::along::{Along, halves};
use super::array::Array;
use super::coupling::Coupling;
use super::points::Points;
use super::simd::{self, LANES, Loop, Vector};
use super::{Dots, Glide, Leaf, Reach, Span, Step, ops};

/// The arrays of a phase under a coupled metric, with what it makes of the momenta and of the gradients.
pub struct Coupled<'a> {
    pub coupling: &'a Coupling,
    pub phase: [&'a mut Array; 3],
    pub along: [&'a mut Along; 2],
    pub scratch: &'a mut Vec<f64>,
}

impl Coupled<'_> {
    /// Draw a momentum from the standard normal numbers in its row; returns p M^-1 p.
    pub fn refresh(&mut self, row: usize) -> f64 {
        let (coupling, p) = (self.coupling, &mut self.phase[1]);
        self.along[0].reserve(p.rows(), coupling.rank());
        let along = self.along[0].set(row, coupling.rank(), coupling.id);
        coupling.momentum(p.row_mut(row), along, self.scratch)
    }

    /// First half of a step.
    pub fn kick_drift(&mut self, op: &Step) {
        self.know(op.from);
        let [x, p, g] = &mut self.phase;
        let (x, x_new) = x.pair(op.from, op.to);
        let (p, p_new) = p.pair(op.from, op.to);
        let diagonal = self.coupling.diagonal();
        ops::kick_drift(x, p, g.row(op.from), diagonal, op.kick, op.drift, x_new, p_new);
        self.follow([op.from, op.to], 1.0, op.kick, op.drift);
    }

    /// A step whose kick scales the momentum.
    pub fn glide(&mut self, op: &Glide) {
        self.know(op.from);
        let [x, p, g] = &mut self.phase;
        let points = Points { x: x.shared(), p: p.shared(), g: g.shared() };
        points.glide(self.coupling.diagonal(), op);
        self.follow([op.from, op.to], op.scale, op.kick, op.drift);
    }

    /// p M^-1 p, p M^-1 g and g M^-1 g.
    pub fn products(&mut self, row: usize) -> [f64; 3] {
        self.know(row);
        let (coupling, [_, p, g]) = (self.coupling, &self.phase);
        let of_diagonal = ops::products(p.row(row), g.row(row), coupling.diagonal());
        let [p, g] = [0, 1].map(|i| halves(self.along[i].get(row, coupling.rank())));
        let more = [ops::dot(p[0], p[1]), ops::dot(p[0], g[1]), ops::dot(g[0], g[1])];
        std::array::from_fn(|i| of_diagonal[i] + more[i])
    }

    /// Finish a leaf; returns p M^-1 p.
    pub fn finish(&mut self, leaf: &Leaf, spans: &[Span], dots: &mut [Dots]) -> f64 {
        self.know(leaf.row);
        spans.iter().for_each(|span| self.know(span.start));
        let coupling = self.coupling;
        let [x, p, g] = &mut self.phase;
        let points = Points { x: x.shared(), p: p.shared(), g: g.shared() };
        let of_diagonal = points.finish(coupling.diagonal(), leaf, spans, dots);
        let (row, rank) = (leaf.row, coupling.rank());
        let [p, g] = &mut self.along;
        p.kick([row, row], 1.0, leaf.kick, g.get(row, rank), coupling.id);
        if let Some((to, drift)) = leaf.onward {
            self.follow([row, to], 1.0, leaf.kick, drift);
        }
        let [p, g] = &self.along;
        let point = |row| End { p: halves(p.get(row, rank)), g: halves(g.get(row, rank)) };
        let end = point(row);
        for (i, (span, dots)) in spans.iter().zip(dots).enumerate() {
            // As in the pass for D, only the first span may be that from the point just before.
            let adjacent = i == 0 && span.adjacent;
            let (kick, share) = if adjacent { (0.0, 1.0) } else { (leaf.kick, 0.5) };
            let more = simd::run(Between { start: point(span.start), end, kick });
            *dots = [dots[0] + share * more[0], dots[1] + share * more[1]];
        }
        let square = of_diagonal + ops::dot(end.p[0], end.p[1]);
        if leaf.passing {
            self.along[0].forget(row);
        }
        square
    }

    /// |z|^2 in the norm of M, z = x - centre + M^-1 g.
    pub fn distance(&mut self, row: usize, center: &[f64]) -> f64 {
        self.know(row);
        let [x, _, g] = &self.phase;
        let along = halves(self.along[1].get(row, self.coupling.rank()));
        self.coupling.distance([x.row(row), g.row(row), center], along, self.scratch)
    }

    /// What the metric makes of the way from a point to the end of a span ([`super::Device::reach`]), times twice half the step.
    pub fn reach(&mut self, reach: &Reach, start: usize) -> Dots {
        self.know(start);
        self.know(reach.row);
        let [x, p, _] = &self.phase;
        let end = |row| [x.row(row), p.row(row)];
        let of_diagonal = ops::reach(end(start), end(reach.row), self.coupling.diagonal(), reach.half);
        let ([p, g], rank) = (&self.along, self.coupling.rank());
        let point = |row| End { p: halves(p.get(row, rank)), g: halves(g.get(row, rank)) };
        let more = simd::run(Between { start: point(start), end: point(reach.row), kick: 0.0 });
        [0, 1].map(|i| of_diagonal[i] + reach.half * more[i])
    }

    /// See to it that what the metric makes of a point is known.
    fn know(&mut self, row: usize) {
        let (coupling, [_, p, g]) = (self.coupling, &mut self.phase);
        for (along, array) in self.along.iter_mut().zip([p, g]) {
            if !along.knows(row, coupling.id) {
                along.reserve(array.rows(), coupling.rank());
                let all = 0..coupling.diagonal().len();
                coupling.measure(array.shared().row(row, &all), along.set(row, coupling.rank(), coupling.id));
            }
        }
    }

    /// Add to the step with D from a point that is known to another one what the directions have of it.
    fn follow(&mut self, [from, to]: [usize; 2], scale: f64, kick: f64, drift: f64) {
        let (coupling, [p, g]) = (self.coupling, &mut self.along);
        let rank = coupling.rank();
        p.kick([from, to], scale, kick, g.get(from, rank), coupling.id);
        let all = 0..coupling.diagonal().len();
        let [_, weighed] = halves(p.get(to, rank));
        coupling.drift(drift, weighed, self.phase[0].shared().row(to, &all), self.scratch);
    }
}

/// T v and C T v of the momentum and the gradient of a point.
#[derive(Clone, Copy)]
struct End<'a> {
    p: [&'a [f64]; 2],
    g: [&'a [f64]; 2],
}

fn lanes(v: [&[f64]; 2]) -> [&[[f64; LANES]]; 2] {
    v.map(|v| v.as_chunks().0)
}

/// (C T (p_s + p_l + kick (g_l - g_s))) T p at both ends of a span.
struct Between<'a> {
    start: End<'a>,
    end: End<'a>,
    kick: f64,
}

impl Loop for Between<'_> {
    type Output = Dots;

    #[inline(always)]
    fn run<V: Vector>(self) -> Dots {
        let Between { start, end, kick } = self;
        let kick = V::splat(kick);
        let [p_start, v_start] = lanes(start.p);
        let [p_end, v_end] = lanes(end.p);
        let ([_, w_start], [_, w_end]) = (lanes(start.g), lanes(end.g));
        let mut sums = [V::splat(0.0); 2];
        for i in 0..p_start.len() {
            let sum = V::load(&v_start[i]).add(V::load(&v_end[i]));
            let sum = sum.add(kick.mul(V::load(&w_end[i]).sub(V::load(&w_start[i]))));
            sums[0] = sums[0].add(sum.mul(V::load(&p_start[i])));
            sums[1] = sums[1].add(sum.mul(V::load(&p_end[i])));
        }
        sums.map(V::sum)
    }
}
