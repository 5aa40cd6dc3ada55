//! `quarrel bench`: prompt and generation speed.

use anyhow::{Result, ensure};
use model::ModelRunner;
use model::bench::{Measured, Workload, measure};
use serde_json::json;

use crate::args::BenchArgs;
use crate::{loading, output};

/// Measures and prints a table or JSON.
pub fn run(args: &BenchArgs) -> Result<()> {
    let opened = loading::open(&args.model.model)?;
    let mut model_args = args.model.clone();
    let needed = args.depth + args.prompt.max(args.r#gen);
    ensure!(needed > 0, "--prompt and --gen are both 0: there is nothing to measure");
    if model_args.ctx.is_none() {
        model_args.ctx = Some(needed);
    }
    let mut runner = opened.load(&model_args)?;
    let workload = Workload {
        prompt: args.prompt as usize,
        generated: args.r#gen as usize,
        depth: args.depth as usize,
        repetitions: args.repetitions as usize,
    };
    let measured = measure(&mut runner, &workload)?;
    let parameters: u64 = opened.file.tensors.iter().map(|t| t.elements() as u64).sum();
    let bytes = opened.file.tensor_bytes();
    if args.json {
        return output::show_json(&json!({
            "model": opened.name,
            "device": runner.description(),
            "bytes": bytes,
            "parameters": parameters,
            "prompt": args.prompt,
            "gen": args.r#gen,
            "depth": args.depth,
            "repetitions": args.repetitions,
            "kv": args.model.kv,
            "prefill_tok_s": measured.prefill.map(|m| m.mean),
            "prefill_sd": measured.prefill.map(|m| m.sd),
            "decode_tok_s": measured.decode.map(|m| m.mean),
            "decode_sd": measured.decode.map(|m| m.sd),
        }));
    }
    let size = format!("{:.2} MiB", bytes as f64 / (1 << 20) as f64);
    let parameters = format!("{:.2} M", parameters as f64 / 1e6);
    let mut text = format!("{}\n\n", runner.description());
    text += "| model | size | params | test | tokens/s |\n| --- | ---: | ---: | --- | ---: |\n";
    let row = |test: String, rate: Measured| {
        let at = if args.depth > 0 { format!(" @ d{}", args.depth) } else { String::new() };
        format!(
            "| {} | {size} | {parameters} | {test}{at} | {:.2} ± {:.2} |\n",
            opened.name, rate.mean, rate.sd
        )
    };
    if let Some(rate) = measured.prefill {
        text += &row(format!("pp{}", args.prompt), rate);
    }
    if let Some(rate) = measured.decode {
        text += &row(format!("tg{}", args.r#gen), rate);
    }
    Ok(output::show(&text)?)
}
