//! `#[tile_fn]`.

use crate::{diagnose, eager};
use proc_macro2::TokenStream;
use quote::{ToTokens, quote};
use std::collections::BTreeSet;
use syn::visit::{self, Visit};
use syn::{ExprCall, ItemFn, Path, PathArguments};
use tile_lang::ast::{Function, FunctionKind};
use tile_lang::builtins::{self, On};

/// Expands `#[tile_fn]`.
pub fn expand(attr: TokenStream, mut item: ItemFn) -> TokenStream {
    let (function, table, parsed) = tile_lang::parse::parse_function(attr, &item, FunctionKind::Helper);
    let errors = diagnose::diagnose(&function, &table, parsed);
    if !errors.is_empty() {
        diagnose::set_aside_body(&mut item);
    }
    let (attrs, vis, name) = (&item.attrs, &item.vis, &item.sig.ident);
    let (params, output) = (&item.sig.inputs, &item.sig.output);
    let generics = eager::dtype_generics(&item);
    let consts = eager::const_arguments(&function, &item);
    let body = eager::body(&item, &function);
    let json = json(&function);
    let list = helper_list(&item);
    let module_doc = format!("What the compiler sees of [`fn@{name}`].");
    quote! {
        #errors

        #(#attrs)*
        #[allow(non_snake_case, clippy::too_many_arguments)]
        #vis fn #name<#(#generics),*>(#(#consts,)* #params) #output #body

        #[doc = #module_doc]
        #vis mod #name {
            /// Carries the helper's calls.
            #[doc(hidden)]
            pub struct Helper;

            /// The recorded helper.
            pub static HELPER: ::tile::private::HelperDef = ::tile::private::HelperDef::new(
                #json,
                <Helper as ::tile::private::HelperBody>::helpers,
            );
        }

        #[doc(hidden)]
        impl ::tile::private::HelperBody for #name::Helper {
            #list
        }
    }
}

/// The tree as the expansion embeds it.
pub fn json(function: &Function) -> String {
    serde_json::to_string(function).expect("a syntax tree has only strings as keys")
}

/// `fn helpers()`, which lists what a body calls that is no operation of the language.
pub fn helper_list(item: &ItemFn) -> TokenStream {
    let mut calls = Calls::default();
    calls.visit_block(&item.block);
    let entries = calls.paths.iter().map(|path| {
        let name = name_of(path);
        quote!((#name, &#path::HELPER))
    });
    quote! {
        fn helpers() -> &'static [(&'static str, &'static ::tile::private::HelperDef)] {
            static LIST: &[(&str, &::tile::private::HelperDef)] = &[#(#entries),*];
            LIST
        }
    }
}

/// A path as the syntax tree spells it.
fn name_of(path: &Path) -> String {
    path.segments.iter().map(|s| s.ident.to_string()).collect::<Vec<_>>().join("::")
}

/// The paths of called helpers, without generic arguments.
#[derive(Default)]
struct Calls {
    seen: BTreeSet<String>,
    paths: Vec<Path>,
}

impl<'ast> Visit<'ast> for Calls {
    /// Of a body that was set aside, nothing is called.
    fn visit_block(&mut self, block: &'ast syn::Block) {
        let aside = matches!(block.stmts.first(), Some(syn::Stmt::Expr(syn::Expr::Block(b), _)) if !b.attrs.is_empty());
        if !aside {
            visit::visit_block(self, block);
        }
    }

    fn visit_expr_call(&mut self, call: &'ast ExprCall) {
        visit::visit_expr_call(self, call);
        let syn::Expr::Path(callee) = &*call.func else { return };
        let mut path = callee.path.clone();
        path.segments.iter_mut().for_each(|s| s.arguments = PathArguments::None);
        let builtin = path
            .segments
            .last()
            .is_some_and(|last| builtins::find(On::Nothing, &last.ident.to_string()).is_some());
        if !builtin && self.seen.insert(path.to_token_stream().to_string()) {
            self.paths.push(path);
        }
    }
}
