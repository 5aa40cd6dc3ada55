//! A repository's list of files, and their addresses.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::brief;
use crate::http::{Auth, Client, Request, Url};
use crate::{Digest, Error, HubName, Result};

/// A list of files longer than this is refused (the longest real ones are a few MB).
const MAX_INFO_BYTES: u64 = 16 << 20;

/// One file of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RepoFile {
    /// Path in the repository.
    pub(crate) path: String,
    pub(crate) bytes: Option<u64>,
    /// Known for large files (LFS, Xet).
    pub(crate) sha256: Option<Digest>,
}

/// A repository at one commit.
#[derive(Debug)]
pub(crate) struct Repo {
    endpoint: String,
    /// `owner/repo`.
    id: String,
    commit: String,
    pub(crate) files: Vec<RepoFile>,
}

#[derive(Deserialize)]
struct Info {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    #[serde(alias = "oid")]
    sha256: String,
    size: Option<u64>,
}

impl Repo {
    /// Asks the Hub for the files of `name` at its main branch's present commit.
    pub(crate) fn open(client: &Client, endpoint: &str, auth: Option<&Auth>, name: &HubName) -> Result<Self> {
        let endpoint = endpoint.trim_end_matches('/');
        let id = name.repo_id();
        let url = Url::parse(&format!("{endpoint}/api/models/{id}/revision/main?blobs=true"))?;
        let json = client.get_small(&Request { url: &url, auth, from: 0 }, MAX_INFO_BYTES)?;
        let bad = |reason: String| Error::BadReply { url: url.to_string(), reason };
        let info: Info = serde_json::from_slice(&json).map_err(|e| bad(brief(&e.to_string())))?;
        // The commit goes into addresses.
        if info.sha.is_empty() || info.sha.len() > 64 || !info.sha.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(bad("its commit is not a hexadecimal hash".into()));
        }
        let files = info.siblings.into_iter().map(|s| file(s).map_err(bad)).collect::<Result<_>>()?;
        Ok(Repo { endpoint: endpoint.to_owned(), id, commit: info.sha, files })
    }

    /// Where a person can look at it.
    pub(crate) fn page(&self) -> String {
        format!("{}/{} at {}", self.endpoint, self.id, self.commit)
    }

    /// The address of a file's content.
    pub(crate) fn url(&self, file: &RepoFile) -> Result<Url> {
        let Repo { endpoint, id, commit, .. } = self;
        Url::parse(&format!("{endpoint}/{id}/resolve/{commit}/{}", percent_encode(&file.path)))
    }

    /// The file in a cache of Hugging Face's own tools at `dir`, if it is there.
    pub(crate) fn in_hf_cache(&self, dir: &Path, file: &RepoFile) -> Option<PathBuf> {
        hf_hub::Cache::new(dir.to_owned()).model(self.id.clone()).get(&file.path)
    }
}

fn file(sibling: Sibling) -> std::result::Result<RepoFile, String> {
    let Sibling { rfilename: path, size, lfs } = sibling;
    if path.split('/').any(|part| part.is_empty() || part == "." || part == "..")
        || path.contains(|c: char| c == '\\' || c.is_control())
    {
        return Err(format!("it names a file {:?}", brief(&path)));
    }
    let sha256 =
        lfs.as_ref().map(|lfs| lfs.sha256.trim_start_matches("sha256:").parse::<Digest>()).transpose();
    let sha256 = sha256.map_err(|reason| format!("the hash of {:?}: {reason}", brief(&path)))?;
    Ok(RepoFile { path, bytes: lfs.and_then(|lfs| lfs.size).or(size), sha256 })
}

/// A path for an address: all but letters, digits and `-._~/` percent-encoded.
fn percent_encode(path: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~/".contains(&b);
    path.bytes().map(|b| if plain(b) { (b as char).to_string() } else { format!("%{b:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files_stay_inside() {
        let named = |path: &str| file(Sibling { rfilename: path.into(), size: None, lfs: None });
        for bad in
            ["../x", "a/../../x", "/etc/passwd", "a//b", "..", "", "a\\..\\x", "a\0b", "./x", "a\u{1b}[2J"]
        {
            assert!(named(bad).is_err(), "{bad}");
        }
        assert!(named("dir/m.gguf").is_ok());
        assert_eq!(percent_encode("a b/ü%.gguf"), "a%20b/%C3%BC%25.gguf");
    }
}
