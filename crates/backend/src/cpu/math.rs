//! Elementary functions without branches or calls, which compilers vectorise.

use super::simd::Simd;

/// ln 2 in two parts: the first has few enough bits that n times it is exact.
const LN2_HIGH: f32 = 0.693_359_4;
const LN2_LOW: f32 = -2.121_944_4e-4;

/// Adding and subtracting 1.5 · 2²³ rounds to the nearest integer.
const ROUND: f32 = 12_582_912.0;

/// `e^x`, relative error below 2e-7 where the result is a normal number; 0 below −104,
/// infinite above 88.8, NaN for NaN.
///
/// `x = n·ln 2 + r` with `|r| ≤ ln 2 / 2`; `e^r` by its Taylor polynomial of
/// degree 7 (remainder under 6e-9), times 2ⁿ in two steps so that neither overflows.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
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

/// As [`exp`] of each lane, with x held within −87 and 88; of NaN it gives anything.
#[inline(always)]
pub fn exp_lanes<S: Simd>(x: S::F32) -> S::F32 {
    let x = S::min(S::max(x, S::splat(-87.0)), S::splat(88.0));
    let rounded = S::mul_add(x, S::splat(std::f32::consts::LOG2_E), S::splat(ROUND));
    let n = S::add(rounded, S::splat(-ROUND));
    let r = S::mul_add(n, S::splat(-LN2_LOW), S::mul_add(n, S::splat(-LN2_HIGH), x));
    let mut p = S::splat(1.0 / 5040.0);
    for c in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = S::mul_add(p, r, S::splat(c));
    }
    // The lowest bits of `rounded` hold n, which is added to the exponent of p.
    S::from_bits(S::add_u32(S::bits(p), S::shl::<23>(S::bits(rounded))))
}

/// `x · sigmoid(x)` of each lane.
#[inline(always)]
pub fn silu_lanes<S: Simd>(x: S::F32) -> S::F32 {
    let minus_x = S::mul(x, S::splat(-1.0));
    S::div(x, S::add(S::splat(1.0), exp_lanes::<S>(minus_x)))
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

    struct ExpLanes([f32; 16]);

    impl crate::cpu::simd::Kernel for ExpLanes {
        type Output = [f32; 16];

        fn run<S: Simd>(self) -> [f32; 16] {
            let mut out = [0.0; 16];
            S::store(exp_lanes::<S>(S::load(&self.0)), &mut out);
            out
        }
    }

    #[test]
    fn exp_of_lanes_is_as_close_on_every_instruction_set() {
        for isa in crate::Isa::available() {
            for i in (-870_000..880_000).step_by(16) {
                let x: [f32; 16] = std::array::from_fn(|j| (i + j as i32) as f32 / 10_000.0);
                let found = crate::cpu::simd::dispatch(isa, ExpLanes(x));
                for (x, found) in x.iter().zip(found) {
                    let expected = f64::from(*x).exp();
                    // As above.
                    assert!(
                        (f64::from(found) / expected - 1.0).abs() < 2e-7,
                        "exp({x}) = {found} on {isa:?}"
                    );
                }
            }
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
