//! A block of chains that share a device and a density, in rounds of one leapfrog step each.
//!
//! Chains do not wait for each other's trees: each finishes its trajectory, gives its draw away and begins the next. A CPU
//! thread runs a block of one chain; a batched density or a GPU runs all chains as one block.

use std::sync::Arc;

use crate::adapt::Adaptation;
use crate::adapt::pool::Pool;
use crate::chain::{Arrays, Chain, ChainState};
use crate::density::Density;
use crate::device::{Device, Dots, Moments, Phase, Place, Refresh, Renewal, Row};
use crate::error::{Error, Result};
use crate::estimator::fisher_diag::FisherDiag;
use crate::integrate::{Batch, Integrator};
use crate::kernel::{Outcome, Sampler};
use crate::metric::Metric;
use crate::settings::Settings;
use crate::trace::Store;

/// Where a chain begins.
#[derive(Clone, Debug)]
pub struct Start<'a> {
    /// Index of the chain in the run.
    pub chain: u64,
    /// Its initial point.
    pub x: &'a [f64],
    /// Its first metric; None for that of the first gradient.
    pub metric: Option<Arc<Metric>>,
}

impl<'a> Start<'a> {
    /// With the metric of the first gradient.
    pub fn at(chain: u64, x: &'a [f64]) -> Self {
        Start { chain, x, metric: None }
    }
}

/// Which chains warm up together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// Those of the block, if the settings pool any.
    Here,
    /// So many, of which some are in other blocks. Whoever runs the blocks lets them meet.
    Among(usize),
}

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
    /// Whether it is the last of its chain.
    pub last: bool,
}

/// Chains with their device and density.
pub struct Block {
    dev: Box<dyn Device>,
    density: Box<dyn Density>,
    arrays: Arrays,
    chains: Vec<Chain>,
    /// One for all chains, one for each, or none if the chains meet those of other blocks.
    pools: Vec<Pool>,
    batch: Batch,
    active: Vec<usize>,
    /// Chains whose draw is complete.
    drawn: Vec<usize>,
    refreshes: Vec<Refresh>,
    refreshed: Vec<usize>,
    renewals: Vec<Renewal>,
    renewed: Vec<usize>,
    kinetic: Vec<f64>,
    kinetic_again: Vec<f64>,
    places: Vec<Place>,
    pulled: Vec<Place>,
    products: Vec<Dots>,
}

impl Block {
    fn empty(
        mut dev: Box<dyn Device>,
        density: Box<dyn Density>,
        settings: &Settings,
        ids: &[u64],
        pooling: Pooling,
    ) -> Result<Self> {
        let (dim, n) = (density.dim(), ids.len());
        let (pooled, pools) = match pooling {
            Pooling::Among(chains) => (chains, 0),
            Pooling::Here if settings.adapt.pool || settings.sampler == Sampler::Meads => (n, 1),
            Pooling::Here => (1, n),
        };
        let arrays = Arrays {
            dim,
            phase: match settings.integrator {
                Integrator::Leapfrog => Phase::alloc(&mut *dev, n * Chain::rows(settings), dim)?,
                Integrator::ExactNormal => Phase::alloc_with_pull(&mut *dev, n * Chain::rows(settings), dim)?,
            },
            metrics: dev.alloc_metrics(n, dim)?,
            moments: Moments::alloc(&mut *dev, n * FisherDiag::ROWS, dim)?,
        };
        let new_chain = |(i, id): (usize, &u64)| Chain::new(settings, *id, i, pooled, &arrays);
        let chains = ids.iter().enumerate().map(new_chain).collect();
        Ok(Block {
            dev,
            density,
            arrays,
            chains,
            pools: vec![Pool::default(); pools],
            batch: Batch::new(n, n * settings.sampler.spans(settings)),
            active: Vec::with_capacity(n),
            drawn: Vec::with_capacity(n),
            refreshes: Vec::with_capacity(n),
            refreshed: Vec::with_capacity(n),
            renewals: Vec::with_capacity(n),
            renewed: Vec::with_capacity(n),
            kinetic: vec![0.0; n],
            kinetic_again: vec![0.0; n],
            places: Vec::with_capacity(n),
            pulled: Vec::with_capacity(n),
            products: vec![[0.0; 2]; n],
        })
    }

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
        let mut rows = Vec::with_capacity(chains.len());
        for (chain, Start { x, .. }) in chains.iter().zip(starts) {
            if x.len() != arrays.dim {
                return Err(Error::State(format!(
                    "an initial point of {} numbers, not {}",
                    x.len(),
                    arrays.dim
                )));
            }
            rows.push(chain.current_row());
            dev.write(Row { buf: arrays.phase.x, index: chain.current_row() }, x)?;
        }
        let mut logp = vec![0.0; rows.len()];
        density.logp_grad(&mut **dev, &arrays.phase, &rows, &mut logp)?;
        for ((chain, logp), start) in chains.iter_mut().zip(logp).zip(starts) {
            chain.start(&mut **dev, arrays, logp, start.metric.as_ref())?;
        }
        Ok(block)
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
        for (chain, state) in chains.iter_mut().zip(states) {
            chain.load(&mut **dev, arrays, state)?;
        }
        Ok(block)
    }

    /// The chains.
    pub fn chains(&self) -> &[Chain] {
        &self.chains
    }

    /// What the chains share that warm up together.
    pub fn pools(&self) -> &[Pool] {
        &self.pools
    }

    /// The metric of a chain.
    pub fn metric(&self, index: usize) -> Result<Metric> {
        self.dev.metric(&self.arrays.metrics, index)
    }

    /// Whether all chains are done.
    pub fn done(&self) -> bool {
        self.chains.iter().all(Chain::done)
    }

    /// Whether no chain can go on before its pool has met.
    pub fn waiting(&self) -> bool {
        !self.done() && self.chains.iter().all(|chain| chain.waiting() || chain.done())
    }

    /// What the chains bring to a meeting of their pool.
    pub fn members(&mut self) -> impl Iterator<Item = (u64, &mut Adaptation)> {
        self.chains
            .iter_mut()
            .filter(|chain| chain.waiting())
            .map(|chain| (chain.id(), chain.adaptation_mut()))
    }

    /// Go on after the pool has met.
    pub fn after_meeting(&mut self) -> Result<()> {
        let Block { dev, arrays, chains, .. } = self;
        chains
            .iter_mut()
            .filter(|chain| chain.waiting())
            .try_for_each(|chain| chain.after_meeting(&mut **dev, arrays))
    }

    /// Let the chains meet that only wait for chains of this block.
    fn meet_here(&mut self) -> Result<()> {
        match &mut self.pools[..] {
            [] => return Ok(()),
            [pool] if self.chains.iter().all(|chain| chain.waiting() || chain.done()) => {
                let waiting = self.chains.iter_mut().filter(|chain| chain.waiting());
                pool.hold(waiting.map(Chain::adaptation_mut).collect());
            }
            [_] => return Ok(()),
            pools => {
                for (chain, pool) in self.chains.iter_mut().zip(pools).filter(|(chain, _)| chain.waiting()) {
                    pool.hold(vec![chain.adaptation_mut()]);
                }
            }
        }
        self.after_meeting()
    }

    /// The state of a chain between two draws; `None` in the middle of one.
    pub fn save(&self, index: usize) -> Result<Option<ChainState>> {
        self.chains[index].save(&*self.dev, &self.arrays)
    }

    /// Draw the momenta that chains need, and tell them what they want to know of these.
    fn refresh(&mut self) -> Result<()> {
        let Block { dev, arrays, chains, refreshes, refreshed, renewals, renewed, places, pulled, .. } = self;
        refreshes.clear();
        refreshed.clear();
        renewals.clear();
        renewed.clear();
        places.clear();
        pulled.clear();
        for (index, chain) in chains.iter().enumerate() {
            let Some(refresh) = chain.refresh() else { continue };
            let keep = chain.keeps();
            if keep != 0.0 {
                renewals.push(Renewal { fresh: refresh, keep });
                renewed.push(index);
                continue;
            }
            let place = Place { metric: refresh.metric, row: refresh.row };
            if chain.wants_products() {
                places.push(place);
            }
            if chain.wants_pull() {
                pulled.push(place);
            }
            refreshes.push(refresh);
            refreshed.push(index);
        }
        if !renewals.is_empty() {
            let kinetic = &mut self.kinetic[..renewals.len()];
            dev.renew(&arrays.phase, &arrays.metrics, renewals, kinetic)?;
            for (index, kinetic) in renewed.iter().zip(kinetic) {
                chains[*index].refreshed(*kinetic, Dots::default());
            }
        }
        if refreshes.is_empty() {
            return Ok(());
        }
        let kinetic = &mut self.kinetic[..refreshes.len()];
        dev.refresh(&arrays.phase, &arrays.metrics, refreshes, kinetic)?;
        let products = &mut self.products[..places.len()];
        if !places.is_empty() {
            // The kinetic energies are known, and the same.
            let again = &mut self.kinetic_again[..places.len()];
            dev.products(&arrays.phase, &arrays.metrics, places, again, products)?;
        }
        if !pulled.is_empty() {
            dev.pull(&arrays.phase, &arrays.metrics, pulled)?;
        }
        let mut products = products.iter();
        for (index, kinetic) in refreshed.iter().zip(kinetic) {
            let chain = &mut chains[*index];
            let mine = if chain.wants_products() { products.next() } else { None };
            chain.refreshed(*kinetic, mine.copied().unwrap_or_default());
        }
        Ok(())
    }

    /// One leapfrog step of every chain that is not done. Complete draws go to the store and to `finished`.
    pub fn round(&mut self, store: &mut dyn Store, mut finished: impl FnMut(Finished)) -> Result<()> {
        if self.chains.iter().any(Chain::waiting) {
            self.meet_here()?;
        }
        self.refresh()?;
        let Block { dev, density, arrays, chains, batch, .. } = self;
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
        self.drawn.clear();
        self.places.clear();
        for (arrival, &index) in batch.arrivals().zip(&self.active) {
            if let Some(place) = chains[index].absorb(&arrival, &mut **dev, arrays)? {
                self.drawn.push(index);
                self.places.push(place);
            }
        }
        if self.drawn.is_empty() {
            return Ok(());
        }
        let distances = &mut self.kinetic[..self.places.len()];
        dev.fisher_distance(&arrays.phase, &arrays.metrics, &self.places, distances)?;
        for (&index, distance) in self.drawn.iter().zip(distances) {
            let chain = &mut chains[index];
            let tuning = chain.tuning();
            let outcome = chain.finish_draw(*distance, &mut **dev, arrays, store)?;
            finished(Finished { index, outcome, step_size: chain.step_size(), tuning, last: chain.done() });
        }
        Ok(())
    }
}
