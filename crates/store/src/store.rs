//! The store: finds models on this machine and fetches those that are not.

use std::path::PathBuf;

use crate::builtin::{Builtin, Source};
use crate::cache::{Cache, Key, Record};
use crate::http::Client;
use crate::hub::QUANT_PREFERENCE;
use crate::ollama::{self, OllamaLayers};
use crate::{Config, Entry, Error, HubName, ModelName, Progress, Result, ShortName, fetch, path};

/// A model found on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The name it was found by.
    pub name: ModelName,
    /// What to open: a GGUF file, the first shard of a split one, or a safetensors directory.
    pub path: PathBuf,
    /// All its files, shards in order.
    pub files: Vec<PathBuf>,
    /// The layers of an Ollama model.
    pub ollama: Option<OllamaLayers>,
}

/// Models by name. Cheap to open: nothing is read or created before the first call that needs it.
#[derive(Debug)]
pub struct Store {
    config: Config,
    cache: Cache,
}

impl Store {
    /// A store with this configuration.
    pub fn open(config: Config) -> Self {
        let cache = Cache::new(config.cache_dir.clone());
        Store { config, cache }
    }

    /// Finds the model on this machine, without any network.
    ///
    /// # Errors
    /// [`Error::NotLocal`] where [`Store::pull`] would help; otherwise what is wrong with the path, the
    /// cache's entry or Ollama's store.
    pub fn resolve(&self, name: &ModelName) -> Result<Resolved> {
        let found = match name {
            ModelName::Path(path) => {
                let files = path::files_of(path)?;
                return Ok(Resolved { name: name.clone(), path: path.clone(), files, ollama: None });
            }
            ModelName::Ollama(ollama_name) => {
                let dir = self.config.ollama_dir.as_ref().ok_or(Error::NoOllama)?;
                let layers = ollama::find(dir, ollama_name)?;
                let (path, files) = (layers.model.clone(), vec![layers.model.clone()]);
                return Ok(Resolved { name: name.clone(), path, files, ollama: Some(layers) });
            }
            ModelName::Short(short) => match hub_name(short.0) {
                Some(hub) => self.cached_hub(&hub)?,
                None => self.cache.get(&builtin_key(short.0))?,
            },
            ModelName::Hub(hub) => self.cached_hub(hub)?,
        };
        let (entry, record) = found.ok_or_else(|| Error::NotLocal { name: name.to_string() })?;
        Ok(resolved(name, &entry, &record))
    }

    /// Finds the model on this machine or else fetches it. An interrupted pull is resumed.
    ///
    /// # Errors
    /// What went wrong with the network, the source or the disk; see [`Error`]. What has arrived is kept
    /// for the next call, unless its hash is wrong.
    pub fn pull(&self, name: &ModelName, progress: &mut dyn Progress) -> Result<Resolved> {
        match self.resolve(name) {
            Err(Error::NotLocal { .. } | Error::BadEntry { .. }) => {}
            found => return found,
        }
        let client = Client::new(self.config.ca_file.as_deref())?;
        let fetcher = fetch::Fetcher { config: &self.config, cache: &self.cache, client: &client };
        match name {
            ModelName::Short(short) => match (&short.0.source, hub_name(short.0)) {
                (Source::Packages(packages), _) => {
                    fetcher.packages(short.as_str(), packages, &builtin_key(short.0), progress)?;
                }
                (Source::Hub { .. }, hub) => {
                    fetcher.hub(&hub.expect("a Hub source has a Hub name"), progress)?;
                }
            },
            ModelName::Hub(hub) => fetcher.hub(hub, progress)?,
            ModelName::Path(_) | ModelName::Ollama(_) => {
                unreachable!("these resolve or fail, never NotLocal")
            }
        }
        self.resolve(name)
    }

    /// The models in the cache, by name; those with a short name under that.
    pub fn list(&self) -> Result<Vec<Entry>> {
        let mut entries = self.cache.list()?;
        for short in ShortName::all() {
            let Some(long) = hub_name(short.0).map(|hub| hub.to_string()) else { continue };
            for entry in entries.iter_mut().filter(|entry| entry.name == long) {
                entry.name = short.as_str().to_owned();
            }
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    /// Removes a model, or what an interrupted pull left of it, from the cache. Files given by path and
    /// Ollama's are never touched.
    ///
    /// # Errors
    /// [`Error::NotInCache`] if there is nothing to remove.
    pub fn remove(&self, name: &ModelName, progress: &mut dyn Progress) -> Result<()> {
        let key = match name {
            ModelName::Short(short) => match hub_name(short.0) {
                Some(hub) => self.hub_key_present(&hub)?,
                None => Some(builtin_key(short.0)),
            },
            ModelName::Hub(hub) => self.hub_key_present(hub)?,
            ModelName::Path(_) | ModelName::Ollama(_) => None,
        };
        let removed = key.map(|key| self.cache.remove(&key, progress)).transpose()?;
        if removed == Some(true) { Ok(()) } else { Err(Error::NotInCache { name: name.to_string() }) }
    }
}

impl Store {
    /// The entry for a Hub name: the quantisation it names, or else the first we would choose of those
    /// that are here.
    fn cached_hub(&self, hub: &HubName) -> Result<Option<(Entry, Record)>> {
        let mut found = Vec::new();
        for quant in self.cache.children(&hub_key(hub, &[]))? {
            let Some((entry, record)) = self.cache.get(&hub_key(hub, &[&quant]))? else { continue };
            match hub.quant() {
                Some(asked) if quant.eq_ignore_ascii_case(asked) || record.main.as_deref() == Some(asked) => {
                    return Ok(Some((entry, record)));
                }
                Some(_) => {}
                None => found.push((preference(&quant), entry, record)),
            }
        }
        let best = found.into_iter().min_by_key(|(preference, ..)| *preference);
        Ok(best.map(|(_, entry, record)| (entry, record)))
    }

    /// The one place in the cache, complete or not, that a Hub name means.
    fn hub_key_present(&self, hub: &HubName) -> Result<Option<Key>> {
        let present = self.cache.children(&hub_key(hub, &[]))?;
        let asked = |quant: &&String| hub.quant().is_none_or(|asked| quant.eq_ignore_ascii_case(asked));
        let candidates: Vec<&String> = present.iter().filter(asked).collect();
        match candidates[..] {
            [] => Ok(None),
            [quant] => Ok(Some(hub_key(hub, &[quant]))),
            [..] => Err(Error::Ambiguous {
                repo: hub.repo_id(),
                wanted: hub.to_string(),
                available: present.join(", "),
            }),
        }
    }
}

/// Where a quantisation stands in the order of preference; unknown ones come last.
fn preference(quant: &str) -> usize {
    QUANT_PREFERENCE.iter().position(|q| *q == quant).unwrap_or(QUANT_PREFERENCE.len())
}

/// The Hub's name of a built-in that is published there.
fn hub_name(builtin: &Builtin) -> Option<HubName> {
    match builtin.source {
        Source::Hub { owner, repo, quant } => {
            Some(HubName::new(owner, repo, Some(quant)).expect("built-in names are well-formed"))
        }
        Source::Packages(_) => None,
    }
}

fn builtin_key(builtin: &Builtin) -> Key {
    Key::new(&["builtin", builtin.name])
}

/// `hf/owner/repo` and what follows.
pub(crate) fn hub_key(hub: &HubName, rest: &[&str]) -> Key {
    Key::new(&[&["hf", hub.owner(), hub.repo()], rest].concat())
}

fn resolved(name: &ModelName, entry: &Entry, record: &Record) -> Resolved {
    let dir = match record.main {
        Some(_) => entry.path.parent().expect("an entry's file lies in its directory"),
        None => &entry.path,
    };
    let files = record.files.iter().map(|f| dir.join(&f.name)).collect();
    Resolved { name: name.clone(), path: entry.path.clone(), files, ollama: None }
}
