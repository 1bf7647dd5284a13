//! The C interface of BridgeStan: the part of it that is used here, written down by hand.
#![allow(unsafe_code)]

use std::ffi::{CStr, OsStr, c_char, c_int, c_uint, c_void};
use std::sync::{Mutex, PoisonError};

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};

/// Major version of the interface that is understood.
pub const MAJOR_VERSION: c_int = 2;

/// Code of an error after which other points may work; only libraries with our shim tell.
pub const REJECTED: c_int = 1;

/// A model, opaque.
pub type ModelPtr = *mut c_void;
/// A random number generator, opaque.
pub type RngPtr = *mut c_void;

type ModelConstruct = unsafe extern "C" fn(*const c_char, c_uint, *mut *mut c_char) -> ModelPtr;
type ModelDestruct = unsafe extern "C" fn(ModelPtr);
type FreeErrorMsg = unsafe extern "C" fn(*mut c_char);
type ModelText = unsafe extern "C" fn(ModelPtr) -> *const c_char;
type ParamNames = unsafe extern "C" fn(ModelPtr, bool, bool) -> *const c_char;
type ParamNum = unsafe extern "C" fn(ModelPtr, bool, bool) -> c_int;
type ParamUncNum = unsafe extern "C" fn(ModelPtr) -> c_int;
type ParamConstrain =
    unsafe extern "C" fn(ModelPtr, bool, bool, *const f64, *mut f64, RngPtr, *mut *mut c_char) -> c_int;
type ParamUnconstrain = unsafe extern "C" fn(ModelPtr, *const f64, *mut f64, *mut *mut c_char) -> c_int;
type LogDensityGradient =
    unsafe extern "C" fn(ModelPtr, bool, bool, *const f64, *mut f64, *mut f64, *mut *mut c_char) -> c_int;
type RngConstruct = unsafe extern "C" fn(c_uint, *mut *mut c_char) -> RngPtr;
type RngDestruct = unsafe extern "C" fn(RngPtr);
type PrintCallback = extern "C" fn(*const c_char, usize);
type SetPrintCallback = unsafe extern "C" fn(Option<PrintCallback>, *mut *mut c_char) -> c_int;

/// The functions of a library, which stays loaded until the process ends: code of it may be running in any thread.
pub struct Api {
    /// Make a model from data.
    pub model_construct: ModelConstruct,
    /// Destroy it.
    pub model_destruct: ModelDestruct,
    /// Free the message of an error.
    pub free_error_msg: FreeErrorMsg,
    /// Name of the model.
    pub name: ModelText,
    /// Version of Stan and flags.
    pub model_info: ModelText,
    /// Names of the elements of all variables.
    pub param_names: ParamNames,
    /// Names of the unconstrained parameters.
    pub param_unc_names: ModelText,
    /// Number of elements.
    pub param_num: ParamNum,
    /// Number of unconstrained parameters.
    pub param_unc_num: ParamUncNum,
    /// From an unconstrained point to values.
    pub param_constrain: ParamConstrain,
    /// And back.
    pub param_unconstrain: ParamUnconstrain,
    /// Log density and gradient.
    pub log_density_gradient: LogDensityGradient,
    /// Make a random number generator.
    pub rng_construct: RngConstruct,
    /// Destroy it.
    pub rng_destruct: RngDestruct,
    /// Shapes of the variables, with our shim.
    pub shapes: Option<ModelText>,
    /// Version of the interface.
    pub version: (i32, i32, i32),
    /// Whether the code of an error tells a rejection from a fatal error.
    pub codes: bool,
    /// For a library that may only be used by one thread at once.
    pub lock: Mutex<()>,
}

/// The libraries of this process. One that is loaded again is the same one, with the same lock.
static LOADED: Mutex<Vec<&'static Api>> = Mutex::new(Vec::new());

/// A symbol, which must be of type `T`.
///
/// # Safety
/// `T` must be the type of the symbol, and as large as a pointer.
unsafe fn symbol<T: Copy>(library: &Library, name: &str) -> Result<T, String> {
    // SAFETY: promised by the caller.
    unsafe { library.get::<T>(name.as_bytes()) }.map(|symbol| *symbol).map_err(|_| {
        format!("it has no function {name}: it was not made by BridgeStan {MAJOR_VERSION}, or only in part")
    })
}

/// A constant of type int.
fn constant(library: &Library, name: &str) -> Option<i32> {
    // SAFETY: the constants of the interface are ints.
    unsafe { symbol::<*const c_int>(library, name).ok().map(|address| *address) }
}

impl Api {
    /// Load a library and find its functions.
    pub fn load(path: &OsStr) -> Result<&'static Api, String> {
        // SAFETY: loading runs the initialisers of the library; its user vouches for it.
        let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) }
            .map_err(|error| format!("it cannot be loaded: {error}"))?;
        let version = |part| constant(&library, &format!("bs_{part}_version"));
        let (Some(major), Some(minor), Some(patch)) = (version("major"), version("minor"), version("patch"))
        else {
            return Err("it was not made by BridgeStan: it has no version".into());
        };
        if major != MAJOR_VERSION {
            return Err(format!(
                "it has version {major}.{minor}.{patch} of BridgeStan's interface, {MAJOR_VERSION}.x is needed"
            ));
        }
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the types are those of version 2 of the interface.
        let construct: ModelConstruct = unsafe { symbol(&library, "bs_model_construct")? };
        if let Some(same) = loaded.iter().find(|api| api.model_construct as usize == construct as usize) {
            return Ok(same);
        }
        // SAFETY: as above.
        let api = unsafe {
            Api {
                model_construct: construct,
                model_destruct: symbol(&library, "bs_model_destruct")?,
                free_error_msg: symbol(&library, "bs_free_error_msg")?,
                name: symbol(&library, "bs_name")?,
                model_info: symbol(&library, "bs_model_info")?,
                param_names: symbol(&library, "bs_param_names")?,
                param_unc_names: symbol(&library, "bs_param_unc_names")?,
                param_num: symbol(&library, "bs_param_num")?,
                param_unc_num: symbol(&library, "bs_param_unc_num")?,
                param_constrain: symbol(&library, "bs_param_constrain")?,
                param_unconstrain: symbol(&library, "bs_param_unconstrain")?,
                log_density_gradient: symbol(&library, "bs_log_density_gradient")?,
                rng_construct: symbol(&library, "bs_rng_construct")?,
                rng_destruct: symbol(&library, "bs_rng_destruct")?,
                shapes: symbol(&library, "nutpie_shapes").ok(),
                version: (major, minor, patch),
                codes: constant(&library, "nutpie_shim_version").is_some(),
                lock: Mutex::new(()),
            }
        };
        // SAFETY: as above.
        if let Ok(set) = unsafe { symbol::<SetPrintCallback>(&library, "bs_set_print_callback") } {
            // SAFETY: the callback is a function of this library and lives as long. A failure means no callback.
            unsafe { set(Some(super::print), std::ptr::null_mut()) };
        }
        std::mem::forget(library);
        let api: &'static Api = Box::leak(Box::new(api));
        loaded.push(api);
        Ok(api)
    }

    /// Take the message of an error, and free it.
    pub fn take_message(&self, error: *mut c_char) -> String {
        if error.is_null() {
            return "an error without a message".into();
        }
        // SAFETY: the library gave a string that ends with a zero, and wants it back.
        let text = unsafe { CStr::from_ptr(error) }.to_string_lossy().trim().to_owned();
        // SAFETY: as above.
        unsafe { (self.free_error_msg)(error) };
        text
    }
}
