//! Log-probabilities, in the two shapes that OpenAI has for them.

use engine::TokenLogprob;
use serde::Serialize;
use serde_json::{Map, Value};
use tokenizer::Tokenizer;
use utoipa::ToSchema;

/// Those of a chat's reply.
#[derive(Debug, Clone, Default, PartialEq, Serialize, ToSchema)]
pub(crate) struct ChatLogprobs {
    /// A token each.
    pub content: Vec<TokenEntry>,
    /// Those of a refusal, which never is.
    #[schema(value_type = Option<Vec<String>>)]
    pub refusal: Option<()>,
}

/// A token and its alternatives.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct TokenEntry {
    #[serde(flatten)]
    pub token: TokenText,
    /// The likeliest tokens.
    pub top_logprobs: Vec<TokenText>,
}

/// A token with its text and natural logarithm of its probability.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct TokenText {
    /// The text, with U+FFFD for what is not UTF-8.
    pub token: String,
    /// The token's id.
    pub id: u32,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Its log-probability.
    pub logprob: f32,
}

fn text(tokenizer: &Tokenizer, id: u32, logprob: f32) -> TokenText {
    let bytes = tokenizer.token_bytes(id).to_vec();
    // JSON has no infinity; OpenAI says -9999 for what cannot be.
    let logprob = if logprob.is_finite() { logprob } else { -9999.0 };
    TokenText { token: String::from_utf8_lossy(&bytes).into_owned(), id, bytes, logprob }
}

/// One token of a chat's reply.
pub(crate) fn chat_entry(tokenizer: &Tokenizer, id: u32, logprob: &TokenLogprob) -> TokenEntry {
    TokenEntry {
        token: text(tokenizer, id, logprob.logprob),
        top_logprobs: logprob.top.iter().map(|&(id, p)| text(tokenizer, id, p)).collect(),
    }
}

/// Those of a continued text.
#[derive(Debug, Clone, Default, PartialEq, Serialize, ToSchema)]
pub(crate) struct TextLogprobs {
    /// The tokens' texts.
    pub tokens: Vec<String>,
    /// Their log-probabilities.
    pub token_logprobs: Vec<f32>,
    /// For each, the likeliest tokens with theirs.
    #[schema(value_type = Vec<std::collections::BTreeMap<String, f32>>)]
    pub top_logprobs: Vec<Map<String, Value>>,
    /// Where in the text each token begins, in characters.
    pub text_offset: Vec<usize>,
}

impl TextLogprobs {
    /// Adds a token; `offset` is the place after it, and is moved on.
    pub fn add(&mut self, tokenizer: &Tokenizer, id: u32, logprob: &TokenLogprob, offset: &mut usize) {
        let own = text(tokenizer, id, logprob.logprob);
        self.text_offset.push(*offset);
        *offset += own.token.chars().count();
        self.tokens.push(own.token);
        self.token_logprobs.push(own.logprob);
        let top = logprob.top.iter().map(|&(id, p)| text(tokenizer, id, p));
        self.top_logprobs.push(top.map(|top| (top.token, top.logprob.into())).collect());
    }
}
