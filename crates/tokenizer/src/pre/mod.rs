//! Pre-tokenizers: how text is cut into pieces before BPE merges within each.
//!
//! A pre-tokenizer is a list of passes. Each pass splits every piece of the
//! pass before into its matches and what lies between them. The patterns are
//! scanners written by hand ([`patterns`]) rather than regular expressions:
//! they are linear in the text, and Unicode classes cost a table look-up.

mod class;
mod hugging_face;
mod patterns;
mod ranges;
mod scan;
mod table;

pub(crate) use hugging_face::{PrefixScheme, passes_of};
pub(crate) use table::{Pre, names};

use std::borrow::Cow;

use crate::byte_level;
use crate::vocab::Kind;

/// One pass over the pieces.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Pass {
    /// Cuts out every match; the function gives the length of the match at
    /// the start of its text.
    Matches(fn(&str) -> Option<usize>),
    /// `\s+$`: cuts off the white space at the end of a piece.
    TrailingSpace,
}

/// How a BPE vocabulary's text is prepared for merging.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    /// How text is cut.
    pub passes: Cow<'static, [Pass]>,
    /// A piece that is a token as a whole is that token, whatever the merges.
    pub ignore_merges: bool,
    /// How tokens are spelled.
    pub spelling: Spelling,
}

/// How a vocabulary spells text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spelling {
    /// In the alphabet of byte-level BPE.
    ByteLevel,
    /// In UTF-8, with `▁` for a space.
    Escaped,
}

impl Spelling {
    /// The bytes of a token that is not a byte token.
    pub fn decode(self, kind: Kind, text: &str) -> Vec<u8> {
        match (kind, self) {
            (Kind::Normal, Self::ByteLevel) => byte_level::decode(text),
            (Kind::Normal, Self::Escaped) => text.replace('▁', " ").into_bytes(),
            _ => text.into(),
        }
    }
}

/// Where a `▁` follows another character.
pub(crate) fn word_starts(text: &str) -> impl Iterator<Item = usize> {
    text.match_indices('▁').map(|(at, _)| at).filter(|&at| at > 0 && !text[..at].ends_with('▁'))
}

/// Cuts text before each word, where nothing can merge across: short pieces
/// merge faster.
pub(crate) const BY_WORD: Pass = Pass::Matches(|text| Some(word_starts(text).next().unwrap_or(text.len())));

/// The pieces of `text`, as the offsets where they end.
pub(crate) fn split(text: &str, passes: &[Pass]) -> Vec<usize> {
    let mut ends = vec![text.len()];
    let mut next = Vec::new();
    for pass in passes {
        next.clear();
        let mut start = 0;
        for &end in &ends {
            split_piece(text, start, end, *pass, &mut next);
            start = end;
        }
        std::mem::swap(&mut ends, &mut next);
    }
    ends
}

fn split_piece(text: &str, start: usize, end: usize, pass: Pass, ends: &mut Vec<usize>) {
    let piece = &text[..end];
    let mut cut = start;
    match pass {
        Pass::TrailingSpace => {
            let trimmed = start + piece[start..].trim_end().len();
            if start < trimmed && trimmed < end {
                ends.push(trimmed);
                cut = trimmed;
            }
        }
        Pass::Matches(matcher) => {
            let mut at = start;
            while let Some(first) = piece[at..].chars().next() {
                let Some(len) = matcher(&piece[at..]) else {
                    at += first.len_utf8();
                    continue;
                };
                if cut < at {
                    ends.push(at);
                }
                at += len;
                ends.push(at);
                cut = at;
            }
        }
    }
    if cut < end {
        ends.push(end);
    }
}
