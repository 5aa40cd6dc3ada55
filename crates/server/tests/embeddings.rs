//! Embeddings over HTTP, by a real if tiny model.

mod common;

use std::time::Duration;

use common::{Source, TestServer};
use engine::{Engine, EngineConfig};
use model::LoadOptions;
use quarrel_server::{Config, LoadError, Model, ModelInfo, ModelSource, Residency};
use serde_json::{Value, json};
use std::sync::Arc;
use tokenizer::Tokenizer;

const CONTEXT: u32 = 64;
const N_EMBD: usize = 64;

/// Loads the tiny Llama.
struct Tiny(ModelInfo);

impl ModelSource for Tiny {
    fn info(&self) -> &ModelInfo {
        &self.0
    }

    fn load(&self) -> Result<Model, LoadError> {
        let file = model::testing::tiny("llama", 1).expect("the name is known");
        let backend = backend::Cpu::new(backend::CpuConfig::default()).expect("every machine has a CPU");
        let options = LoadOptions {
            context: Some(CONTEXT),
            max_batch_tokens: 16,
            max_sequences: 3,
            max_outputs: 3,
            ..LoadOptions::default()
        };
        let loaded = model::load(&file, Box::new(backend), &options).expect("tiny models load");
        let tokenizer = Arc::new(Tokenizer::from_metadata(&file.metadata).expect("the vocabulary is valid"));
        let config = EngineConfig { max_requests: 4, ..EngineConfig::default() };
        Ok(Model::new(Engine::start(Box::new(loaded), tokenizer.clone(), config), tokenizer, None))
    }
}

fn server() -> TestServer {
    let tiny: Box<dyn ModelSource> = Box::new(Tiny(ModelInfo::default()));
    TestServer::start(Config::default(), vec![(vec!["tiny".into()], tiny)], Residency::default())
}

fn numbers(value: &Value) -> Vec<f32> {
    let list = value.as_array().unwrap_or_else(|| panic!("no list: {value}"));
    list.iter().map(|x| x.as_f64().expect("a number") as f32).collect()
}

fn length(values: &[f32]) -> f32 {
    values.iter().map(|x| x * x).sum::<f32>().sqrt()
}

#[test]
fn openai_embeds_texts_and_tokens() {
    let server = server();
    let texts: Vec<String> = (0..9).map(|i| "the hen ".repeat(1 + i % 4) + &i.to_string()).collect();
    let answer = server.post("/v1/embeddings", &json!({"input": texts, "model": "tiny", "user": "me"}));
    assert_eq!(answer.status, 200, "{answer:?}");
    let json = answer.json();
    assert_eq!((&json["object"], &json["model"]), (&json!("list"), &json!("tiny")));
    let mut tokens = 0;
    for (i, text) in texts.iter().enumerate() {
        let item = &json["data"][i];
        assert_eq!((&item["object"], item["index"].as_u64()), (&json!("embedding"), Some(i as u64)));
        let values = numbers(&item["embedding"]);
        assert_eq!(values.len(), N_EMBD);
        assert!((length(&values) - 1.0).abs() < 1e-5);
        // What stands beside a text in a batch changes nothing.
        let alone = server.post("/v1/embeddings", &json!({"input": text})).json();
        assert_eq!(numbers(&alone["data"][0]["embedding"]), values, "{text}");
        let body = json!({"content": text, "add_special": true});
        let ids = server.post("/tokenize", &body).json()["tokens"].clone();
        tokens += ids.as_array().map_or(0, Vec::len);
        let by_ids = server.post("/v1/embeddings", &json!({"input": [ids, [5, 6]]})).json();
        assert_eq!(numbers(&by_ids["data"][0]["embedding"]), values, "{text}");
        let by_ids = server.post("/v1/embeddings", &json!({"input": ids})).json();
        assert_eq!(numbers(&by_ids["data"][0]["embedding"]), values, "{text}");
    }
    assert_eq!(json["usage"], json!({"prompt_tokens": tokens, "total_tokens": tokens}));
}

#[test]
fn base64_holds_the_same_numbers() {
    let server = server();
    let body = |format: &str| json!({"input": "the hen", "encoding_format": format, "dimensions": N_EMBD});
    let list = server.post("/v1/embeddings", &body("float")).json();
    let text = server.post("/v1/embeddings", &body("base64")).json();
    let text = text["data"][0]["embedding"].as_str().expect("a text").to_owned();
    // A decoder of its own: four letters are three bytes.
    let sextets = text.bytes().filter(|&b| b != b'=').map(|b| match b {
        b'A'..=b'Z' => b - b'A',
        b'a'..=b'z' => b - b'a' + 26,
        b'0'..=b'9' => b - b'0' + 52,
        b'+' => 62,
        _ => 63,
    });
    let bits: Vec<u8> = sextets.flat_map(|six| (0..6).rev().map(move |i| six >> i & 1)).collect();
    let bytes = bits.chunks_exact(8).map(|bits| bits.iter().fold(0, |byte, bit| byte << 1 | bit));
    let bytes: Vec<u8> = bytes.collect();
    let values: Vec<f32> =
        bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    assert_eq!(values, numbers(&list["data"][0]["embedding"]));
}

#[test]
fn what_cannot_be_embedded_is_refused() {
    let server = server();
    let long = "the hen ".repeat(100);
    for (body, param) in [
        (json!({"input": ""}), json!("input")),
        (json!({"input": ["a", ""]}), json!("input")),
        (json!({"input": []}), Value::Null),
        (json!({"input": vec!["a"; 2049]}), json!("input")),
        (json!({"input": [1, 100_000]}), Value::Null),
        (json!({"input": {"text": "a"}}), json!("input")),
        (json!({}), Value::Null),
        (json!({"input": "a", "dimensions": 8}), json!("dimensions")),
        (json!({"input": "a", "encoding_format": "hex"}), json!("encoding_format")),
        (json!({"input": "a", "nope": 1}), json!("nope")),
        (json!({"input": ["a", long]}), Value::Null),
    ] {
        let answer = server.post("/v1/embeddings", &body);
        assert_eq!((answer.status, &answer.json()["error"]["param"]), (400, &param), "{answer:?}");
    }
    assert_eq!(server.post("/v1/embeddings", &json!({"input": "a", "model": "x"})).status, 404);
    let reciter = TestServer::with(Config::default(), Source::new(Duration::ZERO));
    let answer = reciter.post("/v1/embeddings", &json!({"input": "a"}));
    assert_eq!(answer.status, 400, "a backend without hidden states: {answer:?}");
}

#[test]
fn ollama_embeds() {
    let server = server();
    let answer = server
        .post("/api/embed", &json!({"model": "tiny:latest", "input": ["the hen", "a"], "keep_alive": "5m"}));
    assert_eq!(answer.status, 200, "{answer:?}");
    let json = answer.json();
    let openai = server.post("/v1/embeddings", &json!({"input": ["the hen", "a"]})).json();
    for i in 0..2 {
        assert_eq!(json["embeddings"][i], openai["data"][i]["embedding"]);
    }
    assert_eq!(json["prompt_eval_count"], openai["usage"]["prompt_tokens"]);
    assert!(json["total_duration"].as_u64() >= json["load_duration"].as_u64());
    let one = server.post("/api/embed", &json!({"input": "the hen", "options": {"temperature": 0}})).json();
    assert_eq!(one["embeddings"], json!([json["embeddings"][0]]));
    let none = server.post("/api/embed", &json!({"model": "tiny", "input": ""})).json();
    assert_eq!(none["embeddings"], json!([]), "only loads");

    let raw = server.post("/api/embeddings", &json!({"model": "tiny", "prompt": "the hen"})).json();
    let raw = numbers(&raw["embedding"]);
    let scale = length(&raw);
    let unit = numbers(&json["embeddings"][0]);
    assert!(raw.iter().zip(&unit).all(|(a, b)| (a / scale - b).abs() < 1e-5));
    assert_eq!(server.post("/api/embeddings", &json!({"prompt": ""})).json(), json!({"embedding": []}));
}

#[test]
fn ollama_cuts_only_when_told_to() {
    let server = server();
    let long = "the hen ".repeat(100);
    for body in [json!({"input": long}), json!({"input": long, "truncate": false})] {
        let refused = server.post("/api/embed", &body);
        assert_eq!((refused.status, refused.json()["error"].is_string()), (400, true));
    }
    let cut = server.post("/api/embed", &json!({"input": long, "truncate": true})).json();
    assert_eq!(cut["prompt_eval_count"], CONTEXT);
    for (field, value) in
        [("dimensions", json!(3)), ("options", json!({"num_ctx": 100_000})), ("options", json!({"nope": 1}))]
    {
        let mut body = json!({"input": "a"});
        body[field] = value;
        assert_eq!(server.post("/api/embed", &body).status, 400);
    }
}
