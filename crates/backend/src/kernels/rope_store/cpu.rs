//! `rope_store` on the CPU: sines once a row, then heads in parallel.

use super::{RopePairs, RopeStore};
use crate::CacheLayerConfig;
use crate::cpu::Isa;
use crate::cpu::run::{Matrix, Run, Sizes};
use crate::cpu::shared::{Bump, Shared};
use crate::host::HostLayer;
use crate::kernels::rms_norm::Norm;

impl RopeStore {
    /// Cosines and sines, `[tokens, 2 * pairs]`.
    pub(crate) fn cpu_scratch<'s>(&self, sizes: &Sizes<'_>, bump: &mut Bump<'s>) -> Option<Matrix<'s>> {
        let n_pairs = self.rope.as_ref().map_or(0, |rope| rope.inv_freq.len());
        (n_pairs > 0).then(|| Matrix::take(bump, sizes.tokens, 2 * n_pairs))
    }

    pub(crate) fn cpu(&self, run: &mut Run<'_>, bump: &mut Bump<'_>) {
        let angles = self.cpu_scratch(&run.sizes, bump);
        if let Some(angles) = angles {
            self.turn(run, angles);
        }
        let (q, k, v, isa) = (run.matrix(self.q), run.matrix(self.k), run.matrix(self.v), run.isa);
        let vectors = run.vectors;
        let norm = |norm: Norm| {
            let weight = vectors[norm.weight.0 as usize].as_deref();
            (weight.expect("a checked step names F32 rows as vectors"), norm.eps)
        };
        let norms = self.qk_norm.map(|norms| [norm(norms.q), norm(norms.k)]);
        let pairs = self.rope.as_ref().map_or(RopePairs::Adjacent, |rope| rope.pairs);
        let prepare = Prepare { angles, pairs, isa };
        let store = Store::new(&mut run.layers[self.cache.0 as usize]);
        let k_dim = store.config.k_dim;
        let slots = &run.inputs.groups[store.config.group].slots;
        // A head's task takes all rows in order, so that even two rows with one
        // slot are written one after the other.
        run.pool.for_each_range(self.n_heads + store.config.n_kv_heads, 1, |_, heads| {
            for head in heads {
                for (row, &slot) in slots.iter().enumerate() {
                    if head < self.n_heads {
                        // SAFETY: only this task has this head.
                        let q = unsafe { q.part(row, head * k_dim, k_dim) };
                        prepare.head(row, q, norms.map(|[q, _]| q));
                    } else {
                        let head = head - self.n_heads;
                        // SAFETY: only this task has this head.
                        let k = unsafe { k.part(row, head * k_dim, k_dim) };
                        prepare.head(row, k, norms.map(|[_, k]| k));
                        // SAFETY: nobody writes `v`.
                        let v = unsafe { v.row(row) };
                        let v_dim = store.config.v_dim;
                        store.write(slot as usize, head, k, &v[head * v_dim..][..v_dim]);
                    }
                }
            }
        });
    }

    /// Fills in the cosine and sine of each pair at each row's position.
    fn turn(&self, run: &mut Run<'_>, angles: Matrix<'_>) {
        let Some(rope) = &self.rope else { return };
        let positions = &run.inputs.positions;
        angles.for_each_row(run, |row, out| {
            for (out, &inv_freq) in out.as_chunks_mut::<2>().0.iter_mut().zip(&*rope.inv_freq) {
                let (sin, cos) = (f64::from(positions[row]) * f64::from(inv_freq)).sin_cos();
                *out = [cos as f32 * rope.magnitude, sin as f32 * rope.magnitude];
            }
        });
    }
}

/// What happens to each head of q and k.
struct Prepare<'a> {
    angles: Option<Matrix<'a>>,
    pairs: RopePairs,
    isa: Isa,
}

impl Prepare<'_> {
    fn head(&self, row: usize, x: &mut [f32], norm: Option<(&[f32], f32)>) {
        if let Some((weight, eps)) = norm {
            Norm::cpu(weight, eps, self.isa, x);
        }
        let Some(angles) = self.angles else { return };
        // SAFETY: the angles are all computed.
        let turns = unsafe { angles.row(row) }.as_chunks::<2>().0;
        match self.pairs {
            RopePairs::Adjacent => {
                for (pair, &[cos, sin]) in x.as_chunks_mut::<2>().0.iter_mut().zip(turns) {
                    *pair = rotate(*pair, cos, sin);
                }
            }
            RopePairs::Halves => {
                let (a, b) = x.split_at_mut(turns.len());
                for ((a, b), &[cos, sin]) in a.iter_mut().zip(b).zip(turns) {
                    [*a, *b] = rotate([*a, *b], cos, sin);
                }
            }
        }
    }
}

#[inline(always)]
fn rotate([a, b]: [f32; 2], cos: f32, sin: f32) -> [f32; 2] {
    [a * cos - b * sin, a * sin + b * cos]
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

    fn write(&self, slot: usize, kv_head: usize, key: &[f32], value: &[f32]) {
        let (page, offset) = (slot / self.page_size, slot % self.page_size);
        let at = (page * self.config.n_kv_heads + kv_head) * self.page_size + offset;
        let bytes = self.config.k_format.bytes(key.len());
        // SAFETY: only the task of this head writes its vectors.
        self.config.k_format.encode(key, unsafe { self.k.write(at * bytes, bytes) });
        let bytes = self.config.v_format.bytes(value.len());
        // SAFETY: as above.
        self.config.v_format.encode(value, unsafe { self.v.write(at * bytes, bytes) });
    }
}
