//! Apple GPUs, through the Metal framework that is part of macOS.
//!
//! Type-checked and linked for a Mac on Linux, where the kernels run through an emulator;
//! nothing here has ever run on Apple hardware ([`NEVER_RUN`]).

// Here alone systems are told apart.
#[cfg_attr(target_os = "macos", path = "apple/mod.rs")]
#[cfg_attr(not(target_os = "macos"), path = "elsewhere.rs")]
mod system;

#[cfg(any(target_os = "macos", test))]
mod archives;
#[cfg(any(target_os = "macos", test))]
mod failures;
#[cfg(any(target_os = "macos", test))]
mod kept;

pub mod precompiled;

use std::path::PathBuf;

pub use self::precompiled::Libraries;
use crate::gpu::PromptMaps;
use crate::{Backend, Result};

/// Whether this is a system that has Metal.
pub const ON_THIS_SYSTEM: bool = system::HAS_METAL;

/// What a user must know.
pub const NEVER_RUN: &str = "the Metal backend has never run on Apple hardware: its kernels were tested with an \
                             emulator on Linux, its host code was only type-checked and linked";

/// How Metal is used.
#[derive(Debug, Clone, Default)]
pub struct MetalOptions {
    /// Where compiled kernels are kept; `None` keeps none.
    pub kernel_cache: Option<PathBuf>,
    /// What multiplies the rows of prompts.
    pub prompt_maps: PromptMaps,
    /// Kernels that were compiled when Quarrel was built.
    pub libraries: Libraries,
}

/// Opens the system's GPU.
///
/// # Errors
/// [`crate::Error::Unavailable`] where there is none that can be used.
pub fn open(options: &MetalOptions) -> Result<Box<dyn Backend>> {
    system::open(options)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    #[test]
    fn another_system_says_so() {
        match open(&MetalOptions::default()) {
            Err(Error::Unavailable { backend: "metal", reason }) if !ON_THIS_SYSTEM => {
                assert!(reason.contains(std::env::consts::OS), "{reason}");
            }
            Ok(metal) if ON_THIS_SYSTEM => assert_eq!(metal.name(), "metal"),
            Err(Error::Unavailable { backend: "metal", .. }) => {}
            Err(other) => panic!("{other}"),
            Ok(metal) => panic!("{}", metal.description()),
        }
    }
}
