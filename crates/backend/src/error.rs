//! What can go wrong between a step and a device.

/// The result of anything in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What is wrong, where, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The op table says, in writing, that this backend lacks this kernel.
    #[error("the {backend} backend has no {op} for {what}: {reason}")]
    Absent {
        /// The backend.
        backend: &'static str,
        /// The op's name.
        op: &'static str,
        /// Format or shape concerned.
        what: String,
        /// Why it is absent.
        reason: &'static str,
    },
    /// The device is not there or cannot be used.
    #[error("{backend} is not available: {reason}")]
    Unavailable {
        /// The backend.
        backend: &'static str,
        /// What was tried and what it said.
        reason: String,
    },
    /// The device has less memory than is needed.
    #[error("{what} needs {needed} bytes, but only {available} of {total} are available; {advice}")]
    OutOfMemory {
        /// What was being allocated.
        what: String,
        /// Bytes needed.
        needed: u64,
        /// Bytes available.
        available: u64,
        /// Bytes in all.
        total: u64,
        /// What would fit.
        advice: String,
    },
    /// The driver or device reported a failure.
    #[error("{backend}: {what} failed: {reason}")]
    Device {
        /// The backend.
        backend: &'static str,
        /// What was attempted.
        what: String,
        /// What the driver said.
        reason: String,
    },
    /// A step's inputs exceed what it was lowered for, or contradict each other.
    #[error("step inputs: {0}")]
    Inputs(String),
    /// A step is not well formed.
    #[error("step: {0}")]
    Step(String),
    /// A weight cannot be read.
    #[error("weight `{name}`: {source}")]
    Weight {
        /// The tensor's name.
        name: String,
        /// What is wrong with it.
        source: gguf::Error,
    },
}
