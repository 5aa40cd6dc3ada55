//! Encoding and decoding with vocabularies that can be checked by hand.

mod small;

use quarrel_tokenizer::{Decode, Encode, Kind, Tokenizer};

const PLAIN: Encode = Encode { add_special: false, parse_special: false };
const CHAT: Encode = Encode { add_special: true, parse_special: true };

fn tokenizer(metadata: gguf::Metadata) -> Tokenizer {
    Tokenizer::from_metadata(&metadata).expect("a valid vocabulary")
}

#[test]
fn bpe_merges_by_rank_within_words() {
    let t = tokenizer(small::bpe());
    assert_eq!(t.encode("hello world", PLAIN), [259, 264]);
    // "h", "e" + "llo": "ll" comes before "lo" and "el" is no merge.
    assert_eq!(t.encode("ello", PLAIN), [u32::from(b'e'), 257, u32::from(b'o')]);
    assert!(t.encode("", PLAIN).is_empty());
    assert_eq!(t.encode("\n", PLAIN), [10]);
}

#[test]
fn control_tokens_are_text_unless_asked_for() {
    let t = tokenizer(small::bpe());
    assert_eq!(t.encode("<|im_end|>", CHAT), [266]);
    assert_eq!(t.encode("<|im_end|>", PLAIN).len(), "<|im_end|>".len());
    assert_eq!(t.encode("<tag>hello<tag>", PLAIN), [267, 259, 267]);
    let ids = t.encode("hello<|im_end|>", CHAT);
    assert_eq!(t.decode(&ids, Decode::default()), "hello");
    assert_eq!(t.decode(&ids, Decode { special: true, from_start: false }), "hello<|im_end|>");
}

#[test]
fn roles_and_kinds() {
    let t = tokenizer(small::bpe());
    assert_eq!((t.bos(), t.eos(), t.eot()), (Some(265), Some(266), Some(266)));
    assert_eq!(t.eog(), [266]);
    assert!(t.is_eog(266) && !t.is_eog(0));
    assert!(!t.add_bos() && !t.add_eos());
    assert_eq!(
        (t.kind(0), t.kind(266), t.kind(267)),
        (Some(Kind::Normal), Some(Kind::Control), Some(Kind::UserDefined))
    );
    assert_eq!((t.kind(268), t.token_text(268), t.token_bytes(268)), (None, None, &[][..]));
    assert_eq!((t.token_text(260), t.token_bytes(260)), (Some("Ġw"), &b" w"[..]));
    assert_eq!((t.vocab_size(), t.token_id("Ġworld")), (268, Some(264)));
}

#[test]
fn spm_joins_by_score_and_spells_the_rest_in_bytes() {
    let t = tokenizer(small::spm());
    // "▁ab": "▁a" (259) beats "ab" (260), then "▁ab" (261).
    assert_eq!(t.encode("ab", PLAIN), [261]);
    assert_eq!(t.encode("cab", PLAIN), [262, 265, 260]);
    assert_eq!(t.encode("é", PLAIN), [262, 3 + 0xC3, 3 + 0xA9]);
    assert_eq!(t.encode("ab", CHAT), [1, 261]);
    assert_eq!(t.encode("ab</s>ab", CHAT), [1, 261, 2, 261]);
    // A space that was there, and the one put before it.
    assert_eq!(t.encode(" ab", PLAIN), [262, 261]);
}

#[test]
fn the_space_prefix_goes_again_only_at_the_start() {
    let t = tokenizer(small::spm());
    let ids = t.encode("ab", CHAT);
    let from_start = Decode { special: false, from_start: true };
    assert_eq!(t.decode(&ids, from_start), "ab");
    assert_eq!(t.decode(&ids, Decode::default()), " ab");
    assert_eq!(t.decode(&t.encode(" ab ab", PLAIN), from_start), " ab ab");
}

/// A merge may pass through a text that is no token on its way to one that is,
/// and where it ends there, its bytes' tokens stand for it.
#[test]
fn merges_may_name_texts_that_are_no_tokens() {
    let mut metadata = small::bpe();
    let merges = ["q r", "qr s", "qrs t"].map(String::from);
    let Some(gguf::Value::Array(gguf::Array::String(tokens))) = metadata.get("tokenizer.ggml.tokens") else {
        panic!("the vocabulary has tokens");
    };
    let mut tokens = tokens.clone();
    tokens[264] = "qrst".into();
    metadata.insert("tokenizer.ggml.tokens", gguf::Array::String(tokens));
    metadata.insert("tokenizer.ggml.merges", gguf::Array::String(merges.into()));
    let t = tokenizer(metadata);
    assert_eq!(t.encode("qrst", PLAIN), [264]);
    assert_eq!(t.encode("qrs", PLAIN), b"qrs".map(u32::from));
}

/// Long runs of one character are what makes a careless scanner quadratic:
/// 10^12 steps each, which no machine does within the time of a test run.
#[test]
fn long_runs_take_linear_time() {
    for metadata in [small::bpe(), small::spm()] {
        let t = tokenizer(metadata);
        for unit in ["a", " ", "\n", "'", "1", "\u{301}", "中", "A", " \n", "🦙", "\u{3000}", "/", "ab "] {
            let text = unit.repeat(1_000_000 / unit.len());
            let ids = t.encode(&text, PLAIN);
            assert_eq!(t.decode(&ids, Decode { special: true, from_start: true }), text);
        }
    }
}
