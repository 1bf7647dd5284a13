//! A model: a program with its data.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_int};
use std::ptr::null_mut;
use std::sync::{MutexGuard, PoisonError};

use super::api::{Api, ModelPtr, REJECTED, RngPtr};

/// Why a call had no result.
pub struct Refusal {
    /// Whether other points may work.
    pub recoverable: bool,
    /// What the library says.
    pub message: String,
}

/// A model behind the C interface of BridgeStan.
pub struct Model {
    api: &'static Api,
    pointer: ModelPtr,
    /// Number of unconstrained parameters.
    pub dim: usize,
    /// Version of Stan and flags.
    pub info: String,
    /// Whether several threads may use the library at once.
    pub threads: bool,
}

// SAFETY: calls with a model do not change it, and `guard` keeps threads apart where the library is not made for several.
unsafe impl Send for Model {}
// SAFETY: as above.
unsafe impl Sync for Model {}

impl Drop for Model {
    fn drop(&mut self) {
        let _guard = self.guard();
        // SAFETY: the pointer came from the same library, and nobody else has it any more.
        unsafe { (self.api.model_destruct)(self.pointer) };
    }
}

impl Model {
    /// From data as JSON, and a seed for the random numbers of the block `transformed data`.
    pub fn new(api: &'static Api, data: &CStr, seed: u32) -> Result<Model, Refusal> {
        let mut error: *mut c_char = null_mut();
        let guard = lock(api);
        // SAFETY: the types are those of the interface; the string lives until the call returns.
        let pointer = unsafe { (api.model_construct)(data.as_ptr(), seed, &mut error) };
        if pointer.is_null() {
            return Err(Refusal { recoverable: false, message: api.take_message(error) });
        }
        // SAFETY: the model is alive.
        let dim = unsafe { (api.param_unc_num)(pointer) };
        // SAFETY: as above.
        let info = text(unsafe { (api.model_info)(pointer) });
        drop(guard);
        let threads = info.to_lowercase().contains("stan_threads=true");
        Ok(Model { api, pointer, dim: usize::try_from(dim).unwrap_or(0), info, threads })
    }

    /// Where the library is for one thread only: a lock on it.
    fn guard(&self) -> Option<MutexGuard<'static, ()>> {
        (!self.threads).then(|| lock(self.api))
    }

    /// Name of the program.
    pub fn name(&self) -> String {
        // SAFETY: the model is alive.
        text(unsafe { (self.api.name)(self.pointer) })
    }

    /// Names of the elements of the variables, separated by commas.
    pub fn names(&self, transformed: bool, generated: bool) -> String {
        // SAFETY: the model is alive.
        text(unsafe { (self.api.param_names)(self.pointer, transformed, generated) })
    }

    /// Names of the unconstrained parameters.
    pub fn unconstrained_names(&self) -> String {
        // SAFETY: the model is alive.
        text(unsafe { (self.api.param_unc_names)(self.pointer) })
    }

    /// Shapes of the variables, if the library tells.
    pub fn shapes(&self) -> Option<String> {
        // SAFETY: the model is alive.
        self.api.shapes.map(|shapes| text(unsafe { shapes(self.pointer) }))
    }

    /// Number of elements of the variables.
    pub fn size(&self, transformed: bool, generated: bool) -> usize {
        // SAFETY: the model is alive.
        let size = unsafe { (self.api.param_num)(self.pointer, transformed, generated) };
        usize::try_from(size).unwrap_or(0)
    }

    /// Log density without constants, with the Jacobian of the constraints, and its gradient.
    #[inline]
    pub fn logp_grad(&self, x: &[f64], grad: &mut [f64]) -> Result<f64, Refusal> {
        assert!(x.len() == self.dim && grad.len() == self.dim, "a point of the wrong length");
        let mut value = f64::NAN;
        let mut error: *mut c_char = null_mut();
        let _guard = self.guard();
        // SAFETY: the slices have as many numbers as the model has parameters.
        let code = unsafe {
            (self.api.log_density_gradient)(
                self.pointer,
                true,
                true,
                x.as_ptr(),
                &mut value,
                grad.as_mut_ptr(),
                &mut error,
            )
        };
        self.checked(code, error)?;
        Ok(value)
    }

    /// Values of the variables at an unconstrained point. Generated quantities need a seed.
    pub fn constrain(
        &self,
        transformed: bool,
        generated: Option<u32>,
        x: &[f64],
        values: &mut [f64],
    ) -> Result<(), Refusal> {
        let size = self.size(transformed, generated.is_some());
        assert!(x.len() == self.dim && values.len() >= size, "a point of the wrong length");
        let mut error: *mut c_char = null_mut();
        let _guard = self.guard();
        let rng = generated.map(|seed| Rng::new(self.api, seed)).transpose()?;
        let rng_pointer = rng.as_ref().map_or(null_mut(), |rng| rng.pointer);
        // SAFETY: the slices are as long as the library expects, which was checked above; the generator lives longer.
        let code = unsafe {
            (self.api.param_constrain)(
                self.pointer,
                transformed,
                generated.is_some(),
                x.as_ptr(),
                values.as_mut_ptr(),
                rng_pointer,
                &mut error,
            )
        };
        self.checked(code, error)
    }

    /// The unconstrained point with given values of all parameters, in the order of their names.
    pub fn unconstrain(&self, values: &[f64], x: &mut [f64]) -> Result<(), Refusal> {
        assert!(values.len() == self.size(false, false) && x.len() == self.dim, "values of the wrong length");
        let mut error: *mut c_char = null_mut();
        let _guard = self.guard();
        // SAFETY: the slices are as long as the library expects.
        let code = unsafe {
            (self.api.param_unconstrain)(self.pointer, values.as_ptr(), x.as_mut_ptr(), &mut error)
        };
        self.checked(code, error)
    }

    fn checked(&self, code: c_int, error: *mut c_char) -> Result<(), Refusal> {
        if code == 0 {
            return Ok(());
        }
        // Other libraries than ours have one code for all errors, most of which are rejections.
        let recoverable = code == REJECTED || !self.api.codes;
        Err(Refusal { recoverable, message: self.api.take_message(error) })
    }
}

/// A random number generator of the library.
struct Rng {
    api: &'static Api,
    pointer: RngPtr,
}

impl Rng {
    fn new(api: &'static Api, seed: u32) -> Result<Rng, Refusal> {
        let mut error: *mut c_char = null_mut();
        // SAFETY: the types are those of the interface.
        let pointer = unsafe { (api.rng_construct)(seed, &mut error) };
        if pointer.is_null() {
            return Err(Refusal { recoverable: false, message: api.take_message(error) });
        }
        Ok(Rng { api, pointer })
    }
}

impl Drop for Rng {
    fn drop(&mut self) {
        // SAFETY: the pointer came from the same library, and nobody else has it.
        unsafe { (self.api.rng_destruct)(self.pointer) };
    }
}

fn lock(api: &'static Api) -> MutexGuard<'static, ()> {
    api.lock.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A text of the library, which keeps it.
fn text(pointer: *const c_char) -> String {
    if pointer.is_null() {
        return String::new();
    }
    // SAFETY: the texts of the interface end with a zero and live as long as the model.
    unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned()
}

/// Data as a C string.
pub fn c_string(data: &str) -> Result<CString, Refusal> {
    CString::new(data)
        .map_err(|_| Refusal { recoverable: false, message: "the data hold a zero character".into() })
}
