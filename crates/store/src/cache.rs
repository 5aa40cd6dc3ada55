//! The cache on disk. Its layout is in the crate's documentation.

use std::collections::BTreeSet;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::error::brief;
use crate::{Error, Event, Progress, Result};

/// The file that describes an entry.
const ENTRY: &str = "entry.json";
/// An entry file longer than this is not ours.
const MAX_ENTRY_BYTES: u64 = 1 << 20;

/// A model in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name to use for it.
    pub name: String,
    /// What to open: the file, the first shard, or the safetensors directory.
    pub path: PathBuf,
    /// Size of all its files.
    pub bytes: u64,
    /// When it was pulled.
    pub pulled: SystemTime,
    /// Where it came from, for people.
    pub source: String,
}

/// One file of an entry, as recorded.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct FileRecord {
    pub(crate) name: String,
    pub(crate) bytes: u64,
    pub(crate) sha256: String,
}

/// The contents of `entry.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) name: String,
    /// The file to open, or none for the directory itself.
    pub(crate) main: Option<String>,
    pub(crate) source: String,
    /// Seconds since 1970.
    pub(crate) pulled: u64,
    pub(crate) files: Vec<FileRecord>,
}

/// The place of an entry: components that were checked when the name was parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Key(Vec<String>);

impl Key {
    pub(crate) fn new(parts: &[&str]) -> Self {
        Key(parts.iter().map(|p| (*p).to_owned()).collect())
    }

    fn under(&self, dir: &Path) -> PathBuf {
        dir.join(self.0.iter().collect::<PathBuf>())
    }
}

/// The cache's root.
#[derive(Debug, Clone)]
pub(crate) struct Cache {
    root: PathBuf,
}

/// A pull under way: the lock and the directory to fill. Dropping it keeps what has arrived.
#[derive(Debug)]
pub(crate) struct Staging {
    key: Key,
    root: PathBuf,
    dir: PathBuf,
    _lock: File,
}

impl Cache {
    pub(crate) fn new(root: PathBuf) -> Self {
        Cache { root }
    }

    /// The entry at `key`, if it is complete.
    pub(crate) fn get(&self, key: &Key) -> Result<Option<(Entry, Record)>> {
        read_entry(&key.under(&self.models()))
    }

    /// The names of the directories just below `key`, of entries and of interrupted pulls.
    pub(crate) fn children(&self, key: &Key) -> Result<Vec<String>> {
        let mut dirs = subdirectories(&key.under(&self.models()))?;
        dirs.extend(subdirectories(&key.under(&self.root.join("partial")))?);
        let names = dirs.iter().filter_map(|dir| Some(dir.file_name()?.to_str()?.to_owned()));
        Ok(names.collect::<BTreeSet<_>>().into_iter().collect())
    }

    /// Takes the lock of `key`, waiting for another process that holds it.
    pub(crate) fn begin(&self, key: &Key, progress: &mut dyn Progress) -> Result<Staging> {
        let lock = self.lock(key, progress)?;
        let dir = key.under(&self.root.join("partial"));
        create_dir(&dir.join("entry"))?;
        Ok(Staging { key: key.clone(), root: self.root.clone(), dir, _lock: lock })
    }

    /// All entries, in no particular order.
    pub(crate) fn list(&self) -> Result<Vec<Entry>> {
        let mut entries = Vec::new();
        let mut pending = vec![(self.models(), 0)];
        while let Some((dir, depth)) = pending.pop() {
            if let Some((entry, _)) = read_entry(&dir)? {
                entries.push(entry);
            } else if depth < 4 {
                // The longest key has four parts: hf/owner/repo/quant.
                pending.extend(subdirectories(&dir)?.into_iter().map(|d| (d, depth + 1)));
            }
        }
        Ok(entries)
    }

    /// Removes the entry and what an interrupted pull of it left. Says whether there was anything.
    pub(crate) fn remove(&self, key: &Key, progress: &mut dyn Progress) -> Result<bool> {
        let entry = key.under(&self.models());
        let partial = key.under(&self.root.join("partial"));
        if !entry.exists() && !partial.exists() {
            return Ok(false);
        }
        let _lock = self.lock(key, progress)?;
        for dir in [entry, partial] {
            self.check_inside(&dir)?;
            match fs::remove_dir_all(&dir) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::io("remove", &dir, e));
                }
                _ => {}
            }
            remove_empty_parents(&dir, &self.root);
        }
        Ok(true)
    }

    fn models(&self) -> PathBuf {
        self.root.join("models")
    }

    /// Someone may have replaced a directory of the cache by a link; nothing outside is ever removed.
    fn check_inside(&self, dir: &Path) -> Result<()> {
        let (Ok(root), Ok(real)) = (self.root.canonicalize(), dir.canonicalize()) else { return Ok(()) };
        if real.strip_prefix(&root).is_ok_and(|rest| rest.components().count() > 1) {
            return Ok(());
        }
        let reason = "it leads out of the cache and is not removed".into();
        Err(Error::Path { path: dir.to_owned(), reason })
    }

    fn lock(&self, key: &Key, progress: &mut dyn Progress) -> Result<File> {
        let dir = self.root.join("locks");
        create_dir(&dir)?;
        let path = dir.join(format!("{}.lock", key.0.join("--")));
        let file = File::options().write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(|e| Error::io("write", &path, e))?;
        let mut told = false;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) if progress.cancelled() => return Err(Error::Cancelled),
                Err(TryLockError::WouldBlock) => {
                    if !std::mem::replace(&mut told, true) {
                        progress.event(&Event::Waiting);
                    }
                    std::thread::sleep(Duration::from_millis(100));
                }
                Err(TryLockError::Error(e)) => return Err(Error::io("lock", &path, e)),
            }
        }
    }
}

impl Staging {
    /// Where a finished file belongs.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.join("entry").join(name)
    }

    /// Where a file, or something needed on the way, is while it is incomplete.
    pub(crate) fn scratch(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Makes the entry visible and cleans up.
    pub(crate) fn commit(self, mut record: Record) -> Result<Entry> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        record.pulled = now.as_secs();
        let json = serde_json::to_vec_pretty(&record).expect("a record is strings and numbers");
        let path = self.file(ENTRY);
        fs::write(&path, json).map_err(|e| Error::io("write", &path, e))?;
        let target = self.key.under(&self.root.join("models"));
        if let Some(parent) = target.parent() {
            create_dir(parent)?;
        }
        if target.exists() {
            // Not an entry (we hold the lock and looked): a damaged one, which this pull replaces.
            fs::remove_dir_all(&target).map_err(|e| Error::io("remove", &target, e))?;
        }
        let complete = self.dir.join("entry");
        fs::rename(&complete, &target).map_err(|e| Error::io("rename", &complete, e))?;
        fs::remove_dir_all(&self.dir).map_err(|e| Error::io("remove", &self.dir, e))?;
        remove_empty_parents(&self.dir, &self.root);
        let entry = read_entry(&target)?;
        Ok(entry.ok_or_else(|| damaged(&target, "it vanished after it was written"))?.0)
    }
}

/// Creates a directory and its parents.
pub(crate) fn create_dir(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).map_err(|e| Error::io("create", dir, e))
}

/// Reads the entry in `dir`; `None` if there is none or a file of it is missing or has another size.
fn read_entry(dir: &Path) -> Result<Option<(Entry, Record)>> {
    let path = dir.join(ENTRY);
    let size = match fs::metadata(&path) {
        Ok(metadata) => metadata.len(),
        Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(e) => return Err(Error::io("read", &path, e)),
    };
    if size > MAX_ENTRY_BYTES {
        return Err(damaged(&path, "too long"));
    }
    let json = fs::read(&path).map_err(|e| Error::io("read", &path, e))?;
    let record: Record = serde_json::from_slice(&json).map_err(|e| damaged(&path, &brief(&e.to_string())))?;
    for file in &record.files {
        if file.name.contains(['/', '\\']) || file.name == ".." {
            return Err(damaged(&path, "a file name leads elsewhere"));
        }
        if !fs::metadata(dir.join(&file.name)).is_ok_and(|m| m.is_file() && m.len() == file.bytes) {
            return Ok(None);
        }
    }
    if record.main.as_ref().is_some_and(|main| !record.files.iter().any(|f| f.name == *main)) {
        return Err(damaged(&path, "its main file is not among its files"));
    }
    let entry = Entry {
        name: record.name.clone(),
        path: record.main.as_ref().map_or_else(|| dir.to_owned(), |main| dir.join(main)),
        bytes: record.files.iter().fold(0, |sum, f| sum.saturating_add(f.bytes)),
        pulled: UNIX_EPOCH.checked_add(Duration::from_secs(record.pulled)).unwrap_or(UNIX_EPOCH),
        source: record.source.clone(),
    };
    Ok(Some((entry, record)))
}

fn damaged(path: &Path, reason: &str) -> Error {
    Error::BadEntry { path: path.to_owned(), reason: reason.to_owned() }
}

/// The directories in `dir`, not following links; none if it does not exist.
fn subdirectories(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::io("read", dir, e)),
    };
    let mut dirs = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|e| Error::io("read", dir, e))?;
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            dirs.push(entry.path());
        }
    }
    dirs.sort();
    Ok(dirs)
}

/// Removes directories that became empty, up to `root`. Failing to is harmless.
fn remove_empty_parents(dir: &Path, root: &Path) {
    let inside = |d: &&Path| d.starts_with(root) && *d != root;
    for parent in dir.ancestors().skip(1).take_while(inside) {
        if fs::remove_dir(parent).is_err() {
            return;
        }
    }
}
