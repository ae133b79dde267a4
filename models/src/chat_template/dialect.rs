//! Templates in the words of minijinja.
//!
//! What Jinja2, as transformers sets it up, reads and minijinja reads otherwise or not at all is rewritten:
//! - line ends, which become `\n`;
//! - `{% generation %}` … `{% endgeneration %}`, tags around what a model says, used in training only: they become
//!   `with` tags, which do nothing and treat white space and scopes alike;
//! - `a % b`, which formats when `a` is a text, and becomes a filter;
//! - `a + b`, whose operands go through a filter: sums of lists are lazy, and a list that is added to itself again and
//!   again would have billions of items that cost nothing until somebody walks over them;
//! - `a[]`, `+a`, and the escapes of texts that only Python has.

use std::{borrow::Cow, iter::repeat_n, mem};

/// The filter that `%` becomes.
pub(super) const PERCENT: &str = "percent_operator";

/// The filter that the operands of `+` go through.
pub(super) const ADDEND: &str = "addend";

/// Words that end an operand.
const KEYWORDS: [&str; 9] = ["and", "else", "elif", "for", "if", "in", "not", "or", "recursive"];

/// Rewrites a template.
pub(super) fn rewrite(source: &str) -> String {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut output = String::with_capacity(source.len());
    let mut rest = source.as_str();
    while let Some(at) = next_tag(rest) {
        output.push_str(&rest[..at]);
        rest = &rest[at..];
        let taken = match rest.as_bytes()[1] {
            b'#' => copy_comment(rest, &mut output),
            _ if tag_name(rest) == "raw" => copy_raw(rest, &mut output),
            _ => Tag::new(rest).rewrite(&mut output),
        };
        rest = &rest[taken..];
    }
    output + rest
}

fn next_tag(text: &str) -> Option<usize> {
    let starts = |at: &usize| matches!(text.as_bytes().get(at + 1), Some(b'{' | b'%' | b'#'));
    text.match_indices('{').map(|(at, _)| at).find(starts)
}

/// The first word of a block's tag.
fn tag_name(tag: &str) -> &str {
    let Some(contents) = tag.strip_prefix("{%") else { return "" };
    let contents = contents.strip_prefix(['-', '+']).unwrap_or(contents).trim_start();
    &contents[..contents.find(|c: char| !is_word(c)).unwrap_or(contents.len())]
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

fn copy_comment(rest: &str, output: &mut String) -> usize {
    let end = rest[2..].find("#}").map_or(rest.len(), |at| at + 4);
    output.push_str(&rest[..end]);
    end
}

/// Copies a raw block. The line end behind its first tag stays, unlike that behind others.
fn copy_raw(rest: &str, output: &mut String) -> usize {
    let open = rest.find("%}").unwrap_or(rest.len());
    let close = rest.match_indices("{%").map(|(at, _)| at).find(|at| tag_name(&rest[*at..]) == "endraw");
    let end = close.unwrap_or(rest.len());
    output.push_str(&rest[..open]);
    if open < end && !rest[..open].ends_with(['-', '+']) {
        output.push('+');
    }
    output.push_str(&rest[open.min(end)..end]);
    end
}

/// One tag while it is rewritten.
struct Tag<'a> {
    rest: &'a str,
    length: usize,
    closing: &'static str,
    /// The rewritten text, each piece behind a number of opening parentheses.
    pieces: Vec<(usize, Cow<'a, str>)>,
    /// What is open inside of brackets, innermost last.
    outer: Vec<Operands>,
    operands: Operands,
    /// Whether the last token ends an operand.
    after_operand: bool,
}

/// Where operands stand, at one depth of brackets.
#[derive(Clone, Copy, Default)]
struct Operands {
    /// The piece that the operand of `+` or `-` begins with.
    addend: Option<usize>,
    /// Whether it is the right one of `+`.
    of_plus: bool,
    /// The piece that the chain of `*`, `/`, `//` and `%` begins with.
    start: Option<usize>,
    /// Whether the operand is the right one of `%`.
    of_percent: bool,
}

impl<'a> Tag<'a> {
    fn new(rest: &'a str) -> Tag<'a> {
        Tag {
            rest,
            length: rest.len(),
            closing: if rest.starts_with("{%") { "%}" } else { "}}" },
            pieces: Vec::new(),
            outer: Vec::new(),
            operands: Operands::default(),
            after_operand: false,
        }
    }

    /// Appends the rewritten tag and returns how long it was.
    fn rewrite(mut self, output: &mut String) -> usize {
        self.copy(2);
        if self.rest.starts_with(['-', '+']) {
            self.copy(1);
        }
        if self.closing == "%}" {
            self.statement_name();
        }
        while !self.rest.is_empty() && !self.at_end() {
            self.token();
        }
        self.end_addend();
        let end = self.rest.find(self.closing).map_or(self.rest.len(), |at| at + 2);
        self.copy(end.min(self.rest.len()));
        for (parentheses, piece) in self.pieces {
            output.extend(repeat_n('(', parentheses));
            output.push_str(&piece);
        }
        self.length - self.rest.len()
    }

    /// A tag ends outside of brackets only.
    fn at_end(&self) -> bool {
        let rest = self.rest.strip_prefix(['-', '+']).unwrap_or(self.rest);
        self.outer.is_empty() && rest.starts_with(self.closing)
    }

    fn copy(&mut self, bytes: usize) {
        let (piece, rest) = self.rest.split_at(bytes);
        self.pieces.push((0, piece.into()));
        self.rest = rest;
    }

    fn replace(&mut self, bytes: usize, piece: impl Into<Cow<'a, str>>) {
        self.pieces.push((0, piece.into()));
        self.rest = &self.rest[bytes..];
    }

    fn statement_name(&mut self) {
        self.copy(self.rest.len() - self.rest.trim_start().len());
        let length = self.word_length();
        match &self.rest[..length] {
            "generation" => self.replace(length, "with"),
            "endgeneration" => self.replace(length, "endwith"),
            _ => self.copy(length),
        }
    }

    fn word_length(&self) -> usize {
        self.rest.find(|c: char| !is_word(c)).unwrap_or(self.rest.len())
    }

    fn token(&mut self) {
        let Some(first) = self.rest.chars().next() else { return };
        match first {
            '"' | '\'' => {
                self.begin_operand();
                self.string(first);
            }
            _ if first.is_whitespace() => self.copy(first.len_utf8()),
            _ if is_word(first) => self.word(),
            '(' | '[' | '{' => self.open(first),
            ')' | ']' | '}' => self.close(),
            '.' | '|' => {
                self.copy(1);
                self.after_operand = false;
            }
            '*' if self.rest.starts_with("**") => self.operator(2),
            '*' | '/' | '%' if self.after_operand => self.multiplication(first),
            '+' if !self.after_operand => self.replace(1, ""),
            '+' => self.addition(),
            // Binds more tightly than `+`.
            '~' => {
                self.end_factor();
                self.operator(1);
            }
            '-' if !self.after_operand => {
                self.begin_operand();
                self.operator(1);
            }
            _ => {
                self.end_addend();
                self.operator(first.len_utf8());
            }
        }
    }

    fn operator(&mut self, bytes: usize) {
        self.copy(bytes);
        self.after_operand = false;
    }

    fn word(&mut self) {
        let mut length = self.word_length();
        let word = &self.rest[..length];
        let is_attribute = self.last_word() == ".";
        // A test belongs to its operand.
        let of_test = word == "is" || (word == "not" && self.last_word() == "is");
        if !is_attribute && of_test {
            self.operator(length);
        } else if !is_attribute && KEYWORDS.contains(&word) {
            self.end_addend();
            self.operator(length);
        } else {
            let exponent = word.starts_with(|c: char| c.is_ascii_digit()) && word.ends_with(['e', 'E']);
            if exponent && self.rest[length..].starts_with(['+', '-']) {
                length += 1 + self.rest[length + 1..].find(|c: char| !is_word(c)).unwrap_or(0);
            }
            self.begin_operand();
            self.copy(length);
            self.after_operand = true;
        }
    }

    /// The last piece that is no white space.
    fn last_word(&self) -> &str {
        let mut pieces = self.pieces.iter().rev().map(|(_, piece)| &**piece);
        pieces.find(|piece| !piece.trim().is_empty()).unwrap_or_default()
    }

    fn begin_operand(&mut self) {
        self.operands.start.get_or_insert(self.pieces.len());
        self.operands.addend.get_or_insert(self.pieces.len());
    }

    /// Ends the right operand of `%`.
    fn end_operand(&mut self) {
        if mem::take(&mut self.operands.of_percent) {
            self.pieces.push((0, ")".into()));
        }
    }

    /// Ends a chain of `*`, `/`, `//` and `%`.
    fn end_factor(&mut self) {
        self.end_operand();
        self.operands.start = None;
    }

    /// Ends an operand of `+` or `-`.
    fn end_addend(&mut self) {
        self.end_factor();
        if mem::take(&mut self.operands.of_plus) {
            self.wrap_addend();
        }
        self.operands.addend = None;
    }

    fn wrap_addend(&mut self) {
        if let Some(start) = self.operands.addend {
            self.pieces[start].0 += 1;
            self.pieces.push((0, format!(")|{ADDEND} ").into()));
        }
    }

    fn addition(&mut self) {
        self.end_factor();
        self.wrap_addend();
        self.operands = Operands { of_plus: true, ..Operands::default() };
        self.operator(1);
    }

    /// A filter binds more tightly than every operator, so that the chain before `%` is put into parentheses.
    fn multiplication(&mut self, operator: char) {
        self.end_operand();
        match (operator, self.operands.start) {
            ('%', Some(start)) => {
                self.pieces[start].0 += 1;
                self.replace(1, format!(")|{PERCENT}("));
                self.operands.of_percent = true;
                self.after_operand = false;
            }
            _ => self.operator(if self.rest.starts_with("//") { 2 } else { 1 }),
        }
    }

    fn open(&mut self, bracket: char) {
        let inside = self.rest[1..].trim_start();
        if bracket == '[' && self.after_operand && inside.starts_with(']') {
            self.replace(self.rest.len() - inside.len() + 1, "[()]");
            return;
        }
        self.begin_operand();
        self.outer.push(mem::take(&mut self.operands));
        self.operator(1);
    }

    fn close(&mut self) {
        self.end_addend();
        self.operands = self.outer.pop().unwrap_or_default();
        self.copy(1);
        self.after_operand = true;
    }

    fn string(&mut self, quote: char) {
        let mut text = String::from(quote);
        let mut rest = &self.rest[1..];
        while let Some(at) = rest.find(['\\', quote]) {
            text.push_str(&rest[..at]);
            rest = &rest[at..];
            if rest.starts_with(quote) {
                text.push(quote);
                let bytes = self.rest.len() - rest.len() + 1;
                self.replace(bytes, text);
                self.after_operand = true;
                return;
            }
            let taken = escape(rest, &mut text);
            rest = &rest[taken..];
        }
        self.copy(self.rest.len());
    }
}

/// Appends an escape of Python's as minijinja reads it, and returns its length. Those that both read alike stay.
fn escape(rest: &str, text: &mut String) -> usize {
    let character = rest[1..].chars().next();
    let long = rest.get(2..10).filter(|_| character == Some('U'));
    if let Some(wide) = long.and_then(|digits| char::from_u32(u32::from_str_radix(digits, 16).ok()?)) {
        text.push(wide);
        return 10;
    }
    match character {
        Some('\n') => {}
        Some('/') => text.push_str("\\\\/"),
        Some('a') => text.push_str("\\x07"),
        Some('v') => text.push_str("\\x0b"),
        Some(other) => text.extend(['\\', other]),
        None => text.push('\\'),
    }
    1 + character.map_or(0, char::len_utf8)
}

#[cfg(test)]
mod tests {
    use super::rewrite;

    #[test]
    fn only_what_must_changes() {
        for (source, expected) in [
            ("a{%- generation -%}b{%endgeneration+%}c", "a{%- with -%}b{%endwith+%}c"),
            ("{% raw %}{{{% endraw %}{% generation %}", "{% raw +%}{{{% endraw %}{% with %}"),
            ("{{ a % b }}", "{{ (a )|percent_operator( b )}}"),
            (
                "{{ x + 2 * y[i % 3] % -z ** 2 % 4 - 1 }}",
                "{{ (x )|addend + (((2 * y[(i )|percent_operator( 3)] )|percent_operator( -z ** 2 ))|percent_operator( 4 ))|addend - 1 }}",
            ),
            (
                "{{ a ~ b + [c + 1e+5] -}}",
                "{{ (a ~ b )|addend + ([(c )|addend + (1e+5)|addend ] )|addend -}}",
            ),
            ("{% for x in a + b recursive %}", "{% for x in (a )|addend + (b )|addend recursive %}"),
            ("{{ a + b is not defined == c }}", "{{ (a )|addend + (b is not defined )|addend == c }}"),
            ("{{ -a - b.c(d=1)[0] + e|f }}", "{{ -a - (b.c(d=1)[0] )|addend + (e|f )|addend }}"),
            ("{{ x if a + b else c }}", "{{ x if (a )|addend + (b )|addend else c }}"),
            (
                "{% if not a % 2 == 1 and '%' in b -%}",
                "{% if not (a )|percent_operator( 2 )== 1 and '%' in b -%}",
            ),
            ("{{ a[] }}{{ +a }}{{ a + +b }}", "{{ a[()] }}{{ a }}{{ (a )|addend + (b )|addend }}"),
            (r"{{ 'a\/\v\n\U0001F600' }}", r"{{ 'a\\/\x0b\n😀' }}"),
            ("{{ 'a\\\nb' }}\r\n\r", "{{ 'ab' }}\n\n"),
        ] {
            assert_eq!(rewrite(source), expected);
        }
        for same in [
            "{# {% generation %} #}",
            "{{ '}}{% generation %}' }}",
            "{% raw -%}{# {% generation %}{% endraw %}",
            "{% set generation = 1 %}{{ generation }}",
            "{{ a.if - 1e+5 - a.in -1 -}}",
            "{{ {'a': {'b': 1}} }}{{ [] }}{{ a['}}'] }}",
            "{% if x",
            "{{ x",
            "{{ 'x",
            "{{ )",
            "{",
            "{{",
            "{% raw",
            "{# x",
            "{{ x\\",
            "{{ 'x\\",
            "",
        ] {
            assert_eq!(rewrite(same), same);
        }
    }
}
