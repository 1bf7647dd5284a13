//! What a coupled metric makes of the rows of an array, kept beside them.

use std::cell::Cell;

use super::ops::Cells;
use super::simd::{self, LANES, Loop, Vector};

/// For each row v of an array of momenta or gradients the numbers T v and C T v of a [`super::coupling::Coupling`], each
/// padded with zeros to whole vectors. They are computed when first wanted, follow the row through kicks, and are
/// forgotten when it is written otherwise.
#[derive(Default)]
pub struct Along {
    /// Coupling that the numbers of a row belong to; 0 is none.
    owners: Vec<u64>,
    numbers: Vec<f64>,
    stride: usize,
}

/// Length of T v with its padding.
pub fn padded(rank: usize) -> usize {
    rank.next_multiple_of(LANES)
}

impl Along {
    /// Make room for couplings of a rank. What is known stays known: chains must not depend on each other.
    pub fn reserve(&mut self, rows: usize, rank: usize) {
        let stride = self.stride.max(2 * padded(rank));
        self.owners.resize(rows.max(self.owners.len()), 0);
        let length = self.owners.len() * stride;
        if stride == self.stride {
            self.numbers.resize(length, 0.0);
            return;
        }
        let mut numbers = vec![0.0; length];
        for (new, old) in numbers.chunks_exact_mut(stride).zip(self.numbers.chunks_exact(self.stride.max(1)))
        {
            new[..self.stride].copy_from_slice(old);
        }
        (self.numbers, self.stride) = (numbers, stride);
    }

    /// The row has changed.
    pub fn forget(&mut self, row: usize) {
        if let Some(owner) = self.owners.get_mut(row) {
            *owner = 0;
        }
    }

    /// Whether the numbers of a row are known.
    pub fn knows(&self, row: usize, owner: u64) -> bool {
        self.owners.get(row) == Some(&owner)
    }

    /// The numbers of a row that is known: T v, then C T v.
    pub fn get(&self, row: usize, rank: usize) -> &[f64] {
        &self.numbers[row * self.stride..][..2 * padded(rank)]
    }

    /// Room for the numbers of a row, which is known from now on.
    pub fn set(&mut self, row: usize, rank: usize, owner: u64) -> [&mut [f64]; 2] {
        self.owners[row] = owner;
        let n = padded(rank);
        self.numbers[row * self.stride..][..2 * n].split_at_mut(n).into()
    }

    /// The row `to` is the row `from` plus `kick` times a row of another array that has these numbers.
    pub fn kick(&mut self, [from, to]: [usize; 2], kick: f64, other: &[f64], owner: u64) {
        self.owners[to] = owner;
        let numbers = Cell::from_mut(&mut self.numbers[..]).as_slice_of_cells();
        let [from, to] = [from, to].map(|row| &numbers[row * self.stride..][..other.len()]);
        simd::run(Kick { from, to, kick, other });
    }
}

/// T v and C T v of what [`Along::get`] has of v.
pub fn halves(numbers: &[f64]) -> [&[f64]; 2] {
    numbers.split_at(numbers.len() / 2).into()
}

/// to = from + kick other.
struct Kick<'a> {
    from: Cells<'a>,
    to: Cells<'a>,
    kick: f64,
    other: &'a [f64],
}

impl Loop for Kick<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let kick = V::splat(self.kick);
        let (from, to) = (self.from.as_chunks().0, self.to.as_chunks().0);
        for ((from, to), other) in from.iter().zip(to).zip(self.other.as_chunks().0) {
            V::get(from).add(kick.mul(V::load(other))).put(to);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_follow_their_row_and_survive_growth() {
        let mut along = Along::default();
        assert!(!along.knows(1, 7));
        along.forget(1);
        along.reserve(3, 2);
        assert!(!along.knows(1, 7));
        let [first, second] = along.set(1, 2, 7);
        first[..2].copy_from_slice(&[1.0, 2.0]);
        second[..2].copy_from_slice(&[3.0, 4.0]);
        along.kick([1, 2], 0.5, [[10.0; LANES], [20.0; LANES]].as_flattened(), 7);
        along.reserve(3, 9);
        along.reserve(5, 1);
        for (row, more) in [(1, [0.0; 2]), (2, [5.0, 10.0])] {
            assert!(along.knows(row, 7) && !along.knows(row, 8) && !along.knows(0, 7));
            let [first, second] = halves(along.get(row, 2));
            assert_eq!(first[..2], [1.0 + more[0], 2.0 + more[0]]);
            assert_eq!(second[..2], [3.0 + more[1], 4.0 + more[1]]);
        }
        along.forget(1);
        assert!(!along.knows(1, 7) && along.knows(2, 7));
    }
}
