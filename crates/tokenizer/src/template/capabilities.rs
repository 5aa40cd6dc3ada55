//! What a template does with a conversation, found by rendering small ones and
//! looking for their words: nothing in a template declares it.

use serde_json::{Value, json};

use super::{ChatInput, Content, Message, Template};

/// What a template can show a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// It prints a `system` message that comes first.
    pub system: bool,
    /// It prints the tools it is given.
    pub tools: bool,
    /// How it takes the arguments of an earlier tool call; `None` when it
    /// prints none.
    pub tool_arguments: Option<ToolArguments>,
    /// It prints content given as parts.
    pub parts: bool,
    /// [`ChatInput::enable_thinking`] makes a difference.
    pub thinking_switch: bool,
    /// Its text begins with the token that begins a text, so that the
    /// tokenizer must not add another.
    pub prints_bos: bool,
}

/// What `tool_calls[…].function.arguments` should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToolArguments {
    /// An object.
    Object,
    /// The JSON text of an object, as OpenAI's API has it.
    Text,
}

/// Words that no template has.
const WORD: &str = "qvortex";
const OTHER: &str = "zplindle";

impl Template {
    /// Finds out what the template does; it takes some ten renderings.
    pub fn capabilities(&self) -> Capabilities {
        let user = || Message::new("user", "Hi");
        let prints = |chat: ChatInput| self.render(&chat).is_ok_and(|text| text.contains(WORD));
        let chat = |messages: Vec<Message>| ChatInput {
            messages,
            add_generation_prompt: true,
            ..ChatInput::default()
        };
        let parts = json!({"role": "user", "content": [{"type": "text", "text": WORD}]});
        let arguments = [
            (ToolArguments::Object, json!({WORD: OTHER})),
            (ToolArguments::Text, json!(json!({WORD: OTHER}).to_string())),
        ];
        let thinking = |enable: bool| {
            let probe = ChatInput { enable_thinking: Some(enable), ..chat(vec![user()]) };
            self.render(&probe).ok()
        };
        let plain = self.render(&chat(vec![user()]));
        let bos = self.special.bos_token.as_deref().filter(|bos| !bos.is_empty());
        Capabilities {
            system: prints(chat(vec![Message::new("system", WORD), user()])),
            tools: prints(ChatInput { tools: Some(vec![tool(WORD)]), ..chat(vec![user()]) }),
            tool_arguments: arguments
                .into_iter()
                .find(|(_, arguments)| self.prints_object(arguments))
                .map(|(style, _)| style),
            parts: serde_json::from_value(parts).is_ok_and(|message| {
                // Printed as a list it would show its keys.
                let text = self.render(&chat(vec![message])).unwrap_or_default();
                text.contains(WORD) && !text.contains("'text'") && !text.contains("\"text\"")
            }),
            thinking_switch: thinking(true) != thinking(false),
            prints_bos: bos.zip(plain.ok()).is_some_and(|(bos, text)| text.starts_with(bos)),
        }
    }

    /// Whether the arguments of a tool call, in one of the forms that such a
    /// turn has, are printed as an object, not as the text of one in quotes.
    fn prints_object(&self, arguments: &Value) -> bool {
        let forms = [Some(Content::Text(String::new())), None]
            .into_iter()
            .flat_map(|content| [Some(vec![tool("probe")]), None].map(|tools| (content.clone(), tools)));
        forms.into_iter().any(|(content, tools)| {
            let messages = tool_turns(content, arguments);
            let chat = ChatInput { messages, tools, add_generation_prompt: true, ..ChatInput::default() };
            self.render(&chat).is_ok_and(|text| {
                let quoted = text.contains(&format!("\\\"{WORD}"));
                text.contains(WORD) && text.contains(OTHER) && !quoted
            })
        })
    }
}

fn tool(name: &str) -> Value {
    let properties = json!({"a": {"type": "string", "description": "a word"}});
    json!({"type": "function", "function": {
        "name": name,
        "description": "a tool",
        "parameters": {"type": "object", "properties": properties, "required": ["a"]},
    }})
}

/// A conversation with one tool call; `None` is a null content.
fn tool_turns(content: Option<Content>, arguments: &Value) -> Vec<Message> {
    let call = json!({
        "type": "function",
        "id": "call12345",
        "function": {"name": "probe", "arguments": arguments},
    });
    vec![
        Message::new("user", "Hi"),
        Message { content: Some(content), tool_calls: Some(vec![call]), ..Message::new("assistant", "") },
        Message {
            tool_call_id: Some("call12345".to_owned()),
            name: Some("probe".to_owned()),
            ..Message::new("tool", "1")
        },
        Message::new("assistant", "One."),
        Message::new("user", "Hi"),
    ]
}
