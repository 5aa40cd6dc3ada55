//! `quarrel serve`: models over HTTP.

use std::io::IsTerminal;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use engine::{Engine, EngineConfig};
use indicatif::HumanBytes;
use model::ModelConfig;
use server::{Bound, Config, Keys, LoadError, Model, ModelInfo, ModelSource, Registry, Residency, TlsFiles};
use tokenizer::template::Template;

use crate::args::{LoadArgs, LogFormat, NetworkArgs, ServeArgs};
use crate::loading::{self, Opened};
use crate::{environment, output};

/// Least context that is worth serving when memory does not allow the usual one.
const SHORTEST_CONTEXT: u32 = 512;

/// Serves until told to end.
pub fn run(args: ServeArgs) -> Result<()> {
    loading::check(&args.load)?;
    let address = address(&args.network)?;
    let config = config(&args)?;
    let insecure = args.network.insecure;
    watch_log(args.network.log_format);
    server::install_metrics();
    let residency = Residency {
        idle: args.idle_unload.map(Duration::from_secs),
        budget: args.memory.map(|gib| gib << 30),
    };
    let registry = Registry::new(sources(&args)?, residency)?;
    registry.preload()?;
    let names = registry.names().join(", ");
    server::serve(address, config, registry, insecure, |bound: &Bound| {
        output::say(&format!("serving {names} at {}://{}", bound.scheme(), bound.address()));
    })?;
    Ok(())
}

/// Shows the log on standard error.
fn watch_log(format: LogFormat) {
    let log = tracing_subscriber::fmt().with_writer(std::io::stderr).with_target(false);
    let log = log.with_ansi(std::io::stderr().is_terminal());
    match format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
}

fn address(args: &NetworkArgs) -> Result<SocketAddr> {
    let host = args.host.trim_start_matches('[').trim_end_matches(']');
    let found = (host, args.port).to_socket_addrs();
    let found = found.with_context(|| format!("--host {}: no such address", args.host))?.next();
    found.with_context(|| format!("--host {}: no such address", args.host))
}

fn config(args: &ServeArgs) -> Result<Config> {
    let network = &args.network;
    let read = |path: &Path| std::fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    let mut keys = Keys::default();
    if let Some(path) = &network.api_key_file {
        let text =
            String::from_utf8(read(path)?).with_context(|| format!("{} is not text", path.display()))?;
        keys = keys.and(Keys::parse(&text).with_context(|| path.display().to_string())?);
        if keys.is_empty() {
            bail!("{} holds no key", path.display());
        }
    }
    if let Some(text) = environment::api_keys() {
        keys = keys.and(Keys::parse(&text).context("QUARREL_API_KEYS")?);
    }
    let tls = match (&network.tls_cert, &network.tls_key) {
        (Some(certificates), Some(key)) => {
            Some(TlsFiles { certificates: read(certificates)?, key: read(key)? })
        }
        _ => None,
    };
    Ok(Config {
        keys,
        allowed_hosts: network.allow_host.clone(),
        allowed_origins: network.allow_origin.clone(),
        max_requests: args.max_requests as usize,
        timeout: Duration::from_secs(network.timeout),
        drain: Duration::from_secs(network.drain),
        tls,
        ..Config::default()
    })
}

/// Each model with the names it is served under.
type Sources = Vec<(Vec<String>, Box<dyn ModelSource>)>;

fn sources(args: &ServeArgs) -> Result<Sources> {
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
    let config = model::check(&opened.file).with_context(|| format!("{name} cannot run"))?;
    let named = args.chat_template.as_deref();
    let template =
        if named.is_some() || opened.has_template() { Some(opened.template(named)?) } else { None };
    let source = Source {
        info: info(&opened, &config, args, template.as_ref())?,
        opened,
        alias: aliases[0].clone(),
        template: named.map(str::to_owned),
        load: args.load.clone(),
        parallel: args.parallel.into(),
        max_requests: args.max_requests as usize,
        deterministic: args.engine.deterministic,
    };
    Ok((aliases, Box::new(source)))
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
    deterministic: bool,
}

impl Source {
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
