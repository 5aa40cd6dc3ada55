//! Which crate may depend on which: only on those below it.

use super::{Finding, Source};

/// The crates and their height; `store` and `tokenizer` know only `gguf`.
const HEIGHTS: [(&str, usize); 10] = [
    ("gguf", 0),
    ("store", 1),
    ("tokenizer", 1),
    ("backend", 2),
    ("model", 3),
    ("metal-emulator", 4),
    ("engine", 4),
    ("server", 5),
    ("cli", 6),
    ("xtask", 7),
];

fn height(name: &str) -> Option<usize> {
    HEIGHTS.iter().find(|(known, _)| *known == name).map(|(_, height)| *height)
}

/// Checks a crate's manifest.
pub fn check(source: &Source) -> Vec<Finding> {
    let Some(name) = source.path.strip_prefix("crates/").and_then(|p| p.strip_suffix("/Cargo.toml")) else {
        return Vec::new();
    };
    let manifest: toml::Table = match source.text.parse() {
        Ok(manifest) => manifest,
        Err(e) => return vec![source.finding(1, format!("does not parse: {e}"))],
    };
    let Some(own) = height(name) else {
        return vec![source.finding(1, "a new crate: give it a height in crates/xtask/src/tidy/edges.rs")];
    };
    let mut findings = Vec::new();
    for (key, dependency) in dependencies(&manifest) {
        let Some(dependency) = our_name(key, dependency) else { continue };
        let message = match height(&dependency) {
            Some(theirs) if theirs < own => continue,
            Some(_) => format!(
                "`{name}` must not depend on `{dependency}`, which is not below it (see DESIGN); move the code down"
            ),
            None => format!("`{dependency}` has no height in crates/xtask/src/tidy/edges.rs"),
        };
        findings.push(source.finding(line_of(&source.text, key), message));
    }
    findings
}

/// All dependencies of a manifest: normal, dev, build, and those of targets.
fn dependencies(manifest: &toml::Table) -> Vec<(&str, &toml::Value)> {
    let targets = manifest.get("target").and_then(toml::Value::as_table);
    let tables = targets.into_iter().flat_map(|t| t.values().filter_map(toml::Value::as_table));
    let mut found = Vec::new();
    for table in std::iter::once(manifest).chain(tables) {
        for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let section = table.get(section).and_then(toml::Value::as_table);
            found.extend(section.into_iter().flatten().map(|(key, value)| (key.as_str(), value)));
        }
    }
    found
}

/// The folder's name of one of our crates; `None` for a crate of others.
fn our_name(key: &str, dependency: &toml::Value) -> Option<String> {
    let field = |name: &str| dependency.get(name).and_then(toml::Value::as_str);
    if let Some(path) = field("path") {
        return Some(path.rsplit('/').next().unwrap_or(path).to_owned());
    }
    let package = field("package").unwrap_or(key);
    match package.strip_prefix("quarrel-") {
        Some(name) => Some(name.to_owned()),
        None => height(package).map(|_| package.to_owned()),
    }
}

fn line_of(text: &str, key: &str) -> usize {
    text.lines().position(|line| line.trim_start().starts_with(key)).map_or(1, |i| i + 1)
}

#[cfg(test)]
mod tests {
    use crate::tidy::tests::planted;

    #[test]
    fn upward_and_sideways_edges_are_found() {
        let text = "[package]\nname = \"quarrel-store\"\n[dependencies]\ngguf.workspace = true\n\
                    tokenizer.workspace = true\n[target.'cfg(unix)'.dev-dependencies]\n\
                    m = { package = \"quarrel-model\", version = \"1\" }\nq = { path = \"../quiver\" }\n";
        let found = planted("crates/store/Cargo.toml", text);
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(found[0].starts_with("5: `store` must not depend on `tokenizer`"), "{found:?}");
        assert!(found[1].starts_with("7: `store` must not depend on `model`"), "{found:?}");
        assert!(found[2].contains("`quiver` has no height"), "{found:?}");
    }

    #[test]
    fn downward_edges_pass() {
        let text = "[dependencies]\ngguf.workspace = true\nbackend.workspace = true\nserde = \"1\"\n";
        assert_eq!(planted("crates/engine/Cargo.toml", text), [] as [String; 0]);
        assert_eq!(planted("crates/quiver/Cargo.toml", text).len(), 1);
    }
}
