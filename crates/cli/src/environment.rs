//! The environment variables Quarrel knows; no other file of it reads any.

use std::env;
use std::path::PathBuf;

/// Where models are cached: `QUARREL_CACHE`, else the platform's cache directory.
pub fn cache_dir() -> anyhow::Result<PathBuf> {
    if let Some(dir) = path("QUARREL_CACHE") {
        return Ok(dir);
    }
    let base = if cfg!(target_os = "macos") {
        home().map(|home| home.join("Library/Caches"))
    } else {
        path("XDG_CACHE_HOME").or_else(|| home().map(|home| home.join(".cache")))
    };
    let base = base.ok_or_else(|| anyhow::anyhow!("no home directory; set QUARREL_CACHE to a directory"))?;
    Ok(base.join("quarrel"))
}

/// Where chat keeps its history: beside the cache.
pub fn history_file() -> Option<PathBuf> {
    cache_dir().ok().map(|dir| dir.join("chat_history"))
}

/// Where compiled GPU kernels are kept: beside the models.
pub fn kernel_cache() -> Option<PathBuf> {
    cache_dir().ok().map(|dir| dir.join("kernels"))
}

/// The library of NVRTC where it is not among the system's: `QUARREL_NVRTC`.
pub fn nvrtc() -> Option<PathBuf> {
    path("QUARREL_NVRTC")
}

/// Ollama's store: `OLLAMA_MODELS`, else its default.
pub fn ollama_dir() -> Option<PathBuf> {
    path("OLLAMA_MODELS").or_else(|| home().map(|home| home.join(".ollama/models")))
}

/// The cache that Hugging Face's own tools share: `HF_HUB_CACHE`, else its default.
pub fn hf_cache() -> Option<PathBuf> {
    path("HF_HUB_CACHE").or_else(|| Some(hf_home()?.join("hub")))
}

fn hf_home() -> Option<PathBuf> {
    path("HF_HOME").or_else(|| home().map(|home| home.join(".cache/huggingface")))
}

/// Access token for Hugging Face: `HF_TOKEN`, else the file its own client writes.
pub fn hf_token() -> Option<String> {
    let from_file = || std::fs::read_to_string(hf_home()?.join("token")).ok();
    let token = env::var("HF_TOKEN").ok().or_else(from_file)?;
    let token = token.trim();
    (!token.is_empty()).then(|| token.to_owned())
}

/// Another Hugging Face endpoint: `HF_ENDPOINT`.
pub fn hf_endpoint() -> Option<String> {
    env::var("HF_ENDPOINT").ok().filter(|s| !s.is_empty())
}

/// API keys of the server: `QUARREL_API_KEYS`, separated by commas or line breaks.
pub fn api_keys() -> Option<String> {
    env::var("QUARREL_API_KEYS").ok().map(|keys| keys.replace(',', "\n"))
}

/// The Python to ask for packages: `QUARREL_PYTHON`, else `python3`.
pub fn python() -> PathBuf {
    path("QUARREL_PYTHON").unwrap_or_else(|| "python3".into())
}

fn home() -> Option<PathBuf> {
    path("HOME").or_else(|| path("USERPROFILE"))
}

fn path(name: &str) -> Option<PathBuf> {
    env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}
