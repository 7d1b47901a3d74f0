//! Takes products of operands with scales apart, for targets that have no instruction for them.
//!
//! Input and output: the tile dialect. Each `tile.mma_scaled` becomes a `tile.mma` of operands that are widened to
//! bf16 and multiplied by their scales. Invariant: nothing is rounded that was not before. A 4-bit element has 2
//! significant bits, its scale 4, and their product, a multiple of 2^-10 of at most 2688, has 6, which bf16 holds.

use super::{Pass, PassContext};
use melior::ir::operation::OperationLike;
use tile_ir::context::Place;
use tile_ir::types::{Val, erase, nested_ops, replace_uses, results_of, shape_of, type_of};
use tile_ir::{Builder, Module, TileOp};
use tile_lang::DType;

/// Elements that share a scale.
const GROUP: usize = 16;

/// Runs the pass.
pub(super) fn run<'c>(module: Module<'c>, cx: &mut PassContext) -> Module<'c> {
    for op in nested_ops(module.function()) {
        let Some(TileOp::MmaScaled { lhs, lhs_scales, rhs, rhs_scales, acc }) = TileOp::of(op) else {
            continue;
        };
        let b = Builder::before(module.context(), op);
        let lhs = scaled(&b, lhs, lhs_scales, 1);
        let rhs = scaled(&b, rhs, rhs_scales, 0);
        replace_uses(results_of(op)[0], b.mma(lhs, rhs, acc));
        cx.remark(
            Pass::DecomposeScaled,
            Place::of(op.location()),
            "scales are multiplied into bf16 operands, exactly",
        );
        erase(op);
    }
    module
}

/// Elements in bf16 times their scales, of which there is one for 16 elements along dimension `summed`.
fn scaled<'c>(b: &Builder<'c>, elements: Val<'c>, scales: Val<'c>, summed: usize) -> Val<'c> {
    let shape = shape_of(type_of(elements)).expect("an operand is a tile");
    let mut groups = shape_of(type_of(scales)).expect("scales are a tile");
    groups.insert(summed + 1, 1);
    let mut spread = groups.clone();
    spread[summed + 1] = GROUP;
    let scales = b.reshape(b.cast(scales, DType::BF16), &groups);
    let scales = b.reshape(b.broadcast(scales, &spread), &shape);
    b.same("arith.mulf", &[b.cast(elements, DType::BF16), scales])
}
