//! What the benchmarks share: a density that costs next to nothing, metrics, and clocks.

use std::hint::black_box;

use nutpie_core::density::{Failure, HostDensity};
use nutpie_core::metric::Metric;

/// A standard normal distribution.
#[derive(Clone)]
pub struct Normal(pub usize);

impl HostDensity for Normal {
    fn dim(&self) -> usize {
        self.0
    }

    fn logp_grad(&mut self, x: &[f64], grad: &mut [f64]) -> Result<f64, Failure> {
        let mut lanes = [0.0; 8];
        for (x, g) in x.chunks(8).zip(grad.chunks_mut(8)) {
            for (i, (x, g)) in x.iter().zip(g).enumerate() {
                *g = -x;
                lanes[i] -= 0.5 * x * x;
            }
        }
        Ok(lanes.iter().sum())
    }
}

/// Seconds of the processor that this thread has had, which a busy machine does not count twice.
#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
pub fn seconds() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a value of this type, for the call only.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    time.tv_sec as f64 + 1e-9 * time.tv_nsec as f64
}

/// Seconds since the first call.
#[cfg(not(target_os = "linux"))]
pub fn seconds() -> f64 {
    static START: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    START.get_or_init(std::time::Instant::now).elapsed().as_secs_f64()
}

/// Best seconds of one call among several rounds of many.
pub fn best(calls: usize, mut f: impl FnMut()) -> f64 {
    (0..9)
        .map(|_| {
            let start = seconds();
            for _ in 0..calls {
                f();
            }
            (seconds() - start) / calls as f64
        })
        .fold(f64::INFINITY, f64::min)
}

/// Nanoseconds of the density alone.
pub fn density(dim: usize) -> f64 {
    let mut normal = Normal(dim);
    let (x, mut g) = (vec![0.3; dim], vec![0.0; dim]);
    1e9 * best((20_000_000 / dim).max(5), || {
        black_box(normal.logp_grad(black_box(&x), &mut g).ok());
    })
}

/// A metric of some rank, all of whose eigenvalues are near 1.
pub fn metric_of(rank: usize, dim: usize) -> Metric {
    Metric {
        stds: vec![1.0; dim],
        values: vec![1.001; rank],
        vectors: orthonormal(rank, dim),
        center: vec![0.0; dim],
    }
}

/// Cosines, which are orthogonal to each other, and normalised.
fn orthonormal(rank: usize, dim: usize) -> Vec<f64> {
    let row = |k: usize| {
        let angle = std::f64::consts::PI * (k + 1) as f64 / dim as f64;
        (0..dim).map(move |i| (2.0 / dim as f64).sqrt() * (angle * (i as f64 + 0.5)).cos())
    };
    (0..rank).flat_map(row).collect()
}
