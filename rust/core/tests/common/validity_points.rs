//! Points of a chain on the CPU device, for tests of single transitions under each kind of metric.

use std::sync::Arc;

use nutpie_core::density::{Density, HostDensity, OnHost};
use nutpie_core::device::{Cpu, Device, Metrics, Phase, Place, Row};
use nutpie_core::integrate::Batch;
use nutpie_core::metric::Metric;

use super::harness::diagonal;
use super::metrics::coupled;

pub const DIM: usize = 5;

pub fn metrics_to_try() -> [Metric; 3] {
    let center = vec![0.3, -1.0, 0.0, 2.0, 0.7];
    [diagonal(&[1.0, 4.0, 0.25, 9.0, 1.0]), coupled(DIM, 2, 1), coupled(DIM, DIM, 2)]
        .map(|metric| Metric { center: center.clone(), ..metric })
}

/// A device with points of a chain.
pub struct Points<D> {
    pub dev: Cpu,
    pub phase: Phase,
    pub metrics: Metrics,
    pub density: OnHost<D>,
}

impl<D: HostDensity + Clone + 'static> Points<D> {
    pub fn new(density: &D, metric: &Metric, rows: usize) -> Self {
        let mut dev = Cpu::new();
        let phase = Phase::alloc_with_pull(&mut dev, rows, density.dim()).unwrap();
        let metrics = dev.alloc_metrics(1, density.dim()).unwrap();
        dev.set_metric(&metrics, 0, &Arc::new(metric.clone())).unwrap();
        Points { dev, phase, metrics, density: OnHost::new(density.clone()) }
    }

    /// Write a point; its log density.
    pub fn put(&mut self, row: usize, x: &[f64], p: &[f64]) -> f64 {
        self.dev.write(Row { buf: self.phase.x, index: row }, x).unwrap();
        self.dev.write(Row { buf: self.phase.p, index: row }, p).unwrap();
        let mut logp = [0.0];
        self.density.logp_grad(&mut self.dev, &self.phase, &[row], &mut logp).unwrap();
        self.dev.pull(&self.phase, &self.metrics, &[Place { metric: 0, row }]).unwrap();
        logp[0]
    }

    pub fn kinetic(&mut self, row: usize) -> f64 {
        let (mut kinetic, mut dots) = ([0.0], [[0.0; 2]]);
        let places = [Place { metric: 0, row }];
        self.dev.products(&self.phase, &self.metrics, &places, &mut kinetic, &mut dots).unwrap();
        kinetic[0]
    }

    pub fn get(&self, row: usize) -> [Vec<f64>; 3] {
        [self.phase.x, self.phase.p, self.phase.pull.unwrap()].map(|buf| {
            let mut out = vec![0.0; self.density.dim()];
            self.dev.read(Row { buf, index: row }, &mut out).unwrap();
            out
        })
    }

    pub fn run(&mut self, batch: &mut Batch) {
        batch.run(&mut self.dev, &mut self.density, &self.phase, &self.metrics).unwrap();
    }
}

pub fn near(a: &[f64], b: &[f64], tolerance: f64) -> bool {
    a.iter().zip(b).all(|(a, b)| (a - b).abs() < tolerance * (1.0 + b.abs()))
}
