//! Rotary embeddings as files describe them: `rope.*` keys and factor tensors.

use backend::kernels::rope_store::RopePairs;

use crate::Result;
use crate::config::{RopeConfig, RopeFactors, RopeScaling};
use crate::source::Source;

const FIXED: &str = "rope_freqs.weight";
const LONG: &str = "rope_factors_long.weight";
const SHORT: &str = "rope_factors_short.weight";

/// What an architecture's rotary embedding may have.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rotary {
    /// How elements pair up.
    pub pairs: RopePairs,
    /// Whether factor tensors belong to it.
    pub factors: bool,
}

/// Reads the rotary embedding of heads of `k_dim` elements.
pub(super) fn read(source: Source<'_>, k_dim: usize, context: u32, kind: Rotary) -> Result<RopeConfig> {
    let n_dims = source.dimension("rope.dimension_count")?.unwrap_or(k_dim);
    if n_dims > k_dim || n_dims % 2 != 0 {
        let problem = format!("must be even and at most the head's {k_dim} elements");
        return Err(source.wrong("rope.dimension_count", n_dims, problem));
    }
    let base = source.positive("rope.freq_base")?.unwrap_or(10_000.0);
    if base <= 1.0 {
        return Err(source.wrong("rope.freq_base", base, "must be greater than 1"));
    }
    let original_context = match source.u32("rope.scaling.original_context_length")? {
        None | Some(0) => context,
        Some(found) => found,
    };
    Ok(RopeConfig {
        pairs: kind.pairs,
        n_dims,
        base,
        scaling: scaling(source, original_context)?,
        factors: if kind.factors {
            factors(source, n_dims / 2, original_context)?
        } else {
            RopeFactors::None
        },
        magnitude: source.positive("rope.scaling.attn_factor")?.unwrap_or(1.0),
    })
}

/// The tensors that `factors` came from.
pub(super) fn tensors(factors: &RopeFactors) -> Vec<&'static str> {
    match factors {
        RopeFactors::None => vec![],
        RopeFactors::Fixed(_) => vec![FIXED],
        RopeFactors::ByContext { .. } => vec![LONG, SHORT],
    }
}

fn scaling(source: Source<'_>, original_context: u32) -> Result<RopeScaling> {
    let factor = match source.positive_or_zero("rope.scaling.factor")? {
        None => source.positive_or_zero("rope.scale_linear")?, // the key's old name
        found => found,
    };
    let factor = factor.unwrap_or(1.0);
    let key = "rope.scaling.type";
    match source.file.metadata.str(&source.key(key))? {
        Some("none") => Ok(RopeScaling::Linear { factor: 1.0 }),
        // LongRoPE scales by its tables; a factor beside them still divides.
        None | Some("linear" | "longrope") => Ok(RopeScaling::Linear { factor }),
        Some("yarn") => Ok(RopeScaling::Yarn {
            factor,
            original_context,
            beta_fast: source.positive("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
            beta_slow: source.positive("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
            log_multiplier: source.positive_or_zero("rope.scaling.yarn_log_multiplier")?.unwrap_or(0.0),
        }),
        Some(found) => Err(source.wrong(key, found, "is not one of none, linear, yarn, longrope")),
    }
}

fn factors(source: Source<'_>, len: usize, original_context: u32) -> Result<RopeFactors> {
    if let Some(fixed) = source.factors(FIXED, len)? {
        return Ok(RopeFactors::Fixed(fixed));
    }
    match (source.factors(SHORT, len)?, source.factors(LONG, len)?) {
        (Some(short), Some(long)) => Ok(RopeFactors::ByContext { original_context, short, long }),
        // A lone table is an unread tensor, and is reported as one.
        _ => Ok(RopeFactors::None),
    }
}
