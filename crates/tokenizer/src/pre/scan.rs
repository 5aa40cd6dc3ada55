//! Small matchers that patterns are built from.
//!
//! A matcher looks at the start of a text and gives the length in bytes of
//! what it matches, or `None`. None looks back, and all read a bounded number
//! of characters past their match, so that splitting is linear in the text.

use super::class::{newline, space};

/// A class of characters.
pub(super) type Class = fn(char) -> bool;

/// `C+`
pub(super) fn run(text: &str, class: Class) -> Option<usize> {
    let end = text.find(|c| !class(c)).unwrap_or(text.len());
    (end > 0).then_some(end)
}

/// `C*`
pub(super) fn run0(text: &str, class: Class) -> usize {
    run(text, class).unwrap_or(0)
}

/// `C`
pub(super) fn one(text: &str, class: Class) -> Option<usize> {
    text.chars().next().filter(|&c| class(c)).map(char::len_utf8)
}

/// `C{1,n}`
pub(super) fn up_to(text: &str, n: usize, class: Class) -> Option<usize> {
    let len = text.chars().take(n).take_while(|&c| class(c)).map(char::len_utf8).sum();
    (len > 0).then_some(len)
}

/// `P?C+`
pub(super) fn prefixed_run(text: &str, prefix: Class, class: Class) -> Option<usize> {
    let skip = one(text, prefix).unwrap_or(0);
    match run(&text[skip..], class) {
        Some(len) => Some(skip + len),
        None if skip > 0 => run(text, class),
        None => None,
    }
}

/// ` ?C+`
pub(super) fn spaced_run(text: &str, class: Class) -> Option<usize> {
    prefixed_run(text, |c| c == ' ', class)
}

/// ` ?C+T*`
pub(super) fn spaced_run_then(text: &str, class: Class, tail: Class) -> Option<usize> {
    let len = spaced_run(text, class)?;
    Some(len + run0(&text[len..], tail))
}

/// `'s|'t|'re|'ve|'m|'ll|'d`, as it stands or in either case.
pub(super) fn contraction(text: &str, any_case: bool) -> Option<usize> {
    let rest = text.strip_prefix('\'')?.as_bytes();
    ["s", "t", "re", "ve", "m", "ll", "d"]
        .iter()
        .find(|ending| match rest.get(..ending.len()) {
            Some(found) if any_case => found.eq_ignore_ascii_case(ending.as_bytes()),
            Some(found) => found == ending.as_bytes(),
            None => false,
        })
        .map(|ending| 1 + ending.len())
}

/// `\s*[\r\n]+`
pub(super) fn space_to_newline(text: &str) -> Option<usize> {
    let spaces = &text[..run(text, space)?];
    spaces.rfind(newline).map(|last| last + 1)
}

/// `\s+(?!\S)|\s+`: the space before a word is left to the word, unless it is
/// the only one.
pub(super) fn spaces(text: &str) -> Option<usize> {
    let len = run(text, space)?;
    match text[..len].char_indices().next_back() {
        Some((last, _)) if len < text.len() && last > 0 => Some(last),
        _ => Some(len),
    }
}

#[cfg(test)]
mod tests {
    use super::super::class::letter;
    use super::*;

    #[test]
    fn spaces_leave_the_last_to_the_word() {
        assert_eq!(spaces("   x"), Some(2));
        assert_eq!(spaces(" x"), Some(1));
        assert_eq!(spaces("   "), Some(3));
        assert_eq!(spaces("\u{3000}\u{3000}x"), Some(3));
        assert_eq!(spaces("x"), None);
        assert_eq!(space_to_newline(" \n \n  x"), Some(4));
        assert_eq!(space_to_newline("  x"), None);
    }

    #[test]
    fn a_prefix_is_taken_only_before_a_run() {
        assert_eq!(spaced_run(" ab c", letter), Some(3));
        assert_eq!(spaced_run("  ab", letter), None);
        assert_eq!(prefixed_run("a", |_| true, letter), Some(1));
        assert_eq!(up_to("12345", 3, |c| c.is_ascii_digit()), Some(3));
    }

    #[test]
    fn contractions() {
        assert_eq!(contraction("'llama", false), Some(3));
        assert_eq!(contraction("'S", false), None);
        assert_eq!(contraction("'S", true), Some(2));
        assert_eq!(contraction("'", true), None);
        assert_eq!(contraction("'é", true), None);
    }
}
