//! The diagonal metric of smallest Fisher divergence.
//!
//! With y = (x - mu) / sigma, the divergence between the target's draws and a standard normal,
//! mean |sigma g + (x - mu) / sigma|^2, is smallest at sigma^2 = (Var x / Var g)^(1/2) (Seyboldt, Carlson and Carpenter
//! 2025, equation 8). mu does not enter a leapfrog step.
//!
//! Of the foreground sample and the background sample, the second is always part of the first. So two disjoint samples
//! are kept, the older and the newer: the background is the newer, the foreground their union.

use serde::{Deserialize, Serialize};

use crate::device::{Addition, Device, Fit, Metrics, Moments, Phase, Row, Sample};
use crate::error::{Error, Result};
use crate::metric::Metric;

/// The estimator of one chain.
#[derive(Clone, Debug)]
pub struct FisherDiag {
    moments: Moments,
    metric_row: usize,
    older: Sample,
    newer: Sample,
}

/// What the estimators of some chains ask of the device: lists, so that each is one call for all of them.
#[derive(Default)]
pub struct Updates {
    points: Vec<Addition>,
    fits: Vec<Fit>,
}

impl Updates {
    /// Lists with room for so many chains.
    pub fn new(chains: usize) -> Self {
        Updates { points: Vec::with_capacity(chains), fits: Vec::with_capacity(chains) }
    }

    /// Have it all done: points first, then fits.
    pub fn run(
        &mut self,
        dev: &mut dyn Device,
        metrics: &Metrics,
        moments: &Moments,
        phase: &Phase,
    ) -> Result<()> {
        if !self.points.is_empty() {
            dev.accumulate(moments, phase, &self.points)?;
        }
        if !self.fits.is_empty() {
            dev.fit_fisher_diag(metrics, moments, &self.fits)?;
        }
        self.points.clear();
        self.fits.clear();
        Ok(())
    }
}

/// The numbers of an estimator.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FisherDiagState {
    /// Number of points in the older and in the newer sample.
    pub counts: [u64; 2],
    /// Mean and sum of squared deviations of positions, then of gradients, for each sample.
    pub moments: [[Vec<f64>; 4]; 2],
}

impl FisherDiag {
    /// Rows of the moments that an estimator needs.
    pub const ROWS: usize = 2;

    /// An estimator without points in rows `2 index` and `2 index + 1`, for metric `index`.
    pub fn new(moments: Moments, index: usize) -> Self {
        FisherDiag {
            moments,
            metric_row: index,
            older: Sample { row: Self::ROWS * index, count: 0 },
            newer: Sample { row: Self::ROWS * index + 1, count: 0 },
        }
    }

    /// The metric that it writes to.
    pub fn metric(&self, dev: &dyn Device, metrics: &Metrics) -> Result<Metric> {
        dev.metric(metrics, self.metric_row)
    }

    /// Points in the newer sample, the background.
    pub fn newer_count(&self) -> u64 {
        self.newer.count
    }

    /// Points in both samples, the foreground.
    pub fn count(&self) -> u64 {
        self.older.count + self.newer.count
    }

    /// Add a point.
    pub fn add(&mut self, updates: &mut Updates, point: usize) {
        self.newer.count += 1;
        updates.points.push(Addition { sample: self.newer, point });
    }

    /// Make the newer sample the older one and begin a new one.
    pub fn forget_older(&mut self) {
        std::mem::swap(&mut self.older, &mut self.newer);
        self.newer.count = 0;
    }

    /// Set the metric to the estimate.
    pub fn fit(&self, updates: &mut Updates) {
        updates.fits.push(Fit { metric: self.metric_row, samples: [self.older, self.newer] });
    }

    /// The variances of the positions, for a metric from the draws alone. A coordinate that did not move keeps its value.
    pub fn variances(&self, dev: &dyn Device, previous: &Metric) -> Result<Metric> {
        let FisherDiagState { counts, moments } = self.save(dev, previous.dim())?;
        let [older, newer] = counts.map(|count| count as f64);
        let total = (older + newer).max(1.0);
        let mut found = Metric { stds: previous.stds.clone(), ..Metric::default() };
        for (i, std) in found.stds.iter_mut().enumerate() {
            let [mean, ss] = [0, 1].map(|which| [moments[0][which][i], moments[1][which][i]]);
            let center = (older * mean[0] + newer * mean[1]) / total;
            let around =
                |n: f64, mean: f64, ss: f64| if n > 0.0 { ss + n * (mean - center).powi(2) } else { 0.0 };
            let variance = (around(older, mean[0], ss[0]) + around(newer, mean[1], ss[1])) / total;
            found.center.push(center);
            if variance > 0.0 && variance.is_finite() {
                *std = variance.sqrt();
            }
        }
        Ok(found)
    }

    /// Copy the numbers to the host.
    pub fn save(&self, dev: &dyn Device, dim: usize) -> Result<FisherDiagState> {
        let mut moments: [[Vec<f64>; 4]; 2] = Default::default();
        for (sample, saved) in [self.older, self.newer].iter().zip(&mut moments) {
            for (buf, saved) in self.moments.bufs().into_iter().zip(saved) {
                *saved = vec![0.0; dim];
                dev.read(Row { buf, index: sample.row }, saved)?;
            }
        }
        Ok(FisherDiagState { counts: [self.older.count, self.newer.count], moments })
    }

    /// Take numbers back from the host.
    pub fn load(&mut self, dev: &mut dyn Device, dim: usize, state: &FisherDiagState) -> Result<()> {
        [self.older.count, self.newer.count] = state.counts;
        for (sample, saved) in [self.older, self.newer].iter().zip(&state.moments) {
            for (buf, saved) in self.moments.bufs().into_iter().zip(saved) {
                if saved.len() != dim {
                    return Err(Error::State(format!("{} moments for {dim} parameters", saved.len())));
                }
                dev.write(Row { buf, index: sample.row }, saved)?;
            }
        }
        Ok(())
    }
}
