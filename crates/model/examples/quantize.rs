//! Quantises a file: `cargo run --release -p quarrel-model --example quantize -- IN OUT RECIPE`,
//! or with OUT = `-` only prints each tensor's format.

use std::path::Path;

use quarrel_model::quantize::{Recipe, formats, quantize_file};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [input, out, recipe] = args.as_slice() else { return Err("usage: quantize IN OUT RECIPE".into()) };
    let file = gguf::ModelFile::open(Path::new(input))?;
    let recipe = Recipe::from_name(recipe).ok_or("no such recipe")?;
    if out == "-" {
        let infos: Vec<_> = file.tensors.iter().map(|tensor| tensor.info()).collect();
        for (tensor, format) in infos.iter().zip(formats(&file.metadata, &infos, recipe, &[])?) {
            println!("{} {format}", tensor.name);
        }
        return Ok(());
    }
    let threads = std::thread::available_parallelism()?.get();
    quantize_file(&file, Path::new(out), recipe, &[], threads, &mut |p| {
        eprint!("\r{:3} %", 100 * p.done / p.total);
        std::ops::ControlFlow::Continue(())
    })?;
    eprintln!();
    Ok(())
}
