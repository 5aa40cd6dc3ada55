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
    /// `[TOOL_CALLS][{"name": …, "arguments": …}, …]`: Mistral.
    Mistral,
    /// `[TOOL_CALLS]name[ARGS]{…}`: Mistral since its 11th tokenizer.
    MistralArgs,
    /// A fenced block, ```` ```tool_code ````, with a call as JSON: Gemma.
    Gemma,
}

/// How a model's replies are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReplyFormat {
    /// What opens and closes reasoning.
    pub reasoning: Option<(&'static str, &'static str)>,
    /// How tools are called, if a format is known.
    pub tools: Option<ToolFormat>,
    /// A call may also stand in a fenced block, ```` ```json ````, as small models of Qwen
    /// and Gemma like to write it; what is no call in one is content.
    pub fenced: bool,
}

impl ReplyFormat {
    /// The format that the source of a chat template gives away.
    pub fn detect(template: &str) -> Self {
        let has = |mark: &str| template.contains(mark);
        // Some write other things than JSON within the same tags.
        let tagged = has("<tool_call>") && !has("<function=") && !has("<arg_key>");
        let tools = match () {
            () if tagged => Some(ToolFormat::Hermes),
            () if has("[TOOL_CALLS]") && has("[ARGS]") => Some(ToolFormat::MistralArgs),
            () if has("[TOOL_CALLS]") => Some(ToolFormat::Mistral),
            () if has("<|python_tag|>") => Some(ToolFormat::Llama3),
            () if has("<|start_header_id|>") && has("ipython") => Some(ToolFormat::Llama3),
            () if has("<start_of_turn>") => Some(ToolFormat::Gemma),
            () => None,
        };
        let reasoning = REASONING.into_iter().find(|(open, close)| has(close) || has(open));
        let fenced = matches!(tools, Some(ToolFormat::Hermes | ToolFormat::Gemma));
        Self { reasoning, tools, fenced }
    }

    /// Texts that mark parts of a reply. Where the vocabulary has one as a control
    /// token, that token must be shown as text: [`Request::shown`](crate::Request::shown).
    pub fn marks(&self) -> Vec<&'static str> {
        let mut marks: Vec<_> = self.reasoning.into_iter().flat_map(|(open, close)| [open, close]).collect();
        marks.extend(match self.tools {
            None | Some(ToolFormat::Gemma) => &[][..],
            Some(ToolFormat::Hermes) => &["<tool_call>", "</tool_call>"],
            Some(ToolFormat::Llama3) => &["<|python_tag|>"],
            Some(ToolFormat::Mistral | ToolFormat::MistralArgs) => &["[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"],
        });
        marks
    }

    /// Whether `prompt` ends with open reasoning, so that the reply begins within it.
    pub fn opens_reasoning(&self, prompt: &str) -> bool {
        self.reasoning.is_some_and(|(open, _)| prompt.trim_end().ends_with(open))
    }
}

impl ToolFormat {
    /// What comes before a call as JSON, or before a list of them.
    pub fn opening(self) -> &'static str {
        match self {
            Self::Hermes => "<tool_call>\n",
            Self::Llama3 => "",
            Self::Mistral | Self::MistralArgs => "[TOOL_CALLS]",
            Self::Gemma => "```tool_code\n",
        }
    }

    /// What comes after it.
    pub fn closing(self) -> &'static str {
        match self {
            Self::Hermes => "\n</tool_call>",
            Self::Gemma => "\n```",
            Self::Llama3 | Self::Mistral | Self::MistralArgs => "",
        }
    }

    /// Texts that begin a call anywhere in a reply.
    pub(crate) fn markers(self) -> &'static [&'static str] {
        match self {
            Self::Hermes => &["<tool_call>"],
            Self::Llama3 => &["<|python_tag|>"],
            Self::Mistral | Self::MistralArgs => &["[TOOL_CALLS]"],
            Self::Gemma => &["```tool_code\n"],
        }
    }

    /// What closes a call.
    pub(super) fn close(self) -> &'static str {
        match self {
            Self::Hermes => "</tool_call>",
            Self::Llama3 => ";",
            Self::Mistral | Self::MistralArgs => "",
            Self::Gemma => "```",
        }
    }

    /// Whether a reply that begins with `{` may be a call.
    pub(crate) fn is_bare(self) -> bool {
        self == Self::Llama3
    }
}
