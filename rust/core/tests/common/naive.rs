//! A device written from the documentation of the trait, one coordinate at a time.
#![allow(dead_code, clippy::unwrap_used)]

use std::collections::HashMap;
use std::sync::Arc;

use nutpie_core::device::{
    Addition, Buf, Device, Dots, Fit, Glide, Leaf, Metrics, Moments, Phase, Place, Reach, Refresh, Renewal,
    Row, Sample, Span, Step, Turn,
};
use nutpie_core::error::Result;
use nutpie_core::metric::Metric;
use nutpie_core::rng::fill_normal;

use super::metrics::{combine, dot, solve, stretch, times};

/// Rows in a map.
#[derive(Default)]
pub struct Naive {
    dims: Vec<usize>,
    rows: HashMap<Row, Vec<f64>>,
    /// The metrics that are not diagonal, by the array of their diagonals and the row.
    coupled: HashMap<Row, Metric>,
    /// Their matrices, where a test gives them.
    matrices: HashMap<usize, Vec<Vec<f64>>>,
}

impl Naive {
    /// A device that takes a matrix for the one of a metric.
    pub fn with(metric: usize, matrix: &[Vec<f64>]) -> Self {
        Naive { matrices: [(metric, matrix.to_vec())].into(), ..Naive::default() }
    }

    pub fn get(&self, buf: Buf, index: usize) -> Vec<f64> {
        self.rows.get(&Row { buf, index }).cloned().unwrap_or_else(|| vec![0.0; self.dims[buf.0]])
    }

    pub fn set(&mut self, buf: Buf, index: usize, values: Vec<f64>) {
        self.rows.insert(Row { buf, index }, values);
    }

    /// [`stretch`] by a metric.
    pub fn times(&self, metrics: &Metrics, row: usize, powers: [f64; 3], v: &[f64]) -> Vec<f64> {
        stretch(&self.metric(metrics, row).unwrap(), powers, v)
    }

    /// M^-1 p.
    pub fn velocity(&self, metrics: &Metrics, row: usize, p: &[f64]) -> Vec<f64> {
        match self.matrices.get(&row) {
            Some(matrix) => times(matrix, p),
            None => self.times(metrics, row, [1.0, 1.0, 1.0], p),
        }
    }

    /// M v
    fn mass(&self, metrics: &Metrics, row: usize, v: &[f64]) -> Vec<f64> {
        match self.matrices.get(&row) {
            Some(matrix) => solve(matrix.clone(), v.to_vec()),
            None => self.times(metrics, row, [-1.0, -1.0, -1.0], v),
        }
    }

    /// Mean and sum of squared deviations of two samples together.
    fn union(&self, samples: [Sample; 2], mean: Buf, ss: Buf) -> [Vec<f64>; 2] {
        let parts: Vec<_> = samples
            .iter()
            .filter(|s| s.count > 0)
            .map(|s| (s.count as f64, self.get(mean, s.row), self.get(ss, s.row)))
            .collect();
        let n: f64 = parts.iter().map(|(n, ..)| n).sum();
        let whole =
            combine(self.dims[mean.0], |i| parts.iter().map(|(n, mean, _)| n * mean[i]).sum::<f64>() / n);
        let ss = combine(whole.len(), |i| {
            parts.iter().map(|(n, mean, ss)| ss[i] + n * (mean[i] - whole[i]).powi(2)).sum()
        });
        [whole, ss]
    }

    fn set_diagonal(&mut self, metrics: &Metrics, row: usize, inv_mass: Vec<f64>, center: Vec<f64>) {
        self.set(metrics.mass_sqrt, row, inv_mass.iter().map(|v| v.powf(-0.5)).collect());
        self.set(metrics.inv_mass, row, inv_mass);
        self.set(metrics.center, row, center);
        self.coupled.remove(&Row { buf: metrics.inv_mass, index: row });
    }
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

    fn copy(&mut self, src: Buf, dst: Buf, rows: &[[usize; 2]]) -> Result<()> {
        for [from, to] in rows {
            self.set(dst, *to, self.get(src, *from));
        }
        Ok(())
    }

    fn alloc_metrics(&mut self, rows: usize, dim: usize) -> Result<Metrics> {
        let metrics = Metrics {
            inv_mass: self.alloc(rows, dim)?,
            mass_sqrt: self.alloc(rows, dim)?,
            center: self.alloc(rows, dim)?,
            id: 0,
        };
        (0..rows).for_each(|row| self.set_diagonal(&metrics, row, vec![1.0; dim], vec![0.0; dim]));
        Ok(metrics)
    }

    fn set_metric(&mut self, metrics: &Metrics, row: usize, metric: &Arc<Metric>) -> Result<()> {
        self.set_diagonal(metrics, row, metric.inv_mass_diagonal(), metric.center.clone());
        if metric.rank() > 0 {
            self.coupled.insert(Row { buf: metrics.inv_mass, index: row }, (**metric).clone());
        }
        Ok(())
    }

    fn metric(&self, metrics: &Metrics, row: usize) -> Result<Metric> {
        let found = self.coupled.get(&Row { buf: metrics.inv_mass, index: row }).cloned();
        let diagonal = || Metric::diagonal(&self.get(metrics.inv_mass, row), self.get(metrics.center, row));
        Ok(found.unwrap_or_else(diagonal))
    }

    fn refresh(&mut self, s: &Phase, metrics: &Metrics, ops: &[Refresh], kinetic: &mut [f64]) -> Result<()> {
        for (op, kinetic) in ops.iter().zip(kinetic) {
            let mut z = vec![0.0; self.dims[s.p.0]];
            fill_normal(op.key, op.purpose, &mut z);
            *kinetic = 0.5 * dot(&z, &z);
            self.set(s.p, op.row, self.times(metrics, op.metric, [-1.0, -0.5, 0.0], &z));
        }
        Ok(())
    }

    fn renew(&mut self, s: &Phase, metrics: &Metrics, ops: &[Renewal], kinetic: &mut [f64]) -> Result<()> {
        for (op, kinetic) in ops.iter().zip(kinetic) {
            let old = self.get(s.p, op.fresh.row);
            self.refresh(s, metrics, &[op.fresh], &mut [0.0])?;
            let fresh = self.get(s.p, op.fresh.row);
            let share = (1.0 - op.keep * op.keep).sqrt();
            let p = combine(old.len(), |i| op.keep * old[i] + share * fresh[i]);
            *kinetic = 0.5 * dot(&p, &self.velocity(metrics, op.fresh.metric, &p));
            self.set(s.p, op.fresh.row, p);
        }
        Ok(())
    }

    fn kick_drift(&mut self, s: &Phase, metrics: &Metrics, ops: &[Step]) -> Result<()> {
        for op in ops {
            let (x, p, g) = (self.get(s.x, op.from), self.get(s.p, op.from), self.get(s.g, op.from));
            let half = combine(x.len(), |i| p[i] + op.kick * g[i]);
            let v = self.velocity(metrics, op.metric, &half);
            self.set(s.x, op.to, combine(x.len(), |i| x[i] + op.drift * v[i]));
            self.set(s.p, op.to, half);
        }
        Ok(())
    }

    fn finish_leaf(
        &mut self,
        s: &Phase,
        metrics: &Metrics,
        leaves: &[Leaf],
        spans: &[Span],
        kinetic: &mut [f64],
        dots: &mut [Dots],
    ) -> Result<()> {
        let mut spans = spans.iter().zip(dots);
        for (leaf, kinetic) in leaves.iter().zip(kinetic) {
            let (p, g) = (self.get(s.p, leaf.row), self.get(s.g, leaf.row));
            let p = combine(p.len(), |i| p[i] + leaf.kick * g[i]);
            *kinetic = 0.5 * dot(&self.velocity(metrics, leaf.metric, &p), &p);
            let before = self.get(s.p, leaf.row);
            self.set(s.p, leaf.row, p);
            for (span, dots) in spans.by_ref().take(leaf.spans) {
                let end = |row| (self.get(s.x, row), self.get(s.p, row), self.get(s.g, row));
                let ((xs, ps, gs), (xl, pl, gl), k) = (end(span.start), end(leaf.row), leaf.kick);
                let beyond = combine(xs.len(), |i| k * (ps[i] + pl[i]) + k * k * (gl[i] - gs[i]));
                let beyond = self.velocity(metrics, leaf.metric, &beyond);
                let d = combine(xs.len(), |i| (xl[i] - xs[i] + beyond[i]) / (2.0 * k));
                *dots = [dot(&d, &ps), dot(&d, &pl)];
            }
            if let Some((to, drift)) = leaf.onward {
                let next = Step { metric: leaf.metric, from: leaf.row, to, kick: leaf.kick, drift };
                self.kick_drift(s, metrics, &[next])?;
            }
            if leaf.passing {
                assert_eq!(leaf.spans, 0);
                self.set(s.p, leaf.row, before);
            }
        }
        Ok(())
    }

    fn glide(&mut self, s: &Phase, metrics: &Metrics, ops: &[Glide]) -> Result<()> {
        for op in ops {
            let (x, p, g) = (self.get(s.x, op.from), self.get(s.p, op.from), self.get(s.g, op.from));
            let new = combine(x.len(), |i| op.scale * p[i] + op.kick * g[i]);
            let v = self.velocity(metrics, op.metric, &new);
            self.set(s.x, op.to, combine(x.len(), |i| x[i] + op.drift * v[i]));
            self.set(s.p, op.to, new);
        }
        Ok(())
    }

    fn products(
        &mut self,
        s: &Phase,
        metrics: &Metrics,
        places: &[Place],
        kinetic: &mut [f64],
        dots: &mut [Dots],
    ) -> Result<()> {
        for ((place, kinetic), dots) in places.iter().zip(kinetic).zip(dots) {
            let (p, g) = (self.get(s.p, place.row), self.get(s.g, place.row));
            let v = self.velocity(metrics, place.metric, &p);
            *kinetic = 0.5 * dot(&v, &p);
            *dots = [dot(&v, &g), dot(&self.velocity(metrics, place.metric, &g), &g)];
        }
        Ok(())
    }

    fn pull(&mut self, s: &Phase, metrics: &Metrics, places: &[Place]) -> Result<()> {
        for place in places {
            let (x, c) = (self.get(s.x, place.row), self.get(metrics.center, place.metric));
            let pull = self.mass(metrics, place.metric, &combine(x.len(), |i| x[i] - c[i]));
            self.set(s.pulls()?, place.row, pull);
        }
        Ok(())
    }

    fn turn(&mut self, s: &Phase, metrics: &Metrics, ops: &[Turn]) -> Result<()> {
        for op in ops {
            let (x, p, g) = (self.get(s.x, op.from), self.get(s.p, op.from), self.get(s.g, op.from));
            let (c, m) = (self.get(metrics.center, op.metric), self.get(s.pulls()?, op.from));
            let p = combine(x.len(), |i| p[i] + op.kick * (g[i] + m[i]));
            let v = self.velocity(metrics, op.metric, &p);
            let (sin, cos) = op.angle.sin_cos();
            self.set(s.x, op.to, combine(x.len(), |i| c[i] + cos * (x[i] - c[i]) + sin * v[i]));
            self.set(s.p, op.to, combine(x.len(), |i| cos * p[i] - sin * m[i]));
            self.set(s.pulls()?, op.to, combine(x.len(), |i| cos * m[i] + sin * p[i]));
        }
        Ok(())
    }

    fn finish_turn(&mut self, s: &Phase, metrics: &Metrics, ops: &[Turn], kinetic: &mut [f64]) -> Result<()> {
        for (op, kinetic) in ops.iter().zip(kinetic) {
            let (p, g, m) = (self.get(s.p, op.to), self.get(s.g, op.to), self.get(s.pulls()?, op.to));
            let p = combine(p.len(), |i| p[i] + op.kick * (g[i] + m[i]));
            *kinetic = 0.5 * dot(&self.velocity(metrics, op.metric, &p), &p);
            self.set(s.p, op.to, p);
        }
        Ok(())
    }

    fn reach(
        &mut self,
        s: &Phase,
        metrics: &Metrics,
        reaches: &[Reach],
        spans: &[Span],
        dots: &mut [Dots],
    ) -> Result<()> {
        let mut spans = spans.iter().zip(dots);
        for &Reach { metric, row, half, spans: n } in reaches {
            for (span, dots) in spans.by_ref().take(n) {
                let end = |row| (self.get(s.x, row), self.get(s.p, row));
                let ((xs, ps), (xl, pl)) = (end(span.start), end(row));
                let sum = self.velocity(metrics, metric, &combine(xs.len(), |i| ps[i] + pl[i]));
                let rho = combine(xs.len(), |i| (xl[i] - xs[i] + half * sum[i]) / (2.0 * half));
                *dots = [dot(&rho, &ps), dot(&rho, &pl)];
            }
        }
        Ok(())
    }

    fn accumulate(&mut self, moments: &Moments, s: &Phase, ops: &[Addition]) -> Result<()> {
        let pairs = [(moments.mean_x, moments.ss_x, s.x), (moments.mean_g, moments.ss_g, s.g)];
        for (Addition { sample, point }, (mean, ss, value)) in
            ops.iter().flat_map(|op| pairs.map(|pair| (op, pair)))
        {
            let value = self.get(value, *point);
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

    fn fisher_distance(
        &mut self,
        s: &Phase,
        metrics: &Metrics,
        places: &[Place],
        out: &mut [f64],
    ) -> Result<()> {
        for (place, out) in places.iter().zip(out) {
            let (x, g) = (self.get(s.x, place.row), self.get(s.g, place.row));
            let (c, v) = (self.get(metrics.center, place.metric), self.velocity(metrics, place.metric, &g));
            let z = combine(x.len(), |i| x[i] - c[i] + v[i]);
            let mass = self.mass(metrics, place.metric, &z);
            *out = dot(&z, &mass);
        }
        Ok(())
    }

    fn metric_from_gradient(&mut self, metrics: &Metrics, s: &Phase, places: &[Place]) -> Result<()> {
        for place in places {
            let (x, g) = (self.get(s.x, place.row), self.get(s.g, place.row));
            let new = g.iter().map(|g| 1.0 / g.abs().clamp(1e-20, 1e20)).collect::<Vec<_>>();
            let center = combine(x.len(), |i| x[i] + new[i] * g[i]);
            self.set_diagonal(metrics, place.metric, new, center);
        }
        Ok(())
    }

    fn fit_fisher_diag(&mut self, metrics: &Metrics, moments: &Moments, fits: &[Fit]) -> Result<()> {
        for fit in fits {
            let [mean_x, ss_x] = self.union(fit.samples, moments.mean_x, moments.ss_x);
            let [mean_g, ss_g] = self.union(fit.samples, moments.mean_g, moments.ss_g);
            let old = self.get(metrics.inv_mass, fit.metric);
            let new = combine(mean_x.len(), |i| match ss_x[i] / ss_g[i] {
                ratio if ratio > 0.0 && ratio < f64::INFINITY => ratio.sqrt(),
                _ => old[i],
            });
            let center = combine(mean_x.len(), |i| mean_x[i] + new[i] * mean_g[i]);
            self.set_diagonal(metrics, fit.metric, new, center);
        }
        Ok(())
    }
}
