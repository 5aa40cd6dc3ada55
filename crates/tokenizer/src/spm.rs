//! SentencePiece's BPE: joins the pair whose token has the best score.
//!
//! Kudo and Richardson 2018, "SentencePiece". Spaces are `▁` (U+2581) here;
//! what has no token is spelled in byte tokens.

use crate::merge::{Join, Merger, NONE, Symbol};
use crate::pre::word_starts;
use crate::vocab::Vocab;

/// Scores as ranks: the best score is 0.
#[derive(Debug)]
pub(crate) struct Spm {
    priorities: Vec<u32>,
    /// No token is longer, in bytes.
    max_len: usize,
    /// No token has `▁` after another character, so that nothing joins across
    /// the beginning of a word, and each word can be merged on its own.
    by_word: bool,
    unk: Option<u32>,
}

impl Spm {
    /// One score for each token.
    pub fn new(vocab: &Vocab, scores: &[f32], unk: Option<u32>) -> Self {
        let priorities = scores.iter().map(|&score| priority(score)).collect();
        let texts = || (0..vocab.len() as u32).filter_map(|id| vocab.text(id));
        let max_len = texts().map(str::len).max().unwrap_or(0);
        let by_word = texts().all(|text| word_starts(text).next().is_none());
        Self { priorities, max_len, by_word, unk }
    }

    /// Appends the tokens of `text`.
    pub fn encode(&self, vocab: &Vocab, text: &str, merger: &mut Merger, out: &mut Vec<u32>) {
        let text = text.replace(' ', "▁");
        let text = text.as_str();
        let mut start = 0;
        for end in word_starts(text).filter(|_| self.by_word).chain([text.len()]) {
            self.encode_piece(vocab, &text[start..end], merger, out);
            start = end;
        }
    }

    fn encode_piece(&self, vocab: &Vocab, text: &str, merger: &mut Merger, out: &mut Vec<u32>) {
        merger.clear();
        for c in text.chars() {
            merger.push(vocab.find(c.encode_utf8(&mut [0; 4])).unwrap_or(NONE), c.len_utf8());
        }
        for symbol in merger.run(|left, right| self.join(vocab, text, left, right)) {
            if symbol.id == NONE {
                let bytes = &text.as_bytes()[symbol.start..][..symbol.len];
                out.extend(bytes.iter().filter_map(|&b| vocab.byte_token(b).or(self.unk)));
            } else {
                out.push(symbol.id);
            }
        }
    }

    fn join(&self, vocab: &Vocab, text: &str, left: &Symbol, right: &Symbol) -> Option<Join> {
        let len = left.len + right.len;
        if len > self.max_len {
            return None;
        }
        let id = vocab.find(&text[left.start..][..len])?;
        Some(Join { priority: self.priorities[id as usize], id })
    }
}

/// A number that is lower for a higher score, in the order of `f32::total_cmp`.
fn priority(score: f32) -> u32 {
    // -0.0 and 0.0 are the same score.
    let bits = (score + 0.0).to_bits();
    let ascending = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
    !ascending
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_higher_score_comes_first() {
        let scores = [f32::INFINITY, 1e9, 1.0, 0.5, 0.0, -0.5, -1.0, -32000.0, f32::NEG_INFINITY];
        assert!(scores.windows(2).all(|w| priority(w[0]) < priority(w[1])));
        assert_eq!(priority(0.0), priority(-0.0));
    }
}
