//! Likeliest tokens found on the device. Where each output is to have one, the step behind takes
//! them from there: the host sees them late.

use super::args::{CarryArgs, ChooseArgs};
use super::inputs::{Layout, N_CARRIED_AT, RowsOf};
use super::lower::{Argument, Grid, Lowering};
use super::source::CHOOSE;
use crate::{BufferId, MAX_LIKELIEST, Result, Rows};

/// Logits of a chunk, whose largest is found first.
const CHUNK: usize = 32;
/// Chunks of a threadgroup that finds their largest.
const CHUNKS_EACH: usize = 64;
/// Its threads.
const MAXIMA_THREADS: u32 = 256;
/// Spans that a row's chunks lie in.
const SPANS: usize = 32;
/// Threads that take a row's tokens: a SIMD-group for each span.
const CHOOSE_THREADS: u32 = 1024;
/// `draw.h` has four tokens a lane.
const _: () = assert!(MAX_LIKELIEST == 4 * 32);
/// Threads a threadgroup, one a carried row.
const CARRY_THREADS: u32 = 64;

/// Bytes of what so many outputs leave: a token each, then pairs of a token and its logit.
pub(super) fn bytes(outputs: usize) -> usize {
    pairs_at(outputs) + outputs * MAX_LIKELIEST * 8
}

/// Where the pairs begin, in bytes.
pub(super) fn pairs_at(outputs: usize) -> usize {
    4 * outputs
}

/// Each output's likeliest tokens, as many as its inputs say.
pub(crate) fn launch(lowering: &mut Lowering<'_>, logits: BufferId) -> Result<()> {
    let cols = lowering.desc(logits).cols;
    let n_chunks = cols.div_ceil(CHUNK);
    let (maxima, _) = lowering.scratch(0, Rows::Outputs, n_chunks)?;
    let args = ChooseArgs {
        n_rows_at: Layout::n_rows_at(Rows::Outputs),
        wanted_at: lowering.layout.wanted,
        cols: lowering.u32(cols)?,
        n_chunks: lowering.u32(n_chunks)?,
        span: lowering.u32(n_chunks.div_ceil(SPANS))?,
        pairs_at: lowering.u32(pairs_at(lowering.bucket.outputs) / 4)?,
    };
    let logits = lowering.buffer(logits);
    let x = lowering.u32(n_chunks.div_ceil(CHUNKS_EACH))?;
    let grid = Grid { x, rows: RowsOf::All(Rows::Outputs), rows_each: 1, threads: MAXIMA_THREADS };
    lowering.launch(&CHOOSE, "maxima", grid, args, &[logits, maxima]).writing(&[maxima]).early = true;
    let grid = Grid { x: 1, threads: CHOOSE_THREADS, ..grid };
    let launch = lowering.launch(&CHOOSE, "choose", grid, args, &[logits, maxima, Argument::Chosen]);
    // The next of its chunk takes the place of a token that is taken.
    launch.writing(&[maxima, Argument::Chosen]).early = true;
    Ok(())
}

/// Puts the tokens that the step before chose where this step reads its ids.
pub(crate) fn launch_carry(lowering: &mut Lowering<'_>) -> Result<()> {
    let Layout { carried, ids, .. } = *lowering.layout;
    let args = CarryArgs { n_carried_at: N_CARRIED_AT, carried_at: carried, ids_at: ids };
    let x = lowering.u32(lowering.bucket.sequences.div_ceil(CARRY_THREADS as usize).max(1))?;
    // One row of threadgroups, however many rows there are.
    let grid = Grid { x, rows: RowsOf::All(Rows::Tokens), rows_each: u32::MAX, threads: CARRY_THREADS };
    lowering.launch(&CHOOSE, "carry", grid, args, &[Argument::Chosen]).writing(&[Argument::Inputs]);
    Ok(())
}
