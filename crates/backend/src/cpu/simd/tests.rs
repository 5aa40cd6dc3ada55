//! Every instruction set against plain Rust and plain sums, to the bit.

use super::{Bias, Kernel, LANES, Rows, Simd, Words, dispatch};
use crate::Isa;
use crate::harness::Random;

/// Operations that round once at most, and so in one way; `sum` adds in one order.
struct Operations<'a> {
    floats: &'a [[f32; LANES]; 2],
    words: &'a [Words; 2],
    bytes: &'a [u8; 1024],
}

impl Kernel for Operations<'_> {
    type Output = Vec<(&'static str, Words)>;

    #[inline(always)]
    fn run<S: Simd>(self) -> Self::Output {
        let (a, b) = (S::load(&self.floats[0]), S::load(&self.floats[1]));
        let (u, v) = (S::load_u32(&self.words[0]), S::load_u32(&self.words[1]));
        let mut results = vec![];
        let mut put = |name, x: S::U32| {
            let mut out = [0; LANES];
            S::store_u32(x, &mut out);
            results.push((name, out));
        };
        put("add", S::bits(S::add(a, b)));
        put("mul", S::bits(S::mul(a, b)));
        put("div", S::bits(S::div(a, b)));
        put("max", S::bits(S::max(a, b)));
        put("min", S::bits(S::min(a, b)));
        put("sum", S::bits(S::splat(S::sum(a))));
        put("largest", S::bits(S::splat(S::largest(a))));
        put("and", S::and(u, v));
        put("or", S::or(u, v));
        put("xor", S::xor(u, v));
        put("add_u32", S::add_u32(u, v));
        put("mul_u32", S::mul_u32(u, v));
        put("shl", S::shl::<3>(u));
        put("shr", S::shr::<5>(u));
        put("sar", S::sar::<24>(u));
        put("from_i32", S::bits(S::from_i32(u)));
        put("from_f16", S::bits(S::from_f16(u)));
        put("pair_bf16", S::pair_bf16(a, b));
        let (halves, _) = self.bytes.as_chunks::<{ 2 * LANES }>();
        put("load_f16", S::bits(S::load_f16(&halves[1])));
        put("load_bf16", S::bits(S::load_bf16(&halves[2])));
        let mut f16 = [0; 2 * LANES];
        S::store_f16(a, &mut f16);
        put("store_f16", S::bits(S::load_f16(&f16)));
        put("low_bytes", S::load_u32(&S::low_bytes(u).map(u32::from)));
        let rows = Rows::new(self.bytes.as_ptr(), 37);
        // SAFETY: row 15 starts at 555, and 3 + 16 bytes further on the array goes on.
        let columns = unsafe {
            put("words", S::words(&rows, 1));
            S::columns(&rows, 3)
        };
        for column in columns {
            put("columns", column);
        }
        results
    }
}

/// A value of any magnitude that halves have, now and then zero, infinite or half way
/// between two bf16.
fn float(random: &mut Random) -> f32 {
    match random.below(16) {
        0 => 0.0,
        1 => f32::INFINITY,
        2 => f32::from_bits(0x3f80_8000 + ((random.below(64) as u32) << 16)),
        _ => random.uniform() * 2.0_f32.powi(random.below(44) as i32 - 26),
    }
}

/// NaN differ in their payloads.
fn without_payload(bits: Words) -> Words {
    bits.map(|x| if f32::from_bits(x).is_nan() { f32::NAN.to_bits() } else { x })
}

#[test]
fn operations_are_those_of_plain_rust() {
    let mut random = Random::new(5);
    for round in 0..200 {
        let floats = [(); 2].map(|()| std::array::from_fn(|_| float(&mut random)));
        let words = [(); 2].map(|()| std::array::from_fn(|_| random.bits() as u32));
        let bytes = std::array::from_fn(|_| random.bits() as u8);
        let on = |isa| dispatch(isa, Operations { floats: &floats, words: &words, bytes: &bytes });
        let expected = on(Isa::Scalar);
        for isa in Isa::available() {
            for ((name, found), (_, expected)) in on(isa).into_iter().zip(&expected) {
                let (found, expected) = (without_payload(found), without_payload(*expected));
                assert_eq!(found, expected, "{name} on {isa:?}, round {round}");
            }
        }
    }
}

/// NaN is never the larger, the smaller or the largest if it comes first; bf16 keep it.
struct OfNan;

impl Kernel for OfNan {
    type Output = [f32; 4];

    #[inline(always)]
    fn run<S: Simd>(self) -> [f32; 4] {
        let (nan, one) = (S::splat(f32::NAN), S::splat(1.0));
        let mut some = [2.0; LANES];
        some[3] = f32::NAN;
        let bf16 = S::from_bits(S::pair_bf16(one, nan));
        [
            S::sum(S::max(nan, one)),
            S::sum(S::min(nan, one)),
            S::sum(S::max(S::load(&some), one)),
            S::sum(bf16),
        ]
    }
}

#[test]
fn nan_is_left_aside_or_kept() {
    for isa in Isa::available() {
        let [larger, smaller, mixed, bf16] = dispatch(isa, OfNan);
        assert_eq!((larger, smaller, mixed), (16.0, 16.0, 31.0), "{isa:?}");
        assert!(bf16.is_nan(), "{isa:?}");
    }
}

/// Dot products of `STEPS` words of sixteen lanes with `T` rows, as a panel's and
/// as they are unpacked.
struct Dots<'a, const STEPS: usize, const T: usize> {
    w: &'a [Words; STEPS],
    x: &'a [u32],
    sums: &'a [u32; T],
    bias: Bias,
}

impl<const STEPS: usize, const T: usize> Kernel for Dots<'_, STEPS, T> {
    type Output = [[[f32; LANES]; T]; 2];

    #[inline(always)]
    fn run<S: Simd>(self) -> Self::Output {
        let Self { w, x, sums, bias } = self;
        let is_biased = bias.shift > 0;
        let dots = if is_biased {
            S::dots::<STEPS, T, true>(w, x, sums, bias)
        } else {
            S::dots::<STEPS, T, false>(w, x, sums, bias)
        };
        let mut out = [[[0.0; LANES]; T]; 2];
        for t in 0..T {
            S::store(dots[t], &mut out[0][t]);
            let mut sum = if is_biased { S::start(sums[t], bias) } else { S::splat_u32(0) };
            for (i, w) in w.as_chunks::<4>().0.iter().enumerate() {
                let x = [0, 1, 2, 3].map(|j| x[(4 * i + j) * T + t]);
                let w = [S::load_u32(&w[0]), S::load_u32(&w[1]), S::load_u32(&w[2]), S::load_u32(&w[3])];
                sum = S::add_dots(sum, w, &x, bias);
            }
            S::store(S::from_i32(sum), &mut out[1][t]);
        }
        out
    }
}

/// The same by plain sums.
fn expected_dots<const STEPS: usize, const T: usize>(
    w: &[Words; STEPS],
    x: &[[i8; 4]],
    bias: Bias,
) -> [[f32; LANES]; T] {
    let offset = if bias.shift > 0 { 1 << bias.shift } else { 0 };
    let mut dots = [[0.0; LANES]; T];
    for (t, dots) in dots.iter_mut().enumerate() {
        for (lane, dot) in dots.iter_mut().enumerate() {
            let mut sum = 0;
            for step in 0..STEPS {
                for (w, x) in w[step][lane].to_le_bytes().into_iter().zip(x[step * T + t]) {
                    sum += (i32::from(w) - offset) * i32::from(x);
                }
            }
            *dot = sum as f32;
        }
    }
    dots
}

/// Compares dot products of bytes up to `bias.largest`; every other time of the
/// largest alone, with which narrow sums overflow first.
fn check_dots<const STEPS: usize, const T: usize>(random: &mut Random, bias: Bias) {
    for round in 0..20 {
        let mut below = |n: usize| if round % 2 == 0 { random.below(n) } else { random.below(2) * (n - 1) };
        let mut bytes = |n: usize| [below(n), below(n), below(n), below(n)];
        let mut word = || u32::from_le_bytes(bytes(usize::from(bias.largest) + 1).map(|w| w as u8));
        let w: [Words; STEPS] = [(); STEPS].map(|()| [(); LANES].map(|()| word()));
        let x: Vec<[i8; 4]> = (0..STEPS * T).map(|_| bytes(255).map(|x| (x as i32 - 127) as i8)).collect();
        let mut sums = [0; T];
        for (i, x) in x.iter().enumerate() {
            let sum: i32 = x.iter().copied().map(i32::from).sum();
            sums[i % T] = u32::wrapping_sub(sums[i % T], sum as u32);
        }
        let words: Vec<u32> = x.iter().map(|x| u32::from_le_bytes(x.map(|x| x as u8))).collect();
        let expected = expected_dots(&w, &x, bias);
        for isa in Isa::available() {
            let [panel, unpacked] = dispatch(isa, Dots { w: &w, x: &words, sums: &sums, bias });
            assert_eq!(panel, expected, "{bias:?}, {STEPS} steps of {T} rows on {isa:?}");
            assert_eq!(unpacked, expected, "{bias:?}, {STEPS} steps of {T} rows, unpacked, on {isa:?}");
        }
    }
}

#[test]
fn dot_products_are_exact() {
    let mut random = Random::new(6);
    let signed = [(1, 2), (2, 7), (3, 15), (4, 28), (4, 31), (5, 63), (7, 241), (7, 255)];
    let unsigned = [(0, 3), (0, 15), (0, 31), (0, 63)];
    for (shift, largest) in signed.into_iter().chain(unsigned) {
        let bias = Bias { shift, largest };
        check_dots::<4, 1>(&mut random, bias);
        check_dots::<8, 1>(&mut random, bias);
        check_dots::<4, 3>(&mut random, bias);
        check_dots::<8, 4>(&mut random, bias);
        check_dots::<8, 7>(&mut random, bias);
        check_dots::<4, 8>(&mut random, bias);
        check_dots::<8, 8>(&mut random, bias);
    }
}
