//! Messages at the author's spans.

use proc_macro2::{Ident, TokenStream};
use quote::quote;
use syn::{FnArg, GenericParam, ItemFn, Pat, parse_quote};
use tile_lang::ast::Function;
use tile_lang::check::{Mode, check};
use tile_lang::parse::SpanTable;
use tile_lang::{Bindings, Diagnostic};

/// Everything wrong with a function: what the parser found, and what the checker finds with sizes and dtypes left
/// open. The checker assumes nothing of what the parser could not read in the body; where it could not read the
/// signature, mistakes of the body may be none, and wait.
pub fn diagnose(function: &Function, table: &SpanTable, parsed: Vec<Diagnostic>) -> TokenStream {
    let mut all = parsed;
    let in_signature = |d: &Diagnostic| d.span.to(function.span) == function.span;
    if !all.iter().any(in_signature)
        && let Err(found) = check(function, &|_, _| None, &Bindings::default(), Mode::Symbolic)
    {
        let new: Vec<_> = found.into_iter().filter(|d| !all.contains(d)).collect();
        all.extend(new);
    }
    all.iter().map(|diagnostic| compile_error(diagnostic, table)).collect()
}

/// Keeps the body of a function with mistakes from rustc, which would report them once more in terms of types that
/// its author never wrote; editors still see it.
pub fn set_aside_body(item: &mut ItemFn) {
    let params = item.sig.inputs.iter().filter_map(|input| match input {
        FnArg::Typed(typed) => match &*typed.pat {
            Pat::Ident(ident) => Some(&ident.ident),
            _ => None,
        },
        FnArg::Receiver(_) => None,
    });
    let consts = item.sig.generics.params.iter().filter_map(|param| match param {
        GenericParam::Const(param) => Some(&param.ident),
        _ => None,
    });
    let (names, block) = (params.chain(consts), &item.block);
    item.block = parse_quote!({
        #[cfg(rust_analyzer)]
        #block
        let _ = (#(&#names,)*);
        ::core::panic!("the function did not compile")
    });
    item.attrs.push(parse_quote!(#[allow(unexpected_cfgs)]));
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
