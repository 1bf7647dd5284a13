//! What a chain's warm-up came to, for the result.

use std::sync::Arc;

use crate::adapt::group::FitCounts;
use crate::adapt::handover::{Choice, Handover};
use crate::adapt::member::{Change, Member};
use crate::adapt::pool::Check;
use crate::block::Block;
use crate::error::Result;
use crate::kernel::transitions::Tuned;
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
    /// The kernel that made the draws, and why; `None` if there was nothing to choose or the run ended before.
    pub choice: Option<Choice>,
    /// What was chosen for that kernel, if it is another one than that of the warm-up.
    pub tuned: Option<Tuned>,
    /// Transitions that tuned it, and the gradients that they took.
    pub tuning: [u64; 2],
}

impl ChainReport {
    /// The report of a chain of a block.
    pub fn new(block: &Block, index: usize) -> Result<Self> {
        let chain = &block.chains()[index];
        // One pool for all chains, one for each, or none here.
        let pool = block.pools().get(index).or(block.pools().first());
        let member = chain.adaptation().member();
        let handover = member.and_then(Member::handover);
        let mut fits = member.and_then(Member::group).map(|group| group.counts()).unwrap_or_default();
        fits.rejected += chain.refused_metrics();
        Ok(ChainReport {
            tune: chain.tune(),
            gradients: chain.warmup_gradients(),
            metric: block.metric(index)?,
            changes: chain.adaptation().changes().to_vec(),
            fits,
            lagging: member.is_some_and(Member::is_lagging),
            shares: member.is_some_and(|member| member.group().is_none()),
            choice: handover.and_then(Handover::choice),
            tuned: handover.and_then(Handover::tuned),
            tuning: handover.map(Handover::tuning).unwrap_or_default(),
            checks: pool.map(|pool| pool.checks().to_vec()).unwrap_or_default(),
        })
    }
}
