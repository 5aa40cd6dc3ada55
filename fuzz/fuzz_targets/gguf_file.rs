//! Any bytes as a GGUF file: an error, or a file all of which can be looked at
//! and written again.
#![no_main]

use gguf::{Bytes, Error, Metadata, ModelFile, Tensor, Writer};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    match ModelFile::from_bytes(Bytes::from(data.to_vec())) {
        Err(error) => drop(error.to_string()),
        Ok(file) => {
            touch_metadata(&file.metadata);
            file.tensors.iter().for_each(touch_tensor);
            write_again(&file);
        }
    }
});

/// Every getter on every value: none may panic, whatever the type.
fn touch_metadata(metadata: &Metadata) {
    for (key, value) in metadata.iter() {
        drop(value.type_name());
        let describe = |e: Error| drop(e.to_string());
        metadata.u32(key).map(drop).unwrap_or_else(describe);
        metadata.u64(key).map(drop).unwrap_or_else(describe);
        metadata.f32(key).map(drop).unwrap_or_else(describe);
        metadata.bool(key).map(drop).unwrap_or_else(describe);
        metadata.str(key).map(drop).unwrap_or_else(describe);
        metadata.strings(key).map(drop).unwrap_or_else(describe);
        metadata.f32s(key).map(drop).unwrap_or_else(describe);
        metadata.i64s(key).map(drop).unwrap_or_else(describe);
    }
}

/// Dequantises the first and the last row.
fn touch_tensor(tensor: &Tensor) {
    assert_eq!(tensor.rows() * tensor.row_len(), tensor.elements());
    assert_eq!(tensor.elements() as u64, tensor.shape.iter().product::<u64>());
    let mut values = vec![0.0; tensor.row_len()];
    for row in [0, tensor.rows() - 1] {
        let row = tensor.row(row).expect("a tensor holds all its rows");
        match tensor.format.dequantize(row, &mut values) {
            Ok(()) | Err(Error::UnsupportedFormat { .. }) => {}
            Err(other) => panic!("a whole row cannot be dequantised: {other}"),
        }
    }
    assert!(tensor.row(tensor.rows()).is_none());
}

/// A file written from what was read is read as the same. Compared are the
/// bytes of a second writing, since values may be NaN.
fn write_again(file: &ModelFile) {
    let once = write(file);
    let again = ModelFile::from_bytes(Bytes::from(once.clone())).expect("what we write is valid");
    assert!(write(&again) == once);
}

fn write(file: &ModelFile) -> Vec<u8> {
    let infos = file.tensors.iter().map(Tensor::info).collect();
    let mut writer = Writer::new(Vec::new(), &file.metadata, infos).expect("what was read can be written");
    for tensor in &file.tensors {
        writer.write(&tensor.name, &tensor.data).expect("the data has its described size");
    }
    writer.finish().expect("all tensors were written")
}
