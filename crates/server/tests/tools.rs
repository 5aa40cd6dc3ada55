//! Calls of tools and reasoning, in each API.

mod common;

use common::TestServer;
use serde_json::{Value, json};

const REPLY: &str = "<think>\nA clock helps.\n</think>\n\nLet me look.\n<tool_call>\n{\"name\": \"time\", \
    \"arguments\": {\"zone\": \"UTC\"}}\n</tool_call>";

fn schema() -> Value {
    json!({"type": "object", "properties": {"zone": {"enum": ["UTC"]}}, "required": ["zone"], "additionalProperties": false})
}

fn function(strict: bool) -> Value {
    json!({"type": "function", "function": {"name": "time", "description": "tells it", "parameters": schema(), "strict": strict}})
}

fn question() -> Value {
    json!([{"role": "user", "content": "When?"}])
}

/// A conversation that goes on after a call.
fn answered() -> Value {
    let function = json!({"name": "time", "arguments": "{\"zone\": \"UTC\"}"});
    json!([
        {"role": "user", "content": "When?"},
        {"role": "assistant", "content": null, "tool_calls": [{"id": "c1", "type": "function", "function": function}]},
        {"role": "tool", "tool_call_id": "c1", "content": "noon"},
    ])
}

#[test]
fn chat_tells_reasoning_content_and_calls_apart() {
    let server = TestServer::saying(REPLY);
    let mut body = json!({"messages": question(), "tools": [function(false)]});
    let whole = server.post("/v1/chat/completions", &body).json();
    let choice = &whole["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls", "{whole}");
    assert_eq!(choice["message"]["reasoning_content"], "A clock helps.");
    assert_eq!(choice["message"]["content"], "Let me look.");
    let call = &choice["message"]["tool_calls"][0];
    assert_eq!(call["function"], json!({"name": "time", "arguments": "{\"zone\":\"UTC\"}"}));
    assert!(call["id"].as_str().is_some_and(|id| id.starts_with("call-")));

    body["stream"] = true.into();
    let (events, done) = server.post("/v1/chat/completions", &body).events();
    assert!(done);
    let deltas: Vec<_> = events.iter().map(|event| &event["choices"][0]["delta"]).collect();
    let text = |field: &str| -> String { deltas.iter().filter_map(|delta| delta[field].as_str()).collect() };
    assert_eq!(
        (text("content").as_str(), text("reasoning_content").as_str()),
        ("Let me look.", "A clock helps.")
    );
    let calls: Vec<_> = deltas.iter().filter_map(|delta| delta["tool_calls"].get(0)).collect();
    assert_eq!((&calls[0]["index"], &calls[0]["function"]["name"]), (&json!(0), &json!("time")));
    let arguments: String = calls.iter().filter_map(|call| call["function"]["arguments"].as_str()).collect();
    assert_eq!(arguments, "{\"zone\":\"UTC\"}");
    assert_eq!(events.last().expect("a last event")["choices"][0]["finish_reason"], "tool_calls");
}

#[test]
fn without_tools_or_with_none_chosen_calls_are_text() {
    let server = TestServer::saying(REPLY);
    for extra in [json!({}), json!({"tools": [function(false)], "tool_choice": "none"})] {
        let mut body = json!({"messages": question()});
        body.as_object_mut().expect("an object").extend(extra.as_object().expect("an object").clone());
        let message = &server.post("/v1/chat/completions", &body).json()["choices"][0]["message"];
        assert_eq!(message["tool_calls"], Value::Null);
        assert!(message["content"].as_str().is_some_and(|text| text.contains("<tool_call>")));
    }
}

#[test]
fn a_malformed_call_is_reported_and_shown() {
    let server = TestServer::saying("<tool_call>\n{\"name\": \"time\", oops\n</tool_call>");
    let body = json!({"messages": question(), "tools": [function(false)]});
    let answer = server.post("/v1/chat/completions", &body).json();
    let message = &answer["choices"][0]["message"];
    assert!(message["content"].as_str().is_some_and(|text| text.contains("oops")), "{answer}");
    assert!(message["warnings"][0].as_str().is_some_and(|warning| warning.contains("not")), "{answer}");
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
}

#[test]
fn a_call_that_must_come_comes_whatever_the_model_would_say() {
    let server = TestServer::saying_plainly("I would rather not.");
    for choice in [json!("required"), json!({"type": "function", "function": {"name": "time"}})] {
        let body = json!({"messages": question(), "tools": [function(false)], "tool_choice": choice});
        let answer = server.post("/v1/chat/completions", &body).json();
        let message = &answer["choices"][0]["message"];
        assert_eq!(message["content"], Value::Null, "{answer}");
        assert_eq!(message["tool_calls"][0]["function"]["arguments"], "{\"zone\":\"UTC\"}");
    }
    // Strict arguments bind once the model begins a call.
    let server =
        TestServer::saying("Hm. <tool_call>\n{\"name\": \"time\", \"arguments\": {\"zone\": \"CET\"}}");
    let body = json!({"messages": question(), "tools": [function(true)]});
    let message = &server.post("/v1/chat/completions", &body).json()["choices"][0]["message"];
    assert_eq!(message["content"], "Hm.");
    assert_eq!(message["tool_calls"][0]["function"]["arguments"], "{\"zone\":\"UTC\"}");
}

#[test]
fn tools_that_cannot_be_served_are_refused() {
    let server = TestServer::quick();
    for (extra, param) in [
        (json!({"tools": [{"type": "web_search"}]}), "tools[0]"),
        (json!({"tools": [function(false), function(false)]}), "tools[1]"),
        (json!({"tool_choice": "required"}), "tool_choice"),
        (json!({"tools": [function(false)], "tool_choice": "perhaps"}), "tool_choice"),
        (json!({"tools": [function(false)], "response_format": {"type": "json_object"}}), "response_format"),
        (
            json!({"tools": [{"type": "function", "function": {"name": "f", "strict": true, "parameters": {"not": {}}}}]}),
            "tools",
        ),
    ] {
        let mut body = json!({"messages": question()});
        body.as_object_mut().expect("an object").extend(extra.as_object().expect("an object").clone());
        let answer = server.post("/v1/chat/completions", &body);
        assert_eq!(answer.status, 400, "{extra} {answer:?}");
        assert_eq!(answer.json()["error"]["param"], param, "{extra}");
    }
}

#[test]
fn templates_show_tools_calls_and_results() {
    let server = TestServer::saying("Noon.");
    let body = json!({"messages": answered(), "tools": [function(false)]});
    let prompt = server.post("/apply-template", &body).json()["prompt"].as_str().expect("a text").to_owned();
    assert!(prompt.contains("\"description\": \"tells it\"") && prompt.contains("<tool>noon"), "{prompt}");
    assert!(prompt.contains("<tool_call>{\"name\": \"time\""), "{prompt}");
    // ChatML knows none: they are explained, and the result is a user's turn.
    let server = TestServer::quick();
    let prompt = server.post("/apply-template", &body).json()["prompt"].as_str().expect("a text").to_owned();
    assert!(prompt.starts_with("<|im_start|>system") && prompt.contains("tells it"), "{prompt}");
    assert!(prompt.contains("<|im_start|>user\n<tool_response>\nnoon"), "{prompt}");
    assert_eq!(
        server.post("/v1/chat/completions", &json!({"messages": answered(), "max_tokens": 2})).status,
        200
    );
}

#[test]
fn reasoning_that_the_prompt_has_opened_is_told_as_such() {
    let server = TestServer::saying("Well.\n</think>\n\nNoon.");
    let body = json!({"messages": question(), "reasoning_effort": "high"});
    let message = &server.post("/v1/chat/completions", &body).json()["choices"][0]["message"];
    assert_eq!((&message["reasoning_content"], &message["content"]), (&json!("Well."), &json!("Noon.")));
}

#[test]
fn anthropic_has_blocks_for_each() {
    let server = TestServer::saying(REPLY);
    let tool = json!({"name": "time", "description": "tells it", "input_schema": schema()});
    let mut body = json!({"messages": question(), "max_tokens": 200, "tools": [tool], "temperature": 0});
    let whole = server.post("/v1/messages", &body).json();
    assert_eq!(whole["stop_reason"], "tool_use", "{whole}");
    let kinds: Vec<_> = whole["content"].as_array().expect("blocks").iter().map(|b| &b["type"]).collect();
    assert_eq!(kinds, ["thinking", "text", "tool_use"]);
    assert_eq!(whole["content"][2]["input"], json!({"zone": "UTC"}));

    body["stream"] = true.into();
    let (events, _) = server.post("/v1/messages", &body).events();
    let starts: Vec<_> = events.iter().filter(|event| event["type"] == "content_block_start").collect();
    let stops = events.iter().filter(|event| event["type"] == "content_block_stop").count();
    assert_eq!((starts.len(), stops), (3, 3));
    assert_eq!(starts[2]["content_block"]["name"], "time");
    let json: String = events.iter().filter_map(|event| event["delta"]["partial_json"].as_str()).collect();
    assert_eq!(json, "{\"zone\":\"UTC\"}");
    let last = events.iter().find(|event| event["type"] == "message_delta").expect("an end");
    assert_eq!(last["delta"]["stop_reason"], "tool_use");

    // The conversation goes on after it, and a call may be demanded.
    let result = json!({"type": "tool_result", "tool_use_id": "t", "content": "noon"});
    body["messages"] = json!([
        {"role": "user", "content": "When?"},
        {"role": "assistant", "content": whole["content"]},
        {"role": "user", "content": [result]},
    ]);
    body["stream"] = false.into();
    body["tool_choice"] = json!({"type": "any", "disable_parallel_tool_use": true});
    let answer = server.post("/v1/messages", &body);
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.json()["stop_reason"], "tool_use");
}

#[test]
fn responses_have_items_for_each() {
    let server = TestServer::saying(REPLY);
    let tool = json!({"type": "function", "name": "time", "parameters": schema()});
    let mut body = json!({"input": "When?", "tools": [tool], "temperature": 0});
    let whole = server.post("/v1/responses", &body).json();
    let kinds: Vec<_> = whole["output"].as_array().expect("items").iter().map(|item| &item["type"]).collect();
    assert_eq!(kinds, ["reasoning", "message", "function_call"], "{whole}");
    assert_eq!(whole["output"][2]["arguments"], "{\"zone\":\"UTC\"}");
    assert_eq!(whole["tools"][0]["name"], "time");

    body["stream"] = true.into();
    let (events, _) = server.post("/v1/responses", &body).events();
    let of = |kind: &str| events.iter().filter(|event| event["type"] == kind).collect::<Vec<_>>();
    assert_eq!(of("response.output_item.added").len(), 3);
    assert_eq!(of("response.function_call_arguments.done")[0]["arguments"], "{\"zone\":\"UTC\"}");
    let last = of("response.completed")[0];
    assert_eq!(last["response"]["output"].as_array().map(Vec::len), Some(3));
    assert!(events.iter().enumerate().all(|(i, event)| event["sequence_number"] == i));

    // What came back can be sent again.
    let mut input = vec![json!({"role": "user", "content": "When?"})];
    input.extend(whole["output"].as_array().expect("items").clone());
    input.push(
        json!({"type": "function_call_output", "call_id": whole["output"][2]["call_id"], "output": "noon"}),
    );
    let again = server.post("/v1/responses", &json!({"input": input, "tools": [tool]}));
    assert_eq!(again.status, 200, "{again:?}");
}

#[test]
fn ollama_has_fields_for_each() {
    let server = TestServer::saying(REPLY);
    let body = json!({"model": "m", "messages": question(), "tools": [function(false)], "stream": false});
    let message = &server.post("/api/chat", &body).json()["message"];
    assert_eq!(message["thinking"], "A clock helps.");
    assert_eq!(message["content"], "Let me look.");
    assert_eq!(message["tool_calls"][0]["function"]["arguments"], json!({"zone": "UTC"}));
    let lines = server
        .post("/api/chat", &json!({"model": "m", "messages": question(), "tools": [function(false)]}))
        .lines();
    let calls = lines.iter().filter(|line| line["message"]["tool_calls"].is_array()).count();
    assert_eq!(calls, 1);
    assert_eq!(lines.last().expect("a last line")["done"], true);
    let mut turns = question().as_array().expect("turns").clone();
    turns.push(json!({"role": "assistant", "content": "", "tool_calls": message["tool_calls"]}));
    turns.push(json!({"role": "tool", "tool_name": "time", "content": "noon"}));
    let answer = server.post("/api/chat", &json!({"model": "m", "messages": turns, "stream": false}));
    assert_eq!(answer.status, 200, "{answer:?}");
}
