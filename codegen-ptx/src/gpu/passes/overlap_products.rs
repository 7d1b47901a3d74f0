//! Lets the product of one iteration run while the next one's operands are waited for.
//!
//! Input: a gpu-level module in which each `wgmma` is waited for where it is made. Output: the same, where a loop
//! that only adds a product to an accumulator, and takes its operands from rings of mbarriers, keeps one product in
//! flight: an iteration waits for the product of the one before and releases that one's slots. A product whose lhs is
//! computed in registers reads them until it is done: it is taken in halves, if that is switched on (`compute_ahead`),
//! else it is left. Invariant: nothing but the next product touches the accumulator before the wait
//! behind the loop.

use super::compute_ahead;
use super::rewrite::{carry_more, set_operand};
use super::{Pass, PassContext, PassError};
use crate::gpu::ops::{GpuBuilder, GpuOp, MmaOperand};
use melior::ir::BlockLike;
use melior::ir::operation::OperationLike;
use tile_ir::context::Place;
use tile_ir::types::{
    Op, Val, args_of, blocks_of, element_type, erase, name_of, nested_ops, operands_of, ops_of, replace_uses,
    results_of, type_of,
};
use tile_ir::{Builder, Module};
use tile_lang::DType;

const PASS: Pass = Pass::OverlapProducts;

/// Runs the pass.
pub(super) fn run<'c>(module: Module<'c>, cx: &mut PassContext) -> Result<Module<'c>, PassError> {
    let loops = nested_ops(module.function()).into_iter().filter(|op| name_of(*op) == "scf.for");
    // Inner loops first: rebuilding an outer loop would otherwise lose them.
    for op in loops.collect::<Vec<_>>().into_iter().rev() {
        let body: Vec<Op> = ops_of(blocks_of(op)[0]).collect();
        let products: Vec<Op> = nested_ops(op)
            .into_iter()
            .filter(|o| matches!(GpuOp::of(*o), Some(GpuOp::Wgmma { .. })))
            .collect();
        if products.is_empty() {
            continue;
        }
        let message = match sum(op, &body, &products) {
            Ok(sum) if sum.lhs_in_registers && !cx.switches.compute_ahead => {
                "the product is waited for: the next one's lhs would be written to registers that it reads"
            }
            Ok(sum) if sum.lhs_in_registers => match compute_ahead::halves(op, sum.product) {
                Ok(halves) => {
                    let [last, wait] = compute_ahead::take(&module, &halves);
                    let tile = [results_of(last)[0], sum.tile[1]];
                    let op = compute_ahead::load_ahead(&module, op);
                    keep_in_flight(&module, op, Sum { tile, ..sum }, wait.next_in_block());
                    "half of a product runs while the other half's lhs is computed"
                }
                Err(why) => why,
            },
            Ok(sum) => {
                keep_in_flight(&module, op, sum, None);
                "a product runs while the next one's operands are waited for"
            }
            Err(why) => why,
        };
        cx.remark(PASS, Place::of(op.location()), message);
    }
    Ok(module)
}

/// A loop that adds products up.
struct Sum<'c> {
    product: Op<'c>,
    lhs_in_registers: bool,
    wait: Op<'c>,
    /// What is waited for, and what the wait hands on.
    tile: [Val<'c>; 2],
    arrivals: Vec<Op<'c>>,
    /// Number of the accumulator among what the loop carries.
    number: usize,
    slot: Val<'c>,
}

/// Reads a loop as a sum of products, or says why it is none.
fn sum<'c>(op: Op<'c>, body: &[Op<'c>], products: &[Op<'c>]) -> Result<Sum<'c>, &'static str> {
    let &[product] = products else { return Err("each product is waited for: the loop has several") };
    let Some(GpuOp::Wgmma { lhs, acc, .. }) = GpuOp::of(product) else { return Err("no product") };
    let lhs_in_registers = matches!(lhs, MmaOperand::Registers(_));
    let result = results_of(product)[0];
    let waits = |o: &&Op<'c>| matches!(GpuOp::of(**o), Some(GpuOp::WgmmaWait { ref tiles, pending: 0 }) if tiles[..] == [result]);
    let wait = *body.iter().find(waits).ok_or("a product is waited for elsewhere")?;
    let handed = results_of(wait)[0];
    let end = *body.last().ok_or("the loop is empty")?;
    let number = args_of(blocks_of(op)[0])[1..]
        .iter()
        .position(|a| *a == acc)
        .ok_or("the product is waited for: it does not add to what the loop carries")?;
    let used = |value: Val<'c>| {
        let count = |o: &Op<'c>| o.operands().filter(|v| *v == value).count();
        nested_ops(op).iter().map(count).sum::<usize>()
    };
    if operands_of(end)[number] != handed || used(handed) != 1 || used(acc) != 1 {
        return Err("the product is waited for: its sum is used in the loop");
    }
    let arrivals: Vec<Op> = body
        .iter()
        .copied()
        .filter(|o| matches!(GpuOp::of(*o), Some(GpuOp::MbarrierArrive { .. })))
        .collect();
    let shared = |o: &Op<'c>| matches!(GpuOp::of(*o), Some(GpuOp::Barrier));
    if arrivals.is_empty() || body.iter().any(shared) {
        return Err("the product is waited for: its operands are not in rings of mbarriers");
    }
    let slot = operands_of(arrivals[0])[1];
    if arrivals.iter().any(|a| operands_of(*a)[1] != slot) {
        return Err("the product is waited for: its operands are in slots of different numbers");
    }
    Ok(Sum { product, lhs_in_registers, wait, tile: [result, handed], arrivals, number, slot })
}

/// Moves the wait for each product behind the start of the next. The slots of the one before are released in front of
/// `place`, or where slots were.
fn keep_in_flight<'c>(module: &Module<'c>, op: Op<'c>, sum: Sum<'c>, place: Option<Op<'c>>) {
    let context = module.context();
    let body = blocks_of(op)[0];
    let previous: Val = body.add_argument(element_type(context, DType::I32), op.location());
    let b = Builder::before(context, sum.wait);
    b.wgmma_wait(&[], 1);
    let released: Vec<(Val, bool)> = sum.arrivals.iter().filter_map(|a| released(*a)).collect();
    for (arrival, (barriers, loaded)) in sum.arrivals.iter().zip(&released) {
        Builder::before(context, place.unwrap_or(*arrival)).mbarrier_arrive(*barriers, previous, *loaded);
        erase(*arrival);
    }
    let [tile, handed] = sum.tile;
    replace_uses(handed, tile);
    erase(sum.wait);
    let end = ops_of(body).last().expect("a loop's body has a terminator");
    let yielded: Vec<Val> = operands_of(end).into_iter().chain([sum.slot]).collect();
    Builder::before(context, end).op("scf.yield", &yielded, &[], &[]);
    erase(end);

    let before = Builder::before(context, op);
    let none = before.int_const(DType::I32, -1);
    // A place behind the loop, which the new one takes.
    let block = op.block().expect("a loop in a block");
    let following = ops_of(block).skip_while(|o| *o != op).nth(1).expect("a terminator follows");
    let last = carry_more(&before, op, &operands_of(op), &[none])[0];
    let rebuilt = tile_ir::types::defining_op(last).expect("the loop");
    let mut after = Builder::before(context, following);
    after.set_location(rebuilt.location());
    let result = results_of(rebuilt)[sum.number];
    // Everybody but the wait itself uses what it hands on.
    let wait = after.op("tgpu.wgmma_wait", &[result], &[type_of(result)], &[("pending", after.int(0))]);
    let done = results_of(wait)[0];
    replace_uses(result, done);
    set_operand(wait, 0, result);
    for (barriers, loaded) in released {
        after.mbarrier_arrive(barriers, last, loaded);
    }
}

/// The barriers that an arrival is at, and whether loads are over before it.
fn released<'c>(arrival: Op<'c>) -> Option<(Val<'c>, bool)> {
    match GpuOp::of(arrival)? {
        GpuOp::MbarrierArrive { barriers, loaded, .. } => Some((barriers, loaded)),
        _ => None,
    }
}
