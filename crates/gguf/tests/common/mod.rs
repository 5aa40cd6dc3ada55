//! Builds GGUF files byte by byte, right or wrong.

#![allow(dead_code, reason = "each test binary uses its part")]

use quarrel_gguf::{Bytes, Error, ModelFile};

/// Ids of metadata types, as the specification numbers them.
pub const U8: u32 = 0;
pub const U32: u32 = 4;
pub const F32: u32 = 6;
pub const BOOL: u32 = 7;
pub const STRING: u32 = 8;
pub const ARRAY: u32 = 9;
pub const U64: u32 = 10;

/// A file under construction.
#[derive(Clone, Default)]
pub struct Raw(pub Vec<u8>);

impl Raw {
    /// Magic, version 3 and the two counts.
    pub fn header(n_tensors: u64, n_pairs: u64) -> Self {
        Self::default().bytes(b"GGUF").u32(3).u64(n_tensors).u64(n_pairs)
    }

    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    pub fn u8(self, x: u8) -> Self {
        self.bytes(&[x])
    }

    pub fn u32(self, x: u32) -> Self {
        self.bytes(&x.to_le_bytes())
    }

    pub fn u64(self, x: u64) -> Self {
        self.bytes(&x.to_le_bytes())
    }

    /// A length and that many bytes.
    pub fn str(self, text: impl AsRef<[u8]>) -> Self {
        self.u64(text.as_ref().len() as u64).bytes(text.as_ref())
    }

    /// A pair's key and type; its value follows.
    pub fn key(self, key: &str, value_type: u32) -> Self {
        self.str(key).u32(value_type)
    }

    /// A tensor's description.
    pub fn tensor(self, name: &str, shape: &[u64], format: u32, offset: u64) -> Self {
        let raw = self.str(name).u32(shape.len() as u32);
        shape.iter().fold(raw, |raw, &dim| raw.u64(dim)).u32(format).u64(offset)
    }

    /// Pads to the data section and adds `len` bytes of data.
    pub fn data(mut self, len: usize) -> Self {
        let start = self.0.len().next_multiple_of(32);
        self.0.resize(start + len, 0);
        self
    }

    pub fn parse(&self) -> Result<ModelFile, Error> {
        ModelFile::from_bytes(Bytes::from(self.0.clone()))
    }

    /// The error this file must give.
    pub fn error(&self) -> Error {
        self.parse().expect_err("the file is wrong and must be refused")
    }
}
