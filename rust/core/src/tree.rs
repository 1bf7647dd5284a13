//! The bookkeeping of a no-U-turn trajectory, on integers: no Hamiltonian, no positions, no device.
//!
//! A trajectory grows by doubling: a direction is drawn, a subtree as large as all there is so far is built leaf by leaf,
//! and the two are joined (Hoffman and Gelman 2014). Points are known by their *slot*, a small integer; the caller keeps
//! what belongs to a slot. For each new leaf the tree says which pairs of points are to be checked for a U-turn; the caller
//! reports the verdicts and the leaf's log weight.
//!
//! - Selection inside a subtree is multinomial, at the top biased progressive (Betancourt 2017, A.3): the new half's
//!   proposal wins with probability min(1, w_new / w_old).
//! - When two halves of at least two points each are joined, three spans are checked: the whole, the first half with the
//!   nearest point of the second, and the second half with the nearest point of the first. The second of these is known
//!   as soon as the second half has its first point, and is checked then: inside a subtree it ends the trajectory half a
//!   subtree of gradients early.
//! - A U-turn inside a new subtree, or a divergence, discards the subtree; a U-turn of the whole keeps it and ends.

/// Index of a stored point.
pub type Slot = usize;

/// A point that is to be checked for a U-turn together with the current leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The point.
    pub start: Slot,
    /// Whether the leaf is the very next point.
    pub adjacent: bool,
}

/// Source of the random decisions of a trajectory.
pub trait Chooser {
    /// Whether the next doubling goes forward in time.
    fn forward(&mut self) -> bool;

    /// True with the given probability.
    fn accept(&mut self, probability: f64) -> bool;
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// The point to start from.
    pub from: Slot,
    /// Where the new point goes.
    pub to: Slot,
    /// Whether the step goes forward in time.
    pub forward: bool,
    /// Whether the leaf before announced this one.
    pub expected: bool,
    /// Where the leaf after this one goes, if it is sure to go on from here unless the trajectory ends.
    pub onward: Option<Slot>,
}

/// Why a trajectory ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// A U-turn.
    Turned,
    /// A divergence.
    Diverged,
    /// The largest depth was reached without a U-turn.
    MaxDepth,
}

/// A finished or pending piece of trajectory.
#[derive(Clone, Copy, Debug)]
struct Node {
    first: Slot,
    last: Slot,
    proposal: Slot,
    log_weight: f64,
    depth: u32,
}

/// ln(e^a + e^b), and the share of e^b in the sum.
pub(crate) fn add_weights(a: f64, b: f64) -> (f64, f64) {
    let (big, small) = if a > b { (a, b) } else { (b, a) };
    if small == f64::NEG_INFINITY {
        return (big, if a > b { 0.0 } else { 1.0 });
    }
    let ratio = (small - big).exp();
    let share_of_small = ratio / (1.0 + ratio);
    (big + ratio.ln_1p(), if a > b { share_of_small } else { 1.0 - share_of_small })
}

/// The state of a trajectory.
#[derive(Clone, Debug)]
pub struct Tree {
    max_depth: u32,
    /// Depth at which the trajectory under way ends.
    limit: u32,
    /// The earliest point, the latest point and the proposal so far.
    whole: Node,
    /// Finished pieces of the subtree under way, each smaller than the one before.
    pending: Vec<Node>,
    forward: bool,
    leaves: u64,
    current: Leaf,
    pairs: Vec<Pair>,
    /// Whether the whole with the first point of the subtree under way is a U-turn.
    whole_turned: bool,
    end: Option<End>,
}

/// Number of slots that trajectories of a depth need.
pub fn slots(max_depth: u32) -> usize {
    // Three for the whole, three for each pending piece, one for the leaf under way and one for the leaf after it.
    3 * (max_depth as usize + 1) + 2
}

/// Largest number of pairs that a leaf of trajectories of a depth asks for.
pub fn pairs(max_depth: u32) -> usize {
    // One with the piece before it, then two for each join.
    1 + 2 * (max_depth as usize + 1)
}

/// The largest depth for which the slots fit the set in which they are counted.
pub const MAX_DEPTH: u32 = 40;

impl Tree {
    /// A tree whose trajectories double at most `max_depth` times.
    pub fn new(max_depth: u32) -> Self {
        let node = Node { first: 0, last: 0, proposal: 0, log_weight: 0.0, depth: 0 };
        Tree {
            max_depth: max_depth.min(MAX_DEPTH),
            limit: max_depth.min(MAX_DEPTH),
            whole: node,
            pending: Vec::with_capacity(max_depth as usize + 1),
            forward: true,
            leaves: 0,
            current: Leaf { from: 0, to: 0, forward: true, expected: false, onward: None },
            pairs: Vec::with_capacity(pairs(max_depth)),
            whole_turned: false,
            end: None,
        }
    }

    /// Begin a trajectory at a point, whose log weight is zero; it may be limited to fewer doublings than others.
    pub fn start(&mut self, origin: Slot, limit: Option<u32>, chooser: &mut dyn Chooser) {
        self.limit = limit.map_or(self.max_depth, |limit| limit.min(self.max_depth));
        self.whole = Node { first: origin, last: origin, proposal: origin, log_weight: 0.0, depth: 0 };
        self.end = (self.limit == 0).then_some(End::MaxDepth);
        self.double(chooser);
    }

    fn double(&mut self, chooser: &mut dyn Chooser) {
        self.pending.clear();
        self.leaves = 0;
        self.whole_turned = false;
        if self.end.is_none() {
            self.forward = chooser.forward();
        }
    }

    /// How the trajectory ended, once it has.
    pub fn end(&self) -> Option<End> {
        self.end
    }

    /// The point that the trajectory proposes.
    pub fn proposal(&self) -> Slot {
        self.whole.proposal
    }

    /// Number of completed doublings.
    pub fn depth(&self) -> u32 {
        self.whole.depth
    }

    /// A slot that holds nothing of use and is not among the `taken`.
    fn free_slot(&self, taken: u128) -> Slot {
        let used = self
            .pending
            .iter()
            .chain([&self.whole])
            .fold(taken, |used, node| used | 1 << node.first | 1 << node.last | 1 << node.proposal);
        used.trailing_ones() as Slot
    }

    /// The next leaf. [`Tree::pairs`] then names the pairs to be checked.
    pub fn next_leaf(&mut self) -> Leaf {
        let expected = if self.leaves == 0 { None } else { self.current.onward };
        let from = if self.leaves == 0 { self.whole_ends().1 } else { self.current.to };
        let to = expected.unwrap_or_else(|| self.free_slot(0));
        let goes_on = self.leaves + 1 < 1 << self.whole.depth;
        let onward = goes_on.then(|| self.free_slot(1 << to));
        self.current = Leaf { from, to, forward: self.forward, expected: expected.is_some(), onward };
        self.list_pairs();
        self.current
    }

    /// The pairs to check with the current leaf, in the order in which [`Tree::grow`] wants the verdicts.
    pub fn pairs(&self) -> &[Pair] {
        &self.pairs
    }

    fn list_pairs(&mut self) {
        self.pairs.clear();
        let (outer, inner) = self.whole_ends();
        if let Some(start) = self.before_current() {
            self.pairs.push(Pair { start, adjacent: false });
        }
        // Depth of the piece that ends in the new leaf, as it grows by the joins that this leaf completes.
        let mut depth = 0;
        for left in self.pending.iter().rev() {
            if left.depth != depth {
                break;
            }
            self.pairs.push(Pair { start: left.first, adjacent: depth == 0 });
            if depth > 0 {
                self.pairs.push(Pair { start: left.last, adjacent: false });
            }
            depth += 1;
        }
        if depth == self.whole.depth {
            self.pairs.push(Pair { start: outer, adjacent: depth == 0 });
            if depth > 0 {
                self.pairs.push(Pair { start: inner, adjacent: false });
            }
        }
    }

    /// The far end of the piece next to the current leaf, if that piece has more than one point: the two together are a
    /// span to check.
    fn before_current(&self) -> Option<Slot> {
        let (first, depth) = match self.pending.last() {
            Some(piece) => (piece.first, piece.depth),
            None => (self.whole_ends().0, self.whole.depth),
        };
        (depth > 0).then_some(first)
    }

    /// The ends of the whole: away from the subtree under way, and next to it.
    fn whole_ends(&self) -> (Slot, Slot) {
        if self.forward { (self.whole.first, self.whole.last) } else { (self.whole.last, self.whole.first) }
    }

    /// The current leaf diverged.
    pub fn diverge(&mut self) {
        self.end = Some(End::Diverged);
    }

    /// The current leaf would not lead back: the trajectory ends as at a U-turn within the new subtree.
    pub fn give_up(&mut self) {
        self.end = Some(End::Turned);
    }

    /// The current leaf has this log weight, and `turning` says of each of [`Tree::pairs`] whether it is a U-turn.
    pub fn grow(&mut self, log_weight: f64, turning: impl Fn(usize) -> bool, chooser: &mut dyn Chooser) {
        let new = self.current.to;
        let mut verdicts = (0..self.pairs.len()).map(turning);
        let mut turned = |pairs: usize| (&mut verdicts).take(pairs).fold(false, |any, turned| any | turned);
        if self.before_current().is_some() && turned(1) {
            if self.leaves > 0 {
                self.end = Some(End::Turned);
                return;
            }
            // Here the other piece is the whole: its U-turn counts when the subtree is complete.
            self.whole_turned = true;
        }
        self.leaves += 1;
        let mut node = Node { first: new, last: new, proposal: new, log_weight, depth: 0 };
        while let Some(left) = self.pending.pop_if(|left| left.depth == node.depth) {
            if turned(if node.depth > 0 { 2 } else { 1 }) {
                self.end = Some(End::Turned);
                return;
            }
            let (log_weight, share) = add_weights(left.log_weight, node.log_weight);
            let proposal = if chooser.accept(share) { node.proposal } else { left.proposal };
            node = Node { first: left.first, last: new, proposal, log_weight, depth: node.depth + 1 };
        }
        if node.depth < self.whole.depth {
            self.pending.push(node);
            return;
        }
        let turned = turned(if node.depth > 0 { 2 } else { 1 }) || self.whole_turned;
        self.join(&node, chooser);
        if turned {
            self.end = Some(End::Turned);
        } else if self.whole.depth >= self.limit {
            self.end = Some(End::MaxDepth);
        }
        self.double(chooser);
    }

    /// Join a finished subtree to the whole.
    fn join(&mut self, node: &Node, chooser: &mut dyn Chooser) {
        let biased = (node.log_weight - self.whole.log_weight).exp().min(1.0);
        if chooser.accept(biased) {
            self.whole.proposal = node.proposal;
        }
        self.whole.log_weight = add_weights(self.whole.log_weight, node.log_weight).0;
        self.whole.depth += 1;
        if self.forward {
            self.whole.last = node.last;
        } else {
            self.whole.first = node.last;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    /// Takes the decisions from a list and notes how likely the list was; beyond its end it decides "yes" and grows it.
    struct Script {
        decisions: Vec<bool>,
        at: usize,
        probability: f64,
    }

    impl Script {
        fn decide(&mut self, p: f64) -> bool {
            if p <= 0.0 || p >= 1.0 {
                return p >= 1.0;
            }
            if self.at == self.decisions.len() {
                self.decisions.push(true);
            }
            let yes = self.decisions[self.at];
            self.at += 1;
            self.probability *= if yes { p } else { 1.0 - p };
            yes
        }

        /// The next script in lexical order, if there is one.
        fn advance(mut self) -> Option<Vec<bool>> {
            while let Some(last) = self.decisions.pop() {
                if last {
                    self.decisions.push(false);
                    return Some(self.decisions);
                }
            }
            None
        }
    }

    impl Chooser for Script {
        fn forward(&mut self) -> bool {
            self.decide(0.5)
        }
        fn accept(&mut self, probability: f64) -> bool {
            self.decide(probability)
        }
    }

    /// A landscape on the integers.
    struct Landscape {
        log_weight: fn(i64) -> f64,
        turning: fn(i64, i64) -> bool,
    }

    /// Run one trajectory from `start`; points sit at integers.
    fn run(tree: &mut Tree, land: &Landscape, start: i64, script: &mut Script) -> i64 {
        let mut place: HashMap<Slot, i64> = HashMap::from([(0, start)]);
        let origin = (land.log_weight)(start);
        tree.start(0, None, script);
        let mut announced = None;
        while tree.end().is_none() {
            let leaf = tree.next_leaf();
            assert!(leaf.to < slots(tree.max_depth), "slot {} of {}", leaf.to, slots(tree.max_depth));
            assert_ne!(leaf.from, leaf.to);
            let at = place[&leaf.from] + if leaf.forward { 1 } else { -1 };
            if let Some(onward) = leaf.onward {
                assert!(onward < slots(tree.max_depth) && onward != leaf.to && onward != leaf.from);
            }
            assert!(
                !leaf.expected || announced == Some((leaf.from, leaf.to)),
                "a leaf goes where it was announced"
            );
            announced = leaf.onward.map(|onward| (leaf.to, onward));
            place.insert(leaf.to, at);
            let weight = (land.log_weight)(at) - origin;
            if weight == f64::NEG_INFINITY {
                tree.diverge();
                continue;
            }
            let verdicts: Vec<bool> = tree
                .pairs()
                .iter()
                .map(|pair| {
                    let start = place[&pair.start];
                    assert_eq!(leaf.forward, start < at, "a pair starts behind the leaf");
                    assert_eq!(pair.adjacent, start.abs_diff(at) == 1);
                    (land.turning)(start.min(at), start.max(at))
                })
                .collect();
            tree.grow(weight, |i| verdicts[i], script);
        }
        place[&tree.proposal()]
    }

    /// Exact probabilities of the transition from `start`, by enumeration of all directions and selections.
    fn transition(land: &Landscape, max_depth: u32, start: i64) -> HashMap<i64, f64> {
        let mut tree = Tree::new(max_depth);
        let mut out = HashMap::new();
        let mut next = Some(Vec::new());
        while let Some(decisions) = next {
            let mut script = Script { decisions, at: 0, probability: 1.0 };
            let end = run(&mut tree, land, start, &mut script);
            *out.entry(end).or_insert(0.0) += script.probability;
            next = script.advance();
        }
        out
    }

    fn scramble(a: i64, b: i64) -> u64 {
        let mut z =
            (a as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ (b as u64).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB) >> 11
    }

    fn uneven(i: i64) -> f64 {
        (scramble(i, 17) % 1000) as f64 / 300.0 - 1.5
    }

    const LANDSCAPES: [Landscape; 6] = [
        Landscape { log_weight: uneven, turning: |_, _| false },
        Landscape { log_weight: uneven, turning: |a, b| b - a >= 5 },
        Landscape { log_weight: uneven, turning: |a, b| scramble(a, b).is_multiple_of(4) },
        Landscape { log_weight: uneven, turning: |a, b| scramble(a, b).is_multiple_of(11) },
        Landscape {
            log_weight: |i| if i.rem_euclid(13) == 0 { f64::NEG_INFINITY } else { uneven(i) },
            turning: |_, _| false,
        },
        Landscape { log_weight: |i| -(i * i) as f64, turning: |a, b| scramble(a, b).is_multiple_of(9) },
    ];

    /// pi(i) T(i -> j) = pi(j) T(j -> i) for every pair of points, exactly.
    fn check_detailed_balance(land: &Landscape, max_depth: u32, points: std::ops::Range<i64>) {
        let reach: HashMap<i64, HashMap<i64, f64>> =
            points.clone().map(|i| (i, transition(land, max_depth, i))).collect();
        for i in points.clone() {
            let pi = (land.log_weight)(i).exp();
            assert!((reach[&i].values().sum::<f64>() - 1.0).abs() < 1e-12);
            for (j, t) in &reach[&i] {
                if !points.contains(j) {
                    continue;
                }
                let back = (land.log_weight)(*j).exp() * reach[j].get(&i).copied().unwrap_or(0.0);
                assert!((pi * t - back).abs() < 1e-12, "{i} -> {j}: {} and {back}", pi * t);
            }
        }
    }

    #[test]
    fn detailed_balance_to_depth_three() {
        for (number, land) in LANDSCAPES.iter().enumerate() {
            println!("landscape {number}");
            for depth in 1..=3 {
                let points = 1..13;
                check_detailed_balance(land, depth, points);
            }
        }
    }

    #[test]
    fn detailed_balance_at_depth_four() {
        // Every selection between sixteen points; turning landscapes go on to depth five.
        check_detailed_balance(&LANDSCAPES[0], 4, 1..4);
        check_detailed_balance(&LANDSCAPES[3], 4, 1..5);
        check_detailed_balance(&LANDSCAPES[2], 5, 1..9);
        check_detailed_balance(&LANDSCAPES[1], 5, 1..9);
    }

    #[test]
    fn the_checked_pairs_of_a_subtree_of_four() {
        // Always forward from 0: leaves 1, then 2 3, then 4 5 6 7.
        struct Forward;
        impl Chooser for Forward {
            fn forward(&mut self) -> bool {
                true
            }
            fn accept(&mut self, p: f64) -> bool {
                p >= 1.0
            }
        }
        let mut tree = Tree::new(3);
        let mut place = HashMap::from([(0usize, 0i64)]);
        let mut seen = Vec::new();
        tree.start(0, None, &mut Forward);
        while tree.end().is_none() {
            let leaf = tree.next_leaf();
            let at = place[&leaf.from] + 1;
            place.insert(leaf.to, at);
            seen.push(tree.pairs().iter().map(|pair| (place[&pair.start], at)).collect::<Vec<_>>());
            tree.grow(-1.0, |_| false, &mut Forward);
        }
        assert_eq!(
            seen,
            [
                vec![(0, 1)],
                vec![(0, 2)],
                vec![(2, 3), (0, 3), (1, 3)],
                vec![(0, 4)],
                vec![(4, 5)],
                vec![(4, 6)],
                vec![(6, 7), (4, 7), (5, 7), (0, 7), (3, 7)],
            ]
        );
        assert_eq!(tree.end(), Some(End::MaxDepth));
    }

    #[test]
    fn weights_add_without_overflow() {
        assert_eq!(add_weights(0.0, f64::NEG_INFINITY), (0.0, 0.0));
        assert_eq!(add_weights(1000.0, -1000.0), (1000.0, 0.0));
        assert_eq!(add_weights(-1000.0, 1000.0), (1000.0, 1.0));
        let (sum, share) = add_weights(0.0, 3f64.ln());
        assert!((sum - 4f64.ln()).abs() < 1e-15 && (share - 0.75).abs() < 1e-15);
    }
}
