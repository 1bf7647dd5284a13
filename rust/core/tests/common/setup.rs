//! A device ready for single calls.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use nutpie_core::device::{Buf, Device, Leaf, Metrics, Phase, Place, Refresh, Row};
use nutpie_core::metric::Metric;
use nutpie_core::rng::{Key, Purpose};

use super::metrics::scattered;

/// A device with points of all kinds of numbers and metrics for three chains.
pub struct Setup<D> {
    pub dev: D,
    dim: usize,
    pub phase: Phase,
    pub metrics: Metrics,
}

/// Points.
pub const ROWS: usize = 8;

impl<D: Device> Setup<D> {
    pub fn new(mut dev: D, dim: usize) -> Self {
        let phase = Phase::alloc(&mut dev, ROWS, dim).unwrap();
        let metrics = dev.alloc_metrics(3, dim).unwrap();
        let mut setup = Setup { dev, dim, phase, metrics };
        for (i, buf) in [phase.x, phase.p, phase.g].into_iter().enumerate() {
            (0..ROWS).for_each(|index| setup.write(buf, index, &scattered(dim, 3 * index + i)));
        }
        setup
    }

    /// With a metric for a chain.
    pub fn with(mut self, row: usize, metric: &Metric) -> Self {
        self.dev.set_metric(&self.metrics, row, &Arc::new(metric.clone())).unwrap();
        self
    }

    pub fn write(&mut self, buf: Buf, index: usize, numbers: &[f64]) {
        self.dev.write(Row { buf, index }, numbers).unwrap();
    }

    pub fn read(&self, buf: Buf, index: usize) -> Vec<f64> {
        let mut out = vec![0.0; self.dim];
        self.dev.read(Row { buf, index }, &mut out).unwrap();
        out
    }

    /// All points.
    pub fn all(&self) -> Vec<Vec<f64>> {
        let bufs = [self.phase.x, self.phase.p, self.phase.g];
        bufs.into_iter().flat_map(|buf| (0..ROWS).map(move |row| self.read(buf, row))).collect()
    }

    pub fn refresh(&mut self, op: Refresh) -> f64 {
        let mut kinetic = [f64::NAN];
        self.dev.refresh(&self.phase, &self.metrics, &[op], &mut kinetic).unwrap();
        kinetic[0]
    }

    /// p M^-1 p / 2 as a leaf has it that is not kicked.
    pub fn kinetic(&mut self, metric: usize, row: usize) -> f64 {
        let (leaf, mut kinetic) =
            (Leaf { metric, row, kick: 0.0, onward: None, spans: 0, passing: false }, [f64::NAN]);
        self.dev.finish_leaf(&self.phase, &self.metrics, &[leaf], &[], &mut kinetic, &mut []).unwrap();
        kinetic[0]
    }

    pub fn distance(&mut self, metric: usize, row: usize) -> f64 {
        let mut out = [f64::NAN];
        let places = [Place { metric, row }];
        self.dev.fisher_distance(&self.phase, &self.metrics, &places, &mut out).unwrap();
        out[0]
    }
}

pub fn key(draw: u32) -> Key {
    Key { seed: 5, chain: 1, draw }
}

pub fn fresh(metric: usize, row: usize, draw: u32) -> Refresh {
    Refresh { metric, row, key: key(draw), purpose: Purpose::Momentum }
}

pub fn close(what: &str, a: f64, b: f64) {
    assert!((a - b).abs() <= 1e-10 * (1.0 + a.abs().max(b.abs())), "{what}: {a} and {b}");
}
