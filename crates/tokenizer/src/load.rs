//! A tokenizer from GGUF metadata (`tokenizer.ggml.*`).
//!
//! Keys as in the GGUF specification; what a missing key means is what
//! llama.cpp takes it to mean.

use gguf::{Array, Metadata, Value, metadata::require};

use crate::bpe::{Bpe, parse_merge};
use crate::partition::{Partition, Strip};
use crate::pre::{self, Pre, Spelling};
use crate::special::{Kinds, Special};
use crate::spm::Spm;
use crate::tokenizer::{Model, SpacePrefix, Tokenizer};
use crate::vocab::{Kind, Vocab};
use crate::{Error, Result};

const SUPPORTED: &str = "gpt2 (byte-level BPE), gemma4 (BPE), llama (SentencePiece)";

impl Tokenizer {
    /// The tokenizer that a file's metadata describes.
    ///
    /// # Errors
    /// Whatever is missing, of the wrong type, out of range, contradictory or
    /// not supported.
    pub fn from_metadata(metadata: &Metadata) -> Result<Self> {
        let model = require("tokenizer.ggml.model", metadata.str("tokenizer.ggml.model")?)?;
        let pre = match model {
            "llama" => None,
            "gemma4" => Some(by_name("gemma4")?),
            "gpt2" => Some(by_name(pre_tokenizer(metadata)?)?),
            other => {
                return Err(Error::UnsupportedModel { found: other.to_owned(), supported: SUPPORTED });
            }
        };
        let texts = require("tokenizer.ggml.tokens", metadata.strings("tokenizer.ggml.tokens")?)?;
        let scores = scores(metadata, texts.len())?;
        let spelling = pre.map_or(Spelling::Escaped, |pre| pre.spelling);
        let texts_iter = texts.iter().map(String::as_str);
        let mut vocab =
            Vocab::new(texts_iter, kinds(metadata, texts.len())?, |kind, text| spelling.decode(kind, text))?;
        let mut special = special(metadata, pre.is_none(), vocab.len())?;
        special.complete(&mut vocab, Kinds::Correct);
        let model = match pre {
            None => Model::Spm(Spm::new(&vocab, &scores, special.unk)),
            Some(pre) => {
                let merges = require("tokenizer.ggml.merges", metadata.strings("tokenizer.ggml.merges")?)?;
                let merges: Vec<_> =
                    merges.iter().enumerate().map(|(i, text)| parse_merge(i, text)).collect::<Result<_>>()?;
                Model::Bpe(Bpe::new(&vocab, merges.into_iter(), pre.rules()))
            }
        };
        let is_spm = pre.is_none();
        let (add_bos, add_eos) = added(metadata, pre, &special)?;
        let prefix = metadata.bool("tokenizer.ggml.add_space_prefix")?.unwrap_or(is_spm) && is_spm;
        let space_prefix = prefix.then_some(SpacePrefix::EVERY_PART);
        let strip = strip_rule(metadata, &vocab)?;
        let partition = Partition::new(&vocab, strip);
        Ok(Self { vocab, model, partition, special, add_bos, add_eos, space_prefix, nfc: false })
    }
}

/// The pre-tokenizer's name; files older than the key mean the first there was.
fn pre_tokenizer(metadata: &Metadata) -> Result<&str> {
    Ok(metadata.str("tokenizer.ggml.pre")?.unwrap_or_else(|| {
        tracing::warn!(
            "the file does not say which pre-tokenizer it needs (`tokenizer.ggml.pre`); using `default`, \
             as files of its age expect; a newer conversion of the model may tokenize better"
        );
        "default"
    }))
}

fn by_name(name: &str) -> Result<&'static Pre> {
    Pre::by_name(name)
        .ok_or_else(|| Error::UnknownPreTokenizer { found: name.to_owned(), known: pre::names() })
}

/// One score for each token; 0 where the file has none.
fn scores(metadata: &Metadata, tokens: usize) -> Result<Vec<f32>> {
    const KEY: &str = "tokenizer.ggml.scores";
    let scores = match metadata.get(KEY) {
        None => return Ok(vec![0.0; tokens]),
        Some(Value::Array(Array::I32(scores))) => scores.iter().map(|&x| x as f32).collect(),
        Some(_) => metadata.f32s(KEY)?.unwrap_or_default().to_vec(),
    };
    same_length(KEY, scores.len(), tokens)?;
    Ok(scores)
}

fn kinds(metadata: &Metadata, tokens: usize) -> Result<Vec<Kind>> {
    const KEY: &str = "tokenizer.ggml.token_type";
    let Some(types) = metadata.i64s(KEY)? else { return Ok(vec![Kind::Normal; tokens]) };
    same_length(KEY, types.len(), tokens)?;
    let kind = |(id, &found)| Kind::from_gguf(found).ok_or(Error::TokenType { id: id as u32, found });
    types.iter().enumerate().map(kind).collect()
}

fn same_length(key: &'static str, found: usize, tokens: usize) -> Result<()> {
    if found == tokens { Ok(()) } else { Err(Error::LengthMismatch { key, found, tokens }) }
}

/// The roles that the file names.
fn special(metadata: &Metadata, is_spm: bool, tokens: usize) -> Result<Special> {
    let id = |key| special_id(metadata, key, tokens);
    // SentencePiece's own defaults.
    let default = |id: u32| (is_spm && (id as usize) < tokens).then_some(id);
    Ok(Special {
        bos: id("tokenizer.ggml.bos_token_id")?.or(default(1)),
        eos: id("tokenizer.ggml.eos_token_id")?.or(default(2)),
        unk: id("tokenizer.ggml.unknown_token_id")?.or(default(0)),
        eot: id("tokenizer.ggml.eot_token_id")?,
        eom: id("tokenizer.ggml.eom_token_id")?,
        // Fine-tunes often name a padding token that they did not keep; it is
        // for training, so nothing is lost.
        pad: match id("tokenizer.ggml.padding_token_id") {
            Err(Error::SpecialOutOfRange { .. }) => None,
            other => other?,
        },
        eog: Vec::new(),
    })
}

/// -1, in either width, is how converters write "none".
fn special_id(metadata: &Metadata, key: &'static str, tokens: usize) -> Result<Option<u32>> {
    let Some(value) = metadata.get(key) else { return Ok(None) };
    match value.as_i128() {
        Some(-1 | 0xFFFF_FFFF) => Ok(None),
        _ => match metadata.u64(key)? {
            Some(id) if id < tokens as u64 => Ok(Some(id as u32)),
            Some(id) => Err(Error::SpecialOutOfRange { key, id, tokens }),
            None => Ok(None),
        },
    }
}

/// Whether a beginning and an end are added.
fn added(metadata: &Metadata, pre: Option<&Pre>, special: &Special) -> Result<(bool, bool)> {
    let bos = metadata.bool("tokenizer.ggml.add_bos_token")?;
    let eos = metadata.bool("tokenizer.ggml.add_eos_token")?;
    if bos == Some(true) && special.bos.is_none() {
        return Err(Error::NoSuchSpecial {
            flag: "tokenizer.ggml.add_bos_token",
            key: "tokenizer.ggml.bos_token_id",
        });
    }
    if eos == Some(true) && special.eos.is_none() {
        return Err(Error::NoSuchSpecial {
            flag: "tokenizer.ggml.add_eos_token",
            key: "tokenizer.ggml.eos_token_id",
        });
    }
    let by_default = pre.is_none_or(|pre| pre.add_bos) && special.bos.is_some();
    // Files of Gemma 4 exist that say false; the model needs it all the same.
    let always = pre.is_some_and(|pre| pre.name() == "gemma4") && special.bos.is_some();
    Ok((bos.unwrap_or(by_default) || always, eos.unwrap_or(false)))
}

/// Which special tokens take white space with them. GGUF has no key for it;
/// Phi-3's need it, and are known by the model's name, as in llama.cpp.
fn strip_rule(metadata: &Metadata, vocab: &Vocab) -> Result<impl Fn(u32) -> Strip> {
    let name = metadata.str("general.name")?.unwrap_or_default().to_lowercase();
    let phi3 = name.contains("phi-3") || name.contains("phi3");
    let plain = ["<unk>", "<s>", "<|endoftext|>"].map(|text| vocab.find(text));
    Ok(move |id| Strip { left: false, right: phi3 && !plain.contains(&Some(id)) })
}
