//! On the CPU a row's result is the same to the last bit whatever rows stand
//! beside it, however the prompt was cut, and however many threads run it, with
//! each instruction set.

use gguf::Format;
use quarrel_backend::harness::{Case, ModelShape, Random, inputs};
use quarrel_backend::{
    Backend, Cpu, CpuConfig, GroupConfig, Isa, KvFormat, LoweredId, Role, StepInputs, TokenInputs,
    WeightLayout,
};

/// Rows that every format's blocks divide.
const SHAPE: ModelShape =
    ModelShape { n_layers: 2, n_embd: 256, n_ff: 512, n_vocab: 97, n_heads: 8, n_kv_heads: 2, head_dim: 32 };

/// Without and with offsets, groups of 16 and 32, and floats.
const FORMATS: [Format; 6] =
    [Format::Q4_0, Format::Q4_1, Format::Q6_K, Format::Q2_K, Format::F16, Format::BF16];

fn case(format: Format) -> Case {
    let groups = [None, Some(10)].map(|window| GroupConfig { n_pages: 512, page_size: 8, window });
    let mut case = SHAPE.case(&mut Random::new(7), format, groups.into());
    // Formats of keys and values take turns with those of weights.
    let (k_format, v_format) = match format {
        Format::Q4_1 => (KvFormat::Q8_0, KvFormat::Fp8),
        Format::Q2_K => (KvFormat::Fp8, KvFormat::Q8_0),
        _ => (KvFormat::F16, KvFormat::F16),
    };
    for layer in &mut case.cache.layers {
        (layer.k_format, layer.v_format) = (k_format, v_format);
    }
    case
}

/// Inputs whose token ids depend on sequence and position alone. What comes
/// after the first `PROMPT` positions was generated.
fn batch(case: &Case, sequences: &[(u32, u32)]) -> StepInputs {
    let mut inputs = inputs(&case.cache, sequences);
    for (sequence, &(_, n_context)) in inputs.sequences.iter_mut().zip(sequences) {
        sequence.role = if n_context <= PROMPT { Role::Prompt } else { Role::Generated };
    }
    let tokens = sequences.iter().enumerate().flat_map(|(i, &(n_rows, n_context))| {
        (n_context - n_rows..n_context).map(move |p| (p * 31 + i as u32 * 17) % SHAPE.n_vocab as u32)
    });
    inputs.tokens = TokenInputs::Ids(tokens.collect());
    inputs
}

/// Positions of a prompt.
const PROMPT: u32 = 41;

struct Session {
    cpu: Cpu,
    case: Case,
    lowered: LoweredId,
}

impl Session {
    fn new(format: Format, config: CpuConfig, runs: &[Vec<(u32, u32)>]) -> Self {
        let mut case = case(format);
        case.runs = runs.iter().map(|run| batch(&case, run)).collect();
        let mut cpu = Cpu::new(config).unwrap();
        cpu.load(case.weights.clone()).unwrap();
        cpu.create_cache(&case.cache).unwrap();
        let lowered = cpu.lower(&case.step, case.bucket()).unwrap();
        Self { cpu, case, lowered }
    }

    /// The bits of the last run's logits, a row for each sequence.
    fn logits(mut self) -> Vec<Vec<u32>> {
        let mut values = Vec::new();
        for run in &self.case.runs {
            self.cpu.run(self.lowered, run).unwrap();
        }
        self.cpu.read(self.lowered, self.case.compare[0], &mut values).unwrap();
        values.chunks(SHAPE.n_vocab).map(|row| row.iter().map(|x| x.to_bits()).collect()).collect()
    }
}

fn config(threads: usize, isa: Isa) -> CpuConfig {
    CpuConfig { threads: Some(threads), isa: Some(isa), weights: WeightLayout::Mapped }
}

/// Each format with each instruction set of this processor.
fn formats_and_sets() -> impl Iterator<Item = (Format, Isa)> {
    FORMATS.into_iter().flat_map(|format| Isa::available().map(move |isa| (format, isa)))
}

#[test]
fn threads_and_layouts_give_the_same_bits() {
    let runs = [vec![(19, 19), (41, 41)], vec![(1, 20), (1, 42)]];
    for (format, isa) in formats_and_sets() {
        let expected = Session::new(format, config(1, isa), &runs).logits();
        for (threads, weights) in [(2, WeightLayout::Mapped), (5, WeightLayout::Interleaved)] {
            let config = CpuConfig { weights, ..config(threads, isa) };
            let found = Session::new(format, config, &runs).logits();
            assert_eq!(found, expected, "{format}, {threads} threads, {isa:?}, {weights:?}");
        }
    }
}

#[test]
fn chunks_of_a_prompt_give_the_same_bits() {
    const N: u32 = PROMPT;
    for (format, isa) in formats_and_sets() {
        let expected = Session::new(format, config(2, isa), &[vec![(N, N)]]).logits();
        for chunk in [1, 2, 7, 8, 9, 16, 40] {
            let ends = (chunk..N).step_by(chunk as usize).chain([N]);
            let runs: Vec<_> =
                ends.scan(0, |start, end| Some(vec![(end - std::mem::replace(start, end), end)])).collect();
            let found = Session::new(format, config(2, isa), &runs).logits();
            assert_eq!(found, expected, "{format} in chunks of {chunk}, {isa:?}");
        }
    }
}

#[test]
fn sequences_beside_it_change_no_bit() {
    for (format, isa) in formats_and_sets() {
        let runs = |n: usize| [vec![(11, 11); n], vec![(1, 12); n], vec![(30, 42); n], vec![(1, 43); n]];
        let expected = Session::new(format, config(2, isa), &runs(64)).logits();
        for n in [1, 2, 3, 4, 5, 8, 17, 33] {
            let found = Session::new(format, config(2, isa), &runs(n)).logits();
            assert_eq!(found, expected[..n], "{format}, {n} sequences instead of 64, {isa:?}");
        }
    }
}
