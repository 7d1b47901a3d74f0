//! Lets the CTAs of a cluster share the copies that are the same in all of them.
//!
//! Input: a gpu-level module whose rings are filled by a warp that copies, one CTA for itself. Output: the same for
//! clusters of `num_ctas` CTAs, neighbours along x, with the attribute `tgpu.num_ctas`: where a block of a ring does
//! not depend on the program's place along x, each CTA copies a part of its rows and sends it to all. A slot of such a
//! ring takes releases of the warps of all CTAs; blocks in it that differ are copied by each CTA as before. Before the
//! roles are known the CTAs meet; behind its last copy the copying thread waits until each slot is released once more,
//! so that no CTA ends while others arrive at its barriers. Invariant: every CTA sends a part of every such block, so
//! that none is further ahead of another than the ring has slots; `gpu::cluster` checks it.
//!
//! A kernel none of whose copies is shared is left as it is: it needs no cluster, unless clusters walk over programs.

use super::copies::written_views;
use super::tensor_maps::part_box;
use super::warp_specialize::next;
use super::{Pass, PassContext, PassError};
use crate::gpu::cluster::{NUM_CTAS, are_same, copying_branch, loops_are_same};
use crate::gpu::dialect::Smem;
use crate::gpu::facts::argument_of;
use crate::gpu::launch::{TensorMap, tensor_map};
use crate::gpu::ops::{GpuBuilder, GpuOp, sizes_attr};
use melior::ir::attribute::BoolAttribute;
use melior::ir::operation::OperationLike;
use tile_ir::types::{
    Blk, Op, Val, args_of, blocks_of, defining_op, name_of, nested_ops, operands_of, ops_of, results_of,
    set_attr, type_of, view_of,
};
use tile_ir::{Builder, Module};

const PASS: Pass = Pass::MulticastCopies;

/// A ring that the CTAs of a cluster fill together.
struct Ring<'c> {
    empty: Val<'c>,
    /// Slot and parity of the wait behind the last copy; of the copy's own, where it is in no loop.
    turn: [Val<'c>; 2],
    is_in_loop: bool,
    /// Each copy that is shared, with the box of a part.
    shared: Vec<(Op<'c>, Vec<usize>)>,
}

/// Runs the pass.
pub(super) fn run<'c>(module: Module<'c>, cx: &mut PassContext) -> Result<Module<'c>, PassError> {
    if cx.num_ctas == 1 {
        cx.remark(PASS, None, "each CTA copies for itself: num_ctas is 1");
        return Ok(module);
    }
    let ops = nested_ops(module.function());
    // A CTA whose check fails ends at once.
    if ops.iter().any(|op| name_of(*op) == "tile.check") {
        cx.remark(PASS, None, "each CTA copies for itself: the kernel has checks");
        return Ok(module);
    }
    let Some(branch) = copying_branch(&module) else {
        cx.remark(PASS, None, "each CTA copies for itself: no warp of its own copies");
        return Ok(module);
    };
    let expects =
        nested_ops(branch).into_iter().filter(|op| matches!(GpuOp::of(*op), Some(GpuOp::Expect { .. })));
    let rings: Vec<Ring> = expects.filter_map(|op| plan(&module, branch, op, cx)).collect();
    if !rings.is_empty() {
        rewrite(&module, branch, &rings, cx.num_ctas);
    }
    Ok(module)
}

/// Which copies of a ring are shared; none where each CTA fills it for itself. `expect` stands in front of the copies.
fn plan<'c>(module: &Module<'c>, branch: Op<'c>, expect: Op<'c>, cx: &mut PassContext) -> Option<Ring<'c>> {
    let Some(GpuOp::Expect { barriers: full, .. }) = GpuOp::of(expect) else { return None };
    let body: Vec<Op<'c>> = ops_of(expect.block()?).collect();
    let before = body.iter().take_while(|op| **op != expect).filter_map(|op| GpuOp::of(*op));
    let (empty, turn) = before
        .filter_map(|op| match op {
            GpuOp::MbarrierWait { barriers, slot, parity } => Some((barriers, [slot, parity])),
            _ => None,
        })
        .last()?;
    let views: Vec<Val> =
        args_of(module.entry()).into_iter().filter(|a| view_of(type_of(*a)).is_some()).collect();
    let block = blocks_of(branch)[0];
    let is_in_loop = expect.block() != Some(block);
    let behind = match is_in_loop {
        true => handed_out(turn[0], block).zip(handed_out(turn[1], block)).map(<[Val; 2]>::from),
        false => Some(turn),
    };
    let written = written_views(module);
    let mut shared = Vec::new();
    for op in body {
        let Some(GpuOp::TmaCopy { view, index, smem, barriers, tile_shape, box_shape, .. }) = GpuOp::of(op)
        else {
            continue;
        };
        if barriers != full {
            continue;
        }
        let part = match Smem::of(type_of(smem)) {
            _ if behind.is_none() => Err("which slot comes next is not known behind the loop"),
            _ if !loops_are_same(op, branch, cx.num_ctas, &written) => {
                Err("how many blocks there are differs along x")
            }
            _ if !are_same(&index, cx.num_ctas, &written) => Err("its blocks differ along x"),
            Some(smem) => part_box(&smem, &tile_shape, &box_shape, cx.num_ctas),
            None => Err("it is no copy to shared memory"),
        };
        let tensor = views.iter().position(|v| *v == view).unwrap_or_default();
        let message = match &part {
            Ok(part) => {
                format!(
                    "argument {tensor} is copied once for {} CTAs, in boxes of {part:?} by each",
                    cx.num_ctas
                )
            }
            Err(why) => format!("argument {tensor} is copied by each CTA for itself: {why}"),
        };
        cx.remark(PASS, None, message);
        shared.extend(part.ok().map(|part| (op, part)));
    }
    if shared.is_empty() { None } else { behind.map(|turn| Ring { empty, turn, is_in_loop, shared }) }
}

/// The value of what a loop carries behind it and the loops around it, in `block`.
fn handed_out<'c>(mut carried: Val<'c>, block: Blk<'c>) -> Option<Val<'c>> {
    loop {
        let (around, number) = match defining_op(carried) {
            Some(_) => return None,
            None => argument_of(carried),
        };
        let around = around.filter(|op| name_of(*op) == "scf.for")?;
        let result = *results_of(around).get(number.checked_sub(1)?)?;
        let outside = around.block()?;
        if outside == block {
            return Some(result);
        }
        let end = ops_of(outside).last()?;
        let position = operands_of(end).iter().position(|value| *value == result)?;
        carried = *args_of(outside).get(position + 1)?;
    }
}

/// Makes the copies of rings those of a cluster.
fn rewrite<'c>(module: &Module<'c>, branch: Op<'c>, rings: &[Ring<'c>], ctas: usize) {
    let (context, function) = (module.context(), module.function());
    let front = Builder::before(context, branch);
    let marked = BoolAttribute::new(context, true).into();
    let end = ops_of(blocks_of(branch)[0]).last().expect("a branch has a terminator");
    let b = Builder::before(context, end);
    for ring in rings {
        for (copy, part) in &ring.shared {
            set_attr(*copy, "cluster", marked);
            set_attr(*copy, "box_shape", sizes_attr(&front, part));
        }
        if let Some(op) = defining_op(ring.empty)
            && let Some(GpuOp::Mbarriers { arrivals, .. }) = GpuOp::of(op)
        {
            set_attr(op, "arrivals", front.int((arrivals * ctas) as i64));
        }
        let releases = nested_ops(function).into_iter().filter(
            |op| matches!(GpuOp::of(*op), Some(GpuOp::MbarrierArrive { barriers, .. }) if barriers == ring.empty),
        );
        releases.for_each(|op| set_attr(op, "cluster", marked));
        let slots = Smem::of(type_of(ring.empty)).map_or(0, |smem| smem.cols());
        let mut turn = if ring.is_in_loop { ring.turn } else { next(&b, ring.turn, slots) };
        for _ in 0..slots {
            b.mbarrier_wait(ring.empty, turn[0], turn[1]);
            turn = next(&b, turn, slots);
        }
    }
    front.enter_cluster();
    set_attr(function, NUM_CTAS, front.int(ctas as i64));
    number_maps(module, branch);
}

/// Numbers the tensor maps anew, since parts of blocks have their own.
fn number_maps<'c>(module: &Module<'c>, branch: Op<'c>) {
    let b = Builder::before(module.context(), branch);
    let views: Vec<Val> =
        args_of(module.entry()).into_iter().filter(|a| view_of(type_of(*a)).is_some()).collect();
    let mut maps: Vec<TensorMap> = Vec::new();
    for op in nested_ops(branch) {
        let Some((_, map)) = tensor_map(&views, op) else { continue };
        let number = maps.iter().position(|known| *known == map).unwrap_or_else(|| {
            maps.push(map);
            maps.len() - 1
        });
        set_attr(op, "map", b.int(number as i64));
    }
}
