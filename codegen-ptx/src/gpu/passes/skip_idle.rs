//! Lets warpgroups none of whose rows lie inside of the tensors that a loop's results go to skip the loop's products.
//!
//! Input: a gpu-level module whose loops take their operands from rings that a warp of their own fills. Output: the
//! same, where a loop of products stands in a branch on whether the warpgroup has rows (`tgpu.has_rows`). Where the
//! tensors' extent is no multiple of the block's, the last warpgroups of the last block have none: they run a loop of
//! as many iterations that waits for the same slots and releases them, and their results are what the loop starts with.
//! Invariant: waits and arrivals are those of the loop, in the same order and phases, so that slots come and go as
//! before; whatever stands behind the loop is run by all, and no row that is stored depends on a row of such a
//! warpgroup.
//!
//! The branch is around the whole loop, since products in flight must not be branched around. Later passes change the
//! loop in it as any other.

use super::copies::{is_scalar_arithmetic, written_views};
use super::rewrite::{Renamed, address_of, clone_op, is_pure_branch};
use super::{Pass, PassContext, PassError};
use crate::gpu::apart::is_apart;
use crate::gpu::dialect::layout_of;
use crate::gpu::facts::{TensorFacts, argument_of};
use crate::gpu::ops::{GpuBuilder, GpuOp};
use crate::layout::{LinearLayout, wgmma};
use melior::ir::operation::OperationLike;
use std::convert::Infallible;
use tile_ir::context::Place;
use tile_ir::types::{
    Blk, Op, Val, args_of, blocks_of, defining_op, erase, is_tile, is_unused, name_of, nested_ops,
    operands_of, ops_of, replace_uses, results_of, shape_of, type_of, view_of,
};
use tile_ir::{Builder, Module};

const PASS: Pass = Pass::SkipIdle;

/// Runs the pass.
pub(super) fn run<'c>(module: Module<'c>, cx: &mut PassContext) -> Result<Module<'c>, PassError> {
    let is_product = |op: Op<'c>| matches!(GpuOp::of(op), Some(GpuOp::Wgmma { .. }));
    let loops = nested_ops(module.function()).into_iter().filter(|op| name_of(*op) == "scf.for");
    let loops: Vec<Op<'c>> = loops.filter(|op| ops_of(blocks_of(*op)[0]).any(is_product)).collect();
    for op in loops {
        let message = match plan(&module, op, cx) {
            Ok(plan) => {
                rewrite(&module, op, &plan);
                "a warpgroup without rows only waits for the slots and releases them".to_owned()
            }
            Err(why) => format!("all warpgroups multiply: {why}"),
        };
        cx.remark(PASS, Place::of(op.location()), message);
    }
    Ok(module)
}

/// A tensor that rows of a tile are stored to.
#[derive(Clone, Copy, PartialEq)]
struct Stored<'c> {
    view: Val<'c>,
    /// The tensor's dimension that the rows go along.
    dim: usize,
    /// The block's place along it.
    index: Val<'c>,
}

/// Where a loop's result goes.
struct Traced<'c> {
    stored: Vec<Stored<'c>>,
    /// Rows of a block.
    rows: usize,
    /// Rows by which each bit of the warpgroup's number moves.
    steps: Vec<usize>,
}

/// What a loop's branch is made of.
struct Plan<'c> {
    results: Traced<'c>,
    /// What the loop that only waits takes of the body, in order.
    kept: Vec<Op<'c>>,
}

/// Plans the branch around a loop, or says why there is none.
fn plan<'c>(module: &Module<'c>, op: Op<'c>, cx: &PassContext) -> Result<Plan<'c>, String> {
    if cx.num_warps < 2 * wgmma::WARPS {
        return Err("each has rows, where there is one alone".to_owned());
    }
    if cx.switches.ping_pong {
        return Err("they may take turns".to_owned());
    }
    let body = blocks_of(op)[0];
    let written = written_views(module);
    let meets = |o: &Op<'c>| !is_apart(*o, &written) || o.region_count() > 0 && !is_pure_branch(*o);
    if let Some(meets) = ops_of(body).find(meets) {
        return Err(format!("the loop holds {}", name_of(meets)));
    }
    let kept = kept(body, &written)?;
    let mut results: Option<Traced<'c>> = None;
    for result in results_of(op).into_iter().filter(|r| is_tile(type_of(*r)) && !is_unused(*r)) {
        let traced = trace(module, result)?;
        match &mut results {
            None => results = Some(traced),
            Some(all) if (all.rows, &all.steps) == (traced.rows, &traced.steps) => {
                all.stored.extend(traced.stored)
            }
            Some(_) => return Err("its results are spread over warpgroups in different ways".to_owned()),
        }
    }
    let results = results.filter(|all| !all.stored.is_empty()).ok_or("nothing of its results is stored")?;
    let index = results.stored[0].index;
    if results.stored.iter().any(|other| other.index != index) {
        return Err("its results are stored at different places".to_owned());
    }
    if !results.stored.iter().flat_map(|s| [s.view, s.index]).all(|value| is_known_before(value, op)) {
        return Err("where its results are stored is not known in front of it".to_owned());
    }
    let views: Vec<Val> =
        args_of(module.entry()).into_iter().filter(|a| view_of(type_of(*a)).is_some()).collect();
    let is_whole = |stored: &Stored<'c>| {
        let facts = TensorFacts::of_view(&cx.facts, &views, stored.view);
        facts.is_some_and(|facts| facts.dim_divisor[stored.dim].is_multiple_of(results.rows))
    };
    if results.stored.iter().all(is_whole) {
        return Err("blocks divide the tensor".to_owned());
    }
    Ok(Plan { results, kept })
}

/// Waits, arrivals and the scalar arithmetic that these and what the loop carries take, in order.
fn kept<'c>(body: Blk<'c>, written: &[Val<'c>]) -> Result<Vec<Op<'c>>, String> {
    let order: Vec<Op<'c>> = ops_of(body).collect();
    let (end, order) = order.split_last().ok_or("it is empty")?;
    let in_step = |op: &Op<'c>| {
        matches!(GpuOp::of(*op), Some(GpuOp::MbarrierWait { .. } | GpuOp::MbarrierArrive { .. }))
    };
    let mut kept: Vec<Op<'c>> = order.iter().copied().filter(in_step).collect();
    if kept.is_empty() {
        return Err("no warp of its own copies".to_owned());
    }
    let carried = operands_of(*end).into_iter().filter(|v| !is_tile(type_of(*v)));
    let mut pending: Vec<Val<'c>> = kept.iter().flat_map(|op| operands_of(*op)).chain(carried).collect();
    while let Some(value) = pending.pop() {
        let Some(op) = defining_op(value).filter(|op| op.block() == Some(body)) else {
            continue;
        };
        if kept.contains(&op) {
            continue;
        }
        if !is_scalar_arithmetic(op, written) {
            return Err(format!("what it carries depends on {}", name_of(op)));
        }
        kept.push(op);
        pending.extend(operands_of(op));
    }
    kept.sort_by_key(|op| order.iter().position(|o| o == op));
    Ok(kept)
}

/// Follows the rows of a loop's result to where they are stored.
fn trace<'c>(module: &Module<'c>, result: Val<'c>) -> Result<Traced<'c>, String> {
    let layout = layout_of(type_of(result)).ok_or("it carries a tile without a layout")?;
    let steps = steps(&layout).ok_or("all have rows of each block")?;
    let rows = layout.shape[0];
    let all = nested_ops(module.function());
    let (mut seen, mut pending) = (Vec::new(), vec![(result, 0)]);
    let mut stored = Vec::new();
    while let Some((value, dim)) = pending.pop() {
        if seen.contains(&(value, dim)) {
            continue;
        }
        seen.push((value, dim));
        for user in all.iter().filter(|op| op.operands().any(|v| v == value)) {
            if let Some(GpuOp::GlobalStore { view, index, .. }) = GpuOp::of(*user) {
                stored.push(Stored { view, dim, index: index[dim] });
                continue;
            }
            let next = through(*user, (value, dim), rows);
            pending.push(next.ok_or_else(|| format!("rows of its results meet in {}", name_of(*user)))?);
        }
    }
    Ok(Traced { stored, rows, steps })
}

/// By how many rows each bit of the warpgroup's number moves, where none of the other bits reaches as far; none where
/// none of them moves.
fn steps(layout: &LinearLayout) -> Option<Vec<usize>> {
    let (warps, groups) = layout.warp.split_at_checked(wgmma::WARP_BITS).filter(|_| layout.rank() > 0)?;
    let is_alone = |group: usize, step: u32| {
        let others = groups.iter().enumerate().filter(|(other, _)| *other != group).map(|(_, basis)| basis);
        let mut all = layout.register.iter().chain(&layout.lane).chain(warps).chain(others);
        step.is_power_of_two()
            && groups[group][1..].iter().all(|&column| column == 0)
            && all.all(|basis| basis[0] & step == 0)
    };
    let steps: Vec<u32> = groups.iter().map(|basis| basis[0]).collect();
    let fits = steps.iter().enumerate().all(|(group, &step)| step == 0 || is_alone(group, step));
    let moves = steps.iter().any(|step| *step > 0);
    (fits && moves).then(|| steps.into_iter().map(|step| step as usize).collect())
}

/// The result of an operation on a tile and the dimension of its rows, where each row depends on the same row of the
/// tile alone; `rows` are those of the tile.
fn through<'c>(op: Op<'c>, (tile, dim): (Val<'c>, usize), rows: usize) -> Option<(Val<'c>, usize)> {
    let &[result] = &results_of(op)[..] else { return None };
    let (from, to) = (shape_of(type_of(tile))?, shape_of(type_of(result))?);
    let kept = match GpuOp::of(op) {
        Some(GpuOp::ConvertLayout { .. }) => dim,
        Some(GpuOp::Broadcast { .. }) if from.len() == to.len() => dim,
        Some(GpuOp::Reduce { axis, .. }) if axis != dim => dim,
        Some(GpuOp::Transpose { perm, .. }) => perm.iter().position(|d| *d == dim)?,
        Some(GpuOp::Reshape { .. }) => {
            let inner = |shape: &[usize], dim: usize| shape[dim + 1..].iter().product::<usize>();
            (0..to.len()).find(|d| to[*d] == rows && inner(&to, *d) == inner(&from, dim))?
        }
        Some(_) => return None,
        None => {
            let name = name_of(op);
            let computes = name == "tile.cast" || name.starts_with("arith.") || name.starts_with("math.");
            (computes && op.region_count() == 0 && from == to).then_some(dim)?
        }
    };
    (to.get(kept) == Some(&rows)).then_some((result, kept))
}

/// Whether a value is there in front of an operation.
fn is_known_before<'c>(value: Val<'c>, op: Op<'c>) -> bool {
    let mut around = std::iter::successors(Some(op), |op| op.parent_operation());
    let Some(definition) = defining_op(value) else {
        let (parent, _) = argument_of(value);
        return parent.is_some_and(|parent| {
            matches!(name_of(parent).as_str(), "func.func" | "scf.for") && around.any(|op| op == parent)
        });
    };
    let beside = around.find(|op| op.block() == definition.block());
    let block = beside.and_then(|beside| Some((beside, beside.block()?)));
    block.is_some_and(|(beside, block)| ops_of(block).take_while(|o| *o != beside).any(|o| o == definition))
}

/// Puts a loop in a branch, beside one that only waits and arrives.
fn rewrite<'c>(module: &Module<'c>, op: Op<'c>, plan: &Plan<'c>) {
    let mut b = Builder::before(module.context(), op);
    b.set_location(op.location());
    let Traced { stored, rows, steps } = &plan.results;
    let mut tensors: Vec<(Val<'c>, usize)> = Vec::new();
    for Stored { view, dim, .. } in stored {
        if !tensors.contains(&(*view, *dim)) {
            tensors.push((*view, *dim));
        }
    }
    let extents = tensors.into_iter().map(|(view, dim)| b.dim(view, dim));
    let extent = extents.reduce(|a, c| b.same("arith.maxui", &[a, c])).expect("something is stored");
    let first = b.same("arith.muli", &[stored[0].index, b.index(*rows as i64)]);
    let has = b.has_rows(first, extent, steps);
    let results = results_of(op);
    let types: Vec<_> = results.iter().map(|r| type_of(*r)).collect();
    let multiply = |b: &mut Builder<'c>| {
        let mut renamed = Renamed::new();
        clone_op(b, op, &mut renamed);
        Ok::<_, Infallible>(results.iter().map(|r| renamed[&address_of(*r)]).collect())
    };
    let Ok(made) = b.if_else(has, &types, multiply, |b| Ok(drain(b, op, &plan.kept)));
    results.iter().zip(made).for_each(|(old, new)| replace_uses(*old, new));
    erase(op);
}

/// A loop of as many iterations that keeps its turns; returns what it ends with, and tiles as they were at first.
fn drain<'c>(b: &Builder<'c>, op: Op<'c>, kept: &[Op<'c>]) -> Vec<Val<'c>> {
    let (body, operands) = (blocks_of(op)[0], operands_of(op));
    let (bounds, initial) = operands.split_at(3);
    let scalars: Vec<usize> = (0..initial.len()).filter(|i| !is_tile(type_of(initial[*i]))).collect();
    let carried: Vec<Val> = scalars.iter().map(|i| initial[*i]).collect();
    let Ok(drained) = b.for_loop([bounds[0], bounds[1], bounds[2]], &carried, |b, variable, carried| {
        let arguments = args_of(body);
        let mut renamed = Renamed::from([(address_of(arguments[0]), variable)]);
        scalars.iter().zip(carried).for_each(|(i, value)| {
            renamed.insert(address_of(arguments[i + 1]), *value);
        });
        kept.iter().for_each(|op| clone_op(b, *op, &mut renamed));
        let end = ops_of(body).last().expect("a loop's body has a terminator");
        let yielded = operands_of(end);
        let now = |i: &usize| renamed.get(&address_of(yielded[*i])).copied().unwrap_or(yielded[*i]);
        Ok::<_, Infallible>(scalars.iter().map(now).collect())
    });
    let mut results = initial.to_vec();
    scalars.iter().zip(drained).for_each(|(i, value)| results[*i] = value);
    results
}
