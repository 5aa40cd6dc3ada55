//! A template's source before it is parsed: bounds, what the engine reads
//! differently from Python's jinja2, and checks put in where a template builds
//! values (see `guard.rs`).

use super::tokens::{MARKS, Tokens, expects_value, tag_end};
use super::{Error, Result, filters, guard};

/// The longest source accepted. The longest real ones have 20,000 bytes.
const MAX_BYTES: usize = 128 << 10;

/// The most tokens in one tag. Real templates have up to 62; the engine's time
/// to parse an expression grows with the square.
const MAX_TAG_TOKENS: usize = 2000;

/// Checks the bounds and rewrites statements and expressions.
pub fn prepare(source: &str) -> Result<String> {
    if source.len() > MAX_BYTES {
        return Err(Error::TooLong { bytes: source.len(), limit: MAX_BYTES });
    }
    let mut out = String::with_capacity(source.len() * 2);
    let mut rest = source;
    while let Some(at) = ["{{", "{%", "{#"].iter().filter_map(|open| rest.find(open)).min() {
        let (text, tag) = rest.split_at(at);
        out.push_str(text);
        rest = tag;
        let close = match &tag[..2] {
            "{{" => "}}",
            "{%" => "%}",
            _ => "#}",
        };
        let end = if close == "#}" { tag[2..].find(close).map(|i| i + 2) } else { tag_end(tag, close) };
        // A tag that never closes is for the parser to refuse.
        let Some(end) = end else { break };
        rest = &tag[end + 2..];
        let inner = &tag[2..end];
        if close != "#}" && Tokens::new(inner, 0).count() > MAX_TAG_TOKENS {
            let line = 1 + source[..source.len() - tag.len()].matches('\n').count();
            return Err(Error::TagTooLong { line, limit: MAX_TAG_TOKENS });
        }
        out.push_str(&tag[..2]);
        match close {
            "%}" => out.push_str(&statement(inner)),
            "}}" => out.push_str(&Edits::new(inner).expression(0, inner.len()).apply()),
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

/// A statement as the engine should read it:
/// - `generation` marks the assistant's words for training and renders as its
///   body, in a scope of its own: `with`;
/// - what a `for` loops over goes through a filter that refuses null;
/// - what a `set` stores is checked.
fn statement(code: &str) -> String {
    match code.trim_matches(MARKS) {
        "generation" => return code.replace("generation", "with"),
        "endgeneration" => return code.replace("endgeneration", "endwith"),
        _ => {}
    }
    let end = code.trim_end_matches(MARKS).len();
    let mut tokens = Tokens::new(code, 0).filter(|(_, token)| !matches!(*token, "-" | "+"));
    let edits = Edits::new(code);
    let edited = match tokens.next().map(|(_, keyword)| keyword) {
        Some("for") => match tokens.find(|(_, token)| *token == "in") {
            Some((at, _)) => {
                let start = at + "in".len();
                let stop = iterable_end(code, start).unwrap_or(end);
                edits.wrap(start, stop, filters::ITERATED).expression(start, end)
            }
            None => edits,
        },
        Some("set") => match assignment(code) {
            Some((start, filter)) => edits.wrap(start, end, filter).expression(start, end),
            None => edits,
        },
        _ => edits.expression(0, end),
    };
    edited.apply()
}

/// Where what a `for` loops over ends, if not with the statement.
fn iterable_end(code: &str, start: usize) -> Option<usize> {
    let mut depth = 0usize;
    for (at, token) in Tokens::new(code, start) {
        match token {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth = depth.saturating_sub(1),
            "if" | "recursive" if depth == 0 => return Some(at),
            _ => {}
        }
    }
    None
}

/// Where the value of a `set` statement starts, if it has one, and the filter
/// for it.
fn assignment(code: &str) -> Option<(usize, &'static str)> {
    let mut filter = guard::NAME;
    for (at, token) in Tokens::new(code, 0) {
        match token {
            "." => filter = guard::STORED,
            "=" => return Some((at + 1, filter)),
            _ => {}
        }
    }
    None
}

/// An open bracket.
struct Bracket {
    start: usize,
    kind: Kind,
    /// Where the value of the present argument of a call began.
    item: Option<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A list, a dict, or a tuple.
    Literal,
    /// Arguments.
    Call,
    /// Names, each with or without a value.
    Names,
    /// A parenthesis that groups, and is a tuple if it has a comma.
    Group,
    /// A subscript.
    Other,
}

impl Bracket {
    /// `before` is the token in front of the bracket, `statement` the first of
    /// the tag.
    fn new(start: usize, token: &str, before: &str, statement: &str) -> Self {
        let kind = match token {
            "(" if expects_value(before) => Kind::Group,
            // A macro's parameters are names; only their defaults are values.
            "(" if before == "call" || statement == "macro" => Kind::Names,
            "(" => Kind::Call,
            _ if expects_value(before) => Kind::Literal,
            _ => Kind::Other,
        };
        let item = (kind == Kind::Call).then_some(start + 1);
        Self { start, kind, item }
    }

    /// Passes a comma; returns where the argument before it began.
    fn next_item(&mut self, comma: usize) -> Option<usize> {
        if self.kind == Kind::Group {
            self.kind = Kind::Literal;
        }
        let next = (self.kind == Kind::Call).then_some(comma + 1);
        std::mem::replace(&mut self.item, next)
    }
}

/// Text to put into `code` at places.
struct Edits<'a> {
    code: &'a str,
    inserts: Vec<(usize, String)>,
    /// Where a single byte goes away.
    removed: Vec<usize>,
}

impl<'a> Edits<'a> {
    fn new(code: &'a str) -> Self {
        Self { code, inserts: Vec::new(), removed: Vec::new() }
    }

    /// Puts what is from `start` to `end` through a filter.
    fn wrap(mut self, start: usize, end: usize, filter: &str) -> Self {
        if start >= end {
            // Nothing there: for the parser to refuse.
            return self;
        }
        self.inserts.push((start, " (".to_owned()));
        self.inserts.push((end, format!(")|{filter} ")));
        self
    }

    /// Checks every list, dict and tuple written between `start` and `end`, and
    /// marks the filter `safe` where a `+` follows it.
    fn expression(mut self, start: usize, end: usize) -> Self {
        let tokens: Vec<_> = Tokens::new(self.code, start).take_while(|(at, _)| *at < end).collect();
        for window in tokens.windows(3) {
            if let [(_, "|"), (at, "safe"), (_, "+")] = window {
                self.inserts.push((at + "safe".len(), filters::ESCAPING_SUFFIX.to_owned()));
            }
        }
        self.percents(&tokens, end);
        let mut open: Vec<Bracket> = Vec::new();
        if let Some((_, "with")) = tokens.first() {
            open.push(Bracket { start, kind: Kind::Names, item: None });
        }
        for (i, &(at, token)) in tokens.iter().enumerate() {
            let before = if i == 0 { "=" } else { tokens[i - 1].1 };
            match token {
                "[" | "{" | "(" => open.push(Bracket::new(at, token, before, tokens[0].1)),
                "=" if !matches!(before, "=" | "!" | "<" | ">") && !self.code[at..].starts_with("==") => {
                    if let Some(call) = open.last_mut().filter(|b| matches!(b.kind, Kind::Call | Kind::Names))
                    {
                        call.item = Some(at + 1);
                    }
                }
                "," => {
                    if let Some(bracket) = open.last_mut() {
                        let item = bracket.next_item(at);
                        self = self.argument(item, at);
                    }
                }
                ")" | "]" | "}" => {
                    let Some(bracket) = open.pop() else { continue };
                    self = self.argument(bracket.item, at);
                    if bracket.kind == Kind::Literal {
                        self.inserts.push((bracket.start, "(".to_owned()));
                        self.inserts.push((at + 1, format!("|{})", guard::NAME)));
                    }
                }
                _ => {}
            }
        }
        if let Some(bracket) = open.first().filter(|_| open.len() == 1) {
            self = self.argument(bracket.item, end);
        }
        self
    }

    /// Turns `%` after a string into a filter: the engine only divides.
    fn percents(&mut self, tokens: &[(usize, &str)], end: usize) {
        for (i, window) in tokens.windows(3).enumerate() {
            let [(_, string), (at, "%"), _] = window else { continue };
            if !string.starts_with(['"', '\'']) {
                continue;
            }
            let after = operand_end(tokens, i + 2).map_or(end, |next| tokens[next].0);
            self.removed.push(*at);
            self.inserts.push((*at, format!("|{}(", filters::PERCENT)));
            self.inserts.push((after, ")".to_owned()));
        }
    }

    /// Checks an argument that is more than a name or a constant.
    fn argument(self, start: Option<usize>, end: usize) -> Self {
        match start {
            Some(start) if start < end && Tokens::new(&self.code[..end], start).count() > 1 => {
                self.wrap(start, end, guard::NAME)
            }
            _ => self,
        }
    }

    fn apply(mut self) -> String {
        // Stable: what was asked for first at a place comes first, but for the
        // ends of literals, which come before the end of the whole.
        self.inserts.sort_by_key(|(at, text)| (*at, !text.starts_with('|'), text.starts_with(')')));
        let mut out = String::with_capacity(self.code.len() + 64);
        let mut copied = 0;
        for (at, text) in &self.inserts {
            out.push_str(&self.code[copied..(*at).max(copied)]);
            out.push_str(text);
            copied = *at + usize::from(self.removed.contains(at));
        }
        out.push_str(&self.code[copied..]);
        out
    }
}

/// The token after the operand that begins at token `i`: a value with what is
/// called, taken or filtered from it.
fn operand_end(tokens: &[(usize, &str)], mut i: usize) -> Option<usize> {
    let close = |open: usize| {
        let mut depth = 0usize;
        let end = tokens[open..].iter().position(|(_, token)| {
            match *token {
                "(" | "[" | "{" => depth += 1,
                ")" | "]" | "}" => depth -= 1,
                _ => {}
            }
            depth == 0
        });
        end.map(|n| open + n + 1)
    };
    i = if matches!(tokens.get(i)?.1, "(" | "[" | "{") { close(i)? } else { i + 1 };
    loop {
        match tokens.get(i)?.1 {
            "." | "|" => i += 2,
            "(" | "[" => i = close(i)?,
            _ => return Some(i),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prepared(source: &str) -> String {
        prepare(source).expect("short").replace("  ", " ")
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
            ("{%- for x in xs -%}", "{%- for x in ( xs)|iterated -%}"),
            (
                "{% for k, v in d['in if']|items if v %}",
                "{% for k, v in ( d['in if']|items )|iterated if v %}",
            ),
            (
                "{% for x in (a if b else c) recursive %}",
                "{% for x in ( (a if b else c) )|iterated recursive %}",
            ),
            ("{% set form = x in y %}", "{% set form = ( x in y)|built %}"),
            (
                "{# {% for x in y %} #}{{ '{% for x in y %}' }}",
                "{# {% for x in y %} #}{{ '{% for x in y %}' }}",
            ),
            ("{% raw %}{% for x in y %}{% endraw %}", "{% raw %}{% for x in y %}{% endraw %}"),
            ("{{ a }}{% for", "{{ a }}{% for"),
            ("{#}{% for x in y %}#}", "{#}{% for x in y %}#}"),
            ("{% for x in -%}{% set x = -%}", "{% for x in -%}{% set x = -%}"),
        ];
        for (source, expected) in cases {
            assert_eq!(prepared(source), expected);
        }
    }

    #[test]
    fn literals_are_checked() {
        let cases = [
            ("{{ [1, x[0]] }}", "{{ ([1, x[0]]|built) }}"),
            ("{{ {'a': {}}['a'] }}", "{{ ({'a': ({}|built)}|built)['a'] }}"),
            ("{{ f((1, 2), (3)) }}", "{{ f(( ((1, 2)|built))|built , ( (3))|built ) }}"),
            ("{% if x in ['a'] %}", "{% if x in (['a']|built) %}"),
            ("{% set ns.x = [1] + y -%}", "{% set ns.x = ( ([1]|built) + y)|stored -%}"),
            (
                "{{ f(x + x, a=b|c, d=e == f) }}",
                "{{ f( (x + x)|built , a= (b|c)|built , d= (e == f)|built ) }}",
            ),
            ("{{ 'a%s' % (b, c)[0]|d + 7 % 3 }}", "{{ 'a%s' |percent( ((b, c)|built)[0]|d )+ 7 % 3 }}"),
            ("{% with a = b + b, c = d + d %}", "{% with a = ( b + b)|built , c = ( d + d)|built %}"),
            ("{% macro f(a, b=a + a) %}", "{% macro f(a, b= (a + a)|built ) %}"),
            ("{% call(a, b) f(a + a) %}", "{% call(a, b) f( (a + a)|built ) %}"),
            ("{% set x = [1] %}", "{% set x = ( ([1]|built))|built %}"),
            ("{% macro f(a, b=[]) %}", "{% macro f(a, b=( ([]|built))|built ) %}"),
            ("{% for (a, b) in [[1, 2]] %}", "{% for (a, b) in ( ([([1, 2]|built)]|built))|iterated %}"),
            ("{% set x %}{% endset %}", "{% set x %}{% endset %}"),
        ];
        for (source, expected) in cases {
            assert_eq!(prepared(source), expected);
        }
    }

    #[test]
    fn bounds() {
        assert!(matches!(prepare(&"x".repeat(MAX_BYTES + 1)), Err(Error::TooLong { .. })));
        let long = format!("\n{{{{ 1{} }}}}", "+1".repeat(MAX_TAG_TOKENS));
        assert!(matches!(prepare(&long), Err(Error::TagTooLong { line: 2, .. })));
    }
}
