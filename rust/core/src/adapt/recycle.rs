//! Points of a trajectory besides its draw, for the estimate of the metric.
//!
//! A trajectory passes through many points of the target, of which one becomes the draw. Another is chosen among all of
//! them, those of rejected subtrees too, with probability proportional to its weight exp(E_0 - E), as they come by
//! (Chao 1982): point k replaces the choice so far with probability w_k / (w_1 + ... + w_k).

use crate::rng::{Key, Purpose, Stream};

/// Points of a larger energy error are left out: they say little and may be far out.
const MAX_ENERGY_ERROR: f64 = 50.0;

/// The choice among the points of one trajectory.
#[derive(Clone, Debug)]
pub struct Reservoir {
    stream: Stream,
    log_total: f64,
    chosen: Option<i64>,
}

impl Reservoir {
    /// For the trajectory of a draw.
    pub fn new(key: Key) -> Self {
        Reservoir { stream: Stream::new(key, Purpose::Recycling), log_total: f64::NEG_INFINITY, chosen: None }
    }

    /// Offer the point `index` steps from the start. True if it is the choice now.
    pub fn offer(&mut self, index: i64, energy_error: f64) -> bool {
        if !energy_error.is_finite() || energy_error > MAX_ENERGY_ERROR {
            return false;
        }
        let log_weight = -energy_error;
        let (high, low) = (self.log_total.max(log_weight), self.log_total.min(log_weight));
        self.log_total = high + (low - high).exp().ln_1p();
        let takes = self.stream.uniform() < (log_weight - self.log_total).exp();
        if takes {
            self.chosen = Some(index);
        }
        takes
    }

    /// Steps from the start to the choice.
    pub fn chosen(&self) -> Option<i64> {
        self.chosen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_chosen_by_their_weights() {
        let errors = [0.0, 1.0, -1.0, 0.5, 60.0, f64::NAN, f64::INFINITY];
        let weights: Vec<f64> =
            errors.iter().map(|e: &f64| if *e < 50.0 { (-e).exp() } else { 0.0 }).collect();
        let total: f64 = weights.iter().sum();
        let n = 40_000;
        let mut counts = [0; 7];
        for draw in 0..n {
            let mut reservoir = Reservoir::new(Key { seed: 3, chain: 1, draw });
            for (i, error) in errors.iter().enumerate() {
                reservoir.offer(i as i64, *error);
            }
            counts[reservoir.chosen().unwrap() as usize] += 1;
        }
        for (count, weight) in counts.into_iter().zip(weights) {
            let p = weight / total;
            let error = f64::from(count) / f64::from(n) - p;
            assert!(error.abs() <= 5.0 * (p * (1.0 - p) / f64::from(n)).sqrt(), "{count} for {p}");
        }
    }

    #[test]
    fn an_empty_trajectory_has_no_choice() {
        let mut reservoir = Reservoir::new(Key { seed: 0, chain: 0, draw: 0 });
        assert!(!reservoir.offer(1, f64::INFINITY));
        assert_eq!(reservoir.chosen(), None);
    }
}
