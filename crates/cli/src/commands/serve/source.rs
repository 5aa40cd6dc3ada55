//! The models that are served: opened, described, loaded when they are asked for.

use anyhow::{Context, Result};
use engine::{Engine, EngineConfig};
use indicatif::HumanBytes;
use model::{LoadOptions, LoadedModel, ModelConfig, ModelRunner as _};
use server::{LoadError, Model, ModelInfo, ModelSource};
use store::Resolved;
use tokenizer::template::Template;

use crate::args::{KvMemory, LoadArgs, ServeArgs};
use crate::device::Device;
use crate::loading::{self, Opened};
use crate::output;

/// Least context that is worth serving when memory does not allow the usual one.
const SHORTEST_CONTEXT: u32 = 512;

/// Most of the free memory that a KV cache takes without being asked to.
const KV_SHARE: KvMemory = KvMemory::Percent(25);

/// Each model with the names it is served under.
type Sources = Vec<(Vec<String>, Box<dyn ModelSource>)>;

/// Every model that the command line names, opened, to be loaded on `device`.
pub fn all(args: &ServeArgs, device: &Device) -> Result<Sources> {
    let mut named: Vec<(&str, Vec<String>)> = Vec::new();
    for model in &args.models {
        let (name, alias) = split_alias(model);
        match named.iter_mut().find(|(known, _)| *known == name) {
            Some((_, aliases)) => aliases.extend(alias),
            None => named.push((name, alias.into_iter().collect())),
        }
    }
    named.into_iter().map(|(name, aliases)| source(args, device, name, aliases)).collect()
}

fn source(
    args: &ServeArgs,
    device: &Device,
    name: &str,
    mut aliases: Vec<String>,
) -> Result<(Vec<String>, Box<dyn ModelSource>)> {
    let opened = loading::open(name)?;
    if aliases.is_empty() {
        aliases.push(opened.name.trim_end_matches(".gguf").to_owned());
    }
    let source = Source::new(args, device, opened, aliases[0].clone())?;
    Ok((aliases, Box::new(source)))
}

/// A model that was fetched because a caller asked for it.
pub fn pulled(args: &ServeArgs, device: &Device, resolved: &Resolved) -> Result<Box<dyn ModelSource>> {
    let name = resolved.name.to_string();
    let opened = loading::open_resolved(&name, resolved)?;
    Ok(Box::new(Source::new(args, device, opened, name)?))
}

/// `MODEL=ALIAS`, or a model alone, whose path may hold an equals sign.
fn split_alias(text: &str) -> (&str, Option<String>) {
    match text.rsplit_once('=') {
        Some((name, alias)) if !alias.is_empty() && !alias.contains(['/', '\\']) => {
            (name, Some(alias.to_owned()))
        }
        _ => (text, None),
    }
}

fn info(
    opened: &Opened,
    config: &ModelConfig,
    (options, cache): (&LoadOptions, u64),
    template: Option<&Template>,
) -> ModelInfo {
    let file_bytes = opened.file.tensor_bytes();
    ModelInfo {
        architecture: opened.architecture(),
        parameters: opened.parameters(),
        format: opened.format(),
        file_bytes,
        memory_bytes: file_bytes.saturating_add(cache),
        context_length: options.context.unwrap_or(config.context_length).into(),
        embedding_length: config.n_embd as u64,
        template: template.map(|template| template.source().to_owned()),
    }
}

/// Bytes of the cache of a model loaded by `options`: as many as were asked for, or else a share of
/// what is free, but never too few for one context.
fn kv_budget(asked: Option<KvMemory>, config: &ModelConfig, options: &LoadOptions) -> u64 {
    let share = |percent: u8| options.memory.map_or(u64::MAX, |free| free / 100 * u64::from(percent));
    match asked.unwrap_or(KV_SHARE) {
        KvMemory::Bytes(bytes) => bytes,
        KvMemory::Percent(percent) => share(percent).max(one_context(config, options)),
    }
}

/// Bytes of the cache that one sequence of full length takes.
fn one_context(config: &ModelConfig, options: &LoadOptions) -> u64 {
    options.kv_cache_bytes(config, options.context.unwrap_or(config.context_length))
}

/// A model that can be loaded and unloaded.
struct Source {
    opened: Opened,
    config: ModelConfig,
    info: ModelInfo,
    alias: String,
    template: Option<String>,
    device: Device,
    load: LoadArgs,
    parallel: usize,
    kv_memory: Option<KvMemory>,
    max_requests: usize,
    deterministic: bool,
}

impl Source {
    fn new(args: &ServeArgs, device: &Device, opened: Opened, alias: String) -> Result<Self> {
        let config = model::check(&opened.file).with_context(|| format!("{} cannot run", opened.name))?;
        let named = args.chat_template.as_deref();
        let template =
            if named.is_some() || opened.has_template() { Some(opened.template(named)?) } else { None };
        let options = device.sized(loading::load_options(&args.load, &opened.file)?);
        let cache = one_context(&config, &options).saturating_mul(args.parallel.into());
        let cache = cache.min(kv_budget(args.kv_memory, &config, &options));
        Ok(Self {
            info: info(&opened, &config, (&options, cache), template.as_ref()),
            opened,
            config,
            alias,
            template: named.map(str::to_owned),
            device: device.clone(),
            load: args.load.clone(),
            parallel: args.parallel.into(),
            kv_memory: args.kv_memory,
            max_requests: args.max_requests as usize,
            deterministic: args.engine.deterministic,
        })
    }

    fn start(&self) -> Result<Model> {
        let loaded = match self.load_by(&self.load) {
            Err(error) => self.load_shorter(error)?,
            Ok(loaded) => loaded,
        };
        output::say(&self.plan(&loaded));
        let config = EngineConfig {
            name: self.alias.clone(),
            max_requests: self.max_requests,
            deterministic: self.deterministic,
        };
        let tokenizer = self.opened.tokenizer.clone();
        let engine = Engine::start(Box::new(loaded), tokenizer.clone(), config);
        let template = match &self.info.template {
            Some(_) => Some(self.opened.template(self.template.as_deref())?),
            None => None,
        };
        Ok(Model::new(engine, tokenizer, template))
    }

    /// What the model takes and what it can do with it, on one line.
    fn plan(&self, loaded: &LoadedModel) -> String {
        let memory = *loaded.memory();
        // Groups with a window give pages back; those without one hold every token.
        let full = loaded.groups().iter().filter(|group| group.window.is_none());
        let tokens = full.map(|group| u64::from(group.n_pages) * u64::from(group.page_size)).min();
        let shared =
            tokens.map_or_else(String::new, |tokens| format!(" for {tokens} tokens of all together"));
        format!(
            "{} · {} · up to {} replies at once, each of up to {} tokens · {} of weights, up to {} of KV \
             cache{shared}, {} of scratch",
            self.alias,
            loaded.description(),
            self.parallel,
            memory.context,
            HumanBytes(memory.weights),
            HumanBytes(memory.kv_cache),
            HumanBytes(memory.scratch),
        )
    }

    fn load_by(&self, args: &LoadArgs) -> Result<LoadedModel> {
        self.opened.load_on(&self.device, args, |options| {
            let kv_memory = Some(kv_budget(self.kv_memory, &self.config, &options));
            LoadOptions { kv_memory, ..loading::side_by_side(options, self.parallel) }
        })
    }

    /// Loads with the context that fits, where none was asked for.
    fn load_shorter(&self, error: anyhow::Error) -> Result<LoadedModel> {
        match error.downcast_ref() {
            Some(&(model::Error::Memory { fits, .. } | model::Error::CacheMemory { fits, .. }))
                if self.load.ctx.is_none() && fits >= SHORTEST_CONTEXT =>
            {
                let load = LoadArgs { ctx: Some(fits), ..self.load.clone() };
                self.load_by(&load)
            }
            Some(model::Error::CacheMemory { .. }) => Err(error.context("raise --kv-memory or lower --ctx")),
            _ => Err(error),
        }
    }
}

impl ModelSource for Source {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn load(&self) -> Result<Model, LoadError> {
        self.start().map_err(|error| LoadError(output::explain(&error)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aliases_follow_the_last_equals_sign() {
        assert_eq!(split_alias("smollm2-135m"), ("smollm2-135m", None));
        assert_eq!(split_alias("a.gguf=small"), ("a.gguf", Some("small".into())));
        assert_eq!(split_alias("x=1/a.gguf"), ("x=1/a.gguf", None));
        assert_eq!(split_alias("x=1/a.gguf=b"), ("x=1/a.gguf", Some("b".into())));
    }
}
