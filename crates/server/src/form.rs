//! The form that a reply must have: OpenAI's `response_format`, and what vLLM's
//! and llama.cpp's servers added. Whatever is not understood is refused.

use engine::Constraint;
use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::error::{ApiError, Result};

/// The fields that ask for a form; one of them at most.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct FormFields {
    /// `{"type": "text"}`, `{"type": "json_object"}`, or
    /// `{"type": "json_schema", "json_schema": {"name": …, "schema": {…}, "strict": true}}`.
    #[schema(value_type = Option<Value>)]
    pub response_format: Option<Value>,
    /// A JSON schema.
    #[schema(value_type = Option<Value>)]
    pub json_schema: Option<Value>,
    /// A regular expression that the whole reply matches.
    pub guided_regex: Option<String>,
    /// The reply is one of these.
    pub guided_choice: Option<Vec<String>>,
    /// A JSON schema.
    #[schema(value_type = Option<Value>)]
    pub guided_json: Option<Value>,
    /// A grammar in the Lark notation of llguidance.
    pub guided_grammar: Option<String>,
    /// The same, as vLLM's server takes it now.
    pub structured_outputs: Option<StructuredOutputs>,
    /// A grammar in the Lark notation of llguidance, which llama.cpp's server takes when it begins with
    /// `%llguidance`; its own notation (GBNF) is not supported.
    pub grammar: Option<String>,
}

/// vLLM's `structured_outputs`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct StructuredOutputs {
    /// A JSON schema.
    #[schema(value_type = Option<Value>)]
    json: Option<Value>,
    /// Any JSON object.
    json_object: Option<bool>,
    /// A regular expression that the whole reply matches.
    regex: Option<String>,
    /// The reply is one of these.
    choice: Option<Vec<String>>,
    /// A grammar in the Lark notation of llguidance.
    grammar: Option<String>,
}

/// What a field asks for, if it asks for anything.
type Asked = (&'static str, Result<Option<Constraint>>);

impl FormFields {
    /// What the engine is asked for.
    pub fn constraint(&self) -> Result<Option<Constraint>> {
        let own = [
            self.response_format.as_ref().map(|format| ("response_format", of_format(format))),
            self.json_schema.as_ref().map(|schema| of_schema("json_schema", schema)),
            self.guided_json.as_ref().map(|schema| of_schema("guided_json", schema)),
            self.guided_regex.as_ref().map(|text| checked("guided_regex", Constraint::regex(text))),
            self.guided_choice.as_ref().map(|texts| checked("guided_choice", Constraint::choice(texts))),
            self.guided_grammar.as_ref().map(|text| checked("guided_grammar", Constraint::lark(text))),
            self.grammar.as_ref().map(|text| of_grammar(text)),
        ];
        let vllm = self.structured_outputs.as_ref().map(StructuredOutputs::asked).into_iter().flatten();
        let mut found = None;
        for (name, constraint) in own.into_iter().flatten().chain(vllm) {
            let Some(constraint) = constraint? else { continue };
            if let Some((other, _)) = found.replace((name, constraint)) {
                return Err(ApiError::field(
                    name,
                    format!("{name} and {other} both ask for a form; give one"),
                ));
            }
        }
        Ok(found.map(|(_, constraint)| constraint))
    }
}

impl StructuredOutputs {
    fn asked(&self) -> impl Iterator<Item = Asked> {
        let any = self.json_object.filter(|asked| *asked);
        let asked = [
            self.json.as_ref().map(|schema| of_schema("structured_outputs.json", schema)),
            any.map(|_| checked("structured_outputs.json_object", Constraint::json_object())),
            self.regex.as_ref().map(|text| checked("structured_outputs.regex", Constraint::regex(text))),
            self.choice.as_ref().map(|texts| checked("structured_outputs.choice", Constraint::choice(texts))),
            self.grammar.as_ref().map(|text| checked("structured_outputs.grammar", Constraint::lark(text))),
        ];
        asked.into_iter().flatten()
    }
}

/// Anthropic's `format`: `{"type": "json_schema", "schema": {…}}`.
pub(crate) fn of_anthropic(param: &'static str, format: &Value) -> Result<Constraint> {
    let schema = format
        .as_object()
        .filter(|object| object.len() == 2 && object.get("type").is_some_and(|kind| kind == "json_schema"));
    let Some(schema) = schema.and_then(|object| object.get("schema")) else {
        let message = format!("{param} should be {{\"type\": \"json_schema\", \"schema\": …}}");
        return Err(ApiError::field(param, message));
    };
    Constraint::json_schema(schema).map_err(|error| ApiError::field(param, format!("{param}: {error}")))
}

/// Ollama's `format`: `"json"`, a JSON schema, or nothing.
pub(crate) fn of_ollama(format: Option<&Value>) -> Result<Option<Constraint>> {
    const PARAM: &str = "format";
    match format {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.is_empty() => Ok(None),
        Some(Value::String(text)) if text == "json" => checked(PARAM, Constraint::json_object()).1,
        Some(schema @ Value::Object(_)) => of_schema(PARAM, schema).1,
        Some(_) => Err(ApiError::field(PARAM, "format should be `json` or a JSON schema")),
    }
}

/// A schema, or its text.
fn of_schema(param: &'static str, schema: &Value) -> Asked {
    let parsed = match schema {
        Value::String(text) => serde_json::from_str(text).map(std::borrow::Cow::Owned),
        schema => Ok(std::borrow::Cow::Borrowed(schema)),
    };
    match parsed {
        Ok(schema) => checked(param, Constraint::json_schema(&schema)),
        Err(error) => (param, Err(ApiError::field(param, format!("{param} is not JSON: {error}")))),
    }
}

/// llama.cpp's `grammar`: with a first line `%llguidance …`, it is in the notation that we know.
fn of_grammar(text: &str) -> Asked {
    const PARAM: &str = "grammar";
    if text.is_empty() {
        return (PARAM, Ok(None));
    }
    match text.strip_prefix("%llguidance").and_then(|rest| rest.split_once('\n')) {
        // Options of the engine, which are ours to choose.
        Some((options, lark)) if matches!(options.trim(), "" | "{}") => {
            checked(PARAM, Constraint::lark(lark))
        }
        _ => {
            let what =
                "a grammar that does not begin with a line `%llguidance {}` and go on in Lark notation";
            (PARAM, Err(ApiError::unsupported(PARAM, what)))
        }
    }
}

/// `response_format`; `None` for text of any form.
fn of_format(format: &Value) -> Result<Option<Constraint>> {
    const PARAM: &str = "response_format";
    let known = |fields: &[&str]| {
        let object = format.as_object();
        match object.and_then(|object| object.keys().find(|key| !fields.contains(&key.as_str()))) {
            Some(key) => Err(ApiError::field(PARAM, format!("response_format.{key} is not known"))),
            None => Ok(()),
        }
    };
    match format["type"].as_str() {
        Some("text") => {
            known(&["type"])?;
            Ok(None)
        }
        // With a schema as llama.cpp's server takes it.
        Some("json_object") => {
            known(&["type", "schema"])?;
            match format.get("schema") {
                Some(schema) => of_schema(PARAM, schema).1,
                None => checked(PARAM, Constraint::json_object()).1,
            }
        }
        Some("json_schema") => {
            known(&["type", "json_schema", "schema", "name", "strict", "description"])?;
            // Nested in chat completions, flat in responses.
            let schema = format["json_schema"].get("schema").or_else(|| format.get("schema"));
            let missing = || ApiError::field(PARAM, "response_format.json_schema.schema is missing");
            checked(PARAM, Constraint::json_schema(schema.ok_or_else(missing)?)).1
        }
        _ => {
            let message = "response_format.type should be `text`, `json_object` or `json_schema`";
            Err(ApiError::field(PARAM, message))
        }
    }
}

fn checked(param: &'static str, constraint: engine::Result<Constraint>) -> Asked {
    (param, constraint.map(Some).map_err(|error| ApiError::field(param, format!("{param}: {error}"))))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn constraint(fields: Value) -> std::result::Result<bool, String> {
        let fields: FormFields = serde_json::from_value(fields).map_err(|error| error.to_string())?;
        fields.constraint().map(|found| found.is_some()).map_err(|error| error.message)
    }

    #[test]
    fn forms_are_understood_or_refused() {
        assert_eq!(constraint(json!({})), Ok(false));
        assert_eq!(constraint(json!({"response_format": {"type": "text"}})), Ok(false));
        assert_eq!(constraint(json!({"response_format": {"type": "json_object"}})), Ok(true));
        let schema = json!({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]});
        let nested =
            json!({"type": "json_schema", "json_schema": {"name": "x", "strict": true, "schema": schema}});
        assert_eq!(constraint(json!({"response_format": nested})), Ok(true));
        assert_eq!(constraint(json!({"guided_choice": ["yes", "no"]})), Ok(true));
        assert_eq!(
            constraint(json!({"guided_regex": "[0-9]+", "response_format": {"type": "text"}})),
            Ok(true)
        );
        for understood in [
            json!({"guided_json": "{\"type\": \"integer\"}"}),
            json!({"structured_outputs": {"choice": ["a", "b"]}}),
            json!({"structured_outputs": {"json_object": true}}),
            json!({"grammar": "%llguidance {}\nstart: \"a\" | \"b\""}),
        ] {
            assert_eq!(constraint(understood.clone()), Ok(true), "{understood}");
        }
        for refused in [
            json!({"guided_json": "{"}),
            json!({"grammar": "root ::= \"a\""}),
            json!({"structured_outputs": {"structural_tag": "x"}}),
            json!({"structured_outputs": {"regex": "a", "choice": ["a"]}}),
            json!({"response_format": {"type": "xml"}}),
            json!({"response_format": {"type": "json_schema"}}),
            json!({"response_format": {"type": "text", "more": 1}}),
            json!({"guided_regex": "(", }),
            json!({"guided_regex": "a", "guided_choice": ["b"]}),
            json!({"guided_json": {"type": "object", "unheardOf": 1}}),
        ] {
            assert!(constraint(refused.clone()).is_err(), "{refused}");
        }
    }
}
