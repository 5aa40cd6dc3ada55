//! The loop: takes requests, schedules, runs the model, samples, and tells.
//!
//! Where the runner overlaps steps, the loop is one step behind it: while a step
//! runs, the next is decided and submitted, and only then are the tokens of the
//! first looked at. What those end (end of text, a stop text) or what was
//! cancelled meanwhile is in the later step for nothing: its token is discarded.
//! Pages may be handed on at once, since steps run in the order they were
//! submitted. A sequence whose next token the host must choose waits alone, unless most
//! replies do: then a step without them would only keep them waiting, and there is none.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

use model::{ModelRunner, RunnerLimits};
use tokenizer::Tokenizer;

use crate::batch::{self, Output, Part};
use crate::choosing::Results;
use crate::constraint::Matcher;
use crate::engine::{Counts, EngineConfig, Replies, Submission};
use crate::generating::Generating;
use crate::metrics::Metrics;
use crate::pace::Pace;
use crate::pages::BlockManager;
use crate::sampling::{Sampled, Sampler};
use crate::scheduler::{Budget, ScheduledBatch, SequenceId, schedule};
use crate::sequence::{Sequence, Start, Task};
use crate::{Error, Result};

/// Between the seeds of replies to one request.
const SEED_STEP: u64 = 0x9E37_79B9_7F4A_7C15;
/// How long the loop sleeps when every sequence waits for its caller to read.
const STALLED_NAP: Duration = Duration::from_millis(2);

/// Everything the engine's thread owns.
pub(crate) struct Worker {
    runner: Box<dyn ModelRunner>,
    tokenizer: Arc<Tokenizer>,
    queue: Receiver<Submission>,
    counts: Arc<Counts>,
    metrics: Metrics,
    pace: Pace,
    limits: RunnerLimits,
    manager: BlockManager,
    sampler: Sampler,
    sequences: BTreeMap<SequenceId, Sequence>,
    /// Sequences that are over, but whose callers have not read to the end.
    ended: Vec<Sequence>,
    next_id: SequenceId,
    /// Steps that run, oldest first: one, or two for a moment where they overlap.
    in_flight: VecDeque<InFlight>,
    /// Tokens that their callers have not heard of.
    untold: Vec<(SequenceId, Result<Sampled>)>,
    n_steps: u64,
    last_completed: Instant,
}

/// A step that was submitted.
struct InFlight {
    number: u64,
    parts: Vec<Part>,
    hidden: bool,
    submitted: Instant,
    /// Parts of replies that are generated.
    n_replies: usize,
}

impl Worker {
    pub fn new(
        runner: Box<dyn ModelRunner>,
        tokenizer: Arc<Tokenizer>,
        queue: Receiver<Submission>,
        counts: Arc<Counts>,
        config: &EngineConfig,
    ) -> Self {
        let (limits, prompt_tile) = (runner.limits(), runner.prompt_tile());
        let manager = BlockManager::new(runner.groups(), config.deterministic);
        let metrics = Metrics::new(&config.name);
        metrics.pages(runner.groups().iter().map(|group| group.n_pages as usize).sum());
        Self {
            runner,
            tokenizer,
            queue,
            counts,
            metrics,
            pace: Pace::new(prompt_tile),
            limits,
            manager,
            sampler: Sampler::new(),
            sequences: BTreeMap::new(),
            ended: Vec::new(),
            next_id: 0,
            in_flight: VecDeque::new(),
            untold: Vec::new(),
            n_steps: 0,
            last_completed: Instant::now(),
        }
    }

    /// Works until the engine's handle is gone.
    pub fn run(mut self) {
        while self.receive() {
            self.drop_cancelled();
            self.fail_overdue();
            self.ended.retain_mut(|sequence| !sequence.flush());
            let rows = if self.most_wait() { Vec::new() } else { self.plan() };
            self.report();
            if !rows.is_empty() {
                self.submit(&rows);
            }
            let told = self.tell();
            let runs = self.in_flight.len();
            if runs > usize::from(self.runner.overlaps() && !rows.is_empty()) {
                self.complete();
            } else if rows.is_empty() && !told && !self.is_idle() {
                std::thread::sleep(STALLED_NAP);
            }
        }
        // The runner ends with nothing under way.
        while self.in_flight.pop_front().is_some() && self.runner.complete().is_ok() {}
    }

    /// Takes what was submitted, waiting only when there is nothing else to do.
    /// Returns false when the engine's handle is gone.
    fn receive(&mut self) -> bool {
        loop {
            let received = if self.is_idle() {
                // Whoever looks meanwhile sees that nothing is left.
                self.report();
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
        self.sequences.is_empty() && self.ended.is_empty() && self.in_flight.is_empty()
    }

    fn enter(&mut self, submission: Submission) {
        let Replies { request, matcher, channels, at } = match submission {
            Submission::Generate(replies) => *replies,
            Submission::Embed(start, pooler) => return self.insert(start, Task::Embed(pooler), None),
        };
        let first = self.next_id;
        for (events, cancelled) in channels {
            let (id, mut request) = (self.next_id, request.clone());
            let asked = &mut request.request;
            asked.sampling.seed = asked.sampling.seed.wrapping_add((id - first).wrapping_mul(SEED_STEP));
            let start = Start {
                prompt: std::mem::take(&mut asked.prompt),
                priority: asked.priority,
                start_within: asked.start_within,
                cache_salt: asked.cache_salt,
                cancelled,
                submitted: at,
            };
            let matcher = matcher.as_ref().map(Matcher::fork);
            let task = Generating::new(request, matcher, &self.tokenizer, events);
            self.insert(start, Task::Generate(Box::new(task)), (id > first).then_some(first));
        }
    }

    fn insert(&mut self, start: Start, task: Task, follows: Option<SequenceId>) {
        let mut sequence = Sequence::new(self.next_id, start, task);
        sequence.follows = follows;
        self.sequences.insert(self.next_id, sequence);
        self.next_id += 1;
    }

    fn cancel_all(&mut self) {
        self.tell();
        for sequence in self.sequences.values_mut() {
            sequence.cancel();
        }
        self.sequences.clear();
    }

    fn drop_cancelled(&mut self) {
        if self.sequences.values().any(Sequence::is_cancelled) {
            self.tell();
        }
        let cancelled: Vec<_> =
            self.sequences.iter().filter_map(|(&id, s)| s.is_cancelled().then_some(id)).collect();
        for id in cancelled {
            self.sequence(id).cancel();
            self.metrics.cancelled();
            self.remove(id);
        }
    }

    fn fail_overdue(&mut self) {
        let overdue: Vec<_> = self.sequences.iter().filter_map(|(&id, s)| Some((id, s.overdue()?))).collect();
        for (id, error) in overdue {
            self.sequence(id).fail(error);
            self.remove(id);
        }
    }

    /// Whether the host is to choose for more replies than the runner, once the step that runs is over.
    fn most_wait(&self) -> bool {
        let outputs =
            || self.in_flight.back().into_iter().flat_map(|step| &step.parts).filter_map(|p| p.output);
        let drawn = outputs().filter(|output| matches!(output, Output::Drawn(_))).count();
        outputs().count() > 2 * drawn
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
            // What a reply holds that is over, but was not told, may be what the others lack.
            if self.tell() {
                return self.plan();
            }
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
            let grown = self.manager.grow(&mut sequence.pages, sequence.n_submitted + n_rows);
            assert!(grown, "the scheduler hands out no more pages than are free");
            sequence.start();
        }
        decision.rows
    }

    /// Sequences that could run, in the order of the queue: those with something to run, whose
    /// callers have read enough, and whose prompt nobody else is computing.
    fn ready(&mut self) -> Vec<SequenceId> {
        let prefilling: Vec<SequenceId> =
            self.sequences.values().filter(|s| s.is_prefilling()).map(|s| s.id).collect();
        // One that runs waits for nobody: it may hold the pages that the other lacks.
        let waits =
            |s: &Sequence| !s.running && s.follows.is_some_and(|id| prefilling.binary_search(&id).is_ok());
        let mut ready: Vec<_> = self
            .sequences
            .iter_mut()
            .filter_map(|(&id, s)| {
                (s.flush() && s.has_rows() && !waits(s)).then_some((-i64::from(s.priority), id))
            })
            .collect();
        ready.sort_unstable();
        ready.into_iter().map(|(_, id)| id).collect()
    }

    fn decide(&self, ready: &[SequenceId]) -> ScheduledBatch {
        let most = self.limits.max_batch_tokens;
        let states: Vec<_> =
            ready.iter().map(|id| self.sequences[id].state(self.manager.n_groups(), most)).collect();
        let replies = states.iter().filter(|s| s.running && s.n_tokens - s.n_cached == 1).count();
        let long = states.iter().filter(|s| s.running && s.is_long).count();
        schedule(&states, Budget { long_tokens: self.pace.rows(long, replies, most), ..self.budget() })
    }

    fn budget(&self) -> Budget {
        let page_size = self.manager.page_size();
        let limit = |g: usize| {
            let window = self.manager.group(g).window?;
            Some((window as usize + self.limits.max_batch_tokens).div_ceil(page_size) + 1)
        };
        Budget {
            tokens: self.limits.max_batch_tokens,
            long_tokens: self.limits.max_batch_tokens,
            sequences: self.limits.max_sequences.min(self.limits.max_outputs),
            page_size,
            free_pages: self.manager.available(),
            page_limit: (0..self.manager.n_groups()).map(|g| limit(g).unwrap_or(usize::MAX)).collect(),
        }
    }

    /// Hands a step to the runner.
    fn submit(&mut self, rows: &[(SequenceId, usize)]) {
        let submitted = Instant::now();
        let is_reply = |(id, n): &&(SequenceId, usize)| *n == 1 && !self.sequences[id].is_at_prompt();
        let n_replies = rows.iter().filter(is_reply).count();
        let rows = rows.iter().map(|(id, n)| (&self.sequences[id], *n));
        let (step, parts) = batch::build(rows, &self.manager, self.runner.max_likeliest());
        if let Err(error) = self.runner.submit(&step) {
            return self.fail(&parts, error.into());
        }
        let number = self.n_steps;
        self.n_steps += 1;
        for part in &parts {
            self.sequence(part.id).submitted(number, part);
        }
        self.in_flight.push_back(InFlight { number, parts, hidden: step.hidden, submitted, n_replies });
    }

    /// Waits for the oldest step and deals with its results.
    fn complete(&mut self) {
        let Some(step) = self.in_flight.pop_front() else { return };
        if let Err(error) = self.deal(&step) {
            self.fail(&step.parts, error);
        }
        let since = step.submitted.max(self.last_completed);
        self.last_completed = Instant::now();
        let n_rows: usize = step.parts.iter().map(|part| part.n_rows).sum();
        let took = self.last_completed - since;
        self.metrics.step(n_rows, step.parts.len(), took);
        self.pace.record(n_rows - step.n_replies, step.n_replies, took);
    }

    fn deal(&mut self, step: &InFlight) -> Result<()> {
        let drawn = self.runner.complete()?.to_vec();
        let likeliest = self.runner.likeliest().to_vec();
        let finished = if step.hidden { self.pool(step)? } else { Vec::new() };
        let samples = step.parts.iter().any(|part| part.output == Some(Output::Sampled));
        let logits = if samples { self.runner.logits()? } else { &[] };
        let n_vocab = self.limits.n_vocab;
        let mut results = Results { drawn: &drawn, likeliest: &likeliest, logits, n_vocab };
        for part in &step.parts {
            let given = part.output.map(|output| results.next(output));
            // Who is not there any more has ended since the step was submitted.
            let Some(sequence) = self.sequences.get_mut(&part.id) else { continue };
            let Task::Generate(_) = &sequence.task else { continue };
            sequence.completed(step.number, part, &self.manager);
            let Some(given) = given else { continue };
            let sampled = given.choose(&mut self.sampler, sequence);
            if let Ok(sampled) = &sampled {
                sequence.tokens.push(sampled.id);
            }
            self.untold.push((part.id, sampled));
        }
        finished.into_iter().for_each(|id| self.remove(id));
        // A device that has nothing to do gets the next step first.
        if !self.runner.overlaps() || !self.in_flight.is_empty() {
            self.tell();
        }
        Ok(())
    }

    /// Tells callers their tokens. Replies that these end are over. Returns whether there were any.
    fn tell(&mut self) -> bool {
        let any = !self.untold.is_empty();
        for (id, sampled) in std::mem::take(&mut self.untold) {
            let Some(sequence) = self.sequences.get_mut(&id) else { continue };
            let over = match sampled {
                Ok(sampled) => sequence.tell(sampled, &self.tokenizer, &self.metrics),
                Err(error) => {
                    sequence.fail(error);
                    true
                }
            };
            if over {
                self.remove(id);
            }
        }
        any
    }

    /// Gives the step's hidden states to the texts that are embedded. Returns those that are done.
    fn pool(&mut self, step: &InFlight) -> Result<Vec<SequenceId>> {
        let n_embd = self.runner.embedding().map_or(0, |shape| shape.n_embd);
        let mut hidden = self.runner.hidden()?;
        let mut finished = Vec::new();
        for part in &step.parts {
            let (own, rest) = hidden.split_at(part.n_rows * n_embd);
            hidden = rest;
            let Some(sequence) = self.sequences.get_mut(&part.id) else { continue };
            if let Task::Generate(_) = &sequence.task {
                continue;
            }
            if sequence.completed(step.number, part, &self.manager) && sequence.pool(own, &self.metrics) {
                finished.push(part.id);
            }
        }
        Ok(finished)
    }

    /// Ends the requests of a step that failed, but those that were over before; the first hears the error itself.
    fn fail(&mut self, parts: &[Part], error: Error) {
        self.tell();
        let message = error.to_string();
        let mut error = Some(error);
        for part in parts {
            let Some(sequence) = self.sequences.get_mut(&part.id) else { continue };
            sequence.fail(error.take().unwrap_or_else(|| Error::Step(message.clone())));
            self.remove(part.id);
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
