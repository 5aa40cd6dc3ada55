//! The threadgroup memory of [`WholeStep`](super::step::WholeStep)'s launches, as `step.h` lays it out.

use super::convert::Form;
use super::kernel;
use super::packing::TILE_COLS;
use super::step::{ROWS, TEAMS};
use super::step_layer::MOST_V_DIM;
use super::step_packings::{GATED, Packings};
use crate::gpu::args::StepArgs;
use crate::gpu::items::SPLIT;
use crate::gpu::lower::{Device, Lowering};
use crate::kernels::paged_attention::Decoding;
use crate::kernels::rope_store::MAX_PAIRS;

/// What the kernel declares itself, and the driver takes.
const RESERVED: u32 = 1024 + 512;
/// Slots of a ring beyond which more do not help.
const MOST_SLOTS: u32 = 8;
/// What pieces that are under way together cover, in nanoseconds of a processor's share of the memory's bandwidth: more makes late
/// what else is read, less keeps the memory waiting. Anything from 1,000 to 1,290 tells an H200, where one more piece is faster, from
/// an H100, where it is not (docs/cuda.md, "One piece under way", "The row between layers"); other devices were not measured.
const COPY_NS: u64 = 1_100;
/// Slots of a ring beside two pairs of teams; where there is room for fewer, there is one pair.
const SLOTS_BESIDE_TWO: u32 = 4;
/// Bytes of one SIMD-group's sums, two sets, of turns, and of where a split's runs of 16 positions lie.
const SUMS_BYTES: u32 = 2 * 64;
const TURNS_BYTES: u32 = 8 * MAX_PAIRS;
const RUNS_BYTES: u32 = 4 * SPLIT as u32 / 16;
/// SIMD-groups that fold a head's splits, as `merge_attention.h` has them.
const FOLDING: u32 = 8;

/// What depends on the longest context of a launch.
#[derive(Clone, Copy)]
pub(super) struct Memory {
    /// The most splits that a row has, and of these a threadgroup.
    pub max_splits: u32,
    block_splits: u32,
    /// Pairs of teams that take a threadgroup's chains of splits in turn.
    pairs: u32,
    /// Of a ring.
    slots: u32,
    pieces: Pieces,
    /// Bytes of threadgroup memory.
    pub shared: u32,
}

impl Memory {
    /// Where there is room.
    pub fn of(lowering: &Lowering<'_>, both: Packings, args: &StepArgs, decoding: &Decoding) -> Option<Self> {
        let (device, packings) = (&lowering.device, both.first);
        let block_splits = args.max_splits.div_ceil(args.attention.sharing);
        let slot = both.slot_bytes();
        let tile = |packing| kernel::row_bytes(Form::of(device, packing, ROWS)).0;
        let [qkv, output, gated, down] = [
            args.qkv.shape.n_tiles * tile(packings[0]),
            args.output.shape.n_tiles * tile(packings[1]),
            args.gated.shape.n_tiles * tile(packings[2]),
            args.down.shape.n_tiles * tile(packings[3]),
        ];
        let attention = &args.attention;
        let floats = (attention.n_heads / attention.n_kv_heads + 1) * attention.k_dim + attention.v_dim;
        // Heads lie where the row was that they come of, and behind them what comes of scores.
        let heads = |pairs| qkv.max(4 * floats + pairs * decoding.found).next_multiple_of(128);
        let tiles = decoding.shared - decoding.found;
        // What is folded, what SIMD-groups make of it, and the result lie where keys and values do.
        let folded = 4 * attention.chains.min(args.max_splits) * (TILE_COLS as u32 + 2)
            + 4 * FOLDING * (2 + MOST_V_DIM);
        let fold = folded + tile(packings[1]);
        let rows = |pairs| output.max(gated).max(down).max(heads(pairs) + fold.max(pairs * tiles));
        let simdgroups = TEAMS * kernel::PARTS;
        let beside = TURNS_BYTES + block_splits * RUNS_BYTES;
        let shared = |pairs, slots| simdgroups * (slots * (slot + 16) + SUMS_BYTES) + beside + rows(pairs);
        let fit = |pairs, least| {
            let fits = |&slots: &u32| shared(pairs, slots) + RESERVED <= device.shared_limit;
            (least..=MOST_SLOTS).rev().find(fits).map(|slots| (pairs, slots))
        };
        let has_two = block_splits > 1 && attention.chains > attention.sharing && !decoding.in_turn;
        let (pairs, slots) = has_two.then(|| fit(2, SLOTS_BESIDE_TWO)).flatten().or_else(|| fit(1, 2))?;
        let columns = (args.gated.shape.n_tiles, kernel::piece_tiles(packings[GATED]));
        let (pieces, shared) = (Pieces::of(device, columns, slot, slots), shared(pairs, slots));
        Some(Self { max_splits: args.max_splits, block_splits, pairs, slots, pieces, shared })
    }

    /// What the kernel is compiled with.
    pub fn definitions(&self) -> String {
        let Self { block_splits, pairs, slots, pieces: Pieces { waiting, most }, .. } = self;
        let rings = [("SLOTS", slots), ("PIECES", waiting), ("MOST_PIECES", most)];
        let attention = [("BLOCK_SPLITS", block_splits), ("TEAM_PAIRS", pairs)];
        let all = rings.iter().chain(&attention);
        all.map(|(name, value)| format!("#define STEP_{name} {value}\n")).collect()
    }
}

/// Pieces of a ring that are under way together, at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pieces {
    /// While threadgroups wait for each other.
    waiting: u32,
    /// Else.
    most: u32,
}

impl Pieces {
    /// Of a ring of `slots`, of `slot` bytes each. `n_tiles` of columns are cut into parts, and these into pieces of `most_tiles`.
    fn of(device: &Device, (n_tiles, most_tiles): (u32, u32), slot: u32, slots: u32) -> Self {
        let together = u64::from(TEAMS * kernel::PARTS * slot) * u64::from(device.units);
        let is_fast = device.bandwidth.is_some_and(|bytes| bytes / 1_000_000 * COPY_NS / 1_000 > together);
        // Where many pieces do not fill a slot, one is not enough: under four fifths of it on the average. Of what was
        // measured, some are whole and others have three quarters (docs/cuda.md, "One piece under way").
        let round = kernel::PARTS * most_tiles;
        let is_short = 5 * n_tiles < 4 * n_tiles.next_multiple_of(round);
        match is_fast && slots > 2 {
            true => Self { waiting: if is_short { 2 } else { 1 }, most: 3 },
            false => Self { waiting: 1, most: 2 },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::paper::Paper;

    #[test]
    fn pieces_cover_what_a_copy_takes() {
        let device = Paper::with_tiles("cuda", 132);
        let of = |bandwidth, n_tiles, slot, slots| {
            let device = Device { bandwidth, ..Device::of(&device) };
            let Pieces { waiting, most } = Pieces::of(&device, (n_tiles, 4), slot, slots);
            (waiting, most)
        };
        // An H100 and an H200 by their data sheets, pieces of four bits and of bfloat16.
        for (bandwidth, most) in [(None, 2), (Some(3_350_000_000_000), 2), (Some(4_800_000_000_000), 3)] {
            assert_eq!([2304, 2048].map(|slot| of(bandwidth, 64, slot, 4)), [(1, most); 2]);
        }
        let fast = Some(4_800_000_000_000);
        assert_eq!([2, 3, 4].map(|slots| of(fast, 64, 2304, slots)), [(1, 2), (1, 3), (1, 3)]);
        // Parts of three tiles, of six and of ten.
        assert_eq!([24, 48, 80].map(|n_tiles| of(fast, n_tiles, 2304, 4)), [(2, 3), (2, 3), (1, 3)]);
    }
}
