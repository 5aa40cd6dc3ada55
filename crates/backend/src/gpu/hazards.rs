//! Which launches of a step must wait for those before them: those that read or write what one of
//! these writes, or write what one of these reads. Others may run side by side, where a device can.

use super::inputs::RowsOf;
use super::lower::{Argument, Launch, Part};

/// The launches that may be running.
#[derive(Debug, Default)]
pub(super) struct Hazards {
    /// Whether there was a launch; the first waits for what was enqueued before the step.
    has_begun: bool,
    running: Vec<Access>,
}

/// Memory that a launch reads or writes.
#[derive(Debug, Clone, Copy)]
struct Access {
    to: Argument,
    rows: RowsOf,
    writes: bool,
}

impl Hazards {
    /// Notes a launch that is about to be enqueued; whether it must wait for all that are running,
    /// which have ended then.
    pub fn must_wait(&mut self, launch: &Launch) -> bool {
        let accesses = || {
            let access = |to| Access { to, rows: launch.grid.rows, writes: launch.writes(to) };
            launch.arguments().map(access)
        };
        let has_begun = std::mem::replace(&mut self.has_begun, true);
        let waits =
            !has_begun || accesses().any(|new| self.running.iter().any(|old| new.conflicts_with(old)));
        if waits {
            self.running.clear();
        }
        self.running.extend(accesses());
        waits
    }
}

impl Access {
    fn conflicts_with(&self, other: &Self) -> bool {
        (self.writes || other.writes) && self.meets(other)
    }

    /// Whether both may have a byte in common.
    fn meets(&self, other: &Self) -> bool {
        match (self.to, other.to) {
            (Argument::Arena(a), Argument::Arena(b)) => {
                let is_same = a.rows_of.is_some() && a.rows_of == b.rows_of;
                a.overlaps(&b) && !(is_same && are_others(self.rows, other.rows))
            }
            // Batches are part of the inputs.
            (Argument::Inputs | Argument::Batch(_), Argument::Inputs | Argument::Batch(_)) => true,
            // Pages may be shared, so that rows do not tell.
            (a, b) => a == b,
        }
    }
}

impl Part {
    /// Whether they have a byte in common.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.offset < other.offset + other.bytes && other.offset < self.offset + self.bytes
    }
}

/// Whether these are never the same rows.
fn are_others(a: RowsOf, b: RowsOf) -> bool {
    matches!((a, b), (RowsOf::Generated, RowsOf::Prompts) | (RowsOf::Prompts, RowsOf::Generated))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::gpu::Library;
    use crate::gpu::lower::{Grid, When};
    use crate::gpu::product::Product;
    use crate::gpu::source::CHOOSE;
    use crate::{BufferId, CacheLayerId, Rows, WeightId};

    pub fn launch(rows: RowsOf, buffers: &[Argument], written: Option<&[Argument]>) -> Launch {
        Launch {
            source: &CHOOSE,
            definitions: String::new(),
            entry: String::new(),
            grid: Grid { x: 1, rows, rows_each: 1, threads: 1 },
            args: Vec::new(),
            buffers: buffers.to_vec(),
            written: written.map(<[_]>::to_vec),
            shared: 0,
            early: false,
            packed: false,
            batches: None,
            items: None,
            when: When::Always,
            embeds: false,
            product: None,
            op: 0,
        }
    }

    fn part(offset: usize, rows_of: Option<u32>) -> Argument {
        Argument::Arena(Part { offset, bytes: 64, rows_of: rows_of.map(BufferId) })
    }

    /// Whether the second of two launches waits for the first.
    fn waits(first: &Launch, second: &Launch) -> bool {
        let mut hazards = Hazards::default();
        assert!(hazards.must_wait(first), "a step before it may be running");
        hazards.must_wait(second)
    }

    #[test]
    fn what_is_written_is_waited_for_by_those_that_read_or_write_it() {
        let all = RowsOf::All(Rows::Tokens);
        let (x, y, weight) = (part(0, None), part(64, None), Argument::Weight(WeightId(0)));
        let makes_y = launch(all, &[x, weight, y], Some(&[y]));
        let makes_x = launch(all, &[y, weight, x], Some(&[x]));
        let reads_x = launch(all, &[x, weight, part(128, None)], Some(&[part(128, None)]));
        assert!(waits(&makes_y, &makes_x) && waits(&makes_y, &makes_y));
        assert!(waits(&reads_x, &makes_x), "it would overwrite what is read");
        assert!(!waits(&makes_y, &reads_x), "both only read the same");
        assert!(waits(&makes_y, &launch(all, &[part(96, None)], Some(&[]))), "the end of it is read");
        let unknown = launch(all, &[x], None);
        assert!(waits(&unknown, &unknown), "it may write all that it has");
    }

    #[test]
    fn what_a_product_behind_a_kernel_reads_and_writes_counts() {
        let all = RowsOf::All(Rows::Tokens);
        let (x, w, out) = (part(0, None), part(64, None), part(128, None));
        let mut multiplies = launch(all, &[w], Some(&[w, out]));
        let (by, cols, outs, scale, adds) = (Library::Matrices, 1, 1, 1.0, false);
        multiplies.product = Some(Product { by, x, w, out, cols, outs, scale, adds });
        let writes = |to| launch(all, &[to], Some(&[to]));
        assert!(waits(&writes(x), &multiplies) && waits(&multiplies, &writes(x)));
        assert!(waits(&multiplies, &launch(all, &[out], Some(&[]))), "it is written");
        assert!(!waits(&multiplies, &launch(all, &[x], Some(&[]))), "both only read it");
    }

    #[test]
    fn a_barrier_is_for_all_before_it() {
        let all = RowsOf::All(Rows::Tokens);
        let writes = |at| launch(all, &[part(at, None)], None);
        let mut hazards = Hazards::default();
        let waited = [0, 64, 64, 0, 0].map(|at| hazards.must_wait(&writes(at)));
        assert_eq!(waited, [true, false, true, false, true]);
    }

    #[test]
    fn rows_of_two_roles_are_apart_in_one_buffer_alone() {
        let writes = |rows, to| launch(rows, &[to], None);
        let (generated, prompts) = (RowsOf::Generated, RowsOf::Prompts);
        assert!(!waits(&writes(generated, part(0, Some(3))), &writes(prompts, part(0, Some(3)))));
        assert!(waits(&writes(generated, part(0, Some(3))), &writes(generated, part(0, Some(3)))));
        let all = RowsOf::All(Rows::Tokens);
        assert!(waits(&writes(generated, part(0, Some(3))), &writes(all, part(0, Some(3)))));
        // Another buffer in the same place has other rows there.
        assert!(waits(&writes(generated, part(0, Some(3))), &writes(prompts, part(0, Some(4)))));
        assert!(waits(&writes(generated, part(0, None)), &writes(prompts, part(0, None))));
        let keys = Argument::Keys(CacheLayerId(0));
        assert!(waits(&writes(generated, keys), &writes(prompts, keys)));
        assert!(!waits(&writes(generated, keys), &writes(prompts, Argument::Values(CacheLayerId(0)))));
        let inputs = |to| launch(prompts, &[to], Some(&[]));
        assert!(waits(&writes(generated, Argument::Inputs), &inputs(Argument::Batch(0))));
    }
}
