//! `quarrel chat`: a conversation in the terminal.

use std::path::PathBuf;

use anyhow::{Context, Result};
use engine::{Engine, FinishReason};
use indicatif::HumanBytes;
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;
use tokenizer::template::{ChatInput, Content, Message, Template};

use super::generate::{self, Reply};
use crate::args::{ChatArgs, SamplingArgs};
use crate::loading::{self, Opened, Started};
use crate::{environment, interrupt, output};

/// Begins a message of several lines at its start, and ends it at its end.
const QUOTES: &str = "\"\"\"";

const HELP: &str = "\
/help            show this
/clear           forget the conversation (the system prompt stays)
/system [TEXT]   set the system prompt and forget the conversation; without TEXT show it
/save FILE       write the conversation as JSON
/load FILE       read one back
/stats           figures of the last reply
/regen           answer the last message again
/bye             leave (so does Ctrl-D)
A line that ends in \\ goes on; \"\"\" begins and ends several lines. Ctrl-C interrupts a reply.
";

/// Talks until the user leaves.
pub fn run(args: ChatArgs) -> Result<()> {
    generate::check(&args.sampling)?;
    loading::check(&args.model.load)?;
    interrupt::watch()?;
    let opened = loading::open(&args.model.model)?;
    let template = opened.template(args.chat_template.as_deref())?;
    let Started { engine, device, memory } = opened.start(&args.model.load, &args.engine)?;
    output::show(&format!(
        "{} · {device} · context {} tokens · {} of weights, up to {} of KV cache, {} of scratch\n\
         /help lists the commands.\n",
        opened.name,
        memory.context,
        HumanBytes(memory.weights),
        HumanBytes(memory.kv_cache),
        HumanBytes(memory.scratch),
    ))?;
    let mut session = Session {
        opened,
        template,
        engine,
        device,
        sampling: args.sampling,
        messages: args.system.iter().map(|text| Message::new("system", text)).collect(),
        last: None,
        turn: 0,
    };
    let mut editor = DefaultEditor::new()?;
    let history = environment::history_file();
    if let Some(file) = history.as_deref().filter(|file| file.exists())
        && let Err(error) = editor.load_history(file)
    {
        output::say(&format!("the history in {} cannot be read: {error}", file.display()));
    }
    while let Some(line) = read_message(&mut editor)? {
        if line.trim().is_empty() {
            continue;
        }
        editor.add_history_entry(line.as_str())?;
        if matches!(line.trim(), "/bye" | "/exit" | "/quit") {
            break;
        }
        if let Err(error) = session.take(&line) {
            if output::is_closed_pipe(&error) {
                return Err(error);
            }
            output::say(&format!("error: {}", output::explain(&error)));
        }
    }
    save_history(&mut editor, history)
}

fn save_history(editor: &mut DefaultEditor, file: Option<PathBuf>) -> Result<()> {
    let Some(file) = file else { return Ok(()) };
    if let Some(dir) = file.parent() {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    }
    editor.save_history(&file).with_context(|| format!("cannot write {}", file.display()))
}

/// One message, which may take several lines; `None` at the end of input.
fn read_message(editor: &mut DefaultEditor) -> Result<Option<String>> {
    let mut message = String::new();
    let mut quoted = false;
    loop {
        let prompt = if message.is_empty() && !quoted { "> " } else { "… " };
        let line = match editor.readline(prompt) {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => {
                interrupt::clear();
                message.clear();
                quoted = false;
                continue;
            }
            Err(ReadlineError::Eof) => return Ok((!message.is_empty()).then_some(message)),
            Err(error) => return Err(error.into()),
        };
        let mut text = line.as_str();
        if !quoted && message.is_empty() && text.starts_with(QUOTES) {
            (text, quoted) = (&text[QUOTES.len()..], true);
        }
        if quoted && text.trim_end().ends_with(QUOTES) {
            (text, quoted) = (text.trim_end().trim_end_matches(QUOTES), false);
        }
        let continued = !quoted && text.ends_with('\\');
        message += if continued { &text[..text.len() - 1] } else { text };
        if !quoted && !continued {
            return Ok(Some(message));
        }
        message.push('\n');
    }
}

/// A conversation and the model that holds it.
struct Session {
    opened: Opened,
    template: Template,
    engine: Engine,
    device: String,
    sampling: SamplingArgs,
    messages: Vec<Message>,
    last: Option<Reply>,
    /// Replies so far, which the seed depends on.
    turn: u64,
}

impl Session {
    /// Deals with a command or a message.
    fn take(&mut self, line: &str) -> Result<()> {
        let trimmed = line.trim();
        let (command, rest) = trimmed.split_once(char::is_whitespace).unwrap_or((trimmed, ""));
        match command {
            "/help" | "/?" => output::show(HELP)?,
            "/clear" => self.clear(),
            "/system" => self.system(rest)?,
            "/save" => self.save(rest)?,
            "/load" => self.load(rest)?,
            "/stats" => self.stats()?,
            "/regen" => self.regenerate()?,
            _ if is_command(command) => {
                output::show(&format!("there is no command {command}; /help lists them\n"))?;
            }
            _ => {
                self.messages.push(Message::new("user", line));
                if let Err(error) = self.answer() {
                    self.messages.pop();
                    return Err(match error.downcast_ref() {
                        Some(engine::Error::ContextExceeded { .. }) => error.context("/clear makes room"),
                        _ => error,
                    });
                }
            }
        }
        Ok(())
    }

    fn clear(&mut self) {
        self.messages.retain(|message| message.role == "system");
    }

    fn system(&mut self, text: &str) -> Result<()> {
        if text.is_empty() {
            let system = self.messages.iter().find(|message| message.role == "system");
            let shown = system.and_then(text_of).unwrap_or("there is no system prompt");
            output::show(&format!("{shown}\n"))?;
        } else {
            self.messages = vec![Message::new("system", text)];
        }
        Ok(())
    }

    fn save(&self, file: &str) -> Result<()> {
        anyhow::ensure!(!file.is_empty(), "give a file: /save FILE");
        let json = serde_json::to_string_pretty(&self.messages)?;
        std::fs::write(file, json + "\n").with_context(|| format!("cannot write {file}"))?;
        Ok(output::show(&format!("{} messages\n", self.messages.len()))?)
    }

    fn load(&mut self, file: &str) -> Result<()> {
        anyhow::ensure!(!file.is_empty(), "give a file: /load FILE");
        let json = std::fs::read_to_string(file).with_context(|| format!("cannot read {file}"))?;
        self.messages =
            serde_json::from_str(&json).with_context(|| format!("{file} is not a saved conversation"))?;
        Ok(output::show(&format!("{} messages\n", self.messages.len()))?)
    }

    fn stats(&self) -> Result<()> {
        let text = match &self.last {
            None => "no reply yet".into(),
            Some(Reply { stats, .. }) => {
                generate::summary(&self.opened.name, &self.device, stats, stats.time_to_first_token)
            }
        };
        Ok(output::show(&(text + "\n"))?)
    }

    fn regenerate(&mut self) -> Result<()> {
        let last_user = self.messages.iter().rposition(|message| message.role == "user");
        let last_user = last_user.context("there is no message to answer again")?;
        let replaced = self.messages.split_off(last_user + 1);
        self.answer().inspect_err(|_| self.messages.extend(replaced))
    }

    /// Answers the conversation as it stands, and adds the reply to it.
    fn answer(&mut self) -> Result<()> {
        let input = ChatInput {
            messages: self.messages.clone(),
            add_generation_prompt: true,
            ..ChatInput::default()
        };
        let prompt = engine::encode_chat(&self.opened.tokenizer, &self.template, &input)?.ids;
        interrupt::clear();
        let request = generate::request(&self.sampling, prompt, self.turn);
        self.turn += 1;
        let reply = generate::stream(&self.engine, request, |text| Ok(output::show(text)?))?;
        interrupt::clear();
        output::show(match reply.reason {
            FinishReason::Cancelled => " …\n",
            FinishReason::Length => " … (cut: --max-tokens or the context is used up; /clear starts anew)\n",
            FinishReason::EndOfText | FinishReason::Stop => "\n",
        })?;
        self.messages.push(Message::new("assistant", &reply.text));
        self.last = Some(reply);
        Ok(())
    }
}

/// Whether a word is meant as a command: `/word`, and not a path.
fn is_command(word: &str) -> bool {
    word.strip_prefix('/').is_some_and(|name| name.chars().all(char::is_alphabetic))
}

fn text_of(message: &Message) -> Option<&str> {
    match &message.content {
        Some(Some(Content::Text(text))) => Some(text),
        _ => None,
    }
}
