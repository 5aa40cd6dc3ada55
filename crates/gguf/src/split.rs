//! Split models: `NAME-00001-of-00003.gguf` and its siblings, read as one file.
//!
//! The first shard holds the model's metadata; every shard holds `split.no`
//! (counted from 0), `split.count` and `split.tensors.count` (of all shards).

use std::path::{Path, PathBuf};

use crate::{Error, Metadata, ModelFile, Result};

/// Number of shards, when the file is one of several.
pub(crate) fn count(metadata: &Metadata) -> Result<Option<u32>> {
    Ok(metadata.u32("split.count")?.filter(|&count| count > 1))
}

/// Opens all shards of the model that `path` is a shard of.
pub(crate) fn open(path: &Path, count: u32) -> Result<ModelFile> {
    let mut whole: Option<ModelFile> = None;
    for no in 0..count {
        let shard_path = sibling(path, no, count)?;
        let shard = match ModelFile::open_one(&shard_path) {
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                return Err(Error::MissingShard { path: shard_path });
            }
            shard => shard?,
        };
        check_place(&shard.metadata, no, count).map_err(|e| e.in_file(&shard_path))?;
        match &mut whole {
            None => whole = Some(shard),
            Some(whole) => {
                whole.tensors.extend(shard.tensors).map_err(|e| e.in_file(&shard_path))?;
                whole.mappings.extend(shard.mappings);
            }
        }
    }
    let mut whole = whole.expect("a split model has at least two shards");
    check_total(&whole).map_err(|e| e.in_file(path))?;
    for key in ["split.no", "split.count", "split.tensors.count"] {
        whole.metadata.remove(key);
    }
    Ok(whole)
}

/// The path of shard `no` (from 0), by the name of any shard.
fn sibling(path: &Path, no: u32, count: u32) -> Result<PathBuf> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let suffix = format!("-of-{count:05}.gguf");
    let stem = name.strip_suffix(&suffix).and_then(|rest| rest.rsplit_once('-'));
    match stem {
        Some((stem, digits)) if digits.len() == 5 && digits.bytes().all(|b| b.is_ascii_digit()) => {
            Ok(path.with_file_name(format!("{stem}-{:05}{suffix}", no + 1)))
        }
        _ => Err(Error::Split {
            what: format!(
                "{} is one of {count} shards, so its name should end in -00001{suffix}",
                path.display()
            ),
        }),
    }
}

/// Checks that a shard says itself that it is number `no` of `count`.
fn check_place(metadata: &Metadata, no: u32, count: u32) -> Result<()> {
    let (own_no, own_count) = (metadata.u32("split.no")?, metadata.u32("split.count")?);
    if (own_no, own_count) != (Some(no), Some(count)) {
        let show = |n: Option<u32>| n.map_or("?".to_owned(), |n| n.to_string());
        let what = format!(
            "this should be shard {no} of {count} (counted from 0), but says {} of {}",
            show(own_no),
            show(own_count)
        );
        return Err(Error::Split { what });
    }
    Ok(())
}

/// Checks the number of tensors in all shards, where the first names it.
fn check_total(whole: &ModelFile) -> Result<()> {
    let found = whole.tensors.len() as u64;
    match whole.metadata.u64("split.tensors.count")? {
        Some(expected) if expected != found => {
            Err(Error::Split { what: format!("the shards hold {found} tensors, but should hold {expected}") })
        }
        _ => Ok(()),
    }
}
