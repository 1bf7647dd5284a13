//! Every phase of the device trait over some shape, for a device and for the reference alike.
#![allow(clippy::unwrap_used)]

use std::ops::Range;
use std::sync::Arc;

use nutpie_core::device::{
    Addition, Buf, Device, Fit, Glide, Leaf, Metrics, Moments, Phase, Place, Reach, Refresh, Renewal, Sample,
    Span, Step, Turn,
};
use nutpie_core::metric::Metric;
use nutpie_core::rng::{Key, Purpose};

use super::metrics::{coupled, scattered};

/// Points of a chain: one to start from, one to write, two where spans start, one that nobody uses.
const ROWS: usize = 5;

/// Some chains on a device.
pub struct Chains<'a> {
    dev: &'a mut dyn Device,
    dim: usize,
    chains: usize,
    of: Vec<Arc<Metric>>,
    phase: Phase,
    metrics: Metrics,
    moments: Moments,
    /// Scalars that phases have given, those of each chain together.
    pub numbers: Vec<Vec<f64>>,
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

/// A shape, with what is in the arrays at first.
pub struct Shape {
    pub dim: usize,
    of: Vec<Arc<Metric>>,
    pub rank: usize,
    /// Rows of positions, momenta, gradients and pulls.
    rows: [Vec<Vec<f64>>; 4],
}

impl Shape {
    pub fn new((dim, chains, rank): (usize, usize, usize)) -> Self {
        let row = |i: usize, index: usize| match index % ROWS {
            // What is to be written is not a number before.
            1 => vec![f64::NAN; dim],
            _ => scattered(dim, 7 * index + i),
        };
        let rows = std::array::from_fn(|i| (0..chains * ROWS).map(|index| row(i, index)).collect());
        Shape { dim, of: metrics_of(dim, chains, rank), rank, rows }
    }

    pub fn chains(&self) -> usize {
        self.of.len()
    }
}

impl<'a> Chains<'a> {
    pub fn new(dev: &'a mut dyn Device, shape: &Shape) -> Self {
        let (chains, dim) = (shape.chains(), shape.dim);
        let phase = Phase::alloc_with_pull(dev, chains * ROWS, dim).unwrap();
        let metrics = dev.alloc_metrics(chains, dim).unwrap();
        let moments = Moments::alloc(dev, 2 * chains, dim).unwrap();
        Chains { dev, dim, chains, of: shape.of.clone(), phase, metrics, moments, numbers: Vec::new() }
    }

    /// Run a phase over some of the chains, from the beginning.
    pub fn run_afresh(&mut self, shape: &Shape, phase: &str, of: impl Iterator<Item = Range<usize>>) {
        self.numbers = vec![Vec::new(); self.chains];
        for (c, metric) in shape.of.iter().enumerate() {
            self.dev.set_metric(&self.metrics, c, metric).unwrap();
        }
        for (buf, rows) in self.bufs().into_iter().zip(&shape.rows) {
            self.dev.write_rows(buf, &mut rows.iter().map(|row| &row[..]).enumerate()).unwrap();
        }
        of.for_each(|of| self.run(phase, of));
    }

    fn bufs(&self) -> [Buf; 4] {
        [self.phase.x, self.phase.p, self.phase.g, self.phase.pull.unwrap()]
    }

    /// New gradients, as a density writes them.
    fn gradients(&mut self, of: Range<usize>, row: usize, seed: usize) {
        let rows: Vec<_> =
            of.map(|c| c * ROWS + row).map(|index| (index, scattered(self.dim, seed + index))).collect();
        self.write(self.phase.g, &rows);
    }

    fn write(&mut self, buf: Buf, rows: &[(usize, Vec<f64>)]) {
        self.dev.write_rows(buf, &mut rows.iter().map(|(index, row)| (*index, &row[..]))).unwrap();
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
                return self.tell_metrics(&asked);
            }
            "copy" => {
                // What a device keeps beside the rows is that of the rows before.
                dev.products(phases, metrics, &places(2), &mut kinetic, &mut dots).unwrap();
                let rows: Vec<_> = asked.iter().map(|c| [row(*c, 3), row(*c, 2)]).collect();
                dev.copy(phases.x, phases.p, &rows).unwrap();
                dev.copy(phases.g, phases.g, &rows).unwrap();
                dev.products(phases, metrics, &places(2), &mut kinetic, &mut dots).unwrap();
            }
            "transfer" => return self.transfer(&asked),
            "change" => return self.change(of, &asked),
            "succession" => return self.succession(of, &asked),
            "trajectory" => return self.trajectory(of, &asked),
            other => unreachable!("{other}"),
        }
        for ((c, kinetic), dots) in asked.iter().zip(kinetic).zip(dots) {
            self.numbers[*c].push(kinetic);
            if ["products", "copy"].contains(&phase) {
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

    /// Estimators of two samples, and the metrics that come of them; of some chains one sample is empty, with old numbers
    /// in its rows.
    fn estimate(&mut self, asked: &[usize]) {
        let samples_of = |c: usize| [Sample { row: 2 * c, count: 3 }, Sample { row: 2 * c + 1, count: 4 }];
        let kept = |c: usize| {
            let [first, second] = samples_of(c);
            let count = if c.is_multiple_of(2) { first.count } else { 0 };
            [Sample { count, ..first }, second]
        };
        for count in 1..=4 {
            let (mut additions, mut points) = (Vec::new(), [Vec::new(), Vec::new()]);
            for &c in asked {
                for (at, sample) in [1, 4].into_iter().zip(samples_of(c)).filter(|(_, s)| count <= s.count) {
                    let point = c * ROWS + at;
                    for (points, seed) in points.iter_mut().zip([800, 900]) {
                        let mut numbers = scattered(self.dim, seed + 10 * sample.row + count as usize);
                        // A coordinate that does not move has the scale that it had.
                        numbers[self.dim / 2] = if seed == 800 { 0.5 } else { numbers[self.dim / 2] };
                        points.push((point, numbers));
                    }
                    additions.push(Addition { sample: Sample { count, ..sample }, point });
                }
            }
            self.write(self.phase.x, &points[0]);
            self.write(self.phase.g, &points[1]);
            self.dev.accumulate(&self.moments, &self.phase, &additions).unwrap();
        }
        let fits: Vec<_> = asked.iter().map(|c| Fit { metric: *c, samples: kept(*c) }).collect();
        self.dev.fit_fisher_diag(&self.metrics, &self.moments, &fits).unwrap();
        self.tell_metrics(asked);
    }

    /// What the host is told of metrics that were made in place.
    fn tell_metrics(&mut self, asked: &[usize]) {
        for &c in asked {
            let Metric { stds, center, values, .. } = self.dev.metric(&self.metrics, c).unwrap();
            self.numbers[c].extend([stds[self.dim / 2], center[0], values.len() as f64]);
        }
    }

    /// Momenta that change under a diagonal metric, and are looked at under the one of before.
    fn change(&mut self, of: Range<usize>, asked: &[usize]) {
        self.run("refresh", of.clone());
        self.gradients(of, 1, 600);
        let plain = Arc::new(Metric::diagonal(&vec![0.5; self.dim], vec![0.0; self.dim]));
        asked.iter().for_each(|c| self.dev.set_metric(&self.metrics, *c, &plain).unwrap());
        let row = |c: usize| c * ROWS + 1;
        let leaf =
            |&c: &usize| Leaf { metric: c, row: row(c), kick: 0.3, onward: None, spans: 0, passing: false };
        let glide =
            |&c: &usize| Glide { metric: c, from: row(c), to: row(c), scale: 0.7, kick: 0.3, drift: 0.0 };
        let (even, odd): (Vec<usize>, Vec<usize>) = asked.iter().partition(|c| c.is_multiple_of(2));
        let leaves: Vec<_> = even.iter().map(leaf).collect();
        let glides: Vec<_> = odd.iter().map(glide).collect();
        let (mut kinetic, mut dots) = (vec![f64::NAN; asked.len()], vec![[f64::NAN; 2]; asked.len()]);
        let (phase, metrics) = (&self.phase, &self.metrics);
        self.dev.finish_leaf(phase, metrics, &leaves, &[], &mut kinetic[..leaves.len()], &mut []).unwrap();
        self.dev.glide(phase, metrics, &glides).unwrap();
        asked.iter().for_each(|c| self.dev.set_metric(metrics, *c, &self.of[*c]).unwrap());
        let places: Vec<_> = asked.iter().map(|c| Place { metric: *c, row: row(*c) }).collect();
        self.dev.products(phase, metrics, &places, &mut kinetic, &mut dots).unwrap();
        for ((c, kinetic), dots) in asked.iter().zip(kinetic).zip(dots) {
            self.numbers[*c].extend([kinetic, dots[0], dots[1]]);
        }
    }

    /// Products of points that stay as they are, while half of the chains have one metric after the other.
    fn succession(&mut self, of: Range<usize>, asked: &[usize]) {
        let rank = self.of.iter().map(|metric| metric.rank()).max().unwrap_or(0);
        let other = |rank: usize, seed| Some(Arc::new(coupled(self.dim, rank.clamp(1, self.dim), seed)));
        let in_turn = [other(rank + 2, 21), other(rank, 22), None];
        self.run("products", of.clone());
        for metric in in_turn {
            for &c in asked.iter().filter(|c| c.is_multiple_of(2)) {
                self.dev.set_metric(&self.metrics, c, metric.as_ref().unwrap_or(&self.of[c])).unwrap();
            }
            self.run("products", of.clone());
        }
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

    /// All rows of points and metrics.
    pub fn rows(&mut self) -> Vec<Vec<f64>> {
        let held: Vec<_> = (0..self.chains).map(|c| self.dev.metric_row(&self.metrics, c)).collect();
        let of_points = self.bufs().map(|buf| (buf, (0..self.chains * ROWS).collect()));
        let of_metrics = [self.metrics.inv_mass, self.metrics.mass_sqrt, self.metrics.center];
        let of_metrics = of_metrics.map(|buf| (buf, held.clone()));
        let mut all = Vec::new();
        for (buf, indices) in of_points.into_iter().chain(of_metrics) {
            let mut rows = vec![vec![0.0; self.dim]; indices.len()];
            let places = indices.into_iter().zip(rows.iter_mut().map(|row| &mut row[..]));
            self.dev.read_rows(buf, &mut places.into_iter()).unwrap();
            all.extend(rows);
        }
        all
    }
}

/// The phases of the trait, in groups that belong together.
pub const PHASES: [&str; 17] = [
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
    "change",
    "succession",
    "trajectory",
];
