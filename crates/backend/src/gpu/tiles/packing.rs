//! How weights lie in device memory: tiles of 16 rows by 64 columns, in the
//! order in which the lanes of a matrix instruction take them.
//!
//! Lane `4 g + t` of a SIMD-group owns rows `g` and `g + 8` of a tile, and of
//! each 32 columns those from `4 t` and from `16 + 4 t` on, four of each. So
//! every lane loads 16 bytes at a time, whatever the format, and what it has
//! loaded are operands. `pack.rs` writes them, `tiles.h` reads them.

use gguf::Format;
use gguf::format::{Block, Float, Visitor};

/// Rows a tile.
pub(crate) const TILE_ROWS: usize = 16;
/// Columns a tile.
pub(crate) const TILE_COLS: usize = 64;

/// What a tile's elements are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Packing {
    /// `d * q + m`, `q` from 0 to 3, both for each 16 columns.
    P2A,
    /// `d * q`, `q` from -8 to 7, a scale for each 32 columns.
    P4,
    /// `d * q + m`, `q` from 0 to 15, both for each 32 columns.
    P4A,
    /// `d * s * q + m * o`, `q` from 0 to 15, `s` and `o` from 0 to 63 for each 32 columns, `d` and `m` for each 256:
    /// for four tiles, behind which they stand with all of `s` and `o`.
    P4K,
    /// `d * q`, `q` from -8 to 7, a scale for each 16 columns.
    P4S,
    /// `d * q`, `q` from -16 to 15, a scale for each 32 columns.
    P5,
    /// `d * q + m`, `q` from 0 to 31, both for each 32 columns.
    P5A,
    /// `d * q`, `q` from -32 to 31, a scale for each 16 columns.
    P6S,
    /// `d * q`, a scale for each 32 columns.
    P8,
    /// bfloat16.
    P16,
}

impl Packing {
    /// Every packing.
    pub const ALL: [Self; 10] = [
        Self::P2A,
        Self::P4,
        Self::P4A,
        Self::P4K,
        Self::P4S,
        Self::P5,
        Self::P5A,
        Self::P6S,
        Self::P8,
        Self::P16,
    ];

    /// The packing of a format; `None` for those read as they are in the file.
    pub fn of(format: Format) -> Option<Self> {
        struct Choose(Format);
        impl Visitor for Choose {
            type Output = Option<Packing>;
            fn float<F: Float>(self) -> Self::Output {
                (self.0 == Format::BF16).then_some(Packing::P16)
            }
            fn block<B: Block>(self) -> Self::Output {
                let (low, high) = B::RANGE;
                let is_within = |least, most| least <= low && high <= most;
                match (B::GROUP, B::HAS_OFFSET) {
                    (16, true) if is_within(0, 3) => Some(Packing::P2A),
                    (32, false) if is_within(-8, 7) => Some(Packing::P4),
                    (32, true) if is_within(0, 15) && B::zeroed().multiples().is_some() => Some(Packing::P4K),
                    (32, true) if is_within(0, 15) => Some(Packing::P4A),
                    (16, false) if is_within(-8, 7) => Some(Packing::P4S),
                    (32, false) if is_within(-16, 15) => Some(Packing::P5),
                    (32, true) if is_within(0, 31) => Some(Packing::P5A),
                    (16, false) if is_within(-32, 31) => Some(Packing::P6S),
                    (32, false) => Some(Packing::P8),
                    _ => None,
                }
            }
            fn opaque(self) -> Self::Output {
                None
            }
        }
        format.visit(Choose(format))
    }

    /// Its name in the names of kernels.
    pub fn name(self) -> &'static str {
        match self {
            Self::P2A => "p2a",
            Self::P4 => "p4",
            Self::P4A => "p4a",
            Self::P4K => "p4k",
            Self::P4S => "p4s",
            Self::P5 => "p5",
            Self::P5A => "p5a",
            Self::P6S => "p6s",
            Self::P8 => "p8",
            Self::P16 => "p16",
        }
    }

    /// Bits of an element.
    pub(super) fn bits(self) -> usize {
        match self {
            Self::P2A => 2,
            Self::P4 | Self::P4A | Self::P4K | Self::P4S => 4,
            Self::P5 | Self::P5A => 5,
            Self::P6S => 6,
            Self::P8 => 8,
            Self::P16 => 16,
        }
    }

    /// Bytes of a tile's elements.
    pub(super) fn element_bytes(self) -> usize {
        TILE_ROWS * TILE_COLS * self.bits() / 8
    }

    /// Bytes that tiles which stand [`together`](Self::together) share.
    fn shared_bytes(self) -> usize {
        if self == Self::P4K { 256 } else { 0 }
    }

    /// Tiles of a band that cannot be read without each other.
    pub fn together(self) -> usize {
        if self == Self::P4K { 4 } else { 1 }
    }

    /// f16 numbers behind the elements of a tile that stands alone, for each row: scales, then offsets.
    pub(super) fn scales_per_row(self) -> usize {
        match self {
            Self::P4 | Self::P5 | Self::P8 => 2,
            Self::P4A | Self::P4S | Self::P5A | Self::P6S => 4,
            Self::P2A => 8,
            Self::P4K | Self::P16 => 0,
        }
    }

    /// Columns a scale, or of P4K one that those of 32 columns are multiples of.
    pub(super) fn group(self) -> usize {
        match self {
            Self::P2A | Self::P4S | Self::P6S => 16,
            Self::P4K => 256,
            _ => 32,
        }
    }

    /// Whether there are offsets.
    pub(super) fn is_affine(self) -> bool {
        matches!(self, Self::P2A | Self::P4A | Self::P4K | Self::P5A)
    }

    /// Bytes a tile, its part of what several share included.
    pub fn tile_bytes(self) -> usize {
        self.element_bytes() + 2 * TILE_ROWS * self.scales_per_row() + self.shared_bytes() / self.together()
    }

    /// Bytes of a tile without what it shares, and of that.
    pub fn own_bytes(self) -> (usize, usize) {
        (self.tile_bytes() - self.shared_bytes() / self.together(), self.shared_bytes())
    }

    /// Bytes of a tile that is copied alone, with all that it shares.
    pub fn copied_bytes(self) -> usize {
        let (own, shared) = self.own_bytes();
        own + shared
    }

    /// Bytes of a packed weight of so many rows and columns.
    pub fn bytes(self, rows: usize, cols: usize) -> usize {
        rows.div_ceil(TILE_ROWS) * cols.div_ceil(TILE_COLS) * self.tile_bytes()
    }
}
