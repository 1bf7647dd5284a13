//! The statistics of a draw: those of its kernel, and those that every chain adds.

use crate::kernel::{self, Kind as Kernel};
use crate::trace::{Kind, Statistic};

/// The statistics that a chain adds to its kernel's.
const CHAIN_STATISTICS: &[Statistic] = &[
    Statistic { name: "step_size", kind: Kind::Float, doc: "Step size of the draw, jitter included." },
    Statistic { name: "step_size_bar", kind: Kind::Float, doc: "Averaged step size of the adaptation." },
    Statistic { name: "tuning", kind: Kind::Bool, doc: "Whether the draw belongs to the warm-up." },
    Statistic {
        name: "fisher_distance",
        kind: Kind::Float,
        doc: "Squared length of y + grad, y the draw and grad the gradient in coordinates in which the estimated posterior is \
              a standard normal distribution. For a normal posterior and a perfect metric it is 0.",
    },
    Statistic {
        name: "transformation_index",
        kind: Kind::Int,
        doc: "How often the inverse mass matrix had changed before the draw.",
    },
    Statistic {
        name: "num_eigenvalues",
        kind: Kind::UInt,
        doc: "Number of eigenvectors of the inverse mass matrix.",
    },
    Statistic {
        name: DURATION,
        kind: Kind::Float,
        doc: "Seconds that the draw took, by the clock on the wall. Draws of microseconds are timed a few at once. It \
              differs between runs with the same seed.",
    },
];

/// Name of the only statistic that is not reproducible.
pub const DURATION: &str = "process_time_diff";

/// The statistics of draws by a kernel, each with its place in [`crate::trace::Record::stats`].
pub fn statistics(kernel: Kernel) -> impl Iterator<Item = (usize, &'static Statistic)> {
    let places = (0..kernel.statistics().len()).chain(kernel::MOST_STATISTICS..);
    places.zip(kernel.statistics().iter().chain(CHAIN_STATISTICS))
}

/// Places of those that are known last.
pub(super) const STEP_SIZE_BAR: usize = kernel::MOST_STATISTICS + 1;
pub(super) const SECONDS: usize = N_STATISTICS - 1;

/// Number of statistics of a draw, with the places that its kernel leaves empty.
pub const N_STATISTICS: usize = kernel::MOST_STATISTICS + CHAIN_STATISTICS.len();
