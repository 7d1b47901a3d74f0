//! `hoist-invariants`: moves what does not change out of loops.
//!
//! Input and output: the tile level. An operation of a loop's body whose operands all come from outside the
//! loop moves in front of it, if running it even when the loop does not run is harmless: pure operations, and
//! loads from tensors that the kernel does not write (a load checks its bounds). Inner loops go first, so that
//! values leave every loop they can. Invariant: the order of operations that stay is kept.

use super::effects::{Effect, effect, is_terminator, raw, written_views};
use crate::module::Module;
use crate::types::{Op, Val, blocks_of, move_before, name_of, nested_ops, operands_of, ops_of};
use melior::ir::operation::OperationLike;
use melior::ir::{BlockLike, ValueLike};

pub(super) fn run(module: &mut Module) {
    let written: Vec<usize> = written_views(module).into_iter().map(raw).collect();
    let loops = nested_ops(module.function()).into_iter().filter(|op| is_loop(*op));
    for loop_op in loops.collect::<Vec<_>>().into_iter().rev() {
        let body: Vec<Op> = blocks_of(loop_op).into_iter().flat_map(ops_of).collect();
        for op in body {
            if is_invariant(op, loop_op) && is_harmless(op, &written) {
                move_before(op, loop_op);
            }
        }
    }
}

fn is_loop(op: Op) -> bool {
    matches!(name_of(op).as_str(), "scf.for" | "scf.while")
}

/// True when everything that the operation and its inside use is defined outside the loop, or inside itself.
fn is_invariant(op: Op, loop_op: Op) -> bool {
    let outside = |value: Val| !is_inside(value, loop_op) || is_inside(value, op);
    operands_of(op).into_iter().chain(nested_ops(op).into_iter().flat_map(operands_of)).all(outside)
}

/// True when the value is defined in a region of `op`.
fn is_inside(value: Val, op: Op) -> bool {
    // SAFETY: the value is live, and so is the block that defines it.
    let block = unsafe {
        let raw = value.to_raw();
        match value.is_block_argument() {
            true => mlir_sys::mlirBlockArgumentGetOwner(raw),
            false => mlir_sys::mlirOperationGetBlock(mlir_sys::mlirOpResultGetOwner(raw)),
        }
    };
    // SAFETY: as above.
    let block = unsafe { crate::types::Blk::from_raw(block) };
    std::iter::successors(block.parent_operation(), |o| o.parent_operation()).any(|ancestor| ancestor == op)
}

/// True when the operation may run where the program would not run it.
fn is_harmless(op: Op, written: &[usize]) -> bool {
    match effect(op) {
        Effect::Pure => true,
        Effect::Read(view) => !written.contains(&raw(view)),
        Effect::Nested => {
            name_of(op) == "scf.if"
                && nested_ops(op).into_iter().all(|o| is_terminator(o) || is_harmless(o, written))
        }
        Effect::Guarded | Effect::Write(_) | Effect::Fixed => false,
    }
}
