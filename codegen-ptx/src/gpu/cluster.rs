//! Checks what the CTAs of a cluster do to each other's shared memory.
//!
//! CTAs of a cluster are neighbours along x. Where each of them copies a part of a block to all, a slot is full when
//! every part has come, and may be filled again when the warps of all CTAs have released it. So the CTAs make the same
//! copies in the same order: neither a block's place nor the number of iterations may depend on the program's place
//! along x, the only thing in which they differ. Before the first copy all have set up their barriers: they meet. After
//! its last one, the copying thread waits until each slot is released once more; then nothing is on its way to its
//! CTA's memory any more, and nothing that it sent to others, so that the CTA may end.

use super::facts::argument_of;
use super::ops::GpuOp;
use super::passes::{is_scalar_arithmetic, written_views};
use super::protocol::ProtocolError;
use melior::ir::ValueLike;
use melior::ir::operation::OperationLike;
use std::collections::HashSet;
use tile_ir::passes::int_constant;
use tile_ir::types::{Op, Val, defining_op, int_attr, name_of, nested_ops, operands_of, ops_of};
use tile_ir::{Module, TileOp};

/// Attribute of a function whose CTAs are launched in clusters along x: how many a cluster has.
pub(crate) const NUM_CTAS: &str = "tgpu.num_ctas";

/// The CTAs of a function's cluster; 1 where it has none.
pub(crate) fn ctas_of(function: Op) -> usize {
    int_attr(function, NUM_CTAS).and_then(|n| usize::try_from(n).ok()).map_or(1, |n| n.max(1))
}

/// The dimension of a block along which its rows are cut into parts: the outermost that has more than one.
pub(crate) fn cut_dim(tile_shape: &[usize]) -> Option<usize> {
    let (_, outer) = tile_shape.split_last()?;
    outer.iter().position(|&size| size > 1)
}

/// The shape of one of as many parts as there are CTAs.
pub(super) fn part_of(tile_shape: &[usize], ctas: usize) -> Option<Vec<usize>> {
    let dim = cut_dim(tile_shape)?;
    let mut part = tile_shape.to_vec();
    part[dim] /= ctas;
    tile_shape[dim].is_multiple_of(ctas).then_some(part)
}

/// The parts that the rows of a tile are cut into when its boxes have fewer of them.
pub(crate) fn parts_of(tile_shape: &[usize], box_shape: &[usize]) -> usize {
    cut_dim(tile_shape).map_or(1, |dim| tile_shape[dim] / box_shape[dim].max(1)).max(1)
}

/// Whether scalars are the same in all CTAs of a cluster: nothing that they are computed by depends on the program's
/// place along x but for the cluster that it is in, and the tensors that single elements are read from are not
/// `written`.
pub(super) fn are_same<'c>(values: &[Val<'c>], ctas: usize, written: &[Val<'c>]) -> bool {
    let mut pending = values.to_vec();
    let mut seen = HashSet::new();
    while let Some(value) = pending.pop() {
        if !seen.insert(value.to_raw().ptr as usize) {
            continue;
        }
        let Some(op) = defining_op(value) else {
            let (parent, number) = argument_of(value);
            match parent.map(|parent| (parent, name_of(parent))) {
                Some((_, name)) if name == "func.func" => {}
                Some((parent, name)) if name == "scf.for" && number == 0 => {
                    pending.extend(&operands_of(parent)[..3]);
                }
                _ => return false,
            }
            continue;
        };
        if is_of_cluster(op, ctas) {
            continue;
        }
        if is_place_along_x(op) || !is_scalar_arithmetic(op, written) {
            return false;
        }
        pending.extend(op.operands());
    }
    true
}

/// True for the program's place along x.
fn is_place_along_x(op: Op) -> bool {
    matches!(TileOp::of(op), Some(TileOp::ProgramId { axis: 0 }))
}

/// True for the number of the program's cluster, or of several clusters: its place along x by a multiple of the CTAs of
/// one, which start at a multiple.
fn is_of_cluster(op: Op, ctas: usize) -> bool {
    let operands = operands_of(op);
    name_of(op) == "arith.divui"
        && defining_op(operands[0]).is_some_and(is_place_along_x)
        && defining_op(operands[1])
            .and_then(int_constant)
            .is_some_and(|by| by > 0 && by.unsigned_abs().is_multiple_of(ctas as u64))
}

/// Whether the loops around an operation, up to the branch that it is in, have as many iterations in all CTAs of a
/// cluster.
pub(super) fn loops_are_same<'c>(op: Op<'c>, branch: Op<'c>, ctas: usize, written: &[Val<'c>]) -> bool {
    let around = std::iter::successors(op.parent_operation(), |o| o.parent_operation());
    around
        .take_while(|o| *o != branch)
        .all(|o| name_of(o) == "scf.for" && are_same(&operands_of(o)[..3], ctas, written))
}

/// The branch of the warps that copy.
pub(super) fn copying_branch<'c>(module: &Module<'c>) -> Option<Op<'c>> {
    ops_of(module.entry()).find(|op| {
        let condition = operands_of(*op).first().copied().and_then(defining_op).and_then(GpuOp::of);
        matches!(condition, Some(GpuOp::Producer { .. }))
    })
}

/// Adds what is wrong with a module's cluster; the rings' own barriers are checked with the others.
pub(super) fn check<'c>(module: &Module<'c>, found: &mut Vec<(Op<'c>, ProtocolError)>) {
    let all = nested_ops(module.function());
    let of_kind = |wanted: fn(&GpuOp) -> bool| -> Vec<Op<'c>> {
        all.iter().copied().filter(|op| GpuOp::of(*op).is_some_and(|kind| wanted(&kind))).collect()
    };
    let copies = of_kind(|kind| matches!(kind, GpuOp::TmaCopy { cluster: true, .. }));
    let entries = of_kind(|kind| matches!(kind, GpuOp::EnterCluster));
    let arrivals = of_kind(|kind| matches!(kind, GpuOp::MbarrierArrive { cluster: true, .. }));
    let Some(&shown) = copies.iter().chain(&arrivals).chain(&entries).next() else { return };
    let ctas = ctas_of(module.function());
    if !matches!(ctas, 2 | 4 | 8) {
        found.push((shown, ProtocolError::ClusterSize(ctas)));
    }
    let top: Vec<Op<'c>> = ops_of(module.entry()).collect();
    let place = |wanted: Op<'c>| top.iter().position(|op| *op == wanted);
    let branch = copying_branch(module);
    let barriers = of_kind(|kind| matches!(kind, GpuOp::Mbarriers { .. }));
    let meets = |entry: Op<'c>| {
        let at = place(entry)?;
        let is_between = branch.and_then(place).is_some_and(|branch| at < branch)
            && barriers.iter().all(|op| place(*op).is_some_and(|set_up| set_up < at));
        is_between.then_some(())
    };
    if !matches!(entries[..], [entry] if meets(entry).is_some()) {
        found.push((shown, ProtocolError::NotEntered));
    }
    let written = written_views(module);
    for copy in copies {
        let Some(GpuOp::TmaCopy { index, .. }) = GpuOp::of(copy) else { continue };
        let is_same = are_same(&index, ctas, &written)
            && branch.is_some_and(|branch| {
                nested_ops(branch).contains(&copy) && loops_are_same(copy, branch, ctas, &written)
            });
        if !is_same {
            found.push((copy, ProtocolError::Differs));
        }
    }
}

/// How often the copying thread waits for a slot of a ring after its last copy.
pub(super) fn drains<'c>(module: &Module<'c>, empty: Val<'c>) -> usize {
    let waits = |op: &Op<'c>| matches!(GpuOp::of(*op), Some(GpuOp::MbarrierWait { barriers, .. }) if barriers == empty);
    let Some(branch) = copying_branch(module) else { return 0 };
    let block = tile_ir::types::blocks_of(branch)[0];
    // In front of the last loop they would wait for slots that are yet to be filled.
    let behind = ops_of(block).collect::<Vec<_>>();
    behind.iter().rev().take_while(|op| op.region_count() == 0).filter(|op| waits(op)).count()
}
