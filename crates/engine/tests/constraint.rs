//! Constraints over a real vocabulary. Needs `cargo xtask fixtures`.

use std::path::Path;
use std::sync::LazyLock;

use quarrel_engine::{
    CallGrammar, Callable, Constraint, Constraints, ReplyDelta, ReplyFormat, ReplyParser, ToolFormat, uniform,
};
use serde_json::{Value, json};
use tokenizer::{Decode, Tokenizer};

static SMOLLM2: LazyLock<(Tokenizer, Constraints)> = LazyLock::new(|| {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/fixtures/smollm2-135m.gguf");
    let file = gguf::ModelFile::open(&path).expect("`cargo xtask fixtures` fetches the model");
    let tokenizer = Tokenizer::from_metadata(&file.metadata).expect("the model has a tokenizer");
    let constraints = Constraints::new(&tokenizer, tokenizer.vocab_size()).expect("the vocabulary fits");
    (tokenizer, constraints)
});

/// Text of tokens drawn at random from the masks; after a while those that
/// close something are preferred, so that it ends.
fn walk(constraint: &Constraint, seed: u64) -> String {
    continue_after(constraint, "", seed)
}

/// As [`walk`], after a given beginning.
fn continue_after(constraint: &Constraint, beginning: &str, seed: u64) -> String {
    let (tokenizer, constraints) = &*SMOLLM2;
    let mut matcher = constraints.matcher(constraint).expect("it can begin");
    let mut ids = tokenizer.encode(beginning, tokenizer::Encode { add_special: false, parse_special: true });
    ids.iter().for_each(|&id| matcher.accept(id).expect("the beginning is allowed"));
    for step in 0..3000 {
        let allowed: Vec<u32> = matcher.mask().expect("something may follow").ids().collect();
        assert!(!allowed.is_empty());
        let closes = |id: &&u32| {
            let bytes = tokenizer.token_bytes(**id);
            tokenizer.is_eog(**id) || matches!(bytes, b"\"" | b"}" | b"]" | b"\"}")
        };
        let closing: Vec<u32> = allowed.iter().filter(closes).copied().collect();
        let from = if step > 30 && !closing.is_empty() { &closing } else { &allowed };
        let id = from[(uniform(seed, step) * from.len() as f64) as usize];
        matcher.accept(id).expect("the mask allows it");
        if tokenizer.is_eog(id) {
            let bytes = tokenizer.decode_bytes(&ids, Decode::default());
            return String::from_utf8(bytes).expect("grammars allow UTF-8 alone");
        }
        ids.push(id);
    }
    panic!("did not end: {}", tokenizer.decode(&ids, Decode::default()));
}

#[test]
fn random_walks_write_what_the_schema_allows() {
    type Holds = fn(&Value) -> bool;
    let cases: [(Value, Holds); 8] = [
        (json!({ "type": "object" }), |v| v.is_object()),
        (json!({ "type": "integer", "minimum": -5, "maximum": 12 }), |v| {
            (-5..=12).contains(&v.as_i64().unwrap_or(99))
        }),
        (json!({ "enum": ["red", 3, null] }), |v| [json!("red"), json!(3), json!(null)].contains(v)),
        (json!({ "type": "array", "items": { "type": "boolean" }, "minItems": 1, "maxItems": 3 }), |v| {
            v.as_array().is_some_and(|a| (1..=3).contains(&a.len()) && a.iter().all(Value::is_boolean))
        }),
        (json!({ "type": "string", "pattern": "^[a-z]{2,4}$" }), |v| {
            v.as_str()
                .is_some_and(|s| (2..=4).contains(&s.len()) && s.bytes().all(|b| b.is_ascii_lowercase()))
        }),
        (
            json!({
                "type": "object",
                "properties": { "name": { "type": "string", "maxLength": 5 }, "age": { "type": "integer" } },
                "required": ["name"],
                "additionalProperties": false,
            }),
            |v| {
                v["name"].as_str().is_some_and(|s| s.chars().count() <= 5)
                    && v.as_object().is_some_and(|o| o.keys().all(|k| k == "name" || k == "age"))
                    && (v["age"].is_null() || v["age"].is_number())
            },
        ),
        (json!({ "anyOf": [{ "type": "null" }, { "type": "number", "maximum": 9, "minimum": 0 }] }), |v| {
            v.is_null() || v.as_f64().is_some_and(|x| (0.0..=9.0).contains(&x))
        }),
        (
            json!({
                "$defs": { "node": {
                    "type": "object",
                    "properties": { "next": { "anyOf": [{ "$ref": "#/$defs/node" }, { "type": "null" }] } },
                    "required": ["next"],
                    "additionalProperties": false,
                } },
                "$ref": "#/$defs/node",
            }),
            |v| v.as_object().is_some_and(|o| o.len() == 1 && o.contains_key("next")),
        ),
    ];
    for (schema, holds) in cases {
        let constraint = Constraint::json_schema(&schema).expect("the schema is supported");
        for seed in 0..25 {
            let text = walk(&constraint, seed);
            let value: Value = match serde_json::from_str(&text) {
                // JSON knows numbers of any size, `serde_json` those of f64.
                Err(e) if e.to_string().contains("out of range") => continue,
                parsed => parsed.unwrap_or_else(|e| panic!("{schema}: {text:?}: {e}")),
            };
            assert!(holds(&value), "{schema}: {text}");
        }
    }
}

#[test]
fn masks_of_choices_are_those_of_a_search_over_all_tokens() {
    let (tokenizer, constraints) = &*SMOLLM2;
    let choices = ["yes", "yes, of course", "no", "né", "\u{1F600}!"].map(String::from);
    let constraint = Constraint::choice(&choices).expect("some choices");
    for seed in 0..10 {
        let mut matcher = constraints.matcher(&constraint).expect("it can begin");
        let mut text = Vec::new();
        for step in 0..30 {
            let mask = matcher.mask().expect("something may follow").clone();
            for id in 0..tokenizer.vocab_size() as u32 {
                let longer = [&text[..], tokenizer.token_bytes(id)].concat();
                let viable = match tokenizer.kind(id) {
                    _ if tokenizer.is_eog(id) => choices.iter().any(|c| c.as_bytes() == text),
                    Some(tokenizer::Kind::Control) => false,
                    _ => {
                        longer.len() > text.len() && choices.iter().any(|c| c.as_bytes().starts_with(&longer))
                    }
                };
                assert_eq!(mask.allows(id), viable, "{:?} then {id}", String::from_utf8_lossy(&text));
            }
            let allowed: Vec<u32> = mask.ids().collect();
            let id = allowed[(uniform(seed, step) * allowed.len() as f64) as usize];
            matcher.accept(id).expect("the mask allows it");
            if tokenizer.is_eog(id) {
                break;
            }
            text.extend(tokenizer.token_bytes(id));
        }
        assert!(choices.iter().any(|c| c.as_bytes() == text));
    }
}

#[test]
fn a_schema_as_clients_send_it_is_supported() {
    // As pydantic writes it.
    let schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Order",
        "description": "One order",
        "type": "object",
        "$defs": { "Size": { "enum": ["S", "M", "L"], "title": "Size", "type": "string" } },
        "properties": {
            "id": { "title": "Id", "type": "string", "format": "uuid" },
            "size": { "$ref": "#/$defs/Size", "description": "its size" },
            "count": { "type": "integer", "minimum": 1, "maximum": 99, "default": 1 },
            "note": { "anyOf": [{ "type": "string", "maxLength": 20 }, { "type": "null" }], "default": null },
        },
        "required": ["id", "size", "count", "note"],
        "additionalProperties": false,
    });
    let constraint = Constraint::json_schema(&schema).expect("the schema is supported");
    for seed in 0..5 {
        let value: Value = serde_json::from_str(&walk(&constraint, seed)).expect("JSON");
        assert_eq!(value["id"].as_str().map(str::len), Some(36));
        assert!(["S", "M", "L"].contains(&value["size"].as_str().expect("a size")));
    }
}

fn weather_and_time() -> Vec<Callable> {
    let city = json!({ "type": "string", "enum": ["Oslo", "Lima"] });
    let schema = json!({
        "type": "object", "properties": { "city": city, "days": { "$ref": "#/$defs/days" } },
        "required": ["city"], "additionalProperties": false,
        "$defs": { "days": { "type": "integer", "minimum": 1, "maximum": 9 } },
    });
    let time = Callable { name: "time".into(), arguments: Some(json!({ "additionalProperties": false })) };
    vec![Callable { name: "get \"weather\"".into(), arguments: Some(schema) }, time]
}

const FORMATS: [ToolFormat; 5] =
    [ToolFormat::Hermes, ToolFormat::Llama3, ToolFormat::Mistral, ToolFormat::MistralArgs, ToolFormat::Gemma];

fn grammar(format: ToolFormat, required: bool) -> CallGrammar {
    CallGrammar {
        format,
        tools: weather_and_time(),
        required,
        parallel: true,
        form: None,
        reasoning: Some(("<think>", "</think>")),
        in_reasoning: false,
    }
}

/// Whether the matcher takes `text` token by token, and may end there.
fn takes(constraint: &Constraint, text: &str) -> bool {
    let (tokenizer, constraints) = &*SMOLLM2;
    let mut matcher = constraints.matcher(constraint).expect("it can begin");
    let ids = tokenizer.encode(text, tokenizer::Encode { add_special: false, parse_special: true });
    ids.into_iter().all(|id| matcher.accept(id).is_ok()) && matcher.is_accepting()
}

#[test]
fn random_walks_that_must_call_write_calls_that_the_parser_reads() {
    for format in FORMATS {
        let mut grammar = grammar(format, true);
        for in_reasoning in [false, true] {
            // Random text would not close reasoning that it may open itself.
            grammar.reasoning = in_reasoning.then_some(("<think>", "</think>"));
            grammar.in_reasoning = in_reasoning;
            // A name in quotes is none where names stand bare.
            grammar.tools[0].name =
                if format == ToolFormat::MistralArgs { "weather" } else { "get \"weather\"" }.into();
            let constraint = Constraint::tool_calls(&grammar, &SMOLLM2.0).expect("the grammar compiles");
            for seed in 0..6 {
                let text = match in_reasoning {
                    true => continue_after(&constraint, "Hm.\n</think>\n\n", seed),
                    false => continue_after(&constraint, "", seed),
                };
                let reply = ReplyFormat { reasoning: grammar.reasoning, tools: Some(format), fenced: false };
                let mut parser = ReplyParser::new(&reply, true, in_reasoning);
                let mut deltas = parser.push(&text);
                deltas.extend(parser.finish());
                assert!((1..=16).contains(&parser.n_calls()), "{format:?} {text:?} {deltas:?}");
                for delta in deltas {
                    match delta {
                        ReplyDelta::ToolCallStart { name, .. } => {
                            assert!(grammar.tools.iter().any(|tool| tool.name == name), "{text:?}");
                        }
                        ReplyDelta::ToolCallArguments { json_fragment, .. } => {
                            let value: Value =
                                serde_json::from_str(&json_fragment).expect("arguments are JSON");
                            let city = value.get("city");
                            assert!(
                                value == json!({})
                                    || city == Some(&json!("Oslo"))
                                    || city == Some(&json!("Lima")),
                                "{text:?}"
                            );
                        }
                        ReplyDelta::Reasoning(text) => {
                            assert_eq!((in_reasoning, text.as_str()), (true, "Hm."))
                        }
                        other => panic!("{format:?} {text:?}: {other:?}"),
                    }
                }
            }
        }
    }
}

#[test]
fn calls_of_other_functions_and_other_arguments_are_not_taken() {
    let hermes = Constraint::tool_calls(&grammar(ToolFormat::Hermes, true), &SMOLLM2.0).expect("it compiles");
    let call = |text: &str| format!("<tool_call>\n{text}\n</tool_call>");
    let time = call("{\"name\": \"time\", \"arguments\": {}}");
    assert!(takes(&hermes, &time));
    assert!(takes(&hermes, &format!("<think>\nWell.\n</think>\n\n{time}\n{time}")));
    assert!(!takes(&hermes, "Hello."));
    assert!(!takes(&hermes, &call("{\"name\": \"date\", \"arguments\": {}}")));
    assert!(!takes(&hermes, &call("{\"name\": \"time\", \"arguments\": {\"a\": 1}}")));
    let one = CallGrammar { parallel: false, ..grammar(ToolFormat::Hermes, true) };
    let one = Constraint::tool_calls(&one, &SMOLLM2.0).expect("it compiles");
    assert!(takes(&one, &time) && !takes(&one, &format!("{time}\n{time}")));
}

#[test]
fn where_calls_are_optional_text_is_free_until_one_begins() {
    for (format, mark, good, bad) in [
        (
            ToolFormat::Hermes,
            "<tool_call>\n",
            "{\"name\": \"time\", \"arguments\": {}}\n</tool_call>",
            "{\"name\": \"date\"",
        ),
        (ToolFormat::Mistral, "[TOOL_CALLS]", "[{\"name\": \"time\", \"arguments\": {}}]", "[]"),
        (ToolFormat::MistralArgs, "[TOOL_CALLS]", "time[ARGS]{}", "date[ARGS]{}"),
        (ToolFormat::Gemma, "```tool_code\n", "{\"name\": \"time\", \"arguments\": {}}\n```", "print()\n```"),
    ] {
        let constraint = Constraint::tool_calls(&grammar(format, false), &SMOLLM2.0).expect("it compiles");
        assert!(takes(&constraint, "Just text,\nwith < and [ and ` in it."), "{format:?}");
        assert!(takes(&constraint, &format!("{mark}{good}")), "{format:?}");
        assert!(takes(&constraint, &format!("Let me see.\n{mark}{good}")), "{format:?}");
        assert!(!takes(&constraint, &format!("Let me see.\n{mark}{bad}")), "{format:?}");
    }
    let llama = Constraint::tool_calls(&grammar(ToolFormat::Llama3, false), &SMOLLM2.0).expect("it compiles");
    assert!(takes(&llama, "Just {text}") && takes(&llama, "{\"name\": \"time\", \"parameters\": {}}"));
    assert!(!takes(&llama, "{\"name\": \"date\", \"parameters\": {}}"));
}

#[test]
fn a_reply_of_a_form_may_call_instead() {
    for format in FORMATS {
        let form = Some(json!({ "type": "object", "properties": { "a": { "type": "integer" } },
            "required": ["a"], "additionalProperties": false }));
        let either = Constraint::tool_calls(&CallGrammar { form, ..grammar(format, false) }, &SMOLLM2.0);
        if format == ToolFormat::Llama3 {
            assert!(either.is_err());
            continue;
        }
        let either = either.expect("it compiles");
        assert!(
            takes(&either, "{\"a\": 1}") && takes(&either, "<think>\nHm.\n</think>\n\n{\"a\": 1}"),
            "{format:?}"
        );
        assert!(!takes(&either, "{\"b\": 1}") && !takes(&either, "Well."), "{format:?}");
        let (opening, closing) = (format.opening(), format.closing());
        let call = match format {
            ToolFormat::Hermes | ToolFormat::Gemma => "{\"name\": \"time\", \"arguments\": {}}",
            ToolFormat::Llama3 => unreachable!("it is refused"),
            ToolFormat::Mistral => "[{\"name\": \"time\", \"arguments\": {}}]",
            ToolFormat::MistralArgs => "time[ARGS]{}",
        };
        assert!(takes(&either, &format!("{opening}{call}{closing}")), "{format:?}");
    }
}

#[test]
fn what_cannot_be_held_to_is_refused_with_the_functions_name() {
    let arguments = json!({ "type": "object", "propertyNames": { "pattern": "a" } });
    for (arguments, reason) in [(arguments, "propertyNames"), (json!({ "type": "string" }), "type object")] {
        let tools = vec![Callable { name: "f".into(), arguments: Some(arguments) }];
        let grammar = CallGrammar { tools, ..grammar(ToolFormat::Hermes, true) };
        let error = Constraint::tool_calls(&grammar, &SMOLLM2.0).expect_err("it is refused").to_string();
        assert!(error.contains("of f") && error.contains(reason), "{error}");
    }
}

#[test]
fn choices_with_signs_are_taken_literally() {
    let texts = ["<a>", "a/b", "x_y", "a'b\\"].map(String::from);
    let choice = Constraint::choice(&texts).expect("it compiles");
    assert!(texts.iter().all(|text| takes(&choice, text)));
    assert!(!takes(&choice, "<a") && !takes(&choice, "a"));
}
