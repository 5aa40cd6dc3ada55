//! What the writer wrote, the reader reads back, for any metadata and tensors.

use proptest::collection::{hash_map, vec};
use proptest::prelude::*;
use quarrel_gguf::{Array, Bytes, Format, Metadata, ModelFile, TensorInfo, Value, Writer};

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
