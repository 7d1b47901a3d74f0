//! Joins the parts of sums that are split over CTAs.
//!
//! Input: a gpu-level module in which `tile.join_parts` stands behind the loop of a sum (`split_tail`). Output: the same,
//! where a CTA whose part is not all of the sum puts it into its slot and arrives; the last to arrive gets all parts, in
//! their order, and goes on with their sum. Where a part's only counterpart is there already, the CTA gets that and puts
//! nothing. Invariant: slots are put into by one CTA and got from behind the arrival of
//! all that put; a part is got in the layout that it was put in.

use super::rewrite::{UNSIGNED_LESS, compare};
use super::{Pass, PassContext};
use crate::gpu::ops::GpuBuilder;
use melior::ir::operation::OperationLike;
use std::convert::Infallible;
use tile_ir::context::Place;
use tile_ir::types::{
    Op, Val, blocks_of, defining_op, element_type, erase, is_tile, move_before, name_of, nested_ops,
    operands_of, ops_of, replace_uses, results_of, type_of,
};
use tile_ir::{Builder, Module, TileOp};
use tile_lang::DType;

/// Runs the pass.
pub(super) fn run<'c>(module: Module<'c>, cx: &mut PassContext) -> Module<'c> {
    for op in nested_ops(module.function()) {
        if let Some(TileOp::JoinParts { workspace, numbers }) = TileOp::of(op) {
            join(&module, op, workspace, numbers, cx.switches.split_tail > 1);
            cx.remark(
                Pass::JoinParts,
                Place::of(op.location()),
                "the last CTA of a split program adds its parts up",
            );
        }
    }
    module
}

/// The sum of the loop in front of an operation.
fn sum_before<'c>(op: Op<'c>) -> Option<Val<'c>> {
    let block = op.block()?;
    let before: Vec<Op> = ops_of(block).take_while(|other| *other != op).collect();
    let adds = before.into_iter().rev().find(|other| name_of(*other) == "scf.for")?;
    results_of(adds).into_iter().find(|result| is_tile(type_of(*result)))
}

/// Moves what is made of a sum in front of an operation into the branch that it decides.
fn sink<'c>(op: Op<'c>, sum: Val<'c>) {
    let Some(block) = op.block() else { return };
    let decides = |other: &Op<'c>| operands_of(*other).contains(&results_of(op)[0]);
    let branch = ops_of(block).find(decides).and_then(|branch| blocks_of(branch).first().copied());
    let Some(first) = branch.and_then(|inside| ops_of(inside).next()) else { return };
    let mut made = vec![sum];
    for other in ops_of(block).take_while(|other| *other != op).collect::<Vec<_>>() {
        if operands_of(other).iter().any(|operand| made.contains(operand)) {
            made.extend(results_of(other));
            move_before(other, first);
        }
    }
}

/// Joins parts at an operation; `pairs` where two of a program may come at different times.
fn join<'c>(
    module: &Module<'c>,
    op: Op<'c>,
    [parts, counters]: [Val<'c>; 2],
    [place, count, first, slot]: [Val<'c>; 4],
    pairs: bool,
) {
    let Some(sum) = sum_before(op) else { return };
    sink(op, sum);
    let ty = type_of(sum);
    let mut b = Builder::before(module.context(), op);
    b.set_location(op.location());
    let one = b.index(1);
    let is_shared = compare(&b, UNSIGNED_LESS, one, count);
    let bool_type = element_type(b.context(), DType::Bool);
    let all = b.int_const(DType::Bool, 1);
    let get_all = |b: &Builder<'c>| {
        let start = b.get_part(ty, parts, first);
        b.for_loop([one, count, one], &[start], |b, number, carried| {
            let part = b.get_part(ty, parts, b.same("arith.addi", &[first, number]));
            Ok::<_, Infallible>(vec![b.same("arith.addf", &[carried[0], part])])
        })
    };
    let arrive = |b: &Builder<'c>| {
        b.put_part(sum, parts, slot);
        let is_last = b.arrive_at(counters, place, count);
        let Ok(added) = b.if_else(is_last, &[ty], |b| get_all(b), |_| Ok(vec![sum]));
        Ok::<_, Infallible>(vec![added[0], is_last])
    };
    let get_other = |b: &Builder<'c>| {
        // Of two parts the own one is in registers; which comes first makes no difference.
        let both = b.same("arith.addi", &[b.same("arith.addi", &[first, first]), one]);
        let part = b.get_part(ty, parts, b.same("arith.subi", &[both, slot]));
        Ok::<_, Infallible>(vec![b.same("arith.addf", &[sum, part]), all])
    };
    let Ok(joined) = b.if_else(
        is_shared,
        &[ty, bool_type],
        |b| match pairs {
            true => {
                let is_alone = b.others_arrived(counters, place, count);
                b.if_else(is_alone, &[ty, bool_type], |b| get_other(b), |b| arrive(b))
            }
            false => arrive(b),
        },
        |_| Ok(vec![sum, all]),
    );
    let branch = defining_op(joined[0]).expect("a branch has results");
    let inside = nested_ops(branch);
    // What follows takes the joined sum; what joins it takes the CTA's own.
    let others = nested_ops(module.function()).into_iter().filter(|user| !inside.contains(user));
    for user in others.filter(|user| *user != branch) {
        for (number, operand) in operands_of(user).into_iter().enumerate() {
            if operand == sum {
                super::rewrite::set_operand(user, number, joined[0]);
            }
        }
    }
    replace_uses(results_of(op)[0], joined[1]);
    erase(op);
}
