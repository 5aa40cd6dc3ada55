//! Embedding texts, whichever API asks.

use std::time::Duration;

use engine::{Embedding, EmbeddingRequest, Engine, PendingEmbedding};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use serde::Deserialize;
use tokenizer::Encode;
use utoipa::ToSchema;

use crate::auth::Caller;
use crate::error::{ApiError, Result};
use crate::registry::Model;
use crate::state::Server;

/// Most texts of one request, as OpenAI has it.
const MAX_INPUTS: usize = 2048;

/// How soon a text that found no place in the engine tries again.
const RETRY: Duration = Duration::from_millis(5);

/// One or several texts, as text or as tokens.
#[derive(Debug, Clone, PartialEq, Deserialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum Input {
    Text(String),
    Tokens(Vec<u32>),
    Texts(Vec<String>),
    Many(Vec<Vec<u32>>),
}

/// What is to be embedded, and how.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub input: Input,
    /// The length that embeddings should have.
    pub dimensions: Option<usize>,
    /// Cut texts that the context does not hold.
    pub truncate: bool,
    /// Scale embeddings to length 1.
    pub normalise: bool,
}

/// Texts' embeddings, in order, and the name of the model that made them.
pub(crate) struct Embedded {
    pub model: String,
    pub embeddings: Vec<Embedding>,
}

impl Embedded {
    /// Tokens of all texts.
    pub fn prompt_tokens(&self) -> usize {
        self.embeddings.iter().map(|embedding| embedding.stats.prompt_tokens).sum()
    }
}

impl Ask {
    fn requests(self, model: &Model) -> Result<Vec<EmbeddingRequest>> {
        let shape = model.engine.embedding().ok_or(engine::Error::NoEmbeddings)?;
        if self.dimensions.is_some_and(|wanted| wanted != shape.n_embd) {
            let what = format!("a length other than this model's {}", shape.n_embd);
            return Err(ApiError::unsupported("dimensions", &what));
        }
        let prompts = self.input.encode(model)?;
        if !(1..=MAX_INPUTS).contains(&prompts.len()) {
            let message = format!("{} texts, but there may be 1 to {MAX_INPUTS}", prompts.len());
            return Err(ApiError::field("input", message));
        }
        let context = model.engine.limits().max_context as usize;
        let request = |mut prompt: Vec<u32>| {
            if self.truncate && prompt.len() > context {
                cut(&mut prompt, context);
            }
            EmbeddingRequest { normalise: self.normalise, ..EmbeddingRequest::new(prompt) }
        };
        Ok(prompts.into_iter().map(request).collect())
    }
}

impl Input {
    fn encode(self, model: &Model) -> Result<Vec<Vec<u32>>> {
        let encode = |text: String| match text.is_empty() {
            true => Err(ApiError::field("input", "input: a text is empty")),
            false => Ok(model.tokenizer.encode(&text, Encode { add_special: true, parse_special: true })),
        };
        match self {
            Self::Text(text) => Ok(vec![encode(text)?]),
            Self::Texts(texts) => texts.into_iter().map(encode).collect(),
            Self::Tokens(ids) => Ok(vec![ids]),
            Self::Many(prompts) => Ok(prompts),
        }
    }
}

/// Cuts a text to `n` tokens; the one that ends it stays.
fn cut(prompt: &mut Vec<u32>, n: usize) {
    let last = prompt.last().copied();
    prompt.truncate(n);
    if let (Some(end), Some(last)) = (prompt.last_mut(), last) {
        *end = last;
    }
}

/// Embeds the texts that `build` makes of the request; each waits for its turn in
/// the engine like any other request.
///
/// # Errors
/// As [`Server::admit`], what `build` says, and what the engine says of the texts.
pub(crate) async fn embed(
    server: &Server,
    caller: &Caller,
    model: Option<&str>,
    build: impl FnOnce(&Model) -> Result<Ask> + Send + 'static,
) -> Result<Embedded> {
    let admitted = server.admit(model).await?;
    let lease = &admitted.lease;
    let requests = server.compute(lease, move |model| build(model)?.requests(model)).await?;
    let pending = requests.into_iter().enumerate().map(|(i, request)| async move {
        let request = EmbeddingRequest { cache_salt: caller.salt, ..request };
        let pending = match i {
            0 => lease.engine.embed(request)?,
            _ => embed_when_free(&lease.engine, request).await?,
        };
        pending.recv().await
    });
    // Enough to fill the engine's batches, and no more than it takes.
    let at_once = (2 * lease.engine.limits().max_sequences).min(lease.engine.load().max_requests);
    let embeddings = stream::iter(pending).buffered(at_once.max(1)).try_collect();
    let mut stopping = server.stopping.clone();
    let embeddings = tokio::select! {
        embeddings = embeddings => embeddings?,
        () = tokio::time::sleep_until(admitted.deadline.at) => {
            return Err(ApiError::timed_out(admitted.deadline.limit));
        }
        _ = stopping.wait_for(|stopping| *stopping) => return Err(ApiError::stopping()),
    };
    Ok(Embedded { model: lease.name.clone(), embeddings })
}

/// Waits for a place: a request that has begun is not refused halfway.
async fn embed_when_free(engine: &Engine, request: EmbeddingRequest) -> engine::Result<PendingEmbedding> {
    loop {
        match engine.embed(request.clone()) {
            Err(engine::Error::Busy { .. }) => tokio::time::sleep(RETRY).await,
            other => return other,
        }
    }
}
