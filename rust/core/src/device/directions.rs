//! Products with a matrix that has few rows or is triangular: the passes over memory of a coupled metric.
//!
//! A product with the matrix T sums along its rows, one with T^T along its columns. Both read T once, in the order in which
//! it is stored: strips of up to eight rows, in each strip eight columns at a time, so that a strip's sums and factors stay
//! in registers. The second goes backward, since the first has left the end of T in the nearest cache. Of a triangular
//! matrix a strip begins at its diagonal.

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
        let n = rank.div_ceil(WIDTH);
        // Of nearly equal width: a narrow strip costs almost as much as a wide one.
        let strips = (0..n).map(|strip| (strip * rank / n..(strip + 1) * rank / n, 0));
        Self::from_strips(strips, dim, value)
    }

    /// An upper triangular matrix.
    pub fn triangular(dim: usize, value: impl Fn(usize, usize) -> f64) -> Result<Self> {
        let strips =
            (0..dim.div_ceil(WIDTH)).map(|strip| (strip * WIDTH..dim.min((strip + 1) * WIDTH), strip));
        Self::from_strips(strips, dim, |row, i| if i < row { 0.0 } else { value(row, i) })
    }

    fn from_strips(
        strips: impl Iterator<Item = (Range<usize>, usize)>,
        dim: usize,
        value: impl Fn(usize, usize) -> f64,
    ) -> Result<Self> {
        let chunks = dim.div_ceil(LANES);
        let mut length = 0;
        let place = |(rows, skipped): (Range<usize>, usize)| {
            let start = length;
            length += rows.len() * (chunks - skipped) * LANES;
            Strip { rows, skipped, start }
        };
        let strips: Vec<Strip> = strips.map(place).collect();
        let mut numbers = Array::new(1, length)?;
        let all = numbers.row_mut(0);
        for strip in &strips {
            let mut at = strip.start;
            for chunk in strip.skipped..chunks {
                for row in strip.rows.clone() {
                    for i in chunk * LANES..dim.min((chunk + 1) * LANES) {
                        all[at + i % LANES] = value(row, i);
                    }
                    at += LANES;
                }
            }
        }
        Ok(Directions { strips, numbers, chunks })
    }

    fn lines(&self, strip: &Strip) -> &[[f64; LANES]] {
        let length = strip.rows.len() * (self.chunks - strip.skipped) * LANES;
        self.numbers.row(0)[strip.start..strip.start + length].as_chunks().0
    }

    /// T y.
    pub fn project(&self, y: Cells<'_>, out: &mut [f64]) {
        let y = y.as_chunks().0;
        for strip in &self.strips {
            project(self.lines(strip), &y[strip.skipped..], &mut out[strip.rows.clone()]);
        }
    }

    /// out += T^T by.
    pub fn spread(&self, by: &[f64], out: Cells<'_>) {
        let out = out.as_chunks().0;
        for strip in self.strips.iter().rev() {
            spread(self.lines(strip), &by[strip.rows.clone()], &out[strip.skipped..]);
        }
    }

    /// y <- T^-1 y, T triangular.
    pub fn solve(&self, y: Cells<'_>) {
        let chunks = y.as_chunks().0;
        for (i, strip) in self.strips.iter().enumerate().rev() {
            let width = strip.rows.len();
            let (square, rest) = self.lines(strip).split_at(width);
            let mut beyond = [0.0; WIDTH];
            project(rest, &chunks[i + 1..], &mut beyond[..width]);
            let own = &chunks[i];
            for j in (0..width).rev() {
                let sum: f64 = (j + 1..width).map(|k| square[j][k] * own[k].get()).sum();
                own[j].set((own[j].get() - beyond[j] - sum) / square[j][j]);
            }
        }
    }

    /// y <- T^-T y, T triangular.
    pub fn solve_transposed(&self, y: Cells<'_>) {
        let chunks = y.as_chunks().0;
        for (i, strip) in self.strips.iter().enumerate() {
            let width = strip.rows.len();
            let (square, rest) = self.lines(strip).split_at(width);
            let own = &chunks[i];
            for j in 0..width {
                let sum: f64 = (0..j).map(|k| square[k][j] * own[k].get()).sum();
                own[j].set((own[j].get() - sum) / square[j][j]);
            }
            let by: [f64; WIDTH] = std::array::from_fn(|j| -own[j].get());
            spread(rest, &by[..width], &chunks[i + 1..]);
        }
    }
}

type Lanes = [std::cell::Cell<f64>; LANES];

/// Products of the rows of a strip with y.
fn project(lines: &[[f64; LANES]], y: &[Lanes], out: &mut [f64]) {
    fn of_width<const W: usize>(lines: &[[f64; LANES]], y: &[Lanes], out: &mut [f64]) {
        out.copy_from_slice(&simd::run(Project::<W> { lines: lines.as_chunks().0, y }));
    }
    match out.len() {
        1 => of_width::<1>(lines, y, out),
        2 => of_width::<2>(lines, y, out),
        3 => of_width::<3>(lines, y, out),
        4 => of_width::<4>(lines, y, out),
        5 => of_width::<5>(lines, y, out),
        6 => of_width::<6>(lines, y, out),
        7 => of_width::<7>(lines, y, out),
        _ => of_width::<WIDTH>(lines, y, out),
    }
}

/// Add multiples of the rows of a strip.
fn spread(lines: &[[f64; LANES]], by: &[f64], out: &[Lanes]) {
    fn of_width<const W: usize>(lines: &[[f64; LANES]], by: &[f64], out: &[Lanes]) {
        let mut factors = [0.0; W];
        factors.copy_from_slice(by);
        simd::run(Spread { lines: lines.as_chunks().0, by: factors, out });
    }
    match by.len() {
        1 => of_width::<1>(lines, by, out),
        2 => of_width::<2>(lines, by, out),
        3 => of_width::<3>(lines, by, out),
        4 => of_width::<4>(lines, by, out),
        5 => of_width::<5>(lines, by, out),
        6 => of_width::<6>(lines, by, out),
        7 => of_width::<7>(lines, by, out),
        _ => of_width::<WIDTH>(lines, by, out),
    }
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

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn check(matrix: &Directions, rank: usize, dim: usize, value: impl Fn(usize, usize) -> f64) {
        let padded = dim.next_multiple_of(LANES);
        let number = |i: usize| (i as f64 * 0.37).cos();
        let mut y: Vec<f64> = (0..padded).map(|i| if i < dim { number(i) } else { 0.0 }).collect();
        let mut along = vec![f64::NAN; rank];
        matrix.project(Cell::from_mut(&mut y[..]).as_slice_of_cells(), &mut along);
        for (j, along) in along.iter().enumerate() {
            let sum: f64 = (0..dim).map(|i| value(j, i) * number(i)).sum();
            assert!((along - sum).abs() < 1e-13 * (1 + dim) as f64, "{rank} x {dim}");
        }
        let by: Vec<f64> = (0..rank).map(|j| (j as f64 + 0.5).sin()).collect();
        matrix.spread(&by, Cell::from_mut(&mut y[..]).as_slice_of_cells());
        for (i, y) in y.iter().enumerate() {
            let sum: f64 = (0..rank).map(|j| value(j, i.min(dim - 1)) * by[j]).sum();
            let expected = if i < dim { number(i) + sum } else { 0.0 };
            assert!((y - expected).abs() < 1e-13 * (1 + rank) as f64, "{rank} x {dim}");
        }
    }

    #[test]
    fn products_are_those_of_the_definition() {
        let value = |j: usize, i: usize| ((j * 31 + i * 17) as f64).sin();
        for dim in [1, 5, 8, 17, 40] {
            for rank in [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 20, 33] {
                check(&Directions::new(rank, dim, value).unwrap(), rank, dim, value);
            }
            let upper = |j: usize, i: usize| if i < j { 0.0 } else { value(j, i) };
            check(&Directions::triangular(dim, value).unwrap(), dim, dim, upper);
        }
    }

    #[test]
    fn solutions_are_solutions() {
        for dim in [1, 3, 8, 9, 16, 37] {
            let value = |j: usize, i: usize| if i == j { 2.0 } else { ((j * 31 + i * 17) as f64).sin() };
            let matrix = Directions::triangular(dim, value).unwrap();
            let upper = |j: usize, i: usize| if i < j { 0.0 } else { value(j, i) };
            let b: Vec<f64> =
                (0..dim.next_multiple_of(LANES)).map(|i| f64::from(u8::from(i < dim))).collect();
            let [mut plain, mut transposed] = [b.clone(), b];
            matrix.solve(Cell::from_mut(&mut plain[..]).as_slice_of_cells());
            matrix.solve_transposed(Cell::from_mut(&mut transposed[..]).as_slice_of_cells());
            for j in 0..dim {
                let [a, b]: [f64; 2] = [
                    (0..dim).map(|i| upper(j, i) * plain[i]).sum(),
                    (0..dim).map(|i| upper(i, j) * transposed[i]).sum(),
                ];
                let size = plain.iter().chain(&transposed).fold(1.0, |m: f64, v| m.max(v.abs()));
                assert!((a - 1.0).abs() + (b - 1.0).abs() < 1e-14 * size * dim as f64, "{dim}");
            }
        }
    }
}
