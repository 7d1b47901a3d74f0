//! `hoist-invariants`: moves what does not change out of loops.
//!
//! Input and output: the tile level. An operation of a loop's body whose operands all come from outside the
//! loop moves in front of it, if running it even when the loop does not run is harmless: pure operations, and
//! loads from tensors that the kernel does not write (a load checks its bounds). Inner loops go first, so that
//! values leave every loop they can. Invariant: the order of operations that stay is kept.

use super::effects::{Effect, effect, is_terminator, raw, written_views};
use crate::module::Module;
use crate::types::{
    Op, Val, blocks_of, is_loop, is_made_in, move_before, name_of, nested_ops, operands_of, ops_of,
};

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

/// True when everything that the operation and its inside use is defined outside the loop, or inside itself.
fn is_invariant(op: Op, loop_op: Op) -> bool {
    let outside = |value: Val| !is_made_in(value, loop_op) || is_made_in(value, op);
    operands_of(op).into_iter().chain(nested_ops(op).into_iter().flat_map(operands_of)).all(outside)
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
