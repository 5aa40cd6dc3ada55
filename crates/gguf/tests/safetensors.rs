//! Safetensors: one file, shards, and headers that lie.

mod common;

use std::path::Path;

use common::Raw;
use quarrel_gguf::{Bytes, Error, Format, SafeTensors};

fn file(header: &str, data: &[u8]) -> Vec<u8> {
    Raw::default().str(header).bytes(data).0
}

fn parse(header: &str, data: &[u8]) -> Result<SafeTensors, Error> {
    SafeTensors::from_bytes(Bytes::from(file(header, data)))
}

/// One tensor's entry.
fn entry(name: &str, dtype: &str, shape: &str, from: u64, to: u64) -> String {
    format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{from},{to}]}}"#)
}

macro_rules! assert_error {
    ($result:expr, $pattern:pat $(if $guard:expr)?) => {
        match $result.expect_err("must be refused").root() {
            $pattern $(if $guard)? => {}
            other => panic!("expected {}, got {other:?}", stringify!($pattern)),
        }
    };
}

#[test]
fn tensors_of_every_dtype() {
    let header = format!(
        r#"{{"__metadata__":{{"format":"pt"}},{},{},{}}}   "#,
        entry("b", "BF16", "[2,3]", 4, 16),
        entry("a", "F32", "[]", 0, 4),
        entry("c", "F16", "[1,1,2]", 16, 20),
    );
    let data: Vec<u8> = (0..20).collect();
    let model = parse(&header, &data).unwrap();
    let names: Vec<_> = model.tensors.iter().map(|tensor| &*tensor.name).collect();
    assert_eq!(names, ["b", "a", "c"]);
    let b = model.tensor("b").unwrap();
    assert_eq!((b.format, &*b.shape, &*b.data), (Format::BF16, &[3, 2][..], &data[4..16]));
    assert_eq!(b.row(1).unwrap(), &data[10..16]);
    let a = model.tensor("a").unwrap();
    assert_eq!((a.format, &*a.shape, &*a.data), (Format::F32, &[1][..], &data[..4]));
    assert_eq!(model.tensor("c").unwrap().shape, [2, 1, 1]);
    assert!(model.tensor("d").is_none());
}

/// `goldens/python_safetensors.py` writes the numbers -5.5 to 5.5.
#[test]
fn a_file_by_the_reference_implementation() {
    let bytes = include_bytes!("goldens/python_safetensors.bin");
    let model = SafeTensors::from_bytes(Bytes::from(bytes.to_vec())).unwrap();
    let check = |name: &str, format: Format, shape: &[u64], expected: &[f32]| {
        let tensor = model.tensor(name).unwrap();
        assert_eq!((tensor.format, &*tensor.shape), (format, shape), "{name}");
        let mut values = vec![0.0; tensor.elements()];
        format.dequantize(&tensor.data, &mut values).unwrap();
        assert_eq!(values, expected, "{name}");
    };
    let numbers: Vec<f32> = (0..12).map(|i| i as f32 - 5.5).collect();
    check("model.embed_tokens.weight", Format::F32, &[3, 4], &numbers);
    check("model.norm.weight", Format::F16, &[3], &numbers[..3]);
    check("lm_head.weight", Format::BF16, &[2, 3, 2], &numbers);
    check("scale", Format::F32, &[1], &[0.25]);
    assert_eq!(model.tensors.len(), 4);
}

#[test]
fn header_lengths_that_lie() {
    for len in [0, 3, 7] {
        assert_error!(SafeTensors::from_bytes(Bytes::from(vec![0; len])), Error::Truncated { .. });
    }
    for len in [101_000_000, 1 << 32, 1 << 63, u64::MAX] {
        let raw = Raw::default().u64(len).bytes(b"{}");
        assert_error!(SafeTensors::from_bytes(Bytes::from(raw.0)), Error::SafeTensors { .. });
    }
    let raw = Raw::default().u64(3).bytes(b"{}");
    assert_error!(SafeTensors::from_bytes(Bytes::from(raw.0)), Error::Truncated { .. });
}

#[test]
fn truncated_at_every_byte() {
    let header = format!("{{{},{}}}", entry("a", "F32", "[2]", 0, 8), entry("b", "F16", "[2]", 8, 12));
    let whole = file(&header, &[0; 12]);
    SafeTensors::from_bytes(Bytes::from(whole.clone())).unwrap();
    for len in 0..whole.len() {
        let cut = SafeTensors::from_bytes(Bytes::from(whole[..len].to_vec()));
        assert_error!(cut, Error::Truncated { .. } | Error::OutOfFile { .. });
    }
}

#[test]
fn headers_that_are_no_header() {
    let deep = format!("{{\"t\":{}", "[".repeat(100_000));
    let deep_metadata = format!("{{\"__metadata__\":{}", "[".repeat(100_000));
    let long = format!(r#"{{"t":"{}"}}"#, "x".repeat(100_000));
    let texts = [
        "",
        "{",
        "[]",
        "null",
        "{}x",
        r#"{"t":1}"#,
        r#"{"t":{"dtype":"F32"}}"#,
        &deep,
        &deep_metadata,
        &long,
    ];
    for text in texts {
        assert_error!(parse(text, &[]), Error::SafeTensors { what } if what.len() < 1000);
    }
    let bad_utf8 = Raw::default().str(b"{\"\xff\":1}").0;
    assert_error!(SafeTensors::from_bytes(Bytes::from(bad_utf8)), Error::SafeTensors { .. });
    for number in ["-1", "1.5", "1e3", "18446744073709551616", "\"1\""] {
        let header = format!("{{{}}}", entry("t", "F32", &format!("[{number}]"), 0, 4));
        assert_error!(parse(&header, &[0; 4]), Error::SafeTensors { .. });
    }
}

#[test]
fn entries_that_lie() {
    let one = |dtype: &str, shape: &str, from: u64, to: u64| {
        parse(&format!("{{{}}}", entry("t", dtype, shape, from, to)), &[0; 8])
    };
    one("F32", "[2]", 0, 8).unwrap();
    assert_error!(one("F32", "[2]", 8, 16), Error::OutOfFile { tensor, .. } if tensor == "t");
    assert_error!(one("F32", "[2]", 8, 0), Error::OutOfFile { .. });
    assert_error!(one("F32", "[2]", u64::MAX - 7, u64::MAX), Error::OutOfFile { .. });
    assert_error!(one("F32", "[3]", 0, 8), Error::TensorData { .. });
    assert_error!(one("F32", "[0]", 0, 0), Error::Shape { .. });
    assert_error!(one("F32", "[1,1,1,1,2]", 0, 8), Error::Shape { .. });
    assert_error!(one("F32", "[4294967296,4294967296]", 0, 8), Error::Shape { .. });
    assert_error!(one("F32", "[4611686018427387904]", 0, 8), Error::Shape { .. });
    assert_error!(one("F32", "[1]", 0, 4), Error::SafeTensors { what } if what.contains("4 bytes"));
    for dtype in ["I64", "U8", "BOOL", "F8_E4M3", "f32", ""] {
        let is_it = |found: &str| found == dtype;
        assert_error!(one(dtype, "[2]", 0, 8), Error::UnsupportedDtype { dtype, .. } if is_it(dtype));
    }
}

#[test]
fn tensors_that_overlap_or_repeat() {
    let two = |a: String, b: String| parse(&format!("{{{a},{b}}}"), &[0; 16]);
    let overlap = two(entry("a", "F32", "[2]", 0, 8), entry("b", "F32", "[3]", 4, 16));
    assert_error!(overlap, Error::Overlap { first, second } if first == "a" && second == "b");
    let twice = two(entry("a", "F32", "[2]", 0, 8), entry("a", "F32", "[2]", 8, 16));
    assert_error!(twice, Error::DuplicateTensor { name } if name == "a");
    let empty = two(entry("a", "F32", "[2]", 0, 8), entry("", "F32", "[2]", 8, 16));
    assert_error!(empty, Error::NameLength { len: 0, .. });
}

fn write_shards(directory: &Path) {
    for (name, tensor) in [("x-1.safetensors", "a"), ("x-2.safetensors", "b")] {
        let header = format!("{{{}}}", entry(tensor, "F32", "[1]", 0, 4));
        std::fs::write(directory.join(name), file(&header, tensor.repeat(4).as_bytes())).unwrap();
    }
}

fn write_index(directory: &Path, weight_map: &str) {
    let index = format!(r#"{{"metadata":{{"total_size":8}},"weight_map":{weight_map}}}"#);
    std::fs::write(directory.join("model.safetensors.index.json"), index).unwrap();
}

#[test]
fn a_directory_with_shards_or_one_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    write_shards(path);
    write_index(path, r#"{"a":"x-1.safetensors","b":"x-2.safetensors"}"#);
    let model = SafeTensors::open(path).unwrap();
    assert_eq!(model.tensors.len(), 2);
    assert_eq!(&*model.tensor("b").unwrap().data, b"bbbb");
    model.check_length().unwrap();

    let single = tempfile::tempdir().unwrap();
    std::fs::copy(path.join("x-1.safetensors"), single.path().join("model.safetensors")).unwrap();
    let model = SafeTensors::open(single.path()).unwrap();
    assert_eq!(model.tensors.len(), 1);
    std::fs::write(single.path().join("model.safetensors"), b"short").unwrap();
    assert_error!(model.check_length(), Error::Shrunk { .. });
    assert!(matches!(SafeTensors::open(&path.join("absent")).unwrap_err(), Error::Io { .. }));
}

#[test]
fn indexes_that_lie() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    write_shards(path);
    let open = |weight_map: &str| {
        write_index(path, weight_map);
        SafeTensors::open(path)
    };
    assert_error!(open(r#"{"a":"x-3.safetensors"}"#), Error::MissingShard { path } if path.ends_with("x-3.safetensors"));
    assert_error!(open(r#"{"c":"x-1.safetensors"}"#), Error::SafeTensors { what } if what.contains("`c`"));
    assert_error!(open("[]"), Error::SafeTensors { .. });
    for name in [
        "../x-1.safetensors",
        "/etc/passwd",
        "a/b",
        "",
        ".",
        "..",
        "x\\\\y",
        "./x-1.safetensors",
        "x-1.safetensors/",
    ] {
        let index = format!(r#"{{"a":"{name}"}}"#);
        assert_error!(open(&index), Error::SafeTensors { what } if what.contains("plain file name"));
    }
    let both = format!("{{{},{}}}", entry("a", "F32", "[1]", 0, 4), entry("b", "F32", "[1]", 4, 8));
    std::fs::write(path.join("x-2.safetensors"), file(&both, &[0; 8])).unwrap();
    let twice = open(r#"{"a":"x-1.safetensors","b":"x-2.safetensors"}"#);
    assert_error!(twice, Error::DuplicateTensor { name } if name == "a");
}
