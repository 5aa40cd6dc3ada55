//! What attention works through: the contexts of generated rows in splits, prompts in runs of rows.
//!
//! A split is 128 positions that start at a multiple of 128, so that a row's sums are taken
//! alike wherever the row stands. What comes of a row's splits is folded afterwards; rows whose
//! splits have no place in scratch together are done in batches, one after another.

use crate::{Bucket, GroupConfig, Role, SequenceInputs};

/// Positions of a split, as `splits.h` has them.
pub(crate) const SPLIT: usize = 128;
/// Rows of a prompt's item, as `prompt_attention.h` has them.
pub(crate) const PROMPT_ROWS: u32 = 128;
/// Splits of a batch, where one row does not have more: 64 MiB of scratch for 32 heads of 128.
const BATCH_ITEMS: usize = 4096;
/// Words that describe a batch: where its items are, their number, its first row, the row behind its last.
const BATCH_WORDS: usize = 4;
/// Words of a split's item: its row, which of the context's it is, and the row's place in its context and its sequence, which
/// kernels would have to look up one after the other.
const SPLIT_WORDS: usize = 4;
/// Words of a prompt's item.
const PROMPT_WORDS: usize = 2;

/// The splits of one cache group.
#[derive(Debug, Clone)]
pub(crate) struct Splits {
    /// Where batches are described.
    batches_at: u32,
    /// The item of each row's first split, in its batch.
    pub row_items_at: u32,
    /// Splits of all rows together, at most.
    all_items: usize,
    /// Splits of a batch, at most.
    pub batch_items: usize,
    window: Option<u32>,
}

impl Splits {
    /// The splits of a group's layers, with places from `take`; `None` for more than can be counted.
    pub fn new(
        bucket: Bucket,
        group: &GroupConfig,
        mut take: impl FnMut(usize) -> Option<u32>,
    ) -> Option<Self> {
        let context = bucket.max_pages.checked_mul(group.page_size as usize)?;
        let in_window = group.window.map_or(usize::MAX, |window| (window as usize).div_ceil(SPLIT) + 1);
        let row_items = context.div_ceil(SPLIT).min(in_window);
        let all_items = bucket.tokens.checked_mul(row_items)?;
        let batch_items = all_items.min(row_items.max(BATCH_ITEMS));
        // Any two batches that follow each other have more items together than one may have.
        let most_batches = (2 * all_items).div_ceil(batch_items.max(1)) + 1;
        Some(Self {
            batches_at: take(BATCH_WORDS.checked_mul(most_batches)?)?,
            row_items_at: take(bucket.tokens)?,
            all_items,
            batch_items,
            window: group.window,
        })
    }

    /// Words that items take at most.
    pub fn item_words(&self) -> Option<usize> {
        self.all_items.checked_mul(SPLIT_WORDS)
    }

    /// Where batch `i` is described.
    pub fn batch_at(&self, i: usize) -> usize {
        self.batches_at as usize + BATCH_WORDS * i
    }

    /// The splits that a row at `place` of its context sees.
    fn of(&self, place: u32) -> std::ops::RangeInclusive<u32> {
        let from = self.window.map_or(0, |window| (place + 1).saturating_sub(window));
        from / SPLIT as u32..=place / SPLIT as u32
    }

    /// Appends the items of rows `0..n_rows`, whose places and sequences are at `places_at` and `sequences_at`, and
    /// describes their batches; how many there are.
    pub fn pack(&self, n_rows: usize, (places_at, sequences_at): (u32, u32), words: &mut Vec<u32>) -> usize {
        let mut n_batches = 0;
        let mut first_row = 0;
        while first_row < n_rows {
            let (items_at, mut n_items, mut row) = (words.len(), 0, first_row);
            while row < n_rows {
                let [place, sequence] = [places_at, sequences_at].map(|at| words[at as usize + row]);
                let splits = self.of(place);
                let n_splits = (splits.end() - splits.start() + 1) as usize;
                if n_items + n_splits > self.batch_items {
                    break;
                }
                words[self.row_items_at as usize + row] = n_items as u32;
                words.extend(splits.flat_map(|split| [row as u32, split, place, sequence]));
                n_items += n_splits;
                row += 1;
            }
            // All were counted as words of 32 bits when places were dealt.
            let batch = [items_at, n_items, first_row, row].map(|n| n as u32);
            words[self.batch_at(n_batches)..][..BATCH_WORDS].copy_from_slice(&batch);
            first_row = row;
            n_batches += 1;
        }
        n_batches
    }
}

/// The most items that prompts of a bucket have.
pub(crate) fn most_prompt_items(bucket: Bucket) -> usize {
    bucket.tokens / PROMPT_ROWS as usize + bucket.sequences
}

/// Words that they take.
pub(crate) fn prompt_words(bucket: Bucket) -> Option<usize> {
    most_prompt_items(bucket).checked_mul(PROMPT_WORDS)
}

/// The items of prompts, whose rows start with `first_row`: a first row and a number of rows each.
pub(crate) fn prompt_items(
    sequences: &[SequenceInputs],
    first_row: usize,
) -> impl Iterator<Item = [u32; PROMPT_WORDS]> {
    let prompts = sequences.iter().filter(|sequence| sequence.role == Role::Prompt);
    let mut next = first_row as u32;
    let runs = prompts.map(move |prompt| {
        let first = next;
        next += prompt.n_rows;
        (first, next)
    });
    runs.flat_map(|(first, end)| {
        let firsts = (first..end).step_by(PROMPT_ROWS as usize);
        firsts.map(move |row| [row, PROMPT_ROWS.min(end - row)])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn splits(tokens: usize, max_pages: usize, window: Option<u32>) -> (Splits, usize) {
        let bucket = Bucket { tokens, sequences: tokens, outputs: tokens, max_pages };
        let mut words = 0;
        let take = |n: usize| {
            words += n;
            u32::try_from(words - n).ok()
        };
        let splits = Splits::new(bucket, &GroupConfig { n_pages: 1, page_size: 64, window }, take).unwrap();
        (splits, words)
    }

    /// The described batches and their items' rows and splits, of rows of sequences of their own.
    fn packed(splits: &Splits, fixed: usize, places: &[u32]) -> (Vec<[u32; 3]>, Vec<Vec<[u32; 2]>>) {
        let mut words = vec![0; fixed];
        words.extend(places);
        words.extend((0..places.len() as u32).map(|row| row + 7));
        let sequences_at = (fixed + places.len()) as u32;
        let n = splits.pack(places.len(), (fixed as u32, sequences_at), &mut words);
        assert!(words.len() - fixed - 2 * places.len() <= splits.item_words().unwrap());
        let batches = (0..n).map(|i| <[u32; 4]>::try_from(&words[splits.batch_at(i)..][..4]).unwrap());
        let items = batches.clone().map(|[at, n, ..]| {
            let items = words[at as usize..][..SPLIT_WORDS * n as usize].as_chunks().0.iter();
            let item = |&[row, split, place, sequence]: &[u32; SPLIT_WORDS]| {
                assert_eq!((place, sequence), (places[row as usize], row + 7));
                [row, split]
            };
            items.map(item).collect()
        });
        (batches.clone().map(|[_, n, first, end]| [n, first, end]).collect(), items.collect())
    }

    #[test]
    fn every_split_that_a_row_sees_is_an_item() {
        let (whole, words) = splits(3, 8, None);
        let (batches, items) = packed(&whole, words, &[0, 127, 300]);
        assert_eq!(batches, [[5, 0, 3]]);
        assert_eq!(items, [[[0, 0], [1, 0], [2, 0], [2, 1], [2, 2]]]);
        let (windowed, words) = splits(2, 8, Some(129));
        // 172 to 300, and 255 to 383.
        let (batches, items) = packed(&windowed, words, &[300, 383]);
        assert_eq!((batches, windowed.all_items), (vec![[4, 0, 2]], 6));
        assert_eq!(items, [[[0, 1], [0, 2], [1, 1], [1, 2]]]);
    }

    #[test]
    fn rows_whose_splits_are_too_many_are_in_several_batches() {
        let (splits, words) = splits(90, 200, None);
        assert_eq!(splits.batch_items, BATCH_ITEMS);
        // 100 splits each.
        let (batches, items) = packed(&splits, words, &[12_700; 90]);
        assert_eq!(batches, [[4000, 0, 40], [4000, 40, 80], [1000, 80, 90]]);
        assert_eq!((items[1][0], items[2][999]), ([40, 0], [89, 99]));
    }

    #[test]
    fn prompts_are_cut_into_runs_of_rows() {
        let sequence = |n_rows, role| SequenceInputs { n_rows, n_context: 1000, role };
        let sequences =
            [sequence(130, Role::Prompt), sequence(2, Role::Generated), sequence(128, Role::Prompt)];
        let items: Vec<_> = prompt_items(&sequences, 2).collect();
        assert_eq!(items, [[2, 128], [130, 2], [132, 128]]);
    }
}
