//! The grammar of replies that call functions, in each model's way to write calls.

use serde_json::{Value, json};
use tokenizer::{Kind, Tokenizer};

use super::spec::{compilable, escaped};
use crate::{Error, Result, ToolFormat};

/// Most calls in a reply.
const MAX_CALLS: usize = 16;
/// Most functions a reply may choose from.
const MAX_TOOLS: usize = 128;
/// Longest name of a function, in bytes.
const MAX_NAME_BYTES: usize = 256;

/// A function that may be called.
#[derive(Debug, Clone, PartialEq)]
pub struct Callable {
    /// Its name.
    pub name: String,
    /// JSON schema of its arguments, which are an object; `None`: any object.
    pub arguments: Option<Value>,
}

/// What a reply that calls functions looks like.
#[derive(Debug, Clone, PartialEq)]
pub struct CallGrammar {
    /// How the model writes calls.
    pub format: ToolFormat,
    /// What may be called.
    pub tools: Vec<Callable>,
    /// The reply is calls; otherwise it may be text, or begin with text.
    pub required: bool,
    /// More than one call may come.
    pub parallel: bool,
    /// JSON schema of replies that are no calls, where none are required.
    pub form: Option<Value>,
    /// What opens and closes the reasoning that may come first.
    pub reasoning: Option<(&'static str, &'static str)>,
    /// The prompt has opened the reasoning already.
    pub in_reasoning: bool,
}

impl CallGrammar {
    /// The grammar in `llguidance`'s variant of Lark.
    pub(super) fn lark(&self, tokenizer: &Tokenizer) -> Result<String> {
        self.check()?;
        let reasoning = self.reasoning();
        let lark = match &self.form {
            _ if self.required => format!("start: {reasoning}calls\n"),
            // The two begin alike, and the lexer would not find back.
            Some(_) if self.format.is_bare() => {
                let what = "this model's calls are JSON themselves, so that a form of other replies is not supported";
                return Err(Error::Constraint(what.into()));
            }
            Some(schema) => {
                let schema = compilable(schema)?;
                format!("start: {reasoning}(calls | form)\nform: %json {schema}\n")
            }
            None => self.optional(tokenizer),
        };
        Ok(lark + &self.reasoning_rules(tokenizer) + &self.calls(tokenizer)?)
    }

    fn check(&self) -> Result<()> {
        let n = self.tools.len();
        if n == 0 || n > MAX_TOOLS {
            return Err(Error::Constraint(format!("{n} functions to call; there must be 1 to {MAX_TOOLS}")));
        }
        match self.tools.iter().find(|tool| tool.name.is_empty() || tool.name.len() > MAX_NAME_BYTES) {
            Some(tool) => {
                let n = tool.name.len();
                Err(Error::Constraint(format!(
                    "a function's name of {n} bytes; it must have 1 to {MAX_NAME_BYTES}"
                )))
            }
            None => Ok(()),
        }
    }

    /// Text that may become calls.
    fn optional(&self, tokenizer: &Tokenizer) -> String {
        let text = "TEXT: /(.|\\n)+/\n";
        if self.format.is_bare() {
            // Without a mark before it, a reply is a call if it begins as one.
            return "start: calls | PROSE\nPROSE: /[^{ \\n\\t\\r](.|\\n)*/\n".into();
        }
        let markers = self.format.markers().iter().map(|marker| marker.trim_end());
        if markers.clone().any(|marker| control(tokenizer, marker).is_some()) {
            return format!("start: TEXT? calls?\n{text}");
        }
        // Lazy: from the first mark on, the text is a call.
        let marks: Vec<String> = markers.map(in_regex).collect();
        let newline = if self.format.opening().ends_with('\n') { "\\n" } else { "" };
        let marks = marks.join("|");
        format!("start: TEXT? | mark after_mark\nmark[lazy]: /(.|\\n)*({marks}){newline}/\n{text}")
    }

    /// The reference to what may come before calls.
    fn reasoning(&self) -> &'static str {
        match (self.reasoning, self.in_reasoning) {
            (None, _) => "",
            (Some(_), true) => "thought ",
            (Some(_), false) => "thinking? ",
        }
    }

    fn reasoning_rules(&self, tokenizer: &Tokenizer) -> String {
        let ruled = self.required || self.form.is_some();
        let Some((open, close)) = self.reasoning.filter(|_| ruled) else { return String::new() };
        let thought = match control(tokenizer, close) {
            Some(id) => format!("thought: THOUGHT? <[{id}]> GAP?\nTHOUGHT: /(.|\\n)+/\n"),
            None => {
                format!("thought: thought_text GAP?\nthought_text[lazy]: /(.|\\n)*{}/\n", in_regex(close))
            }
        };
        format!("{thought}thinking: {} thought\nGAP: /\\n{{1,2}}/\n", spelled(tokenizer, open))
    }

    /// `calls`, and `after_mark`: what follows the mark of the first.
    fn calls(&self, tokenizer: &Tokenizer) -> Result<String> {
        let mark = spelled(tokenizer, self.format.opening());
        let closing = spelled(tokenizer, self.format.closing());
        let (before, unit, separator, after) = match self.format {
            ToolFormat::Hermes | ToolFormat::Gemma => {
                ("", format!("call {closing}"), format!("\"\\n\" {mark}"), "")
            }
            ToolFormat::MistralArgs => ("", "call".into(), mark.clone(), ""),
            ToolFormat::Mistral => ("\"[\"", "call".into(), "\", \"".into(), "\"]\""),
            ToolFormat::Llama3 => ("", "call".into(), String::new(), ""),
        };
        let again = match self.parallel && !separator.is_empty() {
            true => format!("({separator} {unit}){{0,{}}}", MAX_CALLS - 1),
            false => String::new(),
        };
        let names: Vec<String> = (0..self.tools.len()).map(|i| format!("call_{i}")).collect();
        let mut lark = format!(
            "calls: {mark} after_mark\nafter_mark: {before} {unit} {again} {after}\ncall: {}\n",
            names.join(" | ")
        );
        for (i, tool) in self.tools.iter().enumerate() {
            lark += &self.call(i, tool, &spelled(tokenizer, "[ARGS]"))?;
        }
        Ok(lark)
    }

    /// One function's call.
    fn call(&self, i: usize, tool: &Callable, args: &str) -> Result<String> {
        let schema = arguments(tool)?;
        let name = Value::from(tool.name.as_str());
        let key = if self.format == ToolFormat::Llama3 { "parameters" } else { "arguments" };
        let call = match self.format {
            ToolFormat::MistralArgs => format!("{} {args} args_{i}", literal(&tool.name)),
            _ => {
                let head = literal(&format!("{{\"name\": {name}, \"{key}\": "));
                format!("{head} args_{i} \"}}\"")
            }
        };
        Ok(format!("call_{i}: {call}\nargs_{i}: %json {schema}\n"))
    }
}

/// The schema of a function's arguments.
fn arguments(tool: &Callable) -> Result<Value> {
    let mut schema = tool.arguments.clone().unwrap_or_else(|| json!({"type": "object"}));
    if let Some(object) = schema.as_object_mut() {
        let kind = object.entry("type").or_insert_with(|| "object".into());
        if kind != "object" {
            let name = &tool.name;
            return Err(Error::Constraint(format!(
                "the arguments of {name} must be of type object, not {kind}"
            )));
        }
    }
    compilable(&schema).map_err(|error| match error {
        Error::Constraint(what) => Error::Constraint(format!("the arguments of {}: {what}", tool.name)),
        error => error,
    })
}

/// The control token that is written as `text`.
fn control(tokenizer: &Tokenizer, text: &str) -> Option<u32> {
    tokenizer.token_id(text).filter(|&id| tokenizer.kind(id) == Some(Kind::Control))
}

/// `text` as Lark, with the control token in it, blanks aside, if it is one.
fn spelled(tokenizer: &Tokenizer, text: &str) -> String {
    match control(tokenizer, text.trim()) {
        Some(id) if text.starts_with('\n') => format!("\"\\n\" <[{id}]>"),
        Some(id) if text.ends_with('\n') => format!("<[{id}]> \"\\n\""),
        Some(id) => format!("<[{id}]>"),
        None if text.is_empty() => String::new(),
        None => literal(text),
    }
}

/// `text` as a string of Lark.
fn literal(text: &str) -> String {
    Value::from(text).to_string()
}

/// `text` within an expression of Lark.
fn in_regex(text: &str) -> String {
    escaped(text).replace('/', "\\/")
}
