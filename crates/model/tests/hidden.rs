//! Hidden states, from which embeddings are made: against the logits that
//! follow from them, and run in the ways that must not change them.

mod common;

use backend::{Backend, Role};
use common::{OPTIONS, ROUNDINGS, SEED, Sequence, batch, max_difference, tiny, tiny_names};
use quarrel_model::{Error, ForwardBatch, LoadedModel, ModelRunner as _, testing};

const N_TOKENS: usize = 40;

fn hidden(model: &mut LoadedModel, inputs: &ForwardBatch) -> Vec<f32> {
    model.forward_hidden(inputs).expect("the batch fits");
    model.hidden().expect("the batch kept them").to_vec()
}

/// The logits are a linear map of the hidden states, here computed the slow way.
fn logits_follow_from_them(backend: fn() -> Box<dyn Backend>) {
    let tokens = testing::tiny_tokens(N_TOKENS, SEED);
    for name in tiny_names(backend) {
        let file = testing::tiny(name, SEED).expect("the name is from the list");
        let output = file.tensor("output.weight").or_else(|| file.tensor("token_embd.weight"));
        let weights: Vec<f32> = output
            .expect("every model has embeddings")
            .data
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect();
        let mut model = tiny(name, backend(), &OPTIONS);
        let mut sequence = Sequence::new(&model, 0, 2);
        let inputs = batch(&model, &mut [(&mut sequence, &tokens, Role::Prompt)]);
        let hidden = hidden(&mut model, &inputs);
        let logits = model.logits().expect("the same step gives logits").to_vec();
        let (n_embd, config) = (model.config().n_embd, model.config().output.clone());
        let logit = |weight: &[f32], row: &[f32]| {
            let dot: f64 = weight.iter().zip(row).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
            let logit = dot * f64::from(config.scale);
            config.softcap.map_or(logit, |cap| f64::from(cap) * (logit / f64::from(cap)).tanh()) as f32
        };
        let mut slow = Vec::new();
        for row in hidden.chunks_exact(n_embd) {
            slow.extend(weights.chunks_exact(n_embd).map(|weight| logit(weight, row)));
        }
        let difference = max_difference(&slow, &logits);
        assert!(difference <= ROUNDINGS, "{name}: {difference}");
        model.forward(&inputs).expect("the batch fits");
        assert!(model.logits().expect("a batch has run") == logits, "{name}: they change no logit");
        assert!(matches!(model.hidden(), Err(Error::NoHidden)), "{name}: a plain step keeps none");
    }
}

fn do_not_depend_on_chunks_or_company(backend: fn() -> Box<dyn Backend>) {
    let tokens = testing::tiny_tokens(N_TOKENS, SEED);
    let other = testing::tiny_tokens(20, SEED + 1);
    for name in tiny_names(backend) {
        let mut model = tiny(name, backend(), &OPTIONS);
        let n_embd = model.embedding().expect("loaded models embed").n_embd;
        let mut sequence = Sequence::new(&model, 0, 2);
        let inputs = batch(&model, &mut [(&mut sequence, &tokens, Role::Prompt)]);
        let whole = hidden(&mut model, &inputs);
        for cut in [1, 7, 33] {
            let mut a = Sequence::new(&model, 1, 2).reversed();
            let mut b = Sequence::new(&model, 0, 2);
            let mut inputs = batch(&model, &mut [(&mut a, &tokens[..cut], Role::Prompt)]);
            // Nobody wants these rows' logits.
            inputs.outputs.clear();
            let mut chunked = hidden(&mut model, &inputs);
            let rows: &mut [_] =
                &mut [(&mut b, &other[..], Role::Prompt), (&mut a, &tokens[cut..], Role::Prompt)];
            let inputs = batch(&model, rows);
            chunked.extend_from_slice(&hidden(&mut model, &inputs)[other.len() * n_embd..]);
            assert!(chunked == whole, "{name}: a cut at {cut} changes hidden states");
        }
    }
}

mod reference {
    use super::common::reference;

    #[test]
    fn logits_follow_from_them() {
        super::logits_follow_from_them(reference);
    }

    #[test]
    fn do_not_depend_on_chunks_or_company() {
        super::do_not_depend_on_chunks_or_company(reference);
    }
}

mod cpu {
    use super::common::cpu;

    #[test]
    fn logits_follow_from_them() {
        super::logits_follow_from_them(cpu);
    }

    #[test]
    fn do_not_depend_on_chunks_or_company() {
        super::do_not_depend_on_chunks_or_company(cpu);
    }
}

mod cuda {
    use super::common::cuda;

    #[test]
    #[ignore = "needs a CUDA device; run by `cargo xtask gpu`"]
    fn logits_follow_from_them() {
        super::logits_follow_from_them(cuda);
    }

    #[test]
    #[ignore = "needs a CUDA device; run by `cargo xtask gpu`"]
    fn do_not_depend_on_chunks_or_company() {
        super::do_not_depend_on_chunks_or_company(cuda);
    }
}
