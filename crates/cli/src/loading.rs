//! From a model's name to something that runs.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use backend::{Backend, Cpu, CpuConfig};
use engine::{Engine, EngineConfig};
use gguf::ModelFile;
use model::{KvFormat, LoadOptions, LoadedModel, ModelRunner};
use store::{ModelName, Resolved, Store};
use tokenizer::Tokenizer;
use tokenizer::template::{SpecialTokens, Template};

use crate::args::ModelArgs;
use crate::environment;
use crate::progress::PullProgress;

/// Longest context that is used without being asked for.
const DEFAULT_CONTEXT: u32 = 8192;

/// Rows of logits a scoring step gives: 32 MiB of them at a vocabulary of 131,072.
const SCORED_ROWS: usize = 64;

/// The store, set up from the environment.
pub fn store() -> Result<Store> {
    let mut config = store::Config::new(environment::cache_dir()?);
    config.python = environment::python();
    config.hf_cache = environment::hf_cache();
    config.ollama_dir = environment::ollama_dir();
    config.hf_token = environment::hf_token().map(|token| store::Token::new(&token));
    if let Some(endpoint) = environment::hf_endpoint() {
        config.hf_endpoint = endpoint.trim_end_matches('/').to_owned();
    }
    Ok(Store::open(config))
}

/// Finds a model, fetching it first if it is not here.
pub fn fetch(name: &str) -> Result<Resolved> {
    let name: ModelName = name.parse()?;
    Ok(store()?.pull(&name, &mut PullProgress::new())?)
}

/// A model file and what turns text into its tokens.
pub struct Opened {
    /// The name it was asked for by.
    pub name: String,
    /// Metadata and tensors.
    pub file: ModelFile,
    /// Its tokeniser.
    pub tokenizer: Arc<Tokenizer>,
}

/// Opens a model by name, fetching it first if it is not here.
pub fn open(name: &str) -> Result<Opened> {
    let resolved = fetch(name)?;
    let file = open_file(&resolved.path)?;
    let tokenizer = Tokenizer::from_metadata(&file.metadata)
        .with_context(|| format!("the tokeniser of {}", resolved.path.display()))?;
    Ok(Opened { name: name.to_owned(), file, tokenizer: Arc::new(tokenizer) })
}

/// Opens a GGUF file or a Hugging Face directory.
pub fn open_file(path: &Path) -> Result<ModelFile> {
    ModelFile::open(path).with_context(|| format!("cannot open {}", path.display()))
}

impl Opened {
    /// The chat template to use: the one named, else the model's own.
    pub fn template(&self, named: Option<&str>) -> Result<Template> {
        if let Some(name) = named {
            return Ok(Template::builtin(name, SpecialTokens::from_metadata(&self.file.metadata)?)?);
        }
        Template::from_metadata(&self.file.metadata)?.with_context(|| {
            let names: Vec<_> = Template::builtin_names().collect();
            format!(
                "this model has no chat template; name one with --chat-template ({}), \
                 or continue a text as it is with `quarrel run --raw`",
                names.join(", ")
            )
        })
    }

    /// Loads the weights for one sequence at a time.
    pub fn load(&self, args: &ModelArgs) -> Result<LoadedModel> {
        Ok(model::load(&self.file, backend(args)?, &load_options(args, &self.file)?)?)
    }

    /// Loads the weights for scoring texts: many rows of logits a step.
    pub fn load_for_scoring(&self, args: &ModelArgs) -> Result<LoadedModel> {
        let options = LoadOptions { max_outputs: SCORED_ROWS, ..load_options(args, &self.file)? };
        Ok(model::load(&self.file, backend(args)?, &options)?)
    }

    /// Starts an engine on the loaded model; also gives the line that describes its device.
    pub fn start(&self, args: &ModelArgs) -> Result<(Engine, String)> {
        let loaded = self.load(args)?;
        let description = loaded.description();
        let engine = Engine::start(Box::new(loaded), self.tokenizer.clone(), EngineConfig::default());
        Ok((engine, description))
    }
}

/// The backend that computes.
fn backend(args: &ModelArgs) -> Result<Box<dyn Backend>> {
    Ok(Box::new(cpu(args.threads.map_or_else(default_threads, usize::from))?))
}

/// The CPU with so many threads.
pub fn cpu(threads: usize) -> Result<Cpu> {
    Ok(Cpu::new(CpuConfig { threads: Some(threads), isa: None })?)
}

/// One thread for each core.
pub fn default_threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn load_options(args: &ModelArgs, file: &ModelFile) -> Result<LoadOptions> {
    let (kv_k, kv_v) = kv_formats(&args.kv)?;
    let trained = model::ModelConfig::from_file(file)?.context_length;
    let context = Some(args.ctx.unwrap_or(trained.min(DEFAULT_CONTEXT)));
    Ok(LoadOptions { context, kv_k, kv_v, ..LoadOptions::default() })
}

/// `f16`, or `k=f16,v=f32` in either order.
pub fn kv_formats(text: &str) -> Result<(KvFormat, KvFormat)> {
    if !text.contains('=') {
        let format = kv_format(text)?;
        return Ok((format, format));
    }
    let (mut k, mut v) = (KvFormat::F16, KvFormat::F16);
    for part in text.split(',') {
        match part.split_once('=') {
            Some(("k", format)) => k = kv_format(format)?,
            Some(("v", format)) => v = kv_format(format)?,
            _ => bail!("--kv {text}: `{part}` should be k=FORMAT or v=FORMAT"),
        }
    }
    Ok((k, v))
}

fn kv_format(name: &str) -> Result<KvFormat> {
    let known = || KvFormat::ALL.iter().map(|f| f.name()).collect::<Vec<_>>().join(", ");
    let found = KvFormat::ALL.iter().copied().find(|f| f.name().eq_ignore_ascii_case(name));
    found.with_context(|| format!("--kv: `{name}` is not one of {}", known()))
}

/// A model's tokeniser alone.
pub fn tokenizer(name: &str) -> Result<Arc<Tokenizer>> {
    Ok(open(name)?.tokenizer)
}
