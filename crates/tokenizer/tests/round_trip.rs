//! Any text survives encoding and decoding, and decoding token by token gives
//! what decoding at once gives.

mod fixtures;
mod random;
mod small;

use quarrel_tokenizer::{Decode, Detokenizer, Encode, Tokenizer};
use random::Random;

/// Texts for each vocabulary: 100,000 in all.
const TEXTS: usize = 20_000;

/// Everything shown, from the beginning of a text.
const WHOLE: Decode = Decode { special: true, from_start: true };

fn incremental(tokenizer: &Tokenizer, ids: &[u32], opts: Decode) -> String {
    let mut stream = Detokenizer::new(tokenizer, opts);
    let mut text: String = ids.iter().map(|&id| stream.push(id)).collect();
    text.push_str(&stream.finish());
    text
}

/// `spaced`: the vocabulary writes spaces as `▁`, and cannot tell the two apart.
fn check(tokenizer: &Tokenizer, spaced: bool, texts: usize) {
    let mut random = Random(7);
    for _ in 0..texts {
        let mut text = random.text();
        if spaced {
            text.retain(|c| c != '▁');
        }
        let ids = tokenizer.encode(&text, Encode::default());
        assert_eq!(tokenizer.decode(&ids, WHOLE), text);
        assert_eq!(incremental(tokenizer, &ids, WHOLE), text);
        // Any ids, most of which are no valid text.
        let ids: Vec<u32> = (0..9).map(|_| random.below(tokenizer.vocab_size() + 1) as u32).collect();
        for opts in [WHOLE, Decode::default()] {
            assert_eq!(incremental(tokenizer, &ids, opts), tokenizer.decode(&ids, opts), "{ids:?}");
        }
    }
}

#[test]
fn gpt_2() {
    check(&fixtures::tokenizer("gpt-2"), false, TEXTS);
}

#[test]
fn llama_bpe() {
    check(&fixtures::tokenizer("llama-bpe"), false, TEXTS);
}

#[test]
fn qwen2() {
    check(&fixtures::tokenizer("qwen2"), false, TEXTS);
}

#[test]
fn gemma_4() {
    check(&fixtures::tokenizer("gemma-4"), true, TEXTS);
}

#[test]
fn llama_spm() {
    check(&fixtures::tokenizer("llama-spm"), true, TEXTS);
}

#[test]
fn small_vocabularies() {
    let of = |metadata| Tokenizer::from_metadata(&metadata).expect("a valid vocabulary");
    check(&of(small::bpe()), false, 2_000);
    check(&of(small::spm()), true, 2_000);
}

/// A stream never gives half a character, nor more than whole characters.
#[test]
fn characters_come_whole() {
    let tokenizer = Tokenizer::from_metadata(&small::bpe()).expect("a valid vocabulary");
    let ids = tokenizer.encode("é🦙", Encode::default());
    assert_eq!(ids.len(), 6);
    let mut stream = Detokenizer::new(&tokenizer, Decode::default());
    let pieces: Vec<String> = ids.iter().map(|&id| stream.push(id)).collect();
    assert_eq!(pieces, ["", "é", "", "", "", "🦙"]);
    assert_eq!(stream.finish(), "");

    let mut stream = Detokenizer::new(&tokenizer, Decode::default());
    let pieces: Vec<String> = ids[..3].iter().chain(&ids[..2]).map(|&id| stream.push(id)).collect();
    assert_eq!(pieces, ["", "é", "", "\u{FFFD}", "é"]);

    let mut stream = Detokenizer::new(&tokenizer, Decode::default());
    assert_eq!((stream.push(ids[2]), stream.finish()), (String::new(), "\u{FFFD}".to_owned()));
}
