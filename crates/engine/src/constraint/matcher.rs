//! One sequence's place in its grammar.

use llguidance::api::StopReason;

use super::TokenMask;
use super::compile::failed;
use crate::{Error, Result};

/// How `llguidance` reports that no token is allowed.
const NOTHING_FITS: &str = "NoExtensionBias";

/// Says which tokens may follow, and follows those that were chosen.
pub struct Matcher {
    inner: llguidance::Matcher,
    /// Of the present place, once it was asked for.
    mask: Option<TokenMask>,
    ends: Vec<u32>,
    ended: bool,
    n_vocab: usize,
}

impl std::fmt::Debug for Matcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Matcher").field("finished", &self.is_finished()).finish_non_exhaustive()
    }
}

impl Matcher {
    /// At the beginning; refuses a grammar that no token can begin.
    pub(super) fn new(inner: llguidance::Matcher, ends: &[u32], n_vocab: usize) -> Result<Self> {
        let mut matcher = Self { inner, mask: None, ends: ends.to_vec(), ended: false, n_vocab };
        matcher.mask()?;
        Ok(matcher)
    }

    /// The tokens that may come next: those that keep the text the beginning of
    /// one that the grammar allows, and the tokens that end a generation where
    /// it may end. Only those when the grammar is complete.
    ///
    /// # Errors
    /// [`Error::Constraint`] when no token may come, or the limits on time and
    /// memory are met; the sequence cannot go on.
    pub fn mask(&mut self) -> Result<&TokenMask> {
        if self.mask.is_none() {
            let mask = match self.is_finished() {
                true => TokenMask::from_ids(&self.ends, self.n_vocab),
                false => self.compute_mask()?,
            };
            self.mask = Some(mask);
        }
        Ok(self.mask.as_ref().expect("was just put there"))
    }

    fn compute_mask(&mut self) -> Result<TokenMask> {
        let words = self.inner.compute_mask().map_err(|e| match failed(&e.to_string()) {
            Error::Constraint(message) if message == NOTHING_FITS => {
                Error::Constraint("no token fits what the grammar asks for next".into())
            }
            error => error,
        })?;
        Ok(TokenMask::from_words(words.into(), self.n_vocab))
    }

    /// Goes on over `token`.
    ///
    /// # Errors
    /// [`Error::Constraint`] if it is not one of [`Matcher::mask`]; the place stays as it was.
    pub fn accept(&mut self, token: u32) -> Result<()> {
        let refuse = || Err(Error::Constraint(format!("token {token} is not allowed here")));
        if self.ends.contains(&token) {
            if self.ended || !self.is_accepting() {
                return refuse();
            }
            self.ended = true;
            self.mask = None;
            return Ok(());
        }
        if self.is_finished() || !self.mask()?.allows(token) {
            return refuse();
        }
        self.mask = None;
        self.inner.consume_token(token).map_err(|e| failed(&e.to_string()))
    }

    /// Whether the text so far is one that the grammar allows.
    pub fn is_accepting(&mut self) -> bool {
        self.is_finished() || self.inner.is_accepting().unwrap_or(false)
    }

    /// Whether nothing but an end can follow.
    pub fn is_finished(&self) -> bool {
        self.ended || self.inner.stop_reason() == StopReason::NoExtension
    }

    /// A matcher at the same place that goes its own way, for another choice of
    /// the same request.
    pub fn fork(&self) -> Self {
        Self {
            inner: self.inner.deep_clone(),
            mask: self.mask.clone(),
            ends: self.ends.clone(),
            ended: self.ended,
            n_vocab: self.n_vocab,
        }
    }
}
