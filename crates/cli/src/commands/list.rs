//! `quarrel list`: what is in the cache, and what could be.

use std::time::UNIX_EPOCH;

use anyhow::Result;
use indicatif::HumanBytes;
use serde_json::json;
use store::{Entry, ShortName};

use crate::args::ListArgs;
use crate::{loading, output};

/// Lists cached models and short names.
pub fn run(args: &ListArgs) -> Result<()> {
    let entries = loading::store()?.list()?;
    if args.json {
        let cached: Vec<_> = entries.iter().map(as_json).collect();
        let known: Vec<_> = ShortName::all().map(|name| name.as_str()).collect();
        return output::show_json(&json!({ "cached": cached, "short_names": known }));
    }
    let mut text = String::new();
    for entry in &entries {
        text +=
            &format!("{:<40} {:>10}  {}\n", entry.name, HumanBytes(entry.bytes).to_string(), entry.source);
    }
    if entries.is_empty() {
        text += "The cache is empty.\n";
    }
    let missing: Vec<_> = ShortName::all()
        .map(|name| name.as_str())
        .filter(|name| entries.iter().all(|entry| entry.name != *name))
        .collect();
    if !missing.is_empty() {
        text += &format!("\nShort names that can be pulled: {}\n", missing.join(", "));
    }
    Ok(output::show(&text)?)
}

fn as_json(entry: &Entry) -> serde_json::Value {
    let pulled = entry.pulled.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    json!({
        "name": entry.name,
        "path": entry.path,
        "bytes": entry.bytes,
        "pulled_unix": pulled,
        "source": entry.source,
    })
}
