//! What a reply says: content, reasoning and tool calls, told apart while it
//! is being written.
//!
//! [`ReplyFormat`] is read from the chat template's source; [`ReplyParser`]
//! takes the text as it comes. A tool call is told once it is whole, so that
//! what turns out to be none can still be shown as content.

mod calls;
mod format;
mod parser;
#[cfg(test)]
mod tests;

pub use format::{ReplyFormat, ToolFormat};
pub use parser::ReplyParser;

/// One more piece of a reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplyDelta {
    /// Text for the reader.
    Content(String),
    /// Text the model wrote to itself before.
    Reasoning(String),
    /// A tool call begins.
    ToolCallStart {
        /// Number of the call in the reply, from 0.
        index: usize,
        /// The function's name.
        name: String,
    },
    /// More of a call's arguments.
    ToolCallArguments {
        /// Number of the call in the reply.
        index: usize,
        /// Part of a JSON object.
        json_fragment: String,
    },
    /// What looked like a tool call was none; its text came as content.
    Malformed {
        /// What is wrong with it.
        reason: String,
    },
}
