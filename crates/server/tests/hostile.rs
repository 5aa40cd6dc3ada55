//! What nobody should send is answered with a 4xx that says why, and the
//! server goes on.

mod common;

use std::io::{Read, Write};
use std::time::Duration;

use common::{Source, TestServer};
use quarrel_server::{Config, Keys};
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";

fn chat(extra: &str) -> String {
    format!(r#"{{"messages":[{{"role":"user","content":"Hi"}}],"max_tokens":3{extra}}}"#)
}

#[test]
fn wrong_fields_are_named() {
    let server = TestServer::quick();
    for (extra, param) in [
        (r#","nope":1"#, "nope"),
        (r#","temperature":-1"#, "temperature"),
        (r#","temperature":1e300"#, "temperature"),
        (r#","temperature":"hot""#, "temperature"),
        (r#","top_p":1.5"#, "top_p"),
        (r#","min_p":-0.5"#, "min_p"),
        (r#","top_k":-1"#, "top_k"),
        (r#","top_k":99999999999999999999"#, "top_k"),
        (r#","n":0"#, "n"),
        (r#","n":1000000"#, "n"),
        (r#","n":-1"#, "n"),
        (r#","seed":1e30"#, "seed"),
        (r#","max_completion_tokens":4"#, "max_tokens"),
        (r#","top_logprobs":3"#, "top_logprobs"),
        (r#","logprobs":true,"top_logprobs":21"#, "logprobs"),
        (r#","logprobs":-1"#, "logprobs"),
        (r#","presence_penalty":9"#, "presence_penalty"),
        (r#","repeat_last_n":-2"#, "repeat_last_n"),
        (r#","stop_token_ids":[-1]"#, "stop_token_ids[0]"),
        (r#","response_format":{"type":"xml"}"#, "response_format"),
        (r#","modalities":["audio"]"#, "modalities"),
        (r#","stream_options":{"include_usage":true}"#, "stream_options"),
        (r#","stream":true,"stream_options":{"nope":1}"#, "stream_options.nope"),
    ] {
        let answer = server.post_bytes(CHAT, chat(extra).as_bytes());
        assert_eq!(answer.status, 400, "{extra}: {answer:?}");
        assert_eq!(answer.json()["error"]["param"], param, "{extra}: {answer:?}");
    }
    for (messages, param) in [
        (json!([]), "messages"),
        (json!([{"role": "wizard", "content": "Hi"}]), "messages[0].role"),
        (json!([{"role": "user"}]), "messages[0].content"),
        (json!([{"role": "user", "content": "Hi", "nope": 1}]), "messages[0].nope"),
        (
            json!([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://127.0.0.1/"}}]}]),
            "messages[0].content[0]",
        ),
    ] {
        let answer = server.post(CHAT, &json!({"messages": messages}));
        assert_eq!((answer.status, &answer.json()["error"]["param"]), (400, &json!(param)), "{answer:?}");
    }
}

#[test]
fn hostile_bodies_are_refused() {
    let server = TestServer::quick();
    let nested = format!("{}{}", "[".repeat(50_000), "]".repeat(50_000));
    let deep = format!(r#"{{"messages":{nested}}}"#);
    let invalid =
        [br#"{"messages":[{"role":"user","content":""#.as_slice(), &[0xFF, 0xFE], br#""}]}"#].concat();
    for body in [
        b"".as_slice(),
        b"null",
        b"[]",
        b"{",
        b"NaN",
        chat(r#","temperature":NaN"#).as_bytes(),
        chat(r#","temperature":Infinity"#).as_bytes(),
        chat(r#","temperature":1e999"#).as_bytes(),
        chat(r#","max_tokens":1"#).as_bytes().split_last().map_or(&[], |(_, cut)| cut),
        deep.as_bytes(),
        nested.as_bytes(),
        &invalid,
        br#"{"messages":[{"role":"user","content":"\ud800"}]}"#,
        b"\0\0\0",
    ] {
        let answer = server.post_bytes(CHAT, body);
        let shown = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
        assert_eq!(answer.status, 400, "{shown}: {answer:?}");
        assert!(answer.json()["error"]["message"].is_string(), "{shown}");
    }
    // Null characters are text like any other.
    let null = json!({"messages": [{"role": "user", "content": "a\u{0}b"}], "max_tokens": 1});
    assert_eq!(server.post(CHAT, &null).status, 200);
}

#[test]
fn what_can_never_run_is_refused_with_its_numbers() {
    let server = TestServer::quick();
    let zero = server.post_bytes(CHAT, br#"{"messages":[{"role":"user","content":"Hi"}],"max_tokens":0}"#);
    assert_eq!((zero.status, &zero.json()["error"]["param"]), (400, &json!("max_tokens")));
    let long = json!({"messages": [{"role": "user", "content": "x".repeat(20_000)}]});
    let long = server.post(CHAT, &long);
    assert_eq!((long.status, &long.json()["error"]["code"]), (400, &json!("context_length_exceeded")));
    let stops = json!({"messages": [{"role": "user", "content": "Hi"}], "stop": vec!["x"; 100_000]});
    assert_eq!(server.post(CHAT, &stops).status, 400);
    let unknown = json!({"prompt": [4_000_000_000u32], "max_tokens": 1});
    assert_eq!(server.post("/v1/completions", &unknown).status, 400);
    let many = json!({"prompt": vec!["a"; 1000], "max_tokens": 1});
    assert_eq!(server.post("/v1/completions", &many).status, 400);
}

#[test]
fn large_and_packed_bodies_are_refused() {
    let config = Config { max_body: 10_000, ..Config::default() };
    let server = TestServer::with(config, Source::new(Duration::ZERO));
    assert_eq!(server.post_bytes(CHAT, &vec![b' '; 10_001]).status, 413);
    let head = format!("POST {CHAT} HTTP/1.1\r\nContent-Length: 99999999999\r\n");
    assert_eq!(server.send(&head, b"{").status, 413);
    // Chunks without end.
    let mut stream = server.connect();
    let head = format!("POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n");
    stream.write_all(head.as_bytes()).expect("the server reads");
    let chunk = format!("1000\r\n{}\r\n", " ".repeat(0x1000));
    while stream.write_all(chunk.as_bytes()).is_ok() {}
    let head = format!("POST {CHAT} HTTP/1.1\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n");
    assert_eq!(server.send(&head, b"\x1f\x8b").status, 415);
    assert_eq!(server.get("/health").status, 200);
}

#[test]
fn giant_and_malformed_headers_are_refused() {
    let server = TestServer::quick();
    let giant = format!("GET /health HTTP/1.1\r\nX-Giant: {}\r\n", "x".repeat(1 << 20));
    assert_eq!(server.send(&giant, b"").status, 431);
    let many: String = (0..200).map(|i| format!("X-{i}: 1\r\n")).collect();
    assert_eq!(server.send(&format!("GET /health HTTP/1.1\r\n{many}"), b"").status, 431);
    let mut stream = server.connect();
    stream.write_all(b"\x16\x03\x01\x00\x05hello\r\n\r\n").expect("the server reads");
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    assert!(rest.is_empty() || rest.starts_with(b"HTTP/1.1 400"), "{rest:?}");
    assert_eq!(server.get("/health").status, 200);
}

#[test]
fn foreign_hosts_and_origins_are_refused() {
    let config = Config { allowed_origins: vec!["https://chat.example".into()], ..Config::default() };
    let server = TestServer::with(config, Source::new(Duration::ZERO));
    let get = |headers: &str| server.send(&format!("GET /v1/models HTTP/1.1\r\n{headers}"), b"");
    assert_eq!(get("Host: evil.example\r\n").status, 403);
    assert_eq!(get("Origin: http://evil.example\r\n").status, 403);
    assert_eq!(get(&format!("Origin: http://{}\r\n", server.address)).status, 200);
    let allowed = get("Origin: https://chat.example\r\n");
    assert_eq!(allowed.status, 200);
    assert!(allowed.head.contains("access-control-allow-origin: https://chat.example"), "{}", allowed.head);
    let preflight = |origin: &str| {
        let head = format!(
            "OPTIONS {CHAT} HTTP/1.1\r\nOrigin: {origin}\r\nAccess-Control-Request-Method: POST\r\n\
             Access-Control-Request-Headers: content-type\r\n"
        );
        server.send(&head, b"").head.contains("access-control-allow-origin")
    };
    assert!(preflight("https://chat.example") && !preflight("https://evil.example"));
}

#[test]
fn keys_are_asked_for() {
    let keys = Keys::parse("alice=correct-horse-battery\nsecond-key-staple").expect("two keys");
    let server = TestServer::with(Config { keys, ..Config::default() }, Source::new(Duration::ZERO));
    let get = |path: &str, header: &str| server.send(&format!("GET {path} HTTP/1.1\r\n{header}"), b"");
    for header in
        ["", "Authorization: Bearer wrong-wrong\r\n", "Authorization: Basic x\r\n", "x-api-key: \r\n"]
    {
        let answer = get("/v1/models", header);
        assert_eq!(
            (answer.status, &answer.json()["error"]["code"]),
            (401, &json!("invalid_api_key")),
            "{header}"
        );
        assert_eq!(get("/metrics", header).status, 401);
    }
    assert_eq!(get("/v1/models", "Authorization: Bearer correct-horse-battery\r\n").status, 200);
    assert_eq!(get("/v1/models", "x-api-key: second-key-staple\r\n").status, 200);
    assert_eq!(get("/health", "").status, 200);
    let anthropic = get("/v1/messages", "");
    assert_eq!(anthropic.json()["error"]["type"], "authentication_error");
    assert!(get("/api/tags", "").json()["error"].is_string());
}

#[test]
fn the_cache_is_not_shared_between_keys() {
    let keys = Keys::parse("first-key-first\nsecond-key-second").expect("two keys");
    let server = TestServer::with(Config { keys, ..Config::default() }, Source::new(Duration::ZERO));
    let body =
        json!({"messages": [{"role": "user", "content": "x".repeat(500)}], "max_tokens": 1}).to_string();
    let cached = |key: &str| -> Value {
        let head = format!("POST {CHAT} HTTP/1.1\r\nx-api-key: {key}\r\nContent-Length: {}\r\n", body.len());
        server.send(&head, body.as_bytes()).json()["usage"]["prompt_tokens_details"]["cached_tokens"].clone()
    };
    assert_eq!(cached("first-key-first"), 0);
    assert!(cached("first-key-first").as_u64() > Some(400));
    assert_eq!(cached("second-key-second"), 0);
}
