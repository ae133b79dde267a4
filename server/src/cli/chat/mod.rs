//! The interactive chat: a conversation that grows by a question and an answer at a time.
//!
//! Each question is sent with all that was said before; the prefix cache makes that cheap.

mod entry;
#[cfg(test)]
mod tests;

use std::{fs, io, ops::ControlFlow, path::Path};

use mosu::RequestError;
use serde_json::{Value, json};

use self::entry::{Command, Entry, HELP};
use super::{answer::Answer, exit::Failure, terminal::Screen, units};

const PROMPT: &str = ">>> ";
const CONTINUATION: &str = "... ";

/// What came from the keyboard.
#[derive(Clone, Debug)]
pub enum Input {
    /// A line, without its end.
    Line(String),
    /// Ctrl-C.
    Interrupted,
    /// Ctrl-D.
    End,
}

/// Where lines are typed.
pub trait Lines {
    /// Asks for one.
    ///
    /// # Errors
    /// When there is no way to ask.
    fn read(&mut self, prompt: &str) -> Result<Input, Failure>;
}

/// Answers a conversation, writing the answer as it comes.
pub type Respond<'a> = dyn FnMut(&[Value], &mut Screen) -> Result<Answer, Failure> + 'a;

/// A chat.
pub struct Chat<'a> {
    lines: &'a mut dyn Lines,
    respond: &'a mut Respond<'a>,
    screen: Screen<'a>,
    /// Tokens that the conversation may have.
    context: usize,
    system: Option<String>,
    /// Questions and answers by turns.
    messages: Vec<Value>,
    totals: Totals,
}

/// Figures of the whole chat.
#[derive(Default)]
struct Totals {
    answers: usize,
    prompt_tokens: usize,
    cached_tokens: usize,
    output_tokens: usize,
    /// Of the conversation as it is now.
    context_tokens: usize,
}

impl<'a> Chat<'a> {
    /// A chat that has not begun.
    pub fn new(
        lines: &'a mut dyn Lines,
        respond: &'a mut Respond<'a>,
        screen: Screen<'a>,
        context: usize,
        system: Option<String>,
    ) -> Chat<'a> {
        Chat { lines, respond, screen, context, system, messages: Vec::new(), totals: Totals::default() }
    }

    /// Chats until the person leaves: by /exit, by Ctrl-D, or by Ctrl-C twice in a row.
    ///
    /// # Errors
    /// What the chat cannot recover from.
    pub fn run(mut self) -> Result<(), Failure> {
        self.screen.aside("/help lists the commands; Ctrl-C stops an answer, Ctrl-D leaves")?;
        let mut interrupted = false;
        loop {
            match self.lines.read(PROMPT)? {
                Input::End => return Ok(()),
                Input::Interrupted if interrupted => return Ok(()),
                Input::Interrupted => {
                    interrupted = true;
                    self.screen.aside("Ctrl-C again, or Ctrl-D, leaves")?;
                }
                Input::Line(line) => match self.enter(line)? {
                    ControlFlow::Break(()) => return Ok(()),
                    ControlFlow::Continue(stopped) => interrupted = stopped,
                },
            }
        }
    }

    /// Does what was typed. Goes on with whether Ctrl-C stopped an answer.
    fn enter(&mut self, line: String) -> Result<ControlFlow<(), bool>, Failure> {
        match entry::parse(&self.whole_entry(line)?) {
            Entry::Nothing => {}
            Entry::Question(question) => return Ok(ControlFlow::Continue(self.ask(question)?)),
            Entry::Leave => return Ok(ControlFlow::Break(())),
            Entry::Command(command) => self.obey(command)?,
            Entry::Mistake(hint) => self.screen.line(&hint)?,
        }
        Ok(ControlFlow::Continue(false))
    }

    /// Reads on while a `"""` is open. Nothing is left of what is given up.
    fn whole_entry(&mut self, first: String) -> Result<String, Failure> {
        let mut text = first;
        while entry::is_open(&text) {
            match self.lines.read(CONTINUATION)? {
                Input::Line(line) => text = format!("{text}\n{line}"),
                Input::Interrupted | Input::End => return Ok(String::new()),
            }
        }
        Ok(text)
    }

    /// Asks the model. Returns whether the answer was interrupted; what there is of it stays in the conversation.
    fn ask(&mut self, question: String) -> Result<bool, Failure> {
        self.messages.push(json!({"role": "user", "content": question}));
        let conversation = self.conversation();
        let answer = match (self.respond)(&conversation, &mut self.screen) {
            Ok(answer) => answer,
            Err(failure) => {
                self.messages.pop();
                self.screen.line(&recoverable(failure)?)?;
                return Ok(false);
            }
        };
        self.screen.line("")?;
        self.screen.aside(&answer.summary(self.context))?;
        self.totals.add(&answer);
        let interrupted = answer.finish.is_none();
        self.messages.push(json!({"role": "assistant", "content": answer.text}));
        Ok(interrupted)
    }

    /// All messages, the system's first.
    fn conversation(&self) -> Vec<Value> {
        let system = self.system.iter().map(|text| json!({"role": "system", "content": text}));
        system.chain(self.messages.iter().cloned()).collect()
    }

    fn obey(&mut self, command: Command) -> Result<(), Failure> {
        let told = match command {
            Command::Help => HELP.into(),
            Command::Clear => {
                self.messages.clear();
                self.totals.context_tokens = 0;
                "The conversation is forgotten.".into()
            }
            Command::System(text) => {
                self.system = text;
                let told = if self.system.is_some() {
                    "The system message is set."
                } else {
                    "There is no system message now."
                };
                told.into()
            }
            Command::Stats => self.totals.describe(self.context),
            Command::Save(file) => match self.save(&file) {
                Ok(()) => format!("{} written.", file.display()),
                Err(error) => format!("{}: {error}", file.display()),
            },
        };
        Ok(self.screen.line(&told)?)
    }

    /// Writes the conversation as the `messages` of an API request.
    fn save(&self, file: &Path) -> io::Result<()> {
        fs::write(file, format!("{:#}\n", Value::Array(self.conversation())))
    }
}

/// What to say of a failure after which the chat can go on.
fn recoverable(failure: Failure) -> Result<String, Failure> {
    match failure {
        Failure::Request(RequestError::ContextLength { prompt_tokens, max_tokens, context }) => Ok(format!(
            "The conversation no longer fits: it has {prompt_tokens} tokens, the answer needs room for {max_tokens}, \
             and the context holds {context}. /clear begins a new one."
        )),
        Failure::Request(RequestError::CacheTooSmall { .. }) => {
            Ok(format!("{failure}. /clear begins a new conversation."))
        }
        Failure::Request(RequestError::Internal(_) | RequestError::Overloaded { .. }) | Failure::Model(_) => {
            Ok(format!("error: {failure}"))
        }
        _ => Err(failure),
    }
}

impl Totals {
    fn add(&mut self, answer: &Answer) {
        self.answers += 1;
        self.prompt_tokens += answer.prompt_tokens;
        self.cached_tokens += answer.cached_tokens;
        self.output_tokens += answer.output_tokens;
        self.context_tokens = answer.prompt_tokens + answer.output_tokens;
    }

    fn describe(&self, context: usize) -> String {
        format!(
            "{} of {}; {} of prompts, {} of them from the prefix cache; the conversation fills {} of {}",
            units::count(self.answers, "answer"),
            units::count(self.output_tokens, "token"),
            units::count(self.prompt_tokens, "token"),
            self.cached_tokens,
            self.context_tokens,
            units::count(context, "token"),
        )
    }
}
