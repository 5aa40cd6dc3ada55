//! From a model's name to something that runs.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use backend::harness::Used;
use engine::{Engine, EngineConfig};
use gguf::format::Support;
use gguf::{Format, ModelFile};
use model::quantize::{Recipe, quantize};
use model::{KvFormat, LoadOptions, LoadedModel, MemoryPlan, ModelRunner};
use store::{ModelName, Resolved, Store};
use tokenizer::Tokenizer;
use tokenizer::template::{SpecialTokens, Template};

use crate::args::{EngineArgs, LoadArgs};
use crate::device::{self, Device};
use crate::environment;
use crate::progress::PullProgress;

/// Longest context that is used without being asked for.
pub const DEFAULT_CONTEXT: u32 = 8192;

/// Rows of logits a scoring step gives: 32 MiB of them at a vocabulary of 131,072.
const SCORED_ROWS: usize = 64;

/// The store, set up from the environment.
pub fn store() -> Result<Store> {
    Ok(store_at(environment::cache_dir()?))
}

fn store_at(cache_dir: PathBuf) -> Store {
    let mut config = store::Config::new(cache_dir);
    config.python = environment::python();
    config.hf_cache = environment::hf_cache();
    config.ollama_dir = environment::ollama_dir();
    config.hf_token = environment::hf_token().map(|token| store::Token::new(&token));
    if let Some(endpoint) = environment::hf_endpoint() {
        config.hf_endpoint = endpoint.trim_end_matches('/').to_owned();
    }
    Store::open(config)
}

/// Finds a model, fetching it first if it is not here.
pub fn fetch(name: &str) -> Result<Resolved> {
    let name: ModelName = name.parse()?;
    let store = match &name {
        // Neither needs a cache, and a machine without a home directory has none.
        ModelName::Path(_) | ModelName::Ollama(_) => store_at(environment::cache_dir().unwrap_or_default()),
        ModelName::Short(_) | ModelName::Hub(_) => store()?,
    };
    Ok(store.pull(&name, &mut PullProgress::new())?)
}

/// Refuses options that cannot be right, before anything slow begins.
pub fn check(args: &LoadArgs) -> Result<()> {
    kv_formats(&args.kv)?;
    recipe(args.quantize.as_deref())?;
    device::asked(args, 1)?;
    Ok(())
}

fn recipe(name: Option<&str>) -> Result<Option<Recipe>> {
    let Some(name) = name else { return Ok(None) };
    let known = LOADING_RECIPES.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
    let known = known.with_context(|| format!("--quantize: `{name}` is not one of q8_0, q4_0, q4_k"))?;
    Ok(Some(known.1))
}

/// A model file and what turns text into its tokens.
pub struct Opened {
    /// The name it was asked for by.
    pub name: String,
    /// Metadata and tensors.
    pub file: ModelFile,
    /// Its tokeniser.
    pub tokenizer: Arc<Tokenizer>,
    /// Source of its chat template.
    chat_template: Option<String>,
}

/// Opens a model by name, fetching it first if it is not here.
pub fn open(name: &str) -> Result<Opened> {
    open_resolved(name, &fetch(name)?)
}

/// Opens a model that is on this machine.
pub fn open_resolved(name: &str, resolved: &Resolved) -> Result<Opened> {
    let path = &resolved.path;
    let file = open_file(path)?;
    let (tokenizer, chat_template) = vocabulary(path, &file)?;
    Ok(Opened { name: shown(name), file, tokenizer: Arc::new(tokenizer), chat_template })
}

/// Tokeniser and chat template of an opened model.
pub fn vocabulary(path: &Path, file: &ModelFile) -> Result<(Tokenizer, Option<String>)> {
    let (tokenizer, chat_template) = if model::hf::is_directory(path) {
        directory_vocabulary(path)?
    } else {
        let source = file.metadata.str("tokenizer.chat_template")?;
        (Tokenizer::from_metadata(&file.metadata), source.map(str::to_owned))
    };
    Ok((tokenizer.with_context(|| format!("the tokeniser of {}", path.display()))?, chat_template))
}

/// A name as it is shown: of a path, the last part.
fn shown(name: &str) -> String {
    let is_path = matches!(name.parse(), Ok(ModelName::Path(_)));
    let last = Path::new(name).file_name().filter(|_| is_path);
    last.map_or_else(|| name.to_owned(), |last| last.to_string_lossy().into_owned())
}

/// Opens a GGUF file or a Hugging Face directory.
pub fn open_file(path: &Path) -> Result<ModelFile> {
    let opened =
        if model::hf::is_directory(path) { model::hf::open(path) } else { Ok(ModelFile::open(path)?) };
    opened.with_context(|| format!("cannot open {}", path.display()))
}

/// Tokeniser and chat template of a Hugging Face directory.
fn directory_vocabulary(dir: &Path) -> Result<(tokenizer::Result<Tokenizer>, Option<String>)> {
    let read = |name: &str| {
        let path = dir.join(name);
        match std::fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    };
    let tokenizer =
        read("tokenizer.json")?.with_context(|| format!("{} has no tokenizer.json", dir.display()))?;
    let config = read("tokenizer_config.json")?;
    let in_config = || {
        let config: serde_json::Value = serde_json::from_str(config.as_deref()?).ok()?;
        Some(config["chat_template"].as_str()?.to_owned())
    };
    let template = read("chat_template.jinja")?.or_else(in_config);
    Ok((Tokenizer::from_hugging_face(&tokenizer, config.as_deref()), template))
}

/// The recipes that `--quantize` offers while loading.
const LOADING_RECIPES: [(&str, Recipe); 3] =
    [("q8_0", Recipe::Q8_0), ("q4_0", Recipe::Q4_0), ("q4_k", Recipe::Q4_K_M)];

impl Opened {
    /// The chat template to use: the one named, else the model's own.
    pub fn template(&self, named: Option<&str>) -> Result<Template> {
        let text = |id: Option<u32>| Some(self.tokenizer.token_text(id?)?.to_owned());
        let special = SpecialTokens {
            bos_token: text(self.tokenizer.bos()),
            eos_token: text(self.tokenizer.eos()),
            unk_token: text(self.tokenizer.unk()),
            pad_token: text(self.tokenizer.pad()),
        };
        match (named, &self.chat_template) {
            (Some(name), _) => Ok(Template::builtin(name, special)?),
            (None, Some(source)) => Ok(Template::parse(source, special)?),
            (None, None) => {
                let names: Vec<_> = Template::builtin_names().collect();
                bail!(
                    "this model has no chat template; name one with --chat-template ({}), \
                     or continue a text as it is with `quarrel run --raw`",
                    names.join(", ")
                )
            }
        }
    }

    /// Whether the model brings a chat template.
    pub fn has_template(&self) -> bool {
        self.chat_template.is_some()
    }

    /// Its architecture, as the file names it.
    pub fn architecture(&self) -> String {
        let name = self.file.metadata.str("general.architecture");
        name.ok().flatten().unwrap_or("unknown").to_owned()
    }

    /// Number of weights.
    pub fn parameters(&self) -> u64 {
        self.file.tensors.iter().map(|tensor| tensor.elements() as u64).sum()
    }

    /// The format that most weights have.
    pub fn format(&self) -> String {
        let mut counts = BTreeMap::new();
        for tensor in self.file.tensors.iter() {
            *counts.entry(tensor.format.name()).or_insert(0) += tensor.elements();
        }
        let most = counts.into_iter().max_by_key(|(_, elements)| *elements);
        most.map_or_else(String::new, |(name, _)| name.to_owned())
    }

    /// The file to load: quantised first where that was asked for.
    fn file(&self, args: &LoadArgs) -> Result<Cow<'_, ModelFile>> {
        let Some(recipe) = recipe(args.quantize.as_deref())? else { return Ok(Cow::Borrowed(&self.file)) };
        Ok(Cow::Owned(quantize(&self.file, recipe, &[], device::threads(args))?))
    }

    /// Loads the weights for one sequence at a time.
    pub fn load(&self, args: &LoadArgs) -> Result<LoadedModel> {
        self.load_on(&device::choose(args, 1)?, args, |options| options)
    }

    /// Loads the weights for scoring texts: many rows of logits a step.
    pub fn load_for_scoring(&self, args: &LoadArgs) -> Result<LoadedModel> {
        let scoring = |options| LoadOptions { max_outputs: SCORED_ROWS, ..options };
        self.load_on(&device::choose(args, 1)?, args, scoring)
    }

    /// Loads the weights for `n` sequences side by side, logits of each.
    pub fn load_for_batch(&self, args: &LoadArgs, n: usize) -> Result<LoadedModel> {
        self.load_on(&device::choose(args, n)?, args, |options| side_by_side(options, n))
    }

    /// Loads the weights on a device; `change` gets the options as they suit it.
    pub fn load_on(
        &self,
        device: &Device,
        args: &LoadArgs,
        change: impl Fn(LoadOptions) -> LoadOptions,
    ) -> Result<LoadedModel> {
        let file = self.file(args)?;
        let options = load_options(args, &file)?;
        let used = used(&file, &options);
        device.load((&self.name, &used), args, options, |backend, options| {
            model::load(&file, backend, &change(options))
        })
    }

    /// Starts an engine on the loaded model.
    pub fn start(&self, args: &LoadArgs, engine: &EngineArgs) -> Result<Started> {
        let loaded = self.load(args)?;
        let (device, memory) = (loaded.description(), *loaded.memory());
        let config = EngineConfig { deterministic: engine.deterministic, ..EngineConfig::default() };
        let engine = Engine::start(Box::new(loaded), self.tokenizer.clone(), config);
        Ok(Started { engine, device, memory })
    }
}

/// The formats of the file's matrices that anything computes with, each with those of the cache.
fn used(file: &ModelFile, options: &LoadOptions) -> Vec<Used> {
    let is_computed = |format: Format| format.support() != Support::Listed;
    let matrices = file.tensors.iter().filter(|tensor| tensor.shape.len() > 1 && is_computed(tensor.format));
    let formats: BTreeMap<_, _> = matrices.map(|tensor| (tensor.format.name(), tensor.format)).collect();
    let used = |weights| Used { weights, keys: options.kv_k, values: options.kv_v };
    formats.into_values().map(used).collect()
}

/// `options` for `n` sequences side by side, logits of each.
pub fn side_by_side(options: LoadOptions, n: usize) -> LoadOptions {
    LoadOptions {
        max_batch_tokens: options.max_batch_tokens.max(n),
        max_sequences: n,
        max_outputs: n,
        ..options
    }
}

/// A running engine, and what to tell people about it.
pub struct Started {
    pub engine: Engine,
    /// Which device computes.
    pub device: String,
    /// What the model takes there.
    pub memory: MemoryPlan,
}

/// How `file` is to be loaded on any device.
pub fn load_options(args: &LoadArgs, file: &ModelFile) -> Result<LoadOptions> {
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
