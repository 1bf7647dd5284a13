//! Products with a matrix that has few rows or is triangular: the passes over memory of a coupled metric.
//!
//! A product with the matrix T sums along its rows, one with T^T along its columns. Both read T once, in the order in which
//! it is stored: strips of up to ten rows, in each strip eight columns at a time, so that a strip's sums and factors stay
//! in registers. The second goes backward, since the first has left the end of T in the nearest cache. Of a triangular
//! matrix a strip begins at its diagonal.
//!
//! Reading T is what takes time, so two of its numbers share a word ([`pack`]): they have 21 binary digits, and T is what
//! these are. That costs no exactness, since everything else is computed from them.

use std::ops::Range;

use super::array::Array;
use super::ops::Cells;
use super::simd::{self, LANES, Loop, Vector};
use crate::error::Result;

/// Largest number of pairs of rows in a strip.
const PAIRS: usize = 5;

/// Some rows of the matrix.
struct Strip {
    rows: Range<usize>,
    /// Vectors of columns before the first number that is not zero.
    skipped: usize,
    /// Where its words begin.
    start: usize,
}

impl Strip {
    fn pairs(&self) -> usize {
        self.rows.len().div_ceil(2)
    }
}

/// The matrix T.
pub struct Directions {
    strips: Vec<Strip>,
    words: Array,
    /// Vectors of columns, padding included.
    chunks: usize,
}

impl Directions {
    /// A matrix of `rank` rows of `dim` numbers, near those of a function of row and column.
    pub fn new(rank: usize, dim: usize, value: impl Fn(usize, usize) -> f64) -> Result<Self> {
        let pairs = rank.div_ceil(2);
        let n = pairs.div_ceil(PAIRS);
        // Of nearly equal width: a narrow strip costs almost as much as a wide one.
        let end = |strip: usize| rank.min(2 * (strip * pairs / n));
        Self::from_strips((0..n).map(|strip| (end(strip)..end(strip + 1), 0)), dim, value)
    }

    /// An upper triangular matrix.
    pub fn triangular(dim: usize, value: impl Fn(usize, usize) -> f64) -> Result<Self> {
        let strips =
            (0..dim.div_ceil(LANES)).map(|strip| (strip * LANES..dim.min((strip + 1) * LANES), strip));
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
            let strip = Strip { rows, skipped, start: length };
            length += strip.pairs() * (chunks - skipped) * LANES;
            strip
        };
        let strips: Vec<Strip> = strips.map(place).collect();
        let mut words = Array::new(1, length)?;
        let all = words.row_mut(0);
        for strip in &strips {
            let mut at = strip.start;
            for chunk in strip.skipped..chunks {
                for row in strip.rows.clone().step_by(2) {
                    for i in chunk * LANES..dim.min((chunk + 1) * LANES) {
                        let second = if row + 1 < strip.rows.end { value(row + 1, i) } else { 0.0 };
                        all[at + i % LANES] = pack(value(row, i), second);
                    }
                    at += LANES;
                }
            }
        }
        Ok(Directions { strips, words, chunks })
    }

    fn words(&self, strip: &Strip) -> &[[f64; LANES]] {
        let length = strip.pairs() * (self.chunks - strip.skipped) * LANES;
        self.words.row(0)[strip.start..strip.start + length].as_chunks().0
    }

    /// Each row in turn, with padding.
    pub fn for_each_row(&self, mut f: impl FnMut(usize, &mut [f64])) {
        let mut numbers = vec![0.0; self.chunks * LANES];
        for strip in &self.strips {
            for row in strip.rows.clone() {
                let pair = (row - strip.rows.start) / 2;
                let words = self.words(strip).iter().skip(pair).step_by(strip.pairs());
                let (skipped, own) = numbers.split_at_mut(strip.skipped * LANES);
                skipped.fill(0.0);
                for (own, word) in own.iter_mut().zip(words.flatten()) {
                    *own = unpack(*word)[(row - strip.rows.start) % 2];
                }
                f(row, &mut numbers);
            }
        }
    }

    /// T y.
    pub fn project(&self, y: Cells<'_>, out: &mut [f64]) {
        let y = y.as_chunks().0;
        for strip in &self.strips {
            project(self.words(strip), &y[strip.skipped..], &mut out[strip.rows.clone()]);
        }
    }

    /// out += T^T by.
    pub fn spread(&self, by: &[f64], out: Cells<'_>) {
        let out = out.as_chunks().0;
        for strip in self.strips.iter().rev() {
            spread(self.words(strip), &by[strip.rows.clone()], &out[strip.skipped..]);
        }
    }

    /// y <- T^-1 y, T triangular.
    pub fn solve(&self, y: Cells<'_>) {
        let chunks = y.as_chunks().0;
        for (i, strip) in self.strips.iter().enumerate().rev() {
            let width = strip.rows.len();
            let (square, rest) = self.words(strip).split_at(strip.pairs());
            let mut beyond = [0.0; LANES];
            project(rest, &chunks[i + 1..], &mut beyond[..width]);
            let own = &chunks[i];
            let entry = |j: usize, k: usize| unpack(square[j / 2][k])[j % 2];
            for j in (0..width).rev() {
                let sum: f64 = (j + 1..width).map(|k| entry(j, k) * own[k].get()).sum();
                own[j].set((own[j].get() - beyond[j] - sum) / entry(j, j));
            }
        }
    }

    /// y <- T^-T y, T triangular.
    pub fn solve_transposed(&self, y: Cells<'_>) {
        let chunks = y.as_chunks().0;
        for (i, strip) in self.strips.iter().enumerate() {
            let width = strip.rows.len();
            let (square, rest) = self.words(strip).split_at(strip.pairs());
            let own = &chunks[i];
            let entry = |j: usize, k: usize| unpack(square[j / 2][k])[j % 2];
            for j in 0..width {
                let sum: f64 = (0..j).map(|k| entry(k, j) * own[k].get()).sum();
                own[j].set((own[j].get() - sum) / entry(j, j));
            }
            let by: [f64; LANES] = std::array::from_fn(|j| -own[j].get());
            spread(rest, &by[..width], &chunks[i + 1..]);
        }
    }
}

/// Two numbers in one word. The second one's upper half is the lower half; the first number is the word itself, so it needs
/// nothing done to be used, and its upper half is chosen to make it right. Numbers below 2^-500 become zero, or, where
/// that would make the word a number so small that processors are slow with it, 2^-500.
fn pack(first: f64, second: f64) -> f64 {
    const TINY: f64 = 3.054936363499605e-151;
    let [first, second] = [first, second].map(|v| if v.abs() < TINY { 0.0 } else { v });
    let lower = (second.to_bits() + (1 << 31)) >> 32;
    if lower == 0 && first == 0.0 {
        return 0.0;
    }
    let first = if first == 0.0 { TINY } else { first };
    let upper = (first.to_bits() - lower + (1 << 31)) >> 32;
    f64::from_bits(upper << 32 | lower)
}

fn unpack(word: f64) -> [f64; 2] {
    [word, f64::from_bits(word.to_bits() << 32)]
}

type Lanes = [std::cell::Cell<f64>; LANES];

/// Products of the rows of a strip with y.
fn project(words: &[[f64; LANES]], y: &[Lanes], out: &mut [f64]) {
    fn of_pairs<const N: usize>(words: &[[f64; LANES]], y: &[Lanes], out: &mut [f64]) {
        let sums = simd::run(Project::<N> { words: words.as_chunks().0, y });
        out.iter_mut().zip(sums.as_flattened()).for_each(|(out, sum)| *out = *sum);
    }
    match out.len().div_ceil(2) {
        1 => of_pairs::<1>(words, y, out),
        2 => of_pairs::<2>(words, y, out),
        3 => of_pairs::<3>(words, y, out),
        4 => of_pairs::<4>(words, y, out),
        _ => of_pairs::<PAIRS>(words, y, out),
    }
}

/// Add multiples of the rows of a strip.
fn spread(words: &[[f64; LANES]], by: &[f64], out: &[Lanes]) {
    fn of_pairs<const N: usize>(words: &[[f64; LANES]], by: &[f64], out: &[Lanes]) {
        let mut factors = [[0.0; 2]; N];
        factors.as_flattened_mut()[..by.len()].copy_from_slice(by);
        simd::run(Spread { words: words.as_chunks().0, by: factors, out });
    }
    match by.len().div_ceil(2) {
        1 => of_pairs::<1>(words, by, out),
        2 => of_pairs::<2>(words, by, out),
        3 => of_pairs::<3>(words, by, out),
        4 => of_pairs::<4>(words, by, out),
        _ => of_pairs::<PAIRS>(words, by, out),
    }
}

struct Project<'a, const N: usize> {
    words: &'a [[[f64; LANES]; N]],
    y: &'a [Lanes],
}

impl<const N: usize> Loop for Project<'_, N> {
    type Output = [[f64; 2]; N];

    #[inline(always)]
    fn run<V: Vector>(self) -> [[f64; 2]; N] {
        let mut sums = [[V::splat(0.0); 2]; N];
        for (words, y) in self.words.iter().zip(self.y) {
            let y = V::get(y);
            for ([first, second], word) in sums.iter_mut().zip(words) {
                let word = V::load(word);
                *first = y.mul_add(word, *first);
                *second = y.mul_add(word.lower(), *second);
            }
        }
        sums.map(|pair| pair.map(V::sum))
    }
}

struct Spread<'a, const N: usize> {
    words: &'a [[[f64; LANES]; N]],
    by: [[f64; 2]; N],
    out: &'a [Lanes],
}

impl<const N: usize> Loop for Spread<'_, N> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let by = self.by.map(|pair| pair.map(V::splat));
        for (words, out) in self.words.iter().zip(self.out).rev() {
            let mut sum = V::get(out);
            for ([first, second], word) in by.iter().zip(words) {
                let word = V::load(word);
                sum = first.mul_add(word, sum);
                sum = second.mul_add(word.lower(), sum);
            }
            sum.put(out);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// The numbers of a matrix, which are near those of a function.
    fn numbers(matrix: &Directions, dim: usize, value: impl Fn(usize, usize) -> f64) -> Vec<Vec<f64>> {
        let mut rows = Vec::new();
        matrix.for_each_row(|row, numbers| {
            assert_eq!(row, rows.len());
            for (i, v) in numbers.iter().enumerate() {
                let expected = if i < dim { value(row, i) } else { 0.0 };
                assert!((v - expected).abs() <= 0.5f64.powi(21) * expected.abs() + 1e-150, "{v} {expected}");
            }
            rows.push(numbers.to_vec());
        });
        rows
    }

    fn check(matrix: &Directions, rank: usize, dim: usize, value: impl Fn(usize, usize) -> f64) {
        let rows = numbers(matrix, dim, value);
        assert_eq!(rows.len(), rank);
        let padded = dim.next_multiple_of(LANES);
        let number = |i: usize| if i < dim { (i as f64 * 0.37).cos() } else { 0.0 };
        let mut y: Vec<f64> = (0..padded).map(number).collect();
        let mut along = vec![f64::NAN; rank];
        matrix.project(Cell::from_mut(&mut y[..]).as_slice_of_cells(), &mut along);
        for (along, row) in along.iter().zip(&rows) {
            let sum: f64 = row.iter().enumerate().map(|(i, v)| v * number(i)).sum();
            assert!((along - sum).abs() < 1e-13 * (1 + dim) as f64, "{rank} x {dim}");
        }
        let by: Vec<f64> = (0..rank).map(|j| (j as f64 + 0.5).sin()).collect();
        matrix.spread(&by, Cell::from_mut(&mut y[..]).as_slice_of_cells());
        for (i, y) in y.iter().enumerate() {
            let sum: f64 = rows.iter().zip(&by).map(|(row, by)| row[i] * by).sum();
            assert!((y - number(i) - sum).abs() < 1e-13 * (1 + rank) as f64, "{rank} x {dim}");
            assert!(i < dim || *y == 0.0);
        }
    }

    #[test]
    fn two_numbers_share_a_word() {
        let numbers =
            [0.0, 1.0, -1.0, 0.1, -1e-8, 1e150, -1e-149, 1e-200, f64::MIN_POSITIVE, 5e-324, 1.0 - 1e-16];
        for first in numbers {
            for second in numbers {
                let word = pack(first, second);
                assert!(word == 0.0 || word.is_normal());
                for (v, expected) in unpack(word).into_iter().zip([first, second]) {
                    assert!((v - expected).abs() <= 0.5f64.powi(21) * expected.abs() + 3.1e-151);
                    assert!(v == 0.0 || v.is_normal());
                }
            }
        }
        assert_eq!(unpack(pack(0.0, 0.0)), [0.0; 2]);
        assert_eq!(unpack(pack(0.75, 0.0)), [0.75, 0.0]);
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
    fn machines_without_vectors_give_the_same_bits() {
        let words: Vec<[[f64; LANES]; 3]> = (0..5)
            .map(|c| {
                std::array::from_fn(|j| {
                    std::array::from_fn(|i| pack((c + 3 * j + i) as f64 / 7.0, 0.3 - j as f64))
                })
            })
            .collect();
        let numbers: Vec<f64> = (0..5 * LANES).map(|i| (i as f64 * 0.37).cos()).collect();
        let [mut best, mut plain] = [numbers.clone(), numbers];
        let [best, plain] = [&mut best, &mut plain].map(|v| Cell::from_mut(&mut v[..]).as_slice_of_cells());
        let sums = simd::run(Project::<3> { words: &words, y: best.as_chunks().0 });
        assert_eq!(sums, Project::<3> { words: &words, y: plain.as_chunks().0 }.run::<simd::Plain>());
        simd::run(Spread { words: &words, by: sums, out: best.as_chunks().0 });
        Spread { words: &words, by: sums, out: plain.as_chunks().0 }.run::<simd::Plain>();
        assert_eq!(best, plain);
    }

    #[test]
    fn solutions_are_solutions() {
        for dim in [1, 3, 8, 9, 16, 37] {
            let value = |j: usize, i: usize| if i == j { 2.0 } else { ((j * 31 + i * 17) as f64).sin() };
            let matrix = Directions::triangular(dim, value).unwrap();
            let upper = numbers(&matrix, dim, |j, i| if i < j { 0.0 } else { value(j, i) });
            let b: Vec<f64> =
                (0..dim.next_multiple_of(LANES)).map(|i| f64::from(u8::from(i < dim))).collect();
            let [mut plain, mut transposed] = [b.clone(), b];
            matrix.solve(Cell::from_mut(&mut plain[..]).as_slice_of_cells());
            matrix.solve_transposed(Cell::from_mut(&mut transposed[..]).as_slice_of_cells());
            let size = plain.iter().chain(&transposed).fold(1.0, |m: f64, v| m.max(v.abs()));
            let mut back = vec![0.0; dim];
            for (row, y) in upper.iter().zip(&transposed) {
                let one: f64 = row.iter().zip(&plain).map(|(a, b)| a * b).sum();
                assert!((one - 1.0).abs() < 1e-14 * size * dim as f64, "{dim}");
                back.iter_mut().zip(row).for_each(|(sum, v)| *sum += v * y);
            }
            for one in back {
                assert!((one - 1.0).abs() < 1e-14 * size * dim as f64, "{dim}");
            }
        }
    }
}
