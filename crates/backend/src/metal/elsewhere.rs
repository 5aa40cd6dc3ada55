//! Where there is no Metal.

use super::MetalOptions;
use crate::{Backend, Error, Result};

/// As its name says.
pub const HAS_METAL: bool = false;

/// Says that Metal is not here.
///
/// # Errors
/// Always.
pub fn open(_: &MetalOptions) -> Result<Box<dyn Backend>> {
    let reason = format!("Metal is part of macOS, and this is {}", std::env::consts::OS);
    Err(Error::Unavailable { backend: "metal", reason })
}
