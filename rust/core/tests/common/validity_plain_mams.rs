//! The microcanonical kernel written plainly, in coordinates in which a diagonal metric is the identity, with half kicks by
//! hyperbolic functions and a weight that can be broken.
#![allow(clippy::expect_used)]

use nutpie_core::density::HostDensity;
use nutpie_core::kernel::transitions::Tuned;
use nutpie_core::rng::{Key, Purpose, Stream, fill_normal};

pub struct PlainMams {
    seed: u64,
    scales: Vec<f64>,
    tuned: Tuned,
    /// Multiple of W in the weight; 1 is right.
    factor: f64,
    count: u32,
}

impl PlainMams {
    pub fn new(seed: u64, scales: Vec<f64>, tuned: Tuned, factor: f64) -> Self {
        PlainMams { seed, scales, tuned, factor, count: 0 }
    }

    fn evaluate(&self, density: &mut impl HostDensity, x: &[f64]) -> (f64, Vec<f64>) {
        let mut g = vec![0.0; x.len()];
        let logp = density.logp_grad(x, &mut g).expect("a target without errors");
        (logp, g.iter().zip(&self.scales).map(|(g, s)| g * s).collect())
    }

    /// A half kick; returns what it adds to W.
    fn kick(u: &mut [f64], g: &[f64], h: f64) -> f64 {
        let d = u.len() as f64;
        let norm = g.iter().map(|g| g * g).sum::<f64>().sqrt();
        let a = 0.5 * h * d.sqrt() * norm / (d - 1.0);
        let c: f64 = u.iter().zip(g).map(|(u, g)| u * g / norm).sum();
        let below = a.cosh() + c * a.sinh();
        for (u, g) in u.iter_mut().zip(g) {
            *u = (*u + g / norm * (a.sinh() + c * (a.cosh() - 1.0))) / below;
        }
        (d - 1.0) * below.ln()
    }

    pub fn transition(&mut self, density: &mut impl HostDensity, start: &[f64]) -> Vec<f64> {
        self.count += 1;
        let key = Key { seed: self.seed, chain: 77, draw: self.count };
        let mut random = Stream::new(key, Purpose::Trajectory);
        let mut u = vec![0.0; start.len()];
        fill_normal(key, Purpose::Momentum, &mut u);
        let norm = u.iter().map(|u| u * u).sum::<f64>().sqrt();
        u.iter_mut().for_each(|u| *u /= norm);
        // Lengths without a sequence, which are right as well.
        let time = 2.0 * self.tuned.length * random.uniform().max(0.0005);
        let steps = (time / self.tuned.step).ceil();
        let (h, speed) = (time / steps, (start.len() as f64).sqrt());
        let (mut x, mut work) = (start.to_vec(), 0.0);
        let (logp, mut g) = self.evaluate(density, &x);
        let mut end = logp;
        for _ in 0..steps as usize {
            work += Self::kick(&mut u, &g, h);
            x.iter_mut().zip(&u).zip(&self.scales).for_each(|((x, u), s)| *x += h * speed * u * s);
            (end, g) = self.evaluate(density, &x);
            work += Self::kick(&mut u, &g, h);
        }
        if random.uniform() < (end - logp - self.factor * work).exp() { x } else { start.to_vec() }
    }
}
