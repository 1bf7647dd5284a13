//! The metric of small Fisher divergence that is diagonal but for as many directions as the points call for.
//!
//! In coordinates in which a normal posterior is standard, every gradient is -x. So x + g, in coordinates of unit scale,
//! shows where the metric is still wrong, and for a normal it shows nothing else: the noise that positions share with
//! their gradients cancels. That noise is what limits the joint span of leading directions of positions and of gradients
//! (`fisher_low_rank.rs`): of 200 draws of 1,000 parameters it has eigenvalues up to 10. Here:
//!
//! 1. **Scales.** From sigma_i = (Var x_i / Var g_i)^(1/4) on, sigma_i is multiplied by (Var x'_i / Var g'_i)^(1/4), where x' and g'
//!    are what is left of scaled positions and gradients without the leading directions of x + g. A few wide or narrow
//!    directions then no longer distort the scales of all coordinates.
//! 2. **Directions.** In the span Q of the leading directions of x + g: C_x = (Q^T X X^T Q + k I) / (n + k), C_g the same of G, and
//!    S = C_x # C_g^-1, which solves S C_g S = C_x (Seyboldt, Carlson and Carpenter 2025, appendix A). Positions and
//!    gradients are put into coordinates of S, and the next round takes the directions in which their covariances
//!    differ most, the leading ones of X X^T - G G^T, until no eigenvalue of S is far from 1. (The leading directions of x + g
//!    would be the same ones again where a posterior is not normal.)
//!
//! With M^-1 = sigma A A^T sigma and A the product of the roots of all S, pairs with |log lambda| > log cutoff are kept. Where
//! points are twice as many as parameters, Q is the identity and one round is all.

use faer::{Mat, MatRef};
use serde::{Deserialize, Serialize};

use super::fisher_low_rank::covariance;
use super::geometric_mean::{self, Pairs};
use super::linalg;
use super::points::Point;
use super::scaling::Scaled;
use super::shrinkage;
use crate::metric::Metric;

/// Most directions of a round. More than a quarter of the points would be too many to tell them from noise.
const DIRECTIONS: usize = 32;

/// Corrections of the scales.
const CORRECTIONS: usize = 5;

/// Multiplications of the first search for directions, of one that starts from nearly the right ones, and of one that
/// looks for others.
const FIRST: usize = 3;
const AGAIN: usize = 1;
const OTHERS: usize = 4;

/// Share of the whole variance of a coordinate that is added to what is left of it, so that a coordinate which makes up a
/// direction by itself keeps its scale.
const KEPT: f64 = 0.02;

/// Rounds end when all eigenvalues of S are between this and its inverse.
const CLOSE: f64 = 2.0;

/// Rounds that always suffice.
pub const MOST_ROUNDS: usize = 8;

/// Rounds to learn the spectrum that a metric leaves: of so many parameters at most, and of more.
const ROUNDS_OF_SPECTRUM: [usize; 2] = [3, 1];
const LARGE_DIM: usize = 400;

/// Choices of the estimator.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PursuitOptions {
    /// Eigenvalues between this and its inverse become 1.
    pub cutoff: f64,
    /// Most eigenvalues that are kept.
    pub max_rank: usize,
    /// Most rounds; at least one is made.
    pub rounds: usize,
}

impl Default for PursuitOptions {
    fn default() -> Self {
        PursuitOptions { cutoff: 1.5, max_rank: usize::MAX, rounds: MOST_ROUNDS }
    }
}

/// The metric of some points and the rounds that it took; `None` if there are fewer than three or the numbers do not allow
/// one.
///
/// Eigenvalues are ordered by |log lambda|, the largest first. A coordinate whose positions or gradients do not vary has
/// the scale of the previous metric, and no correlations.
pub fn fit(points: &[Point<'_>], previous: &Metric, options: &PursuitOptions) -> Option<(Metric, usize)> {
    let mut scaled = Scaled::new(points, previous)?;
    let mut state = Whitened::new(&scaled);
    let (n, dim) = (scaled.count(), scaled.dim());
    let mut q = state.start(directions(n, dim));
    // In the whole space, what wide directions do to the scales is undone with them.
    let corrections = if is_enough(n, dim) { 0 } else { CORRECTIONS };
    for correction in 0..corrections {
        q = state.leading_sum(q, if correction == 0 { FIRST } else { AGAIN });
        scaled.rescale(&state.correct_scales(q.as_ref()));
    }
    let factors = state.pursue(q, AGAIN, options.rounds.max(1))?;
    let rounds = factors.len();
    let (values, vectors) = combine(factors, dim, options.cutoff, options.max_rank)?;
    let vectors = (0..values.len()).flat_map(|j| vectors.col_as_slice(j)).copied().collect();
    scaled.into_metric(values, vectors).map(|metric| (metric, rounds))
}

/// Whether points are enough to look at all directions at once.
fn is_enough(n: usize, dim: usize) -> bool {
    2 * dim <= n
}

/// Directions of a round.
pub(super) fn directions(n: usize, dim: usize) -> usize {
    DIRECTIONS.min(n / 4).min(dim / 2).max(1)
}

/// Eigenvalues of a matrix that differs from the identity in the span of some orthonormal columns.
struct Factor {
    values: Vec<f64>,
    vectors: Mat<f64>,
}

impl Factor {
    fn is_small(&self) -> bool {
        self.values.iter().all(|v| v.ln().abs() < CLOSE.ln())
    }
}

/// Positions and gradients in the coordinates found so far, points in columns.
pub(super) struct Whitened {
    pub x: Mat<f64>,
    pub g: Mat<f64>,
}

impl Whitened {
    fn new(scaled: &Scaled<'_>) -> Self {
        let (dim, n) = (scaled.dim(), scaled.count());
        let (mut x, mut g) = (Mat::zeros(dim, n), Mat::zeros(dim, n));
        scaled.for_each_block(|rows, block| {
            x.as_mut().subrows_mut(rows.start, rows.len()).copy_from(block.subcols(0, n));
            g.as_mut().subrows_mut(rows.start, rows.len()).copy_from(block.subcols(n, n));
        });
        Whitened { x, g }
    }

    /// The eigenvalues of the distribution's covariance, but for those that are 1 as far as the points tell.
    pub fn spectrum(mut self) -> Option<Vec<f64>> {
        let (dim, n) = (self.x.nrows(), self.x.ncols());
        let start = self.start(directions(n, dim));
        let factors = self.pursue(start, FIRST - 1, ROUNDS_OF_SPECTRUM[usize::from(dim > LARGE_DIM)])?;
        combine(factors, dim, 1.0, usize::MAX).map(|(values, _)| values)
    }

    /// Put the points into the coordinates of one S after the other, until there is little left to do or for so many rounds.
    /// The search for the first span begins at some columns and takes so many multiplications.
    fn pursue(&mut self, start: Mat<f64>, multiplications: usize, rounds: usize) -> Option<Vec<Factor>> {
        let (dim, n) = (self.x.nrows(), self.x.ncols());
        let p = start.ncols();
        if is_enough(n, dim) {
            return Some(vec![self.factor(None, true)?]);
        }
        let first = self.leading_sum(start, multiplications);
        let mut factors = vec![self.factor(Some(first), rounds == 1)?];
        while factors.len() < rounds && !factors.last().is_some_and(Factor::is_small) {
            let last = factors.len() + 1 == rounds;
            factors.push(self.factor(Some(self.leading_difference(p)), last)?);
        }
        Some(factors)
    }

    /// x + g of some points, spread evenly: enriched in the directions that are wrong.
    fn start(&self, p: usize) -> Mat<f64> {
        let n = self.x.ncols();
        Mat::from_fn(self.x.nrows(), p, |i, j| self.x[(i, j * n / p)] + self.g[(i, j * n / p)])
    }

    /// Orthonormal columns near the leading left singular vectors of X + G, by subspace iteration.
    fn leading_sum(&self, start: Mat<f64>, multiplications: usize) -> Mat<f64> {
        let sum = &self.x + &self.g;
        iterate(start, multiplications, |q| {
            let along = linalg::product(sum.transpose(), q);
            linalg::product(sum.as_ref(), along.as_ref())
        })
    }

    /// Orthonormal columns near the eigenvectors of X X^T - G G^T of the eigenvalues of largest size.
    fn leading_difference(&self, p: usize) -> Mat<f64> {
        iterate(self.start(p), OTHERS, |q| {
            let of = |a: &Mat<f64>| {
                let along = linalg::product(a.transpose(), q);
                linalg::product(a.as_ref(), along.as_ref())
            };
            of(&self.x) - of(&self.g)
        })
    }

    /// Bring what is left of positions and gradients outside a span to the same variances; the factors of sigma.
    fn correct_scales(&mut self, q: MatRef<'_, f64>) -> Vec<f64> {
        let (of_x, of_g) = (left_and_whole(&self.x, q), left_and_whole(&self.g, q));
        let factor = |([left_x, all_x], [left_g, all_g]): (&[f64; 2], &[f64; 2])| {
            let kept = KEPT * (all_x * all_g).sqrt();
            let factor = ((left_x + kept) / (left_g + kept)).sqrt().sqrt();
            // Not where nothing varies.
            if factor.is_finite() && factor > 0.0 { factor } else { 1.0 }
        };
        let factors: Vec<f64> = of_x.iter().zip(&of_g).map(factor).collect();
        for j in 0..self.x.ncols() {
            self.x.col_as_slice_mut(j).iter_mut().zip(&factors).for_each(|(x, f)| *x /= f);
            self.g.col_as_slice_mut(j).iter_mut().zip(&factors).for_each(|(g, f)| *g *= f);
        }
        factors
    }

    /// S in the span of orthonormal columns (all coordinates if `None`), to whose coordinates the points move if there is
    /// another round to come.
    fn factor(&mut self, basis: Option<Mat<f64>>, last: bool) -> Option<Factor> {
        let n = self.x.ncols();
        let within = |a: &Mat<f64>| match &basis {
            Some(q) => linalg::product(q.transpose(), a.as_ref()),
            None => a.clone(),
        };
        let (a, b) = (within(&self.x), within(&self.g));
        let k = shrinkage(n, a.nrows());
        let (c_x, c_g) = (covariance(a.as_ref(), k), covariance(b.as_ref(), k));
        let Pairs { values, vectors } = geometric_mean::eigenpairs(c_x, c_g, 1.0, usize::MAX)?;
        let (small, vectors) = match basis {
            Some(q) => {
                let large = linalg::product(q.as_ref(), vectors.as_ref());
                (Some(vectors), large)
            }
            None => (None, vectors),
        };
        let factor = Factor { values, vectors };
        if last || factor.is_small() {
            return Some(factor);
        }
        let turned =
            |a: Mat<f64>| linalg::product(small.as_ref().unwrap_or(&factor.vectors).transpose(), a.as_ref());
        let (a, b) = (turned(a), turned(b));
        let stretch = |to: &mut Mat<f64>, mut along: Mat<f64>, power: f64| {
            for j in 0..along.ncols() {
                let column = along.col_as_slice_mut(j);
                column.iter_mut().zip(&factor.values).for_each(|(a, v)| *a *= v.powf(power) - 1.0);
            }
            *to += linalg::product(factor.vectors.as_ref(), along.as_ref());
        };
        stretch(&mut self.x, a, -0.5);
        stretch(&mut self.g, b, 0.5);
        Some(factor)
    }
}

/// Multiply by a symmetric matrix and make orthonormal, so many times.
fn iterate(start: Mat<f64>, times: usize, multiply: impl Fn(MatRef<'_, f64>) -> Mat<f64>) -> Mat<f64> {
    let mut q = start;
    for _ in 0..times {
        q = linalg::orthonormal(multiply(q.as_ref()));
    }
    q
}

/// Of each row of a, the sum of squares of a - q q^T a and that of a.
fn left_and_whole(a: &Mat<f64>, q: MatRef<'_, f64>) -> Vec<[f64; 2]> {
    let along = linalg::product(q.transpose(), a.as_ref());
    let inside = linalg::product(q, along.as_ref());
    let mut sums = vec![[0.0; 2]; a.nrows()];
    for j in 0..a.ncols() {
        for ((sum, a), inside) in sums.iter_mut().zip(a.col_as_slice(j)).zip(inside.col_as_slice(j)) {
            sum[0] += (a - inside) * (a - inside);
            sum[1] += a * a;
        }
    }
    sums
}

/// The eigenvalues beyond a cutoff of A A^T, A the product of the roots of the factors, and their eigenvectors in columns.
fn combine(factors: Vec<Factor>, dim: usize, cutoff: f64, max_rank: usize) -> Option<(Vec<f64>, Mat<f64>)> {
    let columns: usize = factors.iter().map(|f| f.values.len()).sum();
    if columns == 0 {
        return Some((Vec::new(), Mat::zeros(dim, 0)));
    }
    // Orthonormal columns that span all of them, if that is less than the whole space.
    let basis = (columns < dim).then(|| {
        let mut all = Mat::zeros(dim, columns);
        let mut at = 0;
        for Factor { vectors, .. } in &factors {
            all.as_mut().subcols_mut(at, vectors.ncols()).copy_from(vectors);
            at += vectors.ncols();
        }
        linalg::orthonormal(all)
    });
    let size = basis.as_ref().map_or(dim, Mat::ncols);
    let mut root: Mat<f64> = Mat::identity(size, size);
    for Factor { values, vectors } in &factors {
        let u = match &basis {
            Some(q) => linalg::product(q.transpose(), vectors.as_ref()),
            None => vectors.clone(),
        };
        let mut along = linalg::product(root.as_ref(), u.as_ref());
        for (j, value) in values.iter().enumerate() {
            along.col_as_slice_mut(j).iter_mut().for_each(|a| *a *= value.sqrt() - 1.0);
        }
        root += linalg::product(along.as_ref(), u.transpose());
    }
    let linalg::Eigen { values, vectors } = linalg::eigen(linalg::gram(root.as_ref()).as_ref())?;
    if values.iter().any(|v| *v <= 0.0) {
        return None;
    }
    let chosen = geometric_mean::far_from_one(&values, cutoff, max_rank);
    let vectors = Mat::from_fn(size, chosen.len(), |i, j| vectors[(i, chosen[j])]);
    let vectors = match &basis {
        Some(q) => linalg::product(q.as_ref(), vectors.as_ref()),
        None => vectors,
    };
    Some((chosen.iter().map(|i| values[*i]).collect(), vectors))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{
        Normal, Points, check_alignment, check_refusals, check_rescaled, extremes, full, jacobi, normals,
        orthonormality, relative_difference, unit,
    };
    use super::*;
    use crate::estimator::{fisher_dense, fisher_diag_points, fisher_low_rank};

    fn stds(dim: usize) -> Vec<f64> {
        (0..dim).map(|i| 10f64.powf((i % 7) as f64 - 3.0)).collect()
    }

    fn of(points: &Points, dim: usize, options: &PursuitOptions) -> Metric {
        fit(&points.view(), &unit(dim), options).unwrap().0
    }

    fn condition(metric: &Metric, truth: &Metric) -> f64 {
        let (least, most) = extremes(metric, truth);
        most / least
    }

    #[test]
    fn a_normal_that_is_diagonal_but_for_some_directions_is_found_from_far_fewer_points_than_parameters() {
        let dim = 140;
        let target = Normal::new(9, stds(dim), &[900.0, 200.0, 80.0, 30.0, 12.0, 0.08, 0.02]);
        let points = target.draw(4, 60);
        let found = condition(&of(&points, dim, &PursuitOptions::default()), &target.metric);
        let span =
            fisher_low_rank::fit(&points.view(), &unit(dim), &fisher_low_rank::FisherOptions::default());
        let before = condition(&span.unwrap(), &target.metric);
        let diagonal = fisher_diag_points::fit(&points.view(), &unit(dim)).unwrap();
        assert!(found < 4.0, "{found}");
        assert!(before > 5.0 * found, "{before}");
        assert!(condition(&diagonal, &target.metric) > 100.0);
    }

    #[test]
    fn further_rounds_find_what_does_not_fit_in_the_first() {
        // Nothing is alike: eigenvalues over three decades in every direction.
        let dim = 60;
        let values: Vec<f64> = (0..dim).map(|i| 10f64.powf(3.0 * i as f64 / dim as f64 - 1.5)).collect();
        let target = Normal::new(5, stds(dim), &values);
        let points = target.draw(4, 100);
        let of_rounds = |rounds| {
            let options = PursuitOptions { rounds, ..PursuitOptions::default() };
            let (metric, made) = fit(&points.view(), &unit(dim), &options).unwrap();
            assert!(made <= rounds && orthonormality(&metric) < 1e-12);
            condition(&metric, &target.metric)
        };
        let (one, all) = (of_rounds(1), of_rounds(MOST_ROUNDS));
        assert!(all < 6.0 && one > 5.0 * all, "{one} {all}");
    }

    #[test]
    fn with_twice_as_many_points_as_parameters_it_is_the_whole_space() {
        let dim = 30;
        let values: Vec<f64> = (0..dim).map(|i| 10f64.powf(2.0 * i as f64 / dim as f64 - 1.0)).collect();
        let target = Normal::new(5, stds(dim), &values);
        let points = target.draw(4, 2 * dim);
        let options = PursuitOptions { cutoff: 1.0, ..PursuitOptions::default() };
        let (metric, rounds) = fit(&points.view(), &unit(dim), &options).unwrap();
        assert_eq!(rounds, 1);
        assert!(condition(&metric, &target.metric) < 1.2);
        // As the dense estimate but for the scales, towards which both are shrunk.
        let dense =
            fisher_dense::fit(&points.view(), &unit(dim), &fisher_low_rank::FisherOptions::dense()).unwrap();
        assert!(relative_difference(&full(&metric), &full(&dense)) < 0.05);
    }

    #[test]
    fn nothing_is_found_where_there_is_nothing() {
        for (dim, n) in [(2, 30), (20, 200), (150, 100), (400, 100)] {
            let target = Normal::new(6, stds(dim), &[]);
            let metric = of(&target.draw(8, n), dim, &PursuitOptions::default());
            assert_eq!(metric.rank(), 0);
            for (a, b) in metric.stds.iter().zip(stds(dim)) {
                assert!((a / b - 1.0).abs() < 1e-10);
            }
        }
    }

    #[test]
    fn what_is_kept() {
        let dim = 80;
        let target = Normal::new(3, vec![1.0; dim], &[40.0, 9.0, 3.0, 0.2, 0.02]);
        let points = target.draw(5, 60);
        let sizes = |options: &PursuitOptions| {
            let metric = of(&points, dim, options);
            metric.values.iter().map(|v| v.ln().abs()).collect::<Vec<f64>>()
        };
        let all = sizes(&PursuitOptions::default());
        assert!(all.len() >= 5 && all.is_sorted_by(|a, b| a >= b), "{all:?}");
        assert!(all.iter().all(|size| *size > 1.5f64.ln()));
        let few = sizes(&PursuitOptions { max_rank: 2, ..PursuitOptions::default() });
        assert_eq!(few, all[..2]);
        assert!(sizes(&PursuitOptions { cutoff: 6.0, ..PursuitOptions::default() }).len() < all.len());
        assert!(sizes(&PursuitOptions { max_rank: 0, ..PursuitOptions::default() }).is_empty());
    }

    /// The default estimator.
    fn default_fit(points: &[Point<'_>], previous: &Metric) -> Option<Metric> {
        fit(points, previous, &PursuitOptions::default()).map(|(metric, _)| metric)
    }

    #[test]
    fn coordinates_can_be_rescaled() {
        for (dim, n) in [(44, 30), (16, 12), (12, 40)] {
            check_rescaled(&default_fit, &wild(dim, n, 0.2), 1e-6);
        }
    }

    /// Draws of a distribution that is not normal.
    fn wild(dim: usize, n: usize, size: f64) -> Points {
        let mut points = Normal::new(3, stds(dim), &[40.0, 9.0, 0.2, 0.02]).draw(5, n);
        for (i, (x, g)) in points.0.iter_mut().enumerate() {
            let noise = normals(700 + i as u64, dim);
            g.iter_mut().zip(noise).zip(x).for_each(|((g, e), x)| *g *= 1.0 + size * e + 0.05 * x.tanh());
        }
        points
    }

    #[test]
    fn whatever_comes_out_is_positive_definite() {
        for seed in 0..60u64 {
            let dim = 4 + (seed as usize * 13) % 90;
            let n = 3 + (seed as usize * 7) % 60;
            let mut points = wild(dim, n, 0.5);
            for (i, (x, g)) in points.0.iter_mut().enumerate() {
                // Heavy tails, repeated points, coordinates that copy others.
                let stretch = (normals(seed, 1)[0] * 3.0 * (i as f64).sin()).exp();
                x.iter_mut().for_each(|x| *x *= stretch);
                g.iter_mut().for_each(|g| *g /= stretch.sqrt());
                if seed % 3 == 0 {
                    x[dim - 1] = 3.0 * x[0];
                }
            }
            if seed % 2 == 0 {
                points.0.push(points.0[0].clone());
            }
            let options = PursuitOptions { max_rank: 6, rounds: 1 + seed as usize % 4, ..Default::default() };
            let Some((metric, _)) = fit(&points.view(), &unit(dim), &options) else {
                panic!("{seed} {dim} {n}")
            };
            assert!(metric.is_usable() && metric.rank() <= 6);
            assert!(orthonormality(&metric) < 1e-10, "{seed}: {}", orthonormality(&metric));
            if dim < 30 {
                let scaled = Metric { stds: vec![1.0; dim], ..metric };
                assert!(jacobi(full(&scaled)).0.iter().all(|v| *v > 0.0));
            }
        }
    }

    #[test]
    fn a_coordinate_that_does_not_vary_keeps_its_scale() {
        for (dim, n) in [(44, 24), (12, 60)] {
            let points = wild(dim, n, 0.2);
            let mut wider = points.clone();
            for (x, g) in &mut wider.0 {
                // Flat, and pinned.
                g.extend([0.0, x[0]]);
                x.extend([x[1], 0.3]);
            }
            let mut previous = unit(dim + 2);
            previous.stds[dim..].copy_from_slice(&[5.0, 7.0]);
            let metric = fit(&wider.view(), &previous, &PursuitOptions::default()).unwrap().0;
            assert_eq!(metric.stds[dim..], [5.0, 7.0]);
            assert!(metric.rows().all(|row| row[dim..].iter().all(|u| u.abs() < 1e-12)));
        }
    }

    #[test]
    fn numbers_that_allow_no_metric() {
        for n in [5, 40, 80] {
            check_refusals(&default_fit, &wild(30, n, 0.2));
        }
    }

    #[test]
    fn bits_do_not_depend_on_where_numbers_lie() {
        check_alignment(&default_fit, &wild(300, 40, 0.2));
    }
}
