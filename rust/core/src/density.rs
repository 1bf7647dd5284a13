//! What is sampled: a log density with its gradient.
//!
//! Compiled models (numba, Stan, C) enter through the C ABI of `nutpie.h`, a function of one point in host memory
//! ([`HostDensity`]). A density that evaluates many points in one call, or that lives on a device, implements [`Density`].
#![allow(unsafe_code)]

use std::ffi::c_void;

use crate::device::{Device, Metrics, Phase, Row};
use crate::error::{Error, Result};
use crate::integrate::{Asked, Found};

/// Version of the C ABI, `NUTPIE_ABI_VERSION` of `nutpie.h`.
pub const ABI_VERSION: u32 = 2;

/// Return codes of the C ABI: zero is success, positive is recoverable, negative ends the run.
pub mod code {
    /// Success.
    pub const OK: i64 = 0;
    /// The density is not defined here; the step counts as a divergence.
    pub const RECOVERABLE: i64 = 1;
    /// An error that ends the run.
    pub const FATAL: i64 = -1;
    /// The function was called with a dimension that is not its own.
    pub const BAD_DIMENSION: i64 = -2;
    /// A Python exception is set in this thread's state.
    pub const PYTHON_EXCEPTION: i64 = -3;
}

/// Why a density could not be evaluated at a point.
#[derive(Debug)]
pub enum Failure {
    /// It is not defined there: the step counts as a divergence.
    Recoverable,
    /// Something is wrong with the density itself: the run ends.
    Fatal(Box<dyn std::error::Error + Send + Sync>),
}

/// A log density, known up to a constant, of one point in host memory.
pub trait HostDensity: Send {
    /// Number of parameters.
    fn dim(&self) -> usize;

    /// Write the gradient at `x` and return the log density.
    fn logp_grad(&mut self, x: &[f64], grad: &mut [f64]) -> std::result::Result<f64, Failure>;
}

/// A log density over rows of a device's arrays.
pub trait Density: Send {
    /// Number of parameters.
    fn dim(&self) -> usize;

    /// For each of `rows` read the position, write the gradient, and put the log density into `logp`; NaN where the density
    /// has a recoverable error.
    fn logp_grad(
        &mut self,
        dev: &mut dyn Device,
        phase: &Phase,
        rows: &[usize],
        logp: &mut [f64],
    ) -> Result<()>;

    /// One step of each active chain: what the device does before the gradient, the gradient, and what it does after. A
    /// density that lives on the device may do all that in one call.
    fn round(
        &mut self,
        dev: &mut dyn Device,
        phase: &Phase,
        metrics: &Metrics,
        asked: &Asked<'_>,
        found: &mut Found<'_>,
    ) -> Result<()> {
        asked.before(dev, phase, metrics)?;
        self.logp_grad(dev, phase, asked.rows, found.logp)?;
        asked.after(dev, phase, metrics, found)
    }
}

/// A [`HostDensity`] on any device: in place where the device has host memory, otherwise through a copy.
pub struct OnHost<D> {
    density: D,
    x: Vec<f64>,
    grad: Vec<f64>,
}

impl<D: HostDensity> OnHost<D> {
    /// Wrap a density of one point.
    pub fn new(density: D) -> Self {
        OnHost { density, x: Vec::new(), grad: Vec::new() }
    }

    /// All points come to the host together, and so do their gradients go back.
    fn through_copies(
        &mut self,
        dev: &mut dyn Device,
        phase: &Phase,
        rows: &[usize],
        logp: &mut [f64],
    ) -> Result<()> {
        let dim = self.density.dim();
        let together = (MOST_COPIED / dim.max(1)).max(1);
        for (rows, logp) in rows.chunks(together).zip(logp.chunks_mut(together)) {
            self.x.resize(rows.len() * dim, 0.0);
            self.grad.resize(rows.len() * dim, 0.0);
            let (rows, length) = (rows.iter().copied(), dim.max(1));
            dev.read_rows(phase.x, &mut rows.clone().zip(self.x.chunks_mut(length)))?;
            for (i, logp) in logp.iter_mut().enumerate() {
                let own = i * dim..(i + 1) * dim;
                *logp = usable(self.density.logp_grad(&self.x[own.clone()], &mut self.grad[own]))?;
            }
            dev.write_rows(phase.g, &mut rows.zip(self.grad.chunks(length)))?;
        }
        Ok(())
    }
}

/// Numbers of points that are on the host at a time where the device has memory of its own.
const MOST_COPIED: usize = 1 << 22;

/// NaN for a recoverable error.
fn usable(value: std::result::Result<f64, Failure>) -> Result<f64> {
    match value {
        Ok(value) => Ok(value),
        Err(Failure::Recoverable) => Ok(f64::NAN),
        Err(Failure::Fatal(source)) => Err(Error::Density(source)),
    }
}

impl<D: HostDensity> Density for OnHost<D> {
    fn dim(&self) -> usize {
        self.density.dim()
    }

    fn logp_grad(
        &mut self,
        dev: &mut dyn Device,
        phase: &Phase,
        rows: &[usize],
        logp: &mut [f64],
    ) -> Result<()> {
        for (i, &index) in rows.iter().enumerate() {
            let (x, g) = (Row { buf: phase.x, index }, Row { buf: phase.g, index });
            let Some((x, g)) = dev.host_pair(x, g) else {
                return self.through_copies(dev, phase, &rows[i..], &mut logp[i..]);
            };
            logp[i] = usable(self.density.logp_grad(x, g))?;
        }
        Ok(())
    }
}

/// The function type of the C ABI.
pub type LogpFunction = unsafe extern "C" fn(
    dim: u64,
    x: *const f64,
    grad: *mut f64,
    logp: *mut f64,
    user_data: *mut c_void,
) -> i64;

/// An error code of a C density.
#[derive(Debug, thiserror::Error)]
#[error("{}", self.text())]
pub struct CodeError(pub i64);

impl CodeError {
    fn text(&self) -> String {
        match self.0 {
            code::BAD_DIMENSION => "the function was compiled for another number of parameters".into(),
            code => format!("the function returned the fatal code {code}"),
        }
    }
}

/// A density behind the C ABI of `nutpie.h`.
#[derive(Clone, Copy, Debug)]
pub struct CDensity {
    function: LogpFunction,
    user_data: *mut c_void,
    dim: usize,
}

// SAFETY: the contract of `nutpie.h` demands of the function and its data that they can be used by several threads at
// once.
unsafe impl Send for CDensity {}
// SAFETY: as above; and the struct itself is never changed.
unsafe impl Sync for CDensity {}

impl CDensity {
    /// Wrap a function and its data.
    ///
    /// # Safety
    /// `function` must follow the contract of `nutpie.h`, and both it and `user_data` must stay valid as long as the value.
    pub unsafe fn new(function: LogpFunction, user_data: *mut c_void, dim: usize) -> Self {
        CDensity { function, user_data, dim }
    }

    /// Call the function: its return code and the log density.
    pub fn call(&self, x: &[f64], grad: &mut [f64]) -> (i64, f64) {
        assert!(x.len() == self.dim && grad.len() == self.dim, "a point of the wrong length");
        let mut logp = f64::NAN;
        // SAFETY: the pointers cover `dim` numbers each, as the contract says; `new` promised the rest.
        let code = unsafe {
            (self.function)(self.dim as u64, x.as_ptr(), grad.as_mut_ptr(), &mut logp, self.user_data)
        };
        (code, logp)
    }
}

impl HostDensity for CDensity {
    fn dim(&self) -> usize {
        self.dim
    }

    fn logp_grad(&mut self, x: &[f64], grad: &mut [f64]) -> std::result::Result<f64, Failure> {
        match self.call(x, grad) {
            (code::OK, logp) => Ok(logp),
            (code, _) if code > 0 => Err(Failure::Recoverable),
            (code, _) => Err(Failure::Fatal(Box::new(CodeError(code)))),
        }
    }
}
