//! Step size: a search for its order of magnitude, then dual averaging (Hoffman and Gelman 2014, section 3.2).

use serde::{Deserialize, Serialize};

use super::AdaptSettings;

const T0: f64 = 10.0;
const GAMMA: f64 = 0.05;
const KAPPA: f64 = 0.75;

/// Dual averaging of log e towards a mean acceptance statistic:
///
/// h <- (1 - w) h + w (target - accept), w = 1 / (c + t0); log e = mu - h sqrt(c) / gamma;
/// log e_bar <- c^-kappa log e + (1 - c^-kappa) log e_bar; c = 1, 2, ...; mu = log(10 e_0).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DualAverage {
    mu: f64,
    h: f64,
    log_step: f64,
    log_step_bar: f64,
    count: u64,
}

impl DualAverage {
    /// Begin at a step size that is only a guess.
    pub fn new(step: f64) -> Self {
        Self::towards(10.0 * step, step)
    }

    /// Begin at a step size that other chains have found good, so that large steps are not tried first: mu = log(2 e_0).
    pub fn near(step: f64) -> Self {
        Self::towards(2.0 * step, step)
    }

    fn towards(target: f64, step: f64) -> Self {
        DualAverage { mu: target.ln(), h: 0.0, log_step: step.ln(), log_step_bar: step.ln(), count: 0 }
    }

    /// Take in the acceptance statistic of a draw.
    pub fn update(&mut self, accept: f64, settings: &AdaptSettings) {
        self.count += 1;
        let count = self.count as f64;
        let weight = 1.0 / (count + T0);
        self.h = (1.0 - weight) * self.h + weight * (settings.target_accept - accept);
        self.log_step = (self.mu - self.h * count.sqrt() / GAMMA).min(settings.max_step_size.ln());
        let weight = count.powf(-KAPPA);
        self.log_step_bar = weight * self.log_step + (1.0 - weight) * self.log_step_bar;
    }

    /// The step size to explore with.
    pub fn current(&self) -> f64 {
        self.log_step.exp()
    }

    /// The averaged step size, to sample with.
    pub fn average(&self) -> f64 {
        self.log_step_bar.exp()
    }
}

/// Search for a step size at which one leapfrog step has about the target acceptance: doubling or halving from a guess,
/// with one momentum.
#[derive(Clone, Debug, PartialEq)]
pub struct StepSearch {
    step: f64,
    growing: Option<bool>,
    tries: u32,
}

/// The outcome of one try.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Found {
    /// Try this signed step size next.
    Try(f64),
    /// This is the step size.
    Step(f64),
}

const SMALLEST: f64 = 1e-10;
const LARGEST: f64 = 1e5;
const MAX_TRIES: u32 = 100;

impl StepSearch {
    /// Begin with a guess, which is to be tried first.
    pub fn new(step: f64) -> Self {
        StepSearch { step, growing: None, tries: 0 }
    }

    /// The signed step size to try: forward while it grows, backward while it shrinks.
    pub fn signed_step(&self) -> f64 {
        if self.growing == Some(false) { -self.step } else { self.step }
    }

    /// Take in the acceptance probability of the try, zero where the step failed.
    pub fn update(&mut self, accept: f64, settings: &AdaptSettings) -> Found {
        self.tries += 1;
        let above = accept > settings.target_accept;
        let growing = *self.growing.get_or_insert(above);
        let out_of_range = if growing { self.step > LARGEST } else { self.step < SMALLEST };
        if above != growing || out_of_range || self.tries >= MAX_TRIES {
            // A growing step that failed altogether is no start; the one before it was fine.
            let step = if growing && accept == 0.0 { 0.5 * self.step } else { self.step };
            return Found::Step(step.min(settings.max_step_size));
        }
        self.step *= if growing { 2.0 } else { 0.5 };
        Found::Try(self.signed_step())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dual_averaging_follows_its_formulas() {
        let settings = AdaptSettings::default();
        let mut d = DualAverage::new(0.5);
        d.update(0.6, &settings);
        let h = 0.2 / 11.0;
        let log_step: f64 = 5f64.ln() - h / 0.05;
        assert!((d.current() - log_step.exp().min(std::f64::consts::PI)).abs() < 1e-12);
        assert!((d.average() - d.current()).abs() < 1e-12);
        d.update(0.9, &settings);
        let h = h * 11.0 / 12.0 - 0.1 / 12.0;
        let second = (5f64.ln() - h * 2f64.sqrt() / 0.05).min(std::f64::consts::PI.ln());
        let w = 2f64.powf(-0.75);
        let first = log_step.min(std::f64::consts::PI.ln());
        assert!((d.average().ln() - (w * second + (1.0 - w) * first)).abs() < 1e-12);
    }

    #[test]
    fn dual_averaging_reaches_the_target() {
        // A smooth acceptance curve: the averaged step must be where it crosses the target.
        let settings = AdaptSettings::default();
        let mut d = DualAverage::new(0.1);
        for _ in 0..2000 {
            d.update((-d.current()).exp(), &settings);
        }
        assert!((d.average() - -(0.8f64.ln())).abs() < 0.01, "{}", d.average());
    }

    #[test]
    fn the_search_brackets_the_target() {
        let settings = AdaptSettings::default();
        for scale in [1e-6, 1e-3, 0.1, 1.0, 100.0] {
            let accept = |step: f64| (-(step.abs() / scale)).exp();
            let mut search = StepSearch::new(settings.initial_step);
            let step = loop {
                if let Found::Step(step) = search.update(accept(search.signed_step()), &settings) {
                    break step;
                }
            };
            let ideal = (0.223 * scale).min(settings.max_step_size);
            assert!(step <= 2.0 * ideal + 1e-12 && step >= 0.5 * ideal, "{scale}: {step}");
        }
    }

    #[test]
    fn the_search_ends_where_nothing_works() {
        let settings = AdaptSettings::default();
        for accept in [0.0, 1.0] {
            let mut search = StepSearch::new(0.1);
            let mut tries = 0;
            while let Found::Try(_) = search.update(accept, &settings) {
                tries += 1;
                assert!(tries < 101);
            }
        }
    }
}
