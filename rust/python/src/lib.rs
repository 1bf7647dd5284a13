//! The extension module `nutpie._lib`: glue between Python and `nutpie-core`, without any algorithm.

mod batch;
mod density;
mod device_array;
mod dlpack;
mod lines;
mod own;
mod pydensity;
mod pydevice;
mod run;
mod shared;
mod source;
mod sparse;
mod stan;
mod tables;

use pyo3::prelude::*;

#[pymodule(gil_used = false)]
fn _lib(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add("ABI_VERSION", nutpie_core::density::ABI_VERSION)?;
    m.add("__version__", env!("CARGO_PKG_VERSION"))?;
    m.add("N_STATISTICS", nutpie_core::chain::N_STATISTICS)?;
    m.add_class::<run::Control>()?;
    m.add_class::<device_array::DeviceArray>()?;
    m.add_class::<shared::DeviceFunction>()?;
    m.add_class::<source::SourceFunction>()?;
    m.add_class::<sparse::SparseCholesky>()?;
    m.add_class::<sparse::SparseFactors>()?;
    m.add_class::<stan::StanLibrary>()?;
    m.add_class::<stan::StanModel>()?;
    m.add_class::<stan::StanDensity>()?;
    m.add_function(wrap_pyfunction!(run::sample, m)?)?;
    m.add_function(wrap_pyfunction!(run::check_device, m)?)?;
    m.add_function(wrap_pyfunction!(density::evaluate, m)?)?;
    m.add_function(wrap_pyfunction!(density::benchmark_logp, m)?)?;
    m.add_function(wrap_pyfunction!(sparse::star_coloring, m)?)?;
    m.add_function(wrap_pyfunction!(batch::evaluate_batch, m)?)?;
    m.add_function(wrap_pyfunction!(batch::benchmark_batch, m)?)?;
    m.add_function(wrap_pyfunction!(tables::adaptations, m)?)?;
    m.add_function(wrap_pyfunction!(tables::samplers, m)?)?;
    m.add_function(wrap_pyfunction!(tables::settings, m)?)?;
    m.add_function(wrap_pyfunction!(tables::statistics, m)?)?;
    Ok(())
}
