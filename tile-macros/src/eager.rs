//! The body as it runs on the CPU: the author's own, with four changes.
//!
//! Checks are evaluated in checked launches alone. Loop bodies release the tiles of each iteration that the loop does not carry; const parameters are ordinary
//! arguments, so that one compiled body serves every configuration; const arguments of helpers follow suit.

use proc_macro2::TokenStream;
use quote::{ToTokens, quote};
use std::collections::HashSet;
use syn::visit_mut::{self, VisitMut};
use syn::{
    Block, Expr, ExprCall, GenericArgument, GenericParam, Ident, ItemFn, Pat, PathArguments, Stmt, Type,
    parse_quote,
};
use tile_lang::DType;
use tile_lang::ast::{ConstKind, DTypeExpr, Function};

/// The author's block with the changes made.
pub fn body(item: &ItemFn, function: &Function) -> Block {
    let mut block = (*item.block).clone();
    Rewriter { function }.visit_block_mut(&mut block);
    block
}

/// The dtype parameters as written: `T: Float, U: Element`.
pub fn dtype_generics(item: &ItemFn) -> Vec<GenericParam> {
    item.sig.generics.params.iter().filter(|p| matches!(p, GenericParam::Type(_))).cloned().collect()
}

/// The const parameters as arguments: `TILE_M: usize`.
pub fn const_arguments(function: &Function, item: &ItemFn) -> Vec<TokenStream> {
    let idents = item.sig.generics.params.iter().filter_map(|p| match p {
        GenericParam::Const(c) => Some(&c.ident),
        _ => None,
    });
    idents
        .zip(&function.const_params)
        .map(|(ident, param)| match param.kind {
            ConstKind::Size => quote!(#ident: ::core::primitive::usize),
            ConstKind::Bool => quote!(#ident: ::core::primitive::bool),
        })
        .collect()
}

/// The Rust type of an element.
pub fn element_type(dtype: &DTypeExpr) -> TokenStream {
    match dtype {
        DTypeExpr::Param(name) => Ident::new(name, proc_macro2::Span::call_site()).into_token_stream(),
        DTypeExpr::Known(dtype) => known_type(*dtype),
    }
}

/// The Rust type of a dtype.
pub fn known_type(dtype: DType) -> TokenStream {
    match dtype {
        DType::F32 => quote!(::core::primitive::f32),
        DType::I32 => quote!(::core::primitive::i32),
        DType::I64 => quote!(::core::primitive::i64),
        DType::Index => quote!(::core::primitive::usize),
        DType::Bool => quote!(::core::primitive::bool),
        DType::F16 => quote!(::tile::private::f16),
        DType::BF16 => quote!(::tile::private::bf16),
        DType::F8E4M3FN => quote!(::tile::private::F8E4M3FN),
        DType::F4E2M1FN => quote!(::tile::private::F4E2M1FN),
    }
}

struct Rewriter<'a> {
    function: &'a Function,
}

impl Rewriter<'_> {
    fn is_dtype(&self, ty: &Type) -> bool {
        let Type::Path(path) = ty else { return true };
        let Some(last) = path.path.segments.last() else { return true };
        let name = last.ident.to_string();
        let aliases = ["F8E4M3FN", "F4E2M1FN"];
        path.path.segments.len() > 1
            || !last.arguments.is_none()
            || DType::from_name(&name).is_some()
            || aliases.contains(&name.as_str())
            || self.function.dtype_params.iter().any(|p| p.name == name)
    }

    /// `helper::<T, 64>(x)` becomes `helper::<T>(64, x)`.
    fn pass_consts(&self, call: &mut ExprCall) {
        let Expr::Path(callee) = &mut *call.func else { return };
        let Some(segment) = callee.path.segments.last_mut() else { return };
        let PathArguments::AngleBracketed(generics) = &mut segment.arguments else { return };
        let mut consts: Vec<Expr> = Vec::new();
        let args = std::mem::take(&mut generics.args);
        for arg in args {
            match arg {
                GenericArgument::Const(expr) => consts.push(expr),
                GenericArgument::Type(ty) if !self.is_dtype(&ty) => consts.push(parse_quote!(#ty)),
                other => generics.args.push(other),
            }
        }
        if generics.args.is_empty() && !consts.is_empty() {
            segment.arguments = PathArguments::None;
        }
        for (i, expr) in consts.into_iter().enumerate() {
            call.args.insert(i, expr);
        }
    }
}

impl VisitMut for Rewriter<'_> {
    fn visit_expr_mut(&mut self, expr: &mut Expr) {
        visit_mut::visit_expr_mut(self, expr);
        match expr {
            Expr::ForLoop(loop_) => {
                let mut bound = HashSet::new();
                names(&loop_.pat, &mut bound);
                release(&mut loop_.body, bound);
                *expr = marked(expr);
            }
            Expr::While(loop_) => {
                release(&mut loop_.body, HashSet::new());
                *expr = marked(expr);
            }
            Expr::Call(call) if is_check(call) => {
                *expr = parse_quote!(if ::tile::private::checking() { #call });
            }
            Expr::Call(call) => self.pass_consts(call),
            _ => {}
        }
    }
}

/// A call of the language's `check`.
fn is_check(call: &ExprCall) -> bool {
    let Expr::Path(callee) = &*call.func else { return false };
    callee.path.segments.last().is_some_and(|last| last.ident == "check")
}

/// A loop behind the mark that its iterations release to. The mark is older than every iteration, so that the last
/// iteration's carried tiles go when the next one has replaced them.
fn marked(loop_: &Expr) -> Expr {
    parse_quote!({
        let __tile_mark = ::tile::private::mark();
        #loop_
    })
}

/// Ends a loop's body with the release of what the loop does not carry.
fn release(body: &mut Block, bound: HashSet<String>) {
    let mut carried = Carried { scopes: vec![bound], found: Vec::new() };
    carried.block(body);
    let found = &carried.found;
    let inner = body.clone();
    *body = parse_quote!({
        #inner
        ::tile::private::release(
            __tile_mark,
            &mut [#(&mut #found as &mut dyn ::tile::private::Carried),*],
        );
    });
}

/// Finds the variables of outer blocks that a loop's body assigns.
struct Carried {
    /// Names bound inside the body, block by block.
    scopes: Vec<HashSet<String>>,
    found: Vec<Ident>,
}

impl Carried {
    fn block(&mut self, block: &Block) {
        self.scopes.push(HashSet::new());
        for stmt in &block.stmts {
            match stmt {
                Stmt::Local(local) => {
                    if let Some(init) = &local.init {
                        self.expr(&init.expr);
                    }
                    names(&local.pat, self.scopes.last_mut().expect("the block's own"));
                }
                Stmt::Expr(expr, _) => self.expr(expr),
                Stmt::Item(_) | Stmt::Macro(_) => {}
            }
        }
        self.scopes.pop();
    }

    fn expr(&mut self, expr: &Expr) {
        struct Inside<'a>(&'a mut Carried);
        impl<'ast> syn::visit::Visit<'ast> for Inside<'_> {
            fn visit_expr(&mut self, expr: &'ast Expr) {
                match expr {
                    Expr::Assign(assign) => self.0.target(&assign.left),
                    Expr::Binary(binary) if is_assignment(&binary.op) => self.0.target(&binary.left),
                    _ => {}
                }
                if let Expr::ForLoop(loop_) = expr {
                    self.visit_expr(&loop_.expr);
                    let mut bound = HashSet::new();
                    names(&loop_.pat, &mut bound);
                    self.0.scopes.push(bound);
                    self.0.block(&loop_.body);
                    self.0.scopes.pop();
                } else {
                    syn::visit::visit_expr(self, expr);
                }
            }

            fn visit_block(&mut self, block: &'ast Block) {
                self.0.block(block);
            }
        }
        syn::visit::Visit::visit_expr(&mut Inside(self), expr);
    }

    fn target(&mut self, left: &Expr) {
        match left {
            Expr::Tuple(tuple) => tuple.elems.iter().for_each(|e| self.target(e)),
            Expr::Paren(inner) => self.target(&inner.expr),
            Expr::Path(path) => {
                if let Some(ident) = path.path.get_ident()
                    && !self.scopes.iter().any(|s| s.contains(&ident.to_string()))
                    && !self.found.contains(ident)
                {
                    self.found.push(ident.clone());
                }
            }
            _ => {}
        }
    }
}

fn is_assignment(op: &syn::BinOp) -> bool {
    use syn::BinOp as B;
    matches!(
        op,
        B::AddAssign(_)
            | B::SubAssign(_)
            | B::MulAssign(_)
            | B::DivAssign(_)
            | B::RemAssign(_)
            | B::BitXorAssign(_)
            | B::BitAndAssign(_)
            | B::BitOrAssign(_)
            | B::ShlAssign(_)
            | B::ShrAssign(_)
    )
}

/// The names that a pattern binds.
fn names(pat: &Pat, out: &mut HashSet<String>) {
    match pat {
        Pat::Ident(ident) => {
            out.insert(ident.ident.to_string());
        }
        Pat::Tuple(tuple) => tuple.elems.iter().for_each(|p| names(p, out)),
        Pat::Type(typed) => names(&typed.pat, out),
        Pat::Paren(inner) => names(&inner.pat, out),
        _ => {}
    }
}
