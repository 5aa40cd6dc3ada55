//! Runs Metal kernels on the CPU: for tests on machines that are no Mac.
//!
//! Genuine `.metal` text is translated ([`translate`]) to C++ that clang
//! compiles ([`Toolchain`]) against a small runtime (`cpp/`): each GPU thread is
//! a fiber, barriers and SIMD-group operations are where fibers meet, in a
//! shuffled order; threads that diverge, threadgroup memory that is read before
//! it is written (NaN) or too large, accesses past a buffer's end (a page that
//! faults) or an array's, and loads that are not aligned (traps) show themselves.
//! Matrices of a SIMD-group are worked on by the first lane that comes to each
//! operation, so that nothing may depend on which lane has which element; lanes
//! must come to the same operations. Of Metal 4's tensors and tensor operations
//! there is the part that kernels use (`cpp/msl_tensor.h`). [`Emulator`] is a GPU
//! runtime on top, so that whole steps run on it; launches are held against what
//! kernels declare.
//! `tests/kernels/mistakes.rs` plants mistakes, each of which is caught.
//!
//! Not covered: threads of different threadgroups that race, as one threadgroup
//! runs after the other; two threads that add to the same place, as neither is
//! interrupted; a matrix that is stored and read by lanes without a barrier
//! between; memory before a buffer's beginning; past a threadgroup variable's end
//! by way of a pointer; Metal's fast maths and denormals, memory ordering weaker
//! than sequential, register limits, and everything of the host's side. Nothing
//! here has been compared with a Mac.

mod lint;
mod runtime;
mod signature;
mod toolchain;
mod translate;

pub use runtime::{Emulator, MetalEmulator};
pub use toolchain::{Compiled, Toolchain};
pub use translate::{Mode, translate};

/// The result of anything in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong before a kernel runs.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The text breaks a rule of Metal, or one of the translator's.
    #[error("{line}: {problem}")]
    Source {
        /// The offending text.
        line: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The compiler refused a kernel.
    #[error("compiling {file}:\n{messages}")]
    Compile {
        /// The kernel's file.
        file: String,
        /// The compiler's messages.
        messages: String,
    },
    /// A file operation failed.
    #[error("{path}: {source}")]
    Io {
        /// The file or program.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The compiled kernels cannot be loaded.
    #[error("loading compiled kernels: {0}")]
    Load(#[from] libloading::Error),
}

fn io(path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.display().to_string();
    |source| Error::Io { path, source }
}
