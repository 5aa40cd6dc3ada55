//! A small HTTP server on loopback that behaves like the Hub, and misbehaves when told to.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use quarrel_store::{Config, Digest, Retry, Store, Token};

/// The repository every test server has, and its commit.
pub const REPO: &str = "owner/repo-GGUF";
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What a server does with one request for a file, instead of answering well.
#[derive(Debug, Clone)]
pub enum Fault {
    /// Sends this many bytes of the body and drops the connection.
    Drop(usize),
    /// Sends this many bytes of the body and then nothing, for as long as the client waits.
    Stall(usize),
    /// Sends the whole file whatever range was asked for.
    IgnoreRange,
    /// Says it continues at the first byte whatever was asked for.
    WrongRange,
    /// Sends these bytes as the whole file, under their own length.
    Other(Vec<u8>),
    /// Answers with this status and header line.
    Status(u16, &'static str),
    /// Redirects there.
    Redirect(String),
    /// Sends without a length, for ever.
    Endless,
}

/// One request, as received.
#[derive(Debug, Clone)]
pub struct Seen {
    pub path: String,
    /// Header names in lower case.
    pub headers: BTreeMap<String, String>,
}

#[derive(Debug, Default)]
struct State {
    files: BTreeMap<String, Vec<u8>>,
    /// Replaces the answer to the API's question for the repository.
    info: Option<String>,
    /// For the questions and for the files; the next request takes the first.
    info_faults: VecDeque<Fault>,
    faults: VecDeque<Fault>,
    seen: Vec<Seen>,
}

/// The server; it ends with the test process.
#[derive(Debug, Clone)]
pub struct Hub {
    pub endpoint: String,
    state: Arc<Mutex<State>>,
}

impl Hub {
    /// A hub whose repository has these files.
    pub fn start(files: &[(&str, &[u8])]) -> Self {
        Hub::start_at("127.0.0.1", files)
    }

    pub fn start_at(address: &str, files: &[(&str, &[u8])]) -> Self {
        let listener = TcpListener::bind((address, 0)).unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let files = files.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.to_vec())).collect();
        let state = Arc::new(Mutex::new(State { files, ..State::default() }));
        let hub = Hub { endpoint, state };
        let server = hub.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let server = server.clone();
                // A client that hangs up is what many tests are about.
                std::thread::spawn(move || server.serve(stream).ok());
            }
        });
        hub
    }

    /// Makes the next requests for files go wrong, in this order.
    pub fn fail(&self, faults: impl IntoIterator<Item = Fault>) {
        self.state.lock().unwrap().faults.extend(faults);
    }

    /// The same for the requests for the list of files.
    pub fn fail_info(&self, faults: impl IntoIterator<Item = Fault>) {
        self.state.lock().unwrap().info_faults.extend(faults);
    }

    /// Replaces the list of files by this text.
    pub fn answer_info(&self, json: &str) {
        self.state.lock().unwrap().info = Some(json.to_owned());
    }

    /// Requests so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.state.lock().unwrap().seen.clone()
    }

    /// The `Range` of each request for a file so far; empty for none.
    pub fn ranges(&self) -> Vec<String> {
        let files = self.seen().into_iter().filter(|s| s.path.contains("/resolve/"));
        files.map(|s| s.headers.get("range").cloned().unwrap_or_default()).collect()
    }

    /// A store with its cache in `dir` that asks this hub, and is quick to try again.
    pub fn store(&self, dir: &Path) -> Store {
        Store::open(self.config(dir))
    }

    pub fn config(&self, dir: &Path) -> Config {
        let mut config = Config::new(dir);
        config.hf_endpoint = self.endpoint.clone();
        config.hf_token = Some(Token::new("hf_secret\n"));
        config.retry =
            Retry { attempts: 4, first_wait: Duration::from_millis(1), longest_wait: Duration::from_secs(1) };
        config
    }

    fn serve(&self, stream: TcpStream) -> std::io::Result<()> {
        let Some(request) = read_request(&stream)? else { return Ok(()) };
        let mut state = self.state.lock().unwrap();
        state.seen.push(request.clone());
        let is_info = request.path.starts_with("/api/");
        let body = match is_info {
            true => Some(state.info.clone().unwrap_or_else(|| info(&state.files)).into_bytes()),
            false => request.path.rsplit_once(COMMIT).and_then(|(_, f)| state.files.get(&f[1..]).cloned()),
        };
        let fault = if is_info { state.info_faults.pop_front() } else { state.faults.pop_front() };
        drop(state);
        answer(stream, &request, body, fault)
    }
}

/// What the Hub's API says of these files.
pub fn info(files: &BTreeMap<String, Vec<u8>>) -> String {
    let siblings = files.iter().map(|(name, bytes)| {
        let (size, sha256) = (bytes.len(), Digest::of(bytes));
        let large = name.ends_with(".gguf") || name.ends_with(".safetensors");
        let lfs = format!(r#","lfs":{{"sha256":"{sha256}","size":{size},"pointerSize":134}}"#);
        format!(r#"{{"rfilename":"{name}","size":{size}{}}}"#, if large { &lfs } else { "" })
    });
    let siblings: Vec<String> = siblings.collect();
    format!(r#"{{"id":"{REPO}","sha":"{COMMIT}","siblings":[{}]}}"#, siblings.join(","))
}

fn read_request(stream: &TcpStream) -> std::io::Result<Option<Seen>> {
    let mut lines = BufReader::new(stream).lines();
    let Some(first) = lines.next().transpose()? else { return Ok(None) };
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut headers = BTreeMap::new();
    for line in lines {
        let line = line?;
        let Some((name, value)) = line.split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    Ok(Some(Seen { path, headers }))
}

fn answer(
    mut stream: TcpStream,
    request: &Seen,
    body: Option<Vec<u8>>,
    fault: Option<Fault>,
) -> std::io::Result<()> {
    let asked =
        request.headers.get("range").and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    let mut from: usize = asked.unwrap_or(0);
    match &fault {
        Some(Fault::Status(status, header)) => return head(&mut stream, *status, header, 0),
        Some(Fault::Redirect(to)) => return head(&mut stream, 302, &format!("location: {to}"), 0),
        Some(Fault::Endless) => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n")?;
            loop {
                stream.write_all(&[b'x'; 4096])?;
            }
        }
        Some(Fault::IgnoreRange) => from = 0,
        _ => {}
    }
    let mut body = match (&fault, body) {
        (Some(Fault::Other(other)), _) => other.clone(),
        (_, Some(body)) => body,
        (_, None) => return head(&mut stream, 404, "x: y", 0),
    };
    let total = body.len();
    if from > 0 && from >= total {
        return head(&mut stream, 416, &format!("content-range: bytes */{total}"), 0);
    }
    let said = if matches!(fault, Some(Fault::WrongRange)) { 0 } else { from };
    body.drain(..from);
    let range = format!("content-range: bytes {said}-{}/{total}", total.saturating_sub(1));
    match from {
        0 => head(&mut stream, 200, "x: y", body.len())?,
        _ => head(&mut stream, 206, &range, body.len())?,
    }
    match fault {
        Some(Fault::Drop(n)) => stream.write_all(&body[..n.min(body.len())]),
        Some(Fault::Stall(n)) => {
            stream.write_all(&body[..n])?;
            // Until the client hangs up.
            std::io::copy(&mut stream, &mut std::io::sink()).map(drop)
        }
        _ => stream.write_all(&body),
    }
}

fn head(stream: &mut TcpStream, status: u16, header: &str, length: usize) -> std::io::Result<()> {
    write!(stream, "HTTP/1.1 {status} X\r\n{header}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n")
}

/// `n` bytes that differ from place to place.
pub fn noise(n: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_u32;
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..n).map(next).collect()
}
