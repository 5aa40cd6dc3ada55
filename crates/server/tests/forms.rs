//! Replies that must have a form, asked for as each API does it.

mod common;

use common::TestServer;
use serde_json::{Value, json};

/// The model recites the alphabet, so that whatever is JSON comes from the grammar.
fn schema() -> Value {
    json!({"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"],
        "additionalProperties": false})
}

fn with(mut body: Value, extra: &Value) -> Value {
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    body
}

fn is_valid(text: &str) -> bool {
    serde_json::from_str::<Value>(text)
        .is_ok_and(|value| value["ok"].is_boolean() && value.as_object().is_some_and(|map| map.len() == 1))
}

/// Asks at `path` with `body`; the reply's text is at `pointer`.
fn check(path: &str, body: Value, pointer: &str) {
    let server = TestServer::quick();
    let answer = server.post(path, &body);
    assert_eq!(answer.status, 200, "{path} {body}: {answer:?}");
    let text = answer.json().pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    assert!(text.as_deref().is_some_and(is_valid), "{path} {body}: {text:?}");
}

#[test]
fn completions_take_every_way_to_ask() {
    let format = json!({"type": "json_schema", "json_schema": {"name": "x", "schema": schema()}});
    for extra in [
        json!({"response_format": format}),
        json!({"json_schema": schema()}),
        json!({"guided_json": schema()}),
        json!({"guided_regex": r#"\{"ok": (true|false)\}"#}),
        json!({"guided_choice": [r#"{"ok": true}"#]}),
        json!({"structured_outputs": {"json": schema()}}),
        json!({"guided_grammar": r#"start: "{\"ok\":" ("true" | "false") "}""#}),
        json!({"grammar": "%llguidance {}\nstart: \"{\\\"ok\\\":\" (\"true\" | \"false\") \"}\""}),
    ] {
        let body = json!({"prompt": "Hi", "max_tokens": 900, "temperature": 0});
        check("/v1/completions", with(body, &extra), "/choices/0/text");
    }
}

#[test]
fn chats_and_responses() {
    let messages = json!([{"role": "user", "content": "Hi"}]);
    let format = json!({"type": "json_schema", "json_schema": {"name": "x", "schema": schema()}});
    let chat = json!({"messages": messages, "max_tokens": 900, "temperature": 0, "response_format": format});
    check("/v1/chat/completions", chat, "/choices/0/message/content");
    let format = json!({"type": "json_schema", "name": "x", "schema": schema(), "strict": true});
    let response =
        json!({"input": "Hi", "max_output_tokens": 900, "temperature": 0, "text": {"format": format}});
    check("/v1/responses", response, "/output/0/content/0/text");
}

#[test]
fn anthropics_messages() {
    let body = json!({"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 900, "temperature": 0});
    let format = json!({"type": "json_schema", "schema": schema()});
    for extra in
        [json!({"output_config": {"format": format, "effort": "low"}}), json!({"output_format": format})]
    {
        check("/v1/messages", with(body.clone(), &extra), "/content/0/text");
    }
}

#[test]
fn ollamas_format() {
    for format in [schema(), json!("json")] {
        // Any object satisfies `json`, and this model would go on for ever in a string.
        let predict = if format.is_string() { 40 } else { 900 };
        let body =
            json!({"stream": false, "format": format, "options": {"temperature": 0, "num_predict": predict}});
        let server = TestServer::quick();
        let chat = with(body.clone(), &json!({"messages": [{"role": "user", "content": "Hi"}]}));
        let generate = with(body, &json!({"prompt": "Hi"}));
        let chat = server.post("/api/chat", &chat).json();
        let generate = server.post("/api/generate", &generate).json();
        for text in [&chat["message"]["content"], &generate["response"]] {
            let text = text.as_str().unwrap_or_default();
            match format.is_string() {
                true => assert!(text.starts_with('{'), "{chat} {generate}"),
                false => assert!(is_valid(text), "{chat} {generate}"),
            }
        }
    }
}

#[test]
fn what_is_not_understood_is_refused() {
    let server = TestServer::quick();
    let odd = json!({"type": "object", "unheardOf": 1});
    let messages = json!([{"role": "user", "content": "Hi"}]);
    for (path, body, param) in [
        ("/v1/completions", json!({"prompt": "Hi", "response_format": {"type": "xml"}}), "response_format"),
        ("/v1/completions", json!({"prompt": "Hi", "guided_json": odd}), "guided_json"),
        ("/v1/completions", json!({"prompt": "Hi", "grammar": "root ::= \"a\""}), "grammar"),
        (
            "/v1/completions",
            json!({"prompt": "Hi", "guided_regex": "a", "structured_outputs": {"regex": "a"}}),
            "structured_outputs.regex",
        ),
        ("/v1/responses", json!({"input": "Hi", "text": {"format": {"type": "xml"}}}), "text.format"),
        (
            "/v1/responses",
            json!({"input": "Hi", "text": {"format": {"type": "json_schema", "name": "x", "schema": odd}}}),
            "text.format",
        ),
    ] {
        let answer = server.post(path, &body);
        assert_eq!((answer.status, &answer.json()["error"]["param"]), (400, &json!(param)), "{answer:?}");
    }
    for extra in [
        json!({"output_config": {"format": {"type": "json_object"}}}),
        json!({"output_config": {"format": {"type": "json_schema"}}}),
        json!({"output_config": {"other": 1}}),
        json!({"output_format": {"type": "json_schema", "schema": odd}}),
        json!({"output_format": {"type": "json_schema", "schema": {}, "strict": true}}),
        json!({"output_format": {"type": "json_schema", "schema": {}},
            "output_config": {"format": {"type": "json_schema", "schema": {}}}}),
    ] {
        let body = with(json!({"messages": messages, "max_tokens": 5}), &extra);
        let answer = server.post("/v1/messages", &body);
        assert_eq!(answer.json()["error"]["type"], "invalid_request_error", "{answer:?}");
    }
    for format in [json!("xml"), json!(1), odd] {
        let body = json!({"messages": messages, "format": format});
        assert_eq!(server.post("/api/chat", &body).status, 400, "{body}");
        assert_eq!(server.post("/api/generate", &json!({"prompt": "Hi", "format": format})).status, 400);
    }
}

#[test]
fn biases_ban_and_choose() {
    let server = TestServer::quick();
    let body = |bias: Value| json!({"prompt": "Hi", "max_tokens": 4, "temperature": 0, "logit_bias": bias});
    let text = |bias: Value| {
        let answer = server.post("/v1/completions", &body(bias));
        answer.json()["choices"][0]["text"]
            .as_str()
            .map(str::to_owned)
            .unwrap_or_else(|| panic!("{answer:?}"))
    };
    let plain = text(json!({}));
    // The model says tokens of single bytes, which begin at 3; its other tokens are all alike.
    let first = 3 + u32::from(plain.as_bytes()[0]);
    for ban in [json!({first.to_string(): -100}), json!([[first, false]])] {
        assert_ne!(text(ban)[..1], plain[..1]);
    }
    assert_eq!(text(json!([[first, false], [3 + u32::from(b'#'), 5]]))[..1], *"#");
    let by_text = text(json!([[first, false], ["#", 5]]));
    assert!(by_text.trim_start().starts_with('#') || by_text.starts_with(' '), "{by_text}");
    for (bias, param) in [
        (json!({"a": 1}), "logit_bias.a"),
        (json!([[1]]), "logit_bias[0]"),
        (json!({"1": 101}), "logit_bias"),
    ] {
        let answer = server.post("/v1/completions", &body(bias));
        assert_eq!((answer.status, &answer.json()["error"]["param"]), (400, &json!(param)), "{answer:?}");
    }
    let answer = server.post("/v1/completions", &body(json!({"99999": 1})));
    assert_eq!(answer.status, 400, "no such token: {answer:?}");
}

#[test]
fn mirostat_and_cuts_exclude_each_other() {
    let server = TestServer::quick();
    let ask = |extra: Value| {
        let body = with(json!({"prompt": "Hi", "max_tokens": 2, "mirostat": 2}), &extra);
        let answer = server.post("/v1/completions", &body);
        (answer.status, answer.json()["error"]["param"].clone())
    };
    assert_eq!(ask(json!({})).0, 200);
    assert_eq!(
        ask(json!({"top_k": 0, "top_p": 1.0, "min_p": 0.0, "typical_p": 1.0, "xtc_probability": 0})).0,
        200
    );
    for name in ["top_k", "top_p", "min_p", "typical_p", "xtc_probability"] {
        let value = if name == "top_k" { json!(40) } else { json!(0.5) };
        assert_eq!(ask(json!({name: value})), (400, json!(name)));
    }
}
