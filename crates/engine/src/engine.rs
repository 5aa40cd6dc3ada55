//! The loop: takes requests, schedules, runs the model, samples, and tells.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use flume::{Receiver, Sender, TryRecvError};
use model::{CacheGroup, ModelRunner, RunnerLimits};
use tokenizer::Tokenizer;

use crate::constraint::{Constraint, Constraints, Matcher};
use crate::metrics::Metrics;
use crate::pages::BlockManager;
use crate::request::CheckedRequest;
use crate::sampling::{SampleInput, Sampled, Sampler};
use crate::scheduler::{Budget, ScheduledBatch, SequenceId, schedule};
use crate::sequence::Sequence;
use crate::{Error, Event, FinishReason, Generation, Request, Result, batch};

/// Events a caller may leave unread before its request is paused.
const EVENT_CAPACITY: usize = 256;
/// Between the seeds of replies to one request.
const SEED_STEP: u64 = 0x9E37_79B9_7F4A_7C15;
/// How long the loop sleeps when every sequence waits for its caller to read.
const STALLED_NAP: Duration = Duration::from_millis(2);

/// How many requests may wait and run.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// What metrics call the model.
    pub name: String,
    /// Requests that may be in the engine at once; more are refused with [`Error::Busy`].
    pub max_requests: usize,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self { name: "model".into(), max_requests: 256 }
    }
}

/// A handle on the thread that owns the model. Dropping it ends the thread
/// after cancelling what still runs.
pub struct Engine {
    submissions: Option<Sender<Submission>>,
    thread: Option<JoinHandle<()>>,
    counts: Arc<Counts>,
    config: EngineConfig,
    limits: RunnerLimits,
    groups: Vec<CacheGroup>,
    tokenizer: Arc<Tokenizer>,
    /// Made for the first request that is constrained.
    constraints: OnceLock<Constraints>,
}

/// A request and where its replies go, one channel each.
struct Submission {
    request: CheckedRequest,
    matcher: Option<Matcher>,
    replies: Vec<(Sender<Event>, Arc<AtomicBool>)>,
    at: Instant,
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
struct Counts {
    in_flight: AtomicUsize,
    running: AtomicUsize,
}

impl Engine {
    /// Starts the loop on a thread of its own.
    ///
    /// # Panics
    /// When the operating system cannot start a thread.
    pub fn start(runner: Box<dyn ModelRunner>, tokenizer: Arc<Tokenizer>, config: EngineConfig) -> Self {
        let (submissions, queue) = flume::bounded(config.max_requests.max(1));
        let counts = Arc::<Counts>::default();
        let (limits, groups) = (runner.limits(), runner.groups().to_vec());
        let (counter, metrics, words) = (counts.clone(), Metrics::new(&config.name), tokenizer.clone());
        let thread = std::thread::Builder::new()
            .name("engine".into())
            .spawn(move || Loop::new(runner, words, queue, counter, metrics).run())
            .expect("a process that has just loaded a model can start one thread");
        Self {
            submissions: Some(submissions),
            thread: Some(thread),
            counts,
            config,
            limits,
            groups,
            tokenizer,
            constraints: OnceLock::new(),
        }
    }

    /// The model's limits.
    pub fn limits(&self) -> &RunnerLimits {
        &self.limits
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
        let before = self.counts.in_flight.fetch_add(n, Ordering::Relaxed);
        if before + n > self.config.max_requests {
            self.counts.in_flight.fetch_sub(n, Ordering::Relaxed);
            return Err(Error::Busy { waiting: before });
        }
        let (mut replies, mut generations) = (Vec::new(), Vec::new());
        for _ in 0..n {
            let (sender, events) = flume::bounded(EVENT_CAPACITY);
            let cancelled = Arc::new(AtomicBool::new(false));
            replies.push((sender, cancelled.clone()));
            generations.push(Generation { events, cancelled });
        }
        let submission = Submission { request, matcher, replies, at: Instant::now() };
        let submissions = self.submissions.as_ref().expect("only drop takes the sender");
        submissions.send(submission).map_err(|_| Error::Stopped)?;
        Ok(generations)
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

/// Everything the engine's thread owns.
struct Loop {
    runner: Box<dyn ModelRunner>,
    tokenizer: Arc<Tokenizer>,
    queue: Receiver<Submission>,
    counts: Arc<Counts>,
    metrics: Metrics,
    limits: RunnerLimits,
    manager: BlockManager,
    sampler: Sampler,
    sequences: BTreeMap<SequenceId, Sequence>,
    /// Sequences that are over, but whose callers have not read to the end.
    ended: Vec<Sequence>,
    next_id: SequenceId,
}

impl Loop {
    fn new(
        runner: Box<dyn ModelRunner>,
        tokenizer: Arc<Tokenizer>,
        queue: Receiver<Submission>,
        counts: Arc<Counts>,
        metrics: Metrics,
    ) -> Self {
        let limits = runner.limits();
        let manager = BlockManager::new(runner.groups());
        metrics.pages(runner.groups().iter().map(|group| group.n_pages as usize).sum());
        Self {
            runner,
            tokenizer,
            queue,
            counts,
            metrics,
            limits,
            manager,
            sampler: Sampler::new(),
            sequences: BTreeMap::new(),
            ended: Vec::new(),
            next_id: 0,
        }
    }

    fn run(mut self) {
        while self.receive() {
            self.drop_cancelled();
            self.fail_overdue();
            self.ended.retain_mut(|sequence| !sequence.flush());
            let rows = self.plan();
            self.report();
            if rows.is_empty() {
                if !self.is_idle() {
                    std::thread::sleep(STALLED_NAP);
                }
                continue;
            }
            if let Err(error) = self.step(&rows) {
                self.fail(&rows, error);
            }
        }
    }

    /// Takes what was submitted, waiting only when there is nothing else to do.
    /// Returns false when the engine's handle is gone.
    fn receive(&mut self) -> bool {
        loop {
            let received = if self.is_idle() {
                self.queue.recv().map_err(|flume::RecvError::Disconnected| TryRecvError::Disconnected)
            } else {
                self.queue.try_recv()
            };
            match received {
                Ok(submission) => self.enter(submission),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => {
                    self.cancel_all();
                    return false;
                }
            }
        }
    }

    fn is_idle(&self) -> bool {
        self.sequences.is_empty() && self.ended.is_empty()
    }

    fn enter(&mut self, submission: Submission) {
        let Submission { request, matcher, replies, at } = submission;
        let first = self.next_id;
        for (events, cancelled) in replies {
            let (id, mut request) = (self.next_id, request.clone());
            request.request.sampling.seed =
                request.request.sampling.seed.wrapping_add((id - first).wrapping_mul(SEED_STEP));
            let mut sequence = Sequence::new(id, request, &self.tokenizer, events, cancelled, at);
            sequence.follows = (id > first).then_some(first);
            sequence.matcher = matcher.as_ref().map(Matcher::fork);
            self.sequences.insert(id, sequence);
            self.next_id += 1;
        }
    }

    fn cancel_all(&mut self) {
        for sequence in self.sequences.values_mut() {
            sequence.finish(FinishReason::Cancelled);
        }
        self.sequences.clear();
    }

    fn drop_cancelled(&mut self) {
        let cancelled: Vec<_> =
            self.sequences.iter().filter_map(|(&id, s)| s.is_cancelled().then_some(id)).collect();
        for id in cancelled {
            self.sequence(id).finish(FinishReason::Cancelled);
            self.metrics.cancelled();
            self.remove(id);
        }
    }

    fn fail_overdue(&mut self) {
        let overdue: Vec<_> = self.sequences.iter().filter_map(|(&id, s)| Some((id, s.overdue()?))).collect();
        for (id, error) in overdue {
            self.sequence(id).send(Event::Failed(error));
            self.remove(id);
        }
    }

    /// Tells what there is to do.
    fn report(&self) {
        let running = self.sequences.values().filter(|s| s.running).count();
        self.counts.running.store(running, Ordering::Relaxed);
        self.metrics.state(running, self.sequences.len() - running, self.manager.held());
    }

    /// Decides what runs next, takes pages away and hands them out.
    fn plan(&mut self) -> Vec<(SequenceId, usize)> {
        let ready = self.ready();
        let running = self.sequences.values().filter(|s| s.running).count();
        let room = self.limits.max_sequences.saturating_sub(running);
        let waiting = ready.iter().filter(|id| !self.sequences[id].running).take(room);
        for id in waiting.copied().collect::<Vec<_>>() {
            let sequence = self.sequences.get_mut(&id).expect("a sequence that is ready is there");
            sequence.find_prefix(&self.manager);
        }
        let mut decision = self.decide(&ready);
        if decision.rows.is_empty() || !decision.preempted.is_empty() {
            // The prefix that a waiting sequence holds may be what the running ones lack.
            self.sequences.values_mut().filter(|s| !s.running).for_each(Sequence::preempt);
            decision = self.decide(&ready);
        }
        self.metrics.preempted(decision.preempted.len());
        for id in &decision.preempted {
            self.sequence(*id).preempt();
        }
        for &(id, n_rows) in &decision.rows {
            let sequence = self.sequences.get_mut(&id).expect("the scheduler names sequences it was given");
            let grown = self.manager.grow(&mut sequence.pages, sequence.n_cached + n_rows);
            assert!(grown, "the scheduler hands out no more pages than are free");
            sequence.start();
        }
        decision.rows
    }

    /// Sequences that could run, in the order of the queue: those whose callers have
    /// read enough, and whose prompt nobody else is computing.
    fn ready(&mut self) -> Vec<SequenceId> {
        let prefilling: Vec<SequenceId> =
            self.sequences.values().filter(|s| s.is_prefilling()).map(|s| s.id).collect();
        // One that runs waits for nobody: it may hold the pages that the other lacks.
        let waits =
            |s: &Sequence| !s.running && s.follows.is_some_and(|id| prefilling.binary_search(&id).is_ok());
        let mut ready: Vec<_> = self
            .sequences
            .iter_mut()
            .filter_map(|(&id, s)| (s.flush() && !waits(s)).then_some((-i64::from(s.priority), id)))
            .collect();
        ready.sort_unstable();
        ready.into_iter().map(|(_, id)| id).collect()
    }

    fn decide(&self, ready: &[SequenceId]) -> ScheduledBatch {
        let states: Vec<_> =
            ready.iter().map(|id| self.sequences[id].state(self.manager.n_groups())).collect();
        schedule(&states, self.budget())
    }

    fn budget(&self) -> Budget {
        let page_size = self.manager.page_size();
        let limit = |g: usize| {
            let window = self.manager.group(g).window?;
            Some((window as usize + self.limits.max_batch_tokens).div_ceil(page_size) + 1)
        };
        Budget {
            tokens: self.limits.max_batch_tokens,
            sequences: self.limits.max_sequences.min(self.limits.max_outputs),
            page_size,
            free_pages: self.manager.available(),
            page_limit: (0..self.manager.n_groups()).map(|g| limit(g).unwrap_or(usize::MAX)).collect(),
        }
    }

    /// Runs one step and deals with its tokens.
    fn step(&mut self, rows: &[(SequenceId, usize)]) -> Result<()> {
        let start = Instant::now();
        let batch = batch::build(rows.iter().map(|(id, n)| (&self.sequences[id], *n)), &self.manager);
        self.runner.forward(&batch)?;
        let logits = if batch.outputs.is_empty() { &[] } else { self.runner.logits()? };
        let mut logits = logits.chunks_exact(self.limits.n_vocab);
        let mut finished = Vec::new();
        for &(id, n_rows) in rows {
            let sequence =
                self.sequences.get_mut(&id).expect("a scheduled sequence is there until its step ends");
            sequence.advance(n_rows, &self.manager);
            if sequence.n_cached < sequence.tokens.len() {
                continue;
            }
            let row = logits.next().expect("each sequence that reached its last token asked for logits");
            match Self::choose(&mut self.sampler, sequence, row) {
                Ok(sampled) => {
                    if sequence.push_token(sampled, &self.tokenizer, &self.metrics) {
                        finished.push(id);
                    }
                }
                Err(error) => {
                    sequence.send(Event::Failed(error));
                    finished.push(id);
                }
            }
        }
        self.metrics.step(rows.iter().map(|(_, n)| n).sum(), rows.len(), start.elapsed());
        finished.into_iter().for_each(|id| self.remove(id));
        Ok(())
    }

    /// The next token of a sequence, whose `logits` are `[n_vocab]`.
    fn choose(sampler: &mut Sampler, sequence: &mut Sequence, logits: &[f32]) -> Result<Sampled> {
        let mask = sequence.matcher.as_mut().map(Matcher::mask).transpose()?;
        let input = SampleInput {
            logits,
            params: &sequence.sampling,
            history: &sequence.tokens,
            position: sequence.tokens.len() as u64,
            mask,
            logprobs: sequence.logprobs,
        };
        let sampled = sampler.choose(&input, &mut sequence.sampler_state).ok_or(Error::NoToken)?;
        if let Some(matcher) = &mut sequence.matcher {
            matcher.accept(sampled.id)?;
        }
        Ok(sampled)
    }

    /// Ends the requests of a step that failed; the first hears the error itself.
    fn fail(&mut self, rows: &[(SequenceId, usize)], error: Error) {
        let message = error.to_string();
        let mut error = Some(error);
        for &(id, _) in rows {
            let own = error.take().unwrap_or_else(|| Error::Step(message.clone()));
            self.sequence(id).send(Event::Failed(own));
            self.remove(id);
        }
    }

    /// Forgets a sequence that is over: its pages return at once, its last
    /// events as soon as the caller has room for them.
    fn remove(&mut self, id: SequenceId) {
        let mut sequence = self.sequences.remove(&id).expect("only a sequence that is there can end");
        sequence.preempt();
        if !sequence.flush() {
            self.ended.push(sequence);
        }
        self.counts.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    fn sequence(&mut self, id: SequenceId) -> &mut Sequence {
        self.sequences.get_mut(&id).expect("a scheduled sequence is there until its step ends")
    }
}
