//! From text to tokens.

use crate::fault::ParseError;

/// What PTX is made of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Token<'a> {
    /// A name, directive, opcode or register, with its dots.
    Word(&'a str),
    /// An integer, or the bits of a float written in hexadecimal.
    Number(u64),
    /// Anything else that is not space.
    Mark(char),
}

fn starts_word(c: char) -> bool {
    c.is_ascii_alphabetic() || "_$%.".contains(c)
}

fn goes_on(c: char) -> bool {
    c.is_ascii_alphanumeric() || "_$%.".contains(c)
}

/// How many bytes of `text` are a word; `::` is part of one, the colon of a label is not.
fn word_len(text: &str) -> usize {
    let mut at = 0;
    loop {
        at += text[at..].find(|c| !goes_on(c)).unwrap_or(text.len() - at);
        match text[at..].strip_prefix("::") {
            Some(rest) if rest.starts_with(goes_on) => at += 2,
            _ => return at,
        }
    }
}

/// The number that `text` starts with, and its length.
fn number(text: &str) -> Option<(u64, usize)> {
    let len = text.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(text.len());
    let (digits, radix) = match text.get(..2) {
        Some("0x" | "0X" | "0f" | "0F" | "0d" | "0D") => (&text[2..len], 16),
        Some("0b" | "0B") => (&text[2..len], 2),
        _ => (&text[..len], 10),
    };
    Some((u64::from_str_radix(digits.trim_end_matches('U'), radix).ok()?, len))
}

/// The tokens of a text, each with its line from 1 on.
pub(crate) fn tokens(text: &str) -> Result<Vec<(Token<'_>, u32)>, ParseError> {
    let mut found = Vec::new();
    for (line, mut rest) in (1..).zip(text.lines()) {
        if let Some(comment) = rest.find("//") {
            rest = &rest[..comment];
        }
        while let Some(c) = rest.chars().next() {
            let (token, len) = if c.is_whitespace() {
                rest = &rest[c.len_utf8()..];
                continue;
            } else if c.is_ascii_digit() {
                let (value, len) = number(rest).ok_or_else(|| ParseError::new(line, "a number", rest))?;
                (Token::Number(value), len)
            } else if starts_word(c) {
                let len = word_len(rest);
                (Token::Word(&rest[..len]), len)
            } else {
                (Token::Mark(c), c.len_utf8())
            };
            found.push((token, line));
            rest = &rest[len..];
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::Token::{Mark, Number, Word};
    use super::*;

    #[test]
    fn words_keep_double_colons_and_labels_do_not() {
        let text = "again: st.shared::cta.b32 [%r1 + 0x10], 0f3F800000; // a comment";
        let found: Vec<_> = tokens(text).unwrap().into_iter().map(|(token, _)| token).collect();
        let expected = [
            Word("again"),
            Mark(':'),
            Word("st.shared::cta.b32"),
            Mark('['),
            Word("%r1"),
            Mark('+'),
            Number(16),
            Mark(']'),
            Mark(','),
            Number(0x3f80_0000),
            Mark(';'),
        ];
        assert_eq!(found, expected);
    }
}
