//! Rendered chat templates against Python's jinja2: every template that
//! llama.cpp collects, on the conversations of `templates/conversations.json`.
//! `make_template_goldens.py` makes the expected results.

use std::collections::BTreeMap;
use std::path::Path;

use quarrel_tokenizer::template::{ChatInput, DateTime, SpecialTokens, Template};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

const CONVERSATIONS: &str = include_str!("templates/conversations.json");
const GOLDENS: &str = include_str!("templates/goldens.json");

/// Templates that fail where Python's jinja2 renders: what the error says, and
/// why. Everything else must be equal.
const DIFFERENT: &[(&str, &str)] = &[
    // With tools it adds strings to the results of `safe`. Python escapes them
    // as HTML there, so that the prompt has &#34; for each quote; transformers
    // shows the model that text, which nobody can have meant.
    ("meetkai-functionary-medium-v3.1", "escapes the other string as HTML"),
];

fn object(value: &Value) -> &Map<String, Value> {
    value.as_object().expect("an object")
}

/// The conversations by name.
fn cases() -> BTreeMap<String, ChatInput> {
    let data: Value = serde_json::from_str(CONVERSATIONS).expect("valid JSON");
    let case = |case: &Value| {
        let input = ChatInput {
            messages: serde_json::from_value(case["messages"].clone()).expect("messages"),
            tools: case.get("tools").map(|set| data["tools"][set.as_str().expect("a name")].clone()).map(
                |set| match set {
                    Value::Array(tools) => tools,
                    other => panic!("tools are a list, not {other}"),
                },
            ),
            add_generation_prompt: case.get("add_generation_prompt").is_none_or(|v| v == true),
            enable_thinking: None,
            // The time that the script shows.
            now: Some(DateTime { year: 2026, month: 3, day: 5, hour: 14, minute: 7, second: 9 }),
            extra: case.get("kwargs").map(|v| object(v).clone()).unwrap_or_default(),
        };
        (case["name"].as_str().expect("a name").to_owned(), input)
    };
    data["cases"].as_array().expect("cases").iter().map(case).collect()
}

fn special_tokens() -> SpecialTokens {
    let data: Value = serde_json::from_str(CONVERSATIONS).expect("valid JSON");
    let token = |name: &str| data["special_tokens"][name].as_str().map(str::to_owned);
    SpecialTokens {
        bos_token: token("bos_token"),
        eos_token: token("eos_token"),
        unk_token: token("unk_token"),
        pad_token: token("pad_token"),
    }
}

fn summary(text: &str) -> String {
    let hash: String = Sha256::digest(text).iter().take(16).map(|b| format!("{b:02x}")).collect();
    format!("{} {hash}", text.len())
}

/// What is wrong with one case, if anything.
fn difference(template: &Template, input: &ChatInput, expected: &str, known: Option<&str>) -> Option<String> {
    match template.render(input) {
        Ok(text) if summary(&text) == expected => None,
        Ok(text) => Some(format!("expected {expected}, rendered {} bytes", text.len())),
        Err(_) if expected.starts_with("raises ") => None,
        Err(e) if known.is_some_and(|why| e.to_string().contains(why)) => None,
        Err(e) => Some(format!("expected {expected}, but: {e}")),
    }
}

#[test]
fn same_text_as_python() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/fixtures/llama.cpp/models/templates");
    let goldens: Value = serde_json::from_str(GOLDENS).expect("valid JSON");
    let cases = cases();
    let mut wrong = Vec::new();
    for (name, expected) in object(&goldens["templates"]) {
        let path = dir.join(format!("{name}.jinja"));
        let source = std::fs::read_to_string(&path)
            .unwrap_or_else(|e| panic!("{}: {e}; run `cargo xtask fixtures` first", path.display()));
        let template = Template::parse(&source, special_tokens()).unwrap_or_else(|e| panic!("{name}: {e}"));
        let known = DIFFERENT.iter().find(|(different, _)| different == name).map(|(_, why)| *why);
        for (case, expected) in object(expected) {
            let expected = expected.as_str().expect("text");
            if let Some(what) = difference(&template, &cases[case], expected, known) {
                wrong.push(format!("{name} {case}: {what}"));
            }
        }
    }
    assert_eq!(object(&goldens["templates"]).len(), 70, "llama.cpp's collection");
    assert!(wrong.is_empty(), "{} differences:\n{}", wrong.len(), wrong.join("\n"));
}
