//! Byte-pair encoding: merge rules in order of rank, within each piece.
//!
//! Sennrich et al. 2016, "Neural Machine Translation of Rare Words with
//! Subword Units"; over bytes as in GPT-2, or over characters with byte
//! tokens for the rest as in Gemma 4.

use std::borrow::Cow;

use hashbrown::HashMap;

use crate::merge::{Join, Merger, NONE, Symbol};
use crate::pre::{self, Rules, Spelling};
use crate::vocab::{Index, Vocab};
use crate::{Error, Result, byte_level};

/// The rules, over symbols. A symbol below the vocabulary's size is a token;
/// those above are texts that only merges name, steps on the way to a token.
#[derive(Debug)]
pub(crate) struct Bpe {
    rules: Rules,
    ranks: HashMap<(u32, u32), (u32, u32)>,
    /// Texts of merges that are no tokens, numbered from the vocabulary's size.
    steps: Index,
    /// The symbol of each byte, in the byte-level alphabet.
    bytes: Box<[u32; 256]>,
}

impl Bpe {
    /// Rules from merges, each a left and a right part, best first.
    pub fn new<'a>(vocab: &Vocab, merges: impl Iterator<Item = (&'a str, &'a str)>, rules: Rules) -> Self {
        let mut bpe =
            Self { rules, ranks: HashMap::new(), steps: Index::default(), bytes: Box::new([NONE; 256]) };
        let mut text = String::new();
        let mut by_word = bpe.escapes() && !bpe.rules.ignore_merges;
        for (rank, (left, right)) in merges.enumerate() {
            text.clear();
            text.push_str(left);
            text.push_str(right);
            by_word &= pre::word_starts(&text).next().is_none();
            let pair = (bpe.intern(vocab, left), bpe.intern(vocab, right));
            let merged = bpe.intern(vocab, &text);
            bpe.ranks.entry(pair).or_insert((rank as u32, merged));
        }
        if by_word {
            bpe.rules.passes.to_mut().push(pre::BY_WORD);
        }
        for byte in 0..=255 {
            let c = byte_level::to_char(byte);
            bpe.bytes[usize::from(byte)] = bpe.symbol(vocab, c.encode_utf8(&mut [0; 4]));
        }
        bpe
    }

    fn intern(&mut self, vocab: &Vocab, text: &str) -> u32 {
        vocab.find(text).unwrap_or_else(|| {
            let step = self.steps.insert(text.as_bytes()).unwrap_or_else(|existing| existing);
            vocab.len() as u32 + step
        })
    }

    fn symbol(&self, vocab: &Vocab, text: &str) -> u32 {
        let step = || self.steps.find(text.as_bytes()).map(|step| vocab.len() as u32 + step);
        vocab.find(text).or_else(step).unwrap_or(NONE)
    }

    /// Appends the tokens of `text`.
    pub fn encode(&self, vocab: &Vocab, text: &str, merger: &mut Merger, out: &mut Vec<u32>) {
        let text = if self.escapes() { Cow::Owned(text.replace(' ', "▁")) } else { Cow::Borrowed(text) };
        let text = text.as_ref();
        let mut start = 0;
        let mut spelled = String::new();
        for end in pre::split(text, &self.rules.passes) {
            let piece = &text[start..end];
            start = end;
            if let Some(id) = self.whole(vocab, piece, &mut spelled) {
                out.push(id);
                continue;
            }
            merger.clear();
            if self.escapes() {
                for c in piece.chars() {
                    merger.push(self.symbol(vocab, c.encode_utf8(&mut [0; 4])), c.len_utf8());
                }
            } else {
                for &byte in piece.as_bytes() {
                    merger.push(self.bytes[usize::from(byte)], 1);
                }
            }
            for symbol in merger.run(|left, right| self.join(left, right)) {
                if (symbol.id as usize) < vocab.len() {
                    out.push(symbol.id);
                } else {
                    let bytes = &piece.as_bytes()[symbol.start..][..symbol.len];
                    out.extend(bytes.iter().filter_map(|&b| self.byte(vocab, b)));
                }
            }
        }
    }

    fn escapes(&self) -> bool {
        self.rules.spelling == Spelling::Escaped
    }

    fn join(&self, left: &Symbol, right: &Symbol) -> Option<Join> {
        self.ranks.get(&(left.id, right.id)).map(|&(priority, id)| Join { priority, id })
    }

    /// The token that is the whole piece, where merges do not matter.
    fn whole(&self, vocab: &Vocab, piece: &str, spelled: &mut String) -> Option<u32> {
        if self.rules.ignore_merges && !self.escapes() {
            spelled.clear();
            byte_level::encode(piece.as_bytes(), spelled);
            return vocab.find(spelled);
        }
        // Gemma 4 has tokens of several newlines and no merges that make them.
        let newlines = piece.bytes().all(|b| b == b'\n');
        (self.escapes() && (newlines || self.rules.ignore_merges)).then(|| vocab.find(piece))?
    }

    /// The token of a byte that no merge has taken. Some vocabularies lack
    /// bytes that UTF-8 never or hardly ever has (SmolLM2: 0x06, 0xF3); those
    /// are dropped, as the models' own tokenizers do. The "unknown" token is
    /// no way out: in such vocabularies it is the one that ends a text.
    fn byte(&self, vocab: &Vocab, byte: u8) -> Option<u32> {
        if self.escapes() {
            return vocab.byte_token(byte);
        }
        Some(self.bytes[usize::from(byte)]).filter(|&id| (id as usize) < vocab.len())
    }
}

/// Splits a rule "left right". A part may itself begin with a space.
pub(crate) fn parse_merge(index: usize, text: &str) -> Result<(&str, &str)> {
    let first = text.chars().next().map_or(0, char::len_utf8);
    text[first..]
        .find(' ')
        .map(|space| (&text[..first + space], &text[first + space + 1..]))
        .filter(|(_, right)| !right.is_empty())
        .ok_or_else(|| Error::Merge { index, text: text.to_owned() })
}
