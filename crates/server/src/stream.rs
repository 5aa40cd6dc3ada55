//! Answers that come piece by piece: server-sent events and JSON lines.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::Response;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tracing::Instrument;

use crate::error::ApiError;
use crate::generation::{Running, Step};

/// Pieces that may wait for a slow reader before the reply waits too.
const BUFFERED: usize = 64;
/// How long a reader may take none before it counts as gone.
const STALLED: Duration = Duration::from_secs(60);
/// How often a reader hears something while there is nothing to tell.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// How pieces are framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// `text/event-stream`.
    Events,
    /// `application/x-ndjson`.
    Lines,
}

/// The pieces that one step adds to the answer.
#[derive(Debug)]
pub(crate) struct Pieces {
    framing: Framing,
    bytes: Vec<u8>,
}

impl Pieces {
    /// A piece of data.
    pub fn push(&mut self, value: &impl Serialize) {
        if self.framing == Framing::Events {
            self.bytes.extend_from_slice(b"data: ");
        }
        self.value(value);
    }

    /// A piece of data with an event's name.
    pub fn push_named(&mut self, name: &str, value: &impl Serialize) {
        self.bytes.extend_from_slice(format!("event: {name}\ndata: ").as_bytes());
        self.value(value);
    }

    /// A piece that is not JSON.
    pub fn push_text(&mut self, text: &str) {
        self.bytes.extend_from_slice(format!("data: {text}\n\n").as_bytes());
    }

    fn value(&mut self, value: &impl Serialize) {
        // JSON has no line breaks outside of strings, and none in them that are not escaped.
        serde_json::to_writer(&mut self.bytes, value).expect("answers hold nothing that JSON cannot");
        self.bytes.extend_from_slice(if self.framing == Framing::Events { b"\n\n" } else { b"\n" });
    }
}

/// How one API tells a stream of steps.
pub(crate) trait Teller: Send + 'static {
    /// What comes first.
    fn begin(&mut self, _out: &mut Pieces) {}
    /// An event of reply `i`.
    fn step(&mut self, i: usize, step: Step, out: &mut Pieces);
    /// What comes after the last event.
    fn end(&mut self, out: &mut Pieces);
    /// What comes instead when something failed.
    fn fail(&mut self, error: &ApiError, out: &mut Pieces);
    /// What says that the server is still there.
    fn ping(&self, _out: &mut Pieces) {}
}

/// Streams the events as `teller` tells them. The reply is cancelled when the reader leaves.
pub(crate) fn respond(running: Running, teller: impl Teller, framing: Framing) -> Response {
    let (sender, receiver) = mpsc::channel(BUFFERED);
    tokio::spawn(tell(running, teller, framing, sender).in_current_span());
    response(ReceiverStream::new(receiver), framing)
}

/// The answer whose body comes in `pieces`, framed already.
pub(crate) fn response(pieces: impl Stream<Item = Bytes> + Send + 'static, framing: Framing) -> Response {
    let mut response = Response::new(Body::from_stream(pieces.map(Ok::<Bytes, Infallible>)));
    let content_type = match framing {
        Framing::Events => "text/event-stream; charset=utf-8",
        Framing::Lines => "application/x-ndjson",
    };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // Proxies (nginx) would otherwise collect pieces.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

async fn tell(mut running: Running, mut teller: impl Teller, framing: Framing, sender: mpsc::Sender<Bytes>) {
    let mut out = Pieces { framing, bytes: Vec::new() };
    teller.begin(&mut out);
    loop {
        if !out.bytes.is_empty() {
            let piece = std::mem::take(&mut out.bytes).into();
            if sender.send_timeout(piece, STALLED).await.is_err() {
                return;
            }
        }
        let next = tokio::select! {
            next = tokio::time::timeout(KEEP_ALIVE, running.next()) => next,
            () = sender.closed() => return,
        };
        match next {
            Err(_) => teller.ping(&mut out),
            Ok(Ok(Some((i, step)))) => teller.step(i, step, &mut out),
            Ok(Ok(None)) => {
                teller.end(&mut out);
                break;
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, "a stream failed");
                teller.fail(&error, &mut out);
                break;
            }
        }
    }
    // The model is free before the last piece is read.
    drop(running);
    let _ = sender.send_timeout(out.bytes.into(), STALLED).await;
}

impl Pieces {
    /// A comment, which clients pass over.
    pub fn comment(&mut self) {
        self.bytes.extend_from_slice(b": waiting\n\n");
    }
}
