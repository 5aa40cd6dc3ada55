//! A reply as Ollama's lines.

use std::sync::Arc;

use axum::Json;
use axum::response::{IntoResponse, Response};
use engine::{FinishReason, ReplyDelta, ReplyParser, Stats};
use serde_json::{Value, json};
use std::time::Instant;

use crate::auth::Caller;
use crate::error::{ApiError, Dialect, Result};
use crate::generation::Step;
use crate::ids;
use crate::reading::{Call, Parts, Reading};
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
    build: impl FnOnce(&Model) -> Result<Ask> + Send + 'static,
) -> Result<Response> {
    let begun = Instant::now();
    let ask = move |model: &Model| Ok(vec![build(model)?]);
    let mut running = server.start(&caller, name.as_deref(), ask).await?;
    let reading = running.reading;
    let mut lines =
        Lines { model: running.lease.name.clone(), shape, begun, reading, parser: reading.parser() };
    if streams {
        return Ok(respond(running, lines, Framing::Lines));
    }
    let reply = running.collect().await?.pop().ok_or_else(ApiError::internal)?;
    let mut deltas = lines.parser.push(&reply.text);
    deltas.extend(lines.parser.finish());
    Ok(Json(lines.last(deltas, reply.reason, &reply.stats)).into_response())
}

/// The answer to a request that only wants the model loaded.
pub(super) async fn load_only(server: Arc<Server>, name: Option<&str>, shape: Shape) -> Result<Response> {
    let admitted = server.admit(name).await?;
    let mut line = line(&admitted.lease.name, shape, Parts::default());
    line["done"] = true.into();
    line["done_reason"] = "load".into();
    Ok(Json(line).into_response())
}

struct Lines {
    model: String,
    shape: Shape,
    begun: Instant,
    reading: Reading,
    parser: ReplyParser,
}

fn line(model: &str, shape: Shape, parts: Parts) -> Value {
    let mut line = json!({"model": model, "created_at": ids::rfc3339(ids::now()), "done": false});
    let Parts { content, reasoning, calls, .. } = parts;
    let said = match shape {
        Shape::Chat => {
            line["message"] = json!({"role": "assistant", "content": content});
            &mut line["message"]
        }
        Shape::Generate => {
            line["response"] = content.into();
            &mut line
        }
    };
    if !reasoning.is_empty() {
        said["thinking"] = reasoning.into();
    }
    if !calls.is_empty() {
        said["tool_calls"] = calls.into_iter().enumerate().map(call).collect();
    }
    line
}

fn call((index, call): (usize, Call)) -> Value {
    // The parser passes on objects alone.
    let arguments: Value = serde_json::from_str(&call.arguments).unwrap_or_default();
    json!({"function": {"index": index, "name": call.name, "arguments": arguments}})
}

impl Lines {
    fn line(&self, deltas: Vec<ReplyDelta>) -> Value {
        let mut parts = Parts::default();
        deltas.into_iter().for_each(|delta| parts.add(delta, &self.reading));
        line(&self.model, self.shape, parts)
    }

    fn last(&self, deltas: Vec<ReplyDelta>, reason: FinishReason, stats: &Stats) -> Value {
        let nanoseconds = |time: std::time::Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let mut line = self.line(deltas);
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
            Step::Token { text, .. } => {
                let deltas = self.parser.push(&text);
                if !deltas.is_empty() {
                    out.push(&self.line(deltas));
                }
            }
            Step::Finished { text, reason, stats, .. } => {
                let mut deltas = self.parser.push(&text);
                deltas.extend(self.parser.finish());
                out.push(&self.last(deltas, reason, &stats));
            }
        }
    }

    fn end(&mut self, _out: &mut Pieces) {}

    fn fail(&mut self, error: &ApiError, out: &mut Pieces) {
        out.push(&error.body(Dialect::Ollama));
    }
}
