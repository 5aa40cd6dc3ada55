//! What a request may constrain its reply to.

use std::fmt;
use std::sync::Arc;

use llguidance::api::{GrammarInit, TopLevelGrammar};
use serde_json::{Value, json};

use tokenizer::Tokenizer;

use super::calls::CallGrammar;
use super::compile::{limits, on_own_stack};
use super::{lark, schema};
use crate::{Error, Result};

/// Longest expression, grammar, or list of choices, in bytes.
const MAX_BYTES: usize = 64 << 10;
/// Most choices in a list.
const MAX_CHOICES: usize = 4096;
/// Space that JSON may have between its parts: enough to indent, not enough to
/// go on for ever. One space, or a line break and up to 64 spaces.
const JSON_SPACE: &str = " |\n {0,64}";

/// A form that a reply must have, checked; cheap to clone.
#[derive(Clone)]
pub struct Constraint {
    pub(super) grammar: Arc<GrammarInit>,
    kind: &'static str,
    /// The JSON schema that it was made of.
    schema: Option<Arc<Value>>,
}

impl fmt::Debug for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Constraint({})", self.kind)
    }
}

impl Constraint {
    /// A JSON value that `schema` (JSON Schema 2020-12 and what earlier drafts
    /// have in common with it) allows. Objects have their properties in the schema's order.
    ///
    /// # Errors
    /// [`Error::Constraint`] with the place and the keyword that is not
    /// supported, or what else is wrong or too large.
    pub fn json_schema(schema: &Value) -> Result<Self> {
        let made = Self::compiled(TopLevelGrammar::from_json_schema(compilable(schema)?), "JSON schema")?;
        Ok(Self { schema: Some(Arc::new(schema.clone())), ..made })
    }

    /// The JSON schema that it was made of, if it was.
    pub fn schema(&self) -> Option<&Value> {
        self.schema.as_deref()
    }

    /// Any JSON object.
    ///
    /// # Errors
    /// As [`Constraint::json_schema`].
    pub fn json_object() -> Result<Self> {
        Self::json_schema(&json!({ "type": "object" }))
    }

    /// A text that the regular expression `pattern` matches from its beginning to its end
    /// (syntax of Rust's `regex`; anchors only at its ends, and repetition is never lazy).
    ///
    /// # Errors
    /// [`Error::Constraint`] with what is wrong or too large.
    pub fn regex(pattern: &str) -> Result<Self> {
        check_size("regular expression", pattern.len())?;
        if hides_text(pattern) {
            return Err(Error::Constraint("regular expression: a group named stop is not supported".into()));
        }
        let backslashes = pattern.bytes().rev().take_while(|&b| b == b'\\').count();
        if backslashes % 2 == 1 {
            return Err(Error::Constraint(
                "regular expression: a backslash at the end escapes nothing".into(),
            ));
        }
        Self::compiled(TopLevelGrammar::from_regex(pattern), "regular expression")
    }

    /// A text of the grammar `source`, in `llguidance`'s variant of Lark. Rule attributes other
    /// than `capture`, `lazy` and `suffix`, and schemas within (`%json`), are refused.
    ///
    /// # Errors
    /// [`Error::Constraint`] with what is wrong or too large.
    pub fn lark(source: &str) -> Result<Self> {
        check_size("grammar", source.len())?;
        lark::check(source)?;
        let grammar = TopLevelGrammar::from_lark(source.to_string());
        // The names of special tokens can only be looked up when the tokens are known.
        Self::compiled(grammar.clone(), "grammar")?;
        Ok(Self { grammar: Arc::new(GrammarInit::Serialized(grammar)), kind: "grammar", schema: None })
    }

    /// One of `texts`.
    ///
    /// # Errors
    /// [`Error::Constraint`] if there are none or too many, or if one is empty.
    pub fn choice(texts: &[String]) -> Result<Self> {
        if texts.is_empty() || texts.len() > MAX_CHOICES {
            let n = texts.len();
            return Err(Error::Constraint(format!("{n} choices; there must be 1 to {MAX_CHOICES}")));
        }
        if let Some(i) = texts.iter().position(String::is_empty) {
            return Err(Error::Constraint(format!("choice {i} is empty")));
        }
        check_size("list of choices", texts.iter().map(String::len).sum())?;
        let options: Vec<String> = texts.iter().map(|text| escaped(text)).collect();
        Self::compiled(TopLevelGrammar::from_regex(&options.join("|")), "choice")
    }

    /// A reply that calls functions as `calls` says.
    ///
    /// # Errors
    /// [`Error::Constraint`] with the function and what its schema asks for.
    pub fn tool_calls(calls: &CallGrammar, tokenizer: &Tokenizer) -> Result<Self> {
        let grammar = TopLevelGrammar::from_lark(calls.lark(tokenizer)?);
        // Control tokens can only be looked up when the tokens are known.
        Self::compiled(grammar.clone(), "tool calls")?;
        Ok(Self { grammar: Arc::new(GrammarInit::Serialized(grammar)), kind: "tool calls", schema: None })
    }

    fn compiled(grammar: TopLevelGrammar, kind: &'static str) -> Result<Self> {
        let init = GrammarInit::Serialized(grammar);
        let (grammar, lexer) = on_own_stack(|| init.to_internal(None, limits()))?;
        Ok(Self { grammar: Arc::new(GrammarInit::Internal(grammar, lexer)), kind, schema: None })
    }
}

/// `schema` as the compiler takes it.
///
/// # Errors
/// [`Error::Constraint`] with the place and what is not supported.
pub(super) fn compilable(schema: &Value) -> Result<Value> {
    let mut schema = schema::checked(schema)?;
    if schema == Value::Bool(true) {
        schema = json!({});
    }
    let Some(object) = schema.as_object_mut() else {
        return Err(Error::Constraint("schema at #: no value is allowed".into()));
    };
    object.insert("x-guidance".into(), json!({ "whitespace_pattern": JSON_SPACE }));
    Ok(schema)
}

fn check_size(what: &str, bytes: usize) -> Result<()> {
    if bytes == 0 || bytes > MAX_BYTES {
        return Err(Error::Constraint(format!("{what} of {bytes} bytes; it must have 1 to {MAX_BYTES}")));
    }
    Ok(())
}

/// A group of this name would be matched, but not be part of the text.
pub(super) fn hides_text(pattern: &str) -> bool {
    pattern.contains("?P<stop>") || pattern.contains("?<stop>")
}

/// A regular expression that matches `text` and nothing else.
pub(super) fn escaped(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len());
    for c in text.chars() {
        // Only these: an escaped `<` is a boundary of words.
        if "\\.+*?()|[]{}^$#&-~".contains(c) {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern
}
