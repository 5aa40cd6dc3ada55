//! Compiled kernels on disk, found again by a hash of all that went into them.

use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

const HASH_BYTES: usize = 32;

/// A directory of compiled kernels. Problems with it cost time, never a run:
/// what cannot be read is compiled again.
#[derive(Debug)]
pub struct KernelCache {
    dir: Option<PathBuf>,
}

impl KernelCache {
    /// A cache in `dir`, which need not exist; `None` keeps nothing.
    pub fn new(dir: Option<PathBuf>) -> Self {
        Self { dir }
    }

    /// The image made from `parts` before, if it is there and whole.
    pub fn get(&self, parts: &[&str]) -> Option<Vec<u8>> {
        let bytes = fs::read(self.path(parts)?).ok()?;
        let (hash, image) = bytes.split_at_checked(HASH_BYTES)?;
        (Sha256::digest(image).as_slice() == hash).then(|| image.to_vec())
    }

    /// Keeps `image` for next time.
    pub fn put(&self, parts: &[&str], image: &[u8]) {
        let (Some(path), Some(dir)) = (self.path(parts), &self.dir) else { return };
        if let Err(e) = write(dir, &path, image) {
            tracing::warn!("compiled kernels cannot be kept in {}: {e}", dir.display());
        }
    }

    /// Forgets the image made from `parts`.
    pub fn remove(&self, parts: &[&str]) {
        if let Some(path) = self.path(parts)
            && let Err(e) = fs::remove_file(&path)
        {
            tracing::warn!("{} cannot be removed: {e}", path.display());
        }
    }

    fn path(&self, parts: &[&str]) -> Option<PathBuf> {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        let name: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Some(self.dir.as_ref()?.join(name + ".cubin"))
    }
}

/// Written beside its place and renamed, so that no reader sees half a file.
fn write(dir: &Path, path: &Path, image: &[u8]) -> std::io::Result<()> {
    fs::create_dir_all(dir)?;
    // Threads and processes write side by side.
    let thread = std::thread::current().id();
    let temporary = path.with_extension(format!("{}.{thread:?}.tmp", std::process::id()));
    fs::write(&temporary, [Sha256::digest(image).as_slice(), image].concat())?;
    fs::rename(temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_back_what_was_kept_and_nothing_damaged() {
        let dir = tempfile::tempdir().unwrap();
        let cache = KernelCache::new(Some(dir.path().join("kernels")));
        assert_eq!(cache.get(&["a", "b"]), None);
        cache.put(&["a", "b"], b"image");
        assert_eq!(cache.get(&["a", "b"]).as_deref(), Some(&b"image"[..]));
        assert_eq!(cache.get(&["ab", ""]), None, "parts are told apart");

        let path = cache.path(&["a", "b"]).unwrap();
        let mut bytes = fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&path, bytes).unwrap();
        assert_eq!(cache.get(&["a", "b"]), None, "a damaged file is compiled again");

        cache.put(&["a"], b"image");
        cache.remove(&["a"]);
        assert_eq!(cache.get(&["a"]), None);
    }

    #[test]
    fn keeps_nothing_without_a_directory() {
        let cache = KernelCache::new(None);
        cache.put(&["a"], b"image");
        assert_eq!(cache.get(&["a"]), None);
    }
}
