//! Rendered chat templates against Python's jinja2: every template that
//! llama.cpp collects, on the conversations of `templates/conversations.json`.
//! `make_template_goldens.py` makes the expected results.

use std::collections::BTreeMap;
use std::path::Path;

use quarrel_tokenizer::template::{ChatInput, DateTime, Error, Message, SpecialTokens, Template};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

const CONVERSATIONS: &str = include_str!("templates/conversations.json");
const SNIPPETS: &str = include_str!("templates/snippets.json");
const SNIPPET_GOLDENS: &str = include_str!("templates/snippet_goldens.json");
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

/// llama.cpp's templates by name.
fn collection() -> BTreeMap<String, String> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/fixtures/llama.cpp/models/templates");
    let files = std::fs::read_dir(&dir)
        .unwrap_or_else(|e| panic!("{}: {e}; run `cargo xtask fixtures` first", dir.display()));
    let paths = files.map(|file| file.expect("a folder that can be read").path());
    let templates = paths.filter(|path| path.extension().is_some_and(|e| e == "jinja"));
    templates
        .map(|path| {
            let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
            (name, std::fs::read_to_string(&path).expect("a file that can be read"))
        })
        .collect()
}

#[test]
fn same_text_as_python() {
    let goldens: Value = serde_json::from_str(GOLDENS).expect("valid JSON");
    let cases = cases();
    let mut wrong = Vec::new();
    let collection = collection();
    for (name, expected) in object(&goldens["templates"]) {
        let source = &collection[name];
        let template = Template::parse(source, special_tokens()).unwrap_or_else(|e| panic!("{name}: {e}"));
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

/// The bound on a template's work grows with the conversation: no real template
/// reaches it, up to 2,000 messages.
#[test]
fn long_conversations_render() {
    let cases = cases();
    let turns = |n: usize| ChatInput {
        messages: (0..n)
            .map(|i| Message::new(if i % 2 == 0 { "user" } else { "assistant" }, "Sixteen letters."))
            .collect(),
        ..cases["tools_simple"].clone()
    };
    for (name, source) in collection() {
        let template = Template::parse(&source, special_tokens()).unwrap_or_else(|e| panic!("{name}: {e}"));
        for n in [1, 101, 1999] {
            if let Err(Error::Exhausted) = template.render(&turns(n)) {
                panic!("{name} is exhausted by {n} messages");
            }
        }
    }
}

#[test]
fn capabilities() {
    use quarrel_tokenizer::template::ToolArguments::{Object, Text};
    let collection = collection();
    let of = |name: &str| {
        let template = Template::parse(&collection[name], special_tokens()).expect("parses");
        let found = template.capabilities();
        (
            found.system,
            found.tools,
            found.tool_arguments,
            found.parts,
            found.thinking_switch,
            found.prints_bos,
        )
    };
    assert_eq!(of("google-gemma-2-2b-it"), (false, false, None, false, false, true));
    assert_eq!(of("Qwen-Qwen2.5-7B-Instruct"), (true, true, Some(Object), false, false, false));
    assert_eq!(of("Qwen-Qwen3-0.6B"), (true, true, Some(Object), false, true, false));
    assert_eq!(of("deepseek-ai-DeepSeek-R1-Distill-Llama-8B"), (true, false, Some(Text), false, false, true));
    assert_eq!(of("meta-llama-Llama-3.1-8B-Instruct"), (true, true, Some(Object), false, false, true));
    assert!(
        Template::parse(&collection["Qwen3.5-4B"], special_tokens()).expect("parses").capabilities().parts
    );
    assert_eq!(of("microsoft-Phi-3.5-mini-instruct"), (true, false, None, false, false, false));
}

/// Where ours is not Python's result, and why.
const DIFFERENT_IDIOMS: &[&str] = &[
    // The engine compares values of different types; Python raises. Found in no
    // real template.
    "{{ 1 in 'a1' }}",
    "{{ 'a' < 1 }}",
    // Conversions in `format` are an error in the engine.
    "{{ '{!r}'.format('a') }}",
];

/// Idioms of Jinja and Python one by one, each equal to Python's result.
#[test]
fn same_idioms_as_python() {
    let snippets: Vec<String> = serde_json::from_str(SNIPPETS).expect("valid JSON");
    let goldens: Vec<Value> = serde_json::from_str(SNIPPET_GOLDENS).expect("valid JSON");
    assert_eq!(snippets.len(), goldens.len(), "run make_template_goldens.py");
    let input = &cases()["user"];
    let mut wrong = Vec::new();
    for (source, golden) in snippets.iter().zip(&goldens) {
        if DIFFERENT_IDIOMS.contains(&source.as_str()) {
            continue;
        }
        let result = Template::parse(source, special_tokens()).and_then(|t| t.render(input));
        match (result, golden["text"].as_str()) {
            (Ok(text), Some(expected)) if text == expected => {}
            (Err(_), None) => {}
            (Ok(text), _) => wrong.push(format!("{source}\n  python {golden}\n  ours   {text:?}")),
            (Err(e), _) => wrong.push(format!("{source}\n  python {golden}\n  ours   {e}")),
        }
    }
    assert!(wrong.is_empty(), "{} of {} differ:\n{}", wrong.len(), snippets.len(), wrong.join("\n"));
}
