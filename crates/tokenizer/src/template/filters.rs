//! Filters and tests where Python's jinja2 and the engine's own differ.

use std::borrow::Cow;
use std::sync::Arc;

use minijinja::value::{Enumerator, Kwargs, Object, ObjectRepr, Rest, Value, ValueKind, ValueOrKwargs};
use minijinja::{Environment, Error, ErrorKind, Output, State, filters};

use super::{json, methods};

/// Puts all of them into an environment.
pub fn install(env: &mut Environment<'static>) {
    env.set_formatter(print);
    env.add_filter("tojson", json::tojson);
    env.add_filter("trim", trim);
    env.add_filter("indent", indent);
    env.add_filter("string", string);
    env.add_filter("int", int);
    env.add_filter("float", float);
    env.add_filter("wordcount", |value: &str| value.split_whitespace().count());
    env.add_filter(PERCENT, percent);
    env.add_filter("safe", string);
    env.add_filter(ESCAPING, escaping);
    env.add_filter(ITERATED, iterated);
    env.add_filter("map", |state: &mut State, value: Value, args: Rest<ValueOrKwargs>| {
        filters::map(state, value, args).map(generator)
    });
    env.add_filter(
        "select",
        |s: &mut State, v: Value, test: Option<Cow<'_, str>>, args: Rest<ValueOrKwargs>| {
            filters::select(s, v, test, args).map(generator)
        },
    );
    env.add_filter(
        "reject",
        |s: &mut State, v: Value, test: Option<Cow<'_, str>>, args: Rest<ValueOrKwargs>| {
            filters::reject(s, v, test, args).map(generator)
        },
    );
    env.add_filter("selectattr", selectattr);
    env.add_filter("rejectattr", rejectattr);
    // Python's jinja2 has no such filters, or none that does the same.
    for name in ["bool", "chain", "lines", "pprint", "split", "zip"] {
        env.remove_filter(name);
    }
    env.remove_global("debug");
    env.add_test("iterable", is_iterable);
    env.add_test("sequence", is_sequence);
    env.add_test("callable", |value: &Value| value.kind() == ValueKind::Plain);
}

fn invalid(message: impl Into<Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}

/// What Python calls a value's type.
fn type_name(value: &Value) -> String {
    match value.kind() {
        ValueKind::None => "NoneType".to_owned(),
        ValueKind::Seq => "list".to_owned(),
        ValueKind::Map => "dict".to_owned(),
        kind => kind.to_string(),
    }
}

/// Prints a value as Python's `str` does.
fn print(out: &mut Output, state: &mut State, value: &Value) -> Result<(), Error> {
    if value.is_none() {
        return out.write_str("None").map_err(Error::from);
    }
    if is_float(value) {
        return out.write_str(&float_text(value)?).map_err(Error::from);
    }
    minijinja::escape_formatter(out, state, value)
}

/// A float as Python prints it; JSON writes what is not finite differently.
fn float_text(value: &Value) -> Result<String, Error> {
    let x = f64::try_from(value.clone())?;
    Ok(if x.is_finite() { json::float(x) } else { format!("{x}").to_lowercase() })
}

fn is_float(value: &Value) -> bool {
    value.is_number() && !value.is_integer()
}

/// The filter around whatever a `for` statement loops over: the engine takes
/// null for an empty list, Python does not.
pub const ITERATED: &str = "iterated";

fn iterated(value: Value) -> Result<Value, Error> {
    if value.is_none() {
        return Err(invalid(format!("'{}' object is not iterable", type_name(&value))));
    }
    Ok(value)
}

/// The filter `safe` where something is added to its result: Python then
/// escapes what is added as HTML. No model wants that in its prompt, and not
/// doing it would give another text than Python's, so it is an error.
const ESCAPING: &str = "safe_and_escaping";

/// What makes the name of that filter from `safe`.
pub const ESCAPING_SUFFIX: &str = "_and_escaping";

fn escaping(_value: &Value) -> Result<Value, Error> {
    Err(invalid(
        "the template adds to a string made by `safe`, which in Python escapes the other string as HTML; \
         use a template without `|safe +`",
    ))
}

/// A sequence that can be looped over but has no length, no index and no JSON.
#[derive(Debug)]
pub struct Generator(Vec<Value>);

impl Object for Generator {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Iterable
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        let (items, mut next) = (Arc::clone(self), 0);
        // Unlike one over the list itself, this iterator does not know its length.
        Enumerator::Iter(Box::new(std::iter::from_fn(move || {
            next += 1;
            items.0.get(next - 1).cloned()
        })))
    }
}

fn generator(items: Vec<Value>) -> Value {
    Value::from_object(Generator(items))
}

fn selectattr(
    state: &mut State,
    value: Value,
    attribute: Cow<'_, str>,
    test: Option<Cow<'_, str>>,
    args: Rest<ValueOrKwargs>,
) -> Result<Value, Error> {
    filters::selectattr(state, value, attribute, test, args).map(generator)
}

fn rejectattr(
    state: &mut State,
    value: Value,
    attribute: Cow<'_, str>,
    test: Option<Cow<'_, str>>,
    args: Rest<ValueOrKwargs>,
) -> Result<Value, Error> {
    filters::rejectattr(state, value, attribute, test, args).map(generator)
}

/// `trim(chars)`: as `strip`, of the value's text.
fn trim(state: &State, value: &Value, chars: Option<&str>) -> Result<Value, Error> {
    let text = text(state, value)?;
    Ok(Value::from(methods::strip(&text, chars, true, true)))
}

/// `string`: the value's text.
fn string(state: &State, value: &Value) -> Result<Value, Error> {
    Ok(Value::from(text(state, value)?))
}

fn text(state: &State, value: &Value) -> Result<Arc<str>, Error> {
    let text = match value.to_str() {
        Some(text) => text,
        None if is_float(value) => float_text(value)?.into(),
        None => value.to_string().into(),
    };
    state.consume_fuel(text.len() as u64 / 64)?;
    Ok(text)
}

/// `int(default, base)`: what Python's `int` makes of the value, or the default.
fn int(value: &Value, default: Option<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    let default = default.or(kwargs.get("default")?).unwrap_or_else(|| Value::from(0));
    let base = kwargs.get::<Option<u32>>("base")?.unwrap_or(10);
    kwargs.assert_all_used()?;
    let Some(text) = value.as_str() else {
        return match value.kind() {
            ValueKind::Bool => Ok(Value::from(i64::from(value.is_true()))),
            ValueKind::Number if value.is_integer() => Ok(value.clone()),
            ValueKind::Number => Ok(Value::from(f64::try_from(value.clone())? as i64)),
            _ => Ok(default),
        };
    };
    let text = methods::strip(text, None, true, true);
    let digits = match base {
        16 => text.trim_start_matches("0x"),
        8 => text.trim_start_matches("0o"),
        2 => text.trim_start_matches("0b"),
        10 => text,
        _ => return Err(invalid("base must be 2, 8, 10 or 16")),
    };
    let truncated = || text.parse::<f64>().ok().filter(|x| x.is_finite()).map(|x| Value::from(x as i64));
    Ok(i64::from_str_radix(digits, base).ok().map(Value::from).or_else(truncated).unwrap_or(default))
}

/// `float(default)`: what Python's `float` makes of the value, or the default.
fn float(value: &Value, default: Option<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    let default = default.or(kwargs.get("default")?).unwrap_or_else(|| Value::from(0.0));
    kwargs.assert_all_used()?;
    let number = match value.as_str() {
        Some(text) => methods::strip(text, None, true, true).parse().ok(),
        None if value.kind() == ValueKind::Bool => Some(f64::from(u8::from(value.is_true()))),
        None => f64::try_from(value.clone()).ok(),
    };
    Ok(number.map_or(default, Value::from))
}

/// The filter that `source.rs` puts for `%` after a string: one value, or a
/// tuple of them, printed into the string.
pub const PERCENT: &str = "percent";

fn percent(state: &mut State, format: &Value, values: &Value) -> Result<Value, Error> {
    let mut arguments = vec![format.clone()];
    match values.is_tuple() {
        true => arguments.extend(values.try_iter()?),
        false => arguments.push(values.clone()),
    }
    state.apply_filter("format", &arguments)
}

/// `indent(width, first, blank)`: `width` spaces, or that text, before each
/// line but the first.
fn indent(
    state: &State,
    value: &Value,
    width: Option<Value>,
    first: Option<bool>,
    kwargs: Kwargs,
) -> Result<Value, Error> {
    let width = width.or(kwargs.get("width")?).unwrap_or_else(|| Value::from(4));
    let first = first.or(kwargs.get("first")?).unwrap_or(false);
    let blank = kwargs.get::<Option<bool>>("blank")?.unwrap_or(false);
    kwargs.assert_all_used()?;
    let margin = match width.as_str() {
        Some(s) => s.to_owned(),
        None => {
            let n = u64::try_from(i64::try_from(width)?).unwrap_or(0);
            state.consume_fuel(n)?;
            " ".repeat(usize::try_from(n).unwrap_or(0))
        }
    };
    let text = text(state, value)?;
    let mut out = String::new();
    for (i, line) in text.split('\n').enumerate() {
        if i > 0 {
            out.push('\n');
        }
        if if i == 0 { first } else { blank || !line.is_empty() } {
            state.consume_fuel(margin.len() as u64 / 64 + 1)?;
            out.push_str(&margin);
        }
        out.push_str(line);
    }
    Ok(Value::from(out))
}

fn is_iterable(value: &Value) -> bool {
    matches!(
        value.kind(),
        ValueKind::Undefined | ValueKind::String | ValueKind::Seq | ValueKind::Map | ValueKind::Iterable
    )
}

fn is_sequence(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Undefined | ValueKind::String | ValueKind::Seq | ValueKind::Map)
}
