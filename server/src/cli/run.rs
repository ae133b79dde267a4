//! `mosu run`: one answer, or a chat.

use std::io::{self, IsTerminal, Read};

use clap::Args;
use mosu::EngineOptions;
use serde_json::json;

use super::{
    answer::{AnswerArgs, Responder},
    chat::Chat,
    exit::Failure,
    line_editor::LineEditor,
    model_args::{self, ModelArgs},
    terminal::{self, Screen},
};

/// No context holds more text than this.
const MAX_PROMPT_BYTES: u64 = 64 << 20;

const EXAMPLES: &str = "\
Examples:
  mosu run \"What is mosu?\"                       one answer
  mosu run                                       chat; /help lists its commands
  mosu run < question.txt                        the question from a file or a pipe
  mosu run -m ./Qwen3-0.6B --temperature 0.7     another model, answers that vary
  mosu run -m ./Qwen3-0.6B --raw \"Once upon\"     continue a text

The answer goes to stdout, figures and errors to stderr. Ctrl-C ends an answer.";

/// `mosu run`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct RunArgs {
    /// The question; without one, stdin is the question, or a chat begins when stdin is a terminal
    #[arg(value_name = "PROMPT")]
    prompt: Vec<String>,
    /// What the model is told before the conversation
    #[arg(long, env = "MOSU_SYSTEM", value_name = "TEXT", conflicts_with = "raw")]
    system: Option<String>,
    #[command(flatten)]
    answer: AnswerArgs,
    #[command(flatten)]
    model: ModelArgs,
}

/// Answers the prompt, or chats.
///
/// # Errors
/// What is wrong with the prompt, the model or the flags.
pub fn run(args: RunArgs) -> Result<(), Failure> {
    let raw = args.answer.raw;
    let prompt = prompt(args.prompt, raw)?;
    let source = args.model.source();
    let engine = model_args::load(EngineOptions {
        sampling_defaults: args.answer.wants_sampling_defaults(),
        ..args.model.engine_options()
    })?;
    let responder = Responder::new(engine, &source, args.answer)?;
    let mut stdout = io::stdout();
    let mut screen = Screen::stdout(&mut stdout);
    match prompt {
        Some(prompt) => one_answer(&responder, &prompt, args.system, raw, &mut screen),
        None => {
            // Without a template, say so before anything is typed.
            responder.template()?;
            let mut editor = LineEditor::new()?;
            let mut answer = |messages: &[_], screen: &mut Screen| responder.chat(messages, screen);
            Chat::new(&mut editor, &mut answer, screen, responder.context(), args.system).run()
        }
    }
}

/// The prompt; `None` when there is somebody to ask for it.
fn prompt(words: Vec<String>, raw: bool) -> Result<Option<String>, Failure> {
    let prompt = if !words.is_empty() {
        words.join(" ")
    } else if io::stdin().is_terminal() {
        let refused = || Failure::Usage("--raw needs a prompt: a chat has a template".into());
        return if raw { Err(refused()) } else { Ok(None) };
    } else {
        read_prompt(&mut io::stdin(), raw)?
    };
    if prompt.trim().is_empty() {
        return Err(Failure::Usage("the prompt is empty: write a question behind `mosu run`".into()));
    }
    Ok(Some(prompt))
}

/// The prompt from a pipe or a file. The line break that ends it is no part of a question, but of a raw text.
fn read_prompt(input: &mut dyn Read, raw: bool) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    let read = input.take(MAX_PROMPT_BYTES + 1).read_to_end(&mut bytes);
    read.map_err(|error| Failure::System(format!("the prompt on stdin cannot be read: {error}")))?;
    if bytes.len() as u64 > MAX_PROMPT_BYTES {
        return Err(Failure::Usage(format!("the prompt on stdin is longer than {MAX_PROMPT_BYTES} bytes")));
    }
    let mut prompt = String::from_utf8(bytes).map_err(|error| {
        let place = error.utf8_error().valid_up_to();
        Failure::Usage(format!("the prompt on stdin is not UTF-8 at byte {place}"))
    })?;
    if !raw {
        prompt.truncate(prompt.trim_end_matches(['\r', '\n']).len());
    }
    Ok(prompt)
}

fn one_answer(
    responder: &Responder,
    prompt: &str,
    system: Option<String>,
    raw: bool,
    screen: &mut Screen,
) -> Result<(), Failure> {
    let answer = if raw {
        responder.complete(prompt, screen)?
    } else {
        let system = system.map(|text| json!({"role": "system", "content": text}));
        let question = json!({"role": "user", "content": prompt});
        responder.chat(&Vec::from_iter(system.into_iter().chain([question])), screen)?
    };
    screen.line("")?;
    terminal::note(&answer.summary(responder.context()));
    answer.finish.map(|_| ()).ok_or(Failure::Interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_break_is_no_part_of_a_question() {
        assert_eq!(read_prompt(&mut "a\nb\r\n".as_bytes(), false).unwrap(), "a\nb");
        assert_eq!(read_prompt(&mut "a\n".as_bytes(), true).unwrap(), "a\n");
    }

    #[test]
    fn what_is_no_text_is_refused() {
        let error = read_prompt(&mut &b"ab\xff"[..], false).unwrap_err();
        assert_eq!((error.code(), error.to_string().contains("byte 2")), (2, true));
        assert_eq!(read_prompt(&mut io::repeat(b'a'), false).unwrap_err().code(), 2, "endless");
    }

    #[test]
    fn a_blank_prompt_is_refused() {
        assert_eq!(prompt(vec![" \n".into()], false).unwrap_err().code(), 2);
        assert_eq!(prompt(vec!["what".into(), "is".into()], false).unwrap().as_deref(), Some("what is"));
    }
}
