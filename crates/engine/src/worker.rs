//! The loop: takes requests, schedules, runs the model, samples, and tells.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use flume::{Receiver, TryRecvError};
use model::{ModelRunner, RunnerLimits};
use tokenizer::Tokenizer;

use crate::constraint::Matcher;
use crate::engine::{Counts, Replies, Submission};
use crate::generating::Generating;
use crate::metrics::Metrics;
use crate::pace::Pace;
use crate::pages::BlockManager;
use crate::sampling::{SampleInput, Sampled, Sampler};
use crate::scheduler::{Budget, ScheduledBatch, SequenceId, schedule};
use crate::sequence::{Sequence, Start, Task};
use crate::{Error, Result, batch};

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
}

impl Worker {
    pub fn new(
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
            pace: Pace::default(),
            limits,
            manager,
            sampler: Sampler::new(),
            sequences: BTreeMap::new(),
            ended: Vec::new(),
            next_id: 0,
        }
    }

    /// Works until the engine's handle is gone.
    pub fn run(mut self) {
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
                // Whoever looks meanwhile sees that nothing is left.
                self.report();
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
        for sequence in self.sequences.values_mut() {
            sequence.cancel();
        }
        self.sequences.clear();
    }

    fn drop_cancelled(&mut self) {
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

    /// Runs one step and deals with its results.
    fn step(&mut self, rows: &[(SequenceId, usize)]) -> Result<()> {
        let start = Instant::now();
        let batch = batch::build(rows.iter().map(|(id, n)| (&self.sequences[id], *n)), &self.manager);
        let replies = rows.iter().filter(|(id, n)| *n == 1 && !self.sequences[id].is_prefilling()).count();
        let embeds = |(id, _): &(SequenceId, usize)| matches!(self.sequences[id].task, Task::Embed(_));
        let mut finished = Vec::new();
        if rows.iter().any(embeds) {
            self.runner.forward_hidden(&batch)?;
            finished = self.pool(rows)?;
        } else {
            self.runner.forward(&batch)?;
        }
        let logits = if batch.outputs.is_empty() { &[] } else { self.runner.logits()? };
        let mut logits = logits.chunks_exact(self.limits.n_vocab);
        for &(id, n_rows) in rows {
            let sequence =
                self.sequences.get_mut(&id).expect("a scheduled sequence is there until its step ends");
            let Task::Generate(_) = &sequence.task else { continue };
            sequence.advance(n_rows, &self.manager);
            if sequence.n_cached < sequence.tokens.len() {
                continue;
            }
            let row = logits.next().expect("each sequence that reached its last token asked for logits");
            let over = match Self::choose(&mut self.sampler, sequence, row) {
                Ok(sampled) => sequence.push_token(sampled, &self.tokenizer, &self.metrics),
                Err(error) => {
                    sequence.fail(error);
                    true
                }
            };
            if over {
                finished.push(id);
            }
        }
        let (n_rows, took) = (rows.iter().map(|(_, n)| n).sum::<usize>(), start.elapsed());
        self.metrics.step(n_rows, rows.len(), took);
        self.pace.record(n_rows - replies, replies, took);
        finished.into_iter().for_each(|id| self.remove(id));
        Ok(())
    }

    /// Gives the step's hidden states to the texts that are embedded. Returns those that are done.
    fn pool(&mut self, rows: &[(SequenceId, usize)]) -> Result<Vec<SequenceId>> {
        let n_embd = self.runner.embedding().map_or(0, |shape| shape.n_embd);
        let mut hidden = self.runner.hidden()?;
        let mut finished = Vec::new();
        for &(id, n_rows) in rows {
            let (own, rest) = hidden.split_at(n_rows * n_embd);
            hidden = rest;
            let sequence =
                self.sequences.get_mut(&id).expect("a scheduled sequence is there until its step ends");
            if let Task::Generate(_) = &sequence.task {
                continue;
            }
            sequence.advance(n_rows, &self.manager);
            if sequence.pool(own, &self.metrics) {
                finished.push(id);
            }
        }
        Ok(finished)
    }

    /// The next token of a sequence, whose `logits` are `[n_vocab]`.
    fn choose(sampler: &mut Sampler, sequence: &mut Sequence, logits: &[f32]) -> Result<Sampled> {
        let Task::Generate(reply) = &mut sequence.task else { unreachable!("only replies ask for logits") };
        let mask = reply.matcher.as_mut().map(Matcher::mask).transpose()?;
        let input = SampleInput {
            logits,
            params: &reply.sampling,
            history: &sequence.tokens,
            position: sequence.tokens.len() as u64,
            mask,
            logprobs: reply.logprobs,
        };
        let sampled = sampler.choose(&input, &mut reply.sampler_state).ok_or(Error::NoToken)?;
        if let Some(matcher) = &mut reply.matcher {
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
            self.sequence(id).fail(own);
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
