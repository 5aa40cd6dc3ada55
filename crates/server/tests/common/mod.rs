//! A server in this process on a port of the system's choice, in front of a
//! model that recites the alphabet, and a client that sends what it is told.

#![allow(dead_code, reason = "each test file uses a part of this")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use engine::{Engine, EngineConfig};
use model::{CacheGroup, ForwardBatch, ModelRunner, RunnerLimits};
use quarrel_server::{
    Bound, Config, LoadError, Model, ModelInfo, ModelSource, Registry, Residency, Shutdown,
};
use serde_json::Value;
use tokenizer::Tokenizer;
use tokenizer::template::{SpecialTokens, Template};
use tokio::sync::watch;

/// Longest context of the reciting model.
pub const CONTEXT: u32 = 8192;
const N_VOCAB: usize = 288;
/// The tiny models' tokens of bytes begin here.
const FIRST_BYTE: u32 = 3;
const END_OF_TEXT: u32 = 2;
/// The recitation ends at this place.
const END: u32 = 4000;

/// A template that shows everything, in Hermes' way.
pub const TEMPLATE: &str = "{% for tool in tools or [] %}[{{ tool | tojson }}]{% endfor %}\
    {% for m in messages %}<{{ m.role }}>{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>\
    {% endif %}{{ m.content or '' }}{% for call in m.tool_calls %}<tool_call>{{ call.function | tojson }}\
    </tool_call>{% endfor %}{% endfor %}<assistant>{% if enable_thinking %}<think>\n{% endif %}";

/// Says the letter that belongs to the place in the text, whatever was asked.
struct Reciter {
    delay: Duration,
    groups: [CacheGroup; 1],
    logits: Vec<f32>,
    steps: Arc<AtomicUsize>,
    /// What it says instead, to one request at a time.
    script: Option<String>,
    /// Where the script began, and the place said last.
    begun: u32,
    last: u32,
}

impl Reciter {
    fn says(&mut self, place: u32) -> u32 {
        if place != self.last + 1 {
            self.begun = place;
        }
        self.last = place;
        match &self.script {
            Some(script) => {
                let byte = script.as_bytes().get((place - self.begun) as usize);
                byte.map_or(END_OF_TEXT, |&byte| FIRST_BYTE + u32::from(byte))
            }
            None if place == END => END_OF_TEXT,
            None => FIRST_BYTE + u32::from(b'a') + place % 26,
        }
    }
}

impl ModelRunner for Reciter {
    fn limits(&self) -> RunnerLimits {
        RunnerLimits {
            n_vocab: N_VOCAB,
            max_context: CONTEXT,
            max_batch_tokens: 256,
            max_sequences: 4,
            max_outputs: 4,
        }
    }

    fn groups(&self) -> &[CacheGroup] {
        &self.groups
    }

    fn forward(&mut self, batch: &ForwardBatch) -> model::Result<()> {
        self.steps.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(self.delay);
        self.logits.clear();
        for &row in &batch.outputs {
            let place = batch.positions[row as usize];
            let said = self.says(place);
            self.logits.extend((0..N_VOCAB as u32).map(|id| if id == said { 100.0 } else { 0.0 }));
        }
        Ok(())
    }

    fn logits(&mut self) -> model::Result<&[f32]> {
        Ok(&self.logits)
    }

    fn copy_pages(&mut self, _group: usize, _pages: &[(u32, u32)]) -> model::Result<()> {
        Ok(())
    }

    fn description(&self) -> String {
        "reciter".into()
    }
}

/// Loads reciters and counts how often.
pub struct Source {
    pub delay: Duration,
    pub max_requests: usize,
    pub info: ModelInfo,
    pub steps: Arc<AtomicUsize>,
    pub loads: Arc<AtomicUsize>,
    /// What the model says to any request.
    pub script: Option<String>,
    /// Source of the chat template; ChatML without one.
    pub template: Option<&'static str>,
}

impl Source {
    pub fn new(delay: Duration) -> Self {
        Self {
            delay,
            max_requests: 64,
            info: ModelInfo { memory_bytes: 100, architecture: "llama".into(), ..ModelInfo::default() },
            steps: Arc::default(),
            loads: Arc::default(),
            script: None,
            template: None,
        }
    }
}

impl ModelSource for Source {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn load(&self) -> Result<Model, LoadError> {
        self.loads.fetch_add(1, Ordering::Relaxed);
        let groups = [CacheGroup { n_pages: 4 * CONTEXT / 16, page_size: 16, window: None }];
        let steps = self.steps.clone();
        let (logits, script) = (Vec::new(), self.script.clone());
        let runner = Reciter { delay: self.delay, groups, logits, steps, script, begun: 0, last: 0 };
        let file = model::testing::tiny("llama", 1).expect("the name is known");
        let tokenizer = Arc::new(Tokenizer::from_metadata(&file.metadata).expect("the vocabulary is valid"));
        let config = EngineConfig {
            name: "reciter".into(),
            max_requests: self.max_requests,
            ..EngineConfig::default()
        };
        let engine = Engine::start(Box::new(runner), tokenizer.clone(), config);
        let special = SpecialTokens::default();
        let template = match self.template {
            Some(source) => Template::parse(source, special),
            None => Template::builtin("chatml", special),
        };
        let template = template.expect("the template is valid");
        Ok(Model::new(engine, tokenizer, Some(template)))
    }
}

/// A server that ends with this.
pub struct TestServer {
    pub address: SocketAddr,
    shutdown: watch::Sender<Option<Shutdown>>,
    thread: Option<JoinHandle<()>>,
}

impl TestServer {
    /// Serves one quick reciter called `m`.
    pub fn quick() -> Self {
        Self::with(Config::default(), Source::new(Duration::ZERO))
    }

    /// Serves a model that says `script` to anything, with ChatML, which knows no tools.
    pub fn saying_plainly(script: &str) -> Self {
        let source = Source::new(Duration::ZERO);
        Self::with(Config::default(), Source { script: Some(script.into()), ..source })
    }

    /// The same with a template that knows tools and thoughts.
    pub fn saying(script: &str) -> Self {
        let source = Source::new(Duration::ZERO);
        Self::with(
            Config::default(),
            Source { script: Some(script.into()), template: Some(TEMPLATE), ..source },
        )
    }

    /// Serves one source as `m` and `other`.
    pub fn with(config: Config, source: Source) -> Self {
        let models: Models = vec![(vec!["m".into(), "other".into()], Box::new(source))];
        Self::start(config, models, Residency::default())
    }

    pub fn start(config: Config, models: Models, residency: Residency) -> Self {
        let registry = Registry::new(models, residency).expect("the names differ");
        let (shutdown, told) = watch::channel(None);
        let (tell, address) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().expect("a runtime");
            runtime.block_on(async {
                let any = SocketAddr::from(([127, 0, 0, 1], 0));
                let bound = Bound::new(any, config, false).await.expect("a port is free");
                tell.send(bound.address()).expect("the test waits");
                bound.run(registry, told).await;
            });
        });
        let address = address.recv().expect("the server starts");
        Self { address, shutdown, thread: Some(thread) }
    }

    pub fn shut_down(&self, how: Shutdown) {
        self.shutdown.send(Some(how)).expect("the server runs");
    }

    /// Waits for the end.
    pub fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the server does not panic");
        }
    }

    pub fn get(&self, path: &str) -> Answer {
        self.send(&format!("GET {path} HTTP/1.1\r\n"), b"")
    }

    pub fn post(&self, path: &str, body: &Value) -> Answer {
        self.post_bytes(path, body.to_string().as_bytes())
    }

    pub fn post_bytes(&self, path: &str, body: &[u8]) -> Answer {
        self.send(&format!("POST {path} HTTP/1.1\r\nContent-Length: {}\r\n", body.len()), body)
    }

    /// Sends a head without its last line and Host, and a body; reads all of the answer.
    pub fn send(&self, head: &str, body: &[u8]) -> Answer {
        let host =
            if head.contains("\r\nHost:") { String::new() } else { format!("Host: {}\r\n", self.address) };
        let mut stream = self.connect();
        let head = format!("{head}{host}Connection: close\r\n\r\n");
        // A server that has heard enough may close before all is sent.
        let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
        Answer::read(stream)
    }

    /// A connection that gives up rather than hang.
    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("the server listens");
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a socket option");
        stream.set_write_timeout(Some(Duration::from_secs(30))).expect("a socket option");
        stream
    }

    /// Begins a request and leaves the connection open, its answer unread.
    pub fn begin(&self, path: &str, body: &Value) -> TcpStream {
        let body = body.to_string();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n\r\n",
            self.address,
            body.len()
        );
        let mut stream = self.connect();
        stream.write_all((head + &body).as_bytes()).expect("the server reads");
        stream
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        let _ = self.shutdown.send(Some(Shutdown::Now));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

type Models = Vec<(Vec<String>, Box<dyn ModelSource>)>;

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    /// Reads until the connection ends.
    pub fn read(mut stream: TcpStream) -> Self {
        let mut bytes = Vec::new();
        // A reset after the answer is how a server refuses what is still being sent.
        let _ = stream.read_to_end(&mut bytes);
        let text = String::from_utf8(bytes).expect("answers are UTF-8");
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        let head = head.to_ascii_lowercase();
        let chunked = head.contains("transfer-encoding: chunked");
        let body = if chunked { unchunk(body) } else { body.to_owned() };
        Self { status, head, body }
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The JSON of each server-sent event, and whether `[DONE]` came last.
    pub fn events(&self) -> (Vec<Value>, bool) {
        let mut data: Vec<_> = self.body.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
        let done = data.last() == Some(&"[DONE]");
        data.truncate(data.len() - usize::from(done));
        (data.iter().map(|data| serde_json::from_str(data).expect("events are JSON")).collect(), done)
    }

    /// The JSON of each line.
    pub fn lines(&self) -> Vec<Value> {
        self.body.lines().map(|line| serde_json::from_str(line).expect("lines are JSON")).collect()
    }
}

fn unchunk(mut rest: &str) -> String {
    let mut body = String::new();
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).expect("a chunk begins with its size");
        body += &after[..size];
        rest = after.get(size + 2..).unwrap_or("");
        if size == 0 {
            break;
        }
    }
    body
}

/// Waits until `condition` holds, not for ever.
pub fn eventually(what: &str, condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < Duration::from_secs(20), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
