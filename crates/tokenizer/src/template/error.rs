//! Why a template cannot be used on a conversation.

/// The result of anything in this module.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What is wrong, where, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The template is longer than any real one.
    #[error("the chat template has {bytes} bytes; at most {limit} are accepted")]
    TooLong {
        /// Its length.
        bytes: usize,
        /// The longest accepted.
        limit: usize,
    },
    /// One expression or statement is longer than any real one.
    #[error("line {line} of the chat template has a tag of more than {limit} words and signs")]
    TagTooLong {
        /// Line of the template, from 1.
        line: usize,
        /// The most accepted.
        limit: usize,
    },
    /// The template is not Jinja.
    #[error("the chat template does not parse (line {line}): {message}")]
    Syntax {
        /// Line of the template, from 1.
        line: usize,
        /// What the parser said.
        message: String,
    },
    /// The template itself refused the conversation.
    #[error("the model's chat template does not accept this conversation: {0}")]
    Refused(String),
    /// The template did something that its data does not allow.
    #[error("the chat template failed (line {line}): {message}")]
    Failed {
        /// Line of the template, from 1; 0 if not known.
        line: usize,
        /// What went wrong.
        message: String,
    },
    /// The template did more work, or made more text, than the conversation
    /// can call for.
    #[error("the chat template ran past its limit of work or memory; it is broken or hostile")]
    Exhausted,
    /// The engine panicked.
    #[error("the chat template made the template engine panic; please report this template")]
    Engine,
    /// No built-in template has this name.
    #[error("no built-in chat template is called `{name}`; there are: {known}")]
    UnknownName {
        /// The name asked for.
        name: String,
        /// The names there are.
        known: String,
    },
    /// The metadata of the model's file says something impossible.
    #[error(transparent)]
    Metadata(#[from] gguf::Error),
    /// The conversation cannot be turned into a template's values.
    #[error("the conversation cannot be given to the chat template: {0}")]
    Input(String),
    /// The system gave no thread to run the template on.
    #[error("cannot start a thread for the chat template: {0}")]
    Thread(std::io::Error),
}

/// How `raise_exception` travels through the engine.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Raised(pub String);

impl From<minijinja::Error> for Error {
    fn from(e: minijinja::Error) -> Self {
        use minijinja::ErrorKind;
        let mut cause: Option<&dyn std::error::Error> = Some(&e);
        while let Some(inner) = cause {
            if let Some(Raised(message)) = inner.downcast_ref() {
                return Self::Refused(message.clone());
            }
            let kind = inner.downcast_ref::<minijinja::Error>().map(minijinja::Error::kind);
            if matches!(kind, Some(ErrorKind::OutOfFuel | ErrorKind::WriteFailure)) {
                return Self::Exhausted;
            }
            cause = inner.source();
        }
        let line = e.line().unwrap_or(0);
        match e.kind() {
            ErrorKind::SyntaxError | ErrorKind::BadEscape => {
                Self::Syntax { line, message: e.detail().unwrap_or("bad escape").to_owned() }
            }
            kind => {
                let message = e.detail().map_or_else(|| kind.to_string(), |d| format!("{kind}: {d}"));
                Self::Failed { line, message }
            }
        }
    }
}
