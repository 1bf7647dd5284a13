//! A density with a device of its own, for points of the host and of other devices.

use nutpie_core::density::Density;
use nutpie_core::device::{Device, DeviceOptions, Phase, open};
use nutpie_core::error::Result;

/// A device, and a density that it evaluates.
pub struct Own<D> {
    dev: Box<dyn Device>,
    density: D,
    phase: Phase,
    rows: usize,
}

impl<D: Density> Own<D> {
    /// Open a device by its name.
    pub fn open(device: &str, density: D) -> Result<Self> {
        let mut dev = open(device, DeviceOptions::default())?;
        let phase = Phase::alloc(&mut *dev, 1, density.dim())?;
        Ok(Own { dev, density, phase, rows: 1 })
    }

    /// Log densities and gradients at points that lie one after the other.
    pub fn evaluate(&mut self, x: &[f64], logp: &mut [f64], grad: &mut [f64]) -> Result<()> {
        let Own { dev, density, phase, rows } = self;
        let dim = density.dim().max(1);
        if logp.len() > *rows {
            // Arrays stay as long as the device: those of many calls are no more than twice as large as the last.
            *rows = logp.len().next_power_of_two();
            *phase = Phase::alloc(&mut **dev, *rows, density.dim())?;
        }
        dev.write_rows(phase.x, &mut x.chunks_exact(dim).enumerate())?;
        let all: Vec<usize> = (0..logp.len()).collect();
        density.logp_grad(&mut **dev, phase, &all, logp)?;
        dev.read_rows(phase.g, &mut grad.chunks_exact_mut(dim).enumerate())
    }
}
