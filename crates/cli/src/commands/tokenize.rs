//! `quarrel tokenize`: text to token ids.

use std::io::Read;

use anyhow::{Context, Result};
use serde_json::json;
use tokenizer::Encode;

use crate::args::TokenizeArgs;
use crate::{loading, output};

/// Prints one token a line, id and text, or a JSON array of ids.
pub fn run(args: &TokenizeArgs) -> Result<()> {
    let text = match args.text.as_deref() {
        Some(text) if text != "-" => text.to_owned(),
        _ => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).context("cannot read the text from standard input")?;
            text
        }
    };
    let tokenizer = loading::tokenizer(&args.model)?;
    let how = Encode { add_special: !args.no_special, parse_special: !args.plain };
    let ids = tokenizer.encode(&text, how);
    if args.json {
        return Ok(output::show(&(json!(ids).to_string() + "\n"))?);
    }
    let line = |&id: &u32| format!("{id:>8}  {:?}\n", String::from_utf8_lossy(tokenizer.token_bytes(id)));
    Ok(output::show(&ids.iter().map(line).collect::<String>())?)
}
