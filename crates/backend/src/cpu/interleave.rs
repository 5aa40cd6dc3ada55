//! Weights laid out for vector loads: the blocks of sixteen rows interleaved
//! word by word, so that what [`Rows`] gathers from sixteen places lies
//! together. A panel takes the same bytes as its rows; blocks stay in order.
//!
//! The field at `at` bytes of a block, two bytes or four, of all sixteen rows
//! is at `16 * at` bytes of the interleaved blocks, or where [`Order`] says.

use gguf::Format;

use std::sync::Arc;

use memmap2::MmapMut;

use super::shared::Shared;
use super::simd::{Kernel, LANES, Order, Rows, Simd, dispatch};
use super::{Isa, Pool};
use crate::{Error, Memory, Result, Weight, WeightId};

/// A weight whose panels are interleaved.
#[derive(Debug)]
pub struct Interleaved {
    arena: Arc<Arena>,
    /// Where its panels start.
    start: usize,
    panel_bytes: usize,
}

/// Memory of several interleaved weights, on huge pages where the system has
/// them: decoding reads all of it once a token, which takes many translations.
#[derive(Debug)]
struct Arena(MmapMut);

impl Arena {
    fn new(bytes: usize) -> Result<Self> {
        let advice = "leave the weights mapped";
        Memory::require(WHAT, bytes as u64, advice)?;
        let map = MmapMut::map_anon(bytes.max(1)).map_err(|_| Error::OutOfMemory {
            what: WHAT.to_owned(),
            needed: bytes as u64,
            available: Memory::now().map_or(0, |memory| memory.available),
            total: Memory::now().map_or(0, |memory| memory.total),
            advice: advice.to_owned(),
        })?;
        // Advice only: without huge pages all is as before.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        Ok(Self(map))
    }
}

const WHAT: &str = "interleaved weights";

/// A block of a format as words: after a half or before one, or neither.
#[derive(Debug, Clone, Copy)]
struct Words {
    bytes: usize,
    /// Where the words start: 0 or 2.
    start: usize,
    order: Order,
}

/// The order of fields in interleaved blocks of a format.
pub const fn order(format: Format) -> Order {
    match format {
        Format::Q6_K => Order::Q6K,
        _ => Order::AsStored,
    }
}

impl Words {
    /// `None` for formats that are not interleaved.
    fn of(format: Format) -> Option<Self> {
        let start = match format {
            Format::Q4_0 | Format::Q5_0 | Format::Q8_0 => 2,
            Format::Q4_1 | Format::Q4_K | Format::Q5_K | Format::Q6_K => 0,
            // Pairs of elements; single ones.
            Format::F16 | Format::BF16 => return Some(Self { bytes: 4, start: 0, order: Order::AsStored }),
            Format::F32 => 0,
            _ => return None,
        };
        Some(Self { bytes: format.block_bytes(), start, order: order(format) })
    }
}

impl Interleaved {
    /// Whether [`Interleaved::new`] takes `weight`.
    pub fn takes(weight: &Weight) -> bool {
        let words = Words::of(weight.format());
        weight.rows() >= LANES && words.is_some_and(|words| weight.row_bytes().is_multiple_of(words.bytes))
    }

    /// Interleaves weights that it [`takes`](Self::takes), and gives the mapped file's memory back.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], [`Error::Weight`].
    pub fn new(weights: &[&Weight], isa: Isa, pool: &mut Pool) -> Result<Vec<Self>> {
        let size =
            |weight: &Weight| (weight.rows().div_ceil(LANES) * panel_bytes(weight)).next_multiple_of(64);
        let mut arena = Arena::new(weights.iter().map(|weight| size(weight)).sum())?;
        let mut starts = Vec::with_capacity(weights.len());
        let mut rest = &mut arena.0[..];
        let mut start = 0;
        for weight in weights {
            let (out, after) = rest.split_at_mut(size(weight));
            interleave(weight, isa, pool, out);
            let released = weight.bytes().release();
            released.map_err(|source| Error::Weight { name: weight.name().to_owned(), source })?;
            starts.push(start);
            (start, rest) = (start + out.len(), after);
        }
        let arena = Arc::new(arena);
        let weights = weights.iter().zip(starts);
        Ok(weights
            .map(|(weight, start)| Self { arena: arena.clone(), start, panel_bytes: panel_bytes(weight) })
            .collect())
    }

    /// The bytes of panel `i`.
    pub fn panel(&self, i: usize) -> &[u8] {
        &self.arena.0[self.start + i * self.panel_bytes..][..self.panel_bytes]
    }
}

/// Weights that are interleaved a part at a time, in the order of their numbers.
#[derive(Debug, Default)]
pub struct Pending {
    /// The last first.
    ids: Vec<WeightId>,
    /// Of these.
    bytes: u64,
    /// Taken for each row of a step.
    share: u64,
}

impl Pending {
    /// Rows until all is taken. Copying a weight takes about as long as decoding
    /// a few tokens from it, and decoding from the mapped file is slower.
    const ROWS: u64 = 8;

    /// What is taken at least, so that memory comes in whole huge pages.
    const LEAST: u64 = 64 << 20;

    /// Adds weights that are to be interleaved, if they are not there.
    pub fn add(&mut self, ids: impl Iterator<Item = WeightId>, weights: &[Weight]) {
        self.ids.extend(ids);
        self.ids.sort_unstable_by(|a, b| b.cmp(a));
        self.ids.dedup();
        self.bytes = self.ids.iter().map(|&id| size(id, weights)).sum();
        self.share = (self.bytes / Self::ROWS).max(Self::LEAST);
    }

    /// Bytes of all of them.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes the share of a step of `rows`: whole weights, so a little more.
    pub fn take(&mut self, rows: usize, weights: &[Weight]) -> Vec<WeightId> {
        let share = self.share.saturating_mul(rows as u64);
        let mut taken = (Vec::new(), 0);
        while taken.1 < share
            && let Some(id) = self.ids.pop()
        {
            taken.0.push(id);
            taken.1 += size(id, weights);
        }
        self.bytes -= taken.1;
        taken.0
    }
}

fn size(id: WeightId, weights: &[Weight]) -> u64 {
    weights[id.0 as usize].bytes().len() as u64
}

fn panel_bytes(weight: &Weight) -> usize {
    LANES * weight.row_bytes()
}

/// Writes a weight's panels to `out`, on all threads.
fn interleave(weight: &Weight, isa: Isa, pool: &mut Pool, out: &mut [u8]) {
    let words = Words::of(weight.format()).expect("the caller asked whether it is taken");
    let (n_panels, panel_bytes) = (weight.rows().div_ceil(LANES), panel_bytes(weight));
    let out = Shared::new(out);
    pool.for_each_range(n_panels, n_panels.div_ceil(8 * pool.threads()), |_, panels| {
        for panel in panels {
            // SAFETY: ranges are disjoint, so nobody else has the panel.
            let out = unsafe { out.write(panel * panel_bytes, panel_bytes) };
            let start = panel * LANES;
            let first = start.min(weight.rows() - LANES);
            let rows = Rows::new(weight.row(first).as_ptr(), weight.row_bytes());
            dispatch(isa, Interleave { rows, words, out });
            if first < start {
                shift_lanes(words, start - first, out);
            }
        }
    });
}

/// The fields of a block: where each is, and its size.
fn fields(words: Words) -> impl Iterator<Item = (usize, usize)> {
    let half = |there: bool, at| there.then_some((at, 2));
    let inner = (words.start..words.bytes - 3).step_by(4).map(|at| (at, 4));
    let last = words.bytes - 2;
    half(words.start == 2, 0).into_iter().chain(inner).chain(half((words.bytes - words.start) % 4 == 2, last))
}

/// Moves each field's lanes down by `by`: the last panel was read from rows
/// before it, so that sixteen were there.
fn shift_lanes(words: Words, by: usize, out: &mut [u8]) {
    for block in out.chunks_exact_mut(LANES * words.bytes) {
        for (at, size) in fields(words) {
            block[LANES * at..LANES * (at + size)].copy_within(by * size.., 0);
        }
    }
}

struct Interleave<'a> {
    rows: Rows,
    words: Words,
    out: &'a mut [u8],
}

impl Kernel for Interleave<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Words { bytes, start, order } = self.words;
        for (i, out) in self.out.chunks_exact_mut(LANES * bytes).enumerate() {
            let block = i * bytes;
            if start == 2 {
                halves(&self.rows, block, &mut out[..2 * LANES]);
            }
            let mut at = start;
            while at + 16 <= bytes {
                // SAFETY: the panel has as many blocks as each row.
                let columns = unsafe { S::columns(&self.rows, block + at) };
                let to = LANES * order.position(at);
                let out = out[to..to + LANES * 16].as_chunks_mut::<{ 4 * LANES }>().0;
                for (out, column) in out.iter_mut().zip(columns) {
                    S::store_u32(column, bytemuck::cast_mut(out));
                }
                at += 16;
            }
            while at + 4 <= bytes {
                // SAFETY: as above.
                let word = unsafe { S::words(&self.rows, block + at) };
                let out = &mut out[LANES * at..LANES * (at + 4)];
                S::store_u32(
                    word,
                    bytemuck::cast_mut(out.as_chunks_mut::<{ 4 * LANES }>().0.first_mut().expect("one word")),
                );
                at += 4;
            }
            if at < bytes {
                halves(&self.rows, block + at, &mut out[LANES * at..]);
            }
        }
    }
}

/// The two bytes at `at` of each row.
#[inline(always)]
fn halves(rows: &Rows, at: usize, out: &mut [u8]) {
    for (i, out) in out.as_chunks_mut::<2>().0.iter_mut().enumerate() {
        // SAFETY: the rows have two bytes there.
        *out = unsafe { rows.at(i, at).cast::<[u8; 2]>().read() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::{Cpu, CpuConfig, WeightLayout};
    use crate::harness::{ModelShape, Random, inputs};
    use crate::{Backend, Bucket, GroupConfig};

    const SHAPE: ModelShape = ModelShape {
        n_layers: 2,
        n_embd: 64,
        n_ff: 96,
        n_vocab: 97,
        n_heads: 4,
        n_kv_heads: 2,
        head_dim: 16,
    };

    /// The bits of the logits of each of a few steps, and the weights still pending after each.
    fn steps(weights: WeightLayout, share: u64) -> Vec<(Vec<u32>, usize)> {
        let group = GroupConfig { n_pages: 64, page_size: 8, window: None };
        let case = SHAPE.case(&mut Random::new(3), Format::Q4_0, vec![group]);
        let mut cpu = Cpu::new(CpuConfig { threads: Some(2), isa: None, weights }).unwrap();
        cpu.load(case.weights.clone()).unwrap();
        cpu.create_cache(&case.cache).unwrap();
        let bucket = Bucket { tokens: 8, sequences: 1, outputs: 1, max_pages: 64 };
        let lowered = cpu.lower(&case.step, bucket).unwrap();
        cpu.pending.share = share;
        let mut logits = Vec::new();
        let mut step = |&(n_rows, n_context)| {
            cpu.run(lowered, &inputs(&case.cache, &[(n_rows, n_context)])).unwrap();
            cpu.read(lowered, case.compare[0], &mut logits).unwrap();
            (logits.iter().map(|x| x.to_bits()).collect(), cpu.pending.ids.len())
        };
        [(1, 1), (3, 4), (1, 5), (8, 13), (1, 14)].iter().map(&mut step).collect()
    }

    #[test]
    fn bits_are_the_same_while_weights_are_being_interleaved() {
        let mapped = steps(WeightLayout::Mapped, 0);
        // A byte, or eight, take the weight that they are part of: one before each step.
        let part = steps(WeightLayout::Auto, 1);
        // Seven maps a layer, and the head.
        assert_eq!(part.iter().map(|step| step.1).collect::<Vec<_>>(), [14, 13, 12, 11, 10]);
        let whole = steps(WeightLayout::Auto, u64::MAX);
        assert_eq!(whole.iter().map(|step| step.1).collect::<Vec<_>>(), [0; 5]);
        for (i, step) in mapped.iter().enumerate() {
            assert!(step.0 == part[i].0 && step.0 == whole[i].0, "step {i}");
        }
    }
}
