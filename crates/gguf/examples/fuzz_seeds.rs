//! Writes the small valid files that fuzzing starts from to `fuzz/seeds`:
//! `cargo run -p quarrel-gguf --example fuzz_seeds`

use std::path::Path;

use quarrel_gguf::{Array, Format, Metadata, TensorInfo, Value, Writer};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds");
    let (gguf, safetensors) = (seeds.join("gguf_file"), seeds.join("safetensors_file"));
    std::fs::create_dir_all(&gguf)?;
    std::fs::create_dir_all(&safetensors)?;
    std::fs::write(gguf.join("empty.bin"), file(&Metadata::new(), &[])?)?;
    std::fs::write(gguf.join("scalars.bin"), file(&scalars(), &[])?)?;
    std::fs::write(gguf.join("arrays.bin"), file(&arrays(), &[])?)?;
    std::fs::write(gguf.join("tokens.bin"), file(&tokens(), &[])?)?;
    for &format in Format::ALL {
        let tensors = [tensor("t", &[format.block_len() as u64, 2], format)];
        let name = format!("{}.bin", format.name().to_lowercase());
        std::fs::write(gguf.join(name), file(&Metadata::new(), &tensors)?)?;
    }
    let mut aligned = Metadata::new();
    aligned.insert("general.alignment", 8u32);
    let tensors = [tensor("a", &[3], Format::F16), tensor("b", &[2, 1, 1, 2], Format::F32)];
    std::fs::write(gguf.join("aligned.bin"), file(&aligned, &tensors)?)?;
    let header = br#"{"__metadata__":{"a":"b"},"w":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]},"b":{"dtype":"BF16","shape":[],"data_offsets":[8,10]}}"#;
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header);
    bytes.extend([0; 10]);
    std::fs::write(safetensors.join("two.bin"), bytes)?;
    Ok(())
}

fn tensor(name: &str, shape: &[u64], format: Format) -> TensorInfo {
    TensorInfo { name: name.to_owned(), shape: shape.to_vec(), format }
}

fn file(metadata: &Metadata, tensors: &[TensorInfo]) -> quarrel_gguf::Result<Vec<u8>> {
    let mut writer = Writer::new(Vec::new(), metadata, tensors.to_vec())?;
    for info in tensors {
        let data: Vec<u8> = (0..info.bytes()?).map(|i| (i * 37) as u8).collect();
        writer.write(&info.name, &data)?;
    }
    writer.finish()
}

fn scalars() -> Metadata {
    let values = [
        Value::U8(1),
        Value::I8(-1),
        Value::U16(2),
        Value::I16(-2),
        Value::U32(3),
        Value::I32(-3),
        Value::U64(4),
        Value::I64(-4),
        Value::F32(0.5),
        Value::F64(0.25),
        Value::Bool(true),
        Value::from("text"),
    ];
    let mut metadata = Metadata::new();
    for (i, value) in values.into_iter().enumerate() {
        metadata.insert(format!("k{i}"), value);
    }
    metadata
}

fn arrays() -> Metadata {
    let mut metadata = Metadata::new();
    metadata.insert("flags", Array::Bool(vec![true, false]));
    metadata.insert("numbers", Array::I16(vec![1, 2]));
    metadata.insert("floats", Array::F64(vec![1.0]));
    let inner = Array::Array(vec![Array::U8(vec![1]), Array::String(vec!["x".into()])]);
    metadata.insert("nested", Array::Array(vec![inner, Array::F32(vec![])]));
    metadata
}

fn tokens() -> Metadata {
    let mut metadata = Metadata::new();
    metadata.insert("general.architecture", "llama");
    metadata.insert("tokenizer.ggml.model", "gpt2");
    metadata
        .insert("tokenizer.ggml.tokens", Array::String(["<s>", "a", "b", "ab"].map(String::from).to_vec()));
    metadata.insert("tokenizer.ggml.token_type", Array::I32(vec![3, 1, 1, 1]));
    metadata.insert("tokenizer.ggml.merges", Array::String(vec!["a b".into()]));
    metadata.insert("tokenizer.ggml.bos_token_id", 0u32);
    metadata
}
