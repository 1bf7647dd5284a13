//! Densities and stores that the tests share.
#![allow(dead_code, clippy::expect_used)]

use nutpie_core::chain::{DURATION, N_STATISTICS, statistics};
use nutpie_core::density::{Failure, HostDensity};
use nutpie_core::device::{Device, Row};
use nutpie_core::error::Result;
use nutpie_core::kernel::Kind;
use nutpie_core::trace::{ChainTrace, Records, Store};

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

/// Take out of the statistics of some draws what differs between equal runs.
pub fn without_durations(stats: &mut [f64]) {
    let column = statistics(Kind::Nuts).find(|(_, s)| s.name == DURATION).expect("there is one").0;
    for draw in stats.chunks_mut(N_STATISTICS) {
        draw[column] = 0.0;
    }
}

/// The draws of chains without what differs between equal runs.
pub fn reproducible(chains: &[ChainTrace]) -> Vec<ChainTrace> {
    let mut chains = chains.to_vec();
    for block in chains.iter_mut().flat_map(|chain| &mut chain.blocks) {
        without_durations(&mut block.stats);
    }
    chains
}

/// Keeps the draws of each chain of a block, and their statistics without the durations.
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
    fn append(&mut self, dev: &mut dyn Device, records: &Records<'_>) -> Result<()> {
        for record in records.draws {
            assert_eq!(record.draw as usize, self.draws[record.index].len());
            let mut x = vec![0.0; records.dim];
            dev.read(Row { buf: records.phase.x, index: record.row }, &mut x)?;
            self.draws[record.index].push(x);
            let mut stats = record.stats.to_vec();
            without_durations(&mut stats);
            self.stats[record.index].push(stats);
        }
        Ok(())
    }
}
