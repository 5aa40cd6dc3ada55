//! The tokens themselves: text, kind, bytes, and finding one by its text.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

use crate::{Error, Result};

/// What a token is for, as `tokenizer.ggml.token_type` numbers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Text.
    Normal,
    /// Stands for text that the vocabulary cannot spell.
    Unknown,
    /// Structure, such as the start of a turn: never part of plain text.
    Control,
    /// Text that is recognised before all other rules.
    UserDefined,
    /// A reserved id without meaning.
    Unused,
    /// One byte, for text that has no token.
    Byte,
}

impl Kind {
    /// The kind that GGUF numbers `n`; 0 ("undefined") is a reserved id.
    pub(crate) fn from_gguf(n: i64) -> Option<Self> {
        Some(match n {
            1 => Self::Normal,
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            0 | 5 => Self::Unused,
            6 => Self::Byte,
            _ => return None,
        })
    }
}

/// Strings one after another in one allocation.
#[derive(Debug, Default)]
pub(crate) struct Strings {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Strings {
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.ends.push(self.bytes.len());
    }

    pub fn get(&self, i: usize) -> Option<&[u8]> {
        let end = *self.ends.get(i)?;
        let start = if i == 0 { 0 } else { self.ends[i - 1] };
        Some(&self.bytes[start..end])
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }
}

/// Strings that are found by content as well as by number.
#[derive(Debug, Default)]
pub(crate) struct Index {
    strings: Strings,
    by_text: HashTable<u32>,
    hasher: DefaultHashBuilder,
}

impl Index {
    /// The number of `text`.
    pub fn find(&self, text: &[u8]) -> Option<u32> {
        let hash = self.hasher.hash_one(text);
        self.by_text.find(hash, |&i| self.strings.get(i as usize) == Some(text)).copied()
    }

    /// Appends `text`; `Err` holds the number it already has.
    pub fn insert(&mut self, text: &[u8]) -> Result<u32, u32> {
        if let Some(i) = self.find(text) {
            return Err(i);
        }
        let id = self.strings.len() as u32;
        self.strings.push(text);
        let Self { strings, by_text, hasher } = self;
        by_text.insert_unique(hasher.hash_one(text), id, |&i| {
            hasher.hash_one(strings.get(i as usize).expect("the index holds only numbers of strings"))
        });
        Ok(id)
    }

    pub fn get(&self, i: u32) -> Option<&[u8]> {
        self.strings.get(i as usize)
    }
}

/// All tokens of a model.
#[derive(Debug)]
pub(crate) struct Vocab {
    index: Index,
    kinds: Vec<Kind>,
    bytes: Strings,
    /// The token of each byte, where there is one.
    byte_tokens: [Option<u32>; 256],
}

impl Vocab {
    /// Tokens with their kinds; `decode` gives the bytes of those that are
    /// neither byte tokens nor unused. An empty text cannot be told from the
    /// next, so its token is named `[EMPTY_id]`; it stands for no bytes.
    pub fn new<'a>(
        texts: impl ExactSizeIterator<Item = &'a str>,
        kinds: Vec<Kind>,
        decode: impl Fn(Kind, &str) -> Vec<u8>,
    ) -> Result<Self> {
        if texts.len() == 0 || i32::try_from(texts.len()).is_err() {
            return Err(Error::VocabSize(texts.len()));
        }
        let mut index = Index::default();
        let mut bytes = Strings::default();
        let mut byte_tokens = [None; 256];
        for (id, (text, &kind)) in texts.zip(&kinds).enumerate() {
            let second = id as u32;
            let placeholder = if text.is_empty() { format!("[EMPTY_{id}]") } else { String::new() };
            let name = if text.is_empty() { &placeholder } else { text };
            if let Err(first) = index.insert(name.as_bytes()) {
                return Err(Error::DuplicateToken { text: name.to_owned(), first, second });
            }
            let byte = parse_byte(text);
            if let Some(byte) = byte {
                byte_tokens[usize::from(byte)] = Some(second);
            }
            match (kind, byte) {
                (Kind::Byte, Some(byte)) => bytes.push(&[byte]),
                (Kind::Byte, None) => return Err(Error::ByteToken { id: second, text: text.to_owned() }),
                (Kind::Unused, _) => bytes.push(&[]),
                _ => bytes.push(&decode(kind, text)),
            }
        }
        Ok(Self { index, kinds, bytes, byte_tokens })
    }

    pub fn len(&self) -> usize {
        self.kinds.len()
    }

    pub fn find(&self, text: &str) -> Option<u32> {
        self.index.find(text.as_bytes())
    }

    pub fn text(&self, id: u32) -> Option<&str> {
        self.index.get(id).map(|t| std::str::from_utf8(t).expect("texts were inserted as str"))
    }

    pub fn kind(&self, id: u32) -> Option<Kind> {
        self.kinds.get(id as usize).copied()
    }

    pub fn set_kind(&mut self, id: u32, kind: Kind) {
        self.kinds[id as usize] = kind;
    }

    pub fn bytes(&self, id: u32) -> Option<&[u8]> {
        self.bytes.get(id as usize)
    }

    /// The token `<0xHH>` of a byte.
    pub fn byte_token(&self, byte: u8) -> Option<u32> {
        self.byte_tokens[usize::from(byte)]
    }
}

/// The byte that `<0xHH>` names.
pub(crate) fn parse_byte(text: &str) -> Option<u8> {
    let hex = text.strip_prefix("<0x")?.strip_suffix('>')?;
    (hex.len() == 2 && hex.bytes().all(|b| b.is_ascii_hexdigit()))
        .then(|| u8::from_str_radix(hex, 16).expect("two hexadecimal digits are a byte"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_tokens_are_two_hexadecimal_digits() {
        assert_eq!(parse_byte("<0x0A>"), Some(10));
        assert_eq!(parse_byte("<0xfF>"), Some(255));
        for bad in ["<0x-1>", "<0x+1>", "<0x1>", "<0x100>", "<0x>", "0x0A", "<0x0A", "<0xé>"] {
            assert_eq!(parse_byte(bad), None, "{bad}");
        }
    }
}
