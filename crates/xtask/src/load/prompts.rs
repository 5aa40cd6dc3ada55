//! Prompts of real text that no earlier one shares a beginning with.

use super::streams::Ask;

/// Tokens of the mixed prompts, about: a question, a page, a document.
const SIZES: [usize; 6] = [32, 96, 256, 64, 768, 160];

/// Words of a text, handed out piece by piece.
pub struct Prompts<'a> {
    words: std::iter::Cycle<std::str::SplitWhitespace<'a>>,
    given: usize,
}

impl<'a> Prompts<'a> {
    /// From the beginning of `text`.
    pub fn new(text: &'a str) -> Self {
        Self { words: text.split_whitespace().cycle(), given: 0 }
    }

    /// A prompt of about so many tokens; English has four for three words.
    pub fn next(&mut self, tokens: usize) -> String {
        self.given += 1;
        // A number makes the beginning its own even where the text repeats itself.
        let mut prompt = format!("{}.", self.given);
        for word in self.words.by_ref().take(tokens * 3 / 4) {
            prompt.push(' ');
            prompt.push_str(word);
        }
        prompt
    }

    /// What each of `streams` asks, one request after another: every size in every round.
    pub fn mixed(&mut self, streams: usize, requests: usize, reply: u32) -> Vec<Vec<Ask>> {
        let ask = |this: &mut Self, i: usize| Ask::new(this.next(SIZES[i % SIZES.len()]), reply);
        (0..streams).map(|s| (0..requests).map(|r| ask(self, s + r)).collect()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_differ_from_their_beginning() {
        let mut prompts = Prompts::new("a b c");
        assert_eq!(prompts.next(8), "1. a b c a b c");
        assert_eq!(prompts.next(4), "2. a b c");
        let asks = prompts.mixed(3, 2, 5);
        assert_eq!(asks.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2, 2]);
        assert_ne!(asks[0][0].prompt.len(), asks[1][0].prompt.len());
    }
}
