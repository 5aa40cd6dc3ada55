//! Hugging Face directories: transformers' logits from the same files, quantised
//! loading, and settings that must not be ignored.

mod common;

use backend::Role;
use common::{OPTIONS, ROUNDINGS, SEED, Sequence, golden, max_difference, reference, run};
use gguf::{Bytes, Format, ModelFile, SafeTensors};
use quarrel_model::quantize::{Recipe, quantize};
use quarrel_model::{Error, hf, load, testing};
use serde_json::{Value, json};

/// A model's two files, the first taken apart.
fn parts(name: &str) -> (Value, SafeTensors) {
    let (config, data) = testing::tiny_hf(name, SEED).expect("the name is from the list");
    let config = serde_json::from_str(&config).expect("it is JSON");
    (config, SafeTensors::from_bytes(Bytes::from(data)).expect("it is valid"))
}

fn open(name: &str) -> ModelFile {
    let (config, tensors) = parts(name);
    hf::from_parts(&config.to_string(), &tensors).expect("the model is valid")
}

fn logits(file: &ModelFile) -> Vec<f32> {
    let mut model = load(file, reference(), &OPTIONS).expect("the model is valid");
    let mut sequence = Sequence::new(&model, 0, 2);
    run(&mut model, &mut sequence, &testing::tiny_tokens(40, SEED), Role::Prompt)
}

#[test]
fn agrees_with_transformers() {
    for name in testing::tiny_names().filter(|name| testing::tiny_hf(name, SEED).is_some()) {
        let golden = golden("hf", name).expect("every model has a golden");
        let kept: Vec<f32> = logits(&open(name)).into_iter().step_by(common::STRIDE).collect();
        let difference = max_difference(&kept, &golden);
        println!("{name}: differs by {difference:e}");
        assert!(difference <= ROUNDINGS, "{name}: logits differ by {difference}");
    }
}

#[test]
fn a_class_without_a_mapping_is_refused_by_name() {
    let (mut config, tensors) = parts("llama");
    config["architectures"] = json!(["SmolLM3ForCausalLM"]);
    config["model_type"] = json!("smollm3");
    let error = hf::from_parts(&config.to_string(), &tensors).expect_err("nobody has written it");
    assert!(
        matches!(&error, Error::UnknownArchitecture { found, .. } if found.contains("SmolLM3")),
        "{error}"
    );
}

#[test]
fn opens_directories() {
    let dir = tempfile::tempdir().expect("temporary directories work");
    assert!(!hf::is_directory(dir.path()));
    assert!(matches!(hf::open(dir.path()), Err(Error::File(_))));
    let (config, data) = testing::tiny_hf("llama", SEED).expect("the name is from the list");
    std::fs::write(dir.path().join("config.json"), config).expect("the directory is there");
    assert!(matches!(hf::open(dir.path()), Err(Error::File(_))), "without tensors");
    std::fs::write(dir.path().join("model.safetensors"), data).expect("the directory is there");
    assert!(hf::is_directory(dir.path()));
    assert_eq!(logits(&hf::open(dir.path()).expect("it is complete")), logits(&open("llama")));
}

#[test]
fn quantises_as_it_loads() {
    let file = open("llama");
    let like = logits(&file);
    // The bounds are those of quantised files; see quantize.rs.
    for (name, bound) in [("bf16", 2f32.powi(-4)), ("q8_0", 2f32.powi(-4)), ("q4_0", 1.0), ("q4_k", 1.0)] {
        let recipe = Recipe::from_name(name).expect("it is a recipe");
        let quantised = quantize(&file, recipe, &[], 2).expect("it can be quantised");
        assert_ne!(quantised.tensor("blk.0.attn_q.weight").expect("it is there").format, Format::F32);
        let difference = max_difference(&logits(&quantised), &like);
        assert!(difference > 0.0 && difference <= bound, "{name}: {difference}");
    }
}

#[test]
fn settings_that_would_be_ignored_are_refused() {
    for (name, key, value) in [
        ("llama", "quantization_config", json!({"quant_method": "gptq"})),
        ("llama", "hidden_act", json!("gelu")),
        ("gemma2", "hidden_activation", json!("silu")),
        ("qwen2", "use_sliding_window", json!(true)),
        ("qwen3moe", "norm_topk_prob", json!(false)),
        ("qwen3moe", "mlp_only_layers", json!([0])),
        ("qwen3moe", "decoder_sparse_step", json!(2)),
        ("llama-linear", "rope_scaling", json!({"rope_type": "dynamic", "factor": 2.0})),
        ("llama-linear", "rope_scaling", json!({"rope_type": "linear"})),
        ("llama-yarn", "rope_scaling", json!({"rope_type": "yarn", "factor": 2.0, "attention_factor": 1.5})),
        (
            "phi3-long",
            "rope_scaling",
            json!({"rope_type": "longrope", "long_factor": [1.0], "short_factor": [1.0]}),
        ),
        ("gemma3-pattern", "layer_types", json!(["linear_attention"])),
        ("llama", "num_attention_heads", json!(0)),
        ("llama", "num_attention_heads", json!(-4)),
        ("llama", "hidden_size", json!("wide")),
        ("llama", "rms_norm_eps", json!(null)),
        ("llama", "architectures", json!([])),
    ] {
        let (mut config, tensors) = parts(name);
        config[key] = value.clone();
        if key == "num_attention_heads" {
            config["head_dim"] = Value::Null;
        }
        let error = hf::from_parts(&config.to_string(), &tensors).expect_err("it must be refused");
        assert!(matches!(error, Error::Config { .. }), "{name} with {key} = {value}: {error}");
    }
    let (mut config, tensors) = parts("llama");
    config["architectures"] = json!(["BertModel"]);
    let error = hf::from_parts(&config.to_string(), &tensors).expect_err("it is unknown");
    assert!(matches!(error, Error::UnknownArchitecture { .. }), "{error}");
    assert!(matches!(hf::from_parts("{", &tensors), Err(Error::Config { .. })));
}

#[test]
fn tensors_that_do_not_belong_are_refused() {
    let (config, _) = parts("llama");
    for other in ["gemma2", "phi3-long", "mixtral"] {
        let (_, tensors) = parts(other);
        let error = hf::from_parts(&config.to_string(), &tensors)
            .and_then(|file| load(&file, reference(), &OPTIONS).map(drop))
            .expect_err("the tensors are another model's");
        assert!(matches!(error, Error::Tensor { .. }), "{other}: {error}");
    }
    // Heads that do not divide the rows, and experts that are not there.
    let (mut config, tensors) = parts("llama");
    config["num_key_value_heads"] = json!(5);
    assert!(matches!(hf::from_parts(&config.to_string(), &tensors), Err(Error::Tensor { .. })));
    let (mut config, tensors) = parts("mixtral");
    config["num_local_experts"] = json!(5);
    assert!(matches!(hf::from_parts(&config.to_string(), &tensors), Err(Error::Tensor { .. })));
}
