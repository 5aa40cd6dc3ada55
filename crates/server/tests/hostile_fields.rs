//! Numbers, forms and slowness that nobody should send: each is answered with
//! a 4xx that names the field, soon, and says nothing of this machine.

mod common;

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use common::TestServer;
use serde_json::{Value, json};

/// Many times what any of these takes.
const SOON: Duration = Duration::from_secs(20);

/// Each path with a request that is right, and its numeric fields.
fn numeric() -> Vec<(&'static str, Value, &'static [&'static str])> {
    let messages = json!([{"role": "user", "content": "Hi"}]);
    vec![
        (
            "/v1/chat/completions",
            // With what the others need to mean anything.
            json!({"messages": messages, "max_tokens": 1, "mirostat": 2, "dry_multiplier": 1, "logprobs": true}),
            &[
                "max_tokens",
                "max_completion_tokens",
                "n",
                "seed",
                "temperature",
                "top_p",
                "top_k",
                "min_p",
                "typical_p",
                "top_logprobs",
                "presence_penalty",
                "frequency_penalty",
                "repeat_penalty",
                "repeat_last_n",
                "dry_multiplier",
                "dry_base",
                "dry_allowed_length",
                "dry_penalty_last_n",
                "xtc_probability",
                "xtc_threshold",
                "mirostat",
                "mirostat_tau",
                "mirostat_eta",
            ],
        ),
        (
            "/v1/completions",
            json!({"prompt": "Hi", "max_tokens": 1}),
            &["max_tokens", "n", "best_of", "logprobs", "seed", "temperature", "top_p", "top_k"],
        ),
        (
            "/v1/responses",
            json!({"input": "Hi", "max_output_tokens": 1}),
            &["max_output_tokens", "temperature", "top_p"],
        ),
        (
            "/v1/messages",
            json!({"model": "m", "messages": messages, "max_tokens": 1}),
            &["max_tokens", "temperature", "top_p", "top_k"],
        ),
    ]
}

/// A 4xx in time, or what the value means where it means something; nothing of this machine in either.
fn check(server: &TestServer, path: &str, body: &str) -> u16 {
    let begun = Instant::now();
    let answer = server.post_bytes(path, body.as_bytes());
    let shown: String = body.chars().take(200).collect();
    assert!(answer.status == 200 || (400..500).contains(&answer.status), "{path} {shown}: {answer:?}");
    assert!(begun.elapsed() < SOON, "{path} {shown}: took {:?}", begun.elapsed());
    if answer.status != 200 {
        let told = ["/root", "/home", "/work", "src/", ".rs", "127.0.0.1", "0x"];
        assert!(told.iter().all(|secret| !answer.body.contains(secret)), "{path} {shown}: {}", answer.body);
    }
    answer.status
}

#[test]
fn every_number_has_a_range() {
    let server = TestServer::quick();
    for (path, right, fields) in numeric() {
        assert_eq!(check(&server, path, &right.to_string()), 200, "{path}");
        for field in fields {
            // Written as text: JSON values hold neither these integers nor infinity.
            for wrong in ["-9223372036854775809", "1e999", "-1e999", "NaN", "Infinity", "\"one\"", "[]", "{}"]
            {
                let mut body = right.clone();
                body[field] = json!("VALUE");
                let body = body.to_string().replace("\"VALUE\"", wrong);
                assert_eq!(check(&server, path, &body), 400, "{path} {field} {wrong}");
            }
            for odd in ["-2", "-1", "0", "4294967296", "9223372036854775807", "18446744073709551616", "1e300"]
            {
                let mut body = right.clone();
                body[field] = json!("VALUE");
                check(&server, path, &body.to_string().replace("\"VALUE\"", odd));
            }
        }
    }
}

#[test]
fn fields_of_other_servers_are_refused_by_name() {
    let server = TestServer::quick();
    for (field, value) in [
        ("prompt_logprobs", json!(-1)),
        ("chat_template", json!("{{ ''.__class__ }}")),
        ("logit_bias", json!({"4000000000": 1.0})),
        ("logit_bias", json!({"x": 1.0})),
        ("logit_bias", json!({"-1": 1.0})),
        ("stop", json!(vec!["x"; 100_000])),
    ] {
        let mut body = json!({"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1});
        body[field] = value;
        let answer = server.post("/v1/chat/completions", &body);
        assert_eq!(answer.status, 400, "{field}: {answer:?}");
        assert!([field, "4000000000"].iter().any(|name| answer.body.contains(name)), "{field}: {answer:?}");
    }
}

#[test]
fn bombs_in_forms_are_refused_with_the_field() {
    let server = TestServer::quick();
    let groups = "(".repeat(60_000) + "a" + &")".repeat(60_000);
    let chain: String = (0..5000).map(|i| format!("r{i}: r{}\n", i + 1)).collect();
    let format =
        |schema: Value| json!({"type": "json_schema", "json_schema": {"name": "x", "schema": schema}});
    for (field, value) in [
        ("guided_regex", json!(groups)),
        ("guided_regex", json!("(a)\\1")),
        ("guided_grammar", json!(format!("start: r0\n{chain}r5000: \"a\""))),
        ("guided_grammar", json!("start: start")),
        ("guided_choice", json!([])),
        ("response_format", format(json!({"$ref": "#"}))),
        ("response_format", format(json!({"type": "string", "pattern": "("}))),
        ("response_format", format(json!({"type": "string", "pattern": groups}))),
        ("response_format", format(json!({"type": "object", "unheardOf": 1}))),
        ("response_format", format(json!({"type": "array", "minItems": u64::MAX}))),
    ] {
        let mut body = json!({"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1});
        body[field] = value;
        assert_eq!(check(&server, "/v1/chat/completions", &body.to_string()), 400, "{field}");
    }
    let unknown = format(json!({"type": "object", "properties": {"a": {"type": "string", "unheardOf": 1}}}));
    let body = json!({"messages": [{"role": "user", "content": "Hi"}], "response_format": unknown});
    assert!(server.post("/v1/chat/completions", &body).body.contains("unheardOf"), "the keyword is named");
    // A pattern that no text begins with is a form like any other: empty, or refused.
    let odd =
        json!({"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1, "guided_regex": "^+a"});
    check(&server, "/v1/chat/completions", &odd.to_string());
}

#[test]
fn bad_patterns_of_tools_harm_nobody() {
    let server = TestServer::quick();
    let mut tool = json!({"type": "function", "function": {"name": "f", "parameters": {
        "type": "object", "properties": {"a": {"type": "string", "pattern": "("}}, "required": ["a"],
        "additionalProperties": false}}});
    for strict in [false, true] {
        tool["function"]["strict"] = strict.into();
        for choice in ["required", "auto"] {
            let body = json!({"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1, "tools": [tool],
                "tool_choice": choice});
            let status = check(&server, "/v1/chat/completions", &body.to_string());
            // Only what is promised must be possible.
            assert!(!strict || status == 400, "{choice}: {status}");
        }
    }
}

#[test]
fn a_header_that_never_ends_is_given_up() {
    let server = TestServer::quick();
    let mut slow = server.connect();
    slow.set_read_timeout(Some(Duration::from_millis(200))).expect("a socket option");
    slow.write_all(b"GET /health HTTP/1.1\r\n").expect("the server reads");
    let begun = Instant::now();
    // A byte now and then, as slowloris does; others are served meanwhile.
    loop {
        assert!(begun.elapsed() < Duration::from_secs(60), "the server waits for ever");
        let _ = slow.write_all(b"X");
        match slow.read(&mut [0; 64]) {
            Ok(0) => break,
            Ok(_) => {}
            Err(error)
                if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
            Err(_) => break,
        }
        assert_eq!(server.get("/health/live").status, 200);
        std::thread::sleep(Duration::from_millis(300));
    }
}
