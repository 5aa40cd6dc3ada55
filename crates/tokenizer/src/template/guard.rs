//! A check on every value that a template builds.
//!
//! The engine's fuel pays for what an expression makes, not for how deep it
//! nests or how often it holds the same part: 60 rounds of `[x, x]` are a value
//! that takes 2^60 steps to print or compare, and a namespace stored in itself
//! one that never ends. So `source.rs` puts each list, dict and tuple written
//! in a template, each value stored by `set` or `with`, and each computed
//! argument through the filter here. It
//! walks the value, pays for each part as often as it is held, and refuses
//! great depth and stored namespaces. What the engine would compute anew at
//! each use becomes a list.

use minijinja::value::{Kwargs, Tuple, Value, ValueKind, ValueOrKwargs};
use minijinja::{Environment, Error, ErrorKind, State, functions};

use super::filters::Generator;

/// The filter's name.
pub const NAME: &str = "built";

/// The same for a value that is stored in a namespace, where it cannot be one.
pub const STORED: &str = "stored";

/// The deepest value. JSON as `serde_json` reads it has at most 128 levels.
const MAX_DEPTH: usize = 160;

/// Parts of a value that one unit of fuel pays for.
const PARTS_PER_FUEL: u64 = 4;

/// Puts the filter, and the functions that build values, into an environment.
pub fn install(env: &mut Environment<'static>) {
    env.add_filter(NAME, built);
    env.add_filter(STORED, |state: &State, value: Value| check(state, value, 1));
    env.add_function("namespace", |state: &State, defaults: Option<ValueOrKwargs>| {
        let value = functions::namespace(defaults)?;
        built(state, value)
    });
    env.add_function("dict", |state: &State, from: Option<Value>, more: Kwargs| {
        let value = functions::dict(from, more)?;
        built(state, value)
    });
}

fn built(state: &State, value: Value) -> Result<Value, Error> {
    check(state, value, 0)
}

/// Checks a value that is `depth` levels inside another.
fn check(state: &State, value: Value, depth: usize) -> Result<Value, Error> {
    let value = match value.kind() {
        ValueKind::Iterable | ValueKind::Seq if is_lazy(&value) => {
            let mut items = Vec::new();
            for item in value.try_iter()?.checked() {
                state.consume_fuel(1)?;
                items.push(item?);
            }
            Value::from(items)
        }
        _ => value,
    };
    let mut walk = Walk { state, unpaid: 0 };
    walk.value(&value, depth)?;
    walk.state.consume_fuel(walk.unpaid.div_ceil(PARTS_PER_FUEL))?;
    Ok(value)
}

/// Whether a sequence's items are computed at each use.
fn is_lazy(value: &Value) -> bool {
    value.downcast_object_ref::<Generator>().is_none()
        && value.downcast_object_ref::<Vec<Value>>().is_none()
        && value.downcast_object_ref::<Tuple>().is_none()
}

struct Walk<'a, 'b, 'c> {
    state: &'a State<'b, 'c>,
    unpaid: u64,
}

impl Walk<'_, '_, '_> {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        self.unpaid += 1;
        if self.unpaid == 1024 * PARTS_PER_FUEL {
            self.unpaid = 0;
            self.state.consume_fuel(1024)?;
        }
        let Some(object) = value.as_object() else { return Ok(()) };
        if depth == MAX_DEPTH {
            return Err(refused("a value is nested too deep"));
        }
        match value.kind() {
            ValueKind::Map => {
                if depth > 0 && is_namespace(object.type_name()) {
                    return Err(refused("a namespace cannot be stored in another value"));
                }
                for pair in object.try_iter_pairs().into_iter().flatten() {
                    self.value(&pair.0, depth + 1)?;
                    self.value(&pair.1, depth + 1)?;
                }
            }
            ValueKind::Seq | ValueKind::Iterable => {
                for item in object.try_iter().into_iter().flatten() {
                    self.value(&item, depth + 1)?;
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// The engine keeps the type to itself.
fn is_namespace(type_name: &str) -> bool {
    type_name.ends_with("::Namespace")
}

fn refused(message: &'static str) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_are_known() {
        let namespace = functions::namespace(None).expect("no arguments, no error");
        assert!(is_namespace(namespace.as_object().expect("an object").type_name()));
    }
}
