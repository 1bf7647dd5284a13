//! Statistics that several kernels have.

use crate::trace::{Kind, Statistic};

/// `depth`.
pub const DEPTH: Statistic =
    Statistic { name: "depth", kind: Kind::UInt, doc: "Number of completed doublings of the trajectory." };

/// `maxdepth_reached`.
pub const MAXDEPTH_REACHED: Statistic = Statistic {
    name: "maxdepth_reached",
    kind: Kind::Bool,
    doc: "Whether the trajectory ended for want of depth.",
};

/// `logp`.
pub const LOGP: Statistic =
    Statistic { name: "logp", kind: Kind::Float, doc: "Log density of the draw on the unconstrained scale." };

/// `energy`.
pub const ENERGY: Statistic = Statistic {
    name: "energy",
    kind: Kind::Float,
    doc: "Energy of the draw: kinetic energy minus log density.",
};

/// `energy_error`.
pub const ENERGY_ERROR: Statistic = Statistic {
    name: "energy_error",
    kind: Kind::Float,
    doc: "Energy of the draw minus energy at the start.",
};

/// `max_energy_error`.
pub const MAX_ENERGY_ERROR: Statistic = Statistic {
    name: "max_energy_error",
    kind: Kind::Float,
    doc: "Energy error of largest absolute value among the points of the trajectory.",
};
