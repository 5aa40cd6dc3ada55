//! Parses a GGUF file: header, metadata, tensor descriptions, data section.
//!
//! Memory stays within a small multiple of the bytes read: room is reserved
//! only for counts that the rest of the file could hold.

use std::collections::HashSet;

use crate::cursor::Cursor;
use crate::metadata::{MAX_ARRAY_DEPTH, MAX_NAME_LEN, type_id};
use crate::tensor::{self, TensorInfo, Tensors};
use crate::{Array, Bytes, Error, Format, Metadata, Result, Value};

/// The fewest bytes a key-value pair takes: length, one letter, type, one byte.
const MIN_PAIR: usize = 8 + 1 + 4 + 1;
/// The fewest bytes a tensor description takes: length, one letter, number of
/// dimensions, type, offset.
const MIN_TENSOR: usize = 8 + 1 + 4 + 4 + 8;
/// The fewest bytes of a string and of an array inside an array.
const MIN_STRING: usize = 8;
const MIN_ARRAY: usize = 4 + 8;

/// Reads one file; shards of a split model are read one by one.
pub(crate) fn parse(bytes: &Bytes) -> Result<(Metadata, Tensors)> {
    let mut cursor = Cursor::new(bytes, "the header");
    let (n_tensors, n_pairs) = header(&mut cursor)?;
    let metadata = metadata(&mut cursor, n_pairs)?;
    let alignment = tensor::alignment(&metadata)?;
    let infos = tensor_infos(&mut cursor, n_tensors)?;
    let tensors = tensor::place(infos, bytes, cursor.at() as u64, alignment)?;
    Ok((metadata, tensors))
}

/// The numbers of tensors and of key-value pairs.
fn header(cursor: &mut Cursor) -> Result<(u64, u64)> {
    let magic: u32 = cursor.number()?;
    if magic.to_le_bytes() != *b"GGUF" {
        return Err(Error::NotGguf { found: magic.to_le_bytes() });
    }
    match cursor.number::<u32>()? {
        2 | 3 => {}
        version if matches!(version.swap_bytes(), 1..=0xffff) => return Err(Error::BigEndian),
        version => return Err(Error::UnsupportedVersion { version }),
    }
    let n_tensors = cursor.number()?;
    let n_pairs = cursor.number()?;
    Ok((n_tensors, n_pairs))
}

fn metadata(cursor: &mut Cursor, n_pairs: u64) -> Result<Metadata> {
    let n_pairs = cursor.expect(n_pairs, MIN_PAIR)?;
    let mut metadata = Metadata::new();
    for i in 0..n_pairs {
        cursor.subject = format!("metadata key {i}");
        let key = name(cursor)?;
        cursor.subject = format!("metadata key `{key}`");
        let value = value(cursor)?;
        if metadata.insert(key, value).is_some() {
            return Err(Error::DuplicateKey { key: key.to_owned() });
        }
    }
    Ok(metadata)
}

/// A key or a tensor name.
fn name<'a>(cursor: &mut Cursor<'a>) -> Result<&'a str> {
    let name = cursor.str()?;
    if name.is_empty() || name.len() > MAX_NAME_LEN {
        return Err(Error::NameLength { subject: cursor.subject.clone(), len: name.len() as u64 });
    }
    Ok(name)
}

fn value(cursor: &mut Cursor) -> Result<Value> {
    let at = cursor.at();
    Ok(match cursor.number()? {
        type_id::U8 => Value::U8(cursor.number()?),
        type_id::I8 => Value::I8(cursor.number()?),
        type_id::U16 => Value::U16(cursor.number()?),
        type_id::I16 => Value::I16(cursor.number()?),
        type_id::U32 => Value::U32(cursor.number()?),
        type_id::I32 => Value::I32(cursor.number()?),
        type_id::F32 => Value::F32(cursor.number()?),
        type_id::BOOL => Value::Bool(cursor.bools(1)?[0]),
        type_id::STRING => Value::String(cursor.str()?.to_owned()),
        type_id::ARRAY => Value::Array(array(cursor, 1)?),
        type_id::U64 => Value::U64(cursor.number()?),
        type_id::I64 => Value::I64(cursor.number()?),
        type_id::F64 => Value::F64(cursor.number()?),
        other => return Err(unknown_type(cursor, other, at)),
    })
}

/// An array; `depth` counts the arrays around and including this one.
fn array(cursor: &mut Cursor, depth: usize) -> Result<Array> {
    let at = cursor.at();
    if depth > MAX_ARRAY_DEPTH {
        let subject = cursor.subject.clone();
        return Err(Error::TooDeep { subject, at: at as u64, limit: MAX_ARRAY_DEPTH });
    }
    let element_type = cursor.number()?;
    let count = cursor.number()?;
    Ok(match element_type {
        type_id::U8 => Array::U8(cursor.numbers(count)?),
        type_id::I8 => Array::I8(cursor.numbers(count)?),
        type_id::U16 => Array::U16(cursor.numbers(count)?),
        type_id::I16 => Array::I16(cursor.numbers(count)?),
        type_id::U32 => Array::U32(cursor.numbers(count)?),
        type_id::I32 => Array::I32(cursor.numbers(count)?),
        type_id::F32 => Array::F32(cursor.numbers(count)?),
        type_id::BOOL => Array::Bool(cursor.bools(count)?),
        type_id::STRING => Array::String(strings(cursor, count)?),
        type_id::ARRAY => Array::Array(arrays(cursor, count, depth)?),
        type_id::U64 => Array::U64(cursor.numbers(count)?),
        type_id::I64 => Array::I64(cursor.numbers(count)?),
        type_id::F64 => Array::F64(cursor.numbers(count)?),
        other => return Err(unknown_type(cursor, other, at)),
    })
}

fn strings(cursor: &mut Cursor, count: u64) -> Result<Vec<String>> {
    let mut strings = Vec::with_capacity(cursor.expect(count, MIN_STRING)?);
    for _ in 0..count {
        strings.push(cursor.str()?.to_owned());
    }
    Ok(strings)
}

/// Arrays inside an array. The vector grows as they are read: reserving at
/// each level would multiply what a nested, lying count can claim.
fn arrays(cursor: &mut Cursor, count: u64, depth: usize) -> Result<Vec<Array>> {
    cursor.expect(count, MIN_ARRAY)?;
    let mut arrays = Vec::new();
    for _ in 0..count {
        arrays.push(array(cursor, depth + 1)?);
    }
    Ok(arrays)
}

fn unknown_type(cursor: &Cursor, id: u32, at: usize) -> Error {
    Error::Malformed { what: format!("{}: unknown value type {id}", cursor.subject), at: at as u64 }
}

fn tensor_infos(cursor: &mut Cursor, n_tensors: u64) -> Result<Vec<(TensorInfo, u64)>> {
    cursor.subject = "the list of tensors".to_owned();
    let mut infos = Vec::with_capacity(cursor.expect(n_tensors, MIN_TENSOR)?);
    let mut names = HashSet::new();
    for i in 0..n_tensors {
        cursor.subject = format!("the description of tensor {i}");
        let name = name(cursor)?;
        if !names.insert(name) {
            return Err(Error::DuplicateTensor { name: name.to_owned() });
        }
        infos.push(tensor_info(cursor, name)?);
    }
    Ok(infos)
}

/// A tensor's description and its offset in the data section.
fn tensor_info(cursor: &mut Cursor, name: &str) -> Result<(TensorInfo, u64)> {
    cursor.subject = format!("the description of tensor `{name}`");
    let n_dims: u32 = cursor.number()?;
    if n_dims as usize > tensor::MAX_DIMS {
        let what = "more than 4 dimensions";
        return Err(Error::Shape { tensor: name.to_owned(), shape: Vec::new(), what });
    }
    let mut shape = cursor.numbers(n_dims.into())?;
    if shape.is_empty() {
        // Other writers describe a scalar by no dimensions at all.
        shape.push(1);
    }
    let id = cursor.number()?;
    let format = Format::from_id(id).ok_or_else(|| Error::UnknownFormat { tensor: name.to_owned(), id })?;
    let offset = cursor.number()?;
    Ok((TensorInfo { name: name.to_owned(), shape, format }, offset))
}
