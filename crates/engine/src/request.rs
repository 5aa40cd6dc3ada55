//! What a caller asks for, checked before it reaches the engine's thread.

use std::time::Duration;

use model::{CacheGroup, RunnerLimits};

use crate::{Constraint, Error, Result, SamplingParams};

/// Most stop texts and stop tokens of a request.
const MAX_STOPS: usize = 64;
/// Most bytes of a stop text.
const MAX_STOP_BYTES: usize = 1024;
/// Most alternatives whose log-probabilities can be asked for.
const MAX_LOGPROBS: usize = 20;

/// One generation.
#[derive(Debug, Clone)]
pub struct Request {
    /// The prompt's token ids.
    pub prompt: Vec<u32>,
    /// Most tokens to generate; `None`: as many as the context holds.
    pub max_tokens: Option<usize>,
    /// How tokens are chosen.
    pub sampling: SamplingParams,
    /// Texts that end the generation; they are not part of the reply.
    pub stop: Vec<String>,
    /// Tokens that end the generation, like the model's own end-of-generation tokens.
    pub stop_ids: Vec<u32>,
    /// Go on past the model's own end-of-generation tokens.
    pub ignore_eos: bool,
    /// Control tokens that are shown as text, such as the marks of tool calls.
    pub shown: Vec<u32>,
    /// The form that the reply must have.
    pub constraint: Option<Constraint>,
    /// Tell the log-probability of each token, and of so many likeliest ones.
    pub logprobs: Option<usize>,
    /// Requests with a larger one start earlier; among equals the first to come.
    pub priority: i32,
    /// Fail with [`Error::Overdue`] if the request has not started by then.
    pub start_within: Option<Duration>,
    /// What the cache holds is found again only by requests with the same salt, so
    /// that nobody learns from timing what others have asked.
    pub cache_salt: u64,
}

impl Request {
    /// A request with default sampling.
    pub fn new(prompt: Vec<u32>) -> Self {
        Self {
            prompt,
            max_tokens: None,
            sampling: SamplingParams::default(),
            stop: Vec::new(),
            stop_ids: Vec::new(),
            ignore_eos: false,
            shown: Vec::new(),
            constraint: None,
            logprobs: None,
            priority: 0,
            start_within: None,
            cache_salt: 0,
        }
    }

    /// Checks everything that can be known beforehand and fixes `max_tokens`.
    pub(crate) fn check(mut self, limits: &RunnerLimits, groups: &[CacheGroup]) -> Result<CheckedRequest> {
        let context = limits.max_context as usize;
        check_ids(&self.prompt, &self.stop_ids, limits.n_vocab)?;
        self.sampling.check()?;
        self.sampling.check_ids(limits.n_vocab)?;
        self.stop.retain(|s| !s.is_empty());
        self.check_sizes()?;
        let room = context.saturating_sub(self.prompt.len());
        let max_tokens = self.max_tokens.unwrap_or(room);
        if self.max_tokens == Some(0) {
            return Err(Error::Parameter { name: "max_tokens", value: "0".into(), range: "at least 1" });
        }
        if room == 0 || max_tokens > room {
            return Err(Error::ContextExceeded { prompt: self.prompt.len(), max_tokens, context });
        }
        check_pages(self.prompt.len() + max_tokens, groups)?;
        Ok(CheckedRequest { max_tokens, request: self })
    }

    fn check_sizes(&self) -> Result<()> {
        let longest = self.stop.iter().map(String::len).max().unwrap_or(0);
        for (name, found, most, range) in [
            ("the number of stops", self.stop.len() + self.stop_ids.len(), MAX_STOPS, "at most 64"),
            ("the length of a stop", longest, MAX_STOP_BYTES, "at most 1024 bytes"),
            ("logprobs", self.logprobs.unwrap_or(0), MAX_LOGPROBS, "from 0 to 20"),
        ] {
            if found > most {
                return Err(Error::Parameter { name, value: found.to_string(), range });
            }
        }
        Ok(())
    }
}

/// Refuses an empty prompt, and tokens that the model does not have.
pub(crate) fn check_ids(prompt: &[u32], others: &[u32], n_vocab: usize) -> Result<()> {
    if prompt.is_empty() {
        return Err(Error::EmptyPrompt);
    }
    match prompt.iter().chain(others).find(|&&id| id as usize >= n_vocab) {
        Some(&id) => Err(Error::UnknownToken { id, n_vocab }),
        None => Ok(()),
    }
}

/// Refuses sequences that could never have all their pages.
pub(crate) fn check_pages(n_tokens: usize, groups: &[CacheGroup]) -> Result<()> {
    for group in groups {
        let needed = n_tokens.div_ceil(group.page_size as usize);
        // A window group gives pages back as it goes; what it needs at once is bounded by one step.
        if group.window.is_none() && needed > group.n_pages as usize {
            return Err(Error::NeverFits { needed, total: group.n_pages as usize });
        }
    }
    Ok(())
}

/// A request that the engine can run.
#[derive(Debug, Clone)]
pub(crate) struct CheckedRequest {
    /// The caller's request.
    pub request: Request,
    /// Most tokens to generate.
    pub max_tokens: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: RunnerLimits =
        RunnerLimits { n_vocab: 10, max_context: 8, max_batch_tokens: 4, max_sequences: 2, max_outputs: 2 };
    const GROUPS: [CacheGroup; 1] = [CacheGroup { n_pages: 1, page_size: 4, window: None }];

    #[test]
    fn refuses_what_can_never_run() {
        let check = |request: Request| request.check(&LIMITS, &GROUPS).map(|c| c.max_tokens);
        assert!(matches!(check(Request::new(vec![])), Err(Error::EmptyPrompt)));
        assert!(matches!(check(Request::new(vec![10])), Err(Error::UnknownToken { id: 10, .. })));
        assert!(matches!(check(Request::new(vec![1; 8])), Err(Error::ContextExceeded { prompt: 8, .. })));
        let stops = Request { stop: vec!["x".into(); 65], ..Request::new(vec![1]) };
        assert!(matches!(check(stops), Err(Error::Parameter { name: "the number of stops", .. })));
        let stop_ids = Request { stop_ids: vec![10], ..Request::new(vec![1]) };
        assert!(matches!(check(stop_ids), Err(Error::UnknownToken { id: 10, .. })));
        let logprobs = Request { logprobs: Some(21), ..Request::new(vec![1]) };
        assert!(matches!(check(logprobs), Err(Error::Parameter { name: "logprobs", .. })));
        let none = Request { max_tokens: Some(0), ..Request::new(vec![1; 3]) };
        assert!(matches!(check(none), Err(Error::Parameter { name: "max_tokens", .. })));
        let long = Request { max_tokens: Some(6), ..Request::new(vec![1; 3]) };
        assert!(matches!(check(long), Err(Error::ContextExceeded { prompt: 3, max_tokens: 6, context: 8 })));
        let pages = Request { max_tokens: Some(2), ..Request::new(vec![1; 3]) };
        assert!(matches!(check(pages), Err(Error::NeverFits { needed: 2, total: 1 })));
        let fits = Request { max_tokens: Some(1), ..Request::new(vec![1; 3]) };
        assert_eq!(check(fits).ok(), Some(1));
    }
}
