//! Eight schools behind the interface of nutpie.h, in Rust; schools.c says what the model is.
//!
//!     rustc --edition 2021 -O --crate-type cdylib schools.rs -o schools.so
//!
//! A panic may not leave a function that others call through a C interface; with `extern "C"` it ends the process.

use std::ffi::c_void;
use std::slice::{from_raw_parts, from_raw_parts_mut};

const OK: i64 = 0;
const RECOVERABLE: i64 = 1;
const BAD_DIMENSION: i64 = -2;

fn logp(x: &[f64], effects: &[f64], errors: &[f64], grad: &mut [f64]) -> f64 {
    let (mu, tau, z) = (x[0], x[1].exp(), &x[2..]);
    let ratio = tau * tau / 25.0;
    let mut value = -mu * mu / 50.0 + x[1] - ratio.ln_1p();
    grad[0] = -mu / 25.0;
    grad[1] = 1.0 - 2.0 * ratio / (1.0 + ratio);
    for (i, (effect, error)) in effects.iter().zip(errors).enumerate() {
        let residual = (effect - mu - tau * z[i]) / error;
        let slope = residual / error;
        value -= 0.5 * (residual * residual + z[i] * z[i]);
        grad[0] += slope;
        grad[1] += slope * tau * z[i];
        grad[2 + i] = slope * tau - z[i];
    }
    value
}

/// # Safety
/// As `nutpie_logp_fn` of nutpie.h; `user_data` points to the effects and then the errors.
#[no_mangle]
pub unsafe extern "C" fn schools_logp(
    dim: u64,
    x: *const f64,
    grad: *mut f64,
    value: *mut f64,
    user_data: *mut c_void,
) -> i64 {
    let dim = dim as usize;
    if dim < 2 {
        return BAD_DIMENSION;
    }
    let (x, grad) = (from_raw_parts(x, dim), from_raw_parts_mut(grad, dim));
    let (effects, errors) = from_raw_parts(user_data as *const f64, 2 * (dim - 2)).split_at(dim - 2);
    if !x[1].exp().is_finite() {
        return RECOVERABLE;
    }
    *value = logp(x, effects, errors, grad);
    OK
}

/// # Safety
/// As `nutpie_expand_fn` of nutpie.h.
#[no_mangle]
pub unsafe extern "C" fn schools_expand(
    dim: u64,
    n_out: u64,
    x: *const f64,
    out: *mut f64,
    _user_data: *mut c_void,
) -> i64 {
    if n_out != dim {
        return BAD_DIMENSION;
    }
    let (x, out) = (from_raw_parts(x, dim as usize), from_raw_parts_mut(out, dim as usize));
    let (mu, tau) = (x[0], x[1].exp());
    out[0] = mu;
    out[1] = tau;
    out[2..].iter_mut().zip(&x[2..]).for_each(|(theta, z)| *theta = mu + tau * z);
    OK
}
