//! `quarrel inspect`: what is in a model file, and whether it can run.

use std::collections::BTreeMap;

use anyhow::Result;
use gguf::{Array, Format, ModelFile, Value};
use indicatif::HumanBytes;
use model::{KvFormat, LoadOptions, ModelConfig};
use serde_json::{Map, json};

use crate::args::InspectArgs;
use crate::{loading, output};

/// Contexts whose memory is shown, as far as the model reaches.
const CONTEXTS: [u32; 5] = [2048, 4096, 8192, 32_768, 131_072];
/// Longest metadata value shown to people, in characters.
const SHOWN: usize = 72;

/// Shows a model.
pub fn run(args: &InspectArgs) -> Result<()> {
    let path = loading::fetch(&args.model)?.path;
    let file = loading::open_file(&path)?;
    let checked = model::check(&file).map_err(anyhow::Error::from);
    let checked = checked.and_then(|config| loading::vocabulary(&path, &file).map(|_| config));
    if args.json {
        output::show_json(&as_json(&file, &checked, args.tensors))
    } else {
        show(args, &file, &checked)
    }
}

fn show(args: &InspectArgs, file: &ModelFile, checked: &Result<ModelConfig>) -> Result<()> {
    let mut text = format!("{}\n\nMetadata\n", args.model);
    for (key, value) in file.metadata.iter() {
        text += &format!("  {key:<44} {}\n", value_text(value));
    }
    text += &format!(
        "\nTensors: {}, {} parameters, {}\n",
        file.tensors.len(),
        parameters(file),
        HumanBytes(file.tensor_bytes())
    );
    for (format, (n, bytes)) in formats(file) {
        text += &format!("  {:<8} {n:>5} tensors  {:>11}\n", format.name(), HumanBytes(bytes).to_string());
    }
    if args.tensors {
        text.push('\n');
        for tensor in file.tensors.iter() {
            text += &format!("  {:<40} {:<8} {:?}\n", tensor.name, tensor.format.name(), tensor.shape);
        }
    }
    match checked {
        Ok(config) => {
            text += "\nMemory of the KV cache by context\n";
            text += &format!("  {:>8}", "tokens");
            text += &KvFormat::ALL.iter().map(|f| format!("  {:>11}", f.name())).collect::<String>();
            for context in contexts(config) {
                text += &format!("\n  {context:>8}");
                for &format in KvFormat::ALL {
                    let bytes = kv_cache_bytes(config, context, format);
                    text += &format!("  {:>11}", HumanBytes(bytes).to_string());
                }
            }
            text += "\n\nThis model can run here.\n";
        }
        Err(error) => text += &format!("\nThis model cannot run: {}\n", output::explain(error)),
    }
    Ok(output::show(&text)?)
}

fn as_json(file: &ModelFile, checked: &Result<ModelConfig>, tensors: bool) -> serde_json::Value {
    let metadata: Map<_, _> =
        file.metadata.iter().map(|(key, value)| (key.into(), value_json(value))).collect();
    let formats: Map<_, _> = formats(file)
        .into_iter()
        .map(|(format, (n, bytes))| (format.name().into(), json!({ "tensors": n, "bytes": bytes })))
        .collect();
    let mut all = json!({
        "metadata": metadata,
        "n_tensors": file.tensors.len(),
        "parameters": parameters(file),
        "tensor_bytes": file.tensor_bytes(),
        "formats": formats,
        "can_run": checked.is_ok(),
        "why_not": checked.as_ref().err().map(output::explain),
    });
    if tensors {
        let one = |t: &gguf::Tensor| json!({ "name": t.name, "format": t.format.name(), "shape": t.shape });
        all["tensors"] = file.tensors.iter().map(one).collect();
    }
    if let Ok(config) = checked {
        let kv = |context: u32| {
            let bytes = |&f: &KvFormat| (f.name().to_owned(), json!(kv_cache_bytes(config, context, f)));
            json!({ "context": context, "bytes": KvFormat::ALL.iter().map(bytes).collect::<Map<_, _>>() })
        };
        all["kv_cache"] = contexts(config).map(kv).collect();
    }
    all
}

/// Bytes of the cache for one sequence, keys and values stored alike.
fn kv_cache_bytes(config: &ModelConfig, context: u32, format: KvFormat) -> u64 {
    LoadOptions { kv_k: format, kv_v: format, ..LoadOptions::default() }.kv_cache_bytes(config, context)
}

fn contexts(config: &ModelConfig) -> impl Iterator<Item = u32> {
    let longest = config.context_length;
    CONTEXTS.into_iter().filter(move |&context| context < longest).chain([longest])
}

fn parameters(file: &ModelFile) -> u64 {
    file.tensors.iter().map(|tensor| tensor.elements() as u64).sum()
}

/// Tensors and bytes of each format that occurs.
fn formats(file: &ModelFile) -> BTreeMap<Format, (usize, u64)> {
    let mut formats = BTreeMap::new();
    for tensor in file.tensors.iter() {
        let (n, bytes) = formats.entry(tensor.format).or_insert((0, 0));
        *n += 1;
        *bytes += tensor.data.len() as u64;
    }
    formats
}

/// A value on one line.
fn value_text(value: &Value) -> String {
    let text = match value {
        Value::String(s) => format!("{s:?}"),
        Value::Array(a) if a.len() > 8 => format!("{} × {}", a.len(), a.element_type()),
        other => value_json(other).to_string(),
    };
    match text.char_indices().nth(SHOWN) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

fn value_json(value: &Value) -> serde_json::Value {
    match value {
        Value::String(s) => json!(s),
        Value::Bool(b) => json!(b),
        Value::F32(x) => json!(x),
        Value::F64(x) => json!(x),
        Value::U64(x) => json!(x),
        Value::Array(array) => array_json(array),
        integer => json!(integer.as_i128().and_then(|x| i64::try_from(x).ok())),
    }
}

fn array_json(array: &Array) -> serde_json::Value {
    match array {
        Array::String(v) => json!(v),
        Array::Bool(v) => json!(v),
        Array::F32(v) => json!(v),
        Array::F64(v) => json!(v),
        Array::U64(v) => json!(v),
        Array::Array(v) => v.iter().map(array_json).collect(),
        integers => json!(integers.to_i64s()),
    }
}
