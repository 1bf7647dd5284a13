//! A block of chains that share a device and a density, in rounds of one leapfrog step each.
//!
//! Chains do not wait for each other's trees: each finishes its trajectory, gives its draw away and begins the next. A CPU
//! thread runs a block of one chain; a batched density or a GPU runs all chains as one block.

use crate::chain::{Arrays, Chain, ChainState};
use crate::density::Density;
use crate::device::{Device, Moments, Phase, Refresh, Row};
use crate::error::{Error, Result};
use crate::estimator::fisher_diag::FisherDiag;
use crate::integrate::Batch;
use crate::kernel::nuts::{Nuts, Outcome};
use crate::settings::Settings;
use crate::trace::Store;

/// A draw that a round completed.
#[derive(Clone, Debug)]
pub struct Finished {
    /// Index of the chain within the block.
    pub index: usize,
    /// Its statistics.
    pub outcome: Outcome,
    /// Its step size.
    pub step_size: f64,
    /// Whether it belongs to the warm-up.
    pub tuning: bool,
}

/// Chains with their device and density.
pub struct Block {
    dev: Box<dyn Device>,
    density: Box<dyn Density>,
    arrays: Arrays,
    chains: Vec<Chain>,
    batch: Batch,
    active: Vec<usize>,
    refreshes: Vec<Refresh>,
    refreshed: Vec<usize>,
    kinetic: Vec<f64>,
}

impl Block {
    fn empty(
        mut dev: Box<dyn Device>,
        density: Box<dyn Density>,
        settings: &Settings,
        ids: impl Iterator<Item = u64>,
    ) -> Result<Self> {
        let dim = density.dim();
        let ids: Vec<u64> = ids.collect();
        let n = ids.len();
        let arrays = Arrays {
            dim,
            phase: Phase::alloc(&mut *dev, n * Chain::rows(settings), dim)?,
            metrics: dev.alloc_metrics(n, dim)?,
            moments: Moments::alloc(&mut *dev, n * FisherDiag::ROWS, dim)?,
        };
        let chains = ids.iter().enumerate().map(|(i, id)| Chain::new(settings, *id, i, &arrays)).collect();
        Ok(Block {
            dev,
            density,
            arrays,
            chains,
            batch: Batch::new(n, n * Nuts::spans(&settings.nuts)),
            active: Vec::with_capacity(n),
            refreshes: Vec::with_capacity(n),
            refreshed: Vec::with_capacity(n),
            kinetic: vec![0.0; n],
        })
    }

    /// New chains, each with its index in the run and its initial point.
    pub fn start(
        dev: Box<dyn Device>,
        density: Box<dyn Density>,
        settings: &Settings,
        starts: &[(u64, &[f64])],
    ) -> Result<Self> {
        let mut block = Self::empty(dev, density, settings, starts.iter().map(|s| s.0))?;
        let Block { dev, density, arrays, chains, .. } = &mut block;
        let mut rows = Vec::with_capacity(chains.len());
        for (chain, (_, start)) in chains.iter().zip(starts) {
            if start.len() != arrays.dim {
                return Err(Error::State(format!(
                    "an initial point of {} numbers, not {}",
                    start.len(),
                    arrays.dim
                )));
            }
            rows.push(chain.current_row());
            dev.write(Row { buf: arrays.phase.x, index: chain.current_row() }, start)?;
        }
        let mut logp = vec![0.0; rows.len()];
        density.logp_grad(&mut **dev, &arrays.phase, &rows, &mut logp)?;
        for (chain, logp) in chains.iter_mut().zip(logp) {
            chain.start(&mut **dev, arrays, logp)?;
        }
        Ok(block)
    }

    /// Chains that go on from their states. The settings are those of the states, but for the number of draws.
    pub fn resume(
        dev: Box<dyn Device>,
        density: Box<dyn Density>,
        states: &[ChainState],
        draws: u64,
    ) -> Result<Self> {
        let Some(first) = states.first() else {
            return Err(Error::State("there is none".into()));
        };
        let settings = Settings { draws, ..first.settings.clone() };
        let mut block = Self::empty(dev, density, &settings, states.iter().map(|s| s.chain))?;
        let Block { dev, arrays, chains, .. } = &mut block;
        for (chain, state) in chains.iter_mut().zip(states) {
            chain.load(&mut **dev, arrays, state)?;
        }
        Ok(block)
    }

    /// The chains.
    pub fn chains(&self) -> &[Chain] {
        &self.chains
    }

    /// Whether all chains are done.
    pub fn done(&self) -> bool {
        self.chains.iter().all(Chain::done)
    }

    /// The state of a chain between two draws; `None` in the middle of one.
    pub fn save(&self, index: usize) -> Result<Option<ChainState>> {
        self.chains[index].save(&*self.dev, &self.arrays)
    }

    /// One leapfrog step of every chain that is not done. Complete draws go to the store and to `finished`.
    pub fn round(&mut self, store: &mut dyn Store, mut finished: impl FnMut(Finished)) -> Result<()> {
        let Block { dev, density, arrays, chains, batch, .. } = self;
        self.refreshes.clear();
        self.refreshed.clear();
        for (index, chain) in chains.iter().enumerate() {
            if let Some(refresh) = chain.refresh() {
                self.refreshes.push(refresh);
                self.refreshed.push(index);
            }
        }
        if !self.refreshes.is_empty() {
            let kinetic = &mut self.kinetic[..self.refreshes.len()];
            dev.refresh(&arrays.phase, &arrays.metrics, &self.refreshes, kinetic)?;
            for (index, kinetic) in self.refreshed.iter().zip(kinetic) {
                chains[*index].refreshed(*kinetic);
            }
        }
        batch.clear();
        self.active.clear();
        for (index, chain) in chains.iter_mut().enumerate() {
            if chain.request(batch) {
                self.active.push(index);
            }
        }
        if batch.is_empty() {
            return Ok(());
        }
        batch.run(&mut **dev, &mut **density, &arrays.phase, &arrays.metrics)?;
        for (arrival, &index) in batch.arrivals().zip(&self.active) {
            let chain = &mut chains[index];
            let tuning = chain.tuning();
            if let Some(outcome) = chain.absorb(&arrival, &mut **dev, arrays, store)? {
                finished(Finished { index, outcome, step_size: chain.step_size(), tuning });
            }
        }
        Ok(())
    }
}
