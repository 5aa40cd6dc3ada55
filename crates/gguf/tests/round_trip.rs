//! What the writer wrote, the reader reads back, for any metadata and tensors.

use proptest::collection::{hash_map, vec};
use proptest::prelude::*;
use quarrel_gguf::metadata::{MAX_ARRAY_DEPTH, MAX_NAME_LEN};
use quarrel_gguf::{Array, Bytes, Error, Format, Metadata, ModelFile, TensorInfo, Value, Writer};

/// Strategies for the numbers exclude NaN, which does not equal itself.
fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<u8>().prop_map(Value::U8),
        any::<i8>().prop_map(Value::I8),
        any::<u16>().prop_map(Value::U16),
        any::<i16>().prop_map(Value::I16),
        any::<u32>().prop_map(Value::U32),
        any::<i32>().prop_map(Value::I32),
        any::<u64>().prop_map(Value::U64),
        any::<i64>().prop_map(Value::I64),
        any::<f32>().prop_map(Value::F32),
        any::<f64>().prop_map(Value::F64),
        any::<bool>().prop_map(Value::Bool),
        ".{0,20}".prop_map(Value::String),
        array().prop_map(Value::Array),
    ]
}

fn array() -> impl Strategy<Value = Array> {
    let flat = prop_oneof![
        vec(any::<u8>(), 0..9).prop_map(Array::U8),
        vec(any::<i8>(), 0..9).prop_map(Array::I8),
        vec(any::<u16>(), 0..9).prop_map(Array::U16),
        vec(any::<i16>(), 0..9).prop_map(Array::I16),
        vec(any::<u32>(), 0..9).prop_map(Array::U32),
        vec(any::<i32>(), 0..9).prop_map(Array::I32),
        vec(any::<u64>(), 0..9).prop_map(Array::U64),
        vec(any::<i64>(), 0..9).prop_map(Array::I64),
        vec(any::<f32>(), 0..9).prop_map(Array::F32),
        vec(any::<f64>(), 0..9).prop_map(Array::F64),
        vec(any::<bool>(), 0..9).prop_map(Array::Bool),
        vec(".{0,9}", 0..9).prop_map(Array::String),
    ];
    flat.prop_recursive(3, 12, 3, |inner| vec(inner, 0..4).prop_map(Array::Array))
}

fn metadata() -> impl Strategy<Value = Metadata> {
    let alignment = prop_oneof![Just(None), (3u32..13).prop_map(|n| Some(1u32 << n))];
    (hash_map(".{1,12}", value(), 0..8), alignment).prop_map(|(pairs, alignment)| {
        let mut metadata = Metadata::new();
        for (key, value) in pairs {
            metadata.insert(key, value);
        }
        alignment.map(|alignment| metadata.insert("general.alignment", alignment));
        metadata
    })
}

fn tensors() -> impl Strategy<Value = Vec<TensorInfo>> {
    let tensor = (0..Format::ALL.len(), vec(1u64..4, 1..=4));
    hash_map(".{1,12}", tensor, 0..6).prop_map(|tensors| {
        let describe = |(name, (format, mut shape)): (String, (usize, Vec<u64>))| {
            let format = Format::ALL[format];
            shape[0] *= format.block_len() as u64;
            TensorInfo { name, shape, format }
        };
        tensors.into_iter().map(describe).collect()
    })
}

/// Bytes that differ from tensor to tensor and from place to place.
fn data_of(info: &TensorInfo, seed: usize) -> Vec<u8> {
    (0..info.bytes().unwrap() as usize).map(|i| (i * 7 + seed * 31) as u8).collect()
}

proptest! {
    #[test]
    fn reads_back_what_was_written(metadata in metadata(), tensors in tensors(), piece in 1usize..500) {
        let mut writer = Writer::new(Vec::new(), &metadata, tensors.clone()).unwrap();
        for (i, info) in tensors.iter().enumerate() {
            for piece in data_of(info, i).chunks(piece) {
                writer.write(&info.name, piece).unwrap();
            }
        }
        let file = ModelFile::from_bytes(Bytes::from(writer.finish().unwrap())).unwrap();
        prop_assert_eq!(&file.metadata, &metadata);
        prop_assert_eq!(file.tensors.len(), tensors.len());
        for (i, (tensor, info)) in file.tensors.iter().zip(&tensors).enumerate() {
            prop_assert_eq!(&tensor.info(), info);
            prop_assert_eq!(&*tensor.data, &data_of(info, i)[..]);
            prop_assert_eq!(tensor.elements() as u64, info.shape.iter().product::<u64>());
            prop_assert_eq!(tensor.rows() * tensor.row_len(), tensor.elements());
            prop_assert_eq!(tensor.rows() * tensor.row_bytes(), tensor.data.len());
            prop_assert_eq!(tensor.row(tensor.rows()), None);
            let last = tensor.row(tensor.rows() - 1).unwrap();
            prop_assert!(tensor.data.ends_with(last));
            prop_assert_eq!(file.tensor(&info.name).unwrap().info(), info.clone());
        }
    }
}

fn info(name: &str, shape: &[u64]) -> TensorInfo {
    TensorInfo { name: name.to_owned(), shape: shape.to_vec(), format: Format::F32 }
}

#[test]
fn data_other_than_announced_is_refused() {
    let new = || Writer::new(Vec::new(), &Metadata::new(), vec![info("a", &[2]), info("b", &[1])]).unwrap();
    let is_refused = |outcome: Result<(), Error>, name: &str| match outcome.unwrap_err() {
        Error::TensorData { tensor, .. } => assert_eq!(tensor, name),
        other => panic!("{other:?}"),
    };
    let mut writer = new();
    is_refused(writer.write("b", &[0; 4]), "b");
    is_refused(writer.write("a", &[0; 9]), "a");
    writer.write("a", &[0; 5]).unwrap();
    is_refused(writer.write("a", &[0; 4]), "a");
    is_refused(writer.finish().map(drop), "a");

    let mut writer = new();
    writer.write("a", &[0; 8]).unwrap();
    is_refused(writer.write("a", &[]), "a");
    writer.write("b", &[0; 4]).unwrap();
    is_refused(writer.write("b", &[0; 4]), "b");
    writer.finish().unwrap();
}

#[test]
fn what_the_reader_would_refuse_cannot_be_written() {
    let error = |key: &str, value: Value, tensors: Vec<TensorInfo>| {
        let mut metadata = Metadata::new();
        metadata.insert(key, value);
        Writer::new(Vec::new(), &metadata, tensors).unwrap_err()
    };
    let long = "x".repeat(MAX_NAME_LEN + 1);
    for name in ["", &long] {
        assert!(matches!(error(name, 1u8.into(), vec![]), Error::NameLength { .. }));
        assert!(matches!(error("k", 1u8.into(), vec![info(name, &[1])]), Error::NameLength { .. }));
    }
    let twice = vec![info("t", &[1]), info("t", &[1])];
    assert!(matches!(error("k", 1u8.into(), twice), Error::DuplicateTensor { .. }));
    for shape in [&[][..], &[0], &[1, 1, 1, 1, 1], &[1 << 62], &[1 << 32, 1 << 32]] {
        assert!(matches!(error("k", 1u8.into(), vec![info("t", shape)]), Error::Shape { .. }));
    }
    let whole_range = vec![info("a", &[1 << 60]); 4].into_iter().enumerate();
    let whole_range = whole_range.map(|(i, a)| TensorInfo { name: format!("{i}"), ..a }).collect();
    assert!(matches!(error("k", 1u8.into(), whole_range), Error::Shape { .. }));
    assert!(matches!(error("general.alignment", 33u32.into(), vec![]), Error::Alignment { found: 33 }));
    assert!(matches!(error("general.alignment", 32u64.into(), vec![]), Error::WrongType { .. }));

    let nested = |depth| (1..depth).fold(Array::U8(vec![]), |array, _| Array::Array(vec![array]));
    let too_deep = error("k", nested(MAX_ARRAY_DEPTH + 1).into(), vec![]);
    assert!(matches!(too_deep, Error::TooDeep { .. }));
    let mut metadata = Metadata::new();
    metadata.insert("k", nested(MAX_ARRAY_DEPTH));
    let file = Writer::new(Vec::new(), &metadata, vec![]).unwrap().finish().unwrap();
    assert_eq!(ModelFile::from_bytes(Bytes::from(file)).unwrap().metadata, metadata);
}

#[test]
fn a_failing_destination_is_an_error() {
    let mut small = [0; 40];
    let outcome = Writer::new(&mut small[..], &Metadata::new(), vec![info("t", &[1])]);
    assert!(matches!(outcome.unwrap_err(), Error::Output(_)));
}

#[test]
fn removing_a_key_leaves_the_others_in_place() {
    let mut metadata = Metadata::new();
    for (i, key) in ["a", "b", "c", "d"].into_iter().enumerate() {
        metadata.insert(key, i as u32);
    }
    assert_eq!(metadata.remove("b"), Some(Value::U32(1)));
    assert_eq!(metadata.remove("b"), None);
    for (key, expected) in [("a", Some(0)), ("b", None), ("c", Some(2)), ("d", Some(3))] {
        assert_eq!(metadata.u32(key).unwrap(), expected, "{key}");
    }
    assert_eq!(metadata.insert("c", 9u32), Some(Value::U32(2)));
    assert_eq!(metadata.iter().map(|(key, _)| key).collect::<Vec<_>>(), ["a", "c", "d"]);
}
