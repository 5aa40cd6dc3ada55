//! Weights as every backend sees them: a matrix of formatted rows over shared bytes.

use gguf::{Bytes, Format};

use crate::{Error, Result};

/// A matrix `[rows, cols]` (or a stack `[experts × rows, cols]`), row-major,
/// each row a whole number of `format` blocks.
///
/// Vectors (norm weights, biases) have one row. The bytes are usually a view
/// of the mapped file, so that cloning copies nothing.
#[derive(Debug, Clone)]
pub struct Weight {
    name: String,
    format: Format,
    rows: usize,
    cols: usize,
    bytes: Bytes,
}

impl Weight {
    /// A checked weight: `bytes` hold exactly `rows` rows of `cols` elements.
    ///
    /// # Errors
    /// [`Error::Weight`] when the row length or the size does not fit.
    pub fn new(
        name: impl Into<String>,
        format: Format,
        rows: usize,
        cols: usize,
        bytes: Bytes,
    ) -> Result<Self> {
        let name = name.into();
        let row_bytes = match format.row_bytes(cols) {
            Ok(bytes) => bytes,
            Err(source) => return Err(Error::Weight { name, source }),
        };
        let expected = row_bytes.saturating_mul(rows);
        if bytes.len() != expected {
            let source = gguf::Error::BufferSize {
                format,
                elements: rows.saturating_mul(cols),
                expected,
                found: bytes.len(),
            };
            return Err(Error::Weight { name, source });
        }
        Ok(Self { name, format, rows, cols, bytes })
    }

    /// A one-row F32 weight from values.
    pub fn vector(name: impl Into<String>, values: &[f32]) -> Self {
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        Self { name: name.into(), format: Format::F32, rows: 1, cols: values.len(), bytes: bytes.into() }
    }

    /// The tensor's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The block format of each row.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Number of rows: outputs of a linear map.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Elements a row: inputs of a linear map.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Bytes a row.
    pub fn row_bytes(&self) -> usize {
        self.bytes.len().checked_div(self.rows).unwrap_or(0)
    }

    /// All rows' bytes.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The bytes of row `row`.
    pub fn row(&self, row: usize) -> &[u8] {
        let n = self.row_bytes();
        &self.bytes[row * n..(row + 1) * n]
    }

    /// Writes the values of row `row` to `out`, which has [`Weight::cols`] places.
    ///
    /// # Errors
    /// [`Error::Weight`] for a format that is only listed.
    pub fn dequantize_row(&self, row: usize, out: &mut [f32]) -> Result<()> {
        let result = self.format.dequantize(self.row(row), out);
        result.map_err(|source| Error::Weight { name: self.name.clone(), source })
    }

    /// A view of rows `start..start + rows` without copying; `None` if they are not all there.
    pub fn row_range(&self, start: usize, rows: usize) -> Option<Self> {
        let n = self.row_bytes();
        let end = start.checked_add(rows).filter(|&end| end <= self.rows)?;
        let bytes = self.bytes.slice(start * n..end * n)?;
        Some(Self { name: self.name.clone(), format: self.format, rows, cols: self.cols, bytes })
    }
}
