//! What Anthropic's clients get.

use engine::Stats;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::reading::{Call, Parts};

/// A reply.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct MessageAnswer {
    pub id: String,
    /// `message`
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// `assistant`
    pub role: &'static str,
    pub model: String,
    pub content: Vec<AnswerBlock>,
    pub stop_reason: Option<&'static str>,
    pub stop_sequence: Option<String>,
    pub usage: MessageUsage,
}

/// A block of a reply.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum AnswerBlock {
    /// What the model thought; nobody signs it.
    Thinking {
        thinking: String,
        signature: &'static str,
    },
    Text {
        text: String,
    },
    /// A call.
    ToolUse {
        id: String,
        name: String,
        #[schema(value_type = Object)]
        input: Value,
    },
}

/// The blocks of a complete reply.
pub(super) fn blocks(parts: Parts) -> Vec<AnswerBlock> {
    let Parts { content, reasoning, calls, .. } = parts;
    let mut blocks = Vec::new();
    if !reasoning.is_empty() {
        blocks.push(AnswerBlock::Thinking { thinking: reasoning, signature: "" });
    }
    if !content.is_empty() || calls.is_empty() {
        blocks.push(AnswerBlock::Text { text: content });
    }
    for Call { id, name, arguments } in calls {
        // The parser passes on objects alone.
        let input = serde_json::from_str(&arguments).unwrap_or_default();
        blocks.push(AnswerBlock::ToolUse { id, name, input });
    }
    blocks
}

/// How many tokens it took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct MessageUsage {
    /// Of the prompt, without those that the cache held.
    pub input_tokens: usize,
    /// Of the reply.
    pub output_tokens: usize,
    /// Of the prompt, found in the cache.
    pub cache_read_input_tokens: usize,
    /// Always 0: what is cached is not told apart.
    pub cache_creation_input_tokens: usize,
}

impl From<&Stats> for MessageUsage {
    fn from(stats: &Stats) -> Self {
        Self {
            input_tokens: stats.prompt_tokens - stats.cached_tokens,
            output_tokens: stats.generated_tokens,
            cache_read_input_tokens: stats.cached_tokens,
            cache_creation_input_tokens: 0,
        }
    }
}
