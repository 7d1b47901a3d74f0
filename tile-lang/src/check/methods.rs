//! Methods of tiles and scalars.

use super::Checker;
use super::value::{Class, Ty, Value, shape_text};
use crate::ast::{BinaryOp, Expr, ExprKind as Ast, GenericArg};
use crate::builtins::{self, On};
use crate::diag::{Diagnostic, Span};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::typed::{ExprKind, ReduceKind, Type, UnaryMath};

impl<'a> Checker<'a> {
    /// `receiver.name::<generics>(args)`; statements after `mark` come from the receiver.
    pub(super) fn method(
        &mut self,
        receiver: Value,
        mark: usize,
        (name, name_span): (&'a str, Span),
        generics: &'a [GenericArg],
        args: &'a [Expr],
        span: Span,
    ) -> Value {
        let on = match &receiver.ty {
            Ty::Tensor(_) => On::Tensor,
            Ty::Tile(..) => On::Tile,
            Ty::Scalar(_) => On::Scalar,
            Ty::Unknown => {
                self.survey(args);
                return Value::unknown(span);
            }
            Ty::Unit | Ty::Tuple(_) => {
                let found = self.describe(&receiver.ty);
                self.error(name_span, format!("{found} has no methods; found `.{name}(..)`"));
                return Value::unknown(span);
            }
        };
        let Some(builtin) = builtins::find(on, name) else {
            let found = self.describe(&receiver.ty);
            let mut diagnostic = Diagnostic::new(name_span, format!("{found} has no method `{name}`"));
            diagnostic.help = builtins::suggest(on, name);
            self.report(diagnostic);
            self.survey(args);
            return Value::unknown(span);
        };
        if !self.counts(builtin, generics, args, span) {
            return Value::unknown(span);
        }
        if let Ty::Tensor(view) = receiver.ty {
            return self.tensor_method(view, name, args, span);
        }
        let before = self.out.len();
        debug_assert!(before >= mark);
        match on {
            On::Scalar => {
                let mut operands = vec![receiver];
                for arg in args {
                    let before = self.out.len();
                    let value = self.expr(arg);
                    self.keep_order(&mut operands, before);
                    operands.push(value);
                }
                self.scalar_method(name, operands, span)
            }
            _ => self.tile_method(receiver, name, generics, args, span),
        }
    }

    fn tile_method(
        &mut self,
        tile: Value,
        name: &'a str,
        generics: &'a [GenericArg],
        args: &'a [Expr],
        span: Span,
    ) -> Value {
        if let Some(op) = comparison(name) {
            let [tile, other] = self.with_operand(tile, &args[0]);
            let classes: &[Class] = match op {
                BinaryOp::Eq | BinaryOp::Ne => &[Class::Float, Class::Int, Class::Bool],
                _ => &[Class::Float, Class::Int],
            };
            let operands = vec![("lhs", tile), ("rhs", other)];
            return self.elementwise(name, classes, operands, span, Some(DType::Bool), |mut e| {
                let rhs = Box::new(e.remove(1));
                ExprKind::Binary(op, Box::new(e.remove(0)), rhs)
            });
        }
        match name {
            "maximum" | "minimum" => {
                let [tile, other] = self.with_operand(tile, &args[0]);
                self.extremum(name, tile, other, span)
            }
            "select" => {
                let before = self.out.len();
                let mut values = vec![tile];
                values.extend(self.expr_list(args));
                let (mask, rest) = values.split_at_mut(1);
                self.keep_order(mask, before);
                let (mask, a, b) = (mask[0].clone(), rest[0].clone(), rest[1].clone());
                self.select(mask, a, b, span)
            }
            "cast" => self.cast(tile, generics, span),
            "reshape" => {
                let shape = self.shape(&args[0], name);
                self.reshape(tile, shape, span)
            }
            "broadcast_to" => {
                let shape = self.shape(&args[0], name);
                self.broadcast_to(tile, shape, span)
            }
            "t" => match tile.shape().map(<[Dim]>::len) {
                Some(2) => self.transpose(tile, vec![1, 0], span),
                Some(_) => {
                    let found = self.describe(&tile.ty);
                    self.error_help(
                        span,
                        format!("`t` takes a tile of rank 2; found {found}"),
                        "use `permute([..])`",
                    );
                    Value::unknown(span)
                }
                None => self.of_unknown_shape(tile, span),
            },
            "permute" => self.permute(tile, &args[0], span),
            "expand_dims" => self.expand_dims(tile, &args[0], span),
            "squeeze" => self.squeeze(tile, &args[0], span),
            "reduce_sum" => self.reduce(name, ReduceKind::Sum, tile, &args[0], span),
            "reduce_max" => self.reduce(name, ReduceKind::Max, tile, &args[0], span),
            "reduce_min" => self.reduce(name, ReduceKind::Min, tile, &args[0], span),
            _ => match tile_math(name) {
                Some(math) => self.math(name, math, tile, span),
                None => Value::unknown(span),
            },
        }
    }

    fn with_operand(&mut self, first: Value, second: &'a Expr) -> [Value; 2] {
        let mark = self.out.len();
        let mut first = [first];
        let second = self.expr(second);
        self.keep_order(&mut first, mark);
        let [first] = first;
        [first, second]
    }

    /// Keeps the dtype of a tile whose shape is not known.
    fn of_unknown_shape(&mut self, tile: Value, span: Span) -> Value {
        Value { span, konst: None, ..tile }
    }

    /// `maximum` or `minimum`.
    pub(super) fn extremum(&mut self, name: &str, a: Value, b: Value, span: Span) -> Value {
        if matches!((&a.ty, &b.ty), (Ty::Scalar(_), Ty::Scalar(_))) {
            let method = &name[..3];
            self.error_help(
                span,
                format!("`{name}` takes tiles; found two scalars"),
                format!("use `a.{method}(b)`"),
            );
            return Value::unknown(span);
        }
        let max = name == "maximum";
        let operands = vec![("lhs", a), ("rhs", b)];
        self.elementwise(name, &[Class::Float, Class::Int], operands, span, None, |mut e| {
            let b = Box::new(e.remove(1));
            ExprKind::MinMax(max, Box::new(e.remove(0)), b)
        })
    }

    /// `div_rn(a, b)`.
    pub(super) fn div_rn(&mut self, a: Value, b: Value, span: Span) -> Value {
        if matches!((&a.ty, &b.ty), (Ty::Scalar(_), Ty::Scalar(_))) {
            self.error(span, "`div_rn` takes tiles; found two scalars");
            return Value::unknown(span);
        }
        let operands = vec![("lhs", a), ("rhs", b)];
        self.elementwise("div_rn", &[Class::Float], operands, span, None, |mut e| {
            let b = Box::new(e.remove(1));
            ExprKind::DivRn(Box::new(e.remove(0)), b)
        })
    }

    /// `mask.select(a, b)`.
    pub(super) fn select(&mut self, mask: Value, a: Value, b: Value, span: Span) -> Value {
        if mask.is_unknown() || a.is_unknown() || b.is_unknown() {
            return Value::unknown(span);
        }
        if !self.is_tile_of(&mask, DType::Bool, "the mask of `select`") {
            return Value::unknown(span);
        }
        let (mut a, b) = (a, b);
        if let (Ty::Scalar(x), Ty::Scalar(y)) = (&a.ty, &b.ty) {
            // The mask alone gives the shape.
            let Some(dtype) = self.unify(x, y) else {
                let (x, y) = (self.dtype_name(x), self.dtype_name(y));
                self.error(span, format!("`select`: a is {x}, b is {y}; both must have one type"));
                return Value::unknown(span);
            };
            let shape = mask.shape().map(<[Dim]>::to_vec);
            let place = a.span;
            let full = self.stretch(a, &dtype, &shape);
            a = Value::new(Ty::Tile(dtype, shape), full.kind, place);
        }
        let unknown_shape = [&mask, &a, &b].iter().any(|v| matches!(v.ty, Ty::Tile(_, None)));
        let shape = self.common_shape("select", &[("the mask", &mask), ("a", &a), ("b", &b)], span);
        if shape.is_none() && !unknown_shape {
            return Value::unknown(span);
        }
        let mask = self.stretch(mask, &DType::Bool.into(), &shape);
        let classes = [Class::Float, Class::Int, Class::Bool, Class::Storage, Class::Any];
        let operands = vec![("a", a), ("b", b)];
        let wide = shape.clone();
        let mut value = self.elementwise("select", &classes, operands, span, None, |mut e| {
            let b = Box::new(e.remove(1));
            ExprKind::Select(Box::new(mask), Box::new(e.remove(0)), b)
        });
        if let (Ty::Tile(_, own), ExprKind::Select(_, a, b)) = (&mut value.ty, &mut value.node)
            && let (Some(own), Some(wide)) = (own, wide)
            && *own != wide
        {
            for side in [a, b] {
                widen(side, &wide);
            }
            *own = wide;
        }
        value
    }

    fn cast(&mut self, tile: Value, generics: &'a [GenericArg], span: Span) -> Value {
        let Some(to) = self.generic_dtype(generics, "cast", span) else { return Value::unknown(span) };
        let Ty::Tile(from, shape) = &tile.ty else { return Value::unknown(span) };
        if matches!(&to, crate::typed::TypedDType::Known(DType::I64 | DType::Index)) {
            let name = self.dtype_name(&to);
            self.error(span, format!("`cast`: {name} is a type of scalars; tiles of integers are i32"));
            return Value::unknown(span);
        }
        if self.resolve(from) == to {
            return Value { span, ..tile };
        }
        Value::new(Ty::Tile(to, shape.clone()), ExprKind::Cast(tile.boxed()), span)
    }

    fn transpose(&mut self, tile: Value, perm: Vec<usize>, span: Span) -> Value {
        let Ty::Tile(dtype, Some(shape)) = &tile.ty else { return self.of_unknown_shape(tile, span) };
        let (dtype, shape) = (dtype.clone(), perm.iter().map(|&i| shape[i].clone()).collect());
        Value::tile(dtype, shape, ExprKind::Transpose(tile.boxed(), perm), span)
    }

    fn permute(&mut self, tile: Value, arg: &'a Expr, span: Span) -> Value {
        let Ast::Array(list) = &arg.kind else {
            self.error(self.place(arg.span), "`permute` takes a list of axes such as `[1, 0]`");
            return Value::unknown(span);
        };
        let Some(shape) = tile.shape().map(<[Dim]>::to_vec) else { return self.of_unknown_shape(tile, span) };
        let rank = shape.len();
        let axes: Option<Vec<_>> = list.iter().map(|e| self.axis(e, rank, "permute")).collect();
        let Some(axes) = axes else { return Value::unknown(span) };
        if axes.len() != rank || (0..rank).any(|i| !axes.contains(&i)) {
            let message = format!(
                "`permute`: {axes:?} is no order of the {rank} axes of {}; expected each of 0 to {} once",
                shape_text(&shape),
                rank.saturating_sub(1)
            );
            self.error(self.place(arg.span), message);
            return Value::unknown(span);
        }
        self.transpose(tile, axes, span)
    }

    fn expand_dims(&mut self, tile: Value, arg: &'a Expr, span: Span) -> Value {
        let Ty::Tile(dtype, Some(shape)) = &tile.ty else { return self.of_unknown_shape(tile, span) };
        let (dtype, mut shape) = (dtype.clone(), shape.clone());
        let Some(axis) = self.axis(arg, shape.len() + 1, "expand_dims") else { return Value::unknown(span) };
        shape.insert(axis, Dim::constant(1));
        Value::tile(dtype, shape, ExprKind::Reshape(tile.boxed()), span)
    }

    fn squeeze(&mut self, tile: Value, arg: &'a Expr, span: Span) -> Value {
        let Ty::Tile(dtype, Some(shape)) = &tile.ty else { return self.of_unknown_shape(tile, span) };
        let (dtype, mut shape) = (dtype.clone(), shape.clone());
        let Some(axis) = self.axis(arg, shape.len(), "squeeze") else { return Value::unknown(span) };
        if !shape[axis].is_one() && !shape[axis].is_opaque() {
            let message = format!(
                "`squeeze`: dimension {axis} of {} is {}; expected 1",
                shape_text(&shape),
                shape[axis]
            );
            self.error(span, message);
            return Value::unknown(span);
        }
        shape.remove(axis);
        Value::tile(dtype, shape, ExprKind::Reshape(tile.boxed()), span)
    }

    fn reduce(&mut self, what: &str, kind: ReduceKind, tile: Value, arg: &'a Expr, span: Span) -> Value {
        let Ty::Tile(dtype, shape) = &tile.ty else { return Value::unknown(span) };
        let dtype = dtype.clone();
        if !self.takes(what, &[Class::Float, Class::Int], &dtype, span) {
            return Value::unknown(span);
        }
        let Some(mut shape) = shape.clone() else { return self.of_unknown_shape(tile, span) };
        let Some(axis) = self.axis(arg, shape.len(), what) else { return Value::unknown(span) };
        shape[axis] = Dim::constant(1);
        Value::tile(dtype, shape, ExprKind::Reduce(kind, tile.boxed(), axis), span)
    }

    fn scalar_method(&mut self, name: &str, mut operands: Vec<Value>, span: Span) -> Value {
        if operands.iter().any(Value::is_unknown) {
            return Value::unknown(span);
        }
        let first = operands.remove(0);
        let mut rest = operands.into_iter();
        let (second, third) = (rest.next(), rest.next());
        match (name, second, third) {
            ("min" | "max", Some(other), _) => self.scalar_min_max(name == "max", first, other, span),
            ("clamp", Some(low), Some(high)) => {
                let value = self.scalar_min_max(true, first, low, span);
                self.scalar_min_max(false, value, high, span)
            }
            ("div_ceil", Some(other), _) => self.ceil_div(name, first, other, span),
            ("saturating_sub", Some(other), _) => {
                if !self.is_size(name, &first) || !self.is_size(name, &other) {
                    return Value::unknown(span);
                }
                let larger = self.scalar_min_max(true, first, other.clone(), span);
                self.binary(BinaryOp::Sub, larger, other, span)
            }
            ("mul_add", Some(b), Some(c)) => self.fma(vec![("self", first), ("b", b), ("c", c)], span),
            ("recip", ..) => {
                let Ty::Scalar(dtype) = &first.ty else { return Value::unknown(span) };
                let dtype = dtype.clone();
                if !self.takes(name, &[Class::Float], &dtype, span) {
                    return Value::unknown(span);
                }
                let one = Value::scalar(dtype, ExprKind::Float(1.0), span);
                self.binary(BinaryOp::Div, one, first, span)
            }
            _ => match scalar_math(name) {
                Some(math) => self.math(name, math, first, span),
                None => Value::unknown(span),
            },
        }
    }

    /// `a * b + c` of tiles and scalars.
    pub(super) fn fma(&mut self, operands: Vec<(&str, Value)>, span: Span) -> Value {
        let make = |mut e: Vec<crate::typed::Expr>| {
            let c = Box::new(e.remove(2));
            let b = Box::new(e.remove(1));
            ExprKind::Fma(Box::new(e.remove(0)), b, c)
        };
        if !operands.iter().all(|(_, v)| matches!(v.ty, Ty::Scalar(_))) {
            return self.elementwise("fma", &[Class::Float], operands, span, None, make);
        }
        for (name, value) in &operands {
            let Ty::Scalar(dtype) = &value.ty else { continue };
            if self.unify(dtype, &DType::F32.into()).is_none() {
                let found = self.dtype_name(dtype);
                self.error(value.span, format!("`mul_add`: {name} is {found}; expected f32"));
                return Value::unknown(span);
            }
        }
        let exprs = operands.into_iter().map(|(_, v)| v.expr()).collect();
        Value::scalar(DType::F32, make(exprs), span)
    }
}

/// Stretches an operand that is already a tile of the same rank or less.
fn widen(side: &mut Box<crate::typed::Expr>, wide: &[Dim]) {
    let Type::Tile { dtype, shape } = &side.ty else { return };
    let (dtype, span, rank) = (dtype.clone(), side.span, shape.len());
    let mut padded = vec![Dim::constant(1); wide.len() - rank];
    padded.extend(shape.iter().cloned());
    let needs_reshape = padded.len() != rank;
    let mut inner = std::mem::replace(
        side,
        Box::new(crate::typed::Expr { kind: ExprKind::Int(0), ty: Type::Unit, span }),
    );
    if needs_reshape {
        let ty = Type::Tile { dtype: dtype.clone(), shape: padded };
        inner = Box::new(crate::typed::Expr { kind: ExprKind::Reshape(inner), ty, span });
    }
    let ty = Type::Tile { dtype, shape: wide.to_vec() };
    **side = crate::typed::Expr { kind: ExprKind::Broadcast(inner), ty, span };
}

fn comparison(name: &str) -> Option<BinaryOp> {
    Some(match name {
        "eq" => BinaryOp::Eq,
        "ne" => BinaryOp::Ne,
        "lt" => BinaryOp::Lt,
        "le" => BinaryOp::Le,
        "gt" => BinaryOp::Gt,
        "ge" => BinaryOp::Ge,
        _ => return None,
    })
}

fn tile_math(name: &str) -> Option<UnaryMath> {
    Some(match name {
        "log" => UnaryMath::Log,
        "rsqrt" => UnaryMath::Rsqrt,
        "ln" => return None,
        other => return scalar_math(other),
    })
}

fn scalar_math(name: &str) -> Option<UnaryMath> {
    Some(match name {
        "exp" => UnaryMath::Exp,
        "exp2" => UnaryMath::Exp2,
        "ln" => UnaryMath::Log,
        "log2" => UnaryMath::Log2,
        "sqrt" => UnaryMath::Sqrt,
        "tanh" => UnaryMath::Tanh,
        "abs" => UnaryMath::Abs,
        _ => return None,
    })
}
