//! The metric of small Fisher divergence that is diagonal but for a few directions.
//!
//! The divergence mean |A^T g + A^-1 (x - mu)|^2 of n draws x with gradients g is smallest where M^-1 = A A^T solves
//! M^-1 Cov(g) M^-1 = Cov(x), the geometric mean Cov(x) # Cov(g)^-1 (Seyboldt, Carlson and Carpenter 2025, appendix A).
//! Here it is taken in scaled coordinates (see `scaling.rs`), of covariances that are shrunk towards the identity by k
//! imagined observations of it:
//!
//! - C_x = (Q^T X X^T Q + k I) / (n + k), C_g = (Q^T G G^T Q + k I) / (n + k), k = clamp((D / n)^2 / 2, 0.001, 5);
//! - S = C_x # C_g^-1 = V Lambda V^T, of which pairs with |log lambda| > log 2 are kept;
//! - M^-1 = sigma (I + U^T (Lambda - I) U) sigma with U = (Q V)^T, mu = mean x + M^-1 mean g.
//!
//! Q is the identity where the points span all coordinates, 2 n >= D. Elsewhere it is an orthonormal basis of the joint
//! span of the leading directions of X and of G (all of them if the points are few enough), outside which S is the identity
//! anyway. All of it comes from the Gram matrix K = \[X G\]^T \[X G\] of 2 n rows, without a decomposition of anything
//! tall: with T such that T^T K T = I, Q = \[X G\] T and Q^T \[X G\] = T^T K.

use faer::{Mat, MatMut, MatRef};
use serde::{Deserialize, Serialize};

use super::fisher_dense;
use super::geometric_mean::{self, Pairs};
use super::linalg::{self, Eigen};
use super::points::Point;
use super::scaling::Scaled;
use super::shrinkage;
use crate::metric::Metric;

/// Directions that hold less than this share of the largest are rounding.
const NEGLIGIBLE: f64 = 1e-7;

/// Multiplications of a subspace iteration after the first.
const ROUNDS: usize = 5;

/// Choices of the Fisher estimators of more than a diagonal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FisherOptions {
    /// Observations of the identity that are added to both covariances, `None` for clamp((D / n)^2 / 2, 0.001, 5).
    pub pseudo_count: Option<f64>,
    /// Eigenvalues between this and its inverse become 1.
    pub cutoff: f64,
    /// Leading directions of positions, and of gradients, whose span is looked at where points are few.
    pub directions: usize,
    /// Most eigenvalues that are kept, `None` for all.
    pub max_rank: Option<usize>,
}

impl Default for FisherOptions {
    fn default() -> Self {
        FisherOptions { pseudo_count: None, cutoff: 2.0, directions: 64, max_rank: None }
    }
}

impl FisherOptions {
    /// The pseudo-count for `n` points of `dim` parameters.
    pub(super) fn shrinkage(&self, n: usize, dim: usize) -> f64 {
        self.pseudo_count.unwrap_or_else(|| shrinkage(n, dim))
    }

    /// Most eigenvalues that are kept.
    pub(super) fn rank_limit(&self) -> usize {
        self.max_rank.unwrap_or(usize::MAX)
    }

    /// Whether `n` points of `dim` parameters are fitted in the space of all coordinates.
    pub(super) fn in_full_space(n: usize, dim: usize) -> bool {
        2 * n >= dim
    }
}

/// The metric of some points; `None` if there are fewer than three or the numbers do not allow one.
///
/// Eigenvalues are ordered by |log lambda|, the largest first. A coordinate whose positions or gradients do not vary has
/// the scale of the previous metric, and no correlations.
pub fn fit(points: &[Point<'_>], previous: &Metric, options: &FisherOptions) -> Option<Metric> {
    let scaled = Scaled::new(points, previous)?;
    if FisherOptions::in_full_space(scaled.count(), scaled.dim()) {
        return fisher_dense::fit_scaled(scaled, options);
    }
    let n = scaled.count();
    let mut k = Mat::zeros(2 * n, 2 * n);
    scaled.for_each_block(|_, block| linalg::add_gram(k.as_mut(), block.transpose()));
    linalg::mirror(&mut k);
    let t = joint_basis(k.as_ref(), n, options.directions.max(1))?;
    let projected = linalg::product(t.transpose(), k.as_ref());
    let shrinkage = options.shrinkage(n, scaled.dim());
    let c_x = covariance(projected.subcols(0, n), shrinkage);
    let c_g = covariance(projected.subcols(n, n), shrinkage);
    let Pairs { values, vectors } =
        geometric_mean::eigenpairs(c_x, c_g, options.cutoff, options.rank_limit())?;
    let weights = linalg::product(t.as_ref(), vectors.as_ref());
    let (dim, rank) = (scaled.dim(), values.len());
    let mut u = vec![0.0; dim * rank];
    if rank == 0 {
        return scaled.into_metric(values, u);
    }
    scaled.for_each_block(|rows, block| {
        let mut to = MatMut::from_column_major_slice_mut(&mut u, dim, rank);
        linalg::multiply(to.as_mut().subrows_mut(rows.start, rows.len()), block, weights.as_ref());
    });
    // They are so but for rounding, which the smallest directions in T have made larger.
    orthonormalise(MatMut::from_column_major_slice_mut(&mut u, dim, rank))?;
    scaled.into_metric(values, u)
}

/// (P P^T + k I) / (n + k), points in the columns of P.
pub(super) fn covariance(p: MatRef<'_, f64>, shrinkage: f64) -> Mat<f64> {
    let mut c = linalg::gram(p);
    let total = p.ncols() as f64 + shrinkage;
    for j in 0..c.ncols() {
        c[(j, j)] += shrinkage;
        c.col_as_slice_mut(j).iter_mut().for_each(|v| *v /= total);
    }
    c
}

/// T for which the columns of \[X G\] T are an orthonormal basis of the span of the leading directions of X and of G.
fn joint_basis(k: MatRef<'_, f64>, n: usize, directions: usize) -> Option<Mat<f64>> {
    let of_x = leading(k.submatrix(0, 0, n, n), directions)?;
    let of_g = leading(k.submatrix(n, n, n, n), directions)?;
    let mut both = Mat::zeros(2 * n, of_x.ncols() + of_g.ncols());
    both.as_mut().submatrix_mut(0, 0, n, of_x.ncols()).copy_from(&of_x);
    both.as_mut().submatrix_mut(n, of_x.ncols(), n, of_g.ncols()).copy_from(&of_g);
    let overlap = linalg::product(both.transpose(), linalg::product(k, both.as_ref()).as_ref());
    let joint = whitening(overlap.as_ref())?;
    Some(linalg::product(both.as_ref(), joint.as_ref()))
}

/// T with T^T A T = I, of about the `directions` leading directions of a positive semidefinite matrix; `None` if it has none.
fn leading(a: MatRef<'_, f64>, directions: usize) -> Option<Mat<f64>> {
    if by_iteration_pays(a.nrows(), directions)
        && let Some(t) = by_iteration(a, directions)
    {
        return Some(t);
    }
    let t = whitening(a)?;
    let kept = t.ncols().min(directions);
    Some(t.subcols(0, kept).to_owned())
}

/// Whether a subspace iteration is faster than an eigendecomposition.
pub(super) fn by_iteration_pays(n: usize, directions: usize) -> bool {
    directions < n / 2
}

/// [`leading`] by subspace iteration, from columns of the matrix that are spread evenly: a third of the time of an
/// eigendecomposition. Directions that stand out are found, and which ones of many alike does not matter. `None` if the
/// columns hardly span so many.
fn by_iteration(a: MatRef<'_, f64>, directions: usize) -> Option<Mat<f64>> {
    let n = a.nrows();
    let mut q = Mat::from_fn(n, directions, |i, j| a[(i, j * n / directions)]);
    for _ in 0..ROUNDS {
        orthonormalise(q.as_mut())?;
        q = linalg::product(a, q.as_ref());
    }
    orthonormalise(q.as_mut())?;
    let inner = linalg::product(q.transpose(), linalg::product(a, q.as_ref()).as_ref());
    let l = linalg::cholesky(inner)?;
    let pivots = || (0..directions).map(|i| l[(i, i)] * l[(i, i)]);
    if pivots().fold(f64::INFINITY, f64::min) <= NEGLIGIBLE * pivots().fold(0.0, f64::max) {
        return None;
    }
    linalg::solve_lower(l.as_ref(), q.transpose_mut());
    Some(q)
}

/// T with T^T A T = I, by eigendecomposition of a positive semidefinite matrix, the directions of large eigenvalues first;
/// `None` if there are none.
fn whitening(a: MatRef<'_, f64>) -> Option<Mat<f64>> {
    let Eigen { values, vectors } = linalg::eigen(a)?;
    let n = values.len();
    let bound = NEGLIGIBLE * values.last().copied().filter(|v| *v > 0.0)?;
    let kept = values.iter().filter(|v| **v > bound).count();
    Some(Mat::from_fn(n, kept, |i, j| vectors[(i, n - 1 - j)] / values[n - 1 - j].sqrt()))
}

/// Make columns orthonormal, one after the other. Half of the digits are lost where they are nearly dependent.
fn orthonormalise(u: MatMut<'_, f64>) -> Option<()> {
    let overlap = linalg::gram(u.as_ref().transpose());
    let l = linalg::cholesky(overlap)?;
    linalg::solve_lower(l.as_ref(), u.transpose_mut());
    Some(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{
        Normal, Points, check_alignment, check_refusals, check_rescaled, extremes, full, function_of, jacobi,
        normals, orthonormality, plain_fisher, relative_difference, unit,
    };
    use super::*;

    fn stds(dim: usize) -> Vec<f64> {
        (0..dim).map(|i| 10f64.powf((i % 7) as f64 - 3.0)).collect()
    }

    /// Draws of a distribution that is not normal: gradients have noise of their own.
    fn noisy(dim: usize, n: usize) -> Points {
        let mut points = Normal::new(3, stds(dim), &[40.0, 9.0, 0.2, 0.02]).draw(5, n);
        for (i, (x, g)) in points.0.iter_mut().enumerate() {
            let noise = normals(700 + i as u64, dim);
            g.iter_mut().zip(noise).zip(x).for_each(|((g, e), x)| *g *= 1.0 + 0.2 * e + 0.05 * x.tanh());
        }
        points
    }

    fn sorted(mut values: Vec<f64>) -> Vec<f64> {
        values.sort_by(f64::total_cmp);
        values
    }

    #[test]
    fn the_gram_form_is_the_dense_formula() {
        let (dim, n) = (44, 12);
        let points = noisy(dim, n);
        for pseudo_count in [None, Some(0.1), Some(2.0)] {
            let options = FisherOptions { pseudo_count, ..FisherOptions::default() };
            let metric = fit(&points.view(), &unit(dim), &options).unwrap();
            let (sigma, s) = plain_fisher(&points, options.shrinkage(n, dim));
            let kept: Vec<f64> =
                jacobi(s.clone()).0.into_iter().filter(|v| v.ln().abs() > options.cutoff.ln()).collect();
            assert!(metric.rank() >= 4, "{}", metric.rank());
            assert_eq!(metric.rank(), kept.len());
            for (a, b) in sorted(metric.values.clone()).into_iter().zip(sorted(kept)) {
                assert!((a / b - 1.0).abs() < 1e-7, "{a} {b}");
            }
            let cut = function_of(&s, |v| if v.ln().abs() > options.cutoff.ln() { v } else { 1.0 });
            let expected =
                (0..dim).map(|i| (0..dim).map(|j| sigma[i] * cut[i][j] * sigma[j]).collect()).collect();
            assert!(relative_difference(&full(&metric), &expected) < 1e-7);
            assert!(orthonormality(&metric) < 1e-12);
        }
    }

    #[test]
    fn covariances_are_recovered() {
        let dim = 60;
        let target = Normal::new(9, stds(dim), &[100.0, 0.01, 20.0]);
        let of = |n: usize, options: &FisherOptions| {
            let metric = fit(&target.draw(4, n).view(), &unit(dim), options).unwrap();
            (extremes(&metric, &target.metric), metric)
        };
        let close = FisherOptions { pseudo_count: Some(1e-8), ..FisherOptions::default() };
        // All but what the cutoff allows, from a few more points than parameters.
        let ((least, most), metric) = of(70, &close);
        assert!(least > 0.499 && most < 2.001, "{least} {most}");
        for ((a, b), s) in metric.center.iter().zip(&target.metric.center).zip(&target.metric.stds) {
            assert!(((a - b) / s).abs() < 0.1);
        }
        let ((least, most), _) = of(2000, &FisherOptions::default());
        assert!(least > 0.499 && most < 2.001, "{least} {most}");
        // Of fewer points, most of what stands out.
        let ((least, most), metric) = of(25, &FisherOptions::default());
        let diagonal = Metric { values: Vec::new(), vectors: Vec::new(), ..metric };
        let (narrow, wide) = extremes(&diagonal, &target.metric);
        assert!(most / least < 0.1 * wide / narrow, "{least} {most} {narrow} {wide}");
    }

    #[test]
    fn few_directions_find_what_stands_out() {
        let (dim, n) = (120, 50);
        let target = Normal::new(1, stds(dim), &[400.0, 0.01, 60.0, 0.05]);
        let condition = |directions: usize| {
            let options = FisherOptions { directions, ..FisherOptions::default() };
            let metric = fit(&target.draw(2, n).view(), &unit(dim), &options).unwrap();
            assert!(orthonormality(&metric) < 1e-12);
            let (least, most) = extremes(&metric, &target.metric);
            most / least
        };
        let (none, few, all) = (condition(1), condition(10), condition(64));
        assert_eq!(condition(0), none);
        assert!(few < 0.2 * none && few < 2.0 * all, "{none} {few} {all}");
    }

    #[test]
    fn rows_are_orthonormal_where_gradients_hardly_add_directions() {
        let (dim, n) = (80, 20);
        let mut points = Normal::new(6, vec![1.0; dim], &[]).draw(8, n);
        for (i, (_, g)) in points.0.iter_mut().enumerate() {
            g.iter_mut().zip(normals(900 + i as u64, dim)).for_each(|(g, e)| *g += 5e-3 * e);
        }
        let options = FisherOptions { pseudo_count: Some(1e-9), cutoff: 1.0001, ..FisherOptions::default() };
        let metric = fit(&points.view(), &unit(dim), &options).unwrap();
        assert!(metric.rank() > n / 2, "{}", metric.rank());
        assert!(orthonormality(&metric) < 1e-13, "{}", orthonormality(&metric));
    }

    #[test]
    fn directions_that_are_rounding_alone_are_dropped() {
        // Centred points span one direction fewer than there are, a repeated one adds none, and neither do gradients -x.
        let (dim, n) = (80, 20);
        let mut points = Normal::new(6, vec![1.0; dim], &[]).draw(8, n);
        points.0.push(points.0[3].clone());
        let view = points.view();
        let scaled = Scaled::new(&view, &unit(dim)).unwrap();
        let mut k = Mat::zeros(2 * n + 2, 2 * n + 2);
        scaled.for_each_block(|_, block| linalg::add_gram(k.as_mut(), block.transpose()));
        linalg::mirror(&mut k);
        let t = joint_basis(k.as_ref(), n + 1, 64).unwrap();
        assert_eq!(t.ncols(), n - 1);
        let identity = linalg::product(t.transpose(), linalg::product(k.as_ref(), t.as_ref()).as_ref());
        assert!((&identity - &Mat::<f64>::identity(n - 1, n - 1)).norm_max() < 1e-12);
        assert_eq!(joint_basis(k.as_ref(), n + 1, 5).unwrap().ncols(), 5);
    }

    #[test]
    fn subspace_iteration_finds_what_stands_out() {
        let n = 200;
        let z = normals(5, n * n);
        // Ten directions of 30 to 3, in a bulk from 1 down to 0.3.
        let v = linalg::eigen(linalg::gram(Mat::from_fn(n, n, |i, j| z[i * n + j]).as_ref()).as_ref());
        let v = v.unwrap().vectors;
        let value = |j: usize| if j < 10 { 30.0 - 3.0 * j as f64 } else { 1.0 - 0.7 * j as f64 / n as f64 };
        let root = Mat::from_fn(n, n, |i, j| v[(i, j)] * f64::sqrt(value(j)));
        let a = linalg::gram(root.as_ref());
        let t = by_iteration(a.as_ref(), 40).unwrap();
        let at = linalg::product(a.as_ref(), t.as_ref());
        let identity = linalg::product(t.transpose(), at.as_ref());
        assert!((&identity - &Mat::<f64>::identity(40, 40)).norm_max() < 1e-12);
        // What of each direction is in the span: |T^T A v|^2 / (v^T A v).
        for j in 0..10 {
            let held =
                (0..40).map(|k| (0..n).map(|i| at[(i, k)] * v[(i, j)]).sum::<f64>().powi(2)).sum::<f64>();
            assert!(held > 0.99 * value(j), "{j}: {} of {}", held, value(j));
        }
        // Forty columns of a matrix of rank thirty.
        let low = linalg::gram(root.subcols(0, 30));
        assert!(by_iteration(low.as_ref(), 40).is_none());
        assert_eq!(leading(low.as_ref(), 40).unwrap().ncols(), 30);
    }

    #[test]
    fn pseudo_counts() {
        let options = FisherOptions::default();
        for (n, dim, expected) in
            [(200, 10, 0.00125), (100, 100, 0.5), (100, 200, 2.0), (10, 200, 5.0), (200, 2, 0.001)]
        {
            assert!((options.shrinkage(n, dim) - expected).abs() < 1e-12);
        }
    }

    #[test]
    fn nothing_is_found_where_there_is_nothing() {
        for (dim, n) in [(20, 200), (400, 100)] {
            let target = Normal::new(6, stds(dim), &[]);
            let metric = fit(&target.draw(8, n).view(), &unit(dim), &FisherOptions::default()).unwrap();
            assert_eq!(metric.rank(), 0);
            for (a, b) in metric.stds.iter().zip(stds(dim)) {
                assert!((a / b - 1.0).abs() < 1e-12);
            }
        }
    }

    /// The default estimator.
    fn default_fit(points: &[Point<'_>], previous: &Metric) -> Option<Metric> {
        fit(points, previous, &FisherOptions::default())
    }

    #[test]
    fn coordinates_can_be_rescaled() {
        for (dim, n) in [(44, 12), (16, 12)] {
            check_rescaled(&default_fit, &noisy(dim, n), 1e-7);
        }
    }

    #[test]
    fn whatever_comes_out_is_positive_definite() {
        for seed in 0..60u64 {
            let z = normals(seed, 4);
            let dim = 5 + (seed as usize * 13) % 90;
            let n = 3 + (seed as usize * 7) % 40;
            let mut points = noisy(dim, n);
            // Wilder and wilder: heavy tails, repeated points, coordinates that copy others.
            for (i, (x, g)) in points.0.iter_mut().enumerate() {
                let stretch = (z[0] * 3.0 * (i as f64).sin()).exp();
                x.iter_mut().for_each(|x| *x *= stretch);
                g.iter_mut().for_each(|g| *g /= stretch.sqrt());
                if seed % 3 == 0 {
                    x[dim - 1] = 3.0 * x[0];
                }
            }
            if seed % 2 == 0 {
                points.0.push(points.0[0].clone());
            }
            let options =
                FisherOptions { directions: 1 + seed as usize % 20, max_rank: Some(6), ..Default::default() };
            let metric = fit(&points.view(), &unit(dim), &options);
            let Some(metric) = metric else { panic!("{seed} {dim} {n}") };
            assert!(metric.is_usable() && metric.rank() <= 6);
            assert!(orthonormality(&metric) < 1e-10, "{seed}: {}", orthonormality(&metric));
            let distances: Vec<f64> = metric.values.iter().map(|v| v.ln().abs()).collect();
            assert!(distances.is_sorted_by(|a, b| a >= b) && distances.iter().all(|d| *d > 2f64.ln()));
            if dim < 30 {
                let scaled = Metric { stds: vec![1.0; dim], ..metric };
                assert!(jacobi(full(&scaled)).0.iter().all(|v| *v > 0.0));
            }
        }
    }

    #[test]
    fn a_coordinate_that_does_not_vary_keeps_its_scale() {
        for (dim, n) in [(44, 12), (16, 12)] {
            let points = noisy(dim, n);
            let without = fit(&points.view(), &unit(dim), &FisherOptions::default()).unwrap();
            let mut wider = points.clone();
            for (i, (x, g)) in wider.0.iter_mut().enumerate() {
                // Flat, linear but for rounding, and pinned.
                g.extend([0.0, if i % 3 == 0 { 0.1 } else { 0.1f64.next_up() }, x[0]]);
                x.extend([x[1], x[2], 0.3]);
            }
            let mut previous = unit(dim + 3);
            previous.stds[dim..].copy_from_slice(&[5.0, 6.0, 7.0]);
            let metric = fit(&wider.view(), &previous, &FisherOptions::default());
            let metric = metric.unwrap();
            assert_eq!(metric.stds[..dim], without.stds);
            assert_eq!(metric.stds[dim..], [5.0, 6.0, 7.0]);
            assert!(metric.rows().all(|row| row[dim..].iter().all(|u| u.abs() < 1e-12)));
        }
    }

    #[test]
    fn numbers_that_allow_no_metric() {
        for n in [5, 40] {
            check_refusals(&default_fit, &noisy(30, n));
        }
    }

    #[test]
    fn bits_do_not_depend_on_where_numbers_lie() {
        check_alignment(&default_fit, &noisy(700, 40));
    }
}
