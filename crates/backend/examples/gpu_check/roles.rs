//! Generated rows that run beside those of prompts: both must have the bits that they have apart.

use gguf::Format;
use quarrel_backend::cuda::Cuda;
use quarrel_backend::harness::{Case, CaseBuilder, Random, inputs};
use quarrel_backend::{Backend, Bucket, Error, LoweredId, TokenInputs};

use crate::bench::NO_BOUND;
use crate::layers::{PAGE_SIZE, Shape};
use crate::{Done, SEED, text};

/// Replies, positions that each has seen, rows of a prompt and those before them: either role may be
/// the one that takes longer. The last are few enough rows to be left normalised where a prompt runs beside.
const STEPS: [[u32; 4]; 5] =
    [[40, 15, 200, 100], [3, 700, 400, 30], [100, 200, 9, 500], [128, 31, 128, 2], [9, 5, 19, 8]];

/// How often a step runs: one role is ahead of the other by chance, and what a kernel does too early shows by chance. (A
/// ring that gave slots up while loads from them were under way showed in one of some hundred steps.)
const TIMES: usize = 60;

/// Enough layers for one role to be far ahead.
const N_LAYERS: usize = 8;

/// Both roles together and apart, by a model of such a shape.
pub fn check(cuda: &mut Cuda, shape: Shape, format: Format) -> Done {
    let mut random = Random::new(SEED);
    let mut case = CaseBuilder::new(&mut random, shape.name.into(), NO_BOUND);
    let values = shape.values(case.random, [format; 7]);
    let layers: Vec<_> = (0..N_LAYERS).map(|_| shape.layer(&mut case, &values)).collect();
    let table = shape.table(&mut case, format);
    let logits = shape.model(&mut case, &layers, table);
    let most = |[replies, seen, rows, before]: [u32; 4]| (replies + 1) * (seen + 2).max(rows + before);
    let n_positions = STEPS.iter().copied().map(most).max().unwrap_or(0);
    // Each sequence has whole pages.
    let cache = shape.cache(N_LAYERS, n_positions / PAGE_SIZE + 2 * 129);
    let case = case.build(cache, Vec::new(), vec![logits]);
    cuda.load(case.weights.clone()).map_err(text)?;
    for step in STEPS {
        same_bits(cuda, &case, shape, step).map_err(text)??;
    }
    println!(
        "invariance: {} {format}: replies and prompts have the same bits together and apart",
        shape.name
    );
    Ok(())
}

fn same_bits(
    cuda: &mut Cuda,
    case: &Case,
    shape: Shape,
    [replies, seen, rows, before]: [u32; 4],
) -> Result<Done, Error> {
    cuda.create_cache(&case.cache)?;
    let sequences = |reply, prompt| [vec![reply; replies as usize], vec![prompt]].concat();
    let bucket = Bucket {
        tokens: (replies * seen + before).max(2 * replies + rows) as usize,
        sequences: replies as usize + 1,
        outputs: (2 * replies + rows) as usize,
        max_pages: case.cache.groups[0].n_pages as usize,
    };
    let lowered = cuda.lower(&case.step, bucket)?;
    run(cuda, case, lowered, &sequences((seen, seen), (before, before)), 0)?;
    let n_prompt = rows as usize * shape.n_vocab;
    // The other role's rows have the first one instead: one generated row, or two of a prompt.
    let apart = run(cuda, case, lowered, &sequences((1, seen + 1), (1, before + 1)), replies + 1)?;
    let mut expected = apart[..replies as usize * shape.n_vocab].to_vec();
    let prompts = sequences((2, seen + 2), (rows, before + rows));
    let apart = run(cuda, case, lowered, &prompts, 2 * replies + rows)?;
    expected.extend_from_slice(&apart[apart.len() - n_prompt..]);
    for _ in 0..TIMES {
        let together = sequences((1, seen + 1), (rows, before + rows));
        let together = run(cuda, case, lowered, &together, replies + rows)?;
        let differs = together.iter().zip(&expected).position(|(a, b)| a.to_bits() != b.to_bits());
        if let Some(at) = differs {
            let (row, n) = (at / shape.n_vocab, replies + rows);
            let name = shape.name;
            return Ok(Err(format!(
                "{name}: row {row} of {n}, {replies} of them replies, differs from it apart"
            )));
        }
    }
    Ok(Ok(()))
}

/// Logits of the last `n_outputs` rows of a step.
fn run(
    cuda: &mut Cuda,
    case: &Case,
    lowered: LoweredId,
    sequences: &[(u32, u32)],
    n_outputs: u32,
) -> Result<Vec<f32>, Error> {
    let mut run = inputs(&case.cache, sequences);
    run.tokens = TokenInputs::Ids(run.positions.iter().map(|position| position * 7 % 13).collect());
    let n_rows = run.positions.len() as u32;
    run.outputs = (n_rows - n_outputs..n_rows).collect();
    cuda.run(lowered, &run)?;
    let mut logits = Vec::new();
    cuda.read(lowered, case.compare[0], &mut logits)?;
    Ok(logits)
}
