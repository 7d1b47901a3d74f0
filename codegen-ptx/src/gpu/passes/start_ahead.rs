//! Starts a loop's first product one iteration ahead, so that it runs under what is computed from the one before.
//!
//! Input: a gpu-level module in which each `wgmma` is waited for where it is made. Output: the same, where the
//! product of a loop that depends on nothing the loop carries (the scores of attention) is started before the
//! iteration that uses it: the first in front of the loop, each next one at the top of an iteration. Where a second
//! product is added to a sum that the loop carries, it starts right behind (`two_in_flight`), and the last one is
//! taken out of the loop. Elsewhere the first product runs alone, and the last iteration, which starts none, is
//! taken out. Invariant: at the end of an iteration no product is in flight.

use super::rewrite::{Renamed, SIGNED_LESS, address_of, clone_op, compare, is_pure_branch};
use super::two_in_flight;
use super::warp_specialize::next;
use super::{Pass, PassContext, PassError};
use crate::gpu::dialect::Smem;
use crate::gpu::ops::{GpuBuilder, GpuOp, MmaOperand};
use melior::ir::operation::OperationLike;
use std::convert::Infallible;
use tile_ir::context::Place;
use tile_ir::types::{
    Op, Val, args_of, blocks_of, defining_op, erase, int_attr, name_of, nested_ops, operands_of, ops_of,
    replace_uses, results_of, type_of,
};
use tile_ir::{Builder, Module};

const PASS: Pass = Pass::StartAhead;

/// A product to be started ahead.
pub(super) struct Ahead<'c> {
    /// Constants of the body that it uses.
    pub(super) constants: Vec<Op<'c>>,
    /// The wait until its operands are there.
    pub(super) full: Op<'c>,
    pub(super) product: Op<'c>,
    /// The wait for it.
    pub(super) wait: Op<'c>,
    /// The last wait of the body, for another product.
    pub(super) last_wait: Op<'c>,
    /// Slots of its ring.
    stages: usize,
}

/// Runs the pass.
pub(super) fn run<'c>(module: Module<'c>, cx: &mut PassContext) -> Result<Module<'c>, PassError> {
    let loops = nested_ops(module.function()).into_iter().filter(|op| name_of(*op) == "scf.for");
    for op in loops.collect::<Vec<_>>() {
        let products =
            ops_of(blocks_of(op)[0]).filter(|o| matches!(GpuOp::of(*o), Some(GpuOp::Wgmma { .. })));
        if products.count() < 2 {
            continue;
        }
        let message = match find(op) {
            Ok(ahead) => {
                let started = "the first product of an iteration is started in the one before";
                match two_in_flight::cut(op, &ahead) {
                    Ok(cut) => {
                        two_in_flight::rotate(&module, op, &ahead, &cut);
                        format!("{started}, next to the second one of that")
                    }
                    Err(why) => {
                        rotate(&module, op, &ahead);
                        format!("{started}, and alone: {why}")
                    }
                }
            }
            Err(why) => why.to_owned(),
        };
        cx.remark(PASS, Place::of(op.location()), message);
    }
    Ok(module)
}

/// The product that can be started ahead, or why none can.
fn find<'c>(op: Op<'c>) -> Result<Ahead<'c>, &'static str> {
    let block = blocks_of(op)[0];
    let body: Vec<Op<'c>> = ops_of(block).collect();
    if !has_unit_step(op) {
        return Err("products wait for each other: the loop's step is not 1");
    }
    let blocks = |o: &Op<'c>| o.region_count() > 0 && !is_pure_branch(*o);
    if body.iter().any(|o| blocks(o) || matches!(GpuOp::of(*o), Some(GpuOp::Barrier))) {
        return Err("products wait for each other: the loop has branches or barriers");
    }
    let no = "products wait for each other: the first one depends on what the loop carries";
    let at = body.iter().position(|o| matches!(GpuOp::of(*o), Some(GpuOp::Wgmma { .. }))).ok_or(no)?;
    let product = body[at];
    let Some(GpuOp::Wgmma { rhs: MmaOperand::Shared { smem, slot, .. }, .. }) = GpuOp::of(product) else {
        return Err(no);
    };
    let stages = Smem::of(type_of(smem)).map(|s| s.slots).ok_or(no)?;
    let full = *body[..at]
        .iter()
        .rev()
        .find(|o| matches!(GpuOp::of(**o), Some(GpuOp::MbarrierWait { slot: waited, .. }) if waited == slot))
        .ok_or("products wait for each other: the first one's operands are not in a ring of mbarriers")?;
    if !args_of(block).contains(&slot) {
        return Err(no);
    }
    let mut constants = Vec::new();
    for value in operands_of(product).into_iter().filter(|v| *v != slot) {
        match defining_op(value) {
            Some(definition) if definition.block() == Some(block) => match name_of(definition).as_str() {
                "arith.constant" => constants.push(definition),
                _ => return Err(no),
            },
            None if args_of(block).contains(&value) => return Err(no),
            _ => {}
        }
    }
    let result = results_of(product)[0];
    let waits = |o: &&Op<'c>| matches!(GpuOp::of(**o), Some(GpuOp::WgmmaWait { ref tiles, pending: 0 }) if tiles[..] == [result]);
    let wait = *body.iter().find(waits).ok_or(no)?;
    let last = body.iter().rev().find(|o| matches!(GpuOp::of(**o), Some(GpuOp::WgmmaWait { .. })));
    let last_wait = *last.filter(|last| **last != wait).ok_or(no)?;
    Ok(Ahead { constants, full, product, wait, last_wait, stages })
}

/// Whether a loop's step is 1.
pub(super) fn has_unit_step(op: Op) -> bool {
    let one = |op: Op| name_of(op) == "arith.constant" && int_attr(op, "value") == Some(1);
    defining_op(operands_of(op)[2]).is_some_and(one)
}

/// Replaces a loop with the step 1 by what `run` writes of its bounds, its step and what it carries at first, where it
/// has any iteration.
pub(super) fn replace_if_any<'c>(
    module: &Module<'c>,
    op: Op<'c>,
    run: impl FnOnce(&Builder<'c>, [Val<'c>; 3], &[Val<'c>]) -> Vec<Val<'c>>,
) {
    let b = Builder::before(module.context(), op);
    let operands = operands_of(op);
    let (bounds, initial) = ([operands[0], operands[1], operands[2]], &operands[3..]);
    let results = results_of(op);
    let types: Vec<_> = results.iter().map(|r| type_of(*r)).collect();
    let any = compare(&b, SIGNED_LESS, bounds[0], bounds[1]);
    let made =
        b.if_else(any, &types, |b| Ok::<_, Infallible>(run(b, bounds, initial)), |_| Ok(initial.to_vec()));
    let Ok(made) = made;
    results.iter().zip(made).for_each(|(old, new)| replace_uses(*old, new));
    erase(op);
}

/// Replaces a loop.
fn rotate<'c>(module: &Module<'c>, op: Op<'c>, ahead: &Ahead<'c>) {
    let body = blocks_of(op)[0];
    replace_if_any(module, op, |b, [low, high, step], initial| {
        let mut renamed = Renamed::new();
        args_of(body)[1..].iter().zip(initial).for_each(|(arg, value)| {
            renamed.insert(address_of(*arg), *value);
        });
        let first = b.wgmma_wait(&[start(b, ahead, &mut renamed)], 0)[0];
        let last = b.same("arith.subi", &[high, step]);
        let carried: Vec<Val> = initial.iter().copied().chain([first]).collect();
        let Ok(looped) = b.for_loop([low, last, step], &carried, |b, variable, carried| {
            let (started, values) = carried.split_last().expect("the product at least");
            Ok::<_, Infallible>(iteration(b, op, ahead, (variable, values), *started, true))
        });
        let (started, values) = looped.split_last().expect("the product at least");
        iteration(b, op, ahead, (last, values), *started, false)
    });
}

/// Waits for the first product's operands and starts it.
pub(super) fn start<'c>(b: &Builder<'c>, ahead: &Ahead<'c>, renamed: &mut Renamed<'c>) -> Val<'c> {
    for op in ahead.constants.iter().chain([&ahead.full, &ahead.product]) {
        clone_op(b, *op, renamed);
    }
    renamed[&address_of(results_of(ahead.product)[0])]
}

/// A copy of the body whose first product is `first`; returns what it yields, and behind that the next product, if it
/// is to start that.
fn iteration<'c>(
    b: &Builder<'c>,
    op: Op<'c>,
    ahead: &Ahead<'c>,
    (variable, values): (Val<'c>, &[Val<'c>]),
    first: Val<'c>,
    starts_next: bool,
) -> Vec<Val<'c>> {
    let body = blocks_of(op)[0];
    let arguments = args_of(body);
    let mut renamed = Renamed::from([(address_of(arguments[0]), variable)]);
    arguments[1..].iter().zip(values).for_each(|(arg, value)| {
        renamed.insert(address_of(*arg), *value);
    });
    let mut started = None;
    if starts_next {
        let turn = &operands_of(ahead.full)[1..3];
        let current = [renamed[&address_of(turn[0])], renamed[&address_of(turn[1])]];
        let following = next(b, current, ahead.stages);
        let mut later =
            Renamed::from([(address_of(turn[0]), following[0]), (address_of(turn[1]), following[1])]);
        started = Some(start(b, ahead, &mut later));
    }
    for inner in ops_of(body) {
        if inner == ahead.full || inner == ahead.product {
            continue;
        }
        if inner == ahead.wait {
            renamed.insert(address_of(results_of(inner)[0]), first);
            continue;
        }
        if name_of(inner) == "scf.yield" {
            let rename = |value: Val<'c>| renamed.get(&address_of(value)).copied().unwrap_or(value);
            return operands_of(inner).into_iter().map(rename).chain(started).collect();
        }
        clone_op(b, inner, &mut renamed);
        if inner == ahead.last_wait {
            started = started.map(|product| b.wgmma_wait(&[product], 0)[0]);
        }
    }
    Vec::new()
}
