//! Makes loads that are the same in every iteration in front of the loop.
//!
//! Input: a gpu-level module. Output: the same, where a load whose address no loop around it changes, of a tensor that
//! the kernel does not write, stands in front of those loops, if a thread can keep what it loads in few registers. So
//! it is with the scale of a whole tensor where CTAs walk over programs: it is there when the first program ends, and
//! the others need not load it again. Invariant: a load outside of its tensor reads nothing, so that it may run where
//! the program would not run it.

use super::copies::written_views;
use super::rewrite::{Renamed, address_of, clone_op};
use super::{Pass, PassContext};
use crate::gpu::dialect::layout_of;
use crate::gpu::ops::GpuOp;
use melior::ir::operation::OperationLike;
use std::iter::successors;
use tile_ir::context::Place;
use tile_ir::types::{
    Op, Val, defining_op, dtype_of, erase, is_loop, is_made_in, name_of, nested_ops, operands_of,
    replace_uses, results_of, root_view, type_of,
};
use tile_ir::{Builder, Module};

const PASS: Pass = Pass::HoistLoads;

/// Bits of registers that a thread keeps what is loaded in, at most.
const MAX_BITS: usize = 64;

/// Runs the pass.
pub(super) fn run<'c>(module: Module<'c>, cx: &mut PassContext) -> Module<'c> {
    let written = written_views(&module);
    for load in nested_ops(module.function()) {
        let Some(GpuOp::GlobalLoad { view, .. }) = GpuOp::of(load) else { continue };
        let result = results_of(load)[0];
        let registers = layout_of(type_of(result)).map(|layout| layout.num_registers());
        let bits = dtype_of(type_of(result)).map(|dtype| dtype.bits() as usize);
        let is_small = registers.zip(bits).is_some_and(|(count, bits)| count * bits <= MAX_BITS);
        let Some(outer) = outermost(load).filter(|_| is_small && !written.contains(&root_view(view))) else {
            continue;
        };
        let (b, mut renamed) = (Builder::before(module.context(), outer), Renamed::new());
        let constants = operands_of(load).into_iter().filter_map(constant);
        constants.chain([load]).for_each(|op| clone_op(&b, op, &mut renamed));
        replace_uses(result, renamed[&address_of(result)]);
        cx.remark(PASS, Place::of(load.location()), "a block is loaded once, in front of the loop");
        erase(load);
    }
    module
}

/// The outermost of the loops around an operation none of which changes what it takes.
fn outermost<'c>(op: Op<'c>) -> Option<Op<'c>> {
    let taken: Vec<Val> = operands_of(op).into_iter().filter(|v| constant(*v).is_none()).collect();
    let around = successors(op.parent_operation(), |op| op.parent_operation());
    let loops = around.filter(|op| is_loop(*op));
    loops.take_while(|outer| !taken.iter().any(|value| is_made_in(*value, *outer))).last()
}

/// The operation that makes a constant.
fn constant(value: Val) -> Option<Op> {
    defining_op(value).filter(|op| name_of(*op) == "arith.constant")
}
