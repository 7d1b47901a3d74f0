//! Blocks and statements.

use super::value::{Ty, Value};
use super::{Checker, Local};
use crate::ast::{BinaryOp, Binding, Block, Expr, Stmt, StmtKind, TypeExpr};
use crate::diag::{Diagnostic, Span};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::typed::{self, TypedDType, VarId};
use std::collections::HashMap;

impl<'a> Checker<'a> {
    /// Checks a block in a scope of its own; its statements go to the current list.
    pub(super) fn block(&mut self, block: &'a Block) -> Value {
        self.frame_mut().scopes.push(HashMap::new());
        for stmt in &block.stmts {
            self.stmt(stmt);
        }
        let value = match &block.value {
            Some(value) => self.expr(value),
            None => Value::unit(Span::default()),
        };
        self.frame_mut().scopes.pop();
        value
    }

    /// Runs `check` with an empty statement list, and gives back what it put there.
    pub(super) fn nested<R>(&mut self, check: impl FnOnce(&mut Self) -> R) -> (R, Vec<typed::Stmt>) {
        let outer = std::mem::take(&mut self.out);
        let result = check(self);
        (result, std::mem::replace(&mut self.out, outer))
    }

    fn stmt(&mut self, stmt: &'a Stmt) {
        let span = self.place(stmt.span);
        match &stmt.kind {
            StmtKind::Let { names, ty, value } => self.let_stmt(names, ty.as_ref(), value, span),
            StmtKind::Assign { targets, op, value } => self.assign(targets, *op, value, span),
            StmtKind::For { var, lo, hi, step, body } => {
                self.for_loop(var, lo, hi, step.as_ref(), body, span);
            }
            StmtKind::While { cond, body } => self.while_loop(cond, body, span),
            StmtKind::Expr(expr) => {
                self.expr(expr);
            }
        }
    }

    fn let_stmt(&mut self, names: &'a [Binding], ty: Option<&'a TypeExpr>, value: &'a Expr, span: Span) {
        let mut value = self.expr(value);
        if let Some(ty) = ty
            && !self.expect_type(&value, ty, "the value")
        {
            value = Value::unknown(value.span);
        }
        let [binding] = names else { return self.let_tuple(names, value, span) };
        self.bind(binding, value);
    }

    fn let_tuple(&mut self, names: &'a [Binding], value: Value, span: Span) {
        let parts = match value.ty {
            Ty::Tuple(parts) if parts.len() == names.len() => parts,
            Ty::Unknown => vec![value; names.len()],
            other => {
                let found = self.describe(&other);
                self.error(span, format!("expected a tuple of {} values; found {found}", names.len()));
                vec![Value::unknown(value.span); names.len()]
            }
        };
        for (binding, part) in names.iter().zip(parts) {
            self.bind(binding, part);
        }
    }

    /// Binds a name; scalars and tiles get a variable.
    fn bind(&mut self, binding: &'a Binding, value: Value) {
        if binding.name == "_" {
            return;
        }
        let span = self.place(binding.span);
        let local = self.variable(&binding.name, binding.mutable, value, span);
        self.declare(&binding.name, local);
    }

    /// A variable with an initial value; what is no scalar or tile is only renamed.
    pub(super) fn variable(&mut self, name: &str, mutable: bool, value: Value, span: Span) -> Local {
        if !matches!(value.ty, Ty::Scalar(_) | Ty::Tile(..)) {
            return Local { value, var: None, span };
        }
        let var = self.new_var(name, &value.ty, span);
        let mut read = value.read(var, value.span);
        if !mutable {
            read.konst = value.konst.clone();
        }
        self.out.push(typed::Stmt::Let { var, value: value.expr() });
        Local { value: read, var: Some(var), span }
    }

    /// Puts a value into a variable of its own, so that later statements cannot change it.
    pub(super) fn temporary(&mut self, value: Value) -> Value {
        let span = value.span;
        self.variable("", false, value, span).value
    }

    fn assign(&mut self, targets: &'a [(String, Span)], op: Option<BinaryOp>, value: &'a Expr, span: Span) {
        if let [(name, target)] = targets {
            let target = self.place(*target);
            let value = match op {
                Some(op) => match self.lookup(name, target) {
                    Some(local) => {
                        let mark = self.out.len();
                        let mut values = vec![Value { span: target, ..local.value }];
                        let rhs = self.expr(value);
                        self.keep_order(&mut values, mark);
                        self.binary(op, values.remove(0), rhs, span)
                    }
                    None => return,
                },
                None => self.expr(value),
            };
            return self.assign_one(name, target, value, span);
        }
        let value = self.expr(value);
        let parts = match value.ty {
            Ty::Tuple(parts) if parts.len() == targets.len() => parts,
            Ty::Unknown => return,
            other => {
                let found = self.describe(&other);
                return self
                    .error(span, format!("expected a tuple of {} values; found {found}", targets.len()));
            }
        };
        let parts: Vec<_> = parts.into_iter().map(|p| self.temporary(p)).collect();
        for ((name, target), part) in targets.iter().zip(parts) {
            let target = self.place(*target);
            self.assign_one(name, target, part, span);
        }
    }

    fn assign_one(&mut self, name: &str, target: Span, value: Value, span: Span) {
        if name == "_" {
            return;
        }
        let Some(local) = self.lookup(name, target) else { return };
        if value.is_unknown() || local.value.is_unknown() {
            return;
        }
        let Some(var) = local.var else {
            let found = self.describe(&local.value.ty);
            let message = format!("cannot assign to `{name}`, a {found} that is no `let mut` variable");
            return self.report(
                Diagnostic::new(target, message).note(local.span, format!("`{name}` is bound here")),
            );
        };
        if self.same_type(&local.value.ty, &value.ty) {
            self.out.push(typed::Stmt::Assign { var, value: value.expr() });
            return;
        }
        let (expected, found) = (self.describe(&local.value.ty), self.describe(&value.ty));
        self.report(
            Diagnostic::new(span, format!("`{name}` is {expected}; the value assigned to it is {found}"))
                .note(local.span, format!("`{name}` is bound here as {expected}"))
                .help("a variable keeps its type and shape; bind a new one with `let`, or give it this shape at first"),
        );
    }

    /// Whether a value of type `found` can go where `expected` is; literals take the type.
    pub(super) fn same_type(&mut self, expected: &Ty, found: &Ty) -> bool {
        match (expected, found) {
            (Ty::Unknown, _) | (_, Ty::Unknown) | (Ty::Unit, Ty::Unit) => true,
            (Ty::Scalar(a), Ty::Scalar(b)) => self.unify(a, b).is_some(),
            (Ty::Tile(a, shape_a), Ty::Tile(b, shape_b)) => {
                let same_shape = match (shape_a, shape_b) {
                    (Some(a), Some(b)) => {
                        a.len() == b.len()
                            && a.iter().zip(b).all(|(a, b)| a == b || a.is_opaque() || b.is_opaque())
                    }
                    _ => true,
                };
                same_shape && self.unify(a, b).is_some()
            }
            (Ty::Tensor(a), Ty::Tensor(b)) => a == b,
            (Ty::Tuple(a), Ty::Tuple(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| self.same_type(&a.ty, &b.ty))
            }
            _ => false,
        }
    }

    /// Compares a value with a declared type.
    pub(super) fn expect_type(&mut self, value: &Value, declared: &'a TypeExpr, what: &str) -> bool {
        let (dtype, found) = match (declared, &value.ty) {
            (_, Ty::Unknown) => return true,
            (TypeExpr::Scalar(d), Ty::Scalar(found)) => (d, found.clone()),
            (TypeExpr::Tile(d), Ty::Tile(found, _)) => (d, found.clone()),
            (TypeExpr::Tensor { dtype, rank, .. }, Ty::Tensor(view)) => match &self.params[view.param].kind {
                typed::ParamKind::Tensor { dtype: found, rank: r, .. } if r == rank => (dtype, found.clone()),
                _ => return self.wrong_type(value, declared, what),
            },
            _ => return self.wrong_type(value, declared, what),
        };
        let dtype = self.dtype(dtype, value.span);
        self.unify(&dtype, &found).is_some() || self.wrong_type(value, declared, what)
    }

    fn wrong_type(&mut self, value: &Value, declared: &'a TypeExpr, what: &str) -> bool {
        let found = self.describe(&value.ty);
        let expected = self.declared(declared, value.span);
        self.error(value.span, format!("{what} is {found}; expected {expected}"));
        false
    }

    /// A declared type in the words of the source.
    pub(super) fn declared(&mut self, ty: &'a TypeExpr, span: Span) -> String {
        let (name, dtype, rank) = match ty {
            TypeExpr::Tensor { dtype, rank, mutable: false } => ("Tensor", dtype, Some(rank)),
            TypeExpr::Tensor { dtype, rank, mutable: true } => ("TensorMut", dtype, Some(rank)),
            TypeExpr::Tile(dtype) => ("Tile", dtype, None),
            TypeExpr::Scalar(dtype) => {
                let dtype = self.dtype(dtype, span);
                return self.dtype_name(&dtype);
            }
        };
        let dtype = self.dtype(dtype, span);
        let dtype = self.dtype_name(&dtype);
        rank.map_or(format!("{name}<{dtype}>"), |rank| format!("{name}<{dtype}, {rank}>"))
    }

    fn for_loop(
        &mut self,
        var: &'a Binding,
        lo: &'a Expr,
        hi: &'a Expr,
        step: Option<&'a Expr>,
        body: &'a Block,
        span: Span,
    ) {
        let bounds = [Some(lo), Some(hi), step];
        let mut values = Vec::new();
        for bound in bounds.into_iter().flatten() {
            let mark = self.out.len();
            let value = self.expr(bound);
            self.keep_order(&mut values, mark);
            values.push(value);
        }
        let dtype = self.loop_dtype(&values, step.is_some());
        let var_span = self.place(var.span);
        if var.mutable {
            self.error(
                var_span,
                format!("a loop variable cannot be `mut`; copy it: `let mut {0} = {0};`", var.name),
            );
        }
        let known = dtype.is_some() && values.iter().all(|v| !v.is_unknown());
        let ty = dtype.map_or(Ty::Unknown, Ty::Scalar);
        let id = self.new_var(&var.name, &ty, var_span);
        let mark = self.vars.len();
        let read = Value::new(ty, typed::ExprKind::Var(id), var_span);
        let ((), stmts) = self.nested(|c| {
            c.frame_mut().scopes.push(HashMap::new());
            c.declare(&var.name, Local { value: read, var: None, span: var_span });
            c.block(body);
            c.frame_mut().scopes.pop();
        });
        let mut carried = Vec::new();
        assigned(&stmts, mark, &mut carried);
        let mut exprs = values.into_iter().map(Value::expr);
        let (Some(lo), Some(hi)) = (exprs.next(), exprs.next()) else { return };
        let one = typed::Expr { kind: typed::ExprKind::Int(1), ty: lo.ty.clone(), span: lo.span };
        let step = exprs.next().unwrap_or(one);
        if known {
            self.out.push(typed::Stmt::For { var: id, lo, hi, step, body: stmts, carried, span });
        }
    }

    /// The integer type that a loop's bounds share; its step is a `usize` in Rust and takes that type.
    fn loop_dtype(&mut self, values: &[Value], has_step: bool) -> Option<TypedDType> {
        for value in values {
            let integer = match &value.ty {
                Ty::Unknown => return None,
                Ty::Scalar(d) => {
                    matches!(self.class(d), super::value::Class::Int | super::value::Class::Unknown)
                }
                _ => false,
            };
            if !integer {
                let found = self.describe(&value.ty);
                self.error(value.span, format!("a loop counts from one integer to another; found {found}"));
                return None;
            }
        }
        let dtypes: Vec<_> = values
            .iter()
            .filter_map(|v| if let Ty::Scalar(d) = &v.ty { Some(d.clone()) } else { None })
            .collect();
        let Some(dtype) = self.unify(&dtypes[0], &dtypes[1]) else {
            let (lo, hi) = (self.dtype_name(&dtypes[0]), self.dtype_name(&dtypes[1]));
            self.error(
                values[0].span.to(values[1].span),
                format!("the loop starts at {lo} and ends at {hi}; both must have one type"),
            );
            return None;
        };
        if has_step {
            let step = &values[2];
            if step.konst.as_ref().and_then(Dim::as_const).is_some_and(|s| s <= 0) {
                self.error(step.span, "a loop's step must be 1 or more");
            }
            if self.unify(&dtypes[2], &DType::Index.into()).is_none() {
                let found = self.dtype_name(&dtypes[2]);
                self.error(step.span, format!("`step_by` takes a usize; found {found}"));
            }
            if self.unify(&dtype, &DType::Index.into()).is_none() {
                let found = self.dtype_name(&dtype);
                self.error_help(
                    values[0].span.to(values[1].span),
                    format!("a loop with `step_by` counts in usize; found {found}"),
                    "count in usize and cast inside the loop",
                );
            }
        }
        Some(dtype)
    }

    fn while_loop(&mut self, cond: &'a Expr, body: &'a Block, span: Span) {
        let mark = self.vars.len();
        let (cond, before) = self.nested(|c| c.condition(cond));
        let (_, body) = self.nested(|c| c.block(body));
        let mut carried = Vec::new();
        assigned(&before, mark, &mut carried);
        assigned(&body, mark, &mut carried);
        let cond = cond.expr();
        self.out.push(typed::Stmt::While { before, cond, body, carried, span });
    }

    /// A scalar bool.
    pub(super) fn condition(&mut self, cond: &'a Expr) -> Value {
        let value = self.expr(cond);
        let fine = match &value.ty {
            Ty::Unknown => return value,
            Ty::Scalar(d) => self.unify(d, &DType::Bool.into()).is_some(),
            _ => false,
        };
        if fine {
            return value;
        }
        let found = self.describe(&value.ty);
        let message = format!("a condition is a scalar bool; found {found}");
        match value.ty {
            Ty::Tile(..) => {
                self.error_help(value.span, message, "choose elementwise with `select(mask, a, b)`")
            }
            _ => self.error(value.span, message),
        }
        Value::unknown(value.span)
    }
}

/// The variables older than `mark` that statements assign, in order of first assignment.
pub(super) fn assigned(stmts: &[typed::Stmt], mark: VarId, out: &mut Vec<VarId>) {
    for stmt in stmts {
        match stmt {
            typed::Stmt::Assign { var, .. } if *var < mark && !out.contains(var) => out.push(*var),
            typed::Stmt::For { body, .. } => assigned(body, mark, out),
            typed::Stmt::While { before, body, .. } => {
                assigned(before, mark, out);
                assigned(body, mark, out);
            }
            typed::Stmt::If { then, otherwise, .. } => {
                assigned(then, mark, out);
                assigned(otherwise, mark, out);
            }
            _ => {}
        }
    }
}
