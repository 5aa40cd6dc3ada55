//! A lowered step: its launches, and which of them a run enqueues.

use std::collections::HashMap;

use super::beside::{self, Beside, Order};
use super::inputs::{Layout, RowOrder};
use super::lower::{Argument, Grid, Launch, When};
use super::runtime::{Groups, Runtime, Shape};
use super::source::Program;
use super::work::{Cost, Seen};
use crate::host::Limits;
use crate::{Bucket, Plan, Result, Step, StepInputs, TokenInputs};

/// The most rows of a bucket whose launches are kept as a graph: beyond, kernels take
/// longer than launching them.
const GRAPH_ROWS: usize = 64;

/// A step's launches for a bucket, before anything is on the device.
pub(super) struct Draft {
    pub bucket: Bucket,
    pub plan: Plan,
    pub layout: Layout,
    pub launches: Vec<Launch>,
    pub tables: Vec<f32>,
    pub arena_bytes: usize,
}

impl Draft {
    /// What has to be compiled for it.
    pub fn programs(&self) -> impl Iterator<Item = Program<'_>> {
        self.launches.iter().map(|launch| (launch.source, &*launch.definitions))
    }
}

/// A step that is ready to run.
pub(super) struct Lowered<R: Runtime> {
    pub step: Step,
    pub plan: Plan,
    pub limits: Limits,
    pub layout: Layout,
    pub launches: Vec<(Launch, R::Kernel, Cost)>,
    pub tables: R::Buffer,
    pub bucket: Bucket,
    /// Where generated rows run beside prompts, if they can.
    pub beside: Option<Beside>,
    /// The launches of steps of generated rows alone, once one has run.
    pub graphs: HashMap<When, R::Graph>,
    /// Tokens and outputs of the last run, or of the bucket before it.
    pub rows: (usize, usize),
    pub order: RowOrder,
    /// Each cache group's batches of generated rows in the last run.
    pub batches: Vec<usize>,
}

/// What launches read and write.
pub(super) struct StepMemory<'a, R: Runtime> {
    /// How much of the cache.
    pub seen: Seen,
    /// Which of the bucket's steps it is.
    pub when: When,
    pub weights: &'a HashMap<Argument, R::Buffer>,
    pub layers: &'a [(R::Buffer, R::Buffer)],
    pub arena: &'a R::Buffer,
    pub inputs: &'a R::Buffer,
    pub chosen: &'a R::Buffer,
}

impl<R: Runtime> Lowered<R> {
    /// Whether a run's launches are those of every run of generated rows: they are made
    /// for the whole bucket then, and kernels find out how many rows there are.
    pub fn has_one_role(&self, inputs: &StepInputs) -> bool {
        self.bucket.tokens <= GRAPH_ROWS
            && self.order.n_generated == inputs.tokens.len()
            && self.batches.iter().all(|&n| n == 1)
            && matches!(inputs.tokens, TokenInputs::Ids(_))
    }

    /// Which of the bucket's steps a run is.
    pub fn when(&self, inputs: &StepInputs) -> When {
        let [sequence] = &inputs.sequences[..] else { return When::Otherwise };
        let has = |when| self.launches.iter().any(|(launch, ..)| launch.when == when);
        let fits = |&(when, most): &(When, usize)| sequence.n_context as usize <= most && has(when);
        match When::APART.iter().find(|apart| fits(apart)) {
            Some(&(when, _)) if sequence.n_rows == 1 && self.order.n_generated == 1 => when,
            _ => When::Otherwise,
        }
    }

    /// Enqueues the launches for so many tokens, outputs and generated rows.
    pub fn launch(
        &self,
        runtime: &mut R,
        memory: &StepMemory<'_, R>,
        rows: (usize, usize, usize),
        embeddings: Option<&[f32]>,
    ) -> Result<()> {
        let (tokens, _, generated) = rows;
        let fits = |beside: &&Beside| (1..=beside.most).contains(&generated) && generated < tokens;
        let beside = self.beside.as_ref().filter(fits);
        let mut order = Order::new(beside);
        let done = self.launch_in(&mut order, runtime, memory, rows, embeddings);
        // After an error too: steps behind use the same memory.
        done.and(order.end(runtime))
    }

    fn launch_in(
        &self,
        order: &mut Order<'_>,
        runtime: &mut R,
        memory: &StepMemory<'_, R>,
        rows: (usize, usize, usize),
        embeddings: Option<&[f32]>,
    ) -> Result<()> {
        let together = |(a, ..): &(Launch, _, _), (b, ..): &(Launch, _, _)| {
            a.batches.is_some() && a.batches == b.batches
        };
        for launches in self.launches.chunk_by(together) {
            let n_batches = launches[0].0.batches.map_or(1, |group| self.batches[group]);
            for batch in 0..n_batches {
                for launch in launches {
                    self.launch_one(runtime, memory, order, (launch, batch), rows, embeddings)?;
                }
            }
        }
        Ok(())
    }

    /// Enqueues one launch, for a batch if it has any.
    fn launch_one(
        &self,
        runtime: &mut R,
        memory: &StepMemory<'_, R>,
        order: &mut Order<'_>,
        ((launch, kernel, cost), batch): (&(Launch, R::Kernel, Cost), usize),
        rows: (usize, usize, usize),
        embeddings: Option<&[f32]>,
    ) -> Result<()> {
        if launch.when != When::Always && launch.when != memory.when {
            return Ok(());
        }
        let beside = order.beside();
        let buffer = |argument: &Argument| match *argument {
            Argument::Inputs => (memory.inputs, 0),
            Argument::Weight(_) | Argument::Tiles(_) => (&memory.weights[argument], 0),
            Argument::Arena(part) => (memory.arena, beside::offset(beside, launch.grid.rows, part)),
            Argument::Tables(offset) => (&self.tables, offset),
            Argument::Chosen => (memory.chosen, 0),
            Argument::Batch(group) => (memory.inputs, 4 * self.layout.splits[group].batch_at(batch)),
            Argument::Keys(id) => (&memory.layers[id.0 as usize].0, 0),
            Argument::Values(id) => (&memory.layers[id.0 as usize].1, 0),
        };
        let buffers: Vec<_> = launch.buffers.iter().map(buffer).collect();
        if let (true, Some(values)) = (launch.embeds, embeddings) {
            let (to, offset) = *buffers.last().expect("an embedding has its output last");
            let values = self.order.to_device(values, values.len() / rows.0);
            return runtime.upload(to, offset, bytemuck::cast_slice(&values));
        }
        let groups = launch.groups(rows);
        if groups.1 == 0 {
            return Ok(());
        }
        let second = order.second(runtime, launch.grid.rows)?;
        let Launch { shared, early, packed, grid, .. } = *launch;
        // Each expert's weights are about as much read as there are items of it.
        let readers = if launch.items.is_some() { 1 } else { groups.1 };
        let work = cost.work(grid.rows.count(rows), readers, grid.rows.seen(memory.seen));
        let writes = |(i, &argument)| u32::from(launch.writes(argument)) << i;
        // Who takes buffers as one structure does not ask.
        let writes = if packed { 0 } else { (0..).zip(&launch.buffers).map(writes).sum() };
        let waits = order.hazards().must_wait(launch);
        let threads = grid.threads;
        let shape = Shape { groups, threads, shared, early, second, packed, waits, writes, work };
        runtime.launch(kernel, shape, &launch.args, &buffers)?;
        let Some(product) = launch.product else { return Ok(()) };
        // Rows of prompts stand behind the generated ones.
        product.enqueue(runtime, buffer, (grid.rows.first(rows), grid.rows.count(rows)))
    }
}

impl Launch {
    /// Threadgroups for so many tokens, outputs and generated rows.
    fn groups(&self, rows: (usize, usize, usize)) -> Groups {
        match (self.grid.rows.count(rows), self.items) {
            // As many as the bucket's were checked to fit.
            (n, Some((items, each))) => (self.grid.x, items.most(n) as u32 * each),
            (_, None) => self.grid.groups(rows),
        }
    }
}

impl Grid {
    /// Threadgroups for so many tokens, outputs and generated rows.
    fn groups(&self, rows: (usize, usize, usize)) -> Groups {
        // They were checked against the bucket, which was checked to fit.
        (self.x, (self.rows.count(rows) as u32).div_ceil(self.rows_each))
    }
}

#[cfg(test)]
mod tests {
    use crate::gpu::Paper;
    use crate::harness::{ModelShape, Random};
    use crate::{Backend, Bucket, GroupConfig};

    #[test]
    fn programs_of_all_buckets_are_asked_for_together() {
        let group = GroupConfig { n_pages: 64, page_size: 16, window: None };
        let case = ModelShape::TINY.case(&mut Random::new(1), gguf::Format::Q4_0, vec![group]);
        let buckets = [1, 4, 16, 64].map(|n| Bucket { tokens: n, sequences: n, outputs: n, max_pages: 64 });
        let lowered = |together: bool| {
            let (mut gpu, notes) = Paper::with_tiles("cuda", 8).loaded(&case);
            let ids = match together {
                true => gpu.lower_all(&case.step, &buckets).unwrap(),
                false => buckets.map(|bucket| gpu.lower(&case.step, bucket).unwrap()).to_vec(),
            };
            (ids, notes.programs(), notes.preparations())
        };
        let ((ids, programs, preparations), apart) = (lowered(true), lowered(false));
        assert_eq!((preparations, apart.2), (1, buckets.len()));
        assert_eq!((ids, programs), (apart.0, apart.1));
    }
}
