//! What `run` and `chat` share: a request, its stream, and the figures afterwards.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use anyhow::Result;
use engine::{Engine, Event, FinishReason, PenaltyParams, Request, SamplingParams, Stats};

use crate::args::SamplingArgs;
use crate::interrupt;

/// How often a running generation looks for Ctrl-C.
const INTERRUPT_POLL: Duration = Duration::from_millis(50);

/// A finished reply.
pub struct Reply {
    pub text: String,
    pub reason: FinishReason,
    pub stats: Stats,
}

/// Refuses sampling options out of range, before anything slow begins.
pub fn check(args: &SamplingArgs) -> Result<()> {
    Ok(request(args, Vec::new(), 0).sampling.check()?)
}

/// The request that the options ask for. `turn` numbers the replies of a
/// conversation, so that asking again gives another answer even for one seed.
pub fn request(args: &SamplingArgs, prompt: Vec<u32>, turn: u64) -> Request {
    let seed = args.seed.unwrap_or_else(|| RandomState::new().hash_one(std::process::id()));
    Request {
        prompt,
        max_tokens: args.max_tokens.map(|n| n as usize),
        sampling: SamplingParams {
            temperature: args.temperature,
            top_k: args.top_k,
            top_p: args.top_p,
            min_p: args.min_p,
            penalties: PenaltyParams {
                repeat: args.repeat_penalty,
                presence: args.presence_penalty,
                frequency: args.frequency_penalty,
                ..PenaltyParams::default()
            },
            seed: seed.wrapping_add(turn),
            ..SamplingParams::default()
        },
        stop: args.stop.clone(),
        ..Request::new(Vec::new())
    }
}

/// Runs a request, giving each piece of text to `show`. Ctrl-C ends it early.
pub fn stream(engine: &Engine, request: Request, mut show: impl FnMut(&str) -> Result<()>) -> Result<Reply> {
    let generation = engine.submit(request)?;
    let mut all = String::new();
    loop {
        if interrupt::is_set() {
            generation.cancel();
        }
        match generation.next_within(INTERRUPT_POLL)? {
            None => {}
            Some(Event::Token { text, .. }) => {
                show(&text)?;
                all += &text;
            }
            Some(Event::Finished { text, reason, stats, .. }) => {
                show(&text)?;
                return Ok(Reply { text: all + &text, reason, stats });
            }
            Some(Event::Failed(error)) => return Err(error.into()),
        }
    }
}

/// The one line that sums a reply up.
pub fn summary(model: &str, device: &str, stats: &Stats, first_token: Duration) -> String {
    let cached = match stats.cached_tokens {
        0 => String::new(),
        n => format!(" ({n} cached)"),
    };
    format!(
        "{model} · {device} · prompt {} tokens{cached}, {:.1} tokens/s · generated {} tokens, {:.1} tokens/s · first token after {:.2} s",
        stats.prompt_tokens,
        stats.prefill_tokens_per_second(),
        stats.generated_tokens,
        stats.decode_tokens_per_second(),
        first_token.as_secs_f64(),
    )
}

/// Why it ended, for programs.
pub fn reason_name(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::EndOfText => "end_of_text",
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
        FinishReason::Cancelled => "cancelled",
    }
}
