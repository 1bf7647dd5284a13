//! The array device: all arithmetic on arrays of numbers, as whole phases of an algorithm.
//!
//! Arrays are (rows, dim). A row of a [`Phase`] is one point of phase space; the sampler gives each chain a block of rows
//! and refers to points by row, so nothing is ever copied inside a trajectory. Every call takes a *list* of operations,
//! one per active chain, so that a device can run them as one kernel; a CPU thread with one chain passes lists of length
//! one. Scalars come back to the host. Kernels and estimators use this trait and nothing else.
//!
//! A device must give the same numbers for the same calls, whatever else is in the list.

mod along;
mod array;
mod coupled;
mod coupling;
mod cpu;
mod directions;
#[cfg(any(feature = "opencl", feature = "cuda"))]
pub mod gpu;
mod holders;
mod moments;
mod open;
mod ops;
mod points;
mod raw;
mod share;
mod simd;
mod triangular;
mod turn;
mod under;

pub use cpu::Cpu;
pub use holders::{Holders, OfChain};
pub use moments::{Addition, Fit, Moments, Sample};
pub use open::{DeviceOptions, open};
pub use raw::{Memory, RawBuffer};
pub use share::{Owner, Shared, Sharing};

use std::any::Any;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::metric::Metric;
use crate::rng::{Key, Purpose};

/// Handle of an array. The device that made it owns the storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Buf(pub usize);

/// One row of an array.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Row {
    /// The array.
    pub buf: Buf,
    /// Index of the row.
    pub index: usize,
}

/// Points of phase space: position x, momentum p and the gradient g of the log density at x.
#[derive(Clone, Copy, Debug)]
pub struct Phase {
    /// M (x - centre), where the exact-normal integrator is used.
    pub pull: Option<Buf>,
    /// Positions.
    pub x: Buf,
    /// Momenta.
    pub p: Buf,
    /// Gradients.
    pub g: Buf,
}

impl Phase {
    /// Allocate `rows` points.
    pub fn alloc(dev: &mut dyn Device, rows: usize, dim: usize) -> Result<Self> {
        Ok(Phase { x: dev.alloc(rows, dim)?, p: dev.alloc(rows, dim)?, g: dev.alloc(rows, dim)?, pull: None })
    }

    /// The same with room for pulls.
    pub fn alloc_with_pull(dev: &mut dyn Device, rows: usize, dim: usize) -> Result<Self> {
        Ok(Phase { pull: Some(dev.alloc(rows, dim)?), ..Self::alloc(dev, rows, dim)? })
    }

    /// The pulls, which must have been allocated.
    pub fn pulls(&self) -> Result<Buf> {
        self.pull.ok_or_else(|| Error::Device("these points have no pulls".into()))
    }
}

/// The inverse mass matrices of a block, one for each chain, in rows that chains can have in common: [`Device::metric_row`].
/// They are diagonal unless [`Device::set_metric`] brings one that is not.
#[derive(Clone, Copy, Debug)]
pub struct Metrics {
    /// Their diagonals.
    pub inv_mass: Buf,
    /// Those to the power -1/2. Of a metric that is diagonal both rows may be written, by numbers that suit all its chains.
    pub mass_sqrt: Buf,
    /// The estimated centres of the distributions that they were made for.
    pub center: Buf,
    /// Which ones of the device's.
    pub id: usize,
}

impl Metrics {
    /// The numbers of the three arrays that a metric of so many parameters means: diagonal, its power -1/2, and centre.
    pub fn numbers_of(metric: &Metric, dim: usize) -> Result<[Vec<f64>; 3]> {
        if !metric.is_usable() || metric.dim() != dim || ![0, dim].contains(&metric.center.len()) {
            return Err(Error::Metric(format!("not an inverse mass matrix of {dim} parameters")));
        }
        let diagonal = metric.inv_mass_diagonal();
        let roots = diagonal.iter().map(|v| (1.0 / v).sqrt()).collect();
        let mut center = metric.center.clone();
        center.resize(dim, 0.0);
        Ok([diagonal, roots, center])
    }

    /// Write these numbers into a row of the arrays.
    pub fn write(&self, dev: &mut dyn Device, index: usize, numbers: &[Vec<f64>; 3]) -> Result<()> {
        let bufs = [self.inv_mass, self.mass_sqrt, self.center];
        bufs.into_iter().zip(numbers).try_for_each(|(buf, row)| dev.write(Row { buf, index }, row))
    }

    /// The diagonal metric of so many parameters in a row of the arrays.
    pub fn read_diagonal(&self, dev: &dyn Device, index: usize, dim: usize) -> Result<Metric> {
        let [mut inv_mass, mut center] = [vec![0.0; dim], vec![0.0; dim]];
        dev.read(Row { buf: self.inv_mass, index }, &mut inv_mass)?;
        dev.read(Row { buf: self.center, index }, &mut center)?;
        Ok(Metric::diagonal(&inv_mass, center))
    }
}

/// p <- a fresh draw from N(0, M).
#[derive(Clone, Copy, Debug)]
pub struct Refresh {
    /// The chain whose metric it is.
    pub metric: usize,
    /// Row of the point.
    pub row: usize,
    /// Address of the random numbers.
    pub key: Key,
    /// What they are for.
    pub purpose: Purpose,
}

/// p <- keep p + (1 - keep^2)^(1/2) q, q a fresh draw from N(0, M).
#[derive(Clone, Copy, Debug)]
pub struct Renewal {
    /// q.
    pub fresh: Refresh,
    /// What is kept of p, between -1 and 1.
    pub keep: f64,
}

/// p' <- p + kick g, x' <- x + drift M^-1 p'.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// The chain whose metric it is.
    pub metric: usize,
    /// Row of the point (x, p, g).
    pub from: usize,
    /// Row of the point (x', p').
    pub to: usize,
    /// Multiple of the gradient.
    pub kick: f64,
    /// Multiple of the velocity.
    pub drift: f64,
}

/// p' <- scale p + kick g, x' <- x + drift M^-1 p'. Both points may be the same.
#[derive(Clone, Copy, Debug)]
pub struct Glide {
    /// The chain whose metric it is.
    pub metric: usize,
    /// Row of the point (x, p, g).
    pub from: usize,
    /// Row of the point (x', p').
    pub to: usize,
    /// Multiple of the momentum.
    pub scale: f64,
    /// Multiple of the gradient.
    pub kick: f64,
    /// Multiple of the velocity.
    pub drift: f64,
}

/// p <- p + kick g, at a point whose gradient has just been computed. If the trajectory is sure to go `onward` unless it
/// ends here, the first half of that step, with the same kick, is taken in the same pass: p' <- p + kick g,
/// x' <- x + drift M^-1 p'.
#[derive(Clone, Copy, Debug)]
pub struct Leaf {
    /// The chain whose metric it is.
    pub metric: usize,
    /// Row of the point.
    pub row: usize,
    /// Multiple of the gradient.
    pub kick: f64,
    /// Where the next step goes, and its multiple of the velocity.
    pub onward: Option<(usize, f64)>,
    /// How many of the spans of the call belong to this leaf.
    pub spans: usize,
    /// Whether nobody wants its momentum: p stays what it was, which saves writing it. Of leaves without spans only.
    pub passing: bool,
}

/// One point under one metric.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// The chain whose metric it is.
    pub metric: usize,
    /// Row of the point.
    pub row: usize,
}

/// A piece of a trajectory that ends in a leaf.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Span {
    /// Row of the point where it starts, which is earlier if the leaf's kick is positive and later if it is negative.
    pub start: usize,
    /// Whether the leaf is the next point.
    pub adjacent: bool,
}

/// Half an exact-normal step: p' <- p + kick (g + m), then (x - centre, M^-1 p', m) rotate by the angle, where m = M (x - centre):
/// x'' <- centre + cos (x - centre) + sin M^-1 p', p'' <- cos p' - sin m, m'' <- cos m + sin p'. With the gradient at x'' the
/// other half follows.
#[derive(Clone, Copy, Debug)]
pub struct Turn {
    /// The chain whose metric it is.
    pub metric: usize,
    /// Row of the point (x, p, g, m).
    pub from: usize,
    /// Row of the point (x'', p'', m'').
    pub to: usize,
    /// Multiple of the gradient and the pull.
    pub kick: f64,
    /// The angle, twice the kick: at most [`crate::integrate::LARGEST_TURN`].
    pub angle: f64,
}

/// A point at which spans of any integrator end.
#[derive(Clone, Copy, Debug)]
pub struct Reach {
    /// The chain whose metric it is.
    pub metric: usize,
    /// Row of the point.
    pub row: usize,
    /// Half the step between points, negative if the spans start later.
    pub half: f64,
    /// How many of the spans of the call belong to it.
    pub spans: usize,
}

/// rho M^-1 p at the start and at the leaf of a span, rho the sum of the momenta at its points, both ends included.
///
/// The points between are not needed, since k being the leaf's kick, half a step,
/// `2 k M^-1 rho = x_l - x_s + M^-1 (k (p_s + p_l) + k^2 (g_l - g_s))`,
/// the displacement between the middles of the two steps that lie beyond the ends.
pub type Dots = [f64; 2];

/// Arrays and the phases of the algorithms over them.
pub trait Device: Send {
    /// An array of zeros.
    fn alloc(&mut self, rows: usize, dim: usize) -> Result<Buf>;

    /// Copy a row from the host.
    fn write(&mut self, dst: Row, src: &[f64]) -> Result<()>;

    /// Copy a row to the host.
    fn read(&self, src: Row, dst: &mut [f64]) -> Result<()>;

    /// Copy rows to the host, each to its place, in one go where every transfer takes its time.
    fn read_rows(&mut self, src: Buf, rows: &mut dyn Iterator<Item = (usize, &mut [f64])>) -> Result<()> {
        for (index, dst) in rows {
            self.read(Row { buf: src, index }, dst)?;
        }
        Ok(())
    }

    /// Copy rows from the host, likewise.
    fn write_rows(&mut self, dst: Buf, rows: &mut dyn Iterator<Item = (usize, &[f64])>) -> Result<()> {
        for (index, src) in rows {
            self.write(Row { buf: dst, index }, src)?;
        }
        Ok(())
    }

    /// The rows themselves, where the device's memory is the host's: `src` to read, `dst` to write.
    fn host_pair(&mut self, src: Row, dst: Row) -> Option<(&[f64], &mut [f64])>;

    /// Where an array lies, for densities that share memory with the device; `None` where it cannot be shared.
    fn raw(&mut self, buf: Buf) -> Option<RawBuffer> {
        let _ = buf;
        None
    }

    /// The device itself, if other libraries can work on memory of its kind.
    fn sharing(&mut self) -> Option<&mut dyn Sharing> {
        None
    }

    /// The device itself, for densities that are made for one that this crate does not know.
    fn foreign(&mut self) -> Option<&mut dyn Any> {
        None
    }

    /// Somebody else has written this row, at the address that [`Device::raw`] gave.
    fn written(&mut self, row: Row) {
        let _ = row;
    }

    /// The device itself, if it is a GPU with kernels of its own, for densities that bring more.
    #[cfg(any(feature = "opencl", feature = "cuda"))]
    fn gpu(&mut self) -> Option<&mut gpu::Gpu> {
        None
    }

    /// Copy rows: for each the one to read, and the one to write, which is not among those to read.
    fn copy(&mut self, src: Buf, dst: Buf, rows: &[[usize; 2]]) -> Result<()>;

    /// Metrics for `rows` chains, of `dim` parameters, at first the identity.
    fn alloc_metrics(&mut self, rows: usize, dim: usize) -> Result<Metrics>;

    /// Give a chain a metric. Chains with a common one, the same `Arc`, share its memory. The device may round eigenvectors to six digits: in
    /// all that it does M^-1 is the same matrix, but not to the last bit the one given.
    fn set_metric(&mut self, metrics: &Metrics, row: usize, metric: &Arc<Metric>) -> Result<()>;

    /// The row of the arrays of metrics that a chain has. It is another one when its metric has changed.
    fn metric_row(&self, metrics: &Metrics, chain: usize) -> usize {
        let _ = metrics;
        chain
    }

    /// The metric of a chain: as it was set, or made from what the diagonal is now.
    fn metric(&self, metrics: &Metrics, row: usize) -> Result<Metric>;

    /// Draw momenta; `kinetic` gets p M^-1 p / 2 of each.
    fn refresh(
        &mut self,
        phase: &Phase,
        metrics: &Metrics,
        ops: &[Refresh],
        kinetic: &mut [f64],
    ) -> Result<()>;

    /// Draw momenta anew in part; `kinetic` gets p M^-1 p / 2 of each.
    fn renew(&mut self, phase: &Phase, metrics: &Metrics, ops: &[Renewal], kinetic: &mut [f64])
    -> Result<()>;

    /// First half of a leapfrog step: kick and drift. A [`Device::glide`] that keeps the momentum, unless the device has a
    /// quicker way.
    fn kick_drift(&mut self, phase: &Phase, metrics: &Metrics, ops: &[Step]) -> Result<()> {
        let glide =
            |&Step { metric, from, to, kick, drift }| Glide { metric, from, to, scale: 1.0, kick, drift };
        self.glide(phase, metrics, &ops.iter().map(glide).collect::<Vec<_>>())
    }

    /// Second half of a leapfrog step, with all that the tree wants to know of the new point: `kinetic` gets
    /// p M^-1 p / 2 of each leaf, `dots` the inner products of the spans, leaf by leaf.
    fn finish_leaf(
        &mut self,
        phase: &Phase,
        metrics: &Metrics,
        leaves: &[Leaf],
        spans: &[Span],
        kinetic: &mut [f64],
        dots: &mut [Dots],
    ) -> Result<()>;

    /// A step whose kick scales the momentum, as those of isokinetic dynamics do.
    fn glide(&mut self, phase: &Phase, metrics: &Metrics, ops: &[Glide]) -> Result<()>;

    /// What the next kick of isokinetic dynamics depends on: `kinetic` gets p M^-1 p / 2 of each point, `dots` p M^-1 g and
    /// g M^-1 g.
    fn products(
        &mut self,
        phase: &Phase,
        metrics: &Metrics,
        places: &[Place],
        kinetic: &mut [f64],
        dots: &mut [Dots],
    ) -> Result<()>;

    /// The pull m = M (x - centre) of points.
    fn pull(&mut self, phase: &Phase, metrics: &Metrics, places: &[Place]) -> Result<()>;

    /// First half of an exact-normal step.
    fn turn(&mut self, phase: &Phase, metrics: &Metrics, ops: &[Turn]) -> Result<()>;

    /// Second half, at `to`: p <- p + kick (g + m); `kinetic` gets p M^-1 p / 2.
    fn finish_turn(
        &mut self,
        phase: &Phase,
        metrics: &Metrics,
        ops: &[Turn],
        kinetic: &mut [f64],
    ) -> Result<()>;

    /// What the spans of these points say of U-turns, reach by reach: rho M^-1 p at both ends, where
    /// `2 half M^-1 rho = x_l - x_s + half M^-1 (p_s + p_l)`, the displacement and about half a step more at each end. It is
    /// that of [`Dots`] to first order, and knows nothing of what was between the ends.
    fn reach(
        &mut self,
        phase: &Phase,
        metrics: &Metrics,
        reaches: &[Reach],
        spans: &[Span],
        dots: &mut [Dots],
    ) -> Result<()>;

    /// Welford's update of samples, of which none is there twice.
    fn accumulate(&mut self, moments: &Moments, phase: &Phase, ops: &[Addition]) -> Result<()>;

    /// How far points are from the centre, in the coordinates y in which a metric is the identity:
    /// `out` gets |y + grad_y log pi|^2 = |z|^2 in the norm of M, z = x - centre + M^-1 g.
    fn fisher_distance(
        &mut self,
        phase: &Phase,
        metrics: &Metrics,
        places: &[Place],
        out: &mut [f64],
    ) -> Result<()>;

    /// The diagonal inverse mass matrices 1 / |g| of single gradients, clamped to [1e-20, 1e20]; 1 where it is zero or not
    /// finite. The centre is x + M^-1 g.
    fn metric_from_gradient(&mut self, metrics: &Metrics, phase: &Phase, places: &[Place]) -> Result<()>;

    /// The diagonals that minimise the Fisher divergence to a standard normal, (Var x / Var g)^(1/2), from the union of two
    /// samples, with the centre mean x + M^-1 mean g. A coordinate whose ratio is zero or not finite keeps its value.
    fn fit_fisher_diag(&mut self, metrics: &Metrics, moments: &Moments, fits: &[Fit]) -> Result<()>;
}
