//! Part of `canonicalize`: finds what a loop carries for itself alone.
//!
//! A carried value is used when its result is, or when something used inside the body depends on it. One that is
//! not is passed on unchanged instead, so that it and what computed it fall away.

use super::effects::{is_terminator, only_computes, raw};
use crate::module::Module;
use crate::types::{
    Blk, Op, Val, args_of, blocks_of, defining_op, is_unused, name_of, nested_ops, operands_of, ops_of,
    results_of,
};
use melior::ir::operation::OperationLike;
use melior::ir::{BlockLike, ValueLike};
use std::collections::HashSet;

/// Passes on what each `scf.for` carries for itself alone.
pub(super) fn pass_on_unused(module: &Module) {
    nested_ops(module.function())
        .into_iter()
        .filter(|op| name_of(*op) == "scf.for")
        .for_each(pass_on_unused_of);
}

fn pass_on_unused_of(loop_op: Op) {
    let body = blocks_of(loop_op)[0];
    let Some(end) = body.terminator() else { return };
    let (args, next) = (args_of(body), operands_of(end));
    let live = live_carried(loop_op, body, &args[1..], &next);
    for (i, (arg, value)) in args[1..].iter().zip(&next).enumerate() {
        if !live[i] && arg != value {
            // SAFETY: the terminator and the argument are live; both have the carried value's type.
            unsafe { mlir_sys::mlirOperationSetOperand(end.to_raw(), i as isize, arg.to_raw()) };
        }
    }
}

/// Which carried values anything but themselves uses.
fn live_carried<'c>(loop_op: Op<'c>, body: Blk<'c>, args: &[Val<'c>], next: &[Val<'c>]) -> Vec<bool> {
    let mut live = vec![false; args.len()];
    let mut pending: Vec<Val> = ops_of(body)
        .filter(|op| !is_terminator(*op) && !only_computes(*op))
        .flat_map(operands_with_nested)
        .collect();
    for (i, result) in results_of(loop_op).into_iter().enumerate() {
        if !is_unused(result) {
            live[i] = true;
            pending.push(next[i]);
        }
    }
    let mut seen = HashSet::new();
    while let Some(value) = pending.pop() {
        if !seen.insert(raw(value)) {
            continue;
        }
        if let Some(i) = args.iter().position(|a| *a == value) {
            live[i] = true;
            pending.push(next[i]);
        } else if let Some(op) = defining_op(value).and_then(|op| ancestor_in(op, body)) {
            pending.extend(operands_with_nested(op));
        }
    }
    live
}

fn operands_with_nested<'c>(op: Op<'c>) -> Vec<Val<'c>> {
    operands_of(op).into_iter().chain(nested_ops(op).into_iter().flat_map(operands_of)).collect()
}

/// The operation of `block` that is or holds `op`.
fn ancestor_in<'c>(op: Op<'c>, block: Blk<'c>) -> Option<Op<'c>> {
    std::iter::successors(Some(op), |o| o.parent_operation()).find(|o| o.block().is_some_and(|b| b == block))
}
