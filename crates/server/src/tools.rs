//! What a request lets the model call, whatever API it came by.

use engine::{CallGrammar, Callable, Constraint};
use serde_json::{Value, json};

use crate::error::{ApiError, Result};
use crate::reading::Reading;
use crate::registry::Model;

/// Most tools of a request.
const MAX_TOOLS: usize = 128;

/// A function that the caller can run.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Tool {
    pub name: String,
    pub description: Option<String>,
    /// JSON schema of its arguments; `None`: any object.
    pub parameters: Option<Value>,
    /// Arguments must be as the schema says.
    pub strict: bool,
}

/// Whether the model calls something.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Choice {
    Never,
    /// As it likes.
    #[default]
    Auto,
    Required,
    /// This one.
    Named(String),
}

/// What the model may call.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Tools {
    list: Vec<Tool>,
    choice: Choice,
    /// More than one call may come in a reply.
    parallel: bool,
}

impl Default for Tools {
    fn default() -> Self {
        Self { list: Vec::new(), choice: Choice::Auto, parallel: true }
    }
}

impl Tools {
    /// Checks what belongs together.
    ///
    /// # Errors
    /// 400 for a tool without a name, one named twice, and a choice of what is not there.
    pub fn new(list: Vec<Tool>, choice: Choice, parallel: bool) -> Result<Self> {
        if list.len() > MAX_TOOLS {
            let n = list.len();
            return Err(ApiError::field("tools", format!("{n} tools; at most {MAX_TOOLS} are served")));
        }
        for (i, tool) in list.iter().enumerate() {
            let param = format!("tools[{i}]");
            if tool.name.is_empty() {
                return Err(ApiError::field(param.clone(), format!("{param} has no name")));
            }
            if list[..i].iter().any(|other| other.name == tool.name) {
                let message = format!("{param}: there is a tool called {} already", tool.name);
                return Err(ApiError::field(param, message));
            }
        }
        match &choice {
            Choice::Named(name) if !list.iter().any(|tool| tool.name == *name) => {
                Err(ApiError::field("tool_choice", format!("tool_choice: there is no tool called {name}")))
            }
            Choice::Required if list.is_empty() => {
                Err(ApiError::field("tool_choice", "tool_choice asks for a call, but there are no tools"))
            }
            _ => Ok(Self { list, choice, parallel }),
        }
    }

    /// Whether the model may call anything.
    pub fn any(&self) -> bool {
        !self.list.is_empty() && self.choice != Choice::Never
    }

    /// As templates take them; `None` when nothing may be called.
    pub fn for_template(&self) -> Option<Vec<Value>> {
        self.any().then(|| self.list.iter().map(Tool::for_template).collect())
    }

    /// What replies are held to: calls if they must come, and arguments of
    /// `strict` tools. Other tools' schemas are kept where calls must come and
    /// the schema is one that can be followed.
    ///
    /// # Errors
    /// 400 when a strict schema cannot be followed.
    pub fn constraint(&self, model: &Model, reading: &Reading) -> Result<Option<Constraint>> {
        let required = matches!(self.choice, Choice::Required | Choice::Named(_));
        let Some(format) = reading.format.tools.filter(|_| self.any()) else { return Ok(None) };
        if !required && !self.list.iter().any(|tool| tool.strict) {
            return Ok(None);
        }
        let named = |tool: &&Tool| match &self.choice {
            Choice::Named(name) => tool.name == *name,
            _ => true,
        };
        let callable = |tool: &Tool| {
            let can = |schema: &Value| Constraint::json_schema(schema).is_ok();
            let schema = tool.parameters.clone().filter(|schema| tool.strict || (required && can(schema)));
            Callable { name: tool.name.clone(), arguments: schema }
        };
        let grammar = CallGrammar {
            format,
            tools: self.list.iter().filter(named).map(callable).collect(),
            required,
            // Models that never learned to call do not know when to stop.
            parallel: self.parallel && !matches!(self.choice, Choice::Named(_)) && model.knows_tools(),
            reasoning: reading.format.reasoning,
            in_reasoning: reading.in_reasoning,
        };
        let constraint = Constraint::tool_calls(&grammar, &model.tokenizer);
        constraint.map(Some).map_err(|error| ApiError::field("tools", format!("tools: {error}")))
    }
}

impl Tool {
    fn for_template(&self) -> Value {
        let any = || json!({"type": "object", "properties": {}});
        json!({"type": "function", "function": {
            "name": self.name,
            "description": self.description.as_deref().unwrap_or_default(),
            "parameters": self.parameters.clone().unwrap_or_else(any),
        }})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tool(name: &str) -> Tool {
        Tool { name: name.into(), description: None, parameters: None, strict: false }
    }

    #[test]
    fn what_does_not_belong_together_is_refused() {
        let refused = |list: Vec<Tool>, choice| Tools::new(list, choice, true).err().map(|e| e.message);
        assert_eq!(refused(vec![tool("a"), tool("b")], Choice::Named("b".into())), None);
        assert_eq!(refused(vec![], Choice::Never), None);
        for (list, choice, reason) in [
            (vec![tool("")], Choice::Auto, "no name"),
            (vec![tool("a"), tool("a")], Choice::Auto, "already"),
            (vec![tool("a")], Choice::Named("b".into()), "called b"),
            (vec![], Choice::Required, "no tools"),
            (vec![tool("a"); MAX_TOOLS + 1], Choice::Auto, "at most"),
        ] {
            let message = refused(list, choice).unwrap_or_default();
            assert!(message.contains(reason), "{message}");
        }
    }

    #[test]
    fn templates_see_tools_only_where_one_may_be_called() {
        let tools = |choice| Tools::new(vec![tool("a")], choice, true).expect("they fit");
        assert_eq!(tools(Choice::Never).for_template(), None);
        let shown = tools(Choice::Auto).for_template().expect("one may be called");
        assert_eq!(shown[0]["function"]["name"], "a");
        assert_eq!(shown[0]["function"]["parameters"]["type"], "object");
    }
}
