//! The filter `wordwrap`: lines of a limited width, cut where Python's `textwrap` cuts.

use std::sync::LazyLock;

use fancy_regex::Regex;
use minijinja::{Error, State};

use super::super::{
    arguments::{Args, bind_filter, integer, invalid, text_of, truth},
    fuel::{BoundedText, byte_budget},
    text::{is_space, lines},
};

/// White space, a dash between words, or a word up to white space, to a hyphen between letters, or to a dash.
const WORD_OR_SPACE: &str = r#"[\t\n\x0b\x0c\r ]+|(?<=[\w!"'&.,?])-{2,}(?=\w)|[^\t\n\x0b\x0c\r ]+?(?:-(?:(?<=[^\d\W]{2}-)|(?<=[^\d\W]-[^\d\W]-))(?=[^\d\W]-?[^\d\W])|(?=[\t\n\x0b\x0c\r ]|\z)|(?<=[\w!"'&.,?])(?=-{2,}\w))"#;

static CHUNKS: LazyLock<Result<Regex, fancy_regex::Error>> = LazyLock::new(|| Regex::new(WORD_OR_SPACE));

/// A word, a part of one, or white space.
#[derive(Clone, Copy)]
struct Chunk<'a> {
    text: &'a str,
    /// Characters.
    length: usize,
}

impl<'a> Chunk<'a> {
    fn new(text: &'a str) -> Chunk<'a> {
        Chunk { text, length: text.chars().count() }
    }

    fn is_blank(&self) -> bool {
        self.text.chars().all(is_space)
    }

    /// Cuts off the first `length` characters.
    fn split(self, length: usize) -> (Chunk<'a>, Chunk<'a>) {
        let at = self.text.char_indices().nth(length).map_or(self.text.len(), |(at, _)| at);
        let (head, tail) = self.text.split_at(at);
        (Chunk { text: head, length }, Chunk { text: tail, length: self.length - length })
    }
}

struct Wrap {
    width: usize,
    break_long_words: bool,
    break_on_hyphens: bool,
}

pub(super) fn wordwrap(state: &State, args: Args) -> Result<String, Error> {
    let names = ["width", "break_long_words", "wrapstring", "break_on_hyphens"];
    let (value, [width, break_long_words, wrapstring, break_on_hyphens]) =
        bind_filter("wordwrap", names, args)?;
    let newline = wrapstring.filter(|text| !text.is_none()).unwrap_or_else(|| "\n".into());
    let newline = text_of("wordwrap", &newline)?;
    let width = usize::try_from(integer(width, 79)?).unwrap_or(0);
    if width == 0 {
        return Err(invalid("wordwrap: the width must be positive"));
    }
    let wrap = Wrap {
        width,
        break_long_words: break_long_words.is_none() || truth(break_long_words),
        break_on_hyphens: break_on_hyphens.is_none() || truth(break_on_hyphens),
    };
    let mut output = BoundedText { text: String::new(), limit: byte_budget(state) };
    for (index, (line, _)) in lines(text_of("wordwrap", &value)?).enumerate() {
        if index > 0 {
            output.push(newline)?;
        }
        state.consume_fuel(line.len() as u64 / 2)?;
        wrap.line(line, newline, &mut output)?;
    }
    Ok(output.text)
}

impl Wrap {
    /// Appends the lines that one line becomes.
    fn line(&self, line: &str, newline: &str, output: &mut BoundedText) -> Result<(), Error> {
        let mut chunks = self.chunks(line)?;
        chunks.reverse();
        let mut first = true;
        while !chunks.is_empty() {
            if !first && chunks.last().is_some_and(Chunk::is_blank) {
                chunks.pop();
            }
            let mut line = self.take(&mut chunks);
            if line.last().is_some_and(Chunk::is_blank) {
                line.pop();
            }
            if line.is_empty() {
                continue;
            }
            if !first {
                output.push(newline)?;
            }
            first = false;
            line.iter().try_for_each(|chunk| output.push(chunk.text))?;
        }
        Ok(())
    }

    /// Takes the chunks of the next line off the end.
    fn take<'a>(&self, chunks: &mut Vec<Chunk<'a>>) -> Vec<Chunk<'a>> {
        let (mut line, mut length) = (Vec::new(), 0);
        while let Some(chunk) = chunks.pop_if(|chunk| length + chunk.length <= self.width) {
            length += chunk.length;
            line.push(chunk);
        }
        if let Some(long) = chunks.pop_if(|chunk| chunk.length > self.width) {
            if self.break_long_words {
                let (head, tail) = long.split(self.cut(long, self.width - length));
                line.push(head);
                chunks.push(tail);
            } else if line.is_empty() {
                line.push(long);
            } else {
                chunks.push(long);
            }
        }
        line
    }

    /// How many characters of a long word fit into `space`: up to its last hyphen there, if it has one.
    fn cut(&self, word: Chunk, space: usize) -> usize {
        if !self.break_on_hyphens {
            return space;
        }
        let (head, _) = word.split(space);
        match head.text.rfind('-') {
            Some(at) if head.text[..at].contains(|c| c != '-') => head.text[..at].chars().count() + 1,
            _ => space,
        }
    }

    fn chunks<'a>(&self, line: &'a str) -> Result<Vec<Chunk<'a>>, Error> {
        if !self.break_on_hyphens {
            return Ok(words_and_spaces(line));
        }
        let failed = |error: &dyn std::fmt::Display| invalid(format!("wordwrap: {error}"));
        let regex = CHUNKS.as_ref().map_err(|error| failed(error))?;
        let (mut chunks, mut at) = (Vec::new(), 0);
        for found in regex.find_iter(line) {
            let found = found.map_err(|error| failed(&error))?;
            chunks.extend([&line[at..found.start()], found.as_str()].map(Chunk::new));
            at = found.end();
        }
        chunks.push(Chunk::new(&line[at..]));
        chunks.retain(|chunk| chunk.length > 0);
        Ok(chunks)
    }
}

fn words_and_spaces(line: &str) -> Vec<Chunk<'_>> {
    let is_space = |c: char| matches!(c, '\t' | '\n' | '\x0b' | '\x0c' | '\r' | ' ');
    let (mut chunks, mut rest) = (Vec::new(), line);
    while let Some(first) = rest.chars().next() {
        let end = rest.find(|c| is_space(c) != is_space(first)).unwrap_or(rest.len());
        let (chunk, after) = rest.split_at(end);
        chunks.push(Chunk::new(chunk));
        rest = after;
    }
    chunks
}
