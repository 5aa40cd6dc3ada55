//! The models that are served: loaded when first asked for, unloaded when
//! nobody has asked for a while or when another needs their memory.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use engine::{Engine, ReplyFormat};
use tokenizer::Tokenizer;
use tokenizer::template::{Capabilities, Template};

use crate::error::{ApiError, Result};

/// A model that is in memory and runs.
pub struct Model {
    /// The loop that runs it.
    pub engine: Engine,
    /// Text to tokens and back.
    pub tokenizer: Arc<Tokenizer>,
    /// Turns conversations into text; `None`: the model only continues texts.
    pub template: Option<Arc<Template>>,
    /// What the template can show.
    pub capabilities: Option<Capabilities>,
    /// How the model writes reasoning and calls of tools.
    pub replies: ReplyFormat,
}

impl Model {
    /// A running engine and its vocabulary.
    pub fn new(engine: Engine, tokenizer: Arc<Tokenizer>, template: Option<Template>) -> Self {
        let capabilities = template.as_ref().map(Template::capabilities);
        let replies = template.as_ref().map(|template| ReplyFormat::detect(template.source()));
        let replies = replies.unwrap_or_default();
        Self { engine, tokenizer, template: template.map(Arc::new), capabilities, replies }
    }

    /// Whether the template shows tools and how the model calls them is known.
    pub(crate) fn knows_tools(&self) -> bool {
        self.capabilities.is_some_and(|c| c.tools) && self.replies.tools.is_some()
    }
}

/// What can be said of a model without loading it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ModelInfo {
    /// Architecture, as the file names it.
    pub architecture: String,
    /// Number of weights.
    pub parameters: u64,
    /// The format of most weights.
    pub format: String,
    /// Bytes of its file.
    pub file_bytes: u64,
    /// Bytes that it takes once loaded: weights, cache and scratch.
    pub memory_bytes: u64,
    /// Longest context in tokens.
    pub context_length: u64,
    /// Size of its embeddings.
    pub embedding_length: u64,
    /// Source of its chat template.
    pub template: Option<String>,
}

/// Why a model could not be loaded; the reasons go to the log, not to callers.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct LoadError(pub String);

/// Where a model comes from.
pub trait ModelSource: Send + Sync + 'static {
    /// What it is.
    fn info(&self) -> &ModelInfo;

    /// Loads and starts it; may take long, and is called on a thread that may block.
    ///
    /// # Errors
    /// [`LoadError`] with the reasons.
    fn load(&self) -> Result<Model, LoadError>;
}

/// When models leave memory.
#[derive(Debug, Clone, Copy, Default)]
pub struct Residency {
    /// After so long without a request; `None`: never.
    pub idle: Option<Duration>,
    /// When the models together would take more bytes; `None`: never.
    pub budget: Option<u64>,
}

/// All models by the names they are served under.
pub struct Registry {
    slots: Vec<Arc<Slot>>,
    /// Names in the order given, each with its slot.
    names: Vec<(String, usize)>,
    residency: Residency,
    /// Held while anything is loaded or unloaded.
    loading: tokio::sync::Mutex<()>,
}

struct Slot {
    source: Box<dyn ModelSource>,
    state: Mutex<State>,
}

struct State {
    model: Option<Arc<Model>>,
    /// When the last request ended.
    used: Instant,
}

/// Why a registry could not be set up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// Nothing to serve.
    #[error("no model is named")]
    Empty,
    /// A name that two models claim.
    #[error("two models are called `{0}`; give one another alias: --model MODEL=ALIAS")]
    Twice(String),
}

impl Registry {
    /// Serves each source under its names.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn new(
        models: Vec<(Vec<String>, Box<dyn ModelSource>)>,
        residency: Residency,
    ) -> Result<Self, RegistryError> {
        let (mut slots, mut names) = (Vec::new(), Vec::new());
        let mut seen = BTreeMap::new();
        for (i, (aliases, source)) in models.into_iter().enumerate() {
            for alias in aliases {
                if seen.insert(alias.clone(), i).is_some() {
                    return Err(RegistryError::Twice(alias));
                }
                names.push((alias, i));
            }
            let state = Mutex::new(State { model: None, used: Instant::now() });
            slots.push(Arc::new(Slot { source, state }));
        }
        if names.is_empty() {
            return Err(RegistryError::Empty);
        }
        Ok(Self { slots, names, residency, loading: tokio::sync::Mutex::default() })
    }

    /// The names, in the order given.
    pub fn names(&self) -> Vec<String> {
        self.names.iter().map(|(name, _)| name.clone()).collect()
    }

    /// Loads the first model, before anything is served.
    ///
    /// # Errors
    /// Whatever its source says.
    pub fn preload(&self) -> Result<(), LoadError> {
        let slot = &self.slots[self.names[0].1];
        let model = slot.source.load()?;
        slot.lock().model = Some(Arc::new(model));
        Ok(())
    }

    /// What each name stands for, and whether it is in memory.
    pub fn list(&self) -> impl Iterator<Item = Listed<'_>> {
        self.names.iter().map(|(name, slot)| {
            let slot = &self.slots[*slot];
            Listed { name, info: slot.source.info(), loaded: slot.running().is_some() }
        })
    }

    /// The name under which a model is served, as a caller wrote it: nothing is
    /// the first model, and Ollama's `:latest` goes without saying.
    ///
    /// # Errors
    /// 404 with the names there are.
    pub fn resolve<'a>(&'a self, name: Option<&str>) -> Result<Listed<'a>> {
        let Some(wanted) = name else { return Ok(self.list().next().expect("a registry is not empty")) };
        let bare = wanted.strip_suffix(":latest").unwrap_or(wanted);
        let found = self.list().find(|listed| listed.name == wanted || listed.name == bare);
        found.ok_or_else(|| ApiError::no_such_model(&shorten(wanted), &self.names()))
    }

    /// The running model of that name, loaded first if it is not in memory.
    ///
    /// # Errors
    /// 404 for an unknown name, 503 when there is no room now, 500 when it cannot be loaded.
    pub async fn acquire(self: &Arc<Self>, name: Option<&str>) -> Result<Lease> {
        let name = self.resolve(name)?.name.to_owned();
        let index = self.names.iter().find(|(known, _)| *known == name).map_or(0, |(_, slot)| *slot);
        if let Some(model) = self.slots[index].running() {
            return Ok(Lease { model: Some(model), slot: self.slots[index].clone(), name });
        }
        let registry = self.clone();
        // A task of its own: it goes on when the caller leaves, and others wait for it too.
        let loading = tokio::spawn(async move { registry.load(index).await });
        let model = loading.await.unwrap_or_else(|_| Err(ApiError::internal()))?;
        Ok(Lease { model: Some(model), slot: self.slots[index].clone(), name })
    }

    async fn load(&self, index: usize) -> Result<Arc<Model>> {
        let _one_at_a_time = self.loading.lock().await;
        let slot = self.slots[index].clone();
        if let Some(model) = slot.running() {
            return Ok(model);
        }
        self.make_room(slot.source.info().memory_bytes).await?;
        let begun = Instant::now();
        let loading = slot.clone();
        let loaded = tokio::task::spawn_blocking(move || loading.source.load()).await;
        let model = match loaded {
            Ok(Ok(model)) => Arc::new(model),
            Ok(Err(error)) => {
                tracing::error!(%error, "a model cannot be loaded");
                return Err(ApiError {
                    message: "the model cannot be loaded; the server's log says why".into(),
                    ..ApiError::internal()
                });
            }
            Err(_) => return Err(ApiError::internal()),
        };
        tracing::info!(seconds = begun.elapsed().as_secs_f64(), "loaded a model");
        let mut state = slot.lock();
        state.used = Instant::now();
        state.model = Some(model.clone());
        Ok(model)
    }

    /// Unloads what was not used for longest until `needed` bytes fit the budget.
    async fn make_room(&self, needed: u64) -> Result<()> {
        let Some(budget) = self.residency.budget else { return Ok(()) };
        loop {
            let loaded: Vec<_> = self.slots.iter().filter(|slot| slot.running().is_some()).collect();
            let taken: u64 = loaded.iter().map(|slot| slot.source.info().memory_bytes).sum();
            // One model alone may exceed the budget: it is what memory planning allowed.
            if loaded.is_empty() || taken.saturating_add(needed) <= budget {
                return Ok(());
            }
            let oldest =
                loaded.iter().filter_map(|slot| Some((slot.idle_since()?, *slot))).min_by_key(|o| o.0);
            let Some((_, slot)) = oldest else {
                let message = "other models are busy and leave no memory for this one; try again later";
                return Err(ApiError { message: message.into(), ..ApiError::overloaded() });
            };
            slot.unload().await;
        }
    }

    /// Unloads models that nobody has used for the idle time.
    pub async fn unload_idle(&self) {
        let Some(limit) = self.residency.idle else { return };
        let _one_at_a_time = self.loading.lock().await;
        for slot in &self.slots {
            if slot.idle_since().is_some_and(|since| since.elapsed() >= limit) {
                slot.unload().await;
            }
        }
    }

    /// How often [`unload_idle`](Self::unload_idle) should run; `None`: never.
    pub fn idle_check_every(&self) -> Option<Duration> {
        self.residency.idle.map(|idle| (idle / 4).clamp(Duration::from_millis(100), Duration::from_secs(30)))
    }
}

/// A model as it is served.
pub struct Listed<'a> {
    /// The name.
    pub name: &'a str,
    /// What it is.
    pub info: &'a ModelInfo,
    /// Whether it is in memory.
    pub loaded: bool,
}

impl Slot {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // Nothing that holds the lock can leave the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn running(&self) -> Option<Arc<Model>> {
        self.lock().model.clone()
    }

    /// Since when a loaded model has had no request; `None` while it has one.
    fn idle_since(&self) -> Option<Instant> {
        let state = self.lock();
        let model = state.model.as_ref()?;
        (Arc::strong_count(model) == 1).then_some(state.used)
    }

    /// Ends the engine, unless somebody has just begun to use it.
    async fn unload(&self) {
        let model = {
            let mut state = self.lock();
            match state.model.take() {
                Some(model) if Arc::strong_count(&model) == 1 => model,
                busy => {
                    state.model = busy;
                    return;
                }
            }
        };
        tracing::info!("unloads a model");
        // Waits for the engine's thread and unmaps the weights.
        let _ = tokio::task::spawn_blocking(move || drop(model)).await;
    }
}

/// A running model, kept in memory as long as this lives.
pub struct Lease {
    /// Taken only by drop.
    model: Option<Arc<Model>>,
    slot: Arc<Slot>,
    /// The name it was asked for by.
    pub name: String,
}

impl Lease {
    /// The model itself.
    pub fn model(&self) -> Arc<Model> {
        self.model.clone().expect("only drop takes the model")
    }
}

impl Deref for Lease {
    type Target = Model;

    fn deref(&self) -> &Model {
        self.model.as_ref().expect("only drop takes the model")
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut state = self.slot.lock();
        state.used = Instant::now();
        // Under the lock, so that the count an unloading sees is true; the slot
        // keeps the model, so that this never waits for an engine to end.
        self.model = None;
    }
}

/// A caller's text, short enough to be quoted.
fn shorten(text: &str) -> String {
    const LONGEST: usize = 100;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
