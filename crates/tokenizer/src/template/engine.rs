//! The Jinja engine as transformers configures Python's, with bounds.

use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior};

use super::error::Raised;
use super::{filters, guard, methods};

/// The name of the one template of an environment.
pub const NAME: &str = "chat";

/// An environment without templates.
pub fn environment() -> Environment<'static> {
    let mut env = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    env.set_syntax(syntax.expect("the default delimiters are valid"));
    env.set_auto_escape_callback(|_| AutoEscape::None);
    env.set_undefined_behavior(UndefinedBehavior::Lenient);
    env.set_unknown_method_callback(methods::call);
    env.add_function("raise_exception", raise_exception);
    filters::install(&mut env);
    guard::install(&mut env);
    env
}

/// `raise_exception(message)`: how templates refuse a conversation.
fn raise_exception(message: String) -> Result<(), Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message.clone()).with_source(Raised(message)))
}
