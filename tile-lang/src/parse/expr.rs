//! Statements and expressions.

use super::{Parser, rust_dtype, text};
use crate::ast::{BinaryOp, Binding, Block, DTypeExpr, Expr, ExprKind, GenericArg, Stmt, StmtKind, UnaryOp};
use crate::diag::Span;
use crate::dtype::DType;
use quote::ToTokens;
use std::f32::consts;
use syn::{Expr as Syn, ExprForLoop, ExprMethodCall, GenericArgument, Lit, Local, Pat, RangeLimits, Type};

/// Named constants, as their paths end.
const CONSTANTS: [(&str, f64, DType); 20] = [
    ("f32::INFINITY", f64::INFINITY, DType::F32),
    ("f32::NEG_INFINITY", f64::NEG_INFINITY, DType::F32),
    ("f32::NAN", f64::NAN, DType::F32),
    ("f32::MAX", f32::MAX as f64, DType::F32),
    ("f32::MIN", f32::MIN as f64, DType::F32),
    ("f32::MIN_POSITIVE", f32::MIN_POSITIVE as f64, DType::F32),
    ("f32::EPSILON", f32::EPSILON as f64, DType::F32),
    ("i32::MAX", i32::MAX as f64, DType::I32),
    ("i32::MIN", i32::MIN as f64, DType::I32),
    ("consts::PI", consts::PI as f64, DType::F32),
    ("consts::TAU", consts::TAU as f64, DType::F32),
    ("consts::E", consts::E as f64, DType::F32),
    ("consts::LN_2", consts::LN_2 as f64, DType::F32),
    ("consts::LN_10", consts::LN_10 as f64, DType::F32),
    ("consts::LOG2_E", consts::LOG2_E as f64, DType::F32),
    ("consts::LOG10_E", consts::LOG10_E as f64, DType::F32),
    ("consts::LOG2_10", consts::LOG2_10 as f64, DType::F32),
    ("consts::SQRT_2", consts::SQRT_2 as f64, DType::F32),
    ("consts::FRAC_1_SQRT_2", consts::FRAC_1_SQRT_2 as f64, DType::F32),
    ("consts::FRAC_2_SQRT_PI", consts::FRAC_2_SQRT_PI as f64, DType::F32),
];

impl Parser {
    /// Reads `{ .. }`.
    pub(super) fn block(&mut self, block: &syn::Block) -> Block {
        let mut out = Block::default();
        let last = block.stmts.len().saturating_sub(1);
        for (i, stmt) in block.stmts.iter().enumerate() {
            match stmt {
                syn::Stmt::Local(local) => self.local(local, &mut out),
                syn::Stmt::Expr(expr, semicolon) => {
                    if let Some(kind) = self.statement(expr) {
                        let span = self.span(stmt);
                        out.stmts.push(Stmt { kind, span });
                    } else if i == last && semicolon.is_none() {
                        out.value = Some(Box::new(self.expr(expr)));
                    } else {
                        let kind = StmtKind::Expr(self.expr(expr));
                        let span = self.span(stmt);
                        out.stmts.push(Stmt { kind, span });
                    }
                }
                syn::Stmt::Item(syn::Item::Const(item)) => {
                    let value = self.expr(&item.expr);
                    let ty = self.type_expr(&item.ty);
                    let name = self.binding(&item.ident, false);
                    let span = self.span(item);
                    out.stmts.push(Stmt { kind: StmtKind::Let { names: vec![name], ty, value }, span });
                }
                syn::Stmt::Item(item) => {
                    self.error(item, "a tile function cannot hold items other than `const`; move it out");
                }
                syn::Stmt::Macro(call) => self.refuse_macro(&call.mac),
            }
        }
        out
    }

    fn binding(&mut self, ident: &syn::Ident, mutable: bool) -> Binding {
        Binding { name: ident.to_string(), mutable, span: self.span(ident) }
    }

    fn local(&mut self, local: &Local, out: &mut Block) {
        let (pat, ty) = match &local.pat {
            Pat::Type(typed) => (&*typed.pat, Some(&*typed.ty)),
            pat => (pat, None),
        };
        let names = self.names(pat);
        let ty = match ty {
            None | Some(Type::Infer(_)) => None,
            Some(Type::Tuple(tuple)) => {
                self.error(tuple, "the names of a tuple cannot have declared types; leave the type out");
                None
            }
            Some(ty) => self.type_expr(ty),
        };
        let Some(init) = &local.init else {
            self.error_help(local, "`let` needs a value here", "give it one: `let mut x = 0;`");
            return;
        };
        if let Some((_, otherwise)) = &init.diverge {
            self.error(otherwise, "`let .. else` is not part of the tile language");
        }
        let value = self.expr(&init.expr);
        if let Some(names) = names {
            let span = self.span(local);
            out.stmts.push(Stmt { kind: StmtKind::Let { names, ty, value }, span });
        }
    }

    /// The names a pattern binds.
    fn names(&mut self, pat: &Pat) -> Option<Vec<Binding>> {
        match pat {
            Pat::Ident(p) if p.by_ref.is_none() && p.subpat.is_none() => {
                Some(vec![self.binding(&p.ident, p.mutability.is_some())])
            }
            Pat::Wild(_) => {
                let span = self.span(pat);
                Some(vec![Binding { name: "_".to_owned(), mutable: false, span }])
            }
            Pat::Paren(inner) => self.names(&inner.pat),
            Pat::Tuple(tuple) => {
                let names: Vec<_> = tuple.elems.iter().map(|p| self.names(p)).collect::<Option<_>>()?;
                if names.iter().any(|n| n.len() != 1) {
                    self.error(pat, "tuples cannot be nested");
                    return None;
                }
                Some(names.into_iter().flatten().collect())
            }
            _ => {
                let found = text(pat);
                self.error(pat, format!("expected a name or a tuple of names; found the pattern `{found}`"));
                None
            }
        }
    }

    /// What is a statement and never a value; `None` for anything else.
    fn statement(&mut self, expr: &Syn) -> Option<StmtKind> {
        match expr {
            Syn::ForLoop(loop_) => Some(self.for_loop(loop_)),
            Syn::While(loop_) => {
                self.refuse_label(&loop_.label);
                let cond = self.expr(&loop_.cond);
                Some(StmtKind::While { cond, body: self.block(&loop_.body) })
            }
            Syn::Assign(assign) => {
                let targets = self.targets(&assign.left);
                let value = self.expr(&assign.right);
                Some(StmtKind::Assign { targets, op: None, value })
            }
            Syn::Binary(binary) => {
                let op = assign_op(&binary.op)?;
                let targets = self.targets(&binary.left);
                let value = self.expr(&binary.right);
                Some(StmtKind::Assign { targets, op: Some(op), value })
            }
            _ => None,
        }
    }

    fn refuse_label(&mut self, label: &Option<syn::Label>) {
        if let Some(label) = label {
            self.error(
                label,
                "loops have no labels here: `break` and `continue` are not part of the tile language",
            );
        }
    }

    fn targets(&mut self, left: &Syn) -> Vec<(String, Span)> {
        match left {
            Syn::Path(path) if path.path.get_ident().is_some() => {
                vec![(text(path), self.span(path))]
            }
            Syn::Infer(_) => vec![("_".to_owned(), self.span(left))],
            Syn::Paren(inner) => self.targets(&inner.expr),
            Syn::Tuple(tuple) => tuple.elems.iter().flat_map(|e| self.targets(e)).collect(),
            Syn::Index(index) => {
                self.error_help(
                    left,
                    format!(
                        "cannot assign to `{}`: elements of a tile or tensor have no places",
                        text(index)
                    ),
                    "use `store` or `scatter` on a `TensorMut`, `select` on a tile",
                );
                vec![("_".to_owned(), self.span(left))]
            }
            _ => {
                self.error(left, format!("expected a variable on the left of `=`; found `{}`", text(left)));
                vec![("_".to_owned(), self.span(left))]
            }
        }
    }

    fn for_loop(&mut self, loop_: &ExprForLoop) -> StmtKind {
        self.refuse_label(&loop_.label);
        let var = match &*loop_.pat {
            Pat::Ident(p) => self.binding(&p.ident, p.mutability.is_some()),
            pat => {
                let span = self.span(pat);
                if !matches!(pat, Pat::Wild(_)) {
                    let found = text(pat);
                    self.error(pat, format!("a loop variable is a plain name; found `{found}`"));
                }
                Binding { name: "_".to_owned(), mutable: false, span }
            }
        };
        let (lo, hi, step) = self.range(&loop_.expr);
        StmtKind::For { var, lo, hi, step, body: self.block(&loop_.body) }
    }

    /// `lo..hi` or `(lo..hi).step_by(n)`.
    fn range(&mut self, expr: &Syn) -> (Expr, Expr, Option<Expr>) {
        match expr {
            Syn::Paren(inner) => self.range(&inner.expr),
            Syn::MethodCall(call) if call.method == "step_by" && call.args.len() == 1 => {
                let (lo, hi, inner) = self.range(&call.receiver);
                if inner.is_some() {
                    self.error(call, "a range takes one `step_by`");
                }
                (lo, hi, Some(self.expr(&call.args[0])))
            }
            Syn::Range(range) => {
                if let RangeLimits::Closed(dots) = &range.limits {
                    self.error_help(
                        dots,
                        "inclusive ranges cannot be looped over here",
                        "write `lo..hi + 1`",
                    );
                }
                if let (Some(start), Some(end)) = (&range.start, &range.end) {
                    return (self.expr(start), self.expr(end), None);
                }
                self.error(range, "a loop's range needs both ends: `lo..hi`");
                (self.unknown(expr), self.unknown(expr), None)
            }
            _ => {
                let found = text(expr);
                self.error(
                    expr,
                    format!(
                        "expected a range, `lo..hi` or `(lo..hi).step_by(n)`, to loop over; found `{found}`"
                    ),
                );
                (self.unknown(expr), self.unknown(expr), None)
            }
        }
    }

    /// Stands for what could not be read.
    fn unknown(&mut self, tokens: &impl ToTokens) -> Expr {
        Expr { kind: ExprKind::Name("_".to_owned()), span: self.span(tokens) }
    }

    /// Reads an expression; reports and replaces what the language does not have.
    pub(super) fn expr(&mut self, expr: &Syn) -> Expr {
        match self.expr_kind(expr) {
            Some(kind) => Expr { kind, span: self.span(expr) },
            None => self.unknown(expr),
        }
    }

    fn exprs<'a>(&mut self, list: impl IntoIterator<Item = &'a Syn>) -> Vec<Expr> {
        list.into_iter().map(|e| self.expr(e)).collect()
    }

    fn boxed(&mut self, expr: &Syn) -> Box<Expr> {
        Box::new(self.expr(expr))
    }

    fn expr_kind(&mut self, expr: &Syn) -> Option<ExprKind> {
        Some(match expr {
            Syn::Lit(lit) => return self.literal(&lit.lit),
            Syn::Path(path) => return self.path(path),
            Syn::Paren(inner) => return self.expr_kind(&inner.expr),
            Syn::Group(inner) => return self.expr_kind(&inner.expr),
            Syn::Binary(binary) => {
                let Some(op) = binary_op(&binary.op) else {
                    self.error(expr, "an assignment has no value here; make it a statement of its own");
                    return None;
                };
                ExprKind::Binary(op, self.boxed(&binary.left), self.boxed(&binary.right))
            }
            Syn::Unary(unary) => {
                let op = match unary.op {
                    syn::UnOp::Neg(_) => UnaryOp::Neg,
                    syn::UnOp::Not(_) => UnaryOp::Not,
                    _ => {
                        self.error_help(
                            expr,
                            format!(
                                "`{}` dereferences a value; the tile language has no references",
                                text(expr)
                            ),
                            "tiles and tensors are passed by value: leave the `*` out",
                        );
                        return None;
                    }
                };
                ExprKind::Unary(op, self.boxed(&unary.expr))
            }
            Syn::Cast(cast) => {
                let value = self.boxed(&cast.expr);
                let Some(dtype @ DTypeExpr::Known(_)) = self.dtype_of_type(&cast.ty) else {
                    let found = text(&cast.ty);
                    self.error(
                        &cast.ty,
                        format!("`as` converts scalars to f32, i32, i64, usize or bool; found `{found}`"),
                    );
                    return None;
                };
                ExprKind::Cast(value, dtype)
            }
            Syn::Call(call) => return self.call(call),
            Syn::MethodCall(call) => self.method(call),
            Syn::Array(array) => ExprKind::Array(self.exprs(&array.elems)),
            Syn::Tuple(tuple) => ExprKind::Tuple(self.exprs(&tuple.elems)),
            Syn::If(branch) => {
                if matches!(&*branch.cond, Syn::Let(_)) {
                    self.error(
                        &branch.cond,
                        "`if let` is not part of the tile language; conditions are scalars",
                    );
                    return None;
                }
                let cond = self.boxed(&branch.cond);
                let then = self.block(&branch.then_branch);
                let otherwise = match &branch.else_branch {
                    None => Block::default(),
                    Some((_, other)) => match &**other {
                        Syn::Block(b) => self.block(&b.block),
                        other => Block { stmts: Vec::new(), value: Some(self.boxed(other)) },
                    },
                };
                ExprKind::If { cond, then, otherwise }
            }
            Syn::Block(block) if block.label.is_none() => ExprKind::Block(self.block(&block.block)),
            other => {
                self.refuse(other);
                return None;
            }
        })
    }

    /// Reports an expression that Rust has and the tile language has not.
    fn refuse(&mut self, expr: &Syn) {
        let (what, help) = match expr {
            Syn::Break(_) => {
                ("`break`", Some("bound the loop instead: `while condition { .. }`, or mask the work"))
            }
            Syn::Continue(_) => ("`continue`", Some("put the rest of the body under an `if`")),
            Syn::Return(_) => {
                ("`return`", Some("put the rest under an `if`; a helper's value is its last expression"))
            }
            Syn::Match(_) => ("`match`", Some("write `if .. { .. } else { .. }`")),
            Syn::Closure(_) => ("a closure", Some("write a #[tile_fn] helper")),
            Syn::Loop(_) => ("`loop`", Some("write `while condition { .. }`")),
            Syn::Index(_) => (
                "indexing with `[..]`",
                Some("load a block with `load` or elements with `gather`; `t.dim(axis)` is a size"),
            ),
            Syn::Field(_) => ("field access", Some("bind the parts of a tuple by name: `let (a, b) = ..;`")),
            Syn::Reference(_) => {
                ("a reference", Some("tiles and tensors are passed by value: leave the `&` out"))
            }
            Syn::Range(_) => ("a range as a value", Some("ranges stand only in `for .. in lo..hi`")),
            Syn::Repeat(_) => ("`[value; count]`", Some("write the elements out; for a tile use `full`")),
            Syn::Struct(_) => ("a struct", None),
            Syn::Unsafe(_) => ("`unsafe`", None),
            Syn::Try(_) => ("`?`", None),
            Syn::Await(_) | Syn::Async(_) => ("`async`", None),
            Syn::Macro(call) => return self.refuse_macro(&call.mac),
            Syn::Assign(_) => ("an assignment as a value", Some("make it a statement of its own")),
            Syn::ForLoop(_) | Syn::While(_) => {
                ("a loop as a value", Some("loops give no value; assign a `let mut`"))
            }
            _ => ("this expression", None),
        };
        let message = format!("{what} is not part of the tile language");
        match help {
            Some(help) => self.error_help(expr, message, help),
            None => self.error(expr, message),
        }
    }

    fn refuse_macro(&mut self, mac: &syn::Macro) {
        let name = text(&mac.path);
        self.error_help(
            mac,
            format!("the macro `{name}!` cannot be used in a tile function"),
            "only tile operations and #[tile_fn] helpers can be recorded",
        );
    }

    fn literal(&mut self, lit: &Lit) -> Option<ExprKind> {
        match lit {
            Lit::Int(int) => {
                let dtype = self.suffix(lit, int.suffix())?;
                if let Some(d) = dtype
                    && d.is_float()
                {
                    return int.base10_digits().parse().ok().map(|v| ExprKind::Float(v, dtype));
                }
                match int.base10_parse() {
                    Ok(value) => Some(ExprKind::Int(value, dtype)),
                    Err(_) => {
                        self.error(
                            lit,
                            format!("`{int}` does not fit any integer type of the tile language"),
                        );
                        None
                    }
                }
            }
            Lit::Float(float) => {
                let dtype = self.suffix(lit, float.suffix())?;
                Some(ExprKind::Float(float.base10_parse().ok()?, dtype))
            }
            Lit::Bool(flag) => Some(ExprKind::Bool(flag.value)),
            Lit::Str(text) => Some(ExprKind::Text(text.value())),
            _ => {
                self.error(lit, format!("expected a number, `true` or `false`; found `{}`", text(lit)));
                None
            }
        }
    }

    /// A literal's suffix: `Some(None)` when it has none, `None` when it is reported.
    fn suffix(&mut self, lit: &Lit, suffix: &str) -> Option<Option<DType>> {
        match suffix {
            "" => Some(None),
            "f32" | "i32" | "i64" | "usize" => Some(rust_dtype(suffix)),
            other => {
                self.error_help(
                    lit,
                    format!("a literal cannot be `{other}` here; expected f32, i32, i64 or usize"),
                    "tiles of other dtypes come from `cast::<T>()`",
                );
                None
            }
        }
    }

    fn path(&mut self, path: &syn::ExprPath) -> Option<ExprKind> {
        if let Some(ident) = path.path.get_ident() {
            return Some(ExprKind::Name(ident.to_string()));
        }
        let written = text(path);
        let found = CONSTANTS.iter().find(|(name, ..)| {
            written == *name
                || written.ends_with(&format!("::{name}"))
                    && (written.contains("f32") || written.contains("i32"))
        });
        match found {
            Some((_, value, DType::I32)) => Some(ExprKind::Int(*value as i64, Some(DType::I32))),
            Some((_, value, dtype)) => Some(ExprKind::Float(*value, Some(*dtype))),
            None => {
                let message = format!("unknown constant `{written}`");
                match crate::nearest(&written, CONSTANTS.iter().map(|c| c.0)) {
                    Some(near) => self.error_help(path, message, format!("did you mean `{near}`?")),
                    None => self.error_help(
                        path,
                        message,
                        "a tile function can use its own parameters and the constants of f32, i32 and std::f32::consts",
                    ),
                }
                None
            }
        }
    }

    fn call(&mut self, call: &syn::ExprCall) -> Option<ExprKind> {
        let Syn::Path(callee) = &*call.func else {
            self.error(&call.func, format!("expected the name of a function; found `{}`", text(&call.func)));
            return None;
        };
        let mut generics = Vec::new();
        let mut names = Vec::new();
        for segment in &callee.path.segments {
            names.push(segment.ident.to_string());
            if let syn::PathArguments::AngleBracketed(list) = &segment.arguments {
                generics = self.generic_args(&list.args);
            }
        }
        Some(ExprKind::Call { path: names.join("::"), generics, args: self.exprs(&call.args) })
    }

    fn method(&mut self, call: &ExprMethodCall) -> ExprKind {
        let generics = call.turbofish.as_ref().map_or(Vec::new(), |t| self.generic_args(&t.args));
        ExprKind::Method {
            receiver: self.boxed(&call.receiver),
            name: call.method.to_string(),
            name_span: self.span(&call.method),
            generics,
            args: self.exprs(&call.args),
        }
    }

    fn generic_args<'a>(&mut self, args: impl IntoIterator<Item = &'a GenericArgument>) -> Vec<GenericArg> {
        args.into_iter().filter_map(|arg| self.generic_arg(arg)).collect()
    }

    fn generic_arg(&mut self, arg: &GenericArgument) -> Option<GenericArg> {
        match arg {
            GenericArgument::Type(ty) => {
                if let Some(dtype) = self.dtype_of_type(ty) {
                    return Some(GenericArg::DType(dtype));
                }
                if let Type::Path(path) = ty
                    && let Some(ident) = path.path.get_ident()
                {
                    let kind = ExprKind::Name(ident.to_string());
                    return Some(GenericArg::Const(Expr { kind, span: self.span(ty) }));
                }
                if let Type::Infer(_) = ty {
                    return Some(GenericArg::Infer);
                }
                let found = text(ty);
                self.error(ty, format!("`{found}` cannot stand here; expected a dtype or a const parameter"));
                None
            }
            GenericArgument::Const(Syn::Block(block)) if block.block.stmts.len() == 1 => {
                let value = self.block(&block.block).value?;
                Some(GenericArg::Const(*value))
            }
            GenericArgument::Const(expr) => Some(GenericArg::Const(self.expr(expr))),
            _ => {
                self.error(arg, "expected a dtype or a const parameter");
                None
            }
        }
    }
}

/// `+` and the like.
fn binary_op(op: &syn::BinOp) -> Option<BinaryOp> {
    use syn::BinOp as B;
    Some(match op {
        B::Add(_) => BinaryOp::Add,
        B::Sub(_) => BinaryOp::Sub,
        B::Mul(_) => BinaryOp::Mul,
        B::Div(_) => BinaryOp::Div,
        B::Rem(_) => BinaryOp::Rem,
        B::And(_) => BinaryOp::AndAnd,
        B::Or(_) => BinaryOp::OrOr,
        B::BitXor(_) => BinaryOp::Xor,
        B::BitAnd(_) => BinaryOp::And,
        B::BitOr(_) => BinaryOp::Or,
        B::Shl(_) => BinaryOp::Shl,
        B::Shr(_) => BinaryOp::Shr,
        B::Eq(_) => BinaryOp::Eq,
        B::Lt(_) => BinaryOp::Lt,
        B::Le(_) => BinaryOp::Le,
        B::Ne(_) => BinaryOp::Ne,
        B::Ge(_) => BinaryOp::Ge,
        B::Gt(_) => BinaryOp::Gt,
        _ => return None,
    })
}

/// `+=` and the like.
fn assign_op(op: &syn::BinOp) -> Option<BinaryOp> {
    use syn::BinOp as B;
    Some(match op {
        B::AddAssign(_) => BinaryOp::Add,
        B::SubAssign(_) => BinaryOp::Sub,
        B::MulAssign(_) => BinaryOp::Mul,
        B::DivAssign(_) => BinaryOp::Div,
        B::RemAssign(_) => BinaryOp::Rem,
        B::BitXorAssign(_) => BinaryOp::Xor,
        B::BitAndAssign(_) => BinaryOp::And,
        B::BitOrAssign(_) => BinaryOp::Or,
        B::ShlAssign(_) => BinaryOp::Shl,
        B::ShrAssign(_) => BinaryOp::Shr,
        _ => return None,
    })
}
