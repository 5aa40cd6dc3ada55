//! Split models: any shard opens the whole; shards that do not fit are refused.

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use quarrel_gguf::{Error, Format, Metadata, ModelFile, TensorInfo, Writer};

/// What a shard says about itself.
struct Shard {
    no: u16,
    count: u16,
    total: i32,
    tensors: &'static [&'static str],
}

fn write(directory: &Path, file_name: &str, shard: &Shard) -> PathBuf {
    let mut metadata = Metadata::new();
    if shard.no == 0 {
        metadata.insert("general.architecture", "llama");
    }
    metadata.insert("split.no", shard.no);
    metadata.insert("split.count", shard.count);
    metadata.insert("split.tensors.count", shard.total);
    if shard.no == 0 {
        metadata.insert("llama.block_count", 2u32);
    }
    let info = |name: &&str| TensorInfo { name: (*name).into(), shape: vec![2, 2], format: Format::F32 };
    let tensors: Vec<_> = shard.tensors.iter().map(info).collect();
    let path = directory.join(file_name);
    let mut writer = Writer::new(BufWriter::new(File::create(&path).unwrap()), &metadata, tensors).unwrap();
    for name in shard.tensors {
        writer.write(name, &[name.len() as u8; 16]).unwrap();
    }
    writer.finish().unwrap();
    path
}

fn write_three(directory: &Path) -> [PathBuf; 3] {
    let tensors: [&[&str]; 3] = [&["a", "bb"], &[], &["ccc"]];
    [0, 1, 2].map(|no| {
        let shard = Shard { no, count: 3, total: 3, tensors: tensors[no as usize] };
        write(directory, &format!("m-{:05}-of-00003.gguf", no + 1), &shard)
    })
}

#[test]
fn any_shard_opens_the_whole() {
    let directory = tempfile::tempdir().unwrap();
    for path in write_three(directory.path()) {
        let file = ModelFile::open(&path).unwrap();
        let names: Vec<_> = file.tensors.iter().map(|tensor| &*tensor.name).collect();
        assert_eq!(names, ["a", "bb", "ccc"]);
        assert_eq!(&*file.tensor("ccc").unwrap().data, [3; 16]);
        let keys: Vec<_> = file.metadata.iter().map(|(key, _)| key).collect();
        assert_eq!(keys, ["general.architecture", "llama.block_count"]);
        assert_eq!(file.metadata.u32("llama.block_count").unwrap(), Some(2));
        file.check_length().unwrap();
    }
}

#[test]
fn a_shard_that_shrinks_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let paths = write_three(directory.path());
    let file = ModelFile::open(&paths[0]).unwrap();
    File::options().write(true).open(&paths[2]).unwrap().set_len(5).unwrap();
    assert!(matches!(file.check_length().unwrap_err(), Error::Shrunk { path, .. } if path == paths[2]));
}

#[test]
fn missing_shards_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let paths = write_three(directory.path());
    std::fs::remove_file(&paths[1]).unwrap();
    let error = ModelFile::open(&paths[0]).unwrap_err();
    assert!(matches!(&error, Error::MissingShard { path } if *path == paths[1]), "{error}");
}

#[test]
fn shards_that_do_not_fit() {
    let rewrite = |file_name: &str, shard: Shard| {
        let directory = tempfile::tempdir().unwrap();
        let paths = write_three(directory.path());
        write(directory.path(), file_name, &shard);
        ModelFile::open(&paths[0]).unwrap_err()
    };
    let second = "m-00002-of-00003.gguf";
    let wrong_place = rewrite(second, Shard { no: 2, count: 3, total: 3, tensors: &[] });
    assert!(matches!(wrong_place.root(), Error::Split { .. }), "{wrong_place}");
    assert!(wrong_place.to_string().contains(second), "{wrong_place}");
    let wrong_count = rewrite(second, Shard { no: 1, count: 4, total: 3, tensors: &[] });
    assert!(matches!(wrong_count.root(), Error::Split { .. }), "{wrong_count}");
    let twice = rewrite(second, Shard { no: 1, count: 3, total: 3, tensors: &["a"] });
    assert!(matches!(twice.root(), Error::DuplicateTensor { name } if name == "a"), "{twice}");
    let extra = rewrite(second, Shard { no: 1, count: 3, total: 3, tensors: &["d"] });
    assert!(matches!(extra.root(), Error::Split { .. }), "{extra}");
}

#[test]
fn a_shard_under_another_name_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["m.gguf", "m-00001-of-00002.gguf", "m-1-of-00003.gguf", "m-0000x-of-00003.gguf"] {
        let path = write(directory.path(), name, &Shard { no: 0, count: 3, total: 0, tensors: &[] });
        let error = ModelFile::open(&path).unwrap_err();
        assert!(matches!(error.root(), Error::Split { .. }), "{name}: {error}");
    }
}

#[test]
fn a_split_of_one_is_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let shard = Shard { no: 0, count: 1, total: 1, tensors: &["a"] };
    let path = write(directory.path(), "whole.gguf", &shard);
    assert_eq!(ModelFile::open(&path).unwrap().tensors.len(), 1);
}
