//! What no committed text may contain: hosts of package registries, and paths
//! of somebody's machine.

use super::{Finding, Source};

/// Registries are reached through their clients, wherever these are
/// configured to go. Written in two parts, so that this file may be checked.
const HOSTS: [(&str, &str); 6] = [
    ("crates", ".io"),
    ("pypi", ".org"),
    ("pythonhosted", ".org"),
    ("registry.npm", "js.org"),
    ("registry.yarn", "pkg.com"),
    ("proxy.golang", ".org"),
];

const HOME_PATHS: [(&str, &str); 4] = [("/ro", "ot/"), ("/wo", "rk/"), ("/ho", "me/"), ("/Us", "ers/")];

/// Checks the lines of one file.
pub fn check(source: &Source) -> Vec<Finding> {
    // Lock files name the registry that each client used.
    if ["Cargo.lock", "package-lock.json"].iter().any(|name| source.path.ends_with(name)) {
        return Vec::new();
    }
    let hosts = HOSTS.map(|(a, b)| format!("{a}{b}"));
    let paths = HOME_PATHS.map(|(a, b)| format!("{a}{b}"));
    let mut findings = Vec::new();
    for (i, line) in source.text.lines().enumerate() {
        if let Some(host) = hosts.iter().find(|host| line.contains(*host)) {
            let message = format!("names the registry host `{host}`; let the registry's client find it");
            findings.push(source.finding(i + 1, message));
        }
        if let Some(path) = paths.iter().find(|path| starts_a_path(line, path)) {
            let message =
                format!("names a path of one machine (`{path}…`); use one relative to the workspace");
            findings.push(source.finding(i + 1, message));
        }
    }
    findings
}

/// Whether `path` is in `line` other than as the end of a longer path.
fn starts_a_path(line: &str, path: &str) -> bool {
    line.match_indices(path).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || matches!(c, '.' | '_' | '-' | '}' | '~' | '/' | '*'))
    })
}

#[cfg(test)]
mod tests {
    use crate::tidy::tests::planted;

    #[test]
    fn hosts_and_paths_are_found() {
        let text = format!(
            "a\nhttps://{}{}/x\nopen(\"{}{}x\")\nsrc{}{}x\n",
            "crates", ".io", "/wo", "rk/", "/ho", "me/"
        );
        let found = planted("docs/a.md", &text);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].starts_with("2: names the registry host"), "{found:?}");
        assert!(found[1].starts_with("3: names a path of one machine"), "{found:?}");
        assert_eq!(planted("Cargo.lock", &text), [] as [String; 0]);
    }
}
