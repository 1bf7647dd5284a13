//! The few operations on small dense matrices that the estimators need, over faer.
//!
//! Always on one thread: what comes out must not depend on how many there are.

use faer::diag::Diag;
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::cholesky::llt::factor as llt;
use faer::linalg::evd;
use faer::linalg::matmul::{self, triangular, triangular::BlockStructure};
use faer::linalg::svd;
use faer::linalg::triangular_solve;
use faer::{Accum, Auto, Mat, MatMut, MatRef, Par};

/// Tridiagonal matrices of at least this size are divided. Measured; the default of twice as much is a tenth slower.
const DIVIDE: usize = 64;

/// A = V diag(values) V^T, values in ascending order.
pub(super) struct Eigen {
    pub values: Vec<f64>,
    pub vectors: Mat<f64>,
}

/// dst = a b.
pub(super) fn multiply(dst: MatMut<'_, f64>, a: MatRef<'_, f64>, b: MatRef<'_, f64>) {
    matmul::matmul(dst, Accum::Replace, a, b, 1.0, Par::Seq);
}

/// a b in a new matrix.
pub(super) fn product(a: MatRef<'_, f64>, b: MatRef<'_, f64>) -> Mat<f64> {
    let mut out = Mat::zeros(a.nrows(), b.ncols());
    multiply(out.as_mut(), a, b);
    out
}

/// Lower triangle of dst += a a^T.
pub(super) fn add_gram(dst: MatMut<'_, f64>, a: MatRef<'_, f64>) {
    triangular::matmul(
        dst,
        BlockStructure::TriangularLower,
        Accum::Add,
        a,
        BlockStructure::Rectangular,
        a.transpose(),
        BlockStructure::Rectangular,
        1.0,
        Par::Seq,
    );
}

/// a a^T, both triangles.
pub(super) fn gram(a: MatRef<'_, f64>) -> Mat<f64> {
    let mut out = Mat::zeros(a.nrows(), a.nrows());
    add_gram(out.as_mut(), a);
    mirror(&mut out);
    out
}

/// Copy the lower triangle to the upper one.
pub(super) fn mirror(a: &mut Mat<f64>) {
    for j in 0..a.ncols() {
        for i in 0..j {
            a[(i, j)] = a[(j, i)];
        }
    }
}

/// Whether all numbers of the lower triangle are finite.
fn is_finite(a: MatRef<'_, f64>) -> bool {
    (0..a.ncols()).all(|j| (j..a.nrows()).all(|i| a[(i, j)].is_finite()))
}

/// The eigendecomposition of a symmetric matrix, from its lower triangle; `None` if it has none in finite numbers.
pub(super) fn eigen(a: MatRef<'_, f64>) -> Option<Eigen> {
    let n = a.nrows();
    if !is_finite(a) {
        return None;
    }
    let mut values = Diag::zeros(n);
    let mut vectors = Mat::zeros(n, n);
    let parameters = evd::SelfAdjointEvdParams { recursion_threshold: DIVIDE, ..Auto::<f64>::auto() };
    let with = evd::ComputeEigenvectors::Yes;
    let scratch = evd::self_adjoint_evd_scratch::<f64>(n, with, Par::Seq, parameters.into());
    let mut memory = MemBuffer::try_new(scratch).ok()?;
    let stack = MemStack::new(&mut memory);
    evd::self_adjoint_evd(a, values.as_mut(), Some(vectors.as_mut()), Par::Seq, stack, parameters.into())
        .ok()?;
    let values: Vec<f64> = values.column_vector().iter().copied().collect();
    values.iter().all(|v| v.is_finite()).then_some(Eigen { values, vectors })
}

/// Singular values and right singular vectors of a square matrix; `None` if it has none in finite numbers. Slower than the
/// eigendecomposition of A^T A, and without its loss of half of the digits.
pub(super) fn right_singular(a: MatRef<'_, f64>) -> Option<Eigen> {
    let n = a.nrows();
    if !is_finite(a) || !is_finite(a.transpose()) {
        return None;
    }
    let (mut values, mut vectors) = (Diag::zeros(n), Mat::zeros(n, n));
    let (without, with) = (svd::ComputeSvdVectors::No, svd::ComputeSvdVectors::Full);
    let scratch = svd::svd_scratch::<f64>(n, n, without, with, Par::Seq, Default::default());
    let mut memory = MemBuffer::try_new(scratch).ok()?;
    let stack = MemStack::new(&mut memory);
    svd::svd(a, values.as_mut(), None, Some(vectors.as_mut()), Par::Seq, stack, Default::default()).ok()?;
    let values: Vec<f64> = values.column_vector().iter().copied().collect();
    values.iter().all(|v| v.is_finite()).then_some(Eigen { values, vectors })
}

/// L of A = L L^T, in place of the lower triangle, with zeros above; `None` if A is not positive definite.
pub(super) fn cholesky(mut a: Mat<f64>) -> Option<Mat<f64>> {
    let n = a.nrows();
    let scratch = llt::cholesky_in_place_scratch::<f64>(n, Par::Seq, Default::default());
    let mut memory = MemBuffer::try_new(scratch).ok()?;
    let stack = MemStack::new(&mut memory);
    llt::cholesky_in_place(a.as_mut(), Default::default(), Par::Seq, stack, Default::default()).ok()?;
    for j in 1..n {
        for i in 0..j {
            a[(i, j)] = 0.0;
        }
    }
    (0..n).all(|i| a[(i, i)].is_finite() && a[(i, i)] > 0.0).then_some(a)
}

/// Orthonormal columns that span those of a, which has no more columns than rows, and further ones where these are
/// dependent.
pub(super) fn orthonormal(a: Mat<f64>) -> Mat<f64> {
    a.qr().compute_thin_Q()
}

/// rhs <- L^-1 rhs.
pub(super) fn solve_lower(l: MatRef<'_, f64>, rhs: MatMut<'_, f64>) {
    triangular_solve::solve_lower_triangular_in_place(l, rhs, Par::Seq);
}

/// rhs <- L^-T rhs.
pub(super) fn solve_lower_transposed(l: MatRef<'_, f64>, rhs: MatMut<'_, f64>) {
    triangular_solve::solve_upper_triangular_in_place(l.transpose(), rhs, Par::Seq);
}

#[cfg(test)]
mod tests {
    use super::super::testing::normals;
    use super::*;

    fn example(n: usize) -> Mat<f64> {
        let z = normals(1, n * (n + 2));
        gram(Mat::from_fn(n, n + 2, |i, j| z[i * (n + 2) + j]).as_ref())
    }

    fn distance(a: &Mat<f64>, b: &Mat<f64>) -> f64 {
        (a - b).norm_max()
    }

    #[test]
    fn eigenvectors_diagonalise() {
        for n in [1, 2, 9, 140] {
            let a = example(n);
            let Eigen { values, vectors } = eigen(a.as_ref()).unwrap();
            let scaled = Mat::from_fn(n, n, |i, j| vectors[(i, j)] * values[j]);
            assert!(distance(&product(scaled.as_ref(), vectors.transpose()), &a) < 1e-11 * n as f64);
            assert!(values.windows(2).all(|pair| pair[0] <= pair[1]));
        }
    }

    #[test]
    fn triangular_factors() {
        let a = example(9);
        let l = cholesky(a.clone()).unwrap();
        assert!(distance(&gram(l.as_ref()), &a) < 1e-13);
        let mut b = product(l.as_ref(), a.as_ref());
        solve_lower(l.as_ref(), b.as_mut());
        assert!(distance(&b, &a) < 1e-10);
        let mut b = product(l.transpose(), a.as_ref());
        solve_lower_transposed(l.as_ref(), b.as_mut());
        assert!(distance(&b, &a) < 1e-10);
    }

    #[test]
    fn singular_values_keep_their_digits() {
        let scales = [1.0, 1e-6, 1e-12];
        let vectors = eigen(example(3).as_ref()).unwrap().vectors;
        let a = Mat::from_fn(3, 3, |i, j| scales[i] * vectors[(j, i)]);
        let Eigen { values, vectors: v } = right_singular(a.as_ref()).unwrap();
        for j in 0..3 {
            assert!((values[j] / scales[j] - 1.0).abs() < 1e-3);
            let along: f64 = (0..3).map(|i| v[(i, j)] * vectors[(i, j)]).sum();
            assert!((along.abs() - 1.0).abs() < 1e-3);
        }
    }

    #[test]
    fn what_cannot_be_decomposed_is_noticed() {
        let mut a = example(5);
        a[(3, 1)] = f64::NAN;
        assert!(eigen(a.as_ref()).is_none());
        assert!(cholesky(a).is_none());
        let mut a = example(5);
        a[(4, 4)] = -1.0;
        assert!(cholesky(a).is_none());
    }
}
