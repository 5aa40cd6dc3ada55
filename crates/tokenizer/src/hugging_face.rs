//! A tokenizer from Hugging Face's `tokenizer.json` and
//! `tokenizer_config.json`, for model directories without GGUF metadata.
//!
//! Byte-level BPE, and BPE over characters with byte fallback: what Llama,
//! Qwen, SmolLM, Gemma and Phi use. Whatever else a file asks for is an error
//! that names it, since leaving it out would give wrong ids without a sign.

use std::borrow::Cow;

use hashbrown::HashMap;
use serde_json::{Map, Value};

use crate::bpe::{Bpe, parse_merge};
use crate::partition::{Partition, Strip};
use crate::pre::{self, PrefixScheme, Rules, Spelling};
use crate::special::{Kinds, Special};
use crate::tokenizer::{Model, SpacePrefix, Tokenizer};
use crate::vocab::{Kind, Vocab, parse_byte};
use crate::{Error, Result};

impl Tokenizer {
    /// The tokenizer that `tokenizer.json` describes. `config`, the text of
    /// `tokenizer_config.json`, names the tokens that begin and end a text.
    ///
    /// # Errors
    /// What is malformed, or not supported.
    pub fn from_hugging_face(tokenizer: &str, config: Option<&str>) -> Result<Self> {
        let file: Value = parse(tokenizer, "the file")?;
        let config: Value = config.map_or(Ok(Value::Null), |text| parse(text, "tokenizer_config.json"))?;
        let model = &file["model"];
        supported(model)?;
        let normalizer = Normalizer::read(&file["normalizer"])?;
        let (passes, spelling, scheme) = pre::passes_of(&file["pre_tokenizer"])?;
        let added = array(&file, "added_tokens")?;
        let words = words(model, added, spelling)?;
        let texts = words.iter().map(|(text, _)| text.as_str());
        let kinds = words.iter().map(|&(_, kind)| kind).collect();
        let mut vocab = Vocab::new(texts, kinds, |kind, text| spelling.decode(kind, text))?;

        let mut special = named(&config, model, &vocab);
        let (add_bos, add_eos) = template(&file["post_processor"], &config, &vocab, &mut special)?;
        special.complete(&mut vocab, Kinds::Trust);
        let merges = array(model, "merges")?;
        let merges: Vec<_> = merges.iter().enumerate().map(|(i, m)| merge(i, m)).collect::<Result<_>>()?;
        let ignore_merges = model["ignore_merges"] == true;
        let rules = Rules { passes: Cow::Owned(passes), ignore_merges, spelling };
        let model = Model::Bpe(Bpe::new(&vocab, merges.into_iter(), rules));
        let strips: HashMap<u32, Strip> = added.iter().filter_map(strip).collect();
        let partition = Partition::new(&vocab, |id| strips.get(&id).copied().unwrap_or_default());
        let space_prefix = normalizer.prefix.or(scheme.map(|scheme| SpacePrefix {
            every_part: scheme == PrefixScheme::Every,
            even_before_space: false,
        }));
        Ok(Self { vocab, model, partition, special, add_bos, add_eos, space_prefix, nfc: normalizer.nfc })
    }
}

fn parse(text: &str, what: &str) -> Result<Value> {
    serde_json::from_str(text).map_err(|e| malformed(format!("{what} is not JSON: {e}")))
}

fn malformed(what: String) -> Error {
    Error::HuggingFace { what }
}

fn unsupported(what: String) -> Error {
    Error::UnsupportedFeature { what }
}

fn array<'a>(object: &'a Value, key: &str) -> Result<&'a [Value]> {
    match &object[key] {
        Value::Null => Ok(&[]),
        Value::Array(items) => Ok(items),
        _ => Err(malformed(format!("`{key}` should be an array"))),
    }
}

/// Refuses models that are not BPE, or BPE with what is not done here.
fn supported(model: &Value) -> Result<()> {
    // Files older than the key are BPE if they have merges.
    let kind = match &model["type"] {
        Value::Null if model["merges"].is_array() => "BPE",
        kind => kind.as_str().unwrap_or_default(),
    };
    if kind != "BPE" {
        return Err(Error::UnsupportedModel { found: kind.to_owned(), supported: "BPE" });
    }
    for key in ["continuing_subword_prefix", "end_of_word_suffix"] {
        if model[key].as_str().is_some_and(|text| !text.is_empty()) {
            return Err(unsupported(format!("`model.{key}`")));
        }
    }
    match model["dropout"].as_f64() {
        Some(dropout) if dropout > 0.0 => Err(unsupported("`model.dropout`".into())),
        _ => Ok(()),
    }
}

/// What happens to text before it is cut.
#[derive(Debug, Default)]
struct Normalizer {
    nfc: bool,
    prefix: Option<SpacePrefix>,
}

impl Normalizer {
    fn read(description: &Value) -> Result<Self> {
        let mut normalizer = Self::default();
        match description["type"].as_str() {
            Some("Sequence") => {
                for part in array(description, "normalizers")? {
                    normalizer.add(part)?;
                }
            }
            _ if description.is_null() => {}
            _ => normalizer.add(description)?,
        }
        Ok(normalizer)
    }

    fn add(&mut self, part: &Value) -> Result<()> {
        match part["type"].as_str() {
            Some("NFC") => self.nfc = true,
            Some("Prepend") if part["prepend"] == "▁" => self.prefix = Some(SpacePrefix::EVERY_PART),
            // What the spelling does.
            Some("Replace") if part["pattern"]["String"] == " " && part["content"] == "▁" => {}
            _ => return Err(unsupported(format!("the normalizer {part}"))),
        }
        Ok(())
    }
}

/// Texts and kinds in the order of their ids; ids that nothing names are
/// unused.
fn words(model: &Value, added: &[Value], spelling: Spelling) -> Result<Vec<(String, Kind)>> {
    let empty = Map::new();
    let vocab = model["vocab"].as_object().unwrap_or(&empty);
    // Reserved ids leave gaps in some vocabularies; a file cannot ask for more
    // memory than a small multiple of its own size.
    let most = 2 * (vocab.len() + added.len()) + 1024;
    let mut words: Vec<(String, Kind)> = Vec::with_capacity(vocab.len() + added.len());
    let mut place = |id: &Value, text: &str, kind: Kind| -> Result<()> {
        let id = id.as_u64().and_then(|id| usize::try_from(id).ok()).filter(|&id| id < most);
        let id = id.ok_or_else(|| malformed(format!("token {text:?} has no id below {most}")))?;
        if id >= words.len() {
            words.resize(id + 1, (String::new(), Kind::Unused));
        }
        words[id] = (text.to_owned(), kind);
        Ok(())
    };
    let bytes = spelling == Spelling::Escaped && model["byte_fallback"] == true;
    for (text, id) in vocab {
        let is_byte = bytes && parse_byte(text).is_some();
        place(id, text, if is_byte { Kind::Byte } else { Kind::Normal })?;
    }
    for token in added {
        let Some(text) = token["content"].as_str() else {
            return Err(malformed(format!("the added token {token} has no content")));
        };
        if token["single_word"] == true {
            return Err(unsupported(format!("`single_word` of {text:?}")));
        }
        place(&token["id"], text, if token["special"] == true { Kind::Control } else { Kind::UserDefined })?;
    }
    Ok(words)
}

fn strip(token: &Value) -> Option<(u32, Strip)> {
    let strip = Strip { left: token["lstrip"] == true, right: token["rstrip"] == true };
    let id = u32::try_from(token["id"].as_u64()?).ok()?;
    (strip != Strip::default()).then_some((id, strip))
}

fn merge(index: usize, merge: &Value) -> Result<(&str, &str)> {
    match merge {
        Value::String(text) => parse_merge(index, text),
        Value::Array(parts) => match parts.as_slice() {
            [Value::String(left), Value::String(right)] => Ok((left, right)),
            _ => Err(Error::Merge { index, text: merge.to_string() }),
        },
        _ => Err(Error::Merge { index, text: merge.to_string() }),
    }
}

/// The roles that the configuration names.
fn named(config: &Value, model: &Value, vocab: &Vocab) -> Special {
    let find = |name: &Value| name.as_str().or(name["content"].as_str()).and_then(|text| vocab.find(text));
    Special {
        bos: find(&config["bos_token"]),
        eos: find(&config["eos_token"]),
        unk: find(&model["unk_token"]).or_else(|| find(&config["unk_token"])),
        pad: find(&config["pad_token"]),
        ..Special::default()
    }
}

/// Which tokens are put around a text: what the template says, and without one
/// what the configuration says.
fn template(processor: &Value, config: &Value, vocab: &Vocab, special: &mut Special) -> Result<(bool, bool)> {
    let parts = match processor["type"].as_str() {
        Some("Sequence") => array(processor, "processors")?,
        _ => std::slice::from_ref(processor),
    };
    let Some(template) = parts.iter().find(|part| part["type"] == "TemplateProcessing") else {
        let asks = |key: &str, id: Option<u32>| config[key] == true && id.is_some();
        return Ok((asks("add_bos_token", special.bos), asks("add_eos_token", special.eos)));
    };
    let (mut before, mut after, mut seen) = (Vec::new(), Vec::new(), false);
    for item in array(template, "single")? {
        match item["SpecialToken"]["id"].as_str() {
            Some(text) if seen => after.push(text),
            Some(text) => before.push(text),
            None => seen = true,
        }
    }
    let one = |texts: &[&str], role: &mut Option<u32>| match texts {
        [] => Ok(false),
        [text] => {
            let id = vocab.find(text);
            let id = id.ok_or_else(|| malformed(format!("the template's {text:?} is no token")))?;
            *role = Some(id);
            Ok(true)
        }
        _ => Err(unsupported(format!("several tokens around a text: {template}"))),
    };
    Ok((one(&before, &mut special.bos)?, one(&after, &mut special.eos)?))
}
