//! Disconnects, more work than fits, models that come and go, and the end.

mod common;

use std::io::Read;
use std::net::TcpStream;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use common::{Answer, Source, TestServer, eventually};
use quarrel_server::{Config, Residency, Shutdown};
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";
const STEP: Duration = Duration::from_millis(5);

fn long(stream: bool) -> Value {
    json!({"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3000, "stream": stream})
}

fn short() -> Value {
    json!({"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2})
}

/// Reads until `text` came.
fn read_until(stream: &mut TcpStream, text: &str) -> String {
    let (mut all, mut buffer) = (Vec::new(), [0; 1024]);
    while !String::from_utf8_lossy(&all).contains(text) {
        let n = stream.read(&mut buffer).expect("the server goes on");
        assert_ne!(n, 0, "the server ended the stream");
        all.extend_from_slice(&buffer[..n]);
    }
    String::from_utf8_lossy(&all).into_owned()
}

#[test]
fn a_reader_that_leaves_cancels_its_reply() {
    for stream in [true, false] {
        let source = Source::new(STEP);
        let steps = source.steps.clone();
        let server = TestServer::with(Config::default(), source);
        let mut connection = server.begin(CHAT, &long(stream));
        if stream {
            read_until(&mut connection, "\"content\":\"");
        }
        eventually("the reply begins", || steps.load(Ordering::Relaxed) > 2);
        drop(connection);
        // Steps stop soon after, long before the 3,000 that were asked for.
        eventually("the reply is cancelled", || {
            let before = steps.load(Ordering::Relaxed);
            std::thread::sleep(10 * STEP);
            steps.load(Ordering::Relaxed) == before
        });
        assert!(steps.load(Ordering::Relaxed) < 2000);
        assert_eq!(server.post(CHAT, &short()).status, 200);
    }
}

#[test]
fn more_than_fits_is_turned_away_at_once() {
    let config = Config { max_requests: 2, ..Config::default() };
    let server = TestServer::with(config, Source::new(STEP));
    let mut running: Vec<_> = (0..2).map(|_| server.begin(CHAT, &long(true))).collect();
    for connection in &mut running {
        read_until(connection, "\"content\":\"");
    }
    for _ in 0..20 {
        let begun = Instant::now();
        let answer = server.post(CHAT, &short());
        assert_eq!(answer.status, 429, "{answer:?}");
        assert!(answer.head.contains("retry-after: "), "{}", answer.head);
        assert!(begun.elapsed() < Duration::from_secs(2));
    }
    // The running streams go on.
    for connection in &mut running {
        read_until(connection, "\"content\":\"");
    }
    drop(running);
    eventually("places are free again", || server.post(CHAT, &short()).status == 200);
}

#[test]
fn the_engine_turns_away_too() {
    let source = Source { max_requests: 1, ..Source::new(STEP) };
    let server = TestServer::with(Config::default(), source);
    let mut running = server.begin(CHAT, &long(true));
    read_until(&mut running, "\"content\":\"");
    assert_eq!(server.post(CHAT, &short()).status, 429);
}

#[test]
fn what_cannot_start_in_time_is_told_so() {
    let config = Config { queue_time: Duration::from_millis(300), ..Config::default() };
    let server = TestServer::with(config, Source::new(STEP));
    // All four places of the model.
    let mut running: Vec<_> = (0..4).map(|_| server.begin(CHAT, &long(true))).collect();
    for connection in &mut running {
        read_until(connection, "\"content\":\"");
    }
    for stream in [false, true] {
        let begun = Instant::now();
        let mut body = short();
        body["stream"] = stream.into();
        let answer = server.post(CHAT, &body);
        assert_eq!(
            (answer.status, &answer.json()["error"]["code"]),
            (503, &json!("overloaded")),
            "{answer:?}"
        );
        assert!(answer.head.contains("retry-after: "), "{}", answer.head);
        let waited = begun.elapsed();
        assert!(waited >= Duration::from_millis(250) && waited < Duration::from_secs(5), "{waited:?}");
    }
    drop(running);
    eventually("places are free again", || server.post(CHAT, &short()).status == 200);
}

#[test]
fn what_would_wait_too_long_is_turned_away_at_once() {
    let config = Config { queue_time: Duration::from_secs(2), ..Config::default() };
    let server = TestServer::with(config, Source::new(STEP));
    let mut body = long(false);
    body["max_tokens"] = 400.into();
    // Shows the server that replies take about 2 s: four at once, one every half second.
    assert_eq!(server.post(CHAT, &body).status, 200);
    let mut running: Vec<_> = (0..4).map(|_| server.begin(CHAT, &long(true))).collect();
    for connection in &mut running {
        read_until(connection, "\"content\":\"");
    }
    let waiting: Vec<_> = (0..5).map(|_| server.begin(CHAT, &short())).collect();
    let metrics = || server.get("/metrics").body;
    eventually("some wait", || {
        metrics().lines().any(|line| {
            line.starts_with("quarrel_requests_waiting") && line.ends_with(|c: char| ('3'..='5').contains(&c))
        })
    });
    let begun = Instant::now();
    let answer = server.post(CHAT, &short());
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    assert!(answer.head.contains("retry-after: "), "{}", answer.head);
    drop((running, waiting));
    eventually("places are free again", || server.post(CHAT, &short()).status == 200);
}

#[test]
fn requests_end_when_their_time_is_up() {
    let config = Config { timeout: Duration::from_millis(300), ..Config::default() };
    let server = TestServer::with(config, Source::new(STEP));
    let whole = server.post(CHAT, &long(false));
    assert_eq!((whole.status, &whole.json()["error"]["code"]), (504, &json!("timeout")));
    let (events, _) = server.post(CHAT, &long(true)).events();
    assert_eq!(events.last().expect("an event")["error"]["code"], "timeout");
}

#[test]
fn a_shutdown_lets_streams_finish() {
    let mut server = TestServer::with(Config::default(), Source::new(STEP));
    let mut body = long(true);
    body["max_tokens"] = 60.into();
    let mut connection = server.begin(CHAT, &body);
    read_until(&mut connection, "\"content\":\"");
    server.shut_down(Shutdown::Drain);
    let rest = read_until(&mut connection, "[DONE]");
    assert!(rest.contains("\"finish_reason\":\"length\""), "{rest}");
    server.join();
    assert!(TcpStream::connect(server.address).is_err());
}

#[test]
fn a_shutdown_ends_what_takes_too_long() {
    let config = Config { drain: Duration::from_millis(100), ..Config::default() };
    let mut server = TestServer::with(config, Source::new(STEP));
    let mut connection = server.begin(CHAT, &long(true));
    read_until(&mut connection, "\"content\":\"");
    server.shut_down(Shutdown::Drain);
    let rest = read_until(&mut connection, "[DONE]");
    assert!(rest.contains("shutting_down"), "{rest}");
    server.join();
}

#[test]
fn a_second_word_ends_at_once() {
    let mut server = TestServer::with(Config::default(), Source::new(STEP));
    let mut connection = server.begin(CHAT, &long(true));
    read_until(&mut connection, "\"content\":\"");
    let begun = Instant::now();
    server.shut_down(Shutdown::Drain);
    std::thread::sleep(Duration::from_millis(50));
    server.shut_down(Shutdown::Now);
    server.join();
    assert!(begun.elapsed() < Duration::from_secs(5));
    let _ = Answer::read(connection);
}

#[test]
fn models_come_when_asked_for_and_leave_for_others() {
    let (a, b) = (Source::new(STEP), Source::new(STEP));
    let loads = [a.loads.clone(), b.loads.clone()];
    let residency = Residency { idle: None, budget: Some(150) };
    let server = TestServer::start(
        Config::default(),
        vec![(vec!["a".into()], Box::new(a)), (vec!["b".into(), "b2".into()], Box::new(b))],
        residency,
    );
    let ask = |model: &str| {
        let mut body = short();
        body["model"] = model.into();
        server.post(CHAT, &body).status
    };
    let count = || loads.each_ref().map(|loads| loads.load(Ordering::Relaxed));
    assert_eq!(count(), [0, 0]);
    assert_eq!((ask("a"), ask("a"), count()), (200, 200, [1, 0]));
    assert_eq!((ask("b"), ask("b2"), count()), (200, 200, [1, 1]));
    assert_eq!(server.get("/health").json()["models"][0]["loaded"], false);
    // While `b` is in use there is no room for `a`.
    let mut body = long(true);
    body["model"] = "b".into();
    let mut running = server.begin(CHAT, &body);
    read_until(&mut running, "\"content\":\"");
    assert_eq!((ask("a"), count()), (429, [1, 1]));
    drop(running);
    eventually("`b` makes room", || ask("a") == 200);
    assert_eq!(count(), [2, 1]);
}

#[test]
fn idle_models_leave() {
    let source = Source::new(Duration::ZERO);
    let loads = source.loads.clone();
    let residency = Residency { idle: Some(Duration::from_millis(400)), budget: None };
    let server = TestServer::start(Config::default(), vec![(vec!["a".into()], Box::new(source))], residency);
    assert_eq!(server.post(CHAT, &short()).status, 200);
    let loaded = || server.get("/health").json()["models"][0]["loaded"] == true;
    assert!(loaded());
    eventually("the model leaves", || !loaded());
    assert_eq!(server.post(CHAT, &short()).status, 200);
    assert_eq!(loads.load(Ordering::Relaxed), 2);
}
