//! What every device must do: each phase of the trait against a plain reference in double precision, over many shapes, with
//! outputs that are NaN before, rows that nobody asked for, and lists of one and of many operations.
#![allow(clippy::unwrap_used)]

#[path = "common/devices.rs"]
mod devices;
#[path = "common/metrics.rs"]
mod metrics;
#[path = "common/naive.rs"]
mod naive;

use std::ops::Range;
use std::sync::Arc;

use devices::{Candidate, all};
use metrics::{coupled, scattered};
use naive::Naive;
use nutpie_core::device::{
    Addition, Buf, Device, Fit, Glide, Leaf, Metrics, Moments, Phase, Place, Reach, Refresh, Renewal, Row,
    Sample, Span, Step, Turn,
};
use nutpie_core::metric::Metric;
use nutpie_core::rng::{Key, Purpose};

/// Points of a chain: one to start from, one to write, two where spans start, one that nobody uses.
const ROWS: usize = 5;

/// Some chains on a device.
struct Chains<'a> {
    dev: &'a mut dyn Device,
    dim: usize,
    chains: usize,
    phase: Phase,
    metrics: Metrics,
    moments: Moments,
    /// Scalars that phases have given, those of each chain together.
    numbers: Vec<Vec<f64>>,
}

/// The metrics of all chains: diagonal ones, and of some rank, each common to several chains or not.
fn metrics_of(dim: usize, chains: usize, rank: usize) -> Vec<Arc<Metric>> {
    let inv_mass = |c: usize| scattered(dim, 60 + c).iter().map(|v| v.exp()).collect::<Vec<_>>();
    let shared = match rank {
        0 => Arc::new(Metric::diagonal(&inv_mass(0), scattered(dim, 70))),
        _ => Arc::new(coupled(dim, rank, 0)),
    };
    let metric = |c: usize| match (rank, c % 4) {
        (0, 2 | 3) | (_, 1) => Arc::new(Metric::diagonal(&inv_mass(c), scattered(dim, 70 + c))),
        (_, 3) if c < 8 => Arc::new(coupled(dim, rank.min(2), 5)),
        _ => shared.clone(),
    };
    (0..chains).map(metric).collect()
}

impl<'a> Chains<'a> {
    fn new(dev: &'a mut dyn Device, dim: usize, of: &[Arc<Metric>]) -> Self {
        let chains = of.len();
        let phase = Phase::alloc_with_pull(dev, chains * ROWS, dim).unwrap();
        let metrics = dev.alloc_metrics(chains, dim).unwrap();
        let moments = Moments::alloc(dev, 2 * chains, dim).unwrap();
        for (c, metric) in of.iter().enumerate() {
            dev.set_metric(&metrics, c, metric).unwrap();
        }
        let all = Chains { dev, dim, chains, phase, metrics, moments, numbers: vec![Vec::new(); chains] };
        for (i, buf) in all.bufs().into_iter().enumerate() {
            for index in 0..chains * ROWS {
                // What is to be written is not a number before.
                let numbers = match index % ROWS {
                    1 => vec![f64::NAN; dim],
                    _ => scattered(dim, 7 * index + i),
                };
                all.dev.write(Row { buf, index }, &numbers).unwrap();
            }
        }
        all
    }

    fn bufs(&self) -> [Buf; 4] {
        [self.phase.x, self.phase.p, self.phase.g, self.phase.pull.unwrap()]
    }

    /// New gradients, as a density writes them.
    fn gradients(&mut self, of: Range<usize>, row: usize, seed: usize) {
        for c in of {
            let index = c * ROWS + row;
            self.dev.write(Row { buf: self.phase.g, index }, &scattered(self.dim, seed + index)).unwrap();
        }
    }

    /// Run a phase over some of the chains; two of three are asked for.
    fn run(&mut self, phase: &str, of: Range<usize>) {
        let asked: Vec<usize> = of.clone().filter(|c| c % 3 != 2).collect();
        let (n, row) = (asked.len(), |c: usize, row: usize| c * ROWS + row);
        let (mut kinetic, mut dots) = (vec![f64::NAN; n], vec![[f64::NAN; 2]; n]);
        let key = |c: usize| Key { seed: 0x0123_4567_89ab_cdef, chain: c as u32, draw: 3 };
        let fresh =
            |c: usize| Refresh { metric: c, row: row(c, 1), key: key(c), purpose: Purpose::MomentumOf(2) };
        let places =
            |at: usize| asked.iter().map(|c| Place { metric: *c, row: row(*c, at) }).collect::<Vec<_>>();
        // Different for chains beside each other, and of both signs. Angles are at most `LARGEST_TURN`.
        let kick = |c: usize| if c.is_multiple_of(2) { 0.1 + 0.01 * (c % 60) as f64 } else { -0.2 };
        let turns: Vec<Turn> = asked
            .iter()
            .map(|&c| Turn { metric: c, from: row(c, 0), to: row(c, 1), kick: kick(c), angle: 2.0 * kick(c) })
            .collect();
        let (dev, phases, metrics) = (&mut *self.dev, &self.phase, &self.metrics);
        match phase {
            "refresh" => {
                let ops: Vec<_> = asked.iter().map(|c| fresh(*c)).collect();
                dev.refresh(phases, metrics, &ops, &mut kinetic).unwrap();
            }
            "renew" => {
                let keep = |c: usize| if c.is_multiple_of(2) { 0.9 } else { -0.3 };
                let renewal =
                    |&c: &usize| Renewal { fresh: Refresh { row: row(c, 0), ..fresh(c) }, keep: keep(c) };
                let ops: Vec<_> = asked.iter().map(renewal).collect();
                dev.renew(phases, metrics, &ops, &mut kinetic).unwrap();
            }
            "kick_drift" => {
                let step = |&c: &usize| Step {
                    metric: c,
                    from: row(c, 0),
                    to: row(c, 1),
                    kick: kick(c),
                    drift: 2.0 * kick(c),
                };
                let ops: Vec<_> = asked.iter().map(step).collect();
                dev.kick_drift(phases, metrics, &ops).unwrap();
                return;
            }
            "glide" => {
                // Some in place.
                let to = |c: usize| row(c, c % 2);
                let glide = |&c: &usize| Glide {
                    metric: c,
                    from: row(c, 0),
                    to: to(c),
                    scale: 0.7,
                    kick: kick(c),
                    drift: 0.3,
                };
                let ops: Vec<_> = asked.iter().map(glide).collect();
                dev.glide(phases, metrics, &ops).unwrap();
                return;
            }
            "finish_leaf" => {
                // The leaf is the point after that in row 2.
                let step = |&c: &usize| Step {
                    metric: c,
                    from: row(c, 2),
                    to: row(c, 0),
                    kick: kick(c),
                    drift: 2.0 * kick(c),
                };
                dev.kick_drift(phases, metrics, &asked.iter().map(step).collect::<Vec<_>>()).unwrap();
                return self.finish(&asked, 0, kick);
            }
            "reach" => return self.reach(&asked, 0, kick),
            "products" => dev.products(phases, metrics, &places(0), &mut kinetic, &mut dots).unwrap(),
            "pull" => {
                dev.pull(phases, metrics, &places(0)).unwrap();
                return;
            }
            "turn" => {
                dev.pull(phases, metrics, &places(0)).unwrap();
                dev.turn(phases, metrics, &turns).unwrap();
                self.gradients(of.clone(), 1, 500);
                self.dev.finish_turn(&self.phase, &self.metrics, &turns, &mut kinetic).unwrap();
            }
            "fisher_distance" => dev.fisher_distance(phases, metrics, &places(0), &mut kinetic).unwrap(),
            "estimate" => return self.estimate(&asked),
            "metric_from_gradient" => {
                dev.metric_from_gradient(metrics, phases, &places(2)).unwrap();
                return;
            }
            "copy" => {
                let rows: Vec<_> = asked.iter().map(|c| [row(*c, 3), row(*c, 1)]).collect();
                dev.copy(phases.x, phases.p, &rows).unwrap();
                dev.copy(phases.g, phases.g, &rows).unwrap();
                return;
            }
            "transfer" => return self.transfer(&asked),
            "trajectory" => return self.trajectory(of, &asked),
            other => unreachable!("{other}"),
        }
        for ((c, kinetic), dots) in asked.iter().zip(kinetic).zip(dots) {
            self.numbers[*c].push(kinetic);
            if phase == "products" {
                self.numbers[*c].extend(dots);
            }
        }
    }

    /// Finish leaves in a row of each chain, with up to three spans, onward in two of three.
    fn finish(&mut self, asked: &[usize], at: usize, kick: impl Fn(usize) -> f64) {
        let (mut leaves, mut spans) = (Vec::new(), Vec::new());
        for &c in asked {
            let row = |row: usize| c * ROWS + row;
            let starts: &[usize] = [&[][..], &[2], &[3, 2], &[2, 3, 4]][c % 4];
            spans.extend(starts.iter().enumerate().map(|(i, start)| Span {
                start: row(*start),
                adjacent: i == 0 && *start == 2 && c.is_multiple_of(3),
            }));
            let onward = (c % 3 != 1).then_some((row(1), 2.0 * kick(c)));
            let passing = starts.is_empty() && c % 12 != 0;
            leaves.push(Leaf {
                metric: c,
                row: row(at),
                kick: kick(c),
                onward,
                spans: starts.len(),
                passing,
            });
        }
        let (mut kinetic, mut dots) = (vec![f64::NAN; leaves.len()], vec![[f64::NAN; 2]; spans.len()]);
        let (phase, metrics) = (&self.phase, &self.metrics);
        self.dev.finish_leaf(phase, metrics, &leaves, &spans, &mut kinetic, &mut dots).unwrap();
        let mut dots = dots.into_iter();
        for ((c, leaf), kinetic) in asked.iter().zip(&leaves).zip(kinetic) {
            self.numbers[*c].push(kinetic);
            self.numbers[*c].extend(dots.by_ref().take(leaf.spans).flatten());
        }
    }

    fn reach(&mut self, asked: &[usize], at: usize, half: impl Fn(usize) -> f64) {
        let (mut reaches, mut spans) = (Vec::new(), Vec::new());
        for &c in asked {
            let starts: &[usize] = [&[2][..], &[], &[3, 2], &[2, 3, 4]][c % 4];
            spans.extend(starts.iter().map(|start| Span { start: c * ROWS + start, adjacent: false }));
            reaches.push(Reach { metric: c, row: c * ROWS + at, half: half(c), spans: starts.len() });
        }
        let mut dots = vec![[f64::NAN; 2]; spans.len()];
        self.dev.reach(&self.phase, &self.metrics, &reaches, &spans, &mut dots).unwrap();
        let mut dots = dots.into_iter();
        for (c, reach) in asked.iter().zip(&reaches) {
            self.numbers[*c].extend(dots.by_ref().take(reach.spans).flatten());
        }
    }

    /// Rows to the host and back, to other ones, in an order that is not that of the rows.
    fn transfer(&mut self, asked: &[usize]) {
        let mut host = vec![vec![f64::NAN; self.dim]; asked.len()];
        let from = asked.iter().rev().map(|c| c * ROWS + 2);
        self.dev
            .read_rows(self.phase.g, &mut from.zip(&mut host).map(|(row, to)| (row, &mut to[..])))
            .unwrap();
        let to = asked.iter().rev().map(|c| c * ROWS + 1);
        self.dev.write_rows(self.phase.x, &mut to.zip(&host).map(|(row, from)| (row, &from[..]))).unwrap();
        for (c, numbers) in asked.iter().rev().zip(host) {
            self.numbers[*c].push(numbers[self.dim / 2]);
        }
    }

    /// Estimators of two samples, and the metrics that come of them; of some chains one sample is empty.
    fn estimate(&mut self, asked: &[usize]) {
        let samples_of = |c: usize| {
            let first = if c.is_multiple_of(2) { 3 } else { 0 };
            [Sample { row: 2 * c, count: first }, Sample { row: 2 * c + 1, count: 4 }]
        };
        for count in 1..=4 {
            let mut additions = Vec::new();
            for &c in asked {
                for (at, sample) in [1, 4].into_iter().zip(samples_of(c)).filter(|(_, s)| count <= s.count) {
                    let point = c * ROWS + at;
                    for (buf, seed) in [(self.phase.x, 800), (self.phase.g, 900)] {
                        let mut numbers = scattered(self.dim, seed + 10 * sample.row + count as usize);
                        // A coordinate that does not move has the scale that it had.
                        numbers[self.dim / 2] = if seed == 800 { 0.5 } else { numbers[self.dim / 2] };
                        self.dev.write(Row { buf, index: point }, &numbers).unwrap();
                    }
                    additions.push(Addition { sample: Sample { count, ..sample }, point });
                }
            }
            self.dev.accumulate(&self.moments, &self.phase, &additions).unwrap();
        }
        let fits: Vec<_> = asked.iter().map(|c| Fit { metric: *c, samples: samples_of(*c) }).collect();
        self.dev.fit_fisher_diag(&self.metrics, &self.moments, &fits).unwrap();
    }

    /// A few steps in a row, so that what a device keeps beside the points is used and changed.
    fn trajectory(&mut self, of: Range<usize>, asked: &[usize]) {
        let step = |c: usize| 0.3 + 0.01 * (c % 7) as f64;
        self.run("refresh", of.clone());
        let to_first = |c: &usize| {
            let row = |row: usize| c * ROWS + row;
            Step { metric: *c, from: row(2), to: row(0), kick: 0.5 * step(*c), drift: step(*c) }
        };
        let steps: Vec<_> = asked.iter().map(to_first).collect();
        self.dev.kick_drift(&self.phase, &self.metrics, &steps).unwrap();
        self.gradients(of.clone(), 0, 300);
        self.finish(asked, 0, |c| 0.5 * step(c));
        self.gradients(of.clone(), 1, 400);
        self.reach(asked, 0, |c| 0.5 * step(c));
        self.run("renew", of.clone());
        self.run("products", of.clone());
        self.run("kick_drift", of.clone());
        self.gradients(of.clone(), 1, 450);
        self.run("fisher_distance", of);
    }

    /// All rows, chain by chain.
    fn rows(&self) -> Vec<Vec<f64>> {
        let read = |buf: Buf, index: usize| {
            let mut numbers = vec![0.0; self.dim];
            self.dev.read(Row { buf, index }, &mut numbers).unwrap();
            numbers
        };
        let of_metrics = [self.metrics.inv_mass, self.metrics.mass_sqrt, self.metrics.center];
        let of_phase =
            self.bufs().into_iter().flat_map(|buf| (0..self.chains * ROWS).map(move |row| (buf, row)));
        let held: Vec<_> = (0..self.chains).map(|c| self.dev.metric_row(&self.metrics, c)).collect();
        let of_metrics = of_metrics.into_iter().flat_map(|buf| held.iter().map(move |row| (buf, *row)));
        of_phase.chain(of_metrics).map(|(buf, row)| read(buf, row)).collect()
    }
}

const PHASES: [&str; 15] = [
    "refresh",
    "renew",
    "kick_drift",
    "glide",
    "finish_leaf",
    "reach",
    "products",
    "pull",
    "turn",
    "fisher_distance",
    "estimate",
    "metric_from_gradient",
    "copy",
    "transfer",
    "trajectory",
];

fn near(a: f64, b: f64, within: f64) -> bool {
    a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan()) || (a - b).abs() <= within * (1.0 + b.abs())
}

/// Every phase on a device, against the reference.
fn check(candidate: &Candidate, dev: &mut dyn Device, dim: usize, chains: usize, rank: usize) {
    let of = metrics_of(dim, chains, rank);
    let within = if rank > 0 { candidate.coupled_exactness } else { candidate.exactness };
    for phase in PHASES {
        // Momenta of covariance M can be made with any root of M. With many directions the CPU takes a triangular one.
        if candidate.name == "cpu" && 2 * rank > dim && ["refresh", "renew", "trajectory"].contains(&phase) {
            continue;
        }
        let what = format!(
            "{} (single: {}): {phase}, {chains} chains of {dim}, rank {rank}",
            candidate.name, candidate.single
        );
        let mut reference = Naive::default();
        let (mut ours, mut theirs) = (Chains::new(dev, dim, &of), Chains::new(&mut reference, dim, &of));
        ours.run(phase, 0..chains);
        theirs.run(phase, 0..chains);
        // Lengths of hundreds, and eigenvalues up to 30.
        for (i, (a, b)) in ours.rows().iter().zip(theirs.rows()).enumerate() {
            for (j, (a, b)) in a.iter().zip(b).enumerate() {
                assert!(near(*a, b, 1000.0 * within), "{what}: row {i}, column {j}: {a} and {b}");
            }
        }
        for (c, (a, b)) in ours.numbers.iter().zip(&theirs.numbers).enumerate() {
            assert_eq!(a.len(), b.len());
            for (a, b) in a.iter().zip(b) {
                assert!(near(*a, *b, (100.0 + dim as f64) * 10.0 * within), "{what}: chain {c}: {a} and {b}");
            }
        }
    }
}

#[test]
fn phases_are_as_documented() {
    for candidate in all() {
        let mut dev = candidate.open();
        for (dim, chains) in [
            (1, 1),
            (1, 33),
            (2, 3),
            (7, 5),
            (15, 4),
            (16, 4),
            (17, 8),
            (63, 5),
            (64, 3),
            (65, 4),
            (257, 9),
            (2048, 2),
            (4097, 4),
        ] {
            for rank in [0, 1, 3, dim] {
                // A full rank of many parameters has a test of its own.
                if rank <= dim && (rank < 4 || dim < 66) {
                    check(&candidate, &mut *dev, dim, chains, rank);
                }
            }
        }
    }
}

#[test]
#[ignore = "long: large shapes"]
fn phases_of_large_shapes_are_as_documented() {
    for candidate in all() {
        let mut dev = candidate.open();
        for (dim, chains, rank) in [
            (1, 4097, 0),
            (3, 4097, 2),
            (100, 1025, 0),
            (301, 257, 5),
            (300, 2, 300),
            (65_537, 3, 2),
            (1_000_000, 2, 0),
            (1_000_001, 1, 1),
        ] {
            check(&candidate, &mut *dev, dim, chains, rank);
        }
    }
}

#[test]
fn a_chain_gets_the_same_numbers_in_any_company() {
    for candidate in all() {
        let mut dev = candidate.open();
        for (dim, chains, rank) in [(5, 7, 0), (40, 9, 3), (2049, 4, 2)] {
            let of = metrics_of(dim, chains, rank);
            for phase in PHASES {
                let mut together = Chains::new(&mut *dev, dim, &of);
                together.run(phase, 0..chains);
                let (numbers, rows) = (together.numbers.clone(), together.rows());
                let mut apart = Chains::new(&mut *dev, dim, &of);
                for c in (0..chains).rev() {
                    apart.run(phase, c..c + 1);
                }
                let what = format!("{}: {phase}, {chains} chains of {dim}, rank {rank}", candidate.name);
                let bits = |v: &Vec<f64>| v.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
                assert_eq!(
                    numbers.iter().map(bits).collect::<Vec<_>>(),
                    apart.numbers.iter().map(bits).collect::<Vec<_>>(),
                    "{what}"
                );
                assert!(rows.iter().map(bits).eq(apart.rows().iter().map(bits)), "{what}");
            }
        }
    }
}
