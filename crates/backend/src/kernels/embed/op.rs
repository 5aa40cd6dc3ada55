//! `out[t] = scale * table[ids[t]]`, or the given embeddings unscaled.

use crate::{BufferId, WeightId};

/// Looks up each row's token. Ids beyond the table are refused before the step runs.
#[derive(Debug, Clone)]
pub struct Embed {
    /// `[n_vocab, n_embd]`, any format.
    pub table: WeightId,
    /// Multiplies every element (Gemma: `sqrt(n_embd)`, Granite: its own).
    pub scale: f32,
    /// `[tokens, n_embd]`
    pub out: BufferId,
}
