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
use tile_ir::types::{Op, is_loop, nested_ops, ops_of, type_of};

/// Every bulk store that is out of step.
pub(super) fn check<'c>(module: &Module<'c>) -> Vec<(Op<'c>, ProtocolError)> {
    let mut found = Vec::new();
    for op in nested_ops(module.function()) {
        let Some(GpuOp::BulkStore { smem, tile_shape, box_shape, groups, .. }) = GpuOp::of(op) else {
            continue;
        };
        let meeting = if groups > 1 { GpuOp::GroupBarrier } else { GpuOp::Barrier };
        let Some(block) = op.block() else { continue };
        // From the store backwards; arithmetic in between is of no account.
        let steps: Vec<Op<'c>> = ops_of(block).take_while(|o| *o != op).collect();
        let mut before = steps.iter().rev().filter_map(|o| GpuOp::of(*o));
        let mut step = || before.next();
        let own = |layout: LinearLayout| {
            let of_rows = parts_of(&tile_shape, &box_shape) > 1;
            groups == 1 || Share::of_warpgroups(&layout) == Some(Share { groups, of_rows })
        };
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

/// A matrix that is cut into parts side by side, of which each warpgroup holds one, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Share {
    /// Warpgroups, and parts.
    pub groups: usize,
    /// A part has some of the rows, rather than some of the columns.
    pub of_rows: bool,
}

impl Share {
    /// How the warpgroups share a matrix; none where they do otherwise, or where there is one of them.
    pub fn of_warpgroups(layout: &LinearLayout) -> Option<Share> {
        let [rows, cols] = layout.shape[..] else { return None };
        let (of_group, groups) = layout.warp.split_at_checked(wgmma::WARP_BITS)?;
        let within = || layout.register.iter().chain(&layout.lane).chain(of_group);
        let along = |dim: usize, size: usize| {
            let part = size >> groups.len();
            let inside = within().all(|basis| (basis[dim] as usize) < part);
            let in_order = groups
                .iter()
                .enumerate()
                .all(|(i, basis)| (0..2).all(|d| basis[d] as usize == if d == dim { part << i } else { 0 }));
            part > 0 && inside && in_order
        };
        let of_rows = along(0, rows);
        let is_shared = !groups.is_empty() && (of_rows || along(1, cols));
        is_shared.then_some(Share { groups: 1 << groups.len(), of_rows })
    }
}

/// Whether an operation is in a loop.
fn in_loop<'c>(module: &Module<'c>, op: Op<'c>) -> bool {
    let outer = std::iter::successors(op.parent_operation(), |o| o.parent_operation());
    outer.take_while(|o| *o != module.function()).any(is_loop)
}

/// Whether an operation is another or around it.
fn holds<'c>(outer: Op<'c>, op: Op<'c>) -> bool {
    outer == op || nested_ops(outer).contains(&op)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A layout of 128 x 128 elements by 8 warps: `warp` are the bits of their number.
    fn layout(warp: [[u32; 2]; 3]) -> LinearLayout {
        let bases = |bases: &[[u32; 2]]| bases.iter().map(|basis| basis.to_vec()).collect();
        LinearLayout {
            shape: vec![128, 128],
            register: bases(&[[0, 1], [8, 0], [0, 8], [0, 16], [0, 32]]),
            lane: bases(&[[0, 2], [0, 4], [1, 0], [2, 0], [4, 0]]),
            warp: bases(&warp),
        }
    }

    #[test]
    fn warpgroups_share_rows_or_columns() {
        let share = |warp| Share::of_warpgroups(&layout(warp));
        assert_eq!(share([[16, 0], [32, 0], [64, 0]]), Some(Share { groups: 2, of_rows: true }));
        assert_eq!(share([[16, 0], [32, 0], [0, 64]]), Some(Share { groups: 2, of_rows: false }));
        // Rows of both lie among each other.
        assert_eq!(share([[16, 0], [64, 0], [32, 0]]), None);
        // Both hold all.
        assert_eq!(share([[16, 0], [32, 0], [0, 0]]), None);
    }
}
