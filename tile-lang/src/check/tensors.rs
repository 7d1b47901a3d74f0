//! Tensor views: sizes, slices, single elements, block loads and stores, gathers and scatters.

use super::Checker;
use super::shapes::broadcast;
use super::value::{Class, Ty, Value, shape_text};
use crate::ast::{Expr, ExprKind as Ast};
use crate::diag::{Diagnostic, Span};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::typed::{self, ExprKind, ParamKind, Stmt, TypedDType};

/// The tensor a method is called on.
struct View {
    tensor: typed::View,
    name: String,
    dtype: TypedDType,
    rank: usize,
}

impl<'a> Checker<'a> {
    /// A method of a tensor; its name and number of arguments are right.
    pub(super) fn tensor_method(
        &mut self,
        tensor: typed::View,
        name: &str,
        args: &'a [Expr],
        span: Span,
    ) -> Value {
        let param = &self.params[tensor.param];
        let ParamKind::Tensor { dtype, rank, mutable } = &param.kind else {
            return Value::unknown(span);
        };
        let (mutable, declared) = (*mutable, param.span);
        let view = View { tensor, name: param.name.clone(), dtype: dtype.clone(), rank: *rank };
        if matches!(name, "store" | "scatter" | "scatter_masked" | "arrive_last") && !mutable {
            let message =
                format!("`{name}` writes to `{}`, which is a Tensor; expected a TensorMut", view.name);
            self.report(
                Diagnostic::new(span, message)
                    .note(declared, format!("`{}` is declared here", view.name))
                    .help(format!("declare it `{}: TensorMut<..>`", view.name)),
            );
            self.survey(args);
            return Value::unit(span);
        }
        match name {
            "dim" => match self.axis(&args[0], view.rank, "dim") {
                Some(axis) => Value::scalar(DType::Index, ExprKind::TensorDim(view.tensor, axis), span),
                None => Value::unknown(span),
            },
            "at" => self.at(&view, &args[0], span),
            "slice" => self.slice(view, args, span),
            "load" => self.load(&view, args, span),
            "store" => self.store(&view, args, span),
            "arrive_last" => self.arrive_last(&view, args, span),
            "gather" | "gather_masked" => self.gather(&view, name, args, span),
            _ => self.scatter(&view, name, args, span),
        }
    }

    /// The elements of a list that must have one for each dimension of the tensor.
    fn per_dimension(&mut self, view: &View, what: &str, arg: &'a Expr) -> Option<&'a [Expr]> {
        let span = self.place(arg.span);
        let Ast::Array(list) = &arg.kind else {
            let value = self.expr(arg);
            if !value.is_unknown() {
                let found = self.describe(&value.ty);
                self.error(
                    span,
                    format!("{what} is a list with one entry for each dimension; found {found}"),
                );
            }
            return None;
        };
        if list.len() != view.rank {
            self.error(
                span,
                format!(
                    "`{}` has rank {}; expected {} entries in {what}, found {}",
                    view.name,
                    view.rank,
                    view.rank,
                    list.len()
                ),
            );
            return None;
        }
        Some(list)
    }

    /// Block indices: one `usize` for each dimension.
    fn block_index(&mut self, view: &View, what: &str, arg: &'a Expr) -> Option<Vec<Value>> {
        let list = self.per_dimension(view, &format!("the block index of `{what}`"), arg)?;
        self.sizes(&format!("a block index of `{what}`"), list)
    }

    /// Scalars that all are `usize`.
    fn sizes(&mut self, what: &str, list: &'a [Expr]) -> Option<Vec<Value>> {
        let values = self.expr_list(list);
        let fine: Vec<bool> = values.iter().map(|v| self.is_index(what, v)).collect();
        fine.into_iter().all(|f| f).then_some(values)
    }

    fn is_index(&mut self, what: &str, value: &Value) -> bool {
        let fine = match &value.ty {
            Ty::Unknown => return false,
            Ty::Scalar(dtype) => self.unify(dtype, &DType::Index.into()).is_some(),
            _ => false,
        };
        if !fine {
            let found = self.describe(&value.ty);
            let message = format!("{what} is a usize; found {found}");
            let help = match &value.ty {
                Ty::Tile(..) => "tiles of element indices go to `gather` and `scatter`",
                _ => "convert it with `as usize`",
            };
            self.error_help(value.span, message, help);
        }
        fine
    }

    /// One element.
    fn at(&mut self, view: &View, arg: &'a Expr, span: Span) -> Value {
        let index = match self.per_dimension(view, "the index of `at`", arg) {
            Some(list) => self.sizes("an index of `at`", list),
            None => None,
        };
        if self.class(&view.dtype) == Class::Any {
            let name = self.dtype_name(&view.dtype);
            self.error_help(
                span,
                format!("`at` gives a scalar, and which type of scalar a {name} is depends on the launch"),
                format!("declare `{name}: Float`, or give `{}` a dtype", view.name),
            );
            return Value::unknown(span);
        }
        let dtype = self.scalar_of(&view.dtype);
        let index = index.unwrap_or_default().into_iter().map(Value::expr).collect();
        Value::scalar(dtype, ExprKind::At { tensor: view.tensor.clone(), index }, span)
    }

    /// A part of the tensor; where it starts and how long it is are kept in variables.
    fn slice(&mut self, view: View, args: &'a [Expr], span: Span) -> Value {
        let axis = self.axis(&args[0], view.rank, "slice");
        let bounds = self.sizes("a bound of `slice`", &args[1..]);
        let (Some(axis), Some(bounds)) = (axis, bounds) else { return Value::unknown(span) };
        let vars: Vec<typed::VarId> = bounds
            .into_iter()
            .filter_map(|bound| match self.temporary(bound).node {
                ExprKind::Var(var) => Some(var),
                _ => None,
            })
            .collect();
        let &[start, len] = &vars[..] else { return Value::unknown(span) };
        let tensor = view.tensor.sliced(typed::Slice { axis, start, len });
        Value::new(Ty::Tensor(tensor), ExprKind::Int(0), span)
    }

    fn load(&mut self, view: &View, args: &'a [Expr], span: Span) -> Value {
        let index = self.block_index(view, "load", &args[0]);
        let shape = match self.per_dimension(view, "the shape of `load`", &args[1]) {
            Some(_) => self.shape(&args[1], "load"),
            None => None,
        };
        let Some(shape) = shape else { return Value::unknown(span) };
        let Some(index) = index else {
            return Value::new(Ty::Tile(view.dtype.clone(), Some(shape)), ExprKind::Int(0), span);
        };
        let index = index.into_iter().map(Value::expr).collect();
        Value::tile(view.dtype.clone(), shape, ExprKind::Load { tensor: view.tensor.clone(), index }, span)
    }

    fn store(&mut self, view: &View, args: &'a [Expr], span: Span) -> Value {
        let unit = Value::unit(span);
        let index = self.block_index(view, "store", &args[0]);
        let between = self.out.len();
        let value = self.expr(&args[1]);
        if value.is_unknown() || !self.stored(view, "store", &value) {
            return unit;
        }
        if let Some(shape) = value.shape()
            && shape.len() != view.rank
        {
            let message = format!(
                "`store`: the tile is {}, of rank {}; `{}` has rank {}",
                shape_text(shape),
                shape.len(),
                view.name,
                view.rank
            );
            self.error_help(value.span, message, "give the tile the tensor's rank with `.reshape([..])`");
            return unit;
        }
        let Some(mut index) = index else { return unit };
        self.keep_order(&mut index, between);
        let index = index.into_iter().map(Value::expr).collect();
        self.out.push(Stmt::Store { tensor: view.tensor.clone(), index, value: value.expr(), span });
        unit
    }

    /// An arrival; the answer is kept in a variable, so that it happens where it is written.
    fn arrive_last(&mut self, view: &View, args: &'a [Expr], span: Span) -> Value {
        let index = match self.per_dimension(view, "the index of `arrive_last`", &args[0]) {
            Some(list) => self.sizes("an index of `arrive_last`", list),
            None => None,
        };
        let between = self.out.len();
        let count = self.expr(&args[1]);
        let unknown = Value::scalar(DType::Bool, ExprKind::Int(0), span);
        if self.unify(&view.dtype, &DType::I32.into()).is_none() {
            let (name, found) = (&view.name, self.dtype_name(&view.dtype));
            let message = format!("`arrive_last` counts in a tensor of i32; `{name}` holds {found}");
            self.error(span, message);
            return unknown;
        }
        let fits = self.is_index("the count of `arrive_last`", &count);
        let (Some(mut index), true) = (index, fits) else { return unknown };
        self.keep_order(&mut index, between);
        let index = index.into_iter().map(Value::expr).collect();
        let ty = Ty::Scalar(DType::Bool.into());
        let var = self.new_var("", &ty, span);
        let tensor = view.tensor.clone();
        self.out.push(Stmt::ArriveLast { var, tensor, index, count: count.expr(), span });
        Value::new(ty, ExprKind::Var(var), span)
    }

    /// Whether a value is a tile of the tensor's dtype.
    fn stored(&mut self, view: &View, what: &str, value: &Value) -> bool {
        let expected = self.dtype_name(&view.dtype);
        let message = match &value.ty {
            Ty::Tile(dtype, _) if self.unify(dtype, &view.dtype).is_some() => return true,
            Ty::Unknown => return false,
            other => {
                let found = self.describe(other);
                format!("`{what}`: `{}` holds {expected}; the value is {found}", view.name)
            }
        };
        let help = match &value.ty {
            Ty::Tile(..) => format!("convert it with `.cast::<{expected}>()`"),
            _ => format!("a tile can be made of a scalar: `full::<{expected}>([..], value)`"),
        };
        self.error_help(value.span, message, help);
        false
    }

    /// Element indices: i32 tiles, one a dimension.
    fn element_index(&mut self, view: &View, what: &str, arg: &'a Expr) -> Option<Vec<Value>> {
        let list = self.per_dimension(view, &format!("the index of `{what}`"), arg)?;
        let values = self.expr_list(list);
        let fine: Vec<bool> =
            values.iter().map(|v| self.is_tile_of(v, DType::I32, &format!("an index of `{what}`"))).collect();
        fine.into_iter().all(|f| f).then_some(values)
    }

    /// Whether a value is a tile of one dtype.
    pub(super) fn is_tile_of(&mut self, value: &Value, dtype: DType, what: &str) -> bool {
        let fine = match &value.ty {
            Ty::Unknown => return false,
            Ty::Tile(found, _) => self.unify(found, &dtype.into()).is_some(),
            _ => false,
        };
        if !fine {
            let found = self.describe(&value.ty);
            let message = format!("{what} is a Tile<{dtype}>; found {found}");
            match value.ty {
                Ty::Tile(..) if dtype != DType::Bool => {
                    self.error_help(value.span, message, format!("convert it with `.cast::<{dtype}>()`"));
                }
                _ => self.error(value.span, message),
            }
        }
        fine
    }

    fn mask(&mut self, what: &str, arg: Option<&'a Expr>) -> Option<Option<Value>> {
        let Some(arg) = arg else { return Some(None) };
        let value = self.expr(arg);
        self.is_tile_of(&value, DType::Bool, &format!("the mask of `{what}`")).then_some(Some(value))
    }

    fn gather(&mut self, view: &View, what: &str, args: &'a [Expr], span: Span) -> Value {
        let index = self.element_index(view, what, &args[0]);
        let mask = self.mask(what, args.get(1));
        let (Some(index), Some(mask)) = (index, mask) else { return Value::unknown(span) };
        let Some((shape, index, mask)) = self.spread(what, index, mask, None, span) else {
            return Value::unknown(span);
        };
        let node = ExprKind::Gather { tensor: view.tensor.clone(), index, mask: mask.map(Box::new) };
        Value::new(Ty::Tile(view.dtype.clone(), shape), node, span)
    }

    fn scatter(&mut self, view: &View, what: &str, args: &'a [Expr], span: Span) -> Value {
        let unit = Value::unit(span);
        let index = self.element_index(view, what, &args[0]);
        let value = self.expr(&args[1]);
        let mask = self.mask(what, args.get(2));
        let stored = self.stored(view, what, &value);
        let (Some(index), Some(mask), true) = (index, mask, stored) else { return unit };
        let own = value.shape().map(<[Dim]>::to_vec);
        let Some((shape, index, mask)) = self.spread(what, index, mask, Some(&value), span) else {
            return unit;
        };
        if let (Some(own), Some(shape)) = (&own, &shape)
            && broadcast(own, shape).is_ok()
            && own != shape
        {
            let message = format!(
                "`{what}`: the tile is {}, its index and mask broadcast to {}; the tile must have that shape",
                shape_text(own),
                shape_text(shape)
            );
            self.error_help(value.span, message, "stretch it with `.broadcast_to([..])`");
            return unit;
        }
        self.out.push(Stmt::Scatter { tensor: view.tensor.clone(), index, value: value.expr(), mask, span });
        unit
    }

    /// Broadcasts indices, mask and value together; the value's tree is not made here.
    #[allow(clippy::type_complexity)]
    fn spread(
        &mut self,
        what: &str,
        index: Vec<Value>,
        mask: Option<Value>,
        value: Option<&Value>,
        span: Span,
    ) -> Option<(Option<Vec<Dim>>, Vec<typed::Expr>, Option<typed::Expr>)> {
        let mut operands: Vec<(String, &Value)> =
            index.iter().enumerate().map(|(i, v)| (format!("index {i}"), v)).collect();
        operands.extend(value.map(|v| ("the tile".to_owned(), v)));
        operands.extend(mask.as_ref().map(|m| ("the mask".to_owned(), m)));
        let unknown = operands.iter().any(|(_, v)| matches!(v.ty, Ty::Tile(_, None)));
        let named: Vec<(&str, &Value)> = operands.iter().map(|(n, v)| (n.as_str(), *v)).collect();
        let shape = self.common_shape(what, &named, span);
        if shape.is_none() && !unknown {
            return None;
        }
        let index = index.into_iter().map(|v| self.stretch(v, &DType::I32.into(), &shape)).collect();
        let mask = mask.map(|m| self.stretch(m, &DType::Bool.into(), &shape));
        Some((shape, index, mask))
    }
}
