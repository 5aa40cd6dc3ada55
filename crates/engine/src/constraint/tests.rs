//! Masks of a vocabulary of a few tokens against a slow search, and what is refused.

use std::time::{Duration, Instant};

use gguf::{Array, Metadata};
use serde_json::{Value, json};
use tokenizer::Tokenizer;

use super::*;
use crate::{Error, uniform};

const TOKENS: [&str; 20] = [
    "</s>", "<ctl>", "a", "b", "c", "d", "ab", "ba", "abc", "aa", "bc", "cd", "abab", "aab", "{", "}", "\"",
    ":", "\n", "a",
];

/// Token 0 ends the text, token 1 is a control token; the last reads as one before it.
fn tiny() -> Constraints {
    let mut metadata = Metadata::new();
    let mut types = vec![1i32; TOKENS.len()];
    (types[0], types[1]) = (3, 3);
    let mut tokens = TOKENS.map(String::from);
    tokens[19] = "<0x61>".into();
    types[19] = 6;
    metadata.insert("tokenizer.ggml.model", "llama");
    metadata.insert("tokenizer.ggml.tokens", Array::String(tokens.to_vec()));
    metadata.insert("tokenizer.ggml.scores", Array::F32(vec![0.0; TOKENS.len()]));
    metadata.insert("tokenizer.ggml.token_type", Array::I32(types));
    metadata.insert("tokenizer.ggml.eos_token_id", 0u32);
    metadata.insert("tokenizer.ggml.add_space_prefix", false);
    let tokenizer = Tokenizer::from_metadata(&metadata).expect("the vocabulary is valid");
    Constraints::new(&tokenizer, TOKENS.len()).expect("it is small")
}

/// All texts over `abcd` up to eight letters that `accepts`.
fn language(accepts: fn(&str) -> bool) -> Vec<String> {
    let mut all = vec![String::new()];
    let mut done = 0;
    for _ in 0..8 {
        let from = done;
        done = all.len();
        for i in from..done {
            all.extend(["a", "b", "c", "d"].map(|letter| all[i].clone() + letter));
        }
    }
    all.retain(|text| accepts(text));
    all
}

#[test]
fn masks_allow_exactly_what_can_still_become_a_text_of_the_language() {
    type Accepts = fn(&str) -> bool;
    let cases: [(&str, Accepts); 5] = [
        ("a+b?c", |text| {
            let rest = text.trim_start_matches('a');
            text.starts_with('a') && (rest == "c" || rest == "bc")
        }),
        ("(ab|ba)*", |text| {
            text.len() % 2 == 0 && text.as_bytes().chunks(2).all(|pair| pair == b"ab" || pair == b"ba")
        }),
        ("a{2,4}(b|c)", |text| {
            ["aa", "aaa", "aaaa"].iter().any(|a| text == format!("{a}b") || text == format!("{a}c"))
        }),
        ("[^a]b*", |text| !text.is_empty() && !text.starts_with('a') && text[1..].bytes().all(|b| b == b'b')),
        ("(a|ab)(c|bcd)", |text| ["ac", "abc", "abcd", "abbcd"].contains(&text)),
    ];
    let constraints = tiny();
    for (pattern, accepts) in cases {
        let texts = language(accepts);
        let constraint = Constraint::regex(pattern).expect("the pattern is valid");
        for seed in 0..40 {
            let mut matcher = constraints.matcher(&constraint).expect("the pattern can begin");
            let mut text = String::new();
            // Up to four letters, so that the longest completion is among the texts.
            for step in 0.. {
                let mask = matcher.mask().expect("something may follow").clone();
                for (id, token) in (0..).zip(TOKENS).take(14).chain([(19, "a")]) {
                    let longer = text.clone() + token;
                    let viable = match id {
                        0 => texts.contains(&text),
                        1 => false,
                        _ => texts.iter().any(|t| t.starts_with(&longer)),
                    };
                    assert!(
                        longer.len() > 8 || mask.allows(id) == viable,
                        "{pattern}: {text:?} then {token:?}"
                    );
                }
                assert_eq!(matcher.is_accepting(), texts.contains(&text));
                // The texts have only these letters.
                let allowed: Vec<u32> = mask.ids().filter(|&id| id < 14).collect();
                let id = allowed[(uniform(seed, step) * allowed.len() as f64) as usize];
                matcher.accept(id).expect("the mask allows it");
                if id == 0 || text.len() + TOKENS[id as usize].len() > 4 {
                    break;
                }
                text += TOKENS[id as usize];
            }
        }
    }
}

#[test]
fn only_an_end_follows_what_is_complete_and_nothing_an_end() {
    let constraint = Constraint::choice(&["ab".into(), "abab".into()]).expect("two choices");
    let mut matcher = tiny().matcher(&constraint).expect("it can begin");
    assert!(!matcher.is_accepting() && !matcher.is_finished());
    assert!(matches!(matcher.accept(3), Err(Error::Constraint(_))));
    assert!(matches!(matcher.accept(0), Err(Error::Constraint(_))));
    matcher.accept(6).expect("ab");
    assert!(matcher.is_accepting() && !matcher.is_finished());
    let mut other = matcher.fork();
    matcher.accept(6).expect("abab");
    assert!(matcher.is_finished());
    assert_eq!(matcher.mask().expect("an end").ids().collect::<Vec<_>>(), [0]);
    matcher.accept(0).expect("the end");
    assert!(matcher.accept(0).is_err() && matcher.accept(2).is_err());
    // The fork is where it was made.
    assert!(!other.is_finished());
    other.accept(0).expect("ab is a choice");
}

#[test]
fn a_grammar_may_name_special_tokens() {
    let constraints = tiny();
    let constraint = Constraint::lark("start: <ctl> \"ab\"").expect("a grammar");
    let mut matcher = constraints.matcher(&constraint).expect("the token exists");
    assert_eq!(matcher.mask().expect("a mask").ids().collect::<Vec<_>>(), [1]);
    matcher.accept(1).expect("the token");
    let unknown = Constraint::lark("start: <nope>").expect("a grammar");
    assert!(matches!(constraints.matcher(&unknown), Err(Error::Constraint(_))));
}

/// The refusal's words; it must come soon.
#[track_caller]
fn refusal(make: impl FnOnce() -> crate::Result<Constraint>) -> String {
    let start = Instant::now();
    let result = make().and_then(|constraint| tiny().matcher(&constraint));
    let Err(Error::Constraint(message)) = result else { panic!("not refused: {result:?}") };
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}: {message}", start.elapsed());
    assert!(!message.contains("backtrace") && message.chars().count() < 500, "{message}");
    message
}

#[test]
fn bombs_are_refused() {
    let n = 60_000;
    let schema = |value: Value| refusal(|| Constraint::json_schema(&value));
    refusal(|| Constraint::regex(&("(".repeat(n) + "a" + &")".repeat(n))));
    refusal(|| Constraint::regex(&("(".repeat(5000) + "a" + &")".repeat(5000))));
    refusal(|| Constraint::regex("a^+b"));
    refusal(|| Constraint::regex("(a"));
    refusal(|| Constraint::regex("a(?P<stop>b)"));
    refusal(|| Constraint::regex("a\\"));
    refusal(|| Constraint::regex(""));
    refusal(|| Constraint::lark(&format!("start: {}\"a\"{}", "(".repeat(5000), ")".repeat(5000))));
    let chain: String = (0..5000).map(|i| format!("r{i}: r{}\n", i + 1)).collect();
    refusal(|| Constraint::lark(&format!("start: r0\n{chain}r5000: \"a\"")));
    refusal(|| Constraint::lark("start: start"));
    refusal(|| Constraint::lark("start: A\nA: B\nB: A"));
    assert!(refusal(|| Constraint::lark("start[temperature=0.5]: \"a\"")).contains("temperature"));
    assert!(refusal(|| Constraint::lark("start: %json {}")).contains("%json"));
    assert!(schema(json!({ "$ref": "#" })).contains("no finite value"));
    assert!(schema(json!({ "type": "string", "pattern": "(a" })).len() > 1);
    assert!(schema(json!({ "type": "array", "minItems": 1_000_000_000u64 })).contains("minItems"));
    assert!(schema(json!({ "type": "string", "maxLength": -1 })).contains("maxLength"));
    assert!(schema(json!({ "enum": vec![0; 100_000] })).contains("more than"));
    let mut deep = json!({ "type": "string" });
    for _ in 0..2000 {
        deep = json!({ "type": "array", "items": deep });
    }
    assert!(schema(deep).contains("deep"));
    refusal(|| Constraint::choice(&[]));
    refusal(|| Constraint::choice(&["a".into(), String::new()]));
    refusal(|| Constraint::choice(&vec!["a".into(); 100_000]));
}

/// What looks like a bomb but is none, or is one that the limits stop: it is
/// refused soon, or each step over it is quick.
#[test]
fn nothing_takes_long() {
    let schemas = [
        json!({ "type": "string", "pattern": "^+a" }),
        json!({ "type": "string", "pattern": "(a|b)*a(a|b){14}" }),
        json!({ "type": "string", "maxLength": 10_000, "pattern": "(ab?){0,5000}" }),
        json!({ "type": "array", "items": { "type": "array", "minItems": 10_000 }, "minItems": 10_000 }),
        json!({ "anyOf": (0..2000).map(|i| json!({ "const": format!("{i}") })).collect::<Vec<_>>() }),
        json!({ "type": "object", "properties": (0..2000).map(|i| (format!("p{i}"), json!({}))).collect::<Value>() }),
        json!({ "type": "number", "multipleOf": 1e-300 }),
        json!({ "type": "integer", "minimum": -1e300, "maximum": 1e300, "multipleOf": 9_999_991 }),
        json!({ "allOf": vec![json!({ "anyOf": [{ "minLength": 1 }, { "maxLength": 9 }] }); 12] }),
        json!({ "patternProperties": { "^(a|b)*a(a|b){9}$": {}, "^(a|b)*b(a|b){9}$": {} } }),
    ];
    let patterns = [
        "^+a",
        "(((((a{1000}){1000}){1000}){1000}){1000})",
        "((a*)*)*b",
        "(a|aa)+$",
        "(a|b)*a(a|b){18}c",
        "(.*a){30}",
        "\\w{1000}\\W{1000}",
        "(a?){500}a{500}",
    ];
    let grammars = [
        "start: start start | \"a\" | \"\"",
        "start: a a a a a a a a\na: b b b b b b b b\nb: c c c c c c c c\nc: \"a\" | \"\" | c c",
        "start: \"a\"{1,100000000}",
        "start: x{1000}\nx: \"a\"{1000}",
    ];
    let constraints = tiny();
    type Make<'a> = Box<dyn Fn() -> crate::Result<Constraint> + 'a>;
    let mut cases: Vec<(String, Make<'_>)> = Vec::new();
    cases
        .extend(schemas.iter().map(|s| (s.to_string(), Box::new(|| Constraint::json_schema(s)) as Make<'_>)));
    cases.extend(patterns.iter().map(|p| (p.to_string(), Box::new(|| Constraint::regex(p)) as Make<'_>)));
    cases.extend(grammars.iter().map(|g| (g.to_string(), Box::new(|| Constraint::lark(g)) as Make<'_>)));
    for (name, make) in cases {
        let start = Instant::now();
        let matcher = make().and_then(|constraint| constraints.matcher(&constraint));
        let name: String = name.chars().take(60).collect();
        assert!(start.elapsed() < Duration::from_secs(3), "{name}: {:?}", start.elapsed());
        let Ok(mut matcher) = matcher else { continue };
        for step in 0..200 {
            let start = Instant::now();
            let Ok(mask) = matcher.mask() else { break };
            let allowed: Vec<u32> = mask.ids().collect();
            let id = allowed[(uniform(1, step) * allowed.len() as f64) as usize];
            if matcher.accept(id).is_err() || id == 0 {
                break;
            }
            assert!(start.elapsed() < Duration::from_millis(500), "{name}: {:?}", start.elapsed());
        }
    }
}

#[test]
fn a_chain_of_as_many_rules_as_are_allowed_compiles() {
    let chain: String = (0..998).map(|i| format!("r{i}: r{}\n", i + 1)).collect();
    let constraint = Constraint::lark(&format!("start: r0\n{chain}r998: \"a\"")).expect("within the limit");
    tiny().matcher(&constraint).expect("it can begin");
}

#[test]
fn an_unsupported_keyword_is_named_with_its_place() {
    let refused = |schema: Value| refusal(|| Constraint::json_schema(&schema));
    for keyword in
        ["uniqueItems", "not", "if", "dependentRequired", "contains", "nullable", "x-guidance", "unknown"]
    {
        let message = refused(json!({ "type": "object", "properties": { "a/b": { keyword: true } } }));
        assert!(message.contains(keyword) && message.contains("#/properties/a~1b"), "{message}");
    }
    assert!(refused(json!({ "$ref": "http://127.0.0.1/x" })).contains("http://127.0.0.1/x"));
    assert!(refused(json!({ "$ref": "#/$defs/absent" })).contains("#/$defs/absent"));
    assert!(refused(json!({ "$defs": { "a/b": true }, "$ref": "#/$defs/a~1b" })).contains("a~1b"));
    assert!(refused(json!({ "type": "string", "format": "nope" })).contains("nope"));
    assert!(refused(json!({ "oneOf": [{ "type": "number" }, { "type": "integer" }] })).contains("oneOf"));
    assert!(refused(json!(false)).contains("#"));
    assert!(refused(json!([])).contains("object"));
    assert!(refused(json!({ "type": "strin" })).contains("strin"));
    assert!(refused(json!({ "type": "string", "properties": { "a": 1 } })).contains("#/properties/a"));
}

#[test]
fn choices_are_taken_literally() {
    let texts = ["a.b", "c|d", "\\d", "^a$", "/", "\"", "{}", "a\nb", "é", "[x]", "-", "#&~ ", "(?i)a"];
    for text in texts {
        Constraint::choice(&[text.into()]).unwrap_or_else(|e| panic!("{text:?}: {e}"));
    }
    let mut matcher =
        tiny().matcher(&Constraint::choice(&["{\"a\":\n}".into()]).expect("one choice")).expect("begins");
    for id in [14, 16, 2, 16, 17, 18, 15] {
        matcher.accept(id).expect("the next character of the choice");
    }
    assert!(matcher.is_finished());
}
