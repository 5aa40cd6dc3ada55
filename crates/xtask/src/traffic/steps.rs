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
    /// A token of each of so many replies, and so many of a prompt.
    Both(u32, u32),
}

/// The steps that are told of.
pub const STEPS: [Step; 4] = [Step::Replies(1), Step::Replies(8), Step::Prompt(512), Step::Both(8, 504)];

impl Step {
    pub fn name(self) -> String {
        match self {
            Self::Replies(1) => format!("one token behind {CONTEXT}"),
            Self::Replies(n) => format!("a token of {n} replies, each behind {CONTEXT}"),
            Self::Prompt(n) => format!("a prompt of {n} tokens"),
            Self::Both(n, of_prompt) => {
                format!("a token of {n} replies, each behind {CONTEXT}, and {of_prompt} tokens of a prompt")
            }
        }
    }

    pub fn tokens(self) -> u32 {
        match self {
            Self::Replies(n) | Self::Prompt(n) => n,
            Self::Both(n, of_prompt) => n + of_prompt,
        }
    }

    /// Replies, and tokens of a prompt.
    fn parts(self) -> (u32, u32) {
        match self {
            Self::Replies(n) => (n, 0),
            Self::Prompt(n) => (0, n),
            Self::Both(n, of_prompt) => (n, of_prompt),
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
    let (n_replies, of_prompt) = step.parts();
    let n_sequences = n_replies + u32::from(of_prompt > 0);
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
    let reply = |i| (i, Rows { ids: &ids[..1], start: CONTEXT, role: Role::Generated });
    let prompt = Rows { ids: &ids[..of_prompt as usize], start: 0, role: Role::Prompt };
    let sequences: Vec<_> =
        (0..n_replies).map(reply).chain((of_prompt > 0).then_some((n_replies, prompt))).collect();
    let outputs = (0..n_replies).chain((of_prompt > 0).then(|| step.tokens() - 1)).collect();
    let batch = Shares { groups: loaded.groups(), n: n_sequences }.batch(&sequences, outputs);
    loaded.forward(&batch).map_err(failed)?;
    Ok(notes.take_launches())
}
