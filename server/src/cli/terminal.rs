//! What depends on whether somebody watches.

use std::{
    borrow::Cow,
    env,
    io::{self, IsTerminal, Write},
};

use serde::Serialize;

use super::exit::Failure;

/// Where answers are written.
pub struct Screen<'a> {
    out: &'a mut dyn Write,
    /// A terminal obeys control characters.
    terminal: bool,
    colours: bool,
}

impl<'a> Screen<'a> {
    /// Writes to stdout.
    pub fn stdout(stdout: &'a mut io::Stdout) -> Screen<'a> {
        Screen { terminal: stdout.is_terminal(), colours: has_colours(stdout), out: stdout }
    }

    /// Writes to what is no terminal.
    #[cfg(test)]
    pub fn plain(out: &'a mut dyn Write) -> Screen<'a> {
        Screen { out, terminal: false, colours: false }
    }

    /// Writes a part of an answer at once. On a terminal it loses control characters: a model must not move the
    /// cursor or rename the window.
    pub fn answer(&mut self, text: &str) -> io::Result<()> {
        let text = if self.terminal { without_controls(text) } else { text.into() };
        self.out.write_all(text.as_bytes())?;
        self.out.flush()
    }

    /// Writes a line of ours.
    pub fn line(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.out, "{text}")?;
        self.out.flush()
    }

    /// Writes a line of less weight.
    pub fn aside(&mut self, text: &str) -> io::Result<()> {
        let text = dim(text, self.colours);
        self.line(&text)
    }
}

/// Writes an aside on stderr.
pub fn note(text: &str) {
    let stderr = io::stderr();
    // A closed stderr is no reason to end.
    let _ = writeln!(&stderr, "{}", dim(text, has_colours(&stderr)));
}

/// Whether a stream takes colours: it is a terminal that has some, and NO_COLOR is not set.
fn has_colours(stream: &impl IsTerminal) -> bool {
    let unwanted = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    stream.is_terminal() && !unwanted && env::var_os("TERM").is_none_or(|term| term != "dumb")
}

fn dim(text: &str, colours: bool) -> String {
    if colours { format!("\x1b[2m{text}\x1b[0m") } else { text.into() }
}

/// `text` without control characters but line breaks and tabs.
fn without_controls(text: &str) -> Cow<'_, str> {
    let commands = |c: char| c.is_control() && c != '\n' && c != '\t';
    if text.contains(commands) { text.replace(commands, "").into() } else { text.into() }
}

/// Lines of a name and a value, the values under each other.
pub fn table(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    rows.iter().map(|(name, value)| format!("{name:width$}  {value}\n")).collect()
}

/// A document for other programs.
pub fn json(document: &impl Serialize) -> Result<String, Failure> {
    let json = serde_json::to_string_pretty(document);
    json.map(|json| json + "\n")
        .map_err(|error| Failure::System(format!("the JSON cannot be written: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_cannot_command_a_terminal() {
        assert_eq!(without_controls("a\x1b]0;title\x07b\n\tc\u{9b}d"), "a]0;titleb\n\tcd");
        assert_eq!(without_controls("你好"), "你好");
    }

    #[test]
    fn what_is_no_terminal_gets_every_byte() {
        let mut out = Vec::new();
        Screen::plain(&mut out).answer("a\x1bb").unwrap();
        assert_eq!(out, b"a\x1bb");
    }

    #[test]
    fn dim_only_where_colours_are() {
        assert_eq!(dim("x", false), "x");
        assert_eq!(dim("x", true), "\x1b[2mx\x1b[0m");
    }

    #[test]
    fn values_stand_under_each_other() {
        assert_eq!(table(&[("a", "1".into()), ("long", "2".into())]), "a     1\nlong  2\n");
    }
}
