//! Tokens with a role: beginning, end of text, of a turn, of a message.

use crate::vocab::{Kind, Vocab};

/// The ids of the roles, where the vocabulary has them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Special {
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub eot: Option<u32>,
    pub eom: Option<u32>,
    pub unk: Option<u32>,
    pub pad: Option<u32>,
    /// Every token that ends a generation, ascending.
    pub eog: Vec<u32>,
}

/// Texts that end a turn, likeliest first. Files made by older converters do
/// not name the token's id, so it is known by its text.
const END_OF_TURN: [&str; 11] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "<｜end▁of▁sentence｜>",
    "<end_of_utterance>",
];

/// Further texts after which a model has said all it will.
const END_OF_GENERATION: [&str; 12] = [
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "</s>",
    "<|eom_id|>",
    "[EOS]",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "[e~[",
    // The end of a file in code models.
    "<|file_sep|>",
];

/// Spellings of the padding and the repository token of code models, which end
/// a generation too; of each list, the first that the vocabulary has.
const PADDING: [&str; 5] = ["<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"];
const REPOSITORY: [&str; 5] = ["<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"];

/// Parts of a message's frame that clients want to see.
const ALWAYS_SHOWN: [&str; 4] = ["<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"];

/// Whether a file's word on a token's kind can be relied on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kinds {
    /// GGUF: converters mark some control tokens as text, so a text of the
    /// lists above is a control token whatever its kind.
    Correct,
    /// `tokenizer.json`: text is text, `</s>` in a vocabulary of HTML included.
    Trust,
}

impl Special {
    /// Finds the roles that the file leaves unsaid.
    pub fn complete(&mut self, vocab: &mut Vocab, kinds: Kinds) {
        let find = |vocab: &Vocab, text: &str| {
            let special = |&id: &u32| matches!(vocab.kind(id), Some(Kind::Control | Kind::UserDefined));
            vocab.find(text).filter(|id| kinds == Kinds::Correct || special(id))
        };
        let first = |vocab: &Vocab, texts: &[&str]| texts.iter().find_map(|text| find(vocab, text));
        self.eot = self.eot.or_else(|| first(vocab, &END_OF_TURN));
        self.eom = self.eom.or_else(|| find(vocab, "<|eom_id|>"));

        let spelled = END_OF_TURN.iter().chain(&END_OF_GENERATION).filter_map(|text| find(vocab, text));
        let mut eog: Vec<u32> = spelled.collect();
        eog.extend(first(vocab, &PADDING));
        eog.extend(first(vocab, &REPOSITORY));
        for &id in &eog {
            vocab.set_kind(id, Kind::Control);
        }
        for id in ALWAYS_SHOWN.iter().filter_map(|text| find(vocab, text)).collect::<Vec<_>>() {
            vocab.set_kind(id, Kind::UserDefined);
        }
        eog.extend([self.eos, self.eot, self.eom].into_iter().flatten());
        eog.sort_unstable();
        eog.dedup();
        self.eog = eog;
        self.remove_homonyms(vocab);
    }

    /// Two texts end a generation in some vocabularies and not in others.
    fn remove_homonyms(&mut self, vocab: &mut Vocab) {
        let has = |text: &str| vocab.find(text).is_some_and(|id| self.eog.contains(&id));
        // gpt-oss and Solar end a message with it, and go on.
        let ends_message = (has("<|return|>") && has("<|call|>"))
            || (has("<|flush|>") && (has("<|call|>") || has("<|calls|>")));
        // An HTML tag in Gemma 4 and PLaMo.
        let is_text = has("<|tool_response>") || has("<|plamo:eos|>");
        for (applies, text, kind) in
            [(ends_message, "<|end|>", Kind::UserDefined), (is_text, "</s>", Kind::Normal)]
        {
            if let Some(id) = vocab.find(text).filter(|_| applies) {
                self.eog.retain(|&x| x != id);
                vocab.set_kind(id, kind);
            }
        }
    }
}
