//! The formats of replies, told from a chat template's source.

/// Tags around a model's reasoning.
const REASONING: [(&str, &str); 5] = [
    ("<think>", "</think>"),                    // DeepSeek R1, Qwen 3, SmolLM 3
    ("[THINK]", "[/THINK]"),                    // Magistral
    ("<seed:think>", "</seed:think>"),          // Seed-OSS
    ("<|START_THINKING|>", "<|END_THINKING|>"), // Command A
    ("<|inner_prefix|>", "<|inner_suffix|>"),   // Apertus
];

/// How a model writes tool calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToolFormat {
    /// `<tool_call>{"name": …, "arguments": …}</tool_call>`: Hermes, Qwen 2.5 and 3.
    Hermes,
    /// `{"name": …, "parameters": …}` as the whole reply, or after `<|python_tag|>`: Llama 3.
    Llama3,
    /// `[TOOL_CALLS][{"name": …, "arguments": …}, …]` or `[TOOL_CALLS]name[ARGS]{…}`: Mistral.
    Mistral,
    /// A fenced block, ```` ```tool_code ```` or ```` ```json ````, with a call as JSON: Gemma.
    Gemma,
}

/// How a model's replies are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReplyFormat {
    /// What opens and closes reasoning.
    pub reasoning: Option<(&'static str, &'static str)>,
    /// How tools are called, if a format is known.
    pub tools: Option<ToolFormat>,
}

impl ReplyFormat {
    /// The format that the source of a chat template gives away.
    pub fn detect(template: &str) -> Self {
        let has = |mark: &str| template.contains(mark);
        // Some write other things than JSON within the same tags.
        let tagged = has("<tool_call>") && !has("<function=") && !has("<arg_key>");
        let tools = match () {
            () if tagged => Some(ToolFormat::Hermes),
            () if has("[TOOL_CALLS]") => Some(ToolFormat::Mistral),
            () if has("<|python_tag|>") => Some(ToolFormat::Llama3),
            () if has("<|start_header_id|>") && has("ipython") => Some(ToolFormat::Llama3),
            () if has("<start_of_turn>") => Some(ToolFormat::Gemma),
            () => None,
        };
        Self { reasoning: REASONING.into_iter().find(|(open, close)| has(close) || has(open)), tools }
    }

    /// Whether `prompt` ends with open reasoning, so that the reply begins within it.
    pub fn opens_reasoning(&self, prompt: &str) -> bool {
        self.reasoning.is_some_and(|(open, _)| prompt.trim_end().ends_with(open))
    }
}

impl ToolFormat {
    /// Texts that begin a call anywhere in a reply.
    pub(super) fn markers(self) -> &'static [&'static str] {
        match self {
            Self::Hermes => &["<tool_call>"],
            Self::Llama3 => &["<|python_tag|>"],
            Self::Mistral => &["[TOOL_CALLS]"],
            Self::Gemma => &["```tool_code\n", "```json\n"],
        }
    }

    /// What closes a call.
    pub(super) fn close(self) -> &'static str {
        match self {
            Self::Hermes => "</tool_call>",
            Self::Llama3 => ";",
            Self::Mistral => "",
            Self::Gemma => "```",
        }
    }

    /// Whether a reply that begins with `{` may be a call.
    pub(super) fn is_bare(self) -> bool {
        self == Self::Llama3
    }
}
