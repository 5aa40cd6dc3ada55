//! What every block format is made of: the traits kernels are written over,
//! the two-byte float of the file, and the macro that declares a block once
//! for Rust and for the C header.

use bytemuck::Pod;

use super::Format;

/// A block of quantised elements: integers in groups, each group with a scale
/// and, in some formats, an offset.
///
/// Every implementor has alignment 1 and no invalid bit pattern, so that any
/// run of [`size_of::<Self>()`](size_of) bytes, at any address, is a block.
pub trait Block: Layout {
    /// The row of the table this is.
    const FORMAT: Format;
    /// Elements a block.
    const LEN: usize = Self::FORMAT.block_len();
    /// Elements that share one scale and offset: 16 or 32.
    const GROUP: usize;
    /// Groups a block.
    const GROUPS: usize = Self::LEN / Self::GROUP;
    /// Whether elements have an offset beside their scale.
    const HAS_OFFSET: bool;
    /// The smallest and largest integer [`unpack`](Self::unpack) gives.
    const RANGE: (i8, i8);

    /// Splits the block into integers and floats: element `i` of group
    /// `g = i / GROUP` is `scales[g] * q[i] as f32`, plus `offsets[g]` where
    /// [`HAS_OFFSET`](Self::HAS_OFFSET). That f32 expression, rounded after
    /// each operation, is the element's value by definition.
    ///
    /// `q` has `LEN` places, `scales` `GROUPS`, and `offsets` `GROUPS` or, in
    /// formats without, any number, which are left alone.
    ///
    /// Implementations are `#[inline(always)]`, so that they are compiled for
    /// the instruction set of the kernel that calls them.
    ///
    /// # Panics
    /// When a slice is shorter than that.
    fn unpack(&self, q: &mut [i8], scales: &mut [f32], offsets: &mut [f32]);

    /// What the scales and offsets are multiples of, in the formats where they are.
    #[inline(always)]
    fn multiples(&self) -> Option<Multiples> {
        None
    }

    /// Writes the block's `LEN` elements to `dst`.
    ///
    /// # Panics
    /// When `dst` is shorter than that.
    #[inline]
    fn dequantize(&self, dst: &mut [f32]) {
        let mut q = [0; MAX_LEN];
        let (mut scales, mut offsets) = ([0.0; MAX_GROUPS], [0.0; MAX_GROUPS]);
        self.unpack(&mut q, &mut scales, &mut offsets);
        let groups = dst[..Self::LEN].chunks_exact_mut(Self::GROUP).zip(q.chunks_exact(Self::GROUP));
        for ((dst, q), (scale, offset)) in groups.zip(scales.iter().zip(&offsets)) {
            for (dst, &q) in dst.iter_mut().zip(q) {
                *dst = scale * f32::from(q);
                if Self::HAS_OFFSET {
                    *dst += offset;
                }
            }
        }
    }
}

/// The scales and offsets of a block's eight groups as the file has them: that of group `g` is `scale * scales[g]`,
/// and `-(minimum * minima[g])`.
#[derive(Debug, Clone, Copy)]
pub struct Multiples {
    /// Of which the scales are multiples.
    pub scale: Half,
    /// Of which the offsets are multiples, with the opposite sign.
    pub minimum: Half,
    /// How often, up to 63.
    pub scales: [u8; 8],
    /// How often, up to 63.
    pub minima: [u8; 8],
}

/// A block format that floats can be written in.
pub trait Quantize: Block {
    /// The block nearest to the `LEN` values of `x`, by squared error as far as
    /// the format's search goes. NaN counts as 0; what is beyond the format's
    /// range becomes the nearest it can hold.
    ///
    /// # Panics
    /// When `x` is shorter than that.
    fn quantize(x: &[f32]) -> Self;
}

/// The most elements a block of any format has.
pub const MAX_LEN: usize = 256;
/// The most groups a block of any format has.
pub const MAX_GROUPS: usize = 16;

/// An IEEE half as a file holds it: two bytes, little-endian, alignment 1.
#[derive(Clone, Copy, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(transparent)]
pub struct Half([u8; 2]);

impl Half {
    /// The value. (In integers, not through `half`, which asks the processor
    /// what it can do each time: this runs once a block in every kernel.)
    #[inline(always)]
    pub fn to_f32(self) -> f32 {
        const EXPONENT: u32 = 0x1f << 23;
        const REBIAS: u32 = (127 - 15) << 23;
        let half = u32::from(u16::from_le_bytes(self.0));
        let bits = (half & 0x7fff) << 13;
        let magnitude = match bits & EXPONENT {
            // Subnormal: the hidden bit is added, and taken off by a subtraction.
            0 => f32::from_bits(bits + REBIAS + (1 << 23)) - f32::from_bits(REBIAS + (1 << 23)),
            // Infinite or NaN.
            EXPONENT => f32::from_bits(bits + 2 * REBIAS),
            _ => f32::from_bits(bits + REBIAS),
        };
        f32::from_bits(magnitude.to_bits() | (half & 0x8000) << 16)
    }

    /// The nearest half, ±65504 for what is beyond; NaN stays NaN.
    #[inline]
    pub fn saturating(x: f32) -> Self {
        let max = half::f16::MAX.to_f32();
        Self(half::f16::from_f32(x.clamp(-max, max)).to_le_bytes())
    }
}

impl std::fmt::Debug for Half {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.to_f32().fmt(f)
    }
}

/// A field of a block, as the C header declares it.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    /// The field's name.
    pub name: &'static str,
    /// The C type of one of its elements.
    pub c_type: &'static str,
    /// How many, for an array.
    pub count: Option<usize>,
}

/// A block's fields in order, from its declaration.
pub trait Layout: Pod {
    /// The fields.
    const FIELDS: &[Field];
}

/// A type that may stand in a block.
pub trait FieldType {
    /// The C type of one element.
    const C_TYPE: &str;
    /// How many, for an array; an array of arrays counts all.
    const COUNT: Option<usize> = None;
}

impl FieldType for u8 {
    const C_TYPE: &str = "unsigned char";
}
impl FieldType for i8 {
    const C_TYPE: &str = "signed char";
}
impl FieldType for Half {
    const C_TYPE: &str = "gguf_half";
}
impl<T: FieldType, const N: usize> FieldType for [T; N] {
    const C_TYPE: &str = T::C_TYPE;
    const COUNT: Option<usize> = Some(match T::COUNT {
        Some(inner) => N * inner,
        None => N,
    });
}

/// Declares a block's struct: its memory layout in Rust, its fields for the C
/// header, and the check of its size against the table.
macro_rules! block {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $ty:ty,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
        #[allow(non_camel_case_types, reason = "the names the field uses")]
        #[repr(C)]
        pub struct $name { $($(#[$field_doc])* pub $field: $ty,)* }

        const _: () = {
            use $crate::format::{Block, Format, block};
            assert!(size_of::<$name>() == Format::$name.block_bytes(), "the table gives another size");
            assert!(align_of::<$name>() == 1, "a block may lie at any address");
            assert!(<$name as Block>::LEN <= block::MAX_LEN && <$name as Block>::GROUPS <= block::MAX_GROUPS);
            impl block::Layout for $name {
                const FIELDS: &[block::Field] = &[$(block::Field {
                    name: stringify!($field),
                    c_type: <$ty as block::FieldType>::C_TYPE,
                    count: <$ty as block::FieldType>::COUNT,
                },)*];
            }
        };
    };
}
pub(super) use block;

#[cfg(test)]
mod tests {
    use super::Half;

    #[test]
    fn every_half_is_read_as_half_reads_it() {
        for bits in 0..=u16::MAX {
            let (expected, found) = (half::f16::from_bits(bits).to_f32(), Half(bits.to_le_bytes()).to_f32());
            let equal = expected.to_bits() == found.to_bits() || expected.is_nan() && found.is_nan();
            assert!(equal, "{bits:#06x}: {found} instead of {expected}");
        }
    }
}
