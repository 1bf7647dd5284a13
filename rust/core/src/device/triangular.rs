//! Small dense matrices, row by row.

/// A = R^T R, R upper triangular, in place; what is below the diagonal is left as it is. False if a column is within
/// `least` times its length of those before it, so that A is nearly singular or not positive definite.
pub fn cholesky(a: &mut [f64], n: usize, least: f64) -> bool {
    let lengths: Vec<f64> = (0..n).map(|k| a[k * n + k].sqrt()).collect();
    for (k, length) in lengths.into_iter().enumerate() {
        let (above, below) = a.split_at_mut((k + 1) * n);
        let row = &mut above[k * n + k..];
        let root = row[0].sqrt();
        // Written so that NaN fails.
        if !(root > least * length && root < f64::INFINITY) {
            return false;
        }
        row.iter_mut().for_each(|v| *v /= root);
        for (i, other) in (k + 1..n).zip(below.chunks_exact_mut(n)) {
            add_scaled(&mut other[i..], -row[i - k], &row[i - k..]);
        }
    }
    true
}

/// R^-1 of an upper triangular R with a positive diagonal, zero below the diagonal.
pub fn inverse(r: &[f64], n: usize) -> Vec<f64> {
    let mut x = vec![0.0; n * n];
    for i in (0..n).rev() {
        let (above, below) = x.split_at_mut((i + 1) * n);
        let row = &mut above[i * n..];
        row[i] = 1.0;
        for (k, other) in (i + 1..n).zip(below.chunks_exact(n)) {
            add_scaled(&mut row[k..], -r[i * n + k], &other[k..]);
        }
        row[i..].iter_mut().for_each(|v| *v /= r[i * n + i]);
    }
    x
}

/// out += factor v.
pub fn add_scaled(out: &mut [f64], factor: f64, v: &[f64]) {
    for (out, v) in out.iter_mut().zip(v) {
        *out += factor * v;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_and_inverses_multiply_to_what_they_should() {
        for n in [1, 2, 5, 19] {
            let b: Vec<f64> = (0..n * n).map(|i| (i as f64 * 1.7).sin()).collect();
            let entry = |i: usize, j: usize| {
                f64::from(u8::from(i == j)) + (0..n).map(|k| b[k * n + i] * b[k * n + j]).sum::<f64>()
            };
            let mut r: Vec<f64> = (0..n * n).map(|k| entry(k / n, k % n)).collect();
            assert!(cholesky(&mut r, n, 0.0));
            let upper = |i: usize, j: usize| if i <= j { r[i * n + j] } else { 0.0 };
            let x = inverse(&r, n);
            for i in 0..n {
                for j in 0..n {
                    let product: f64 = (0..n).map(|k| upper(k, i) * upper(k, j)).sum();
                    assert!((product - entry(i, j)).abs() < 1e-12 * n as f64);
                    let one: f64 = (0..n).map(|k| upper(i, k) * x[k * n + j]).sum();
                    assert!((one - f64::from(u8::from(i == j))).abs() < 1e-12 * n as f64);
                }
            }
        }
    }

    #[test]
    fn matrices_that_are_not_positive_definite_are_noticed() {
        assert!(!cholesky(&mut [1.0, 2.0, 2.0, 1.0], 2, 0.0));
        assert!(!cholesky(&mut [f64::NAN], 1, 0.0));
        assert!(!cholesky(&mut [0.0], 1, 0.0));
        assert!(cholesky(&mut [], 0, 0.0));
        let near = [4.0, 2.0, 2.0, 1.0 + 1e-6];
        assert!(cholesky(&mut near.clone(), 2, 0.9e-3) && !cholesky(&mut near.clone(), 2, 1.1e-3));
    }
}
