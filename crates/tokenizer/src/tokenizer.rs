//! The tokenizer of a model: text to token ids and back.

use std::borrow::Cow;

use unicode_normalization::{UnicodeNormalization, is_nfc};

use crate::bpe::Bpe;
use crate::merge::Merger;
use crate::partition::{Part, Partition};
use crate::special::Special;
use crate::spm::Spm;
use crate::vocab::{Kind, Vocab};

/// How to encode.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Encode {
    /// Add the tokens that the model expects around a text (beginning, end).
    pub add_special: bool,
    /// Read the text of control tokens as those tokens: for text that a chat
    /// template made, not for what a user typed.
    pub parse_special: bool,
}

/// How to decode.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Decode {
    /// Write control tokens as their text rather than leaving them out.
    pub special: bool,
    /// The tokens are a text from its beginning: drop the space that encoding
    /// put there. For a continuation, leave it.
    pub from_start: bool,
}

/// A model's tokenizer, from its file's metadata alone.
#[derive(Debug)]
pub struct Tokenizer {
    pub(crate) vocab: Vocab,
    pub(crate) model: Model,
    pub(crate) partition: Partition,
    pub(crate) special: Special,
    pub(crate) add_bos: bool,
    pub(crate) add_eos: bool,
    pub(crate) space_prefix: Option<SpacePrefix>,
    /// Compose characters and their marks first (Unicode normal form C).
    pub(crate) nfc: bool,
}

/// When a space is put before text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SpacePrefix {
    /// After each special token too, rather than only at the beginning.
    pub every_part: bool,
    /// Even where there is a space already.
    pub even_before_space: bool,
}

impl SpacePrefix {
    /// What SentencePiece's models expect of llama.cpp.
    pub const EVERY_PART: Self = Self { every_part: true, even_before_space: true };

    fn applies(self, text: &str, first: bool) -> bool {
        (first || self.every_part) && (self.even_before_space || !text.starts_with(' '))
    }
}

/// The algorithm that turns plain text into tokens.
#[derive(Debug)]
pub(crate) enum Model {
    Bpe(Bpe),
    Spm(Spm),
}

impl Tokenizer {
    /// The token ids of `text`.
    pub fn encode(&self, text: &str, opts: Encode) -> Vec<u32> {
        let mut ids = Vec::with_capacity(text.len() / 3 + 2);
        if opts.add_special && self.add_bos {
            ids.extend(self.special.bos);
        }
        let mut merger = Merger::default();
        let mut after_special = true;
        for (i, part) in self.partition.split(&self.vocab, text, opts.parse_special).iter().enumerate() {
            match *part {
                Part::Token(id) => ids.push(id),
                Part::Text(text) => {
                    let text = self.prepare(text, i == 0, after_special);
                    match &self.model {
                        Model::Bpe(bpe) => bpe.encode(&self.vocab, &text, &mut merger, &mut ids),
                        Model::Spm(spm) => spm.encode(&self.vocab, &text, &mut merger, &mut ids),
                    }
                }
            }
            after_special = matches!(part, Part::Token(_));
        }
        if opts.add_special && self.add_eos {
            ids.extend(self.special.eos);
        }
        ids
    }

    /// The text as its vocabulary's normaliser has it.
    fn prepare<'a>(&self, text: &'a str, first: bool, after_special: bool) -> Cow<'a, str> {
        let text = match self.nfc && !is_nfc(text) {
            true => Cow::Owned(text.nfc().collect()),
            false => Cow::Borrowed(text),
        };
        match self.space_prefix {
            Some(prefix) if after_special && prefix.applies(&text, first) => Cow::Owned(format!(" {text}")),
            _ => text,
        }
    }

    /// The bytes that `ids` stand for; ids outside the vocabulary stand for
    /// nothing.
    pub fn decode_bytes(&self, ids: &[u32], opts: Decode) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut started = false;
        for &id in ids {
            bytes.extend_from_slice(self.piece(id, opts, !started));
            started |= self.begins_text(id);
        }
        bytes
    }

    /// As [`Tokenizer::decode_bytes`], with what is not UTF-8 as U+FFFD.
    pub fn decode(&self, ids: &[u32], opts: Decode) -> String {
        String::from_utf8_lossy(&self.decode_bytes(ids, opts)).into_owned()
    }

    /// What `id` adds to a text.
    pub(crate) fn piece(&self, id: u32, opts: Decode, first: bool) -> &[u8] {
        if !opts.special && self.is_hidden(id) {
            return &[];
        }
        let bytes = self.token_bytes(id);
        if first && opts.from_start && self.space_prefix.is_some() && self.begins_text(id) {
            return bytes.strip_prefix(b" ").unwrap_or(bytes);
        }
        bytes
    }

    /// Whether `id` is text, so that the space before the first word is past.
    pub(crate) fn begins_text(&self, id: u32) -> bool {
        !self.is_hidden(id)
    }

    fn is_hidden(&self, id: u32) -> bool {
        matches!(self.vocab.kind(id), None | Some(Kind::Control | Kind::Unknown))
    }

    /// Number of tokens: ids are below it.
    pub fn vocab_size(&self) -> usize {
        self.vocab.len()
    }

    /// A token as the vocabulary spells it (`Ġthe`, `▁the`, `<0x0A>`).
    pub fn token_text(&self, id: u32) -> Option<&str> {
        self.vocab.text(id)
    }

    /// The bytes a token stands for, the text of a control token included;
    /// none for an unused token or an id outside the vocabulary.
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        self.vocab.bytes(id).unwrap_or_default()
    }

    /// The id of a token by its spelling in the vocabulary.
    pub fn token_id(&self, text: &str) -> Option<u32> {
        self.vocab.find(text)
    }

    /// What a token is for; `None` outside the vocabulary.
    pub fn kind(&self, id: u32) -> Option<Kind> {
        self.vocab.kind(id)
    }

    /// The token at the beginning of a text.
    pub fn bos(&self) -> Option<u32> {
        self.special.bos
    }

    /// The token at the end of a text.
    pub fn eos(&self) -> Option<u32> {
        self.special.eos
    }

    /// The token at the end of a turn in a conversation.
    pub fn eot(&self) -> Option<u32> {
        self.special.eot
    }

    /// The token at the end of a message that expects a tool's answer.
    pub fn eom(&self) -> Option<u32> {
        self.special.eom
    }

    /// The token for what cannot be spelled.
    pub fn unk(&self) -> Option<u32> {
        self.special.unk
    }

    /// The token that fills up a batch.
    pub fn pad(&self) -> Option<u32> {
        self.special.pad
    }

    /// Every token that ends a generation, ascending.
    pub fn eog(&self) -> &[u32] {
        &self.special.eog
    }

    /// Whether `id` ends a generation.
    pub fn is_eog(&self, id: u32) -> bool {
        self.special.eog.binary_search(&id).is_ok()
    }

    /// Whether [`Encode::add_special`] adds [`Tokenizer::bos`].
    pub fn add_bos(&self) -> bool {
        self.add_bos
    }

    /// Whether [`Encode::add_special`] adds [`Tokenizer::eos`].
    pub fn add_eos(&self) -> bool {
        self.add_eos
    }
}
