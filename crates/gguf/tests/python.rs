//! A file by PyPI `gguf` reads as its own reader reads it, and written again
//! by us is the same file. `goldens/python_gguf.py` makes both.

use quarrel_gguf::{Array, Bytes, Metadata, ModelFile, Value, Writer};

const FILE: &[u8] = include_bytes!("goldens/python_gguf.bin");
const READ: &str = include_str!("goldens/python_gguf.txt");

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn text(text: &str) -> String {
    format!("x{}", hex(text.as_bytes()))
}

fn show_all<T>(items: &[T], show: impl Fn(&T) -> String) -> String {
    items.iter().map(show).collect::<Vec<_>>().join(" ")
}

/// Type name and values, nested arrays flattened, as the script prints them.
fn show_array(array: &Array) -> (String, String) {
    let (element_type, values) = match array {
        Array::U8(v) => ("UINT8", show_all(v, u8::to_string)),
        Array::I8(v) => ("INT8", show_all(v, i8::to_string)),
        Array::U16(v) => ("UINT16", show_all(v, u16::to_string)),
        Array::I16(v) => ("INT16", show_all(v, i16::to_string)),
        Array::U32(v) => ("UINT32", show_all(v, u32::to_string)),
        Array::I32(v) => ("INT32", show_all(v, i32::to_string)),
        Array::U64(v) => ("UINT64", show_all(v, u64::to_string)),
        Array::I64(v) => ("INT64", show_all(v, i64::to_string)),
        Array::F32(v) => ("FLOAT32", show_all(v, |x| format!("{:08x}", x.to_bits()))),
        Array::F64(v) => ("FLOAT64", show_all(v, |x| format!("{:016x}", x.to_bits()))),
        Array::Bool(v) => ("BOOL", show_all(v, |&x| u8::from(x).to_string())),
        Array::String(v) => ("STRING", show_all(v, |x| text(x))),
        Array::Array(v) => {
            let types = show_array(&v[0]).0;
            return (format!("ARRAY,{types}"), show_all(v, |inner| show_array(inner).1));
        }
    };
    (format!("ARRAY,{element_type}"), values)
}

fn show_value(value: &Value) -> (String, String) {
    let (value_type, shown) = match value {
        Value::U8(x) => ("UINT8", x.to_string()),
        Value::I8(x) => ("INT8", x.to_string()),
        Value::U16(x) => ("UINT16", x.to_string()),
        Value::I16(x) => ("INT16", x.to_string()),
        Value::U32(x) => ("UINT32", x.to_string()),
        Value::I32(x) => ("INT32", x.to_string()),
        Value::U64(x) => ("UINT64", x.to_string()),
        Value::I64(x) => ("INT64", x.to_string()),
        Value::F32(x) => ("FLOAT32", format!("{:08x}", x.to_bits())),
        Value::F64(x) => ("FLOAT64", format!("{:016x}", x.to_bits())),
        Value::Bool(x) => ("BOOL", u8::from(*x).to_string()),
        Value::String(x) => ("STRING", text(x)),
        Value::Array(array) => return show_array(array),
    };
    (value_type.to_owned(), shown)
}

fn show_metadata(metadata: &Metadata) -> Vec<String> {
    let line = |(key, value)| {
        let (types, values) = show_value(value);
        format!("{key} {types} {values}")
    };
    metadata.iter().map(line).collect()
}

#[test]
fn reads_what_pythons_reader_reads() {
    let file = ModelFile::from_bytes(Bytes::from(FILE.to_vec())).unwrap();
    let mut lines = show_metadata(&file.metadata);
    for tensor in &file.tensors {
        let shape = tensor.shape.iter().map(u64::to_string).collect::<Vec<_>>().join("x");
        lines.push(format!("{} {} {shape} {}", tensor.name, tensor.format, hex(&tensor.data)));
    }
    assert_eq!(lines, READ.lines().collect::<Vec<_>>());
}

#[test]
fn written_again_it_is_the_same_file() {
    let file = ModelFile::from_bytes(Bytes::from(FILE.to_vec())).unwrap();
    let infos = file.tensors.iter().map(|tensor| tensor.info()).collect();
    let mut writer = Writer::new(Vec::new(), &file.metadata, infos).unwrap();
    for tensor in &file.tensors {
        writer.write(&tensor.name, &tensor.data).unwrap();
    }
    assert_eq!(writer.finish().unwrap(), FILE);
}
