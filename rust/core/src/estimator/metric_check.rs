//! How well a metric fits draws: the spectrum of their covariance in its coordinates, where it should be the identity.
//!
//! Of n draws of D parameters with covariance I, the largest sample eigenvalue is near (1 + sqrt(g))^2 with g = D / n, and one
//! eigenvalue ell > 1 of the covariance shows as lambda = ell (1 + g / (ell - 1)) (Baik and Silverstein 2006). Solved for ell:
//! ell = (b + sqrt(b^2 - 4 lambda)) / 2 with b = lambda + 1 - g.

use faer::{Mat, MatRef};

use super::linalg::{self, Eigen};
use super::points::Point;
use crate::metric::Metric;

/// Steps of the Lanczos iteration, which finds the largest eigenvalue to many digits in far fewer if it stands out.
const STEPS: usize = 40;

/// The largest eigenvalue of the covariance of whitened draws, cleared of what their finite number adds: 1 for a metric that
/// fits. `None` of fewer than two draws, of draws of another number of parameters, or of numbers that are not finite.
pub fn top_eigenvalue(draws: &[&[f64]], metric: &Metric) -> Option<f64> {
    let factors: Vec<f64> = metric.stds.iter().map(|s| 1.0 / s).collect();
    top(draws.iter().copied(), draws.len(), metric, &factors, |value| 1.0 / value.sqrt())
}

/// The condition number of the distribution in the coordinates of a metric, from the largest eigenvalue of the covariance
/// of whitened draws and that of whitened gradients, which is the inverse of the smallest of the draws if the distribution
/// is normal. `None` as for [`top_eigenvalue`].
pub fn condition_number(points: &[Point<'_>], metric: &Metric) -> Option<f64> {
    let factors: Vec<f64> = metric.stds.iter().map(|s| 1.0 / s).collect();
    let of_draws = top(points.iter().map(|p| p.x), points.len(), metric, &factors, |v| 1.0 / v.sqrt())?;
    let of_gradients = top(points.iter().map(|p| p.g), points.len(), metric, &metric.stds, f64::sqrt)?;
    Some(of_draws * of_gradients)
}

/// The corrected largest eigenvalue of the covariance of (I + U^T (F - I) U) diag(factors) row, F the function of the metric's
/// eigenvalues.
fn top<'a>(
    rows: impl Iterator<Item = &'a [f64]>,
    count: usize,
    metric: &Metric,
    factors: &[f64],
    of: impl Fn(f64) -> f64,
) -> Option<f64> {
    let dim = metric.dim();
    if count < 2 || dim == 0 {
        return None;
    }
    let mut y = Mat::zeros(dim, count);
    for (j, row) in rows.enumerate() {
        if row.len() != dim {
            return None;
        }
        y.col_as_slice_mut(j).iter_mut().zip(row.iter().zip(factors)).for_each(|(y, (x, f))| *y = x * f);
    }
    centre(&mut y);
    if metric.rank() > 0 {
        let u = MatRef::from_column_major_slice(&metric.vectors, dim, metric.rank());
        let mut along = linalg::product(u.transpose(), y.as_ref());
        let stretch: Vec<f64> = metric.values.iter().map(|v| of(*v) - 1.0).collect();
        for j in 0..count {
            along.col_as_slice_mut(j).iter_mut().zip(&stretch).for_each(|(a, s)| *a *= s);
        }
        y += linalg::product(u, along.as_ref());
    }
    // The products either way have the same eigenvalues other than zero.
    let products = linalg::gram(if count <= dim { y.transpose() } else { y.as_ref() });
    let lambda = largest_eigenvalue(products.as_ref())? / (count - 1) as f64;
    let corrected = without_noise(lambda, dim as f64 / count as f64);
    corrected.is_finite().then_some(corrected)
}

/// Subtract the mean of the columns.
fn centre(y: &mut Mat<f64>) {
    let mut mean = vec![0.0; y.nrows()];
    for j in 0..y.ncols() {
        mean.iter_mut().zip(y.col_as_slice(j)).for_each(|(m, y)| *m += y);
    }
    mean.iter_mut().for_each(|m| *m /= y.ncols() as f64);
    for j in 0..y.ncols() {
        y.col_as_slice_mut(j).iter_mut().zip(&mean).for_each(|(y, m)| *y -= m);
    }
}

/// The eigenvalue of the covariance behind the largest sample eigenvalue `lambda` at `g` parameters per draw, at least 1.
fn without_noise(lambda: f64, g: f64) -> f64 {
    if lambda <= (1.0 + g.sqrt()).powi(2) {
        return 1.0;
    }
    let b = lambda + 1.0 - g;
    0.5 * (b + (b * b - 4.0 * lambda).sqrt())
}

/// The largest eigenvalue of a positive semidefinite matrix, by the Lanczos iteration from a fixed start.
fn largest_eigenvalue(a: MatRef<'_, f64>) -> Option<f64> {
    let n = a.nrows();
    let steps = STEPS.min(n);
    let mut basis = Mat::<f64>::zeros(n, steps);
    let mut tridiagonal = Mat::<f64>::zeros(steps, steps);
    // Of no special direction: that of equal entries, for one, is a null vector of products of centred draws.
    let mut v = Mat::from_fn(n, 1, |i, _| 1.0 + (i as f64 * std::f64::consts::SQRT_2).fract());
    let mut size = v.norm_l2();
    for k in 0..steps {
        basis.col_as_slice_mut(k).iter_mut().zip(v.col_as_slice(0)).for_each(|(b, v)| *b = v / size);
        v = linalg::product(a, basis.subcols(k, 1));
        let before = v.norm_l2();
        // Twice, for a single pass leaves rounding in directions that have been found already.
        for _ in 0..2 {
            let found = basis.subcols(0, k + 1);
            let along = linalg::product(found.transpose(), v.as_ref());
            tridiagonal[(k, k)] += along[(k, 0)];
            v -= linalg::product(found, along.as_ref());
        }
        size = v.norm_l2();
        if size.is_nan() || k + 1 == steps || size <= f64::EPSILON * before {
            let Eigen { values, .. } = linalg::eigen(tridiagonal.submatrix(0, 0, k + 1, k + 1))?;
            return values.last().copied();
        }
        tridiagonal[(k + 1, k)] = size;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Normal, dot, jacobi, normals, unit};
    use super::*;

    fn positions(points: &[Point<'_>]) -> Vec<Vec<f64>> {
        points.iter().map(|p| p.x.to_vec()).collect()
    }

    fn check(draws: &[Vec<f64>], metric: &Metric) -> Option<f64> {
        top_eigenvalue(&draws.iter().map(Vec::as_slice).collect::<Vec<_>>(), metric)
    }

    #[test]
    fn known_answer() {
        // Variances 10 / 3 and 1 / 3 along the axes; g = 1 / 2.
        let draws = [[2.0, 0.5], [-2.0, 0.5], [1.0, -0.5], [-1.0, -0.5]].map(|d| d.to_vec());
        let (lambda, b) = (10.0 / 3.0, 10.0 / 3.0 + 0.5);
        let expected = (b + f64::sqrt(b * b - 4.0 * lambda)) / 2.0;
        assert!((check(&draws, &unit(2)).unwrap() - expected).abs() < 1e-12);
        assert!((expected * (1.0 + 0.5 / (expected - 1.0)) - lambda).abs() < 1e-12);
        // Scaled by their deviations nothing stands out.
        let metric = Metric::diagonal(&[10.0 / 3.0, 1.0 / 3.0], vec![0.0; 2]);
        assert_eq!(check(&draws, &metric), Some(1.0));
        assert_eq!(check(&draws[..1], &unit(2)), None);
        assert_eq!(check(&draws, &unit(3)), None);
        let broken = [draws[0].clone(), vec![f64::NAN, 0.0], draws[1].clone()];
        assert_eq!(check(&broken, &unit(2)), None);
    }

    #[test]
    fn the_largest_eigenvalue_is_that_of_a_full_decomposition() {
        for n in [1, 2, 20, 60] {
            let rows: Vec<Vec<f64>> = (0..n).map(|i| normals(i as u64, n + 3)).collect();
            let a: Vec<Vec<f64>> = rows.iter().map(|r| rows.iter().map(|s| dot(r, s)).collect()).collect();
            let expected = jacobi(a.clone()).0.into_iter().fold(0.0, f64::max);
            let found = largest_eigenvalue(Mat::from_fn(n, n, |i, j| a[i][j]).as_ref()).unwrap();
            assert!((found / expected - 1.0).abs() < 1e-9, "{n}: {found} {expected}");
        }
        assert_eq!(largest_eigenvalue(Mat::<f64>::identity(50, 50).as_ref()), Some(1.0));
        assert_eq!(largest_eigenvalue(Mat::<f64>::zeros(5, 5).as_ref()), Some(0.0));
    }

    #[test]
    fn noise_is_taken_off_with_more_and_with_fewer_draws_than_parameters() {
        for (dim, n) in [(20, 400), (400, 200)] {
            let quiet = Normal::new(1, vec![2.0; dim], &[]);
            let points = quiet.draw(1, n);
            let metric = Metric::diagonal(&vec![4.0; dim], vec![0.0; dim]);
            let ell = check(&positions(&points.view()), &metric).unwrap();
            assert!(ell < 1.4 * (1.0 + (dim as f64 / n as f64).sqrt()), "{ell}");
            let loud = Normal::new(1, vec![2.0; dim], &[50.0]);
            let points = loud.draw(1, n);
            let ell = check(&positions(&points.view()), &metric).unwrap();
            assert!((ell / 50.0).ln().abs() < 0.25, "{ell}");
            // In coordinates that know the direction it is gone.
            let ell = check(&positions(&points.view()), &loud.metric).unwrap();
            assert!(ell < 1.4 * (1.0 + (dim as f64 / n as f64).sqrt()), "{ell}");
        }
    }

    #[test]
    fn condition_numbers_count_both_ends() {
        let target = Normal::new(4, vec![3.0; 30], &[25.0, 0.04]);
        let points = target.draw(1, 2000);
        let start = Metric::diagonal(&[9.0; 30], vec![0.0; 30]);
        let before = condition_number(&points.view(), &start).unwrap();
        assert!((before / 625.0).ln().abs() < 0.2, "{before}");
        let after = condition_number(&points.view(), &target.metric).unwrap();
        assert!(after < 1.5, "{after}");
    }
}
