//! Lets two warpgroups take turns at starting products, so that one computes while the other's products run.
//!
//! Input: a gpu-level module. Output: the same, where each iteration of a loop that starts two products before it
//! waits for one takes the turn in front of the first and gives it behind the last. Both warpgroups have the tensor
//! cores' queue to themselves in turn, which keeps them half an iteration apart. Invariant: who has the turn waits
//! for nothing before giving it.

use super::{Pass, PassContext, PassError};
use crate::gpu::ops::{GpuBuilder, GpuOp};
use crate::gpu::turns::{WARPGROUPS, runs_on};
use crate::layout::wgmma;
use melior::ir::operation::OperationLike;
use tile_ir::context::Place;
use tile_ir::types::{Op, blocks_of, name_of, nested_ops, ops_of};
use tile_ir::{Builder, Module};

const PASS: Pass = Pass::TakeTurns;

/// Runs the pass.
pub(super) fn run<'c>(module: Module<'c>, cx: &mut PassContext) -> Result<Module<'c>, PassError> {
    if !cx.switches.ping_pong {
        return Ok(module);
    }
    let mut turns = false;
    let loops = nested_ops(module.function()).into_iter().filter(|op| name_of(*op) == "scf.for");
    for op in loops.collect::<Vec<_>>() {
        let body: Vec<Op> = ops_of(blocks_of(op)[0]).collect();
        if !body.iter().any(|o| matches!(GpuOp::of(*o), Some(GpuOp::Wgmma { .. }))) {
            continue;
        }
        let message = match turn(&body, cx.num_warps) {
            Ok([first, behind]) => {
                Builder::before(module.context(), first).take_turn();
                Builder::before(module.context(), behind).give_turn();
                turns = true;
                "two warpgroups take turns at starting products"
            }
            Err(why) => why,
        };
        cx.remark(PASS, Place::of(op.location()), message);
    }
    if turns {
        enclose(&module);
    }
    Ok(module)
}

/// The first product of a body's turn, and the operation behind the last.
fn turn<'c>(body: &[Op<'c>], warps: usize) -> Result<[Op<'c>; 2], &'static str> {
    if warps != WARPGROUPS * wgmma::WARPS {
        return Err("no turns are taken: they are for two warpgroups");
    }
    let is_product = |op: &Op<'c>| matches!(GpuOp::of(*op), Some(GpuOp::Wgmma { .. }));
    let first = body.iter().position(is_product).unwrap_or(0);
    let waits = |op: &Op<'c>| matches!(GpuOp::of(*op), Some(GpuOp::WgmmaWait { .. }));
    let wait = body.iter().position(waits).filter(|wait| *wait > first);
    let started = wait.map(|wait| &body[first..wait]).unwrap_or_default();
    let last = first + started.iter().rposition(is_product).unwrap_or(0);
    if last == first || body[last + 1..].iter().any(is_product) {
        return Err("no turns are taken: a product is waited for before the next one starts");
    }
    if !body[first..last].iter().all(|op| runs_on(*op)) {
        return Err("no turns are taken: something waits between the products");
    }
    Ok([body[first], body[last + 1]])
}

/// Opens turns in front of what takes them, and closes them behind.
fn enclose(module: &Module) {
    let takes = |op: &Op| nested_ops(*op).iter().any(|o| matches!(GpuOp::of(*o), Some(GpuOp::TakeTurn)));
    let top: Vec<Op> = ops_of(module.entry()).collect();
    let (Some(first), Some(last)) = (top.iter().position(takes), top.iter().rposition(takes)) else { return };
    Builder::before(module.context(), top[first]).open_turns();
    Builder::before(module.context(), top[last + 1]).close_turns();
}
