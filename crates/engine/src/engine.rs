//! The handle on a running model.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Instant;

use flume::Sender;
use model::{CacheGroup, EmbeddingShape, ModelRunner, RunnerLimits};
use tokenizer::Tokenizer;

use crate::constraint::{Constraint, Constraints, Matcher};
use crate::embedding::{EmbeddingRequest, PendingEmbedding, Pooler};
use crate::request::CheckedRequest;
use crate::sequence::Start;
use crate::worker::Worker;
use crate::{Error, Event, Generation, Request, Result};

/// Events a caller may leave unread before its request is paused.
const EVENT_CAPACITY: usize = 256;

/// How an engine works.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// What metrics call the model.
    pub name: String,
    /// Requests that may be in the engine at once; more are refused with [`Error::Busy`].
    pub max_requests: usize,
    /// Same request, same bits, whatever was asked before or beside it: a prompt is never
    /// served from pages that generating wrote, whose rows may have been computed in
    /// another order. Without it, the next turn of a conversation finds the last reply's pages.
    pub deterministic: bool,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self { name: "model".into(), max_requests: 256, deterministic: false }
    }
}

/// A handle on the thread that owns the model. Dropping it ends the thread
/// after cancelling what still runs.
pub struct Engine {
    /// Whoever still waits in it when the thread ends, even by a panic, is told.
    submissions: Option<SyncSender<Submission>>,
    thread: Option<JoinHandle<()>>,
    counts: Arc<Counts>,
    config: EngineConfig,
    limits: RunnerLimits,
    groups: Vec<CacheGroup>,
    embedding: Option<EmbeddingShape>,
    tokenizer: Arc<Tokenizer>,
    /// Made for the first request that is constrained.
    constraints: OnceLock<Constraints>,
}

/// What the loop is handed.
pub(crate) enum Submission {
    Generate(Box<Replies>),
    /// A text to be embedded.
    Embed(Start, Pooler),
}

/// A request and where its replies go, one channel each.
pub(crate) struct Replies {
    pub request: CheckedRequest,
    pub matcher: Option<Matcher>,
    pub channels: Vec<(Sender<Event>, Arc<AtomicBool>)>,
    pub at: Instant,
}

/// What an engine has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Replies that have started.
    pub running: usize,
    /// Replies that wait to start.
    pub waiting: usize,
    /// The most of both together.
    pub max_requests: usize,
}

#[derive(Default)]
pub(crate) struct Counts {
    pub in_flight: AtomicUsize,
    pub running: AtomicUsize,
}

impl Engine {
    /// Starts the loop on a thread of its own.
    ///
    /// # Panics
    /// When the operating system cannot start a thread.
    pub fn start(runner: Box<dyn ModelRunner>, tokenizer: Arc<Tokenizer>, config: EngineConfig) -> Self {
        let (submissions, queue) = sync_channel(config.max_requests.max(1));
        let counts = Arc::<Counts>::default();
        let (limits, groups, embedding) = (runner.limits(), runner.groups().to_vec(), runner.embedding());
        let (counter, words, its_config) = (counts.clone(), tokenizer.clone(), config.clone());
        let thread = std::thread::Builder::new()
            .name("engine".into())
            .spawn(move || Worker::new(runner, words, queue, counter, &its_config).run())
            .expect("a process that has just loaded a model can start one thread");
        Self {
            submissions: Some(submissions),
            thread: Some(thread),
            counts,
            config,
            limits,
            groups,
            embedding,
            tokenizer,
            constraints: OnceLock::new(),
        }
    }

    /// The model's limits.
    pub fn limits(&self) -> &RunnerLimits {
        &self.limits
    }

    /// What embeddings are like; `None`: this model gives none.
    pub fn embedding(&self) -> Option<EmbeddingShape> {
        self.embedding
    }

    /// What there is to do.
    pub fn load(&self) -> Load {
        let in_flight = self.counts.in_flight.load(Ordering::Relaxed);
        let running = self.counts.running.load(Ordering::Relaxed).min(in_flight);
        Load { running, waiting: in_flight - running, max_requests: self.config.max_requests }
    }

    /// Hands a request to the loop.
    ///
    /// # Errors
    /// Whatever is wrong with the request, [`Error::Busy`], or [`Error::Stopped`].
    pub fn submit(&self, request: Request) -> Result<Generation> {
        let mut replies = self.submit_choices(request, 1)?;
        Ok(replies.pop().expect("one reply was asked for"))
    }

    /// Hands in a request for `n` replies, whose prompt is computed once. The first
    /// is what [`submit`](Self::submit) gives; the seeds of the others follow from its.
    ///
    /// # Errors
    /// As [`submit`](Self::submit).
    pub fn submit_choices(&self, request: Request, n: usize) -> Result<Vec<Generation>> {
        let request = request.check(&self.limits, &self.groups)?;
        if n == 0 || n > self.config.max_requests {
            return Err(Error::Parameter {
                name: "n",
                value: n.to_string(),
                range: "at least 1 and within --max-requests",
            });
        }
        let matcher = request.request.constraint.as_ref().map(|c| self.matcher(c)).transpose()?;
        self.admit(n)?;
        let (mut channels, mut generations) = (Vec::new(), Vec::new());
        for _ in 0..n {
            let (sender, events) = flume::bounded(EVENT_CAPACITY);
            let cancelled = Arc::new(AtomicBool::new(false));
            channels.push((sender, cancelled.clone()));
            generations.push(Generation { events, cancelled });
        }
        let replies = Replies { request, matcher, channels, at: Instant::now() };
        self.send(Submission::Generate(Box::new(replies)))?;
        Ok(generations)
    }

    /// Hands in a text to be embedded.
    ///
    /// # Errors
    /// As [`submit`](Self::submit); [`Error::NoEmbeddings`].
    pub fn embed(&self, request: EmbeddingRequest) -> Result<PendingEmbedding> {
        let shape = self.embedding.ok_or(Error::NoEmbeddings)?;
        request.check(&self.limits, &self.groups)?;
        self.admit(1)?;
        let (pending, result, cancelled) = PendingEmbedding::new();
        let pooler = Pooler::new(&request, shape, result);
        let start = Start {
            prompt: request.prompt,
            priority: request.priority,
            start_within: request.start_within,
            cache_salt: request.cache_salt,
            cancelled,
            submitted: Instant::now(),
        };
        self.send(Submission::Embed(start, pooler))?;
        Ok(pending)
    }

    /// Counts `n` more replies, if there is room for them.
    fn admit(&self, n: usize) -> Result<()> {
        let before = self.counts.in_flight.fetch_add(n, Ordering::Relaxed);
        if before + n > self.config.max_requests {
            self.counts.in_flight.fetch_sub(n, Ordering::Relaxed);
            return Err(Error::Busy { waiting: before });
        }
        Ok(())
    }

    fn send(&self, submission: Submission) -> Result<()> {
        let submissions = self.submissions.as_ref().expect("only drop takes the sender");
        submissions.send(submission).map_err(|_| Error::Stopped)
    }

    /// Follows a constraint; compiled on the caller's thread.
    fn matcher(&self, constraint: &Constraint) -> Result<Matcher> {
        let constraints = match self.constraints.get() {
            Some(constraints) => constraints,
            None => {
                let made = Constraints::new(&self.tokenizer, self.limits.n_vocab)?;
                self.constraints.get_or_init(|| made)
            }
        };
        constraints.matcher(constraint)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.submissions = None;
        if let Some(thread) = self.thread.take() {
            // A panic in the loop has already ended every stream; there is nobody left to tell.
            let _ = thread.join();
        }
    }
}
