//! Cutting text at special tokens, before anything else looks at it.

use aho_corasick::{AhoCorasick, MatchKind};

use crate::Result;
use crate::vocab::{Kind, Vocab};

/// A part of a text.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Part<'a> {
    /// Text to be encoded; never empty.
    Text(&'a str),
    /// A special token that stood there.
    Token(u32),
}

/// White space that a special token takes with it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Strip {
    pub left: bool,
    pub right: bool,
}

/// Finds special tokens: where two overlap, the first; of those that start
/// together, the longest.
#[derive(Debug)]
pub(crate) struct Partition {
    /// Control, unknown and user-defined tokens.
    all: Matcher,
    /// User-defined tokens only: they are recognised in any text.
    user: Matcher,
}

#[derive(Debug)]
struct Matcher {
    tokens: Vec<(u32, Strip)>,
    search: Option<AhoCorasick>,
}

impl Partition {
    /// A search for the special tokens of `vocab`.
    pub fn new(vocab: &Vocab, strip: impl Fn(u32) -> Strip) -> Result<Self> {
        let of = |wanted: &[Kind]| {
            let ids =
                (0..vocab.len() as u32).filter(|&id| vocab.kind(id).is_some_and(|k| wanted.contains(&k)));
            let tokens: Vec<_> = ids.map(|id| (id, strip(id))).collect();
            let texts = tokens.iter().filter_map(|&(id, _)| vocab.text(id));
            let search = (!tokens.is_empty())
                .then(|| AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(texts));
            search.transpose().map(|search| Matcher { tokens, search })
        };
        Ok(Self {
            all: of(&[Kind::Control, Kind::Unknown, Kind::UserDefined])?,
            user: of(&[Kind::UserDefined])?,
        })
    }

    /// The parts of `text`. Without `special`, control tokens are plain text.
    pub fn split<'a>(&self, text: &'a str, special: bool) -> Vec<Part<'a>> {
        let matcher = if special { &self.all } else { &self.user };
        let mut parts = Vec::new();
        let mut start = 0;
        for found in matcher.search.iter().flat_map(|search| search.find_iter(text)) {
            if found.start() < start {
                // Inside white space that the token before took.
                continue;
            }
            let (id, strip) = matcher.tokens[found.pattern().as_usize()];
            let mut before = &text[start..found.start()];
            if strip.left {
                before = before.trim_end_matches(c_space);
            }
            if !before.is_empty() {
                parts.push(Part::Text(before));
            }
            parts.push(Part::Token(id));
            start = found.end();
            if strip.right {
                start = text.len() - text[start..].trim_start_matches(c_space).len();
            }
        }
        if start < text.len() {
            parts.push(Part::Text(&text[start..]));
        }
        parts
    }
}

/// C's `isspace`.
fn c_space(c: char) -> bool {
    matches!(c, ' ' | '\t'..='\r')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vocab() -> Vocab {
        let tokens = [
            ("a", Kind::Normal),
            ("<s>", Kind::Control),
            ("<s><s>", Kind::UserDefined),
            ("\n", Kind::UserDefined),
        ];
        let kinds = tokens.iter().map(|t| t.1).collect();
        Vocab::new(tokens.iter().map(|t| t.0), kinds, |_, text| text.into()).expect("a valid vocabulary")
    }

    #[test]
    fn longest_first_and_control_only_on_request() {
        let partition = Partition::new(&vocab(), |_| Strip::default()).expect("four short tokens");
        use Part::{Text, Token};
        assert_eq!(partition.split("x<s><s><s>y", true), [Text("x"), Token(2), Token(1), Text("y")]);
        assert_eq!(partition.split("x<s><s><s>y", false), [Text("x"), Token(2), Text("<s>y")]);
        assert_eq!(partition.split("", true), []);
    }

    #[test]
    fn white_space_goes_with_a_token_that_strips() {
        let strip = |id| Strip { left: id == 2, right: id == 1 };
        let partition = Partition::new(&vocab(), strip).expect("four short tokens");
        use Part::{Text, Token};
        assert_eq!(partition.split("x <s> \n y", true), [Text("x "), Token(1), Text("y")]);
        assert_eq!(partition.split("x <s><s> y", true), [Text("x"), Token(2), Text(" y")]);
    }
}
