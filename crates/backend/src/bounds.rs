//! How far a backend's results may be from the reference's, and why.
//!
//! Every bound is relative to the root mean square of the reference's buffer,
//! once for the largest deviation and once for their root mean square.

use gguf::Format;

use crate::KvFormat;

/// The deviations allowed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bound {
    /// Of any one element.
    pub max: f32,
    /// Root mean square over all elements.
    pub rms: f32,
}

impl Bound {
    /// The sum of two sources of error.
    pub fn plus(self, other: Self) -> Self {
        Self { max: self.max + other.max, rms: self.rms + other.rms }
    }

    /// The same error through `n` ops in a row, or from values `n` times as uneven.
    pub fn times(self, n: f32) -> Self {
        Self { max: self.max * n, rms: self.rms * n }
    }
}

/// An f32 sum of `n` products, in any order.
///
/// Each of up to `n` additions rounds a partial sum by at most ε/2 of it. Terms
/// of random sign have partial sums no larger than a few times the result's own
/// root mean square, and the roundings add up like a random walk of `n` steps:
/// `√n · ε`. The factors 4 (typical) and 16 (largest of thousands of elements,
/// and functions such as `exp` good to a few ε) leave room for nothing else.
pub fn float_sum(n: usize) -> Bound {
    let walk = (n as f32).sqrt() * f32::EPSILON;
    Bound { max: 16.0 * walk, rms: 4.0 * walk }
}

/// Activations rounded to 8 bits in blocks of 32 before a product with weights.
///
/// A block's step is `max/127`, so an element's error is uniform with standard
/// deviation `max/(127·√12)`. The largest of 32 values is at most 1.8 times
/// their root mean square when they are uniform and about 2.3 times when they
/// are normal, so the relative error of an element, and of a sum of products
/// with independent errors, is 0.0041 to 0.0052. The largest of a few thousand
/// such errors is under 5 standard deviations; results are near-normal and
/// compared with their own root mean square. Rounded up: 0.007 and 0.035.
pub const INT8: Bound = Bound { max: 0.035, rms: 0.007 };

/// What is added on a device that multiplies prompts in bf16, or replies as well
/// ([`crate::Backend::rounds_prompts`]).
///
/// An element between 1 and 2 is off by up to 2⁻⁸, uniformly: a standard
/// deviation of 2⁻⁸/√3 of its binade, 0.0016 of an element as they come. Where
/// both factors are rounded the products, and sums of them, are off by √2 times
/// that, 0.0023; where the scale of a weight is too, √3 times, 0.0028. In attention the scores, up to 8 in the cases, are off by about
/// a root mean square of 2 times 0.0023, and shares by as much relative to
/// themselves: 0.0046, with the rounding of shares and values 0.0051. The largest of
/// a few thousand is under 5 standard deviations, of scores of up to 8 under 10.
/// Rounded up: 0.006 and 0.06.
pub const BF16_PROMPTS: Bound = Bound { max: 0.06, rms: 0.006 };

/// What is added on a device that keeps scales and offsets of groups as f16
/// ([`crate::Backend::rounds_scales`]).
///
/// Those of the K formats are products of two numbers. Rounded they are off by up to
/// 2⁻¹² of themselves in their binade, 2⁻¹² to 2⁻¹¹. With an offset a value is the
/// difference of two numbers, each up to about four times the root mean square of values, both
/// off independently: up to 8 · 2⁻¹¹, typically an eighth of that; rounded up.
pub const F16_SCALES: Bound = Bound { max: 0.004, rms: 0.001 };

/// A linear map from `cols` elements with weights of `format`.
pub fn linear(format: Format, cols: usize) -> Bound {
    match format.block_len() {
        1 => float_sum(cols),
        _ => INT8.plus(float_sum(cols)),
    }
}

/// As [`linear`], where the activations are products of two random values: their
/// largest of 32 is up to 4.2 times their root mean square, about twice as much.
pub fn gated_linear(format: Format, cols: usize) -> Bound {
    linear(format, cols).times(2.0)
}

/// Keys and values that both sides round to `format`: what they round may
/// differ by f32 errors, and then the rounding differs by one unit, half of
/// which is the format's ε (2⁻¹¹ and 2⁻⁸ of the element). Few elements are that
/// near to a boundary, and the softmax averages them.
pub fn kv(format: KvFormat) -> Bound {
    let epsilon = match format {
        KvFormat::F32 => return Bound { max: 0.0, rms: 0.0 },
        KvFormat::F16 => 1.0 / 2048.0,
        KvFormat::BF16 => 1.0 / 256.0,
        // Half of a 127th of the largest of 32, which is some 4 times their root mean square.
        KvFormat::Q8_0 => 1.0 / 64.0,
        KvFormat::Fp8 => 1.0 / 16.0,
    };
    Bound { max: 4.0 * epsilon, rms: epsilon }
}

/// Attention over `n_context` positions with heads of `dim` elements.
///
/// Scores are sums of `dim` products and outputs sums of `n_context`; a score's
/// absolute error is its relative change of the softmax weight, so scores as
/// large as 8 (what the cases have) multiply the first.
pub fn attention(dim: usize, n_context: usize, k: KvFormat, v: KvFormat) -> Bound {
    float_sum(dim).times(8.0).plus(float_sum(n_context)).plus(kv(k)).plus(kv(v))
}

/// Logits of a model of `n_layers` whose maps have at most `cols` columns, tokens given, between
/// two devices that round neither weights nor rows.
///
/// What each layer's four maps round is added up, and the head's, though most of the residual
/// stream carries past them. What is cached is rounded anew in each layer, but independently,
/// and each layer adds its share only, so that one layer's error is the whole's.
pub fn logits(n_layers: usize, cols: usize, k: KvFormat, v: KvFormat) -> Bound {
    float_sum(cols).times(4.0 * n_layers as f32 + 1.0).plus(kv(k)).plus(kv(v))
}
