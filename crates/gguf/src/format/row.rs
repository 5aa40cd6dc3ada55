//! Rows of blocks, by a format known only at run time.

use super::{Block, Float, Format, Quantize, Visitor, block};
use crate::{Error, Result};

/// `bytes` as blocks of `B`, if they are a whole number.
///
/// # Errors
/// [`Error::BufferSize`].
pub fn blocks<B: Block>(bytes: &[u8]) -> Result<&[B]> {
    // Blocks have alignment 1, so that only the length can be wrong.
    bytemuck::try_cast_slice(bytes).map_err(|_| Error::BufferSize {
        format: B::FORMAT,
        elements: bytes.len() / size_of::<B>() * B::LEN,
        expected: bytes.len() / size_of::<B>() * size_of::<B>(),
        found: bytes.len(),
    })
}

impl Format {
    /// Writes the values of the row `src` to `dst`.
    ///
    /// # Errors
    /// [`Error::RowLength`] or [`Error::BufferSize`] when the lengths do not
    /// agree, [`Error::UnsupportedFormat`] when the format is only listed.
    pub fn dequantize(self, src: &[u8], dst: &mut [f32]) -> Result<()> {
        self.check_row(src.len(), dst.len())?;
        self.visit(Dequantize { format: self, src, dst })
    }

    /// The dot product of the row `row` with `x`, summed in f64: slow, obvious,
    /// what every kernel is compared with.
    ///
    /// # Errors
    /// As [`dequantize`](Self::dequantize).
    pub fn dot(self, row: &[u8], x: &[f32]) -> Result<f32> {
        self.check_row(row.len(), x.len())?;
        let mut sum = 0.0;
        let mut values = [0.0; block::MAX_LEN];
        // 256 elements are a whole number of blocks in every format.
        let bytes = self.row_bytes(block::MAX_LEN)?;
        for (row, x) in row.chunks(bytes).zip(x.chunks(block::MAX_LEN)) {
            let values = &mut values[..x.len()];
            self.dequantize(row, values)?;
            sum += values.iter().zip(x).map(|(&w, &x)| f64::from(w) * f64::from(x)).sum::<f64>();
        }
        Ok(sum as f32)
    }

    /// Splits one block as [`Block::unpack`] does.
    ///
    /// # Errors
    /// [`Error::BufferSize`] when a slice has not the block's length,
    /// [`Error::UnsupportedFormat`] when the format has no such blocks.
    pub fn unpack_block(
        self,
        bytes: &[u8],
        q: &mut [i8],
        scales: &mut [f32],
        offsets: &mut [f32],
    ) -> Result<()> {
        self.check_row(bytes.len(), self.block_len())?;
        self.visit(Unpack { format: self, bytes, q, scales, offsets })
    }

    /// Whether `bytes` bytes are a row of `elements`.
    pub(super) fn check_row(self, bytes: usize, elements: usize) -> Result<()> {
        let expected = self.row_bytes(elements)?;
        if bytes != expected {
            return Err(Error::BufferSize { format: self, elements, expected, found: bytes });
        }
        Ok(())
    }
}

/// How a row of the table is written: chosen by its support and kind.
macro_rules! write {
    ($format:expr, $src:ident, $dst:ident, Full float $ty:ty) => {
        Ok(row::write_floats::<$ty>($src, $dst))
    };
    ($format:expr, $src:ident, $dst:ident, Full block $ty:ty) => {
        Ok(row::write_blocks::<$ty>($src, $dst))
    };
    ($format:expr, $src:ident, $dst:ident, $($other:ident)+) => {
        Err(crate::Error::UnsupportedFormat { format: $format, operation: "written" })
    };
}
pub(super) use write;

pub(super) fn write_floats<F: Float>(src: &[f32], dst: &mut [u8]) {
    for (x, dst) in src.iter().zip(dst.chunks_exact_mut(size_of::<F::Bytes>())) {
        dst.copy_from_slice(bytemuck::bytes_of(&F::write(*x)));
    }
}

pub(super) fn write_blocks<B: Quantize>(src: &[f32], dst: &mut [u8]) {
    for (x, dst) in src.chunks_exact(B::LEN).zip(dst.chunks_exact_mut(size_of::<B>())) {
        dst.copy_from_slice(bytemuck::bytes_of(&B::quantize(x)));
    }
}

struct Dequantize<'a> {
    format: Format,
    src: &'a [u8],
    dst: &'a mut [f32],
}

impl Visitor for Dequantize<'_> {
    type Output = Result<()>;

    fn float<F: Float>(self) -> Result<()> {
        for (bytes, dst) in self.src.chunks_exact(size_of::<F::Bytes>()).zip(self.dst) {
            *dst = F::read(bytemuck::pod_read_unaligned(bytes));
        }
        Ok(())
    }

    fn block<B: Block>(self) -> Result<()> {
        for (block, dst) in blocks::<B>(self.src)?.iter().zip(self.dst.chunks_exact_mut(B::LEN)) {
            block.dequantize(dst);
        }
        Ok(())
    }

    fn opaque(self) -> Result<()> {
        Err(Error::UnsupportedFormat { format: self.format, operation: "read" })
    }
}

struct Unpack<'a> {
    format: Format,
    bytes: &'a [u8],
    q: &'a mut [i8],
    scales: &'a mut [f32],
    offsets: &'a mut [f32],
}

impl Unpack<'_> {
    fn check(&self, expected: usize, found: usize) -> Result<()> {
        if found == expected {
            return Ok(());
        }
        Err(Error::BufferSize { format: self.format, elements: self.format.block_len(), expected, found })
    }
}

impl Visitor for Unpack<'_> {
    type Output = Result<()>;

    fn float<F: Float>(self) -> Result<()> {
        Err(Error::UnsupportedFormat { format: self.format, operation: "unpacked into integers" })
    }

    fn block<B: Block>(self) -> Result<()> {
        self.check(B::LEN, self.q.len())?;
        self.check(B::GROUPS * 4, self.scales.len() * 4)?;
        if B::HAS_OFFSET {
            self.check(B::GROUPS * 4, self.offsets.len() * 4)?;
        }
        for block in blocks::<B>(self.bytes)? {
            block.unpack(self.q, self.scales, self.offsets);
        }
        Ok(())
    }

    fn opaque(self) -> Result<()> {
        Err(Error::UnsupportedFormat { format: self.format, operation: "read" })
    }
}
