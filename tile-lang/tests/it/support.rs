//! Source text to syntax tree.

use proc_macro2::TokenStream;
use std::str::FromStr;
use tile_lang::ast::{Function, FunctionKind};
use tile_lang::parse::parse_function;
use tile_lang::{Bindings, DType, Diagnostic, Library};

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

/// The last function of `source` with all others as helpers of every function, itself included.
pub fn library(source: &str) -> Library {
    let mut list = functions(source);
    let kernel = list.pop().expect("a function");
    let mut library = Library::new(kernel);
    let named: Vec<_> = list
        .into_iter()
        .map(|helper| {
            let name = helper.name.clone();
            (library.add(0, &name, helper), name)
        })
        .collect();
    for (caller, _) in &named {
        for (callee, name) in &named {
            library.link(*caller, name, *callee);
        }
    }
    library
}

/// Const parameters by name, and `T` where there is one.
pub fn bind(consts: &[(&str, i64)], dtype: DType) -> Bindings {
    Bindings {
        consts: consts.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect(),
        dtypes: [("T".to_owned(), dtype)].into_iter().collect(),
    }
}
