//! SHA-256 digests, parsed once and compared as bytes.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

/// A SHA-256 digest. Displayed and parsed as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Finishes a running hash.
    pub(crate) fn finish(hasher: Sha256) -> Self {
        Digest(hasher.finalize().into())
    }

    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Digest(Sha256::digest(bytes).into())
    }
}

impl FromStr for Digest {
    type Err = &'static str;

    fn from_str(hex: &str) -> Result<Self, Self::Err> {
        let digits = hex.as_bytes();
        if digits.len() != 64 {
            return Err("a sha256 has 64 hexadecimal digits");
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let digit = |c: u8| (c as char).to_digit(16).ok_or("a sha256 has hexadecimal digits only");
            *byte = (digit(pair[0])? * 16 + digit(pair[1])?) as u8;
        }
        Ok(Digest(bytes))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_and_known_value() {
        // FIPS 180-4's example for "abc".
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(Digest::of(b"abc").to_string(), abc);
        assert_eq!(abc.to_uppercase().parse::<Digest>().unwrap(), Digest::of(b"abc"));
    }

    #[test]
    fn anything_else_is_refused() {
        let mut long = "0".repeat(65);
        for bad in ["", "../../etc/passwd", "zz", &"g".repeat(64), &"é".repeat(32), &long.clone()] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
        long.pop();
        assert!(long.parse::<Digest>().is_ok());
    }
}
