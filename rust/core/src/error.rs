//! The one error type of the crate.

/// What can end a run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The density reported a failure that no rejected step can mend. The source is what the density gave, so that a
    /// front end gets its own error back.
    #[error("the log density failed: {0}")]
    Density(#[source] Box<dyn std::error::Error + Send + Sync>),

    /// A chain could not start where it was told to.
    #[error("chain {chain} cannot start: the log density or its gradient is not finite at its initial point")]
    Start {
        /// Index of the chain.
        chain: u64,
    },

    /// A setting has a value outside its bounds, or a name that does not exist.
    #[error("{0}")]
    Setting(String),

    /// The saved state of a chain does not fit the run.
    #[error("the saved state of a chain does not fit: {0}")]
    State(String),

    /// Something does not fit into the memory of the host or of a device.
    #[error("out of memory: {0}")]
    Memory(String),

    /// An inverse mass matrix cannot be used. One from the warm-up is refused then, and the one before it stays.
    #[error("{0}")]
    Metric(String),

    /// The device is not there, or could not do what was asked.
    #[error("{0}")]
    Device(String),

    /// A worker thread ended in a way that it never should.
    #[error("internal error, please report it: {0}")]
    Internal(String),
}

/// Result with the crate's error.
pub type Result<T> = std::result::Result<T, Error>;
