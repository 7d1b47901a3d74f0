//! Lowers expressions.

use super::convert::{INT_NE, UNORDERED_NE, compare, convert};
use super::{LowerError, Lowering};
use crate::ops::Builder;
use crate::types::{Val, dtype_of, element_type, shape_of, tile_type, type_of};
use melior::ir::{Attribute, Type};
use tile_lang::ast::{BinaryOp, UnaryOp};
use tile_lang::typed::{self, Expr, ExprKind, UnaryMath};
use tile_lang::{DType, Span};

impl<'c> Lowering<'c, '_> {
    /// The MLIR type of a bound type.
    pub(super) fn ty(&self, ty: &typed::Type, span: Span) -> Result<Type<'c>, LowerError> {
        match ty {
            typed::Type::Scalar(dtype) => Ok(element_type(self.context, self.dtype(dtype, span)?)),
            typed::Type::Tile { dtype, .. } => {
                Ok(tile_type(self.context, self.dtype(dtype, span)?, &self.shape(ty, span)?))
            }
            typed::Type::Unit => unreachable!("a value has a type"),
        }
    }

    fn shape(&self, ty: &typed::Type, span: Span) -> Result<Vec<usize>, LowerError> {
        let typed::Type::Tile { shape, .. } = ty else { return Ok(Vec::new()) };
        let unbound = || LowerError::Unbound { place: self.place(span), name: "a tile dimension".to_owned() };
        shape.iter().map(|dim| dim.as_const().map(|d| d as usize).ok_or_else(unbound)).collect()
    }

    /// Lowers an expression to the value it has here.
    pub(super) fn expr(&mut self, b: &mut Builder<'c>, e: &Expr) -> Result<Val<'c>, LowerError> {
        let location = self.location(e.span);
        let dtype = match &e.ty {
            typed::Type::Scalar(dtype) | typed::Type::Tile { dtype, .. } => self.dtype(dtype, e.span)?,
            typed::Type::Unit => unreachable!("an expression has a value"),
        };
        let shape = self.shape(&e.ty, e.span)?;
        if let Some(number) = literal(e) {
            b.set_location(location);
            return Ok(number_const(b, dtype, &shape, number));
        }
        let mut operand = |b: &mut Builder<'c>, e: &Expr| {
            let value = self.expr(b, e);
            b.set_location(location);
            value
        };
        Ok(match &e.kind {
            ExprKind::Float(_) | ExprKind::Int(_) => unreachable!("literals are done"),
            ExprKind::Const(name) => {
                return Err(LowerError::Unbound { place: self.place(e.span), name: name.clone() });
            }
            ExprKind::Var(var) => self.var(*var),
            ExprKind::Param(param) => self.args[*param],
            ExprKind::ProgramId(axis) => {
                b.set_location(location);
                b.program_id(*axis)
            }
            ExprKind::NumPrograms(axis) => {
                b.set_location(location);
                b.num_programs(*axis)
            }
            ExprKind::TensorDim(tensor, axis) => {
                b.set_location(location);
                b.dim(self.view(b, tensor), *axis)
            }
            ExprKind::At { tensor, index } => {
                let index = self.exprs(b, index)?;
                b.set_location(location);
                let element = b.at(self.view(b, tensor), &index);
                let from = dtype_of(type_of(element)).unwrap_or(dtype);
                convert(b, element, from, dtype)
            }
            ExprKind::Binary(op @ (BinaryOp::AndAnd | BinaryOp::OrOr), lhs, rhs) => {
                let lhs = operand(b, lhs)?;
                self.short_circuit(b, *op, lhs, rhs)?
            }
            ExprKind::Binary(op, lhs, rhs) => {
                let (lhs, rhs) = (operand(b, lhs)?, operand(b, rhs)?);
                self.binary(b, *op, lhs, rhs, e.span)?
            }
            ExprKind::MinMax(max, lhs, rhs) => {
                let (lhs, rhs) = (operand(b, lhs)?, operand(b, rhs)?);
                let name = match (max, dtype) {
                    (true, d) if d.is_float() => "arith.maximumf",
                    (false, d) if d.is_float() => "arith.minimumf",
                    (true, DType::Index | DType::Bool) => "arith.maxui",
                    (false, DType::Index | DType::Bool) => "arith.minui",
                    (true, _) => "arith.maxsi",
                    (false, _) => "arith.minsi",
                };
                b.same(name, &[lhs, rhs])
            }
            ExprKind::Unary(op, x) => {
                let x = operand(b, x)?;
                match op {
                    UnaryOp::Neg if dtype.is_float() => b.same("arith.negf", &[x]),
                    UnaryOp::Neg => b.same("arith.subi", &[constant_like(b, x, 0.0), x]),
                    UnaryOp::Not if dtype == DType::Bool => {
                        b.same("arith.xori", &[x, constant_like(b, x, 1.0)])
                    }
                    UnaryOp::Not => b.same("arith.xori", &[x, constant_like(b, x, -1.0)]),
                }
            }
            ExprKind::Math(function, x) => {
                let x = operand(b, x)?;
                let name = match function {
                    UnaryMath::Abs if !dtype.is_float() => "math.absi",
                    UnaryMath::Abs => "math.absf",
                    UnaryMath::Exp => "math.exp",
                    UnaryMath::Exp2 => "math.exp2",
                    UnaryMath::Log => "math.log",
                    UnaryMath::Log2 => "math.log2",
                    UnaryMath::Sqrt => "math.sqrt",
                    UnaryMath::Rsqrt => "math.rsqrt",
                    UnaryMath::Tanh => "math.tanh",
                };
                b.same(name, &[x])
            }
            ExprKind::DivRn(x, y) => {
                let operands = [operand(b, x)?, operand(b, y)?];
                b.same("arith.divf", &operands)
            }
            ExprKind::Fma(x, y, z) => {
                let operands = [operand(b, x)?, operand(b, y)?, operand(b, z)?];
                b.same("math.fma", &operands)
            }
            ExprKind::Select(cond, x, y) => {
                let operands = [operand(b, cond)?, operand(b, x)?, operand(b, y)?];
                b.value("arith.select", &operands, type_of(operands[1]), &[])
            }
            ExprKind::Cast(x) => {
                let x = operand(b, x)?;
                let from = dtype_of(type_of(x)).unwrap_or(dtype);
                convert(b, x, from, dtype)
            }
            ExprKind::Full(scalar) => {
                let scalar = operand(b, scalar)?;
                let from = dtype_of(type_of(scalar)).unwrap_or(dtype);
                b.splat(convert(b, scalar, from, dtype), &shape)
            }
            ExprKind::Iota => {
                b.set_location(location);
                b.iota(shape[0])
            }
            ExprKind::Reshape(x) => {
                let x = operand(b, x)?;
                b.reshape(x, &shape)
            }
            ExprKind::Broadcast(x) => {
                let x = operand(b, x)?;
                broadcast(b, x, &shape)
            }
            ExprKind::Transpose(x, perm) => {
                let x = operand(b, x)?;
                b.transpose(x, perm)
            }
            ExprKind::Reduce(kind, x, axis) => {
                let x = operand(b, x)?;
                b.reduce(x, *axis, *kind)
            }
            ExprKind::Mma(lhs, rhs, acc) => {
                let (lhs, rhs, acc) = (operand(b, lhs)?, operand(b, rhs)?, operand(b, acc)?);
                b.mma(lhs, rhs, acc)
            }
            ExprKind::MmaScaled(operands) => {
                let mut values = Vec::new();
                for e in operands.iter() {
                    values.push(operand(b, e)?);
                }
                b.value("tile.mma_scaled", &values, type_of(values[4]), &[])
            }
            ExprKind::Load { tensor, index } => {
                let index = self.exprs(b, index)?;
                b.set_location(location);
                b.load(self.view(b, tensor), &index, &shape)
            }
            ExprKind::Gather { tensor, index, mask } => {
                let index = self.exprs(b, index)?;
                let mask = mask.as_ref().map(|m| self.expr(b, m)).transpose()?;
                b.set_location(location);
                let index: Vec<_> = index.into_iter().map(|i| broadcast(b, i, &shape)).collect();
                let mask = mask.map(|m| broadcast(b, m, &shape));
                b.gather(self.view(b, tensor), &index, mask)
            }
        })
    }

    /// `&&` and `||`. A right side that may divide by zero is evaluated only when it decides.
    fn short_circuit(
        &mut self,
        b: &mut Builder<'c>,
        op: BinaryOp,
        lhs: Val<'c>,
        rhs: &Expr,
    ) -> Result<Val<'c>, LowerError> {
        let location = b.location();
        let and = op == BinaryOp::AndAnd;
        if !may_trap(rhs) {
            let rhs = self.expr(b, rhs)?;
            b.set_location(location);
            return Ok(b.same(if and { "arith.andi" } else { "arith.ori" }, &[lhs, rhs]));
        }
        let decided = |b: &mut Builder<'c>| Ok(vec![b.int_const(DType::Bool, i64::from(!and))]);
        let evaluated = |b: &mut Builder<'c>| Ok(vec![self.expr(b, rhs)?]);
        let types = [type_of(lhs)];
        let results = match and {
            true => b.if_else(lhs, &types, evaluated, decided)?,
            false => b.if_else(lhs, &types, decided, evaluated)?,
        };
        Ok(results[0])
    }

    fn binary(
        &self,
        b: &Builder<'c>,
        op: BinaryOp,
        lhs: Val<'c>,
        rhs: Val<'c>,
        span: Span,
    ) -> Result<Val<'c>, LowerError> {
        let dtype = dtype_of(type_of(lhs)).expect("an operand has a dtype");
        if let Some((int, unsigned, float)) = predicates(op) {
            return Ok(match dtype {
                d if d.is_float() => compare(b, "arith.cmpf", float, lhs, rhs),
                DType::Index | DType::Bool => compare(b, "arith.cmpi", unsigned, lhs, rhs),
                _ => compare(b, "arith.cmpi", int, lhs, rhs),
            });
        }
        let name = match (op, dtype) {
            (BinaryOp::Add, d) if d.is_float() => "arith.addf",
            (BinaryOp::Sub, d) if d.is_float() => "arith.subf",
            (BinaryOp::Mul, d) if d.is_float() => "arith.mulf",
            (BinaryOp::Div, d) if d.is_float() => {
                // Targets may multiply by an approximate reciprocal, unlike for `div_rn`.
                let flags =
                    Attribute::parse(b.context(), "#arith.fastmath<arcp>").expect("an attribute of arith");
                return Ok(b.value("arith.divf", &[lhs, rhs], type_of(lhs), &[("fastmath", flags)]));
            }
            (BinaryOp::Rem, d) if d.is_float() => "arith.remf",
            (BinaryOp::Add, d) if d.is_int() => "arith.addi",
            (BinaryOp::Sub, d) if d.is_int() => "arith.subi",
            (BinaryOp::Mul, d) if d.is_int() => "arith.muli",
            (BinaryOp::Div, DType::Index) => "arith.divui",
            (BinaryOp::Rem, DType::Index) => "arith.remui",
            (BinaryOp::Shr, DType::Index) => "arith.shrui",
            (BinaryOp::Div, d) if d.is_int() => "arith.divsi",
            (BinaryOp::Rem, d) if d.is_int() => "arith.remsi",
            (BinaryOp::Shr, d) if d.is_int() => "arith.shrsi",
            (BinaryOp::Shl, d) if d.is_int() => "arith.shli",
            (BinaryOp::And, d) if !d.is_float() => "arith.andi",
            (BinaryOp::Or, d) if !d.is_float() => "arith.ori",
            (BinaryOp::Xor, d) if !d.is_float() => "arith.xori",
            _ => {
                return Err(LowerError::DType { place: self.place(span), operation: operator(op), dtype });
            }
        };
        Ok(b.same(name, &[lhs, rhs]))
    }
}

/// The predicate numbers of a comparison: signed, unsigned, float. Only "not equal" holds for NaN.
fn predicates(op: BinaryOp) -> Option<(i64, i64, i64)> {
    Some(match op {
        BinaryOp::Eq => (0, 0, 1),
        BinaryOp::Ne => (INT_NE, INT_NE, UNORDERED_NE),
        BinaryOp::Gt => (4, 8, 2),
        BinaryOp::Ge => (5, 9, 3),
        BinaryOp::Lt => (2, 6, 4),
        BinaryOp::Le => (3, 7, 5),
        _ => return None,
    })
}

fn operator(op: BinaryOp) -> &'static str {
    match op {
        BinaryOp::Add => "`+`",
        BinaryOp::Sub => "`-`",
        BinaryOp::Mul => "`*`",
        BinaryOp::Div => "`/`",
        BinaryOp::Rem => "`%`",
        BinaryOp::And => "`&`",
        BinaryOp::Or => "`|`",
        BinaryOp::Xor => "`^`",
        BinaryOp::Shl => "`<<`",
        BinaryOp::Shr => "`>>`",
        _ => "a comparison",
    }
}

/// A literal number.
#[derive(Clone, Copy)]
enum Number {
    Float(f64),
    Int(i64),
}

/// The number that an expression spells: a literal, a negated one, or a tile full of one.
fn literal(e: &Expr) -> Option<Number> {
    match &e.kind {
        // An f32 that fills an f16 tile is rounded twice, as when the program runs.
        ExprKind::Float(value) if e.ty == typed::Type::Scalar(typed::TypedDType::Known(DType::F32)) => {
            Some(Number::Float(f64::from(*value as f32)))
        }
        ExprKind::Float(value) => Some(Number::Float(*value)),
        ExprKind::Int(value) => Some(Number::Int(*value)),
        ExprKind::Full(scalar) => literal(scalar),
        ExprKind::Unary(UnaryOp::Neg, x) => match literal(x)? {
            Number::Float(value) => Some(Number::Float(-value)),
            Number::Int(value) => Some(Number::Int(value.wrapping_neg())),
        },
        _ => None,
    }
}

fn number_const<'c>(b: &Builder<'c>, dtype: DType, shape: &[usize], number: Number) -> Val<'c> {
    let value = match number {
        Number::Int(value) if shape.is_empty() && !dtype.is_float() => return b.int_const(dtype, value),
        Number::Int(value) => value as f64,
        Number::Float(value) => value,
    };
    // Values beyond the storage types' range saturate, as casts do.
    let value = match dtype {
        DType::F8E4M3FN => value.clamp(-448.0, 448.0),
        DType::F4E2M1FN => value.clamp(-6.0, 6.0),
        _ => value,
    };
    match shape.is_empty() {
        true => b.scalar_const(dtype, value),
        false => b.splat_const(dtype, shape, value),
    }
}

/// A constant with the type of `value`.
pub(super) fn constant_like<'c>(b: &Builder<'c>, value: Val<'c>, number: f64) -> Val<'c> {
    let dtype = dtype_of(type_of(value)).expect("an operand has a dtype");
    match shape_of(type_of(value)) {
        Some(shape) => b.splat_const(dtype, &shape, number),
        None => b.scalar_const(dtype, number),
    }
}

/// Broadcasts a tile to a shape by NumPy's rules: missing leading dimensions are added, sizes of 1 repeated.
pub(super) fn broadcast<'c>(b: &Builder<'c>, tile: Val<'c>, shape: &[usize]) -> Val<'c> {
    let from = shape_of(type_of(tile)).unwrap_or_default();
    if from == shape {
        return tile;
    }
    let mut aligned = vec![1; shape.len().saturating_sub(from.len())];
    aligned.extend(&from);
    let tile = if aligned == from { tile } else { b.reshape(tile, &aligned) };
    if aligned == shape { tile } else { b.broadcast(tile, shape) }
}

/// True when evaluating the scalar expression for nothing could divide by zero.
fn may_trap(e: &Expr) -> bool {
    let divides = matches!(e.kind, ExprKind::Binary(BinaryOp::Div | BinaryOp::Rem, ..));
    divides && !e.ty.dtype().is_float() || e.children().into_iter().any(may_trap)
}
