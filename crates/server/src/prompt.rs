//! From a conversation to the tokens of a prompt.

use tokenizer::template;
use tokenizer::template::{ChatInput, Message, Template};

use crate::error::{ApiError, Result};
use crate::registry::Model;

/// The model's chat template.
///
/// # Errors
/// 400 when it has none.
pub(crate) fn template(model: &Model) -> Result<&Template> {
    model.template.as_deref().ok_or_else(|| {
        ApiError::bad_request("this model has no chat template; use /v1/completions to continue a text")
    })
}

/// The text that the model reads.
///
/// # Errors
/// What the template says of the conversation.
pub(crate) fn render(model: &Model, chat: &ChatInput) -> Result<String> {
    template(model)?.render(chat).map_err(refused)
}

/// The tokens that the model reads.
///
/// # Errors
/// As [`render`].
pub(crate) fn encode(model: &Model, chat: &ChatInput) -> Result<Vec<u32>> {
    Ok(engine::encode_chat(&model.tokenizer, template(model)?, chat).map_err(refused)?.ids)
}

/// The tokens of a conversation of plain turns.
///
/// # Errors
/// As [`render`].
pub(crate) fn conversation(
    model: &Model,
    messages: Vec<Message>,
    thinking: Option<bool>,
) -> Result<Vec<u32>> {
    let chat = ChatInput {
        messages,
        add_generation_prompt: true,
        enable_thinking: thinking,
        ..ChatInput::default()
    };
    encode(model, &chat)
}

/// What the template has against a conversation is the caller's to know.
fn refused(error: template::Error) -> ApiError {
    match error {
        template::Error::Thread(_) | template::Error::Engine => {
            tracing::error!(%error, "a chat template failed");
            ApiError::internal()
        }
        error => ApiError::field("messages", error.to_string()),
    }
}
