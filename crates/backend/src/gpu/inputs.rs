//! A step's inputs as one array of 32-bit words, uploaded at once before each
//! run. Where things lie depends on the bucket alone, so that the arguments of
//! a lowered step never change.
//!
//! Generated rows come first, whatever the order of their sequences, so that
//! kernels for one role find theirs side by side.

use super::items::{self, Splits};
use crate::{Bucket, CacheConfig, Role, Rows, StepInputs, TokenInputs, Wanted};

/// Words that come first: numbers of tokens, of outputs, of generated rows, a zero, then the
/// numbers of rows whose ids are carried over and of prompt items.
const COUNTS: usize = 6;
/// Where the last two stand.
pub(crate) const N_CARRIED_AT: u32 = 4;
pub(crate) const N_PROMPT_ITEMS_AT: u32 = 5;

/// Words that say what is wanted of an output.
const WANTED_WORDS: usize = 6;

/// What a run is to do beside computing.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Asked<'a> {
    /// What of each output; nothing where it is empty.
    pub wanted: &'a [Wanted],
    /// Rows whose ids come from the step before, with the output, of at most as many sequences.
    pub carried: &'a [(u32, u32)],
}

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
    /// Of each output, how many of its likeliest tokens are wanted, how many pairs stand before them, and how
    /// one of them is drawn.
    pub wanted: u32,
    /// Pairs of a row whose id is carried over and the output that it comes from.
    pub carried: u32,
    /// For each group, slots and block tables.
    pub groups: Vec<(u32, u32)>,
    /// Length of a block table.
    pub max_pages: usize,
    /// Items of prompts.
    pub prompt_items: u32,
    /// For each group, the splits of generated rows.
    pub splits: Vec<Splits>,
    /// Words before the items of splits, of which as many follow as there are.
    fixed: usize,
    /// Words in all, at most.
    pub words: usize,
}

impl Layout {
    /// The layout for inputs up to `bucket`; `None` when offsets leave 32 bits.
    pub fn new(bucket: Bucket, cache: &CacheConfig) -> Option<Self> {
        let mut words = COUNTS;
        let mut take = |n: usize| -> Option<u32> {
            let at = u32::try_from(words).ok()?;
            words = words.checked_add(n)?;
            Some(at)
        };
        let [ids, positions, places, sequences] = [(); 4].map(|()| take(bucket.tokens));
        let outputs = take(bucket.outputs)?;
        let wanted = take(bucket.outputs.checked_mul(WANTED_WORDS)?)?;
        let carried = take(bucket.sequences.checked_mul(2)?)?;
        let table = bucket.sequences.checked_mul(bucket.max_pages)?;
        let groups =
            cache.groups.iter().map(|_| Some((take(bucket.tokens)?, take(table)?))).collect::<Option<_>>()?;
        let prompt_items = take(items::prompt_words(bucket)?)?;
        let splits = cache.groups.iter().map(|group| Splits::new(bucket, group, &mut take));
        let splits = splits.collect::<Option<Vec<_>>>()?;
        let fixed = take(0)? as usize;
        splits.iter().try_for_each(|splits| take(splits.item_words()?).map(drop))?;
        let end = take(0)? as usize;
        Some(Self {
            ids: ids?,
            positions: positions?,
            places: places?,
            sequences: sequences?,
            outputs,
            wanted,
            carried,
            groups,
            max_pages: bucket.max_pages,
            prompt_items,
            splits,
            fixed,
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

    /// Where the first of such rows stands, and where the one behind the last.
    pub fn span(rows: RowsOf) -> (u32, u32) {
        match rows {
            RowsOf::All(rows) => (3, Self::n_rows_at(rows)),
            RowsOf::Generated => (3, 2),
            RowsOf::Prompts => (2, 0),
        }
    }

    /// Fills `words` from inputs that have been checked against the bucket. What comes back
    /// is each group's number of batches of generated rows.
    pub fn pack(
        &self,
        inputs: &StepInputs,
        order: &RowOrder,
        Asked { wanted, carried }: Asked<'_>,
        words: &mut Vec<u32>,
    ) -> Vec<usize> {
        words.clear();
        words.resize(self.fixed, 0);
        // All are at most the bucket's, which fit.
        words[0] = inputs.tokens.len() as u32;
        words[1] = inputs.outputs.len() as u32;
        words[2] = order.n_generated as u32;
        words[N_CARRIED_AT as usize] = carried.len() as u32;
        for (i, &(row, output)) in carried.iter().enumerate() {
            put(words, self.carried + 2 * i as u32, &[order.places[row as usize], output]);
        }
        self.put_wanted(wanted, words);
        let place = |row: usize| order.places[row] as usize;
        let mut put_rows = |at: u32, values: &[u32]| {
            for (row, &value) in values.iter().enumerate() {
                words[at as usize + place(row)] = value;
            }
        };
        if let TokenInputs::Ids(ids) = &inputs.tokens {
            put_rows(self.ids, ids);
        }
        put_rows(self.positions, &inputs.positions);
        for (group, &(slots, _)) in inputs.groups.iter().zip(&self.groups) {
            put_rows(slots, &group.slots);
        }
        let mut row = 0;
        for (i, sequence) in inputs.sequences.iter().enumerate() {
            for context in sequence.n_context - sequence.n_rows..sequence.n_context {
                words[self.places as usize + place(row)] = context;
                words[self.sequences as usize + place(row)] = i as u32;
                row += 1;
            }
        }
        for (i, &row) in inputs.outputs.iter().enumerate() {
            words[self.outputs as usize + i] = order.places[row as usize];
        }
        for (group, &(_, tables)) in inputs.groups.iter().zip(&self.groups) {
            let rows = group.block_tables.chunks(group.max_pages.max(1));
            for (i, table) in rows.enumerate() {
                put(words, tables + (i * self.max_pages) as u32, table);
            }
        }
        for (i, item) in items::prompt_items(&inputs.sequences, order.n_generated).enumerate() {
            words[N_PROMPT_ITEMS_AT as usize] = i as u32 + 1;
            put(words, self.prompt_items + 2 * i as u32, &item);
        }
        let of_rows = (self.places, self.sequences);
        self.splits.iter().map(|splits| splits.pack(order.n_generated, of_rows, words)).collect()
    }
}

impl Layout {
    /// Pairs that the host gets come first, in the order of outputs.
    fn put_wanted(&self, wanted: &[Wanted], words: &mut [u32]) {
        let n_pairs = |wanted: &Wanted| if wanted.gives_likeliest() { wanted.n_likeliest() } else { 0 };
        let (mut given, mut others) = (0, wanted.iter().map(n_pairs).sum());
        for (i, wanted) in wanted.iter().enumerate() {
            let (n, draw) =
                (wanted.n_likeliest(), if let Wanted::Drawn(draw) = wanted { draw.words() } else { [0; 4] });
            let next = if wanted.gives_likeliest() { &mut given } else { &mut others };
            let [slope, top_p, least, uniform] = draw;
            put(words, self.wanted + (WANTED_WORDS * i) as u32, &[n, *next, slope, top_p, least, uniform]);
            *next += n;
        }
    }
}

/// Which rows a launch is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RowsOf {
    /// All of such a buffer.
    All(Rows),
    /// Generated tokens.
    Generated,
    /// Tokens of prompts.
    Prompts,
}

impl RowsOf {
    /// The rows of such a buffer that different kernels are for.
    pub fn roles(rows: Rows) -> &'static [Self] {
        match rows {
            Rows::Tokens => &[Self::Generated, Self::Prompts],
            Rows::Outputs => &[Self::All(Rows::Outputs)],
        }
    }

    /// The most there are in a bucket.
    pub fn most(self, bucket: Bucket) -> usize {
        match self {
            Self::All(Rows::Outputs) => bucket.outputs,
            Self::All(Rows::Tokens) | Self::Generated | Self::Prompts => bucket.tokens,
        }
    }

    /// The first of them in a step.
    pub fn first(self, (_, _, generated): (usize, usize, usize)) -> usize {
        match self {
            Self::All(_) | Self::Generated => 0,
            Self::Prompts => generated,
        }
    }

    /// How many there are in a step.
    pub fn count(self, (tokens, outputs, generated): (usize, usize, usize)) -> usize {
        match self {
            Self::All(Rows::Tokens) => tokens,
            Self::All(Rows::Outputs) => outputs,
            Self::Generated => generated,
            Self::Prompts => tokens - generated,
        }
    }
}

/// Where the device has each row of a step.
#[derive(Debug, Clone, Default)]
pub(crate) struct RowOrder {
    /// Each row's place.
    pub places: Vec<u32>,
    /// Generated rows, which have the first places.
    pub n_generated: usize,
}

impl RowOrder {
    /// The order for a step's sequences.
    pub fn set(&mut self, inputs: &StepInputs) {
        let rows_of = |role| {
            let rows = inputs.sequences.iter().filter(move |sequence| sequence.role == role);
            rows.map(|sequence| sequence.n_rows).sum::<u32>()
        };
        let mut next = [0, rows_of(Role::Generated)];
        self.n_generated = next[1] as usize;
        self.places.clear();
        for sequence in &inputs.sequences {
            let next = &mut next[usize::from(sequence.role == Role::Prompt)];
            self.places.extend(*next..*next + sequence.n_rows);
            *next += sequence.n_rows;
        }
    }

    /// Rows of `cols` values as the device has them.
    pub fn to_device(&self, rows: &[f32], cols: usize) -> Vec<f32> {
        let mut moved = vec![0.0; rows.len()];
        for (row, &place) in rows.chunks_exact(cols).zip(&self.places) {
            moved[place as usize * cols..][..cols].copy_from_slice(row);
        }
        moved
    }

    /// The device's rows of `cols` values in the order they were given.
    pub fn to_host(&self, rows: &[f32], cols: usize) -> Vec<f32> {
        self.places.iter().flat_map(|&place| &rows[place as usize * cols..][..cols]).copied().collect()
    }

    /// Whether every row is at its own place.
    pub fn is_given(&self) -> bool {
        self.places.iter().zip(0..).all(|(&place, row)| place == row)
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
        let sequence = |n_rows, n_context, role| SequenceInputs { n_rows, n_context, role };
        let inputs = StepInputs {
            tokens: TokenInputs::Ids(vec![10, 11, 12]),
            positions: vec![100, 101, 102],
            sequences: vec![sequence(1, 6, Role::Prompt), sequence(2, 2, Role::Generated)],
            groups: vec![GroupInputs { slots: vec![29, 0, 1], block_tables: vec![5, 7, 0, 8], max_pages: 2 }],
            outputs: vec![0, 2],
            adapter: None,
        };
        let layout = Layout::new(bucket, &cache).unwrap();
        let mut words = vec![u32::MAX; 3];
        let mut order = RowOrder::default();
        order.set(&inputs);
        let wanted = [Wanted::Token, Wanted::Likeliest(3)];
        let asked = Asked { wanted: &wanted, carried: &[(2, 7)] };
        let batches = layout.pack(&inputs, &order, asked, &mut words);
        assert!(words.len() <= layout.words);
        assert_eq!(batches, [1]);
        let at = |start: u32, n: usize| &words[start as usize..][..n];
        assert_eq!(at(Layout::n_rows_at(Rows::Tokens), 6), [3, 2, 2, 0, 1, 1]);
        assert_eq!(at(layout.carried, 2), [1, 7]);
        assert_eq!(at(layout.ids, 3), [11, 12, 10], "generated rows come first");
        assert_eq!(at(layout.positions, 3), [101, 102, 100], "what the model rotates by");
        assert_eq!(at(layout.places, 3), [0, 1, 5], "where rows stand in their contexts");
        assert_eq!(at(layout.sequences, 3), [1, 1, 0]);
        assert_eq!(at(layout.outputs, 2), [2, 1]);
        let likeliest = [1, 3, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0];
        assert_eq!(at(layout.wanted, 12), likeliest, "the host's three tokens, and one behind them");
        let (slots, tables) = layout.groups[0];
        assert_eq!(at(slots, 3), [0, 1, 29]);
        assert_eq!(at(tables, 6), [5, 7, 0, 0, 8, 0], "rows are as long as the bucket's");
        assert_eq!(at(layout.prompt_items, 2), [2, 1]);
        let [items_at, n_items, ..] = at(layout.splits[0].batch_at(0) as u32, 4) else { unreachable!() };
        let items = [0, 0, 0, 1, 1, 0, 1, 1];
        assert_eq!(
            (at(*items_at, 8), n_items),
            (&items[..], &2),
            "a row, a split, the row's place and sequence"
        );
    }

    #[test]
    fn what_leaves_32_bits_is_refused() {
        let bucket = Bucket { tokens: 1, sequences: 1 << 20, outputs: 1, max_pages: 1 << 20 };
        let group = GroupConfig { n_pages: 1, page_size: 1, window: None };
        let cache = CacheConfig { groups: vec![group], layers: Vec::new() };
        assert!(Layout::new(bucket, &cache).is_none());
    }
}
