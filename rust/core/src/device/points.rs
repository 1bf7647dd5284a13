//! A leaf of a trajectory, finished in one pass, or in few that find it in the nearest cache.

use std::ops::Range;

use super::array::Shared;
use super::{Dots, Glide, Leaf, Span, ops};

/// Coordinates of a leaf that are finished before the next ones, where it has more spans than one pass takes, so that the
/// other passes find the leaf in the nearest cache.
const BLOCK: usize = 512;

/// Spans that are measured in the pass that finishes a leaf, beside that from the point just before.
const FUSED: usize = 2;

/// The rows of a phase.
pub struct Points<'a> {
    pub x: Shared<'a>,
    pub p: Shared<'a>,
    pub g: Shared<'a>,
}

impl<'a> Points<'a> {
    fn get(&self, row: usize, block: &Range<usize>) -> ops::Point<'a> {
        ops::Point { x: self.x.row(row, block), p: self.p.row(row, block), g: self.g.row(row, block) }
    }

    /// A step with a diagonal metric.
    pub fn glide(&self, inv_mass: &[f64], op: &Glide) {
        let all = 0..inv_mass.len();
        let [from, to] = [op.from, op.to].map(|row| self.get(row, &all));
        ops::glide(from, to, inv_mass, [op.scale, op.kick, op.drift]);
    }

    /// Finish a leaf of a diagonal metric; returns p M^-1 p.
    pub fn finish(&self, inv_mass: &[f64], leaf: &Leaf, spans: &[Span], dots: &mut [Dots]) -> f64 {
        dots.fill([0.0; 2]);
        // The span from the point just before needs less than the others.
        let adjacent = usize::from(spans.first().is_some_and(|span| span.adjacent));
        let (before, spans) = spans.split_at(adjacent);
        let (dots_of_before, dots) = dots.split_at_mut(adjacent);
        let length = inv_mass.len();
        let size = if spans.len() <= FUSED { length.max(1) } else { BLOCK };
        let mut kinetic = 0.0;
        for start in (0..length).step_by(size) {
            let block = start..(start + size).min(length);
            let onward = leaf.onward.map(|(to, drift)| {
                let ops::Point { x, p, .. } = self.get(to, &block);
                ops::Onward { x, p, drift }
            });
            let work = ops::Leaf {
                point: self.get(leaf.row, &block),
                inv_mass: &inv_mass[block.clone()],
                kick: leaf.kick,
                passing: leaf.passing,
                onward,
                before: before.first().map(|span| self.p.row(span.start, &block)),
            };
            let start = |span: &Span| self.get(span.start, &block);
            kinetic += match spans {
                [] => work.finish([], dots_of_before, dots),
                [a] => work.finish([start(a)], dots_of_before, dots),
                [a, b, ..] => work.finish([start(a), start(b)], dots_of_before, dots),
            };
            for (span, dots) in spans.iter().zip(&mut *dots).skip(FUSED) {
                work.span(start(span), dots);
            }
        }
        for dots in dots {
            *dots = dots.map(|dot| dot / (2.0 * leaf.kick));
        }
        kinetic
    }
}
