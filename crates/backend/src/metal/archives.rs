//! Kernels that the framework compiled for this device and system, in files of its own (binary
//! archives), found again by a hash of all that went into them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use sha2::{Digest, Sha256};

/// How archives' names end.
const EXTENSION: &str = "metalarchive";

/// Archives that are kept: a model's kernels are some dozens, for each device, system and version of Quarrel.
const MOST: usize = 1024;

/// A directory of archives. Problems with it cost time, never a run: what is not there, or not
/// whole, is compiled again. Of more than [`MOST`] those found longest ago are removed.
#[derive(Debug)]
pub struct Archives {
    dir: Option<PathBuf>,
    /// Device and system.
    made_for: [String; 2],
    most: usize,
}

impl Archives {
    /// Those in `dir`, which need not exist, for a device and a system, down to its build; `None`
    /// keeps nothing.
    pub fn new(dir: Option<PathBuf>, device: String, system: String) -> Self {
        Self { dir, made_for: [device, system], most: MOST }
    }

    /// The file made from `parts` before, if it is there and whole.
    pub fn find(&self, parts: &[&str]) -> Option<PathBuf> {
        let path = self.path(parts)?;
        let expected = fs::read_to_string(hash_of(&path)).ok()?;
        if hex(&fs::read(&path).ok()?) != expected {
            return None;
        }
        // Where the time cannot be set it is kept as long as if it were not found.
        let _ = fs::File::options()
            .append(true)
            .open(&path)
            .and_then(|file| file.set_modified(SystemTime::now()));
        Some(path)
    }

    /// Keeps for next time what `write` writes to the path that it is given.
    pub fn keep(&self, parts: &[&str], write: impl FnOnce(&Path) -> Result<(), String>) {
        let (Some(path), Some(dir)) = (self.path(parts), &self.dir) else { return };
        let kept = put(dir, &path, write).and_then(|()| prune(dir, self.most).map_err(|e| e.to_string()));
        if let Err(reason) = kept {
            tracing::warn!("compiled kernels cannot be kept in {}: {reason}", dir.display());
        }
    }

    /// Forgets the file made from `parts`.
    pub fn remove(&self, parts: &[&str]) {
        let Some(path) = self.path(parts) else { return };
        for path in [hash_of(&path), path] {
            if let Err(e) = fs::remove_file(&path) {
                tracing::warn!("{} cannot be removed: {e}", path.display());
            }
        }
    }

    fn path(&self, parts: &[&str]) -> Option<PathBuf> {
        let mut hash = Sha256::new();
        for part in self.made_for.iter().map(String::as_str).chain(parts.iter().copied()) {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        Some(self.dir.as_ref()?.join(hex_digits(&hash.finalize()) + "." + EXTENSION))
    }
}

/// Written beside its place and renamed, so that no reader sees half a file; its hash last, without
/// which it is not found.
fn put(dir: &Path, path: &Path, write: impl FnOnce(&Path) -> Result<(), String>) -> Result<(), String> {
    let text = |e: io::Error| e.to_string();
    fs::create_dir_all(dir).map_err(text)?;
    // Processes write side by side.
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    let put = || {
        write(&temporary)?;
        let hash = hex(&fs::read(&temporary).map_err(text)?);
        fs::rename(&temporary, path).map_err(text)?;
        fs::write(&temporary, hash).map_err(text)?;
        fs::rename(&temporary, hash_of(path)).map_err(text)
    };
    put().inspect_err(|_| drop(fs::remove_file(&temporary)))
}

/// Removes all archives but the `most` that were made or found last. Other processes may do the same.
fn prune(dir: &Path, most: usize) -> io::Result<()> {
    let mut archives = Vec::new();
    for entry in dir.read_dir()? {
        let entry = entry?;
        if entry.path().extension().is_some_and(|extension| extension == EXTENSION) {
            archives.push((entry.metadata()?.modified()?, entry.path()));
        }
    }
    archives.sort_unstable();
    let surplus = archives.len().saturating_sub(most);
    for (_, path) in archives.into_iter().take(surplus) {
        // Without its hash it is not found.
        for path in [hash_of(&path), path] {
            match fs::remove_file(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
    }
    Ok(())
}

/// Where a file's hash lies.
fn hash_of(path: &Path) -> PathBuf {
    path.with_extension("sha256")
}

fn hex(bytes: &[u8]) -> String {
    hex_digits(&Sha256::digest(bytes))
}

fn hex_digits(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archives(dir: &Path, system: &str) -> Archives {
        Archives::new(Some(dir.join("kernels")), "a device".to_owned(), system.to_owned())
    }

    fn writing(bytes: &[u8]) -> impl FnOnce(&Path) -> Result<(), String> {
        move |path| fs::write(path, bytes).map_err(|e| e.to_string())
    }

    #[test]
    fn finds_what_was_kept_for_this_system_and_nothing_damaged() {
        let dir = tempfile::tempdir().unwrap();
        let here = archives(dir.path(), "26.0 (25A354)");
        assert_eq!(here.find(&["a", "b"]), None);
        here.keep(&["a", "b"], writing(b"archive"));
        let path = here.find(&["a", "b"]).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"archive");
        assert_eq!(here.find(&["ab", ""]), None, "parts are told apart");
        assert_eq!(archives(dir.path(), "26.0.1 (25A362)").find(&["a", "b"]), None, "another system");

        fs::write(&path, b"archivf").unwrap();
        assert_eq!(here.find(&["a", "b"]), None, "it is damaged");
        here.keep(&["a", "b"], writing(b"new"));
        assert_eq!(fs::read(here.find(&["a", "b"]).unwrap()).unwrap(), b"new");
        here.remove(&["a", "b"]);
        assert_eq!((here.find(&["a", "b"]), path.exists()), (None, false));
    }

    #[test]
    fn those_found_longest_ago_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let here = Archives { most: 3, ..archives(dir.path(), "26.0") };
        let other = dir.path().join("kernels/of-cuda.cubin");
        for (i, name) in ["a", "b", "c", "d"].into_iter().enumerate() {
            here.keep(&[name], writing(name.as_bytes()));
            // Clocks may be too coarse to tell them apart.
            let path = here.path(&[name]).unwrap();
            let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(i as u64);
            fs::File::options().append(true).open(path).unwrap().set_modified(time).unwrap();
            if name == "c" {
                fs::write(&other, "other").unwrap();
                assert!(here.find(&["a"]).is_some(), "which makes it the last that was found");
            }
        }
        let found = ["a", "b", "c", "d"].map(|name| here.find(&[name]).is_some());
        assert_eq!(found, [true, false, true, true]);
        // An archive and a hash each, and what is somebody else's.
        assert_eq!(dir.path().join("kernels").read_dir().unwrap().count(), 2 * 3 + 1);
        assert!(other.exists());
    }

    #[test]
    fn what_cannot_be_written_is_not_found() {
        let dir = tempfile::tempdir().unwrap();
        let here = archives(dir.path(), "26.0");
        here.keep(&["a"], |path| {
            fs::write(path, b"half").unwrap();
            Err("refused".to_owned())
        });
        assert_eq!(here.find(&["a"]), None);
        let nowhere = Archives::new(None, String::new(), String::new());
        nowhere.keep(&["a"], |_| panic!("there is no place for it"));
        assert_eq!(nowhere.find(&["a"]), None);
    }
}
