//! A set of tokens, one bit each.

/// The tokens that may come next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenMask {
    /// Token `i` is bit `i % 32` of word `i / 32`.
    words: Vec<u32>,
    n_vocab: usize,
}

impl TokenMask {
    /// A set of `n_vocab` tokens from its bits, token `i` in bit `i % 32` of
    /// word `i / 32`. Bits beyond are dropped, missing ones are 0.
    pub fn from_words(mut words: Vec<u32>, n_vocab: usize) -> Self {
        words.resize(n_vocab.div_ceil(32), 0);
        if let Some(last) = words.last_mut()
            && !n_vocab.is_multiple_of(32)
        {
            *last &= (1 << (n_vocab % 32)) - 1;
        }
        Self { words, n_vocab }
    }

    /// The set of `ids`, of `n_vocab` tokens; ids beyond are left out.
    pub fn from_ids(ids: &[u32], n_vocab: usize) -> Self {
        let mut words = vec![0; n_vocab.div_ceil(32)];
        for &id in ids.iter().filter(|&&id| (id as usize) < n_vocab) {
            words[id as usize / 32] |= 1 << (id % 32);
        }
        Self { words, n_vocab }
    }

    /// Whether the token `id` may come next.
    pub fn allows(&self, id: u32) -> bool {
        self.words.get(id as usize / 32).is_some_and(|word| word >> (id % 32) & 1 == 1)
    }

    /// Number of tokens that may.
    pub fn count(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Number of tokens there are.
    pub fn n_vocab(&self) -> usize {
        self.n_vocab
    }

    /// The tokens that may, ascending.
    pub fn ids(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.n_vocab as u32).filter(|&id| self.allows(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_what_was_put_in() {
        for n_vocab in [1, 31, 32, 33, 70] {
            let ids = [0, 5, 31, 32, 69, 70];
            let mask = TokenMask::from_ids(&ids, n_vocab);
            let expected: Vec<u32> = ids.into_iter().filter(|&id| (id as usize) < n_vocab).collect();
            assert_eq!(mask.ids().collect::<Vec<_>>(), expected);
            assert_eq!(mask.count(), expected.len());
            assert!(!mask.allows(u32::MAX) && !mask.allows(n_vocab as u32));
            let all = TokenMask::from_words(vec![u32::MAX; 9], n_vocab);
            assert_eq!((all.count(), all.n_vocab()), (n_vocab, n_vocab));
        }
    }
}
