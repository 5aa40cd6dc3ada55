//! Names of answers and the time they were made.

use std::hash::{BuildHasher, RandomState};
use std::time::{SystemTime, UNIX_EPOCH};

/// A name that no other answer has, such as `chatcmpl-0123…`.
pub(crate) fn unique(prefix: &str) -> String {
    format!("{prefix}-{:016x}{:016x}", RandomState::new().hash_one(0), RandomState::new().hash_one(1))
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
