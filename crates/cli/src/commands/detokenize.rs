//! `quarrel detokenize`: token ids to text.

use anyhow::{Context, Result, ensure};
use tokenizer::Decode;

use crate::args::DetokenizeArgs;
use crate::{loading, output};

/// Prints the text of the ids.
pub fn run(args: &DetokenizeArgs) -> Result<()> {
    let words = args.ids.iter().flat_map(|s| s.split([' ', ',', '\n', '[', ']'])).filter(|s| !s.is_empty());
    let ids: Vec<u32> = words
        .map(|word| word.parse().with_context(|| format!("`{word}` is not a token id")))
        .collect::<Result<_>>()?;
    let tokenizer = loading::tokenizer(&args.model)?;
    for &id in &ids {
        let n_vocab = tokenizer.vocab_size();
        ensure!((id as usize) < n_vocab, "token {id} is not in the vocabulary of {n_vocab} tokens");
    }
    let text = tokenizer.decode(&ids, Decode { special: true, from_start: true });
    Ok(output::show(&(text + "\n"))?)
}
