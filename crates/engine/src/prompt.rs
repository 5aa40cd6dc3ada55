//! From a conversation to the tokens of a prompt.

use tokenizer::template::{ChatInput, Result, Template};
use tokenizer::{Encode, Tokenizer};

/// What a model reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// As the template wrote it.
    pub text: String,
    /// Its tokens.
    pub ids: Vec<u32>,
}

/// Renders the conversation and encodes the text, special tokens included.
/// The beginning-of-text token is added where the model wants one and the
/// template has not written it already.
///
/// # Errors
/// What the template says of the conversation.
pub fn encode_chat(tokenizer: &Tokenizer, template: &Template, chat: &ChatInput) -> Result<Prompt> {
    let text = template.render(chat)?;
    let mut ids = tokenizer.encode(&text, Encode { add_special: false, parse_special: true });
    if let Some(bos) = tokenizer.bos().filter(|_| tokenizer.add_bos())
        && ids.first() != Some(&bos)
    {
        ids.insert(0, bos);
    }
    Ok(Prompt { text, ids })
}
