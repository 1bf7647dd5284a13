//! The estimators of diagonal metrics.

use super::phases::record;
use super::work::{RECORD, Table};
use super::{Arg, Gpu};
use crate::device::{Addition, Buf, Device, Fit, Metrics, Moments, Phase, Place};
use crate::error::Result;

impl Gpu {
    /// Run a kernel over rows of arrays, with a record for each operation.
    fn each<const N: usize>(
        &mut self,
        kernel: &str,
        bufs: &[Buf],
        ops: impl Iterator<Item = [f64; N]>,
    ) -> Result<()> {
        let table: Vec<f64> = ops.flat_map(record).collect();
        if table.is_empty() {
            return Ok(());
        }
        let mut args: Vec<Arg> = bufs.iter().map(|buf| self.mem(*buf)).collect();
        args.push(Arg::Mem(self.work.table(Table::Ops, &table)?));
        self.work.launch(kernel, table.len() / RECORD, self.cut(bufs[0]), &args)
    }

    pub(super) fn add_to_moments(
        &mut self,
        moments: &Moments,
        phase: &Phase,
        ops: &[Addition],
    ) -> Result<()> {
        self.check(moments.mean_x, ops.iter().map(|op| op.sample.row));
        self.check(phase.x, ops.iter().map(|op| op.point));
        let Moments { mean_x, ss_x, mean_g, ss_g } = *moments;
        let bufs = [mean_x, ss_x, mean_g, ss_g, phase.x, phase.g];
        let ops = ops.iter().map(|op| [op.sample.row as f64, op.point as f64, op.sample.count as f64]);
        self.each("accumulate", &bufs, ops)
    }

    pub(super) fn metrics_of_gradients(
        &mut self,
        metrics: &Metrics,
        phase: &Phase,
        places: &[Place],
    ) -> Result<()> {
        self.check(phase.x, places.iter().map(|place| place.row));
        self.own_rows(metrics, places.iter().map(|place| place.metric), false)?;
        let places = self.placed(metrics, places);
        let bufs = [metrics.inv_mass, metrics.mass_sqrt, metrics.center, phase.x, phase.g];
        let ops = places.iter().map(|place| [place.metric as f64, place.row as f64]);
        self.each("metric_from_gradient", &bufs, ops)
    }

    pub(super) fn fit_diagonals(&mut self, metrics: &Metrics, moments: &Moments, fits: &[Fit]) -> Result<()> {
        self.check(moments.mean_x, fits.iter().flat_map(|fit| fit.samples.map(|sample| sample.row)));
        self.own_rows(metrics, fits.iter().map(|fit| fit.metric), true)?;
        let [mean_x, ss_x, mean_g, ss_g] = moments.bufs();
        let bufs = [metrics.inv_mass, metrics.mass_sqrt, metrics.center, mean_x, ss_x, mean_g, ss_g];
        let rows: Vec<_> = fits.iter().map(|fit| self.metric_row(metrics, fit.metric)).collect();
        self.each("fit_fisher_diag", &bufs, fits.iter().zip(rows).map(|(fit, row)| fit_record(fit, row)))
    }

    /// Give chains rows for metrics that are written in place; with the numbers that they have, if they are wanted.
    fn own_rows(&mut self, metrics: &Metrics, chains: impl Iterator<Item = usize>, copy: bool) -> Result<()> {
        let mut moves = Vec::new();
        for chain in chains {
            let [row, before] = self.holders[metrics.id].part(chain);
            self.couplings[metrics.id][row] = None;
            if copy && row != before {
                moves.push([before, row]);
            }
        }
        let bufs = [metrics.inv_mass, metrics.mass_sqrt, metrics.center];
        bufs.into_iter().filter(|_| !moves.is_empty()).try_for_each(|buf| self.copy_rows(buf, buf, &moves))
    }
}

fn fit_record(fit: &Fit, row: usize) -> [f64; 6] {
    let [first, second] = fit.ordered();
    let (n1, n2) = (first.count as f64, second.count as f64);
    let all = (n1 + n2).max(1.0);
    // The row of an empty sample may hold old numbers, so the other one stands in, with weight zero.
    let (other, weight) = if second.count == 0 { (first.row, 0.0) } else { (second.row, 1.0) };
    [row as f64, first.row as f64, other as f64, weight, n1 * n2 / all, n2 / all]
}
