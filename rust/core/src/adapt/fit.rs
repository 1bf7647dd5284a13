//! Which estimator fits the metric of a pooled warm-up, and whether it is worth its cost.

use super::settings::{AdaptSettings, Scheme};
use crate::estimator::cost::{cost_seconds, pursuit_seconds};
use crate::estimator::fisher_low_rank::FisherOptions;
use crate::estimator::fisher_pursuit::{self, MOST_ROUNDS, PursuitOptions};
use crate::estimator::points::{Point, PointSample};
use crate::estimator::{fisher_dense, fisher_diag_points, fisher_low_rank};
use crate::metric::Metric;

/// A metric, if the numbers allow one, and the seconds that it is taken to have cost.
pub(super) type Fitted = (Option<Metric>, f64);

/// Points that a fit may do with where more would cost too much.
const FEWER: [usize; 3] = [1, 2, 4];

/// Fewer points than this do not make a metric.
const MIN_POINTS: usize = 3;

/// The metric of a sample, of which it looks at `max_points`, for at most so many seconds. If it is needed, it is fitted
/// whatever it costs, but to no more points than it must. Where that pays for no eigenvectors, it is diagonal; `None`
/// instead if the previous one has eigenvectors, or if there are too few points.
pub(super) fn fit(
    sample: &PointSample,
    max_points: usize,
    previous: &Metric,
    settings: &AdaptSettings,
    seconds: f64,
    needed: bool,
) -> Option<Fitted> {
    if sample.len() < MIN_POINTS {
        return None;
    }
    for fewer in FEWER {
        let points = sample.select(max_points / fewer);
        let needed = needed && Some(&fewer) == FEWER.last();
        let coupled = match settings.scheme {
            Scheme::Auto => pursue(&points, previous, settings, seconds, needed),
            _ => at_once(&points, previous, settings, seconds, needed),
        };
        if coupled.is_some() {
            return coupled;
        }
    }
    (previous.rank() == 0).then(|| (fisher_diag_points::fit(&sample.select(max_points), previous), 0.0))
}

/// Seconds of a fit to so many points that leaves nothing out.
pub(super) fn seconds_of_last(max_points: usize, dim: usize) -> f64 {
    pursuit_seconds(max_points, dim, 1)
}

fn pursue(
    points: &[Point<'_>],
    previous: &Metric,
    settings: &AdaptSettings,
    seconds: f64,
    needed: bool,
) -> Option<Fitted> {
    let cost = |rounds| pursuit_seconds(points.len(), previous.dim(), rounds);
    let paid = (1..=MOST_ROUNDS).rev().find(|rounds| cost(*rounds) <= seconds);
    let rounds = paid.or(needed.then_some(1))?;
    let options =
        PursuitOptions { cutoff: settings.eigval_cutoff, max_rank: settings.max_rank as usize, rounds };
    Some(match fisher_pursuit::fit(points, previous, &options) {
        Some((metric, made)) => (Some(metric), cost(made)),
        None => (None, cost(1)),
    })
}

fn at_once(
    points: &[Point<'_>],
    previous: &Metric,
    settings: &AdaptSettings,
    seconds: f64,
    needed: bool,
) -> Option<Fitted> {
    let options = FisherOptions {
        cutoff: settings.eigval_cutoff,
        max_rank: Some(settings.max_rank as usize),
        ..FisherOptions::default()
    };
    let cost = cost_seconds(points.len(), previous.dim(), &options);
    (needed || cost <= seconds).then(|| {
        let metric = match settings.scheme {
            Scheme::Dense => fisher_dense::fit(points, previous, &FisherOptions::dense()),
            _ => fisher_low_rank::fit(points, previous, &options),
        };
        (metric, cost)
    })
}
