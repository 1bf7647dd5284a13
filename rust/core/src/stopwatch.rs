//! How long draws take, at a cost that even the shortest of them do not notice.

use std::time::{Duration, Instant};

/// Draws that follow each other within this time share a look at the clock, which costs some thirty nanoseconds.
const TOGETHER: Duration = Duration::from_micros(10);

/// Most leapfrog steps between two looks, for clocks that may not have gone on since the last one.
const MOST_STEPS: f64 = 1000.0;

/// Tells how long each of consecutive draws took. Of short draws only one in a few is measured; the others are taken to
/// be as fast per leapfrog step as those before, and the measured one makes up for the difference.
#[derive(Clone, Debug)]
pub struct Stopwatch {
    /// Last look at the clock.
    looked: Instant,
    /// Leapfrog steps since then, and seconds that were given out for them.
    steps: u64,
    given: f64,
    /// Steps until the next look, and seconds of a step before the last one.
    until: u64,
    per_step: f64,
}

impl Stopwatch {
    /// Begin now.
    pub fn new(now: Instant) -> Self {
        Stopwatch { looked: now, steps: 0, given: 0.0, until: 0, per_step: 0.0 }
    }

    /// Seconds of the draw that ends now, after that many leapfrog steps.
    pub fn lap(&mut self, steps: u64, now: impl FnOnce() -> Instant) -> f64 {
        self.steps += steps;
        if self.steps < self.until {
            let guess = steps as f64 * self.per_step;
            self.given += guess;
            return guess;
        }
        let now = now();
        let passed = now.saturating_duration_since(self.looked).as_secs_f64();
        let rest = (passed - self.given).max(0.0);
        let per_step = passed / self.steps.max(1) as f64;
        let until = (TOGETHER.as_secs_f64() / per_step).min(MOST_STEPS) as u64;
        *self = Stopwatch { looked: now, steps: 0, given: 0.0, until, per_step };
        rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is told of draws that take so many microseconds, each of `steps` steps; and how often the clock was read.
    fn told(microseconds: &[u64], steps: u64) -> (Vec<f64>, usize) {
        let start = Instant::now();
        let mut watch = Stopwatch::new(start);
        let (mut now, mut looks) = (start, 0);
        let laps = microseconds.iter().map(|us| {
            now += Duration::from_micros(*us);
            let lap = watch.lap(steps, || {
                looks += 1;
                now
            });
            1e6 * lap
        });
        (laps.collect(), looks)
    }

    fn near(a: &[f64], b: &[f64]) -> bool {
        a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-6)
    }

    #[test]
    fn long_draws_are_measured_one_by_one() {
        let (laps, looks) = told(&[20, 300, 11, 5000], 1);
        assert!(near(&laps, &[20.0, 300.0, 11.0, 5000.0]), "{laps:?}");
        assert_eq!(looks, 4);
    }

    #[test]
    fn short_draws_share_looks_at_the_clock() {
        let (laps, looks) = told(&[2; 501], 4);
        assert!(near(&laps, &[2.0; 501]), "{laps:?}");
        assert_eq!(looks, 101);
    }

    #[test]
    fn a_clock_that_stands_still_is_looked_at_again() {
        let mut microseconds = vec![0; 400];
        microseconds.push(1_000_000);
        let (laps, looks) = told(&microseconds, 3);
        assert_eq!(laps.iter().sum::<f64>(), 0.0);
        assert_eq!(looks, 2);
        microseconds.extend([0; 400]);
        let (laps, _) = told(&microseconds, 3);
        assert!((laps.iter().sum::<f64>() - 1e6).abs() < 1e-3);
    }

    #[test]
    fn nothing_is_lost_when_draws_become_slower() {
        let (laps, _) = told(&[2, 2, 2, 2, 2, 50, 60, 2, 2, 2, 2, 2], 3);
        // The sixth draw is measured, and was long; so are the seventh and the eighth.
        assert!(near(&laps, &[2.0, 2.0, 2.0, 2.0, 2.0, 50.0, 60.0, 2.0, 2.0, 2.0, 2.0, 2.0]), "{laps:?}");
    }
}
