//! A log density given as source in the common subset of CUDA C and OpenCL C, which the device itself evaluates: nothing but
//! the log densities comes to the host.

use super::runtime::{Build, Mem};
use super::work::{RECORD, Scratch, Table, bytes, bytes_mut, int};
use super::{Arg, Gpu};
use crate::density::Density;
use crate::device::{Device, Phase};
use crate::error::{Error, Result};

/// A density in source. It defines
///
/// ```c
/// FUNCTION double logp_grad(i64 dim, GLOBAL const real *x, GLOBAL real *grad, GLOBAL const double *data,
///                           LOCAL double *room)
/// ```
///
/// which all `GROUP` items of a work group call together for one chain. Each writes its part of the gradient, by custom the
/// coordinates `ITEM`, `ITEM + GROUP`, ..., and returns its part of the log density; the parts are added up. `real` is the
/// type of the device's arrays. `sum_items(room, v, n)` adds up `n` numbers (at most 4) over the items, all of which must
/// call it; `BARRIER()` makes them wait for each other. A log density that is not a number counts as a divergence.
pub struct SourceDensity {
    source: String,
    dim: usize,
    data: Vec<f64>,
    /// The kernel and the data on the device, once it has been used.
    ready: Option<(String, Mem)>,
}

impl SourceDensity {
    /// A density of `dim` parameters, with numbers that its function gets as `data`.
    pub fn new(source: &str, dim: usize, data: Vec<f64>) -> Self {
        SourceDensity { source: source.into(), dim, data, ready: None }
    }
}

impl Gpu {
    /// Compile a density; the name of its kernel.
    fn compile_density(&mut self, source: &str) -> Result<String> {
        self.densities += 1;
        let name = format!("density_{}", self.densities);
        let parts = [include_str!("kernels/common.c"), source, include_str!("kernels/density.c")];
        let whole = parts.concat().replace("KERNEL void DENSITY(", &format!("KERNEL void {name}("));
        let build = Build { group: self.work.runtime.group(), single: self.single };
        self.work.runtime.compile(&whole, build)?;
        Ok(name)
    }
}

impl Density for SourceDensity {
    fn dim(&self) -> usize {
        self.dim
    }

    fn logp_grad(
        &mut self,
        dev: &mut dyn Device,
        phase: &Phase,
        rows: &[usize],
        logp: &mut [f64],
    ) -> Result<()> {
        let Some(gpu) = dev.gpu() else {
            return Err(Error::Device(
                "a density in source needs the device 'opencl' or 'cuda', which compiles it".into(),
            ));
        };
        let (kernel, data) = match &self.ready {
            Some((kernel, data)) => (kernel.clone(), *data),
            None => {
                let kernel = gpu.compile_density(&self.source)?;
                let data = gpu.work.runtime.alloc(size_of_val(&self.data[..]))?;
                if !self.data.is_empty() {
                    gpu.work.runtime.write(data, 0, bytes(&self.data))?;
                }
                self.ready = Some((kernel.clone(), data));
                (kernel, data)
            }
        };
        gpu.check(phase.x, rows.iter().copied());
        let mut table = vec![0.0; rows.len() * RECORD];
        for (op, row) in table.chunks_exact_mut(RECORD).zip(rows) {
            op[1] = *row as f64;
            gpu.arrays[phase.g.0].along.forget(*row);
        }
        let ops = Arg::Mem(gpu.work.table(Table::Ops, &table)?);
        let logp = &mut logp[..rows.len()];
        let found = gpu.work.scratch(Scratch::Found, size_of_val(logp))?;
        let [x, g] = [phase.x, phase.g].map(|buf| gpu.mem(buf));
        let args = [x, g, ops, Arg::Mem(data), int(self.dim), Arg::Mem(found)];
        gpu.work.launch_each(&kernel, rows.len(), &args)?;
        gpu.work.runtime.read(found, 0, bytes_mut(logp))
    }
}
