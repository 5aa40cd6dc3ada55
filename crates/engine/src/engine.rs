//! The loop: takes requests, schedules, runs the model, samples, and tells.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use model::{CacheGroup, ModelRunner, RunnerLimits};
use tokenizer::Tokenizer;

use crate::pages::BlockManager;
use crate::request::CheckedRequest;
use crate::sampling::Sampler;
use crate::scheduler::{Budget, ScheduledBatch, SequenceId, schedule};
use crate::sequence::Sequence;
use crate::{Error, Event, FinishReason, Generation, Request, Result, batch};

/// Events a caller may leave unread before its request is paused.
const EVENT_CAPACITY: usize = 256;
/// How long the loop sleeps when every sequence waits for its caller to read.
const STALLED_NAP: Duration = Duration::from_millis(2);

/// How many requests may wait and run.
#[derive(Debug, Clone, Copy)]
pub struct EngineConfig {
    /// Requests that may be in the engine at once; more are refused with [`Error::Busy`].
    pub max_requests: usize,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self { max_requests: 256 }
    }
}

/// A handle on the thread that owns the model. Dropping it ends the thread
/// after cancelling what still runs.
pub struct Engine {
    submissions: Option<SyncSender<Submission>>,
    thread: Option<JoinHandle<()>>,
    in_flight: Arc<AtomicUsize>,
    config: EngineConfig,
    limits: RunnerLimits,
    groups: Vec<CacheGroup>,
}

struct Submission {
    request: CheckedRequest,
    events: SyncSender<Event>,
    cancelled: Arc<AtomicBool>,
    at: Instant,
}

impl Engine {
    /// Starts the loop on a thread of its own.
    ///
    /// # Panics
    /// When the operating system cannot start a thread.
    pub fn start(runner: Box<dyn ModelRunner>, tokenizer: Arc<Tokenizer>, config: EngineConfig) -> Self {
        let (submissions, queue) = sync_channel(config.max_requests.max(1));
        let in_flight = Arc::new(AtomicUsize::new(0));
        let (limits, groups) = (runner.limits(), runner.groups().to_vec());
        let counter = in_flight.clone();
        let thread = std::thread::Builder::new()
            .name("engine".into())
            .spawn(move || Loop::new(runner, tokenizer, queue, counter).run())
            .expect("a process that has just loaded a model can start one thread");
        Self { submissions: Some(submissions), thread: Some(thread), in_flight, config, limits, groups }
    }

    /// The model's limits.
    pub fn limits(&self) -> &RunnerLimits {
        &self.limits
    }

    /// Hands a request to the loop.
    ///
    /// # Errors
    /// Whatever is wrong with the request, [`Error::Busy`], or [`Error::Stopped`].
    pub fn submit(&self, request: Request) -> Result<Generation> {
        let request = request.check(&self.limits, &self.groups)?;
        if self.in_flight.fetch_add(1, Ordering::Relaxed) >= self.config.max_requests {
            let waiting = self.in_flight.fetch_sub(1, Ordering::Relaxed) - 1;
            return Err(Error::Busy { waiting });
        }
        let (events, receiver) = sync_channel(EVENT_CAPACITY);
        let cancelled = Arc::new(AtomicBool::new(false));
        let submission = Submission { request, events, cancelled: cancelled.clone(), at: Instant::now() };
        let submissions = self.submissions.as_ref().expect("only drop takes the sender");
        submissions.send(submission).map_err(|_| Error::Stopped)?;
        Ok(Generation { events: receiver, cancelled })
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
    in_flight: Arc<AtomicUsize>,
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
        in_flight: Arc<AtomicUsize>,
    ) -> Self {
        let limits = runner.limits();
        let manager = BlockManager::new(runner.groups());
        Self {
            runner,
            tokenizer,
            queue,
            in_flight,
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
            self.ended.retain_mut(|sequence| !sequence.flush());
            let rows = self.plan();
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
                self.queue.recv().map_err(|_| TryRecvError::Disconnected)
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
        let Submission { request, events, cancelled, at } = submission;
        let sequence = Sequence::new(self.next_id, request, &self.tokenizer, events, cancelled, at);
        self.sequences.insert(self.next_id, sequence);
        self.next_id += 1;
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
            self.remove(id);
        }
    }

    /// Decides what runs next, takes pages away and hands them out.
    fn plan(&mut self) -> Vec<(SequenceId, usize)> {
        let ready: Vec<SequenceId> =
            self.sequences.iter_mut().filter_map(|(&id, s)| s.flush().then_some(id)).collect();
        let next = ready.iter().find(|id| !self.sequences[id].running);
        if let Some(sequence) = next.and_then(|id| self.sequences.get_mut(id)) {
            sequence.find_prefix(&self.manager);
        }
        let mut decision = self.decide(&ready);
        if decision.rows.is_empty() || !decision.preempted.is_empty() {
            // The prefix that a waiting sequence holds may be what the running ones lack.
            self.sequences.values_mut().filter(|s| !s.running).for_each(Sequence::preempt);
            decision = self.decide(&ready);
        }
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
        let batch = batch::build(rows.iter().map(|(id, n)| (&self.sequences[id], *n)), &self.manager);
        self.runner.forward(&batch)?;
        let logits = if batch.outputs.is_empty() { &[] } else { self.runner.logits()? };
        let mut logits = logits.chunks_exact(self.limits.n_vocab);
        let mut finished = Vec::new();
        for &(id, n_rows) in rows {
            let sequence =
                self.sequences.get_mut(&id).expect("a scheduled sequence is there until its step ends");
            sequence.n_cached += n_rows;
            self.manager.commit(&mut sequence.pages, &sequence.tokens, sequence.n_cached);
            if sequence.n_cached < sequence.tokens.len() {
                continue;
            }
            let row = logits.next().expect("each sequence that reached its last token asked for logits");
            let position = sequence.tokens.len() as u64;
            let token = self.sampler.sample(row, &sequence.sampling, &sequence.tokens, position);
            if sequence.push_token(token, &self.tokenizer) {
                finished.push(id);
            }
        }
        finished.into_iter().for_each(|id| self.remove(id));
        Ok(())
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
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    fn sequence(&mut self, id: SequenceId) -> &mut Sequence {
        self.sequences.get_mut(&id).expect("a scheduled sequence is there until its step ends")
    }
}
