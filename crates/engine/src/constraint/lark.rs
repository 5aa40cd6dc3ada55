//! What is refused in a Lark grammar before it is compiled.

use super::spec::hides_text;
use crate::{Error, Result};

/// Most rules and terminals; the compiler recurses along chains of them.
const MAX_RULES: usize = 1000;
/// Attributes of a rule that change the sampling or hide text, which this engine does not do.
const ATTRIBUTES: [&str; 4] = ["max_tokens", "temperature", "stop", "stop_capture"];

/// Checks what the compiler would take too far or the engine would ignore.
///
/// # Errors
/// [`Error::Constraint`] with the line.
pub(super) fn check(source: &str) -> Result<()> {
    let mut n_rules = 0;
    for (number, line) in (1..).zip(source.lines()) {
        let refuse = |what: String| Err(Error::Constraint(format!("grammar, line {number}: {what}")));
        for statement in ["%json", "%llguidance"] {
            if line.contains(statement) {
                return refuse(format!("{statement} is not supported"));
            }
        }
        if hides_text(line) {
            return refuse("a group named stop is not supported".into());
        }
        let line = line.trim_start();
        let defines = line.starts_with(|c: char| c.is_ascii_alphabetic() || "_!?".contains(c));
        let Some((head, _)) = line.split_once(':').filter(|_| defines) else { continue };
        n_rules += 1;
        if n_rules > MAX_RULES {
            return refuse(format!("more than {MAX_RULES} rules"));
        }
        let attributes = head.split_once('[').map_or("", |(_, list)| list.trim_end().trim_end_matches(']'));
        let names = attributes.split(',').map(|item| item.split('=').next().unwrap_or("").trim());
        if let Some(name) = names.into_iter().find(|name| ATTRIBUTES.contains(name)) {
            return refuse(format!("the attribute {name} is not supported"));
        }
    }
    Ok(())
}
