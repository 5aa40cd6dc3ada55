//! Whether a step's inputs agree with each other, the bucket and the cache, so
//! that kernels can index without checking again.

use crate::{Bucket, CacheConfig, Error, GroupInputs, NO_PAGE, Op, Result, SequenceInputs, Step};
use crate::{StepInputs, TokenInputs, Weight};

/// What the inputs of one lowered step must respect.
#[derive(Debug, Clone)]
pub struct Limits {
    bucket: Bucket,
    /// `(n_vocab, n_embd)` of the step's embeddings, if it has any.
    embedding: Option<(usize, usize)>,
}

impl Limits {
    /// The limits of a step that has passed [`Step::check`].
    pub fn new(step: &Step, weights: &[Weight], bucket: Bucket) -> Self {
        let tables = step.ops().iter().filter_map(|op| match op {
            Op::Embed(embed) => Some(&weights[embed.table.0 as usize]),
            _ => None,
        });
        let embedding = tables.map(|table| (table.rows(), table.cols())).min();
        Self { bucket, embedding }
    }

    /// Checks everything that a kernel relies on.
    ///
    /// # Errors
    /// [`Error::Inputs`].
    pub fn check(&self, inputs: &StepInputs, cache: &CacheConfig) -> Result<()> {
        let n_tokens = inputs.tokens.len();
        if inputs.adapter.is_some() {
            return error("adapters are not supported by any backend yet; give none".to_owned());
        }
        at_most("tokens", n_tokens, self.bucket.tokens)?;
        at_most("sequences", inputs.sequences.len(), self.bucket.sequences)?;
        at_most("outputs", inputs.outputs.len(), self.bucket.outputs)?;
        if n_tokens == 0 {
            return error("there are no tokens".to_owned());
        }
        self.check_tokens(&inputs.tokens)?;
        if inputs.positions.len() != n_tokens {
            return error(format!("{} positions for {n_tokens} tokens", inputs.positions.len()));
        }
        check_rows(&inputs.sequences, n_tokens)?;
        let ascending = inputs.outputs.is_sorted_by(|a, b| a < b);
        if !ascending || inputs.outputs.last().is_some_and(|&row| row as usize >= n_tokens) {
            return error(format!("outputs are not ascending rows below {n_tokens}"));
        }
        if inputs.groups.len() != cache.groups.len() {
            return error(format!("{} groups; the cache has {}", inputs.groups.len(), cache.groups.len()));
        }
        (0..cache.groups.len()).try_for_each(|group| self.check_group(inputs, cache, group))
    }

    fn check_tokens(&self, tokens: &TokenInputs) -> Result<()> {
        let Some((n_vocab, n_embd)) = self.embedding else { return Ok(()) };
        match tokens {
            TokenInputs::Ids(ids) => match ids.iter().find(|&&id| id as usize >= n_vocab) {
                Some(id) => error(format!("token {id} is beyond the vocabulary of {n_vocab}")),
                None => Ok(()),
            },
            TokenInputs::Embeddings { values, n_tokens } => {
                if n_tokens.checked_mul(n_embd) == Some(values.len()) {
                    return Ok(());
                }
                error(format!("{} values are not {n_tokens} embeddings of {n_embd}", values.len()))
            }
        }
    }

    fn check_group(&self, inputs: &StepInputs, cache: &CacheConfig, group: usize) -> Result<()> {
        let GroupInputs { slots, block_tables, max_pages } = &inputs.groups[group];
        let (config, n_tokens) = (&cache.groups[group], inputs.tokens.len());
        let fail = |what: String| error(format!("group {group}: {what}"));
        at_most("block table entries a sequence", *max_pages, self.bucket.max_pages)?;
        if slots.len() != n_tokens {
            return fail(format!("{} slots for {n_tokens} tokens", slots.len()));
        }
        if inputs.sequences.len().checked_mul(*max_pages) != Some(block_tables.len()) {
            let n = inputs.sequences.len();
            return fail(format!("{} block table entries are not {n} × {max_pages}", block_tables.len()));
        }
        let (page_size, mut row) = (config.page_size, 0);
        for (i, sequence) in inputs.sequences.iter().enumerate() {
            let table = &block_tables[i * max_pages..(i + 1) * max_pages];
            let first = sequence.n_context - sequence.n_rows;
            let oldest = config.window.map_or(0, |window| (first + 1).saturating_sub(window));
            let (from, to) = ((oldest / page_size) as usize, ((sequence.n_context - 1) / page_size) as usize);
            let Some(visible) = table.get(from..=to) else {
                return fail(format!("sequence {i} needs {} pages, its table has {max_pages}", to + 1));
            };
            if let Some(page) = visible.iter().find(|&&page| page >= config.n_pages) {
                let page = if *page == NO_PAGE { "a freed page".to_owned() } else { format!("page {page}") };
                return fail(format!("sequence {i} sees {page}; there are {}", config.n_pages));
            }
            for position in first..sequence.n_context {
                let page = table[(position / page_size) as usize];
                let expected = page * page_size + position % page_size;
                if slots[row] != expected {
                    let slot = slots[row];
                    return fail(format!("row {row} is stored at slot {slot}; its table says {expected}"));
                }
                row += 1;
            }
        }
        Ok(())
    }
}

fn error(what: String) -> Result<()> {
    Err(Error::Inputs(what))
}

fn at_most(what: &str, found: usize, most: usize) -> Result<()> {
    if found <= most {
        return Ok(());
    }
    error(format!("{found} {what}; the step was lowered for at most {most}"))
}

/// Each sequence has rows, which are the last of its context; together they are all rows.
fn check_rows(sequences: &[SequenceInputs], n_tokens: usize) -> Result<()> {
    for (i, SequenceInputs { n_rows, n_context, .. }) in sequences.iter().enumerate() {
        if *n_rows == 0 || n_rows > n_context {
            return error(format!("sequence {i} has {n_rows} rows of {n_context} in its context"));
        }
    }
    let n_rows: u64 = sequences.iter().map(|sequence| u64::from(sequence.n_rows)).sum();
    if n_rows == n_tokens as u64 {
        return Ok(());
    }
    error(format!("the sequences have {n_rows} rows for {n_tokens} tokens"))
}
