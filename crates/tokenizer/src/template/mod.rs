//! Chat templates: the Jinja programs in model files that turn a conversation
//! into the text the model was trained on.
//!
//! A template is untrusted: it runs in [`minijinja`] without access to
//! anything but the conversation, with a bound on its work, its memory and its
//! output. It renders the same text as Python's `jinja2` configured as
//! Hugging Face transformers configures it; `tests/template_goldens.rs` holds
//! it to that.

mod builtin;
mod capabilities;
mod chat;
mod engine;
mod error;
mod filters;
mod guard;
mod json;
mod methods;
mod source;
mod time;
mod tokens;

use std::thread;

use minijinja::value::Serde;
use minijinja::{Environment, Value};
use serde::Serialize;

pub use capabilities::{Capabilities, ToolArguments};
pub use chat::{ChatInput, Content, Message};
pub use error::{Error, Result};
pub use time::DateTime;

/// Stack of the thread that parses and renders; see `source.rs` for what
/// bounds the recursion. Only pages that are touched take memory.
const STACK: usize = 64 << 20;

/// Fuel of any conversation, more for each byte of it, and more for each pair
/// of messages, because some templates look at all messages for each one. An
/// instruction takes 1, and so do 64 bytes made. Measured on llama.cpp's
/// collection: up to 1,450 for one message, 350 for each further one, and 3.6
/// for each pair; so the limit on the last is reached at 2,000 messages.
const BASE_FUEL: u64 = 1 << 20;
const FUEL_PER_BYTE: u64 = 4;
const FUEL_PER_PAIR: u64 = 4;
const MAX_PAIR_FUEL: u64 = 1 << 24;

/// The texts of special tokens that templates name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct SpecialTokens {
    /// Beginning of a text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bos_token: Option<String>,
    /// End of a text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eos_token: Option<String>,
    /// Unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unk_token: Option<String>,
    /// Padding.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pad_token: Option<String>,
}

/// A parsed template.
#[derive(Debug)]
pub struct Template {
    environment: Environment<'static>,
    source: String,
    special: SpecialTokens,
}

impl Template {
    /// Parses Jinja source.
    ///
    /// # Errors
    /// [`Error::TooLong`], [`Error::Syntax`].
    pub fn parse(source: &str, special: SpecialTokens) -> Result<Self> {
        let code = source::prepare(source)?;
        let environment = on_thread(|| {
            let mut environment = engine::environment();
            environment.add_template_owned(engine::NAME, code)?;
            Ok(environment)
        })?;
        Ok(Self { environment, source: source.to_owned(), special })
    }

    /// The Jinja source.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The text of a conversation.
    ///
    /// # Errors
    /// [`Error::Refused`] when the template does not accept the conversation,
    /// [`Error::Failed`] when it breaks on it, [`Error::Exhausted`] when it
    /// runs away.
    pub fn render(&self, chat: &ChatInput) -> Result<String> {
        let mut environment = self.environment.clone();
        environment.set_fuel(Some(fuel(chat)?));
        if let Some(now) = chat.now {
            environment.add_function("strftime_now", move |format: &str| now.strftime(format));
        }
        on_thread(|| {
            let template = environment.get_template(engine::NAME)?;
            Ok(template.render(self.context(chat))?)
        })
    }

    /// The variables.
    fn context(&self, chat: &ChatInput) -> Value {
        let mut names: Vec<(String, Value)> = Vec::new();
        let mut set = |name: &str, value: Value| names.push((name.to_owned(), value));
        set("messages", Value::from(Serde(&chat.messages)));
        set("tools", Value::from(Serde(&chat.tools)));
        set("documents", Value::from(()));
        set("add_generation_prompt", Value::from(chat.add_generation_prompt));
        if let Some(thinking) = chat.enable_thinking {
            set("enable_thinking", Value::from(thinking));
        }
        for (name, token) in [
            ("bos_token", &self.special.bos_token),
            ("eos_token", &self.special.eos_token),
            ("unk_token", &self.special.unk_token),
            ("pad_token", &self.special.pad_token),
        ] {
            if let Some(token) = token {
                set(name, Value::from(token.as_str()));
            }
        }
        for (name, value) in &chat.extra {
            set(name, Value::from(Serde(value)));
        }
        Value::from_pairs(names)
    }
}

/// What a conversation may cost.
fn fuel(chat: &ChatInput) -> Result<u64> {
    let input = serde_json::to_string(&(&chat.messages, &chat.tools, &chat.extra));
    let bytes = input.map_err(|e| Error::Input(e.to_string()))?.len() as u64;
    let messages = chat.messages.len() as u64;
    let pairs = messages.saturating_mul(messages).saturating_mul(FUEL_PER_PAIR);
    Ok(BASE_FUEL + FUEL_PER_BYTE * bytes + pairs.min(MAX_PAIR_FUEL))
}

/// Runs `work` on a thread with [`STACK`] bytes of stack.
fn on_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        let builder = thread::Builder::new().name("chat template".into()).stack_size(STACK);
        let handle = builder.spawn_scoped(scope, work).map_err(Error::Thread)?;
        // The source is untrusted and the engine is not ours: should it panic, that
        // is this template's failure and no other's.
        handle.join().unwrap_or(Err(Error::Engine))
    })
}
