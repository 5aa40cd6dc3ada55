//! The `tojson` filter, as transformers sets it up: Python's `json.dumps`
//! with `ensure_ascii` off and no HTML escapes.

use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Error, ErrorKind, State};

/// Deeper values are an error: no tool schema is that deep, and the walk
/// recurses.
const MAX_DEPTH: usize = 200;

/// `tojson(value, ensure_ascii, indent, separators, sort_keys)`; the options
/// by place or by name, as in Python.
pub fn tojson(
    state: &State,
    value: &Value,
    ensure_ascii: Option<bool>,
    indent: Option<Value>,
    kwargs: Kwargs,
) -> Result<Value, Error> {
    let ensure_ascii = ensure_ascii.or(kwargs.get("ensure_ascii")?).unwrap_or(false);
    let indent = match indent.or(kwargs.get("indent")?) {
        Some(v) if !v.is_none() => Some(match v.as_str() {
            Some(s) => s.to_owned(),
            None => {
                let n = i64::try_from(v)?.max(0);
                state.consume_fuel(n.unsigned_abs())?;
                " ".repeat(usize::try_from(n).unwrap_or(0))
            }
        }),
        _ => None,
    };
    let separators: Option<Vec<String>> = kwargs.get("separators")?;
    let sort_keys = kwargs.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    kwargs.assert_all_used()?;
    let (comma, colon) = match separators.as_deref() {
        Some([comma, colon]) => (comma.clone(), colon.clone()),
        Some(_) => return Err(invalid("separators must be a pair of strings")),
        None if indent.is_some() => (",".to_owned(), ": ".to_owned()),
        None => (", ".to_owned(), ": ".to_owned()),
    };
    let style = Style { ensure_ascii, indent, comma, colon, sort_keys };
    let mut writer = Writer { state, style, out: String::new(), charged: 0, depth: 0 };
    writer.value(value)?;
    Ok(Value::from(writer.out))
}

struct Style {
    ensure_ascii: bool,
    indent: Option<String>,
    comma: String,
    colon: String,
    sort_keys: bool,
}

struct Writer<'a, 'b, 'c> {
    state: &'a State<'b, 'c>,
    style: Style,
    out: String,
    /// Bytes of `out` already paid for.
    charged: usize,
    depth: usize,
}

impl Writer<'_, '_, '_> {
    /// Pays for what was written, so that the text cannot outgrow the fuel.
    fn charge(&mut self) -> Result<(), Error> {
        let bytes = self.out.len() - self.charged;
        self.charged = self.out.len();
        self.state.consume_fuel(1 + bytes as u64 / 64)
    }

    fn value(&mut self, value: &Value) -> Result<(), Error> {
        self.charge()?;
        if let Some(s) = value.as_str() {
            self.string(s);
            return Ok(());
        }
        match value.kind() {
            ValueKind::None | ValueKind::Bool | ValueKind::Number => self.out.push_str(&scalar(value)?),
            ValueKind::Seq => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.container('[', ']', items.len(), |w, i| w.value(&items[i]))?;
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.style.sort_keys {
                    keys.sort();
                }
                self.container('{', '}', keys.len(), |w, i| {
                    let key = match keys[i].as_str() {
                        Some(s) => s.to_owned(),
                        None => scalar(&keys[i])?,
                    };
                    w.string(&key);
                    let colon = w.style.colon.clone();
                    w.out.push_str(&colon);
                    w.value(&value.get_item(&keys[i])?)
                })?;
            }
            kind => return Err(invalid(&format!("a value of type {kind} is not JSON serializable"))),
        }
        Ok(())
    }

    fn container(
        &mut self,
        open: char,
        close: char,
        len: usize,
        mut item: impl FnMut(&mut Self, usize) -> Result<(), Error>,
    ) -> Result<(), Error> {
        if self.depth == MAX_DEPTH {
            return Err(invalid("a value is nested too deep for JSON"));
        }
        self.out.push(open);
        self.depth += 1;
        for i in 0..len {
            if i > 0 {
                let comma = self.style.comma.clone();
                self.out.push_str(&comma);
            }
            self.line();
            item(self, i)?;
        }
        self.depth -= 1;
        if len > 0 {
            self.line();
        }
        self.out.push(close);
        Ok(())
    }

    fn line(&mut self) {
        if let Some(indent) = &self.style.indent {
            self.out.push('\n');
            for _ in 0..self.depth {
                self.out.push_str(indent);
            }
        }
    }

    fn string(&mut self, s: &str) {
        self.out.push('"');
        for c in s.chars() {
            match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                c if c < ' ' || self.style.ensure_ascii && c > '~' => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        self.out.push_str(&format!("\\u{unit:04x}"));
                    }
                }
                c => self.out.push(c),
            }
        }
        self.out.push('"');
    }
}

/// The text of null, a boolean or a number.
fn scalar(value: &Value) -> Result<String, Error> {
    match value.kind() {
        ValueKind::None => Ok("null".to_owned()),
        ValueKind::Bool => Ok(if value.is_true() { "true" } else { "false" }.to_owned()),
        ValueKind::Number if value.is_integer() => Ok(value.to_string()),
        ValueKind::Number => Ok(float(f64::try_from(value.clone())?)),
        kind => Err(invalid(&format!("a value of type {kind} cannot be a JSON key"))),
    }
}

/// A float as Python's `repr` prints it: the fewest digits that read back
/// equal, in scientific notation outside 1e-4 to 1e16.
pub fn float(x: f64) -> String {
    if x.is_nan() {
        return "NaN".to_owned();
    }
    if x.is_infinite() {
        return if x > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    let scientific = format!("{x:e}");
    let (digits, exponent) = scientific.split_once('e').expect("the format has an exponent");
    let exponent: i32 = exponent.parse().expect("the exponent is a number");
    if x == 0.0 || (-4..16).contains(&exponent) {
        return format!("{x:?}");
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

fn invalid(message: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.to_owned())
}

#[cfg(test)]
mod tests {
    use super::float;

    // Expected values from Python's repr.
    #[test]
    fn floats() {
        let cases = [
            (0.5, "0.5"),
            (1.0, "1.0"),
            (-0.0, "-0.0"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.5e-5, "1.5e-05"),
            (0.0001, "0.0001"),
            (123_456_789.125, "123456789.125"),
            (5e-324, "5e-324"),
            (1.797_693_134_862_315_7e308, "1.7976931348623157e+308"),
        ];
        for (x, text) in cases {
            assert_eq!(float(x), text);
        }
    }
}
