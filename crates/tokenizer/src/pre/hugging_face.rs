//! Pre-tokenizers as `tokenizer.json` describes them: by their patterns.

use serde_json::Value;

use super::Pass::{self, Matches};
use super::{Spelling, patterns as p};
use crate::{Error, Result};

const CONTRACTIONS: &str = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|";

/// Patterns, after [`CONTRACTIONS`] where marked, and what matches them.
const PATTERNS: [(bool, &str, Pass); 17] = [
    (false, r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+", Matches(p::gpt2)),
    (
        true,
        r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        Matches(p::llama3),
    ),
    // GPT-4's: possessive, so that it never backtracks; it need not.
    (
        false,
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
        Matches(p::llama3),
    ),
    (
        true,
        r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        Matches(p::qwen2),
    ),
    (
        true,
        r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        Matches(p::llama3_long_numbers),
    ),
    (
        true,
        r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        Matches(p::qwen35),
    ),
    (
        true,
        r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+",
        Matches(p::seed_coder),
    ),
    (
        false,
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        Matches(p::gpt4o),
    ),
    (
        false,
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        Matches(p::tekken),
    ),
    (
        false,
        r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##,
        Matches(p::deepseek_v3),
    ),
    (false, "[一-龥\u{3040}-ゟ゠-ヿ]+", Matches(p::deepseek_v3_cjk)),
    (false, r" ?[^(\s|[.,!?…。，、।۔،])]+", Matches(p::bloom)),
    (false, r"\p{N}", Matches(p::digit)),
    (false, r"\p{N}+", Matches(p::digits)),
    (false, r"\p{N}{1,3}", Matches(p::digits3)),
    (false, r"[0-9][0-9][0-9]", Matches(p::three_digits)),
    (false, r"[\r\n]", Matches(p::line_break)),
];

/// What a `pre_tokenizer` says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Described {
    /// Whether text becomes the alphabet of byte-level BPE.
    pub byte_level: bool,
    /// Whether a space is put before text that has none: at its beginning, or
    /// also after each special token.
    pub prefix: Option<PrefixScheme>,
}

/// Where Hugging Face's pre-tokenizers put a space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PrefixScheme {
    First,
    Every,
}

/// The passes of a `pre_tokenizer`, and what else it says.
pub(crate) fn passes_of(description: &Value) -> Result<(Vec<Pass>, Spelling, Option<PrefixScheme>)> {
    let mut passes = Vec::new();
    let mut described = Described::default();
    let parts = match kind(description) {
        "Sequence" => description["pretokenizers"].as_array().map_or(&[][..], Vec::as_slice),
        _ if description.is_null() => &[],
        _ => std::slice::from_ref(description),
    };
    for part in parts {
        if described.byte_level {
            // It would see bytes, not characters.
            return Err(unsupported(format!("`{}` after `ByteLevel`", kind(part))));
        }
        add(part, &mut passes, &mut described)?;
    }
    let spelling = if described.byte_level { Spelling::ByteLevel } else { Spelling::Escaped };
    Ok((passes, spelling, described.prefix))
}

fn add(part: &Value, passes: &mut Vec<Pass>, described: &mut Described) -> Result<()> {
    match kind(part) {
        "ByteLevel" => {
            described.byte_level = true;
            if part["add_prefix_space"] == true {
                described.prefix = Some(PrefixScheme::Every);
            }
            if part["use_regex"] != false {
                passes.push(Matches(p::gpt2));
            }
        }
        "Digits" if part["individual_digits"] == true => passes.push(Matches(p::digit)),
        "Digits" => passes.push(Matches(p::digits)),
        "Metaspace" => {
            if part["replacement"] != "▁" || part["split"] == true {
                return Err(unsupported(format!("the pre-tokenizer {part}")));
            }
            described.prefix = match part["prepend_scheme"].as_str() {
                Some("never") => None,
                Some("first") => Some(PrefixScheme::First),
                _ if part["add_prefix_space"] == false => None,
                _ => Some(PrefixScheme::Every),
            };
        }
        "Split" => passes.extend(split(part)?),
        _ => return Err(unsupported(format!("the pre-tokenizer {part}"))),
    }
    Ok(())
}

fn split(part: &Value) -> Result<Option<Pass>> {
    // Gemma's: its normaliser has left no space to split at.
    if part["pattern"]["String"] == " " && part["behavior"] == "MergedWithPrevious" {
        return Ok(None);
    }
    let Some(pattern) = part["pattern"]["Regex"].as_str() else {
        return Err(unsupported(format!("the pre-tokenizer {part}")));
    };
    // A pattern that leaves nothing unmatched may as well remove the rest.
    match (part["behavior"].as_str(), part["invert"] == true) {
        (Some("Isolated"), false) | (Some("Removed"), true) => {}
        _ => return Err(unsupported(format!("the pre-tokenizer {part}"))),
    }
    let known = PATTERNS.iter().find(|(contractions, rest, _)| match contractions {
        true => pattern.strip_prefix(CONTRACTIONS) == Some(rest),
        false => pattern == *rest,
    });
    match known {
        Some(&(_, _, pass)) => Ok(Some(pass)),
        None => Err(Error::UnknownPreTokenizer {
            found: pattern.to_owned(),
            known: "the patterns of GPT-2, GPT-4, GPT-4o, Llama 3, Qwen 2 to 3.5, DeepSeek V3, Mistral (tekken), \
                    Bloom"
                .to_owned(),
        }),
    }
}

fn kind(part: &Value) -> &str {
    part["type"].as_str().unwrap_or_default()
}

fn unsupported(what: String) -> Error {
    Error::UnsupportedFeature { what }
}
