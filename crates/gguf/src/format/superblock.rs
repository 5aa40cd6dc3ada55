//! Fitting the K formats: 256 values in groups, whose scales (and minima) are
//! small integers under one half float.
//!
//! First each group's own best fit, then the half float that can express all
//! of them, then each group's integers, tried against their neighbours by the
//! error they really leave, and last the half floats again by least squares
//! over everything else.

use super::block::Half;
use super::fit::{self, Affine, Integers, Levels};

/// Values a super-block.
const LEN: usize = 256;

/// The super-block's `G` groups of `N`.
fn groups<const N: usize, const G: usize>(x: &[f32; LEN]) -> &[[f32; N]; G] {
    const { assert!(N * G == LEN) };
    x.as_chunks().0.try_into().expect("N * G is LEN")
}

/// `x ≈ d * s[g] * q`.
pub struct Scaled<const G: usize> {
    /// Scale of the scales.
    pub d: Half,
    /// A group's scale.
    pub s: [i8; G],
    /// The elements.
    pub q: [i8; LEN],
}

/// Fits `G` groups of `N`: elements from the levels `L`, group scales from `S`.
pub fn scaled<L: Levels, S: Levels, const N: usize, const G: usize>(x: &[f32; LEN]) -> Scaled<G> {
    let groups: &[[f32; N]; G] = groups(x);
    let wanted = groups.map(|x| fit::scale::<L, N>(&x));
    let mut d = Half::saturating(fit::peak(&wanted) / S::PEAK);
    let s = std::array::from_fn(|g| group_scale::<L, S, N>(&groups[g], wanted[g], d.to_f32()));
    if let Some(better) = solve_scaled::<L, N, G>(groups, d.to_f32(), &s) {
        d = Half::saturating(better);
    }
    let inverse = s.map(|s| fit::inverse(d.to_f32() * s));
    let q = std::array::from_fn(|i| L::nearest(x[i] * inverse[i / N]) as i8);
    Scaled { d, s: s.map(|s| s as i8), q }
}

/// The integer near `wanted / d` that serves one group best.
fn group_scale<L: Levels, S: Levels, const N: usize>(x: &[f32; N], wanted: f32, d: f32) -> f32 {
    let middle = wanted * fit::inverse(d);
    let (mut best, mut least) = (0.0, f32::INFINITY);
    for step in [0.0, -1.0, 1.0] {
        let s = S::nearest(middle + step);
        let (scale, inverse) = (d * s, fit::inverse(d * s));
        let [error] = fit::sums(x, |x| {
            let left = x - scale * L::nearest(x * inverse);
            [left * left]
        });
        if error < least {
            (best, least) = (s, error);
        }
    }
    best
}

/// The `d` of least squared error for the levels that `d` and `s` lead to.
fn solve_scaled<L: Levels, const N: usize, const G: usize>(
    groups: &[[f32; N]; G],
    d: f32,
    s: &[f32; G],
) -> Option<f32> {
    // x ≈ d * u, with u = s * q.
    let (mut xu, mut uu) = (0.0, 0.0);
    for (x, s) in groups.iter().zip(s) {
        let inverse = fit::inverse(d * s);
        let [xq, qq] = fit::sums(x, |x| {
            let q = L::nearest(x * inverse);
            [x * q, q * q]
        });
        xu += s * xq;
        uu += s * s * qq;
    }
    (uu > 0.0).then(|| xu / uu)
}

/// `x ≈ d * s[g] * q - dmin * m[g]`.
pub struct Offset<const G: usize> {
    /// Scale of the scales.
    pub d: Half,
    /// Scale of the minima.
    pub dmin: Half,
    /// A group's scale.
    pub s: [u8; G],
    /// A group's minimum.
    pub m: [u8; G],
    /// The elements.
    pub q: [u8; LEN],
}

/// Fits `G` groups of `N`: elements from 0 to `HIGH`, scales and minima from 0 to `TOP`.
pub fn offset<const HIGH: i32, const TOP: i32, const N: usize, const G: usize>(x: &[f32; LEN]) -> Offset<G> {
    let groups: &[[f32; N]; G] = groups(x);
    let wanted = groups.map(|x| fit::affine::<HIGH, N>(&x, 0.0));
    let most = |of: fn(&Affine) -> f32| wanted.iter().map(of).fold(0.0, f32::max);
    let mut d = Half::saturating(most(|fit| fit.d) / TOP as f32);
    let mut dmin = Half::saturating(most(|fit| -fit.m) / TOP as f32);
    let (mut s, mut m) = ([0.0; G], [0.0; G]);
    for g in 0..G {
        (s[g], m[g]) = group_pair::<HIGH, TOP, N>(&groups[g], wanted[g], d.to_f32(), dmin.to_f32());
    }
    if let Some(better) = solve_offset::<HIGH, N, G>(groups, d.to_f32(), dmin.to_f32(), &s, &m) {
        (d, dmin) = (Half::saturating(better.0), Half::saturating(better.1));
    }
    let inverse = s.map(|s| fit::inverse(d.to_f32() * s));
    let minimum = m.map(|m| dmin.to_f32() * m);
    let q =
        std::array::from_fn(|i| Integers::<0, HIGH>::nearest((x[i] + minimum[i / N]) * inverse[i / N]) as u8);
    Offset { d, dmin, s: s.map(|s| s as u8), m: m.map(|m| m as u8), q }
}

/// The scale and minimum near `wanted` that serve one group best.
fn group_pair<const HIGH: i32, const TOP: i32, const N: usize>(
    x: &[f32; N],
    wanted: Affine,
    d: f32,
    dmin: f32,
) -> (f32, f32) {
    let middle = (wanted.d * fit::inverse(d), -wanted.m * fit::inverse(dmin));
    let (mut best, mut least) = ((0.0, 0.0), f32::INFINITY);
    for s_step in [0.0, -1.0, 1.0] {
        for m_step in [0.0, -1.0, 1.0] {
            let s = Integers::<0, TOP>::nearest(middle.0 + s_step);
            let m = Integers::<0, TOP>::nearest(middle.1 + m_step);
            let (scale, inverse, minimum) = (d * s, fit::inverse(d * s), dmin * m);
            let [error] = fit::sums(x, |x| {
                let left = x + minimum - scale * Integers::<0, HIGH>::nearest((x + minimum) * inverse);
                [left * left]
            });
            if error < least {
                (best, least) = ((s, m), error);
            }
        }
    }
    best
}

/// The `d` and `dmin` of least squared error for the levels that `d`, `dmin`,
/// `s` and `m` lead to; none where those do not determine both.
fn solve_offset<const HIGH: i32, const N: usize, const G: usize>(
    groups: &[[f32; N]; G],
    d: f32,
    dmin: f32,
    s: &[f32; G],
    m: &[f32; G],
) -> Option<(f32, f32)> {
    // x ≈ d * u - dmin * v, with u = s * q and v = m.
    let (mut xu, mut uu, mut uv, mut xv, mut vv) = (0.0, 0.0, 0.0, 0.0, 0.0);
    for ((x, s), m) in groups.iter().zip(s).zip(m) {
        let inverse = fit::inverse(d * s);
        let [xq, qq, q_sum, x_sum] = fit::sums(x, |x| {
            let q = Integers::<0, HIGH>::nearest((x + dmin * m) * inverse);
            [x * q, q * q, q, x]
        });
        xu += s * xq;
        uu += s * s * qq;
        uv += s * m * q_sum;
        xv += m * x_sum;
        vv += m * m * N as f32;
    }
    let determinant = uu * vv - uv * uv;
    // Nearly dependent sums would amplify the rounding in f32.
    (determinant > 1e-4 * uu * vv)
        .then(|| ((xu * vv - xv * uv) / determinant, (xu * uv - xv * uu) / determinant))
}
