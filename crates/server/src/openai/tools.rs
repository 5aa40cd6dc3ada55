//! Tools as OpenAI's clients describe them.

use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::error::{ApiError, Result};
use crate::fields::Ignored;
use crate::tools::{Choice, Tool, Tools};

/// A function that the model may call, as chats have it.
#[derive(Debug, Clone, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChatTool {
    /// Always `function`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The function.
    pub function: Option<Function>,
}

/// A function.
#[derive(Debug, Clone, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Function {
    /// Its name.
    pub name: String,
    /// What it does, for the model to read.
    pub description: Option<String>,
    /// JSON schema of its arguments.
    #[schema(value_type = Option<Value>)]
    pub parameters: Option<Value>,
    /// Arguments must be as the schema says.
    pub strict: Option<bool>,
}

/// A function that the model may call, as responses have it.
#[derive(Debug, Clone, PartialEq, Deserialize, ToSchema)]
pub(crate) struct ResponseTool {
    /// Always `function`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The function's name.
    pub name: Option<String>,
    /// What it does.
    pub description: Option<String>,
    /// JSON schema of its arguments.
    #[schema(value_type = Option<Value>)]
    pub parameters: Option<Value>,
    /// Arguments must be as the schema says.
    pub strict: Option<bool>,
    #[serde(rename = "defer_loading")]
    _defer_loading: Option<Ignored>,
}

impl From<Function> for Tool {
    fn from(function: Function) -> Self {
        let Function { name, description, parameters, strict } = function;
        Self { name, description, parameters, strict: strict.unwrap_or(false) }
    }
}

/// The tools of a chat.
///
/// # Errors
/// 400 for any tool but functions, and what [`Tools::new`] refuses.
pub(crate) fn of_chat(
    tools: Option<Vec<ChatTool>>,
    choice: Option<&Value>,
    parallel: Option<bool>,
) -> Result<Tools> {
    let mut list = Vec::new();
    for (i, tool) in tools.into_iter().flatten().enumerate() {
        match (tool.kind.as_str(), tool.function) {
            ("function", Some(function)) => list.push(function.into()),
            ("function", None) => {
                let param = format!("tools[{i}].function");
                return Err(ApiError::field(param.clone(), format!("{param} is missing")));
            }
            _ => return Err(ApiError::unsupported(&format!("tools[{i}]"), "any tool but functions")),
        }
    }
    chosen(list, choice, parallel)
}

/// The tools of a response.
///
/// # Errors
/// As [`of_chat`].
pub(crate) fn of_response(
    tools: Option<Vec<ResponseTool>>,
    choice: Option<&Value>,
    parallel: Option<bool>,
) -> Result<Tools> {
    let mut list = Vec::new();
    for (i, tool) in tools.into_iter().flatten().enumerate() {
        let ("function", Some(name)) = (tool.kind.as_str(), tool.name) else {
            return Err(ApiError::unsupported(&format!("tools[{i}]"), "any tool but functions with a name"));
        };
        let ResponseTool { description, parameters, strict, .. } = tool;
        // What is not said is not asked for, though OpenAI makes of it a yes.
        list.push(Tool { name, description, parameters, strict: strict.unwrap_or(false) });
    }
    chosen(list, choice, parallel)
}

fn chosen(mut list: Vec<Tool>, choice: Option<&Value>, parallel: Option<bool>) -> Result<Tools> {
    let choice = match choice {
        None | Some(Value::Null) => Choice::Auto,
        Some(Value::String(word)) => word_of(word)?,
        Some(object) => match object["type"].as_str() {
            Some("function") => Choice::Named(name_of(object).ok_or_else(unknown)?.into()),
            Some("allowed_tools") => {
                // Nested in chats, flat in responses.
                let allowed = object.get("allowed_tools").filter(|a| a.is_object()).unwrap_or(object);
                let tools = allowed["tools"].as_array().ok_or_else(unknown)?;
                let names: Vec<_> = tools.iter().map(name_of).collect::<Option<_>>().ok_or_else(unknown)?;
                list.retain(|tool| names.contains(&tool.name.as_str()));
                word_of(allowed["mode"].as_str().unwrap_or("auto"))?
            }
            _ => return Err(unknown()),
        },
    };
    Tools::new(list, choice, parallel.unwrap_or(true))
}

fn word_of(word: &str) -> Result<Choice> {
    match word {
        "none" => Ok(Choice::Never),
        "auto" => Ok(Choice::Auto),
        "required" => Ok(Choice::Required),
        _ => Err(unknown()),
    }
}

fn name_of(object: &Value) -> Option<&str> {
    object["function"]["name"].as_str().or_else(|| object["name"].as_str())
}

fn unknown() -> ApiError {
    let message = "tool_choice should be `none`, `auto`, `required`, \
                   {\"type\": \"function\", \"function\": {\"name\": …}} or allowed_tools";
    ApiError::field("tool_choice", message)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(tools: Value, choice: Value) -> Result<Tools> {
        of_chat(serde_json::from_value(tools).expect("tools as clients send them"), Some(&choice), None)
    }

    #[test]
    fn choices_are_understood_or_refused() {
        let f = |name: &str| json!({"type": "function", "function": {"name": name, "strict": true}});
        let two = json!([f("a"), f("b")]);
        let any = |choice: Value| of(two.clone(), choice).map(|tools| tools.any()).map_err(|e| e.message);
        assert_eq!(any(json!("auto")), Ok(true));
        assert_eq!(any(json!("none")), Ok(false));
        assert_eq!(any(json!(null)), Ok(true));
        assert_eq!(any(json!({"type": "function", "function": {"name": "b"}})), Ok(true));
        let only = |name| json!({"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [f(name)]}});
        assert_eq!(any(only("b")), Ok(true));
        for refused in
            [json!("maybe"), json!(3), json!({"type": "function"}), only("c"), json!({"type": "custom"})]
        {
            assert!(any(refused.clone()).is_err(), "{refused}");
        }
        assert!(of(json!([{"type": "web_search"}]), json!("auto")).is_err());
        assert!(of(json!([{"type": "function"}]), json!("auto")).is_err());
    }
}
