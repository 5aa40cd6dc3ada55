//! From a conversation to what the engine is asked for.

use engine::{Constraint, ReplyFormat, Request, ToolFormat};
use serde_json::{Map, Value};
use tokenizer::Kind;
use tokenizer::template;
use tokenizer::template::{ChatInput, Message, Template, ToolArguments};

use crate::error::{ApiError, Result};
use crate::ids;
use crate::prompted;
use crate::reading::Reading;
use crate::registry::Model;
use crate::state::Ask;
use crate::tools::Tools;

/// A conversation, whatever API it came by. The arguments of calls in it may be
/// objects or their text.
#[derive(Debug, Clone, Default)]
pub(crate) struct Conversation {
    pub messages: Vec<Message>,
    pub tools: Tools,
    /// Think before the answer, or not, where the template can tell the model.
    pub thinking: Option<bool>,
    /// Further variables of the template.
    pub extra: Map<String, Value>,
}

/// A prompt and how the replies to it are taken apart.
pub(crate) struct Prepared {
    /// The tokens that the model reads.
    pub ids: Vec<u32>,
    reading: Reading,
    /// Control tokens that mark parts of replies.
    shown: Vec<u32>,
    /// What calls are held to.
    calls: Option<Constraint>,
}

impl Conversation {
    /// Of plain turns.
    pub fn of(messages: Vec<Message>, thinking: Option<bool>) -> Self {
        Self { messages, thinking, ..Self::default() }
    }

    /// Renders and encodes it.
    ///
    /// # Errors
    /// What the template says of the conversation, or the tools' schemas of themselves.
    pub fn prepare(self, model: &Model) -> Result<Prepared> {
        let (input, offered, mut reading) = self.input(model)?;
        let prompt = engine::encode_chat(&model.tokenizer, template(model)?, &input).map_err(refused)?;
        reading.in_reasoning = reading.format.opens_reasoning(&prompt.text);
        let calls = offered.constraint(model, &reading)?;
        // Where the arguments of calls are promised, what stands elsewhere is none.
        reading.format.fenced &= calls.is_none();
        let tokenizer = &model.tokenizer;
        let control =
            |mark: &&str| tokenizer.token_id(mark).filter(|&id| tokenizer.kind(id) == Some(Kind::Control));
        let tools = reading.format.tools.filter(|_| reading.with_tools);
        let shown = ReplyFormat { tools, ..reading.format }.marks().iter().filter_map(control).collect();
        Ok(Prepared { ids: prompt.ids, reading, shown, calls })
    }

    /// The text that the model reads.
    ///
    /// # Errors
    /// As [`prepare`](Self::prepare).
    pub fn render(self, model: &Model) -> Result<String> {
        let (input, ..) = self.input(model)?;
        template(model)?.render(&input).map_err(refused)
    }

    /// As the template takes it.
    fn input(self, model: &Model) -> Result<(ChatInput, Tools, Reading)> {
        let Self { mut messages, tools, thinking, extra } = self;
        let mut format = model.replies;
        let shown = tools.for_template();
        let capabilities = model.capabilities;
        let knows_tools = model.knows_tools();
        if !knows_tools {
            let tools = format.tools.get_or_insert(ToolFormat::Hermes);
            let system = capabilities.is_some_and(|c| c.system);
            messages = prompted::rewritten(messages, shown.as_deref(), *tools, system);
        }
        let nine = matches!(format.tools, Some(ToolFormat::Mistral | ToolFormat::MistralArgs));
        let style = capabilities.and_then(|c| c.tool_arguments).unwrap_or(ToolArguments::Text);
        for (i, message) in messages.iter_mut().enumerate() {
            adapt_calls(message, i, style, nine)?;
        }
        let input = ChatInput {
            messages,
            tools: shown.filter(|_| knows_tools),
            add_generation_prompt: true,
            enable_thinking: thinking,
            now: None,
            extra,
        };
        let reading = Reading { format, with_tools: tools.any(), in_reasoning: false };
        Ok((input, tools, reading))
    }
}

/// Gives the calls of a turn the form that the template wants. `nine`: their
/// ids must be nine letters and digits.
fn adapt_calls(message: &mut Message, i: usize, style: ToolArguments, nine: bool) -> Result<()> {
    for call in message.tool_calls.iter_mut().flatten() {
        let arguments = &mut call["function"]["arguments"];
        match (style, &*arguments) {
            (ToolArguments::Object, Value::String(text)) => {
                *arguments = serde_json::from_str(text).map_err(|error| {
                    let param = format!("messages[{i}].tool_calls");
                    ApiError::field(param.clone(), format!("{param}: the arguments are not JSON: {error}"))
                })?;
            }
            (ToolArguments::Text, Value::Object(_)) => *arguments = arguments.to_string().into(),
            _ => {}
        }
        if let Some(id) = call["id"].as_str().filter(|_| nine) {
            call["id"] = ids::nine(id).into();
        }
    }
    if let Some(id) = message.tool_call_id.as_mut().filter(|_| nine) {
        *id = ids::nine(id);
    }
    Ok(())
}

impl Prepared {
    /// Asks for `n` replies of the form that `form` says, if any, with what
    /// `request` makes of the prompt.
    ///
    /// # Errors
    /// 400 when a form is asked for beside calls, and what `request` says.
    pub fn ask(
        self,
        n: usize,
        form: Option<Constraint>,
        request: impl FnOnce(Vec<u32>) -> Result<Request>,
    ) -> Result<Ask> {
        let Self { ids, mut reading, shown, calls } = self;
        if form.is_some() && reading.with_tools {
            return Err(ApiError::unsupported("response_format", "a form of the reply together with tools"));
        }
        if form.is_some() {
            // All of the reply has that form.
            reading = Reading::default();
        }
        Ok(Ask { request: Request { constraint: form.or(calls), shown, ..request(ids)? }, n, reading })
    }
}

/// The model's chat template.
///
/// # Errors
/// 400 when it has none.
pub(crate) fn template(model: &Model) -> Result<&Template> {
    model.template.as_deref().ok_or_else(|| {
        ApiError::bad_request("this model has no chat template; use /v1/completions to continue a text")
    })
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
