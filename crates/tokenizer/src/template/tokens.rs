//! The little of Jinja's syntax that `source.rs` needs: where tags end, and
//! the words and signs inside one.

/// White space, and the signs that control it.
pub const MARKS: [char; 6] = ['-', '+', ' ', '\t', '\n', '\r'];

/// Names, numbers, strings and single other characters, with their places.
pub struct Tokens<'a> {
    source: &'a str,
    at: usize,
}

impl<'a> Tokens<'a> {
    /// Those of `source` from byte `at` on.
    pub fn new(source: &'a str, at: usize) -> Self {
        Self { source, at }
    }
}

impl<'a> Iterator for Tokens<'a> {
    type Item = (usize, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.source[self.at..].trim_start();
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

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Where `close` begins, outside of strings and braces.
pub fn tag_end(tag: &str, close: &str) -> Option<usize> {
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

/// Whether a value may follow `token`, so that a bracket there opens a literal
/// and no subscript or call.
pub fn expects_value(token: &str) -> bool {
    match token {
        "in" | "if" | "else" | "elif" | "and" | "or" | "not" | "is" => true,
        ")" | "]" | "}" => false,
        _ => !token.starts_with(|c| is_name(c) || c == '"' || c == '\''),
    }
}
