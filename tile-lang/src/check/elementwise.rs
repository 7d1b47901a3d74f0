//! Operators and elementwise functions of scalars and tiles.

use super::konst::symbol;
use super::value::{Class, Ty, Value};
use super::{Checker, konst};
use crate::ast::BinaryOp;
use crate::diag::{Diagnostic, Span};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::typed::{self, ExprKind, TypedDType, UnaryMath};

impl Checker<'_> {
    /// `lhs op rhs`.
    pub(super) fn binary(&mut self, op: BinaryOp, lhs: Value, rhs: Value, span: Span) -> Value {
        if lhs.is_unknown() || rhs.is_unknown() {
            return Value::unknown(span);
        }
        let what = symbol(op);
        match (&lhs.ty, &rhs.ty) {
            (Ty::Scalar(_), Ty::Scalar(_)) => return self.scalar_binary(op, lhs, rhs, span),
            (Ty::Scalar(_) | Ty::Tile(..), Ty::Scalar(_) | Ty::Tile(..)) => {}
            _ => return self.not_operands(what, &[("lhs", &lhs), ("rhs", &rhs)], span),
        }
        let help = match op {
            BinaryOp::Eq => Some("use `.eq(..)`"),
            BinaryOp::Ne => Some("use `.ne(..)`"),
            BinaryOp::Lt => Some("use `.lt(..)`"),
            BinaryOp::Le => Some("use `.le(..)`"),
            BinaryOp::Gt => Some("use `.gt(..)`"),
            BinaryOp::Ge => Some("use `.ge(..)`"),
            BinaryOp::AndAnd => Some("use `&`"),
            BinaryOp::OrOr => Some("use `|`"),
            BinaryOp::Shl | BinaryOp::Shr => Some("multiply or divide by a power of two"),
            _ => None,
        };
        if let Some(help) = help {
            let (a, b) = (self.describe(&lhs.ty), self.describe(&rhs.ty));
            self.error_help(
                span,
                format!("`{what}` takes scalars; found {a} and {b}"),
                format!("elementwise: {help}"),
            );
            return Value::unknown(span);
        }
        let classes: &[Class] = match op {
            BinaryOp::And | BinaryOp::Or | BinaryOp::Xor => &[Class::Bool, Class::Int],
            _ => &[Class::Float, Class::Int],
        };
        self.elementwise(what, classes, vec![("lhs", lhs), ("rhs", rhs)], span, None, |mut e| {
            let rhs = e.pop().expect("two operands");
            let lhs = e.pop().expect("two operands");
            ExprKind::Binary(op, Box::new(lhs), Box::new(rhs))
        })
    }

    fn not_operands(&mut self, what: &str, operands: &[(&str, &Value)], span: Span) -> Value {
        let found: Vec<_> =
            operands.iter().map(|(name, v)| format!("{name} is {}", self.describe(&v.ty))).collect();
        let mut diagnostic =
            Diagnostic::new(span, format!("`{what}`: {}; expected tiles or scalars", found.join(", ")));
        if operands.iter().any(|(_, v)| matches!(v.ty, Ty::Tensor(_))) {
            diagnostic =
                diagnostic.help("load a tile from the tensor first: `t.load([i, j], [TILE_M, TILE_N])`");
        }
        self.report(diagnostic);
        Value::unknown(span)
    }

    /// An elementwise operation with at least one tile: finds the dtype and shape the operands share, stretches
    /// them, and gives `make` of them. `result` is the dtype of the result where it differs.
    pub(super) fn elementwise(
        &mut self,
        what: &str,
        classes: &[Class],
        operands: Vec<(&str, Value)>,
        span: Span,
        result: Option<DType>,
        make: impl FnOnce(Vec<typed::Expr>) -> ExprKind,
    ) -> Value {
        if operands.iter().any(|(_, v)| v.is_unknown()) {
            return Value::unknown(span);
        }
        let named: Vec<(&str, &Value)> = operands.iter().map(|(n, v)| (*n, v)).collect();
        if named.iter().any(|(_, v)| !matches!(v.ty, Ty::Scalar(_) | Ty::Tile(..))) {
            return self.not_operands(what, &named, span);
        }
        let Some(dtype) = self.common_dtype(what, &named, span) else { return Value::unknown(span) };
        if !self.takes(what, classes, &dtype, span) {
            return Value::unknown(span);
        }
        let unknown_shape = named.iter().any(|(_, v)| matches!(v.ty, Ty::Tile(_, None)));
        let shape = self.common_shape(what, &named, span);
        if shape.is_none() && !unknown_shape {
            return Value::unknown(span);
        }
        let exprs: Vec<_> = operands.into_iter().map(|(_, v)| self.stretch(v, &dtype, &shape)).collect();
        let dtype = result.map_or(dtype, Into::into);
        Value::new(Ty::Tile(dtype, shape), make(exprs), span)
    }

    /// The dtype that tiles share and that scalars beside them are converted to.
    fn common_dtype(&mut self, what: &str, operands: &[(&str, &Value)], span: Span) -> Option<TypedDType> {
        let mut common: Option<(&str, TypedDType)> = None;
        for (name, value) in operands {
            let Ty::Tile(dtype, _) = &value.ty else { continue };
            common = Some(match common {
                None => (name, dtype.clone()),
                Some((first, so_far)) => match self.unify(&so_far, dtype) {
                    Some(dtype) => (first, dtype),
                    None => {
                        let (a, b) = (self.dtype_name(&so_far), self.dtype_name(dtype));
                        self.error_help(
                            span,
                            format!("`{what}`: {first} is Tile<{a}>, {name} is Tile<{b}>; both must have one dtype"),
                            format!("convert one with `.cast::<{a}>()`"),
                        );
                        return None;
                    }
                },
            });
        }
        let (_, dtype) = common?;
        let expected = self.scalar_of(&dtype);
        for (name, value) in operands {
            let Ty::Scalar(found) = &value.ty else { continue };
            if self.unify(&expected, found).is_none() {
                let (tile, want, found) =
                    (self.dtype_name(&dtype), self.dtype_name(&expected), self.dtype_name(found));
                let message =
                    format!("`{what}`: {name} is {found}; a scalar beside a Tile<{tile}> is {want}");
                let help = match &value.node {
                    ExprKind::Int(n) if want == "f32" => format!("write `{n}.0`"),
                    _ => format!("convert it with `as {want}`"),
                };
                self.error_help(value.span, message, help);
                return None;
            }
        }
        Some(dtype)
    }

    /// Whether an operation takes a dtype; reports one that it does not.
    pub(super) fn takes(&mut self, what: &str, classes: &[Class], dtype: &TypedDType, span: Span) -> bool {
        let class = self.class(dtype);
        if class == Class::Unknown || classes.contains(&class) {
            return true;
        }
        let name = self.dtype_name(dtype);
        let wanted: Vec<_> = classes
            .iter()
            .map(|c| match c {
                Class::Float => "f32, f16, bf16",
                Class::Int => "i32",
                Class::Bool => "bool",
                Class::Storage => "f8E4M3FN",
                Class::Any | Class::Unknown => "any dtype",
            })
            .collect();
        let message = format!("`{what}` takes {}; found {name}", wanted.join(", "));
        match class {
            Class::Storage => {
                let message = match dtype {
                    TypedDType::Known(_) => format!("`{what}`: {name} is a storage type, without arithmetic"),
                    TypedDType::Param(_) => {
                        format!("`{what}`: `{name}: Factor` may be f8E4M3FN, which is without arithmetic")
                    }
                };
                self.error_help(span, message, "convert it first with `.cast::<f32>()`");
            }
            Class::Any => {
                let message = format!("`{what}` takes {}; `{name}` may be any dtype", wanted.join(", "));
                let bound = if classes.contains(&Class::Storage) { "Factor" } else { "Float" };
                self.error_help(span, message, format!("bound it: `{name}: {bound}`"));
            }
            _ => self.error(span, message),
        }
        false
    }

    fn scalar_binary(&mut self, op: BinaryOp, lhs: Value, rhs: Value, span: Span) -> Value {
        let (Ty::Scalar(a), Ty::Scalar(b)) = (&lhs.ty, &rhs.ty) else { return Value::unknown(span) };
        let what = symbol(op);
        let shift = matches!(op, BinaryOp::Shl | BinaryOp::Shr);
        let dtype = match self.unify(a, b) {
            Some(dtype) => dtype,
            None => {
                let (a, b) = (self.dtype_name(a), self.dtype_name(b));
                let help = match (&lhs.node, &rhs.node) {
                    (ExprKind::Int(n), _) if b == "f32" => format!("write `{n}.0`"),
                    (_, ExprKind::Int(n)) if a == "f32" => format!("write `{n}.0`"),
                    _ => format!("convert one with `as`, for example `as {a}`"),
                };
                self.error_help(
                    span,
                    format!("`{what}`: lhs is {a}, rhs is {b}; both must have one type"),
                    help,
                );
                return Value::unknown(span);
            }
        };
        let class = self.class(&dtype);
        let comparison = is_comparison(op);
        let fine = match op {
            BinaryOp::AndAnd | BinaryOp::OrOr => class == Class::Bool,
            BinaryOp::And | BinaryOp::Or | BinaryOp::Xor => matches!(class, Class::Bool | Class::Int),
            _ if shift => class == Class::Int,
            _ if comparison => class != Class::Storage,
            _ => matches!(class, Class::Float | Class::Int),
        };
        if !fine && class != Class::Unknown {
            let found = self.dtype_name(&dtype);
            self.error(span, format!("`{what}` does not take {found}"));
            return Value::unknown(span);
        }
        if let Some(value) = short_circuit(op, &lhs, &rhs) {
            return Value { span, ..value };
        }
        if matches!(op, BinaryOp::Div | BinaryOp::Rem)
            && class == Class::Int
            && rhs.konst.as_ref().and_then(Dim::as_const) == Some(0)
        {
            self.error(span, format!("`{what}`: the divisor is 0"));
            return Value::unknown(span);
        }
        let konst = if class == Class::Float { None } else { self.folded(op, &lhs, &rhs) };
        let result = if comparison { DType::Bool.into() } else { dtype };
        Value::scalar(result, ExprKind::Binary(op, lhs.boxed(), rhs.boxed()), span).with_konst(konst)
    }

    /// `x.exp2()` and the like, of a tile or a scalar.
    pub(super) fn math(&mut self, what: &str, math: UnaryMath, operand: Value, span: Span) -> Value {
        let (Ty::Scalar(dtype) | Ty::Tile(dtype, _)) = &operand.ty else { return Value::unknown(span) };
        let dtype = dtype.clone();
        let classes: &[Class] =
            if math == UnaryMath::Abs { &[Class::Float, Class::Int] } else { &[Class::Float] };
        if !self.takes(what, classes, &dtype, span) {
            return Value::unknown(span);
        }
        let ty = operand.ty.clone();
        Value::new(ty, ExprKind::Math(math, operand.boxed()), span)
    }

    /// `a / b` rounded up, of sizes.
    pub(super) fn ceil_div(&mut self, what: &str, a: Value, b: Value, span: Span) -> Value {
        for value in [&a, &b] {
            if !self.is_size(what, value) {
                return Value::unknown(span);
            }
        }
        let konst = konst::function("cdiv", &[a.konst.as_ref(), b.konst.as_ref()], |v| {
            v[0].checked_add(v[1].checked_sub(1)?)?.checked_div(v[1])
        });
        let size = |node| Value::scalar(DType::Index, node, span);
        let one = size(ExprKind::Int(1));
        let less = size(ExprKind::Binary(BinaryOp::Sub, b.clone().boxed(), one.boxed()));
        let sum = size(ExprKind::Binary(BinaryOp::Add, a.boxed(), less.boxed()));
        size(ExprKind::Binary(BinaryOp::Div, sum.boxed(), b.boxed())).with_konst(konst)
    }

    /// Whether a value is a `usize`; reports what is not.
    pub(super) fn is_size(&mut self, what: &str, value: &Value) -> bool {
        let fine = match &value.ty {
            Ty::Unknown => return false,
            Ty::Scalar(dtype) => self.unify(dtype, &DType::Index.into()).is_some(),
            _ => false,
        };
        if !fine {
            let found = self.describe(&value.ty);
            let message = format!("`{what}` takes a usize; found {found}");
            match &value.ty {
                Ty::Scalar(_) => self.error_help(value.span, message, "convert it with `as usize`"),
                _ => self.error(value.span, message),
            }
        }
        fine
    }

    /// The smaller or larger of two scalars. Of f32, Rust gives the other one where one is NaN.
    pub(super) fn scalar_min_max(&mut self, max: bool, a: Value, b: Value, span: Span) -> Value {
        let what = if max { "max" } else { "min" };
        let (Ty::Scalar(x), Ty::Scalar(y)) = (&a.ty, &b.ty) else {
            if !a.is_unknown() && !b.is_unknown() {
                let (a, b) = (self.describe(&a.ty), self.describe(&b.ty));
                let message = format!("`{what}` takes two scalars; found {a} and {b}");
                self.error_help(span, message, format!("of tiles, use `{what}imum(a, b)`"));
            }
            return Value::unknown(span);
        };
        let Some(dtype) = self.unify(x, y) else {
            let (a, b) = (self.dtype_name(x), self.dtype_name(y));
            self.error(span, format!("`{what}`: one is {a}, the other {b}; both must have one type"));
            return Value::unknown(span);
        };
        if self.class(&dtype) != Class::Float {
            let konst = konst::function(what, &[a.konst.as_ref(), b.konst.as_ref()], |v| {
                Some(if max { v[0].max(v[1]) } else { v[0].min(v[1]) })
            });
            return Value::scalar(dtype, ExprKind::MinMax(max, a.boxed(), b.boxed()), span).with_konst(konst);
        }
        let (a, b) = (self.temporary(a), self.temporary(b));
        let bool_of = |op, x: &Value, y: &Value| {
            Value::scalar(DType::Bool, ExprKind::Binary(op, x.clone().boxed(), y.clone().boxed()), span)
        };
        let keeps = bool_of(if max { BinaryOp::Ge } else { BinaryOp::Le }, &a, &b);
        let nan = bool_of(BinaryOp::Ne, &b, &b);
        let takes_a = bool_of(BinaryOp::Or, &keeps, &nan);
        Value::scalar(dtype, ExprKind::Select(takes_a.boxed(), a.boxed(), b.boxed()), span)
    }
}

/// Operators whose result is bool.
fn is_comparison(op: BinaryOp) -> bool {
    use BinaryOp::{Eq, Ge, Gt, Le, Lt, Ne};
    matches!(op, Eq | Ne | Lt | Le | Gt | Ge)
}

/// `true && x`, `false || x` and the like, where one side is const.
fn short_circuit(op: BinaryOp, lhs: &Value, rhs: &Value) -> Option<Value> {
    let decides = match op {
        BinaryOp::AndAnd => 0,
        BinaryOp::OrOr => 1,
        _ => return None,
    };
    let known = |v: &Value| v.konst.as_ref().and_then(Dim::as_const);
    match (known(lhs), known(rhs)) {
        (Some(l), _) => Some(if l == decides { lhs.clone() } else { rhs.clone() }),
        (None, Some(r)) => Some(if r == decides { rhs.clone() } else { lhs.clone() }),
        _ => None,
    }
}
