//! The text of tool calls, from its beginning: whole, not yet, or none.

use serde_json::Value;

/// A function's name and its arguments, a JSON object.
pub(super) type Call = (String, String);

/// What a text after a marker is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Read {
    /// Calls, and the bytes they take.
    Calls(Vec<Call>, usize),
    /// More text is needed.
    Unfinished,
    /// No call: why, and the bytes that were looked at.
    Wrong(&'static str, usize),
}

/// Finds the end of a JSON object or list; goes on where it stopped.
#[derive(Debug, Default)]
pub(super) struct Scanner {
    at: usize,
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl Scanner {
    /// The length of the value at the beginning of `text`, which has grown at its end since the last call.
    fn end(&mut self, text: &str) -> Option<usize> {
        for (i, byte) in text.bytes().enumerate().skip(self.at) {
            self.at = i + 1;
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' if self.in_string => self.escaped = true,
                b'"' => self.in_string = !self.in_string,
                b'{' | b'[' if !self.in_string => self.depth += 1,
                b'}' | b']' if !self.in_string => {
                    self.depth = self.depth.saturating_sub(1);
                    if self.depth == 0 {
                        return Some(i + 1);
                    }
                }
                _ => {}
            }
        }
        None
    }
}

/// Reads one JSON object, or a list of them, after blanks.
pub(super) fn json(text: &str, scanner: &mut Scanner) -> Read {
    let body = text.trim_start();
    let blanks = text.len() - body.len();
    match body.as_bytes().first() {
        None => return Read::Unfinished,
        Some(b'{' | b'[') => {}
        Some(_) => return Read::Wrong("a tool call must be a JSON object", 0),
    }
    let Some(end) = scanner.end(body) else { return Read::Unfinished };
    let calls = match serde_json::from_str(&body[..end]) {
        Ok(Value::Array(items)) if !items.is_empty() => items.iter().map(call).collect(),
        Ok(value) => call(&value).map(|call| vec![call]),
        Err(_) => Err("a tool call is not valid JSON"),
    };
    match calls {
        Ok(calls) => Read::Calls(calls, blanks + end),
        Err(reason) => Read::Wrong(reason, blanks + end),
    }
}

/// Reads `name[ARGS]{…}`, with `[CALL_ID]…` before `[ARGS]` if there is one, or what [`json`] reads.
pub(super) fn mistral(text: &str, scanner: &mut Scanner) -> Read {
    const ARGS: &str = "[ARGS]";
    let head = text.trim_start();
    let is_name = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    if !head.starts_with(is_name) {
        return json(text, scanner);
    }
    let name = &head[..head.find(|c| !is_name(c)).unwrap_or(head.len())];
    let mut rest = &head[name.len()..];
    if let Some(id) = rest.strip_prefix("[CALL_ID]") {
        rest = id.trim_start_matches(is_name);
    }
    let Some(body) = rest.strip_prefix(ARGS) else {
        let unfinished = ARGS.starts_with(rest) || "[CALL_ID]".starts_with(rest);
        return if unfinished {
            Read::Unfinished
        } else {
            Read::Wrong("a tool's name must be followed by [ARGS]", 0)
        };
    };
    let arguments = body.trim_start();
    match arguments.as_bytes().first() {
        None => return Read::Unfinished,
        Some(b'{') => {}
        Some(_) => return Read::Wrong("a tool call's arguments must be a JSON object", 0),
    }
    let Some(end) = scanner.end(arguments) else { return Read::Unfinished };
    let length = text.len() - arguments.len() + end;
    match serde_json::from_str::<Value>(&arguments[..end]) {
        Ok(value) => Read::Calls(vec![(name.to_string(), value.to_string())], length),
        Err(_) => Read::Wrong("a tool call's arguments are not valid JSON", length),
    }
}

fn call(value: &Value) -> Result<Call, &'static str> {
    let name = value.get("name").and_then(Value::as_str).filter(|name| !name.is_empty());
    let name = name.ok_or("a tool call has no name")?;
    let arguments = value.get("arguments").or_else(|| value.get("parameters"));
    let arguments = match arguments.ok_or("a tool call has no arguments")? {
        // Some models write the object as a string.
        Value::String(text) => serde_json::from_str(text).unwrap_or(Value::Null),
        other => other.clone(),
    };
    match arguments {
        Value::Object(_) => Ok((name.to_string(), arguments.to_string())),
        _ => Err("a tool call's arguments are not an object"),
    }
}
