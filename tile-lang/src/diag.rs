//! Places in kernel source, and messages about them.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A range of a source file; lines and columns count from 1, the end is exclusive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Span {
    /// Index into [`crate::typed::Program::files`]; 0, the kernel's own file, in a syntax tree.
    pub file: u32,
    /// First line.
    pub line: u32,
    /// First column.
    pub col: u32,
    /// Last line.
    pub end_line: u32,
    /// Column after the last character.
    pub end_col: u32,
}

impl Span {
    /// The smallest span that holds both, which lie in one file.
    pub fn to(self, other: Span) -> Span {
        let start = (self.line, self.col).min((other.line, other.col));
        let end = (self.end_line, self.end_col).max((other.end_line, other.end_col));
        Span { file: self.file, line: start.0, col: start.1, end_line: end.0, end_col: end.1 }
    }
}

/// One message at one place: what was expected, what was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnostic {
    /// The place the message is about.
    pub span: Span,
    /// What was expected and what was found, in the words of the kernel's source.
    pub message: String,
    /// Further places that explain the first, such as where a value got its shape.
    pub notes: Vec<(Span, String)>,
    /// How to mend it, where that is known.
    pub help: Option<String>,
}

impl Diagnostic {
    /// A message with no notes.
    pub fn new(span: Span, message: impl Into<String>) -> Self {
        Diagnostic { span, message: message.into(), notes: Vec::new(), help: None }
    }

    /// Adds a further place.
    pub fn note(mut self, span: Span, message: impl Into<String>) -> Self {
        self.notes.push((span, message.into()));
        self
    }

    /// Adds how to mend it.
    pub fn help(mut self, message: impl Into<String>) -> Self {
        self.help = Some(message.into());
        self
    }

    /// The message as `file:line:col: message`, notes and help below it.
    pub fn render(&self, files: &[String]) -> String {
        let place = |span: Span| {
            let file = files.get(span.file as usize).map_or("<unknown>", String::as_str);
            format!("{file}:{}:{}", span.line, span.col)
        };
        let mut out = format!("{}: {}", place(self.span), self.message);
        for (span, note) in &self.notes {
            out += &format!("\n  {}: {note}", place(*span));
        }
        if let Some(help) = &self.help {
            out += &format!("\n  help: {help}");
        }
        out
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.span.line, self.span.col, self.message)
    }
}
