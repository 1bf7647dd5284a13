//! The estimators of diagonal metrics.

use super::phases::record;
use super::work::Table;
use super::{Arg, Gpu};
use crate::device::{Buf, Metrics, Moments, Phase, Sample};
use crate::error::Result;

impl Gpu {
    /// Run a kernel with a single operation.
    fn one<const N: usize>(&mut self, kernel: &str, cut: Buf, bufs: &[Buf], op: [f64; N]) -> Result<()> {
        let mut args: Vec<Arg> = bufs.iter().map(|buf| self.mem(*buf)).collect();
        args.push(Arg::Mem(self.work.table(Table::Ops, &record(op))?));
        self.work.launch(kernel, 1, self.cut(cut), &args)
    }

    pub(super) fn add_to_moments(
        &mut self,
        moments: &Moments,
        sample: Sample,
        phase: &Phase,
        point: usize,
    ) -> Result<()> {
        self.check(moments.mean_x, [sample.row].into_iter());
        self.check(phase.x, [point].into_iter());
        let Moments { mean_x, ss_x, mean_g, ss_g } = *moments;
        let op = [sample.row as f64, point as f64, sample.count as f64];
        self.one("accumulate", phase.x, &[mean_x, ss_x, mean_g, ss_g, phase.x, phase.g], op)
    }

    pub(super) fn metric_of_gradient(
        &mut self,
        metrics: &Metrics,
        row: usize,
        phase: &Phase,
        point: usize,
    ) -> Result<()> {
        self.check(phase.x, [point].into_iter());
        self.couplings[metrics.id][row] = None;
        let bufs = [metrics.inv_mass, metrics.mass_sqrt, metrics.center, phase.x, phase.g];
        self.one("metric_from_gradient", phase.x, &bufs, [row as f64, point as f64])
    }

    pub(super) fn fit_diagonal(
        &mut self,
        metrics: &Metrics,
        row: usize,
        moments: &Moments,
        samples: [Sample; 2],
    ) -> Result<()> {
        self.check(moments.mean_x, samples.iter().map(|sample| sample.row));
        self.couplings[metrics.id][row] = None;
        let [first, second] = if samples[0].count == 0 { [samples[1], samples[0]] } else { samples };
        let (n1, n2) = (first.count as f64, second.count as f64);
        let all = (n1 + n2).max(1.0);
        // The row of an empty sample may hold old numbers, so the other one stands in, with weight zero.
        let (other, weight) = if second.count == 0 { (first.row, 0.0) } else { (second.row, 1.0) };
        let op = [row as f64, first.row as f64, other as f64, weight, n1 * n2 / all, n2 / all];
        let [mean_x, ss_x, mean_g, ss_g] = moments.bufs();
        let bufs = [metrics.inv_mass, metrics.mass_sqrt, metrics.center, mean_x, ss_x, mean_g, ss_g];
        self.one("fit_fisher_diag", metrics.inv_mass, &bufs, op)
    }
}
