//! `quarrel bench`: prompt and generation speed.

use anyhow::{Result, ensure};
use model::ModelRunner;
use model::bench::{Figures, Measured, Workload, measure};
use serde_json::{Value, json};

use crate::args::BenchArgs;
use crate::loading::{self, Opened};
use crate::output;

/// Measures and prints a table or JSON.
pub fn run(args: &BenchArgs) -> Result<()> {
    ensure!(args.prompt + args.r#gen > 0, "--prompt and --gen are both 0: there is nothing to measure");
    let opened = loading::open(&args.model.model)?;
    let workload = Workload {
        prompt: args.prompt as usize,
        generated: args.r#gen as usize,
        depth: args.depth as usize,
        batch: args.batch.into(),
        repetitions: args.repetitions as usize,
    };
    let mut model_args = args.model.load.clone();
    if model_args.ctx.is_none() {
        model_args.ctx = Some(u32::try_from(workload.context())?);
    }
    let mut runner = opened.load_for_batch(&model_args, workload.batch)?;
    let measured = measure(&mut runner, &workload)?;
    let device = runner.description();
    if args.json {
        return output::show_json(&as_json(args, &opened, &device, &measured));
    }
    Ok(output::show(&table(args, &opened, &device, &measured))?)
}

fn as_json(args: &BenchArgs, opened: &Opened, device: &str, measured: &Figures) -> Value {
    json!({
        "model": opened.name,
        "device": device,
        "bytes": opened.file.tensor_bytes(),
        "parameters": opened.parameters(),
        "prompt": args.prompt,
        "gen": args.r#gen,
        "depth": args.depth,
        "batch": args.batch,
        "repetitions": args.repetitions,
        "kv": args.model.load.kv,
        "prefill_tok_s": measured.prefill.map(|m| m.mean),
        "prefill_sd": measured.prefill.map(|m| m.sd),
        "decode_tok_s": measured.decode.map(|m| m.mean),
        "decode_sd": measured.decode.map(|m| m.sd),
    })
}

fn table(args: &BenchArgs, opened: &Opened, device: &str, measured: &Figures) -> String {
    let size = format!("{:.2} MiB", opened.file.tensor_bytes() as f64 / (1 << 20) as f64);
    let parameters = format!("{:.2} M", opened.parameters() as f64 / 1e6);
    let mut text = format!("{device}\n\n");
    text += "| model | size | params | test | tokens/s |\n| --- | ---: | ---: | --- | ---: |\n";
    let batch = if args.batch > 1 { format!(" x{}", args.batch) } else { String::new() };
    let at = if args.depth > 0 { format!(" @ d{}", args.depth) } else { String::new() };
    let row = |test: String, rate: Measured| {
        format!(
            "| {} | {size} | {parameters} | {test}{batch}{at} | {:.2} ± {:.2} |\n",
            opened.name, rate.mean, rate.sd
        )
    };
    if let Some(rate) = measured.prefill {
        text += &row(format!("pp{}", args.prompt), rate);
    }
    if let Some(rate) = measured.decode {
        text += &row(format!("tg{}", args.r#gen), rate);
    }
    text
}
