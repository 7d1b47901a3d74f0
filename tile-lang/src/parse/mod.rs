//! Tokens to syntax tree.
//!
//! Input: a function as `syn` parsed it and the tokens of its attribute. Output: an [`Function`], the
//! compiler's spans behind each of its places, and a message for every construct the language does not have.
//! What could not be read becomes the name `_`, of which the checker assumes nothing.

mod expr;
mod item;
mod tune;

use crate::ast::{DTypeExpr, Function, FunctionKind};
use crate::diag::{Diagnostic, Span};
use crate::dtype::DType;
use proc_macro2::{TokenStream, TokenTree};
use quote::ToTokens;
use std::collections::HashMap;

/// The compiler's spans of the first and last token behind each place of a syntax tree.
#[derive(Clone, Debug, Default)]
pub struct SpanTable {
    places: HashMap<Span, (proc_macro2::Span, proc_macro2::Span)>,
}

impl SpanTable {
    /// The first and last token's spans of a place, if the parser made it.
    pub fn get(&self, span: Span) -> Option<(proc_macro2::Span, proc_macro2::Span)> {
        self.places.get(&span).copied()
    }
}

/// Reads a `#[tile_kernel(attr)]` or `#[tile_fn]` function.
pub fn parse_function(
    attr: TokenStream,
    item: &syn::ItemFn,
    kind: FunctionKind,
) -> (Function, SpanTable, Vec<Diagnostic>) {
    let mut parser = Parser::default();
    let function = parser.function(attr, item, kind);
    (function, parser.table, parser.diagnostics)
}

/// What parsing gathers besides the tree.
#[derive(Default)]
struct Parser {
    table: SpanTable,
    diagnostics: Vec<Diagnostic>,
    dtype_params: Vec<String>,
}

impl Parser {
    /// The place of some tokens.
    fn span(&mut self, tokens: &impl ToTokens) -> Span {
        let mut first = None;
        let mut last = None;
        for tree in tokens.to_token_stream() {
            let (open, close) = match &tree {
                TokenTree::Group(g) => (g.span_open(), g.span_close()),
                other => (other.span(), other.span()),
            };
            first.get_or_insert(open);
            last = Some(close);
        }
        match (first, last) {
            (Some(first), Some(last)) => self.record(first, last),
            _ => Span::default(),
        }
    }

    /// The place from one token to another.
    fn record(&mut self, first: proc_macro2::Span, last: proc_macro2::Span) -> Span {
        let (start, end) = (first.start(), last.end());
        let span = Span {
            file: 0,
            line: start.line as u32,
            col: start.column as u32 + 1,
            end_line: end.line as u32,
            end_col: end.column as u32 + 1,
        };
        self.table.places.insert(span, (first, last));
        span
    }

    /// Reports at `tokens`.
    fn error(&mut self, tokens: &impl ToTokens, message: impl Into<String>) {
        let span = self.span(tokens);
        self.diagnostics.push(Diagnostic::new(span, message));
    }

    /// Reports at `tokens` and says how to mend it.
    fn error_help(&mut self, tokens: &impl ToTokens, message: impl Into<String>, help: impl Into<String>) {
        let span = self.span(tokens);
        self.diagnostics.push(Diagnostic::new(span, message).help(help));
    }

    /// A dtype or dtype parameter named by `ident`.
    fn dtype(&self, ident: &str) -> Option<DTypeExpr> {
        if self.dtype_params.iter().any(|p| p == ident) {
            return Some(DTypeExpr::Param(ident.to_owned()));
        }
        rust_dtype(ident).map(DTypeExpr::Known)
    }
}

/// The dtype that a Rust type's name stands for.
fn rust_dtype(ident: &str) -> Option<DType> {
    match ident {
        "F8E4M3FN" => Some(DType::F8E4M3FN),
        "F4E2M1FN" => Some(DType::F4E2M1FN),
        "index" => None,
        other => DType::from_name(other),
    }
}

/// The tokens as one line of source, spaced as people write.
fn text(tokens: &impl ToTokens) -> String {
    let mut out = tokens.to_token_stream().to_string();
    for (spaced, tight) in [
        (" :: ", "::"),
        (" . ", "."),
        (" < ", "<"),
        (" >", ">"),
        (" (", "("),
        (" [", "["),
        (" ]", "]"),
        (" )", ")"),
        ("( ", "("),
        (" ,", ","),
        (" .. ", ".."),
        ("& ", "&"),
    ] {
        out = out.replace(spaced, tight);
    }
    out
}
