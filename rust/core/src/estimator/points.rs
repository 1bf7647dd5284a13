//! A sample of whole points, positions with gradients, for estimators that need more than moments.
//!
//! Of the foreground sample and the background sample, the second is always part of the first. So two disjoint segments
//! are kept, the older and the newer: the background is the newer, the foreground their union.
//!
//! A segment keeps a limited number of its points: those of lowest priority, where the priority of point i is
//! sum_l d_l / 2^(l+1) with digits d_l = bit_l(i) xor coin(l, floor(i / 2^(l+1))), a base-2 radical inverse whose digits
//! are flipped by fixed coins (nested scrambling, Owen 1995). Of every two neighbours one comes first, of every two such
//! pairs one, and so on, so what is kept is always spread evenly. The coins matter where chains take turns to push:
//! without them one point of every eight could mean always the same chain.

use serde::{Deserialize, Serialize};

/// Points that a segment keeps unless told otherwise.
pub const CAPACITY: usize = 200;

/// A position and the gradient of the log density there.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point<'a> {
    /// Position.
    pub x: &'a [f64],
    /// Gradient.
    pub g: &'a [f64],
}

/// The older and the newer segment of a sample.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PointSample {
    older: Segment,
    newer: Segment,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Segment {
    dim: usize,
    capacity: usize,
    /// Points that were pushed, kept or not.
    seen: u64,
    /// Kept points in the order in which they came.
    entries: Vec<Entry>,
    /// Position and gradient of one slot after the other.
    numbers: Vec<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    priority: u64,
    slot: usize,
}

impl PointSample {
    /// A sample without points, of `dim` parameters, that keeps at most `capacity` points of each segment.
    pub fn new(dim: usize, capacity: usize) -> Self {
        let segment =
            Segment { dim, capacity, seen: 0, entries: Vec::with_capacity(capacity), numbers: Vec::new() };
        PointSample { older: segment.clone(), newer: segment }
    }

    /// Add a point to the newer segment. `x` and `g` have as many numbers as the sample has parameters.
    pub fn push(&mut self, x: &[f64], g: &[f64]) {
        self.newer.push(Point { x, g });
    }

    /// Make the newer segment the older one and begin a new one.
    pub fn forget_older(&mut self) {
        std::mem::swap(&mut self.older, &mut self.newer);
        self.newer.clear();
    }

    /// Points that were pushed into the older and into the newer segment, kept or not.
    pub fn seen(&self) -> [u64; 2] {
        [self.older.seen, self.newer.seen]
    }

    /// Points that are kept.
    pub fn len(&self) -> usize {
        self.older.entries.len() + self.newer.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All kept points: the older segment's, then the newer one's, each in the order in which they came.
    pub fn points(&self) -> impl Iterator<Item = Point<'_>> {
        self.entries().map(|(_, point)| point)
    }

    /// At most `max` of the kept points, in order: those of lowest priority. Each segment is represented by its share of
    /// the points that were pushed, as far as it kept them.
    pub fn select(&self, max: usize) -> Vec<Point<'_>> {
        let mut order: Vec<(u64, usize)> = self.entries().enumerate().map(|(i, (p, _))| (p, i)).collect();
        if order.len() <= max {
            return self.points().collect();
        }
        order.sort_unstable();
        let bound = order[max];
        self.entries()
            .enumerate()
            .filter(|(i, (p, _))| (*p, *i) < bound)
            .map(|(_, (_, point))| point)
            .collect()
    }

    /// Append another sample's segments to the segments of this one.
    pub fn absorb(&mut self, other: &PointSample) {
        self.older.absorb(&other.older);
        self.newer.absorb(&other.newer);
    }

    fn entries(&self) -> impl Iterator<Item = (u64, Point<'_>)> {
        self.older.points().chain(self.newer.points())
    }
}

impl Segment {
    fn push(&mut self, point: Point<'_>) {
        self.insert(priority(self.seen), point);
        self.seen += 1;
    }

    fn absorb(&mut self, other: &Segment) {
        for (priority, point) in other.points() {
            self.insert(priority, point);
        }
        self.seen += other.seen;
    }

    fn clear(&mut self) {
        self.seen = 0;
        self.entries.clear();
        self.numbers.clear();
    }

    fn points(&self) -> impl Iterator<Item = (u64, Point<'_>)> {
        let dim = self.dim;
        self.entries.iter().map(move |entry| {
            let (x, g) = self.numbers[2 * dim * entry.slot..2 * dim * (entry.slot + 1)].split_at(dim);
            (entry.priority, Point { x, g })
        })
    }

    /// Keep a point if there is room, or in place of the point of highest priority.
    fn insert(&mut self, priority: u64, point: Point<'_>) {
        debug_assert_eq!((point.x.len(), point.g.len()), (self.dim, self.dim));
        let slot = if self.entries.len() < self.capacity {
            self.entries.len()
        } else {
            let last = self.entries.iter().enumerate().max_by_key(|(_, entry)| entry.priority);
            let Some((at, _)) = last.filter(|(_, entry)| priority < entry.priority) else { return };
            self.entries.remove(at).slot
        };
        self.entries.push(Entry { priority, slot });
        self.write(slot, point);
    }

    fn write(&mut self, slot: usize, point: Point<'_>) {
        let start = 2 * self.dim * slot;
        if start == self.numbers.len() {
            if self.numbers.capacity() == start {
                // By doubling, but not beyond what will ever be needed.
                let most = 2 * self.dim * self.capacity - start;
                self.numbers.reserve_exact(start.max(16 * self.dim).min(most));
            }
            self.numbers.extend_from_slice(point.x);
            self.numbers.extend_from_slice(point.g);
        } else {
            self.numbers[start..start + self.dim].copy_from_slice(point.x);
            self.numbers[start + self.dim..start + 2 * self.dim].copy_from_slice(point.g);
        }
    }
}

/// The priority of point `index`, its first digit the highest bit.
fn priority(index: u64) -> u64 {
    let mut rest = index;
    let mut digits = 0;
    for level in 0..u64::BITS {
        let digit = (rest & 1) ^ coin(level, rest >> 1);
        digits = digits << 1 | digit;
        rest >>= 1;
    }
    digits
}

/// A fixed random bit (the mixing function of SplitMix64: Steele, Lea and Flood 2014).
fn coin(level: u32, block: u64) -> u64 {
    let mut z = (block << 6 | u64::from(level)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    z >> 63
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sample after points (i, -i) for i in 0..n.
    fn counted(n: usize, capacity: usize) -> PointSample {
        let mut sample = PointSample::new(1, capacity);
        add(&mut sample, 0..n);
        sample
    }

    fn add(sample: &mut PointSample, numbers: std::ops::Range<usize>) {
        for i in numbers {
            sample.push(&[i as f64], &[-(i as f64)]);
        }
    }

    fn numbers<'a>(points: impl IntoIterator<Item = Point<'a>>) -> Vec<usize> {
        let number = |p: Point<'_>| {
            assert_eq!(p.x[0], -p.g[0]);
            p.x[0] as usize
        };
        points.into_iter().map(number).collect()
    }

    /// Of each block of `size` successive numbers below `n`, how many are among `kept`.
    fn per_block(kept: &[usize], size: usize, n: usize) -> Vec<usize> {
        let count = |block: usize| kept.iter().filter(|i| **i / size == block).count();
        (0..n / size).map(count).collect()
    }

    #[test]
    fn everything_is_kept_while_there_is_room() {
        let sample = counted(200, 200);
        assert_eq!(numbers(sample.points()), (0..200).collect::<Vec<_>>());
        assert_eq!((sample.seen(), sample.len()), ([0, 200], 200));
    }

    #[test]
    fn what_is_kept_is_spread_evenly() {
        for n in [201, 300, 399, 400, 500, 1000, 5000] {
            let kept = numbers(counted(n, 200).points());
            assert_eq!(kept.len(), 200);
            assert!(kept.is_sorted());
            let stride = n.div_ceil(200).next_power_of_two();
            assert!(per_block(&kept, stride, n).iter().all(|c| *c >= 1), "{n}");
            assert!(per_block(&kept, stride / 2, n).iter().all(|c| *c <= 1), "{n}");
            let mean = kept.iter().sum::<usize>() as f64 / 200.0;
            assert!((mean / (n - 1) as f64 - 0.5).abs() < 0.01, "{n}: {mean}");
        }
    }

    #[test]
    fn chains_that_take_turns_are_kept_alike() {
        // Eight pushes per draw, four chains of two points; every eighth point is kept, or every fourth, or every second.
        for n in [400, 800, 1600] {
            let mut counts = [0; 8];
            numbers(counted(n, 200).points()).into_iter().for_each(|i| counts[i % 8] += 1);
            assert!(counts.iter().all(|c| (12..=38).contains(c)), "{counts:?}");
        }
    }

    #[test]
    fn segments_move_on() {
        let mut sample = counted(500, 100);
        sample.forget_older();
        assert_eq!(sample.seen(), [500, 0]);
        assert_eq!(numbers(sample.points()), numbers(counted(500, 100).points()));
        add(&mut sample, 1000..1003);
        assert_eq!(numbers(sample.points())[100..], [1000, 1001, 1002]);
        sample.forget_older();
        assert_eq!((sample.seen(), numbers(sample.points())), ([3, 0], vec![1000, 1001, 1002]));
    }

    #[test]
    fn a_selection_has_both_segments_by_their_shares() {
        let mut sample = counted(600, 200);
        sample.forget_older();
        add(&mut sample, 600..800);
        let chosen = numbers(sample.select(100));
        assert_eq!(chosen.len(), 100);
        assert!(chosen.is_sorted());
        assert!(chosen.iter().filter(|i| **i < 600).count().abs_diff(75) <= 3);
        assert!(per_block(&chosen, 16, 800).iter().all(|c| (1..=3).contains(c)));
        assert_eq!(numbers(sample.select(400)), numbers(sample.points()));
        assert_eq!(sample.select(399).len(), 399);
        assert!(sample.select(0).is_empty());
    }

    #[test]
    fn samples_merge_in_order() {
        let mut chains = [counted(3, 8), counted(2, 8)];
        for (i, chain) in chains.iter_mut().enumerate() {
            chain.forget_older();
            add(chain, 10 * (i + 1)..10 * (i + 1) + 2);
        }
        let mut merged = chains[0].clone();
        merged.absorb(&chains[1]);
        assert_eq!(numbers(merged.points()), [0, 1, 2, 0, 1, 10, 11, 20, 21]);
        assert_eq!(merged.seen(), [5, 4]);
    }

    #[test]
    fn merging_thins_by_shares_and_in_any_grouping() {
        let mut chains = [600, 200, 200, 400].map(|n| counted(n, 100));
        chains.iter_mut().for_each(PointSample::forget_older);
        let [mut one, two, three, four] = chains.clone();
        [&two, &three, &four].into_iter().for_each(|chain| one.absorb(chain));
        assert_eq!((one.len(), one.seen()), (100, [1400, 0]));
        let kept = numbers(one.points());
        let starts: Vec<usize> = (1..100).filter(|i| kept[*i] < kept[i - 1]).collect();
        assert_eq!(starts.len(), 3);
        for (start, expected) in starts.into_iter().zip([43, 57, 71]) {
            assert!(start.abs_diff(expected) <= 3, "{start} and not {expected}");
        }
        let [mut left, _, mut right, _] = chains;
        left.absorb(&two);
        right.absorb(&four);
        left.absorb(&right);
        assert_eq!(numbers(left.points()), kept);
    }

    #[test]
    fn nothing_is_allocated_once_there_is_room() {
        let mut sample = counted(100, 100);
        sample.forget_older();
        add(&mut sample, 0..100);
        let storage = |s: &PointSample| {
            [&s.older, &s.newer].map(|s| (s.numbers.as_ptr(), s.numbers.capacity(), s.entries.capacity()))
        };
        let [older, newer] = storage(&sample);
        assert_eq!(newer.1, 200);
        add(&mut sample, 100..1000);
        assert_eq!(storage(&sample), [older, newer]);
        sample.forget_older();
        add(&mut sample, 0..1000);
        assert_eq!(storage(&sample), [newer, older]);
    }

    #[test]
    fn a_sample_survives_serialisation() {
        let mut sample = counted(500, 20);
        sample.forget_older();
        add(&mut sample, 0..30);
        let bytes = postcard::to_allocvec(&sample).unwrap();
        let mut back: PointSample = postcard::from_bytes(&bytes).unwrap();
        assert_eq!(back, sample);
        add(&mut back, 30..60);
        add(&mut sample, 30..60);
        assert_eq!(back, sample);
    }
}
