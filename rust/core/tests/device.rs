//! Nothing above the device trait leans on the CPU device: a naive device without host memory, without merged passes and
//! with sums in another order gives the same chains.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::HashMap;

use common::{Collected, Uneven};
use nutpie_core::adapt::{AdaptSettings, Scheme};
use nutpie_core::block::{Block, Pooling, Start};
use nutpie_core::density::OnHost;
use nutpie_core::device::{
    Buf, Cpu, Device, Dots, Leaf, Metric, Moments, Phase, Refresh, Row, Sample, Span, Step,
};
use nutpie_core::error::Result;
use nutpie_core::rng::fill_normal;
use nutpie_core::settings::Settings;

/// Rows in a map, one coordinate at a time, written from the documentation of the trait.
#[derive(Default)]
struct Naive {
    dims: Vec<usize>,
    rows: HashMap<Row, Vec<f64>>,
}

impl Naive {
    fn get(&self, buf: Buf, index: usize) -> Vec<f64> {
        self.rows.get(&Row { buf, index }).cloned().unwrap_or_else(|| vec![0.0; self.dims[buf.0]])
    }

    fn set(&mut self, buf: Buf, index: usize, values: Vec<f64>) {
        self.rows.insert(Row { buf, index }, values);
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).rev().map(|(a, b)| a * b).sum()
}

fn combine(n: usize, f: impl Fn(usize) -> f64) -> Vec<f64> {
    (0..n).map(f).collect()
}

impl Device for Naive {
    fn alloc(&mut self, _rows: usize, dim: usize) -> Result<Buf> {
        self.dims.push(dim);
        Ok(Buf(self.dims.len() - 1))
    }

    fn write(&mut self, dst: Row, src: &[f64]) -> Result<()> {
        assert_eq!(src.len(), self.dims[dst.buf.0]);
        self.rows.insert(dst, src.to_vec());
        Ok(())
    }

    fn read(&self, src: Row, dst: &mut [f64]) -> Result<()> {
        dst.copy_from_slice(&self.get(src.buf, src.index));
        Ok(())
    }

    fn host_pair(&mut self, _src: Row, _dst: Row) -> Option<(&[f64], &mut [f64])> {
        None
    }

    fn refresh(&mut self, s: &Phase, metric: &Metric, ops: &[Refresh], kinetic: &mut [f64]) -> Result<()> {
        let Metric::Diag { mass_sqrt, .. } = *metric;
        for (op, kinetic) in ops.iter().zip(kinetic) {
            let mut z = vec![0.0; self.dims[s.p.0]];
            fill_normal(op.key, op.purpose, &mut z);
            *kinetic = 0.5 * dot(&z, &z);
            let scale = self.get(mass_sqrt, op.metric);
            self.set(s.p, op.row, combine(z.len(), |i| z[i] * scale[i]));
        }
        Ok(())
    }

    fn kick_drift(&mut self, s: &Phase, metric: &Metric, ops: &[Step]) -> Result<()> {
        let Metric::Diag { inv_mass, .. } = *metric;
        for op in ops {
            let (x, p, g) = (self.get(s.x, op.from), self.get(s.p, op.from), self.get(s.g, op.from));
            let m = self.get(inv_mass, op.metric);
            let half = combine(x.len(), |i| p[i] + op.kick * g[i]);
            self.set(s.x, op.to, combine(x.len(), |i| x[i] + op.drift * m[i] * half[i]));
            self.set(s.p, op.to, half);
        }
        Ok(())
    }

    fn finish_leaf(
        &mut self,
        s: &Phase,
        metric: &Metric,
        leaves: &[Leaf],
        spans: &[Span],
        kinetic: &mut [f64],
        dots: &mut [Dots],
    ) -> Result<()> {
        let Metric::Diag { inv_mass, .. } = *metric;
        let mut spans = spans.iter().zip(dots);
        for (leaf, kinetic) in leaves.iter().zip(kinetic) {
            let (p, g, m) =
                (self.get(s.p, leaf.row), self.get(s.g, leaf.row), self.get(inv_mass, leaf.metric));
            let p = combine(p.len(), |i| p[i] + leaf.kick * g[i]);
            *kinetic = 0.5 * dot(&combine(p.len(), |i| p[i] * m[i]), &p);
            self.set(s.p, leaf.row, p);
            for (span, dots) in spans.by_ref().take(leaf.spans) {
                let end = |row| (self.get(s.x, row), self.get(s.p, row), self.get(s.g, row));
                let ((xs, ps, gs), (xl, pl, gl), k) = (end(span.start), end(leaf.row), leaf.kick);
                let beyond = |i: usize| k * (ps[i] + pl[i]) + k * k * (gl[i] - gs[i]);
                let d = combine(xs.len(), |i| (xl[i] - xs[i] + m[i] * beyond(i)) / (2.0 * k));
                *dots = [dot(&d, &ps), dot(&d, &pl)];
            }
            if let Some((to, drift)) = leaf.onward {
                let next = Step { metric: leaf.metric, from: leaf.row, to, kick: leaf.kick, drift };
                self.kick_drift(s, metric, &[next])?;
            }
        }
        Ok(())
    }

    fn accumulate(&mut self, moments: &Moments, sample: Sample, s: &Phase, point: usize) -> Result<()> {
        for (mean, ss, value) in [(moments.mean_x, moments.ss_x, s.x), (moments.mean_g, moments.ss_g, s.g)] {
            let value = self.get(value, point);
            let (old, before) = if sample.count == 1 {
                (value.clone(), vec![0.0; value.len()])
            } else {
                (self.get(mean, sample.row), self.get(ss, sample.row))
            };
            let new = combine(value.len(), |i| old[i] + (value[i] - old[i]) / sample.count as f64);
            let after = combine(value.len(), |i| before[i] + (value[i] - old[i]) * (value[i] - new[i]));
            self.set(mean, sample.row, new);
            self.set(ss, sample.row, after);
        }
        Ok(())
    }

    fn metric_from_gradient(&mut self, metric: &Metric, row: usize, s: &Phase, point: usize) -> Result<()> {
        let Metric::Diag { inv_mass, mass_sqrt } = *metric;
        let new = self.get(s.g, point).iter().map(|g| 1.0 / g.abs().clamp(1e-20, 1e20)).collect::<Vec<_>>();
        self.set(mass_sqrt, row, new.iter().map(|v| v.powf(-0.5)).collect());
        self.set(inv_mass, row, new);
        Ok(())
    }

    fn fit_fisher_diag(
        &mut self,
        metric: &Metric,
        row: usize,
        moments: &Moments,
        samples: [Sample; 2],
    ) -> Result<()> {
        let Metric::Diag { inv_mass, mass_sqrt } = *metric;
        let n: f64 = samples.iter().map(|s| s.count as f64).sum();
        let ss_of = |mean: Buf, ss: Buf| -> Vec<f64> {
            let parts: Vec<_> = samples
                .iter()
                .filter(|s| s.count > 0)
                .map(|s| (s.count as f64, self.get(mean, s.row), self.get(ss, s.row)))
                .collect();
            combine(self.dims[mean.0], |i| {
                let whole = parts.iter().map(|(n, mean, _)| n * mean[i]).sum::<f64>() / n;
                parts.iter().map(|(n, mean, ss)| ss[i] + n * (mean[i] - whole).powi(2)).sum()
            })
        };
        let (x, g) = (ss_of(moments.mean_x, moments.ss_x), ss_of(moments.mean_g, moments.ss_g));
        let new = combine(x.len(), |i| (x[i] / g[i]).sqrt());
        self.set(mass_sqrt, row, new.iter().map(|v| v.powf(-0.5)).collect());
        self.set(inv_mass, row, new);
        Ok(())
    }
}

fn run(dev: Box<dyn Device>, dim: usize, draws: u64) -> (Collected, u64) {
    let settings = Settings { seed: 3, tune: 60, draws, ..Settings::default() };
    let start: Vec<f64> = (0..dim).map(|i| 0.5 + (i as f64).sin()).collect();
    let density = Box::new(OnHost::new(Uneven(dim)));
    let mut block = Block::start(dev, density, &settings, &[Start::at(0, &start)], Pooling::Here).unwrap();
    let mut keep = Collected::new(1);
    while !block.done() {
        block.round(&mut keep, |_| ()).unwrap();
    }
    let gradients = block.chains()[0].n_gradients();
    (keep, gradients)
}

#[test]
fn a_naive_device_gives_the_same_chain() {
    for dim in [1, 7, 16, 37] {
        let (cpu, n_cpu) = run(Box::new(Cpu::new()), dim, 20);
        let (naive, n_naive) = run(Box::new(Naive::default()), dim, 20);
        assert_eq!(n_cpu, n_naive, "dimension {dim}");
        for (a, b) in cpu.draws[0].iter().zip(&naive.draws[0]) {
            for (a, b) in a.iter().zip(b) {
                assert!((a - b).abs() < 1e-5 * (1.0 + b.abs()), "dimension {dim}: {a} and {b}");
            }
        }
    }
}

/// Numbers without a pattern, between -1 and 1.
fn scattered(n: usize, seed: usize) -> Vec<f64> {
    (0..n).map(|i| ((i * 7919 + seed * 104_729) as f64 * 0.618_033_988_75).fract() * 2.0 - 1.0).collect()
}

/// What finishing a leaf leaves behind: all rows, the kinetic energy and the inner products.
fn finished(mut dev: impl Device, dim: usize, leaf: Leaf, spans: &[Span]) -> (Vec<Vec<f64>>, f64, Vec<Dots>) {
    const ROWS: usize = 8;
    let phase = Phase::alloc(&mut dev, ROWS, dim).unwrap();
    let metric = Metric::alloc_diag(&mut dev, 2, dim).unwrap();
    let bufs = [phase.x, phase.p, phase.g];
    for (i, buf) in bufs.into_iter().enumerate() {
        for index in 0..ROWS {
            dev.write(Row { buf, index }, &scattered(dim, 3 * index + i)).unwrap();
        }
    }
    let positive: Vec<f64> = scattered(dim, 99).iter().map(|v| v.exp()).collect();
    dev.write(Row { buf: metric.bufs()[0], index: leaf.metric }, &positive).unwrap();
    // Row 0 is the leaf, a step and a half kick on from row 1.
    let step = Step { metric: leaf.metric, from: 1, to: 0, kick: leaf.kick, drift: 2.0 * leaf.kick };
    dev.kick_drift(&phase, &metric, &[step]).unwrap();
    let (mut kinetic, mut dots) = ([f64::NAN], vec![[f64::NAN; 2]; spans.len()]);
    dev.finish_leaf(&phase, &metric, &[leaf], spans, &mut kinetic, &mut dots).unwrap();
    let mut rows = Vec::new();
    for buf in bufs {
        for index in 0..ROWS {
            rows.push(vec![0.0; dim]);
            dev.read(Row { buf, index }, rows.last_mut().unwrap()).unwrap();
        }
    }
    (rows, kinetic[0], dots)
}

#[test]
fn leaves_are_finished_as_documented() {
    for dim in [1, 7, 8, 500, 1030] {
        for (kick, n_spans, adjacent, goes_on) in [
            (0.1, 0, false, false),
            (-0.1, 0, false, true),
            (0.1, 1, true, true),
            (-0.2, 1, false, false),
            (0.2, 3, true, false),
            (-0.2, 2, false, true),
            (-0.1, 5, true, true),
            (0.1, 5, false, false),
        ] {
            let spans: Vec<Span> =
                (1..=n_spans).map(|start| Span { start, adjacent: adjacent && start == 1 }).collect();
            let onward = goes_on.then_some((7, 2.0 * kick));
            let leaf = Leaf { metric: 1, row: 0, kick, onward, spans: n_spans };
            let (rows, kinetic, dots) = finished(Cpu::new(), dim, leaf, &spans);
            let (rows_naive, kinetic_naive, dots_naive) = finished(Naive::default(), dim, leaf, &spans);
            let near = |a: f64, b: f64| (a - b).abs() <= 1e-12 * (1.0 + b.abs()) * dim as f64;
            assert!(near(kinetic, kinetic_naive), "{dim}: {kinetic} and {kinetic_naive}");
            for (a, b) in rows.iter().flatten().zip(rows_naive.iter().flatten()) {
                assert!(near(*a, *b), "{dim}: {a} and {b}");
            }
            for (a, b) in dots.iter().flatten().zip(dots_naive.iter().flatten()) {
                assert!(near(*a, *b), "{dim}, {n_spans} spans: {dots:?} and {dots_naive:?}");
            }
        }
    }
}

#[test]
fn chains_of_a_block_do_not_depend_on_each_other() {
    let dim = 11;
    let starts: Vec<Vec<f64>> =
        (0..3).map(|c| (0..dim).map(|i| (c as f64) - 0.1 * i as f64).collect()).collect();
    let run = |settings: &Settings, ids: std::ops::Range<usize>| {
        let starts: Vec<Start> = ids.map(|id| Start::at(id as u64, &starts[id])).collect();
        let density = Box::new(OnHost::new(Uneven(dim)));
        let mut block = Block::start(Box::new(Cpu::new()), density, settings, &starts, Pooling::Here).unwrap();
        let mut all = Collected::new(starts.len());
        while !block.done() {
            block.round(&mut all, |_| ()).unwrap();
        }
        all
    };
    for scheme in Scheme::ALL.iter().map(|info| info.scheme) {
        // Chains that pool nothing: what they do in company they do alone.
        let adapt = AdaptSettings { pool: false, ..AdaptSettings::new(scheme) };
        let settings = Settings { seed: 5, tune: 60, draws: 30, adapt, ..Settings::default() };
        let all = run(&settings, 0..3);
        for id in 0..3 {
            let alone = run(&settings, id..id + 1);
            assert_eq!(alone.draws[0], all.draws[id], "{scheme:?}");
            assert_eq!(alone.stats[0], all.stats[id], "{scheme:?}");
        }
    }
}

#[test]
fn leapfrog_steps_are_reversible_and_keep_volume() {
    // Forward with e and back with -e restores position and momentum.
    let mut dev = Cpu::new();
    let dim = 13;
    let phase = Phase::alloc(&mut dev, 3, dim).unwrap();
    let metric = Metric::alloc_diag(&mut dev, 1, dim).unwrap();
    let mut density = OnHost::new(Uneven(dim));
    let x: Vec<f64> = (0..dim).map(|i| (i as f64).cos()).collect();
    dev.write(Row { buf: phase.x, index: 0 }, &x).unwrap();
    dev.write(Row { buf: phase.p, index: 0 }, &x).unwrap();
    let mut logp = [0.0];
    nutpie_core::density::Density::logp_grad(&mut density, &mut dev, &phase, &[0], &mut logp).unwrap();
    dev.metric_from_gradient(&metric, 0, &phase, 0).unwrap();
    let mut batch = nutpie_core::integrate::Batch::default();
    for (from, to, step) in [(0, 1, 0.1), (1, 2, -0.1)] {
        batch.clear();
        let request =
            nutpie_core::integrate::Request { metric: 0, from, to, step, begun: false, onward: None };
        batch.push(request, std::iter::empty());
        batch.run(&mut dev, &mut density, &phase, &metric).unwrap();
    }
    for buf in [phase.x, phase.p] {
        let mut back = vec![0.0; dim];
        dev.read(Row { buf, index: 2 }, &mut back).unwrap();
        assert!(back.iter().zip(&x).all(|(a, b)| (a - b).abs() < 1e-13));
    }
}
