//! Devices by name.

#[cfg(any(feature = "opencl", feature = "cuda"))]
use super::gpu::{self, Gpu};
use super::{Cpu, Device};
use crate::error::{Error, Result};

/// How a device works.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceOptions {
    /// Keep arrays in single precision. Energies and inner products are summed in double precision all the same.
    pub single: bool,
}

/// Open the device "cpu", "opencl" or "cuda"; "opencl:1" and "cuda:1" are the second of their kind. The error says what is
/// missing.
pub fn open(name: &str, options: DeviceOptions) -> Result<Box<dyn Device>> {
    let (kind, index) = parse(name)?;
    match kind {
        "cpu" if options.single => {
            Err(Error::Device("device='cpu' computes in double precision only".into()))
        }
        "cpu" if index == 0 => Ok(Box::new(Cpu::new())),
        "cpu" => Err(Error::Device(format!("device='{name}': there is one 'cpu'"))),
        #[cfg(feature = "opencl")]
        "opencl" => Ok(Box::new(Gpu::new(Box::new(gpu::OpenCl::open(index)?), options)?)),
        #[cfg(feature = "cuda")]
        "cuda" => Ok(Box::new(Gpu::new(Box::new(gpu::Cuda::open(index)?), options)?)),
        #[cfg(not(all(feature = "opencl", feature = "cuda")))]
        "opencl" | "cuda" => Err(Error::Device(format!("device='{name}' is not built in"))),
        _ => Err(Error::Device(format!("device='{name}' is none of 'cpu', 'opencl', 'cuda'"))),
    }
}

/// The kind of a device and its number.
fn parse(name: &str) -> Result<(&str, usize)> {
    let Some((kind, index)) = name.split_once(':') else { return Ok((name, 0)) };
    let index = index.parse().map_err(|_| {
        Error::Device(format!("device='{name}': after the colon comes a number, as in '{kind}:0'"))
    })?;
    Ok((kind, index))
}
