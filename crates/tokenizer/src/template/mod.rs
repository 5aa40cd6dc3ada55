//! Chat templates: the Jinja programs in model files that turn a conversation
//! into the text the model was trained on.
//!
//! A template is untrusted: it runs in [`minijinja`] without access to
//! anything but the conversation, with a bound on its work, its memory and its
//! output. It renders the same text as Python's `jinja2` configured as
//! Hugging Face transformers configures it; `tests/template_goldens.rs` holds
//! it to that.

mod builtin;
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

pub use chat::{ChatInput, Content, Message};
pub use error::{Error, Result};
pub use time::DateTime;

/// Stack of the thread that parses and renders; see `source.rs` for what
/// bounds the recursion. Only pages that are touched take memory.
const STACK: usize = 64 << 20;

/// Fuel of any conversation, and more for each byte of it: an instruction
/// takes 1, and so do 64 bytes made.
const BASE_FUEL: u64 = 1 << 20;
const FUEL_PER_BYTE: u64 = 4;

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
        let input = serde_json::to_string(&chat.messages).map_err(|e| Error::Input(e.to_string()))?;
        let mut environment = self.environment.clone();
        environment.set_fuel(Some(BASE_FUEL + FUEL_PER_BYTE * input.len() as u64));
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

/// Runs `work` on a thread with [`STACK`] bytes of stack.
fn on_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        let builder = thread::Builder::new().name("chat template".into()).stack_size(STACK);
        let handle = builder.spawn_scoped(scope, work).map_err(Error::Thread)?;
        handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
