//! What a chain's warm-up came to, for the result.

use std::sync::Arc;

use crate::adapt::group::FitCounts;
use crate::adapt::member::{Change, Member};
use crate::adapt::pool::Check;
use crate::block::Block;
use crate::error::Result;
use crate::metric::Metric;

/// The warm-up of a chain.
#[derive(Clone, Debug, Default)]
pub struct ChainReport {
    /// Warm-up draws.
    pub tune: u64,
    /// Gradients of the warm-up, those of searches for a step size included.
    pub gradients: u64,
    /// The metric in force at the end.
    pub metric: Metric,
    /// How it came about.
    pub changes: Vec<Arc<Change>>,
    /// How often it was fitted, by the chain or for all that share it.
    pub fits: FitCounts,
    /// Whether the chain was far below the others at the end of the warm-up.
    pub lagging: bool,
    /// Whether the chain shares its metric with others.
    pub shares: bool,
    /// Checks of a metric that the chain does not share.
    pub checks: Vec<Check>,
}

impl ChainReport {
    /// The report of the first chain of a block.
    pub fn new(block: &Block) -> Result<Self> {
        let Some(chain) = block.chains().first() else { return Ok(Self::default()) };
        let member = chain.adaptation().member();
        let mut fits = member.and_then(Member::group).map(|group| group.counts()).unwrap_or_default();
        fits.rejected += chain.refused_metrics();
        Ok(ChainReport {
            tune: chain.tune(),
            gradients: chain.warmup_gradients(),
            metric: block.metric(0)?,
            changes: chain.adaptation().changes().to_vec(),
            fits,
            lagging: member.is_some_and(Member::is_lagging),
            shares: member.is_some_and(|member| member.group().is_none()),
            checks: block.pools().first().map(|pool| pool.checks().to_vec()).unwrap_or_default(),
        })
    }
}
