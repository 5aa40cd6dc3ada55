//! Lists a model's metadata and tensors, and how long opening it took:
//! `cargo run --release -p quarrel-gguf --example list -- MODEL.gguf`

use std::path::PathBuf;
use std::time::Instant;

use quarrel_gguf::{ModelFile, Result, Value};

fn main() -> Result<()> {
    for path in std::env::args_os().skip(1).map(PathBuf::from) {
        let start = Instant::now();
        let file = ModelFile::open(&path)?;
        let opened = start.elapsed();
        for (key, value) in file.metadata.iter() {
            match value {
                Value::String(text) => println!("{key} = {:?}", text.chars().take(60).collect::<String>()),
                Value::Array(_) => println!("{key} = {}", value.type_name()),
                number => println!("{key} = {number:?}"),
            }
        }
        for tensor in &file.tensors {
            println!("{:40} {:6} {:?}", tensor.name, tensor.format.name(), tensor.shape);
        }
        println!("{}: opened in {opened:?}", path.display());
    }
    Ok(())
}
