//! Names of models, parsed once into values that can only be right.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::Error;
use crate::builtin::{BUILTINS, Builtin};

/// What a user may write where a model is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelName {
    /// A built-in name such as `smollm2-135m`.
    Short(ShortName),
    /// `hf:owner/repo[:quant]`.
    Hub(HubName),
    /// `ollama:name[:tag]`.
    Ollama(OllamaName),
    /// A GGUF file, the first shard of a split one, or a safetensors directory. Not looked at yet.
    Path(PathBuf),
}

/// One of the built-in names.
#[derive(Clone, Copy)]
pub struct ShortName(pub(crate) &'static Builtin);

/// A repository of the Hub, and which of its files. Every part is fit to be a directory's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubName {
    owner: String,
    repo: String,
    quant: Option<String>,
}

/// A model of Ollama's store. Every part is fit to be a directory's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OllamaName {
    /// Registry, namespace, model.
    pub(crate) parts: [String; 3],
    pub(crate) tag: String,
}

/// Ollama's registry and namespace for names without a slash.
const OLLAMA_DEFAULTS: [&str; 2] = ["registry.ollama.ai", "library"];

impl ShortName {
    /// All built-in names, in the order they are shown.
    pub fn all() -> impl Iterator<Item = ShortName> {
        BUILTINS.iter().map(ShortName)
    }

    /// The name as written.
    pub fn as_str(&self) -> &'static str {
        self.0.name
    }
}

impl HubName {
    /// Checks and keeps the parts of `owner/repo[:quant]`.
    pub fn new(owner: &str, repo: &str, quant: Option<&str>) -> Result<Self, &'static str> {
        component(owner)?;
        component(repo)?;
        quant.map_or(Ok(()), component)?;
        Ok(HubName { owner: owner.into(), repo: repo.into(), quant: quant.map(Into::into) })
    }

    /// `owner/repo`.
    pub fn repo_id(&self) -> String {
        format!("{}/{}", self.owner, self.repo)
    }

    /// The user or organisation.
    pub fn owner(&self) -> &str {
        &self.owner
    }

    /// The repository's own name.
    pub fn repo(&self) -> &str {
        &self.repo
    }

    /// The quantisation (`Q4_K_M`) or file name asked for.
    pub fn quant(&self) -> Option<&str> {
        self.quant.as_deref()
    }
}

impl OllamaName {
    fn parse(text: &str) -> Result<Self, &'static str> {
        let (model, tag) = text.rsplit_once(':').unwrap_or((text, "latest"));
        component(tag)?;
        let given: Vec<&str> = model.split('/').collect();
        let [registry, namespace] = OLLAMA_DEFAULTS;
        let parts = match given[..] {
            [name] => [registry, namespace, name],
            [user, name] => [registry, user, name],
            [host, user, name] => [host, user, name],
            _ => return Err("an Ollama name is [[host/]user/]name[:tag]"),
        };
        parts.into_iter().try_for_each(component)?;
        Ok(OllamaName { parts: parts.map(Into::into), tag: tag.into() })
    }
}

/// Accepts what is safe as one path component everywhere and occurs in the names of the Hub and Ollama.
fn component(part: &str) -> Result<(), &'static str> {
    let ok = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if part.is_empty() {
        Err("a part of it is empty")
    } else if part.len() > 128 {
        Err("a part of it is longer than 128 characters")
    } else if !part.chars().all(ok) {
        Err("its parts may hold letters, digits, '.', '_' and '-' only")
    } else if part.starts_with(['.', '-']) || part.contains("..") || part.ends_with('.') {
        Err("a part of it begins with '.' or '-', ends with '.', or holds '..'")
    } else {
        Ok(())
    }
}

impl FromStr for ModelName {
    type Err = Error;

    /// Parses without looking at the disk: what holds a path separator or a model file's extension is a
    /// path, a known prefix decides next, anything else must be a built-in name.
    fn from_str(name: &str) -> Result<Self, Error> {
        let bad = |reason| Error::BadName { name: name.to_owned(), reason };
        if name.is_empty() || name.contains('\0') {
            return Err(bad("it is empty or holds a null byte"));
        }
        if let Some(rest) = name.strip_prefix("hf:") {
            let (id, quant) = match rest.split_once(':') {
                Some((id, quant)) => (id, Some(quant)),
                None => (rest, None),
            };
            let (owner, repo) = id.split_once('/').ok_or_else(|| bad("write hf:owner/repo[:quant]"))?;
            return HubName::new(owner, repo, quant).map(ModelName::Hub).map_err(bad);
        }
        if let Some(rest) = name.strip_prefix("ollama:") {
            return OllamaName::parse(rest).map(ModelName::Ollama).map_err(bad);
        }
        let is_path = name.contains(['/', '\\']) || name == "." || name == "..";
        if is_path || name.ends_with(".gguf") || name.ends_with(".safetensors") {
            return Ok(ModelName::Path(PathBuf::from(name)));
        }
        match BUILTINS.iter().find(|b| b.name.eq_ignore_ascii_case(name)) {
            Some(builtin) => Ok(ModelName::Short(ShortName(builtin))),
            None => Err(unknown(name)),
        }
    }
}

/// The error for an unknown short name, with the nearest known one if it is near.
fn unknown(name: &str) -> Error {
    let near = |known: &'static str| (edit_distance(&name.to_ascii_lowercase(), known), known);
    let best = BUILTINS.iter().map(|b| near(b.name)).min();
    // Within half of the letters a slip of the fingers is likelier than another model.
    let closest = best.filter(|(distance, known)| *distance * 2 <= known.len()).map(|(_, known)| known);
    let known = BUILTINS.iter().map(|b| b.name).collect::<Vec<_>>().join(", ");
    Error::UnknownName { name: name.to_owned(), known, closest }
}

/// Levenshtein's distance over bytes; `name` is cut at 64 bytes to bound the work.
fn edit_distance(name: &str, known: &str) -> usize {
    let name = &name.as_bytes()[..name.len().min(64)];
    let mut row: Vec<usize> = (0..=known.len()).collect();
    for (i, a) in name.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in known.bytes().enumerate() {
            let replace = diagonal + usize::from(*a != b);
            diagonal = row[j + 1];
            row[j + 1] = replace.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[known.len()]
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ModelName::Short(name) => f.write_str(name.as_str()),
            ModelName::Hub(name) => name.fmt(f),
            ModelName::Ollama(name) => name.fmt(f),
            ModelName::Path(path) => path.display().fmt(f),
        }
    }
}

impl fmt::Display for HubName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "hf:{}/{}", self.owner, self.repo)?;
        self.quant.as_ref().map_or(Ok(()), |quant| write!(f, ":{quant}"))
    }
}

impl fmt::Display for OllamaName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = match &self.parts {
            [host, user, _] if [host, user] == OLLAMA_DEFAULTS => &self.parts[2..],
            [host, ..] if host == OLLAMA_DEFAULTS[0] => &self.parts[1..],
            _ => &self.parts[..],
        };
        write!(f, "ollama:{}:{}", shown.join("/"), self.tag)
    }
}

impl fmt::Debug for ShortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ShortName({:?})", self.as_str())
    }
}

impl PartialEq for ShortName {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for ShortName {}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(name: &str) -> Result<ModelName, Error> {
        name.parse()
    }

    #[test]
    fn each_form_parses_and_displays() {
        for (given, shown) in [
            ("smollm2-135m", "smollm2-135m"),
            ("SmolLM2-135M", "smollm2-135m"),
            ("hf:Qwen/Qwen2.5-GGUF", "hf:Qwen/Qwen2.5-GGUF"),
            ("hf:Qwen/Qwen2.5-GGUF:Q8_0", "hf:Qwen/Qwen2.5-GGUF:Q8_0"),
            ("ollama:llama3.2", "ollama:llama3.2:latest"),
            ("ollama:llama3.2:1b", "ollama:llama3.2:1b"),
            ("ollama:me/mine:x", "ollama:me/mine:x"),
            ("ollama:hf.co/me/mine:Q4", "ollama:hf.co/me/mine:Q4"),
            ("./smollm2-135m", "./smollm2-135m"),
            ("model.gguf", "model.gguf"),
            ("C:\\models\\m", "C:\\models\\m"),
        ] {
            assert_eq!(parse(given).unwrap().to_string(), shown, "{given}");
        }
        assert!(matches!(parse("a/b").unwrap(), ModelName::Path(_)));
    }

    #[test]
    fn names_that_would_escape_or_mislead_are_refused() {
        for bad in [
            "",
            "a\0b",
            "hf:owner",
            "hf:/repo",
            "hf:owner/",
            "hf:../..",
            "hf:owner/..",
            "hf:owner/a/b",
            "hf:owner/repo:../x",
            "hf:owner/repo:",
            "hf:owner\\x/repo",
            "hf:o@host/repo",
            "hf:o/r?x=y",
            "hf:o/r#f",
            "hf:http://x/y",
            "ollama:",
            "ollama:../../etc/passwd",
            "ollama:a/../b",
            "ollama:a:..",
            "ollama:a:b/c",
            "ollama:a/b/c/d",
            "ollama:.hidden",
            "ollama:-x",
            "hf:o/r\u{202e}",
            "hf:o/trailing.",
        ] {
            assert!(matches!(parse(bad), Err(Error::BadName { .. })), "{bad:?}: {:?}", parse(bad));
        }
        assert!(parse(&format!("hf:o/{}", "r".repeat(129))).is_err());
    }

    #[test]
    fn unknown_names_suggest_the_nearest() {
        for (typed, meant) in [
            ("smolm2", "smollm2-135m"),
            ("gemma3-270M-", "gemma3-270m"),
            ("qwen2.5-coder-1.5", "qwen2.5-coder-1.5b"),
        ] {
            match parse(typed) {
                Err(Error::UnknownName { closest, known, .. }) => {
                    assert_eq!(closest, Some(meant), "{typed}");
                    assert!(known.contains("smollm2-135m, gemma3-270m"));
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(matches!(parse("zzzz"), Err(Error::UnknownName { closest: None, .. })));
        assert!(matches!(parse(&"é".repeat(100_000)), Err(Error::UnknownName { closest: None, .. })));
        let shown = parse("smolm2").unwrap_err().to_string();
        assert!(shown.contains("did you mean \"smollm2-135m\"?"), "{shown}");
    }

    proptest::proptest! {
        #[test]
        fn whatever_parses_displays_as_itself(text in "((hf|ollama):)?[a-zA-Z0-9./:_-]{0,40}|\\PC{0,40}") {
            if let Ok(name) = parse(&text) {
                assert_eq!(parse(&name.to_string()).unwrap(), name);
            }
        }
    }
}
