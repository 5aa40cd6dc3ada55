//! The commands as their users meet them, over the default model
//! (`cargo xtask fixtures` fetches it).

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn model() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/fixtures/smollm2-135m.gguf");
    assert!(path.exists(), "{} is missing; run `cargo xtask fixtures`", path.display());
    path.to_str().expect("the path is UTF-8").to_owned()
}

fn quarrel(cache: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quarrel"));
    command.env("QUARREL_CACHE", cache).env_remove("HF_TOKEN").env_remove("OLLAMA_MODELS");
    // Texts to the bit are the CPU's.
    command.env("CUDA_VISIBLE_DEVICES", "");
    command
}

fn output(args: &[&str]) -> Output {
    let cache = tempfile::tempdir().expect("a temporary directory can be made");
    quarrel(cache.path()).args(args).stdin(Stdio::null()).output().expect("the binary was just built")
}

fn stdout(args: &[&str]) -> String {
    let out = output(args);
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).expect("output is UTF-8")
}

fn json(args: &[&str]) -> Value {
    serde_json::from_str(&stdout(args)).expect("--json prints JSON")
}

/// What the command says went wrong, and its exit code.
fn failure(args: &[&str]) -> (i32, String) {
    let out = output(args);
    (out.status.code().unwrap_or(-1), String::from_utf8_lossy(&out.stderr).into_owned())
}

/// How llama.cpp continues "The capital of France is" (`llama-completion -n 16 --temp 0 -no-cnv`), up to its
/// first near tie ("United" and "answer" follow with almost the same probability).
const FRANCE: &str = " Paris.\n\nThe";

#[test]
fn run_gives_the_peers_greedy_text() {
    let model = model();
    let args =
        ["run", "--model", &model, "--raw", "--temperature", "0", "-n", "16", "The capital of France is"];
    let text = stdout(&args);
    assert!(text.starts_with(FRANCE), "{text}");
}

#[test]
fn run_with_a_seed_repeats_itself_for_any_number_of_threads() {
    let model = model();
    let run = |threads: &str| {
        json(&[
            "run",
            "--model",
            &model,
            "--seed",
            "7",
            "-n",
            "24",
            "--json",
            "--threads",
            threads,
            "Say hello.",
        ])
    };
    let (one, three) = (run("1"), run("3"));
    assert_eq!(one["text"], three["text"]);
    assert_eq!(one["prompt_tokens"], 33);
    assert!(one["generated_tokens"].as_u64().is_some_and(|n| n > 0), "{one}");
}

#[test]
fn run_reads_standard_input_and_says_its_figures_on_standard_error() {
    let cache = tempfile::tempdir().unwrap();
    let model = model();
    let mut child = quarrel(cache.path())
        .args(["run", "--model", &model, "--raw", "--temperature", "0", "-n", "4", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"The capital of France is").unwrap();
    let out = child.wait_with_output().unwrap();
    let (text, figures) = (String::from_utf8(out.stdout).unwrap(), String::from_utf8(out.stderr).unwrap());
    assert!(FRANCE.starts_with(text.trim_end()), "{text}");
    assert_eq!(figures.lines().count(), 1, "{figures}");
    for part in ["cpu", "prompt 5 tokens", "generated 4 tokens", "tokens/s", "first token after"] {
        assert!(figures.contains(part), "`{part}` in {figures}");
    }
}

#[test]
fn a_closed_pipe_is_no_error() {
    let cache = tempfile::tempdir().unwrap();
    let model = model();
    let mut child = quarrel(cache.path())
        .args(["run", "--model", &model, "--raw", "-n", "200", "--temperature", "0", "Once"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let out = child.wait_with_output().unwrap();
    assert_eq!((out.status.code(), String::from_utf8_lossy(&out.stderr).as_ref()), (Some(0), ""));
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_error_stream_does_not_hurt_the_answer() {
    let cache = tempfile::tempdir().unwrap();
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let out = quarrel(cache.path())
        .args([
            "run",
            "--model",
            &model(),
            "--raw",
            "-n",
            "2",
            "--temperature",
            "0",
            "The capital of France is",
        ])
        .stderr(full)
        .output()
        .unwrap();
    assert_eq!(out.status.code(), Some(0));
    assert!(out.stdout.starts_with(b" Paris"), "{out:?}");
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_a_generation_cleanly() {
    let cache = tempfile::tempdir().unwrap();
    let model = model();
    let mut child = quarrel(cache.path())
        .args(["run", "--model", &model, "--raw", "-n", "4000", "Once upon a time"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut first = [0];
    stdout.read_exact(&mut first).unwrap();
    let kill = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(kill.success());
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    let out = child.wait_with_output().unwrap();
    let figures = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(130), "{figures}");
    assert!(figures.contains("generated"), "the figures still come: {figures}");
}

#[test]
fn chat_holds_a_conversation_and_keeps_its_cache() {
    let cache = tempfile::tempdir().unwrap();
    let saved = cache.path().join("saved.json");
    let model = model();
    let mut child = quarrel(cache.path())
        .args(["chat", "--model", &model, "--temperature", "0", "-n", "20"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let script = format!(
        "My name is Ada.\n\"\"\"What is\nmy name?\"\"\"\n/stats\n/regen\n/save {0}\n/clear\n/load {0}\n/nope\n/bye\n",
        saved.display()
    );
    child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert!(text.contains("context 8192 tokens") && text.contains("180.00 MiB of KV cache"), "{text}");
    assert!(text.contains("cached)"), "the second turn finds the first one's pages: {text}");
    assert!(text.matches("4 messages").count() == 2 && text.contains("there is no command /nope"), "{text}");
    let messages: Value = serde_json::from_str(&std::fs::read_to_string(&saved).unwrap()).unwrap();
    assert_eq!(messages[2]["content"], "What is\nmy name?");
    assert_eq!(messages.as_array().map(Vec::len), Some(4));
}

#[test]
fn tokens_go_there_and_back() {
    let model = model();
    let ids = stdout(&["tokenize", "--model", &model, "--json", "Hello, wörld! 🦀"]);
    let text = stdout(&["detokenize", "--model", &model, ids.trim()]);
    assert_eq!(text, "Hello, wörld! 🦀\n");
}

#[test]
fn inspect_says_what_is_in_the_file() {
    let found = json(&["inspect", "--json", &model()]);
    assert_eq!(found["parameters"], 134_515_008);
    assert_eq!(found["can_run"], true);
    assert_eq!(found["metadata"]["general.architecture"], "llama");
    // 30 layers, 3 heads of 64, keys and values, 2 bytes, 2048 tokens.
    assert_eq!(found["kv_cache"][0]["bytes"]["f16"], 30 * 3 * 64 * 2 * 2 * 2048);
}

#[test]
fn quantize_writes_a_model_that_runs() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("q8.gguf");
    let out = out.to_str().unwrap();
    let model = model();
    stdout(&["quantize", &model, out, "Q8_0", "--tensor", "ffn_down=Q4_0"]);
    let formats = json(&["inspect", "--json", out])["formats"].clone();
    assert_eq!(formats["Q4_0"]["tensors"], 30, "{formats}");
    let text = stdout(&[
        "run",
        "--model",
        out,
        "--raw",
        "--temperature",
        "0",
        "-n",
        "2",
        "The capital of France is",
    ]);
    assert!(text.starts_with(" Paris"), "{text}");
    let (code, why) = failure(&["quantize", &model, out, "Q8_0"]);
    assert!(code == 1 && why.contains("--force"), "{why}");
}

#[test]
fn bench_and_perplexity_print_the_keys_that_programs_read() {
    let model = model();
    let figures = json(&[
        "bench", "--model", &model, "--prompt", "8", "--gen", "2", "--depth", "4", "-r", "2", "--json",
    ]);
    for key in ["prefill_tok_s", "prefill_sd", "decode_tok_s", "decode_sd"] {
        assert!(figures[key].as_f64().is_some_and(|x| x >= 0.0), "{key} in {figures}");
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("text.txt");
    std::fs::write(&file, "The quick brown fox jumps over the lazy dog. ".repeat(20)).unwrap();
    let file = file.to_str().unwrap();
    let figures =
        json(&["perplexity", "--model", &model, "--file", file, "--ctx", "64", "--chunks", "2", "--json"]);
    assert_eq!(figures["chunks"], 2);
    assert!(figures["perplexity"].as_f64().is_some_and(|x| x > 1.0), "{figures}");
}

#[test]
fn bench_counts_all_sequences_of_a_batch() {
    let model = model();
    let args =
        ["bench", "--model", &model, "--batch", "2", "--prompt", "8", "--gen", "4", "-r", "2", "--json"];
    let figures = json(&args);
    assert_eq!(figures["batch"], 2);
    for key in ["prefill_tok_s", "decode_tok_s"] {
        assert!(figures[key].as_f64().is_some_and(|x| x > 0.0), "{key} in {figures}");
    }
    let args = ["bench", "--model", &model, "--batch", "2", "--prompt", "0", "--gen", "4", "-r", "1"];
    let table = stdout(&args);
    assert!(table.contains("| tg4 x2 |") && !table.contains("pp"), "{table}");
}

#[test]
fn a_wrong_instruction_set_is_answered_with_the_known_ones() {
    let (code, why) = failure(&["run", "--isa", "sse9", "hi"]);
    assert!(code == 2 && why.contains("--isa") && why.contains("scalar"), "{why}");
    #[cfg(target_arch = "x86_64")]
    for name in ["avx2", "avx512", "avx512-bf16", "amx"] {
        assert!(why.contains(name), "{name} in {why}");
    }
}

#[test]
fn mistakes_are_explained() {
    let model = model();
    let cases: [(&[&str], i32, &str); 28] = [
        (&["run", "--temprature", "1", "hi"], 2, "--temperature"),
        (&["run", "--model", "smolm2-135m", "hi"], 1, "smollm2-135m"),
        (&["run", "--model", "/nowhere/x.gguf", "hi"], 1, "/nowhere/x.gguf"),
        (&["run", "--model", &model, "--temperature", "-1", "hi"], 1, "temperature"),
        (&["run", "--model", &model, "--temperature=-1", "hi"], 1, "temperature"),
        (&["run", "--model", &model, "--top-p", "nan", "hi"], 1, "top_p"),
        (&["run", "--model", &model, "--ctx", "16", "--raw", "-n", "20", "hi"], 1, "16"),
        (&["run", "--model", &model, "--ctx", "999999", "hi"], 1, "8192"),
        (&["run", "--model", &model, "--kv", "q9", "hi"], 1, "f16"),
        (&["run", "--model", &model, "--max-tokens", "0", "hi"], 2, "--max-tokens"),
        (&["detokenize", "--model", &model, "99999999"], 1, "vocabulary"),
        (&["run", "--model", &model, "--seed", "-1", "hi"], 2, "--seed"),
        // Refused before a model is looked for: the cache is empty here.
        (&["run", "--temperature", "-1", "hi"], 1, "temperature"),
        (&["chat", "--kv", "q9"], 1, "f16"),
        (&["bench", "--model", &model, "-p", "18446744073709551615"], 2, "--prompt"),
        (&["bench", "--model", &model, "--batch", "0"], 2, "--batch"),
        (&["bench", "--prompt", "0", "--gen", "0", "--depth", "4"], 1, "nothing to measure"),
        (&["run", "--weights", "copied", "hi"], 2, "interleaved"),
        (&["run", "--backend", "gpu", "hi"], 2, "cuda"),
        (&["run", "--backend", "cpu", "--device", "0", "hi"], 1, "--device"),
        (&["run", "--backend", "cuda", "--isa", "scalar", "hi"], 1, "--isa"),
        (&["run", "--backend", "metal", "--device", "0", "hi"], 1, "--device"),
        (&["run", "--device", "1", "--weights", "mapped", "hi"], 1, "--weights"),
        (&["--verbose"], 2, "--version"),
        (&["run", "--model", &model, "--backend", "cuda", "hi"], 1, "cuda is not available"),
        (&["run", "--model", &model, "--device", "1000", "hi"], 1, "cuda is not available"),
        (&["quantize", &model, "/dev/null", "Q8_0", "--force"], 1, "not a regular file"),
        (&["quantize", &model, "/nowhere/out.gguf", "Q9"], 1, "Q4_K_M"),
    ];
    for (args, code, part) in cases {
        let (found, why) = failure(args);
        assert!(found == code && why.contains(part), "{args:?}: {found} {why}");
        assert!(!why.contains("panicked"), "{why}");
    }
}

#[test]
fn the_cache_lists_and_forgets() {
    let listed = json(&["list", "--json"]);
    assert_eq!(listed["cached"].as_array().map(Vec::len), Some(0));
    assert!(listed["short_names"].as_array().is_some_and(|names| names.contains(&"smollm2-135m".into())));
    let (code, why) = failure(&["rm", "smollm2-135m"]);
    assert!(code == 1 && why.contains("smollm2-135m"), "{why}");
}

#[test]
fn the_version_says_what_was_never_run() {
    let version = concat!("quarrel ", env!("CARGO_PKG_VERSION"), "\n");
    assert_eq!(stdout(&["--version"]), version);
    let verbose = stdout(&["--version", "--verbose"]);
    assert!(verbose.starts_with(version) && verbose.contains("never run on Apple hardware"), "{verbose}");
}

#[cfg(not(target_os = "macos"))]
#[test]
fn metal_says_where_it_is() {
    let (code, why) = failure(&["run", "--model", &model(), "--backend", "metal", "hi"]);
    assert!(code == 1 && why.contains("metal is not available") && why.contains("macOS"), "{why}");
    let (code, why) = failure(&["doctor", "--metal"]);
    assert!(code == 1 && why.contains("metal is not available"), "{why}");
}

#[test]
fn doctor_reports_even_on_a_bare_machine() {
    let found = json(&["doctor", "--json"]);
    assert!(found["cpu"].as_str().is_some_and(|cpu| cpu.contains("cpu")), "{found}");
    for part in ["cuda", "nvrtc", "metal"] {
        let problem = format!("{part}_problem");
        assert!(found[part].is_string() != found[&problem].is_string(), "{part} in {found}");
    }
    assert_eq!((&found["gpus"], &found["compiled_kernels"]), (&Value::Array(vec![]), &0.into()), "{found}");
}
