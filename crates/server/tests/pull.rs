//! Models that callers ask to fetch, from a Hub of this process.

mod common;
#[path = "../../store/tests/common/mod.rs"]
mod hub;

// Under the name that the Hub's own tests use.
extern crate store as quarrel_store;

use std::time::Duration;

use common::{Source, TestServer, eventually};
use hub::{Fault, Hub, noise};
use quarrel_server::{Config, LoadError, ModelSource, Pulls};
use serde_json::{Value, json};

const MODEL: &str = "hf.co/owner/repo-GGUF:Q4_0";

fn server(store: store::Store) -> TestServer {
    let open = |resolved: &store::Resolved| -> Result<Box<dyn ModelSource>, LoadError> {
        if std::fs::metadata(&resolved.path).is_ok_and(|file| file.len() < 100) {
            return Err(LoadError("too small".into()));
        }
        Ok(Box::new(Source::new(Duration::ZERO)))
    };
    let pulls = Some(Pulls { store, open: Box::new(open) });
    TestServer::with(Config { pulls, ..Config::default() }, Source::new(Duration::ZERO))
}

fn pull(server: &TestServer, extra: Value) -> common::Answer {
    let mut body = json!({"model": MODEL});
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    server.post("/api/pull", &body)
}

#[test]
fn nobody_fetches_unless_that_was_allowed() {
    let server = TestServer::quick();
    let answer = pull(&server, json!({}));
    assert_eq!(answer.status, 403);
    assert!(answer.json()["error"].as_str().is_some_and(|text| text.contains("--allow-pull")), "{answer:?}");
}

#[test]
fn a_model_is_fetched_and_served() {
    let model = noise(3 << 20);
    let hub = Hub::start(&[("m-Q4_0.gguf", &model)]);
    let dir = tempfile::tempdir().unwrap();
    let server = server(hub.store(dir.path()));
    let chat = json!({"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "stream": false,
        "options": {"num_predict": 3}});
    assert_eq!(server.post("/api/chat", &chat).status, 404);

    let answer = pull(&server, json!({}));
    assert!(answer.head.contains("content-type: application/x-ndjson"), "{}", answer.head);
    let lines = answer.lines();
    let statuses: Vec<_> = lines.iter().filter_map(|line| line["status"].as_str()).collect();
    let digest = store::Digest::of(&model).to_string();
    let pulling = format!("pulling {}", &digest[..12]);
    assert_eq!(statuses.first(), Some(&"pulling manifest"));
    assert!(statuses.contains(&pulling.as_str()), "{statuses:?}");
    assert!(statuses.contains(&"verifying sha256 digest"), "{statuses:?}");
    assert_eq!(statuses.last(), Some(&"success"));
    let bytes = lines.iter().rfind(|line| line["completed"].is_u64()).unwrap();
    assert_eq!(bytes["digest"], format!("sha256:{digest}"));
    assert_eq!((&bytes["total"], &bytes["completed"]), (&json!(3 << 20), &json!(3 << 20)));

    assert_eq!(server.post("/api/chat", &chat).status, 200);
    let names: Vec<Value> = server.get("/v1/models").json()["data"].as_array().unwrap().clone();
    assert!(names.iter().any(|model| model["id"] == MODEL), "{names:?}");
    // Again: nothing is fetched, also under Ollama's tag.
    let before = hub.seen().len();
    assert_eq!(pull(&server, json!({"stream": false})).json(), json!({"status": "success"}));
    assert_eq!(hub.seen().len(), before);
}

#[test]
fn without_a_stream_the_answer_is_the_end() {
    let hub = Hub::start(&[("m-Q4_0.gguf", &noise(1000))]);
    let dir = tempfile::tempdir().unwrap();
    let server = server(hub.store(dir.path()));
    let answer = pull(&server, json!({"stream": false, "insecure": false}));
    assert_eq!((answer.status, answer.json()), (200, json!({"status": "success"})));
}

#[test]
fn what_goes_wrong_is_told() {
    let hub = Hub::start(&[("m-Q4_0.gguf", &noise(50))]);
    let dir = tempfile::tempdir().unwrap();
    let server = server(hub.store(dir.path()));
    for (model, status) in [
        ("http://127.0.0.1/m.gguf", 400),
        ("/etc/passwd", 400),
        ("no-such-model", 404),
        ("hf:owner/repo-GGUF:Q8_0", 400),
    ] {
        let answer = pull(&server, json!({"model": model, "stream": false}));
        assert_eq!(answer.status, status, "{answer:?}");
        assert!(answer.json()["error"].is_string(), "{answer:?}");
    }
    assert_eq!(pull(&server, json!({"insecure": true})).status, 400);
    hub.fail_info([Fault::Status(404, "x: y")]);
    assert_eq!(pull(&server, json!({"stream": false})).status, 404);
    // It cannot run; what is wrong with it, and where it lies, is for the log alone.
    let answer = pull(&server, json!({"stream": true}));
    let last = answer.lines().pop().unwrap();
    assert!(last["error"].as_str().is_some_and(|text| text.contains("cannot run here")), "{last}");
    assert!(!answer.body.contains(dir.path().to_str().unwrap()), "{answer:?}");
    assert_eq!(server.get("/v1/models").json()["data"].as_array().map(Vec::len), Some(2));
}

#[test]
fn a_reader_that_leaves_ends_the_pull() {
    let hub = Hub::start(&[("m-Q4_0.gguf", &noise(1000))]);
    hub.fail_info([Fault::Status(500, "x: y"), Fault::Status(500, "x: y")]);
    let dir = tempfile::tempdir().unwrap();
    let mut config = hub.config(dir.path());
    // Longer than this test: only leaving ends the wait.
    config.retry.first_wait = Duration::from_secs(60);
    config.retry.longest_wait = Duration::from_secs(60);
    let server = server(store::Store::open(config));
    let waiting: Vec<_> = (0..2)
        .map(|n| {
            let connection = server.begin("/api/pull", &json!({"model": MODEL}));
            eventually("the Hub is asked", || hub.seen().len() > n);
            connection
        })
        .collect();
    let answer = pull(&server, json!({}));
    assert_eq!(answer.status, 429, "there are two places: {answer:?}");
    drop(waiting);
    eventually("the places come free", || pull(&server, json!({"stream": false})).status == 200);
}

#[test]
fn models_are_not_changed_over_http() {
    let server = TestServer::quick();
    for head in [
        "DELETE /api/delete",
        "POST /api/copy",
        "POST /api/create",
        "POST /api/push",
        "HEAD /api/blobs/sha256:00",
        "POST /api/blobs/sha256:00",
    ] {
        let answer = server.send(&format!("{head} HTTP/1.1\r\nContent-Length: 2\r\n"), b"{}");
        assert_eq!(answer.status, 501, "{head}: {answer:?}");
        if !head.starts_with("HEAD") {
            assert!(answer.json()["error"].is_string(), "{head}: {answer:?}");
        }
    }
}
