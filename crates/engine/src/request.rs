//! What a caller asks for, checked before it reaches the engine's thread.

use model::{CacheGroup, RunnerLimits};

use crate::{Error, Result, SamplingParams};

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
    /// Go on past the model's own end-of-generation tokens.
    pub ignore_eos: bool,
}

impl Request {
    /// A request with default sampling.
    pub fn new(prompt: Vec<u32>) -> Self {
        Self {
            prompt,
            max_tokens: None,
            sampling: SamplingParams::default(),
            stop: Vec::new(),
            ignore_eos: false,
        }
    }

    /// Checks everything that can be known beforehand and fixes `max_tokens`.
    pub(crate) fn check(mut self, limits: &RunnerLimits, groups: &[CacheGroup]) -> Result<CheckedRequest> {
        let context = limits.max_context as usize;
        if self.prompt.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        if let Some(&id) = self.prompt.iter().find(|&&id| id as usize >= limits.n_vocab) {
            return Err(Error::UnknownToken { id, n_vocab: limits.n_vocab });
        }
        self.sampling.check()?;
        self.stop.retain(|s| !s.is_empty());
        let room = context.saturating_sub(self.prompt.len());
        let max_tokens = self.max_tokens.unwrap_or(room);
        if self.max_tokens == Some(0) {
            return Err(Error::Parameter { name: "max_tokens", value: "0".into(), range: "at least 1" });
        }
        if room == 0 || max_tokens > room {
            return Err(Error::ContextExceeded { prompt: self.prompt.len(), max_tokens, context });
        }
        for group in groups {
            let needed = (self.prompt.len() + max_tokens).div_ceil(group.page_size as usize);
            // A window group gives pages back as it goes; what it needs at once is bounded by one step.
            if group.window.is_none() && needed > group.n_pages as usize {
                return Err(Error::NeverFits { needed, total: group.n_pages as usize });
            }
        }
        Ok(CheckedRequest { max_tokens, request: self })
    }
}

/// A request that the engine can run.
#[derive(Debug)]
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
