//! Models given by path: a file, a split file's first shard, a safetensors directory.

use std::fs;
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// `NAME-00001-of-00003.gguf` taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shard<'a> {
    /// What comes before `-00001-of-`.
    pub(crate) stem: &'a str,
    /// From 1.
    pub(crate) number: u32,
    pub(crate) count: u32,
    /// With its dot.
    extension: &'a str,
}

impl<'a> Shard<'a> {
    /// `None` for the name of a file that is whole.
    pub(crate) fn parse(name: &'a str) -> Option<Self> {
        let (base, extension) = name.split_at(name.rfind('.')?);
        let (rest, count) = base.rsplit_once("-of-")?;
        let (stem, number) = rest.rsplit_once('-')?;
        let five_digits = |s: &str| {
            (s.len() == 5 && s.bytes().all(|b| b.is_ascii_digit())).then(|| s.parse::<u32>().ok()).flatten()
        };
        let (number, count) = (five_digits(number)?, five_digits(count)?);
        (1 <= number && number <= count).then_some(Shard { stem, number, count, extension })
    }

    /// The names of all shards of the file, in order.
    pub(crate) fn all(self) -> impl Iterator<Item = String> {
        let Shard { stem, count, extension, .. } = self;
        (1..=count).map(move |number| format!("{stem}-{number:05}-of-{count:05}{extension}"))
    }
}

/// The files a path stands for; the path itself is what to open.
pub(crate) fn files_of(path: &Path) -> Result<Vec<PathBuf>> {
    let metadata = fs::metadata(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => bad(path, "there is no such file or directory"),
        _ => Error::io("read", path, e),
    })?;
    if metadata.is_dir() {
        return directory(path);
    }
    if !metadata.is_file() {
        return Err(bad(path, "it is neither a file nor a directory"));
    }
    let shard = path.file_name().and_then(|n| n.to_str()).and_then(Shard::parse);
    match shard {
        Some(shard) => shards(path, shard),
        None => Ok(vec![path.to_owned()]),
    }
}

/// All shards next to the first one.
fn shards(path: &Path, shard: Shard<'_>) -> Result<Vec<PathBuf>> {
    if shard.number != 1 {
        let first = shard.all().next().expect("a shard's count is at least 1");
        return Err(bad(path, &format!("it is one shard of a split file; name the first one, {first}")));
    }
    let mut files = Vec::new();
    for name in shard.all() {
        let file = path.with_file_name(&name);
        if !file.is_file() {
            return Err(bad(path, &format!("its shard {name} is missing")));
        }
        files.push(file);
    }
    Ok(files)
}

/// A model directory as Hugging Face lays it out.
fn directory(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.join("config.json").is_file() {
        return Err(bad(
            path,
            "the directory has no config.json; name a .gguf file or a safetensors directory",
        ));
    }
    let entries = fs::read_dir(path).map_err(|e| Error::io("read", path, e))?;
    let mut files = Vec::new();
    for entry in entries {
        let file = entry.map_err(|e| Error::io("read", path, e))?.path();
        if file.extension().is_some_and(|e| e == "safetensors" || e == "json") && file.is_file() {
            files.push(file);
        }
    }
    if !files.iter().any(|f| f.extension().is_some_and(|e| e == "safetensors")) {
        return Err(bad(path, "the directory has a config.json but no .safetensors file"));
    }
    files.sort();
    Ok(files)
}

fn bad(path: &Path, reason: &str) -> Error {
    Error::Path { path: path.to_owned(), reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shard_names() {
        let shard = Shard::parse("m-q4-00001-of-00003.gguf").unwrap();
        assert_eq!((shard.stem, shard.number, shard.count), ("m-q4", 1, 3));
        assert_eq!(shard.all().last().unwrap(), "m-q4-00003-of-00003.gguf");
        for whole in [
            "m.gguf",
            "m-1-of-3.gguf",
            "m-00000-of-00003.gguf",
            "m-00004-of-00003.gguf",
            "m-00001-of-00003",
            "m-+0001-of-00003.gguf",
            "",
            ".gguf",
        ] {
            assert_eq!(Shard::parse(whole), None, "{whole}");
        }
    }

    #[test]
    fn what_a_path_stands_for() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("m.gguf"), "GGUF").unwrap();
        assert_eq!(files_of(&at("m.gguf")).unwrap(), [at("m.gguf")]);
        for n in [1, 3] {
            fs::write(at(&format!("s-0000{n}-of-00003.gguf")), "GGUF").unwrap();
        }
        let message = |path: &Path| files_of(path).unwrap_err().to_string();
        assert!(message(&at("s-00001-of-00003.gguf")).contains("s-00002-of-00003.gguf is missing"));
        assert!(message(&at("s-00003-of-00003.gguf")).contains("name the first one, s-00001-of-00003.gguf"));
        fs::write(at("s-00002-of-00003.gguf"), "GGUF").unwrap();
        assert_eq!(files_of(&at("s-00001-of-00003.gguf")).unwrap().len(), 3);
        assert!(message(&at("none.gguf")).contains("no such file"));
        assert!(message(dir.path()).contains("no config.json"));
        fs::write(at("config.json"), "{}").unwrap();
        assert!(message(dir.path()).contains("no .safetensors"));
        fs::write(at("model.safetensors"), "").unwrap();
        assert_eq!(files_of(dir.path()).unwrap(), [at("config.json"), at("model.safetensors")]);
    }
}
