//! Hostile GGUF files: each gives a typed error; none panics, aborts, or makes
//! the reader allocate what the file cannot fill.
//!
//! Where the other lines of the project's list of hostile files are tested:
//! split shards in `split.rs`, allocation in `allocation.rs`, safetensors in
//! `safetensors.rs`; hyper-parameters, missing or extra tensors and shapes
//! against metadata in crate `model`; token texts, merges, duplicate tokens and
//! token lengths in crate `tokenizer`.

mod common;

use std::io::Write;

use common::{ARRAY, BOOL, F32, Raw, STRING, U8, U32, U64};
use proptest::prelude::*;
use quarrel_gguf::format::Support;
use quarrel_gguf::metadata::{MAX_ARRAY_DEPTH, MAX_NAME_LEN};
use quarrel_gguf::{Error, Format, ModelFile};

/// Counts beyond what any file holds, and where products of them wrap.
const HUGE: [u64; 7] = [1 << 31, 1 << 32, 1 << 40, 1 << 61, 1 << 62, 1 << 63, u64::MAX];

macro_rules! assert_error {
    ($raw:expr, $pattern:pat $(if $guard:expr)?) => {
        match $raw.error() {
            $pattern $(if $guard)? => {}
            other => panic!("expected {}, got {other:?}: {other}", stringify!($pattern)),
        }
    };
}

/// Every kind of value, two tensors; the last byte belongs to the last tensor.
fn valid() -> Raw {
    Raw::header(2, 5)
        .key("general.architecture", STRING)
        .str("llama")
        .key("general.alignment", U32)
        .u32(32)
        .key("flag", BOOL)
        .u8(1)
        .key("tokens", ARRAY)
        .u32(STRING)
        .u64(2)
        .str("a")
        .str("ü")
        .key("nested", ARRAY)
        .u32(ARRAY)
        .u64(1)
        .u32(U8)
        .u64(3)
        .bytes(&[1, 2, 3])
        .tensor("first", &[4, 2], Format::F32 as u32, 0)
        .tensor("second", &[32, 16], Format::Q4_0 as u32, 32)
        .data(32 + 16 * 18)
}

#[test]
fn the_valid_file_is_valid() {
    let file = valid().parse().unwrap();
    assert_eq!(file.metadata.strings("tokens").unwrap().unwrap(), ["a", "ü"]);
    assert_eq!(file.tensor("second").unwrap().data.len(), 16 * 18);
}

#[test]
fn truncated_at_every_byte() {
    let whole = valid().0;
    for len in 0..whole.len() {
        let cut = Raw(whole[..len].to_vec());
        assert_error!(cut, Error::Truncated { .. } | Error::OutOfFile { .. });
    }
}

#[test]
fn wrong_magic_version_and_byte_order() {
    assert_error!(Raw::default().bytes(b"GGMLxxxx"), Error::NotGguf { found } if &found == b"GGML");
    for version in [0, 1, 4, 0xffff, u32::MAX] {
        let raw = Raw::default().bytes(b"GGUF").u32(version).u64(0).u64(0);
        assert_error!(raw, Error::UnsupportedVersion { version: found } if found == version);
    }
    let big_endian = Raw::default().bytes(b"GGUF").bytes(&3u32.to_be_bytes()).u64(0).u64(0);
    assert_error!(big_endian, Error::BigEndian);
}

#[test]
fn version_2_is_read_as_version_3() {
    let mut raw = valid();
    raw.0[4] = 2;
    assert_eq!(raw.parse().unwrap().tensors.len(), 2);
}

#[test]
fn counts_beyond_the_file() {
    for count in HUGE {
        assert_error!(Raw::header(count, 0), Error::Truncated { .. });
        assert_error!(Raw::header(0, count), Error::Truncated { .. });
        let key_len = Raw::header(0, 1).u64(count).bytes(&[b'x'; 64]);
        assert_error!(key_len, Error::Truncated { .. });
        let string_len = Raw::header(0, 1).key("k", STRING).u64(count).bytes(&[b'x'; 64]);
        assert_error!(string_len, Error::Truncated { subject, .. } if subject.contains("`k`"));
        let name_len = Raw::header(1, 0).u64(count).bytes(&[b'x'; 64]);
        assert_error!(name_len, Error::Truncated { .. });
        for element_type in 0..=12 {
            let array = Raw::header(0, 1).key("k", ARRAY).u32(element_type).u64(count).bytes(&[0; 64]);
            assert_error!(array, Error::Truncated { subject, .. } if subject.contains("`k`"));
        }
    }
    let n_dims = Raw::header(1, 0).str("t").u32(u32::MAX).bytes(&[0; 64]);
    assert_error!(n_dims, Error::Shape { tensor, .. } if tensor == "t");
}

#[test]
fn dimensions_of_zero_too_many_or_wrapping() {
    let f32 = Format::F32 as u32;
    let shape_error = |shape: &[u64], format: Format| {
        let raw = Raw::header(1, 0).tensor("t", shape, format as u32, 0).data(64);
        assert_error!(raw, Error::Shape { tensor, .. } if tensor == "t");
    };
    shape_error(&[0], Format::F32);
    shape_error(&[4, 0], Format::F32);
    shape_error(&[0, 4], Format::Q4_0);
    shape_error(&[1; 5], Format::F32);
    shape_error(&[31], Format::Q4_0);
    shape_error(&[16, 2], Format::Q4_0);
    for dim in [1 << 32, 1 << 62, 1 << 63, u64::MAX] {
        shape_error(&[dim, dim], Format::F32);
    }
    // The product is 2^64, which wraps to 0; and 2^63 elements of 4 bytes.
    shape_error(&[1 << 16; 4], Format::F32);
    shape_error(&[1 << 32, 1 << 31], Format::F32);
    shape_error(&[1 << 63], Format::I8);
    assert_error!(Raw::header(1, 0).tensor("t", &[1 << 60], f32, 0).data(64), Error::OutOfFile { .. });
}

#[test]
fn a_scalar_without_dimensions_has_one_element() {
    let file = Raw::header(1, 0).tensor("t", &[], Format::F32 as u32, 0).data(4).parse().unwrap();
    assert_eq!(file.tensor("t").unwrap().shape, [1]);
}

#[test]
fn tensors_that_leave_the_file() {
    let f32 = Format::F32 as u32;
    for offset in [32, 1 << 32, 1 << 63, u64::MAX - 31] {
        let raw = Raw::header(1, 0).tensor("t", &[8], f32, offset).data(32);
        assert_error!(raw, Error::OutOfFile { tensor, .. } if tensor == "t");
    }
    assert_error!(Raw::header(1, 0).tensor("t", &[9], f32, 0).data(32), Error::OutOfFile { .. });
    // The file ends before the data section would start.
    assert_error!(Raw::header(1, 0).tensor("t", &[1], f32, 0), Error::OutOfFile { available: 0, .. });
}

#[test]
fn tensors_that_overlap_or_are_misaligned() {
    let f32 = Format::F32 as u32;
    let two = |first, second| {
        Raw::header(2, 0).tensor("a", &[16], f32, first).tensor("b", &[16], f32, second).data(128)
    };
    for (a, b) in [(0, 0), (0, 32), (32, 0)] {
        assert_error!(two(a, b), Error::Overlap { .. });
    }
    two(64, 0).parse().expect("tensors may be in any order");
    assert_error!(two(0, 65), Error::Misaligned { tensor, offset: 65, alignment: 32 } if tensor == "b");
}

#[test]
fn alignment_of_no_use() {
    let with = |raw: Raw| raw.tensor("t", &[1], Format::F32 as u32, 0).data(4);
    for found in [0, 1, 2, 4, 31, 33, 48, 1 << 21, 1 << 31, u32::MAX] {
        let raw = with(Raw::header(1, 1).key("general.alignment", U32).u32(found));
        assert_error!(raw, Error::Alignment { found: other } if other == found);
    }
    let wide = Raw::header(1, 1).key("general.alignment", U64).u64(32);
    assert_error!(with(wide), Error::WrongType { key, .. } if key == "general.alignment");
    let text = Raw::header(1, 1).key("general.alignment", STRING).str("32");
    assert_error!(with(text), Error::WrongType { .. });
    let mib = with(Raw::header(1, 1).key("general.alignment", U32).u32(1 << 20));
    assert_error!(mib, Error::OutOfFile { available: 0, .. });
}

fn nested(depth: usize) -> Raw {
    let raw = Raw::header(0, 1).key("k", ARRAY);
    (1..depth).fold(raw, |raw, _| raw.u32(ARRAY).u64(1)).u32(U8).u64(0)
}

#[test]
fn arrays_nested_too_deep() {
    nested(MAX_ARRAY_DEPTH).parse().unwrap();
    for depth in [MAX_ARRAY_DEPTH + 1, 10_000, 1_000_000] {
        assert_error!(nested(depth), Error::TooDeep { subject, .. } if subject.contains("`k`"));
    }
}

#[test]
fn text_that_is_not_utf8() {
    for bad in [&b"\xff"[..], b"a\xc3", b"\xed\xa0\x80", b"\xc0\x80"] {
        assert_error!(Raw::header(0, 1).str(bad).u32(U8).u8(0), Error::InvalidUtf8 { .. });
        let value = Raw::header(0, 1).key("k", STRING).str(bad);
        assert_error!(value, Error::InvalidUtf8 { subject, .. } if subject.contains("`k`"));
        let element = Raw::header(0, 1).key("k", ARRAY).u32(STRING).u64(2).str("ok").str(bad);
        assert_error!(element, Error::InvalidUtf8 { .. });
        let name = Raw::header(1, 0).str(bad).u32(1).u64(1).u32(0).u64(0).data(4);
        assert_error!(name, Error::InvalidUtf8 { .. });
    }
}

#[test]
fn names_empty_long_or_twice() {
    assert_error!(Raw::header(0, 1).key("", U8).u8(0).u8(0), Error::NameLength { len: 0, .. });
    let f32 = Format::F32 as u32;
    assert_error!(Raw::header(1, 0).tensor("", &[1], f32, 0).data(4), Error::NameLength { len: 0, .. });
    let long = "x".repeat(MAX_NAME_LEN + 1);
    assert_error!(Raw::header(0, 1).key(&long, U8).u8(0), Error::NameLength { .. });
    assert_error!(Raw::header(1, 0).tensor(&long, &[1], f32, 0).data(4), Error::NameLength { .. });
    let longest = &long[1..];
    Raw::header(1, 1).key(longest, U8).u8(0).tensor(longest, &[1], f32, 0).data(4).parse().unwrap();

    let keys = Raw::header(0, 2).key("k", U8).u8(0).key("k", U32).u32(1);
    assert_error!(keys, Error::DuplicateKey { key } if key == "k");
    let tensors = Raw::header(2, 0).tensor("t", &[8], f32, 0).tensor("t", &[8], f32, 32).data(64);
    assert_error!(tensors, Error::DuplicateTensor { name } if name == "t");
}

#[test]
fn unknown_types() {
    for id in [13, 255, u32::MAX] {
        assert_error!(Raw::header(0, 1).key("k", id).bytes(&[0; 32]), Error::Malformed { .. });
        let array = Raw::header(0, 1).key("k", ARRAY).u32(id).u64(1).bytes(&[0; 32]);
        assert_error!(array, Error::Malformed { .. });
    }
    assert_error!(Raw::header(0, 1).key("k", BOOL).u8(2), Error::Malformed { .. });
    let bools = Raw::header(0, 1).key("k", ARRAY).u32(BOOL).u64(3).bytes(&[0, 1, 255]);
    assert_error!(bools, Error::Malformed { what, .. } if what.contains("255"));
    for id in [4, 5, 31, 1000, u32::MAX] {
        let raw = Raw::header(1, 0).tensor("t", &[256], id, 0).data(4096);
        assert_error!(raw, Error::UnknownFormat { tensor, id: found } if tensor == "t" && found == id);
    }
}

#[test]
fn every_format_of_the_table_can_be_listed() {
    for &format in Format::ALL {
        let raw = Raw::header(1, 0).tensor("t", &[512, 3], format as u32, 0).data(512 * 8 * 3);
        let file = raw.parse().unwrap();
        let tensor = file.tensor("t").unwrap();
        assert_eq!((tensor.format, tensor.elements(), tensor.rows()), (format, 1536, 3));
        assert_eq!(tensor.data.len(), 1536 / format.block_len() * format.block_bytes());
    }
    assert!(Format::ALL.iter().any(|format| format.support() == Support::Listed));
}

#[test]
fn values_of_the_wrong_type() {
    let scores = Raw::header(0, 2).key("scores", ARRAY).u32(U8).u64(2).bytes(&[1, 2]).key("n", F32).u32(0);
    let metadata = scores.parse().unwrap().metadata;
    let is_wrong = |e: Error, name: &str| matches!(e, Error::WrongType { key, .. } if key == name);
    assert!(is_wrong(metadata.f32s("scores").unwrap_err(), "scores"));
    assert!(is_wrong(metadata.strings("scores").unwrap_err(), "scores"));
    assert!(is_wrong(metadata.u32("n").unwrap_err(), "n"));
}

#[test]
fn a_file_that_shrinks_while_mapped() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.gguf");
    let whole = valid().0;
    std::fs::write(&path, &whole).unwrap();
    let file = ModelFile::open(&path).unwrap();
    file.check_length().unwrap();

    let disk = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
    (&disk).write_all(&[0; 100]).unwrap();
    file.check_length().expect("growing does no harm");
    disk.set_len(whole.len() as u64 - 1).unwrap();
    let (was, now) = (whole.len() as u64, whole.len() as u64 - 1);
    match file.check_length().unwrap_err() {
        Error::Shrunk { was: w, now: n, .. } => assert_eq!((w, n), (was, now)),
        other => panic!("{other:?}"),
    }
}

#[test]
#[cfg(unix)]
fn a_file_replaced_while_mapped_stays_good() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.gguf");
    std::fs::write(&path, valid().0).unwrap();
    let file = ModelFile::open(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, b"short").unwrap();
    file.check_length().unwrap();
    assert_eq!(file.tensor("first").unwrap().data.len(), 32);
}

#[test]
fn paths_that_are_no_model() {
    let directory = tempfile::tempdir().unwrap();
    assert!(matches!(ModelFile::open(directory.path()).unwrap_err(), Error::Io { .. }));
    let absent = directory.path().join("absent.gguf");
    assert!(matches!(ModelFile::open(&absent).unwrap_err(), Error::Io { path, .. } if path == absent));
    let empty = directory.path().join("empty.gguf");
    std::fs::write(&empty, b"").unwrap();
    let error = ModelFile::open(&empty).unwrap_err();
    assert!(matches!(error.root(), Error::Truncated { .. }), "{error}");
    assert!(error.to_string().contains("empty.gguf"), "{error}");
}

proptest! {
    /// Any few bytes changed: an error, or a file whose tensors are all there.
    #[test]
    fn damage_anywhere(changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let mut raw = valid();
        for (place, byte) in changes {
            let place = place.index(raw.0.len());
            raw.0[place] = byte;
        }
        if let Ok(file) = raw.parse() {
            for tensor in &file.tensors {
                prop_assert_eq!(tensor.info().bytes().unwrap(), tensor.data.len() as u64);
                prop_assert!(tensor.row(tensor.rows() - 1).is_some());
            }
        }
    }
}
