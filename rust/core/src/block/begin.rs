//! How the chains of a block begin, and how they go on from saved states.

use std::sync::Arc;

use super::{Block, Pooling, Start};
use crate::adapt::pool::Pool;
use crate::chain::{Chain, ChainState};
use crate::density::Density;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::metric::Metric;
use crate::settings::Settings;

impl Block {
    /// New chains.
    pub fn start(
        dev: Box<dyn Device>,
        density: Box<dyn Density>,
        settings: &Settings,
        starts: &[Start<'_>],
        pooling: Pooling,
    ) -> Result<Self> {
        let ids: Vec<u64> = starts.iter().map(|start| start.chain).collect();
        let mut block = Self::empty(dev, density, settings, &ids, pooling)?;
        let Block { dev, density, arrays, chains, .. } = &mut block;
        if let Some(start) = starts.iter().find(|start| start.x.len() != arrays.dim) {
            let length = start.x.len();
            return Err(Error::State(format!("an initial point of {length} numbers, not {}", arrays.dim)));
        }
        let rows: Vec<usize> = chains.iter().map(Chain::current_row).collect();
        dev.write_rows(arrays.phase.x, &mut rows.iter().zip(starts).map(|(row, start)| (*row, start.x)))?;
        let mut logp = vec![0.0; rows.len()];
        density.logp_grad(&mut **dev, &arrays.phase, &rows, &mut logp)?;
        for ((chain, logp), start) in chains.iter_mut().zip(logp).zip(starts) {
            chain.arrive(&mut **dev, arrays, logp, start.metric.as_ref())?;
        }
        block.fetch()?;
        let (down, ready) = (0..rows.len()).partition(|index| block.chains[*index].look_around());
        block.begin(ready)?;
        block.go_down(down)?;
        Ok(block)
    }

    /// Let chains leave bad starts: write the next positions to try. Some begin to sample instead.
    fn go_down(&mut self, chains: Vec<usize>) -> Result<()> {
        let mut moves: Vec<(usize, &[f64])> = Vec::new();
        let mut ready = Vec::new();
        let mut next = chains.into_iter().peekable();
        for (index, chain) in self.chains.iter_mut().enumerate() {
            if next.next_if_eq(&index).is_some() {
                match chain.go_down() {
                    Some(way) => moves.push(way),
                    None => ready.push(index),
                }
            }
        }
        self.dev.write_rows(self.arrays.phase.x, &mut moves.into_iter())?;
        self.begin(ready)
    }

    /// Let chains take in the positions that they have tried.
    pub(super) fn leave_bad_starts(&mut self) -> Result<()> {
        if self.tried.is_empty() {
            return Ok(());
        }
        let (tried, dim) = (std::mem::take(&mut self.tried), self.arrays.dim);
        tried.iter().for_each(|index| self.chains[*index].want_tried(dim));
        self.fetch()?;
        tried.iter().for_each(|index| self.chains[*index].descend(dim));
        self.fetch()?;
        self.go_down(tried)
    }

    /// Let chains begin to sample where they are.
    fn begin(&mut self, ready: Vec<usize>) -> Result<()> {
        let Block { dev, arrays, chains, updates, .. } = self;
        let places: Vec<_> = ready.iter().filter_map(|index| chains[*index].first_metric()).collect();
        if !places.is_empty() {
            dev.metric_from_gradient(&arrays.metrics, &arrays.phase, &places)?;
        }
        ready.iter().try_for_each(|index| chains[*index].begin(&**dev, arrays, updates))?;
        updates.run(&mut **dev, &arrays.metrics, &arrays.moments, &arrays.phase)
    }

    /// Chains that go on from their states, with the pools that they had. The settings are those of the states, but for the
    /// number of draws.
    pub fn resume(
        dev: Box<dyn Device>,
        density: Box<dyn Density>,
        states: &[ChainState],
        pools: &[Pool],
        draws: u64,
    ) -> Result<Self> {
        let Some(first) = states.first() else {
            return Err(Error::State("there is none".into()));
        };
        let settings = Settings { draws, ..first.settings.clone() };
        let ids: Vec<u64> = states.iter().map(|state| state.chain).collect();
        let mut block = Self::empty(dev, density, &settings, &ids, Pooling::Here)?;
        if pools.len() == block.pools.len() {
            block.pools.clone_from_slice(pools);
        } else {
            return Err(Error::State(format!("it has {} pools, not {}", pools.len(), block.pools.len())));
        }
        let Block { dev, arrays, chains, .. } = &mut block;
        let mut metrics: Vec<(&ChainState, Arc<Metric>)> = Vec::new();
        for (chain, state) in chains.iter_mut().zip(states) {
            // What chains had in common was saved with each of them.
            let same = |(other, _): &&(&ChainState, _)| {
                other.inv_mass == state.inv_mass && other.metric == state.metric
            };
            let metric = match metrics.iter().find(same) {
                Some((_, metric)) => metric.clone(),
                None => {
                    let metric = Arc::new(state.metric.clone());
                    metrics.push((state, metric.clone()));
                    metric
                }
            };
            chain.load(&mut **dev, arrays, state, &metric)?;
        }
        Ok(block)
    }
}
