//! What a launch takes of a device, told from its op and operands, whatever its kernel does: for
//! runtimes that must not give a device too much at once, and for figures on paper.

use super::lower::{Argument, Launch};
use super::source::ROPE_STORE;
use crate::{CacheConfig, Op, Role, Step, StepInputs, Weight};

/// Estimates of one launch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Work {
    /// Bytes of weights, read once for every row of threadgroups.
    pub weights: u64,
    /// Bytes of keys and values read and written, as if each row read all that it sees.
    pub cache: u64,
    /// Bytes of rows read and written.
    pub rows: u64,
    /// Additions and multiplications of products with weights, keys and values.
    pub operations: u64,
}

impl Work {
    /// All bytes.
    pub fn bytes(self) -> u64 {
        self.weights.saturating_add(self.cache).saturating_add(self.rows)
    }
}

/// Pairs of a row and a position that it sees.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Seen {
    generated: u64,
    prompts: u64,
}

impl Seen {
    /// Those of a step in a cache without windows, which see less.
    pub fn of(inputs: &StepInputs) -> Self {
        let mut seen = Self::default();
        for sequence in &inputs.sequences {
            let (n, end) = (u64::from(sequence.n_rows), u64::from(sequence.n_context));
            // The last sees `end`, the one before it one less, and so on.
            let pairs = n * end - n * n.saturating_sub(1) / 2;
            match sequence.role {
                Role::Generated => seen.generated += pairs,
                Role::Prompt => seen.prompts += pairs,
            }
        }
        seen
    }
}

/// What a launch takes for a row and for a position seen.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Cost {
    /// Bytes of the weights that it reads whole.
    weights: u64,
    /// Bytes of the one row of a table that a row reads.
    table_row: u64,
    row_bytes: u64,
    row_operations: u64,
    cache_row: u64,
    seen_bytes: u64,
    seen_operations: u64,
}

impl Cost {
    /// That of a launch of a step.
    pub fn of(launch: &Launch, step: &Step, weights: &[Weight], cache: &CacheConfig) -> Self {
        let mut read: Vec<_> = launch.buffers.iter().filter_map(weight_of).collect();
        read.sort_unstable();
        read.dedup();
        let read: Vec<_> = read.into_iter().map(|id| &weights[id as usize]).collect();
        let mut cost = Self { row_bytes: row_bytes(launch, step, &read), ..Self::default() };
        for weight in read {
            let (bytes, rows) = (weight.bytes().len() as u64, weight.rows() as u64);
            if launch.embeds {
                cost.table_row += bytes / rows.max(1);
                continue;
            }
            cost.weights += bytes;
            if rows > 1 {
                let all = 2 * rows * weight.cols() as u64;
                cost.row_operations += match &step.ops()[launch.op] {
                    // Weights of all experts, which many rows read, each row some.
                    Op::MoeAdd(op) if rows > op.n_experts as u64 => {
                        all * op.n_used as u64 / op.n_experts as u64
                    }
                    _ => all,
                };
            }
        }
        if let Some(id) = launch.buffers.iter().find_map(keys_of) {
            let layer = &cache.layers[id as usize];
            let bytes =
                layer.n_kv_heads * (layer.k_format.bytes(layer.k_dim) + layer.v_format.bytes(layer.v_dim));
            match &step.ops()[launch.op] {
                Op::PagedAttention(op) => {
                    cost.seen_bytes = bytes as u64;
                    cost.seen_operations = 2 * (op.n_heads * (layer.k_dim + layer.v_dim)) as u64;
                }
                _ => cost.cache_row = bytes as u64,
            }
        }
        cost
    }

    /// For so many rows in so many rows of threadgroups.
    pub fn work(&self, n_rows: usize, groups: u32, seen: u64) -> Work {
        let n = n_rows as u64;
        Work {
            weights: (self.weights * u64::from(groups)).saturating_add(n * self.table_row),
            cache: n * self.cache_row + seen * self.seen_bytes,
            rows: n * self.row_bytes,
            operations: n * self.row_operations + seen * self.seen_operations,
        }
    }
}

impl super::inputs::RowsOf {
    /// What such rows see.
    pub(crate) fn seen(self, seen: Seen) -> u64 {
        match self {
            Self::All(_) => seen.generated + seen.prompts,
            Self::Generated => seen.generated,
            Self::Prompts => seen.prompts,
        }
    }
}

fn weight_of(argument: &Argument) -> Option<u32> {
    match argument {
        Argument::Weight(id) | Argument::Tiles(id) => Some(id.0),
        _ => None,
    }
}

fn keys_of(argument: &Argument) -> Option<u32> {
    match argument {
        Argument::Keys(id) => Some(id.0),
        _ => None,
    }
}

/// Bytes of f32 that a launch reads and writes for a row; of what several launches of an op hand
/// on, nothing is counted.
fn row_bytes(launch: &Launch, step: &Step, weights: &[&Weight]) -> u64 {
    let cols = |id: crate::BufferId| step.buffers()[id.0 as usize].cols;
    let made: usize = weights.iter().map(|weight| weight.rows()).filter(|&rows| rows > 1).sum();
    let floats = match &step.ops()[launch.op] {
        Op::Embed(op) if launch.embeds => cols(op.out),
        Op::RmsNorm(op) => 2 * cols(op.x),
        Op::NormLinear(op) => cols(op.x) + made,
        Op::RopeStore(op) if launch.source == &ROPE_STORE => 2 * cols(op.q) + cols(op.k) + cols(op.v),
        Op::PagedAttention(op) => cols(op.q) + cols(op.out),
        // What is added to is read and written.
        Op::LinearAdd(op) => cols(op.x) + 2 * made,
        Op::SwigluLinearAdd(op) => cols(op.gate) + cols(op.up) + 2 * made,
        Op::Head(op) if made > 0 => cols(op.x) + made,
        Op::Head(op) if launch.entry == "maxima" => cols(op.out),
        Op::Embed(_) | Op::RopeStore(_) | Op::MoeAdd(_) | Op::Head(_) => 0,
    };
    4 * floats as u64
}

#[cfg(test)]
mod tests {
    use gguf::Format;

    use super::*;
    use crate::GroupConfig;
    use crate::gpu::{Gpu, Paper};
    use crate::harness::{ModelShape, Random, inputs};

    #[test]
    fn a_token_reads_every_weight_once_and_multiplies_by_each() {
        const CONTEXT: u32 = 5;
        let (shape, group) = (ModelShape::TINY, GroupConfig { n_pages: 64, page_size: 4, window: None });
        let mut case = shape.case(&mut Random::new(1), Format::Q4_0, vec![group]);
        case.runs = vec![inputs(&case.cache, &[(1, CONTEXT)])];
        let paper = Paper::new("metal");
        let notes = paper.notes();
        case.run_on(&mut Gpu::new(paper), 1).unwrap();
        let launches = notes.take_launches();
        let sum = |part: fn(Work) -> u64| launches.iter().map(|launch| part(launch.shape.work)).sum::<u64>();

        let all: usize = case.weights.iter().map(|weight| weight.bytes().len()).sum();
        // The table is the head's as well: the embedding reads a row of it.
        let row = Format::Q4_0.row_bytes(shape.n_embd).unwrap();
        assert_eq!(sum(|work| work.weights), (all + row) as u64);
        let products: usize = case.weights.iter().filter(|w| w.rows() > 1).map(|w| w.rows() * w.cols()).sum();
        let seen = CONTEXT as usize * shape.n_heads * 2 * shape.head_dim * shape.n_layers;
        assert_eq!(sum(|work| work.operations), 2 * (products + seen) as u64);
        let vector = 2 * 2 * shape.head_dim * shape.n_kv_heads * shape.n_layers;
        assert_eq!(
            sum(|work| work.cache),
            (CONTEXT as usize + 1) as u64 * vector as u64,
            "all read, one written"
        );
    }

    #[test]
    fn rows_see_what_stands_before_them() {
        let group = GroupConfig { n_pages: 64, page_size: 4, window: None };
        let case = ModelShape::TINY.case(&mut Random::new(1), Format::F32, vec![group]);
        let seen = Seen::of(&inputs(&case.cache, &[(3, 10), (1, 7)]));
        assert_eq!((seen.prompts, seen.generated), (8 + 9 + 10, 7));
    }
}
