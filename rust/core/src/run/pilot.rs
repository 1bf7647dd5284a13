//! The short run of the no-U-turn sampler from whose draws an ensemble starts.
//!
//! Its warm-up finds the posterior from anywhere. Its draws are almost independent of each other and have the scales of the
//! posterior, all that the folds of an ensemble need, so that chains start at draws and not at points scattered around some.

use std::ops::Range;
use std::sync::Arc;

use super::{ChainReport, Control, Output, Run};
use crate::kernel::Sampler;
use crate::metric::Metric;
use crate::settings::Settings;
use crate::trace::{ChainTrace, Keep};

/// Draws of the run for each start.
const SPACING: usize = 2;

/// Makes the random numbers of the run others than those of the ensemble.
const OTHER_SEED: u64 = 0x5851_F42D_4C95_7F2D;

/// The chains of an ensemble whose starts come from one chain of the run, one range after the other.
fn superchains(chains: usize, number: u64) -> Vec<Range<usize>> {
    let number = usize::try_from(number).unwrap_or(usize::MAX).clamp(1, chains.max(1));
    (0..number).map(|i| i * chains / number..(i + 1) * chains / number).collect()
}

/// Run the ensemble after that.
pub(super) fn execute(run: &Run<'_>, control: &Control) -> Output {
    let chains = run.starts.len();
    let superchains = superchains(chains, run.settings.meads.superchains);
    let most = superchains.iter().map(Range::len).max().unwrap_or(1);
    let mut settings = Settings {
        seed: run.settings.seed ^ OTHER_SEED,
        tune: run.settings.meads.pilot,
        draws: (SPACING * most) as u64,
        sampler: Sampler::Nuts,
        ..run.settings.clone()
    };
    settings.adapt.extend = true;
    let first = |of: &Range<usize>| of.start;
    let starts: Vec<Vec<f64>> = superchains.iter().map(|of| run.starts[of.start].clone()).collect();
    let metrics: Vec<_> = superchains.iter().map(|of| run.metrics.get(of.start).cloned().flatten()).collect();
    let keep = Keep { warmup: false, ..Keep::default() };
    let shown = control.before(superchains.iter().map(first));
    shown.chains.iter().for_each(|chain| chain.before(true));
    let before =
        Run { settings: &settings, starts: &starts, metrics: &metrics, keep, ..*run }.execute_chains(&shown);
    shown.chains.iter().for_each(|chain| chain.before(false));
    if before.error.is_some() || control.stopped() {
        return stopped(before, &superchains, chains);
    }
    let starts = spread(&before, &superchains, run.starts[0].len());
    let metric = leader(&before.reports).map(|report| Arc::new(report.metric.clone()));
    let metrics: Vec<Option<Arc<Metric>>> = vec![metric; chains];
    let mut output = Run { starts: &starts, metrics: &metrics, ..*run }.execute_chains(control);
    add_gradients(&mut output, &before, &superchains);
    output
}

/// What a run leaves that ended before the ensemble began.
fn stopped(before: Output, superchains: &[Range<usize>], chains: usize) -> Output {
    let mut output = Output {
        chains: vec![ChainTrace::default(); chains],
        n_gradients: vec![0; chains],
        reports: vec![ChainReport::default(); chains],
        ..Output::default()
    };
    add_gradients(&mut output, &before, superchains);
    Output { error: before.error, ..output }
}

/// Count the gradients of the run before as those of the first chain of each superchain.
fn add_gradients(output: &mut Output, before: &Output, superchains: &[Range<usize>]) {
    for (of, gradients) in superchains.iter().zip(&before.n_gradients) {
        if let Some(n) = output.n_gradients.get_mut(of.start) {
            *n += gradients;
        }
        if let Some(report) = output.reports.get_mut(of.start) {
            report.gradients += gradients;
        }
    }
}

/// The report of a chain that did not lag, if there is one.
fn leader(reports: &[ChainReport]) -> Option<&ChainReport> {
    reports.iter().find(|report| !report.lagging).or(reports.first())
}

/// The starts of the ensemble: for each superchain draws of its own chain, or of others in turn where that one lagged.
fn spread(before: &Output, superchains: &[Range<usize>], dim: usize) -> Vec<Vec<f64>> {
    let good = |chain: &usize| before.reports.get(*chain).is_none_or(|report| !report.lagging);
    let mut usable: Vec<usize> = (0..superchains.len()).filter(good).collect();
    if usable.is_empty() {
        usable = (0..superchains.len()).collect();
    }
    let mut starts = Vec::new();
    for (number, of) in superchains.iter().enumerate() {
        for i in 0..of.len() {
            // Draws that are not taken by the chain's own superchain.
            let (source, shift) =
                if usable.contains(&number) { (number, 0) } else { (usable[i % usable.len()], 1) };
            starts.push(draw(&before.chains[source], (SPACING * i + shift) * dim, dim));
        }
    }
    starts
}

fn draw(trace: &ChainTrace, mut at: usize, dim: usize) -> Vec<f64> {
    for block in &trace.blocks {
        if let Some(x) = block.positions.get(at..at + dim) {
            return x.to_vec();
        }
        at = at.saturating_sub(block.positions.len());
    }
    trace
        .blocks
        .last()
        .map(|block| block.positions[block.positions.len() - dim..].to_vec())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::DrawBlock;

    #[test]
    fn superchains_share_the_chains() {
        assert_eq!(superchains(10, 4), [0..2, 2..5, 5..7, 7..10]);
        assert_eq!(superchains(3, 64), [0..1, 1..2, 2..3]);
    }

    /// Chains whose draw `i` is (10 chain, i), of which some lag.
    fn made(lagging: &[bool], draws: usize) -> Output {
        let trace = |chain: usize| {
            let block = |range: Range<usize>| DrawBlock {
                draws: range.len(),
                positions: range.flat_map(|i| [10.0 * chain as f64, i as f64]).collect(),
                ..DrawBlock::default()
            };
            ChainTrace { blocks: vec![block(0..3), block(3..draws)], ..ChainTrace::default() }
        };
        Output {
            chains: (0..lagging.len()).map(trace).collect(),
            reports: lagging.iter().map(|l| ChainReport { lagging: *l, ..ChainReport::default() }).collect(),
            ..Output::default()
        }
    }

    #[test]
    fn chains_start_at_draws_of_their_own_superchain() {
        let superchains = superchains(8, 2);
        let starts = spread(&made(&[false, false], 8), &superchains, 2);
        assert_eq!(starts[..4], [[0.0, 0.0], [0.0, 2.0], [0.0, 4.0], [0.0, 6.0]]);
        assert_eq!(starts[4..], [[10.0, 0.0], [10.0, 2.0], [10.0, 4.0], [10.0, 6.0]]);
    }

    #[test]
    fn nobody_starts_at_draws_of_a_chain_that_lags() {
        let superchains = superchains(12, 3);
        let starts = spread(&made(&[false, true, false], 8), &superchains, 2);
        assert_eq!(starts[4..8], [[0.0, 1.0], [20.0, 3.0], [0.0, 5.0], [20.0, 7.0]]);
        assert_eq!(starts[8], [20.0, 0.0]);
        // Where all do there is no better.
        assert_eq!(spread(&made(&[true; 3], 8), &superchains, 2)[4], [10.0, 0.0]);
        assert!(leader(&made(&[true, false], 4).reports).is_some_and(|report| !report.lagging));
    }
}
