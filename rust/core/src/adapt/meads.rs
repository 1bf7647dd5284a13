//! Maximum-eigenvalue adaptation of damping and step size (Hoffman and Sountsov 2022): its settings, and what a fold of an
//! ensemble says of the scales around it.

use serde::{Deserialize, Serialize};

use crate::metric::Metric;
use crate::settings::{Configure, Field, Named, Setting, Value};

/// Points that an eigenvalue is estimated from at most, since it takes the products of all pairs.
const MOST_POINTS: usize = 32;

/// Largest step size, in the coordinates of the metric.
const LARGEST_STEP: f64 = 1.0;

/// Which metric momenta have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum MomentumMetric {
    /// The diagonal of variances.
    #[default]
    Diag,
    /// One with as many eigenvectors as draws and gradients call for.
    LowRank,
}

impl MomentumMetric {
    const NAMES: &'static [&'static str] = &["diag", "low_rank"];
}

impl Named for MomentumMetric {
    fn name(&self) -> &'static str {
        Self::NAMES[*self as usize]
    }

    fn choose(&mut self, name: &str) -> bool {
        *self = match name {
            "diag" => MomentumMetric::Diag,
            "low_rank" => MomentumMetric::LowRank,
            _ => return false,
        };
        true
    }
}

/// Settings of an ensemble.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MeadsSettings {
    /// Folds.
    pub folds: u64,
    /// Step size over the inverse root of the largest eigenvalue of the gradients.
    pub step_scale: f64,
    /// Least mean acceptance probability: with a lower one steps get smaller.
    pub target_accept: f64,
    /// How long damping is stronger early on.
    pub slowdown: f64,
    /// Metric of the momenta.
    pub metric: MomentumMetric,
    /// Transitions for each draw.
    pub transitions: u64,
    /// Warm-up draws of the run that the ensemble starts from; 0 for none.
    pub pilot: u64,
    /// Chains of that run, each of which gives the starts of a superchain.
    pub superchains: u64,
}

impl Default for MeadsSettings {
    fn default() -> Self {
        MeadsSettings {
            folds: 4,
            step_scale: 0.5,
            target_accept: 0.8,
            slowdown: 1.0,
            metric: MomentumMetric::default(),
            transitions: 1,
            pilot: 150,
            superchains: 4,
        }
    }
}

impl Configure for MeadsSettings {
    const SETTINGS: &'static [Setting] = &[
        Setting {
            name: "meads_folds",
            default: Value::Int(4),
            min: 2.0,
            max: 1000.0,
            doc: "Folds of the ensemble of 'meads': chains of one move with the step size, the damping and the scales that \
                  those of another call for. There must be two chains for each at least.",
        },
        Setting {
            name: "meads_step_scale",
            default: Value::Float(0.5),
            min: 1e-3,
            max: 2.0,
            doc: "Step size of 'meads' times the root of the largest eigenvalue that gradients show, in the coordinates of the \
                  metric.",
        },
        Setting {
            name: "meads_target_accept",
            default: Value::Float(0.8),
            min: 0.0,
            max: 0.999,
            doc: "Where the mean acceptance probability of 'meads' is below this, steps are smaller than the gradients call for.",
        },
        Setting {
            name: "meads_slowdown",
            default: Value::Float(1.0),
            min: 0.0,
            max: 1e6,
            doc: "Early in the warm-up of 'meads' the damping is at least this over the time so far.",
        },
        Setting {
            name: "meads_metric",
            default: Value::Name(MomentumMetric::NAMES),
            min: 0.0,
            max: 0.0,
            doc: "Inverse mass matrix of 'meads': 'diag', the variances of the chains' positions, or 'low_rank', with as many \
                  eigenvectors as positions and gradients call for.",
        },
        Setting {
            name: "meads_transitions",
            default: Value::Int(1),
            min: 1.0,
            max: 1e6,
            doc: "Transitions of 'meads' for each draw, each with one gradient.",
        },
        Setting {
            name: "meads_pilot",
            default: Value::Int(150),
            min: 0.0,
            max: 1e6,
            doc: "Warm-up draws of the short run of the no-U-turn sampler from whose draws the chains of 'meads' start. With 0 \
                  they start at their initial points, which then have to be spread over the posterior.",
        },
        Setting {
            name: "meads_superchains",
            default: Value::Int(4),
            min: 1.0,
            max: 1e6,
            doc: "Chains of that run. The chains of 'meads' that start from the draws of one of them are a superchain: nested \
                  R-hat compares superchains.",
        },
    ];

    fn field(&mut self, name: &str) -> Option<Field<'_>> {
        match name {
            "meads_folds" => Some(Field::Int(&mut self.folds)),
            "meads_step_scale" => Some(Field::Float(&mut self.step_scale)),
            "meads_target_accept" => Some(Field::Float(&mut self.target_accept)),
            "meads_slowdown" => Some(Field::Float(&mut self.slowdown)),
            "meads_metric" => Some(Field::Name(&mut self.metric)),
            "meads_transitions" => Some(Field::Int(&mut self.transitions)),
            "meads_pilot" => Some(Field::Int(&mut self.pilot)),
            "meads_superchains" => Some(Field::Int(&mut self.superchains)),
            _ => None,
        }
    }
}

/// Step size, and the damping of momenta, in the coordinates of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pace {
    /// Step size.
    pub step: f64,
    /// Rate at which momenta are forgotten.
    pub damping: f64,
}

/// Standard deviations of positions, as of a whole population. What does not vary, or is not a number, has that of `instead`.
pub fn scales(positions: &[&[f64]], instead: &[f64]) -> Vec<f64> {
    let (center, n) = (mean(positions), positions.len() as f64);
    let mut squares = vec![0.0; center.len()];
    for x in positions {
        squares.iter_mut().zip(x.iter().zip(&center)).for_each(|(s, (x, m))| *s += (x - m) * (x - m));
    }
    let sd = squares.iter().map(|s| (s / n).sqrt());
    sd.zip(instead).map(|(sd, instead)| if sd > 0.0 && sd.is_finite() { sd } else { *instead }).collect()
}

/// The mean of some vectors.
pub fn mean(rows: &[&[f64]]) -> Vec<f64> {
    let mut sum = vec![0.0; rows.first().map_or(0, |row| row.len())];
    for row in rows {
        sum.iter_mut().zip(*row).for_each(|(s, x)| *s += x);
    }
    sum.iter_mut().for_each(|s| *s /= rows.len() as f64);
    sum
}

/// The pace that the positions and gradients of a fold call for: e = c / lambda(g)^(1/2) and g = 1 / lambda(x)^(1/2), with the
/// estimated largest eigenvalue lambda of the second moments of the gradients, and of the covariance of the positions, in the
/// coordinates of the metric. `None` where the numbers do not say.
pub fn pace(positions: &[&[f64]], gradients: &[&[f64]], metric: &Metric, step_scale: f64) -> Option<Pace> {
    let some = positions.len().min(MOST_POINTS);
    let center = mean(positions);
    let forces: Vec<Vec<f64>> = gradients[..some]
        .iter()
        .map(|g| {
            let mut g = g.to_vec();
            metric.whiten_gradient(&mut g);
            g
        })
        .collect();
    let deviations: Vec<Vec<f64>> = positions[..some]
        .iter()
        .map(|x| {
            let mut x: Vec<f64> = x.iter().zip(&center).map(|(x, m)| x - m).collect();
            metric.whiten(&mut x);
            x
        })
        .collect();
    let step = (step_scale / largest_eigenvalue(&forces)?.sqrt()).min(LARGEST_STEP);
    let damping = 1.0 / largest_eigenvalue(&deviations)?.sqrt();
    let usable = |v: f64| v > 0.0 && v.is_finite();
    (usable(step) && usable(damping)).then_some(Pace { step, damping })
}

/// An estimate of the largest eigenvalue of E[z z^T] from independent rows z, with S_ij = z_i z_j:
/// (sum_(i != j) S_ij^2 / (n (n - 1))) / (sum_i S_ii / n), which is tr(C^2) / tr(C) on average. `None` of fewer than two rows,
/// or where it is not a positive number.
pub fn largest_eigenvalue(rows: &[Vec<f64>]) -> Option<f64> {
    let n = rows.len() as f64;
    let (mut squares, mut trace) = (0.0, 0.0);
    for (i, a) in rows.iter().enumerate() {
        trace += dot(a, a);
        squares += rows[..i].iter().map(|b| dot(a, b).powi(2)).sum::<f64>();
    }
    let value = (2.0 * squares / (n * (n - 1.0))) / (trace / n);
    (value > 0.0 && value.is_finite()).then_some(value)
}

/// An inner product, with several sums at a time.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let (a, b) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    let mut sums = [0.0; 8];
    for (a, b) in a.0.iter().zip(b.0) {
        for i in 0..8 {
            sums[i] += a[i] * b[i];
        }
    }
    let rest: f64 = a.1.iter().zip(b.1).map(|(a, b)| a * b).sum();
    rest + sums.iter().sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Key, Purpose, fill_normal};

    fn normals(n: usize, dim: usize, sd: impl Fn(usize) -> f64) -> Vec<Vec<f64>> {
        (0..n as u32)
            .map(|draw| {
                let mut z = vec![0.0; dim];
                fill_normal(Key { seed: 4, chain: 9, draw }, Purpose::Momentum, &mut z);
                z.iter_mut().enumerate().for_each(|(i, z)| *z *= sd(i));
                z
            })
            .collect()
    }

    fn views(rows: &[Vec<f64>]) -> Vec<&[f64]> {
        rows.iter().map(Vec::as_slice).collect()
    }

    #[test]
    fn the_estimate_by_hand() {
        // S = ((5, 1), (1, 2)): (1 + 1) / 2 over 7 / 2.
        let rows = [vec![1.0, 2.0], vec![-1.0, 1.0]];
        assert!((largest_eigenvalue(&rows).unwrap() - 1.0 / 3.5).abs() < 1e-15);
        assert!(largest_eigenvalue(&rows[..1]).is_none());
        assert!(largest_eigenvalue(&[vec![0.0], vec![0.0]]).is_none());
        assert!(largest_eigenvalue(&[vec![f64::NAN], vec![1.0]]).is_none());
    }

    #[test]
    fn the_estimate_is_the_ratio_of_traces_on_average() {
        for (dim, wide) in [(1, 1.0), (50, 1.0), (50, 10.0)] {
            let sd = |i: usize| if i == 0 { wide } else { 1.0 };
            let rows = normals(400, dim, sd);
            let (trace, squares) =
                (0..dim).fold((0.0, 0.0), |(t, s), i| (t + sd(i).powi(2), s + sd(i).powi(4)));
            let found = largest_eigenvalue(&rows).unwrap();
            assert!((found / (squares / trace) - 1.0).abs() < 0.3, "{dim} {wide}: {found}");
        }
    }

    #[test]
    fn a_pace_does_not_depend_on_the_scales_of_parameters() {
        let x = normals(16, 20, |_| 1.0);
        let g: Vec<Vec<f64>> = x.iter().map(|x| x.iter().map(|x| -x).collect()).collect();
        let unit = Metric::diagonal(&[1.0; 20], vec![0.0; 20]);
        let plain = pace(&views(&x), &views(&g), &unit, 0.5).unwrap();
        let factors: Vec<f64> = (0..20).map(|i| 10f64.powi(i % 7 - 3)).collect();
        let scaled = |rows: &[Vec<f64>], power: i32| -> Vec<Vec<f64>> {
            rows.iter().map(|r| r.iter().zip(&factors).map(|(v, f)| v * f.powi(power)).collect()).collect()
        };
        let (x, g) = (scaled(&x, 1), scaled(&g, -1));
        let inv_mass: Vec<f64> = factors.iter().map(|f| f * f).collect();
        let other = pace(&views(&x), &views(&g), &Metric::diagonal(&inv_mass, Vec::new()), 0.5).unwrap();
        assert!((other.step / plain.step - 1.0).abs() < 1e-12);
        assert!((other.damping / plain.damping - 1.0).abs() < 1e-12);
        assert!(pace(&views(&x)[..1], &views(&g)[..1], &unit, 0.5).is_none());
    }

    #[test]
    fn scales_are_those_of_a_population() {
        let rows = [vec![1.0, 5.0, 3.0], vec![3.0, 5.0, f64::INFINITY]];
        assert_eq!(scales(&views(&rows), &[7.0, 8.0, 9.0]), [1.0, 8.0, 9.0]);
    }
}
