//! Steps of real models' shapes, lowered as for Metal and run on paper.

use backend::gpu::{Gpu, Paper, PaperLaunch};
use backend::{KvFormat, Role};
use gguf::{Bytes, ModelFile};
use model::quantize::Recipe;
use model::single::{Rows, Shares};
use model::testing::{ShapeOptions, write_shape};
use model::{LoadOptions, ModelRunner as _};

use crate::error::{Error, Result};

/// Positions in the cache when a token is generated.
const CONTEXT: u32 = 512;

/// A model whose shape is known.
#[derive(Debug, Clone, Copy)]
pub enum Model {
    SmolLm2,
    Mistral7b,
}

impl Model {
    pub const ALL: [Self; 2] = [Self::Mistral7b, Self::SmolLm2];

    /// As `write_shape` knows it.
    pub fn name(self) -> &'static str {
        match self {
            Self::SmolLm2 => "smollm2-135m",
            Self::Mistral7b => "mistral-7b",
        }
    }

    pub fn n_layers(self) -> usize {
        match self {
            Self::SmolLm2 => 30,
            Self::Mistral7b => 32,
        }
    }
}

/// What a step is for.
#[derive(Debug, Clone, Copy)]
pub enum Step {
    /// A token of each of so many replies.
    Replies(u32),
    /// So many tokens of a prompt.
    Prompt(u32),
}

/// The steps that are told of.
pub const STEPS: [Step; 3] = [Step::Replies(1), Step::Replies(8), Step::Prompt(512)];

impl Step {
    pub fn name(self) -> String {
        match self {
            Self::Replies(1) => format!("one token behind {CONTEXT}"),
            Self::Replies(n) => format!("a token of {n} replies, each behind {CONTEXT}"),
            Self::Prompt(n) => format!("a prompt of {n} tokens"),
        }
    }

    pub fn tokens(self) -> u32 {
        match self {
            Self::Replies(n) | Self::Prompt(n) => n,
        }
    }
}

/// A model of so many layers.
///
/// # Errors
/// None that a known shape has.
pub fn file(model: Model, n_layers: usize) -> Result<ModelFile> {
    let options = ShapeOptions { recipe: Recipe::Q4_0, layers: Some(n_layers), vocab: None, seed: 1 };
    let bytes = write_shape(Vec::new(), model.name(), &options).map_err(failed)?;
    ModelFile::from_bytes(Bytes::from(bytes)).map_err(|source| failed(source.into()))
}

fn failed(source: model::Error) -> Error {
    Error::Generate { path: "a model on paper".into(), source: Box::new(source) }
}

/// The launches of a step.
///
/// # Errors
/// What is absent on Metal.
pub fn lowered(file: &ModelFile, step: Step) -> Result<Vec<PaperLaunch>> {
    let paper = Paper::new("metal");
    let notes = paper.notes();
    let n_sequences = match step {
        Step::Replies(n) => n,
        Step::Prompt(_) => 1,
    };
    let options = LoadOptions {
        context: Some(2 * CONTEXT),
        kv_k: KvFormat::F16,
        kv_v: KvFormat::F16,
        max_batch_tokens: step.tokens() as usize,
        max_sequences: n_sequences as usize,
        max_outputs: n_sequences as usize,
        ..LoadOptions::default()
    };
    let mut loaded = model::load(file, Box::new(Gpu::new(paper)), &options).map_err(failed)?;
    let ids = vec![1; step.tokens() as usize];
    let sequences: Vec<_> = match step {
        Step::Replies(n) => {
            (0..n).map(|i| (i, Rows { ids: &ids[..1], start: CONTEXT, role: Role::Generated })).collect()
        }
        Step::Prompt(_) => vec![(0, Rows { ids: &ids, start: 0, role: Role::Prompt })],
    };
    let outputs = match step {
        Step::Replies(n) => (0..n).collect(),
        Step::Prompt(n) => vec![n - 1],
    };
    let batch = Shares { groups: loaded.groups(), n: n_sequences }.batch(&sequences, outputs);
    loaded.forward(&batch).map_err(failed)?;
    Ok(notes.take_launches())
}
