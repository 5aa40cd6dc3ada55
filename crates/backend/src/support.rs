//! Which backend has which op for which format, and why not.

use std::fmt::Write;

use gguf::Format;
use gguf::format::Support as FormatSupport;

use crate::{KvFormat, Op, gpu};

/// Whether a backend has a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Support {
    /// It has.
    Yes,
    /// It has not, for the reason given.
    Absent(&'static str),
}

/// A written absence.
pub const fn absent(reason: &'static str) -> Support {
    Support::Absent(reason)
}

/// What an op reads that comes in formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// A weight.
    Weight(Format),
    /// Keys and values.
    Kv(KvFormat),
}

impl Stored {
    /// What `op` may meet: weights of any format that is computed with, F32
    /// alone for norms, or any format of keys and values.
    fn of(op: &str) -> Vec<Self> {
        match op {
            "rms_norm" => vec![Self::Weight(Format::F32)],
            "rope_store" | "paged_attention" => KvFormat::ALL.iter().copied().map(Self::Kv).collect(),
            _ => {
                let formats = Format::ALL.iter().copied();
                formats.filter(|f| f.support() != FormatSupport::Listed).map(Self::Weight).collect()
            }
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Weight(format) => format.name(),
            Self::Kv(format) => format.name(),
        }
    }
}

/// Answers for one backend.
type Query = fn(op: &'static str, stored: Stored) -> Support;

/// Every backend and its answers.
pub const BACKENDS: &[(&str, Query)] =
    &[("cpu", host_support), ("cuda", gpu::support_with_tiles), ("metal", gpu::support)];

/// The CPU has every op for every format whose values can be read.
fn host_support(_: &'static str, stored: Stored) -> Support {
    match stored {
        Stored::Weight(format) if format.support() == FormatSupport::Listed => {
            absent("only the size of this format is known; requantise the model to a supported one")
        }
        Stored::Weight(_) | Stored::Kv(_) => Support::Yes,
    }
}

/// The table `docs/kernels.md`: op × format × backend, and the reasons below it.
pub fn support_table() -> String {
    let mut reasons: Vec<&str> = Vec::new();
    let mut text = String::from(
        "# Kernels\n\nGenerated from the op table; do not edit. ✓ has a kernel, a number is why not.\n",
    );
    let names: Vec<_> = BACKENDS.iter().map(|(name, _)| *name).collect();
    for op in Op::NAMES {
        let dashes = "---|".repeat(names.len());
        let heading = format!("\n## {op}\n\n| format | {} |\n|---|{dashes}\n", names.join(" | "));
        text.push_str(&heading);
        for stored in Stored::of(op) {
            let cells = BACKENDS.iter().map(|(_, query)| match query(op, stored) {
                Support::Yes => "✓".to_owned(),
                Support::Absent(reason) => (number(&mut reasons, reason) + 1).to_string(),
            });
            let cells = cells.collect::<Vec<_>>().join(" | ");
            text.push_str(&format!("| {} | {cells} |\n", stored.name()));
        }
    }
    text.push('\n');
    for (i, reason) in reasons.iter().enumerate() {
        writeln!(text, "{}. {reason}", i + 1).expect("writing to a string cannot fail");
    }
    text
}

/// Where `reason` stands among `reasons`, at the end if it is new.
fn number(reasons: &mut Vec<&'static str>, reason: &'static str) -> usize {
    reasons.iter().position(|known| *known == reason).unwrap_or_else(|| {
        reasons.push(reason);
        reasons.len() - 1
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_every_op_and_format() {
        let table = support_table();
        for op in Op::NAMES {
            assert!(table.contains(&format!("\n## {op}\n")), "{op}");
        }
        assert!(table.contains("| Q4_K | ✓ |") && table.contains("| bf16 | ✓ |"));
        assert!(!table.contains("IQ1_S"));
    }
}
