//! Quantising files: formats as llama.cpp chooses them, values as close as the
//! format allows, and files that load again.

mod common;

use std::ops::ControlFlow;
use std::path::Path;

use backend::Role;
use common::{OPTIONS, SEED, Sequence, reference, run};
use gguf::{Bytes, Format, Metadata, ModelFile, TensorInfo, Writer};
use quarrel_model::quantize::{Override, Recipe, formats, quantize_file};
use quarrel_model::{Error, load, testing};

/// Quantises a file and opens the result.
fn quantise(
    file: &ModelFile,
    recipe: Recipe,
    overrides: &[&str],
    threads: usize,
) -> Result<ModelFile, Error> {
    let dir = tempfile::tempdir().expect("temporary directories work");
    let out = dir.path().join("out.gguf");
    let overrides: Vec<_> = overrides.iter().map(|text| Override::parse(text).expect("it parses")).collect();
    let mut last = 0;
    let result = quantize_file(file, &out, recipe, &overrides, threads, &mut |progress| {
        assert!(progress.done > last && progress.done <= progress.total);
        last = progress.done;
        ControlFlow::Continue(())
    });
    let names: Vec<_> = std::fs::read_dir(&dir).expect("it is there").collect();
    assert_eq!(names.len(), usize::from(result.is_ok()), "a failed conversion leaves nothing");
    result.map(|()| {
        assert_eq!(last, file.tensor_bytes());
        let bytes = std::fs::read(&out).expect("the file is there");
        ModelFile::from_bytes(Bytes::from(bytes)).expect("the output is valid")
    })
}

fn tiny(name: &str) -> ModelFile {
    testing::tiny(name, SEED).expect("the name is from the list")
}

/// Standard deviation of the logits' change over that of the logits.
fn noise(file: &ModelFile, like: &[f32]) -> f64 {
    let logits = logits(file);
    let square = |x: f32| f64::from(x).powi(2);
    let change: f64 = logits.iter().zip(like).map(|(x, y)| square(x - y)).sum();
    (change / like.iter().map(|&y| square(y)).sum::<f64>()).sqrt()
}

fn logits(file: &ModelFile) -> Vec<f32> {
    let mut model = load(file, reference(), &OPTIONS).expect("quantised models load");
    let mut sequence = Sequence::new(&model, 0, 2);
    run(&mut model, &mut sequence, &testing::tiny_tokens(40, SEED), Role::Prompt)
}

#[test]
fn every_recipe_writes_a_model_that_still_works() {
    for name in ["llama", "mixtral", "phi3-long"] {
        let file = tiny(name);
        let like = logits(&file);
        for &recipe in Recipe::ALL {
            let quantised = quantise(&file, recipe, &[], 3).expect("it can be written");
            let metadata = &quantised.metadata;
            assert_eq!(metadata.u32("general.file_type").expect("a number"), Some(recipe.file_type()));
            assert_eq!(metadata.u32("general.quantization_version").expect("a number"), Some(2));
            // A format of b bits has steps of 2^-b of the largest weight, thrice the standard
            // deviation; two layers of a few maps each add up to a few of them. K-quants of the
            // recipes' names fall back to blocks of 32 of at least 4 bits, as rows are shorter than 256.
            let bound = match recipe {
                Recipe::F32 => 0.0,
                Recipe::F16 => 2f64.powi(-9),
                Recipe::BF16 => 2f64.powi(-6),
                Recipe::Q8_0 | Recipe::Q6_K => 2f64.powi(-6),
                Recipe::Q5_0 | Recipe::Q5_1 | Recipe::Q5_K_S | Recipe::Q5_K_M => 2f64.powi(-3),
                _ => 2f64.powi(-2),
            };
            let noise = noise(&quantised, &like);
            println!("{name} {recipe}: {noise:.5}");
            assert!(noise <= bound, "{name} {recipe}: {noise} exceeds {bound}");
        }
    }
}

#[test]
fn vectors_norms_and_routers_keep_their_format() {
    let quantised = quantise(&tiny("mixtral"), Recipe::Q4_0, &[], 1).expect("it can be written");
    for tensor in &quantised.tensors {
        let kept = tensor.name.contains("norm") || tensor.name.contains("gate_inp");
        assert_eq!(tensor.format == Format::F32, kept, "{}", tensor.name);
    }
}

#[test]
fn threads_change_nothing_and_quantised_input_is_read() {
    let file = tiny("llama");
    let one = quantise(&file, Recipe::Q8_0, &[], 1).expect("it can be written");
    let many = quantise(&file, Recipe::Q8_0, &[], 7).expect("it can be written");
    for (a, b) in one.tensors.iter().zip(&many.tensors) {
        assert_eq!(*a.data, *b.data, "{}", a.name);
    }
    let again = quantise(&one, Recipe::Q4_0, &[], 2).expect("quantised input is read");
    assert_eq!(again.tensor("blk.0.attn_q.weight").expect("it is there").format, Format::Q4_0);
}

#[test]
fn overrides_win_and_are_checked() {
    let file = tiny("llama");
    let quantised = quantise(&file, Recipe::Q4_0, &[r"blk\.1\..*_q=q8_0", "attn_norm=F16"], 1);
    let quantised = quantised.expect("it can be written");
    let format = |name: &str| quantised.tensor(name).expect("it is there").format;
    assert_eq!(format("blk.1.attn_q.weight"), Format::Q8_0);
    assert_eq!(format("blk.0.attn_q.weight"), Format::Q4_0);
    assert_eq!(format("blk.0.attn_norm.weight"), Format::F16);
    for wrong in ["attn_q", "attn_q=Q9", "attn_q=IQ2_XS", "(=Q8_0"] {
        assert!(matches!(Override::parse(wrong), Err(Error::Option { .. })), "{wrong}");
    }
    // Rows of 64 are no whole blocks of 256.
    assert!(matches!(quantise(&file, Recipe::Q4_0, &["attn_q=Q4_K"], 1), Err(Error::Tensor { .. })));
}

#[test]
fn values_that_are_not_finite_are_refused() {
    let mut metadata = Metadata::new();
    metadata.insert("general.architecture", "llama");
    let info = TensorInfo { name: "output.weight".into(), shape: vec![32, 2], format: Format::F32 };
    let mut writer = Writer::new(vec![], &metadata, vec![info]).expect("the header can be written");
    let values: Vec<u8> = [f32::INFINITY; 64].iter().flat_map(|x| x.to_le_bytes()).collect();
    writer.write("output.weight", &values).expect("the data fit");
    let bytes = writer.finish().expect("all is written");
    let file = ModelFile::from_bytes(Bytes::from(bytes)).expect("the file is valid");
    assert!(matches!(quantise(&file, Recipe::Q8_0, &[], 1), Err(Error::Tensor { .. })));
}

#[test]
fn recipes_have_names() {
    for &recipe in Recipe::ALL {
        assert_eq!(Recipe::from_name(&recipe.name().to_lowercase()), Some(recipe));
    }
    assert_eq!(Recipe::from_name("q4_k"), Some(Recipe::Q4_K_M));
    assert_eq!(Recipe::from_name("Q4"), None);
}

/// Names, shapes and what llama-quantize makes of them, for models too large
/// to commit; `tests/data/golden_recipes.py` has the command.
#[test]
fn formats_are_those_of_llama_quantize() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/recipes.txt");
    let text = std::fs::read_to_string(path).expect("the golden is committed");
    let mut compared = 0;
    let (mut metadata, mut tensors) = (Metadata::new(), vec![]);
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |word: &str| word.parse::<u32>().expect("a number");
        match words.as_slice() {
            ["model", architecture, layers, heads, kv_heads, experts] => {
                (metadata, tensors) = (Metadata::new(), vec![]);
                metadata.insert("general.architecture", *architecture);
                let keys = ["block_count", "attention.head_count", "attention.head_count_kv", "expert_count"];
                for (key, value) in keys.iter().zip([layers, heads, kv_heads, experts]) {
                    metadata.insert(format!("{architecture}.{key}"), number(value));
                }
            }
            ["tensor", name, shape @ ..] => tensors.push(TensorInfo {
                name: (*name).into(),
                shape: shape.iter().map(|dim| number(dim).into()).collect(),
                format: Format::F32,
            }),
            ["recipe", name, expected @ ..] => {
                let recipe = Recipe::from_name(name).expect("the recipe is known");
                let found = formats(&metadata, &tensors, recipe, &[]).expect("the recipe applies");
                // Runs of equal formats: FORMAT*COUNT.
                let expected = expected.iter().flat_map(|run| {
                    let (format, count) = run.split_once('*').expect("FORMAT*COUNT");
                    std::iter::repeat_n(format, number(count) as usize)
                });
                for ((tensor, found), expected) in tensors.iter().zip(found).zip(expected) {
                    assert_eq!(found.name(), expected, "{recipe}: {}", tensor.name);
                }
                compared += 1;
            }
            other => panic!("line {other:?}"),
        }
    }
    assert_eq!(compared, 4 * Recipe::ALL.len());
}

#[test]
fn a_cancelled_conversion_leaves_nothing() {
    let dir = tempfile::tempdir().expect("temporary directories work");
    let file = quarrel_model::testing::tiny("llama", 1).expect("the name is from the list");
    let out = dir.path().join("out.gguf");
    let result = quantize_file(&file, &out, Recipe::F16, &[], 1, &mut |_| ControlFlow::Break(()));
    assert!(matches!(result, Err(Error::Cancelled)), "{result:?}");
    assert_eq!(std::fs::read_dir(&dir).expect("it is there").count(), 0);
}
