//! Rules of Metal that clang, compiling for another language, does not know.

use std::collections::HashSet;

use crate::{Error, Result};

const ADDRESS_SPACES: [&str; 4] = ["device", "constant", "threadgroup", "thread"];
const TYPES: [&str; 13] = [
    "void", "bool", "char", "uchar", "short", "ushort", "int", "uint", "long", "ulong", "half", "float",
    "float4",
];

/// Checks preprocessed text.
///
/// # Errors
/// [`Error::Source`] for a literal that is no `float` in C++ though it is in
/// Metal, and for a pointer or reference that names no address space.
pub fn check(text: &str) -> Result<()> {
    let source = text.lines().filter(|line| !line.starts_with('#'));
    source.clone().try_for_each(check_literals)?;
    check_pointers(&source.collect::<Vec<_>>().join("\n"))
}

/// The error that `text` breaks a rule.
pub fn broken(text: &str, problem: &'static str) -> Error {
    let line = text.trim().lines().next().unwrap_or_default().to_owned();
    Error::Source { line, problem }
}

/// An unsuffixed literal is a `float` in Metal and a `double` in C++.
fn check_literals(line: &str) -> Result<()> {
    let mut words = line.split(|c: char| !(c.is_ascii_alphanumeric() || c == '.' || c == '_'));
    let is_double = |word: &&str| {
        let number = word.starts_with(|c: char| c.is_ascii_digit()) && word.contains('.');
        // `3.0e-5f` is cut in two by its sign: the suffix is in the other half.
        number && !word.ends_with(['f', 'h', 'e'])
    };
    match words.find(is_double) {
        None => Ok(()),
        Some(_) => Err(broken(line, "write float literals with an f")),
    }
}

fn check_pointers(text: &str) -> Result<()> {
    let tokens = tokens(text);
    let mut types: HashSet<&str> = TYPES.into();
    let declared = tokens.windows(2).filter(|pair| matches!(pair[0], "struct" | "typename" | "typedef"));
    types.extend(declared.map(|pair| pair[1]));
    for (i, window) in tokens.windows(3).enumerate() {
        let [ty, "*" | "&", next] = *window else { continue };
        let declares = is_word(next) || matches!(next, ")" | "," | ">");
        if !types.contains(ty) || !declares {
            continue;
        }
        let before = tokens[..i].iter().rev().take_while(|token| is_word(token));
        if !before.clone().any(|token| ADDRESS_SPACES.contains(token)) {
            let place = tokens[i.saturating_sub(4)..i + 3].join(" ");
            return Err(broken(
                &place,
                "this names no address space (device, constant, threadgroup, thread)",
            ));
        }
    }
    Ok(())
}

fn is_word(token: &str) -> bool {
    token.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
}

/// Words, and everything else character by character.
fn tokens(text: &str) -> Vec<&str> {
    let part_of_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let len = match part_of_word(first) {
            true => rest.find(|c| !part_of_word(c)).unwrap_or(rest.len()),
            false => first.len_utf8(),
        };
        tokens.push(&rest[..len]);
        rest = rest[len..].trim_start();
    }
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_have_a_suffix() {
        assert!(check("float x = 0.5;").unwrap_err().to_string().contains("with an f"));
        assert!(check("float x = -3.0e-38f + .5f + 1.0f;").is_ok());
    }

    #[test]
    fn pointers_name_an_address_space() {
        for wrong in ["void f(float *x);", "struct S {}; void f(const S &s);", "x = *(float *)y;"] {
            assert!(check(wrong).unwrap_err().to_string().contains("address space"), "{wrong}");
        }
        let right =
            "struct S {}; void f(device const float *x, thread S &s) { y = *(device float *)x; z = a * b; }";
        check(right).unwrap();
    }
}
