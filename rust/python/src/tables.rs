//! The declarations of settings and statistics, for the Python layer to build keywords and schemas from.

use nutpie_core::adapt::Scheme;
use nutpie_core::chain;
use nutpie_core::kernel::{Kind as Kernel, Sampler};
use nutpie_core::settings::{Setting, Settings, Value};
use nutpie_core::trace::Kind;
use pyo3::IntoPyObjectExt;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

type Declared = (&'static str, Py<PyAny>, f64, f64, &'static str, Vec<&'static str>);

/// (name, default, smallest value, largest value, documentation, names to choose from) of each setting.
#[pyfunction]
pub fn settings(py: Python<'_>) -> PyResult<Vec<Declared>> {
    Settings::declared()
        .map(|s| {
            let default = match s.default {
                Value::Float(v) => v.into_py_any(py)?,
                Value::Int(v) => v.into_py_any(py)?,
                Value::Bool(v) => v.into_py_any(py)?,
                Value::Name(names) => names.first().copied().unwrap_or_default().into_py_any(py)?,
            };
            let names = if let Value::Name(names) = s.default { names.to_vec() } else { Vec::new() };
            Ok((s.name, default, s.min, s.max, s.doc, names))
        })
        .collect()
}

/// (name, warm-up draws where the user gives no number, documentation) of each way to adapt.
#[pyfunction]
pub fn adaptations() -> Vec<(&'static str, u64, &'static str)> {
    Scheme::ALL.iter().map(|info| (info.name, info.tune, info.doc)).collect()
}

/// (name, documentation, names of the settings that only some samplers have, it among them) of each sampler.
#[pyfunction]
pub fn samplers() -> Vec<(&'static str, &'static str, Vec<&'static str>)> {
    let names = |settings: &[&[Setting]]| settings.iter().copied().flatten().map(|s| s.name).collect();
    Sampler::ALL.iter().map(|info| (info.name, info.doc, names(info.settings))).collect()
}

/// (name, numpy dtype, documentation, column) of each statistic of draws by a kernel.
#[pyfunction]
#[pyo3(signature = (kernel = "nuts"))]
pub fn statistics(kernel: &str) -> PyResult<Vec<(&'static str, &'static str, &'static str, usize)>> {
    let Some(found) = Kernel::ALL.iter().find(|found| found.name() == kernel) else {
        return Err(PyValueError::new_err(format!("there is no kernel {kernel:?}")));
    };
    let dtype = |kind| match kind {
        Kind::Float => "float64",
        Kind::Int => "int64",
        Kind::UInt => "uint64",
        Kind::Bool => "bool",
    };
    Ok(chain::statistics(*found).map(|(at, s)| (s.name, dtype(s.kind), s.doc, at)).collect())
}
