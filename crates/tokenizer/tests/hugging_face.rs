//! Ids equal to those of Hugging Face's `tokenizers`, for small files of each
//! shape; `hugging_face/make.py` makes them.

use quarrel_tokenizer::{Decode, Encode, Error, Kind, Tokenizer};
use serde_json::{Value, json};

fn golden(name: &str) -> Value {
    let path = format!("{}/tests/hugging_face/{name}.json", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn tokenizer(file: &Value) -> Result<Tokenizer, Error> {
    Tokenizer::from_hugging_face(&file.to_string(), None)
}

fn check(name: &str) {
    let golden = golden(name);
    let tokenizer = tokenizer(&golden["tokenizer"]).unwrap_or_else(|e| panic!("{name}: {e}"));
    let cases = golden["expected"].as_array().expect("a list of cases");
    assert_eq!(cases.len(), 21);
    for case in cases {
        let text = case[0].as_str().expect("a text");
        let ids: Vec<u32> = serde_json::from_value(case[1].clone()).expect("ids");
        let found = tokenizer.encode(text, Encode { add_special: true, parse_special: true });
        assert_eq!(found, ids, "{name}: {text:?}");
    }
}

#[test]
fn byte_level() {
    for name in ["gpt2", "smollm", "qwen2", "llama3"] {
        check(name);
    }
}

#[test]
fn byte_fallback() {
    for name in ["llama2", "gemma", "metaspace"] {
        check(name);
    }
}

#[test]
fn roles_come_from_the_configuration() {
    let file = golden("qwen2")["tokenizer"].to_string();
    let config = json!({
        "bos_token": {"content": "<s>"}, "eos_token": "<|im_end|>", "pad_token": null, "add_bos_token": true,
    });
    let t = Tokenizer::from_hugging_face(&file, Some(&config.to_string())).expect("a valid file");
    assert_eq!((t.bos(), t.eos(), t.pad()), (Some(1), Some(3), None));
    assert!(t.add_bos() && !t.add_eos() && t.is_eog(3) && t.is_eog(2) && !t.is_eog(0));
    assert_eq!(t.kind(3), Some(Kind::Control));
    let tool = t.token_id("<tool>").expect("an added token");
    assert_eq!(t.kind(tool), Some(Kind::UserDefined));
    assert_eq!(t.decode(&[1, tool, 3], Decode::default()), "<tool>");
}

/// What makes a valid file invalid.
type Change = fn(&mut Value);

/// A file of the given model, with one thing changed.
fn changed(name: &str, change: Change) -> Error {
    let mut file = golden(name)["tokenizer"].take();
    change(&mut file);
    tokenizer(&file).expect_err("the file is changed for the worse")
}

#[test]
fn what_is_not_supported_is_named() {
    let unsupported: [(&str, Change); 8] = [
        ("Unigram", |f| f["model"]["type"] = json!("Unigram")),
        ("WordPiece", |f| f["model"]["type"] = json!("WordPiece")),
        ("Lowercase", |f| f["normalizer"] = json!({"type": "Lowercase"})),
        ("Whitespace", |f| f["pre_tokenizer"] = json!({"type": "Whitespace"})),
        (r"\w+", |f| {
            f["pre_tokenizer"] =
                json!({"type": "Split", "pattern": {"Regex": r"\w+"}, "behavior": "Isolated"});
        }),
        ("single_word", |f| f["added_tokens"][0]["single_word"] = json!(true)),
        ("end_of_word_suffix", |f| f["model"]["end_of_word_suffix"] = json!("</w>")),
        ("Digits", |f| {
            let after = json!([{"type": "ByteLevel"}, {"type": "Digits"}]);
            f["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": after});
        }),
    ];
    for (named, change) in unsupported {
        let error = changed("gpt2", change);
        assert!(error.to_string().contains(named), "{error}");
    }
}

#[test]
fn damaged_files() {
    let damaged: [Change; 10] = [
        |f| *f = json!(null),
        |f| *f = json!([]),
        |f| f["added_tokens"] = json!("none"),
        |f| f["added_tokens"][0] = json!({"id": 0}),
        |f| f["added_tokens"][0]["id"] = json!(4_000_000_000u32),
        |f| f["added_tokens"][0]["id"] = json!(-1),
        |f| f["model"]["vocab"]["dog"] = json!(1u64 << 60),
        |f| f["model"]["merges"] = json!([["a", "b", "c"]]),
        |f| f["model"]["merges"] = json!([7]),
        |f| f["post_processor"]["single"][0]["SpecialToken"]["id"] = json!("<nonesuch>"),
    ];
    for (i, change) in damaged.into_iter().enumerate() {
        let error = changed("llama3", change);
        assert!(!error.to_string().is_empty(), "{i}");
    }
    for text in ["", "{", "\u{0}", &"[".repeat(100_000)] {
        let error = Tokenizer::from_hugging_face(text, None).expect_err("not JSON");
        assert!(matches!(error, Error::HuggingFace { .. }), "{error}");
    }
}
