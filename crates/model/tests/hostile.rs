//! Files whose hyper-parameters or tensors no model can have: each is a typed
//! error that names what is wrong, before anything is reserved or run.

mod common;

use backend::{Role, StepInputs, TokenInputs};
use common::{OPTIONS, SEED, Sequence, batch, reference, tiny};
use gguf::{Array, Bytes, Format, Metadata, ModelFile, TensorInfo, Value, Writer};
use quarrel_model::{Error, LoadOptions, ModelConfig, ModelRunner as _, Pooling, load, testing};

/// A tiny model taken apart.
struct Parts {
    metadata: Metadata,
    tensors: Vec<(TensorInfo, Vec<u8>)>,
}

impl Parts {
    fn of(name: &str) -> Self {
        let file = testing::tiny(name, SEED).expect("the name is from the list");
        let tensors = file.tensors.iter().map(|tensor| (tensor.info(), tensor.data.to_vec()));
        Self { tensors: tensors.collect(), metadata: file.metadata }
    }

    fn set(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.metadata.insert(key, value);
        self
    }

    fn without_key(mut self, key: &str) -> Self {
        let kept = self.metadata.iter().filter(|(name, _)| *name != key);
        let kept: Vec<_> = kept.map(|(name, value)| (name.to_owned(), value.clone())).collect();
        self.metadata = Metadata::new();
        for (name, value) in kept {
            self.metadata.insert(name, value);
        }
        self
    }

    /// Gives a tensor another shape and format, and zeros for data.
    fn reshape(mut self, name: &str, shape: &[u64], format: Format) -> Self {
        let info = TensorInfo { name: name.into(), shape: shape.to_vec(), format };
        let data = vec![0; info.bytes().expect("the shape is valid") as usize];
        self.tensors.retain(|(info, _)| info.name != name);
        self.tensors.push((info, data));
        self
    }

    fn file(&self) -> ModelFile {
        let infos = self.tensors.iter().map(|(info, _)| info.clone()).collect();
        let mut writer = Writer::new(vec![], &self.metadata, infos).expect("the header can be written");
        for (info, data) in &self.tensors {
            writer.write(&info.name, data).expect("the data fit their description");
        }
        let bytes = writer.finish().expect("all tensors are written");
        ModelFile::from_bytes(Bytes::from(bytes)).expect("the file itself is valid")
    }

    fn error(&self) -> Error {
        match load(&self.file(), reference(), &OPTIONS) {
            Ok(_) => panic!("the model loads"),
            Err(error) => error,
        }
    }

    /// Loading must fail with a message that has both parts.
    fn fails(&self, subject: &str, problem: &str) {
        let text = self.error().to_string();
        assert!(
            text.contains(subject) && text.contains(problem),
            "`{text}` lacks `{subject}` or `{problem}`"
        );
    }
}

#[test]
fn absurd_layer_counts() {
    for (count, problem) in
        [(0u32, "at least 1"), (1 << 31, "tensors could fill"), (u32::MAX, "tensors could fill")]
    {
        Parts::of("llama").set("llama.block_count", count).fails("llama.block_count", problem);
    }
    Parts::of("llama").set("llama.block_count", 3u32).fails("blk.2.", "missing");
    Parts::of("llama").set("llama.block_count", 1u32).fails("blk.1.", "not part of this architecture");
    Parts::of("llama").set("llama.block_count", -1i32).fails("llama.block_count", "integer");
}

#[test]
fn absurd_heads() {
    Parts::of("llama").set("llama.attention.head_count", 0u32).fails("head_count", "must be from 1");
    Parts::of("llama").set("llama.attention.head_count_kv", 0u32).fails("head_count_kv", "must be from 1");
    Parts::of("llama").set("llama.attention.head_count", 3u32).fails("head_count", "not a multiple");
    Parts::of("llama").set("llama.attention.head_count", u32::MAX).fails("head_count", "must be from 1");
    Parts::of("llama").set("llama.attention.head_count", "four").fails("head_count", "integer");
    Parts::of("llama")
        .set("llama.attention.head_count", Array::U32(vec![4]))
        .fails("head_count", "one entry for each of the 2 layers");
    Parts::of("llama")
        .set("llama.attention.head_count", Array::I32(vec![4, -4]))
        .fails("head_count", "must be from 1");
    Parts::of("llama").set("llama.attention.key_length", 1u32 << 31).fails("key_length", "must be from 1");
    Parts::of("llama")
        .without_key("llama.attention.key_length")
        .set("llama.attention.head_count", 128u32)
        .fails("head_count", "exceeds the embedding length");
}

#[test]
fn absurd_experts() {
    let experts = |suffix: &str, value: u32| Parts::of("qwen3moe").set(&format!("qwen3moe.{suffix}"), value);
    experts("expert_count", 0).fails("expert_count", "at least 1");
    experts("expert_count", 1 << 31).fails("expert_count", "at most 4096");
    experts("expert_count", 5).fails("ffn_gate_inp", "shape");
    experts("expert_used_count", 0).fails("expert_used_count", "from 1 to");
    experts("expert_used_count", 5).fails("expert_used_count", "from 1 to");
    Parts::of("qwen3moe").without_key("qwen3moe.expert_used_count").fails("expert_used_count", "missing");
    Parts::of("mixtral").set("llama.expert_count", 0u32).fails("ffn_gate.weight", "missing");
}

#[test]
fn absurd_rotary_embeddings() {
    for dims in [18u32, 15, 0, 1 << 31] {
        Parts::of("llama").set("llama.rope.dimension_count", dims).fails("rope.dimension_count", "must be");
    }
    for base in [0.0f32, 1.0, -1.0, f32::NAN, f32::INFINITY] {
        Parts::of("llama").set("llama.rope.freq_base", base).fails("rope.freq_base", "must be");
    }
    for base in [0.0f32, 0.5, f32::NAN] {
        Parts::of("gemma3").set("gemma3.rope.freq_base_swa", base).fails("rope.freq_base_swa", "must be");
    }
    for factor in [-1.0f32, f32::NAN, f32::NEG_INFINITY] {
        Parts::of("llama-yarn").set("llama.rope.scaling.factor", factor).fails("scaling.factor", "must");
    }
    Parts::of("llama").set("llama.rope.scaling.type", "magic").fails("scaling.type", "not one of");
    Parts::of("llama-factors")
        .reshape("rope_freqs.weight", &[8], Format::F32)
        .fails("rope_freqs", "factor 0");
    Parts::of("llama-factors").reshape("rope_freqs.weight", &[9], Format::F32).fails("rope_freqs", "shape");
    Parts::of("llama-factors").reshape("rope_freqs.weight", &[8], Format::F16).fails("rope_freqs", "F16");
}

#[test]
fn absurd_scalars() {
    let eps = "llama.attention.layer_norm_rms_epsilon";
    for value in [f32::NAN, f32::INFINITY, 0.0, -1e-5, 1.0] {
        Parts::of("llama").set(eps, value).fails(eps, "must be");
    }
    Parts::of("llama").set(eps, 1u32).fails(eps, "floating-point");
    Parts::of("llama").without_key(eps).fails(eps, "missing");
    Parts::of("llama").set("llama.context_length", 0u32).fails("context_length", "at least 1");
    Parts::of("llama").without_key("llama.context_length").fails("context_length", "missing");
    for size in [0u32, 1 << 31] {
        Parts::of("llama").set("llama.embedding_length", size).fails("embedding_length", "must be from 1");
        Parts::of("llama")
            .set("llama.feed_forward_length", size)
            .fails("feed_forward_length", "must be from 1");
    }
    Parts::of("granite").set("granite.logit_scale", 0.0f32).fails("logit_scale", "greater than 0");
    Parts::of("granite").without_key("granite.logit_scale").fails("logit_scale", "missing");
    Parts::of("gemma2")
        .set("gemma2.attn_logit_softcapping", f32::NAN)
        .fails("attn_logit_softcapping", "finite");
    Parts::of("gemma3-pattern")
        .set("gemma3.attention.sliding_window_pattern", Array::Bool(vec![true]))
        .fails("sliding_window_pattern", "3 layers");
}

#[test]
fn vocabulary_that_differs_from_the_token_list() {
    Parts::of("llama").set("llama.vocab_size", 289u32).fails("vocab_size", "288 tokens listed");
    Parts::of("llama").set("tokenizer.ggml.tokens", Array::String(vec![])).fails("tokens", "at least one");
    Parts::of("llama")
        .without_key("llama.vocab_size")
        .set("tokenizer.ggml.tokens", Array::String(vec!["a".into()]))
        .fails("token_embd.weight", "shape");
}

#[test]
fn every_tensor_is_needed() {
    for name in testing::tiny_names() {
        let parts = Parts::of(name);
        for (i, (info, _)) in parts.tensors.iter().enumerate() {
            // What these leave is another valid model: tied, without biases or factors.
            let tells_the_shape = ["output.weight", "attn_q.bias", "attn_output.bias", "ffn_down.bias"];
            if tells_the_shape.iter().any(|suffix| info.name.ends_with(suffix))
                || info.name == "rope_freqs.weight"
            {
                continue;
            }
            let mut less = Parts { metadata: parts.metadata.clone(), tensors: parts.tensors.clone() };
            less.tensors.remove(i);
            assert!(matches!(less.error(), Error::Tensor { .. }), "{name} without {}", info.name);
        }
    }
}

#[test]
fn every_shape_is_checked() {
    for name in testing::tiny_names() {
        let parts = Parts::of(name);
        for (info, _) in &parts.tensors {
            for dim in 0..info.shape.len() {
                let mut shape = info.shape.clone();
                shape[dim] += 1;
                let other = Parts { metadata: parts.metadata.clone(), tensors: parts.tensors.clone() };
                let error = other.reshape(&info.name, &shape, info.format).error();
                assert!(
                    matches!(&error, Error::Tensor { name, .. } if *name == info.name),
                    "{name}, {} as {shape:?}: {error}",
                    info.name
                );
            }
        }
    }
}

#[test]
fn tensors_that_nothing_reads() {
    Parts::of("llama")
        .reshape("blk.0.attn_sinks.weight", &[4], Format::F32)
        .fails("attn_sinks", "not part of");
    Parts::of("qwen2").reshape("rope_freqs.weight", &[8], Format::F32).fails("rope_freqs", "not part of");
    Parts::of("phi3-long")
        .reshape("blk.9.ffn_up.weight", &[1], Format::F32)
        .fails("blk.9.ffn_up", "not part of");
    // Rotation tables of old converters follow from the metadata.
    let old = Parts::of("llama").reshape("blk.0.attn_rot_embd", &[8], Format::F32);
    assert!(load(&old.file(), reference(), &OPTIONS).is_ok());
}

#[test]
fn formats_that_cannot_run() {
    Parts::of("llama").reshape("output.weight", &[64, 288], Format::I8).fails("output.weight", "I8");
}

#[test]
fn unknown_architectures() {
    let error = Parts::of("llama").set("general.architecture", "mamba").error();
    assert!(matches!(&error, Error::UnknownArchitecture { found, .. } if found == "mamba"));
    for name in quarrel_model::supported_architectures() {
        assert!(error.to_string().contains(name), "{error}");
    }
    Parts::of("llama").without_key("general.architecture").fails("general.architecture", "missing");
    Parts::of("llama").set("general.architecture", 1u32).fails("general.architecture", "a string");
}

#[test]
fn memory_is_planned() {
    let file = Parts::of("llama").file();
    let memory = |limit, context| {
        let options = LoadOptions { memory: Some(limit), context, ..OPTIONS };
        load(&file, reference(), &options)
    };
    let plan = *memory(u64::MAX, Some(128)).expect("it fits").memory();
    assert_eq!(plan.context, 128);
    // 2 sequences of 128 tokens, 2 layers, 2 heads of 16, keys and values, f32.
    assert_eq!(plan.kv_cache, 2 * 128 * 2 * 2 * 16 * 2 * 4);
    assert!(plan.weights > 0 && plan.scratch > 0);

    let Err(Error::Memory { plan: wanted, limit, fits }) = memory(plan.total() - 1, Some(128)) else {
        panic!("one byte less must not fit")
    };
    assert_eq!((wanted, limit, fits), (plan, plan.total() - 1, 96));
    let shorter = memory(plan.total() - 1, None).expect("a shorter context fits");
    assert_eq!(shorter.memory().context, 96);
    let Err(Error::Memory { fits: 0, .. }) = memory(1, None) else { panic!("nothing fits in one byte") };
}

#[test]
fn a_shared_cache_keeps_to_its_memory() {
    for name in ["llama", "llama-window", "gemma3"] {
        let file = Parts::of(name).file();
        let cache = |kv_memory, memory| {
            let options = LoadOptions { context: Some(128), max_sequences: 5, kv_memory, memory, ..OPTIONS };
            load(&file, reference(), &options)
        };
        let pages = |loaded: &quarrel_model::LoadedModel| -> Vec<u32> {
            loaded.groups().iter().map(|group| group.n_pages).collect()
        };
        let all = cache(None, None).expect("it fits");
        let one = load(&file, reference(), &LoadOptions { context: Some(128), max_sequences: 1, ..OPTIONS });
        let one = one.expect("it fits");
        let (one_plan, all_plan) = (*one.memory(), *all.memory());
        assert_eq!(all_plan.kv_cache, 5 * one_plan.kv_cache, "{name}");
        // With more than all can use, all; in between, no more than that; at least one sequence.
        assert_eq!(pages(&cache(Some(u64::MAX), None).expect("it fits")), pages(&all));
        for budget in [one_plan.kv_cache, one_plan.kv_cache * 5 / 2, all_plan.kv_cache - 1] {
            let some = cache(Some(budget), None).expect("one sequence fits");
            assert!(some.memory().kv_cache <= budget, "{name}: {:?} of {budget}", some.memory());
            assert!(some.memory().kv_cache > budget / 2, "{name}: {:?} of {budget}", some.memory());
            assert!(pages(&some).iter().zip(pages(&one)).all(|(some, one)| *some >= one), "{name}");
        }
        assert_eq!(pages(&cache(Some(one_plan.kv_cache), None).expect("one fits")), pages(&one));
        let less = cache(Some(one_plan.kv_cache - 1), None);
        let Err(Error::CacheMemory { needed, context: 128, fits, .. }) = less else { panic!("{name}") };
        assert_eq!(needed, one_plan.kv_cache);
        assert!(fits > 0 && fits < 128, "{fits}");
        // What weights and scratch leave is less than the cache may take.
        let limit = all_plan.total() - all_plan.kv_cache / 2;
        let tight = cache(Some(u64::MAX), Some(limit)).expect("one sequence fits");
        assert!(tight.memory().total() <= limit, "{name}: {:?}", tight.memory());
    }
}

#[test]
fn options_that_make_no_sense() {
    let file = Parts::of("llama").file();
    for options in [
        LoadOptions { context: Some(0), ..OPTIONS },
        LoadOptions { context: Some(129), ..OPTIONS },
        LoadOptions { max_batch_tokens: 0, ..OPTIONS },
        LoadOptions { max_sequences: usize::MAX, ..OPTIONS },
        LoadOptions { max_outputs: 0, ..OPTIONS },
    ] {
        assert!(matches!(load(&file, reference(), &options), Err(Error::Option { .. })), "{options:?}");
    }
    // A context that cannot be numbered, or that no machine has memory for.
    let endless = Parts::of("llama").set("llama.context_length", u32::MAX).file();
    let options = LoadOptions { context: None, max_sequences: 1 << 20, ..OPTIONS };
    assert!(matches!(load(&endless, reference(), &options), Err(Error::Option { .. })));
    assert_eq!(ModelConfig::from_file(&endless).expect("it is a number").context_length, u32::MAX);
}

#[test]
fn batches_that_do_not_fit() {
    let mut model = tiny("llama", reference(), &OPTIONS);
    assert!(matches!(model.logits(), Err(Error::NoLogits)));
    let mut sequence = Sequence::new(&model, 0, 2);
    let good = batch(&model, &mut [(&mut sequence, &[1, 2, 3], Role::Prompt)]);
    let fails = |model: &mut quarrel_model::LoadedModel, change: &dyn Fn(&mut StepInputs)| {
        let mut inputs = good.clone();
        change(&mut inputs);
        let error = model.forward(&inputs).expect_err("the batch is wrong");
        assert!(matches!(error, Error::Batch { .. } | Error::Backend(_)), "{error}");
        assert!(model.logits().is_err(), "there are no logits after an error");
    };
    fails(&mut model, &|inputs| inputs.tokens = TokenInputs::Ids(vec![1; 65]));
    fails(&mut model, &|inputs| inputs.tokens = TokenInputs::Ids(vec![1, 2, 288]));
    fails(&mut model, &|inputs| inputs.outputs = vec![3]);
    fails(&mut model, &|inputs| inputs.positions.truncate(2));
    fails(&mut model, &|inputs| inputs.sequences.clear());
    fails(&mut model, &|inputs| inputs.groups.clear());
    fails(&mut model, &|inputs| inputs.groups[0].slots[0] = u32::MAX);
    fails(&mut model, &|inputs| inputs.groups[0].block_tables[0] = 1 << 30);
    fails(&mut model, &|inputs| inputs.adapter = Some(0));
    model.forward(&good).expect("the batch itself is right");
    assert!(model.copy_pages(1, &[(0, 1)]).is_err());
    assert!(model.copy_pages(0, &[(0, u32::MAX)]).is_err());
}

#[test]
fn a_file_that_shrinks_is_noticed_before_the_next_step() {
    let path = tempfile::NamedTempFile::new().expect("temporary files work").into_temp_path();
    let bytes = testing::tiny_bytes("llama", SEED).expect("the name is from the list");
    std::fs::write(&path, &bytes).expect("temporary files work");
    let file = ModelFile::open(&path).expect("the file is valid");
    let mut model = load(&file, reference(), &OPTIONS).expect("the model is valid");
    let mut sequence = Sequence::new(&model, 0, 2);
    let inputs = batch(&model, &mut [(&mut sequence, &[1], Role::Prompt)]);
    model.forward(&inputs).expect("the file is whole");
    let whole = std::fs::OpenOptions::new().write(true).open(&path).expect("the file is there");
    whole.set_len(bytes.len() as u64 / 2).expect("it can be cut");
    assert!(matches!(model.forward(&inputs), Err(Error::File(_))));
}

#[test]
fn a_pooling_is_known_or_refused() {
    let pooling = |found: u32| {
        let file = Parts::of("qwen3").set("qwen3.pooling_type", found).file();
        load(&file, reference(), &OPTIONS).map(|model| model.config().pooling)
    };
    for (found, meant) in [(0, Pooling::Last), (1, Pooling::Mean), (2, Pooling::First), (3, Pooling::Last)] {
        assert_eq!(pooling(found).ok(), Some(meant));
    }
    for refused in [4, 5] {
        assert!(matches!(pooling(refused), Err(Error::Config { key, .. }) if key == "qwen3.pooling_type"));
    }
}
