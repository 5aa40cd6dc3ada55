//! JSON schemas: what is supported, and within what limits. The compiler
//! ignores keywords it does not know; here they are errors.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::productive;
use super::spec::hides_text;
use crate::{Error, Result};

/// Deepest nesting of schemas and values.
const MAX_DEPTH: usize = 48;
/// Most values in a schema, counting each key, item and number.
const MAX_NODES: usize = 20_000;
/// Longest strings in a schema together, in bytes.
const MAX_BYTES: usize = 256 << 10;
/// Largest count that a schema may ask for; the grammar grows with some of them.
const MAX_COUNT: u64 = 10_000;

/// What the value of a keyword is.
enum Keyword {
    /// A schema.
    Schema,
    /// A schema, or a list of them.
    SchemaOrList,
    /// A list of schemas.
    List,
    /// Names and schemas.
    Map,
    /// A place in the same document.
    Reference,
    /// How many of something.
    Count,
    /// Any other value that the compiler understands.
    Value,
    /// Nothing that restricts a value; left out.
    Annotation,
}

fn keyword(name: &str) -> Option<Keyword> {
    Some(match name {
        "additionalProperties" | "additionalItems" => Keyword::Schema,
        "items" => Keyword::SchemaOrList,
        "anyOf" | "oneOf" | "allOf" | "prefixItems" => Keyword::List,
        "properties" | "patternProperties" | "$defs" | "definitions" => Keyword::Map,
        "$ref" => Keyword::Reference,
        "minItems" | "maxItems" | "minLength" | "maxLength" | "minProperties" | "maxProperties" => {
            Keyword::Count
        }
        "type" | "const" | "enum" | "required" | "pattern" | "format" | "minimum" | "maximum"
        | "exclusiveMinimum" | "exclusiveMaximum" | "multipleOf" => Keyword::Value,
        "$comment" | "title" | "description" | "default" | "deprecated" | "readOnly" | "writeOnly"
        | "examples" => Keyword::Annotation,
        _ => return None,
    })
}

/// The schema without its annotations.
///
/// # Errors
/// [`Error::Constraint`] with the place: an unknown keyword, a reference that
/// leads nowhere, a schema that no finite value meets, or one too deep or too large.
pub(super) fn checked(schema: &Value) -> Result<Value> {
    let mut walk = Walk::default();
    let mut root = schema.clone();
    if let Some(object) = root.as_object_mut() {
        // They say where the document is from and in which draft it is written; with them,
        // references could lead elsewhere and keywords of other drafts would be ignored.
        object.retain(|key, _| !["$schema", "$id", "id"].contains(&key.as_str()));
    }
    let checked = walk.schema(&root, "#", 0)?;
    if let Some((place, target)) = walk.references.iter().find(|(_, target)| !walk.schemas.contains(target)) {
        return refuse(place, format!("$ref {target:?} leads to no schema of this document"));
    }
    if !productive::has_finite_value(&checked) {
        return refuse("#", "no finite value meets it".into());
    }
    Ok(checked)
}

fn refuse<T>(place: &str, what: String) -> Result<T> {
    Err(Error::Constraint(format!("schema at {place}: {what}")))
}

#[derive(Default)]
struct Walk {
    n_nodes: usize,
    n_bytes: usize,
    /// Places of schemas, as references name them.
    schemas: HashSet<String>,
    /// Where a reference stands, and what it names.
    references: Vec<(String, String)>,
}

impl Walk {
    fn schema(&mut self, value: &Value, place: &str, depth: usize) -> Result<Value> {
        self.count(value, place, depth)?;
        self.schemas.insert(place.to_string());
        let object = match value {
            Value::Bool(_) => return Ok(value.clone()),
            Value::Object(object) => object,
            _ => return refuse(place, "it must be an object or a boolean".into()),
        };
        let mut kept = Map::new();
        for (name, value) in object {
            let here = pointer(place, name);
            self.n_bytes += name.len();
            let Some(keyword) = keyword(name) else {
                return refuse(place, format!("the keyword {name:?} is not supported"));
            };
            let value = match keyword {
                Keyword::Annotation => continue,
                Keyword::Schema => self.schema(value, &here, depth + 1)?,
                Keyword::SchemaOrList if !value.is_array() => self.schema(value, &here, depth + 1)?,
                Keyword::SchemaOrList | Keyword::List => self.list(value, &here, depth + 1)?,
                Keyword::Map => self.map(value, &here, depth + 1)?,
                Keyword::Reference => self.reference(value, place)?,
                Keyword::Count => count(value, &here)?,
                Keyword::Value if name == "pattern" && value.as_str().is_some_and(hides_text) => {
                    return refuse(&here, "a group named stop is not supported".into());
                }
                Keyword::Value => {
                    self.value(value, &here, depth + 1)?;
                    value.clone()
                }
            };
            kept.insert(name.clone(), value);
        }
        Ok(Value::Object(kept))
    }

    fn list(&mut self, value: &Value, place: &str, depth: usize) -> Result<Value> {
        self.count(value, place, depth)?;
        let Some(items) = value.as_array() else {
            return refuse(place, "it must be a list of schemas".into());
        };
        let schema = |(i, item)| self.schema(item, &format!("{place}/{i}"), depth + 1);
        items.iter().enumerate().map(schema).collect::<Result<Vec<Value>>>().map(Value::Array)
    }

    fn map(&mut self, value: &Value, place: &str, depth: usize) -> Result<Value> {
        self.count(value, place, depth)?;
        let Some(entries) = value.as_object() else {
            return refuse(place, "it must be an object of schemas".into());
        };
        let mut kept = Map::new();
        for (name, value) in entries {
            self.n_bytes += name.len();
            kept.insert(name.clone(), self.schema(value, &pointer(place, name), depth + 1)?);
        }
        Ok(Value::Object(kept))
    }

    fn reference(&mut self, value: &Value, place: &str) -> Result<Value> {
        match value.as_str() {
            // The compiler takes names as they stand.
            Some(target) if target.contains(['~', '%']) => {
                refuse(place, format!("$ref {target:?} has an escape, which is not supported"))
            }
            Some(target) if target.starts_with('#') => {
                self.n_bytes += target.len();
                self.references.push((place.to_string(), target.to_string()));
                Ok(value.clone())
            }
            Some(target) => refuse(place, format!("$ref {target:?} is not a place in this document")),
            None => refuse(place, "$ref must be a string".into()),
        }
    }

    /// A value that is no schema: only its size matters.
    fn value(&mut self, value: &Value, place: &str, depth: usize) -> Result<()> {
        self.count(value, place, depth)?;
        match value {
            Value::Array(items) => items.iter().try_for_each(|item| self.value(item, place, depth + 1)),
            Value::Object(entries) => entries.iter().try_for_each(|(name, item)| {
                self.n_bytes += name.len();
                self.value(item, place, depth + 1)
            }),
            _ => Ok(()),
        }
    }

    fn count(&mut self, value: &Value, place: &str, depth: usize) -> Result<()> {
        self.n_nodes += 1;
        self.n_bytes += value.as_str().map_or(0, str::len);
        match () {
            () if depth > MAX_DEPTH => refuse(place, format!("nested more than {MAX_DEPTH} deep")),
            () if self.n_nodes > MAX_NODES => refuse(place, format!("more than {MAX_NODES} values")),
            () if self.n_bytes > MAX_BYTES => {
                refuse(place, format!("strings of more than {MAX_BYTES} bytes"))
            }
            () => Ok(()),
        }
    }
}

fn count(value: &Value, place: &str) -> Result<Value> {
    match value.as_u64() {
        Some(n) if n <= MAX_COUNT => Ok(value.clone()),
        _ => refuse(place, format!("it must be a whole number up to {MAX_COUNT}, not {value}")),
    }
}

/// One step further along a JSON pointer (RFC 6901).
fn pointer(place: &str, name: &str) -> String {
    format!("{place}/{}", name.replace('~', "~0").replace('/', "~1"))
}
