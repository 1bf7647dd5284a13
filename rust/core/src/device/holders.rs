//! Which row of the arrays of metrics each chain has: chains with a common metric have one in common.
//!
//! A pass over the points of many chains then reads their metric once. Metrics are common if they were set as the same
//! [`Arc`]; a chain whose metric is changed in place gets a row of its own. There are as many rows as chains, so that one is
//! free whenever chains share.

use std::sync::{Arc, Weak};

use super::{Glide, Leaf, Place, Reach, Refresh, Renewal, Turn};
use crate::metric::Metric;

/// The rows of the metrics of some chains.
pub struct Holders {
    /// The row of each chain.
    rows: Vec<usize>,
    /// Number of chains of each row.
    uses: Vec<usize>,
    /// Rows whose metric has not changed since it was set.
    known: Vec<(Weak<Metric>, usize)>,
}

impl Holders {
    /// Of so many chains, none of which share.
    pub fn new(chains: usize) -> Self {
        Holders { rows: (0..chains).collect(), uses: vec![1; chains], known: Vec::new() }
    }

    /// The row of a chain.
    pub fn row(&self, chain: usize) -> usize {
        self.rows[chain]
    }

    /// Whether no chain has a row.
    pub fn is_free(&self, row: usize) -> bool {
        self.uses[row] == 0
    }

    /// Give a chain the row that a metric is in. False if it is in none.
    pub fn join(&mut self, chain: usize, metric: &Arc<Metric>) -> bool {
        let same = |(known, _): &&(Weak<Metric>, _)| std::ptr::eq(known.as_ptr(), Arc::as_ptr(metric));
        let Some((_, row)) = self.known.iter().rev().find(same).cloned() else { return false };
        if row == self.rows[chain] {
            return true;
        }
        self.leave(chain);
        self.rows[chain] = row;
        self.uses[row] += 1;
        true
    }

    /// Give a chain a row for itself, to write a metric to: the row, and the one that it had before.
    pub fn part(&mut self, chain: usize) -> [usize; 2] {
        let before = self.rows[chain];
        self.leave(chain);
        // The one that it had, if nobody else has it.
        let free = |row: &usize| self.is_free(*row);
        let row = Some(before).filter(free).or_else(|| (0..self.uses.len()).find(free)).unwrap_or(before);
        self.rows[chain] = row;
        self.uses[row] += 1;
        [row, before]
    }

    /// This metric has been written to the row of a chain.
    pub fn note(&mut self, chain: usize, metric: &Arc<Metric>) {
        self.known.push((Arc::downgrade(metric), self.rows[chain]));
    }

    fn leave(&mut self, chain: usize) {
        let row = self.rows[chain];
        self.uses[row] -= 1;
        if self.uses[row] == 0 {
            self.known.retain(|(_, known)| *known != row);
        }
    }

    /// Operations with the rows of metrics instead of chains.
    pub fn placed<T: OfChain>(&self, ops: &[T]) -> Vec<T> {
        let mut ops = ops.to_vec();
        ops.iter_mut().map(OfChain::metric).for_each(|metric| *metric = self.rows[*metric]);
        ops
    }
}

/// An operation under a chain's metric.
pub trait OfChain: Copy {
    /// Which one.
    fn metric(&mut self) -> &mut usize;
}

impl OfChain for Renewal {
    fn metric(&mut self) -> &mut usize {
        &mut self.fresh.metric
    }
}

impl OfChain for Refresh {
    fn metric(&mut self) -> &mut usize {
        &mut self.metric
    }
}

impl OfChain for Glide {
    fn metric(&mut self) -> &mut usize {
        &mut self.metric
    }
}

impl OfChain for Leaf {
    fn metric(&mut self) -> &mut usize {
        &mut self.metric
    }
}

impl OfChain for Place {
    fn metric(&mut self) -> &mut usize {
        &mut self.metric
    }
}

impl OfChain for Turn {
    fn metric(&mut self) -> &mut usize {
        &mut self.metric
    }
}

impl OfChain for Reach {
    fn metric(&mut self) -> &mut usize {
        &mut self.metric
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(holders: &Holders) -> Vec<usize> {
        (0..4).map(|chain| holders.row(chain)).collect()
    }

    #[test]
    fn chains_with_a_common_metric_have_a_common_row_until_it_changes() {
        let [a, b] = [1.0, 2.0].map(|v| Arc::new(Metric::diagonal(&[v], vec![0.0])));
        let mut holders = Holders::new(4);
        assert!(!holders.join(2, &a));
        assert_eq!(holders.part(2), [2, 2]);
        holders.note(2, &a);
        assert!(holders.join(0, &a) && holders.join(3, &a) && holders.join(3, &a));
        assert_eq!(rows(&holders), [2, 1, 2, 2]);
        // An equal one that is another.
        assert!(!holders.join(1, &Arc::new(Metric::clone(&a))));
        let ops = [0, 1, 3].map(|metric| Place { metric, row: 10 + metric });
        let placed: Vec<_> = holders.placed(&ops).iter().map(|op| (op.metric, op.row)).collect();
        assert_eq!(placed, [(2, 10), (1, 11), (2, 13)]);
        // In place, with others in the row: a free one, beside the one with the numbers.
        assert_eq!(holders.part(2), [0, 2]);
        assert_eq!(rows(&holders), [2, 1, 0, 2]);
        holders.note(2, &b);
        assert!(holders.join(1, &b) && holders.join(1, &a));
        assert_eq!(rows(&holders), [2, 2, 0, 2]);
        // The last chain leaves a row, and what was in it is forgotten.
        assert!(holders.join(2, &a));
        assert!(!holders.join(2, &b) && holders.is_free(0) && !holders.is_free(2));
        // A metric that is changed by the only chain that has it is not the one that was set any more.
        assert_eq!(holders.part(0)[1], 2);
        holders.note(0, &b);
        assert!(holders.join(0, &b) && holders.join(0, &b));
        assert_eq!(holders.part(0), [holders.row(0); 2]);
        assert!(!holders.join(1, &b));
    }
}
