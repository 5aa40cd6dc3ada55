//! Reading an Ollama store, honest and hostile.

use std::fs;
use std::path::{Path, PathBuf};

use quarrel_store::{Config, Digest, Error, ModelName, Resolved, Store};

const MODEL: &str = "application/vnd.ollama.image.model";
const TEMPLATE: &str = "application/vnd.ollama.image.template";

/// A store in a temporary directory.
struct Ollama {
    dir: tempfile::TempDir,
}

impl Ollama {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("blobs")).unwrap();
        Ollama { dir }
    }

    /// Writes a blob and returns its layer.
    fn layer(&self, media_type: &str, content: &[u8]) -> String {
        let digest = Digest::of(content);
        fs::write(self.blob(&digest.to_string()), content).unwrap();
        layer(media_type, &format!("sha256:{digest}"), content.len() as i64)
    }

    fn blob(&self, hex: &str) -> PathBuf {
        self.dir.path().join(format!("blobs/sha256-{hex}"))
    }

    fn manifest(&self, path: &str, layers: &[String]) {
        let config =
            r#"{"mediaType":"application/vnd.docker.container.image.v1+json","digest":"sha256:x","size":1}"#;
        let json = format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{}]}}"#, layers.join(","));
        self.write(path, json.as_bytes());
    }

    fn write(&self, path: &str, content: &[u8]) {
        let path = self.dir.path().join("manifests").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn resolve(&self, name: &str) -> Result<Resolved, Error> {
        let mut config = Config::new("/nonexistent/cache");
        config.ollama_dir = Some(self.dir.path().to_owned());
        Store::open(config).resolve(&name.parse::<ModelName>()?)
    }
}

fn layer(media_type: &str, digest: &str, size: i64) -> String {
    format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":{size}}}"#)
}

#[test]
fn names_lead_to_blobs() {
    let ollama = Ollama::new();
    let layers = [ollama.layer(MODEL, b"GGUF"), ollama.layer(TEMPLATE, b"{{ .Prompt }}")];
    ollama.manifest("registry.ollama.ai/library/tiny/latest", &layers);
    ollama.manifest("registry.ollama.ai/me/mine/1b", &layers[..1]);
    ollama.manifest("hf.co/me/mine-GGUF/Q4_0", &layers[..1]);
    let model = ollama.blob(&Digest::of(b"GGUF").to_string());
    for name in ["ollama:tiny", "ollama:tiny:latest", "ollama:me/mine:1b", "ollama:hf.co/me/mine-GGUF:Q4_0"] {
        let found = ollama.resolve(name).unwrap();
        assert_eq!((&found.path, &found.files), (&model, &vec![model.clone()]), "{name}");
    }
    let found = ollama.resolve("ollama:tiny").unwrap().ollama.unwrap();
    assert_eq!(fs::read(found.template.unwrap()).unwrap(), b"{{ .Prompt }}");
    assert_eq!((found.system, found.params, found.digest), (None, None, Digest::of(b"GGUF")));
}

#[test]
fn what_is_missing_is_named() {
    let ollama = Ollama::new();
    let message = |name: &str| ollama.resolve(name).unwrap_err().to_string();
    assert!(message("ollama:tiny").contains("ollama:tiny:latest is not there"), "{}", message("ollama:tiny"));
    ollama.manifest("registry.ollama.ai/library/tiny/latest/below", &[]);
    assert!(message("ollama:tiny").contains("not there"), "a directory is no manifest");
    ollama.manifest("registry.ollama.ai/library/cloud/latest", &[]);
    assert!(message("ollama:cloud").contains("no model layer"));
    let gone = layer(MODEL, &format!("sha256:{}", Digest::of(b"gone")), 4);
    ollama.manifest("registry.ollama.ai/library/gone/latest", &[gone]);
    assert!(message("ollama:gone").contains("blob is missing"));
    let no_store = Store::open(Config::new("/nonexistent"));
    assert!(matches!(no_store.resolve(&"ollama:x".parse().unwrap()), Err(Error::NoOllama)));
}

#[test]
fn hostile_manifests() {
    let ollama = Ollama::new();
    let hex = Digest::of(b"GGUF").to_string();
    fs::write(ollama.dir.path().join("secret"), "GGUF").unwrap();
    let good = ollama.layer(MODEL, b"GGUF");
    let short = layer(MODEL, &format!("sha256:{hex}"), 3);
    let projector = ollama.layer("application/vnd.ollama.image.projector", b"p");
    let mut hostile = vec![vec![short], vec![good.clone(), good.clone()], vec![good.clone(), projector]];
    for digest in [
        "sha256:../secret",
        "sha256:../../secret",
        "../secret",
        "sha256-../secret",
        "",
        "sha256:",
        "md5:abc",
        "/etc/passwd",
        &format!("sha256:../{hex}"),
        &format!("sha256:{hex}/../x"),
        &format!("sha256-{hex}"),
        &format!("sha256:{}", &hex[1..]),
    ] {
        hostile.push(vec![layer(MODEL, digest, 4)]);
        hostile.push(vec![good.clone(), layer(TEMPLATE, digest, 4)]);
    }
    for layers in hostile {
        ollama.manifest("registry.ollama.ai/library/m/latest", &layers);
        let result = ollama.resolve("ollama:m");
        assert!(matches!(result, Err(Error::Ollama { .. })), "{layers:?}: {result:?}");
    }
    let huge = format!("{}1{}", "[".repeat(3000), "]".repeat(3000));
    let negative = format!(r#"{{"layers":[{}]}}"#, layer(MODEL, "sha256:x", -1));
    for json in ["", "{", "{}", "null", &huge, &negative, &" ".repeat(2 << 20)] {
        ollama.write("registry.ollama.ai/library/m/latest", json.as_bytes());
        let result = ollama.resolve("ollama:m");
        assert!(matches!(result, Err(Error::Ollama { .. })), "{json:.60}: {result:?}");
    }
    assert!(Path::new(&ollama.dir.path().join("secret")).exists());
}
