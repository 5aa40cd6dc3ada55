//! A step's inputs as one array of 32-bit words, uploaded at once before each
//! run. Where things lie depends on the bucket alone, so that the arguments of
//! a lowered step never change.

use crate::{Bucket, CacheConfig, Rows, StepInputs, TokenInputs};

/// Where each part starts, in words.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    /// Token ids.
    pub ids: u32,
    /// Positions as the model counts them.
    pub positions: u32,
    /// Each row's place in its sequence's context, which attention counts by.
    pub places: u32,
    /// Each row's sequence.
    pub sequences: u32,
    /// Rows whose logits are wanted.
    pub outputs: u32,
    /// For each group, slots and block tables.
    pub groups: Vec<(u32, u32)>,
    /// Length of a block table.
    pub max_pages: usize,
    /// Words in all.
    pub words: usize,
}

impl Layout {
    /// The layout for inputs up to `bucket`; `None` when offsets leave 32 bits.
    pub fn new(bucket: Bucket, cache: &CacheConfig) -> Option<Self> {
        // The counts of tokens and of outputs come first.
        let mut words = 2_usize;
        let mut take = |n: usize| -> Option<u32> {
            let at = u32::try_from(words).ok()?;
            words = words.checked_add(n)?;
            Some(at)
        };
        let [ids, positions, places, sequences] = [(); 4].map(|()| take(bucket.tokens));
        let outputs = take(bucket.outputs)?;
        let table = bucket.sequences.checked_mul(bucket.max_pages)?;
        let groups =
            cache.groups.iter().map(|_| Some((take(bucket.tokens)?, take(table)?))).collect::<Option<_>>()?;
        let end = take(0)? as usize;
        Some(Self {
            ids: ids?,
            positions: positions?,
            places: places?,
            sequences: sequences?,
            outputs,
            groups,
            max_pages: bucket.max_pages,
            words: end,
        })
    }

    /// Where the number of rows of such a buffer stands.
    pub fn n_rows_at(rows: Rows) -> u32 {
        match rows {
            Rows::Tokens => 0,
            Rows::Outputs => 1,
        }
    }

    /// Fills `words` from inputs that have been checked against the bucket.
    pub fn pack(&self, inputs: &StepInputs, words: &mut Vec<u32>) {
        words.clear();
        words.resize(self.words, 0);
        let n_tokens = inputs.tokens.len();
        // Both are at most the bucket's, which fit.
        words[0] = n_tokens as u32;
        words[1] = inputs.outputs.len() as u32;
        if let TokenInputs::Ids(ids) = &inputs.tokens {
            put(words, self.ids, ids);
        }
        put(words, self.positions, &inputs.positions);
        put(words, self.outputs, &inputs.outputs);
        let mut row = 0;
        for (i, sequence) in inputs.sequences.iter().enumerate() {
            for place in sequence.n_context - sequence.n_rows..sequence.n_context {
                words[self.places as usize + row] = place;
                words[self.sequences as usize + row] = i as u32;
                row += 1;
            }
        }
        for (group, &(slots, tables)) in inputs.groups.iter().zip(&self.groups) {
            put(words, slots, &group.slots);
            let rows = group.block_tables.chunks(group.max_pages.max(1));
            for (i, table) in rows.enumerate() {
                put(words, tables + (i * self.max_pages) as u32, table);
            }
        }
    }
}

fn put(words: &mut [u32], at: u32, values: &[u32]) {
    words[at as usize..][..values.len()].copy_from_slice(values);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{GroupConfig, GroupInputs, Role, SequenceInputs};

    #[test]
    fn rows_find_their_sequence_and_its_pages() {
        let group = GroupConfig { n_pages: 9, page_size: 4, window: None };
        let cache = CacheConfig { groups: vec![group], layers: Vec::new() };
        let bucket = Bucket { tokens: 4, sequences: 2, outputs: 2, max_pages: 3 };
        let sequence = |n_rows, n_context| SequenceInputs { n_rows, n_context, role: Role::Prompt };
        let inputs = StepInputs {
            tokens: TokenInputs::Ids(vec![10, 11, 12]),
            positions: vec![100, 101, 102],
            sequences: vec![sequence(1, 6), sequence(2, 2)],
            groups: vec![GroupInputs { slots: vec![29, 0, 1], block_tables: vec![5, 7, 0, 8], max_pages: 2 }],
            outputs: vec![0, 2],
            adapter: None,
        };
        let layout = Layout::new(bucket, &cache).unwrap();
        let mut words = vec![u32::MAX; 3];
        layout.pack(&inputs, &mut words);
        assert_eq!(words.len(), layout.words);
        let at = |start: u32, n: usize| &words[start as usize..][..n];
        assert_eq!(at(Layout::n_rows_at(Rows::Tokens), 2), [3, 2]);
        assert_eq!(at(layout.ids, 3), [10, 11, 12]);
        assert_eq!(at(layout.positions, 3), [100, 101, 102], "what the model rotates by");
        assert_eq!(at(layout.places, 3), [5, 0, 1], "where rows stand in their contexts");
        assert_eq!(at(layout.sequences, 3), [0, 1, 1]);
        assert_eq!(at(layout.outputs, 2), [0, 2]);
        let (slots, tables) = layout.groups[0];
        assert_eq!(at(slots, 3), [29, 0, 1]);
        assert_eq!(at(tables, 6), [5, 7, 0, 0, 8, 0], "rows are as long as the bucket's");
    }

    #[test]
    fn what_leaves_32_bits_is_refused() {
        let bucket = Bucket { tokens: 1, sequences: 1 << 20, outputs: 1, max_pages: 1 << 20 };
        let group = GroupConfig { n_pages: 1, page_size: 1, window: None };
        let cache = CacheConfig { groups: vec![group], layers: Vec::new() };
        assert!(Layout::new(bucket, &cache).is_none());
    }
}
