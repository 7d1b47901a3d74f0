//! Shapes: broadcasting, reshaping, and the shape arguments of calls.

use super::value::{Ty, Value, shape_text};
use super::{Checker, Mode};
use crate::ast::{Expr, ExprKind as Ast};
use crate::diag::{Diagnostic, Span};
use crate::dim::Dim;
use crate::typed::{self, ExprKind, Type, TypedDType};

/// Why two shapes do not broadcast: the dimension, counted from the last, and both sizes.
pub(super) struct Clash {
    from_last: usize,
    a: Dim,
    b: Dim,
}

/// NumPy's rule: dimensions line up from the last; sizes of 1 stretch.
pub(super) fn broadcast(a: &[Dim], b: &[Dim]) -> Result<Vec<Dim>, Clash> {
    let rank = a.len().max(b.len());
    let one = Dim::constant(1);
    let at =
        |shape: &[Dim], i: usize| shape.len().checked_sub(i + 1).map_or(one.clone(), |j| shape[j].clone());
    let mut shape = Vec::with_capacity(rank);
    for i in 0..rank {
        let (x, y) = (at(a, i), at(b, i));
        shape.push(match (x == y || y.is_one(), x.is_one()) {
            (true, _) => x,
            (false, true) => y,
            // Undecided until the sizes are bound.
            (false, false) if x.is_opaque() => y,
            (false, false) if y.is_opaque() => x,
            (false, false) => return Err(Clash { from_last: i, a: x, b: y }),
        });
    }
    shape.reverse();
    Ok(shape)
}

/// Number of elements.
pub(super) fn elements(shape: &[Dim]) -> Dim {
    shape.iter().fold(Dim::constant(1), |product, d| product * d.clone())
}

impl<'a> Checker<'a> {
    /// The shape that operands broadcast to; scalars fit any. `None` where it is unknown or reported.
    pub(super) fn common_shape(
        &mut self,
        what: &str,
        operands: &[(&str, &Value)],
        span: Span,
    ) -> Option<Vec<Dim>> {
        let mut shape: Option<(Vec<Dim>, &str, &Value)> = None;
        for (name, value) in operands {
            let Ty::Tile(_, own) = &value.ty else { continue };
            let own = own.as_ref()?;
            shape = Some(match shape {
                None => (own.clone(), name, value),
                Some((so_far, first, first_value)) => match broadcast(&so_far, own) {
                    Ok(joined) => (joined, first, first_value),
                    Err(clash) => {
                        self.report_clash(
                            what,
                            (first, first_value, &so_far),
                            (name, value, own),
                            clash,
                            span,
                        );
                        return None;
                    }
                },
            });
        }
        shape.map(|(shape, ..)| shape)
    }

    fn report_clash(
        &mut self,
        what: &str,
        (a_name, a, a_shape): (&str, &Value, &[Dim]),
        (b_name, b, b_shape): (&str, &Value, &[Dim]),
        clash: Clash,
        span: Span,
    ) {
        let (a_text, b_text) = (shape_text(a_shape), shape_text(b_shape));
        let message = format!(
            "`{what}`: {a_name} is {a_text}, {b_name} is {b_text}; {} and {} in dimension {} do not broadcast",
            clash.a,
            clash.b,
            a_shape.len().max(b_shape.len()) - 1 - clash.from_last
        );
        let mut diagnostic = Diagnostic::new(span, message);
        for (name, value, text) in [(a_name, a, &a_text), (b_name, b, &b_text)] {
            if let ExprKind::Var(var) = value.node {
                let var = &self.vars[var];
                let name = if var.name.is_empty() { name } else { var.name.as_str() };
                diagnostic = diagnostic.note(var.span, format!("`{name}` is {text}"));
            }
        }
        let (short, long) =
            if a_shape.len() < b_shape.len() { (a_shape, b_shape) } else { (b_shape, a_shape) };
        diagnostic.help = if short.len() == 1 && long.len() == 2 && short[0] == long[0] {
            Some(format!(
                "dimensions line up from the last; make {} a column with `.expand_dims(1)`",
                shape_text(short)
            ))
        } else if a_shape.len() == 2
            && b_shape.len() == 2
            && broadcast(a_shape, &[b_shape[1].clone(), b_shape[0].clone()]).is_ok()
        {
            Some("transpose one of them with `.t()`".to_owned())
        } else {
            Some("two sizes broadcast when they are equal or one of them is 1".to_owned())
        };
        self.report(diagnostic);
    }

    /// Stretches a tile, or fills one from a scalar of dtype `dtype`, to `shape`.
    pub(super) fn stretch(
        &mut self,
        value: Value,
        dtype: &TypedDType,
        shape: &Option<Vec<Dim>>,
    ) -> typed::Expr {
        let span = value.span;
        let Some(shape) = shape else { return value.expr() };
        match &value.ty {
            Ty::Tile(_, Some(own)) if own == shape => value.expr(),
            Ty::Tile(own_dtype, Some(own)) => {
                let own_dtype = own_dtype.clone();
                let mut padded = vec![Dim::constant(1); shape.len() - own.len()];
                padded.extend(own.iter().cloned());
                let same_rank = padded.len() == own.len();
                let mut expr = value.expr();
                if !same_rank {
                    let ty = Type::Tile { dtype: own_dtype.clone(), shape: padded.clone() };
                    expr = typed::Expr { kind: ExprKind::Reshape(Box::new(expr)), ty, span };
                }
                if padded == *shape {
                    return expr;
                }
                let ty = Type::Tile { dtype: own_dtype, shape: shape.clone() };
                typed::Expr { kind: ExprKind::Broadcast(Box::new(expr)), ty, span }
            }
            Ty::Scalar(own_dtype) => {
                let own_dtype = self.resolve(own_dtype);
                let ty = Type::Tile { dtype: own_dtype.clone(), shape: shape.clone() };
                let full = typed::Expr { kind: ExprKind::Full(value.boxed()), ty, span };
                if own_dtype == self.resolve(dtype) {
                    return full;
                }
                let ty = Type::Tile { dtype: dtype.clone(), shape: shape.clone() };
                typed::Expr { kind: ExprKind::Cast(Box::new(full)), ty, span }
            }
            _ => value.expr(),
        }
    }

    /// A shape argument: `[TILE_M, 2 * TILE_K]`.
    pub(super) fn shape(&mut self, expr: &'a Expr, what: &str) -> Option<Vec<Dim>> {
        let Ast::Array(sizes) = &expr.kind else {
            let value = self.expr(expr);
            if !value.is_unknown() {
                let found = self.describe(&value.ty);
                self.error(
                    value.span,
                    format!("`{what}` takes a shape such as `[TILE_M, TILE_N]`; found {found}"),
                );
            }
            return None;
        };
        let dims: Vec<_> = sizes.iter().map(|size| self.tile_dim(size)).collect();
        dims.into_iter().collect()
    }

    /// The size of a tile dimension: known before run time, and a power of two.
    pub(super) fn tile_dim(&mut self, expr: &'a Expr) -> Option<Dim> {
        let (dim, span) = self.number(expr, "a tile dimension")?;
        let Some(size) = dim.as_const() else { return Some(dim) };
        if size > 0 && size & (size - 1) == 0 {
            return Some(dim);
        }
        let written = match &expr.kind {
            Ast::Name(name) if self.mode == Mode::Bound => format!("{name} = {size}"),
            _ => size.to_string(),
        };
        let help = match u64::try_from(size) {
            Ok(size @ 1..) => format!("the next power of two is {}", size.next_power_of_two()),
            _ => "the smallest tile dimension is 1".to_owned(),
        };
        self.error_help(span, format!("a tile dimension must be a power of two; found {written}"), help);
        None
    }

    /// `x.reshape(shape)`.
    pub(super) fn reshape(&mut self, tile: Value, to: Option<Vec<Dim>>, span: Span) -> Value {
        let Ty::Tile(dtype, from) = &tile.ty else { return Value::unknown(span) };
        let Some(to) = to else { return Value::unknown(span) };
        if let Some(from) = from {
            let (have, want) = (elements(from), elements(&to));
            if have != want && !have.is_opaque() && !want.is_opaque() {
                let message = format!(
                    "`reshape`: {} has {have} elements, {} has {want}; both must hold the same number",
                    shape_text(from),
                    shape_text(&to)
                );
                self.error(span, message);
                return Value::unknown(span);
            }
        }
        Value::tile(dtype.clone(), to, ExprKind::Reshape(tile.boxed()), span)
    }

    /// `x.broadcast_to(shape)`.
    pub(super) fn broadcast_to(&mut self, tile: Value, to: Option<Vec<Dim>>, span: Span) -> Value {
        let Ty::Tile(dtype, from) = &tile.ty else { return Value::unknown(span) };
        let Some(to) = to else { return Value::unknown(span) };
        let dtype = dtype.clone();
        if let Some(from) = from {
            let fits =
                broadcast(from, &to).is_ok_and(|joined| joined == to || joined.iter().any(Dim::is_opaque));
            if !fits || from.len() > to.len() {
                let message = format!(
                    "`broadcast_to`: {} does not stretch to {}; only dimensions of size 1 stretch",
                    shape_text(from),
                    shape_text(&to)
                );
                self.error(span, message);
                return Value::unknown(span);
            }
        }
        let shape = Some(to.clone());
        let expr = self.stretch(tile, &dtype, &shape);
        Value::tile(dtype, to, expr.kind, span)
    }
}
