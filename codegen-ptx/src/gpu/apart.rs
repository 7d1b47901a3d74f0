//! Checks that what only some warpgroups run concerns no other one.
//!
//! A branch on whether a warpgroup has rows (`tgpu.has_rows`) is taken by some warpgroups of a CTA and not by others. In
//! it nothing meets other warps than those of the warpgroup, nothing is written that others read, and nothing else is
//! decided by that condition.

use super::ops::GpuOp;
use super::passes::scratch_bytes;
use super::protocol::ProtocolError;
use crate::layout::wgmma;
use melior::ir::operation::OperationLike;
use tile_ir::Module;
use tile_ir::types::{Op, Val, int_attr, name_of, nested_ops, operands_of, results_of, root_view};

/// True for what a warpgroup may do while another does something else; `written` are the tensors that the kernel writes,
/// whose loads may stand behind a barrier.
pub(super) fn is_apart<'c>(op: Op<'c>, written: &[Val<'c>]) -> bool {
    let name = name_of(op);
    match GpuOp::of(op) {
        Some(
            GpuOp::MbarrierWait { .. }
            | GpuOp::MbarrierArrive { .. }
            | GpuOp::Wgmma { .. }
            | GpuOp::WgmmaWait { .. }
            | GpuOp::LocalLoad { .. }
            | GpuOp::Splat { .. }
            | GpuOp::Iota
            | GpuOp::AllOnes { .. }
            | GpuOp::Broadcast { .. }
            | GpuOp::Columns { .. }
            | GpuOp::ReduceRegisters { .. }
            | GpuOp::Reshape { .. }
            | GpuOp::Transpose { .. },
        ) => true,
        Some(GpuOp::ConvertLayout { .. } | GpuOp::Reduce { .. }) => scratch_bytes(op) == 0,
        Some(GpuOp::GlobalLoad { view, .. } | GpuOp::Gather { view, .. }) => {
            !written.contains(&root_view(view))
        }
        Some(_) => false,
        None => match name.as_str() {
            "scf.for" | "scf.if" | "scf.yield" => true,
            "tile.cast" | "tile.dim" | "tile.slice" | "tile.program_id" | "tile.num_programs" => true,
            "tile.at" => !written.contains(&root_view(operands_of(op)[0])),
            _ => name.starts_with("arith.") || name.starts_with("math."),
        },
    }
}

/// The branches that some warpgroups alone take, with their conditions.
fn branches<'c>(all: &[Op<'c>]) -> Vec<(Op<'c>, Op<'c>)> {
    let conditions = all.iter().filter(|op| matches!(GpuOp::of(**op), Some(GpuOp::HasRows { .. })));
    let users = |condition: &Op<'c>| {
        let value = results_of(*condition)[0];
        let users = all.iter().filter(|op| op.operands().any(|v| v == value));
        users.map(|user| (*condition, *user)).collect::<Vec<_>>()
    };
    conditions.flat_map(users).collect()
}

/// What the warpgroups that take each such branch do not run, and what the others do not.
pub(super) fn left_out<'c>(all: &[Op<'c>]) -> Option<[Vec<Op<'c>>; 2]> {
    let branches = branches(all);
    let region = |number: usize| {
        let blocks =
            branches.iter().filter_map(|(_, op)| tile_ir::types::blocks_of(*op).get(number).copied());
        let ops = blocks.flat_map(tile_ir::types::ops_of);
        ops.flat_map(|op| std::iter::once(op).chain(nested_ops(op))).collect()
    };
    (!branches.is_empty()).then(|| [region(1), region(0)])
}

/// Every operation that others than those that take its branch would have to run, too.
pub(super) fn check<'c>(module: &Module<'c>, written: &[Val<'c>]) -> Vec<(Op<'c>, ProtocolError)> {
    let all = nested_ops(module.function());
    let warps = int_attr(module.function(), "tgpu.num_warps").unwrap_or(1) as usize;
    let mut found = Vec::new();
    for (condition, branch) in branches(&all) {
        if name_of(branch) != "scf.if" {
            found.push((branch, ProtocolError::Apart(name_of(branch))));
            continue;
        }
        let bits = (warps / wgmma::WARPS).checked_ilog2().map(|bits| bits as usize);
        if !matches!(GpuOp::of(condition), Some(GpuOp::HasRows { steps, .. }) if Some(steps.len()) == bits) {
            found.push((condition, ProtocolError::ApartWarps(warps)));
        }
        let meets = nested_ops(branch).into_iter().filter(|op| !is_apart(*op, written));
        found.extend(meets.map(|op| (op, ProtocolError::Apart(name_of(op)))));
    }
    found
}
