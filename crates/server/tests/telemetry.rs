//! What is noted of requests: lines of the log, and figures.

mod common;

use std::io::Write;
use std::sync::{Arc, Mutex};

use common::{TestServer, eventually};
use serde_json::{Value, json};

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Lines {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    /// The line that sums up the request with this id.
    fn of(&self, id: &str) -> Option<Value> {
        let text = self.text();
        let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let mut found =
            lines.filter(|line| line["span"]["id"] == id && line["fields"]["message"] == "generated");
        found.next()
    }
}

/// One test: the log is the process's.
#[test]
fn requests_are_noted_without_their_texts() {
    let lines = Lines::default();
    let writer = lines.clone();
    tracing_subscriber::fmt().json().with_writer(move || writer.clone()).init();
    let server = TestServer::quick();
    let secret = "xyzzy-the-secret-words";
    let message = json!([{"role": "user", "content": secret}]);
    for (path, api, extra) in [
        ("/v1/chat/completions", "openai", json!({"stream": true})),
        ("/v1/chat/completions", "openai", json!({"stream": false, "n": 2})),
        ("/v1/messages", "anthropic", json!({})),
        ("/api/chat", "ollama", json!({"options": {"num_predict": 5}})),
    ] {
        let mut body = json!({"model": "m", "messages": message});
        if api != "ollama" {
            body["max_tokens"] = 5.into();
        }
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let answer = server.post(path, &body);
        assert_eq!(answer.status, 200, "{answer:?}");
        let id = answer.head.lines().find_map(|line| line.strip_prefix("x-request-id: ")).unwrap();
        eventually("the line comes", || lines.of(id).is_some());
        let line = lines.of(id).unwrap();
        let (span, fields) = (&line["span"], &line["fields"]);
        assert_eq!((&span["route"], &span["api"], &span["model"]), (&json!(path), &json!(api), &json!("m")));
        assert_eq!(span["generated_tokens"], if extra["n"] == 2 { 10 } else { 5 }, "{line}");
        assert!(span["prompt_tokens"].as_u64().is_some_and(|n| n > 5), "{line}");
        assert!(span["cached_tokens"].is_u64(), "{line}");
        assert_eq!(fields["outcome"], "length", "{line}");
        assert!(fields["seconds"].is_f64() && fields["first_token"].is_f64(), "{line}");
    }
    let answer =
        server.post("/v1/chat/completions", &json!({"messages": message, "response_format": secret}));
    assert_eq!(answer.status, 400);
    let text = lines.text();
    assert!(text.contains(r#""status":400"#), "{text}");
    assert!(!text.contains(secret), "{text}");

    let figures = server.get("/metrics").body;
    for name in [
        "quarrel_time_to_first_token_seconds_bucket",
        "quarrel_inter_token_seconds_bucket",
        "quarrel_queue_seconds_bucket",
        "quarrel_step_seconds_bucket",
        "quarrel_batch_rows_bucket",
        "quarrel_batch_sequences_bucket",
        "quarrel_http_seconds_bucket",
        "quarrel_http_requests_total",
        "quarrel_prompt_tokens_total",
        "quarrel_generated_tokens_total",
        "quarrel_prefix_cached_tokens_total",
        "quarrel_prefix_hits_total",
        "quarrel_kv_pages_used",
        "quarrel_kv_pages",
        "quarrel_preemptions_total",
        "quarrel_cancels_total",
        "quarrel_requests_running",
        "quarrel_requests_waiting",
    ] {
        let found = figures.lines().any(|line| line.split(['{', ' ']).next() == Some(name));
        assert!(found, "{name} is missing:\n{figures}");
    }
    assert!(!figures.contains(secret));
}
