//! Densities and stores that the tests share.
#![allow(dead_code)]

use nutpie_core::chain::N_STATISTICS;
use nutpie_core::density::{Failure, HostDensity};
use nutpie_core::device::Row;
use nutpie_core::error::Result;
use nutpie_core::trace::{Record, Store};

/// Independent normals with standard deviations 1, 2, 3, ... and a little skew in the first coordinate.
#[derive(Clone)]
pub struct Uneven(pub usize);

impl HostDensity for Uneven {
    fn dim(&self) -> usize {
        self.0
    }

    fn logp_grad(&mut self, x: &[f64], grad: &mut [f64]) -> std::result::Result<f64, Failure> {
        let mut logp = 0.0;
        for (i, (x, g)) in x.iter().zip(grad.iter_mut()).enumerate() {
            let scale = 1.0 / ((i + 1) * (i + 1)) as f64;
            logp -= 0.5 * scale * x * x;
            *g = -scale * x;
        }
        if let (Some(x), Some(g)) = (x.first(), grad.first_mut()) {
            logp -= (0.3 * x).exp();
            *g -= 0.3 * (0.3 * x).exp();
        }
        Ok(logp)
    }
}

/// Keeps the draws of each chain of a block.
#[derive(Clone, Default, PartialEq, Debug)]
pub struct Collected {
    pub draws: Vec<Vec<Vec<f64>>>,
    pub stats: Vec<Vec<Vec<f64>>>,
}

impl Collected {
    pub fn new(chains: usize) -> Self {
        Collected { draws: vec![Vec::new(); chains], stats: vec![Vec::new(); chains] }
    }
}

impl Store for Collected {
    fn append(&mut self, record: &Record<'_>) -> Result<()> {
        assert_eq!(record.stats.len(), N_STATISTICS);
        assert_eq!(record.draw as usize, self.draws[record.index].len());
        let dim = record.dim;
        let mut x = vec![0.0; dim];
        record.dev.read(Row { buf: record.phase.x, index: record.row }, &mut x)?;
        self.draws[record.index].push(x);
        self.stats[record.index].push(record.stats.to_vec());
        Ok(())
    }
}
