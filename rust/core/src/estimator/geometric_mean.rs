//! The geometric mean of one covariance and the inverse of another.
//!
//! S = A # B^-1 is the one positive definite matrix with S B S = A. With B = L L^T and L^T A L = W D W^T,
//! S = F F^T where F = L^-T W D^(1/4): the condition holds since F^T B F = D^(1/2). Of S, the eigenpairs that differ from
//! 1 by more than a factor are kept, those with the largest |log lambda| first, since small eigenvalues cost a sampler as
//! much as large ones.

use faer::Mat;

use super::linalg::{self, Eigen};

/// Eigenvalues down to this share of the largest have some digits left.
const ACCURATE: f64 = 1e-12;

/// Eigenvalues and, in columns, eigenvectors.
pub(super) struct Pairs {
    pub values: Vec<f64>,
    pub vectors: Mat<f64>,
}

/// The eigenpairs of A # B^-1 with |log lambda| > log `cutoff`, at most `max_rank` of them; `None` if A or B is not positive
/// definite in finite numbers.
pub(super) fn eigenpairs(a: Mat<f64>, b: Mat<f64>, cutoff: f64, max_rank: usize) -> Option<Pairs> {
    let n = a.nrows();
    let l = linalg::cholesky(b)?;
    let Eigen { values, vectors: mut f } = inner(a, &l)?;
    for (j, value) in values.iter().enumerate() {
        let root = value.sqrt().sqrt();
        f.col_as_slice_mut(j).iter_mut().for_each(|v| *v *= root);
    }
    linalg::solve_lower_transposed(l.as_ref(), f.as_mut());
    let Eigen { values, vectors } = linalg::eigen(linalg::gram(f.as_ref()).as_ref())?;
    if values.iter().any(|v| *v <= 0.0) {
        return None;
    }
    let chosen = far_from_one(&values, cutoff, max_rank);
    Some(Pairs {
        values: chosen.iter().map(|i| values[*i]).collect(),
        vectors: Mat::from_fn(n, chosen.len(), |i, j| vectors[(i, chosen[j])]),
    })
}

/// W and D of L^T A L = W D W^T; `None` unless D is positive.
fn inner(a: Mat<f64>, l: &Mat<f64>) -> Option<Eigen> {
    let product = linalg::product(l.transpose(), linalg::product(a.as_ref(), l.as_ref()).as_ref());
    let eigen = linalg::eigen(product.as_ref())?;
    let (smallest, largest) = (eigen.values.first()?, eigen.values.last()?);
    if *smallest > ACCURATE * largest {
        return Some(eigen);
    }
    // With A = K K^T the roots of D are the singular values of K^T L.
    let k = linalg::cholesky(a)?;
    let mut singular = linalg::right_singular(linalg::product(k.transpose(), l.as_ref()).as_ref())?;
    singular.values.iter_mut().for_each(|v| *v *= *v);
    singular.values.iter().all(|v| *v > 0.0).then_some(singular)
}

/// Indices of the values beyond `cutoff` or below its inverse, the farthest from 1 first.
pub(super) fn far_from_one(values: &[f64], cutoff: f64, max_rank: usize) -> Vec<usize> {
    let distance = |i: usize| values[i].ln().abs();
    let mut chosen: Vec<usize> = (0..values.len()).filter(|i| distance(*i) > cutoff.ln()).collect();
    chosen.sort_by(|i, j| distance(*j).total_cmp(&distance(*i)));
    chosen.truncate(max_rank);
    chosen
}

#[cfg(test)]
mod tests {
    use super::super::testing::normals;
    use super::*;

    fn positive(n: usize, seed: u64) -> Mat<f64> {
        let z = normals(seed, n * (n + 1));
        linalg::gram(Mat::from_fn(n, n + 1, |i, j| z[i * (n + 1) + j]).as_ref())
    }

    #[test]
    fn the_mean_solves_its_equation() {
        let (a, b) = (positive(8, 1), positive(8, 2));
        let Pairs { values, vectors } = eigenpairs(a.clone(), b.clone(), 1.0, usize::MAX).unwrap();
        assert_eq!(values.len(), 8);
        let scaled = Mat::from_fn(8, 8, |i, j| vectors[(i, j)] * values[j]);
        let s = linalg::product(scaled.as_ref(), vectors.transpose());
        let sbs = linalg::product(linalg::product(s.as_ref(), b.as_ref()).as_ref(), s.as_ref());
        assert!((&sbs - &a).norm_max() < 1e-9 * a.norm_max());
    }

    #[test]
    fn directions_that_both_leave_at_their_floor_are_neutral() {
        // The inner product is as small as the square of the floor there, below the rounding of its largest eigenvalue.
        let (n, rank) = (140, 40);
        let floored = |seed: u64| {
            let z = normals(seed, n * rank);
            let mut a = linalg::gram(Mat::from_fn(n, rank, |i, j| 10.0 * z[i * rank + j]).as_ref());
            (0..n).for_each(|i| a[(i, i)] += 1e-6);
            a
        };
        let Pairs { values, .. } = eigenpairs(floored(3), floored(4), 1.1, n).unwrap();
        assert_eq!(values.len(), 2 * rank, "{values:?}");
    }

    #[test]
    fn small_values_count_as_much_as_large_ones() {
        let values = [0.01, 0.4, 0.6, 1.0, 1.9, 2.1, 30.0];
        assert_eq!(far_from_one(&values, 2.0, usize::MAX), [0, 6, 1, 5]);
        assert_eq!(far_from_one(&values, 2.0, 2), [0, 6]);
        assert_eq!(far_from_one(&values, 1.0, usize::MAX).len(), 6);
    }

    #[test]
    fn singular_matrices_are_noticed() {
        let a = positive(4, 1);
        assert!(eigenpairs(a.clone(), Mat::zeros(4, 4), 2.0, 9).is_none());
        assert!(eigenpairs(Mat::zeros(4, 4), a, 2.0, 9).is_none());
    }
}
