//! `quarrel run`: one prompt, one answer.

use std::io::{IsTerminal, Read};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use engine::FinishReason;
use serde_json::json;
use tokenizer::Encode;
use tokenizer::template::{ChatInput, Message};

use super::generate::{self, Reply};
use crate::args::RunArgs;
use crate::loading::{self, Opened, Started};
use crate::{interrupt, output};

/// Answers one prompt.
pub fn run(args: RunArgs) -> Result<ExitCode> {
    let start = Instant::now();
    generate::check(&args.sampling)?;
    loading::check(&args.model.load)?;
    let text = read_prompt(args.prompt.as_deref())?;
    interrupt::watch()?;
    let opened = loading::open(&args.model.model)?;
    let prompt = encode(&opened, &args, text)?;
    let Started { engine, device, .. } = opened.start(&args.model.load, &args.engine)?;
    let before = start.elapsed();
    let request = generate::request(&args.sampling, prompt, 0);
    let reply = generate::stream(&engine, request, |text| {
        if !args.json {
            output::show(text)?;
        }
        Ok(())
    })?;
    // Measured from the start of the command, as its user feels it.
    let first_token = before + reply.stats.time_to_first_token;
    if args.json {
        output::show_json(&as_json(&opened.name, &device, &reply, first_token))?;
    } else {
        if !reply.text.ends_with('\n') {
            output::show("\n")?;
        }
        output::say(&generate::summary(&opened.name, &device, &reply.stats, first_token));
    }
    let interrupted = reply.reason == FinishReason::Cancelled;
    Ok(if interrupted { ExitCode::from(interrupt::EXIT_CODE) } else { ExitCode::SUCCESS })
}

fn read_prompt(prompt: Option<&str>) -> Result<String> {
    match prompt {
        Some(text) if text != "-" => Ok(text.to_owned()),
        None if std::io::stdin().is_terminal() => {
            bail!("no prompt; try: quarrel run \"Why is the sky blue?\"")
        }
        _ => {
            let mut text = String::new();
            std::io::stdin()
                .read_to_string(&mut text)
                .context("cannot read the prompt from standard input")?;
            Ok(text)
        }
    }
}

fn encode(opened: &Opened, args: &RunArgs, text: String) -> Result<Vec<u32>> {
    if args.raw {
        return Ok(opened.tokenizer.encode(&text, Encode { add_special: true, parse_special: true }));
    }
    let system = args.system.as_ref().map(|system| Message::new("system", system));
    let messages = system.into_iter().chain([Message::new("user", text)]).collect();
    let input = ChatInput { messages, add_generation_prompt: true, ..ChatInput::default() };
    Ok(engine::encode_chat(&opened.tokenizer, &opened.template(args.chat_template.as_deref())?, &input)?.ids)
}

fn as_json(model: &str, device: &str, reply: &Reply, first_token: Duration) -> serde_json::Value {
    let stats = &reply.stats;
    json!({
        "model": model,
        "device": device,
        "text": reply.text,
        "finish_reason": generate::reason_name(reply.reason),
        "prompt_tokens": stats.prompt_tokens,
        "cached_tokens": stats.cached_tokens,
        "generated_tokens": stats.generated_tokens,
        "prefill_tok_s": stats.prefill_tokens_per_second(),
        "decode_tok_s": stats.decode_tokens_per_second(),
        "time_to_first_token_s": first_token.as_secs_f64(),
    })
}
