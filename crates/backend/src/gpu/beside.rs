//! Generated rows beside the rows of prompts. Products of few rows wait for memory and those of prompts
//! for matrix instructions, so that both together take less than one after the other: launches of
//! prompts' rows have the second queue.
//!
//! Roles run apart as long as no launch is for the rows of both, so that a buffer that only one of them
//! still needs must not lie where the other has one already. Generated rows therefore have memory of their own:
//! few rows, little memory.

use std::collections::HashSet;
use std::ops::Range;

use super::hazards::Hazards;
use super::inputs::RowsOf;
use super::lower::{Argument, Launch, Part, When};
use super::runtime::Runtime;
use crate::{Bucket, BufferId, Plan, Result, Step};

/// The most generated rows that run beside prompts, which bounds the memory that they have of their own; 64 were measured.
const MOST: usize = 128;

/// Where a step's generated rows have their buffers when they run beside prompts.
#[derive(Debug)]
pub(super) struct Beside {
    /// Generated rows that there is memory for.
    pub most: usize,
    /// The plan of all rows, and that of generated rows.
    plans: [Plan; 2],
    /// Where the memory of generated rows begins.
    at: usize,
    /// Buffers that both roles have in the place that they have otherwise.
    common: HashSet<BufferId>,
}

impl Beside {
    /// For a step whose launches take `arena_bytes`; `None` where launches for the rows of both roles come
    /// between others, and for buckets that cannot have both.
    ///
    /// # Errors
    /// [`crate::Error::Step`] when sizes overflow.
    pub fn find(
        launches: &[Launch],
        step: &Step,
        (bucket, plan): (Bucket, &Plan),
        arena_bytes: usize,
    ) -> Result<Option<Self>> {
        let Some(span) = span(launches).filter(|_| bucket.sequences > 1) else { return Ok(None) };
        let common = common(launches, &span, plan);
        if overlaps(&launches[span], &common) {
            return Ok(None);
        }
        let most = MOST.min(bucket.tokens);
        let small = Plan::new(step, Bucket { tokens: most, ..bucket })?;
        Ok(Some(Self { most, plans: [plan.clone(), small], at: arena_bytes, common }))
    }

    /// Bytes of arena with the memory of generated rows.
    pub fn arena_bytes(&self) -> usize {
        let [plan, small] = &self.plans;
        self.at + small.bytes() + (self.at - plan.bytes())
    }

    /// Where a launch for such rows finds what lies in `part` otherwise, bytes from the arena's beginning.
    pub fn offset(&self, rows: RowsOf, part: Part) -> usize {
        let [plan, small] = &self.plans;
        match part.rows_of {
            _ if rows != RowsOf::Generated => part.offset,
            Some(id) if self.common.contains(&id) => part.offset,
            Some(id) => self.at + small.place(id).expect("both plans have a step's buffers").offset,
            // Scratch is behind the buffers.
            None => self.at + small.bytes() + (part.offset - plan.bytes()),
        }
    }
}

/// What launches of a run wait for.
pub(super) struct Order<'a> {
    hazards: Hazards,
    /// Where generated rows run beside prompts.
    beside: Option<&'a Beside>,
    /// Whether the second queue has launches that nothing waits for yet.
    forked: bool,
}

impl<'a> Order<'a> {
    /// Of a run whose generated rows run beside prompts, or not.
    pub fn new(beside: Option<&'a Beside>) -> Self {
        Self { hazards: Hazards::default(), beside, forked: false }
    }

    /// Where generated rows run beside prompts.
    pub fn beside(&self) -> Option<&'a Beside> {
        self.beside
    }

    /// The launches that may be running.
    pub fn hazards(&mut self) -> &mut Hazards {
        &mut self.hazards
    }

    /// Whether a launch for such rows, the next one, has the second queue.
    ///
    /// # Errors
    /// What the runtime says of its queues.
    pub fn second<R: Runtime>(&mut self, runtime: &mut R, rows: RowsOf) -> Result<bool> {
        if matches!(rows, RowsOf::All(_)) {
            self.end(runtime)?;
        } else if self.beside.is_some() && !self.forked {
            runtime.fork()?;
            self.forked = true;
        }
        Ok(self.beside.is_some() && rows == RowsOf::Prompts)
    }

    /// Lets what follows wait for both queues.
    ///
    /// # Errors
    /// As [`second`](Self::second).
    pub fn end<R: Runtime>(&mut self, runtime: &mut R) -> Result<()> {
        if std::mem::take(&mut self.forked) { runtime.join() } else { Ok(()) }
    }
}

/// Where a launch for such rows finds a part of the arena.
pub(super) fn offset(beside: Option<&Beside>, rows: RowsOf, part: Part) -> usize {
    beside.map_or(part.offset, |beside| beside.offset(rows, part))
}

/// The launches from the first for one role's rows to the last, if none between is for all rows.
fn span(launches: &[Launch]) -> Option<Range<usize>> {
    let is_for_one = |launch: &Launch| matches!(launch.grid.rows, RowsOf::Generated | RowsOf::Prompts);
    let first = launches.iter().position(is_for_one)?;
    let end = launches.iter().rposition(is_for_one)? + 1;
    launches[first..end].iter().all(is_for_one).then_some(first..end)
}

/// Buffers that launches outside of `span` use, or somebody outside of the step.
fn common(launches: &[Launch], span: &Range<usize>, plan: &Plan) -> HashSet<BufferId> {
    let outside = launches[..span.start].iter().chain(&launches[span.end..]);
    let used = outside.flat_map(|launch| buffers(launch).map(|(id, _)| id));
    let ids = launches[span.clone()].iter().flat_map(|launch| buffers(launch).map(|(id, _)| id));
    let is_lent = |id: &BufferId| plan.place(*id).is_some_and(|place| place.input || place.kept);
    used.chain(ids.filter(is_lent)).collect()
}

/// Whether some buffer of all rows lies where prompts have another.
fn overlaps(launches: &[Launch], common: &HashSet<BufferId>) -> bool {
    let is_needed = |launch: &&Launch| launch.when != When::Short && launch.when != When::Long;
    let parts = || launches.iter().filter(is_needed).flat_map(buffers);
    let all: HashSet<(BufferId, Part)> = parts().filter(|(id, _)| common.contains(id)).collect();
    parts().any(|(id, part)| all.iter().any(|(other, whole)| id != *other && part.overlaps(whole)))
}

/// The step's buffers that a launch uses.
fn buffers(launch: &Launch) -> impl Iterator<Item = (BufferId, Part)> {
    launch.arguments().filter_map(|argument| match argument {
        Argument::Arena(part) => part.rows_of.map(|id| (id, part)),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::Paper;
    use crate::gpu::hazards::tests::launch;
    use crate::harness::{ModelShape, Random, inputs};
    use crate::kernels::norm_linear::{NormLinear, Projection};
    use crate::{Backend, GroupConfig, Rows, WeightId};

    const ALL: RowsOf = RowsOf::All(Rows::Tokens);
    const BUCKET: Bucket = Bucket { tokens: 1000, sequences: 4, outputs: 4, max_pages: 1 };
    const SCRATCH: usize = 8192;

    const FIRST: &[RowsOf] = &[ALL];
    const ROLES: &[RowsOf] = &[RowsOf::Generated, RowsOf::Prompts];

    /// Maps from a buffer to another, each by launches for such rows.
    type Maps<'a> = &'a [(usize, usize, &'a [RowsOf])];

    fn lowered(maps: Maps<'_>) -> (Step, Plan, Vec<Launch>) {
        let mut step = Step::new();
        let ids: Vec<_> = (0..=maps.len()).map(|_| step.buffer("b", Rows::Tokens, 64)).collect();
        for &(x, out, _) in maps {
            let projections = vec![Projection { weight: WeightId(0), bias: None, out: ids[out] }];
            step.push(NormLinear { x: ids[x], norm: None, projections });
        }
        let plan = Plan::new(&step, BUCKET).unwrap();
        let part = |i: usize| {
            let place = plan.place(ids[i]).unwrap();
            Argument::Arena(Part { offset: place.offset, bytes: place.bytes, rows_of: Some(ids[i]) })
        };
        let scratch = Argument::Arena(Part { offset: plan.bytes(), bytes: SCRATCH, rows_of: None });
        let launches = maps.iter().flat_map(|&(x, out, rows)| {
            rows.iter().map(move |&rows| launch(rows, &[part(x), part(out), scratch], None))
        });
        let launches = launches.collect();
        (step, plan, launches)
    }

    fn find(maps: Maps<'_>) -> Option<Beside> {
        let (step, plan, launches) = lowered(maps);
        Beside::find(&launches, &step, (BUCKET, &plan), plan.bytes() + SCRATCH).unwrap()
    }

    #[test]
    fn generated_rows_have_memory_of_their_own() {
        // An embedding, maps that end where they began, a head.
        let maps: Maps<'_> = &[(0, 1, FIRST), (1, 2, ROLES), (2, 3, ROLES), (3, 1, ROLES), (1, 4, FIRST)];
        let (_, plan, launches) = lowered(maps);
        let beside = find(maps).expect("nothing is for all rows in between");
        assert_eq!(beside.common, HashSet::from([0, 1, 4].map(BufferId)));
        for launch in &launches {
            for (id, part) in buffers(launch) {
                assert_eq!(beside.offset(RowsOf::Prompts, part), part.offset);
                assert_eq!(beside.offset(ALL, part), part.offset);
                let (at, bytes) = (beside.offset(RowsOf::Generated, part), 4 * 64 * beside.most);
                if beside.common.contains(&id) {
                    assert_eq!(at, part.offset);
                } else {
                    assert!(at >= plan.bytes() + SCRATCH && at + bytes <= beside.arena_bytes() - SCRATCH);
                }
            }
        }
        let scratch = Part { offset: plan.bytes() + 256, bytes: 64, rows_of: None };
        assert_eq!(beside.offset(RowsOf::Generated, scratch), beside.arena_bytes() - SCRATCH + 256);
    }

    #[test]
    fn launches_for_all_rows_keep_roles_together() {
        assert!(find(&[(0, 1, FIRST), (1, 2, ROLES), (2, 1, FIRST), (1, 2, ROLES)]).is_none());
        assert!(find(&[(0, 1, FIRST), (1, 2, FIRST)]).is_none());
        // What the first launch writes lies where the fourth buffer does: one role may be done with the one
        // where the other still reads it.
        let maps: Maps<'_> = &[(0, 1, FIRST), (1, 2, ROLES), (2, 3, ROLES), (3, 4, ROLES)];
        let (_, plan, _) = lowered(maps);
        let offset = |id| plan.place(BufferId(id)).unwrap().offset;
        assert_eq!(offset(1), offset(3));
        assert!(find(maps).is_none());
    }

    #[test]
    fn prompts_have_the_second_queue_beside_replies() {
        let shape = ModelShape { n_layers: 2, ..ModelShape::TINY };
        let group = GroupConfig { n_pages: 1024, page_size: 16, window: None };
        let case = shape.case(&mut Random::new(1), gguf::Format::Q4_0, vec![group]);
        let (mut gpu, notes) = Paper::with_tiles("cuda", 8).loaded(&case);
        let most = MOST as u32;
        let bucket = Bucket { tokens: 512, sequences: MOST + 2, outputs: MOST + 2, max_pages: 1024 };
        let id = gpu.lower(&case.step, bucket).unwrap();
        let mut second = |sequences: &[(u32, u32)]| -> Vec<String> {
            gpu.run(id, &inputs(&case.cache, sequences)).unwrap();
            let launches = notes.take_launches().into_iter();
            launches.filter(|launch| launch.shape.second).map(|launch| launch.entry).collect()
        };
        let entries = second(&[(1, 9), (1, 9), (20, 20)]);
        assert_eq!(entries.iter().filter(|entry| *entry == "prompt_attention").count(), 2);
        assert!(!entries.iter().any(|entry| entry == "decode_attention" || entry == "embed"));
        for alone in [&[(1, 9), (1, 9)], &[(2, 9), (20, 20)]] {
            assert_eq!(second(alone), Vec::<String>::new());
        }
        let with_prompt = |n: u32| [vec![(1, 9); n as usize], vec![(20, 20)]].concat();
        assert!(!second(&with_prompt(most)).is_empty());
        assert_eq!(second(&with_prompt(most + 1)), Vec::<String>::new());
    }
}
