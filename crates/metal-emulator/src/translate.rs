//! Preprocessed Metal text to C++: attributes go, threadgroup variables become
//! references into the emulator's memory, and every kernel is registered.
//!
//! House rules make this simple: a threadgroup variable is declared alone at
//! the start of a statement, and kernels are no templates.

use crate::Result;
use crate::lint::{self, broken};

/// What the C++ is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Running on the CPU.
    Run,
    /// Checking types, address spaces included.
    Check,
}

/// How a kernel's parameter is bound, by its Metal attribute.
const BINDINGS: &[(&str, &str)] = &[
    ("threadgroup_position_in_grid", "ThreadgroupPosition"),
    ("threads_per_threadgroup", "ThreadsPerThreadgroup"),
    ("thread_index_in_threadgroup", "ThreadIndex"),
    ("thread_index_in_simdgroup", "Lane"),
    ("simdgroup_index_in_threadgroup", "Simdgroup"),
];

/// Translates text that the preprocessor has seen.
///
/// # Errors
/// [`crate::Error::Source`] where a kernel's parameter has no attribute or an unknown
/// one, or another rule of Metal is broken.
pub fn translate(text: &str, mode: Mode) -> Result<String> {
    lint::check(text)?;
    let header = match mode {
        Mode::Run => "msl_run.h",
        Mode::Check => "msl_check.h",
    };
    let mut out = format!("#include \"{header}\"\n") + &share_variables(&without_attributes(text));
    for (i, (name, parameters)) in kernels(text)?.iter().enumerate() {
        if mode == Mode::Run {
            let parameters: Vec<_> = parameters.iter().map(|parameter| parameter.binding.as_str()).collect();
            let parameters = parameters.join(", ");
            out += &format!("REGISTER_KERNEL({i}, {name}, {parameters})\n");
        }
    }
    Ok(out)
}

/// Kernels' names, each with its parameters.
pub(crate) type Kernels = Vec<(String, Vec<Parameter>)>;

/// A kernel's parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Parameter {
    /// How it is bound, in the emulator's C++.
    pub binding: String,
    /// Whether it is memory that the kernel may write.
    pub is_written: bool,
}

/// All kernels of a text.
pub(crate) fn kernels(text: &str) -> Result<Kernels> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(at) = find_word(rest, "kernel") {
        rest = &rest[at + "kernel".len()..];
        let open = rest.find('(').ok_or_else(|| broken(rest, "a kernel has no parameters"))?;
        let name = rest[..open].trim().trim_start_matches("void").trim();
        let end = closing(&rest[open..]).ok_or_else(|| broken(rest, "a parenthesis is not closed"))?;
        let parameters = &rest[open + 1..open + end];
        let parameters = split_at_commas(parameters).into_iter().map(parameter).collect::<Result<_>>()?;
        found.push((name.to_owned(), parameters));
        rest = &rest[open + end..];
    }
    Ok(found)
}

fn parameter(text: &str) -> Result<Parameter> {
    let is_device = find_word(text, "device").is_some() && find_word(text, "const").is_none();
    Ok(Parameter { binding: binding(text)?, is_written: is_device })
}

fn binding(parameter: &str) -> Result<String> {
    let attribute = parameter.split_once("[[").and_then(|(_, rest)| rest.split_once("]]"));
    let (attribute, _) =
        attribute.ok_or_else(|| broken(parameter, "a kernel's parameter has no attribute"))?;
    let attribute = attribute.trim();
    if let Some(index) = attribute.strip_prefix("buffer(").and_then(|rest| rest.strip_suffix(')')) {
        return Ok(format!("{{ emulator::Binding::Buffer, {index} }}"));
    }
    match BINDINGS.iter().find(|(name, _)| *name == attribute) {
        Some((_, binding)) => Ok(format!("{{ emulator::Binding::{binding}, 0 }}")),
        None => Err(broken(parameter, "this attribute is not known to the emulator")),
    }
}

fn without_attributes(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, attribute)) = rest.split_once("[[") {
        out += before;
        rest = attribute.split_once("]]").map_or("", |(_, after)| after);
    }
    out + rest
}

/// `threadgroup float x[32];` at the start of a statement becomes a reference.
fn share_variables(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = find_word(rest, "threadgroup") {
        let (before, after) = rest.split_at(at);
        out += before;
        let statement = out.trim_end().ends_with(['{', '}', ';']);
        let declaration = after["threadgroup".len()..].split_once(';').filter(|_| statement);
        match declaration.and_then(|(declaration, after)| Some((shared_variable(declaration)?, after))) {
            Some((reference, after)) => {
                out += &reference;
                rest = after;
            }
            None => {
                out += "threadgroup";
                rest = &after["threadgroup".len()..];
            }
        }
    }
    out + rest
}

/// `float x[32]` as a reference to shared memory; nothing for a pointer or reference to it.
fn shared_variable(declaration: &str) -> Option<String> {
    let (before, dimensions) = match declaration.find('[') {
        Some(at) => declaration.split_at(at),
        None => (declaration, ""),
    };
    if before.contains(['*', '&', '=']) {
        return None;
    }
    let (ty, name) = before.trim().rsplit_once(char::is_whitespace)?;
    Some(format!("threadgroup {ty} (&{name}){dimensions} = THREADGROUP_VARIABLE({ty}{dimensions});"))
}

/// Where `word` stands alone.
fn find_word(text: &str, word: &str) -> Option<usize> {
    let part_of_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.match_indices(word)
        .map(|(at, _)| at)
        .find(|&at| !text[..at].ends_with(part_of_name) && !text[at + word.len()..].starts_with(part_of_name))
}

/// The parenthesis that closes the one `text` starts with.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0;
    text.char_indices().find_map(|(at, c)| {
        depth += match c {
            '(' => 1,
            ')' => -1,
            _ => 0,
        };
        (depth == 0).then_some(at)
    })
}

fn split_at_commas(text: &str) -> Vec<&str> {
    let mut depth = 0;
    let outside = text.split(|c| {
        depth += match c {
            '(' => 1,
            ')' => -1,
            _ => 0,
        };
        c == ',' && depth == 0
    });
    outside.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KERNEL: &str = "kernel void k(device float *x [[buffer(3)]], uint i [[thread_index_in_threadgroup]]) {\n\
                          threadgroup float sums[8];\nsums[a[i]] = x[i];\n}\n";

    #[test]
    fn kernels_are_registered_with_their_bindings() {
        let text = translate(KERNEL, Mode::Run).unwrap();
        assert!(text.contains("REGISTER_KERNEL(0, k, "), "{text}");
        assert!(
            text.contains("{ emulator::Binding::Buffer, 3 }, { emulator::Binding::ThreadIndex, 0 }"),
            "{text}"
        );
    }

    #[test]
    fn threadgroup_variables_are_shared_and_nothing_else_changes() {
        let text = translate(KERNEL, Mode::Run).unwrap();
        assert!(
            text.contains(
                "threadgroup float (&sums)[8] = THREADGROUP_VARIABLE(float[8]);\nsums[a[i]] = x[i];"
            ),
            "{text}"
        );
        for pointer in ["void f(threadgroup float *x) {}", "{ threadgroup float *x = &y[0]; }"] {
            assert!(translate(pointer, Mode::Run).unwrap().contains(pointer));
        }
        assert!(!translate(KERNEL, Mode::Check).unwrap().contains("REGISTER"), "nothing runs");
    }

    #[test]
    fn rules_are_checked() {
        let problem = |text: &str| translate(text, Mode::Run).unwrap_err().to_string();
        assert!(problem("kernel void k(device float *x) {}").contains("no attribute"));
        assert!(problem("kernel void k(uint i [[thread_position_in_grid]]) {}").contains("not known"));
        assert!(problem("float x = 0.5;").contains("with an f"));
    }
}
