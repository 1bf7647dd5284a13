//! The trajectories of the sampler once more, written for clarity: all points are kept, and a trajectory is a range of
//! integers.

use nutpie_core::density::HostDensity;
use nutpie_core::metric::Metric;

use super::metrics::velocity;

#[derive(Clone)]
struct Point {
    x: Vec<f64>,
    p: Vec<f64>,
    g: Vec<f64>,
    energy: f64,
}

/// What a trajectory amounts to, but for the draw.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    pub depth: u32,
    pub n_steps: u64,
    pub diverging: bool,
    pub max_depth_reached: bool,
    pub max_energy_error: f64,
    pub accept: f64,
    pub accept_sym: f64,
    /// Points from which the draw is chosen.
    pub first: i64,
    pub last: i64,
}

/// The points through one start, by their number of steps from it.
pub struct Orbit<D> {
    density: D,
    metric: Metric,
    step: f64,
    forward: Vec<Point>,
    backward: Vec<Point>,
}

impl<D: HostDensity> Orbit<D> {
    pub fn new(density: D, metric: &Metric, step: f64, x: &[f64], p: &[f64]) -> Self {
        let mut orbit =
            Orbit { density, metric: metric.clone(), step, forward: Vec::new(), backward: Vec::new() };
        let start = orbit.point(x.to_vec(), p.to_vec());
        orbit.forward.push(start.clone());
        orbit.backward.push(start);
        orbit
    }

    /// A point, of energy NaN where the density has an error.
    fn point(&mut self, x: Vec<f64>, p: Vec<f64>) -> Point {
        let mut g = vec![0.0; x.len()];
        let logp = self.density.logp_grad(&x, &mut g).unwrap_or(f64::NAN);
        let kinetic = 0.5 * p.iter().zip(velocity(&self.metric, &p)).map(|(p, v)| p * v).sum::<f64>();
        Point { x, p, g, energy: kinetic - logp }
    }

    fn leapfrog(&mut self, from: &Point, step: f64) -> Point {
        let n = from.x.len();
        let half: Vec<f64> = (0..n).map(|i| from.p[i] + 0.5 * step * from.g[i]).collect();
        let v = velocity(&self.metric, &half);
        let x: Vec<f64> = (0..n).map(|i| from.x[i] + step * v[i]).collect();
        let mut g = vec![0.0; n];
        // An error at the new point leaves the momentum without a meaning, and the energy NaN.
        drop(self.density.logp_grad(&x, &mut g));
        let p = (0..n).map(|i| half[i] + 0.5 * step * g[i]).collect();
        self.point(x, p)
    }

    fn at(&mut self, i: i64) -> Point {
        let sign = if i < 0 { -1.0 } else { 1.0 };
        loop {
            let side = if i < 0 { &self.backward } else { &self.forward };
            if let Some(point) = side.get(i.unsigned_abs() as usize) {
                return point.clone();
            }
            let edge = side[side.len() - 1].clone();
            let next = self.leapfrog(&edge, sign * self.step);
            (if i < 0 { &mut self.backward } else { &mut self.forward }).push(next);
        }
    }

    /// Position and momentum of a point.
    pub fn place(&mut self, i: i64) -> (Vec<f64>, Vec<f64>) {
        let point = self.at(i);
        (point.x, point.p)
    }

    /// Energy of a point.
    pub fn energy(&mut self, i: i64) -> f64 {
        self.at(i).energy
    }

    /// Whether the span between two points, in any order, is a U-turn: with both ends moved on by half a step, the
    /// displacement points against the momentum at one of them.
    fn turned(&mut self, i: i64, j: i64) -> bool {
        let (a, b) = (self.at(i.min(j)), self.at(i.max(j)));
        let half = 0.5 * self.step;
        let (mut at_a, mut at_b) = (0.0, 0.0);
        let n = a.x.len();
        let moved = |point: &Point, half: f64| -> Vec<f64> {
            let p: Vec<f64> = (0..n).map(|k| point.p[k] + half * point.g[k]).collect();
            velocity(&self.metric, &p).iter().zip(&point.x).map(|(v, x)| x + half * v).collect()
        };
        let (later, earlier) = (moved(&b, half), moved(&a, -half));
        for k in 0..n {
            at_a += (later[k] - earlier[k]) * a.p[k];
            at_b += (later[k] - earlier[k]) * b.p[k];
        }
        at_a <= 0.0 || at_b <= 0.0
    }

    /// The trajectory whose doublings go in these directions; there must be enough of them.
    pub fn trajectory(&mut self, forward: &[bool], max_depth: u32, max_energy_error: f64) -> Summary {
        let start = self.at(0).energy;
        let mut out = Summary {
            depth: 0,
            n_steps: 0,
            diverging: false,
            max_depth_reached: false,
            max_energy_error: 0.0,
            accept: 0.0,
            accept_sym: 0.0,
            first: 0,
            last: 0,
        };
        'doublings: for &forward in forward {
            let sign = if forward { 1 } else { -1 };
            // The subtree is edge + sign 1, ..., edge + sign n, and behind it lie edge, ..., edge - sign (n - 1).
            let edge = if forward { out.last } else { out.first };
            let n = 1i64 << out.depth;
            let mut whole_turned = false;
            for k in 1..=n {
                out.n_steps += 1;
                let error = self.at(edge + sign * k).energy - start;
                if !error.is_finite() {
                    out.max_energy_error = f64::INFINITY;
                } else if error.abs() > out.max_energy_error.abs() {
                    out.max_energy_error = error;
                }
                if !(error.is_finite() && error <= max_energy_error) {
                    out.diverging = true;
                    break 'doublings;
                }
                let ratio = (-error).exp();
                out.accept += ratio.min(1.0);
                out.accept_sym += 2.0 * ratio.min(1.0) / (1.0 + ratio);
                // All pieces of 2, 4, ..., 2n points that end in this point, counted from the edge: the last one is the
                // whole trajectory. Of each the whole, and each half with the nearest point of the other.
                let mut size = 2;
                while size <= 2 * n && (k + n) % size == 0 {
                    let (first, middle) = (k - size + 1, k - size / 2);
                    let mut turned = self.turned(edge + sign * first, edge + sign * k);
                    if size > 2 {
                        turned |= self.turned(edge + sign * first, edge + sign * (middle + 1));
                        turned |= self.turned(edge + sign * middle, edge + sign * k);
                    }
                    if turned && size < 2 * n {
                        break 'doublings;
                    }
                    whole_turned |= turned;
                    size *= 2;
                }
                // The first half of a piece with the nearest point of the second is known before the piece is complete.
                let before = k - 1;
                let half = 1i64 << before.trailing_zeros().min(62);
                if before > 0 && half > 1 && self.turned(edge + sign * (before - half + 1), edge + sign * k) {
                    break 'doublings;
                }
            }
            out.depth += 1;
            *(if forward { &mut out.last } else { &mut out.first }) += sign * n;
            if whole_turned {
                break;
            }
            if out.depth == max_depth {
                out.max_depth_reached = true;
                break;
            }
        }
        out.accept /= out.n_steps as f64;
        out.accept_sym /= out.n_steps as f64;
        out
    }
}
