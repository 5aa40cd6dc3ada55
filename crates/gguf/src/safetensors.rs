//! Safetensors files, one or in shards, as Hugging Face lays them out.
//!
//! A file is the header's length (`u64`), the header (JSON: name → dtype,
//! shape, range of bytes) and the tensors' bytes without holes. Format:
//! <https://huggingface.co/docs/safetensors>.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path};
use std::sync::Arc;

use serde::Deserialize;
use serde::de::{IgnoredAny, MapAccess, Visitor};

use crate::bytes::Mapping;
use crate::metadata::MAX_NAME_LEN;
use crate::tensor::{Tensor, TensorInfo, Tensors, check_overlap};
use crate::{Bytes, Error, Format, Result};

/// Longest header and index accepted, as in the reference implementation.
const MAX_HEADER: u64 = 100_000_000;

/// The index of a model in shards, and the file of one in a single piece.
const INDEX: &str = "model.safetensors.index.json";
const SINGLE: &str = "model.safetensors";

/// The tensors of a safetensors model, under their Hugging Face names.
///
/// Shapes are turned to GGUF's order, innermost dimension first. Data may lie
/// at any address: the format promises no alignment.
#[derive(Debug, Clone)]
pub struct SafeTensors {
    /// Tensors, in the headers' order and by name.
    pub tensors: Tensors,
    mappings: Vec<Arc<Mapping>>,
}

impl SafeTensors {
    /// Maps the file at `path`; of a directory, its `model.safetensors`, or the
    /// shards that its `model.safetensors.index.json` names.
    ///
    /// # Errors
    /// Whatever is wrong with a header or the index, as [`Error::InFile`];
    /// [`Error::MissingShard`]; [`Error::Io`].
    pub fn open(path: &Path) -> Result<Self> {
        if !path.is_dir() {
            return Self::open_one(path);
        }
        let index = path.join(INDEX);
        if index.exists() { Self::open_shards(path, &index) } else { Self::open_one(&path.join(SINGLE)) }
    }

    /// Parses a file held in memory.
    ///
    /// # Errors
    /// Whatever is wrong with the header.
    pub fn from_bytes(bytes: Bytes) -> Result<Self> {
        Ok(Self { tensors: parse(&bytes)?, mappings: bytes.mapping().cloned().into_iter().collect() })
    }

    /// The tensor called `name`.
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }

    /// Whether every mapped file still has its length; see [`crate::ModelFile::check_length`].
    ///
    /// # Errors
    /// [`Error::Shrunk`] or [`Error::Io`].
    pub fn check_length(&self) -> Result<()> {
        self.mappings.iter().try_for_each(|mapping| mapping.check_length())
    }

    fn open_one(path: &Path) -> Result<Self> {
        Self::from_bytes(Bytes::from(Mapping::open(path)?)).map_err(|e| e.in_file(path))
    }

    fn open_shards(directory: &Path, index_path: &Path) -> Result<Self> {
        let index = Index::read(index_path).map_err(|e| e.in_file(index_path))?;
        let mut whole = Self { tensors: Tensors::default(), mappings: Vec::new() };
        for shard in index.weight_map.values().collect::<BTreeSet<_>>() {
            let path = directory.join(plain_name(shard).map_err(|e| e.in_file(index_path))?);
            if !path.exists() {
                return Err(Error::MissingShard { path });
            }
            let part = Self::open_one(&path)?;
            for (name, _) in index.weight_map.iter().filter(|(_, file)| *file == shard) {
                if part.tensor(name).is_none() {
                    return Err(wrong(format!("the index promises tensor `{name}` here")).in_file(&path));
                }
            }
            whole.tensors.extend(part.tensors).map_err(|e| e.in_file(&path))?;
            whole.mappings.extend(part.mappings);
        }
        Ok(whole)
    }
}

/// Which shard holds which tensor.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Index {
    fn read(path: &Path) -> Result<Self> {
        let mapping = Mapping::open(path)?;
        if mapping.as_slice().len() as u64 > MAX_HEADER {
            return Err(wrong(format!("the index is longer than {MAX_HEADER} bytes")));
        }
        serde_json::from_slice(mapping.as_slice()).map_err(json)
    }
}

/// A shard's name, unless it leads out of the model's directory.
fn plain_name(name: &str) -> Result<&str> {
    let mut components = Path::new(name).components();
    match (components.next(), components.next()) {
        (Some(Component::Normal(only)), None) if only == name && !name.contains(['\\', '\0']) => Ok(name),
        _ => Err(wrong(format!("shard {name:?} is not a plain file name"))),
    }
}

/// One tensor of a header.
#[derive(Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

/// A header's tensors in order; JSON objects may repeat a name, so no map.
struct Header(Vec<(String, Entry)>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header;

    fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str("an object that describes tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
        let mut entries = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                map.next_value::<IgnoredAny>()?;
            } else {
                entries.push((name, map.next_value()?));
            }
        }
        Ok(Header(entries))
    }
}

fn parse(bytes: &Bytes) -> Result<Tensors> {
    let (header, start) = split_header(bytes)?;
    let Header(entries) = serde_json::from_slice(header).map_err(json)?;
    let available = (bytes.len() - start) as u64;
    let mut infos = Vec::with_capacity(entries.len());
    let mut ranges = Vec::with_capacity(entries.len());
    for (name, entry) in entries {
        let (info, range) = check(name, entry, available)?;
        infos.push((info, range.0));
        ranges.push(range);
    }
    check_overlap(&infos, &ranges)?;
    let used: u64 = ranges.iter().map(|(from, to)| to - from).sum();
    if used != available {
        return Err(wrong(format!("{} bytes of data belong to no tensor", available - used)));
    }
    let mut tensors = Tensors::default();
    for ((info, _), (from, to)) in infos.into_iter().zip(ranges) {
        let data = bytes
            .slice(start + from as usize..start + to as usize)
            .expect("the range was checked against the file");
        tensors.push(Tensor { name: info.name, shape: info.shape, format: info.format, data })?;
    }
    Ok(tensors)
}

/// The header's text, and where the data starts.
fn split_header(bytes: &[u8]) -> Result<(&[u8], usize)> {
    let truncated = |needed, left| Error::Truncated {
        subject: "the safetensors header".to_owned(),
        at: 0,
        needed,
        left: left as u64,
    };
    let Some((len, rest)) = bytes.split_first_chunk() else { return Err(truncated(8, bytes.len())) };
    let len = u64::from_le_bytes(*len);
    if len > MAX_HEADER {
        return Err(wrong(format!("the header claims {len} bytes; at most {MAX_HEADER} are accepted")));
    }
    match rest.get(..len as usize) {
        Some(header) => Ok((header, 8 + len as usize)),
        None => Err(truncated(8 + len, bytes.len())),
    }
}

/// An entry as a tensor and its range in `available` bytes of data.
fn check(name: String, entry: Entry, available: u64) -> Result<(TensorInfo, (u64, u64))> {
    if name.is_empty() || name.len() > MAX_NAME_LEN {
        return Err(Error::NameLength { subject: "a tensor name".to_owned(), len: name.len() as u64 });
    }
    let format = match &*entry.dtype {
        "F32" => Format::F32,
        "F16" => Format::F16,
        "BF16" => Format::BF16,
        _ => return Err(Error::UnsupportedDtype { tensor: name, dtype: excerpt(&entry.dtype) }),
    };
    let mut shape: Vec<u64> = entry.shape.into_iter().rev().collect();
    if shape.is_empty() {
        shape.push(1);
    }
    let info = TensorInfo { name, shape, format };
    let (bytes, [from, to]) = (info.bytes()?, entry.data_offsets);
    if from > to || to > available {
        return Err(Error::OutOfFile { tensor: info.name, offset: from, bytes, available });
    }
    if to - from != bytes {
        let what = format!("its shape takes {bytes} bytes, but its offsets span {}", to - from);
        return Err(Error::TensorData { tensor: info.name, what });
    }
    Ok((info, (from, to)))
}

fn wrong(what: String) -> Error {
    Error::SafeTensors { what }
}

fn json(error: serde_json::Error) -> Error {
    wrong(excerpt(&error.to_string()))
}

/// The start of a text of unknown length.
fn excerpt(text: &str) -> String {
    text.chars().take(200).collect()
}
