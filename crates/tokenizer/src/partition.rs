//! Cutting text at special tokens, before anything else looks at it.

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

impl Partition {
    /// A search for the special tokens of `vocab`.
    pub fn new(vocab: &Vocab, strip: impl Fn(u32) -> Strip) -> Self {
        let matcher = |wanted: &[Kind]| {
            let wanted = |&id: &u32| vocab.kind(id).is_some_and(|kind| wanted.contains(&kind));
            Matcher::new(vocab, (0..vocab.len() as u32).filter(wanted).map(|id| (id, strip(id))))
        };
        Self {
            all: matcher(&[Kind::Control, Kind::Unknown, Kind::UserDefined]),
            user: matcher(&[Kind::UserDefined]),
        }
    }

    /// The parts of `text`. Without `special`, control tokens are plain text.
    pub fn split<'a>(&self, vocab: &Vocab, text: &'a str, special: bool) -> Vec<Part<'a>> {
        let matcher = if special { &self.all } else { &self.user };
        let mut parts = Vec::new();
        let (mut start, mut at) = (0, 0);
        while let Some((found, entry, len)) = matcher.find(vocab, text, at) {
            let mut before = &text[start..found];
            if entry.strip.left {
                before = before.trim_end_matches(c_space);
            }
            if !before.is_empty() {
                parts.push(Part::Text(before));
            }
            parts.push(Part::Token(entry.id));
            start = found + len;
            if entry.strip.right {
                start = text.len() - text[start..].trim_start_matches(c_space).len();
            }
            at = start;
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

/// Tokens in the order of their texts: a few bytes for each, however long and
/// many they are (an automaton takes dozens for each byte of their text).
///
/// The longest token that begins a text T is the last token P not above T, or
/// else begins P: whatever lies between a beginning of T and T begins with it.
#[derive(Debug)]
struct Matcher {
    entries: Vec<Entry>,
    /// Where the entries that begin with a byte, or with a lower one, end.
    ends: Vec<usize>,
}

#[derive(Debug)]
struct Entry {
    id: u32,
    strip: Strip,
    /// The longest other entry that this one begins with.
    prefix: Option<usize>,
}

impl Matcher {
    fn new(vocab: &Vocab, tokens: impl Iterator<Item = (u32, Strip)>) -> Self {
        let mut entries: Vec<Entry> = tokens.map(|(id, strip)| Entry { id, strip, prefix: None }).collect();
        entries.sort_by_key(|entry| text_of(vocab, entry.id));
        let mut open: Vec<usize> = Vec::new();
        for i in 0..entries.len() {
            let text = text_of(vocab, entries[i].id);
            while open.pop_if(|&mut o| !text.starts_with(text_of(vocab, entries[o].id))).is_some() {}
            entries[i].prefix = open.last().copied();
            open.push(i);
        }
        let first = |entry: &Entry| text_of(vocab, entry.id).first().copied();
        let ends = (0..=255).map(|byte| entries.partition_point(|e| first(e) <= Some(byte))).collect();
        Self { entries, ends }
    }

    /// The first special token from byte `from` on: where, which, how long.
    fn find(&self, vocab: &Vocab, text: &str, from: usize) -> Option<(usize, &Entry, usize)> {
        if self.entries.is_empty() {
            return None;
        }
        (from..text.len()).find_map(|at| {
            let (entry, len) = self.longest(vocab, &text.as_bytes()[at..])?;
            Some((at, entry, len))
        })
    }

    /// The longest token that `text` begins with.
    fn longest(&self, vocab: &Vocab, text: &[u8]) -> Option<(&Entry, usize)> {
        let byte = usize::from(*text.first()?);
        let low = if byte == 0 { 0 } else { self.ends[byte - 1] };
        let range = &self.entries[low..self.ends[byte]];
        let below = range.partition_point(|entry| text_of(vocab, entry.id) <= text);
        let mut candidate = (below > 0).then(|| low + below - 1);
        while let Some(entry) = candidate.map(|i| &self.entries[i]) {
            let token = text_of(vocab, entry.id);
            if text.starts_with(token) {
                return Some((entry, token.len()));
            }
            candidate = entry.prefix;
        }
        None
    }
}

fn text_of(vocab: &Vocab, id: u32) -> &[u8] {
    vocab.text(id).expect("entries are tokens of the vocabulary").as_bytes()
}

#[cfg(test)]
mod tests {
    use super::Part::{Text, Token};
    use super::*;

    fn vocab(tokens: &[(&str, Kind)]) -> Vocab {
        let kinds = tokens.iter().map(|t| t.1).collect();
        Vocab::new(tokens.iter().map(|t| t.0), kinds, |_, text| text.into()).expect("a valid vocabulary")
    }

    const TOKENS: [(&str, Kind); 4] = [
        ("a", Kind::Normal),
        ("<s>", Kind::Control),
        ("<s><s>", Kind::UserDefined),
        ("\n", Kind::UserDefined),
    ];

    #[test]
    fn longest_first_and_control_only_on_request() {
        let vocab = vocab(&TOKENS);
        let partition = Partition::new(&vocab, |_| Strip::default());
        let split = |text, special| partition.split(&vocab, text, special);
        assert_eq!(split("x<s><s><s>y", true), [Text("x"), Token(2), Token(1), Text("y")]);
        assert_eq!(split("x<s><s><s>y", false), [Text("x"), Token(2), Text("<s>y")]);
        assert!(split("", true).is_empty());
    }

    #[test]
    fn white_space_goes_with_a_token_that_strips() {
        let vocab = vocab(&TOKENS);
        let partition = Partition::new(&vocab, |id| Strip { left: id == 2, right: id == 1 });
        let split = |text| partition.split(&vocab, text, true);
        assert_eq!(split("x <s> \n y"), [Text("x "), Token(1), Text("y")]);
        assert_eq!(split("x <s><s> y"), [Text("x"), Token(2), Text(" y")]);
    }

    /// Against trying every token at every place.
    #[test]
    fn agrees_with_the_obvious_search() {
        let texts = ["a", "ab", "abba", "abb", "b", "bab", "c", "cc", "ca", "aab", "é", "éa"];
        let tokens: Vec<_> = texts.iter().map(|&text| (text, Kind::UserDefined)).collect();
        let vocab = vocab(&tokens);
        let partition = Partition::new(&vocab, |_| Strip::default());
        for n in 0..4usize.pow(6) {
            let text: String = (0..6).map(|i| ['a', 'b', 'é', 'd'][n / 4usize.pow(i) % 4]).collect();
            let mut expected = Vec::new();
            let mut rest = text.as_str();
            while let Some(c) = rest.chars().next() {
                let longest = texts.iter().filter(|t| rest.starts_with(**t)).max_by_key(|t| t.len());
                let len = longest.map_or(c.len_utf8(), |t| t.len());
                expected.push(&rest[..len]);
                rest = &rest[len..];
            }
            let found = partition.split(&vocab, &text, false);
            let found = found.iter().flat_map(|part| match part {
                Token(id) => vec![texts[*id as usize]],
                Text(text) => text.split_inclusive('d').collect(),
            });
            assert_eq!(found.collect::<Vec<_>>(), expected, "{text}");
        }
    }
}
