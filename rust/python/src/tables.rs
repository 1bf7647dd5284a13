//! The declarations of settings and statistics, for the Python layer to build keywords and schemas from.

use nutpie_core::adapt::Scheme;
use nutpie_core::chain;
use nutpie_core::settings::{Settings, Value};
use nutpie_core::trace::Kind;
use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;

type Declared = (&'static str, Py<PyAny>, f64, f64, &'static str);

/// (name, default, smallest value, largest value, documentation) of each setting.
#[pyfunction]
pub fn settings(py: Python<'_>) -> PyResult<Vec<Declared>> {
    Settings::declared()
        .map(|s| {
            let default = match s.default {
                Value::Float(v) => v.into_py_any(py)?,
                Value::Int(v) => v.into_py_any(py)?,
                Value::Bool(v) => v.into_py_any(py)?,
            };
            Ok((s.name, default, s.min, s.max, s.doc))
        })
        .collect()
}

/// (name, warm-up draws where the user gives no number, documentation) of each way to adapt.
#[pyfunction]
pub fn adaptations() -> Vec<(&'static str, u64, &'static str)> {
    Scheme::ALL.iter().map(|info| (info.name, info.tune, info.doc)).collect()
}

/// (name, numpy dtype, documentation) of each statistic.
#[pyfunction]
pub fn statistics() -> Vec<(&'static str, &'static str, &'static str)> {
    let dtype = |kind| match kind {
        Kind::Float => "float64",
        Kind::Int => "int64",
        Kind::UInt => "uint64",
        Kind::Bool => "bool",
    };
    chain::statistics().map(|s| (s.name, dtype(s.kind), s.doc)).collect()
}
