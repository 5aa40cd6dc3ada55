//! Token ids that llama.cpp's project publishes for its vocabularies, most of
//! them made by each model's own tokenizer: `ggml-vocab-*.gguf.inp` holds the
//! texts, `.out` the ids. `cargo xtask fixtures` fetches them.

mod fixtures;

use quarrel_tokenizer::{Encode, Tokenizer};

const SEPARATOR: &str = "\n__ggml_vocab_test__\n";

/// Every text of a vocabulary's file, with its ids.
fn check(name: &str) {
    let tokenizer = fixtures::tokenizer(name);
    let texts = read(&format!("ggml-vocab-{name}.gguf.inp"));
    let expected = read(&format!("ggml-vocab-{name}.gguf.out"));
    // Most files end with a separator, gemma-4's with a text.
    let texts: Vec<&str> = texts.strip_suffix(SEPARATOR).unwrap_or(&texts).split(SEPARATOR).collect();
    let expected: Vec<&str> = expected.lines().collect();
    assert!(texts.len() >= 40 && texts.len() == expected.len(), "{name}: {} texts", texts.len());
    for (text, ids) in texts.iter().zip(expected) {
        let ids: Vec<u32> = ids.split_whitespace().map(|id| id.parse().expect("an id")).collect();
        let found = tokenizer.encode(text, Encode::default());
        assert_eq!(found, ids, "{name}: {text:?}: {:?}", spell(&tokenizer, &found));
    }
}

fn read(name: &str) -> String {
    let path = fixtures::path(name);
    std::fs::read_to_string(&path)
        .unwrap_or_else(|e| panic!("{}: {e}; run `cargo xtask fixtures` first", path.display()))
}

fn spell<'a>(tokenizer: &'a Tokenizer, ids: &[u32]) -> Vec<&'a str> {
    ids.iter().filter_map(|&id| tokenizer.token_text(id)).collect()
}

macro_rules! goldens {
    ($($test:ident: $name:literal),* $(,)?) => {
        $(#[test] fn $test() { check($name); })*
    };
}

goldens! {
    gpt_2: "gpt-2",
    llama_bpe: "llama-bpe",
    llama_spm: "llama-spm",
    qwen2: "qwen2",
    qwen35: "qwen35",
    gemma_4: "gemma-4",
    phi_3: "phi-3",
    deepseek_llm: "deepseek-llm",
    deepseek_coder: "deepseek-coder",
    falcon: "falcon",
    mpt: "mpt",
    starcoder: "starcoder",
    refact: "refact",
    command_r: "command-r",
}
