//! Perplexity, against the same figures from logits of whole chunks.

mod common;

use backend::Role;
use common::{OPTIONS, SEED, Sequence, reference, run, tiny};
use quarrel_model::perplexity::{Options, measure};
use quarrel_model::{Error, LoadOptions, testing};

const CONTEXT: usize = 24;
const BOS: u32 = 1;

/// Negative log-likelihoods of the second halves of `chunks` chunks, one by one.
fn expected(name: &str, tokens: &[u32], chunks: usize) -> Vec<f64> {
    let mut model = tiny(name, reference(), &OPTIONS);
    let mut result = vec![];
    for chunk in tokens.chunks_exact(CONTEXT).take(chunks) {
        let mut ids = chunk.to_vec();
        ids[0] = BOS;
        let mut sequence = Sequence::new(&model, 0, 2);
        let logits = run(&mut model, &mut sequence, &ids, Role::Prompt);
        let rows: Vec<&[f32]> = logits.chunks_exact(logits.len() / CONTEXT).collect();
        for position in CONTEXT / 2..CONTEXT - 1 {
            let sum: f64 = rows[position].iter().map(|&x| f64::from(x).exp()).sum();
            result.push(sum.ln() - f64::from(rows[position][chunk[position + 1] as usize]));
        }
    }
    result
}

#[test]
fn steps_of_any_size_give_the_figures_of_whole_chunks() {
    let tokens = testing::tiny_tokens(100, SEED);
    for name in ["llama", "gemma3"] {
        let nll = expected(name, &tokens, 3);
        let mean = nll.iter().sum::<f64>() / nll.len() as f64;
        let variance = nll.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / nll.len() as f64;
        for (max_batch_tokens, max_outputs) in [(64, 64), (5, 5), (64, 1), (7, 3)] {
            let options = LoadOptions { max_batch_tokens, max_outputs, max_sequences: 1, ..OPTIONS };
            let mut model = tiny(name, reference(), &options);
            let options = Options { context: CONTEXT, chunks: Some(3), bos: Some(BOS), role: Role::Prompt };
            let mut seen = vec![];
            let result = measure(&mut model, &tokens, &options, |p| seen.push(p.chunks)).expect("it runs");
            assert_eq!((result.chunks, result.scored, seen.as_slice()), (3, nll.len(), &[1, 2, 3][..]));
            // Both are f64 sums over the same logits, in another order.
            assert!((result.mean_nll() - mean).abs() < 1e-9, "{name}: {} {mean}", result.mean_nll());
            let stderr = (variance / (nll.len() - 1) as f64).sqrt() * mean.exp();
            assert!((result.stderr() / stderr - 1.0).abs() < 1e-6, "{name}: {} {stderr}", result.stderr());
        }
    }
}

#[test]
fn what_cannot_be_measured_is_refused() {
    let tokens = testing::tiny_tokens(100, SEED);
    let mut model = tiny("llama", reference(), &OPTIONS);
    let good = Options { context: CONTEXT, chunks: None, bos: None, role: Role::Prompt };
    let result = measure(&mut model, &tokens, &good, |_| {}).expect("it runs");
    assert_eq!(result.chunks, 100 / CONTEXT);
    for (tokens, options) in [
        (&tokens[..23], good),
        (&tokens[..], Options { context: 2, ..good }),
        (&tokens[..], Options { context: 65, ..good }),
        (&tokens[..], Options { chunks: Some(0), ..good }),
        (&tokens[..], Options { bos: Some(288), ..good }),
    ] {
        assert!(
            matches!(measure(&mut model, tokens, &options, |_| {}), Err(Error::Option { .. })),
            "{options:?}"
        );
    }
}
