//! Writes GGUF version 3: metadata and tensor descriptions first, then the
//! data, streamed tensor by tensor, so that no model has to fit in memory.
//!
//! What the reader would refuse cannot be written.

use std::collections::HashSet;
use std::io::Write;

use crate::metadata::{MAX_ARRAY_DEPTH, MAX_NAME_LEN, type_id};
use crate::tensor::{self, TensorInfo};
use crate::{Array, Error, Metadata, Result, Value};

/// A GGUF file being written.
///
/// ```
/// use quarrel_gguf::{Bytes, Format, Metadata, ModelFile, TensorInfo, Writer};
/// let mut metadata = Metadata::new();
/// metadata.insert("general.architecture", "llama");
/// let info = TensorInfo { name: "output.weight".into(), shape: vec![2, 1], format: Format::F32 };
/// let mut writer = Writer::new(Vec::new(), &metadata, vec![info])?;
/// writer.write("output.weight", &[0; 8])?;
/// let file = ModelFile::from_bytes(Bytes::from(writer.finish()?))?;
/// assert_eq!(file.tensor("output.weight").unwrap().row_len(), 2);
/// # Ok::<(), quarrel_gguf::Error>(())
/// ```
#[derive(Debug)]
pub struct Writer<W: Write> {
    out: W,
    tensors: Vec<(TensorInfo, u64)>,
    /// The tensor that is being written.
    current: usize,
    /// Bytes of it written so far.
    written: u64,
    alignment: u64,
}

impl<W: Write> Writer<W> {
    /// Writes the header: everything but the tensors' data. `out` should be
    /// buffered. `general.alignment`, where `metadata` has it, is followed.
    ///
    /// # Errors
    /// [`Error::Output`], and what the reader would find wrong: names, shapes,
    /// alignment, nesting of arrays.
    pub fn new(out: W, metadata: &Metadata, tensors: Vec<TensorInfo>) -> Result<Self> {
        let alignment = tensor::alignment(metadata)?;
        check_names(&tensors)?;
        let mut header = Vec::new();
        header.extend(b"GGUF");
        header.extend(3u32.to_le_bytes());
        header.extend((tensors.len() as u64).to_le_bytes());
        header.extend((metadata.len() as u64).to_le_bytes());
        for (key, value) in metadata.iter() {
            check_name("a metadata key", key)?;
            write_str(&mut header, key);
            write_value(&mut header, key, value)?;
        }
        let mut offset = 0u64;
        let mut sized = Vec::with_capacity(tensors.len());
        for info in tensors {
            let bytes = info.bytes()?;
            write_info(&mut header, &info, offset);
            offset = offset
                .checked_add(bytes)
                .and_then(|end| end.checked_next_multiple_of(alignment))
                .ok_or_else(|| size_overflows(&info))?;
            sized.push((info, bytes));
        }
        let len = header.len();
        header.resize(len.next_multiple_of(alignment as usize), 0);
        let mut writer = Self { out, tensors: sized, current: 0, written: 0, alignment };
        writer.out.write_all(&header)?;
        Ok(writer)
    }

    /// Appends `data` to the tensor `name`. Tensors are written in the order of
    /// their descriptions, each in one piece or in as many as the caller likes.
    ///
    /// # Errors
    /// [`Error::TensorData`] when it is not `name`'s turn or `data` is more than
    /// is missing of it; [`Error::Output`].
    pub fn write(&mut self, name: &str, data: &[u8]) -> Result<()> {
        let refuse = |what| Err(Error::TensorData { tensor: name.to_owned(), what });
        let Some((info, bytes)) = self.tensors.get(self.current) else {
            return refuse("all tensors are written already".to_owned());
        };
        if info.name != name {
            return refuse(format!("out of order: `{}` is next", info.name));
        }
        let missing = bytes - self.written;
        if data.len() as u64 > missing {
            return refuse(format!("{} bytes given, but {missing} of {bytes} are missing", data.len()));
        }
        let complete = data.len() as u64 == missing;
        let padding = bytes.next_multiple_of(self.alignment) - bytes;
        self.out.write_all(data)?;
        self.written += data.len() as u64;
        if complete {
            std::io::copy(&mut std::io::Read::take(std::io::repeat(0), padding), &mut self.out)?;
            (self.current, self.written) = (self.current + 1, 0);
        }
        Ok(())
    }

    /// Flushes, and returns what was written to.
    ///
    /// # Errors
    /// [`Error::TensorData`] when a tensor is not complete; [`Error::Output`].
    pub fn finish(mut self) -> Result<W> {
        if let Some((info, bytes)) = self.tensors.get(self.current) {
            let what = format!("{} of its {bytes} bytes were written", self.written);
            return Err(Error::TensorData { tensor: info.name.clone(), what });
        }
        self.out.flush()?;
        Ok(self.out)
    }
}

fn size_overflows(info: &TensorInfo) -> Error {
    let (tensor, shape) = (info.name.clone(), info.shape.clone());
    Error::Shape { tensor, shape, what: "the size of all tensors overflows" }
}

fn check_names(tensors: &[TensorInfo]) -> Result<()> {
    let mut names = HashSet::new();
    for info in tensors {
        check_name("a tensor name", &info.name)?;
        if !names.insert(&info.name) {
            return Err(Error::DuplicateTensor { name: info.name.clone() });
        }
    }
    Ok(())
}

fn check_name(subject: &str, name: &str) -> Result<()> {
    if name.is_empty() || name.len() > MAX_NAME_LEN {
        return Err(Error::NameLength { subject: subject.to_owned(), len: name.len() as u64 });
    }
    Ok(())
}

fn write_info(out: &mut Vec<u8>, info: &TensorInfo, offset: u64) {
    write_str(out, &info.name);
    out.extend((info.shape.len() as u32).to_le_bytes());
    for dim in &info.shape {
        out.extend(dim.to_le_bytes());
    }
    out.extend((info.format as u32).to_le_bytes());
    out.extend(offset.to_le_bytes());
}

fn write_str(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn write_value(out: &mut Vec<u8>, key: &str, value: &Value) -> Result<()> {
    let id = match value {
        Value::U8(_) => type_id::U8,
        Value::I8(_) => type_id::I8,
        Value::U16(_) => type_id::U16,
        Value::I16(_) => type_id::I16,
        Value::U32(_) => type_id::U32,
        Value::I32(_) => type_id::I32,
        Value::U64(_) => type_id::U64,
        Value::I64(_) => type_id::I64,
        Value::F32(_) => type_id::F32,
        Value::F64(_) => type_id::F64,
        Value::Bool(_) => type_id::BOOL,
        Value::String(_) => type_id::STRING,
        Value::Array(_) => type_id::ARRAY,
    };
    out.extend(id.to_le_bytes());
    match value {
        Value::U8(x) => out.extend(x.to_le_bytes()),
        Value::I8(x) => out.extend(x.to_le_bytes()),
        Value::U16(x) => out.extend(x.to_le_bytes()),
        Value::I16(x) => out.extend(x.to_le_bytes()),
        Value::U32(x) => out.extend(x.to_le_bytes()),
        Value::I32(x) => out.extend(x.to_le_bytes()),
        Value::U64(x) => out.extend(x.to_le_bytes()),
        Value::I64(x) => out.extend(x.to_le_bytes()),
        Value::F32(x) => out.extend(x.to_le_bytes()),
        Value::F64(x) => out.extend(x.to_le_bytes()),
        Value::Bool(x) => out.push((*x).into()),
        Value::String(text) => write_str(out, text),
        Value::Array(array) => write_array(out, key, array, 1)?,
    }
    Ok(())
}

/// Writes an array; `depth` counts the arrays around and including this one.
fn write_array(out: &mut Vec<u8>, key: &str, array: &Array, depth: usize) -> Result<()> {
    if depth > MAX_ARRAY_DEPTH {
        let subject = format!("metadata key `{key}`");
        return Err(Error::TooDeep { subject, at: out.len() as u64, limit: MAX_ARRAY_DEPTH });
    }
    let id = match array {
        Array::U8(_) => type_id::U8,
        Array::I8(_) => type_id::I8,
        Array::U16(_) => type_id::U16,
        Array::I16(_) => type_id::I16,
        Array::U32(_) => type_id::U32,
        Array::I32(_) => type_id::I32,
        Array::U64(_) => type_id::U64,
        Array::I64(_) => type_id::I64,
        Array::F32(_) => type_id::F32,
        Array::F64(_) => type_id::F64,
        Array::Bool(_) => type_id::BOOL,
        Array::String(_) => type_id::STRING,
        Array::Array(_) => type_id::ARRAY,
    };
    out.extend(id.to_le_bytes());
    out.extend((array.len() as u64).to_le_bytes());
    match array {
        Array::U8(v) => out.extend(v),
        Array::I8(v) => out.extend(v.iter().flat_map(|x| x.to_le_bytes())),
        Array::U16(v) => out.extend(v.iter().flat_map(|x| x.to_le_bytes())),
        Array::I16(v) => out.extend(v.iter().flat_map(|x| x.to_le_bytes())),
        Array::U32(v) => out.extend(v.iter().flat_map(|x| x.to_le_bytes())),
        Array::I32(v) => out.extend(v.iter().flat_map(|x| x.to_le_bytes())),
        Array::U64(v) => out.extend(v.iter().flat_map(|x| x.to_le_bytes())),
        Array::I64(v) => out.extend(v.iter().flat_map(|x| x.to_le_bytes())),
        Array::F32(v) => out.extend(v.iter().flat_map(|x| x.to_le_bytes())),
        Array::F64(v) => out.extend(v.iter().flat_map(|x| x.to_le_bytes())),
        Array::Bool(v) => out.extend(v.iter().map(|&x| u8::from(x))),
        Array::String(v) => v.iter().for_each(|text| write_str(out, text)),
        Array::Array(v) => return v.iter().try_for_each(|inner| write_array(out, key, inner, depth + 1)),
    }
    Ok(())
}
