//! The memory a model will take, known before any of it is reserved.

use backend::{CacheConfig, CacheLayerConfig, GroupConfig, KvFormat, Rows, Step};

use crate::config::{LayerConfig, ModelConfig, Span};
use crate::{Error, Result};

/// Tokens a page of the cache holds.
pub const PAGE_SIZE: u32 = 32;

/// What a loaded model takes, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Weights; mapped from the file where the device can address the mapping.
    pub weights: u64,
    /// Keys and values of all pages.
    pub kv_cache: u64,
    /// Activations of the largest step.
    pub scratch: u64,
    /// Longest context of one sequence, in tokens.
    pub context: u32,
}

impl MemoryPlan {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.weights.saturating_add(self.kv_cache).saturating_add(self.scratch)
    }
}

/// How large the cache is to be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CacheNeeds {
    pub kv_k: KvFormat,
    pub kv_v: KvFormat,
    pub max_batch_tokens: usize,
    pub max_sequences: usize,
    /// Bytes to share among all sequences; `None`: as many as let each have the whole context.
    pub budget: Option<u64>,
}

impl CacheNeeds {
    /// Pages for one sequence of `context` tokens: all of them in full groups; in window groups
    /// the window, the rows of a step, and a page at each end that is only partly in use.
    fn pages_of_one(&self, span: Span, context: u32) -> u64 {
        let whole = u64::from(context).div_ceil(PAGE_SIZE.into());
        match span {
            Span::Full => whole,
            Span::Window(window) => {
                let seen = u64::from(window) + self.max_batch_tokens as u64;
                whole.min(seen.div_ceil(PAGE_SIZE.into()) + 2)
            }
        }
    }

    /// Pages of a group: those of one sequence, times as often as the budget has room for one,
    /// fractions included; at least once, at most for all sequences.
    fn pages(&self, model: &ModelConfig, span: Span, context: u32) -> u64 {
        let one = self.pages_of_one(span, context);
        let all = one.saturating_mul(self.max_sequences as u64);
        let Some(budget) = self.budget else { return all };
        let shared =
            u128::from(one) * u128::from(budget) / u128::from(self.bytes_of_one(model, context).max(1));
        u64::try_from(shared).unwrap_or(u64::MAX).clamp(one, all)
    }

    /// The cache's shape, one group a span.
    ///
    /// # Errors
    /// [`Error::Option`] when a group has too many pages to number.
    pub fn config(&self, model: &ModelConfig, context: u32) -> Result<CacheConfig> {
        let spans = model.spans();
        let group = |&span: &Span| {
            let pages = self.pages(model, span, context);
            let slots = pages.checked_mul(PAGE_SIZE.into()).and_then(|slots| u32::try_from(slots).ok());
            let Some(_) = slots else {
                return Err(Error::Option {
                    option: "context",
                    problem: format!(
                        "{context} tokens for each of {} sequences are more than a cache group can number",
                        self.max_sequences
                    ),
                });
            };
            Ok(GroupConfig {
                n_pages: pages as u32,
                page_size: PAGE_SIZE,
                window: match span {
                    Span::Full => None,
                    Span::Window(window) => Some(window),
                },
            })
        };
        let layers = model.layers.iter().map(|layer| self.layer(layer, &spans));
        Ok(CacheConfig { groups: spans.iter().map(group).collect::<Result<_>>()?, layers: layers.collect() })
    }

    fn layer(&self, layer: &LayerConfig, spans: &[Span]) -> CacheLayerConfig {
        let attention = &layer.attention;
        CacheLayerConfig {
            group: spans.iter().position(|&span| span == attention.span).expect("spans come from the layers"),
            n_kv_heads: attention.n_kv_heads,
            k_dim: attention.k_dim,
            v_dim: attention.v_dim,
            k_format: self.kv_k,
            v_format: self.kv_v,
        }
    }

    /// Bytes of the cache for a context.
    pub fn bytes(&self, model: &ModelConfig, context: u32) -> u64 {
        self.sum(model, |span| self.pages(model, span, context))
    }

    /// Bytes that one sequence of `context` tokens takes.
    pub fn bytes_of_one(&self, model: &ModelConfig, context: u32) -> u64 {
        self.sum(model, |span| self.pages_of_one(span, context))
    }

    /// Bytes of so many pages of each layer's group.
    fn sum(&self, model: &ModelConfig, pages: impl Fn(Span) -> u64) -> u64 {
        let spans = model.spans();
        let layers = model.layers.iter().map(|layer| {
            let per_page = self.layer(layer, &spans).bytes_per_token() as u64 * u64::from(PAGE_SIZE);
            pages(layer.attention.span).saturating_mul(per_page)
        });
        layers.fold(0, u64::saturating_add)
    }

    /// The longest context, a multiple of a page, whose cache takes at most `bytes`.
    pub fn longest_context(&self, model: &ModelConfig, bytes: u64, limit: u32) -> u32 {
        if self.bytes(model, limit) <= bytes {
            return limit;
        }
        let (mut fits, mut too_long) = (0, limit.div_ceil(PAGE_SIZE));
        while too_long - fits > 1 {
            let middle = fits + (too_long - fits) / 2;
            if self.bytes(model, middle * PAGE_SIZE) <= bytes { fits = middle } else { too_long = middle }
        }
        fits * PAGE_SIZE
    }
}

/// Bytes of a step's buffers for so many rows.
pub(crate) fn scratch(step: &Step, tokens: usize, outputs: usize) -> u64 {
    let bytes = |desc: &backend::BufferDesc| {
        let rows = match desc.rows {
            Rows::Tokens => tokens,
            Rows::Outputs => outputs,
        };
        (rows as u64).saturating_mul(4 * desc.cols as u64)
    };
    step.buffers().iter().map(bytes).fold(0, u64::saturating_add)
}
