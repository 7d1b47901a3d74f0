//! `canonicalize`: simplifies.
//!
//! Input and output: the tile level. Folds shape operations into each other and into constants, computes on one
//! scalar what all elements of a tile agree on, computes before a broadcast rather than after it, and removes
//! what nothing uses. MLIR's own canonicalizer does the same for scalars, loops and branches in between.
//! Invariant: every value keeps its bits; folds that would change the sign of a zero or lose a NaN are left out.

use super::effects::only_computes;
use crate::context::Place;
use crate::module::Module;
use crate::numeric;
use crate::ops::{Builder, ReduceKind, TileOp};
use crate::types::{
    Op, Val, attr, defining_op, dtype_of, erase, first_user, is_tile, is_unused, name_of, nested_ops,
    operands_of, replace_uses, results_of, set_location, shape_of, tile_type, type_of,
};
use melior::ir::attribute::{Attribute, DenseElementsAttribute, FloatAttribute, IntegerAttribute};
use melior::ir::operation::OperationLike;
use melior::pass::PassManager;
use tile_lang::DType;

pub(super) fn run(module: &mut Module) {
    fold_to_fixpoint(module);
    super::unused_carried::pass_on_unused(module);
    let context = module.context();
    let manager = PassManager::new(context);
    manager.enable_verifier(false);
    manager.add_pass(melior::pass::transform::create_canonicalizer());
    manager.run(module.mlir_mut()).expect("MLIR's canonicalizer does not fail");
    fold_to_fixpoint(module);
    restore_locations(module);
}

/// MLIR's canonicalizer merges equal constants into one that has no location; it gets that of its first use.
fn restore_locations(module: &Module) {
    for op in nested_ops(module.function()) {
        let user = results_of(op).first().copied().and_then(first_user);
        if let Some(user) = user.filter(|_| Place::of(op.location()).is_none()) {
            set_location(op, user.location());
        }
    }
}

fn fold_to_fixpoint(module: &mut Module) {
    loop {
        let mut changed = false;
        for op in nested_ops(module.function()) {
            let [result] = results_of(op)[..] else { continue };
            if is_unused(result) {
                continue;
            }
            let builder = Builder::before(module.context(), op);
            if let Some(value) = fold(&builder, op) {
                replace_uses(result, value);
                erase(op);
                changed = true;
            }
        }
        changed |= remove_unused(module);
        if !changed {
            return;
        }
    }
}

/// Erases operations whose results nothing uses and that do nothing else.
fn remove_unused(module: &mut Module) -> bool {
    let mut changed = false;
    for op in nested_ops(module.function()).into_iter().rev() {
        if only_computes(op) && results_of(op).into_iter().all(is_unused) {
            erase(op);
            changed = true;
        }
    }
    changed
}

/// A simpler value for the operation's result.
fn fold<'c>(b: &Builder<'c>, op: Op<'c>) -> Option<Val<'c>> {
    let result = type_of(results_of(op)[0]);
    let shape = shape_of(result).unwrap_or_default();
    match TileOp::of(op) {
        Some(TileOp::Splat { .. }) => match Splat::of(results_of(op)[0])? {
            constant @ Splat::Constant(_) => Some(constant.fill(b, &shape)),
            Splat::Scalar(_) => None,
        },
        Some(TileOp::Reshape { tile } | TileOp::Broadcast { tile }) if type_of(tile) == result => Some(tile),
        Some(TileOp::Reshape { tile }) => match inner(tile) {
            Some(TileOp::Reshape { tile: source }) => Some(b.reshape(source, &shape)),
            _ => Some(Splat::of(tile)?.fill(b, &shape)),
        },
        Some(TileOp::Broadcast { tile }) => match inner(tile) {
            Some(TileOp::Broadcast { tile: source }) => Some(b.broadcast(source, &shape)),
            _ => Some(Splat::of(tile)?.fill(b, &shape)),
        },
        Some(TileOp::Transpose { tile, perm }) => {
            if perm.iter().copied().eq(0..perm.len()) {
                return Some(tile);
            }
            match inner(tile) {
                Some(TileOp::Transpose { tile: source, perm: first }) => {
                    let composed: Vec<usize> = perm.iter().map(|&p| first[p]).collect();
                    Some(b.transpose(source, &composed))
                }
                _ => Some(Splat::of(tile)?.fill(b, &shape)),
            }
        }
        Some(TileOp::Reduce { tile, axis, kind }) => {
            if type_of(tile) == result {
                return Some(tile);
            }
            let idempotent = kind != ReduceKind::Sum;
            // Dimensions that a broadcast has only repeated hold one value.
            match inner(tile) {
                Some(TileOp::Broadcast { tile: source }) if idempotent => {
                    let from = shape_of(type_of(source))?;
                    let repeated = from[axis] == 1;
                    repeated.then(|| b.broadcast(source, &shape))
                }
                _ if idempotent => Some(Splat::of(tile)?.fill(b, &shape)),
                _ => None,
            }
        }
        Some(TileOp::Cast { value }) => {
            if let Some(Splat::Scalar(scalar)) = Splat::of(value).filter(|_| is_tile(result)) {
                let cast = b.cast(scalar, dtype_of(result)?);
                return Some(Splat::Scalar(cast).fill(b, &shape));
            }
            fold_cast(b, value, dtype_of(result)?)
        }
        Some(TileOp::Gather { view, index, mask: Some(mask) }) => match Splat::of(mask)? {
            Splat::Constant(number) => match IntegerAttribute::try_from(number).ok()?.value() {
                0 => Some(b.splat_const(dtype_of(result)?, &shape, 0.0)),
                _ => Some(b.gather(view, &index, None)),
            },
            Splat::Scalar(_) => None,
        },
        Some(_) => None,
        None if is_elementwise(op) && is_tile(result) => {
            compute_once(b, op, &shape).or_else(|| compute_before_broadcast(b, op, &shape))
        }
        None => None,
    }
}

/// The tile operation that computes a value.
fn inner<'c>(value: Val<'c>) -> Option<TileOp<'c>> {
    TileOp::of(defining_op(value)?)
}

/// The one value that all elements of a tile have.
#[derive(Clone, Copy)]
enum Splat<'c> {
    Scalar(Val<'c>),
    Constant(Attribute<'c>),
}

impl<'c> Splat<'c> {
    fn of(tile: Val<'c>) -> Option<Splat<'c>> {
        let op = defining_op(tile)?;
        if let Some(TileOp::Splat { scalar }) = TileOp::of(op) {
            return match constant(scalar) {
                Some(number) => Some(Splat::Constant(number)),
                None => Some(Splat::Scalar(scalar)),
            };
        }
        match is_tile(type_of(tile)) {
            true => constant(tile).map(Splat::Constant),
            false => None,
        }
    }

    /// A tile of the value.
    fn fill(self, b: &Builder<'c>, shape: &[usize]) -> Val<'c> {
        match self {
            Splat::Scalar(scalar) => b.splat(scalar, shape),
            Splat::Constant(number) => {
                use melior::ir::AttributeLike;
                let dtype = dtype_of(number.r#type()).expect("a number of the language");
                let ty = tile_type(b.context(), dtype, shape);
                let dense = DenseElementsAttribute::splat(ty, number).into();
                b.value("arith.constant", &[], ty, &[("value", dense)])
            }
        }
    }

    /// The value as a scalar.
    fn scalar(self, b: &Builder<'c>) -> Val<'c> {
        match self {
            Splat::Scalar(scalar) => scalar,
            Splat::Constant(number) => {
                use melior::ir::AttributeLike;
                b.value("arith.constant", &[], number.r#type(), &[("value", number)])
            }
        }
    }
}

/// The number of a constant scalar, or of a constant tile whose elements are all equal.
fn constant<'c>(value: Val<'c>) -> Option<Attribute<'c>> {
    constant_of(defining_op(value)?)
}

fn constant_of<'c>(op: Op<'c>) -> Option<Attribute<'c>> {
    if name_of(op) != "arith.constant" {
        return None;
    }
    let value = attr(op, "value")?;
    match DenseElementsAttribute::try_from(value) {
        Ok(dense) => dense.is_splat().then(|| dense.splat_value()),
        Err(_) => Some(value),
    }
}

/// The number of an integer constant, scalar or splat.
pub fn int_constant(op: Op) -> Option<i64> {
    IntegerAttribute::try_from(constant_of(op)?).ok().map(|number| number.value())
}

/// Operations of arith and math that treat the elements of their operands alike.
fn is_elementwise(op: Op) -> bool {
    let name = name_of(op);
    op.region_count() == 0
        && op.operand_count() > 0
        && (name.starts_with("arith.") && name != "arith.constant" || name.starts_with("math."))
}

/// The same operation over other operands, with a result of another shape; a scalar for none.
fn repeat<'c>(b: &Builder<'c>, op: Op<'c>, operands: &[Val<'c>], shape: Option<&[usize]>) -> Val<'c> {
    let dtype = dtype_of(type_of(results_of(op)[0])).expect("a tile's dtype");
    let ty = match shape {
        Some(shape) => tile_type(b.context(), dtype, shape),
        None => crate::types::element_type(b.context(), dtype),
    };
    let attributes: Vec<_> = op
        .attributes()
        .map(|(name, value)| (name.as_string_ref().as_str().unwrap_or_default().to_owned(), value))
        .collect();
    let attributes: Vec<_> = attributes.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    b.value(&name_of(op), operands, ty, &attributes)
}

/// `op(splat a, splat b)` to `splat op(a, b)`.
fn compute_once<'c>(b: &Builder<'c>, op: Op<'c>, shape: &[usize]) -> Option<Val<'c>> {
    let splats: Vec<Splat> = operands_of(op).into_iter().map(Splat::of).collect::<Option<_>>()?;
    let scalars: Vec<_> = splats.into_iter().map(|s| s.scalar(b)).collect();
    let scalar = repeat(b, op, &scalars, None);
    Some(b.splat(scalar, shape))
}

/// `op(broadcast a, broadcast b)` to `broadcast op(a, b)`, where a and b have one shape; splats go along.
fn compute_before_broadcast<'c>(b: &Builder<'c>, op: Op<'c>, shape: &[usize]) -> Option<Val<'c>> {
    let operands = operands_of(op);
    let source = |value: Val<'c>| match inner(value) {
        Some(TileOp::Broadcast { tile }) => Some(tile),
        _ => None,
    };
    let small = operands.iter().find_map(|v| source(*v))?;
    let small_shape = shape_of(type_of(small))?;
    let fits = |v: &Val<'c>| match source(*v) {
        Some(tile) => shape_of(type_of(tile)).as_ref() == Some(&small_shape),
        None => Splat::of(*v).is_some(),
    };
    if !operands.iter().all(fits) {
        return None;
    }
    let small_operand = |v: &Val<'c>| match (source(*v), Splat::of(*v)) {
        (Some(tile), _) => tile,
        (None, Some(splat)) => splat.fill(b, &small_shape),
        (None, None) => unreachable!("checked to be a broadcast or splat"),
    };
    let operands: Vec<_> = operands.iter().map(small_operand).collect();
    let result = repeat(b, op, &operands, Some(&small_shape));
    Some(b.broadcast(result, shape))
}

/// A cast of a constant, scalar or splat.
fn fold_cast<'c>(b: &Builder<'c>, value: Val<'c>, to: DType) -> Option<Val<'c>> {
    let number = FloatAttribute::try_from(constant(value)?).ok()?.value() as f32;
    let shape = shape_of(type_of(value));
    if to.is_int() {
        let number = match to {
            DType::I32 => i64::from(number as i32),
            DType::I64 => number as i64,
            _ => number as u64 as i64,
        };
        return match shape {
            Some(shape) => Some(b.splat_const(to, &shape, number as f64)),
            None => Some(b.int_const(to, number)),
        };
    }
    // MLIR's float attributes have no NaN for f4, and rounding them is ours to define.
    let number = f64::from(numeric::round(to, number));
    match shape {
        Some(shape) => Some(b.splat_const(to, &shape, number)),
        None => Some(b.scalar_const(to, number)),
    }
}
