//! One row's queries of a key/value head over one split of the context.
//!
//! A key is multiplied with all queries as it is widened, dimensions in lanes; a
//! value is added to all sums as it is widened. Between both stands the
//! softmax of the whole split.
#![allow(clippy::needless_range_loop, reason = "several arrays of registers are walked at once")]

use std::marker::PhantomData;
use std::ops::Range;

use super::PagedAttention;
use super::cpu::{Place, share};
use crate::KvFormat;
use crate::cpu::Isa;
use crate::cpu::math::exp;
use crate::cpu::simd::{Kernel, LANES, Simd, dispatch};
use crate::cpu::stored::{Bf16, F16, F32, Fp8, Q8_0, Stored};

/// Positions of a split.
pub(super) const SPLIT: usize = 256;

/// Most query heads that share a widened key or value.
const TOGETHER: usize = 4;

/// Keys that share a loaded query.
const KEYS: usize = 4;

/// Sixteens of a value's dimensions that are summed together.
const PANELS: usize = 4;

/// What comes of a split, of each head.
pub(super) struct Partial<'a> {
    /// Values weighted by `e^(score - maximum)`: `[heads, v_panels]`.
    pub sums: &'a mut [[f32; LANES]],
    /// The maximum, and the total of the weights.
    pub totals: &'a mut [[f32; 2]],
}

/// Computes a split.
pub(super) struct Attend<'a> {
    pub op: &'a PagedAttention,
    pub place: Place<'a>,
    /// Query heads of the key/value head.
    pub heads: usize,
    /// What the row sees of the split; not empty.
    pub positions: Range<usize>,
    /// The row's queries, of all heads.
    pub q: &'a [f32],
    /// Room for the queries of this key/value head.
    pub queries: &'a mut [[f32; LANES]],
    pub out: Partial<'a>,
}

impl Attend<'_> {
    /// Computes the split. Scores and values are kernels of their own for each
    /// format: in one they would take compilers minutes.
    pub fn run(mut self, isa: Isa) {
        self.load_queries();
        let config = &self.place.layer.config;
        let (k_format, v_format) = (config.k_format, config.v_format);
        for first in (0..self.heads).step_by(TOGETHER) {
            let mut scores = [[0.0; SPLIT]; TOGETHER];
            let (attend, scores) = (&mut self, &mut scores);
            match k_format {
                KvFormat::F32 => dispatch(isa, Scores::<F32>::new(attend, first, scores)),
                KvFormat::F16 => dispatch(isa, Scores::<F16>::new(attend, first, scores)),
                KvFormat::BF16 => dispatch(isa, Scores::<Bf16>::new(attend, first, scores)),
                KvFormat::Q8_0 => dispatch(isa, Scores::<Q8_0>::new(attend, first, scores)),
                KvFormat::Fp8 => dispatch(isa, Scores::<Fp8>::new(attend, first, scores)),
            }
            match v_format {
                KvFormat::F32 => dispatch(isa, Values::<F32>::new(attend, first, scores)),
                KvFormat::F16 => dispatch(isa, Values::<F16>::new(attend, first, scores)),
                KvFormat::BF16 => dispatch(isa, Values::<Bf16>::new(attend, first, scores)),
                KvFormat::Q8_0 => dispatch(isa, Values::<Q8_0>::new(attend, first, scores)),
                KvFormat::Fp8 => dispatch(isa, Values::<Fp8>::new(attend, first, scores)),
            }
        }
    }

    fn load_queries(&mut self) {
        let k_dim = self.place.layer.config.k_dim;
        let q = &self.q[self.place.kv_head * self.heads * k_dim..][..self.heads * k_dim];
        let queries = self.queries.chunks_exact_mut(k_dim.div_ceil(LANES));
        for (out, q) in queries.zip(q.chunks_exact(k_dim)) {
            let (out, padding) = out.as_flattened_mut().split_at_mut(k_dim);
            out.iter_mut().zip(q).for_each(|(out, x)| *out = x * self.op.scale);
            padding.fill(0.0);
        }
    }

    /// The products of all keys with the queries.
    #[inline(always)]
    fn scores<S: Simd, K: Stored, const T: usize>(&self, first: usize, scores: &mut [[f32; SPLIT]]) {
        let config = &self.place.layer.config;
        let (stored, size) = (self.place.layer.k.as_slice(), config.k_format.bytes(config.k_dim));
        let panels = config.k_dim.div_ceil(LANES);
        let queries: [&[[f32; LANES]]; T] =
            std::array::from_fn(|t| &self.queries[(first + t) * panels..][..panels]);
        let mut at = 0;
        for run in self.place.runs(self.positions.clone()) {
            self.place.prefetch(self.positions.start + at + run.len(), run.len(), stored, size);
            let keys = &stored[run.start * size..run.end * size];
            let fours = keys.chunks_exact(KEYS * size);
            let rest = fours.remainder();
            for keys in fours {
                let products = products::<S, K, T, KEYS>(keys, config.k_dim, queries);
                for (key, products) in products.iter().enumerate() {
                    for t in 0..T {
                        scores[t][at + key] = products[t];
                    }
                }
                at += KEYS;
            }
            for key in rest.chunks_exact(size) {
                let [products] = products::<S, K, T, 1>(key, config.k_dim, queries);
                for t in 0..T {
                    scores[t][at] = products[t];
                }
                at += 1;
            }
        }
    }

    /// The sums of all values times their shares.
    #[inline(always)]
    fn values<S: Simd, V: Stored, const T: usize>(&mut self, first: usize, shares: &[[f32; SPLIT]]) {
        let panels = self.place.layer.config.v_dim.div_ceil(LANES);
        let whole = self.place.layer.config.v_dim / LANES;
        let mut panel = 0;
        while panel + PANELS <= whole {
            self.panels::<S, V, T, PANELS>(first, panel, shares);
            panel += PANELS;
        }
        while panel < panels {
            self.panels::<S, V, T, 1>(first, panel, shares);
            panel += 1;
        }
    }

    /// `P` panels of the sums from `panel` on.
    #[inline(always)]
    fn panels<S: Simd, V: Stored, const T: usize, const P: usize>(
        &mut self,
        first: usize,
        panel: usize,
        shares: &[[f32; SPLIT]],
    ) {
        let config = &self.place.layer.config;
        let (stored, size) = (self.place.layer.v.as_slice(), config.v_format.bytes(config.v_dim));
        let whole = config.v_dim / LANES;
        let mut sums = [[S::splat(0.0); P]; T];
        let mut at = 0;
        for run in self.place.runs(self.positions.clone()) {
            self.place.prefetch(self.positions.start + at + run.len(), run.len(), stored, size);
            for value in stored[run.start * size..run.end * size].chunks_exact(size) {
                let value = V::vector(value, config.v_dim);
                let mut x = [S::splat(0.0); P];
                if panel + P <= whole {
                    for p in 0..P {
                        x[p] = V::load::<S>(value, panel + p);
                    }
                } else {
                    x[0] = V::load_rest::<S>(value);
                }
                for t in 0..T {
                    let share = S::splat(shares[t][at]);
                    for p in 0..P {
                        sums[t][p] = S::mul_add(x[p], share, sums[t][p]);
                    }
                }
                at += 1;
            }
        }
        let panels = config.v_dim.div_ceil(LANES);
        for t in 0..T {
            let out = &mut self.out.sums[(first + t) * panels + panel..][..P];
            for (sum, out) in sums[t].into_iter().zip(out) {
                S::store(sum, out);
            }
        }
    }
}

/// Scores and shares of up to [`TOGETHER`] heads from `first` on, with keys as `K` stores them.
struct Scores<'a, 'p, K> {
    attend: &'p mut Attend<'a>,
    first: usize,
    scores: &'p mut [[f32; SPLIT]; TOGETHER],
    format: PhantomData<K>,
}

impl<'a, 'p, K> Scores<'a, 'p, K> {
    fn new(attend: &'p mut Attend<'a>, first: usize, scores: &'p mut [[f32; SPLIT]; TOGETHER]) -> Self {
        Self { attend, first, scores, format: PhantomData }
    }
}

impl<K: Stored> Kernel for Scores<'_, '_, K> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Self { attend, first, scores, .. } = self;
        let n_heads = TOGETHER.min(attend.heads - first);
        match n_heads {
            1 => attend.scores::<S, K, 1>(first, scores),
            2 => attend.scores::<S, K, 2>(first, scores),
            3 => attend.scores::<S, K, 3>(first, scores),
            _ => attend.scores::<S, K, TOGETHER>(first, scores),
        }
        let n = attend.positions.len();
        for (scores, total) in scores.iter_mut().zip(&mut attend.out.totals[first..]).take(n_heads) {
            *total = [f32::NEG_INFINITY, 0.0];
            share::<S>(&mut scores[..n.next_multiple_of(LANES)], 0..n, attend.op.softcap, total);
        }
    }
}

/// The sums of those heads, with values as `V` stores them.
struct Values<'a, 'p, V> {
    attend: &'p mut Attend<'a>,
    first: usize,
    shares: &'p [[f32; SPLIT]; TOGETHER],
    format: PhantomData<V>,
}

impl<'a, 'p, V> Values<'a, 'p, V> {
    fn new(attend: &'p mut Attend<'a>, first: usize, shares: &'p [[f32; SPLIT]; TOGETHER]) -> Self {
        Self { attend, first, shares, format: PhantomData }
    }
}

impl<V: Stored> Kernel for Values<'_, '_, V> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Self { attend, first, shares, .. } = self;
        match TOGETHER.min(attend.heads - first) {
            1 => attend.values::<S, V, 1>(first, shares),
            2 => attend.values::<S, V, 2>(first, shares),
            3 => attend.values::<S, V, 3>(first, shares),
            _ => attend.values::<S, V, TOGETHER>(first, shares),
        }
    }
}

/// The products of `N` keys of `dim` elements with `T` queries.
#[inline(always)]
fn products<S: Simd, K: Stored, const T: usize, const N: usize>(
    keys: &[u8],
    dim: usize,
    queries: [&[[f32; LANES]]; T],
) -> [[f32; T]; N] {
    let size = keys.len() / N;
    let keys: [K::Vector<'_>; N] = std::array::from_fn(|key| K::vector(&keys[key * size..][..size], dim));
    let whole = dim / LANES;
    let mut sums = [[S::splat(0.0); T]; N];
    for panel in 0..whole {
        let mut q = [S::splat(0.0); T];
        for t in 0..T {
            q[t] = S::load(&queries[t][panel]);
        }
        for key in 0..N {
            let x = K::load::<S>(keys[key], panel);
            for t in 0..T {
                sums[key][t] = S::mul_add(x, q[t], sums[key][t]);
            }
        }
    }
    if !dim.is_multiple_of(LANES) {
        for key in 0..N {
            let x = K::load_rest::<S>(keys[key]);
            for t in 0..T {
                sums[key][t] = S::mul_add(x, S::load(&queries[t][whole]), sums[key][t]);
            }
        }
    }
    let mut products = [[0.0; T]; N];
    for key in 0..N {
        for t in 0..T {
            products[key][t] = S::sum(sums[key][t]);
        }
    }
    products
}

/// Adds what came of a later split.
pub(super) struct Fold<'a> {
    pub into: Partial<'a>,
    pub from: Partial<'a>,
}

impl Kernel for Fold<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Self { into, from } = self;
        let panels = into.sums.len() / into.totals.len();
        let sums = into.sums.chunks_exact_mut(panels).zip(from.sums.chunks_exact(panels));
        let totals = into.totals.iter_mut().zip(from.totals.iter());
        for ((sums, more), ([max, total], &[max_of_more, more_total])) in sums.zip(totals) {
            let new_max = max.max(max_of_more);
            let shrink = |max: f32| if max == new_max { 1.0 } else { exp(max - new_max) };
            let (a, b) = (shrink(*max), shrink(max_of_more));
            *max = new_max;
            *total = *total * a + more_total * b;
            for (sum, more) in sums.iter_mut().zip(more) {
                let more = S::mul(S::load(more), S::splat(b));
                S::store(S::mul_add(S::load(sum), S::splat(a), more), sum);
            }
        }
    }
}

/// Divides by the totals and writes the results, `[heads, v_dim]`.
pub(super) struct Finish<'a> {
    pub from: Partial<'a>,
    pub v_dim: usize,
    pub out: &'a mut [f32],
}

impl Kernel for Finish<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let sums = self.from.sums.chunks_exact(self.v_dim.div_ceil(LANES));
        let heads = self.out.chunks_exact_mut(self.v_dim).zip(sums).zip(self.from.totals.iter());
        for ((out, sums), [_, total]) in heads {
            let inverse = 1.0 / total;
            for (out, sum) in out.iter_mut().zip(sums.as_flattened()) {
                *out = sum * inverse;
            }
        }
    }
}
