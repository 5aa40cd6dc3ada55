//! Each API answers as its clients expect.

mod common;

use common::TestServer;
use serde_json::{Value, json};

fn chat(extra: Value) -> Value {
    let mut body = json!({"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5});
    body.as_object_mut().expect("an object").extend(extra.as_object().expect("an object").clone());
    body
}

/// The five letters that follow a prompt of `n` tokens.
fn letters(n: u64) -> String {
    (n - 1..n + 4).map(|place| char::from(b'a' + (place % 26) as u8)).collect()
}

#[test]
fn chat_answers_whole() {
    let server = TestServer::quick();
    let answer =
        server.post("/v1/chat/completions", &chat(json!({"model": "other", "seed": 7, "user": "me"})));
    assert_eq!(answer.status, 200, "{answer:?}");
    let json = answer.json();
    let prompt = json["usage"]["prompt_tokens"].as_u64().expect("a number");
    assert_eq!(json["object"], "chat.completion");
    assert_eq!(json["model"], "other");
    assert_eq!(
        json["choices"][0]["message"],
        json!({"role": "assistant", "content": letters(prompt), "refusal": null})
    );
    assert_eq!(json["choices"][0]["finish_reason"], "length");
    assert_eq!(json["usage"]["completion_tokens"], 5);
    assert_eq!(json["usage"]["total_tokens"], prompt + 5);
    assert!(answer.head.contains("x-request-id: req-"), "{}", answer.head);
}

#[test]
fn chat_streams() {
    let server = TestServer::quick();
    let options = json!({"stream": true, "stream_options": {"include_usage": true}, "n": 2});
    let answer = server.post("/v1/chat/completions", &chat(options));
    assert!(answer.head.contains("content-type: text/event-stream"), "{}", answer.head);
    let (events, done) = answer.events();
    assert!(done);
    let usage = &events.last().expect("a last event")["usage"];
    assert_eq!(usage["completion_tokens"], 10);
    let prompt = usage["prompt_tokens"].as_u64().expect("a number");
    for index in 0..2 {
        let own: Vec<_> = events
            .iter()
            .filter_map(|event| event["choices"].as_array()?.iter().find(|choice| choice["index"] == index))
            .collect();
        let text: String = own.iter().filter_map(|choice| choice["delta"]["content"].as_str()).collect();
        assert_eq!(text, letters(prompt));
        assert_eq!(own[0]["delta"]["role"], "assistant");
        assert_eq!(own.last().expect("a last piece")["finish_reason"], "length");
    }
    assert!(events[..events.len() - 1].iter().all(|event| event["usage"].is_null()));
}

#[test]
fn stops_and_logprobs() {
    let server = TestServer::quick();
    let whole = server.post("/v1/chat/completions", &chat(json!({"max_tokens": 30})));
    let text = whole.json()["choices"][0]["message"]["content"].as_str().expect("a text").to_owned();
    let body = chat(json!({"max_tokens": 30, "stop": [text[3..5]], "logprobs": true, "top_logprobs": 2}));
    let answer = server.post("/v1/chat/completions", &body).json();
    let choice = &answer["choices"][0];
    assert_eq!(choice["message"]["content"], text[..3]);
    assert_eq!(choice["finish_reason"], "stop");
    let first = &choice["logprobs"]["content"][0];
    assert_eq!(first["token"], text[..1]);
    assert_eq!(first["bytes"], json!(&text.as_bytes()[..1]));
    assert_eq!(first["top_logprobs"].as_array().map(Vec::len), Some(2));
    assert!(first["logprob"].as_f64().is_some_and(|logprob| logprob.abs() < 1e-3), "{first}");
}

#[test]
fn texts_are_continued() {
    let server = TestServer::quick();
    let body = json!({"prompt": ["hello", "the end"], "max_tokens": 5, "n": 2, "logprobs": 1});
    let answer = server.post("/v1/completions", &body).json();
    let choices = answer["choices"].as_array().expect("choices");
    assert_eq!(choices.iter().map(|c| c["index"].as_u64()).collect::<Vec<_>>(), [0, 1, 2, 3].map(Some));
    assert_eq!(choices[0]["text"], choices[1]["text"]);
    assert_ne!(choices[0]["text"], choices[2]["text"]);
    assert_eq!(choices[0]["logprobs"]["text_offset"], json!([0, 1, 2, 3, 4]));
    let echoed = server.post("/v1/completions", &json!({"prompt": [3, 4, 5], "max_tokens": 1, "echo": true}));
    assert_eq!(echoed.status, 200, "{echoed:?}");
    let whole = server.post("/v1/completions", &json!({"prompt": "hello", "max_tokens": 5})).json();
    let streamed =
        server.post("/v1/completions", &json!({"prompt": "hello", "max_tokens": 5, "stream": true}));
    let (events, done) = streamed.events();
    let text: String = events.iter().filter_map(|event| event["choices"][0]["text"].as_str()).collect();
    assert!(done);
    assert_eq!(whole["choices"][0]["text"], text);
}

#[test]
fn anthropic_messages() {
    let server = TestServer::quick();
    let mut body = json!({
        "model": "m", "max_tokens": 5, "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
    });
    let answer = server.post("/v1/messages", &body).json();
    assert_eq!(answer["type"], "message");
    assert_eq!(answer["stop_reason"], "max_tokens");
    assert_eq!(answer["usage"]["output_tokens"], 5);
    let counted = server.post("/v1/messages/count_tokens", &body).json();
    let usage = &answer["usage"];
    let sum =
        usage["input_tokens"].as_u64().zip(usage["cache_read_input_tokens"].as_u64()).map(|(a, b)| a + b);
    assert_eq!(counted["input_tokens"].as_u64(), sum);
    body["stream"] = true.into();
    let streamed = server.post("/v1/messages", &body);
    let (events, _) = streamed.events();
    let kinds: Vec<_> = events.iter().filter_map(|event| event["type"].as_str()).collect();
    assert_eq!(kinds[..2], ["message_start", "content_block_start"]);
    assert_eq!(kinds[kinds.len() - 3..], ["content_block_stop", "message_delta", "message_stop"]);
    let text: String = events.iter().filter_map(|event| event["delta"]["text"].as_str()).collect();
    assert_eq!(answer["content"][0]["text"], text);
    let refused = server.post("/v1/messages", &json!({"messages": [], "max_tokens": 5}));
    assert_eq!(refused.status, 400);
    assert_eq!(refused.json()["error"]["type"], "invalid_request_error");
}

#[test]
fn responses() {
    let server = TestServer::quick();
    let items = json!([
        {"role": "user", "content": "Hi"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "abc"}]},
        {"role": "developer", "content": [{"type": "input_text", "text": "Go on"}]},
    ]);
    let mut body =
        json!({"input": items, "instructions": "Be brief.", "max_output_tokens": 5, "store": true});
    let answer = server.post("/v1/responses", &body).json();
    assert_eq!(answer["status"], "incomplete");
    assert_eq!(answer["incomplete_details"]["reason"], "max_output_tokens");
    assert_eq!(answer["usage"]["output_tokens"], 5);
    body["stream"] = true.into();
    let (events, _) = server.post("/v1/responses", &body).events();
    let numbers: Vec<_> = events.iter().filter_map(|event| event["sequence_number"].as_u64()).collect();
    assert_eq!(numbers, (0..events.len() as u64).collect::<Vec<_>>());
    let text: String = events.iter().filter_map(|event| event["delta"].as_str()).collect();
    assert_eq!(answer["output"][0]["content"][0]["text"], text);
    let last = events.last().expect("a last event");
    assert_eq!(last["type"], "response.incomplete");
    assert_eq!(last["response"]["output"][0]["content"][0]["text"], text);
    for (field, value) in [
        ("previous_response_id", json!("resp_1")),
        ("truncation", json!("auto")),
        ("background", json!(true)),
        ("nope", json!(1)),
    ] {
        let mut body = json!({"input": "Hi", "max_output_tokens": 5});
        body[field] = value;
        let refused = server.post("/v1/responses", &body);
        assert_eq!((refused.status, &refused.json()["error"]["param"]), (400, &json!(field)));
    }
    let image =
        json!({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "file:///x"}]}]});
    let refused = server.post("/v1/responses", &image);
    assert_eq!((refused.status, &refused.json()["error"]["param"]), (400, &json!("input[0].content[0]")));
}

#[test]
fn ollama_chat_and_generate() {
    let server = TestServer::quick();
    let body = json!({"model": "m:latest", "messages": [{"role": "user", "content": "Hi"}], "options": {"num_predict": 5, "num_thread": 2}});
    let lines = server.post("/api/chat", &body).lines();
    let last = lines.last().expect("a last line");
    assert_eq!((last["done"].as_bool(), last["done_reason"].as_str()), (Some(true), Some("length")));
    assert_eq!(last["eval_count"], 5);
    let text: String = lines.iter().filter_map(|line| line["message"]["content"].as_str()).collect();
    assert_eq!(text.len(), 5);
    let body = json!({"model": "m", "prompt": "Hi", "stream": false, "options": {"num_predict": 5}});
    assert_eq!(server.post("/api/generate", &body).json()["response"].as_str().map(str::len), Some(5));
    assert_eq!(server.post("/api/generate", &json!({"model": "m"})).json()["done_reason"], "load");
    let tags = server.get("/api/tags").json();
    assert_eq!(tags["models"][0]["name"], "m");
    assert_eq!(server.post("/api/show", &json!({"model": "m"})).json()["details"]["family"], "llama");
    let missing = server.post("/api/chat", &json!({"model": "nope", "messages": []}));
    assert_eq!((missing.status, missing.json()["error"].is_string()), (404, true));
    let wide = json!({"model": "m", "prompt": "Hi", "options": {"num_ctx": 1_000_000}});
    assert_eq!(server.post("/api/generate", &wide).status, 400);
}

#[test]
fn tokens_and_templates() {
    let server = TestServer::quick();
    let tokens = server.post("/tokenize", &json!({"content": "the hen", "model": "m"})).json();
    let text = server.post("/detokenize", &json!({"tokens": tokens["tokens"]})).json();
    assert_eq!(text["content"], "the hen");
    assert_eq!(server.post("/detokenize", &json!({"tokens": [288]})).status, 400);
    let prompt =
        server.post("/apply-template", &json!({"messages": [{"role": "user", "content": "Hi"}]})).json();
    assert!(prompt["prompt"].as_str().is_some_and(|text| text.contains("<|im_start|>user\nHi<|im_end|>")));
}

#[test]
fn models_health_metrics_and_documents() {
    let server = TestServer::quick();
    let models = server.get("/v1/models").json();
    assert_eq!(models["data"][1]["id"], "other");
    assert_eq!(server.get("/v1/models/m").json()["id"], "m");
    assert_eq!(server.get("/v1/models/none").json()["error"]["code"], "model_not_found");
    for path in ["/health", "/health/live", "/health/ready", "/docs"] {
        assert_eq!(server.get(path).status, 200, "{path}");
    }
    let metrics = server.get("/metrics");
    assert!(metrics.body.contains("quarrel_http_requests_total{"), "{}", metrics.body);
    let document = server.get("/openapi.json").json();
    let fields = &document["components"]["schemas"]["ChatRequest"]["properties"];
    assert!(fields["messages"].is_object() && fields["temperature"].is_object(), "{fields}");
    assert_eq!(server.get("/nowhere").status, 404);
    assert_eq!(server.get("/v1/chat/completions").status, 405);
}
