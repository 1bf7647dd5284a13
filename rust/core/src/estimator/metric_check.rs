//! How well a metric fits: the spectrum of the distribution in its coordinates, where it should be the identity.
//!
//! It is estimated as the metric itself is (`fisher_pursuit.rs`), from draws with their gradients, and also from the draws
//! alone if there are twice as many as parameters: in a funnel they vary far more in some directions than gradients say.
//! Of n draws of D parameters with covariance I, the largest sample eigenvalue is near (1 + sqrt(g))^2 with g = D / n, and one
//! eigenvalue ell > 1 of the covariance shows as lambda = ell (1 + g / (ell - 1)) (Baik and Silverstein 2006). Solved for ell:
//! ell = (b + sqrt(b^2 - 4 lambda)) / 2 with b = lambda + 1 - g.

use faer::{Mat, MatRef};

use super::fisher_pursuit::Whitened;
use super::linalg;
use super::points::Point;
use crate::metric::Metric;

/// The largest eigenvalue of the distribution's covariance in the coordinates of a metric, as far as the points tell: 1, or
/// little more, for a metric that fits. `None` of fewer than three points, of points of another number of parameters, or of
/// numbers that are not finite.
pub fn top_eigenvalue(points: &[Point<'_>], metric: &Metric) -> Option<f64> {
    let dim = metric.dim();
    let fits = |p: &Point<'_>| p.x.len() == dim && p.g.len() == dim;
    if points.len() < 3 || dim == 0 || !points.iter().all(fits) {
        return None;
    }
    let inverse: Vec<f64> = metric.stds.iter().map(|s| 1.0 / s).collect();
    let x = whiten(points.iter().map(|p| p.x), points.len(), metric, &inverse, |v| 1.0 / v.sqrt());
    let g = whiten(points.iter().map(|p| p.g), points.len(), metric, &metric.stds, f64::sqrt);
    let of_draws = if 2 * dim <= points.len() { top_of_draws(x.as_ref())? } else { 1.0 };
    let values = Whitened { x, g }.spectrum()?;
    Some(values.into_iter().fold(of_draws, f64::max))
}

/// The largest eigenvalue of the covariance of centred columns, cleared of what their finite number adds, at least 1.
fn top_of_draws(x: MatRef<'_, f64>) -> Option<f64> {
    let count = x.ncols() as f64;
    let lambda = linalg::eigen(linalg::gram(x).as_ref())?.values.last()? / (count - 1.0);
    let g = x.nrows() as f64 / count;
    if lambda <= (1.0 + g.sqrt()).powi(2) {
        return Some(1.0);
    }
    let b = lambda + 1.0 - g;
    Some(0.5 * (b + (b * b - 4.0 * lambda).sqrt()))
}

/// In columns, (I + U^T (F - I) U) diag(factors) (row - mean), F the function of the metric's eigenvalues.
fn whiten<'a>(
    rows: impl Iterator<Item = &'a [f64]>,
    count: usize,
    metric: &Metric,
    factors: &[f64],
    of: impl Fn(f64) -> f64,
) -> Mat<f64> {
    let dim = metric.dim();
    let mut y = Mat::zeros(dim, count);
    for (j, row) in rows.enumerate() {
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
    y
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

#[cfg(test)]
mod tests {
    use super::super::testing::{Normal, Points, normals, unit};
    use super::*;

    fn scaled(stds: f64, dim: usize) -> Metric {
        Metric::diagonal(&vec![stds * stds; dim], vec![0.0; dim])
    }

    #[test]
    fn what_a_metric_lacks_is_found_with_more_and_with_fewer_points_than_parameters() {
        for (dim, n) in [(3, 60), (20, 400), (150, 200), (400, 200), (2000, 120)] {
            let quiet = Normal::new(1, vec![2.0; dim], &[]);
            let ell = top_eigenvalue(&quiet.draw(1, n).view(), &scaled(2.0, dim)).unwrap();
            assert!((ell - 1.0).abs() < 0.3, "{dim}: {ell}");
            let loud = Normal::new(1, vec![2.0; dim], &[50.0]);
            let ell = top_eigenvalue(&loud.draw(1, n).view(), &scaled(2.0, dim)).unwrap();
            assert!((ell / 50.0).ln().abs() < 0.3, "{dim}: {ell}");
            // In coordinates that know the direction it is gone.
            let ell = top_eigenvalue(&loud.draw(1, n).view(), &loud.metric).unwrap();
            assert!((ell - 1.0).abs() < 0.3, "{dim}: {ell}");
        }
    }

    #[test]
    fn noise_alone_is_not_taken_for_a_bad_metric() {
        for (dim, n) in [(5, 200), (60, 200), (150, 200), (500, 200)] {
            let mut points = Normal::new(1, vec![1.0; dim], &[]).draw(1, n);
            for (i, (_, g)) in points.0.iter_mut().enumerate() {
                g.iter_mut().zip(normals(500 + i as u64, dim)).for_each(|(g, e)| *g += 0.5 * e);
            }
            let ell = top_eigenvalue(&points.view(), &unit(dim)).unwrap();
            assert!(ell < 4.0, "{dim}: {ell}");
        }
    }

    #[test]
    fn what_draws_alone_show_counts_too() {
        // Where gradients are wilder than draws, as in the neck of a funnel, the best metric is narrower than the draws.
        let mut points = Normal::new(1, vec![1.0; 3], &[]).draw(1, 100);
        for (i, (x, g)) in points.0.iter_mut().enumerate() {
            x[0] *= 4.0;
            g[0] *= if i % 10 == 0 { 12.0 } else { 0.25 };
        }
        let ell = top_eigenvalue(&points.view(), &unit(3)).unwrap();
        assert!((ell / 16.0).ln().abs() < 0.4, "{ell}");
    }

    #[test]
    fn points_that_tell_nothing() {
        let points = Normal::new(1, vec![1.0; 4], &[]).draw(1, 6);
        assert!(top_eigenvalue(&points.view()[..2], &unit(4)).is_none());
        assert!(top_eigenvalue(&points.view(), &unit(5)).is_none());
        let mut broken = points.clone();
        broken.0[2].0[1] = f64::NAN;
        assert!(top_eigenvalue(&broken.view(), &unit(4)).is_none());
        // A chain that stands still.
        let still = Points(vec![points.0[0].clone(); 6]);
        assert_eq!(top_eigenvalue(&still.view(), &unit(4)), Some(1.0));
    }
}
