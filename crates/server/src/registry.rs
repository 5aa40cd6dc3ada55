//! The models that are served: loaded when first asked for, unloaded when
//! nobody has asked for a while or when another needs their memory.

use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use engine::{Engine, ReplyFormat};
use tokenizer::Tokenizer;
use tokenizer::template::{Capabilities, Template};

use crate::error::{ApiError, Result};
use crate::pace::Pace;

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
    pub(crate) pace: Pace,
}

impl Model {
    /// A running engine and its vocabulary.
    pub fn new(engine: Engine, tokenizer: Arc<Tokenizer>, template: Option<Template>) -> Self {
        let capabilities = template.as_ref().map(Template::capabilities);
        let replies = template.as_ref().map(|template| ReplyFormat::detect(template.source()));
        Self {
            engine,
            tokenizer,
            template: template.map(Arc::new),
            capabilities,
            replies: replies.unwrap_or_default(),
            pace: Pace::default(),
        }
    }

    /// Whether the template shows tools and how the model calls them is known.
    pub(crate) fn knows_tools(&self) -> bool {
        self.capabilities.is_some_and(|c| c.tools) && self.replies.tools.is_some()
    }

    /// How long a new reply would wait to start.
    pub(crate) fn wait(&self) -> Duration {
        self.pace.wait(self.engine.load(), self.engine.limits().max_sequences)
    }

    /// How long until a place comes free.
    pub(crate) fn next_place(&self) -> Duration {
        self.pace.next_place(self.engine.limits().max_sequences)
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
    /// Names in the order given, each with its slot; never empty. It only grows.
    names: RwLock<Vec<(String, Arc<Slot>)>>,
    residency: Residency,
    /// Held while anything is loaded or unloaded.
    loading: tokio::sync::Mutex<()>,
}

struct Slot {
    source: Box<dyn ModelSource>,
    info: Arc<ModelInfo>,
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
        let mut names = Vec::new();
        for (aliases, source) in models {
            let slot = Slot::new(source);
            for alias in aliases {
                if names.iter().any(|(known, _)| *known == alias) {
                    return Err(RegistryError::Twice(alias));
                }
                names.push((alias, slot.clone()));
            }
        }
        if names.is_empty() {
            return Err(RegistryError::Empty);
        }
        Ok(Self { names: RwLock::new(names), residency, loading: tokio::sync::Mutex::default() })
    }

    /// The names, in the order given.
    pub fn names(&self) -> Vec<String> {
        self.read().iter().map(|(name, _)| name.clone()).collect()
    }

    /// Serves one more model, unless the name is taken.
    pub(crate) fn add(&self, name: &str, source: Box<dyn ModelSource>) {
        let mut names = self.names.write().unwrap_or_else(PoisonError::into_inner);
        if !names.iter().any(|(known, _)| known == name) {
            names.push((name.to_owned(), Slot::new(source)));
        }
    }

    /// Nothing that holds the lock can leave the list half changed.
    fn read(&self) -> std::sync::RwLockReadGuard<'_, Vec<(String, Arc<Slot>)>> {
        self.names.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Each model once.
    fn slots(&self) -> Vec<Arc<Slot>> {
        let mut slots: Vec<Arc<Slot>> = Vec::new();
        for (_, slot) in self.read().iter() {
            if !slots.iter().any(|known| Arc::ptr_eq(known, slot)) {
                slots.push(slot.clone());
            }
        }
        slots
    }

    /// Loads the first model, before anything is served.
    ///
    /// # Errors
    /// Whatever its source says.
    pub fn preload(&self) -> Result<(), LoadError> {
        let slot = self.read()[0].1.clone();
        let model = slot.source.load()?;
        slot.lock().model = Some(Arc::new(model));
        Ok(())
    }

    /// What each name stands for, and whether it is in memory.
    pub fn list(&self) -> Vec<Listed> {
        self.read().iter().map(|(name, slot)| Listed::new(name, slot)).collect()
    }

    /// The name under which a model is served, as a caller wrote it: nothing is
    /// the first model, and Ollama's `:latest` goes without saying.
    ///
    /// # Errors
    /// 404 with the names there are.
    pub fn resolve(&self, name: Option<&str>) -> Result<Listed> {
        let names = self.read();
        let Some(wanted) = name else { return Ok(Listed::new(&names[0].0, &names[0].1)) };
        let bare = wanted.strip_suffix(":latest").unwrap_or(wanted);
        let found = names.iter().find(|(known, _)| known == wanted || known == bare);
        match found {
            Some((name, slot)) => Ok(Listed::new(name, slot)),
            None => {
                let served: Vec<_> = names.iter().map(|(name, _)| name.clone()).collect();
                Err(ApiError::no_such_model(&shorten(wanted), &served))
            }
        }
    }

    /// The running model of that name, loaded first if it is not in memory.
    ///
    /// # Errors
    /// 404 for an unknown name, 503 when there is no room now, 500 when it cannot be loaded.
    pub async fn acquire(self: &Arc<Self>, name: Option<&str>) -> Result<Lease> {
        let Listed { name, slot, .. } = self.resolve(name)?;
        if let Some(model) = slot.running() {
            return Ok(Lease { model: Some(model), slot, name });
        }
        let (registry, wanted) = (self.clone(), slot.clone());
        // A task of its own: it goes on when the caller leaves, and others wait for it too.
        let loading = tokio::spawn(async move { registry.load(wanted).await });
        let model = loading.await.unwrap_or_else(|_| Err(ApiError::internal()))?;
        Ok(Lease { model: Some(model), slot, name })
    }

    async fn load(&self, slot: Arc<Slot>) -> Result<Arc<Model>> {
        let _one_at_a_time = self.loading.lock().await;
        if let Some(model) = slot.running() {
            return Ok(model);
        }
        self.make_room(slot.info.memory_bytes).await?;
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
            let mut loaded = self.slots();
            loaded.retain(|slot| slot.running().is_some());
            let taken: u64 = loaded.iter().map(|slot| slot.info.memory_bytes).sum();
            // One model alone may exceed the budget: it is what memory planning allowed.
            if loaded.is_empty() || taken.saturating_add(needed) <= budget {
                return Ok(());
            }
            let oldest =
                loaded.iter().filter_map(|slot| Some((slot.idle_since()?, slot))).min_by_key(|o| o.0);
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
        for slot in self.slots() {
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
pub struct Listed {
    /// The name.
    pub name: String,
    /// What it is.
    pub info: Arc<ModelInfo>,
    /// Whether it is in memory.
    pub loaded: bool,
    slot: Arc<Slot>,
}

impl Listed {
    /// How long until a place of the model comes free, as far as that is known.
    pub(crate) fn next_place(&self) -> Duration {
        self.slot.running().map_or(Duration::ZERO, |model| model.next_place())
    }

    fn new(name: &str, slot: &Arc<Slot>) -> Self {
        let loaded = slot.running().is_some();
        Self { name: name.to_owned(), info: slot.info.clone(), loaded, slot: slot.clone() }
    }
}

impl Slot {
    fn new(source: Box<dyn ModelSource>) -> Arc<Self> {
        let info = Arc::new(source.info().clone());
        Arc::new(Self { source, info, state: Mutex::new(State { model: None, used: Instant::now() }) })
    }

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
pub(crate) fn shorten(text: &str) -> String {
    const LONGEST: usize = 100;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
