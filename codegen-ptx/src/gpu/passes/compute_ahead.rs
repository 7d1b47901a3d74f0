//! The form of `overlap-products` for a product whose lhs is computed in registers, such as widened weights.
//!
//! An iteration of the new loop does the product of one old iteration, and computes what the next one multiplies:
//!
//! ```text
//! start the product
//! wait for the next operands, compute with them
//! wait for the product, release its operands
//! do the last step of the next lhs
//! ```
//!
//! The assembler moves some of what is computed behind the wait for the product, to where it is used; holding all of it
//! in front, by another wait for operands, which is a loop, made products of 256 rows 1 to 2 % slower on an H200. The
//! last step stands behind the wait, so that it can write to the registers that the product reads until it is done;
//! where something is written that a product will read while another runs, the assembler has each instruction of
//! products wait. At the end of an iteration no product is in flight.

use super::rewrite::{Renamed, address_of, clone_op, is_pure_branch};
use super::start_ahead::{has_unit_step, replace_if_any};
use super::two_in_flight::{enter, handed_values, is_elementwise, uses};
use crate::gpu::dialect::Smem;
use crate::gpu::ops::{GpuBuilder, GpuOp, MmaOperand};
use melior::ir::operation::OperationLike;
use std::convert::Infallible;
use tile_ir::types::{Op, Val, args_of, blocks_of, defining_op, operands_of, ops_of, results_of, type_of};
use tile_ir::{Builder, Module};

/// A body in two parts.
pub(super) struct Parts<'c> {
    /// What computes the lhs but for its last step, and waits for operands, in order.
    first: Vec<Op<'c>>,
    /// The last step of the lhs.
    last_step: Op<'c>,
    product: Op<'c>,
    /// The wait for the product.
    wait: Op<'c>,
    /// The releases behind it.
    releases: Vec<Op<'c>>,
    /// Number of the sum among what the loop carries.
    number: usize,
    /// What the product and the releases use of the rest.
    handed: Vec<Val<'c>>,
}

/// Cuts the body of a loop that adds up a `product` with an lhs in registers, waited for by `wait`; or says why that
/// cannot be.
pub(super) fn cut<'c>(
    op: Op<'c>,
    [product, wait]: [Op<'c>; 2],
    number: usize,
) -> Result<Parts<'c>, &'static str> {
    let block = blocks_of(op)[0];
    let body: Vec<Op<'c>> = ops_of(block).collect();
    if !has_unit_step(op) {
        return Err("the product is waited for: the loop's step is not 1");
    }
    let Some(GpuOp::Wgmma {
        lhs: MmaOperand::Registers(lhs),
        rhs: MmaOperand::Shared { smem, slot, .. },
        ..
    }) = GpuOp::of(product)
    else {
        return Err("the product is waited for: its lhs is not in registers");
    };
    let only_for_product = |o: &Op<'c>| {
        let uses = |user: &&Op<'c>| uses(**user).iter().any(|v| results_of(*o).contains(v));
        body.iter().filter(uses).all(|user| *user == product)
    };
    let last_step = defining_op(lhs).filter(|o| o.block() == Some(block) && is_elementwise(*o));
    let last_step = last_step
        .filter(only_for_product)
        .ok_or("the product is waited for: its lhs is not computed for it alone, or not in the loop")?;
    // The next slot is waited for before this one is released.
    let in_ring = Smem::of(type_of(smem)).is_some_and(|s| s.slots > 1) && args_of(block).contains(&slot);
    let position = |op: Op<'c>| body.iter().position(|o| *o == op).unwrap_or(body.len());
    let released = |o: &&Op<'c>| matches!(GpuOp::of(**o), Some(GpuOp::MbarrierArrive { .. }));
    let releases: Vec<Op<'c>> = body[position(wait)..].iter().filter(released).copied().collect();
    let is_barrier = |o: &Op<'c>| matches!(GpuOp::of(*o), Some(GpuOp::Barrier));
    if !in_ring || releases.is_empty() || body.iter().any(is_barrier) {
        return Err("the product is waited for: its operands are not in rings of mbarriers");
    }
    if body.iter().any(|o| o.region_count() > 0 && !is_pure_branch(*o)) {
        return Err("the product is waited for: the loop has branches");
    }
    let (_, rest) = body.split_last().ok_or("the loop is empty")?;
    let second = |o: &Op<'c>| [last_step, product, wait].contains(o) || releases.contains(o);
    let first = rest.iter().copied().filter(|o| !second(o)).collect();
    let sum = args_of(block)[number + 1];
    let ends: Vec<Op<'c>> = [product].into_iter().chain(releases.iter().copied()).collect();
    let handed = handed_values(block, &ends, sum);
    Ok(Parts { first, last_step, product, wait, releases, number, handed })
}

/// Replaces a loop by one that computes ahead, with the first lhs in front and the last product behind.
pub(super) fn rotate<'c>(module: &Module<'c>, op: Op<'c>, parts: &Parts<'c>) {
    let block = blocks_of(op)[0];
    replace_if_any(module, op, |b, [low, high, step], initial| {
        let mut renamed = enter(block, low, initial);
        parts.first.iter().chain([&parts.last_step]).for_each(|op| clone_op(b, *op, &mut renamed));
        let carried = leave(op, parts, &renamed, initial[parts.number]);
        let following = b.same("arith.addi", &[low, step]);
        let Ok(looped) = b.for_loop([following, high, step], &carried, |b, variable, carried| {
            let (values, handed) = carried.split_at(initial.len());
            let mut before = enter_second(op, parts, values[parts.number], handed);
            clone_op(b, parts.product, &mut before);
            let mut renamed = enter(block, variable, values);
            parts.first.iter().for_each(|op| clone_op(b, *op, &mut renamed));
            let sum = finish(b, parts, &mut before);
            clone_op(b, parts.last_step, &mut renamed);
            Ok::<_, Infallible>(leave(op, parts, &renamed, sum))
        });
        let (values, handed) = looped.split_at(initial.len());
        let mut before = enter_second(op, parts, values[parts.number], handed);
        clone_op(b, parts.product, &mut before);
        let mut values = values.to_vec();
        values[parts.number] = finish(b, parts, &mut before);
        values
    });
}

/// The names of an old iteration's values where its product starts.
fn enter_second<'c>(op: Op<'c>, parts: &Parts<'c>, sum: Val<'c>, handed: &[Val<'c>]) -> Renamed<'c> {
    let old = args_of(blocks_of(op)[0])[parts.number + 1];
    let handed = parts.handed.iter().zip(handed).map(|(old, new)| (address_of(*old), *new));
    handed.chain([(address_of(old), sum)]).collect()
}

/// What the new loop carries: what the old one does, with the sum as it is, then what is handed to the product.
fn leave<'c>(op: Op<'c>, parts: &Parts<'c>, renamed: &Renamed<'c>, sum: Val<'c>) -> Vec<Val<'c>> {
    let rename = |value: Val<'c>| renamed.get(&address_of(value)).copied().unwrap_or(value);
    let end = ops_of(blocks_of(op)[0]).last().expect("a loop's body has a terminator");
    let mut values: Vec<Val<'c>> = operands_of(end).into_iter().map(rename).collect();
    values[parts.number] = sum;
    values.extend(parts.handed.iter().map(|v| rename(*v)));
    values
}

/// Waits for the product and releases its operands; returns the sum.
fn finish<'c>(b: &Builder<'c>, parts: &Parts<'c>, renamed: &mut Renamed<'c>) -> Val<'c> {
    let started = renamed[&address_of(results_of(parts.product)[0])];
    let mut at = *b;
    at.set_location(parts.wait.location());
    let sum = at.wgmma_wait(&[started], 0)[0];
    parts.releases.iter().for_each(|op| clone_op(b, *op, renamed));
    sum
}
