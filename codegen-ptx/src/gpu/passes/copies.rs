//! Copies to shared memory that a loop waits for where it makes them, as `assign-layouts` leaves them.

use crate::gpu::ops::{GpuOp, MmaOperand};
use melior::ir::operation::OperationLike;
use tile_ir::Module;
use tile_ir::types::{
    Blk, Op, Val, args_of, blocks_of, defining_op, is_tile, name_of, nested_ops, operands_of, ops_of,
    replace_uses, results_of, root_view, type_of,
};

/// The tensors that the kernel writes.
pub(in crate::gpu) fn written_views<'c>(module: &Module<'c>) -> Vec<Val<'c>> {
    let view = |op: Op<'c>| match GpuOp::of(op) {
        Some(
            GpuOp::GlobalStore { view, .. } | GpuOp::Scatter { view, .. } | GpuOp::BulkStore { view, .. },
        ) => Some(root_view(view)),
        _ => None,
    };
    nested_ops(module.function()).into_iter().filter_map(view).collect()
}

/// True for operations on scalars that may run anywhere and any number of times, in iterations that there are. Single
/// elements of tensors that are not `written` are such: they are read only inside their tensor.
pub(in crate::gpu) fn is_scalar_arithmetic<'c>(op: Op<'c>, written: &[Val<'c>]) -> bool {
    let name = name_of(op);
    let pure = match name.as_str() {
        "tile.dim" | "tile.program_id" | "tile.num_programs" | "tile.slice" | "tile.cast" => true,
        "tile.at" => !written.contains(&root_view(operands_of(op)[0])),
        _ => name.starts_with("arith."),
    };
    pure && !results_of(op).into_iter().any(|r| is_tile(type_of(r)))
}

/// A copy to shared memory that is waited for at once: barrier, copy, commit, wait, barrier.
pub(super) struct Copy<'c> {
    /// The barrier in front, in a loop.
    pub before: Option<Op<'c>>,
    /// The copy.
    pub copy: Op<'c>,
    /// What closes its group.
    pub commit: Op<'c>,
    /// The wait for it.
    pub wait: Op<'c>,
    /// The barrier behind.
    pub after: Op<'c>,
    /// What is copied from.
    pub view: Val<'c>,
    /// What is copied to.
    pub smem: Val<'c>,
}

/// The copies that a block waits for one by one.
pub(super) fn copies<'c>(block: Blk<'c>) -> Vec<Copy<'c>> {
    let ops: Vec<Op<'c>> = ops_of(block).collect();
    let mut found = Vec::new();
    for (i, window) in ops.windows(4).enumerate() {
        let [copy, commit, wait, after] = window[..] else { continue };
        let kinds = (GpuOp::of(copy), GpuOp::of(commit), GpuOp::of(wait), GpuOp::of(after));
        if let (
            Some(GpuOp::AsyncCopy { view, smem, .. }),
            Some(GpuOp::Commit),
            Some(GpuOp::Wait { pending: 0 }),
            Some(GpuOp::Barrier),
        ) = kinds
        {
            let before = i.checked_sub(1).map(|i| ops[i]).filter(|op| GpuOp::of(*op) == Some(GpuOp::Barrier));
            found.push(Copy { before, copy, commit, wait, after, view, smem });
        }
    }
    found
}

/// The operations of the loop's body that the address of a copy or load is computed by, in order; none when it depends
/// on what the loop carries, or on more than what `is_known` allows.
pub(super) fn address<'c>(
    access: Op<'c>,
    body: Blk<'c>,
    is_known: impl Fn(Op<'c>) -> bool,
) -> Option<Vec<Op<'c>>> {
    let variable = args_of(body)[0];
    let mut slice: Vec<Op<'c>> = Vec::new();
    let mut pending = operands_of(access);
    while let Some(value) = pending.pop() {
        let Some(op) = defining_op(value) else {
            let carried = args_of(body).contains(&value) && value != variable;
            if carried {
                return None;
            }
            continue;
        };
        if op.block().is_none_or(|b| b != body) || slice.contains(&op) {
            continue;
        }
        if !is_known(op) {
            return None;
        }
        slice.push(op);
        pending.extend(op.operands());
    }
    let order: Vec<Op> = ops_of(body).collect();
    slice.sort_by_key(|op| order.iter().position(|o| o == op));
    Some(slice)
}

/// Makes reads of a ring in a block read `slot`.
pub(super) fn use_slot<'c>(block: Blk<'c>, smem: Val<'c>, slot: Val<'c>) {
    for op in ops_of(block) {
        match GpuOp::of(op) {
            Some(
                GpuOp::MmaSync { lhs, rhs, .. }
                | GpuOp::MmaScaledSync { lhs, rhs, .. }
                | GpuOp::Wgmma { lhs, rhs, .. },
            ) => {
                for operand in [lhs, rhs] {
                    if let MmaOperand::Shared { smem: read, slot: old, .. } = operand
                        && read == smem
                    {
                        replace_uses(old, slot);
                    }
                }
            }
            Some(GpuOp::LocalLoad { smem: read, slot: old, .. }) if read == smem => replace_uses(old, slot),
            _ => {}
        }
        blocks_of(op).into_iter().for_each(|inner| use_slot(inner, smem, slot));
    }
}

/// True when an operation or one inside of it uses a buffer.
pub(super) fn reads<'c>(op: Op<'c>, smem: Val<'c>) -> bool {
    let uses = |op: Op<'c>| op.operands().any(|v| v == smem);
    uses(op) || nested_ops(op).into_iter().any(uses)
}
