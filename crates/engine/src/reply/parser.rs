//! Takes a reply apart as it comes. However the text is cut, the deltas together are the same.

use super::calls::{self, Read, Scanner};
use super::{ReplyDelta, ReplyFormat, ToolFormat};

/// Begins a block that may hold a call.
const FENCE: &str = "```json\n";

/// Where in a reply the text stands.
#[derive(Debug)]
enum State {
    /// Where reasoning or a call without a marker may begin.
    Start,
    Reasoning,
    Content,
    /// After what began a call: that text, in case it is none.
    Call {
        begun: String,
        scanner: Scanner,
    },
    AfterCall,
}

/// Parses one reply.
#[derive(Debug)]
pub struct ReplyParser {
    reasoning: Option<(&'static str, &'static str)>,
    tools: Option<ToolFormat>,
    /// What begins a call anywhere in the text.
    markers: Vec<&'static str>,
    /// What closes the call that was read last.
    close: &'static str,
    state: State,
    /// Text that is not decided yet.
    text: String,
    /// Blanks that come next belong to no part.
    skip_blanks: bool,
    n_calls: usize,
    deltas: Vec<ReplyDelta>,
}

impl ReplyParser {
    /// For one reply. Tool calls are looked for only where the request offers tools
    /// (`with_tools`); `in_reasoning` where the prompt has opened it already.
    pub fn new(format: &ReplyFormat, with_tools: bool, in_reasoning: bool) -> Self {
        let state = if in_reasoning && format.reasoning.is_some() { State::Reasoning } else { State::Start };
        let tools = format.tools.filter(|_| with_tools);
        let mut markers = tools.map_or(Vec::new(), |tools| tools.markers().to_vec());
        if tools.is_some() && format.fenced {
            markers.push(FENCE);
        }
        Self {
            reasoning: format.reasoning,
            tools,
            markers,
            close: "",
            skip_blanks: matches!(state, State::Reasoning),
            state,
            text: String::new(),
            n_calls: 0,
            deltas: Vec::new(),
        }
    }

    /// Takes more text; returns what has become certain.
    pub fn push(&mut self, text: &str) -> Vec<ReplyDelta> {
        self.text.push_str(text);
        self.run(false)
    }

    /// Ends the reply; returns the rest.
    pub fn finish(&mut self) -> Vec<ReplyDelta> {
        self.run(true)
    }

    /// Number of tool calls so far.
    pub fn n_calls(&self) -> usize {
        self.n_calls
    }

    fn run(&mut self, end: bool) -> Vec<ReplyDelta> {
        while self.step(end) {}
        std::mem::take(&mut self.deltas)
    }

    /// Decides one thing. Returns whether there may be more to decide.
    fn step(&mut self, end: bool) -> bool {
        if self.skip_blanks {
            let blanks = self.text.len() - self.text.trim_start().len();
            self.text.drain(..blanks);
            self.skip_blanks = self.text.is_empty();
        }
        if self.text.is_empty() && !matches!(self.state, State::Call { .. }) {
            return false;
        }
        match std::mem::replace(&mut self.state, State::Content) {
            State::Start => self.start(end),
            State::Reasoning => self.reasoning(end),
            State::Content => self.content(end),
            State::Call { begun, scanner } => self.call(begun, scanner, end),
            State::AfterCall => self.after_call(end),
        }
    }

    fn start(&mut self, end: bool) -> bool {
        let body = self.text.trim_start();
        let open = self.reasoning.map_or("", |(open, _)| open);
        if body.starts_with('{') && self.tools.is_some_and(ToolFormat::is_bare) {
            let blanks = self.text.len() - body.len();
            self.begin_call(0, blanks);
        } else if !open.is_empty() && body.starts_with(open) {
            let length = self.text.len() - body.len() + open.len();
            self.text.drain(..length);
            (self.state, self.skip_blanks) = (State::Reasoning, true);
        } else if !end && (body.is_empty() || open.starts_with(body)) {
            self.state = State::Start;
            return false;
        }
        true
    }

    fn reasoning(&mut self, end: bool) -> bool {
        let close = self.reasoning.map_or("", |(_, close)| close);
        if let Some(place) = self.text.find(close) {
            let thought = self.text[..place].trim_end().to_string();
            self.text.drain(..place + close.len());
            self.tell(thought, ReplyDelta::Reasoning);
            // Reasoning comes once.
            self.reasoning = None;
            (self.state, self.skip_blanks) = (State::Start, true);
            return true;
        }
        let certain = if end { self.text.len() } else { certain(&self.text, &[close]) };
        let thought: String = self.text.drain(..certain).collect();
        self.tell(thought, ReplyDelta::Reasoning);
        self.state = State::Reasoning;
        false
    }

    fn content(&mut self, end: bool) -> bool {
        let found = self.markers.iter().filter_map(|m| Some((self.text.find(m)?, m.len()))).min();
        if let Some((place, length)) = found {
            let before = self.text[..place].trim_end().len();
            self.begin_call(before, place + length);
            return true;
        }
        let certain = match end || self.markers.is_empty() {
            true => self.text.len(),
            false => certain(&self.text, &self.markers),
        };
        let content: String = self.text.drain(..certain).collect();
        self.tell(content, ReplyDelta::Content);
        false
    }

    /// A call begins at `body`; the text up to `before` is content.
    fn begin_call(&mut self, before: usize, body: usize) {
        let begun = self.text[before..body].to_string();
        let content = self.text[..before].to_string();
        self.text.drain(..body);
        self.tell(content, ReplyDelta::Content);
        self.state = State::Call { begun, scanner: Scanner::default() };
    }

    fn call(&mut self, begun: String, mut scanner: Scanner, end: bool) -> bool {
        let read = match self.tools {
            Some(ToolFormat::Mistral | ToolFormat::MistralArgs) => calls::mistral(&self.text, &mut scanner),
            _ => calls::json(&self.text, &mut scanner),
        };
        match read {
            Read::Unfinished if !end => {
                self.state = State::Call { begun, scanner };
                false
            }
            Read::Calls(calls, length) => {
                self.text.drain(..length);
                for (name, json_fragment) in calls {
                    let index = self.n_calls;
                    self.n_calls += 1;
                    self.deltas.push(ReplyDelta::ToolCallStart { index, name });
                    self.deltas.push(ReplyDelta::ToolCallArguments { index, json_fragment });
                }
                self.close = match begun.ends_with(FENCE) {
                    true => "```",
                    false => self.tools.map_or("", ToolFormat::close),
                };
                (self.state, self.skip_blanks) = (State::AfterCall, true);
                true
            }
            Read::Unfinished => self.malformed(begun, "a tool call is not finished", self.text.len()),
            Read::Wrong(reason, length) => self.malformed(begun, reason, length),
        }
    }

    /// What was no call is content.
    fn malformed(&mut self, begun: String, reason: &str, length: usize) -> bool {
        // JSON that was not announced as a call is nothing to complain of.
        let announced = !begun.trim().is_empty() && !begun.ends_with(FENCE);
        let text: String = self.text.drain(..length).collect();
        self.tell(begun + &text, ReplyDelta::Content);
        if announced {
            self.deltas.push(ReplyDelta::Malformed { reason: reason.to_string() });
        }
        true
    }

    fn after_call(&mut self, end: bool) -> bool {
        let close = self.close;
        if !end && !self.text.starts_with(close) && close.starts_with(&self.text) {
            self.state = State::AfterCall;
            return false;
        }
        if self.text.starts_with(close) {
            self.text.drain(..close.len());
        }
        (self.state, self.skip_blanks) = (State::Start, true);
        self.reasoning = None;
        true
    }

    fn tell(&mut self, text: String, delta: fn(String) -> ReplyDelta) {
        if !text.is_empty() {
            self.deltas.push(delta(text));
        }
    }
}

/// Bytes of `text` that no marker, nor the blanks before one, can begin in.
fn certain(text: &str, markers: &[&str]) -> usize {
    let partial = |marker: &&str| {
        (1..marker.len())
            .rev()
            .filter(|&n| marker.is_char_boundary(n))
            .find(|&n| text.ends_with(&marker[..n]))
    };
    let held = markers.iter().filter_map(partial).max().unwrap_or(0);
    text[..text.len() - held].trim_end().len()
}
