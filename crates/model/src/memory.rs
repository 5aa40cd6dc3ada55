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
}

impl CacheNeeds {
    /// Pages for `max_sequences` sequences of `context` tokens: all of them in
    /// full groups; in window groups the window, the rows of a step, and a page
    /// at each end that is only partly in use.
    fn pages(&self, span: Span, context: u32) -> u64 {
        let whole = u64::from(context).div_ceil(PAGE_SIZE.into());
        let each = match span {
            Span::Full => whole,
            Span::Window(window) => {
                let seen = u64::from(window) + self.max_batch_tokens as u64;
                whole.min(seen.div_ceil(PAGE_SIZE.into()) + 2)
            }
        };
        each.saturating_mul(self.max_sequences as u64)
    }

    /// The cache's shape, one group a span.
    ///
    /// # Errors
    /// [`Error::Option`] when a group has too many pages to number.
    pub fn config(&self, model: &ModelConfig, context: u32) -> Result<CacheConfig> {
        let spans = model.spans();
        let group = |&span: &Span| {
            let pages = self.pages(span, context);
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
        let spans = model.spans();
        let layers = model.layers.iter().map(|layer| {
            let per_page = self.layer(layer, &spans).bytes_per_token() as u64 * u64::from(PAGE_SIZE);
            self.pages(layer.attention.span, context).saturating_mul(per_page)
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

/// Bytes of keys and values for one sequence of `context` tokens, with prompts in chunks of 512.
pub fn kv_cache_bytes(model: &ModelConfig, context: u32, kv_k: KvFormat, kv_v: KvFormat) -> u64 {
    CacheNeeds { kv_k, kv_v, max_batch_tokens: 512, max_sequences: 1 }.bytes(model, context)
}
