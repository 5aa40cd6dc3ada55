//! Inputs that contradict themselves, the bucket or the cache are typed errors
//! on every backend of the host, and so are steps that do not fit.

use gguf::Format;
use quarrel_backend::harness::{Case, ModelShape, Random, inputs};
use quarrel_backend::kernels::linear_add::LinearAdd;
use quarrel_backend::kernels::norm_linear::{NormLinear, Projection};
use quarrel_backend::kernels::rms_norm::{Norm, RmsNorm};
use quarrel_backend::{
    Backend, BufferId, CacheConfig, Cpu, CpuConfig, Error, GroupConfig, NO_PAGE, Op, Reference, Rows, Step,
    StepInputs, TokenInputs, Weight, WeightId,
};

fn model() -> Case {
    let groups = [None, Some(10)].map(|window| GroupConfig { n_pages: 16, page_size: 8, window });
    let mut case = ModelShape::TINY.case(&mut Random::new(5), Format::Q8_0, groups.into());
    case.runs = vec![inputs(&case.cache, &[(5, 30), (3, 3)])];
    case
}

fn backends() -> [Box<dyn Backend>; 2] {
    let cpu = Cpu::new(CpuConfig { threads: Some(2), ..CpuConfig::default() }).unwrap();
    [Box::new(Reference::new()), Box::new(cpu)]
}

/// What is wrong, and how to make it so.
type Spoiler = (&'static str, fn(&mut StepInputs));

/// Every way to spoil a field.
#[rustfmt::skip]
const SPOILERS: &[Spoiler] = &[
    ("an adapter", |i| i.adapter = Some(0)),
    ("no tokens", |i| i.tokens = TokenInputs::Ids(vec![])),
    ("a token too few", |i| i.tokens = TokenInputs::Ids(vec![0; 7])),
    ("a token beyond the vocabulary", |i| i.tokens = TokenInputs::Ids(vec![u32::MAX; 8])),
    ("embeddings of the wrong length", |i| i.tokens = TokenInputs::Embeddings { values: vec![0.0; 9], n_tokens: 8 }),
    ("embeddings by the billion", |i| i.tokens = TokenInputs::Embeddings { values: vec![], n_tokens: usize::MAX }),
    ("a position too few", |i| { i.positions.pop(); }),
    ("a sequence without rows", |i| i.sequences[0].n_rows = 0),
    ("rows that overflow", |i| i.sequences.iter_mut().for_each(|s| (s.n_rows, s.n_context) = (u32::MAX, u32::MAX))),
    ("more rows than context", |i| i.sequences[1].n_context = 2),
    ("a context beyond the table", |i| i.sequences[0].n_context = 1000),
    ("a sequence too many", |i| i.sequences.push(i.sequences[0].clone())),
    ("no group", |i| { i.groups.pop(); }),
    ("a slot too few", |i| { i.groups[0].slots.pop(); }),
    ("a slot beyond the pool", |i| i.groups[0].slots[0] = u32::MAX),
    ("a slot of another sequence", |i| i.groups[0].slots[0] = i.groups[0].slots[7]),
    ("a table entry too few", |i| { i.groups[1].block_tables.pop(); }),
    ("a page beyond the pool", |i| i.groups[0].block_tables[0] = 16),
    ("a freed page that is seen", |i| i.groups[0].block_tables[1] = NO_PAGE),
    ("a freed page in the window", |i| i.groups[1].block_tables[2] = NO_PAGE),
    ("a longer table than was lowered", |i| i.groups[0].max_pages = 1000),
    ("tables that overflow", |i| i.groups[0].max_pages = usize::MAX),
    ("outputs out of order", |i| i.outputs.reverse()),
    ("an output twice", |i| i.outputs[1] = i.outputs[0]),
    ("an output beyond the rows", |i| i.outputs[1] = 8),
    ("more outputs than were lowered", |i| i.outputs = (0..8).collect()),
];

#[test]
fn contradictions_are_errors() {
    let case = model();
    for mut backend in backends() {
        backend.load(case.weights.clone()).unwrap();
        backend.create_cache(&case.cache).unwrap();
        let lowered = backend.lower(&case.step, case.bucket()).unwrap();
        for (what, spoil) in SPOILERS {
            let mut inputs = case.runs[0].clone();
            spoil(&mut inputs);
            let result = backend.run(lowered, &inputs);
            assert!(matches!(result, Err(Error::Inputs(_))), "{what} on {}: {result:?}", backend.name());
        }
        backend.run(lowered, &case.runs[0]).unwrap();
        for pages in [[(0, 16)], [(16, 0)]] {
            assert!(matches!(backend.copy_pages(0, &pages), Err(Error::Inputs(_))));
        }
        assert!(matches!(backend.copy_pages(2, &[]), Err(Error::Inputs(_))));
    }
}

/// `lower` must refuse a step of one op over a buffer of 32 columns and one of 8.
fn refused(make: impl Fn(BufferId, BufferId) -> Op, expected: &str) {
    let weights = vec![
        Weight::vector("vector", &[1.0; 32]),
        Weight::new("matrix", Format::F32, 8, 32, vec![0; 4 * 8 * 32].into()).unwrap(),
    ];
    let mut step = Step::new();
    let (x, out) = (step.buffer("x", Rows::Tokens, 32), step.buffer("out", Rows::Tokens, 8));
    step.push(make(x, out));
    let error = step.check(&weights, &CacheConfig::default()).unwrap_err();
    assert!(matches!(&error, Error::Step(text) if text.contains(expected)), "{error}");
}

#[test]
fn steps_that_do_not_fit_are_errors() {
    let norm = |weight| Norm { weight: WeightId(weight), eps: 1e-5 };
    let linear = |x, out, weight| NormLinear {
        x,
        norm: None,
        projections: vec![Projection { weight: WeightId(weight), bias: None, out }],
    };
    refused(|x, out| RmsNorm { x, norm: norm(0), out }.into(), "`out` is [Tokens, 8]");
    refused(|x, _| RmsNorm { x, norm: norm(0), out: x }.into(), "both changed and used");
    refused(|x, out| RmsNorm { x, norm: norm(1), out }.into(), "`matrix` is [8, 32]");
    refused(|x, out| RmsNorm { x, norm: norm(9), out }.into(), "weight 9 was never loaded");
    refused(|x, out| RmsNorm { x, norm: Norm { weight: WeightId(0), eps: f32::NAN }, out }.into(), "epsilon");
    refused(|x, out| linear(out, x, 1).into(), "`matrix` is [8, 32], should be [32, 8]");
    refused(|x, _| linear(x, BufferId(7), 1).into(), "buffer 7 was never declared");
    refused(|x, _| NormLinear { x, norm: None, projections: vec![] }.into(), "no projections");
    refused(
        |x, residual| {
            let (weight, bias, post_norm) = (WeightId(1), Some(WeightId(0)), None);
            LinearAdd { x, weight, bias, post_norm, scale: 1.0, residual }.into()
        },
        "`vector` is [1, 32], should be [1, 8]",
    );
}

#[test]
fn memory_that_is_not_there_is_an_error_with_numbers() {
    let mut cache = model().cache;
    cache.groups[0].n_pages = u32::MAX / 8;
    for mut backend in backends() {
        let error = backend.create_cache(&cache).unwrap_err();
        assert!(matches!(error, Error::OutOfMemory { needed, .. } if needed > 1 << 40), "{error}");
    }
}

#[test]
fn formats_that_are_only_listed_are_refused() {
    let bytes = vec![0; Format::IQ1_S.row_bytes(256).unwrap()];
    for mut backend in backends() {
        let weight = Weight::new("w", Format::IQ1_S, 1, 256, bytes.clone().into()).unwrap();
        let error = backend.load(vec![weight]).unwrap_err();
        assert!(matches!(&error, Error::Absent { what, .. } if what.contains("IQ1_S")), "{error}");
    }
}
