//! `/api/pull`: fetches a model, telling how far it is as Ollama does, and serves it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use store::{Event, ModelName, Progress};
use tokio::sync::{mpsc, watch};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use utoipa::ToSchema;

use crate::error::{ApiError, Dialect, Result};
use crate::fields::{Fields, FromFields, parse};
use crate::pulls::parse_name;
use crate::state::Server;
use crate::stream::{Framing, response};

/// Lines that may wait for a slow reader; further ones are left out, but never the last.
const BUFFERED: usize = 64;
/// How long the last line waits for its reader.
const STALLED: Duration = Duration::from_secs(60);
/// How often a reader hears of the same file.
const EVERY: Duration = Duration::from_millis(100);

/// Which model to fetch.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PullRequest {
    /// A built-in name, `hf:OWNER/REPO[:QUANT]`, `hf.co/OWNER/REPO[:QUANT]`, or `ollama:NAME[:TAG]`.
    #[serde(default, alias = "name")]
    model: Option<String>,
    /// Tell how far it is; true if it is not given.
    #[serde(default)]
    stream: Option<bool>,
    /// Must not be true: transfers are always checked.
    #[serde(default)]
    insecure: Option<bool>,
}

impl FromFields for PullRequest {
    fn from_fields(fields: Map<String, Value>) -> Result<Self> {
        parse(fields)
    }
}

/// One line of the answer.
type Line = Result<Value>;

/// Fetches a model; only where the server was started with `--allow-pull`.
#[utoipa::path(post, path = "/api/pull", tag = "Ollama", request_body = PullRequest,
    responses((status = 200, body = Value), (status = 403, body = Value), (status = 404, body = Value)))]
pub(crate) async fn pull(
    State(server): State<Arc<Server>>,
    Fields(request): Fields<PullRequest>,
) -> Result<Response> {
    if server.config.pulls.is_none() {
        let message =
            "this server does not fetch models; start it with --allow-pull to let callers ask for them";
        return Err(ApiError {
            code: Some("pull_not_allowed"),
            ..ApiError::new(StatusCode::FORBIDDEN, message)
        });
    }
    if request.insecure == Some(true) {
        return Err(ApiError::unsupported("insecure", "fetching without checks"));
    }
    let wanted = request.model.ok_or_else(|| ApiError::field("model", "model is missing"))?;
    let mut lines = match server.registry.resolve(Some(&wanted)) {
        Ok(_) => served_already(),
        Err(_) => begin(server, parse_name(&wanted)?, &wanted)?,
    };
    if request.stream.unwrap_or(true) {
        return Ok(response(ReceiverStream::new(lines).map(as_bytes), Framing::Lines));
    }
    let mut last = Err(ApiError::internal());
    while let Some(line) = lines.recv().await {
        last = line;
    }
    Ok(Json(last?).into_response())
}

fn status(text: &str) -> Value {
    json!({"status": text})
}

fn as_bytes(line: Line) -> Bytes {
    let line = line.unwrap_or_else(|error| error.body(Dialect::Ollama));
    format!("{line}\n").into()
}

fn served_already() -> mpsc::Receiver<Line> {
    let (sender, lines) = mpsc::channel(1);
    // There is room for one, and the receiver is here.
    let _ = sender.try_send(Ok(status("success")));
    lines
}

/// Starts to fetch `name`, to be served as `wanted`. It ends early when nobody listens any more.
fn begin(server: Arc<Server>, name: ModelName, wanted: &str) -> Result<mpsc::Receiver<Line>> {
    let place = server.pull_places.clone().try_acquire_owned().map_err(|_| ApiError {
        message: "other models are being pulled; try again later".into(),
        ..ApiError::overloaded()
    })?;
    let served_as = wanted.strip_suffix(":latest").unwrap_or(wanted).to_owned();
    let (sender, lines) = mpsc::channel(BUFFERED);
    let mut teller = Teller { lines: sender.clone(), draining: server.draining.clone(), told: None };
    teller.tell(status("pulling manifest"));
    tokio::spawn(async move {
        let work = move || fetch(&server, &name, &served_as, &mut teller);
        let pulled = tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| Err(ApiError::internal()));
        drop(place);
        let _ = sender.send_timeout(pulled.map(|()| status("success")), STALLED).await;
    });
    Ok(lines)
}

fn fetch(server: &Server, name: &ModelName, served_as: &str, teller: &mut Teller) -> Result<()> {
    let pulls = server.config.pulls.as_ref().ok_or_else(ApiError::internal)?;
    tracing::info!(model = %name, "pulls a model");
    let resolved = pulls.store.pull(name, teller)?;
    let source = (pulls.open)(&resolved).map_err(|error| {
        tracing::error!(%error, "a model that was pulled cannot be served");
        ApiError {
            message: "the model was fetched, but cannot run here; the server's log says why".into(),
            ..ApiError::internal()
        }
    })?;
    server.registry.add(served_as, source);
    tracing::info!(model = %name, "pulled a model");
    Ok(())
}

/// Turns a pull's events into lines.
struct Teller {
    lines: mpsc::Sender<Line>,
    draining: watch::Receiver<bool>,
    /// When bytes were last told.
    told: Option<Instant>,
}

impl Teller {
    fn tell(&self, line: Value) {
        let _ = self.lines.try_send(Ok(line));
    }

    fn bytes(&mut self, mut line: Value, done: u64, total: Option<u64>) {
        let ended = total == Some(done);
        if !ended && self.told.is_some_and(|told| told.elapsed() < EVERY) {
            return;
        }
        self.told = Some(Instant::now());
        if let Some(total) = total {
            line["total"] = total.into();
        }
        line["completed"] = done.into();
        self.tell(line);
    }
}

impl Progress for Teller {
    fn event(&mut self, event: &Event<'_>) {
        match *event {
            Event::Waiting => self.tell(status("waiting for another pull of this model")),
            Event::Bytes { file, done, total, sha256, .. } => {
                let mut line = status(&format!("pulling {file}"));
                if let Some(digest) = sha256.map(|digest| digest.to_string()) {
                    line = json!({
                        "status": format!("pulling {}", &digest[..12]),
                        "digest": format!("sha256:{digest}"),
                    });
                }
                self.bytes(line, done, total);
                if total == Some(done) {
                    self.tell(status("verifying sha256 digest"));
                }
            }
            Event::Retry { file, reason, wait } => {
                tracing::warn!(file, reason, "a transfer is repeated");
                self.tell(status(&format!("pulling {file} again in {} s", wait.as_secs())));
            }
            Event::PipDownload { package } => self.tell(status(&format!("pulling {package}"))),
            Event::Unpacking { file, done, total } => {
                self.bytes(status(&format!("unpacking {file}")), done, Some(total));
            }
            _ => {}
        }
    }

    /// What has arrived stays for the next pull.
    fn cancelled(&self) -> bool {
        self.lines.is_closed() || *self.draining.borrow()
    }
}
