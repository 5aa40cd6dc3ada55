//! `quarrel perplexity`: how well a model predicts a text.

use std::process::ExitCode;

use anyhow::{Context, Result};
use backend::Role;
use model::ModelRunner;
use model::perplexity::{Options, measure};
use serde_json::json;
use tokenizer::Encode;

use crate::args::PerplexityArgs;
use crate::{loading, output};

/// Chunk length where `--ctx` does not say otherwise, as everybody quotes it.
const DEFAULT_CONTEXT: u32 = 512;

/// Scores the text in chunks of `--ctx` tokens.
pub fn run(args: &PerplexityArgs) -> Result<ExitCode> {
    let text = std::fs::read_to_string(&args.file)
        .with_context(|| format!("cannot read {} as UTF-8 text", args.file.display()))?;
    let opened = loading::open(&args.model.model)?;
    let context = args.model.load.ctx.unwrap_or(DEFAULT_CONTEXT);
    let model_args = crate::args::LoadArgs { ctx: Some(context), ..args.model.load.clone() };
    let mut runner = opened.load_for_scoring(&model_args)?;
    let tokenizer = &opened.tokenizer;
    let tokens = tokenizer.encode(&text, Encode { add_special: true, parse_special: false });
    let bos = tokenizer.bos().filter(|_| tokenizer.add_bos());
    let role = if args.as_reply { Role::Generated } else { Role::Prompt };
    let chunks = args.chunks.map(|n| n as usize);
    let options = Options { context: context as usize, chunks, bos, role };
    if !args.json {
        output::say(&format!("{} · {} · {} tokens", opened.name, runner.description(), tokens.len()));
    }
    let result = measure(&mut runner, &tokens, &options, |so_far| {
        if !args.json {
            output::say(&format!("chunk {}: {:.4}", so_far.chunks, so_far.perplexity()));
        }
    })?;
    if args.json {
        output::show_json(&json!({
            "perplexity": result.perplexity(),
            "stderr": result.stderr(),
            "chunks": result.chunks,
            "scored_tokens": result.scored,
            "ctx": context,
            "model": opened.name,
        }))?;
    } else {
        let (perplexity, stderr) = (result.perplexity(), result.stderr());
        output::show(&format!("perplexity {perplexity:.4} ± {stderr:.4} over {} chunks\n", result.chunks))?;
    }
    Ok(ExitCode::SUCCESS)
}
