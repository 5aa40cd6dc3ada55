//! The one table of tensor formats.
//!
//! Each row gives the GGUF type id, elements a block, bytes a block and
//! whether Quarrel computes with it. Everything that must answer for every
//! format matches on [`Format`] without a wildcard, so that a new row breaks
//! the build until each place has answered; [`Format::visit`] is the one such
//! match that most need.

pub mod block;
mod c_header;
mod fit;
pub mod floats;
pub mod iq4;
pub mod legacy;
pub mod mxfp4;
pub mod q2_k;
pub mod q3_k;
pub mod q4_k;
pub mod q6_k;
mod row;
mod superblock;
pub mod tq2_0;

pub use block::{Block, Quantize};
pub use c_header::c_header;
pub use floats::Float;
pub use half::{bf16, f16};
pub use iq4::{IQ4_NL, IQ4_XS};
pub use legacy::{Q4_0, Q4_1, Q5_0, Q5_1, Q8_0};
pub use mxfp4::MXFP4;
pub use q2_k::Q2_K;
pub use q3_k::Q3_K;
pub use q4_k::{Q4_K, Q5_K};
pub use q6_k::Q6_K;
pub use row::blocks;
pub use tq2_0::TQ2_0;

macro_rules! formats {
    ($($(#[$doc:meta])* $name:ident = $id:literal, $label:literal, $len:literal, $bytes:literal, $support:ident, $kind:ident($($ty:ident)?);)*) => {
        /// A tensor's element or block format.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[allow(non_camel_case_types, reason = "the names the field uses")]
        #[repr(u32)]
        pub enum Format { $($(#[$doc])* $name = $id,)* }

        impl Format {
            /// Every format, in the table's order.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The format of a GGUF type id.
            pub fn from_id(id: u32) -> Option<Self> {
                match id { $($id => Some(Self::$name),)* _ => None }
            }

            /// The name people know, as `llama.cpp` spells it.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $label,)* }
            }

            /// Elements a block (1 for plain floats and integers).
            pub const fn block_len(self) -> usize {
                match self { $(Self::$name => $len,)* }
            }

            /// Bytes a block.
            pub const fn block_bytes(self) -> usize {
                match self { $(Self::$name => $bytes,)* }
            }

            /// Whether Quarrel computes with it or only knows its shape.
            pub const fn support(self) -> Support {
                match self { $(Self::$name => Support::$support,)* }
            }

            /// Writes the values of `src` as a row of this format to `dst`. NaN
            /// counts as 0 in block formats, and what is beyond a format's range
            /// becomes the nearest it can hold.
            ///
            /// # Errors
            /// [`crate::Error::RowLength`] or [`crate::Error::BufferSize`] when
            /// the lengths do not agree, [`crate::Error::UnsupportedFormat`]
            /// when the format is not one that Quarrel writes.
            pub fn quantize(self, src: &[f32], dst: &mut [u8]) -> crate::Result<()> {
                self.check_row(dst.len(), src.len())?;
                match self { $(Self::$name => row::write!(Self::$name, src, dst, $support $kind $($ty)?),)* }
            }

            /// Calls the visitor's method for what the format is made of, with
            /// its type: the way from a format known at run time to code
            /// compiled for it.
            pub fn visit<V: Visitor>(self, visitor: V) -> V::Output {
                match self { $(Self::$name => visitor.$kind$(::<$ty>)?(),)* }
            }
        }
    };
}

/// Code that is written once over the type of a format's elements.
pub trait Visitor {
    /// What it gives.
    type Output;

    /// Called for `F32`, `F16` and `BF16`, with the type [`f32`], [`struct@f16`] or [`struct@bf16`].
    fn float<F: Float>(self) -> Self::Output;

    /// Called for the block formats that this build computes with.
    fn block<B: Block>(self) -> Self::Output;

    /// Called for the formats that are only [listed](Support::Listed).
    fn opaque(self) -> Self::Output;
}

/// What this build can do with a format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Support {
    /// Dequantise, quantise and compute.
    Full,
    /// Dequantise and compute; writing it is not offered.
    Read,
    /// Its size is known, so that files with it can be listed; nothing more.
    Listed,
}

formats! {
    /// IEEE single precision.
    F32 = 0, "F32", 1, 4, Full, float(f32);
    /// IEEE half precision.
    F16 = 1, "F16", 1, 2, Full, float(f16);
    /// 32 × 4 bit, one f16 scale.
    Q4_0 = 2, "Q4_0", 32, 18, Full, block(Q4_0);
    /// 32 × 4 bit, f16 scale and minimum.
    Q4_1 = 3, "Q4_1", 32, 20, Full, block(Q4_1);
    /// 32 × 5 bit, one f16 scale.
    Q5_0 = 6, "Q5_0", 32, 22, Full, block(Q5_0);
    /// 32 × 5 bit, f16 scale and minimum.
    Q5_1 = 7, "Q5_1", 32, 24, Full, block(Q5_1);
    /// 32 × 8 bit, one f16 scale.
    Q8_0 = 8, "Q8_0", 32, 34, Full, block(Q8_0);
    /// An intermediate of other engines, never a tensor's format in practice.
    Q8_1 = 9, "Q8_1", 32, 36, Listed, opaque();
    /// 256 × 2 bit in sixteens, 4-bit scales and minima.
    Q2_K = 10, "Q2_K", 256, 84, Full, block(Q2_K);
    /// 256 × 3 bit in sixteens, 6-bit scales.
    Q3_K = 11, "Q3_K", 256, 110, Full, block(Q3_K);
    /// 256 × 4 bit in 32s, 6-bit scales and minima.
    Q4_K = 12, "Q4_K", 256, 144, Full, block(Q4_K);
    /// 256 × 5 bit in 32s, 6-bit scales and minima.
    Q5_K = 13, "Q5_K", 256, 176, Full, block(Q5_K);
    /// 256 × 6 bit in sixteens, 8-bit scales.
    Q6_K = 14, "Q6_K", 256, 210, Full, block(Q6_K);
    /// An intermediate of other engines.
    Q8_K = 15, "Q8_K", 256, 292, Listed, opaque();
    /// Codebook, 2.06 bits.
    IQ2_XXS = 16, "IQ2_XXS", 256, 66, Listed, opaque();
    /// Codebook, 2.31 bits.
    IQ2_XS = 17, "IQ2_XS", 256, 74, Listed, opaque();
    /// Codebook, 3.06 bits.
    IQ3_XXS = 18, "IQ3_XXS", 256, 98, Listed, opaque();
    /// Codebook, 1.56 bits.
    IQ1_S = 19, "IQ1_S", 256, 50, Listed, opaque();
    /// 32 × 4 bit through a non-linear table.
    IQ4_NL = 20, "IQ4_NL", 32, 18, Full, block(IQ4_NL);
    /// Codebook, 3.44 bits.
    IQ3_S = 21, "IQ3_S", 256, 110, Listed, opaque();
    /// Codebook, 2.5 bits.
    IQ2_S = 22, "IQ2_S", 256, 82, Listed, opaque();
    /// 256 × 4 bit through a non-linear table, 6-bit scales of 32s.
    IQ4_XS = 23, "IQ4_XS", 256, 136, Read, block(IQ4_XS);
    /// 8-bit integer.
    I8 = 24, "I8", 1, 1, Listed, opaque();
    /// 16-bit integer.
    I16 = 25, "I16", 1, 2, Listed, opaque();
    /// 32-bit integer.
    I32 = 26, "I32", 1, 4, Listed, opaque();
    /// 64-bit integer.
    I64 = 27, "I64", 1, 8, Listed, opaque();
    /// IEEE double precision.
    F64 = 28, "F64", 1, 8, Listed, opaque();
    /// Codebook, 1.75 bits.
    IQ1_M = 29, "IQ1_M", 256, 56, Listed, opaque();
    /// The upper half of an IEEE single.
    BF16 = 30, "BF16", 1, 2, Full, float(bf16);
    /// Ternary, 1.69 bits.
    TQ1_0 = 34, "TQ1_0", 256, 54, Listed, opaque();
    /// 256 × ternary in 2 bits, one f16 scale.
    TQ2_0 = 35, "TQ2_0", 256, 66, Full, block(TQ2_0);
    /// OCP microscaling: 32 × e2m1, one e8m0 scale.
    MXFP4 = 39, "MXFP4", 32, 17, Read, block(MXFP4);
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl Format {
    /// Bytes that `elements` take, or an error where they are no whole number of blocks.
    ///
    /// # Errors
    /// [`crate::Error::RowLength`].
    pub fn row_bytes(self, elements: usize) -> crate::Result<usize> {
        let block_len = self.block_len();
        if !elements.is_multiple_of(block_len) {
            return Err(crate::Error::RowLength { format: self, elements, block_len });
        }
        // What overflows is more than any buffer has, and found out by comparing with one.
        Ok((elements / block_len).saturating_mul(self.block_bytes()))
    }
}
