//! Running the grammar compiler: its limits, its stack, its errors.

use llguidance::api::ParserLimits;

use crate::{Error, Result};

/// Stack of the thread that compiles. The compiler recurses along chains of
/// rules and nested schemas, whose lengths are limited so that this is enough.
const STACK_BYTES: usize = 64 << 20;
/// Longest message of the compiler that is passed on.
const MAX_MESSAGE_CHARS: usize = 400;

/// What a grammar may cost. Fuel and items bound time: by `llguidance`'s
/// figures, 20 ms to compile and 17 ms for a mask at worst; states bound memory
/// (1 to 2 KB each).
pub(super) fn limits() -> ParserLimits {
    ParserLimits {
        max_items_in_row: 2_000,
        initial_lexer_fuel: 1_000_000,
        step_lexer_fuel: 200_000,
        step_max_items: 50_000,
        max_lexer_states: 20_000,
        max_grammar_size: 100_000,
        precompute_large_lexemes: true,
        // They would hold the request's grammar and the sequence's text.
        verbose_errors: false,
    }
}

/// Runs `compile` on a thread with a stack that is known to be large enough. A
/// panic in there is an error of the grammar, as any other.
pub(super) fn on_own_stack<T: Send>(compile: impl FnOnce() -> anyhow::Result<T> + Send) -> Result<T> {
    let run = || llguidance::panic_utils::catch_unwind(std::panic::AssertUnwindSafe(compile));
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("grammar".into()).stack_size(STACK_BYTES);
        let thread = thread
            .spawn_scoped(scope, run)
            .map_err(|e| Error::Constraint(format!("no thread to compile the grammar on: {e}")))?;
        match thread.join() {
            Ok(result) => result.map_err(|e| failed(&e.to_string())),
            Err(_) => Err(failed("the compiler failed")),
        }
    })
}

/// An error of `llguidance` as ours, without the traces it may append and with
/// no more of the grammar than tells where it is.
pub(super) fn failed(message: &str) -> Error {
    let end =
        ["\n<backtrace>", "\n<state>", "\n<non-verbose/>"].iter().filter_map(|mark| message.find(mark)).min();
    let message = message[..end.unwrap_or(message.len())].trim_end();
    let cut = match message.char_indices().nth(MAX_MESSAGE_CHARS) {
        None => message.to_string(),
        Some((place, _)) => format!("{}…", &message[..place]),
    };
    Error::Constraint(cut)
}
