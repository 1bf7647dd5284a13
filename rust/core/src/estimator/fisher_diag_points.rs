//! The diagonal metric of smallest Fisher divergence, of whole points: sigma_i^2 = (Var x_i / Var g_i)^(1/2).
//!
//! The estimate of `fisher_diag.rs` without a device. It reads the points twice, and is what to fall back on where a
//! low-rank one costs too much.

use super::points::Point;
use super::scaling::Scaled;
use crate::metric::Metric;

/// The metric of some points; `None` if there are fewer than three or the numbers do not allow one.
///
/// A coordinate whose positions or gradients do not vary has the scale of the previous metric.
pub fn fit(points: &[Point<'_>], previous: &Metric) -> Option<Metric> {
    Scaled::new(points, previous)?.into_metric(Vec::new(), Vec::new())
}

#[cfg(test)]
mod tests {
    use super::super::testing::Normal;
    use super::*;

    #[test]
    fn independent_normals_are_recovered_exactly() {
        let stds: Vec<f64> = (0..600).map(|i| 1.01f64.powi(i)).collect();
        let target = Normal::new(1, stds.clone(), &[]);
        let points = target.draw(1, 3);
        let metric = fit(&points.view(), &Metric::diagonal(&vec![1.0; 600], vec![0.0; 600])).unwrap();
        assert_eq!(metric.rank(), 0);
        for (found, truth) in metric.stds.iter().zip(&stds) {
            assert!((found / truth - 1.0).abs() < 1e-10);
        }
        for ((found, truth), std) in metric.center.iter().zip(&target.metric.center).zip(&stds) {
            assert!((found - truth).abs() < 1e-9 * std);
        }
    }

    #[test]
    fn known_numbers_and_a_coordinate_that_does_not_vary() {
        let points =
            [([0.0, 1.0], [2.0, 0.1]), ([3.0, 5.0], [2.0 - 12.0, 0.1]), ([6.0, 6.0], [2.0 - 24.0, 0.1])];
        let view: Vec<Point<'_>> = points.iter().map(|(x, g)| Point { x, g }).collect();
        let metric = fit(&view, &Metric::diagonal(&[1.0, 49.0], vec![0.0; 2])).unwrap();
        // Var x / Var g = 1 / 16; mean x + mean g / 4 = 3 - 10 / 4. Then 4 + 49 * 0.1.
        assert!((metric.stds[0] - 0.5).abs() < 1e-15 && metric.stds[1] == 7.0);
        assert!((metric.center[0] - 0.5).abs() < 1e-14 && (metric.center[1] - 8.9).abs() < 1e-13);
    }
}
