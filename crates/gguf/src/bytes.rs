//! Bytes that live as long as somebody looks at them: views of a mapped file,
//! or an owned buffer, behind one cheap handle.

use std::fs::File;
use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::{Error, Result};

/// A file mapped read-only.
#[derive(Debug)]
pub struct Mapping {
    map: memmap2::Mmap,
    file: File,
    path: PathBuf,
}

impl Mapping {
    /// Maps the whole of `path`.
    ///
    /// # Errors
    /// [`Error::Io`] when the path is no regular file or cannot be opened or mapped.
    pub fn open(path: &Path) -> Result<Arc<Self>> {
        let io = |source| Error::Io { path: path.to_owned(), source };
        // Opening a pipe would wait for its writer for ever.
        if !std::fs::metadata(path).map_err(io)?.is_file() {
            return Err(io(std::io::Error::new(std::io::ErrorKind::InvalidInput, "not a regular file")));
        }
        let file = File::open(path).map_err(io)?;
        // SAFETY: the mapping is read-only and private to this value. Another
        // process may still truncate the file; `check_length` notices that
        // before each use, and ARCHITECTURE.md documents the race that remains.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(io)?;
        Ok(Arc::new(Self { map, file, path: path.to_owned() }))
    }

    /// The file's path, as it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The mapped bytes.
    pub fn as_slice(&self) -> &[u8] {
        &self.map
    }

    /// Whether the mapped file still has at least its mapped length. The open
    /// file is asked, not the path: one that was renamed or deleted stays good.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be asked, [`Error::Shrunk`] when it is shorter.
    pub fn check_length(&self) -> Result<()> {
        let io = |source| Error::Io { path: self.path.clone(), source };
        let (was, now) = (self.map.len() as u64, self.file.metadata().map_err(io)?.len());
        if now < was { Err(Error::Shrunk { path: self.path.clone(), was, now }) } else { Ok(()) }
    }
}

/// A shared, immutable run of bytes; cloning it copies a handle.
#[derive(Clone)]
pub struct Bytes {
    owner: Owner,
    range: Range<usize>,
}

#[derive(Clone)]
enum Owner {
    Mapping(Arc<Mapping>),
    Vec(Arc<Vec<u8>>),
}

impl Bytes {
    /// A view of part of a mapping; `None` if `range` leaves it.
    pub fn mapped(mapping: &Arc<Mapping>, range: Range<usize>) -> Option<Self> {
        mapping.as_slice().get(range.clone())?;
        Some(Self { owner: Owner::Mapping(mapping.clone()), range })
    }

    /// The mapping this is a view of, if it is one.
    pub fn mapping(&self) -> Option<&Arc<Mapping>> {
        match &self.owner {
            Owner::Mapping(mapping) => Some(mapping),
            Owner::Vec(_) => None,
        }
    }

    /// Gives back the memory that the mapped file's pages under this view take:
    /// for bytes that were copied elsewhere. They stay readable, from the file.
    /// Owned buffers, and systems without such advice, are left as they are.
    ///
    /// # Errors
    /// [`Error::Io`] when the system refuses.
    pub fn release(&self) -> Result<()> {
        #[cfg(unix)]
        if let (Owner::Mapping(mapping), false) = (&self.owner, self.is_empty()) {
            let advice = memmap2::UncheckedAdvice::DontNeed;
            // SAFETY: the mapping is read-only and of a file, so that pages dropped
            // here hold nothing of their own: the next look reads the same bytes.
            unsafe { mapping.map.unchecked_advise_range(advice, self.range.start, self.range.len()) }
                .map_err(|source| Error::Io { path: mapping.path.clone(), source })?;
        }
        Ok(())
    }

    /// A narrower view; `None` if `range` leaves this one.
    pub fn slice(&self, range: Range<usize>) -> Option<Self> {
        self.get(range.clone())?;
        let start = self.range.start;
        Some(Self { owner: self.owner.clone(), range: start + range.start..start + range.end })
    }
}

impl From<Arc<Mapping>> for Bytes {
    fn from(mapping: Arc<Mapping>) -> Self {
        let range = 0..mapping.as_slice().len();
        Self { owner: Owner::Mapping(mapping), range }
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        let range = 0..bytes.len();
        Self { owner: Owner::Vec(Arc::new(bytes)), range }
    }
}

impl Deref for Bytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        let all = match &self.owner {
            Owner::Mapping(mapping) => mapping.as_slice(),
            Owner::Vec(bytes) => bytes,
        };
        &all[self.range.clone()]
    }
}

impl std::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bytes({} bytes)", self.len())
    }
}
