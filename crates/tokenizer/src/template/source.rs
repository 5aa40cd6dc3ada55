//! A template's source before it is parsed: bounds, and what the engine
//! reads differently from Python's jinja2.

use std::borrow::Cow;

use super::{Error, Result, filters};

/// The longest source accepted. The longest real ones have 20,000 bytes.
const MAX_BYTES: usize = 256 << 10;

/// Checks the length and rewrites statements (see [`rewrite`]).
pub fn prepare(source: &str) -> Result<String> {
    if source.len() > MAX_BYTES {
        return Err(Error::TooLong { bytes: source.len(), limit: MAX_BYTES });
    }
    let mut out = String::with_capacity(source.len() + 256);
    let mut rest = source;
    while let Some(at) = ["{{", "{%", "{#"].iter().filter_map(|open| rest.find(open)).min() {
        let (text, tag) = rest.split_at(at);
        out.push_str(text);
        let close = match &tag[..2] {
            "{{" => "}}",
            "{%" => "%}",
            _ => "#}",
        };
        let end = if close == "#}" { tag.find(close) } else { tag_end(tag, close) };
        let Some(end) = end else {
            // Never closed: the parser will say so.
            rest = tag;
            break;
        };
        let (tag, after) = tag.split_at(end + 2);
        rest = after;
        let inner = &tag[2..end];
        out.push_str(&tag[..2]);
        match close {
            "%}" => out.push_str(&mark_escaping(&rewrite(inner))),
            "}}" => out.push_str(&mark_escaping(inner)),
            _ => out.push_str(inner),
        }
        out.push_str(close);
        if close == "%}" && inner.trim_matches(MARKS) == "raw" {
            let end = rest.find("endraw").unwrap_or(rest.len());
            out.push_str(&rest[..end]);
            rest = &rest[end..];
        }
    }
    out.push_str(rest);
    Ok(out)
}

/// White space, and the signs that control it.
const MARKS: [char; 6] = ['-', '+', ' ', '\t', '\n', '\r'];

/// Where `close` begins, outside of strings and braces.
fn tag_end(tag: &str, close: &str) -> Option<usize> {
    let mut depth = 0usize;
    for (at, token) in Tokens::new(tag, 2) {
        if depth == 0 && tag[at..].starts_with(close) {
            return Some(at);
        }
        match token {
            "{" => depth += 1,
            "}" => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    None
}

/// A statement as the engine should read it:
/// - `generation` marks the assistant's words for training and renders as its
///   body, in a scope of its own: `with`;
/// - what a `for` loops over goes through a filter that refuses null.
fn rewrite(statement: &str) -> String {
    match statement.trim_matches(MARKS) {
        "generation" => return statement.replace("generation", "with"),
        "endgeneration" => return statement.replace("endgeneration", "endwith"),
        _ => {}
    }
    match for_iterable(statement) {
        Some((start, end)) => {
            let (before, rest) = statement.split_at(start);
            let (iterable, after) = rest.split_at(end - start);
            format!("{before} ({})|{} {after}", iterable.trim(), filters::ITERATED)
        }
        None => statement.to_owned(),
    }
}

/// Renames the filter `safe` where a `+` follows it.
fn mark_escaping(code: &str) -> Cow<'_, str> {
    let mut out = String::new();
    let mut copied = 0;
    let tokens: Vec<_> = Tokens::new(code, 0).collect();
    for window in tokens.windows(3) {
        if let [(_, "|"), (at, "safe"), (_, "+")] = window {
            out.push_str(&code[copied..*at]);
            out.push_str(filters::ESCAPING);
            copied = at + "safe".len();
        }
    }
    if copied == 0 {
        return Cow::Borrowed(code);
    }
    out.push_str(&code[copied..]);
    Cow::Owned(out)
}

/// Where a `for` statement's iterable starts and ends.
fn for_iterable(statement: &str) -> Option<(usize, usize)> {
    let mut tokens = Tokens::new(statement, 0).filter(|(_, t)| !matches!(*t, "-" | "+")).peekable();
    if tokens.next()?.1 != "for" {
        return None;
    }
    let (at, _) = tokens.find(|(_, token)| *token == "in")?;
    let start = at + "in".len();
    let mut depth = 0usize;
    for (at, token) in tokens {
        match token {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth = depth.saturating_sub(1),
            "if" | "recursive" if depth == 0 => return Some((start, at)),
            _ => {}
        }
    }
    Some((start, statement.trim_end_matches(MARKS).len()))
}

/// Names, strings and single other characters, with their places.
struct Tokens<'a> {
    source: &'a str,
    at: usize,
}

impl<'a> Tokens<'a> {
    fn new(source: &'a str, at: usize) -> Self {
        Self { source, at }
    }
}

impl<'a> Iterator for Tokens<'a> {
    type Item = (usize, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        let is_name = |c: char| c.is_alphanumeric() || c == '_';
        let rest = &self.source[self.at..];
        let rest = rest.trim_start();
        let start = self.source.len() - rest.len();
        let first = rest.chars().next()?;
        let len = match first {
            '"' | '\'' => {
                let mut escaped = false;
                let end = rest[1..].find(|c| {
                    let ends = c == first && !escaped;
                    escaped = c == '\\' && !escaped;
                    ends
                });
                end.map_or(rest.len(), |i| i + 2)
            }
            c if is_name(c) => rest.find(|c| !is_name(c)).unwrap_or(rest.len()),
            c => c.len_utf8(),
        };
        self.at = start + len;
        Some((start, &rest[..len]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prepared(source: &str) -> String {
        prepare(source).expect("short")
    }

    #[test]
    fn generation_becomes_a_scope() {
        assert_eq!(
            prepared("a{%- generation -%}b{% generations %}{%endgeneration%}"),
            "a{%- with -%}b{% generations %}{%endwith%}"
        );
    }

    #[test]
    fn adding_to_safe_is_marked() {
        assert_eq!(prepared("{{ 'a|safe +'|safe + b|safe }}"), "{{ 'a|safe +'|safe_and_escaping + b|safe }}");
    }

    #[test]
    fn for_loops_refuse_null() {
        let cases = [
            ("{%- for x in xs -%}", "{%- for x in (xs)|iterated -%}"),
            ("{% for k, v in d['in if']|items if v %}", "{% for k, v in (d['in if']|items)|iterated if v %}"),
            (
                "{% for x in (a if b else c) recursive %}",
                "{% for x in ((a if b else c))|iterated recursive %}",
            ),
            ("{% for x in {'a': {}} %}", "{% for x in ({'a': {}})|iterated %}"),
            ("{% set form = x in y %}", "{% set form = x in y %}"),
            (
                "{# {% for x in y %} #}{{ '{% for x in y %}' }}",
                "{# {% for x in y %} #}{{ '{% for x in y %}' }}",
            ),
            ("{% raw %}{% for x in y %}{% endraw %}", "{% raw %}{% for x in y %}{% endraw %}"),
            ("{{ {'a': {'b': 1}} }}{% for", "{{ {'a': {'b': 1}} }}{% for"),
        ];
        for (source, expected) in cases {
            assert_eq!(prepared(source).replace("  ", " "), expected);
        }
    }
}
