//! `/v1/completions`: texts to be continued.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokenizer::Encode;
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::logprobs::TextLogprobs;
use super::usage::{Timings, Usage};
use super::{FINGERPRINT, MAX_CHOICES, StreamOptions, finish_reason};
use crate::auth::Caller;
use crate::error::{ApiError, Dialect, Result};
use crate::fields::{Both, Fields, FromFields, accept, merged, parse, take};
use crate::form::FormFields;
use crate::generation::{Running, Step};
use crate::ids;
use crate::reading::Reading;
use crate::registry::Model;
use crate::sampling::SamplingFields;
use crate::state::{Ask, Server};
use crate::stream::{self, Framing, Pieces, Teller};

/// Texts to be continued.
#[derive(Debug, Clone)]
pub(crate) struct CompletionRequest {
    pub text: TextFields,
    pub form: FormFields,
    pub sampling: SamplingFields,
}

/// The fields that are not about sampling.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TextFields {
    /// The text, several texts, or tokens.
    pub prompt: Option<Prompt>,
    /// Which model; nothing: the first that is served.
    pub model: Option<String>,
    /// Send the reply piece by piece.
    pub stream: Option<bool>,
    /// What the stream holds besides.
    pub stream_options: Option<StreamOptions>,
    /// How many replies to each prompt.
    pub n: Option<usize>,
    /// Must be as `n`: replies are not compared.
    pub best_of: Option<usize>,
    /// Most tokens of a reply; 16, as OpenAI has it.
    pub max_tokens: Option<usize>,
    /// Tell log-probabilities of so many alternatives, at most 20.
    pub logprobs: Option<usize>,
    /// Begin the reply with the prompt.
    pub echo: Option<bool>,
    /// Text behind the gap; not supported.
    pub suffix: Option<String>,
}

/// OpenAI's default for [`TextFields::max_tokens`].
const DEFAULT_TOKENS: usize = 16;

/// What is to be continued.
#[derive(Debug, Clone, PartialEq, Deserialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum Prompt {
    Text(String),
    Tokens(Vec<u32>),
    Texts(Vec<String>),
    Many(Vec<Vec<u32>>),
}

impl PartialSchema for CompletionRequest {
    fn schema() -> RefOr<Schema> {
        merged::<TextFields, Both<FormFields, SamplingFields>>()
    }
}

impl ToSchema for CompletionRequest {}

impl FromFields for CompletionRequest {
    fn from_fields(mut fields: Map<String, Value>) -> Result<Self> {
        accept(&mut fields, &["user", "cache_prompt", "id_slot"]);
        let (form, sampling) = (take(&mut fields)?, take(&mut fields)?);
        Ok(Self { text: parse(fields)?, form, sampling })
    }
}

impl CompletionRequest {
    fn asks(self, model: &Model) -> Result<Vec<Ask>> {
        let n = self.n()?;
        let Self { text, form, sampling } = self;
        let constraint = form.constraint()?;
        let max_tokens = Some(text.max_tokens.unwrap_or(DEFAULT_TOKENS));
        let prompt = text.prompt.ok_or_else(|| ApiError::field("prompt", "prompt is missing"))?;
        let prompts = prompt.encode(model);
        if prompts.is_empty() || prompts.len() * n > MAX_CHOICES {
            let message = format!(
                "{} prompts with {n} replies each, but there may be 1 to {MAX_CHOICES}",
                prompts.len()
            );
            return Err(ApiError::field("prompt", message));
        }
        let logprobs = text.logprobs;
        let ask = |prompt| -> Result<Ask> {
            let request = sampling.request(model, prompt, max_tokens)?;
            let request = engine::Request { logprobs, constraint: constraint.clone(), ..request };
            Ok(Ask { request, n, reading: Reading::default() })
        };
        prompts.into_iter().map(ask).collect()
    }

    fn n(&self) -> Result<usize> {
        let n = self.text.n.unwrap_or(1);
        if !(1..=MAX_CHOICES).contains(&n) {
            return Err(ApiError::field("n", format!("n is {n}, but must be from 1 to {MAX_CHOICES}")));
        }
        if self.text.best_of.is_some_and(|best_of| best_of != n) {
            return Err(ApiError::unsupported("best_of", "a value other than n"));
        }
        if self.text.suffix.as_ref().is_some_and(|suffix| !suffix.is_empty()) {
            return Err(ApiError::unsupported("suffix", "a text behind the gap"));
        }
        Ok(n)
    }
}

impl Prompt {
    fn encode(self, model: &Model) -> Vec<Vec<u32>> {
        let encode =
            |text: String| model.tokenizer.encode(&text, Encode { add_special: true, parse_special: true });
        match self {
            Self::Text(text) => vec![encode(text)],
            Self::Texts(texts) => texts.into_iter().map(encode).collect(),
            Self::Tokens(ids) => vec![ids],
            Self::Many(prompts) => prompts,
        }
    }

    /// What `echo` repeats.
    fn texts(&self, model: &Model) -> Vec<String> {
        let decode = |ids: &Vec<u32>| {
            model.tokenizer.decode(ids, tokenizer::Decode { special: true, from_start: true })
        };
        match self {
            Self::Text(text) => vec![text.clone()],
            Self::Texts(texts) => texts.clone(),
            Self::Tokens(ids) => vec![decode(ids)],
            Self::Many(prompts) => prompts.iter().map(decode).collect(),
        }
    }
}

/// Continues texts.
#[utoipa::path(post, path = "/v1/completions", tag = "OpenAI", request_body = CompletionRequest,
    responses((status = 200, body = Completion), (status = 400, body = Value)))]
pub(crate) async fn complete(
    State(server): State<Arc<Server>>,
    Extension(caller): Extension<Caller>,
    Fields(request): Fields<CompletionRequest>,
) -> Result<Response> {
    let text = &request.text;
    let streams = text.stream.unwrap_or(false);
    let include_usage = text.stream_options.and_then(|options| options.include_usage).unwrap_or(false);
    if text.stream_options.is_some() && !streams {
        return Err(ApiError::field("stream_options", "stream_options needs `stream: true`"));
    }
    let (name, n, logprobs) = (text.model.clone(), request.n()?, text.logprobs.is_some());
    let ignore_eos = request.sampling.ignore_eos.unwrap_or(false);
    let echoed = text.prompt.clone().filter(|_| text.echo.unwrap_or(false));
    if echoed.is_some() && logprobs {
        return Err(ApiError::unsupported(
            "logprobs",
            "together with echo, which would need those of the prompt,",
        ));
    }
    let mut running = server.start(&caller, name.as_deref(), move |model| request.asks(model)).await?;
    let echo = echoed.map(|prompt| prompt.texts(&running.lease)).unwrap_or_default();
    let told = TextStream {
        id: ids::unique("cmpl"),
        created: ids::now(),
        name: running.lease.name.clone(),
        model: running.lease.model(),
        usage: Usage::of_prompts(&running.prompts),
        offsets: vec![0; running.n_replies],
        echo,
        n,
        include_usage,
        logprobs,
        ignore_eos,
    };
    if streams {
        return Ok(stream::respond(running, told, Framing::Events));
    }
    Ok(Json(whole(&mut running, told).await?).into_response())
}

/// A complete answer, or a piece of one.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Completion {
    id: String,
    /// `text_completion`
    object: &'static str,
    created: u64,
    model: String,
    system_fingerprint: &'static str,
    choices: Vec<Choice>,
    /// In a stream, null in every piece but the last, if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Usage>)]
    usage: Option<Option<Usage>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timings: Option<Timings>,
}

/// One reply.
#[derive(Debug, Serialize, ToSchema)]
struct Choice {
    index: usize,
    text: String,
    logprobs: Option<TextLogprobs>,
    finish_reason: Option<&'static str>,
}

async fn whole(running: &mut Running, mut told: TextStream) -> Result<Completion> {
    let replies = running.collect().await?;
    let timings = (replies.len() == 1).then(|| Timings::from(&replies[0].stats));
    let mut choices = Vec::new();
    for (index, reply) in replies.into_iter().enumerate() {
        told.usage.add(&reply.stats, index.is_multiple_of(told.n));
        let mut logprobs = TextLogprobs::default();
        for (id, logprob) in &reply.tokens {
            told.add_logprob(&mut logprobs, index, *id, logprob.as_ref());
        }
        let echo = told.echo.get(index / told.n).cloned().unwrap_or_default();
        choices.push(Choice {
            index,
            text: echo + &reply.text,
            logprobs: told.logprobs.then_some(logprobs),
            finish_reason: Some(finish_reason(reply.reason)),
        });
    }
    Ok(told.completion(choices, Some(Some(told.usage)), timings))
}

/// Tells replies as pieces.
struct TextStream {
    id: String,
    created: u64,
    name: String,
    model: Arc<Model>,
    usage: Usage,
    /// How many characters each reply has so far, for the logprobs' offsets.
    offsets: Vec<usize>,
    /// What each prompt's replies begin with.
    echo: Vec<String>,
    /// Replies to each prompt.
    n: usize,
    include_usage: bool,
    logprobs: bool,
    ignore_eos: bool,
}

impl TextStream {
    fn completion(
        &self,
        choices: Vec<Choice>,
        usage: Option<Option<Usage>>,
        timings: Option<Timings>,
    ) -> Completion {
        Completion {
            id: self.id.clone(),
            object: "text_completion",
            created: self.created,
            model: self.name.clone(),
            system_fingerprint: FINGERPRINT,
            choices,
            usage,
            timings,
        }
    }

    fn add_logprob(
        &mut self,
        to: &mut TextLogprobs,
        i: usize,
        id: u32,
        logprob: Option<&engine::TokenLogprob>,
    ) {
        let tokenizer = &self.model.tokenizer;
        if let Some(logprob) = logprob.filter(|_| self.ignore_eos || !tokenizer.is_eog(id)) {
            to.add(tokenizer, id, logprob, &mut self.offsets[i]);
        }
    }

    fn piece(&self, choice: Choice, timings: Option<Timings>, out: &mut Pieces) {
        out.push(&self.completion(vec![choice], self.include_usage.then_some(None), timings));
    }
}

impl Teller for TextStream {
    fn begin(&mut self, out: &mut Pieces) {
        for (i, text) in self.echo.iter().enumerate() {
            for index in i * self.n..(i + 1) * self.n {
                let choice = Choice { index, text: text.clone(), logprobs: None, finish_reason: None };
                self.piece(choice, None, out);
            }
        }
    }

    fn step(&mut self, index: usize, step: Step, out: &mut Pieces) {
        match step {
            Step::Token { id, text, logprob } => {
                let mut logprobs = TextLogprobs::default();
                self.add_logprob(&mut logprobs, index, id, logprob.as_ref());
                if !text.is_empty() || !logprobs.tokens.is_empty() {
                    let logprobs = self.logprobs.then_some(logprobs);
                    self.piece(Choice { index, text, logprobs, finish_reason: None }, None, out);
                }
            }
            Step::Finished { text, reason, stats, .. } => {
                self.usage.add(&stats, index.is_multiple_of(self.n));
                let finish_reason = Some(finish_reason(reason));
                let choice = Choice { index, text, logprobs: None, finish_reason };
                self.piece(choice, Some(Timings::from(&stats)), out);
            }
        }
    }

    fn end(&mut self, out: &mut Pieces) {
        if self.include_usage {
            out.push(&self.completion(Vec::new(), Some(Some(self.usage)), None));
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
