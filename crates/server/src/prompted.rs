//! Tools for models whose chat template knows none: they are explained in the
//! system message, and calls and their results become text of ordinary turns.

use engine::ToolFormat;
use serde_json::Value;
use tokenizer::template::{Content, Message};

/// `messages` without anything that only a template with tools can show.
/// `system`: the template shows a system message.
pub(crate) fn rewritten(
    messages: Vec<Message>,
    tools: Option<&[Value]>,
    format: ToolFormat,
    system: bool,
) -> Vec<Message> {
    let mut turns: Vec<Message> = Vec::new();
    for message in messages {
        let text = match message.role.as_str() {
            "tool" => format!("<tool_response>\n{}\n</tool_response>", text(&message)),
            _ => said(&message, format),
        };
        match turns.last_mut() {
            // Many templates want user and assistant to take turns.
            Some(last) if message.role == "tool" && last.role == "user" => append(last, &text),
            _ if message.role == "tool" => turns.push(Message::new("user", text)),
            _ => {
                let content = Some(Some(Content::Text(text)));
                turns.push(Message { content, tool_calls: None, tool_call_id: None, ..message });
            }
        }
    }
    if let Some(tools) = tools {
        explain(&mut turns, &explanation(tools, format), system);
    }
    turns
}

/// Puts the explanation where the model reads it first.
fn explain(turns: &mut Vec<Message>, explanation: &str, system: bool) {
    match turns.first_mut() {
        Some(first) if first.role == "system" => append(first, &format!("\n{explanation}")),
        Some(first) if !system && first.role == "user" => {
            let text = format!("{explanation}\n\n{}", text(first));
            first.content = Some(Some(Content::Text(text)));
        }
        _ => turns.insert(0, Message::new(if system { "system" } else { "user" }, explanation)),
    }
}

fn explanation(tools: &[Value], format: ToolFormat) -> String {
    let list: Vec<String> = tools.iter().map(|tool| tool["function"].to_string()).collect();
    let example = written(r#"{"name": "FUNCTION", "arguments": {"ARGUMENT": "VALUE"}}"#, format);
    format!(
        "You can call these functions; each line describes one, its arguments as a JSON schema:\n{}\n\
         To call one, reply with nothing but this, filled in:\n{example}\n\
         You are then told what it returned. If no function helps, answer as usual.",
        list.join("\n"),
    )
}

/// What a turn says, its calls as the model would have written them.
fn said(message: &Message, format: ToolFormat) -> String {
    let mut parts = vec![text(message)];
    parts.retain(|part| !part.is_empty());
    for call in message.tool_calls.iter().flatten() {
        let function = &call["function"];
        let arguments = match &function["arguments"] {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let json = format!(r#"{{"name": {}, "arguments": {arguments}}}"#, function["name"]);
        parts.push(written(&json, format));
    }
    parts.join("\n")
}

/// A call as the model writes it.
fn written(json: &str, format: ToolFormat) -> String {
    match format {
        ToolFormat::Llama3 => json.replacen("\"arguments\"", "\"parameters\"", 1),
        ToolFormat::Mistral | ToolFormat::MistralArgs => format!("[TOOL_CALLS][{json}]"),
        ToolFormat::Hermes | ToolFormat::Gemma => format!("{}{json}{}", format.opening(), format.closing()),
    }
}

fn text(message: &Message) -> String {
    match &message.content {
        Some(Some(Content::Text(text))) => text.clone(),
        Some(Some(Content::Parts(parts))) => {
            parts.iter().filter_map(|part| part["text"].as_str()).collect::<Vec<_>>().join("\n")
        }
        _ => String::new(),
    }
}

fn append(message: &mut Message, more: &str) {
    let text = format!("{}\n{more}", text(message));
    message.content = Some(Some(Content::Text(text)));
}

#[cfg(test)]
mod tests {
    use engine::{ReplyFormat, ReplyParser};
    use serde_json::json;

    use super::*;

    fn talk() -> Vec<Message> {
        let call = json!({"function": {"name": "time", "arguments": "{\"zone\": \"UTC\"}"}});
        vec![
            Message::new("user", "When?"),
            Message { content: Some(None), tool_calls: Some(vec![call]), ..Message::new("assistant", "") },
            Message { tool_call_id: Some("1".into()), ..Message::new("tool", "noon") },
            Message::new("tool", "or so"),
        ]
    }

    #[test]
    fn calls_and_results_become_turns_that_alternate() {
        let tools = [json!({"type": "function", "function": {"name": "time"}})];
        for format in [ToolFormat::Hermes, ToolFormat::Gemma, ToolFormat::Llama3, ToolFormat::Mistral] {
            let turns = rewritten(talk(), Some(&tools), format, true);
            let roles: Vec<&str> = turns.iter().map(|turn| turn.role.as_str()).collect();
            assert_eq!(roles, ["system", "user", "assistant", "user"]);
            assert!(text(&turns[0]).contains(r#"{"name":"time"}"#));
            assert!(text(&turns[3]).contains("noon") && text(&turns[3]).contains("or so"));
            assert!(turns.iter().all(|turn| turn.tool_calls.is_none() && turn.tool_call_id.is_none()));
            // The call reads as one that the model wrote.
            let reply = ReplyFormat { tools: Some(format), ..ReplyFormat::default() };
            let mut parser = ReplyParser::new(&reply, true, false);
            parser.push(&text(&turns[2]));
            parser.finish();
            assert_eq!(parser.n_calls(), 1, "{format:?} {}", text(&turns[2]));
        }
    }

    #[test]
    fn without_a_system_turn_the_first_question_explains() {
        let tools = [json!({"type": "function", "function": {"name": "time"}})];
        let turns = rewritten(talk(), Some(&tools), ToolFormat::Hermes, false);
        assert_eq!(turns[0].role, "user");
        assert!(text(&turns[0]).contains("<tool_call>") && text(&turns[0]).ends_with("When?"));
        assert_eq!(rewritten(vec![Message::new("user", "Hi")], None, ToolFormat::Hermes, true).len(), 1);
    }
}
