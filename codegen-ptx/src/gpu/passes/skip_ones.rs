//! Multiplies accumulators only where a factor is not 1.
//!
//! Input: a gpu-level module. Output: the same, where an accumulator of a product that is multiplied by one factor a
//! row or column goes through a branch: each warp multiplies its part only if one of the factors in its threads is not
//! 1. Invariant: every value keeps its bits, but for the payload of a NaN.
//!
//! The online softmax multiplies what it has summed by how much the maximum has grown, which is mostly not at all;
//! and an accumulator is the largest tile of a loop.

use super::{Pass, PassContext};
use crate::gpu::dialect::layout_of;
use crate::gpu::ops::{GpuBuilder, GpuOp};
use melior::ir::operation::OperationLike;
use std::convert::Infallible;
use tile_ir::context::Place;
use tile_ir::types::{
    Op, Val, defining_op, dtype_of, erase, first_user, is_unused, name_of, nested_ops, operands_of,
    replace_uses, results_of, type_of,
};
use tile_ir::{Builder, Module};
use tile_lang::DType;

/// Multiplications of a thread for each factor that it looks at, at least: the branch costs a few instructions.
const WORTH: usize = 8;
/// Registers of a thread that an accumulator takes, at most: larger ones leave too few for a branch, and spill.
const MOST: usize = 96;

/// Runs the pass.
pub(super) fn run<'c>(module: Module<'c>, cx: &mut PassContext) -> Module<'c> {
    for op in nested_ops(module.function()) {
        let Some((acc, factors)) = scaled_accumulator(op) else { continue };
        let (ty, layout) = (type_of(acc), layout_of(type_of(acc)).expect("a tile with a layout"));
        let mut b = Builder::before(module.context(), op);
        b.set_location(op.location());
        let are_ones = b.all_ones(factors);
        let Ok(results) = b.if_else(
            are_ones,
            &[ty],
            |_| Ok::<_, Infallible>(vec![acc]),
            |b| {
                let factors = b.broadcast_tile(factors, &layout);
                Ok(vec![b.same("arith.mulf", &[acc, factors])])
            },
        );
        replace_uses(results_of(op)[0], results[0]);
        let repeated = operands_of(op).into_iter().filter_map(broadcast);
        let repeated: Vec<Op> = repeated.map(|(op, _)| op).collect();
        erase(op);
        repeated.into_iter().filter(|op| is_unused(results_of(*op)[0])).for_each(erase);
        cx.remark(
            Pass::SkipOnes,
            Place::of(b.location()),
            "an accumulator is multiplied only where a factor is not 1",
        );
    }
    module
}

/// What a multiplication scales, and by which tile of fewer elements, when it is a loop's accumulator.
fn scaled_accumulator<'c>(op: Op<'c>) -> Option<(Val<'c>, Val<'c>)> {
    if name_of(op) != "arith.mulf" {
        return None;
    }
    let result = *results_of(op).first()?;
    let (layout, f32) = (layout_of(type_of(result))?, dtype_of(type_of(result)) == Some(DType::F32));
    let accumulates = |user: Op<'c>| match GpuOp::of(user) {
        Some(GpuOp::Wgmma { acc, .. } | GpuOp::MmaSync { acc, .. }) => acc == result,
        _ => false,
    };
    let in_loop = std::iter::successors(op.parent_operation(), |o| o.parent_operation())
        .any(|around| name_of(around) == "scf.for");
    let fits = layout.num_registers() <= MOST;
    if !f32 || !fits || !in_loop || !first_user(result).is_some_and(accumulates) {
        return None;
    }
    let operands = operands_of(op);
    [(0, 1), (1, 0)].into_iter().find_map(|(acc, factor)| {
        let (_, tile) = broadcast(operands[factor])?;
        let few = layout_of(type_of(tile))?.num_registers() * WORTH <= layout.num_registers();
        few.then_some((operands[acc], tile))
    })
}

/// The broadcast that a value is the result of, and what it repeats.
fn broadcast<'c>(value: Val<'c>) -> Option<(Op<'c>, Val<'c>)> {
    let op = defining_op(value)?;
    match GpuOp::of(op) {
        Some(GpuOp::Broadcast { tile }) => Some((op, tile)),
        _ => None,
    }
}
