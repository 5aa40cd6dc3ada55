//! Names of answers and the time they were made.

use std::hash::{BuildHasher, RandomState};
use std::time::{SystemTime, UNIX_EPOCH};

use sha2::{Digest, Sha256};
use tokenizer::template::DateTime;

/// A name that no other answer has, such as `chatcmpl-0123…`.
pub(crate) fn unique(prefix: &str) -> String {
    format!("{prefix}-{:016x}{:016x}", RandomState::new().hash_one(0), RandomState::new().hash_one(1))
}

/// Nine letters and digits for a name: those of the name itself if it is nine, or its hash.
pub(crate) fn nine(name: &str) -> String {
    if name.len() == 9 && name.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return name.to_owned();
    }
    let hash: u64 = Sha256::digest(name).iter().take(8).fold(0, |hash, &byte| hash << 8 | u64::from(byte));
    format!("{:09x}", hash % 16u64.pow(9))
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// A time as RFC 3339 writes it, in UTC.
pub(crate) fn rfc3339(seconds: u64) -> String {
    let time = DateTime::from_unix(i64::try_from(seconds).unwrap_or(i64::MAX), 0);
    let DateTime { year, month, day, hour, minute, second } = time;
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nine_letters_and_digits_name_a_call() {
        assert_eq!(nine("abcDEF123"), "abcDEF123");
        for name in ["", "call-1", "call-2", "abc.EF123"] {
            let short = nine(name);
            assert!(short.len() == 9 && short.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{short}");
            assert_eq!(short, nine(name));
        }
        assert_ne!(nine("call-1"), nine("call-2"));
    }

    #[test]
    fn times_are_written_as_rfc_3339_has_them() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(1_709_210_096), "2024-02-29T12:34:56Z");
    }
}
