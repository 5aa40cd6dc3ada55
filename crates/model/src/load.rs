//! Loading: configuration, weights, memory plan, cache and lowered steps.

use backend::{Backend, Bucket, KvFormat};
use gguf::ModelFile;

use crate::config::ModelConfig;
use crate::forward::{self, ForwardStep, Hidden};
use crate::loaded::{LoadedModel, LoweredBucket, LoweredStep};
use crate::memory::{self, CacheNeeds, MemoryPlan, PAGE_SIZE};
use crate::{CacheGroup, Error, Result, RunnerLimits, weights};

/// How to load a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadOptions {
    /// Longest context of one sequence, in tokens; `None`: the model's own, or
    /// what fits `memory`.
    pub context: Option<u32>,
    /// How keys are cached.
    pub kv_k: KvFormat,
    /// How values are cached.
    pub kv_v: KvFormat,
    /// Rows a step; longer prompts run in chunks.
    pub max_batch_tokens: usize,
    /// Sequences a step.
    pub max_sequences: usize,
    /// Bytes of the cache, whose pages all sequences share: at least those of one sequence of full
    /// length; `None`: those of `max_sequences`.
    pub kv_memory: Option<u64>,
    /// Rows a step whose logits are wanted.
    pub max_outputs: usize,
    /// Bytes that weights, cache and scratch may take; `None`: only the device's word counts.
    pub memory: Option<u64>,
}

impl Default for LoadOptions {
    /// One sequence, chunks of 512, an f16 cache, the model's own context.
    fn default() -> Self {
        Self {
            context: None,
            kv_k: KvFormat::F16,
            kv_v: KvFormat::F16,
            max_batch_tokens: 512,
            max_sequences: 1,
            kv_memory: None,
            max_outputs: 1,
            memory: None,
        }
    }
}

impl LoadOptions {
    fn check(&self) -> Result<()> {
        let outputs = self.max_outputs;
        for (option, found) in [
            ("max_batch_tokens", self.max_batch_tokens),
            ("max_sequences", self.max_sequences),
            ("max_outputs", outputs),
        ] {
            if found == 0 || found > 1 << 20 {
                let problem = format!("is {found}, but must be from 1 to {}", 1 << 20);
                return Err(Error::Option { option, problem });
            }
        }
        match self.context {
            Some(0) => Err(Error::Option { option: "context", problem: "must be at least 1".into() }),
            _ => Ok(()),
        }
    }

    /// Bytes of keys and values for one sequence of `context` tokens.
    pub fn kv_cache_bytes(&self, model: &ModelConfig, context: u32) -> u64 {
        self.needs().bytes_of_one(model, context)
    }

    fn needs(&self) -> CacheNeeds {
        CacheNeeds {
            kv_k: self.kv_k,
            kv_v: self.kv_v,
            max_batch_tokens: self.max_batch_tokens,
            max_sequences: self.max_sequences,
            budget: self.kv_memory,
        }
    }

    /// Chooses the context and the cache's size, and adds everything up.
    fn plan(&self, config: &ModelConfig, weights: u64, scratch: u64) -> Result<(CacheNeeds, MemoryPlan)> {
        let wanted = self.wanted_context(config)?;
        let left = self.memory.unwrap_or(u64::MAX).saturating_sub(weights).saturating_sub(scratch);
        // A cache that is shared takes what is left when that is less than it may take.
        let needs = CacheNeeds { budget: self.kv_memory.map(|budget| budget.min(left)), ..self.needs() };
        let plan = |context| {
            let kv_cache = needs.bytes(config, context);
            (needs, MemoryPlan { weights, kv_cache, scratch, context })
        };
        let Some(limit) = self.memory.filter(|&limit| plan(wanted).1.total() > limit) else {
            return Ok(plan(wanted));
        };
        let fits = needs.longest_context(config, left, wanted);
        match self.context {
            None if fits >= PAGE_SIZE => Ok(plan(fits)),
            _ => Err(Error::Memory { plan: plan(wanted).1, limit, fits }),
        }
    }

    /// The context that was asked for; if none was, the model's own or the longest that fits the cache.
    fn wanted_context(&self, config: &ModelConfig) -> Result<u32> {
        let wanted = self.context.unwrap_or(config.context_length);
        if wanted > config.context_length {
            return Err(Error::Option {
                option: "context",
                problem: format!("is {wanted}, but the model was trained for {}", config.context_length),
            });
        }
        let Some(budget) = self.kv_memory else { return Ok(wanted) };
        let one = CacheNeeds { max_sequences: 1, budget: None, ..self.needs() };
        let fits = one.longest_context(config, budget, wanted);
        if fits == wanted || (self.context.is_none() && fits >= PAGE_SIZE) {
            return Ok(fits);
        }
        Err(Error::CacheMemory { needed: one.bytes(config, wanted), context: wanted, budget, fits })
    }
}

/// Whether a file holds a model that this build can compute with; nothing is loaded.
///
/// # Errors
/// As [`load`], without what depends on device and memory.
pub fn check(file: &ModelFile) -> Result<ModelConfig> {
    let config = ModelConfig::from_file(file)?;
    let (_, weights) = weights::take(file, &config)?;
    match weights.iter().find(|weight| weight.format().support() == gguf::format::Support::Listed) {
        None => Ok(config),
        Some(weight) => Err(Error::Tensor {
            name: weight.name().to_owned(),
            problem: format!("is stored as {}, which this build only lists", weight.format()),
        }),
    }
}

/// Loads a model onto a backend.
///
/// # Errors
/// [`Error::UnknownArchitecture`], [`Error::Config`] and [`Error::Tensor`] for
/// files that are no model we know; [`Error::Memory`] with the numbers when it
/// does not fit; [`Error::Option`]; [`Error::Backend`] when the device lacks a
/// kernel or memory.
pub fn load(file: &ModelFile, mut backend: Box<dyn Backend>, options: &LoadOptions) -> Result<LoadedModel> {
    options.check()?;
    let config = ModelConfig::from_file(file)?;
    let (map, weights) = weights::take(file, &config)?;
    // The rotary tables depend on the context, the buffers do not.
    let sizes = forward::write_step(&config, &map, config.context_length, Hidden::Kept).step;
    let max_outputs = options.max_outputs.min(options.max_batch_tokens);
    let scratch = memory::scratch(&sizes, options.max_batch_tokens, max_outputs);
    let weight_bytes = weights.iter().map(|weight| backend.weight_bytes(weight)).sum();
    let (needs, plan) = options.plan(&config, weight_bytes, scratch)?;
    let cache = needs.config(&config, plan.context)?;
    let limits = RunnerLimits {
        n_vocab: config.n_vocab,
        max_context: plan.context,
        max_batch_tokens: options.max_batch_tokens,
        max_sequences: options.max_sequences,
        max_outputs,
    };
    backend.load(weights)?;
    backend.create_cache(&cache)?;
    let mut step = |hidden| {
        let forward = forward::write_step(&config, &map, plan.context, hidden);
        lower(backend.as_mut(), forward, &limits)
    };
    let (step, hidden_step) = (step(Hidden::Dropped)?, step(Hidden::Kept)?);
    let groups = cache.groups.iter().map(|group| CacheGroup {
        n_pages: group.n_pages,
        page_size: group.page_size,
        window: group.window,
    });
    Ok(LoadedModel {
        file: file.clone(),
        config,
        plan,
        backend,
        step,
        hidden_step,
        groups: groups.collect(),
        limits,
        last: None,
        completed: None,
        logits: Vec::new(),
        hidden: Vec::new(),
    })
}

/// Lowers the step for batches of 1, 2, 4, … rows up to the largest.
fn lower(backend: &mut dyn Backend, forward: ForwardStep, limits: &RunnerLimits) -> Result<LoweredStep> {
    let largest = limits.max_batch_tokens;
    let powers = std::iter::successors(Some(1), |n| Some(n * 2)).take_while(|&n| n < largest);
    let bucket = |tokens: usize| Bucket {
        tokens,
        sequences: limits.max_sequences.min(tokens),
        outputs: limits.max_outputs.min(tokens),
        max_pages: limits.max_context.div_ceil(PAGE_SIZE) as usize,
    };
    let buckets: Vec<_> = powers.chain([largest]).map(bucket).collect();
    let ids = backend.lower_all(&forward.step, &buckets)?;
    let buckets = ids.into_iter().zip(buckets).map(|(id, bucket)| LoweredBucket { id, bucket });
    Ok(LoweredStep { buckets: buckets.collect(), logits: forward.logits, hidden: forward.hidden })
}
