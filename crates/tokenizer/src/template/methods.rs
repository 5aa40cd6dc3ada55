//! Methods that Python's strings, dicts and lists have and templates call.
//!
//! What is not here (case, `format`, the `is…` family) comes from
//! minijinja-contrib. Here is what differs there from Python, and what can
//! make large values out of small ones: that is paid for before it is made.

use minijinja::value::{Kwargs, Value, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State};
use minijinja_contrib::pycompat;

/// Answers the call of a method that the engine does not know.
pub fn call(state: &mut State, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    let found = match (value.as_str(), value.kind()) {
        (Some(s), _) => string(state, s, method, args)?,
        (None, ValueKind::Map) => map(value, method, args)?,
        (None, ValueKind::Seq) => list(value, method, args)?,
        _ => None,
    };
    match found {
        Some(result) => Ok(result),
        None => pycompat::unknown_method_callback(state, value, method, args),
    }
}

/// Pays for `bytes` about to be made.
fn pay(state: &State, bytes: usize) -> Result<(), Error> {
    state.consume_fuel(bytes as u64 / 64 + 1)
}

fn invalid(message: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.to_owned())
}

/// What Python's `str.isspace` accepts.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

fn string(state: &State, s: &str, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    pay(state, s.len())?;
    Ok(Some(match method {
        "replace" => {
            let (old, new, count, kwargs): (&str, &str, Option<i64>, Kwargs) = from_args(args)?;
            let count = count.or(kwargs.get("count")?);
            kwargs.assert_all_used()?;
            let count = count.and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX);
            let found = s.matches(old).take(count).count();
            pay(state, s.len().saturating_add(found.saturating_mul(new.len())))?;
            Value::from(s.replacen(old, new, count))
        }
        "join" => join(state, s, args)?,
        "center" | "ljust" | "rjust" | "zfill" => pad(state, s, method, args)?,
        "format" => {
            pay_for_format(state, s, args)?;
            return Ok(None);
        }
        _ => match pieces(s, method, args)? {
            Some(pieces) => pieces,
            None => return plain(s, method, args),
        },
    }))
}

/// Methods that take parts of a string.
fn pieces(s: &str, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    Ok(Some(match method {
        "strip" | "lstrip" | "rstrip" => {
            let (chars,): (Option<&str>,) = from_args(args)?;
            Value::from(strip(s, chars, method != "rstrip", method != "lstrip"))
        }
        "split" | "rsplit" => {
            let (sep, max, kwargs): (Option<&str>, Option<i64>, Kwargs) = from_args(args)?;
            let sep = sep.or(kwargs.get("sep")?);
            let max = max.or(kwargs.get("maxsplit")?).and_then(|n| usize::try_from(n).ok());
            kwargs.assert_all_used()?;
            let pieces = if method == "split" { split(s, sep, max) } else { rsplit(s, sep, max) };
            Value::from(pieces.map_err(invalid)?)
        }
        "partition" | "rpartition" => {
            let (sep,): (&str,) = from_args(args)?;
            if sep.is_empty() {
                return Err(invalid("empty separator"));
            }
            let found = if method == "partition" { s.split_once(sep) } else { s.rsplit_once(sep) };
            let parts = match found {
                Some((head, tail)) => [head, sep, tail],
                None if method == "partition" => [s, "", ""],
                None => ["", "", s],
            };
            Value::from(minijinja::value::Tuple::from(parts.map(Value::from)))
        }
        "splitlines" => {
            let (keep, kwargs): (Option<bool>, Kwargs) = from_args(args)?;
            let keep = keep.or(kwargs.get("keepends")?).unwrap_or(false);
            kwargs.assert_all_used()?;
            Value::from(split_lines(s, keep))
        }
        _ => return Ok(None),
    }))
}

/// Methods without anything special about them.
fn plain(s: &str, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    Ok(Some(match method {
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Value::from(s.strip_prefix(prefix).unwrap_or(s))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Value::from(s.strip_suffix(suffix).unwrap_or(s))
        }
        "swapcase" => {
            let () = from_args(args)?;
            let swap = |c: char| -> String {
                if c.is_lowercase() { c.to_uppercase().collect() } else { c.to_lowercase().collect() }
            };
            Value::from(s.chars().map(swap).collect::<String>())
        }
        "isdecimal" => {
            let () = from_args(args)?;
            Value::from(!s.is_empty() && s.chars().all(|c| c.is_ascii_digit()))
        }
        "isspace" => {
            let () = from_args(args)?;
            Value::from(!s.is_empty() && s.chars().all(is_space))
        }
        "index" | "rindex" => {
            let (what,): (&str,) = from_args(args)?;
            let at = if method == "index" { s.find(what) } else { s.rfind(what) };
            let at = at.ok_or_else(|| invalid("substring not found"))?;
            Value::from(s[..at].chars().count())
        }
        _ => return Ok(None),
    }))
}

/// Python's `strip` family: at white space, or at any of `chars`.
pub fn strip<'a>(s: &'a str, chars: Option<&str>, left: bool, right: bool) -> &'a str {
    let strips = |c: char| chars.map_or(is_space(c), |set| set.contains(c));
    let s = if left { s.trim_start_matches(strips) } else { s };
    if right { s.trim_end_matches(strips) } else { s }
}

/// At most `max` splits from the left; at runs of white space when there is
/// no separator.
fn split(s: &str, sep: Option<&str>, max: Option<usize>) -> Result<Vec<Value>, &'static str> {
    let limit = max.unwrap_or(usize::MAX).saturating_add(1);
    let Some(sep) = sep else {
        let mut pieces = Vec::new();
        let mut rest = s.trim_start_matches(is_space);
        while !rest.is_empty() {
            let end = if pieces.len() + 1 < limit { rest.find(is_space) } else { None };
            let (piece, tail) = rest.split_at(end.unwrap_or(rest.len()));
            pieces.push(Value::from(piece));
            rest = tail.trim_start_matches(is_space);
        }
        return Ok(pieces);
    };
    if sep.is_empty() {
        return Err("empty separator");
    }
    Ok(s.splitn(limit, sep).map(Value::from).collect())
}

/// As [`split`], from the right.
fn rsplit(s: &str, sep: Option<&str>, max: Option<usize>) -> Result<Vec<Value>, &'static str> {
    let limit = max.unwrap_or(usize::MAX).saturating_add(1);
    let mut pieces = Vec::new();
    match sep {
        None => {
            let mut rest = s.trim_end_matches(is_space);
            while !rest.is_empty() {
                let end = if pieces.len() + 1 < limit { rest.rfind(is_space) } else { None };
                let start = end.map_or(0, |i| i + rest[i..].chars().next().map_or(0, char::len_utf8));
                pieces.push(Value::from(&rest[start..]));
                rest = rest[..start].trim_end_matches(is_space);
            }
        }
        Some("") => return Err("empty separator"),
        Some(sep) => pieces.extend(s.rsplitn(limit, sep).map(Value::from)),
    }
    pieces.reverse();
    Ok(pieces)
}

/// At every line end that Python knows.
fn split_lines(s: &str, keep: bool) -> Vec<Value> {
    let ends = |c: char| {
        matches!(
            c,
            '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}'
        )
    };
    let mut lines = Vec::new();
    let mut rest = s;
    while !rest.is_empty() {
        let end = rest.find(ends).unwrap_or(rest.len());
        let width = match rest[end..].chars().next() {
            Some('\r') if rest[end..].starts_with("\r\n") => 2,
            Some(c) => c.len_utf8(),
            None => 0,
        };
        lines.push(Value::from(&rest[..if keep { end + width } else { end }]));
        rest = &rest[end + width..];
    }
    lines
}

fn join(state: &State, s: &str, args: &[Value]) -> Result<Value, Error> {
    let (items,): (&Value,) = from_args(args)?;
    let mut out = String::new();
    for (i, item) in items.try_iter()?.checked().enumerate() {
        let item = item?;
        let text = item.as_str().ok_or_else(|| invalid("join takes strings only"))?;
        pay(state, s.len() + text.len())?;
        if i > 0 {
            out.push_str(s);
        }
        out.push_str(text);
    }
    Ok(Value::from(out))
}

fn pad(state: &State, s: &str, method: &str, args: &[Value]) -> Result<Value, Error> {
    let (width, fill): (i64, Option<char>) = from_args(args)?;
    let missing = usize::try_from(width).unwrap_or(0).saturating_sub(s.chars().count());
    pay(state, missing.saturating_mul(4))?;
    let fill = fill.unwrap_or(if method == "zfill" { '0' } else { ' ' });
    let (sign, s) = match s.strip_prefix(['+', '-']) {
        Some(rest) if method == "zfill" => (&s[..1], rest),
        _ => ("", s),
    };
    let left = match method {
        "ljust" => 0,
        // Where the margins differ by one, CPython's rule for the wider one.
        "center" => missing / 2 + (missing & usize::try_from(width).unwrap_or(0) & 1),
        _ => missing,
    };
    let mut out = String::from(sign);
    out.extend(std::iter::repeat_n(fill, left));
    out.push_str(s);
    out.extend(std::iter::repeat_n(fill, missing - left));
    Ok(Value::from(out))
}

/// Pays for the largest text that `format` could make: the widths asked for,
/// and every argument at every place.
fn pay_for_format(state: &State, format: &str, args: &[Value]) -> Result<(), Error> {
    let widths = format.split(|c: char| !c.is_ascii_digit()).filter(|d| !d.is_empty());
    let widths = widths.map(|d| d.parse::<usize>().unwrap_or(usize::MAX));
    let widths = widths.fold(0usize, usize::saturating_add);
    let longest = args.iter().map(|a| a.as_str().map_or(64, str::len)).max().unwrap_or(0);
    let places = format.matches('{').count();
    pay(state, widths.saturating_add(longest.saturating_mul(places)))
}

fn map(value: &Value, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    Ok(match method {
        "copy" => {
            let () = from_args(args)?;
            Some(value.clone())
        }
        "pop" | "update" | "clear" | "setdefault" | "popitem" => return Err(frozen(method)),
        _ => None,
    })
}

fn list(value: &Value, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    Ok(match method {
        "index" => {
            let (what,): (&Value,) = from_args(args)?;
            let at = value.try_iter()?.position(|item| item == *what);
            Some(Value::from(at.ok_or_else(|| invalid("the value is not in the list"))?))
        }
        "copy" => {
            let () = from_args(args)?;
            Some(value.clone())
        }
        "append" | "extend" | "insert" | "pop" | "remove" | "clear" | "sort" | "reverse" => {
            return Err(frozen(method));
        }
        _ => None,
    })
}

/// The sandbox that transformers uses refuses these too.
fn frozen(method: &str) -> Error {
    invalid(&format!("`{method}` would change a value; templates cannot change values"))
}
