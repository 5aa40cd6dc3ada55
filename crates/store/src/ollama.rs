//! Models of a local Ollama store: `manifests/<registry>/<namespace>/<name>/<tag>` is a JSON list of
//! layers, `blobs/sha256-<digest>` are their contents. Read only; nothing is downloaded.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::brief;
use crate::{Digest, Error, OllamaName, Result};

/// A manifest longer than this is not Ollama's.
const MAX_MANIFEST_BYTES: u64 = 1 << 20;

/// The layers of an Ollama model. Every path is a file of the store's `blobs` directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OllamaLayers {
    /// The GGUF file.
    pub model: PathBuf,
    /// The digest the manifest gives for it (not recomputed).
    pub digest: Digest,
    /// Ollama's chat template (a Go template, not a Jinja one).
    pub template: Option<PathBuf>,
    /// The system prompt.
    pub system: Option<PathBuf>,
    /// Sampling parameters, JSON.
    pub params: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Manifest {
    layers: Vec<Layer>,
}

#[derive(Deserialize)]
struct Layer {
    #[serde(rename = "mediaType")]
    media_type: String,
    digest: String,
    size: u64,
}

/// Finds `name` in the store at `dir`.
pub(crate) fn find(dir: &Path, name: &OllamaName) -> Result<OllamaLayers> {
    // The components were checked when the name was parsed; none can leave the directory.
    let path = dir.join("manifests").join(name.parts.iter().collect::<PathBuf>()).join(&name.tag);
    let manifest = read_manifest(&path, name)?;
    let bad = |reason: String| Error::Ollama { path: path.clone(), reason };
    let layer = |kind: &str| {
        let media_type = format!("application/vnd.ollama.image.{kind}");
        let mut found = manifest.layers.iter().filter(|l| l.media_type == media_type);
        match (found.next(), found.next()) {
            (Some(_), Some(_)) => Err(bad(format!("it has several layers of type {kind}"))),
            (Some(layer), None) => blob(dir, layer).map(Some),
            (None, _) => Ok(None),
        }
    };
    if layer("projector")?.is_some() {
        return Err(bad("it is a model with a vision projector, which is not supported".into()));
    }
    let Some((model, digest)) = layer("model")? else {
        return Err(bad("it has no model layer (a model that runs in Ollama's cloud?)".into()));
    };
    let path_of = |kind| Ok::<_, Error>(layer(kind)?.map(|(path, _)| path));
    let [template, system, params] = [path_of("template")?, path_of("system")?, path_of("params")?];
    Ok(OllamaLayers { model, digest, template, system, params })
}

fn read_manifest(path: &Path, name: &OllamaName) -> Result<Manifest> {
    let bad = |reason: String| Error::Ollama { path: path.to_owned(), reason };
    let not_found = || bad(format!("{name} is not there; `ollama list` shows what is"));
    let metadata = fs::metadata(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory => not_found(),
        _ => Error::io("read", path, e),
    })?;
    if !metadata.is_file() {
        return Err(not_found());
    }
    if metadata.len() > MAX_MANIFEST_BYTES {
        return Err(bad(format!("a manifest of {} bytes is not Ollama's", metadata.len())));
    }
    let json = fs::read(path).map_err(|e| Error::io("read", path, e))?;
    serde_json::from_slice(&json).map_err(|e| bad(brief(&format!("not a manifest: {e}"))))
}

/// The file of a layer. A digest is 64 hexadecimal digits before it becomes a name (CVE-2024-37032).
fn blob(dir: &Path, layer: &Layer) -> Result<(PathBuf, Digest)> {
    let hex = layer.digest.strip_prefix("sha256:").unwrap_or_default();
    let digest: Digest = hex.parse().map_err(|reason| Error::Ollama {
        path: dir.to_owned(),
        reason: format!("a manifest names the blob {:?}: {reason}", brief(&layer.digest)),
    })?;
    let path = dir.join("blobs").join(format!("sha256-{digest}"));
    let bad = |reason: String| Error::Ollama { path: path.clone(), reason };
    let metadata = fs::metadata(&path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => bad("the blob is missing; pull the model again in Ollama".into()),
        _ => Error::io("read", &path, e),
    })?;
    if !metadata.is_file() || metadata.len() != layer.size {
        return Err(bad(format!("the blob has {} bytes, its manifest says {}", metadata.len(), layer.size)));
    }
    Ok((path, digest))
}
