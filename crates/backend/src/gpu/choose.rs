//! Tokens chosen on the device, and carried to the step behind: the host sees them late.

use super::args::{CarryArgs, ChooseArgs};
use super::inputs::{Layout, N_CARRIED_AT, RowsOf};
use super::lower::{Argument, Grid, Lowering};
use super::source::CHOOSE;
use crate::{BufferId, Result, Rows};

/// Threads that look through a row of logits.
const CHOOSE_THREADS: u32 = 1024;
/// Threads a threadgroup, one a carried row.
const CARRY_THREADS: u32 = 64;

/// Each output's likeliest token.
pub(crate) fn launch(lowering: &mut Lowering<'_>, logits: BufferId) -> Result<()> {
    let cols = lowering.u32(lowering.desc(logits).cols)?;
    let args = ChooseArgs { n_rows_at: Layout::n_rows_at(Rows::Outputs), cols };
    let grid = Grid { x: 1, rows: RowsOf::All(Rows::Outputs), rows_each: 1, threads: CHOOSE_THREADS };
    let buffers = [lowering.buffer(logits), Argument::Chosen];
    lowering.launch(&CHOOSE, "choose", grid, args, &buffers);
    Ok(())
}

/// Puts the tokens that the step before chose where this step reads its ids.
pub(crate) fn launch_carry(lowering: &mut Lowering<'_>) -> Result<()> {
    let Layout { carried, ids, .. } = *lowering.layout;
    let args = CarryArgs { n_carried_at: N_CARRIED_AT, carried_at: carried, ids_at: ids };
    let x = lowering.u32(lowering.bucket.sequences.div_ceil(CARRY_THREADS as usize).max(1))?;
    // One row of threadgroups, however many rows there are.
    let grid = Grid { x, rows: RowsOf::All(Rows::Tokens), rows_each: u32::MAX, threads: CARRY_THREADS };
    lowering.launch(&CHOOSE, "carry", grid, args, &[Argument::Chosen]);
    Ok(())
}
