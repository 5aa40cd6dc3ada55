//! Text from tokens as they come, whole characters at a time.

use std::ops::Deref;

use crate::{Decode, Tokenizer};

/// Turns a stream of tokens into text. What it gives, taken together, is what
/// [`Tokenizer::decode`] gives for all tokens at once. `T` is whatever holds
/// the tokenizer: a reference, or an `Arc` for a stream that outlives its caller.
#[derive(Debug)]
pub struct Detokenizer<T> {
    tokenizer: T,
    opts: Decode,
    /// The beginning of a character whose other bytes are yet to come.
    pending: Vec<u8>,
    started: bool,
}

impl<T: Deref<Target = Tokenizer>> Detokenizer<T> {
    /// A stream that starts before the first token.
    pub fn new(tokenizer: T, opts: Decode) -> Self {
        Self { tokenizer, opts, pending: Vec::new(), started: false }
    }

    /// The text that `id` completes, which may be empty. Bytes that are not
    /// UTF-8 become U+FFFD, by the rule of [`String::from_utf8_lossy`].
    pub fn push(&mut self, id: u32) -> String {
        self.push_as(id, self.opts)
    }

    /// As [`push`](Self::push), but a control token is text too.
    pub fn push_shown(&mut self, id: u32) -> String {
        self.push_as(id, Decode { special: true, ..self.opts })
    }

    fn push_as(&mut self, id: u32, opts: Decode) -> String {
        let piece = self.tokenizer.piece(id, opts, !self.started);
        self.started |= self.tokenizer.begins_text(id);
        self.pending.extend_from_slice(piece);
        let mut text = String::with_capacity(self.pending.len());
        let mut rest = self.pending.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    self.pending.clear();
                    return text;
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    text.push_str(std::str::from_utf8(valid).expect("checked by the line above"));
                    let Some(bad) = error.error_len() else {
                        self.pending = after.to_vec();
                        return text;
                    };
                    text.push(char::REPLACEMENT_CHARACTER);
                    rest = &after[bad..];
                }
            }
        }
    }

    /// The end of the stream: U+FFFD if it stopped inside a character.
    pub fn finish(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.pending)).into_owned()
    }
}
