//! Pre-tokenizers by the name that `tokenizer.ggml.pre` gives them.

use std::borrow::Cow;

use super::Pass::{self, Matches, TrailingSpace};
use super::{Rules, Spelling, patterns as p};

/// A pre-tokenizer and what else its name implies.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pre {
    /// Names in GGUF files.
    names: &'static [&'static str],
    passes: &'static [Pass],
    ignore_merges: bool,
    /// Whether a beginning-of-text token is added when the file does not say.
    pub add_bos: bool,
    pub spelling: Spelling,
}

const PLAIN: Pre =
    Pre { names: &[], passes: &[], ignore_merges: false, add_bos: false, spelling: Spelling::ByteLevel };

/// Every pre-tokenizer this build knows.
const TABLE: &[Pre] = &[
    Pre {
        names: &["default"],
        passes: &[
            Matches(p::default_punctuation),
            Matches(p::gpt2),
            Matches(p::digits),
            Matches(p::three_digits),
        ],
        ..PLAIN
    },
    Pre {
        names: &[
            "gpt-2",
            "phi-2",
            "mpt",
            "olmo",
            "jais",
            "trillion",
            "granite-docling",
            "gigachat",
            "a.x-4.0",
            "mellum",
            "modern-bert",
            "exaone4",
            "jina-es",
            "jina-de",
            "jina-v2-es",
            "jina-v2-de",
        ],
        passes: &[Matches(p::gpt2)],
        ..PLAIN
    },
    Pre {
        names: &[
            "starcoder",
            "refact",
            "command-r",
            "smollm",
            "codeshell",
            "exaone",
            "minerva-7b",
            "mellum2",
        ],
        passes: &[Matches(p::digit), Matches(p::gpt2)],
        ..PLAIN
    },
    Pre {
        names: &["falcon"],
        passes: &[Matches(p::falcon_punctuation), Matches(p::gpt2), Matches(p::three_digits)],
        ..PLAIN
    },
    Pre {
        names: &[
            "llama-bpe",
            "llama3",
            "llama-v3",
            "falcon3",
            "falcon-h1",
            "pixtral",
            "midm-2.0",
            "lfm2",
            "jina-v5-nano",
        ],
        passes: &[Matches(p::llama3)],
        ignore_merges: true,
        add_bos: true,
        ..PLAIN
    },
    Pre { names: &["dbrx", "smaug-bpe", "chatglm-bpe"], passes: &[Matches(p::llama3)], ..PLAIN },
    Pre { names: &["glm4", "glm5"], passes: &[Matches(p::llama3)], ignore_merges: true, ..PLAIN },
    Pre {
        names: &[
            "qwen2",
            "deepseek-r1-qwen",
            "stablelm2",
            "hunyuan",
            "solar-open",
            "megrez",
            "grok-2",
            "kormo",
            "f2llmv2",
            "bailingmoe",
            "bailingmoe2",
            "llada-moe",
        ],
        passes: &[Matches(p::qwen2)],
        ..PLAIN
    },
    Pre { names: &["qwen35"], passes: &[Matches(p::qwen35)], ..PLAIN },
    Pre { names: &["exaone-moe"], passes: &[Matches(p::exaone_moe)], ..PLAIN },
    Pre { names: &["ufakzeka"], passes: &[Matches(p::qwen2_plain)], ..PLAIN },
    Pre { names: &["laguna"], passes: &[Matches(p::lines), Matches(p::qwen2)], ..PLAIN },
    Pre {
        names: &["minicpm5"],
        passes: &[Matches(p::digits3), Matches(p::llama3_long_numbers)],
        ignore_merges: true,
        ..PLAIN
    },
    Pre { names: &["seed-coder"], passes: &[Matches(p::seed_coder)], ..PLAIN },
    Pre {
        names: &["deepseek-llm"],
        passes: &[
            Matches(p::line_break),
            Matches(p::deepseek_llm_letters),
            Matches(p::deepseek_llm_punctuation),
            TrailingSpace,
            Matches(p::deepseek_cjk),
            Matches(p::digits),
        ],
        ..PLAIN
    },
    Pre {
        names: &["deepseek-coder"],
        passes: &[
            Matches(p::line_break),
            Matches(p::deepseek_coder_letters),
            Matches(p::deepseek_coder_punctuation),
            Matches(p::deepseek_cjk),
            Matches(p::digit),
        ],
        ..PLAIN
    },
    Pre {
        names: &["deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"],
        passes: &[Matches(p::digits3), Matches(p::deepseek_v3_cjk), Matches(p::deepseek_v3)],
        ..PLAIN
    },
    Pre { names: &["tekken"], passes: &[Matches(p::tekken)], ignore_merges: true, add_bos: true, ..PLAIN },
    Pre {
        names: &["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"],
        passes: &[Matches(p::gpt4o)],
        ..PLAIN
    },
    Pre { names: &["kimi-k2"], passes: &[Matches(p::kimi_k2)], ..PLAIN },
    Pre { names: &["bloom", "poro-chat", "gpt3-finnish"], passes: &[Matches(p::bloom)], ..PLAIN },
    Pre { names: &["viking"], passes: &[Matches(p::bloom), Matches(p::digit)], ..PLAIN },
    Pre { names: &["gemma4"], passes: &[Matches(p::lines)], spelling: Spelling::Escaped, ..PLAIN },
    Pre { names: &["sarvam-moe"], passes: &[Matches(p::lines)], spelling: Spelling::Escaped, ..PLAIN },
];

impl Pre {
    /// The pre-tokenizer of this name.
    pub fn by_name(name: &str) -> Option<&'static Self> {
        TABLE.iter().find(|pre| pre.names.contains(&name))
    }

    /// What it says about text.
    pub fn rules(&self) -> Rules {
        Rules {
            passes: Cow::Borrowed(self.passes),
            ignore_merges: self.ignore_merges,
            spelling: self.spelling,
        }
    }

    /// Its first name.
    pub fn name(&self) -> &'static str {
        self.names[0]
    }
}

/// Every known name, for messages.
pub(crate) fn names() -> String {
    TABLE.iter().flat_map(|pre| pre.names).copied().collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::super::split;
    use super::*;

    fn pieces<'a>(pre: &str, text: &'a str) -> Vec<&'a str> {
        let ends = split(text, Pre::by_name(pre).expect("a name of the table").passes);
        let mut start = 0;
        ends.into_iter().map(|end| &text[std::mem::replace(&mut start, end)..end]).collect()
    }

    #[test]
    fn names_are_unique() {
        let names: Vec<_> = TABLE.iter().flat_map(|pre| pre.names).collect();
        let unique: std::collections::BTreeSet<_> = names.iter().collect();
        assert_eq!(names.len(), unique.len());
    }

    /// By hand, from the patterns.
    #[test]
    fn pieces_of_each_family() {
        let text = "I'll say  HelloWorld's 12345!\n\n  ok";
        assert_eq!(
            pieces("gpt-2", text),
            ["I", "'ll", " say", " ", " HelloWorld", "'s", " 12345", "!", "\n\n ", " ok"]
        );
        assert_eq!(
            pieces("llama-bpe", text),
            ["I", "'ll", " say", " ", " HelloWorld", "'s", " ", "123", "45", "!\n\n", " ", " ok"]
        );
        assert_eq!(
            pieces("smollm", text),
            ["I", "'ll", " say", " ", " HelloWorld", "'s", " ", "1", "2", "3", "4", "5", "!", "\n\n ", " ok"]
        );
        assert_eq!(
            pieces("gpt-4o", text),
            ["I'll", " say", " ", " Hello", "World's", " ", "123", "45", "!\n\n", " ", " ok"]
        );
        assert_eq!(pieces("deepseek-llm", "a 中1  "), ["a", " ", "中", "1", "  "]);
        assert_eq!(pieces("falcon", "x=1234"), ["x", "=", "123", "4"]);
        assert_eq!(pieces("gemma4", "a\n\nb"), ["a", "\n\n", "b"]);
        assert_eq!(pieces("tekken", "ABc中D"), ["ABc中", "D"]);
        assert_eq!(pieces("qwen35", "e\u{301}x"), ["e\u{301}x"]);
        assert_eq!(
            pieces("exaone-moe", "he  said: all of it!\n"),
            ["he", " ", " said", ":", " all of it", "!\n"]
        );
        assert_eq!(pieces("qwen2", "e\u{301}x"), ["e", "\u{301}x"]);
    }

    /// Whatever the pattern, the pieces are the text, and none is empty.
    #[test]
    fn pieces_cover_the_text() {
        let text = " \t\r\n'a'LLΩ\u{301}½9\u{3000}中中!?/\n\u{0}\u{85}🦙\u{200d}  ";
        for pre in TABLE {
            let found = pieces(pre.name(), text);
            assert_eq!(found.concat(), text, "{}", pre.name());
            assert!(found.iter().all(|p| !p.is_empty()), "{}", pre.name());
        }
    }
}
