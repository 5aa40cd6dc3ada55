//! Attention of generated rows over contexts that end around the places where
//! the CPU splits them: near the reference, and to the bit the same whatever
//! rows stand beside it and however many threads there are.

use quarrel_backend::harness::{Random, inputs, one_layer};
use quarrel_backend::kernels::{paged_attention::PagedAttention, rope_store::RopeStore};
use quarrel_backend::{Backend, BufferId, CacheConfig, CacheLayerId, Cpu, CpuConfig, Isa, KvFormat};
use quarrel_backend::{Reference, Role, Rows, Step, StepInputs, WeightLayout};

const N_HEADS: usize = 6;
const N_KV_HEADS: usize = 2;
/// Neither is a multiple of sixteen.
const DIMS: [usize; 2] = [40, 72];

/// Tokens in the cache: the CPU splits each 256 positions.
const CONTEXTS: [u32; 8] = [257, 1, 512, 255, 513, 256, 530, 300];

/// Without a window, and with windows that end inside a split.
const WINDOWS: [Option<u32>; 4] = [None, Some(20), Some(100), Some(300)];

fn cache(window: Option<u32>) -> CacheConfig {
    let mut cache = one_layer(N_KV_HEADS, DIMS, [KvFormat::F16, KvFormat::BF16], 16, window);
    cache.groups[0].n_pages = 64 * 34;
    cache
}

/// A step that stores keys and values, with or without attention over them.
fn step(with_attention: bool) -> (Step, [BufferId; 4]) {
    let mut step = Step::new();
    let mut buffer = |name, cols| step.buffer(name, Rows::Tokens, cols);
    let q = buffer("q", N_HEADS * DIMS[0]);
    let k = buffer("k", N_KV_HEADS * DIMS[0]);
    let v = buffer("v", N_KV_HEADS * DIMS[1]);
    let out = buffer("out", N_HEADS * DIMS[1]);
    let cache = CacheLayerId(0);
    step.push(RopeStore { q, k, v, n_heads: N_HEADS, qk_norm: None, rope: None, cache });
    if with_attention {
        step.push(PagedAttention { q, cache, n_heads: N_HEADS, scale: 0.2, softcap: None, out });
    }
    (step, [q, k, v, out])
}

/// Values that depend on the sequence and the position alone.
fn values(sequences: &[(u32, u32)], buffer: usize, cols: usize) -> Vec<f32> {
    let rows = sequences.iter().zip(0_u32..).flat_map(|(&(n_rows, n_context), sequence)| {
        (n_context - n_rows..n_context).map(move |position| (sequence, position))
    });
    rows.flat_map(|(sequence, position)| {
        let seed = (buffer as u64) << 40 | u64::from(sequence) << 20 | u64::from(position);
        Random::new(seed).values(cols, 2.0)
    })
    .collect()
}

/// The last `n_rows` rows of the first `n` sequences on a backend without weights.
fn attend(backend: &mut dyn Backend, window: Option<u32>, n: usize, n_rows: u32) -> Vec<Vec<f32>> {
    let cache = cache(window);
    backend.load(Vec::new()).unwrap();
    backend.create_cache(&cache).unwrap();
    let contexts: Vec<u32> = CONTEXTS.into_iter().cycle().take(n).collect();
    let mut out = Vec::new();
    for first in [true, false] {
        let (step, buffers) = step(!first);
        let sequences: Vec<(u32, u32)> = contexts
            .iter()
            .map(|&context| if first { (context, context) } else { (n_rows.min(context), context) })
            .collect();
        let mut run: StepInputs = inputs(&cache, &sequences);
        run.sequences.iter_mut().for_each(|sequence| sequence.role = Role::Generated);
        let bucket = quarrel_backend::Bucket {
            tokens: run.tokens.len(),
            sequences: n,
            outputs: n,
            max_pages: run.groups[0].max_pages,
        };
        let lowered = backend.lower(&step, bucket).unwrap();
        for (i, &id) in buffers[..3].iter().enumerate() {
            let cols = step.desc(id).unwrap().cols;
            backend.write(lowered, id, &values(&sequences, i, cols)).unwrap();
        }
        backend.run(lowered, &run).unwrap();
        if !first {
            backend.read(lowered, buffers[3], &mut out).unwrap();
        }
    }
    out.chunks(N_HEADS * DIMS[1]).map(<[f32]>::to_vec).collect()
}

fn cpu(threads: usize, isa: Isa) -> Cpu {
    let weights = WeightLayout::Mapped;
    Cpu::new(CpuConfig { threads: Some(threads), isa: Some(isa), weights }).unwrap()
}

#[test]
fn generated_rows_agree_with_the_reference() {
    for window in WINDOWS {
        let expected = attend(&mut Reference::new(), window, CONTEXTS.len(), 1);
        for isa in Isa::available() {
            let found = attend(&mut cpu(2, isa), window, CONTEXTS.len(), 1);
            for (expected, found) in expected.iter().flatten().zip(found.iter().flatten()) {
                // Sums of 530 products of f32, of values up to 2.
                assert!(
                    (expected - found).abs() < 1e-5,
                    "{found} is not {expected}: {isa:?}, window {window:?}"
                );
            }
        }
    }
}

fn bits(rows: &[Vec<f32>]) -> Vec<u32> {
    rows.iter().flatten().map(|x| x.to_bits()).collect()
}

#[test]
fn rows_beside_it_and_threads_change_no_bit() {
    for isa in Isa::available() {
        for window in WINDOWS {
            let expected = attend(&mut cpu(1, isa), window, 64, 1);
            for n in [1, 2, 3, 8, 64] {
                for threads in [1, 2, 3, 5] {
                    let found = attend(&mut cpu(threads, isa), window, n, 1);
                    let what = format!("{n} sequences, {threads} threads, {isa:?}, window {window:?}");
                    assert_eq!(bits(&found), bits(&expected[..n]), "{what}");
                }
            }
        }
    }
}

#[test]
fn rows_that_are_verified_together_get_the_same_bits() {
    for isa in Isa::available() {
        for window in WINDOWS {
            let alone = attend(&mut cpu(2, isa), window, 1, 1);
            let together = attend(&mut cpu(3, isa), window, 1, 4);
            assert_eq!(bits(&together[3..]), bits(&alone), "{isa:?}, window {window:?}");
        }
    }
}
