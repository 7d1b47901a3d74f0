//! Messages at the author's spans.

use proc_macro2::{Ident, TokenStream};
use quote::quote;
use tile_lang::ast::Function;
use tile_lang::check::{Mode, check};
use tile_lang::parse::SpanTable;
use tile_lang::{Bindings, Diagnostic};

/// Everything wrong with a function: what the parser found, and, if that is nothing, what the checker finds with
/// sizes and dtypes left open.
pub fn diagnose(function: &Function, table: &SpanTable, mut parsed: Vec<Diagnostic>) -> TokenStream {
    if parsed.is_empty()
        && let Err(found) = check(function, &|_, _| None, &Bindings::default(), Mode::Symbolic)
    {
        parsed = found;
    }
    parsed.iter().map(|diagnostic| compile_error(diagnostic, table)).collect()
}

/// `compile_error!` that underlines the place of a message.
fn compile_error(diagnostic: &Diagnostic, table: &SpanTable) -> TokenStream {
    let mut message = diagnostic.message.clone();
    for (span, note) in &diagnostic.notes {
        message += &format!("\nnote: line {}: {note}", span.line);
    }
    if let Some(help) = &diagnostic.help {
        message += &format!("\nhelp: {help}");
    }
    let here = proc_macro2::Span::call_site();
    let (first, last) = table.get(diagnostic.span).unwrap_or((here, here));
    // An error over two tokens underlines from the first to the last.
    let (first, last) = (Ident::new("first", first), Ident::new("last", last));
    syn::Error::new_spanned(quote!(#first #last), message).to_compile_error()
}
