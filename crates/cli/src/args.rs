//! The command line, as data; its doc comments are the help texts.

use std::path::PathBuf;

use backend::gpu::{Library, Multiplier, PromptMaps};
use backend::{Isa, WeightLayout};
use clap::{Args, Parser, Subcommand, ValueEnum};

/// Run large language models from GGUF files on your own machine.
///
/// A MODEL is a short name (`quarrel list` shows them), a path to a .gguf file
/// or a Hugging Face directory, hf:OWNER/REPO[:QUANT], or ollama:NAME[:TAG].
#[derive(Debug, Parser)]
#[command(name = "quarrel", disable_version_flag = true, max_term_width = 100, infer_subcommands = true)]
#[command(arg_required_else_help = true, args_conflicts_with_subcommands = true)]
#[command(after_help = "Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.\n\n\
    Example: quarrel run \"Why is the sky blue?\"")]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Print the version.
    #[arg(short = 'V', long)]
    pub version: bool,
    /// With --version, also print what was never run where.
    #[arg(long, requires = "version")]
    pub verbose: bool,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Answer one prompt and stop.
    Run(RunArgs),
    /// Talk with a model, turn by turn.
    Chat(ChatArgs),
    /// Serve models over HTTP to clients of OpenAI's, Anthropic's and Ollama's APIs.
    Serve(ServeArgs),
    /// Show what is in a model file and whether it can run here.
    Inspect(InspectArgs),
    /// Measure prompt and generation speed.
    Bench(BenchArgs),
    /// Measure how well a model predicts a text (lower is better).
    Perplexity(PerplexityArgs),
    /// Write a model in another number format.
    Quantize(QuantizeArgs),
    /// Turn text into token ids.
    Tokenize(TokenizeArgs),
    /// Turn token ids into text.
    Detokenize(DetokenizeArgs),
    /// Fetch a model into the cache.
    Pull(PullArgs),
    /// List the models in the cache and the short names that can be pulled.
    List(ListArgs),
    /// Remove models from the cache.
    Rm(RmArgs),
    /// Show what this machine offers and whether Quarrel is set up.
    Doctor(DoctorArgs),
}

/// Which model, and how it is loaded.
#[derive(Debug, Clone, Args)]
pub struct ModelArgs {
    /// The model: a short name, a path, hf:OWNER/REPO[:QUANT] or ollama:NAME[:TAG].
    #[arg(short, long, value_name = "MODEL", default_value = "smollm2-135m")]
    pub model: String,
    #[command(flatten)]
    pub load: LoadArgs,
}

/// How a model is loaded.
#[derive(Debug, Clone, Args)]
pub struct LoadArgs {
    /// Context length in tokens [default: the model's own, at most 8192; perplexity: 512; bench: what it needs].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub ctx: Option<u32>,
    /// What computes: cpu, cuda (an NVIDIA GPU), metal (an Apple GPU) or auto (the GPU where there is one
    /// and it can take the model, else the CPU).
    #[arg(long, value_name = "BACKEND", value_enum, default_value_t = BackendChoice::Auto, hide_possible_values = true)]
    pub backend: BackendChoice,
    /// Which GPU, counted from 0 as `quarrel doctor` lists them; implies --backend cuda [default: the first].
    #[arg(long, value_name = "N")]
    pub device: Option<u16>,
    /// What a GPU multiplies generated tokens as, with quantised weights: int8 (8-bit integers, as the CPU
    /// does) or bf16 (weights are rounded to it instead); implies --backend cuda [default: int8 where up to
    /// 8 replies are computed at once or the GPU has no warpgroups, else bf16].
    #[arg(long, value_name = "FORMAT", value_enum, hide_possible_values = true)]
    pub activations: Option<Activations>,
    /// What multiplies prompts on an Apple GPU: simdgroup (kernels of Quarrel's), tensor (kernels of Quarrel's by
    /// Metal 4's tensor operations, from macOS 26.1 on), mps (Apple's own, Metal Performance Shaders), mpsgraph
    /// (graphs that Apple's framework compiles, from macOS 15 on) or auto (the fastest of those that there are,
    /// measured when a model is loaded); implies --backend metal [default: simdgroup].
    #[arg(long, value_name = "KERNELS", value_enum, hide_possible_values = true)]
    pub metal_gemm: Option<MetalGemm>,
    /// Threads to compute with on the CPU [default: one for each core].
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// Instruction set of the CPU to compute with: scalar; on x86-64 also avx2, avx512, avx512-bf16 or
    /// amx; on ARM neon or neon-dotprod; implies --backend cpu [default: the fastest that it has].
    #[arg(long, value_name = "SET", value_parser = isa)]
    pub isa: Option<Isa>,
    /// Where the CPU reads weights from: mapped (the file, nothing is copied), interleaved (a copy that
    /// computes faster; both imply --backend cpu) or auto (interleaved where memory allows, else mapped).
    #[arg(long, value_name = "LAYOUT", value_enum, default_value_t = Weights::Auto, hide_possible_values = true)]
    pub weights: Weights,
    /// How the KV cache stores numbers: f32, f16, bf16, q8_0 or fp8, or k=FORMAT,v=FORMAT.
    #[arg(long, value_name = "FORMAT", default_value = "f16")]
    pub kv: String,
    /// Quantise the weights while loading: q8_0, q4_0 or q4_k; meant for models in F32, F16 or BF16.
    #[arg(long, value_name = "FORMAT")]
    pub quantize: Option<String>,
}

/// How requests share the model.
#[derive(Debug, Clone, Args)]
pub struct EngineArgs {
    /// Same request and seed, same answer to the bit, whatever else was asked: prompts are then never
    /// served from what replies left in the cache, which makes later turns of a conversation start later.
    /// Not with --metal-gemm: what Apple's kernels make of a row beside others is not known.
    #[arg(long, conflicts_with = "metal_gemm")]
    pub deterministic: bool,
}

/// How the next token is chosen.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Sampling")]
pub struct SamplingArgs {
    /// Randomness; 0 always takes the likeliest token.
    #[arg(long, value_name = "T", default_value_t = 0.8, allow_negative_numbers = true)]
    pub temperature: f32,
    /// Consider only the K likeliest tokens; 0 considers all.
    #[arg(long, value_name = "K", default_value_t = 40, allow_negative_numbers = true)]
    pub top_k: usize,
    /// Consider the likeliest tokens that together reach probability P.
    #[arg(long, value_name = "P", default_value_t = 0.95, allow_negative_numbers = true)]
    pub top_p: f32,
    /// Consider tokens at least P times as likely as the likeliest.
    #[arg(long, value_name = "P", default_value_t = 0.05, allow_negative_numbers = true)]
    pub min_p: f32,
    /// Make tokens that were used recently less likely; 1 is off.
    #[arg(long, value_name = "R", default_value_t = 1.0, allow_negative_numbers = true)]
    pub repeat_penalty: f32,
    /// Subtract this from the logit of every token used recently.
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true)]
    pub presence_penalty: f32,
    /// Subtract this for every time a token was used recently.
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true)]
    pub frequency_penalty: f32,
    /// Same seed, same answer [default: a new one each time].
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub seed: Option<u64>,
    /// Stop where this text appears; may be given several times.
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
    /// Most tokens to generate [default: until the model stops or the context is full].
    #[arg(short = 'n', long, value_name = "N", allow_negative_numbers = true)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    pub max_tokens: Option<u32>,
}

/// `quarrel run`
#[derive(Debug, Args)]
pub struct RunArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// Continue the prompt as it is, without the model's chat template.
    #[arg(long)]
    pub raw: bool,
    /// Instructions that come before the prompt.
    #[arg(short, long, value_name = "TEXT", conflicts_with = "raw")]
    pub system: Option<String>,
    /// Use this template instead of the model's own: chatml, gemma, llama2, llama3, mistral, phi3 or zephyr.
    #[arg(long, value_name = "NAME", conflicts_with = "raw")]
    pub chat_template: Option<String>,
    /// Print one JSON object with the text and the figures instead of streaming.
    #[arg(long)]
    pub json: bool,
    /// The prompt; `-` or nothing reads it from standard input.
    #[arg(value_name = "PROMPT")]
    pub prompt: Option<String>,
    #[command(flatten)]
    pub engine: EngineArgs,
    #[command(flatten)]
    pub sampling: SamplingArgs,
}

/// `quarrel chat`
#[derive(Debug, Args)]
pub struct ChatArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// Instructions that come before the conversation.
    #[arg(short, long, value_name = "TEXT")]
    pub system: Option<String>,
    /// Use this template instead of the model's own: chatml, gemma, llama2, llama3, mistral, phi3 or zephyr.
    #[arg(long, value_name = "NAME")]
    pub chat_template: Option<String>,
    #[command(flatten)]
    pub engine: EngineArgs,
    #[command(flatten)]
    pub sampling: SamplingArgs,
}

/// `quarrel serve`
#[derive(Debug, Clone, Args)]
pub struct ServeArgs {
    /// A model and the name it is served under; may be given several times, also to serve one model
    /// under several names. The first is loaded at once, others when they are asked for.
    #[arg(short, long = "model", value_name = "MODEL[=ALIAS]", default_value = "smollm2-135m")]
    pub models: Vec<String>,
    #[command(flatten)]
    pub load: LoadArgs,
    /// Use this template instead of the models' own: chatml, gemma, llama2, llama3, mistral, phi3 or zephyr.
    #[arg(long, value_name = "NAME")]
    pub chat_template: Option<String>,
    /// Replies that are generated side by side.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub parallel: u16,
    /// Memory for each model's KV cache, as 512MiB, 4GiB or 25% of what is free; replies share its pages, and
    /// it holds at least one full context [default: all that they can use, at most 25%].
    #[arg(long, value_name = "SIZE", value_parser = kv_memory)]
    pub kv_memory: Option<KvMemory>,
    /// Requests that may be worked on or wait at once; more are answered with status 429.
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub max_requests: u32,
    /// Unload a model after so many seconds without a request [default: never].
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub idle_unload: Option<u64>,
    /// Unload models, those longest unused first, when they would take more GiB together [default: never].
    #[arg(long, value_name = "GIB", value_parser = clap::value_parser!(u64).range(1..1 << 20))]
    pub memory: Option<u64>,
    #[command(flatten)]
    pub engine: EngineArgs,
    #[command(flatten)]
    pub network: NetworkArgs,
}

/// How much memory a KV cache may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvMemory {
    /// So many bytes.
    Bytes(u64),
    /// So many hundredths of the memory that is free.
    Percent(u8),
}

/// `512MiB`, `4GiB` or `25%`.
fn kv_memory(text: &str) -> Result<KvMemory, String> {
    let wrong = || "write it as 512MiB, 4GiB or 25%".to_owned();
    if let Some(percent) = text.strip_suffix('%') {
        let percent = percent.parse().ok().filter(|percent| (1..=90).contains(percent));
        return percent.map(KvMemory::Percent).ok_or_else(|| "a share is from 1% to 90%".into());
    }
    let units = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40)];
    let (number, shift) =
        units.iter().find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, *shift))).ok_or_else(wrong)?;
    let number: u64 = number.trim().parse().map_err(|_| wrong())?;
    number.checked_mul(1 << shift).filter(|bytes| *bytes > 0).map(KvMemory::Bytes).ok_or_else(wrong)
}

/// Who can reach the server, and how.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Network")]
pub struct NetworkArgs {
    /// The address to listen on; any but this machine's own needs API keys.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    pub host: String,
    /// The port to listen on; 0 lets the system choose.
    #[arg(long, value_name = "PORT", default_value_t = 8080)]
    pub port: u16,
    /// API keys, one a line: KEY or NAME=KEY; QUARREL_API_KEYS adds more, separated by commas.
    #[arg(long, value_name = "FILE")]
    pub api_key_file: Option<PathBuf>,
    /// Let other machines ask without a key.
    #[arg(long)]
    pub insecure: bool,
    /// Let callers fetch models into this machine's cache (Ollama's /api/pull): built-in names and those of
    /// the Hugging Face Hub, with the token that this machine has.
    #[arg(long)]
    pub allow_pull: bool,
    /// A name, besides localhost and addresses, by which the server may be reached; may be given several times.
    #[arg(long, value_name = "NAME")]
    pub allow_host: Vec<String>,
    /// An origin (https://chat.example) whose pages may ask; may be given several times.
    #[arg(long, value_name = "ORIGIN")]
    pub allow_origin: Vec<String>,
    /// Longest time a request may take.
    #[arg(long, value_name = "SECONDS", default_value_t = 3600, value_parser = clap::value_parser!(u64).range(1..))]
    pub timeout: u64,
    /// Longest time a request may wait to start; one that would wait longer is answered with status 503.
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..))]
    pub queue_time: u64,
    /// How long running requests may go on after Ctrl-C or SIGTERM; a second one ends them at once.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub drain: u64,
    /// Certificate chain for TLS, as PEM.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// Private key for TLS, as PEM.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Send traces of requests to an OpenTelemetry collector (OTLP as protobuf over HTTP), such as
    /// http://localhost:4318; they hold names, sizes and times, never texts.
    #[arg(long, value_name = "URL")]
    pub otlp: Option<String>,
    /// How the log on standard error looks.
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

/// How a log looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One object a line.
    Json,
}

/// `quarrel inspect`
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// The model.
    #[arg(value_name = "MODEL")]
    pub model: String,
    /// List every tensor.
    #[arg(long)]
    pub tensors: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Longer than any context, and far from overflowing a sum.
const MOST_TOKENS: i64 = 100_000_000;

/// `quarrel bench`
#[derive(Debug, Args)]
pub struct BenchArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// Prompt tokens to process; 0 skips.
    #[arg(short, long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(..=MOST_TOKENS))]
    pub prompt: u32,
    /// Tokens to generate; 0 skips.
    #[arg(short, long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(..=MOST_TOKENS))]
    pub r#gen: u32,
    /// Tokens already in the context before each measurement.
    #[arg(short, long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=MOST_TOKENS))]
    pub depth: u32,
    /// Sequences to run side by side, all counted together; with more than one, generation follows the prompts.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub batch: u16,
    /// How often each measurement is repeated.
    #[arg(short, long, value_name = "R", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub repetitions: u32,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// `quarrel perplexity`
#[derive(Debug, Args)]
pub struct PerplexityArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// The text, as a UTF-8 file.
    #[arg(short, long, value_name = "FILE")]
    pub file: PathBuf,
    /// Use only the first N chunks of --ctx tokens.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub chunks: Option<u32>,
    /// Compute the scored tokens as those of a reply, not as a prompt's.
    #[arg(long)]
    pub as_reply: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// `quarrel quantize`
#[derive(Debug, Args)]
pub struct QuantizeArgs {
    /// The model to read.
    #[arg(value_name = "IN")]
    pub input: String,
    /// The .gguf file to write.
    #[arg(value_name = "OUT")]
    pub output: PathBuf,
    /// The format: F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q2_K, Q3_K_S, Q3_K_M, Q3_K_L, Q4_K_S,
    /// Q4_K_M, Q5_K_S, Q5_K_M, Q6_K or IQ4_NL.
    #[arg(value_name = "FORMAT")]
    pub format: String,
    /// Store tensors whose name matches REGEX in FORMAT; may be given several times, the first match counts.
    #[arg(long, value_name = "REGEX=FORMAT")]
    pub tensor: Vec<String>,
    /// Threads to compute with [default: one for each core].
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// Overwrite OUT if it exists.
    #[arg(long)]
    pub force: bool,
}

/// `quarrel tokenize`
#[derive(Debug, Args)]
pub struct TokenizeArgs {
    /// The model whose tokeniser to use.
    #[arg(short, long, value_name = "MODEL", default_value = "smollm2-135m")]
    pub model: String,
    /// Do not add the model's beginning- and end-of-text tokens.
    #[arg(long)]
    pub no_special: bool,
    /// Read special tokens in the text as plain text.
    #[arg(long)]
    pub plain: bool,
    /// Print a JSON array of ids.
    #[arg(long)]
    pub json: bool,
    /// The text; `-` or nothing reads it from standard input.
    #[arg(value_name = "TEXT")]
    pub text: Option<String>,
}

/// `quarrel detokenize`
#[derive(Debug, Args)]
pub struct DetokenizeArgs {
    /// The model whose tokeniser to use.
    #[arg(short, long, value_name = "MODEL", default_value = "smollm2-135m")]
    pub model: String,
    /// Token ids, separated by spaces or commas.
    #[arg(value_name = "ID", required = true)]
    pub ids: Vec<String>,
}

/// `quarrel pull`
#[derive(Debug, Args)]
pub struct PullArgs {
    /// The model.
    #[arg(value_name = "MODEL", required = true)]
    pub models: Vec<String>,
}

/// `quarrel list`
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// `quarrel rm`
#[derive(Debug, Args)]
pub struct RmArgs {
    /// Names as `quarrel list` shows them.
    #[arg(value_name = "MODEL", required = true)]
    pub models: Vec<String>,
}

/// `quarrel doctor`
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    /// Test an Apple GPU instead: every kernel against what it should compute.
    #[arg(long, conflicts_with = "json")]
    pub metal: bool,
}

/// What may compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BackendChoice {
    /// A GPU where it can, else the CPU.
    Auto,
    /// The CPU.
    Cpu,
    /// An NVIDIA GPU.
    Cuda,
    /// An Apple GPU.
    Metal,
}

/// What generated tokens are multiplied as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Activations {
    /// 8-bit integers.
    Int8,
    /// bfloat16.
    Bf16,
}

impl From<Activations> for backend::gpu::Activations {
    fn from(activations: Activations) -> Self {
        match activations {
            Activations::Int8 => Self::Int8,
            Activations::Bf16 => Self::Bf16,
        }
    }
}

/// What multiplies prompts on an Apple GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum MetalGemm {
    /// Kernels of Quarrel's.
    Simdgroup,
    /// Kernels of Quarrel's by tensor operations.
    Tensor,
    /// Apple's own.
    Mps,
    /// Graphs that Apple's framework compiles.
    Mpsgraph,
    /// Whichever is fastest.
    Auto,
}

impl From<MetalGemm> for PromptMaps {
    fn from(gemm: MetalGemm) -> Self {
        match gemm {
            MetalGemm::Simdgroup => Self::By(Multiplier::Kernels),
            MetalGemm::Tensor => Self::By(Multiplier::Tensors),
            MetalGemm::Mps => Self::By(Multiplier::Library(Library::Matrices)),
            MetalGemm::Mpsgraph => Self::By(Multiplier::Library(Library::Graph)),
            MetalGemm::Auto => Self::Fastest,
        }
    }
}

/// How weights are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Weights {
    /// Interleaved where memory allows, else mapped.
    Auto,
    /// As in the file: nothing is copied.
    Mapped,
    /// Copied into a layout that computes faster.
    Interleaved,
}

impl From<Weights> for WeightLayout {
    fn from(weights: Weights) -> Self {
        match weights {
            Weights::Auto => Self::Auto,
            Weights::Mapped => Self::Mapped,
            Weights::Interleaved => Self::Interleaved,
        }
    }
}

/// An instruction set by its option's name.
fn isa(text: &str) -> Result<Isa, String> {
    Isa::ALL.iter().copied().find(|isa| isa.option() == text).ok_or_else(|| {
        let names: Vec<_> = Isa::ALL.iter().map(|isa| isa.option()).collect();
        format!("this build knows {}", names.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_memory_are_read() {
        assert_eq!(kv_memory("512MiB"), Ok(KvMemory::Bytes(512 << 20)));
        assert_eq!(kv_memory("4 GiB"), Ok(KvMemory::Bytes(4 << 30)));
        assert_eq!(kv_memory("25%"), Ok(KvMemory::Percent(25)));
        for wrong in ["", "4", "4GB", "0MiB", "-1GiB", "0%", "91%", "x%", "99999999999TiB"] {
            assert!(kv_memory(wrong).is_err(), "{wrong}");
        }
    }
}
