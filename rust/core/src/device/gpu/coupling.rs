//! A coupled metric on the device: M^-1 = S (I + U^T (Lambda - I) U) S = D + T^T C T with D = S^2, T = U S, C = Lambda - I.
//!
//! As on the CPU, T p and T g are kept beside the rows of momenta and gradients and follow these through kicks, so a leapfrog
//! takes one pass over T for its new gradient and one to move the position. Chains with a common metric read the same T.

use std::sync::{Arc, Weak};

use super::runtime::Mem;
use super::work::{self, Cut, RECORD, Scratch, Table, int};
use super::{Arg, Gpu};
use crate::device::Buf;
use crate::error::Result;
use crate::metric::Metric;

/// A metric of rank one or more.
pub struct Coupling {
    /// Unlike any other of this device, and not 0.
    pub id: u64,
    pub metric: Arc<Metric>,
    pub rank: usize,
    /// D.
    pub inv_mass: Mem,
    /// S^-1.
    pub mass_sqrt: Mem,
    /// T, row by row.
    pub directions: Mem,
    /// Four functions of the eigenvalues, see `coupled.c`.
    pub values: Mem,
}

/// T v of the rows v of an array, `stride` numbers for each row, and the coupling that they belong to; 0 is none.
#[derive(Default)]
pub struct Along {
    mem: Option<Mem>,
    stride: usize,
    owners: Vec<u64>,
}

impl Along {
    /// The row has changed.
    pub fn forget(&mut self, row: usize) {
        if let Some(owner) = self.owners.get_mut(row) {
            *owner = 0;
        }
    }

    fn knows(&self, row: usize, owner: u64) -> bool {
        self.owners.get(row) == Some(&owner)
    }
}

/// Couplings in use, and the metrics that they were made from.
#[derive(Default)]
pub struct Prepared {
    made: Vec<(Weak<Metric>, Arc<Coupling>)>,
    count: u64,
}

impl Gpu {
    /// The prepared form of a metric. Chains with a common one share it.
    pub(super) fn prepare(&mut self, metric: &Arc<Metric>) -> Result<Arc<Coupling>> {
        let made = std::mem::take(&mut self.prepared.made);
        for (of, coupling) in made {
            // No chain has it any more.
            if Arc::strong_count(&coupling) == 1 && !std::ptr::eq(of.as_ptr(), Arc::as_ptr(metric)) {
                let Coupling { inv_mass, mass_sqrt, directions, values, .. } = *coupling;
                for mem in [inv_mass, mass_sqrt, directions, values] {
                    self.work.runtime.free(mem);
                }
            } else {
                self.prepared.made.push((of, coupling));
            }
        }
        let same = |(of, _): &&(Weak<Metric>, _)| std::ptr::eq(of.as_ptr(), Arc::as_ptr(metric));
        if let Some((_, found)) = self.prepared.made.iter().find(same) {
            return Ok(found.clone());
        }
        let coupling = Arc::new(self.upload_coupling(metric)?);
        self.prepared.made.push((Arc::downgrade(metric), coupling.clone()));
        Ok(coupling)
    }

    fn upload_coupling(&mut self, metric: &Arc<Metric>) -> Result<Coupling> {
        let (dim, rank) = (metric.dim(), metric.rank());
        let Metric { stds, values, .. } = &**metric;
        let reals = |gpu: &mut Gpu, rows: usize| gpu.work.runtime.alloc(rows * dim * gpu.bytes());
        let (inv_mass, mass_sqrt, directions) = (reals(self, 1)?, reals(self, 1)?, reals(self, rank)?);
        let mut row: Vec<f64> = stds.iter().map(|s| s * s).collect();
        self.write_reals(inv_mass, 0, &row)?;
        row.iter_mut().zip(stds).for_each(|(v, s)| *v = 1.0 / s);
        self.write_reals(mass_sqrt, 0, &row)?;
        for (k, u) in metric.rows().enumerate() {
            row.iter_mut().zip(u.iter().zip(stds)).for_each(|(v, (u, s))| *v = u * s);
            self.write_reals(directions, k * dim, &row)?;
        }
        let of: [fn(f64) -> f64; 4] =
            [|v| v - 1.0, |v| 1.0 / v.sqrt() - 1.0, |v| 1.0 / v.sqrt(), |v| 1.0 / v - 1.0];
        let functions: Vec<f64> = of.iter().flat_map(|of| values.iter().map(|v| of(*v))).collect();
        let table = self.work.runtime.alloc(size_of_val(&functions[..]))?;
        self.work.runtime.write(table, 0, work::bytes(&functions))?;
        self.prepared.count += 1;
        let (id, metric) = (self.prepared.count, metric.clone());
        Ok(Coupling { id, metric, rank, inv_mass, mass_sqrt, directions, values: table })
    }

    /// The products kept beside an array: their memory and stride, with room for a coupling.
    pub(super) fn along(&mut self, buf: Buf, rank: usize) -> Result<(Mem, usize)> {
        let array = &mut self.arrays[buf.0];
        let Along { mem, stride, owners } = &mut array.along;
        if let Some(mem) = mem.filter(|_| rank <= *stride) {
            return Ok((mem, *stride));
        }
        let new = self.work.runtime.alloc(array.rows * rank * size_of::<f64>())?;
        owners.resize(array.rows, 0);
        if let Some(old) = mem.take() {
            // What is known stays known: chains must not depend on each other.
            let [from, to] = [*stride, rank].map(|stride| stride * size_of::<f64>());
            for row in (0..array.rows).filter(|row| owners[*row] != 0) {
                self.work.runtime.copy((old, row * from), (new, row * to), from)?;
            }
            self.work.runtime.free(old);
        }
        (*mem, *stride) = (Some(new), rank);
        Ok((new, rank))
    }

    /// See to it that T v of some rows of an array is known; its memory and stride.
    pub(super) fn know(
        &mut self,
        coupling: &Coupling,
        buf: Buf,
        rows: impl Iterator<Item = usize>,
    ) -> Result<(Mem, usize)> {
        let (mem, stride) = self.along(buf, coupling.rank)?;
        let along = &mut self.arrays[buf.0].along;
        let mut places = Vec::new();
        for row in rows {
            if !along.knows(row, coupling.id) {
                along.owners[row] = coupling.id;
                places.push([row, row]);
            }
        }
        let array = self.arrays[buf.0].mem;
        self.project(coupling, array, &places, (mem, stride))?;
        Ok((mem, stride))
    }

    /// From now on T v of these rows is known, for a kernel computes it.
    pub(super) fn follows(&mut self, coupling: &Coupling, buf: Buf, rows: impl Iterator<Item = usize>) {
        rows.for_each(|row| self.arrays[buf.0].along.owners[row] = coupling.id);
    }

    /// T v of rows of memory: for each place the row of the result and that of v.
    pub(super) fn project(
        &mut self,
        coupling: &Coupling,
        from: Mem,
        places: &[[usize; 2]],
        (to, stride): (Mem, usize),
    ) -> Result<()> {
        if places.is_empty() {
            return Ok(());
        }
        let (cut, rank) = (Cut::new(coupling.metric.dim()), coupling.rank);
        let mut ops = vec![0.0; places.len() * RECORD];
        for (op, [result, row]) in ops.chunks_exact_mut(RECORD).zip(places) {
            (op[1], op[2]) = (*result as f64, *row as f64);
        }
        let ops = self.work.table(Table::Ops, &ops)?;
        let partials =
            self.work.scratch(Scratch::Partials, places.len() * rank * cut.chunks * size_of::<f64>())?;
        let [from, directions, ops, partials, to] =
            [from, coupling.directions, ops, partials, to].map(Arg::Mem);
        let args = [from, directions, int(rank), ops, partials, int(cut.chunks)];
        self.work.launch("project", places.len(), cut, &args)?;
        let args = [partials, int(cut.chunks), ops, int(rank), int(stride), to];
        self.work.launch_each("gather", places.len() * rank, &args)
    }
}
