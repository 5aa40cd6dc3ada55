//! A position in untrusted bytes: every read is checked against what is left,
//! and a failure says what was being read and where.

use crate::{Error, Result};

/// A little-endian number of fixed size.
pub(crate) trait Number: Sized {
    /// Bytes that it takes.
    const SIZE: usize;
    /// The number in `bytes`, which are `SIZE` long.
    fn from_le(bytes: &[u8]) -> Self;
}

macro_rules! numbers {
    ($($t:ty),*) => {$(
        impl Number for $t {
            const SIZE: usize = size_of::<$t>();
            fn from_le(bytes: &[u8]) -> Self {
                Self::from_le_bytes(bytes.try_into().expect("callers pass SIZE bytes"))
            }
        }
    )*};
}
numbers!(u8, i8, u16, i16, u32, i32, u64, i64, f32, f64);

/// Reads forward through a file's bytes.
pub(crate) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    /// What is being read, for messages: "the header", "metadata key `x`".
    pub subject: String,
}

impl<'a> Cursor<'a> {
    /// Starts at the first byte.
    pub fn new(bytes: &'a [u8], subject: &str) -> Self {
        Self { bytes, at: 0, subject: subject.to_owned() }
    }

    /// Offset of the next byte.
    pub fn at(&self) -> usize {
        self.at
    }

    /// Checks that `count` items of at least `size` bytes each can still follow,
    /// so that room for them may be reserved.
    pub fn expect(&self, count: u64, size: usize) -> Result<usize> {
        let needed = count.saturating_mul(size as u64);
        let left = (self.bytes.len() - self.at) as u64;
        if needed > left {
            return Err(Error::Truncated { subject: self.subject.clone(), at: self.at as u64, needed, left });
        }
        Ok(count as usize)
    }

    /// The next `count` items of `size` bytes.
    fn take(&mut self, count: u64, size: usize) -> Result<&'a [u8]> {
        let len = self.expect(count, size)? * size;
        let taken = &self.bytes[self.at..self.at + len];
        self.at += len;
        Ok(taken)
    }

    /// One number.
    pub fn number<T: Number>(&mut self) -> Result<T> {
        Ok(T::from_le(self.take(1, T::SIZE)?))
    }

    /// `count` numbers.
    pub fn numbers<T: Number>(&mut self, count: u64) -> Result<Vec<T>> {
        Ok(self.take(count, T::SIZE)?.chunks_exact(T::SIZE).map(T::from_le).collect())
    }

    /// `count` booleans.
    pub fn bools(&mut self, count: u64) -> Result<Vec<bool>> {
        let at = self.at;
        let to_bool = |(i, byte): (usize, &u8)| match byte {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(Error::Malformed {
                what: format!("{}: a boolean is 0 or 1, not {other}", self.subject),
                at: (at + i) as u64,
            }),
        };
        let bytes = {
            let len = self.expect(count, 1)?;
            &self.bytes[at..at + len]
        };
        let bools = bytes.iter().enumerate().map(to_bool).collect::<Result<_>>()?;
        self.at += bytes.len();
        Ok(bools)
    }

    /// A string: its length in bytes as `u64`, then UTF-8.
    pub fn str(&mut self) -> Result<&'a str> {
        let len = self.number()?;
        let at = self.at as u64;
        std::str::from_utf8(self.take(len, 1)?)
            .map_err(|_| Error::InvalidUtf8 { subject: self.subject.clone(), at })
    }
}
