//! The models that are served: opened, described, loaded when they are asked for.

use anyhow::{Context, Result};
use engine::{Engine, EngineConfig};
use indicatif::HumanBytes;
use model::ModelConfig;
use server::{LoadError, Model, ModelInfo, ModelSource};
use store::Resolved;
use tokenizer::template::Template;

use crate::args::{LoadArgs, ServeArgs};
use crate::loading::{self, Opened};
use crate::output;

/// Least context that is worth serving when memory does not allow the usual one.
const SHORTEST_CONTEXT: u32 = 512;

/// Each model with the names it is served under.
type Sources = Vec<(Vec<String>, Box<dyn ModelSource>)>;

/// Every model that the command line names, opened.
pub fn all(args: &ServeArgs) -> Result<Sources> {
    let mut named: Vec<(&str, Vec<String>)> = Vec::new();
    for model in &args.models {
        let (name, alias) = split_alias(model);
        match named.iter_mut().find(|(known, _)| *known == name) {
            Some((_, aliases)) => aliases.extend(alias),
            None => named.push((name, alias.into_iter().collect())),
        }
    }
    named.into_iter().map(|(name, aliases)| source(args, name, aliases)).collect()
}

fn source(
    args: &ServeArgs,
    name: &str,
    mut aliases: Vec<String>,
) -> Result<(Vec<String>, Box<dyn ModelSource>)> {
    let opened = loading::open(name)?;
    if aliases.is_empty() {
        aliases.push(opened.name.trim_end_matches(".gguf").to_owned());
    }
    let source = Source::new(args, opened, aliases[0].clone())?;
    Ok((aliases, Box::new(source)))
}

/// A model that was fetched because a caller asked for it.
pub fn pulled(args: &ServeArgs, resolved: &Resolved) -> Result<Box<dyn ModelSource>> {
    let name = resolved.name.to_string();
    let opened = loading::open_resolved(&name, resolved)?;
    Ok(Box::new(Source::new(args, opened, name)?))
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
    args: &ServeArgs,
    template: Option<&Template>,
) -> Result<ModelInfo> {
    let context = args.load.ctx.unwrap_or(config.context_length.min(loading::DEFAULT_CONTEXT));
    let (kv_k, kv_v) = loading::kv_formats(&args.load.kv)?;
    let cache = model::kv_cache_bytes(config, context, kv_k, kv_v).saturating_mul(args.parallel.into());
    let file_bytes = opened.file.tensor_bytes();
    Ok(ModelInfo {
        architecture: opened.architecture(),
        parameters: opened.parameters(),
        format: opened.format(),
        file_bytes,
        memory_bytes: file_bytes.saturating_add(cache),
        context_length: context.into(),
        embedding_length: config.n_embd as u64,
        template: template.map(|template| template.source().to_owned()),
    })
}

/// A model that can be loaded and unloaded.
struct Source {
    opened: Opened,
    info: ModelInfo,
    alias: String,
    template: Option<String>,
    load: LoadArgs,
    parallel: usize,
    max_requests: usize,
}

impl Source {
    fn new(args: &ServeArgs, opened: Opened, alias: String) -> Result<Self> {
        let config = model::check(&opened.file).with_context(|| format!("{} cannot run", opened.name))?;
        let named = args.chat_template.as_deref();
        let template =
            if named.is_some() || opened.has_template() { Some(opened.template(named)?) } else { None };
        Ok(Self {
            info: info(&opened, &config, args, template.as_ref())?,
            opened,
            alias,
            template: named.map(str::to_owned),
            load: args.load.clone(),
            parallel: args.parallel.into(),
            max_requests: args.max_requests as usize,
        })
    }

    fn start(&self) -> Result<Model> {
        let loaded = match self.opened.load_for_batch(&self.load, self.parallel) {
            Err(error) => self.load_shorter(error)?,
            Ok(loaded) => loaded,
        };
        let memory = *loaded.memory();
        output::say(&format!(
            "{} · {} · {} slots of {} tokens · {} of weights, up to {} of KV cache, {} of scratch",
            self.alias,
            model::ModelRunner::description(&loaded),
            self.parallel,
            memory.context,
            HumanBytes(memory.weights),
            HumanBytes(memory.kv_cache),
            HumanBytes(memory.scratch),
        ));
        let config = EngineConfig { name: self.alias.clone(), max_requests: self.max_requests };
        let tokenizer = self.opened.tokenizer.clone();
        let engine = Engine::start(Box::new(loaded), tokenizer.clone(), config);
        let template = match &self.info.template {
            Some(_) => Some(self.opened.template(self.template.as_deref())?),
            None => None,
        };
        Ok(Model::new(engine, tokenizer, template))
    }

    /// Loads with the context that fits, where none was asked for.
    fn load_shorter(&self, error: anyhow::Error) -> Result<model::LoadedModel> {
        match error.downcast_ref() {
            Some(&model::Error::Memory { fits, .. })
                if self.load.ctx.is_none() && fits >= SHORTEST_CONTEXT =>
            {
                let load = LoadArgs { ctx: Some(fits), ..self.load.clone() };
                self.opened.load_for_batch(&load, self.parallel)
            }
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
