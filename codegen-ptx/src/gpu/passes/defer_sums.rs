//! Adds up behind a loop what threads would add up for each other in every iteration.
//!
//! Input: a gpu-level module. Output: the same, where a loop that adds rows up, such as the weights of attention,
//! carries the sum of each thread's own elements, and the threads' sums are added up once, behind the loop. So it is
//! with products whose K is cut into parts: each part's accumulator is carried as it is. What a loop carries so starts
//! at zero and is used for nothing but the sum after; that it is multiplied by a factor, which all threads that share a
//! row hold alike, is no obstacle. Invariant: a sum has the same terms, added in another order.

use super::rewrite::{is_zero, like, set_operand, set_type};
use super::{Pass, PassContext};
use crate::gpu::dialect::layout_of;
use crate::gpu::ops::{GpuBuilder, GpuOp};
use crate::layout::LinearLayout;
use melior::ir::operation::OperationLike;
use tile_ir::context::Place;
use tile_ir::ops::ReduceKind;
use tile_ir::types::{
    Blk, Op, Val, args_of, blocks_of, defining_op, dtype_of, erase, name_of, nested_ops, operands_of, ops_of,
    replace_uses, results_of, type_of,
};
use tile_ir::{Builder, Module};
use tile_lang::DType;

const PASS: Pass = Pass::DeferSums;

/// A sum that a loop carries.
struct Sum<'c> {
    /// Number of the sum among what the loop carries.
    number: usize,
    /// The reduction of an iteration's elements.
    reduce: Op<'c>,
    /// What makes the result of that a matrix again, where parts of products are reduced.
    reshape: Option<Op<'c>>,
    /// What adds that to the sum so far, and multiplies it before where it is `math.fma`.
    add: Op<'c>,
    /// What multiplies the sum so far, where `add` does not.
    multiply: Option<Op<'c>>,
    /// What the sum so far is multiplied by.
    factor: Option<Val<'c>>,
}

/// Runs the pass.
pub(super) fn run<'c>(module: Module<'c>, cx: &mut PassContext) -> Module<'c> {
    let loops = nested_ops(module.function()).into_iter().filter(|op| name_of(*op) == "scf.for");
    for op in loops.collect::<Vec<_>>() {
        for number in 0..results_of(op).len() {
            let Some(sum) = sum(op, number) else { continue };
            let message = match layout(op, &sum) {
                Ok(layout) => {
                    defer(&module, op, &sum, &layout);
                    "the threads that share a row add up its sum behind the loop".to_owned()
                }
                Err(why) => format!("the sum of a row is added up in each iteration: {why}"),
            };
            cx.remark(PASS, Place::of(op.location()), message);
        }
    }
    module
}

/// A reduction to sums in a loop's body, and what reshapes its result, if anything does.
fn reduced<'c>(body: Blk<'c>, value: Val<'c>) -> Option<(Op<'c>, Option<Op<'c>>)> {
    let op = defining_op(value).filter(|op| op.block() == Some(body))?;
    match GpuOp::of(op)? {
        GpuOp::Reduce { kind: ReduceKind::Sum, .. } => Some((op, None)),
        GpuOp::Reshape { tile } => match reduced(body, tile)? {
            (reduce, None) => Some((reduce, Some(op))),
            _ => None,
        },
        _ => None,
    }
}

/// Reads what a loop carries under a number as a sum of rows.
fn sum<'c>(op: Op<'c>, number: usize) -> Option<Sum<'c>> {
    let body = blocks_of(op)[0];
    let carried = args_of(body)[number + 1];
    let end = ops_of(body).last()?;
    let add = defining_op(operands_of(end)[number]).filter(|add| add.block() == Some(body))?;
    let other = |[a, b]: [Val<'c>; 2], one: Val<'c>| if a == one { Some(b) } else { (b == one).then_some(a) };
    match (name_of(add).as_str(), &operands_of(add)[..]) {
        ("arith.addf", &[a, b]) => {
            let ((reduce, reshape), before) = match (reduced(body, a), reduced(body, b)) {
                (_, Some(found)) => (found, a),
                (Some(found), None) => (found, b),
                (None, None) => return None,
            };
            if before == carried {
                return Some(Sum { number, reduce, reshape, add, multiply: None, factor: None });
            }
            let multiply = defining_op(before).filter(|op| name_of(*op) == "arith.mulf")?;
            let factor = other(operands_of(multiply).try_into().ok()?, carried)?;
            Some(Sum { number, reduce, reshape, add, multiply: Some(multiply), factor: Some(factor) })
        }
        ("math.fma", &[a, b, c]) => {
            let ((reduce, reshape), factor) = (reduced(body, c)?, other([a, b], carried)?);
            Some(Sum { number, reduce, reshape, add, multiply: None, factor: Some(factor) })
        }
        _ => None,
    }
}

/// The layout of the threads' sums; or why they stay in the loop.
fn layout<'c>(op: Op<'c>, sum: &Sum<'c>) -> Result<LinearLayout, &'static str> {
    let carried = args_of(blocks_of(op)[0])[sum.number + 1];
    let inside: Vec<Val<'c>> = nested_ops(op).into_iter().flat_map(operands_of).collect();
    let own = [sum.add, sum.reduce].into_iter().chain(sum.reshape).chain(sum.multiply);
    let mut links = own.flat_map(results_of).chain([carried]);
    if links.any(|link| inside.iter().filter(|v| **v == link).count() != 1) {
        return Err("the loop uses it elsewhere");
    }
    if dtype_of(type_of(carried)) != Some(DType::F32) {
        return Err("sums of a narrow dtype are rounded as they stand");
    }
    if !is_zero(operands_of(op)[3 + sum.number]) {
        return Err("it does not start at zero");
    }
    let Some(GpuOp::Reduce { tile, axis, .. }) = GpuOp::of(sum.reduce) else { return Err("it is no sum") };
    if sum.reshape.is_some() && sum.factor.is_some() {
        return Err("a factor of another rank multiplies it");
    }
    let whole = layout_of(type_of(tile)).ok_or("it has no layout")?;
    let layout = whole.slice_within_threads(axis).ok_or("threads hold elements more than once")?;
    if layout.shape[axis] == 1 { Err("no threads share rows") } else { Ok(layout) }
}

/// Makes the loop carry the threads' sums.
fn defer<'c>(module: &Module<'c>, op: Op<'c>, sum: &Sum<'c>, layout: &LinearLayout) {
    let Some(GpuOp::Reduce { tile, axis, kind, .. }) = GpuOp::of(sum.reduce) else { return };
    let (context, body) = (module.context(), blocks_of(op)[0]);
    let (carried, result) = (args_of(body)[sum.number + 1], results_of(op)[sum.number]);
    let front = Builder::before(context, op);
    let (whole_type, ty) = (type_of(result), front.distributed(DType::F32, layout));
    set_operand(op, 3 + sum.number, front.zeros(layout));
    set_type(carried, ty);
    set_type(result, ty);

    let b = Builder::before(context, sum.add);
    let own = if type_of(tile) == ty { tile } else { b.reduce_registers(tile, axis, kind) };
    let factor = sum.factor.map(|factor| b.broadcast_tile(factor, layout));
    let same = |op: Op<'c>, operands: &[Val<'c>]| results_of(like(&b, op, operands, &[ty], Vec::new()))[0];
    let added = match (sum.multiply, factor) {
        (Some(multiply), Some(factor)) => same(sum.add, &[same(multiply, &[carried, factor]), own]),
        (None, Some(factor)) => same(sum.add, &[carried, factor, own]),
        _ => match product_from_zero(op, own) {
            Some(product) => {
                set_operand(product, ACC, carried);
                own
            }
            None => same(sum.add, &[carried, own]),
        },
    };
    let end = ops_of(body).last().expect("a loop's body has a terminator");
    set_operand(end, sum.number, added);
    let replaced = [sum.add].into_iter().chain(sum.multiply).chain(sum.reshape).chain([sum.reduce]);
    replaced.for_each(erase);

    let following = op.next_in_block().expect("a terminator follows");
    let mut behind = Builder::before(context, following);
    behind.set_location(op.location());
    let reduced = behind.reduce_tile(result, axis, kind);
    let whole = match sum.reshape {
        Some(_) => behind.value("tgpu.reshape", &[reduced], whole_type, &[]),
        None => reduced,
    };
    replace_uses(result, whole);
    set_operand(defining_op(reduced).expect("it was just made"), 0, result);
}

/// The accumulator among the operands of `tgpu.mma_sync`.
const ACC: usize = 2;

/// The product that a tile in a loop is, if it adds to zeros and only its reduction uses it: what else would be added
/// to it can be its accumulator.
fn product_from_zero<'c>(around: Op<'c>, tile: Val<'c>) -> Option<Op<'c>> {
    let op = defining_op(tile)?;
    let Some(GpuOp::MmaSync { acc, .. }) = GpuOp::of(op) else { return None };
    let uses = nested_ops(around).into_iter().flat_map(operands_of).filter(|v| *v == tile).count();
    (is_zero(acc) && uses == 1).then_some(op)
}
