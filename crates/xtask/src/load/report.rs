//! The figures as Markdown, and which miss their bar.

use super::bar;
use super::streams::{Disturbed, Load};
use crate::figures::{median, percentile};

/// Tables, and what is missed.
#[derive(Default)]
pub struct Page {
    text: String,
    /// Figures that miss their bar, in words.
    pub missed: Vec<String>,
}

impl Page {
    /// Everything, with the command that made it.
    pub fn render(&self, command: &str) -> String {
        format!("`cargo xtask {command}`\n{}", self.text)
    }

    /// Both servers under the same load, ours first in each round.
    pub fn throughput(&mut self, streams: u32, rounds: &[[Load; 2]]) {
        let ratios = || rounds.iter().map(|[ours, theirs]| theirs.seconds / ours.seconds);
        let ratio = median(ratios()).unwrap_or_default();
        let [least, most] = [f64::min, f64::max].map(|pick| ratios().reduce(pick).unwrap_or_default());
        self.text += &format!(
            "\n| {streams} streams, medians of {} rounds in turn | tokens/s | generated/s | \
             first token p50 | p99 | between tokens p50 | p99 |\n|---|---|---|---|---|---|---|\n",
            rounds.len()
        );
        for (i, name) in ["ours", "llama.cpp"].iter().enumerate() {
            let of = |figure: &dyn Fn(&Load) -> f64| {
                median(rounds.iter().map(|round| figure(&round[i]))).unwrap_or_default()
            };
            self.text += &format!(
                "| {name} | {:.0} | {:.0} | {:.2} s | {:.2} s | {:.1} ms | {:.1} ms |\n",
                of(&Load::tokens_a_second),
                of(&Load::generated_a_second),
                of(&|load| percentile(&load.first_tokens, 50.0)),
                of(&|load| percentile(&load.first_tokens, 99.0)),
                of(&|load| percentile(&load.gaps, 50.0) * 1e3),
                of(&|load| percentile(&load.gaps, 99.0) * 1e3),
            );
        }
        self.text += &format!("| ratio | {ratio:.2} ({least:.2}–{most:.2}) | | | | | |\n");
        self.judge(
            "tokens/s",
            ratio,
            ratio >= bar::THROUGHPUT,
            &format!("at least {} times", bar::THROUGHPUT),
        );
    }

    /// What a long prompt does to `running` replies; `judged` if it must keep to the bar.
    pub fn long_prompt(&mut self, running: u32, judged: bool, rounds: &[Disturbed]) {
        let of = |figure: &dyn Fn(&Disturbed) -> f64| median(rounds.iter().map(figure)).unwrap_or_default();
        let (steady, during) =
            (of(&|r| percentile(&r.steady, 99.0) * 1e3), of(&|r| percentile(&r.during, 99.0) * 1e3));
        let ratio = of(&|r| percentile(&r.during, 99.0) / percentile(&r.steady, 99.0));
        let tokens = rounds.iter().map(|r| r.prompt_tokens).max().unwrap_or_default();
        self.text += &format!(
            "\n{running} replies run, a prompt of {tokens} tokens arrives (medians of {}): between tokens p50 \
             {:.1} ms and p99 {steady:.1} ms before, p50 {:.1} ms and p99 {during:.1} ms meanwhile, \
             {ratio:.2} times; its first token after {:.1} s.\n",
            rounds.len(),
            of(&|r| percentile(&r.steady, 50.0) * 1e3),
            of(&|r| percentile(&r.during, 50.0) * 1e3),
            of(&|r| r.first_token),
        );
        let what = format!("between tokens of {running} replies beside a long prompt");
        let good = !judged || ratio <= bar::LONG_PROMPT;
        self.judge(&what, ratio, good, &format!("at most {} times", bar::LONG_PROMPT));
    }

    /// First tokens of a prompt, and of one with the same prefix; and the first one's tokens.
    pub fn prefix(&mut self, pairs: &[(f64, f64, u64)]) {
        let of =
            |figure: &dyn Fn(&(f64, f64, u64)) -> f64| median(pairs.iter().map(figure)).unwrap_or_default();
        let ratio = of(&|pair| pair.0 / pair.1);
        let tokens = pairs.iter().map(|pair| pair.2).max().unwrap_or_default();
        self.text += &format!(
            "\nFirst token of a prompt of {tokens} tokens after {:.0} ms, of another with the same beginning after \
             {:.1} ms: {ratio:.0} times sooner (medians of {}).\n",
            of(&|pair| pair.0 * 1e3),
            of(&|pair| pair.1 * 1e3),
            pairs.len()
        );
        self.judge("first token", ratio, ratio >= bar::PREFIX, &format!("at least {} times", bar::PREFIX));
    }

    fn judge(&mut self, what: &str, ratio: f64, good: bool, wanted: &str) {
        if !good {
            self.missed.push(format!("{what}: {ratio:.2}, but wanted {wanted}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_misses_its_bar_is_said() {
        let load = |seconds| Load { seconds, prompt_tokens: 100, generated_tokens: 100, ..Load::default() };
        let mut page = Page::default();
        page.throughput(1, &[[load(1.0), load(2.5)], [load(1.0), load(3.5)]]);
        assert!(page.missed.is_empty() && page.text.contains("3.00 (2.50–3.50)"), "{}", page.text);
        page.throughput(1, &[[load(1.0), load(2.0)]]);
        page.prefix(&[(1.0, 0.05, 2000)]);
        page.prefix(&[(1.0, 0.5, 2000)]);
        assert_eq!(page.missed.len(), 2, "{:?}", page.missed);
    }
}
