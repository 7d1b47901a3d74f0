//! The form of `start-ahead` in which both products of a loop are in flight at once.
//!
//! The body is cut into two parts. The second part is what depends on the sum that the loop carries: it changes the
//! sum, adds the second product to it, and releases that product's operands. The first part is all the rest: it
//! takes the first product, computes what the second multiplies, and waits for the second's operands. An iteration of
//! the new loop does the second part of one old iteration and the first part of the next:
//!
//! ```text
//! start the next first product, change the sum, start the second product
//! wait for the first product alone; compute with it while the second runs
//! wait for the operands of the next second product, then for the second product
//! release its operands; narrow what the next one multiplies
//! ```
//!
//! Both products are issued before anything waits for them, so that they run back to back, and what is computed
//! between the waits runs under the second. The wait for operands, which is a loop, keeps the assembler from moving
//! that behind the wait for the product. The narrowing stands behind both, so that it can write to the registers
//! that the second product reads until it is done.

use super::rewrite::{Renamed, address_of, clone_op, is_inside};
use super::start_ahead::{Ahead, replace_if_any, start};
use crate::gpu::dialect::Smem;
use crate::gpu::ops::{GpuBuilder, GpuOp, MmaOperand};
use melior::ir::operation::OperationLike;
use std::convert::Infallible;
use tile_ir::types::{
    Blk, Op, Val, args_of, blocks_of, defining_op, name_of, nested_ops, operands_of, ops_of, results_of,
    type_of,
};
use tile_ir::{Builder, Module};

/// A body in two parts.
pub(super) struct Cut<'c> {
    /// The first part behind the wait for the first product, in order, without `narrowing`.
    first: Vec<Op<'c>>,
    /// What makes the second product's lhs, where nothing else needs it.
    narrowing: Option<Op<'c>>,
    /// The second part up to the second product, in order.
    second: Vec<Op<'c>>,
    /// The wait until the second product's operands are there.
    full: Op<'c>,
    product: Op<'c>,
    /// The wait for the second product.
    wait: Op<'c>,
    /// The release of its operands.
    release: Op<'c>,
    /// Number of the sum among what the loop carries.
    number: usize,
    /// What the second part uses of the first, and of what the old loop carries.
    handed: Vec<Val<'c>>,
}

/// Operands of an operation and of those inside of it.
pub(super) fn uses<'c>(op: Op<'c>) -> Vec<Val<'c>> {
    operands_of(op).into_iter().chain(nested_ops(op).into_iter().flat_map(operands_of)).collect()
}

/// True for what costs less to repeat than to hand over in registers.
fn is_cheap(op: Op) -> bool {
    matches!(name_of(op).as_str(), "arith.constant" | "tgpu.splat" | "tgpu.broadcast" | "tgpu.reshape")
}

/// True for what only computes on registers.
fn is_elementwise(op: Op) -> bool {
    let name = name_of(op);
    op.region_count() == 0 && (name.starts_with("arith.") || name.starts_with("math.") || is_cheap(op))
}

/// Cuts a loop's body, or says why that cannot be.
pub(super) fn cut<'c>(op: Op<'c>, ahead: &Ahead<'c>) -> Result<Cut<'c>, &'static str> {
    let block = blocks_of(op)[0];
    let body: Vec<Op<'c>> = ops_of(block).collect();
    let position = |op: Op<'c>| body.iter().position(|o| *o == op).unwrap_or(body.len());
    let of_kind = |wanted: &dyn Fn(&GpuOp<'c>) -> bool| -> Vec<Op<'c>> {
        body.iter().copied().filter(|o| GpuOp::of(*o).is_some_and(|g| wanted(&g))).collect()
    };
    let products = of_kind(&|g| matches!(g, GpuOp::Wgmma { .. }));
    let &[_, product] = &products[..] else { return Err("the loop has not two products") };
    let Some(GpuOp::Wgmma {
        lhs: MmaOperand::Registers(lhs),
        rhs: MmaOperand::Shared { smem, slot, .. },
        acc,
        ..
    }) = GpuOp::of(product)
    else {
        return Err("the second product's lhs is not in registers");
    };
    // The next slot is waited for before this one is released.
    if Smem::of(type_of(smem)).is_none_or(|s| s.slots < 2) {
        return Err("the ring has one slot");
    }
    let (wait, end) = (ahead.last_wait, *body.last().ok_or("the loop is empty")?);
    let result = results_of(product)[0];
    if !matches!(GpuOp::of(wait), Some(GpuOp::WgmmaWait { ref tiles, pending: 0 }) if tiles[..] == [result]) {
        return Err("the second product is not what is waited for last");
    }

    let full = of_kind(&|g| matches!(g, GpuOp::MbarrierWait { slot: waited, .. } if *waited == slot));
    let waits = of_kind(&|g| matches!(g, GpuOp::MbarrierWait { .. })).len();
    let full = full.into_iter().find(|f| *f != ahead.full && position(*f) < position(product));
    let full = full.filter(|_| waits == 2).ok_or("the operands of the products are not in a ring each")?;
    let arrivals = of_kind(&|g| matches!(g, GpuOp::MbarrierArrive { .. }));
    let &[early, release] = &arrivals[..] else {
        return Err("the operands of the products are not in a ring each");
    };
    if !(position(ahead.wait) < position(early)
        && position(early) < position(wait)
        && position(wait) < position(release))
    {
        return Err("the operands of the products are not in a ring each");
    }
    let synchronizes = [ahead.full, ahead.product, full, early, product, release];
    let is_shared = |v: &Val| Smem::of(type_of(*v)).is_some();
    if body.iter().any(|o| !synchronizes.contains(o) && uses(*o).iter().any(is_shared)) {
        return Err("something else in the loop is in shared memory");
    }

    // All that depends on the sum.
    let arguments = args_of(block);
    let handed_on = results_of(wait)[0];
    let number = operands_of(end).iter().position(|v| *v == handed_on).ok_or("the sum is not carried")?;
    let sum = arguments[number + 1];
    let mut depends = vec![sum];
    let mut second = Vec::new();
    for &inner in body.iter().filter(|o| **o != end && **o != wait) {
        if !uses(inner).iter().any(|v| depends.contains(v)) {
            continue;
        }
        if inner == product {
            if uses(inner).iter().filter(|v| depends.contains(v)).any(|v| *v != acc) {
                return Err("the second product multiplies the sum");
            }
            continue;
        }
        if !is_elementwise(inner) || position(product) < position(inner) {
            return Err("the sum is used in the loop");
        }
        depends.extend(results_of(inner));
        second.push(inner);
    }
    let used_later = |o: &Op<'c>| *o != wait && uses(*o).iter().any(|v| [result, handed_on].contains(v));
    let yielded = operands_of(end);
    if !depends.contains(&acc)
        || body[..body.len() - 1].iter().any(used_later)
        || yielded.iter().filter(|v| **v == handed_on).count() != 1
        || yielded.iter().any(|v| depends.contains(v))
    {
        return Err("the sum is used in the loop");
    }
    // What costs registers to hand over is repeated.
    let mut pending: Vec<Op<'c>> = second.iter().copied().chain([product, release]).collect();
    while let Some(user) = pending.pop() {
        for definition in uses(user).into_iter().filter_map(defining_op) {
            if body.contains(&definition) && is_cheap(definition) && !second.contains(&definition) {
                second.push(definition);
                pending.push(definition);
            }
        }
    }
    second.sort_by_key(|o| position(*o));
    let users = |o: Op<'c>| -> Vec<Op<'c>> {
        let results = results_of(o);
        body.iter().copied().filter(|user| uses(*user).iter().any(|v| results.contains(v))).collect()
    };
    let is_second = |o: &Op<'c>| second.contains(o) || [product, release].contains(o);
    let narrowing = defining_op(lhs).filter(|o| {
        body.contains(o) && name_of(*o) == "arith.truncf" && users(*o).iter().all(|user| *user == product)
    });
    let elsewhere = |o: &Op<'c>| {
        let taken = [ahead.full, ahead.product, ahead.wait, full, product, wait, release, end].contains(o);
        let (users, repeated) = (users(*o), is_second(o) || ahead.constants.contains(o));
        let depends_on_sum = results_of(*o).iter().any(|r| depends.contains(r));
        let only_there = repeated && users.iter().all(|user| is_second(user) || *user == ahead.product);
        taken || depends_on_sum || only_there || narrowing == Some(*o)
    };
    let first: Vec<Op<'c>> = body.iter().copied().filter(|o| !elsewhere(o)).collect();
    let ends: Vec<Op<'c>> = second.iter().copied().chain([product, release]).collect();
    let handed = handed_values(block, &ends, sum);
    Ok(Cut { first, narrowing, second, full, product, wait, release, number, handed })
}

/// What some operations of a body use of the rest of it, other than the sum.
fn handed_values<'c>(block: Blk<'c>, second: &[Op<'c>], sum: Val<'c>) -> Vec<Val<'c>> {
    let made: Vec<Val<'c>> = second.iter().copied().flat_map(results_of).collect();
    let mut handed: Vec<Val<'c>> = Vec::new();
    for value in second.iter().copied().flat_map(uses) {
        if is_inside(block, value) && value != sum && !made.contains(&value) && !handed.contains(&value) {
            handed.push(value);
        }
    }
    handed
}

/// Replaces a loop by one with both products in flight, with the first iteration's first part in front and the
/// last one's second part behind.
pub(super) fn rotate<'c>(module: &Module<'c>, op: Op<'c>, ahead: &Ahead<'c>, cut: &Cut<'c>) {
    let block = blocks_of(op)[0];
    replace_if_any(module, op, |b, [low, high, step], initial| {
        let mut renamed = enter(block, low, initial);
        let first = start(b, ahead, &mut renamed);
        let first = b.wgmma_wait(&[first], 0)[0];
        take_first(b, ahead, cut, first, &mut renamed);
        narrow(b, cut, &mut renamed);
        let carried = leave(block, cut, &renamed, initial[cut.number]);
        let following = b.same("arith.addi", &[low, step]);
        let Ok(looped) = b.for_loop([following, high, step], &carried, |b, variable, carried| {
            let (values, handed) = carried.split_at(initial.len());
            let mut renamed = enter(block, variable, values);
            let mut before = enter_second(block, cut, values, handed);
            let first = start(b, ahead, &mut renamed);
            add(b, cut, &mut before);
            let first = b.wgmma_wait(&[first], 1)[0];
            take_first(b, ahead, cut, first, &mut renamed);
            let sum = finish(b, cut, &mut before);
            narrow(b, cut, &mut renamed);
            Ok::<_, Infallible>(leave(block, cut, &renamed, sum))
        });
        let (values, handed) = looped.split_at(initial.len());
        let mut before = enter_second(block, cut, values, handed);
        add(b, cut, &mut before);
        let mut values = values.to_vec();
        values[cut.number] = finish(b, cut, &mut before);
        values
    });
}

/// The names of an old iteration's values at its start.
fn enter<'c>(block: Blk<'c>, variable: Val<'c>, values: &[Val<'c>]) -> Renamed<'c> {
    let values = std::iter::once(&variable).chain(values);
    args_of(block).into_iter().zip(values).map(|(arg, value)| (address_of(arg), *value)).collect()
}

/// The names of an old iteration's values where its second part starts.
fn enter_second<'c>(block: Blk<'c>, cut: &Cut<'c>, values: &[Val<'c>], handed: &[Val<'c>]) -> Renamed<'c> {
    let sum = (address_of(args_of(block)[cut.number + 1]), values[cut.number]);
    cut.handed.iter().zip(handed).map(|(old, new)| (address_of(*old), *new)).chain([sum]).collect()
}

/// The first part behind the wait for its product, which has become `first`, but for the narrowing.
fn take_first<'c>(
    b: &Builder<'c>,
    ahead: &Ahead<'c>,
    cut: &Cut<'c>,
    first: Val<'c>,
    renamed: &mut Renamed<'c>,
) {
    renamed.insert(address_of(results_of(ahead.wait)[0]), first);
    cut.first.iter().chain([&cut.full]).for_each(|op| clone_op(b, *op, renamed));
}

/// Makes the second product's lhs.
fn narrow<'c>(b: &Builder<'c>, cut: &Cut<'c>, renamed: &mut Renamed<'c>) {
    cut.narrowing.iter().for_each(|op| clone_op(b, *op, renamed));
}

/// What the new loop carries: what the old one does, with the sum as it is, then what is handed to the second part.
fn leave<'c>(block: Blk<'c>, cut: &Cut<'c>, renamed: &Renamed<'c>, sum: Val<'c>) -> Vec<Val<'c>> {
    let rename = |value: Val<'c>| renamed.get(&address_of(value)).copied().unwrap_or(value);
    let end = ops_of(block).last().expect("a loop's body has a terminator");
    let mut values: Vec<Val<'c>> = operands_of(end).into_iter().map(rename).collect();
    values[cut.number] = sum;
    values.extend(cut.handed.iter().map(|v| rename(*v)));
    values
}

/// The second part up to the start of its product.
fn add<'c>(b: &Builder<'c>, cut: &Cut<'c>, renamed: &mut Renamed<'c>) {
    cut.second.iter().chain([&cut.product]).for_each(|op| clone_op(b, *op, renamed));
}

/// The end of the second part; returns the sum.
fn finish<'c>(b: &Builder<'c>, cut: &Cut<'c>, renamed: &mut Renamed<'c>) -> Val<'c> {
    let now = |value: Val<'c>| renamed.get(&address_of(value)).copied().unwrap_or(value);
    let mut at = *b;
    at.set_location(cut.wait.location());
    let sum = at.wgmma_wait(&[now(results_of(cut.product)[0])], 0)[0];
    clone_op(b, cut.release, renamed);
    sum
}
