//! Every architecture on every backend: llama.cpp's logits, and the ways to
//! run the same tokens that must not change them.

mod common;

use backend::{Backend, Role};
use common::{
    OPTIONS, ROUNDINGS, SEED, STRIDE, Sequence, batch, golden, max_difference, run, tiny, tiny_names,
};
use quarrel_model::{LoadOptions, ModelRunner as _, single, testing};

const N_TOKENS: usize = 40;

/// llama.cpp takes GELU from a table of f16 values: each activation is off by
/// up to 2^-11 of its size on the way in and out, and the norms after the
/// feed-forward layers pass that on to the logits in full.
fn bound(name: &str) -> f32 {
    if name.starts_with("gemma") { 4.0 / 2048.0 } else { ROUNDINGS }
}

fn agrees_with_llama_cpp(backend: fn() -> Box<dyn Backend>) {
    let tokens = testing::tiny_tokens(N_TOKENS, SEED);
    let names = tiny_names(backend);
    let mut compared = 0;
    for &name in &names {
        let Some(golden) = golden("tiny", name) else { continue };
        let mut model = tiny(name, backend(), &OPTIONS);
        let mut sequence = Sequence::new(&model, 0, 2);
        let logits = run(&mut model, &mut sequence, &tokens, Role::Prompt);
        let kept: Vec<f32> = logits.into_iter().step_by(STRIDE).collect();
        let difference = max_difference(&kept, &golden);
        println!("{name}: differs by {difference:e}");
        assert!(difference <= bound(name), "{name}: logits differ by {difference}");
        compared += 1;
    }
    assert_eq!(compared, names.len() - 1, "all but llama-window have goldens");
}

/// Within a role, chunking changes no bit; decode may use other arithmetic,
/// which for f32 weights is another order of the same sums.
fn is_the_same_in_chunks(backend: fn() -> Box<dyn Backend>) {
    let tokens = testing::tiny_tokens(N_TOKENS, SEED);
    for name in tiny_names(backend) {
        let mut model = tiny(name, backend(), &OPTIONS);
        let mut in_chunks = |sizes: &[usize], role| {
            let mut sequence = Sequence::new(&model, 0, 2);
            let mut start = 0;
            let mut logits = vec![];
            for &size in sizes {
                logits.extend(run(&mut model, &mut sequence, &tokens[start..start + size], role));
                start += size;
            }
            assert_eq!(start, N_TOKENS);
            logits
        };
        let whole = in_chunks(&[40], Role::Prompt);
        for sizes in [&[7, 13, 20][..], &[32, 8], &[33, 7], &[1; 40]] {
            assert!(in_chunks(sizes, Role::Prompt) == whole, "{name}: chunks {sizes:?} change the logits");
        }
        let decoded = in_chunks(&[1; 40], Role::Generated);
        let verified = in_chunks(&[1, 5, 10, 24], Role::Generated);
        assert!(decoded == verified, "{name}: several generated tokens at once change the logits");
        let difference = max_difference(&decoded, &whole);
        assert!(difference <= ROUNDINGS, "{name}: decode differs from prefill by {difference}");
    }
}

/// Two sequences of different lengths and roles in one batch, in shuffled
/// pages, give the bits that each gives alone.
fn is_the_same_in_company(backend: fn() -> Box<dyn Backend>) {
    let tokens = testing::tiny_tokens(N_TOKENS, SEED);
    let other = testing::tiny_tokens(25, SEED + 1);
    for name in tiny_names(backend) {
        let mut model = tiny(name, backend(), &OPTIONS);
        let n_vocab = model.limits().n_vocab;
        let mut alone = |tokens: &[u32]| {
            let mut sequence = Sequence::new(&model, 0, 2);
            let prompt = run(&mut model, &mut sequence, &tokens[..tokens.len() - 1], Role::Prompt);
            (prompt, run(&mut model, &mut sequence, &tokens[tokens.len() - 1..], Role::Generated))
        };
        let (prompt, last) = alone(&tokens);
        let (other_prompt, other_last) = alone(&other);

        let mut a = Sequence::new(&model, 1, 2).reversed();
        let mut b = Sequence::new(&model, 0, 2).reversed();
        // The second prompt runs beside the first one's decode.
        assert!(run(&mut model, &mut a, &tokens[..39], Role::Prompt) == prompt, "{name}: shuffled pages");
        let inputs = batch(
            &model,
            &mut [(&mut b, &other[..24], Role::Prompt), (&mut a, &tokens[39..], Role::Generated)],
        );
        model.forward(&inputs).expect("the batch fits");
        let logits = model.logits().expect("a batch has run");
        assert!(logits[..24 * n_vocab] == other_prompt, "{name}: a prompt beside a decode");
        assert!(logits[24 * n_vocab..] == last, "{name}: a decode beside a prompt");
        let inputs = batch(&model, &mut [(&mut b, &other[24..], Role::Generated)]);
        model.forward(&inputs).expect("the batch fits");
        assert!(model.logits().expect("a batch has run") == other_last, "{name}: decode after that");
    }
}

/// A sequence that goes on from copies of another's pages gives the same bits, whatever becomes of
/// the pages that were copied.
fn is_the_same_from_copied_pages(backend: fn() -> Box<dyn Backend>) {
    let tokens = testing::tiny_tokens(N_TOKENS, SEED);
    let other = testing::tiny_tokens(N_TOKENS, SEED + 1);
    let (prompt, reply) = tokens.split_at(30);
    for name in tiny_names(backend) {
        let mut model = tiny(name, backend(), &OPTIONS);
        let mut first = Sequence::new(&model, 0, 2);
        run(&mut model, &mut first, prompt, Role::Prompt);
        let mut copy = Sequence { n_context: first.n_context, ..Sequence::new(&model, 1, 2) };
        for (group, (from, to)) in first.pages.iter().zip(&copy.pages).enumerate() {
            let pages: Vec<_> = from.iter().copied().zip(to.iter().copied()).collect();
            model.copy_pages(group, &pages).expect("the pages are there");
        }
        let expected = run(&mut model, &mut first, reply, Role::Generated);
        first.n_context = 0;
        run(&mut model, &mut first, &other, Role::Prompt);
        assert!(run(&mut model, &mut copy, reply, Role::Generated) == expected, "{name}");
    }
}

/// With one layer a position sees its window only: the window's tokens alone
/// give the same logits, as rotary embeddings depend on distances only.
fn sees_only_its_window(backend: fn() -> Box<dyn Backend>) {
    const WINDOW: usize = 16;
    let tokens = testing::tiny_tokens(N_TOKENS, SEED);
    let mut model = tiny("llama-window", backend(), &OPTIONS);
    assert_eq!(model.groups()[0].window, Some(WINDOW as u32));
    let n_vocab = model.limits().n_vocab;
    let mut sequence = Sequence::new(&model, 0, 2);
    let whole = run(&mut model, &mut sequence, &tokens, Role::Prompt);
    for end in [WINDOW, 17, 30, N_TOKENS] {
        let mut sequence = Sequence::new(&model, 0, 2);
        let part = run(&mut model, &mut sequence, &tokens[end - WINDOW..end], Role::Prompt);
        let difference =
            max_difference(&whole[(end - 1) * n_vocab..end * n_vocab], &part[(WINDOW - 1) * n_vocab..]);
        // Other positions, so other sines: some roundings of values around one.
        assert!(difference <= ROUNDINGS, "position {}: {difference}", end - 1);
    }
}

/// A window's pool is smaller than the context; its pages come round again.
fn reuses_pages_of_a_window(backend: fn() -> Box<dyn Backend>) {
    let tokens = testing::tiny_tokens(128, SEED);
    let model = |max_batch_tokens| {
        let options = LoadOptions { context: Some(128), max_batch_tokens, max_sequences: 1, ..OPTIONS };
        tiny("llama-window", backend(), &options)
    };
    let (mut small, mut large) = (model(8), model(128));
    assert_eq!([small.groups()[0].n_pages, large.groups()[0].n_pages], [3, 4]);
    for start in (0..128).step_by(8) {
        let ids = &tokens[start as usize..start as usize + 8];
        let logits = [&mut small, &mut large].map(|model| {
            let rows = single::Rows { ids, start, role: Role::Prompt };
            let batch = single::batch(model.groups(), &rows, (0..8).collect());
            model.forward(&batch).expect("the batch fits");
            model.logits().expect("a batch has run").to_vec()
        });
        assert!(logits[0] == logits[1], "positions from {start}");
    }
}

/// Shares of the pools are apart: several sequences side by side give the bits
/// that each gives with a pool of its own, also when a window's pages come round.
fn shares_pools(backend: fn() -> Box<dyn Backend>) {
    const N: u32 = 3;
    let options =
        |max_sequences| LoadOptions { context: Some(128), max_batch_tokens: 8, max_sequences, ..OPTIONS };
    let tokens: Vec<_> = (0..N).map(|s| testing::tiny_tokens(126, SEED + u64::from(s))).collect();
    for name in ["llama", "llama-window"] {
        let mut together = tiny(name, backend(), &options(N as usize));
        let mut alone: Vec<_> = (0..N).map(|_| tiny(name, backend(), &options(1))).collect();
        for start in (0..126).step_by(2) {
            // Sequences are of different lengths: a step brings one token of the last, two of the others.
            let rows = |s: usize| {
                let (start, n) = if s == 2 { (start / 2, 1) } else { (start, 2) };
                single::Rows { ids: &tokens[s][start..start + n], start: start as u32, role: Role::Generated }
            };
            let sequences: Vec<_> = (0..N).map(|s| (s, rows(s as usize))).collect();
            let batch =
                single::Shares { groups: together.groups(), n: N }.batch(&sequences, (0..5).collect());
            together.forward(&batch).expect("the batch fits");
            let mut expected = vec![];
            for (model, (_, rows)) in alone.iter_mut().zip(&sequences) {
                let outputs = (0..rows.ids.len() as u32).collect();
                let batch = single::batch(model.groups(), rows, outputs);
                model.forward(&batch).expect("the batch fits");
                expected.extend_from_slice(model.logits().expect("a batch has run"));
            }
            assert!(
                together.logits().expect("a batch has run") == expected,
                "{name}: positions from {start}"
            );
        }
    }
}

mod reference {
    use super::common::reference;

    #[test]
    fn agrees_with_llama_cpp() {
        super::agrees_with_llama_cpp(reference);
    }

    #[test]
    fn is_the_same_in_chunks() {
        super::is_the_same_in_chunks(reference);
    }

    #[test]
    fn is_the_same_in_company() {
        super::is_the_same_in_company(reference);
    }

    #[test]
    fn sees_only_its_window() {
        super::sees_only_its_window(reference);
    }

    #[test]
    fn reuses_pages_of_a_window() {
        super::reuses_pages_of_a_window(reference);
    }

    #[test]
    fn shares_pools() {
        super::shares_pools(reference);
    }

    #[test]
    fn is_the_same_from_copied_pages() {
        super::is_the_same_from_copied_pages(reference);
    }
}

mod cpu {
    use super::common::cpu;

    #[test]
    fn agrees_with_llama_cpp() {
        super::agrees_with_llama_cpp(cpu);
    }

    #[test]
    fn is_the_same_in_chunks() {
        super::is_the_same_in_chunks(cpu);
    }

    #[test]
    fn is_the_same_in_company() {
        super::is_the_same_in_company(cpu);
    }

    #[test]
    fn sees_only_its_window() {
        super::sees_only_its_window(cpu);
    }

    #[test]
    fn reuses_pages_of_a_window() {
        super::reuses_pages_of_a_window(cpu);
    }

    #[test]
    fn shares_pools() {
        super::shares_pools(cpu);
    }

    #[test]
    fn is_the_same_from_copied_pages() {
        super::is_the_same_from_copied_pages(cpu);
    }
}

mod cuda {
    use super::common::cuda;

    #[test]
    #[ignore = "needs a CUDA device; run by `cargo xtask gpu`"]
    fn agrees_with_llama_cpp() {
        super::agrees_with_llama_cpp(cuda);
    }

    #[test]
    #[ignore = "needs a CUDA device; run by `cargo xtask gpu`"]
    fn is_the_same_in_chunks() {
        super::is_the_same_in_chunks(cuda);
    }

    #[test]
    #[ignore = "needs a CUDA device; run by `cargo xtask gpu`"]
    fn is_the_same_in_company() {
        super::is_the_same_in_company(cuda);
    }

    #[test]
    #[ignore = "needs a CUDA device; run by `cargo xtask gpu`"]
    fn sees_only_its_window() {
        super::sees_only_its_window(cuda);
    }

    #[test]
    #[ignore = "needs a CUDA device; run by `cargo xtask gpu`"]
    fn reuses_pages_of_a_window() {
        super::reuses_pages_of_a_window(cuda);
    }

    #[test]
    #[ignore = "needs a CUDA device; run by `cargo xtask gpu`"]
    fn shares_pools() {
        super::shares_pools(cuda);
    }

    #[test]
    #[ignore = "needs a CUDA device; run by `cargo xtask gpu`"]
    fn is_the_same_from_copied_pages() {
        super::is_the_same_from_copied_pages(cuda);
    }
}
