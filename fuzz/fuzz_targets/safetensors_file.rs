//! Any bytes as a safetensors file: an error, or tensors that hold their rows.
#![no_main]

use gguf::{Bytes, SafeTensors};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    match SafeTensors::from_bytes(Bytes::from(data.to_vec())) {
        Err(error) => drop(error.to_string()),
        Ok(model) => {
            for tensor in &model.tensors {
                let mut values = vec![0.0; tensor.row_len()];
                let row = tensor.row(tensor.rows() - 1).expect("a tensor holds all its rows");
                tensor.format.dequantize(row, &mut values).expect("every dtype we load can be read");
            }
        }
    }
});
