//! Perplexity of a text file on the CPU, as llama-perplexity computes it:
//! `cargo run --release -p quarrel-model --example perplexity -- MODEL TEXT [CHUNKS]`.

use std::path::Path;

use backend::{Cpu, CpuConfig};
use quarrel_model::perplexity::{Options, measure};
use quarrel_model::{LoadOptions, hf, load};
use tokenizer::{Encode, Tokenizer};

const CONTEXT: usize = 512;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, text, rest @ ..] = args.as_slice() else {
        return Err("usage: perplexity MODEL TEXT [CHUNKS]".into());
    };
    let path = Path::new(model);
    let file = if hf::is_directory(path) { hf::open(path)? } else { gguf::ModelFile::open(path)? };
    let tokenizer = Tokenizer::from_metadata(&file.metadata)?;
    let tokens =
        tokenizer.encode(&std::fs::read_to_string(text)?, Encode { add_special: true, ..Encode::default() });
    let options = LoadOptions {
        context: Some(CONTEXT as u32),
        max_batch_tokens: 256,
        max_outputs: 64,
        ..LoadOptions::default()
    };
    let mut model = load(&file, Box::new(Cpu::new(CpuConfig::default())?), &options)?;
    let options = Options {
        context: CONTEXT,
        chunks: rest.first().map(|n| n.parse()).transpose()?,
        bos: tokenizer.bos().filter(|_| tokenizer.add_bos()),
        role: backend::Role::Prompt,
    };
    let result =
        measure(&mut model, &tokens, &options, |p| eprintln!("[{}] {:.4}", p.chunks, p.perplexity()))?;
    println!(
        "perplexity {:.4} +/- {:.5} over {} chunks",
        result.perplexity(),
        result.stderr(),
        result.chunks
    );
    Ok(())
}
