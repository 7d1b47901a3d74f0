//! Exchanges the maxima of rows between lanes only where one of them has grown.
//!
//! Input: a gpu-level module. Output: the same, where a loop that keeps a value a row unless the row's maximum has grown
//! too far beyond it (`select(max(old, reduced) - old <= limit, old, ..)`, as the online softmax of FlashAttention-4)
//! first asks each lane about the elements that it holds itself. Only where one of a warp's lanes finds that its own have
//! grown too far are the maxima exchanged. What is computed of the value row by row is computed before, for the case that
//! it is kept, so that the elements wait for nothing but the vote. Invariant: every value keeps its bits: the row's
//! maximum is the one of a lane, so that what holds for every lane's holds for it.

use super::rewrite::{Renamed, address_of, clone_op, like};
use super::{Pass, PassContext};
use crate::gpu::dialect::layout_of;
use crate::gpu::ops::{GpuBuilder, GpuOp};
use crate::layout::LinearLayout;
use melior::ir::operation::OperationLike;
use melior::ir::{Type, ValueLike};
use std::convert::Infallible;
use tile_ir::context::Place;
use tile_ir::ops::ReduceKind;
use tile_ir::types::{
    Op, Val, args_of, defining_op, dtype_of, erase, int_attr, name_of, nested_ops, operands_of, ops_of,
    replace_uses, results_of, type_of,
};
use tile_ir::{Builder, Module};
use tile_lang::DType;

/// `ole` among the predicates of `arith.cmpf`.
const ORDERED_LESS_OR_EQUAL: i64 = 5;

/// A value that a loop keeps unless a maximum has grown.
struct Kept<'c> {
    /// What is reduced, and along which dimension.
    tile: Val<'c>,
    axis: usize,
    /// What the loop carries.
    old: Val<'c>,
    /// The reduction, what scales it if anything does, the greater of it and the old value, their difference, its
    /// comparison and the choice, in order.
    chain: Vec<Op<'c>>,
    /// What each lane reduces its own elements to.
    layout: LinearLayout,
}

/// Runs the pass.
pub(super) fn run<'c>(module: Module<'c>, cx: &mut PassContext) -> Module<'c> {
    // What is moved into the branch of one is looked at no more.
    let next = || nested_ops(module.function()).into_iter().find_map(|op| Some((op, kept(op)?)));
    while let Some((op, kept)) = next() {
        vote(&module, op, &kept);
        let message = "lanes exchange the maxima of their rows only where one has grown";
        cx.remark(Pass::SkipMaxima, Place::of(op.location()), message);
        kept.chain.into_iter().rev().for_each(erase);
    }
    module
}

/// Reads a choice as that of a value that is kept.
fn kept<'c>(choice: Op<'c>) -> Option<Kept<'c>> {
    let of = |value: Val<'c>, name: &str| defining_op(value).filter(|op| name_of(*op) == name);
    if name_of(choice) != "arith.select" {
        return None;
    }
    let [condition, old, new] = operands_of(choice)[..] else { return None };
    let body = choice.block()?;
    let is_carried = old.is_block_argument() && args_of(body).iter().skip(1).any(|arg| *arg == old);
    let around = choice.parent_operation().filter(|op| name_of(*op) == "scf.for");
    if !is_carried || around.is_none() || dtype_of(type_of(old)) != Some(DType::F32) {
        return None;
    }
    let compare = of(condition, "arith.cmpf")?;
    let [grown, limit] = operands_of(compare)[..] else { return None };
    let difference = of(grown, "arith.subf").filter(|op| operands_of(*op) == [new, old])?;
    let greater = of(new, "arith.maximumf")?;
    let [a, b] = operands_of(greater)[..] else { return None };
    let of_block = if a == old { b } else { (b == old).then_some(a)? };
    let scaled = of(of_block, "arith.mulf");
    let reduced = match scaled {
        Some(scaled) => operands_of(scaled)[0],
        None => of_block,
    };
    let reduce = defining_op(reduced)?;
    let Some(GpuOp::Reduce { tile, axis, kind: ReduceKind::Max, .. }) = GpuOp::of(reduce) else {
        return None;
    };
    let whole = layout_of(type_of(tile))?;
    let shares = |bases: &[Vec<u32>]| bases.iter().any(|basis| basis[axis] != 0);
    let layout = whole.slice_within_threads(axis)?;
    let chain: Vec<Op> =
        [reduce].into_iter().chain(scaled).chain([greater, difference, compare, choice]).collect();
    // What else uses them would have to be moved, too.
    let users = |value: Val<'c>| {
        ops_of(body)
            .flat_map(|op| [vec![op], nested_ops(op)].concat())
            .filter(move |op| op.operands().any(|v| v == value))
            .count()
    };
    let inner = &chain[..chain.len() - 1];
    let are_alone = inner.iter().all(|op| users(results_of(*op)[0]) == if *op == greater { 2 } else { 1 });
    let is_limited = int_attr(compare, "predicate") == Some(ORDERED_LESS_OR_EQUAL)
        && of(limit, "arith.constant").is_some();
    let fits = chain.iter().all(|op| op.block() == Some(body)) && shares(&whole.lane) && !shares(&whole.warp);
    (is_limited && fits && are_alone).then_some(Kept { tile, axis, old, chain, layout })
}

/// The operations behind `choice` that compute one value a row of nothing but what it gives and of what is known before.
fn row_by_row<'c>(choice: Op<'c>) -> Vec<Op<'c>> {
    let Some(body) = choice.block() else { return Vec::new() };
    let chosen = results_of(choice)[0];
    let rows = layout_of(type_of(chosen));
    let order: Vec<Op> = ops_of(body).collect();
    let from = order.iter().position(|op| *op == choice).map_or(order.len(), |at| at + 1);
    let (mut found, mut known): (Vec<Op>, Vec<Val>) = (Vec::new(), vec![chosen]);
    for op in &order[from..] {
        let name = name_of(*op);
        let is_elementwise =
            (name.starts_with("arith.") || name.starts_with("math.")) && op.region_count() == 0;
        let is_row = results_of(*op).iter().all(|r| layout_of(type_of(*r)) == rows) && op.result_count() == 1;
        let operands = operands_of(*op);
        let is_ready = |value: &Val<'c>| {
            known.contains(value) || !defining_op(*value).is_some_and(|by| order[from..].contains(&by))
        };
        if is_elementwise
            && is_row
            && operands.iter().any(|v| known.contains(v))
            && operands.iter().all(is_ready)
        {
            known.push(results_of(*op)[0]);
            found.push(*op);
        }
    }
    found
}

/// Puts the exchange, and what follows from it row by row, into a branch.
fn vote<'c>(module: &Module<'c>, choice: Op<'c>, kept: &Kept<'c>) {
    let rows = row_by_row(choice);
    let chosen = results_of(choice)[0];
    let results: Vec<Val> = [chosen].into_iter().chain(rows.iter().map(|op| results_of(*op)[0])).collect();
    let types: Vec<Type> = results.iter().map(|r| type_of(*r)).collect();
    let mut b = Builder::before(module.context(), choice);
    b.set_location(choice.location());

    let mut if_kept: Renamed = [(address_of(chosen), kept.old)].into();
    rows.iter().for_each(|op| clone_op(&b, *op, &mut if_kept));

    let own = b.reduce_registers(kept.tile, kept.axis, ReduceKind::Max);
    let mut of_lane: Renamed = [(address_of(results_of(kept.chain[0])[0]), own)].into();
    for op in &kept.chain[1..kept.chain.len() - 1] {
        let operand = |value: &Val<'c>| match of_lane.get(&address_of(*value)) {
            Some(own) => *own,
            None => b.broadcast_tile(*value, &kept.layout),
        };
        let operands: Vec<Val> = operands_of(*op).iter().map(operand).collect();
        let result = results_of(*op)[0];
        let dtype = dtype_of(type_of(result)).expect("a tile has a dtype");
        let copy = like(&b, *op, &operands, &[b.distributed(dtype, &kept.layout)], Vec::new());
        of_lane.insert(address_of(result), results_of(copy)[0]);
    }
    let holds = operands_of(choice)[0];
    let quiet = b.all_ones(of_lane[&address_of(holds)]);
    let Ok(joined) = b.if_else(
        quiet,
        &types,
        |_| Ok::<_, Infallible>(results.iter().map(|r| if_kept[&address_of(*r)]).collect()),
        |b| {
            let mut exchanged = Renamed::new();
            kept.chain.iter().chain(&rows).for_each(|op| clone_op(b, *op, &mut exchanged));
            Ok(results.iter().map(|r| exchanged[&address_of(*r)]).collect())
        },
    );
    results.iter().zip(joined).for_each(|(result, joined)| replace_uses(*result, joined));
    rows.into_iter().rev().for_each(erase);
}
