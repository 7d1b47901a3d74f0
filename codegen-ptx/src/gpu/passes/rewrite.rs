//! What several passes need to read and copy operations.

use melior::ir::attribute::{Attribute, DenseElementsAttribute, FloatAttribute, IntegerAttribute};
use melior::ir::operation::OperationLike;
use melior::ir::{Block, Region, RegionLike, RegionRef, Type, TypeLike, ValueLike};
use std::collections::HashMap;
use tile_ir::Builder;
use tile_ir::types::{
    Blk, Op, Val, args_of, attr, defining_op, element_type, erase, name_of, nested_ops, ops_of, replace_uses,
    results_of, type_of,
};
use tile_lang::DType;

/// Values to use instead of others, by address.
pub(super) type Renamed<'c> = HashMap<usize, Val<'c>>;

/// The address of a value.
pub(super) fn address_of(value: Val) -> usize {
    value.to_raw().ptr as usize
}

/// Adds an operation with the name and attributes of another.
pub(super) fn like<'c>(
    b: &Builder<'c>,
    op: Op<'c>,
    operands: &[Val<'c>],
    results: &[Type<'c>],
    regions: Vec<Region<'c>>,
) -> Op<'c> {
    let attributes = attributes_of(op);
    let attributes: Vec<(&str, Attribute)> = attributes.iter().map(|(n, a)| (n.as_str(), *a)).collect();
    b.op_with_regions(&name_of(op), operands, results, &attributes, regions)
}

/// An operation's attributes.
pub(super) fn attributes_of<'c>(op: Op<'c>) -> Vec<(String, Attribute<'c>)> {
    let name = |n: melior::ir::Identifier| n.as_string_ref().as_str().unwrap_or_default().to_owned();
    op.attributes().map(|(n, value)| (name(n), value)).collect()
}

/// Copies an operation with what is in its regions, at its own source line, and makes its results known in
/// `renamed`.
pub(super) fn clone_op<'c>(b: &Builder<'c>, op: Op<'c>, renamed: &mut Renamed<'c>) {
    let operands: Vec<Val> =
        op.operands().map(|v| renamed.get(&address_of(v)).copied().unwrap_or(v)).collect();
    let results: Vec<Type> = results_of(op).into_iter().map(type_of).collect();
    let mut b = *b;
    b.set_location(op.location());
    let regions: Vec<Region> = op.regions().map(|region| clone_region(&b, region, renamed)).collect();
    let copy = like(&b, op, &operands, &results, regions);
    for (old, new) in results_of(op).into_iter().zip(results_of(copy)) {
        renamed.insert(address_of(old), new);
    }
}

/// A copy of a region of at most one block.
fn clone_region<'c>(b: &Builder<'c>, source: RegionRef<'c, 'c>, renamed: &mut Renamed<'c>) -> Region<'c> {
    let region = Region::new();
    let Some(block) = source.first_block() else { return region };
    let arguments: Vec<_> = args_of(block).into_iter().map(|a| (type_of(a), b.location())).collect();
    let copy = region.append_block(Block::new(&arguments));
    // SAFETY: the region, which the caller puts into a live operation, owns the block.
    let copy = unsafe { Blk::from_raw(copy.to_raw()) };
    for (old, new) in args_of(block).into_iter().zip(args_of(copy)) {
        renamed.insert(address_of(old), new);
    }
    let inside = Builder::at_end(b.context(), copy, b.location());
    ops_of(block).for_each(|op| clone_op(&inside, op, renamed));
    region
}

/// True for what only computes tiles or scalars of others: it neither meets other warps nor touches memory or products.
pub(super) fn computes(op: Op) -> bool {
    let name = name_of(op);
    let renames =
        ["tgpu.splat", "tgpu.iota", "tgpu.broadcast", "tgpu.reshape", "tgpu.transpose", "tile.cast"];
    renames.contains(&name.as_str()) || ["arith.", "math."].iter().any(|dialect| name.starts_with(dialect))
}

/// True for a branch that only computes.
pub(super) fn is_pure_branch(op: Op) -> bool {
    let is_frame = |op: Op| ["scf.if", "scf.yield"].contains(&name_of(op).as_str());
    name_of(op) == "scf.if" && nested_ops(op).into_iter().all(|op| is_frame(op) || computes(op))
}

/// Whether a value is a block's own: its argument, or made in it.
pub(super) fn is_inside<'c>(block: Blk<'c>, value: Val<'c>) -> bool {
    defining_op(value).map_or_else(|| args_of(block).contains(&value), |op| op.block() == Some(block))
}

/// Replaces a loop by one with the same body that carries more values, `extra` at first; the body has their
/// arguments already, and yields them. Returns what they are after the loop.
pub(super) fn carry_more<'c>(
    b: &Builder<'c>,
    old: Op<'c>,
    operands: &[Val<'c>],
    extra: &[Val<'c>],
) -> Vec<Val<'c>> {
    let region = Region::new();
    let source = old.region(0).expect("a loop has a body");
    // SAFETY: both regions are live; the old loop is erased below.
    unsafe { mlir_sys::mlirRegionTakeBody(region.to_raw(), source.to_raw()) };
    let operands: Vec<Val> = operands.iter().chain(extra).copied().collect();
    let results = results_of(old);
    let types: Vec<Type> =
        results.iter().map(|r| type_of(*r)).chain(extra.iter().map(|e| type_of(*e))).collect();
    let new = like(b, old, &operands, &types, vec![region]);
    let new = results_of(new);
    for (old, new) in results.iter().zip(&new) {
        replace_uses(*old, *new);
    }
    erase(old);
    new[results.len()..].to_vec()
}

/// Makes an operand of an operation another value.
pub(super) fn set_operand<'c>(op: Op<'c>, number: usize, value: Val<'c>) {
    debug_assert!(number < op.operand_count());
    // SAFETY: operation and value are live, and the operation has the operand.
    unsafe { mlir_sys::mlirOperationSetOperand(op.to_raw(), number as isize, value.to_raw()) };
}

/// Gives a value another type.
pub(super) fn set_type<'c>(value: Val<'c>, ty: Type<'c>) {
    // SAFETY: value and type are live and of one context.
    unsafe { mlir_sys::mlirValueSetType(value.to_raw(), ty.to_raw()) };
}

/// `eq`, `slt` and `ult` among the predicates of `arith.cmpi`.
pub(super) const EQUAL: i64 = 0;
pub(super) const SIGNED_LESS: i64 = 2;
pub(super) const UNSIGNED_LESS: i64 = 6;

/// A comparison of two integers.
pub(super) fn compare<'c>(b: &Builder<'c>, predicate: i64, lhs: Val<'c>, rhs: Val<'c>) -> Val<'c> {
    let predicate = IntegerAttribute::new(element_type(b.context(), DType::I64), predicate).into();
    let bool_type = element_type(b.context(), DType::Bool);
    b.value("arith.cmpi", &[lhs, rhs], bool_type, &[("predicate", predicate)])
}

/// True for a constant tile of zeros.
pub(super) fn is_zero(value: Val) -> bool {
    let number = defining_op(value)
        .filter(|op| name_of(*op) == "arith.constant")
        .and_then(|op| DenseElementsAttribute::try_from(attr(op, "value")?).ok())
        .filter(DenseElementsAttribute::is_splat)
        .and_then(|dense| FloatAttribute::try_from(dense.splat_value()).ok());
    number.is_some_and(|number| number.value() == 0.0)
}
