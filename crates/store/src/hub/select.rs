//! Choosing among a repository's files: one quantisation of one model, all of its shards.

use std::collections::BTreeMap;

use super::RepoFile;
use crate::path::Shard;
use crate::{Error, HubName, Result};

/// Taken in this order when the name does not say: first the usual compromise, then what runs well,
/// then the rest by size.
pub(crate) const QUANT_PREFERENCE: &[&str] = &[
    "Q4_K_M", "Q4_0", "Q8_0", "Q4_K_S", "Q5_K_M", "Q5_K_S", "Q5_0", "Q6_K", "Q4_1", "Q5_1", "IQ4_NL",
    "IQ4_XS", "MXFP4", "Q3_K_M", "Q3_K_L", "Q3_K_S", "Q2_K", "BF16", "F16", "F32",
];

/// Files of a safetensors model beside its weights; the first must be there.
const SAFETENSORS_COMPANIONS: &[&str] = &[
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "generation_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
    "model.safetensors.index.json",
];

/// What to fetch.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Selection {
    /// The quantisation, or the file's name if it has none, or `safetensors`: a directory's name.
    pub(crate) quant: String,
    pub(crate) files: Vec<RepoFile>,
    /// The file to open; none for a safetensors directory.
    pub(crate) main: Option<String>,
}

/// Chooses the files of `name`.
pub(crate) fn select(name: &HubName, files: &[RepoFile]) -> Result<Selection> {
    let groups = gguf_groups(files);
    if groups.is_empty() {
        return match name.quant() {
            None | Some("safetensors") => safetensors(name, files),
            Some(quant) => Err(no_such_file(name, &format!("GGUF file {quant}"), files)),
        };
    }
    let tag = match name.quant() {
        Some(quant) => quant.to_owned(),
        None => default_tag(name, &groups)?,
    };
    let matches = |group: &&Group| {
        group.tag.as_deref().is_some_and(|t| t.eq_ignore_ascii_case(&tag)) || group.main() == tag
    };
    let found: Vec<&Group> = groups.iter().filter(matches).collect();
    match found[..] {
        [group] => group.selection(name, &tag),
        [] => Err(no_such_file(name, &format!("GGUF file {tag}"), files)),
        [..] => Err(ambiguous(name, &tag, &found)),
    }
}

/// One GGUF model: a file or all shards of one.
#[derive(Debug)]
struct Group {
    tag: Option<String>,
    files: Vec<RepoFile>,
}

impl Group {
    fn main(&self) -> &str {
        base_name(&self.files[0].path)
    }

    fn selection(&self, name: &HubName, tag: &str) -> Result<Selection> {
        let main = self.main();
        if let Some(shard) = Shard::parse(main) {
            let present = self.files.iter().map(|f| base_name(&f.path).to_owned());
            if !shard.all().eq(present) {
                let wanted = format!("complete set of the {} shards of {}", shard.count, shard.stem);
                return Err(no_such_file(name, &wanted, &self.files));
            }
        }
        // The tag in the spelling of the file, so that each model has one place in the cache.
        let quant = self.tag.as_deref().map_or_else(|| directory_name(tag), str::to_ascii_uppercase);
        Ok(Selection { quant, files: self.files.clone(), main: Some(main.to_owned()) })
    }
}

/// A file's name made fit for the cache.
fn directory_name(file: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '_' };
    let name: String = file.chars().take(100).map(plain).collect();
    name.trim_start_matches(['.', '-']).replace("..", "._")
}

/// The quantisation to take when none is named.
fn default_tag(name: &HubName, groups: &[Group]) -> Result<String> {
    if let [only] = groups {
        return Ok(only.main().to_owned());
    }
    let has =
        |tag: &str| groups.iter().any(|g| g.tag.as_deref().is_some_and(|t| t.eq_ignore_ascii_case(tag)));
    match QUANT_PREFERENCE.iter().find(|tag| has(tag)) {
        Some(tag) => Ok((*tag).to_owned()),
        None => Err(ambiguous(name, "the default quantisation", &groups.iter().collect::<Vec<_>>())),
    }
}

/// The repository's GGUF models; projectors and importance matrices are none.
fn gguf_groups(files: &[RepoFile]) -> Vec<Group> {
    let mut groups: BTreeMap<String, Group> = BTreeMap::new();
    for file in files {
        let name = base_name(&file.path);
        let lower = name.to_ascii_lowercase();
        if !lower.ends_with(".gguf") || lower.starts_with("mmproj") || lower.contains("imatrix") {
            continue;
        }
        let stem = Shard::parse(name).map_or(&name[..name.len() - ".gguf".len()], |s| s.stem);
        let dir = &file.path[..file.path.len() - name.len()];
        let count = Shard::parse(name).map_or(0, |s| s.count);
        let group = groups
            .entry(format!("{dir}{stem} {count}"))
            .or_insert_with(|| Group { tag: quant_tag(stem), files: Vec::new() });
        group.files.push(file.clone());
    }
    let mut groups: Vec<Group> = groups.into_values().collect();
    for group in &mut groups {
        group.files.sort_by(|a, b| a.path.cmp(&b.path));
    }
    groups
}

/// The quantisation a file's name ends in: `qwen-0.5b-q4_k_m` → `q4_k_m`, `m-UD-Q4_K_XL` → `UD-Q4_K_XL`.
fn quant_tag(stem: &str) -> Option<String> {
    let start = stem.rfind(['-', '.']).map_or(0, |i| i + 1);
    let (rest, tag) = stem.split_at(start);
    let upper = tag.to_ascii_uppercase();
    let numbered = ["Q", "IQ", "TQ"].iter().any(|p| {
        upper.strip_prefix(p).is_some_and(|digits| digits.starts_with(|c: char| c.is_ascii_digit()))
    });
    if !(numbered || upper.starts_with("MXFP4") || ["F16", "BF16", "F32", "FP16"].contains(&upper.as_str())) {
        return None;
    }
    let dynamic = rest.to_ascii_uppercase().ends_with("-UD-");
    Some(if dynamic { format!("UD-{tag}") } else { tag.to_owned() })
}

/// All of a repository in Hugging Face's own format.
fn safetensors(name: &HubName, files: &[RepoFile]) -> Result<Selection> {
    let weights = |f: &RepoFile| {
        f.path == "model.safetensors"
            || Shard::parse(&f.path).is_some_and(|s| s.stem == "model" && f.path.ends_with(".safetensors"))
    };
    let mut chosen: Vec<RepoFile> =
        files.iter().filter(|f| SAFETENSORS_COMPANIONS.contains(&f.path.as_str())).cloned().collect();
    chosen.extend(files.iter().filter(|f| weights(f)).cloned());
    for needed in ["config.json", "tokenizer.json"] {
        if !chosen.iter().any(|f| f.path == needed) {
            return Err(no_such_file(name, &format!("GGUF file, nor {needed}"), files));
        }
    }
    let shards: Vec<&RepoFile> = chosen.iter().filter(|f| weights(f)).collect();
    let complete = match shards.first().and_then(|f| Shard::parse(&f.path)) {
        Some(first) => first.count as usize == shards.len(),
        None => shards.len() == 1,
    };
    if !complete {
        return Err(no_such_file(name, "GGUF file, nor a complete model.safetensors", files));
    }
    Ok(Selection { quant: "safetensors".into(), files: chosen, main: None })
}

pub(crate) fn base_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn no_such_file(name: &HubName, wanted: &str, files: &[RepoFile]) -> Error {
    let available = listed(files.iter().map(|f| f.path.as_str()));
    Error::NoSuchFile { repo: name.repo_id(), wanted: wanted.to_owned(), available }
}

fn ambiguous(name: &HubName, wanted: &str, groups: &[&Group]) -> Error {
    let available = listed(groups.iter().map(|g| g.main()));
    Error::Ambiguous { repo: name.repo_id(), wanted: wanted.to_owned(), available }
}

/// Some names, for a message.
fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let mut shown: Vec<String> = names.take(31).map(|n| n.chars().take(120).collect()).collect();
    if shown.len() == 31 {
        shown[30] = "…".into();
    }
    if shown.is_empty() { "nothing".into() } else { shown.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(quant: Option<&str>, paths: &[&str]) -> Result<Selection> {
        let files: Vec<RepoFile> =
            paths.iter().map(|p| RepoFile { path: (*p).into(), bytes: None, sha256: None }).collect();
        select(&HubName::new("o", "r", quant).unwrap(), &files)
    }

    fn chosen(quant: Option<&str>, paths: &[&str]) -> (String, Vec<String>) {
        let selection = choose(quant, paths).unwrap();
        (selection.quant, selection.files.into_iter().map(|f| f.path).collect())
    }

    const USUAL: &[&str] = &[
        "README.md",
        "mmproj-f16.gguf",
        "imatrix.gguf",
        "m-1.5b-Q8_0.gguf",
        "m-1.5b-q4_k_m.gguf",
        "m-1.5b-Q4_0.gguf",
        "m-1.5b-UD-Q4_K_XL.gguf",
        "BF16/m-1.5b-BF16-00001-of-00002.gguf",
        "BF16/m-1.5b-BF16-00002-of-00002.gguf",
    ];

    #[test]
    fn the_default_and_named_quants() {
        assert_eq!(chosen(None, USUAL), ("Q4_K_M".into(), vec!["m-1.5b-q4_k_m.gguf".into()]));
        assert_eq!(chosen(Some("q8_0"), USUAL), ("Q8_0".into(), vec!["m-1.5b-Q8_0.gguf".into()]));
        assert_eq!(chosen(Some("UD-Q4_K_XL"), USUAL).0, "UD-Q4_K_XL");
        assert_eq!(chosen(Some("m-1.5b-Q4_0.gguf"), USUAL).0, "Q4_0");
        let (quant, shards) = chosen(Some("BF16"), USUAL);
        assert_eq!((quant.as_str(), shards.len()), ("BF16", 2));
        assert_eq!(chosen(None, &["m-Q8_0.gguf", "m-Q4_0.gguf"]).0, "Q4_0");
        assert_eq!(chosen(None, &["model.gguf"]).0, "model.gguf");
    }

    #[test]
    fn what_cannot_be_chosen_says_what_there_is() {
        let message = |quant, paths: &[&str]| choose(quant, paths).unwrap_err().to_string();
        assert!(message(Some("Q3_K_S"), USUAL).contains("m-1.5b-Q8_0.gguf"));
        assert!(message(None, &["a.gguf", "b.gguf"]).contains("a.gguf, b.gguf"));
        assert!(message(None, &["a-Q4_0.gguf", "b-Q4_0.gguf"]).contains("several files for Q4_0"));
        assert!(message(None, &["m-Q4_0-00002-of-00002.gguf"]).contains("complete set of the 2 shards"));
        assert!(message(None, &["pytorch_model.bin"]).contains("pytorch_model.bin"));
        assert!(message(None, &[]).contains("it has: nothing"));
    }

    #[test]
    fn safetensors_repositories() {
        let one =
            ["config.json", "tokenizer.json", "model.safetensors", "onnx/model.onnx", "adapter.safetensors"];
        assert_eq!(chosen(None, &one).1, ["config.json", "tokenizer.json", "model.safetensors"]);
        let two = [
            "config.json",
            "tokenizer.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
        ];
        assert_eq!(chosen(Some("safetensors"), &two).1.len(), 4);
        for incomplete in [&two[..3], &two[1..], &two[..2]] {
            assert!(matches!(choose(None, incomplete), Err(Error::NoSuchFile { .. })), "{incomplete:?}");
        }
    }
}
