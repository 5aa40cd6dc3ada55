//! An open model: metadata and tensors of one GGUF file, or of all shards of
//! a split one.

use std::path::Path;
use std::sync::Arc;

use crate::bytes::Mapping;
use crate::tensor::{Tensor, Tensors};
use crate::{Bytes, Metadata, Result, reader, split};

/// A model's metadata and tensors. Cloning copies handles, not weights.
#[derive(Debug, Clone)]
pub struct ModelFile {
    /// Key-value pairs; a split model's are its first shard's, less `split.*`.
    pub metadata: Metadata,
    /// Tensors, in file order and by name.
    pub tensors: Tensors,
    pub(crate) mappings: Vec<Arc<Mapping>>,
}

impl ModelFile {
    /// Maps and parses the file at `path`. Any shard of a split model opens the
    /// whole of it; all shards must be in one directory under their usual names,
    /// `NAME-00001-of-00003.gguf`.
    ///
    /// # Errors
    /// Whatever is wrong with the file, as [`crate::Error::InFile`] with its path;
    /// [`crate::Error::Io`] when it cannot be read; [`crate::Error::MissingShard`]
    /// and [`crate::Error::Split`] when shards do not fit together.
    pub fn open(path: &Path) -> Result<Self> {
        let file = Self::open_one(path)?;
        match split::count(&file.metadata).map_err(|e| e.in_file(path))? {
            Some(count) => split::open(path, count),
            None => Ok(file),
        }
    }

    /// Maps and parses one file, even if it is a shard.
    pub(crate) fn open_one(path: &Path) -> Result<Self> {
        let mapping = Mapping::open(path)?;
        let bytes = Bytes::from(mapping.clone());
        let (metadata, tensors) = reader::parse(&bytes).map_err(|e| e.in_file(path))?;
        Ok(Self { metadata, tensors, mappings: vec![mapping] })
    }

    /// Parses a file held in memory. A shard of a split model stands alone.
    ///
    /// # Errors
    /// Whatever is wrong with the file.
    pub fn from_bytes(bytes: Bytes) -> Result<Self> {
        let (metadata, tensors) = reader::parse(&bytes)?;
        Ok(Self { metadata, tensors, mappings: bytes.mapping().cloned().into_iter().collect() })
    }

    /// A model from metadata and tensors that come from elsewhere, such as a
    /// converted one. It is checked as if it had been read from a file.
    ///
    /// # Errors
    /// [`crate::Error::Shape`] and [`crate::Error::DuplicateTensor`];
    /// [`crate::Error::BufferSize`] when a tensor's data have not its size.
    pub fn from_parts(metadata: Metadata, tensors: impl IntoIterator<Item = Tensor>) -> Result<Self> {
        let mut checked = Tensors::default();
        let mut mappings: Vec<Arc<Mapping>> = vec![];
        for tensor in tensors {
            let expected = tensor.info().bytes()?;
            if tensor.data.len() as u64 != expected {
                return Err(crate::Error::BufferSize {
                    format: tensor.format,
                    elements: tensor.shape.iter().product::<u64>() as usize,
                    expected: expected as usize,
                    found: tensor.data.len(),
                });
            }
            if let Some(mapping) = tensor.data.mapping()
                && !mappings.iter().any(|known| Arc::ptr_eq(known, mapping))
            {
                mappings.push(mapping.clone());
            }
            checked.push(tensor)?;
        }
        Ok(Self { metadata, tensors: checked, mappings })
    }

    /// The tensor called `name`.
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }

    /// Whether every mapped file still has its length: call it before each step,
    /// since touching pages that a shrunk file no longer has kills the process.
    ///
    /// # Errors
    /// [`crate::Error::Shrunk`] or [`crate::Error::Io`].
    pub fn check_length(&self) -> Result<()> {
        self.mappings.iter().try_for_each(|mapping| mapping.check_length())
    }

    /// Bytes of all tensors together.
    pub fn tensor_bytes(&self) -> u64 {
        self.tensors.iter().map(|tensor| tensor.data.len() as u64).sum()
    }
}
