//! The form of `overlap-products` for a product whose lhs is computed in registers, such as widened weights.
//!
//! The product is taken in two halves of K, and the lhs of each is computed while the other runs:
//!
//! ```text
//! wait for the operands, compute with them
//! do the last step of the first half's lhs, start the first half
//! wait for the second half of the iteration before, release its operands
//! do the last step of the second half's lhs, start the second half
//! wait for the first half
//! ```
//!
//! A half is always in flight, so that tensor cores need not wait for whatever is computed. The last step of each half
//! writes to registers that a product of the iteration before has read, and stands behind the wait for it; where
//! something is written that a product in flight may read, the assembler has each instruction of products wait. Loads
//! from global memory that the loop takes are made an iteration ahead.

use super::copies::{address, written_views};
use super::rewrite::{Renamed, address_of, carry_more, clone_op, computes, is_inside, is_pure_branch, like};
use super::two_in_flight::uses;
use crate::gpu::dialect::{Smem, layout_of};
use crate::gpu::ops::{GpuBuilder, GpuOp, MmaOperand};
use crate::layout::mma;
use melior::ir::BlockLike;
use melior::ir::operation::OperationLike;
use tile_ir::types::{
    Op, Val, args_of, blocks_of, defining_op, dtype_of, erase, is_tile, move_before, name_of, operands_of,
    ops_of, replace_uses, results_of, root_view, shape_of, type_of,
};
use tile_ir::{Builder, Module};

/// A product that can be taken in halves.
pub(super) struct Halves<'c> {
    product: Op<'c>,
    /// The last step of its lhs.
    last_step: Op<'c>,
    /// Columns of a half's lhs.
    count: usize,
    rhs: MmaOperand<'c>,
    acc: Val<'c>,
    groups: [usize; 2],
}

/// Reads a `product` of a loop, or says why it is taken whole.
pub(super) fn halves<'c>(op: Op<'c>, product: Op<'c>) -> Result<Halves<'c>, &'static str> {
    let block = blocks_of(op)[0];
    let body: Vec<Op<'c>> = ops_of(block).collect();
    let Some(GpuOp::Wgmma { lhs: MmaOperand::Registers(lhs), rhs, acc, groups, .. }) = GpuOp::of(product)
    else {
        return Err("the product is waited for: its lhs is not in registers");
    };
    let MmaOperand::Shared { smem, slot, .. } = rhs else { return Err("the rhs is not in shared memory") };
    let only_for_product = |o: &Op<'c>| {
        let uses = |user: &&Op<'c>| uses(**user).iter().any(|v| results_of(*o).contains(v));
        body.iter().filter(uses).all(|user| *user == product)
    };
    let is_step = |o: &Op<'c>| computes(*o) && !name_of(*o).starts_with("tgpu.");
    let last_step = defining_op(lhs)
        .filter(|o| o.block() == Some(block) && o.operand_count() > 0 && is_step(o) && only_for_product(o))
        .ok_or("the product is waited for: its lhs is not computed for it alone, or not in the loop")?;
    // The next slot is waited for before this one is released.
    let in_ring = Smem::of(type_of(smem)).is_some_and(|s| s.slots > 1) && args_of(block).contains(&slot);
    if !in_ring {
        return Err("the product is waited for: its operands are not in rings of mbarriers");
    }
    if body.iter().any(|o| o.region_count() > 0 && !is_pure_branch(*o)) {
        return Err("the product is waited for: the loop has branches");
    }
    let depth = dtype_of(type_of(lhs)).and_then(mma::depth);
    let shape = shape_of(type_of(lhs)).unwrap_or_default();
    let count = shape.last().map_or(0, |k| k / 2);
    let can_be_cut = |value: &Val<'c>| {
        let layout = layout_of(type_of(*value)).filter(|layout| layout.shape == shape);
        !is_tile(type_of(*value)) || layout.is_some_and(|layout| layout.first_columns(count).is_some())
    };
    let is_whole = depth.is_none_or(|depth| count < depth) || !can_be_cut(&lhs);
    if is_whole || !operands_of(last_step).iter().all(can_be_cut) {
        return Err("the product is waited for: it has one step along K");
    }
    Ok(Halves { product, last_step, count, rhs, acc, groups })
}

/// Replaces a product by its halves, with a wait between them for what was in flight before. Returns the second half
/// and that wait.
pub(super) fn take<'c>(module: &Module<'c>, halves: &Halves<'c>) -> [Op<'c>; 2] {
    let &Halves { product, last_step, count, rhs, acc, groups } = halves;
    let mut b = Builder::before(module.context(), product);
    b.set_location(product.location());
    let part = |value: Val<'c>, first| match is_tile(type_of(value)) {
        true => b.columns(value, first, count),
        false => value,
    };
    let half = |first: usize, acc| {
        let operands: Vec<Val> = operands_of(last_step).into_iter().map(|value| part(value, first)).collect();
        let ty = b.columns_type(results_of(last_step)[0], count).expect("its layout was looked at");
        let lhs = results_of(like(&b, last_step, &operands, &[ty], Vec::new()))[0];
        b.wgmma_of_rows(MmaOperand::Registers(lhs), (rhs, first), acc, groups)
    };
    let first = half(0, acc);
    b.wgmma_wait(&[], 1);
    let second = half(count, first);
    replace_uses(results_of(product)[0], second);
    erase(product);
    erase(last_step);
    let started = |value| defining_op(value).expect("a product's result");
    [started(second), started(first).next_in_block().expect("the wait stands behind the first half")]
}

/// Makes the loads of a loop that come from global memory into registers an iteration ahead: those for the first
/// iteration in front of the loop, and in each iteration those for the next, which for the last are thrown away; a
/// load outside of its tensor reads nothing. What is computed from those of an iteration alone comes first, then those
/// for the next: they can so have the same registers, and the whole iteration to come. Returns the loop that takes the
/// loop's place.
pub(super) fn load_ahead<'c>(module: &Module<'c>, op: Op<'c>) -> Op<'c> {
    let body = blocks_of(op)[0];
    let (variable, [low, _, step]) = (args_of(body)[0], [0, 1, 2].map(|n| operands_of(op)[n]));
    let written = written_views(module);
    let loads: Vec<_> = ops_of(body)
        .filter_map(|load| match GpuOp::of(load)? {
            GpuOp::GlobalLoad { view, .. } if !written.contains(&root_view(view)) => {
                Some((load, address(load, body, |op| name_of(op).starts_with("arith."))?))
            }
            _ => None,
        })
        .collect();
    let (before, mut initial, mut ahead) = (Builder::before(module.context(), op), Vec::new(), Vec::new());
    let first = ops_of(body).next().expect("a loop's body has a terminator");
    let mut known: Vec<Val> = Vec::new();
    for (load, address) in &loads {
        let loaded = results_of(*load)[0];
        let made = |b: &Builder<'c>, at: Val<'c>| {
            let mut renamed = Renamed::from([(address_of(variable), at)]);
            address.iter().chain([load]).for_each(|op| clone_op(b, *op, &mut renamed));
            renamed[&address_of(loaded)]
        };
        initial.push(made(&before, low));
        let b = Builder::before(module.context(), first);
        ahead.push(made(&b, b.same("arith.addi", &[variable, step])));
        let carried: Val = body.add_argument(type_of(loaded), load.location());
        replace_uses(loaded, carried);
        known.push(carried);
    }
    let Some(in_front) = ops_of(body).next().filter(|_| !initial.is_empty()) else { return op };
    for op in ops_of(body).skip_while(|op| *op != first).collect::<Vec<_>>() {
        if computes(op) && operands_of(op).iter().all(|v| known.contains(v) || !is_inside(body, *v)) {
            known.extend(results_of(op));
            move_before(op, in_front);
        }
    }
    // Not before: one of them may be the body's first operation.
    loads.into_iter().for_each(|(load, _)| erase(load));
    let end = ops_of(body).last().expect("a loop's body has a terminator");
    let yielded: Vec<Val> = operands_of(end).into_iter().chain(ahead).collect();
    Builder::before(module.context(), end).op("scf.yield", &yielded, &[], &[]);
    erase(end);
    let carried = carry_more(&before, op, &operands_of(op), &initial);
    defining_op(carried[0]).expect("the loop")
}
