//! What a sequence that writes a reply has beyond its tokens and pages.

use std::collections::VecDeque;
use std::sync::Arc;

use flume::{Sender, TrySendError};
use model::Wanted;
use tokenizer::{Decode, Detokenizer, Tokenizer};

use crate::constraint::Matcher;
use crate::request::CheckedRequest;
use crate::sampling::{Sampled, SamplerState};
use crate::stop::StopMatcher;
use crate::{Event, FinishReason, SamplingParams, Stats};

/// How a reply is sampled, when it ends, and who hears of it.
pub(crate) struct Generating {
    pub sampling: SamplingParams,
    pub sampler_state: SamplerState,
    /// Follows the form that the reply must have.
    pub matcher: Option<Matcher>,
    pub logprobs: Option<usize>,
    max_tokens: usize,
    stop_ids: Vec<u32>,
    ignore_eos: bool,
    /// Control tokens that are shown as text.
    shown: Vec<u32>,
    detokenizer: Detokenizer<Arc<Tokenizer>>,
    stop: StopMatcher,
    events: Sender<Event>,
    /// Events the caller has had no room for yet.
    unsent: VecDeque<Event>,
}

impl Generating {
    pub fn new(
        CheckedRequest { request, max_tokens }: CheckedRequest,
        matcher: Option<Matcher>,
        tokenizer: &Arc<Tokenizer>,
        events: Sender<Event>,
    ) -> Self {
        Self {
            sampling: request.sampling,
            sampler_state: SamplerState::default(),
            matcher,
            logprobs: request.logprobs,
            max_tokens,
            stop_ids: request.stop_ids,
            ignore_eos: request.ignore_eos,
            shown: request.shown,
            detokenizer: Detokenizer::new(tokenizer.clone(), Decode::default()),
            stop: StopMatcher::new(request.stop),
            events,
            unsent: VecDeque::new(),
        }
    }

    /// What the next token, which follows `n_history`, is chosen from: forms and
    /// log-probabilities need all logits, the rest what the sampling decides by.
    pub fn wanted(&self, n_history: usize, max_likeliest: usize) -> Wanted {
        if self.matcher.is_some() || self.logprobs.is_some() {
            return Wanted::Logits;
        }
        match self.sampling.n_deciding(n_history) {
            Some(n) if n > max_likeliest => Wanted::Logits,
            Some(1) if self.sampling.temperature == 0.0 => Wanted::Token,
            // No penalties, which the host alone can count.
            Some(n) if n == self.sampling.top_k => {
                let draw = self.sampling.drawing(n_history as u64);
                draw.map_or(Wanted::Likeliest(n as u32), Wanted::Drawn)
            }
            Some(n) => Wanted::Likeliest(n as u32),
            None => Wanted::Logits,
        }
    }

    /// Whether a reply of `n` tokens may become longer.
    pub fn may_continue(&self, n: usize) -> bool {
        n < self.max_tokens
    }

    /// Tells a sampled token, which `stats` count already: text, stop conditions,
    /// events. Returns whether the reply is over.
    pub fn push(&mut self, Sampled { id, logprob }: Sampled, stats: Stats, tokenizer: &Tokenizer) -> bool {
        if self.stop_ids.contains(&id) {
            self.finish(FinishReason::Stop, stats);
            return true;
        }
        // What a grammar ends has ended.
        let may_go_on = self.ignore_eos && self.matcher.is_none();
        if !may_go_on && tokenizer.is_eog(id) {
            self.finish(FinishReason::EndOfText, stats);
            return true;
        }
        let piece = match self.shown.contains(&id) {
            true => self.detokenizer.push_shown(id),
            false => self.detokenizer.push(id),
        };
        let (text, stop) = self.stop.push(&piece);
        self.send(Event::Token { id, text, logprob });
        if stop.is_some() {
            self.end(String::new(), FinishReason::Stop, stop, stats);
        } else if self.matcher.as_ref().is_some_and(Matcher::is_finished) {
            self.finish(FinishReason::EndOfText, stats);
        } else if !self.may_continue(stats.generated_tokens) {
            self.finish(FinishReason::Length, stats);
        } else {
            return false;
        }
        true
    }

    /// Ends the reply, showing what was held back.
    pub fn finish(&mut self, reason: FinishReason, stats: Stats) {
        let rest = self.detokenizer.finish();
        let (mut text, stop) = self.stop.push(&rest);
        if stop.is_none() {
            text.push_str(&self.stop.finish());
        }
        self.end(text, reason, stop, stats);
    }

    fn end(&mut self, text: String, reason: FinishReason, stop: Option<String>, stats: Stats) {
        self.send(Event::Finished { text, reason, stop, stats });
    }

    /// Queues an event behind those that still wait.
    pub fn send(&mut self, event: Event) {
        self.unsent.push_back(event);
        self.flush();
    }

    /// Sends what the caller has room for. Returns whether everything is out.
    pub fn flush(&mut self) -> bool {
        while let Some(event) = self.unsent.pop_front() {
            match self.events.try_send(event) {
                Ok(()) => {}
                Err(TrySendError::Full(event)) => {
                    self.unsent.push_front(event);
                    return false;
                }
                // Who drops a generation has cancelled it.
                Err(TrySendError::Disconnected(_)) => self.unsent.clear(),
            }
        }
        true
    }
}
