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
}

impl FormFields {
    /// What the engine is asked for.
    pub fn constraint(&self) -> Result<Option<Constraint>> {
        let asked = [
            self.response_format.as_ref().map(|format| ("response_format", of_format(format))),
            self.json_schema
                .as_ref()
                .map(|schema| ("json_schema", checked("json_schema", Constraint::json_schema(schema)))),
            self.guided_json
                .as_ref()
                .map(|schema| ("guided_json", checked("guided_json", Constraint::json_schema(schema)))),
            self.guided_regex
                .as_ref()
                .map(|text| ("guided_regex", checked("guided_regex", Constraint::regex(text)))),
            self.guided_choice
                .as_ref()
                .map(|texts| ("guided_choice", checked("guided_choice", Constraint::choice(texts)))),
            self.guided_grammar
                .as_ref()
                .map(|text| ("guided_grammar", checked("guided_grammar", Constraint::lark(text)))),
        ];
        let mut found = None;
        for (name, constraint) in asked.into_iter().flatten() {
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
            checked(
                PARAM,
                match format.get("schema") {
                    Some(schema) => Constraint::json_schema(schema),
                    None => Constraint::json_object(),
                },
            )
        }
        Some("json_schema") => {
            known(&["type", "json_schema", "schema", "name", "strict", "description"])?;
            // Nested in chat completions, flat in responses.
            let schema = format["json_schema"].get("schema").or_else(|| format.get("schema"));
            let missing = || ApiError::field(PARAM, "response_format.json_schema.schema is missing");
            checked(PARAM, Constraint::json_schema(schema.ok_or_else(missing)?))
        }
        _ => {
            let message = "response_format.type should be `text`, `json_object` or `json_schema`";
            Err(ApiError::field(PARAM, message))
        }
    }
}

fn checked(param: &'static str, constraint: engine::Result<Constraint>) -> Result<Option<Constraint>> {
    constraint.map(Some).map_err(|error| ApiError::field(param, format!("{param}: {error}")))
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
        for refused in [
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
