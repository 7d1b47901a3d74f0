//! Checks that bulk stores see what the threads have written, and that nothing overwrites what they read.
//!
//! In front of a bulk store, in its block, are a write of its slot, a fence and a barrier. Where it may run again, a
//! complete wait and a barrier stand before the write. At the end of the kernel everything has been read. Where each
//! warpgroup stores its part, its own threads are all that has to meet, if they alone write that part.

use super::cluster::parts_of;
use super::dialect::layout_of;
use super::ops::GpuOp;
use super::protocol::ProtocolError;
use crate::layout::{LinearLayout, wgmma};
use melior::ir::operation::OperationLike;
use tile_ir::Module;
use tile_ir::types::{Op, name_of, nested_ops, ops_of, type_of};

/// Every bulk store that is out of step.
pub(super) fn check<'c>(module: &Module<'c>) -> Vec<(Op<'c>, ProtocolError)> {
    let mut found = Vec::new();
    for op in nested_ops(module.function()) {
        let Some(GpuOp::BulkStore { smem, tile_shape, box_shape, .. }) = GpuOp::of(op) else { continue };
        let parts = parts_of(&tile_shape, &box_shape);
        let meeting = if parts > 1 { GpuOp::GroupBarrier } else { GpuOp::Barrier };
        let Some(block) = op.block() else { continue };
        // From the store backwards; arithmetic in between is of no account.
        let steps: Vec<Op<'c>> = ops_of(block).take_while(|o| *o != op).collect();
        let mut before = steps.iter().rev().filter_map(|o| GpuOp::of(*o));
        let mut step = || before.next();
        let own = |layout: LinearLayout| parts == 1 || parts_of_warpgroups(&layout) == parts;
        let visible = step().as_ref() == Some(&meeting)
            && step() == Some(GpuOp::FenceAsync)
            && matches!(step(), Some(GpuOp::LocalStore { smem: written, tile, .. })
                if written == smem && layout_of(type_of(tile)).is_some_and(own));
        if !visible {
            found.push((op, ProtocolError::StoreTooEarly));
            continue;
        }
        let waited = step() == Some(meeting) && step() == Some(GpuOp::BulkWait { smem, read: false });
        if in_loop(module, op) && !waited {
            found.push((op, ProtocolError::StoreOverwritten));
        }
        let at_end =
            |o: Op<'c>| matches!(GpuOp::of(o), Some(GpuOp::BulkWait { smem: waited, .. }) if waited == smem);
        let last = ops_of(module.entry()).filter(|o| at_end(*o) || holds(*o, op)).last();
        if !last.is_some_and(at_end) {
            found.push((op, ProtocolError::StoreNotDone));
        }
    }
    found
}

/// The parts of a matrix's rows, as many as there are warpgroups, of which each warpgroup holds one, in order; 1 where
/// they hold the rows in another way.
pub(crate) fn parts_of_warpgroups(layout: &LinearLayout) -> usize {
    let [rows, _] = layout.shape[..] else { return 1 };
    let Some((of_group, groups)) = layout.warp.split_at_checked(wgmma::WARP_BITS) else { return 1 };
    let part = rows >> groups.len();
    let inside =
        layout.register.iter().chain(&layout.lane).chain(of_group).all(|basis| (basis[0] as usize) < part);
    let in_order = groups.iter().enumerate().all(|(i, basis)| basis[..] == [(part << i) as u32, 0]);
    if part > 0 && inside && in_order { 1 << groups.len() } else { 1 }
}

/// Whether an operation is in a loop.
fn in_loop<'c>(module: &Module<'c>, op: Op<'c>) -> bool {
    let outer = std::iter::successors(op.parent_operation(), |o| o.parent_operation());
    outer
        .take_while(|o| *o != module.function())
        .any(|o| matches!(name_of(o).as_str(), "scf.for" | "scf.while"))
}

/// Whether an operation is another or around it.
fn holds<'c>(outer: Op<'c>, op: Op<'c>) -> bool {
    outer == op || nested_ops(outer).contains(&op)
}
