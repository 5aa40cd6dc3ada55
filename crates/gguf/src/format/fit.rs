//! Finding the scales that lose least: what every quantiser shares.
//!
//! A group of values `x` is to become `d * q`, or `d * q + m`, with `q` from a
//! few levels. For given `q` the best `d` and `m` are a least-squares solution;
//! for given `d` and `m` the best `q` are the nearest levels. The searches
//! here start from several trial scales, take the nearest levels of each, solve
//! for the scale those levels want, keep the solution of least squared error
//! and alternate a few more times from there (as Lloyd's algorithm does).
//!
//! Sums run in eight lanes, so that the compiler can vectorise them in one
//! fixed order: the same values give the same block on every machine.

/// Values beyond this are beyond every format; bounding them keeps sums finite.
const LARGEST: f32 = 1e9;
/// Less than half of the smallest half float: as good as zero in every format.
const SMALLEST: f32 = 1e-8;
/// How far inside the outermost level [`scale`]'s trials put the largest value,
/// in steps between levels; below zero, outside. Found by measuring: more
/// trials gain less than 0.2 % of error.
const MARGINS: [f32; 7] = [-0.8, -0.4, 0.0, 0.4, 0.8, 1.2, 1.6];
/// The same for either end of [`affine`]'s range, all pairs.
const END_MARGINS: [f32; 4] = [-0.4, 0.0, 0.3, 0.6];
/// How often the best trial is refined, as long as that helps.
const REFINEMENTS: usize = 4;

/// The integers or table entries that elements can be.
pub trait Levels {
    /// The level of largest magnitude.
    const PEAK: f32;
    /// From zero's side to that level: the last step between levels.
    const STEP: f32;

    /// The level nearest to `x`.
    fn nearest(x: f32) -> f32;
}

/// The integers from `LOW` to `HIGH`.
pub struct Integers<const LOW: i32, const HIGH: i32>;

impl<const LOW: i32, const HIGH: i32> Levels for Integers<LOW, HIGH> {
    const PEAK: f32 = if -LOW > HIGH { LOW as f32 } else { HIGH as f32 };
    const STEP: f32 = if -LOW > HIGH { -1.0 } else { 1.0 };

    #[inline]
    fn nearest(x: f32) -> f32 {
        round(x.max(LOW as f32).min(HIGH as f32))
    }
}

/// The integer nearest to `x`, ties to even, for |x| below 2^22. Adding a number
/// whose last place is 1 leaves no room for a fraction; unlike a call of `rint`,
/// that vectorises everywhere.
#[inline]
fn round(x: f32) -> f32 {
    const ONES: f32 = (3 << 22) as f32;
    (x + ONES) - ONES
}

/// A copy of `x` whose values are safe to compute with: NaN becomes 0.
///
/// # Panics
/// When `x` is shorter than `N`.
pub fn finite<const N: usize>(x: &[f32]) -> [f32; N] {
    let mut values = [0.0; N];
    for (value, &x) in values.iter_mut().zip(&x[..N]) {
        *value = if x.is_nan() { 0.0 } else { x.clamp(-LARGEST, LARGEST) };
    }
    values
}

/// `1 / d`, or 0 where that is not finite.
#[inline]
pub fn inverse(d: f32) -> f32 {
    if d.abs() < f32::MIN_POSITIVE { 0.0 } else { 1.0 / d }
}

/// The value of largest magnitude.
pub fn peak<const N: usize>(x: &[f32; N]) -> f32 {
    x.iter().fold(0.0, |peak: f32, &x| if x.abs() > peak.abs() { x } else { peak })
}

/// Sums over the elements of `x`, a multiple of 8, of each of the `K` terms that
/// `terms` gives.
///
/// Not inlined: with the length known, the loop is unrolled before it is
/// vectorised, and then is not (half the speed).
#[inline(never)]
pub fn sums<const K: usize>(x: &[f32], terms: impl Fn(f32) -> [f32; K]) -> [f32; K] {
    const LANES: usize = 8;
    let mut lanes = [[0.0; LANES]; K];
    for x in x.as_chunks::<LANES>().0 {
        for (i, &x) in x.iter().enumerate() {
            let terms = terms(x);
            for k in 0..K {
                lanes[k][i] += terms[k];
            }
        }
    }
    lanes.map(|lane| lane.iter().sum())
}

/// The `d` that makes the squared error of `x ≈ d * level` small.
pub fn scale<L: Levels, const N: usize>(x: &[f32; N]) -> f32 {
    let peak = peak(x);
    if peak.abs() < SMALLEST {
        return 0.0;
    }
    // The best scale for the levels nearest to x * inverse, and how much of Σx²
    // it explains.
    let solve = |inverse: f32| {
        let [xq, qq] = sums(x, |x| {
            let q = L::nearest(x * inverse);
            [x * q, q * q]
        });
        if qq > 0.0 { (xq / qq, xq * xq / qq) } else { (0.0, 0.0) }
    };
    let mut best = (0.0, 0.0);
    for margin in MARGINS {
        let level = L::PEAK - margin * L::STEP;
        // On either side: the levels need not be symmetric, nor are the values.
        for level in [level, -level] {
            let fit = solve(level / peak);
            if fit.1 > best.1 {
                best = fit;
            }
        }
    }
    for _ in 0..REFINEMENTS {
        let refined = solve(inverse(best.0));
        if refined.1 <= best.1 {
            break;
        }
        best = refined;
    }
    best.0
}

/// A group's scale and offset: `x ≈ d * q + m`, `q` from 0 to some `HIGH`.
#[derive(Clone, Copy)]
pub struct Affine {
    /// Scale.
    pub d: f32,
    /// Offset.
    pub m: f32,
}

/// The [`Affine`] that makes the squared error small, its offset at most `ceiling`.
pub fn affine<const HIGH: i32, const N: usize>(x: &[f32; N], ceiling: f32) -> Affine {
    let low = x.iter().fold(ceiling, |low, &x| low.min(x));
    let range = x.iter().fold(low, |high, &x| high.max(x)) - low;
    if range < SMALLEST {
        return Affine { d: 0.0, m: low };
    }
    // Sums of what stands above `low` lose no digits to a large common offset.
    let above = x.map(|x| x - low);
    let [total] = sums(&above, |x| [x]);
    let (n, ceiling) = (N as f32, ceiling - low);
    // The best fit for the levels nearest to x * inverse + shift, and its
    // squared error less Σx².
    let solve = |inverse: f32, shift: f32| {
        let [xq, qq, q] = sums(&above, |x| {
            let q = Integers::<0, HIGH>::nearest(x * inverse + shift);
            [x * q, q * q, q]
        });
        let determinant = n * qq - q * q;
        let m = if determinant > 0.0 { (qq * total - q * xq) / determinant } else { total / n };
        let m = m.min(ceiling);
        let d = if qq > 0.0 { (xq - m * q) / qq } else { 0.0 };
        (Affine { d, m }, d * (d * qq + 2.0 * (m * q - xq)) + m * (n * m - 2.0 * total))
    };
    let mut best = (Affine { d: 0.0, m: 0.0 }, f32::INFINITY);
    for bottom in END_MARGINS {
        for top in END_MARGINS {
            let fit = solve((HIGH as f32 - bottom - top) / range, bottom);
            if fit.1 < best.1 {
                best = fit;
            }
        }
    }
    for _ in 0..REFINEMENTS {
        let inverse = inverse(best.0.d);
        let refined = solve(inverse, -best.0.m * inverse);
        if refined.1 >= best.1 {
            break;
        }
        best = refined;
    }
    Affine { d: best.0.d, m: low + best.0.m }
}
