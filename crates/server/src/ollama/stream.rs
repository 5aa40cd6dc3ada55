//! A reply as Ollama's lines.

use std::sync::Arc;

use axum::Json;
use axum::response::{IntoResponse, Response};
use engine::{FinishReason, Stats};
use serde_json::{Value, json};
use std::time::Instant;

use crate::auth::Caller;
use crate::error::{ApiError, Dialect, Result};
use crate::generation::Step;
use crate::ids;
use crate::registry::Model;
use crate::state::{Ask, Server};
use crate::stream::{Framing, Pieces, Teller, respond};

/// Where the text of a reply stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// `message.content`
    Chat,
    /// `response`
    Generate,
}

/// Asks for one reply and answers with it.
pub(super) async fn answer(
    server: Arc<Server>,
    caller: Caller,
    name: Option<String>,
    streams: bool,
    shape: Shape,
    build: impl FnOnce(&Model) -> Result<engine::Request> + Send + 'static,
) -> Result<Response> {
    let begun = Instant::now();
    let ask = move |model: &Model| Ok(vec![Ask { request: build(model)?, n: 1 }]);
    let mut running = server.start(&caller, name.as_deref(), ask).await?;
    let lines = Lines { model: running.lease.name.clone(), shape, begun };
    if streams {
        return Ok(respond(running, lines, Framing::Lines));
    }
    let reply = running.collect().await?.pop().ok_or_else(ApiError::internal)?;
    Ok(Json(lines.last(&reply.text, reply.reason, &reply.stats)).into_response())
}

/// The answer to a request that only wants the model loaded.
pub(super) async fn load_only(server: Arc<Server>, name: Option<&str>, shape: Shape) -> Result<Response> {
    let admitted = server.admit(name).await?;
    let lines = Lines { model: admitted.lease.name.clone(), shape, begun: Instant::now() };
    let mut line = lines.line("");
    line["done"] = true.into();
    line["done_reason"] = "load".into();
    Ok(Json(line).into_response())
}

struct Lines {
    model: String,
    shape: Shape,
    begun: Instant,
}

impl Lines {
    fn line(&self, text: &str) -> Value {
        let mut line = json!({"model": self.model, "created_at": ids::rfc3339(ids::now()), "done": false});
        match self.shape {
            Shape::Chat => line["message"] = json!({"role": "assistant", "content": text}),
            Shape::Generate => line["response"] = text.into(),
        }
        line
    }

    fn last(&self, text: &str, reason: FinishReason, stats: &Stats) -> Value {
        let nanoseconds = |time: std::time::Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let mut line = self.line(text);
        let more = json!({
            "done": true,
            "done_reason": if reason == FinishReason::Length { "length" } else { "stop" },
            "total_duration": nanoseconds(self.begun.elapsed()),
            "load_duration": nanoseconds(stats.queued),
            "prompt_eval_count": stats.prompt_tokens,
            "prompt_eval_duration": nanoseconds(stats.prefill),
            "eval_count": stats.generated_tokens,
            "eval_duration": nanoseconds(stats.decode),
        });
        if let (Value::Object(line), Value::Object(more)) = (&mut line, more) {
            line.extend(more);
        }
        line
    }
}

impl Teller for Lines {
    fn step(&mut self, _i: usize, step: Step, out: &mut Pieces) {
        match step {
            Step::Token { text, .. } if text.is_empty() => {}
            Step::Token { text, .. } => out.push(&self.line(&text)),
            Step::Finished { text, reason, stats, .. } => out.push(&self.last(&text, reason, &stats)),
        }
    }

    fn end(&mut self, _out: &mut Pieces) {}

    fn fail(&mut self, error: &ApiError, out: &mut Pieces) {
        out.push(&error.body(Dialect::Ollama));
    }
}
