//! Source text to syntax tree.

use proc_macro2::TokenStream;
use std::str::FromStr;
use tile_lang::Diagnostic;
use tile_lang::ast::{Function, FunctionKind};
use tile_lang::parse::parse_function;

/// Reads every function of `source`, with what the parser reported.
pub fn parse_all(source: &str) -> Vec<(Function, Vec<Diagnostic>)> {
    let tokens = TokenStream::from_str(source).expect("Rust tokens");
    let file: syn::File = syn::parse2(tokens).expect("Rust items");
    file.items
        .into_iter()
        .map(|item| {
            let syn::Item::Fn(mut item) = item else { panic!("expected functions only") };
            let mut kind = FunctionKind::Helper;
            let mut attr = TokenStream::new();
            for attribute in std::mem::take(&mut item.attrs) {
                if attribute.path().is_ident("tile_kernel") {
                    kind = FunctionKind::Kernel;
                    if let syn::Meta::List(list) = attribute.meta {
                        attr = list.tokens;
                    }
                }
            }
            let (function, _, diagnostics) = parse_function(attr, &item, kind);
            (function, diagnostics)
        })
        .collect()
}

/// The functions of `source`, which the parser must accept.
pub fn functions(source: &str) -> Vec<Function> {
    parse_all(source)
        .into_iter()
        .map(|(function, diagnostics)| {
            assert!(diagnostics.is_empty(), "{diagnostics:#?}");
            function
        })
        .collect()
}

/// `line:col: message` for each, help on its own line.
pub fn render(diagnostics: &[Diagnostic]) -> String {
    let lines: Vec<_> = diagnostics
        .iter()
        .map(|d| match &d.help {
            Some(help) => format!("{d}\n  help: {help}"),
            None => d.to_string(),
        })
        .collect();
    lines.join("\n")
}
