//! `/v1/chat/completions`.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokenizer::template::{ChatInput, ToolArguments};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::logprobs::{ChatLogprobs, chat_entry};
use super::messages::ChatMessage;
use super::usage::{Timings, Usage};
use super::{MAX_CHOICES, StreamOptions, finish_reason};
use crate::auth::Caller;
use crate::error::{ApiError, Dialect, Result};
use crate::fields::{Both, Fields, FromFields, accept, merged, parse, take};
use crate::form::FormFields;
use crate::generation::{Reply, Running, Step};
use crate::ids;
use crate::prompt;
use crate::registry::Model;
use crate::sampling::SamplingFields;
use crate::state::{Ask, Server};
use crate::stream::{self, Framing, Pieces, Teller};

/// Fields that are accepted because nothing here depends on them.
const ACCEPTED: [&str; 11] = [
    "parallel_tool_calls",
    "user",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "prompt_cache_options",
    "prediction",
    "cache_prompt",
];

/// A conversation to be continued.
#[derive(Debug, Clone)]
pub(crate) struct ChatRequest {
    pub chat: ChatFields,
    pub form: FormFields,
    pub sampling: SamplingFields,
}

/// The fields of a chat request that are not about sampling.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChatFields {
    /// The conversation so far.
    pub messages: Vec<ChatMessage>,
    /// Which model; nothing: the first that is served.
    pub model: Option<String>,
    /// Send the reply piece by piece.
    pub stream: Option<bool>,
    /// What the stream holds besides.
    pub stream_options: Option<StreamOptions>,
    /// How many replies.
    pub n: Option<usize>,
    /// Most tokens of a reply.
    pub max_tokens: Option<usize>,
    /// The same by its newer name.
    pub max_completion_tokens: Option<usize>,
    /// Tell log-probabilities.
    pub logprobs: Option<bool>,
    /// Of so many alternatives, at most 20.
    pub top_logprobs: Option<usize>,
    /// Further variables of the chat template.
    #[schema(value_type = Option<Value>)]
    pub chat_template_kwargs: Option<Map<String, Value>>,
    /// Let the model think: `none` turns it off where the template can.
    pub reasoning_effort: Option<String>,
    /// What the model may call.
    #[schema(value_type = Option<Vec<Value>>)]
    pub tools: Option<Vec<Value>>,
    /// Whether it must call something.
    #[schema(value_type = Option<Value>)]
    pub tool_choice: Option<Value>,
    /// Only `["text"]`.
    pub modalities: Option<Vec<String>>,
}

impl PartialSchema for ChatRequest {
    fn schema() -> RefOr<Schema> {
        merged::<ChatFields, Both<FormFields, SamplingFields>>()
    }
}

impl ToSchema for ChatRequest {}

impl FromFields for ChatRequest {
    fn from_fields(mut fields: Map<String, Value>) -> Result<Self> {
        accept(&mut fields, &ACCEPTED);
        let (form, sampling) = (take(&mut fields)?, take(&mut fields)?);
        Ok(Self { chat: parse(fields)?, form, sampling })
    }
}

impl ChatRequest {
    /// What the engine is asked for.
    fn ask(self, model: &Model) -> Result<Ask> {
        let (n, max_tokens, logprobs) = (self.n()?, self.max_tokens()?, self.logprobs()?);
        let Self { chat, form, sampling } = self;
        let constraint = form.constraint()?;
        let prompt = prompt::encode(model, &chat.input(model)?)?;
        let request = sampling.request(model, prompt, max_tokens)?;
        Ok(Ask { request: engine::Request { logprobs, constraint, ..request }, n })
    }

    fn n(&self) -> Result<usize> {
        match self.chat.n {
            None => Ok(1),
            Some(n @ 1..=MAX_CHOICES) => Ok(n),
            Some(n) => Err(ApiError::field("n", format!("n is {n}, but must be from 1 to {MAX_CHOICES}"))),
        }
    }

    fn max_tokens(&self) -> Result<Option<usize>> {
        match (self.chat.max_tokens, self.chat.max_completion_tokens) {
            (Some(a), Some(b)) if a != b => {
                Err(ApiError::field("max_tokens", "max_tokens and max_completion_tokens differ"))
            }
            (a, b) => Ok(a.or(b)),
        }
    }

    fn logprobs(&self) -> Result<Option<usize>> {
        match (self.chat.logprobs.unwrap_or(false), self.chat.top_logprobs) {
            (true, top) => Ok(Some(top.unwrap_or(0))),
            (false, None | Some(0)) => Ok(None),
            (false, Some(_)) => Err(ApiError::field("top_logprobs", "top_logprobs needs `logprobs: true`")),
        }
    }
}

impl ChatFields {
    /// The conversation as templates see it.
    pub fn input(self, model: &Model) -> Result<ChatInput> {
        self.check_unsupported()?;
        if self.messages.is_empty() {
            return Err(ApiError::field("messages", "messages is missing or empty"));
        }
        let style = model.capabilities.and_then(|c| c.tool_arguments).unwrap_or(ToolArguments::Text);
        let messages = self.messages.into_iter().enumerate();
        let mut extra = self.chat_template_kwargs.unwrap_or_default();
        let thinking = match extra.remove("enable_thinking") {
            None => self.reasoning_effort.map(|effort| effort != "none"),
            Some(Value::Bool(thinking)) => Some(thinking),
            Some(_) => {
                let param = "chat_template_kwargs.enable_thinking";
                return Err(ApiError::field(param, format!("{param} should be true or false")));
            }
        };
        Ok(ChatInput {
            messages: messages.map(|(i, m)| m.into_message(i, style)).collect::<Result<_>>()?,
            tools: None,
            add_generation_prompt: true,
            enable_thinking: thinking,
            now: None,
            extra,
        })
    }

    /// Fails closed on what would change the reply and is not there.
    fn check_unsupported(&self) -> Result<()> {
        if self.tools.as_ref().is_some_and(|tools| !tools.is_empty()) {
            return Err(ApiError::unsupported("tools", "calling tools"));
        }
        if self.tool_choice.as_ref().is_some_and(|choice| choice != "none" && choice != "auto") {
            return Err(ApiError::unsupported("tool_choice", "any choice but `auto` and `none`"));
        }
        if self.modalities.as_ref().is_some_and(|modalities| modalities.iter().any(|m| m != "text")) {
            return Err(ApiError::unsupported("modalities", "any modality but `text`"));
        }
        Ok(())
    }
}

/// Continues a conversation.
#[utoipa::path(post, path = "/v1/chat/completions", tag = "OpenAI", request_body = ChatRequest,
    responses((status = 200, body = ChatCompletion), (status = 400, body = Value)))]
pub(crate) async fn complete(
    State(server): State<Arc<Server>>,
    Extension(caller): Extension<Caller>,
    Fields(request): Fields<ChatRequest>,
) -> Result<Response> {
    let name = request.chat.model.clone();
    let streams = request.chat.stream.unwrap_or(false);
    let include_usage =
        request.chat.stream_options.and_then(|options| options.include_usage).unwrap_or(false);
    let ignore_eos = request.sampling.ignore_eos.unwrap_or(false);
    let logprobs = request.chat.logprobs.unwrap_or(false);
    if request.chat.stream_options.is_some() && !streams {
        return Err(ApiError::field("stream_options", "stream_options needs `stream: true`"));
    }
    let ask = move |model: &Model| Ok(vec![request.ask(model)?]);
    let mut running = server.start(&caller, name.as_deref(), ask).await?;
    let head = Head::new(&running.lease.name);
    let tokens = Tokens { model: running.lease.model(), ignore_eos };
    if streams {
        let usage = Usage::of_prompts(&running.prompts);
        let n = running.n_replies;
        let teller = ChatStream { head, tokens, usage, include_usage, logprobs, n };
        return Ok(stream::respond(running, teller, Framing::Events));
    }
    Ok(Json(whole(&mut running, head, &tokens, logprobs).await?).into_response())
}

/// What an answer says of itself.
#[derive(Debug, Clone)]
struct Head {
    id: String,
    created: u64,
    model: String,
}

impl Head {
    fn new(model: &str) -> Self {
        Self { id: ids::unique("chatcmpl"), created: ids::now(), model: model.to_owned() }
    }
}

/// Turns tokens into entries of log-probabilities.
struct Tokens {
    model: Arc<Model>,
    ignore_eos: bool,
}

impl Tokens {
    /// The entry of a token; the one that ends the text is no part of the reply.
    fn entry(&self, id: u32, logprob: Option<&engine::TokenLogprob>) -> Option<super::logprobs::TokenEntry> {
        let tokenizer = &self.model.tokenizer;
        let hidden = !self.ignore_eos && tokenizer.is_eog(id);
        logprob.filter(|_| !hidden).map(|logprob| chat_entry(tokenizer, id, logprob))
    }
}

/// A complete answer.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ChatCompletion {
    id: String,
    /// `chat.completion`
    object: &'static str,
    created: u64,
    model: String,
    choices: Vec<Choice>,
    usage: Usage,
    #[serde(skip_serializing_if = "Option::is_none")]
    timings: Option<Timings>,
}

/// One reply.
#[derive(Debug, Serialize, ToSchema)]
struct Choice {
    index: usize,
    message: Answer,
    logprobs: Option<ChatLogprobs>,
    finish_reason: &'static str,
}

/// What the model says.
#[derive(Debug, Serialize, ToSchema)]
struct Answer {
    role: &'static str,
    content: Option<String>,
    refusal: Option<String>,
}

async fn whole(running: &mut Running, head: Head, tokens: &Tokens, logprobs: bool) -> Result<ChatCompletion> {
    let replies = running.collect().await?;
    let mut usage = Usage::of_prompts(&running.prompts);
    let timings = (replies.len() == 1).then(|| Timings::from(&replies[0].stats));
    let mut choices = Vec::new();
    for (index, reply) in replies.into_iter().enumerate() {
        usage.add(&reply.stats, index == 0);
        let Reply { text, tokens: ids, reason, .. } = reply;
        let entries = ids.iter().filter_map(|(id, logprob)| tokens.entry(*id, logprob.as_ref()));
        choices.push(Choice {
            index,
            logprobs: logprobs.then(|| ChatLogprobs { content: entries.collect(), refusal: None }),
            message: Answer { role: "assistant", content: Some(text), refusal: None },
            finish_reason: finish_reason(reason),
        });
    }
    let Head { id, created, model } = head;
    Ok(ChatCompletion { id, object: "chat.completion", created, model, choices, usage, timings })
}

/// Tells a reply as chunks.
struct ChatStream {
    head: Head,
    tokens: Tokens,
    usage: Usage,
    include_usage: bool,
    logprobs: bool,
    n: usize,
}

#[derive(Serialize)]
struct Chunk<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: &'a [ChunkChoice],
    /// Null in every piece but the last, if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<&'a Usage>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timings: Option<Timings>,
}

#[derive(Serialize)]
struct ChunkChoice {
    index: usize,
    delta: Delta,
    logprobs: Option<ChatLogprobs>,
    finish_reason: Option<&'static str>,
}

#[derive(Default, Serialize)]
struct Delta {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
}

impl ChatStream {
    fn chunk(&self, choice: Option<ChunkChoice>, timings: Option<Timings>, out: &mut Pieces) {
        let is_usage = choice.is_none();
        out.push(&Chunk {
            id: &self.head.id,
            object: "chat.completion.chunk",
            created: self.head.created,
            model: &self.head.model,
            choices: choice.as_slice(),
            usage: self.include_usage.then(|| is_usage.then_some(&self.usage)),
            timings,
        });
    }

    fn delta(
        &self,
        index: usize,
        delta: Delta,
        entry: Option<super::logprobs::TokenEntry>,
        out: &mut Pieces,
    ) {
        let logprobs =
            self.logprobs.then(|| ChatLogprobs { content: entry.into_iter().collect(), refusal: None });
        self.chunk(Some(ChunkChoice { index, delta, logprobs, finish_reason: None }), None, out);
    }
}

impl Teller for ChatStream {
    fn begin(&mut self, out: &mut Pieces) {
        for index in 0..self.n {
            let delta = Delta { role: Some("assistant"), content: Some(String::new()) };
            let choice = ChunkChoice { index, delta, logprobs: None, finish_reason: None };
            self.chunk(Some(choice), None, out);
        }
    }

    fn step(&mut self, index: usize, step: Step, out: &mut Pieces) {
        match step {
            Step::Token { id, text, logprob } => {
                let entry = self.tokens.entry(id, logprob.as_ref());
                if !text.is_empty() || entry.is_some() {
                    self.delta(index, Delta { content: Some(text), ..Delta::default() }, entry, out);
                }
            }
            Step::Finished { text, reason, stats, .. } => {
                if !text.is_empty() {
                    self.delta(index, Delta { content: Some(text), ..Delta::default() }, None, out);
                }
                self.usage.add(&stats, index == 0);
                let finish_reason = Some(finish_reason(reason));
                let choice = ChunkChoice { index, delta: Delta::default(), logprobs: None, finish_reason };
                self.chunk(Some(choice), Some(Timings::from(&stats)), out);
            }
        }
    }

    fn end(&mut self, out: &mut Pieces) {
        if self.include_usage {
            self.chunk(None, None, out);
        }
        out.push_text("[DONE]");
    }

    fn fail(&mut self, error: &ApiError, out: &mut Pieces) {
        out.push(&error.body(Dialect::OpenAi));
        out.push_text("[DONE]");
    }

    fn ping(&self, out: &mut Pieces) {
        out.comment();
    }
}
