//! Checks that two warpgroups take turns without one of them waiting forever.
//!
//! Turns are opened once, with the first warpgroup's, and closed once, when it is the first one's again; both stand
//! in the function's own block, around everything that takes turns. In between, each block takes and gives in
//! alternation and ends with a give, so that every path through loops and branches does. Both warpgroups run the
//! same path, since what is branched on is the same in all threads. Who has the turn waits for nothing before giving
//! it. So each wait for the turn meets the other one's give, and none is left over.

use super::ops::GpuOp;
use super::protocol::ProtocolError;
use crate::layout::wgmma;
use melior::ir::operation::OperationLike;
use tile_ir::Module;
use tile_ir::types::{Blk, Op, blocks_of, name_of, nested_ops, ops_of};

/// Warpgroups that take turns.
pub(crate) const WARPGROUPS: usize = 2;

/// True for what waits for nothing: it may run in a turn.
pub(super) fn runs_on(op: Op) -> bool {
    let computes = |name: String| name.starts_with("arith.") || name.starts_with("math.");
    match GpuOp::of(op) {
        Some(
            GpuOp::Wgmma { .. }
            | GpuOp::Splat { .. }
            | GpuOp::Iota
            | GpuOp::Broadcast { .. }
            | GpuOp::Reshape { .. }
            | GpuOp::Transpose { .. }
            | GpuOp::AllOnes { .. },
        ) => true,
        _ if name_of(op) == "scf.if" => {
            nested_ops(op).into_iter().all(|inner| name_of(inner) == "scf.yield" || runs_on(inner))
        }
        _ => op.region_count() == 0 && computes(name_of(op)),
    }
}

/// Adds what is wrong with a module's turns.
pub(super) fn check<'c>(module: &Module<'c>, warps: usize, found: &mut Vec<(Op<'c>, ProtocolError)>) {
    let top: Vec<Op<'c>> = ops_of(module.entry()).collect();
    let uses = |op: Op<'c>| {
        std::iter::once(op)
            .chain(nested_ops(op))
            .find(|o| matches!(GpuOp::of(*o), Some(GpuOp::TakeTurn | GpuOp::GiveTurn)))
    };
    let all = nested_ops(module.function());
    let count = |wanted: GpuOp<'c>| all.iter().filter(|o| GpuOp::of(**o) == Some(wanted.clone())).count();
    let (opened, closed) = (count(GpuOp::OpenTurns), count(GpuOp::CloseTurns));
    let first_use = top.iter().copied().find_map(uses);
    let Some(shown) = first_use.or(all
        .iter()
        .copied()
        .find(|o| matches!(GpuOp::of(*o), Some(GpuOp::OpenTurns | GpuOp::CloseTurns))))
    else {
        return;
    };
    if warps != WARPGROUPS * wgmma::WARPS {
        found.push((shown, ProtocolError::TurnWarps(warps)));
    }
    let place = |wanted: GpuOp<'c>| top.iter().position(|o| GpuOp::of(*o) == Some(wanted.clone()));
    let used: Vec<usize> = (0..top.len()).filter(|i| uses(top[*i]).is_some()).collect();
    let around = place(GpuOp::OpenTurns).zip(place(GpuOp::CloseTurns));
    let fits =
        around.is_some_and(|(open, close)| open < close && used.iter().all(|i| open < *i && *i < close));
    if !fits || (opened, closed) != (1, 1) {
        found.push((shown, ProtocolError::Turns { opened, closed }));
    }
    let inner = all.iter().flat_map(|op| blocks_of(*op));
    for block in std::iter::once(module.entry()).chain(inner) {
        found.extend(check_block(block));
    }
}

/// What is wrong with the turns of one block.
fn check_block<'c>(block: Blk<'c>) -> Vec<(Op<'c>, ProtocolError)> {
    let mut found = Vec::new();
    let mut taken = None;
    for op in ops_of(block) {
        match (GpuOp::of(op), taken) {
            (Some(GpuOp::TakeTurn), None) => taken = Some(op),
            (Some(GpuOp::GiveTurn), Some(_)) => taken = None,
            (Some(GpuOp::TakeTurn | GpuOp::GiveTurn), _) => found.push((op, ProtocolError::TurnOrder)),
            (_, Some(_)) if !runs_on(op) => found.push((op, ProtocolError::TurnWaits(name_of(op)))),
            _ => {}
        }
    }
    found.extend(taken.map(|op| (op, ProtocolError::TurnOrder)));
    found
}
