//! Expressions: names, literals, casts, `if`, and in which order they happen.

use super::stmts::assigned;
use super::value::{Class, Ty, Value};
use super::{Checker, Local, konst};
use crate::ast::{Block, DTypeExpr, Expr, ExprKind as Ast, UnaryOp};
use crate::builtins::{self, On};
use crate::diag::{Diagnostic, Span};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::nearest;
use crate::typed::{self, ExprKind, Stmt};

impl<'a> Checker<'a> {
    /// Checks an expression; statements it needs first go to the current list.
    pub(super) fn expr(&mut self, expr: &'a Expr) -> Value {
        let span = self.place(expr.span);
        match &expr.kind {
            Ast::Int(value, dtype) => {
                let dtype = dtype.map_or_else(|| self.literal_dtype(false, span), Into::into);
                Value::scalar(dtype, ExprKind::Int(*value), span).with_konst(Some(Dim::constant(*value)))
            }
            Ast::Float(value, dtype) => {
                let dtype = dtype.map_or_else(|| self.literal_dtype(true, span), Into::into);
                Value::scalar(dtype, ExprKind::Float(*value), span)
            }
            Ast::Bool(value) => {
                let number = i64::from(*value);
                Value::scalar(DType::Bool, ExprKind::Int(number), span)
                    .with_konst(Some(Dim::constant(number)))
            }
            Ast::Text(_) => {
                self.error(span, "a string stands only as the message of `check`");
                Value::unknown(span)
            }
            Ast::Name(name) => match self.lookup(name, span) {
                Some(local) => Value { span, ..local.value },
                None => Value::unknown(span),
            },
            Ast::Binary(op, lhs, rhs) => {
                let [lhs, rhs] = self.exprs([&**lhs, &**rhs]);
                self.binary(*op, lhs, rhs, span)
            }
            Ast::Unary(op, operand) => {
                let operand = self.expr(operand);
                self.unary(*op, operand, span)
            }
            Ast::Cast(operand, dtype) => {
                let operand = self.expr(operand);
                self.scalar_cast(operand, dtype, span)
            }
            Ast::Call { path, generics, args } => self.call(path, generics, args, span),
            Ast::Method { receiver, name, name_span, generics, args } => {
                let mark = self.out.len();
                let receiver = self.expr(receiver);
                let name_span = self.place(*name_span);
                self.method(receiver, mark, (name, name_span), generics, args, span)
            }
            Ast::Array(_) => {
                self.error(
                    span,
                    "a list `[..]` stands only where a shape, a block index or axes are expected",
                );
                Value::unknown(span)
            }
            Ast::Tuple(parts) => {
                let parts = self.expr_list(parts);
                Value::new(Ty::Tuple(parts), ExprKind::Int(0), span)
            }
            Ast::If { cond, then, otherwise } => self.if_expr(cond, then, otherwise, span),
            Ast::Block(block) => self.block(block),
        }
    }

    /// Checks expressions in order.
    pub(super) fn exprs<const N: usize>(&mut self, list: [&'a Expr; N]) -> [Value; N] {
        let values = self.expr_list(list);
        values.try_into().expect("one value an expression")
    }

    /// Checks expressions in order.
    pub(super) fn expr_list(&mut self, list: impl IntoIterator<Item = &'a Expr>) -> Vec<Value> {
        let mut values = Vec::new();
        for expr in list {
            let mark = self.out.len();
            let value = self.expr(expr);
            self.keep_order(&mut values, mark);
            values.push(value);
        }
        values
    }

    /// Where statements after `mark` change variables or tensors, evaluates `values`, which stand to their left,
    /// before them.
    pub(super) fn keep_order(&mut self, values: &mut [Value], mark: usize) {
        if !self.out[mark..].iter().any(has_effect) {
            return;
        }
        let later = self.out.split_off(mark);
        for value in values {
            *value = self.temporary(value.clone());
        }
        self.out.extend(later);
    }

    /// The innermost binding of a name; reports one that is nowhere.
    pub(super) fn lookup(&mut self, name: &str, span: Span) -> Option<Local> {
        if name == "_" {
            return None;
        }
        let frame = self.frame();
        if let Some(local) = frame.scopes.iter().rev().find_map(|scope| scope.get(name)) {
            return Some(local.clone());
        }
        let names: Vec<&str> = frame.scopes.iter().flat_map(|s| s.keys()).map(String::as_str).collect();
        let help = match nearest(name, names.iter().copied()) {
            Some(near) => Some(format!("did you mean `{near}`?")),
            None => builtins::find(On::Nothing, name)
                .map(|b| format!("`{name}` is a function: call it as `{}`", b.signature())),
        };
        let message =
            format!("`{name}` is not a variable, parameter or const parameter of `{}`", frame.function.name);
        let mut diagnostic = Diagnostic::new(span, message);
        diagnostic.help = help;
        self.report(diagnostic);
        None
    }

    fn unary(&mut self, op: UnaryOp, operand: Value, span: Span) -> Value {
        let dtype = match &operand.ty {
            Ty::Scalar(d) | Ty::Tile(d, _) => d.clone(),
            Ty::Unknown => return Value::unknown(span),
            other => {
                let found = self.describe(other);
                let sign = if op == UnaryOp::Neg { "-" } else { "!" };
                self.error(span, format!("`{sign}` takes a tile or a scalar; found {found}"));
                return Value::unknown(span);
            }
        };
        let class = self.class(&dtype);
        let (sign, fine, takes) = match op {
            UnaryOp::Neg => {
                let size = self.resolve(&dtype) == DType::Index.into();
                ("-", matches!(class, Class::Float | Class::Int) && !size, "signed numbers")
            }
            UnaryOp::Not => ("!", matches!(class, Class::Bool | Class::Int), "bool or integers"),
        };
        if !fine && class != Class::Unknown {
            let found = self.describe(&operand.ty);
            self.error(span, format!("`{sign}` takes {takes}; found {found}"));
            return Value::unknown(span);
        }
        let konst = operand.konst.clone().and_then(|k| match (op, class) {
            (UnaryOp::Neg, _) => Some(-k),
            (UnaryOp::Not, Class::Bool) => Some(Dim::constant(1) - k),
            (UnaryOp::Not, _) => k.as_const().map(|v| Dim::constant(!v)),
        });
        let ty = operand.ty.clone();
        Value::new(ty, ExprKind::Unary(op, operand.boxed()), span).with_konst(konst)
    }

    fn scalar_cast(&mut self, operand: Value, dtype: &'a DTypeExpr, span: Span) -> Value {
        let to = self.dtype(dtype, span);
        let from = match &operand.ty {
            Ty::Scalar(from) => from.clone(),
            Ty::Unknown => return Value::unknown(span),
            other => {
                let found = self.describe(other);
                let name = self.dtype_name(&to);
                let message = format!("`as` converts scalars; found {found}");
                match other {
                    Ty::Tile(..) => {
                        self.error_help(span, message, format!("convert a tile with `.cast::<{name}>()`"));
                    }
                    _ => self.error(span, message),
                }
                return Value::unknown(span);
            }
        };
        let keeps = matches!(self.class(&to), Class::Int);
        let konst = operand.konst.clone().filter(|_| keeps);
        if self.resolve(&from) == to {
            return Value { span, ..operand };
        }
        Value::scalar(to, ExprKind::Cast(operand.boxed()), span).with_konst(konst)
    }

    /// `if`, for its effect or its value. A condition over bound const parameters leaves only the live branch.
    fn if_expr(&mut self, cond: &'a Expr, then: &'a Block, otherwise: &'a Block, span: Span) -> Value {
        let cond = self.condition(cond);
        if let Some(live) = cond.konst.as_ref().and_then(Dim::as_const) {
            return self.block(if live != 0 { then } else { otherwise });
        }
        let mark = self.vars.len();
        let (then_value, mut then) = self.nested(|c| c.block(then));
        let (else_value, mut otherwise) = self.nested(|c| c.block(otherwise));
        let mut changed = Vec::new();
        assigned(&then, mark, &mut changed);
        assigned(&otherwise, mark, &mut changed);
        let value = self.join(
            &cond,
            then_value,
            else_value,
            &mut Joined { then: &mut then, otherwise: &mut otherwise, assigned: &mut changed },
            span,
        );
        if !cond.is_unknown() {
            self.out.push(Stmt::If { cond: cond.expr(), then, otherwise, assigned: changed, span });
        }
        value
    }

    /// One value out of the two branches': a fresh variable that both assign.
    fn join(
        &mut self,
        cond: &Value,
        then: Value,
        otherwise: Value,
        branches: &mut Joined,
        span: Span,
    ) -> Value {
        match (&then.ty, &otherwise.ty) {
            (Ty::Unknown, _) | (_, Ty::Unknown) => return Value::unknown(span),
            (Ty::Unit, Ty::Unit) => return Value::unit(span),
            (Ty::Tensor(a), Ty::Tensor(b)) if a == b => return then,
            (Ty::Tuple(a), Ty::Tuple(b)) if a.len() == b.len() => {
                let parts =
                    a.iter().zip(b).map(|(a, b)| self.join(cond, a.clone(), b.clone(), branches, span));
                return Value::new(Ty::Tuple(parts.collect()), ExprKind::Int(0), span);
            }
            _ => {}
        }
        let mut ty = then.ty.clone();
        if !self.same_type(&then.ty, &otherwise.ty) {
            // Only one branch of a const condition is ever instantiated, so their shapes may differ.
            if cond.konst.is_some() {
                return Value::unknown(span);
            }
            let (a, b) = (self.describe(&then.ty), self.describe(&otherwise.ty));
            self.report(
                Diagnostic::new(
                    span,
                    format!("`if` gives {a} in one branch and {b} in the other; both must agree"),
                )
                .note(then.span, format!("{a} here"))
                .note(otherwise.span, format!("{b} here")),
            );
            return Value::unknown(span);
        }
        if let (Ty::Scalar(a), Ty::Scalar(b)) = (&then.ty, &otherwise.ty) {
            ty = self.unify(a, b).map_or(ty, Ty::Scalar);
        }
        let konst = match (&cond.konst, &then.konst, &otherwise.konst) {
            (Some(c), Some(a), Some(b)) => Some(Dim::symbol(&format!("(if {c} {{ {a} }} else {{ {b} }})"))),
            _ => None,
        };
        let var = self.new_var("", &ty, span);
        branches.then.push(Stmt::Assign { var, value: then.expr() });
        branches.otherwise.push(Stmt::Assign { var, value: otherwise.expr() });
        branches.assigned.push(var);
        Value::new(ty, ExprKind::Var(var), span).with_konst(konst)
    }

    /// Checks what an unknown function is called with: lists element by element, and no literal's type is
    /// demanded here.
    pub(super) fn survey(&mut self, args: &'a [Expr]) {
        for arg in args {
            if let Ast::Array(elements) = &arg.kind {
                self.survey(elements);
                continue;
            }
            let value = self.expr(arg);
            if let Ty::Scalar(dtype) = &value.ty {
                self.unify(dtype, &super::value::unknown_dtype());
            }
        }
    }

    /// A number that is known when the kernel is written or instantiated.
    pub(super) fn number(&mut self, expr: &'a Expr, what: &str) -> Option<(Dim, Span)> {
        let value = self.expr(expr);
        if let Ty::Scalar(dtype) = &value.ty {
            let integer = matches!(self.class(dtype), Class::Int | Class::Unknown);
            if integer && let Some(konst) = value.konst {
                self.unify(dtype, &DType::Index.into());
                return Some((konst, value.span));
            }
        }
        if !value.is_unknown() {
            let found = self.describe(&value.ty);
            self.error_help(
                value.span,
                format!("{what} must be a number or made of const parameters; found a {found} known only at run time"),
                "make it a const parameter: `const SIZE: usize`",
            );
        }
        None
    }

    /// An axis given as a number below `rank`.
    pub(super) fn axis(&mut self, expr: &'a Expr, rank: usize, what: &str) -> Option<usize> {
        let (axis, span) = self.number(expr, &format!("the axis of `{what}`"))?;
        let axis = axis.as_const()?;
        if (0..rank as i64).contains(&axis) {
            return Some(axis as usize);
        }
        let last = rank.saturating_sub(1);
        let range = if last == 0 { "0".to_owned() } else { format!("0 to {last}") };
        self.error(span, format!("`{what}`: axis {axis} is out of range; expected {range}"));
        None
    }

    /// `a` and `b` joined by a const operation, as the result of a scalar operation.
    pub(super) fn folded(&self, op: crate::ast::BinaryOp, a: &Value, b: &Value) -> Option<Dim> {
        konst::binary(op, a.konst.as_ref(), b.konst.as_ref())
    }
}

/// The branches of an `if` with a value, while its value is made.
struct Joined<'s> {
    then: &'s mut Vec<Stmt>,
    otherwise: &'s mut Vec<Stmt>,
    assigned: &'s mut Vec<typed::VarId>,
}

/// Changes a variable or a tensor.
fn has_effect(stmt: &Stmt) -> bool {
    match stmt {
        Stmt::Let { .. } | Stmt::Check { .. } => false,
        Stmt::Assign { .. } | Stmt::Store { .. } | Stmt::Scatter { .. } | Stmt::ArriveLast { .. } => true,
        Stmt::For { body, .. } => body.iter().any(has_effect),
        Stmt::While { before, body, .. } => before.iter().chain(body).any(has_effect),
        Stmt::If { then, otherwise, .. } => then.iter().chain(otherwise).any(has_effect),
    }
}
