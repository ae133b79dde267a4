//! What a typed entry means: a question, or a command that begins with a slash.

use std::path::PathBuf;

/// The commands, for /help.
pub const HELP: &str = "\
/clear         forget the conversation
/system TEXT   set the system message; without TEXT there is none
/stats         figures of this chat
/save FILE     write the conversation as JSON, as the API takes it
/exit          leave
\"\"\"            begins and ends a text of several lines
Ctrl-C         stops an answer; twice leaves
Ctrl-D         leaves
A line that begins with a space is never a command.";

const FENCE: &str = "\"\"\"";

/// What was typed.
#[derive(Debug, PartialEq)]
pub enum Entry {
    /// Only blanks.
    Nothing,
    /// For the model.
    Question(String),
    /// For the chat.
    Command(Command),
    /// The chat is over.
    Leave,
    /// For the chat, but not understood. Holds what to say.
    Mistake(String),
}

/// An order to the chat.
#[derive(Debug, PartialEq)]
pub enum Command {
    /// List the commands.
    Help,
    /// Forget the conversation.
    Clear,
    /// Set or remove the system message.
    System(Option<String>),
    /// Tell the figures.
    Stats,
    /// Write the conversation to a file.
    Save(PathBuf),
}

/// Whether the text has opened a `"""` that it has not closed.
pub fn is_open(text: &str) -> bool {
    text.trim_start().strip_prefix(FENCE).is_some_and(|rest| !rest.trim_end().ends_with(FENCE))
}

/// What an entry means.
pub fn parse(text: &str) -> Entry {
    if text.starts_with('/') {
        return command(text);
    }
    let mut question = text.trim();
    if let Some(inside) = question.strip_prefix(FENCE).and_then(|rest| rest.strip_suffix(FENCE)) {
        question = inside.trim();
    }
    if question.is_empty() { Entry::Nothing } else { Entry::Question(question.into()) }
}

fn command(text: &str) -> Entry {
    let (name, argument) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let argument = argument.trim();
    Entry::Command(match (name, argument) {
        ("/help" | "/?", _) => Command::Help,
        ("/clear", _) => Command::Clear,
        ("/system", "") => Command::System(None),
        ("/system", text) => Command::System(Some(text.into())),
        ("/stats", _) => Command::Stats,
        ("/save", "") => return Entry::Mistake("/save needs a file, as in /save chat.json".into()),
        ("/save", file) => Command::Save(file.into()),
        ("/exit" | "/quit" | "/bye", _) => return Entry::Leave,
        _ => {
            let hint = "/help lists the commands; begin with a space to say it to the model";
            return Entry::Mistake(format!("There is no command {name}: {hint}."));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_lose_the_blanks_around_them() {
        assert_eq!(parse("  what is mosu? "), Entry::Question("what is mosu?".into()));
        assert_eq!(parse(" \t"), Entry::Nothing);
        assert_eq!(parse(" /etc/hosts?"), Entry::Question("/etc/hosts?".into()));
    }

    #[test]
    fn fences_hold_several_lines() {
        assert!(is_open("\"\"\"") && is_open(" \"\"\"one") && is_open("\"\"\"one\ntwo"));
        assert!(!is_open("one \"\"\"") && !is_open("\"\"\"one\ntwo\"\"\"") && !is_open(""));
        assert_eq!(parse("\"\"\"\none\n\n two\n\"\"\""), Entry::Question("one\n\n two".into()));
        assert_eq!(parse("\"\"\"\"\"\""), Entry::Nothing);
    }

    #[test]
    fn every_command_in_the_help_is_known() {
        let names = HELP
            .lines()
            .filter_map(|line| line.split_whitespace().next())
            .filter(|name| name.starts_with('/'));
        for name in names {
            assert!(!matches!(parse(&format!("{name} x")), Entry::Mistake(_)), "{name}");
        }
    }

    #[test]
    fn commands_have_arguments() {
        assert_eq!(parse("/system  be brief "), Entry::Command(Command::System(Some("be brief".into()))));
        assert_eq!(parse("/system"), Entry::Command(Command::System(None)));
        assert_eq!(parse("/save a b.json"), Entry::Command(Command::Save("a b.json".into())));
        assert!(matches!(parse("/save"), Entry::Mistake(hint) if hint.contains("/save chat.json")));
    }

    #[test]
    fn unknown_commands_get_a_hint() {
        assert!(
            matches!(parse("/halp me"), Entry::Mistake(hint) if hint.contains("/halp") && hint.contains("/help"))
        );
    }
}
