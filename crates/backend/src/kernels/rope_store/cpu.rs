//! `rope_store` on the CPU: sines once a step, then heads in parallel.

use super::{RopePairs, RopeStore};
use crate::CacheLayerConfig;
use crate::KvFormat;
use crate::cpu::activations::normalise;
use crate::cpu::run::{Matrix, Run, Sizes};
use crate::cpu::shared::{Bump, Shared};
use crate::cpu::simd::{Kernel, LANES, Simd, dispatch};
use crate::host::HostLayer;
use crate::kernels::rms_norm::Norm;

/// Rows that one thread does by itself: it is done before another would have woken.
const FEW: usize = 4;

impl RopeStore {
    /// Needs no scratch: the angles are the step's.
    pub(crate) fn cpu_scratch(&self, _: &Sizes<'_>, _: &mut Bump<'_>) {}

    pub(crate) fn cpu(&self, run: &mut Run<'_>, _: &mut Bump<'_>) {
        if let Some(rope) = &self.rope {
            run.angles.fill(&rope.inv_freq, rope.magnitude, &run.inputs.positions);
        }
        let (q, k, v, isa) = (run.matrix(self.q), run.matrix(self.k), run.matrix(self.v), run.isa);
        let vectors = run.vectors;
        let norm = |norm: Norm| {
            let weight = vectors[norm.weight.0 as usize].as_deref();
            (weight.expect("a checked step names F32 rows as vectors"), norm.eps)
        };
        let norms = self.qk_norm.map(|norms| [norm(norms.q), norm(norms.k)]);
        let angles =
            self.rope.as_ref().map(|rope| (rope.pairs, run.angles.of(&rope.inv_freq, rope.magnitude)));
        let store = Store::new(&mut run.layers[self.cache.0 as usize]);
        let slots = &*run.inputs.groups[store.config.group].slots;
        let n = self.n_heads + store.config.n_kv_heads;
        // A head's task takes all rows in order, so that even two rows with one
        // slot are written one after the other.
        run.pool.for_each_range(n, if slots.len() <= FEW { n } else { 1 }, |_, heads| {
            for head in heads {
                let (x, head, v, norm) = match head.checked_sub(self.n_heads) {
                    None => (q, head, None, norms.map(|[q, _]| q)),
                    Some(head) => (k, head, Some(v), norms.map(|[_, k]| k)),
                };
                dispatch(isa, Head { x, head, v, norm, angles, slots, store: &store });
            }
        });
    }
}

/// All rows of a head of q, or of k with its values.
struct Head<'a, 's> {
    x: Matrix<'a>,
    head: usize,
    v: Option<Matrix<'a>>,
    norm: Option<(&'a [f32], f32)>,
    /// Each row's cosines, then its sines.
    angles: Option<(RopePairs, &'s [f32])>,
    slots: &'s [u32],
    store: &'s Store<'a>,
}

impl Kernel for Head<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let CacheLayerConfig { k_dim, v_dim, .. } = *self.store.config;
        for (row, &slot) in self.slots.iter().enumerate() {
            // SAFETY: only this task has this head.
            let x = unsafe { self.x.part(row, self.head * k_dim, k_dim) };
            if let Some((weight, eps)) = self.norm {
                normalise::<S>(x, weight, eps);
            }
            if let Some((pairs, angles)) = self.angles {
                let n = angles.len() / self.slots.len();
                let (cos, sin) = angles[row * n..(row + 1) * n].split_at(n / 2);
                turn(pairs, x, cos, sin);
            }
            if let Some(v) = self.v {
                // SAFETY: nobody writes `v`.
                let v = unsafe { v.row(row) };
                self.store.write::<S>(slot as usize, self.head, x, &v[self.head * v_dim..][..v_dim]);
            }
        }
    }
}

/// Turns each pair by its angle.
#[inline(always)]
fn turn(pairs: RopePairs, x: &mut [f32], cos: &[f32], sin: &[f32]) {
    match pairs {
        RopePairs::Adjacent => {
            for ([a, b], (cos, sin)) in x.as_chunks_mut::<2>().0.iter_mut().zip(cos.iter().zip(sin)) {
                (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
            }
        }
        RopePairs::Halves => {
            let (a, b) = x.split_at_mut(cos.len());
            for ((a, b), (cos, sin)) in a.iter_mut().zip(b).zip(cos.iter().zip(sin)) {
                (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
            }
        }
    }
}

/// A layer's cache, to be written by several threads.
struct Store<'a> {
    config: &'a CacheLayerConfig,
    page_size: usize,
    k: Shared<'a, u8>,
    v: Shared<'a, u8>,
}

impl<'a> Store<'a> {
    fn new(layer: &'a mut HostLayer) -> Self {
        let HostLayer { config, page_size, k, v, .. } = layer;
        Self {
            config,
            page_size: *page_size,
            k: Shared::new(k.as_mut_slice()),
            v: Shared::new(v.as_mut_slice()),
        }
    }

    #[inline(always)]
    fn write<S: Simd>(&self, slot: usize, kv_head: usize, key: &[f32], value: &[f32]) {
        let (page, offset) = (slot / self.page_size, slot % self.page_size);
        let at = (page * self.config.n_kv_heads + kv_head) * self.page_size + offset;
        let bytes = self.config.k_format.bytes(key.len());
        // SAFETY: only the task of this head writes its vectors.
        encode::<S>(self.config.k_format, key, unsafe { self.k.write(at * bytes, bytes) });
        let bytes = self.config.v_format.bytes(value.len());
        // SAFETY: as above.
        encode::<S>(self.config.v_format, value, unsafe { self.v.write(at * bytes, bytes) });
    }
}

/// As [`KvFormat::encode`].
#[inline(always)]
fn encode<S: Simd>(format: KvFormat, values: &[f32], out: &mut [u8]) {
    let whole = values.len() / LANES * LANES;
    if format != KvFormat::F16 || whole == 0 {
        return format.encode(values, out);
    }
    let (halves, rest) = out.split_at_mut(2 * whole);
    for (x, out) in values.as_chunks::<LANES>().0.iter().zip(halves.as_chunks_mut().0) {
        S::store_f16(S::load(x), out);
    }
    format.encode(&values[whole..], rest);
}
