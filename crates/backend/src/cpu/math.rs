//! Elementary functions without branches or calls, which compilers vectorise.

/// `e^x`, relative error below 2e-7 where the result is a normal number; 0 below −104,
/// infinite above 88.8, NaN for NaN.
///
/// `x = n·ln 2 + r` with `|r| ≤ ln 2 / 2`; `e^r` by its Taylor polynomial of
/// degree 7 (remainder under 6e-9), times 2ⁿ in two steps so that neither overflows.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // ln 2 in two parts: the first has few enough bits that n times it is exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Adding and subtracting 1.5 · 2²³ rounds to the nearest integer.
    const ROUND: f32 = 12_582_912.0;
    let clamped = x.clamp(-104.0, 89.0);
    let rounded = clamped * std::f32::consts::LOG2_E + ROUND;
    let r = (clamped - (rounded - ROUND) * LN2_HIGH) - (rounded - ROUND) * LN2_LOW;
    let mut p = 1.0 / 5040.0;
    for c in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = p * r + c;
    }
    // The lowest bits hold n. (A cast would do, but saturates, which takes vectors apart.)
    // Of NaN they hold anything, and p stays NaN.
    let n = rounded.to_bits().wrapping_sub(ROUND.to_bits()) as i32;
    let half = n >> 1;
    p * power_of_two(half) * power_of_two(n.wrapping_sub(half))
}

/// `2^n` for −126 ≤ n ≤ 127.
#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) as u32) << 23)
}

/// `tanh x = 1 − 2 / (e^{2x} + 1)`; absolute error below 3e-7.
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    1.0 - 2.0 / (exp(2.0 * x) + 1.0)
}

/// `x · sigmoid(x)`
#[inline(always)]
pub fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

/// The tanh approximation of GELU.
#[inline(always)]
pub fn gelu_tanh(x: f32) -> f32 {
    // √(2/π)
    const SCALE: f32 = 0.797_884_6;
    0.5 * x * (1.0 + tanh(SCALE * (x + 0.044_715 * x * x * x)))
}

/// `cap · tanh(x / cap)`, or `x` without a cap.
#[inline(always)]
pub fn softcap(x: f32, cap: Option<f32>) -> f32 {
    cap.map_or(x, |cap| cap * tanh(x / cap))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_ulps() {
        for i in -870_000..880_000 {
            let x = i as f32 / 10_000.0;
            let (expected, found) = (f64::from(x).exp(), f64::from(exp(x)));
            // Seven roundings of a polynomial near 1 and two of the reduction: 2e-7 is 1.7 ε.
            assert!((found / expected - 1.0).abs() < 2e-7, "exp({x}) = {found}, not {expected}");
        }
    }

    #[test]
    fn exp_has_the_right_limits() {
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert_eq!(exp(-1e9), 0.0);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn tanh_is_close_and_bounded() {
        for i in -20_000..20_000 {
            let x = i as f32 / 1000.0;
            assert!((f64::from(tanh(x)) - f64::from(x).tanh()).abs() < 3e-7, "tanh({x})");
        }
        assert_eq!((tanh(f32::INFINITY), tanh(f32::NEG_INFINITY)), (1.0, -1.0));
    }
}
