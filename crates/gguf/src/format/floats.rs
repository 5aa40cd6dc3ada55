//! The plain floats: one element a block, nothing to unpack.

use half::{bf16, f16};

use super::Format;

/// An element that is a float by itself, as a file holds it (little-endian).
pub trait Float: Copy {
    /// The row of the table this is.
    const FORMAT: Format;
    /// Its bytes.
    type Bytes: bytemuck::Pod;

    /// The value of `bytes`, exactly.
    fn read(bytes: Self::Bytes) -> f32;

    /// The nearest to `x`, ties to even; infinite where `x` is out of range.
    fn write(x: f32) -> Self::Bytes;
}

macro_rules! float {
    ($ty:ty, $format:ident, $bytes:literal, $to:expr, $from:expr) => {
        impl Float for $ty {
            const FORMAT: Format = Format::$format;
            type Bytes = [u8; $bytes];
            #[inline]
            fn read(bytes: Self::Bytes) -> f32 {
                $to(<$ty>::from_le_bytes(bytes))
            }
            #[inline]
            fn write(x: f32) -> Self::Bytes {
                <$ty>::to_le_bytes($from(x))
            }
        }
    };
}

float!(f32, F32, 4, std::convert::identity, std::convert::identity);
float!(f16, F16, 2, f16::to_f32, f16::from_f32);
float!(bf16, BF16, 2, bf16::to_f32, bf16::from_f32);
