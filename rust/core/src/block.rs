//! A block of chains that share a device and a density, in rounds of one leapfrog step each.
//!
//! Chains do not wait for each other's trees: each finishes its trajectory, gives its draw away and begins the next. A CPU
//! thread runs a block of one chain; a batched density or a GPU runs all chains as one block.

mod begin;

use std::sync::Arc;

use crate::adapt::Adaptation;
use crate::adapt::pool::Pool;
use crate::chain::{Absorbed, Arrays, Before, Chain, ChainState};
use crate::density::Density;
use crate::device::{Device, Dots, Moments, Phase, Place, Refresh, Renewal};
use crate::error::Result;
use crate::estimator::fisher_diag::{FisherDiag, Updates};
use crate::integrate::{Batch, Integrator};
use crate::kernel::{Outcome, Sampler};
use crate::metric::Metric;
use crate::settings::Settings;
use crate::trace::{Record, Records, Store};

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
    /// Points that are to be kept: the row of each, and where it goes.
    kept: Vec<[usize; 2]>,
    /// Chains that tried a way out of a bad start.
    tried: Vec<usize>,
    /// Draws that are complete.
    drawn: Vec<Finished>,
    records: Vec<Record>,
    updates: Updates,
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
            kept: Vec::with_capacity(n),
            tried: Vec::with_capacity(n),
            drawn: Vec::with_capacity(n),
            records: Vec::with_capacity(n),
            updates: Updates::new(n),
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
        let mut before = Before::default();
        chains
            .iter_mut()
            .filter(|chain| chain.waiting())
            .try_for_each(|chain| chain.after_meeting(&mut **dev, arrays, &mut before))?;
        // Momenta of an ensemble follow their metrics.
        dev.read_rows(arrays.phase.p, &mut chains.iter_mut().flat_map(|chain| chain.wanted(false)))?;
        dev.write_rows(arrays.phase.p, &mut chains.iter_mut().filter_map(Chain::rescaled))
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
        self.absorb()?;
        self.leave_bad_starts()?;
        self.finish_draws(store)?;
        for mut done in self.drawn.drain(..) {
            let chain = &self.chains[done.index];
            (done.step_size, done.last) = (chain.step_size(), chain.done());
            finished(done);
        }
        Ok(())
    }

    /// Let the chains take in their steps.
    fn absorb(&mut self) -> Result<()> {
        let Block { dev, arrays, chains, batch, kept, tried, drawn, places, .. } = self;
        kept.clear();
        tried.clear();
        drawn.clear();
        places.clear();
        for (arrival, &index) in batch.arrivals().zip(&self.active) {
            let chain = &mut chains[index];
            match chain.absorb(&arrival, kept) {
                Absorbed::Step => {}
                Absorbed::Try => tried.push(index),
                Absorbed::Draw(place) => {
                    let (outcome, tuning) = (chain.outcome(), chain.tuning());
                    drawn.push(Finished {
                        index,
                        outcome,
                        step_size: chain.step_size(),
                        tuning,
                        last: false,
                    });
                    places.push(place);
                }
            }
        }
        if kept.is_empty() {
            return Ok(());
        }
        [arrays.phase.x, arrays.phase.g].into_iter().try_for_each(|buf| dev.copy(buf, buf, kept))
    }

    /// Let positions and gradients come to the host that chains want.
    fn fetch(&mut self) -> Result<()> {
        let Block { dev, arrays, chains, .. } = self;
        for (buf, gradients) in [(arrays.phase.x, false), (arrays.phase.g, true)] {
            dev.read_rows(buf, &mut chains.iter_mut().flat_map(|chain| chain.wanted(gradients)))?;
        }
        Ok(())
    }

    /// Give the draws that are complete to the adaptation and to the store. All chains take each part of it together.
    fn finish_draws(&mut self, store: &mut dyn Store) -> Result<()> {
        if self.drawn.is_empty() {
            return Ok(());
        }
        let Block { dev, arrays, chains, drawn, records, places, .. } = self;
        let Arrays { dim, phase, metrics, moments } = *arrays;
        let distances = &mut self.kinetic[..places.len()];
        dev.fisher_distance(&phase, &metrics, places, distances)?;
        records.clear();
        for (Finished { index, outcome, .. }, distance) in drawn.iter().zip(distances) {
            records.push(chains[*index].record(outcome, *distance));
            chains[*index].show(outcome, dim);
        }
        self.fetch()?;
        let Block { dev, chains, drawn, records, updates, .. } = self;
        for Finished { index, outcome, .. } in &*drawn {
            chains[*index].adapt(outcome, updates);
        }
        updates.run(&mut **dev, &metrics, &moments, &phase)?;
        for (Finished { index, outcome, .. }, record) in drawn.iter().zip(&mut *records) {
            chains[*index].finish_draw(outcome, record, &mut **dev, &self.arrays)?;
        }
        store.append(&mut **dev, &Records { draws: records, phase, metrics, dim })
    }
}
