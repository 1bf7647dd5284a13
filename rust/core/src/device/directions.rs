//! Products with a matrix that has few rows or is triangular: the passes over memory of a coupled metric.
//!
//! A product with the matrix T sums along its rows, one with T^T along its columns. Both read T once, in the order in which
//! it is stored: strips of up to eight rows, in each strip eight columns at a time, so that a strip's sums and factors stay
//! in registers. The second goes backward, since the first has left the end of T in the nearest cache.

use std::ops::Range;

use super::array::Array;
use super::ops::Cells;
use super::simd::{self, LANES, Loop, Vector};
use crate::error::Result;

/// Rows of a strip.
const WIDTH: usize = 8;

/// Some rows of the matrix.
struct Strip {
    rows: Range<usize>,
    /// Vectors of columns before the first number that is not zero.
    skipped: usize,
    /// Where its numbers begin.
    start: usize,
}

/// The matrix T.
pub struct Directions {
    strips: Vec<Strip>,
    numbers: Array,
    /// Vectors of columns, padding included.
    chunks: usize,
}

impl Directions {
    /// A matrix of `rank` rows of `dim` numbers.
    pub fn new(rank: usize, dim: usize, value: impl Fn(usize, usize) -> f64) -> Result<Self> {
        let chunks = dim.div_ceil(LANES);
        let n = rank.div_ceil(WIDTH);
        let mut strips = Vec::with_capacity(n);
        let mut start = 0;
        // Strips of nearly equal width: a narrow one costs almost as much as a wide one.
        for strip in 0..n {
            let rows = strip * rank / n..(strip + 1) * rank / n;
            let length = rows.len() * chunks * LANES;
            strips.push(Strip { rows, skipped: 0, start });
            start += length;
        }
        let mut directions = Directions { strips, numbers: Array::new(1, start)?, chunks };
        directions.fill(dim, value);
        Ok(directions)
    }

    fn fill(&mut self, dim: usize, value: impl Fn(usize, usize) -> f64) {
        let numbers = self.numbers.row_mut(0);
        for strip in &self.strips {
            let mut at = strip.start;
            for chunk in strip.skipped..self.chunks {
                for row in strip.rows.clone() {
                    for i in (chunk * LANES..(chunk + 1) * LANES).take_while(|i| *i < dim) {
                        numbers[at + i % LANES] = value(row, i);
                    }
                    at += LANES;
                }
            }
        }
    }

    fn lines(&self, strip: &Strip) -> &[[f64; LANES]] {
        let length = strip.rows.len() * (self.chunks - strip.skipped) * LANES;
        self.numbers.row(0)[strip.start..strip.start + length].as_chunks().0
    }

    /// T y.
    pub fn project(&self, y: Cells<'_>, out: &mut [f64]) {
        let y = y.as_chunks().0;
        for strip in &self.strips {
            let (y, lines, out) = (&y[strip.skipped..], self.lines(strip), &mut out[strip.rows.clone()]);
            match out.len() {
                1 => project::<1>(lines, y, out),
                2 => project::<2>(lines, y, out),
                3 => project::<3>(lines, y, out),
                4 => project::<4>(lines, y, out),
                5 => project::<5>(lines, y, out),
                6 => project::<6>(lines, y, out),
                7 => project::<7>(lines, y, out),
                _ => project::<WIDTH>(lines, y, out),
            }
        }
    }

    /// out += T^T by.
    pub fn spread(&self, by: &[f64], out: Cells<'_>) {
        let out = out.as_chunks().0;
        for strip in self.strips.iter().rev() {
            let (out, lines, by) = (&out[strip.skipped..], self.lines(strip), &by[strip.rows.clone()]);
            match by.len() {
                1 => spread::<1>(lines, by, out),
                2 => spread::<2>(lines, by, out),
                3 => spread::<3>(lines, by, out),
                4 => spread::<4>(lines, by, out),
                5 => spread::<5>(lines, by, out),
                6 => spread::<6>(lines, by, out),
                7 => spread::<7>(lines, by, out),
                _ => spread::<WIDTH>(lines, by, out),
            }
        }
    }
}

type Lanes = [std::cell::Cell<f64>; LANES];

fn project<const W: usize>(lines: &[[f64; LANES]], y: &[Lanes], out: &mut [f64]) {
    out.copy_from_slice(&simd::run(Project::<W> { lines: lines.as_chunks().0, y }));
}

fn spread<const W: usize>(lines: &[[f64; LANES]], by: &[f64], out: &[Lanes]) {
    let mut factors = [0.0; W];
    factors.copy_from_slice(by);
    simd::run(Spread { lines: lines.as_chunks().0, by: factors, out });
}

struct Project<'a, const W: usize> {
    lines: &'a [[[f64; LANES]; W]],
    y: &'a [Lanes],
}

impl<const W: usize> Loop for Project<'_, W> {
    type Output = [f64; W];

    #[inline(always)]
    fn run<V: Vector>(self) -> [f64; W] {
        let mut sums = [V::splat(0.0); W];
        for (lines, y) in self.lines.iter().zip(self.y) {
            let y = V::get(y);
            for (sum, line) in sums.iter_mut().zip(lines) {
                *sum = sum.add(y.mul(V::load(line)));
            }
        }
        sums.map(V::sum)
    }
}

struct Spread<'a, const W: usize> {
    lines: &'a [[[f64; LANES]; W]],
    by: [f64; W],
    out: &'a [Lanes],
}

impl<const W: usize> Loop for Spread<'_, W> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let by = self.by.map(V::splat);
        for (lines, out) in self.lines.iter().zip(self.out).rev() {
            let mut sum = V::get(out);
            for (by, line) in by.iter().zip(lines) {
                sum = sum.add(by.mul(V::load(line)));
            }
            sum.put(out);
        }
    }
}
