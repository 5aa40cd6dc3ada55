//! `quarrel serve` as its users meet it, over the default model
//! (`cargo xtask fixtures` fetches it).

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

fn model() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/fixtures/smollm2-135m.gguf");
    assert!(path.exists(), "{} is missing; run `cargo xtask fixtures`", path.display());
    path.to_str().expect("the path is UTF-8").to_owned()
}

fn serve(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quarrel"));
    command.arg("serve").args(args).env_remove("QUARREL_API_KEYS").stdin(Stdio::null());
    command.env("CUDA_VISIBLE_DEVICES", "");
    command
}

/// What it says when it cannot start; it must not take long.
fn failure(args: &[&str]) -> String {
    let begun = Instant::now();
    let out = serve(args).output().expect("the binary was just built");
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(!out.status.success(), "{args:?}: {said}");
    assert!(!said.contains("replies at once"), "{args:?} loaded the model first: {said}");
    assert!(begun.elapsed() < Duration::from_secs(20), "{args:?}: {:?}", begun.elapsed());
    said
}

fn file(dir: &Path, name: &str, text: &str) -> String {
    let path: PathBuf = dir.join(name);
    std::fs::write(&path, text).expect("a file in a temporary directory can be written");
    path.to_str().expect("the path is UTF-8").to_owned()
}

#[test]
fn what_is_wrong_is_said_before_a_model_is_loaded() {
    let dir = tempfile::tempdir().unwrap();
    let model = model();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let empty = file(dir.path(), "empty", "# none\n");
    let weak = file(dir.path(), "weak", "alice=good-enough-key\nbob=12345678\nsecret\n");
    let junk = file(dir.path(), "junk.pem", "not a certificate");
    let no_file = dir.path().join("nowhere").to_str().unwrap().to_owned();
    let cases: [(&[&str], &[&str]); 13] = [
        (&["--port", &port], &[&port, "in use", "--port"]),
        (&["--port", "99999"], &["--port", "65535"]),
        (&["--host", "no.such.host.invalid"], &["--host no.such.host.invalid"]),
        (&["--host", "0.0.0.0"], &["--api-key-file", "--insecure"]),
        (&["--host", "0.0.0.0", "--api-key-file", &no_file], &[&no_file, "No such file"]),
        (&["--api-key-file", &empty], &[&empty, "no API key"]),
        (&["--api-key-file", &weak], &[&weak, "API key 2", "weak"]),
        (&["--tls-cert", &junk, "--tls-key", &junk], &["TLS", "certificate", &junk]),
        (&["--tls-cert", &no_file, "--tls-key", &junk], &[&no_file, "No such file"]),
        (&["--tls-cert", &junk], &["--tls-key"]),
        (&["--otlp", "localhost:4318"], &["--otlp", "http://localhost:4318"]),
        (&["--kv-memory", "4GB"], &["--kv-memory", "4GiB"]),
        (&["--kv", "f8"], &["--kv", "f16"]),
    ];
    for (args, words) in cases {
        let said = failure(&[args, &["--model", &model]].concat());
        for word in words {
            assert!(said.contains(word), "{args:?}: no `{word}` in: {said}");
        }
        assert!(!said.contains("12345678"), "a key is shown: {said}");
    }
    for (name, word) in [("no-such-model", "no-such-model"), (no_file.as_str(), "nowhere")] {
        let said = failure(&["--port", "0", "--model", name]);
        assert!(said.contains(word), "{said}");
    }
    let said = failure(&["--port", "0", "--ctx", "8192", "--kv-memory", "1MiB", "--model", &model]);
    for word in ["8192 tokens", "1048576", "would fit", "--kv-memory"] {
        assert!(said.contains(word), "no `{word}` in: {said}");
    }
}

/// A server that ends with this.
struct Running {
    child: Child,
    address: String,
    /// What it said until it was ready.
    said: String,
}

impl Running {
    fn start(args: &[&str]) -> Self {
        let model = model();
        let args = [&["--port", "0", "--model", &model, "--ctx", "512"], args].concat();
        let mut child = serve(&args).stderr(Stdio::piped()).spawn().expect("the binary was just built");
        let mut lines = BufReader::new(child.stderr.take().expect("it is piped")).lines();
        let mut said = String::new();
        let address = loop {
            let line = lines.next().unwrap_or_else(|| panic!("it ended: {said}")).unwrap();
            said += &(line.clone() + "\n");
            if let Some((_, address)) = line.rsplit_once("http://").filter(|_| line.contains("serving ")) {
                break address.trim_end_matches('/').to_owned();
            }
        };
        // Keeps the pipe from filling.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, address, said }
    }

    fn post(&self, path: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let head = format!("POST {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n", self.address);
        let trace = "traceparent: 00-0123456789abcdef0123456789abcdef-0123456789abcdef-01\r\n";
        write!(stream, "{head}{trace}Content-Length: {}\r\n\r\n{body}", body.len()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The first request that comes, its head and body.
fn collector() -> (String, mpsc::Receiver<(String, Vec<u8>)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (sender, requests) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut reader = BufReader::new(stream);
            let (mut head, mut length) = (String::new(), 0);
            loop {
                let mut line = String::new();
                if reader.read_line(&mut line).unwrap_or(0) <= 2 {
                    break;
                }
                if let Some(n) = line.to_ascii_lowercase().strip_prefix("content-length: ") {
                    length = n.trim().parse().unwrap();
                }
                head += &line;
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            let _ = reader
                .get_mut()
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            let _ = sender.send((head, body));
        }
    });
    (url, requests)
}

#[test]
fn traces_reach_a_collector_without_texts() {
    let (url, requests) = collector();
    let server = Running::start(&["--otlp", &url, "--parallel", "2"]);
    assert!(server.said.contains("up to 2 replies at once, each of up to 512 tokens"), "{}", server.said);
    let answer = server.post("/v1/completions", r#"{"prompt": "The secret is xyzzy", "max_tokens": 3}"#);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let (head, body) =
        requests.recv_timeout(Duration::from_secs(30)).expect("spans are sent every few seconds");
    assert!(head.starts_with("POST /v1/traces"), "{head}");
    assert!(head.contains("application/x-protobuf"), "{head}");
    let holds = |bytes: &[u8]| body.windows(bytes.len()).any(|window| window == bytes);
    for word in ["quarrel", "gen_ai.usage.output_tokens", "gen_ai.request.model", "/v1/completions"] {
        assert!(holds(word.as_bytes()), "no `{word}` in the spans");
    }
    assert!(holds(&0x0123_4567_89ab_cdef_0123_4567_89ab_cdef_u128.to_be_bytes()), "not the caller's trace");
    assert!(!holds(b"xyzzy"));
}
