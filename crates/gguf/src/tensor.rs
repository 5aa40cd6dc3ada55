//! Tensors: name, shape, format and a view of their bytes; and the rules
//! (shape, alignment, place in the file) that make such a view safe to use.

use std::collections::HashMap;

use crate::{Bytes, Error, Format, Metadata, Result, Value};

/// Most dimensions a tensor has.
pub const MAX_DIMS: usize = 4;

/// Alignment of tensors in a file that does not name its own.
pub const DEFAULT_ALIGNMENT: u64 = 32;

/// Largest alignment accepted: far above any page size, far below what could
/// make padding overflow.
pub const MAX_ALIGNMENT: u64 = 1 << 20;

/// What a tensor is, without its data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name, unique in its file.
    pub name: String,
    /// Its dimensions, innermost first, 1 to 4 of them.
    pub shape: Vec<u64>,
    /// The format of its elements.
    pub format: Format,
}

impl TensorInfo {
    /// The size of the data in bytes.
    ///
    /// # Errors
    /// [`Error::Shape`] for no or more than 4 dimensions, a dimension of zero,
    /// a size beyond 2^63, or rows that are not whole blocks.
    pub fn bytes(&self) -> Result<u64> {
        let wrong = |what| Error::Shape { tensor: self.name.clone(), shape: self.shape.clone(), what };
        let Some(&row_len) = self.shape.first() else { return Err(wrong("no dimensions")) };
        if self.shape.len() > MAX_DIMS {
            return Err(wrong("more than 4 dimensions"));
        }
        if self.shape.contains(&0) {
            return Err(wrong("a dimension is zero"));
        }
        if !row_len.is_multiple_of(self.format.block_len() as u64) {
            return Err(wrong("the first dimension is not a multiple of the format's block length"));
        }
        let elements = self.shape.iter().try_fold(1u64, |n, &dim| n.checked_mul(dim));
        elements
            .map(|n| n / self.format.block_len() as u64)
            .and_then(|blocks| blocks.checked_mul(self.format.block_bytes() as u64))
            .filter(|&bytes| i64::try_from(bytes).is_ok())
            .ok_or_else(|| wrong("the size overflows"))
    }
}

/// A tensor of an open file. Its shape is valid and its data complete.
#[derive(Debug, Clone)]
pub struct Tensor {
    /// Its name, unique in its file.
    pub name: String,
    /// Its dimensions, innermost first, 1 to 4 of them, none zero.
    pub shape: Vec<u64>,
    /// The format of its elements.
    pub format: Format,
    /// Its data: rows one after the other, each a whole number of blocks.
    pub data: Bytes,
}

impl Tensor {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.data.len() / self.format.block_bytes() * self.format.block_len()
    }

    /// Elements a row: the innermost dimension.
    pub fn row_len(&self) -> usize {
        self.shape[0] as usize
    }

    /// Number of rows: the product of the other dimensions.
    pub fn rows(&self) -> usize {
        self.elements() / self.row_len()
    }

    /// Bytes a row.
    pub fn row_bytes(&self) -> usize {
        self.row_len() / self.format.block_len() * self.format.block_bytes()
    }

    /// The bytes of one row; `None` past the last.
    pub fn row(&self, row: usize) -> Option<&[u8]> {
        self.data.chunks_exact(self.row_bytes()).nth(row)
    }

    /// What the tensor is, without its data.
    pub fn info(&self) -> TensorInfo {
        TensorInfo { name: self.name.clone(), shape: self.shape.clone(), format: self.format }
    }
}

/// The tensors of a model, in file order and by name.
#[derive(Debug, Clone, Default)]
pub struct Tensors {
    list: Vec<Tensor>,
    index: HashMap<String, usize>,
}

impl Tensors {
    /// The tensor called `name`.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.index.get(name).map(|&i| &self.list[i])
    }

    /// Tensors in file order.
    pub fn iter(&self) -> std::slice::Iter<'_, Tensor> {
        self.list.iter()
    }

    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Adds a tensor.
    ///
    /// # Errors
    /// [`Error::DuplicateTensor`].
    pub(crate) fn push(&mut self, tensor: Tensor) -> Result<()> {
        if self.index.insert(tensor.name.clone(), self.list.len()).is_some() {
            return Err(Error::DuplicateTensor { name: tensor.name });
        }
        self.list.push(tensor);
        Ok(())
    }

    /// Adds all tensors of another file.
    ///
    /// # Errors
    /// [`Error::DuplicateTensor`].
    pub(crate) fn extend(&mut self, others: Self) -> Result<()> {
        others.list.into_iter().try_for_each(|tensor| self.push(tensor))
    }
}

impl<'a> IntoIterator for &'a Tensors {
    type Item = &'a Tensor;
    type IntoIter = std::slice::Iter<'a, Tensor>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// The alignment of a file's tensors.
///
/// # Errors
/// [`Error::WrongType`] unless `general.alignment` is a `u32`, and
/// [`Error::Alignment`] unless it is a power of two from 8 to [`MAX_ALIGNMENT`]
/// (the specification asks for a multiple of 8).
pub(crate) fn alignment(metadata: &Metadata) -> Result<u64> {
    let key = "general.alignment";
    match metadata.get(key) {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(&Value::U32(found)) => {
            let fits = found.is_power_of_two() && (8..=MAX_ALIGNMENT).contains(&found.into());
            if fits { Ok(found.into()) } else { Err(Error::Alignment { found }) }
        }
        Some(other) => {
            let (key, found) = (key.to_owned(), other.type_name());
            Err(Error::WrongType { key, expected: "a u32", found })
        }
    }
}

/// Gives each tensor its bytes: the data section starts at the first aligned
/// byte after `header_end`, and offsets count from there.
///
/// # Errors
/// [`Error::Shape`], [`Error::Misaligned`], [`Error::OutOfFile`], [`Error::Overlap`].
pub(crate) fn place(
    infos: Vec<(TensorInfo, u64)>,
    file: &Bytes,
    header_end: u64,
    alignment: u64,
) -> Result<Tensors> {
    let start = header_end.next_multiple_of(alignment);
    let available = (file.len() as u64).saturating_sub(start);
    let mut ranges = Vec::with_capacity(infos.len());
    for (info, offset) in &infos {
        let (tensor, offset, bytes) = (info.name.clone(), *offset, info.bytes()?);
        if !offset.is_multiple_of(alignment) {
            return Err(Error::Misaligned { tensor, offset, alignment });
        }
        match offset.checked_add(bytes).filter(|&end| end <= available) {
            Some(end) => ranges.push((offset, end)),
            None => return Err(Error::OutOfFile { tensor, offset, bytes, available }),
        }
    }
    check_overlap(&infos, &ranges)?;
    let mut tensors = Tensors::default();
    for ((info, _), (from, to)) in infos.into_iter().zip(ranges) {
        let data = file
            .slice((start + from) as usize..(start + to) as usize)
            .expect("the range was checked against the file");
        tensors.push(Tensor { name: info.name, shape: info.shape, format: info.format, data })?;
    }
    Ok(tensors)
}

/// Checks that no two ranges (start, end) share a byte.
pub(crate) fn check_overlap(infos: &[(TensorInfo, u64)], ranges: &[(u64, u64)]) -> Result<()> {
    let mut order: Vec<usize> = (0..ranges.len()).collect();
    order.sort_unstable_by_key(|&i| ranges[i]);
    for pair in order.windows(2) {
        if ranges[pair[0]].1 > ranges[pair[1]].0 {
            let [first, second] = [pair[0], pair[1]].map(|i| infos[i].0.name.clone());
            return Err(Error::Overlap { first, second });
        }
    }
    Ok(())
}
