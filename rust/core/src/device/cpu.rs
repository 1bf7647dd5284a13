//! The CPU device: each phase is one vectorised pass, by one thread; a metric that couples parameters adds two.

use std::sync::Arc;

use super::along::Along;
use super::array::Array;
use super::coupling::{self, Coupling};
use super::points::Points;
use super::under::{Scales, Together};
use super::{
    Addition, Buf, Device, Dots, Fit, Glide, Holders, Leaf, Metrics, Moments, Phase, Place, RawBuffer, Reach,
    Refresh, Renewal, Row, Sample, Sharing, Span, Step, Turn, ops, turn,
};
use crate::error::{Error, Result};
use crate::metric::Metric;
use crate::rng;

/// Arrays in the memory of the process.
#[derive(Default)]
pub struct Cpu {
    arrays: Vec<Array>,
    /// What belongs to the rows of each array, where they are momenta or gradients under a coupled metric.
    along: Vec<Along>,
    /// The rows of metrics by [`Metrics::id`], and those of them that are not diagonal.
    holders: Vec<Holders>,
    couplings: Vec<Vec<Option<Arc<Coupling>>>>,
    scratch: Vec<f64>,
    kept: Vec<f64>,
}

impl Cpu {
    /// A device without arrays.
    pub fn new() -> Self {
        Self::default()
    }

    /// Arrays to work on beside each other.
    fn together<const N: usize>(&mut self, bufs: [Buf; N]) -> Result<[&mut Array; N]> {
        together(&mut self.arrays, bufs)
    }

    /// The arrays of a phase and of metrics: diagonals, their roots and centres.
    fn split(&mut self, phase: &Phase, metrics: &Metrics) -> Result<(Together<'_>, Scales<'_>)> {
        let of_metrics = [metrics.inv_mass, metrics.mass_sqrt, metrics.center];
        let [x, p, g, inv_mass, mass_sqrt, center] = together(
            &mut self.arrays,
            [phase.x, phase.p, phase.g, of_metrics[0], of_metrics[1], of_metrics[2]],
        )?;
        let along = together(&mut self.along, [phase.p, phase.g])?;
        let (holders, couplings) = (&self.holders[metrics.id], &self.couplings[metrics.id]);
        let scratch = &mut self.scratch;
        let together = Together { phase: [x, p, g], along, holders, couplings, scratch };
        Ok((together, Scales { arrays: [inv_mass, mass_sqrt, center], holders }))
    }

    /// The row of a chain's metric, and whether it is coupled.
    fn held(&self, metrics: &Metrics, chain: usize) -> (usize, bool) {
        let row = self.holders[metrics.id].row(chain);
        (row, self.couplings[metrics.id][row].is_some())
    }

    /// A row for a metric of a chain that is written in place; with the numbers that it has, if they are wanted.
    fn own_row(&mut self, metrics: &Metrics, chain: usize, copy: bool) -> Result<usize> {
        let [row, before] = self.holders[metrics.id].part(chain);
        if copy && row != before {
            for buf in [metrics.inv_mass, metrics.mass_sqrt, metrics.center] {
                self.copy(buf, buf, &[[before, row]])?;
            }
        }
        self.couplings[metrics.id][row] = None;
        Ok(row)
    }
}

/// Some of the members of a list.
fn together<T, const N: usize>(all: &mut [T], bufs: [Buf; N]) -> Result<[&mut T; N]> {
    all.get_disjoint_mut(bufs.map(|b| b.0)).map_err(|e| Error::Device(format!("arrays of a phase: {e}")))
}

impl Device for Cpu {
    fn alloc(&mut self, rows: usize, dim: usize) -> Result<Buf> {
        self.arrays.push(Array::new(rows, dim)?);
        self.along.push(Along::default());
        Ok(Buf(self.arrays.len() - 1))
    }

    fn write(&mut self, dst: Row, src: &[f64]) -> Result<()> {
        self.along[dst.buf.0].forget(dst.index);
        self.arrays[dst.buf.0].exact_mut(dst.index).copy_from_slice(src);
        Ok(())
    }

    fn read(&self, src: Row, dst: &mut [f64]) -> Result<()> {
        dst.copy_from_slice(self.arrays[src.buf.0].exact(src.index));
        Ok(())
    }

    fn host_pair(&mut self, src: Row, dst: Row) -> Option<(&[f64], &mut [f64])> {
        self.along[dst.buf.0].forget(dst.index);
        if src.buf == dst.buf {
            let array = &mut self.arrays[src.buf.0];
            let dim = array.dim;
            let (a, b) = array.pair(src.index, dst.index);
            return Some((&a[..dim], &mut b[..dim]));
        }
        let [a, b] = self.arrays.get_disjoint_mut([src.buf.0, dst.buf.0]).ok()?;
        Some((a.exact(src.index), b.exact_mut(dst.index)))
    }

    fn raw(&mut self, buf: Buf) -> Option<RawBuffer> {
        Some(self.arrays.get_mut(buf.0)?.raw())
    }

    fn sharing(&mut self) -> Option<&mut dyn Sharing> {
        Some(self)
    }

    fn written(&mut self, row: Row) {
        self.along[row.buf.0].forget(row.index);
    }

    fn copy(&mut self, src: Buf, dst: Buf, rows: &[[usize; 2]]) -> Result<()> {
        for &[from, to] in rows {
            let pair = self.host_pair(Row { buf: src, index: from }, Row { buf: dst, index: to });
            let (from, to) = pair.ok_or_else(|| Error::Device("a copy between arrays".into()))?;
            to.copy_from_slice(from);
        }
        Ok(())
    }

    fn alloc_metrics(&mut self, rows: usize, dim: usize) -> Result<Metrics> {
        self.holders.push(Holders::new(rows));
        self.couplings.push(vec![None; rows]);
        let id = self.couplings.len() - 1;
        let [inv_mass, mass_sqrt, center] =
            [self.alloc(rows, dim)?, self.alloc(rows, dim)?, self.alloc(rows, dim)?];
        for row in 0..rows {
            self.arrays[inv_mass.0].exact_mut(row).fill(1.0);
            self.arrays[mass_sqrt.0].exact_mut(row).fill(1.0);
        }
        Ok(Metrics { inv_mass, mass_sqrt, center, id })
    }

    fn set_metric(&mut self, metrics: &Metrics, row: usize, metric: &Arc<Metric>) -> Result<()> {
        let before = self.holders[metrics.id].row(row);
        if self.holders[metrics.id].join(row, metric) {
            if self.holders[metrics.id].is_free(before) {
                self.couplings[metrics.id][before] = None;
            }
            return Ok(());
        }
        let numbers = Metrics::numbers_of(metric, self.arrays[metrics.inv_mass.0].dim)?;
        let coupling = if metric.rank() > 0 { Some(coupling::prepared(metric)?) } else { None };
        let own = self.own_row(metrics, row, false)?;
        metrics.write(self, own, &numbers)?;
        self.couplings[metrics.id][own] = coupling;
        self.holders[metrics.id].note(row, metric);
        Ok(())
    }

    fn metric_row(&self, metrics: &Metrics, chain: usize) -> usize {
        self.holders[metrics.id].row(chain)
    }

    fn metric(&self, metrics: &Metrics, row: usize) -> Result<Metric> {
        let row = self.metric_row(metrics, row);
        if let Some(coupling) = &self.couplings[metrics.id][row] {
            return Ok(coupling.metric().clone());
        }
        let center = self.arrays[metrics.center.0].exact(row).to_vec();
        Ok(Metric::diagonal(self.arrays[metrics.inv_mass.0].exact(row), center))
    }

    fn refresh(
        &mut self,
        phase: &Phase,
        metrics: &Metrics,
        ops: &[Refresh],
        kinetic: &mut [f64],
    ) -> Result<()> {
        let (mut all, scales) = self.split(phase, metrics)?;
        for (op, kinetic) in ops.iter().zip(kinetic) {
            let [_, p, _] = &mut all.phase;
            rng::fill_normal(op.key, op.purpose, p.exact_mut(op.row));
            let square = match all.coupled(op.metric) {
                Some(mut coupled) => coupled.refresh(op.row),
                None => {
                    all.forget(op.row);
                    ops::scale_normal(all.phase[1].row_mut(op.row), scales.mass_sqrt(op.metric))
                }
            };
            *kinetic = 0.5 * square;
        }
        Ok(())
    }

    fn renew(
        &mut self,
        phase: &Phase,
        metrics: &Metrics,
        ops: &[Renewal],
        kinetic: &mut [f64],
    ) -> Result<()> {
        for (Renewal { fresh, keep }, kinetic) in ops.iter().zip(kinetic) {
            self.kept.clear();
            self.kept.extend_from_slice(self.arrays[phase.p.0].exact(fresh.row));
            let kinetic = std::slice::from_mut(kinetic);
            self.refresh(phase, metrics, &[*fresh], kinetic)?;
            let share = (1.0 - keep * keep).max(0.0).sqrt();
            let p = self.arrays[phase.p.0].exact_mut(fresh.row);
            p.iter_mut().zip(&self.kept).for_each(|(p, old)| *p = keep * old + share * *p);
            // What is known of the momentum must depend on its numbers alone, or a chain that goes on from a saved state
            // would differ in the last bit.
            self.along[phase.p.0].forget(fresh.row);
            let place = Place { metric: fresh.metric, row: fresh.row };
            self.products(phase, metrics, &[place], kinetic, &mut [[0.0; 2]])?;
        }
        Ok(())
    }

    fn kick_drift(&mut self, phase: &Phase, metrics: &Metrics, ops: &[Step]) -> Result<()> {
        let (mut all, scales) = self.split(phase, metrics)?;
        for op in ops {
            if let Some(mut coupled) = all.coupled(op.metric) {
                coupled.kick_drift(op);
                continue;
            }
            all.forget(op.to);
            let [x, p, g] = &mut all.phase;
            let (x, x_new) = x.pair(op.from, op.to);
            let (p, p_new) = p.pair(op.from, op.to);
            ops::kick_drift(
                x,
                p,
                g.row(op.from),
                scales.inv_mass(op.metric),
                op.kick,
                op.drift,
                x_new,
                p_new,
            );
        }
        Ok(())
    }

    fn finish_leaf(
        &mut self,
        phase: &Phase,
        metrics: &Metrics,
        leaves: &[Leaf],
        mut spans: &[Span],
        kinetic: &mut [f64],
        mut dots: &mut [Dots],
    ) -> Result<()> {
        let (mut all, scales) = self.split(phase, metrics)?;
        for (leaf, kinetic) in leaves.iter().zip(kinetic) {
            let (mine, others) = spans.split_at(leaf.spans);
            let (out, rest) = dots.split_at_mut(leaf.spans);
            let square = match all.coupled(leaf.metric) {
                Some(mut coupled) => coupled.finish(leaf, mine, out),
                None => {
                    all.forget(leaf.row);
                    leaf.onward.into_iter().for_each(|(to, _)| all.forget(to));
                    let [x, p, g] = &mut all.phase;
                    let points = Points { x: x.shared(), p: p.shared(), g: g.shared() };
                    points.finish(scales.inv_mass(leaf.metric), leaf, mine, out)
                }
            };
            *kinetic = 0.5 * square;
            (spans, dots) = (others, rest);
        }
        Ok(())
    }

    fn glide(&mut self, phase: &Phase, metrics: &Metrics, ops: &[Glide]) -> Result<()> {
        let (mut all, scales) = self.split(phase, metrics)?;
        for op in ops {
            if let Some(mut coupled) = all.coupled(op.metric) {
                coupled.glide(op);
                continue;
            }
            all.forget(op.to);
            let [x, p, g] = &mut all.phase;
            let points = Points { x: x.shared(), p: p.shared(), g: g.shared() };
            points.glide(scales.inv_mass(op.metric), op);
        }
        Ok(())
    }

    fn products(
        &mut self,
        phase: &Phase,
        metrics: &Metrics,
        places: &[Place],
        kinetic: &mut [f64],
        dots: &mut [Dots],
    ) -> Result<()> {
        let (mut all, scales) = self.split(phase, metrics)?;
        for ((&Place { metric, row }, kinetic), dots) in places.iter().zip(kinetic).zip(dots) {
            let [pp, pg, gg] = match all.coupled(metric) {
                Some(mut coupled) => coupled.products(row),
                None => {
                    let [_, p, g] = &all.phase;
                    ops::products(p.row(row), g.row(row), scales.inv_mass(metric))
                }
            };
            (*kinetic, *dots) = (0.5 * pp, [pg, gg]);
        }
        Ok(())
    }

    fn fisher_distance(
        &mut self,
        phase: &Phase,
        metrics: &Metrics,
        places: &[Place],
        out: &mut [f64],
    ) -> Result<()> {
        let (mut all, scales) = self.split(phase, metrics)?;
        for (&Place { metric, row }, out) in places.iter().zip(out) {
            let center = scales.center(metric);
            *out = match all.coupled(metric) {
                Some(mut coupled) => coupled.distance(row, center),
                None => {
                    let [x, _, g] = &all.phase;
                    let (inv_mass, mass_sqrt) = (scales.inv_mass(metric), scales.mass_sqrt(metric));
                    ops::fisher_distance([x.row(row), g.row(row), center, inv_mass, mass_sqrt])
                }
            };
        }
        Ok(())
    }

    fn pull(&mut self, phase: &Phase, metrics: &Metrics, places: &[Place]) -> Result<()> {
        let scratch = &mut self.scratch;
        let [x, pull, center, mass_sqrt] =
            together(&mut self.arrays, [phase.x, phase.pulls()?, metrics.center, metrics.mass_sqrt])?;
        for &Place { metric, row } in places {
            let metric = self.holders[metrics.id].row(metric);
            let (x, center, pull) = (x.row(row), center.row(metric), pull.row_mut(row));
            match self.couplings[metrics.id][metric].as_deref() {
                Some(coupling) => coupling.pull(x, center, pull, scratch),
                None => ops::pull(x, center, mass_sqrt.row(metric), pull),
            }
        }
        Ok(())
    }

    fn turn(&mut self, phase: &Phase, metrics: &Metrics, ops: &[Turn]) -> Result<()> {
        let pulls = phase.pulls()?;
        for &Turn { metric, from, to, kick, angle } in ops {
            let by = turn::By::new(kick, angle);
            let (held, coupled) = self.held(metrics, metric);
            if coupled {
                // The kick by the gradient, and its part of the way; that of the pull is a multiple of x - centre.
                let glide = Glide { metric, from, to, scale: 1.0, kick, drift: by.sin };
                self.glide(phase, metrics, &[glide])?;
            }
            let [x, p, g, pull, center, inv_mass] = together(
                &mut self.arrays,
                [phase.x, phase.p, phase.g, pulls, metrics.center, metrics.inv_mass],
            )?;
            let ((x, x_to), (m, m_to)) = (x.pair(from, to), pull.pair(from, to));
            let center = center.row(held);
            if coupled {
                turn::rest([x, m, center], [x_to, p.row_mut(to), m_to], by);
            } else {
                let (p, p_to) = p.pair(from, to);
                turn::turn([x, p, g.row(from), m], [x_to, p_to, m_to], [center, inv_mass.row(held)], by);
            }
            self.along[phase.p.0].forget(to);
        }
        Ok(())
    }

    fn finish_turn(
        &mut self,
        phase: &Phase,
        metrics: &Metrics,
        ops: &[Turn],
        kinetic: &mut [f64],
    ) -> Result<()> {
        for (&Turn { metric, to, kick, .. }, kinetic) in ops.iter().zip(kinetic) {
            let (held, coupled) = self.held(metrics, metric);
            let [p, g, pull, inv_mass] =
                together(&mut self.arrays, [phase.p, phase.g, phase.pulls()?, metrics.inv_mass])?;
            self.along[phase.p.0].forget(to);
            if !coupled {
                let square = turn::finish([g.row(to), pull.row(to), inv_mass.row(held)], p.row_mut(to), kick);
                *kinetic = 0.5 * square;
                continue;
            }
            turn::kick_both(p.row_mut(to), g.row(to), pull.row(to), kick);
            let place = Place { metric, row: to };
            self.products(phase, metrics, &[place], std::slice::from_mut(kinetic), &mut [[0.0; 2]])?;
        }
        Ok(())
    }

    fn reach(
        &mut self,
        phase: &Phase,
        metrics: &Metrics,
        reaches: &[Reach],
        spans: &[Span],
        dots: &mut [Dots],
    ) -> Result<()> {
        let (mut all, scales) = self.split(phase, metrics)?;
        let mut spans = spans.iter().zip(dots);
        for reach in reaches {
            for (span, dots) in spans.by_ref().take(reach.spans) {
                let sums = match all.coupled(reach.metric) {
                    Some(mut coupled) => coupled.reach(reach, span.start),
                    None => {
                        let [x, p, _] = &all.phase;
                        let end = |row| [x.row(row), p.row(row)];
                        ops::reach(end(span.start), end(reach.row), scales.inv_mass(reach.metric), reach.half)
                    }
                };
                *dots = sums.map(|sum| sum / (2.0 * reach.half));
            }
        }
        Ok(())
    }

    fn accumulate(&mut self, moments: &Moments, phase: &Phase, ops: &[Addition]) -> Result<()> {
        for (mean, ss, value) in
            [(moments.mean_x, moments.ss_x, phase.x), (moments.mean_g, moments.ss_g, phase.g)]
        {
            let [mean, ss, value] = self.together([mean, ss, value])?;
            for &Addition { sample: Sample { row, count }, point } in ops {
                ops::welford(mean.row_mut(row), ss.row_mut(row), value.row(point), count);
            }
        }
        Ok(())
    }

    fn metric_from_gradient(&mut self, metrics: &Metrics, phase: &Phase, places: &[Place]) -> Result<()> {
        for &Place { metric, row } in places {
            let metric = self.own_row(metrics, metric, false)?;
            let [inv_mass, mass_sqrt, center, x, g] =
                self.together([metrics.inv_mass, metrics.mass_sqrt, metrics.center, phase.x, phase.g])?;
            let (inv_mass, mass_sqrt) = (inv_mass.exact_mut(metric), mass_sqrt.exact_mut(metric));
            ops::metric_from_gradient(inv_mass, mass_sqrt, g.exact(row));
            ops::center_from_point(center.exact_mut(metric), x.exact(row), g.exact(row), inv_mass);
        }
        Ok(())
    }

    fn fit_fisher_diag(&mut self, metrics: &Metrics, moments: &Moments, fits: &[Fit]) -> Result<()> {
        let [mean_x, ss_x, mean_g, ss_g] = moments.bufs();
        for fit in fits {
            let row = self.own_row(metrics, fit.metric, true)?;
            let Metrics { inv_mass, mass_sqrt, center, .. } = *metrics;
            let [inv_mass, mass_sqrt, center, mean_x, ss_x, mean_g, ss_g] =
                self.together([inv_mass, mass_sqrt, center, mean_x, ss_x, mean_g, ss_g])?;
            let summary = |s: Sample| ops::Summary {
                mean_x: mean_x.row(s.row),
                ss_x: ss_x.row(s.row),
                mean_g: mean_g.row(s.row),
                ss_g: ss_g.row(s.row),
            };
            let [first, second] = fit.ordered();
            let (n1, n2) = (first.count as f64, second.count as f64);
            let union = ops::Union {
                // The row of an empty sample may hold old numbers, so the other one stands in, with weight zero.
                first: summary(first),
                second: summary(if second.count == 0 { first } else { second }),
                weight: if second.count == 0 { 0.0 } else { 1.0 },
                between: n1 * n2 / (n1 + n2).max(1.0),
            };
            ops::fit_fisher_diag(inv_mass.row_mut(row), mass_sqrt.row_mut(row), &union);
            ops::center_of_union(center.row_mut(row), inv_mass.row(row), &union, n2 / (n1 + n2).max(1.0));
        }
        Ok(())
    }
}
