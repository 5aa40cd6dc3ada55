//! Damaged and malicious vocabularies: each is a typed error, or harmless in
//! the way its test says.

mod small;

use gguf::{Array, Metadata, Value};
use quarrel_tokenizer::{Decode, Encode, Error, Tokenizer};

/// The error of a small vocabulary with one key changed.
fn error(mut metadata: Metadata, key: &str, value: impl Into<Value>) -> Error {
    metadata.insert(key, value);
    Tokenizer::from_metadata(&metadata).expect_err("the vocabulary is damaged")
}

fn tokens(metadata: &Metadata) -> Vec<String> {
    metadata.strings("tokenizer.ggml.tokens").expect("strings").expect("there").to_vec()
}

fn types(metadata: &Metadata) -> Vec<i32> {
    let types = metadata.i64s("tokenizer.ggml.token_type").expect("integers").expect("there");
    types.into_iter().map(|x| x as i32).collect()
}

macro_rules! assert_error {
    ($result:expr, $pattern:pat) => {{
        let error = $result;
        assert!(matches!(error, $pattern), "{error:?}");
        error.to_string()
    }};
}

#[test]
fn wrong_types() {
    let scores = Array::U8(vec![0; 267]);
    assert_error!(error(small::spm(), "tokenizer.ggml.scores", scores), Error::Metadata(_));
    assert_error!(error(small::bpe(), "tokenizer.ggml.scores", 1.0f32), Error::Metadata(_));
    assert_error!(error(small::bpe(), "tokenizer.ggml.tokens", "hello"), Error::Metadata(_));
    assert_error!(error(small::bpe(), "tokenizer.ggml.tokens", Array::I32(vec![1])), Error::Metadata(_));
    assert_error!(error(small::bpe(), "tokenizer.ggml.merges", Array::I32(vec![1])), Error::Metadata(_));
    assert_error!(
        error(small::bpe(), "tokenizer.ggml.token_type", Array::F32(vec![1.0])),
        Error::Metadata(_)
    );
    assert_error!(error(small::bpe(), "tokenizer.ggml.model", 3u32), Error::Metadata(_));
    assert_error!(error(small::bpe(), "tokenizer.ggml.pre", false), Error::Metadata(_));
    assert_error!(error(small::bpe(), "tokenizer.ggml.add_bos_token", "yes"), Error::Metadata(_));
    assert_error!(error(small::bpe(), "tokenizer.ggml.eos_token_id", "</s>"), Error::Metadata(_));
    assert_error!(error(small::bpe(), "tokenizer.ggml.padding_token_id", 0.5f32), Error::Metadata(_));
    assert_error!(error(small::bpe(), "general.name", 1u8), Error::Metadata(_));
}

#[test]
fn missing_keys() {
    for key in ["tokenizer.ggml.model", "tokenizer.ggml.tokens", "tokenizer.ggml.merges"] {
        let mut metadata = Metadata::new();
        for (k, v) in small::bpe().iter().filter(|(k, _)| *k != key) {
            metadata.insert(k, v.clone());
        }
        let error = Tokenizer::from_metadata(&metadata).expect_err("a key is missing");
        assert!(error.to_string().contains(key), "{error}");
    }
}

#[test]
fn what_is_not_supported_is_said_with_what_is() {
    for model in ["t5", "bert", "rwkv", "plamo2", ""] {
        let said =
            assert_error!(error(small::bpe(), "tokenizer.ggml.model", model), Error::UnsupportedModel { .. });
        assert!(said.contains("gpt2") && said.contains("llama"), "{said}");
    }
    let said = assert_error!(
        error(small::bpe(), "tokenizer.ggml.pre", "nonesuch"),
        Error::UnknownPreTokenizer { .. }
    );
    assert!(said.contains("nonesuch") && said.contains("qwen2") && said.contains("gpt-2"), "{said}");
}

#[test]
fn byte_tokens_that_are_none() {
    for text in ["<0x-1>", "<0x>", "<0xGG>", "<0x100>", "byte"] {
        let mut metadata = small::spm();
        let mut tokens = tokens(&metadata);
        tokens[3] = text.into();
        metadata.insert("tokenizer.ggml.tokens", Array::String(tokens));
        let found = Tokenizer::from_metadata(&metadata).expect_err("a byte token without a byte");
        assert_error!(found, Error::ByteToken { id: 3, .. });
    }
}

#[test]
fn lengths_that_disagree() {
    for len in [0, 266, 268] {
        let scores = Array::F32(vec![0.0; len]);
        assert_error!(error(small::spm(), "tokenizer.ggml.scores", scores), Error::LengthMismatch { .. });
        let types = Array::I32(vec![1; len + 1]);
        assert_error!(error(small::bpe(), "tokenizer.ggml.token_type", types), Error::LengthMismatch { .. });
    }
    let none = Array::String(Vec::new());
    let mut metadata = small::bpe();
    metadata.insert("tokenizer.ggml.token_type", Array::I32(Vec::new()));
    assert_error!(error(metadata, "tokenizer.ggml.tokens", none), Error::VocabSize(0));
}

#[test]
fn types_that_are_none() {
    for found in [-1, 7, i32::MAX] {
        let metadata = small::bpe();
        let mut types = types(&metadata);
        types[5] = found;
        let types = Array::I32(types);
        assert_error!(error(metadata, "tokenizer.ggml.token_type", types), Error::TokenType { id: 5, .. });
    }
}

#[test]
fn duplicate_tokens() {
    let metadata = small::bpe();
    let mut tokens = tokens(&metadata);
    tokens[7] = tokens[5].clone();
    let tokens = Array::String(tokens);
    let found = error(metadata, "tokenizer.ggml.tokens", tokens);
    assert_error!(found, Error::DuplicateToken { first: 5, second: 7, .. });
}

/// Several empty tokens are no duplicates; they stand for nothing.
#[test]
fn empty_tokens_are_harmless() {
    let mut metadata = small::bpe();
    let mut tokens = tokens(&metadata);
    (tokens[0], tokens[1]) = (String::new(), String::new());
    metadata.insert("tokenizer.ggml.tokens", Array::String(tokens));
    let t = Tokenizer::from_metadata(&metadata).expect("empty tokens are allowed");
    assert_eq!(t.decode(&[0, 1, 259], Decode::default()), "hello");
}

#[test]
fn special_ids_out_of_range() {
    for key in ["bos", "eos", "eot", "eom", "unknown"].map(|role| format!("tokenizer.ggml.{role}_token_id")) {
        for id in [268u64, 0xFFFF_FFFE, u64::MAX] {
            let found = error(small::bpe(), &key, id);
            assert_error!(found, Error::SpecialOutOfRange { tokens: 268, .. });
        }
    }
    assert_error!(error(small::bpe(), "tokenizer.ggml.bos_token_id", -2i32), Error::Metadata(_));
}

/// Converters write -1 for "none", and fine-tunes name a padding token that
/// they did not keep; neither matters for encoding.
#[test]
fn ids_that_mean_none() {
    let mut metadata = small::bpe();
    metadata.insert("tokenizer.ggml.bos_token_id", -1i32);
    metadata.insert("tokenizer.ggml.unknown_token_id", u32::MAX);
    metadata.insert("tokenizer.ggml.padding_token_id", 268u32);
    let t = Tokenizer::from_metadata(&metadata).expect("such files exist");
    assert_eq!((t.bos(), t.unk(), t.pad()), (None, None, None));
    assert_error!(error(metadata, "tokenizer.ggml.add_bos_token", true), Error::NoSuchSpecial { .. });
}

#[test]
fn merges_that_are_none() {
    for text in ["", " ", "ab", "a ", "  "] {
        let merges = Array::String(vec!["h e".into(), text.into()]);
        assert_error!(error(small::bpe(), "tokenizer.ggml.merges", merges), Error::Merge { index: 1, .. });
    }
}

/// Merges over characters that the vocabulary lacks change nothing.
#[test]
fn merges_of_unknown_tokens_are_harmless() {
    let mut metadata = small::bpe();
    let merges = ["中 文", "中文 x", "he nonesuch"].map(String::from);
    metadata.insert("tokenizer.ggml.merges", Array::String(merges.into()));
    let t = Tokenizer::from_metadata(&metadata).expect("such merges are allowed");
    assert_eq!(t.encode("中文", Encode::default()).len(), 6);
}

/// A token longer than 16 bits, 24 bits or a cache of pieces can hold.
#[test]
fn long_tokens() {
    for mut metadata in [small::bpe(), small::spm()] {
        let mut tokens = tokens(&metadata);
        let long = "x".repeat((1 << 24) + 1);
        tokens[266] = long.clone();
        metadata.insert("tokenizer.ggml.tokens", Array::String(tokens));
        let t = Tokenizer::from_metadata(&metadata).expect("length is no fault");
        let all = Decode { special: true, from_start: false };
        assert_eq!(t.decode(&[266, 266], all).len(), 2 * long.len());
    }
}

/// Scores that compare with nothing do not upset the order of the others.
#[test]
fn scores_that_are_no_numbers() {
    let mut metadata = small::spm();
    let mut scores = vec![f32::NAN; 267];
    scores[260] = f32::INFINITY;
    metadata.insert("tokenizer.ggml.scores", Array::F32(scores));
    let t = Tokenizer::from_metadata(&metadata).expect("scores are only compared");
    let ids = t.encode("ab ab", Encode::default());
    assert_eq!(t.decode(&ids, Decode { special: true, from_start: true }), "ab ab");
}
