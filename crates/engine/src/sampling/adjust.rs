//! What changes single logits: the mask of a constraint, bias, penalties, DRY.

use tokenizer::{Encode, Tokenizer};

use super::{DryParams, PenaltyParams, SampleInput, SamplingParams};
use crate::constraint::TokenMask;

/// From here down, a bias bans its token.
const BAN: f32 = -100.0;

/// A copy of the logits with everything applied; its buffers are reused.
#[derive(Debug, Default)]
pub(super) struct Adjuster {
    logits: Vec<f32>,
    /// One entry a token, all 0 between uses.
    tally: Vec<u32>,
    /// Tokens whose entry in `tally` is not 0.
    touched: Vec<u32>,
    /// See [`common_suffixes`].
    suffixes: Vec<u32>,
}

/// Whether [`Adjuster::apply`] would change nothing.
pub(super) fn is_off(params: &SamplingParams, mask: Option<&TokenMask>) -> bool {
    mask.is_none()
        && params.logit_bias.is_empty()
        && params.penalties.is_off()
        && params.dry.multiplier == 0.0
}

impl Adjuster {
    /// The logits to choose from. A token that is banned has negative infinity.
    pub fn apply(&mut self, input: &SampleInput<'_>) -> &[f32] {
        let params = input.params;
        self.logits.clear();
        match input.mask {
            None => self.logits.extend_from_slice(input.logits),
            Some(mask) => self.logits.extend(
                (0..).zip(input.logits).map(|(id, &x)| if mask.allows(id) { x } else { f32::NEG_INFINITY }),
            ),
        }
        for &(id, bias) in &params.logit_bias {
            if let Some(logit) = self.logits.get_mut(id as usize) {
                *logit = if bias <= BAN { f32::NEG_INFINITY } else { *logit + bias };
            }
        }
        self.tally.resize(self.logits.len(), 0);
        if !params.penalties.is_off() {
            self.penalise(&params.penalties, input.history);
        }
        if params.dry.multiplier > 0.0 {
            self.dry(&params.dry, input.history);
        }
        &self.logits
    }

    fn penalise(&mut self, penalties: &PenaltyParams, history: &[u32]) {
        for &id in last(history, penalties.last_n) {
            let Some(count) = self.tally.get_mut(id as usize) else { continue };
            if *count == 0 {
                self.touched.push(id);
            }
            *count += 1;
        }
        for id in self.touched.drain(..) {
            let count = std::mem::take(&mut self.tally[id as usize]);
            let logit = &mut self.logits[id as usize];
            *logit = penalties.apply(*logit, count);
        }
    }

    /// For each earlier place where the text went on after the same tokens that
    /// stand at its end now, lowers the token that came next there.
    fn dry(&mut self, dry: &DryParams, history: &[u32]) {
        let window = last(history, dry.last_n);
        // A repetition cannot reach across the last breaker.
        let reach = window.iter().rev().take_while(|id| !dry.breakers.contains(id)).count();
        if reach < dry.allowed_length {
            return;
        }
        common_suffixes(window, &mut self.suffixes);
        for (back, &length) in self.suffixes.iter().enumerate().skip(1) {
            let length = length.min(reach as u32);
            let next = window[window.len() - back];
            if (length as usize) < dry.allowed_length || dry.breakers.contains(&next) {
                continue;
            }
            let Some(longest) = self.tally.get_mut(next as usize) else { continue };
            if *longest == 0 {
                self.touched.push(next);
            }
            *longest = length.max(*longest);
        }
        for id in self.touched.drain(..) {
            let length = std::mem::take(&mut self.tally[id as usize]);
            let excess = length as f32 - dry.allowed_length as f32;
            self.logits[id as usize] -= dry.multiplier * dry.base.powf(excess);
        }
    }
}

/// Tokens with their logits, as penalties leave them.
pub(super) fn penalised<'a>(
    tokens: &'a [(u32, f32)],
    penalties: &'a PenaltyParams,
    history: &'a [u32],
) -> impl Iterator<Item = (u32, f32)> + 'a {
    let recent = if penalties.is_off() { &[] } else { last(history, penalties.last_n) };
    tokens.iter().map(move |&(id, logit)| match recent.iter().filter(|&&other| other == id).count() {
        0 => (id, logit),
        count => (id, penalties.apply(logit, count as u32)),
    })
}

fn last(history: &[u32], n: usize) -> &[u32] {
    &history[history.len().saturating_sub(n)..]
}

/// For each `i`, how many tokens `text` and `text` without its last `i` tokens
/// have in common at their ends (the Z algorithm, read backwards; Gusfield 1997, section 1.3).
fn common_suffixes(text: &[u32], lengths: &mut Vec<u32>) {
    let n = text.len();
    let at = |i: usize| text[n - 1 - i];
    lengths.clear();
    lengths.resize(n, 0);
    // The match found so far that reaches furthest back: it begins at `left`, and `right` is past it.
    let (mut left, mut right) = (0, 0);
    for i in 1..n {
        let known = if i < right { (lengths[i - left] as usize).min(right - i) } else { 0 };
        let more = (known..n - i).take_while(|&k| at(k) == at(i + k)).count();
        lengths[i] = (known + more) as u32;
        if i + known + more > right {
            (left, right) = (i, i + known + more);
        }
    }
}

/// The tokens that hold one of `texts`, for [`DryParams::breakers`]: those whose bytes
/// contain it, or, if there are none, the last token of its encoding. Ascending.
pub fn breaker_ids(tokenizer: &Tokenizer, texts: &[String]) -> Vec<u32> {
    let mut ids = Vec::new();
    for text in texts.iter().filter(|text| !text.is_empty()) {
        let bytes = text.as_bytes();
        let before = ids.len();
        ids.extend(
            (0..tokenizer.vocab_size() as u32)
                .filter(|&id| tokenizer.token_bytes(id).windows(bytes.len()).any(|window| window == bytes)),
        );
        if ids.len() == before {
            // After a letter, so that no space is put before it.
            ids.extend(tokenizer.encode(&format!("a{text}"), Encode::default()).last());
        }
    }
    ids.sort_unstable();
    ids.dedup();
    ids
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampling::uniform;

    #[test]
    fn common_suffixes_are_those_of_the_slow_search() {
        let mut lengths = Vec::new();
        for seed in 0..300 {
            let n = (uniform(seed, 0) * 40.0) as usize;
            let kinds = 1.0 + (uniform(seed, 1) * 3.0).floor();
            let text: Vec<u32> = (0..n as u64).map(|i| (uniform(seed, 2 + i) * kinds) as u32).collect();
            common_suffixes(&text, &mut lengths);
            for i in 1..n {
                let shorter = &text[..n - i];
                let slow = text.iter().rev().zip(shorter.iter().rev()).take_while(|(a, b)| a == b).count();
                assert_eq!(lengths[i] as usize, slow, "{text:?} {i}");
            }
        }
    }
}
