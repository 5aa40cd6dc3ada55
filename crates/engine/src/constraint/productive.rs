//! Whether a schema has a finite value at all: one that refers to itself
//! without a way out would keep a model writing for ever.

use std::collections::HashSet;

use serde_json::Value;

/// Whether some finite value may meet `schema`, as far as references, required
/// properties and `false` decide. The schema has been checked for its form.
pub(super) fn has_finite_value(root: &Value) -> bool {
    let mut targets = HashSet::new();
    references(root, &mut targets);
    // The least set of references that follow from those found before.
    let mut finite = HashSet::new();
    loop {
        let found: Vec<&str> = targets
            .iter()
            .copied()
            .filter(|target| !finite.contains(target))
            .filter(|target| root.pointer(&target[1..]).is_some_and(|schema| is_finite(schema, &finite)))
            .collect();
        if found.is_empty() {
            return is_finite(root, &finite);
        }
        finite.extend(found);
    }
}

fn references<'a>(value: &'a Value, found: &mut HashSet<&'a str>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        Value::Object(entries) => {
            let target = entries.get("$ref").and_then(Value::as_str).filter(|target| target.starts_with('#'));
            found.extend(target);
            entries.values().for_each(|value| references(value, found));
        }
        _ => {}
    }
}

fn is_finite(schema: &Value, finite: &HashSet<&str>) -> bool {
    let Some(object) = schema.as_object() else { return schema.as_bool() != Some(false) };
    let list = |name: &str| object.get(name).and_then(Value::as_array);
    let reference = object.get("$ref").and_then(Value::as_str).is_none_or(|target| finite.contains(target));
    let any = |name: &str| list(name).is_none_or(|options| options.iter().any(|s| is_finite(s, finite)));
    let all = |name: &str| list(name).is_none_or(|parts| parts.iter().all(|s| is_finite(s, finite)));
    reference && any("anyOf") && any("oneOf") && all("allOf") && some_type(schema, finite)
}

/// Whether one of the types that the schema names has a finite value.
fn some_type(schema: &Value, finite: &HashSet<&str>) -> bool {
    let ok = |name: &Value| match name.as_str() {
        Some("object") => object(schema, finite),
        Some("array") => array(schema, finite),
        _ => true,
    };
    match &schema["type"] {
        Value::Array(names) => names.iter().any(ok),
        name => ok(name),
    }
}

fn object(schema: &Value, finite: &HashSet<&str>) -> bool {
    let required = schema["required"].as_array().map_or(&[][..], Vec::as_slice);
    let property = |name: &str| schema["properties"].get(name).is_none_or(|s| is_finite(s, finite));
    required.iter().filter_map(Value::as_str).all(property)
}

fn array(schema: &Value, finite: &HashSet<&str>) -> bool {
    let n = schema["minItems"].as_u64().unwrap_or(0) as usize;
    let list = |name: &str| schema[name].as_array().map_or(&[][..], Vec::as_slice);
    let first = if schema["items"].is_array() { list("items") } else { list("prefixItems") };
    let rest = if schema["items"].is_array() { &schema["additionalItems"] } else { &schema["items"] };
    first.iter().take(n).all(|s| is_finite(s, finite)) && (n <= first.len() || is_finite(rest, finite))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn finds_a_way_out_or_says_there_is_none() {
        let node = |next: Value, required: Value| json!({ "type": "object", "properties": { "next": next }, "required": required });
        let this = json!({ "$ref": "#" });
        let good = [
            json!(true),
            json!({}),
            node(this.clone(), json!([])),
            node(json!({ "anyOf": [this, { "type": "null" }] }), json!(["next"])),
            json!({ "type": "array", "items": this }),
            json!({ "type": ["array", "null"], "items": this, "minItems": 1 }),
            json!({ "$defs": { "a": { "$ref": "#/$defs/b" }, "b": { "type": "null" } }, "$ref": "#/$defs/a" }),
        ];
        for schema in good {
            assert!(has_finite_value(&schema), "{schema}");
        }
        let bad = [
            json!(false),
            this.clone(),
            node(this.clone(), json!(["next"])),
            json!({ "type": "array", "items": this, "minItems": 1 }),
            json!({ "type": "array", "prefixItems": [false], "minItems": 1 }),
            json!({ "anyOf": [this, { "allOf": [this, true] }] }),
            json!({ "$defs": { "a": { "$ref": "#/$defs/b" }, "b": { "$ref": "#/$defs/a" } }, "$ref": "#/$defs/a" }),
        ];
        for schema in bad {
            assert!(!has_finite_value(&schema), "{schema}");
        }
    }
}
