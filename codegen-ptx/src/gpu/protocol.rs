//! Checks that mbarriers are waited for and arrived at in step.
//!
//! A ring has two arrays of them. In each iteration the copying thread waits for an `empty` slot, expects on its
//! `full` barrier as many bytes as it starts copies of, and the other warps wait until the slot is `full`, read it,
//! and arrive at `empty` once: for the slot they have read, or, when the product that reads it is still in flight,
//! for the one of the iteration before, whose last slot is then released behind the loop. What is taken out of the
//! loop waits and releases as often. A slot may be waited for in one iteration and read in the next, which the loop
//! hands its number. Where a warpgroup without rows takes another branch than those that read, it waits and releases
//! as often there. Anything less, and a warp waits forever; anything more, and a slot is overwritten while it is
//! read.
//!
//! Turns are checked in `turns`, what CTAs do to each other in `cluster`, what warpgroups may do alone in `apart`.

use super::apart;
use super::cluster;
use super::dialect::Smem;
use super::ops::{GpuOp, MmaOperand};
use super::passes::written_views;
use super::turns;
use melior::ir::operation::OperationLike;
use tile_ir::Module;
use tile_ir::types::{
    Op, Val, args_of, blocks_of, defining_op, int_attr, name_of, nested_ops, operands_of, ops_of, results_of,
    type_of,
};

/// How a ring's barriers are out of step.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// The copying thread overwrites a slot without waiting.
    #[error("copies start without a wait for an empty slot")]
    NoEmptyWait,
    /// The bytes expected are not those copied.
    #[error("{expected} bytes are expected, copies bring {copied}")]
    Bytes {
        /// What the barrier waits for.
        expected: usize,
        /// What comes.
        copied: usize,
    },
    /// Not one wait in an iteration until a slot is full.
    #[error("the slots are waited for at {0} places of the loop, not one")]
    FullWaits(usize),
    /// Not one arrival an iteration.
    #[error("a slot is released {0} times in an iteration, not once")]
    Releases(usize),
    /// Slots that products in flight read are not released behind the loop, or others are.
    #[error("the last slot is released {found} times behind the loop, not {expected}")]
    LastReleases {
        /// Arrivals behind the loop.
        found: usize,
        /// How many there should be.
        expected: usize,
    },
    /// A slot is read when it is not known to be full, or may be overwritten.
    #[error("a slot is read outside of its wait and its release")]
    Unprotected,
    /// A slot is released while a product reads it.
    #[error("a slot is released before the product that reads it is waited for")]
    Unfinished,
    /// Turns that are not opened in front of all that take one, and closed behind, once each.
    #[error(
        "turns are opened {opened} times and closed {closed} times around what takes them, not once each"
    )]
    Turns {
        /// How often they are opened.
        opened: usize,
        /// How often they are closed.
        closed: usize,
    },
    /// A path on which a turn is not taken and given in alternation.
    #[error("turns are not taken and given alternately")]
    TurnOrder,
    /// Something in a turn that may wait for another warpgroup.
    #[error("{0} runs in a turn, in which nothing may wait")]
    TurnWaits(String),
    /// Turns of other than two warpgroups.
    #[error("{0} warps take turns; they are for two warpgroups")]
    TurnWarps(usize),
    /// Something that all warpgroups have to run in a branch that some take alone.
    #[error("{0} is run or decided by some warpgroups alone")]
    Apart(String),
    /// Warpgroups are told apart by other bits than their number has.
    #[error("{0} warps are told apart by another number of bits than their warpgroups have")]
    ApartWarps(usize),
    /// A bulk store may start before it sees what the threads have written.
    #[error("a bulk store starts without a write, a fence and a barrier in front of it")]
    StoreTooEarly,
    /// Threads may write what a bulk store still reads.
    #[error("a slot is written again without a wait for the bulk store that reads it")]
    StoreOverwritten,
    /// A CTA may end while a bulk store reads its shared memory.
    #[error("a bulk store is not waited for before the kernel ends")]
    StoreNotDone,
    /// A number of CTAs that no cluster has.
    #[error("a cluster has {0} CTAs, not 2, 4 or 8")]
    ClusterSize(usize),
    /// A CTA may reach another one's barriers before they are set up.
    #[error("the CTAs of a cluster do not meet once, between setting up barriers and copying")]
    NotEntered,
    /// A copy for the whole cluster, or a loop around it, is not the same in all its CTAs.
    #[error("a copy for the whole cluster may differ between its CTAs")]
    Differs,
    /// A slot is released in one CTA though all fill it, or the other way round.
    #[error("a slot is not released in just those CTAs that fill it")]
    Receivers,
    /// A CTA may end while others arrive at its barriers.
    #[error("the slots of a ring are waited for {found} times behind the last copy, not {expected}")]
    NotDrained {
        /// How often they are.
        found: usize,
        /// How many slots there are.
        expected: usize,
    },
    /// A barrier that no phase of the ring completes.
    #[error("a phase takes {found} arrivals; {expected} are made")]
    Arrivals {
        /// What the barrier counts to.
        found: usize,
        /// What arrives in an iteration.
        expected: usize,
    },
}

/// Every ring that is out of step, with the operation that shows it.
pub(super) fn check<'c>(module: &Module<'c>) -> Vec<(Op<'c>, ProtocolError)> {
    let all = nested_ops(module.function());
    let is_role = |op: &Op<'c>| {
        let condition = op.operands().next().and_then(defining_op).and_then(GpuOp::of);
        matches!(condition, Some(GpuOp::Producer { .. }))
    };
    let copying: Vec<Op<'c>> = all.iter().copied().filter(is_role).flat_map(nested_ops).collect();
    let others: Vec<Op<'c>> = all.iter().copied().filter(|op| !copying.contains(op)).collect();
    // Warpgroups that take different branches each have to be in step.
    let sides: Vec<Vec<Op<'c>>> = match apart::left_out(&others) {
        Some(sides) => sides.map(|left_out| without(&others, &left_out)).into(),
        None => vec![others],
    };
    let warps = int_attr(module.function(), "tgpu.num_warps").unwrap_or(1) as usize;
    let mut found = Vec::new();
    for op in &copying {
        if let Some(GpuOp::Expect { barriers, bytes, .. }) = GpuOp::of(*op) {
            for side in &sides {
                let mut report = |error| {
                    let error = (*op, error);
                    if !found.contains(&error) {
                        found.push(error);
                    }
                };
                check_ring(module, *op, (barriers, bytes), side, &mut report);
            }
        }
    }
    found.extend(apart::check(module, &written_views(module)));
    turns::check(module, warps, &mut found);
    cluster::check(module, &mut found);
    found
}

/// Those of some operations that are not among others.
fn without<'c>(ops: &[Op<'c>], left_out: &[Op<'c>]) -> Vec<Op<'c>> {
    ops.iter().copied().filter(|op| !left_out.contains(op)).collect()
}

/// Checks the ring whose copies an operation expects.
fn check_ring<'c>(
    module: &Module<'c>,
    expect: Op<'c>,
    (full, bytes): (Val<'c>, usize),
    others: &[Op<'c>],
    report: &mut impl FnMut(ProtocolError),
) {
    let Some(block) = expect.block() else { return };
    let ops: Vec<Op<'c>> = ops_of(block).collect();
    let at = ops.iter().position(|op| *op == expect).unwrap_or(0);
    // The wait since the last expectation.
    let before = ops[..at].iter().rev().map(|op| GpuOp::of(*op));
    let before = before.take_while(|op| !matches!(op, Some(GpuOp::Expect { .. })));
    let mut waits = before.filter_map(|op| match op {
        Some(GpuOp::MbarrierWait { barriers, .. }) => Some(barriers),
        _ => None,
    });
    let Some(empty) = waits.next() else { return report(ProtocolError::NoEmptyWait) };
    let (buffers, parts): (Vec<Val<'c>>, Vec<bool>) = ops
        .iter()
        .filter_map(|op| match GpuOp::of(*op) {
            Some(GpuOp::TmaCopy { smem, barriers, cluster, .. }) if barriers == full => Some((smem, cluster)),
            _ => None,
        })
        .unzip();
    // A slot that any part of comes from other CTAs is filled by all.
    let is_shared = parts.contains(&true);
    let ctas = if is_shared { cluster::ctas_of(module.function()) } else { 1 };
    let warps = int_attr(module.function(), "tgpu.num_warps").unwrap_or(1) as usize;
    let copied = buffers.iter().filter_map(|b| Smem::of(type_of(*b))).map(|s| s.layout.bytes()).sum();
    if copied != bytes {
        report(ProtocolError::Bytes { expected: bytes, copied });
    }
    for (barriers, expected) in [(full, 1), (empty, warps * ctas)] {
        if let Some(GpuOp::Mbarriers { arrivals, .. }) = defining_op(barriers).and_then(GpuOp::of)
            && arrivals != expected
        {
            report(ProtocolError::Arrivals { found: arrivals, expected });
        }
    }
    let releases = others.iter().filter_map(|op| match GpuOp::of(*op) {
        Some(GpuOp::MbarrierArrive { barriers, cluster, .. }) if barriers == empty => Some(cluster),
        _ => None,
    });
    if releases.into_iter().any(|cluster| cluster != is_shared) {
        report(ProtocolError::Receivers);
    }
    let (drains, slots) = (cluster::drains(module, empty), Smem::of(type_of(empty)).map_or(0, |s| s.cols()));
    if is_shared && drains != slots {
        report(ProtocolError::NotDrained { found: drains, expected: slots });
    }
    let waits: Vec<(Op<'c>, Val<'c>)> = others
        .iter()
        .filter_map(|op| match GpuOp::of(*op) {
            Some(GpuOp::MbarrierWait { barriers, slot, .. }) if barriers == full => Some((*op, slot)),
            _ => None,
        })
        .collect();
    let is_in_loop = expect.parent_operation().is_some_and(|p| name_of(p) == "scf.for");
    check_readers(is_in_loop, &waits, empty, &buffers, others, report);
}

/// Checks what reads a ring's slots.
fn check_readers<'c>(
    is_in_loop: bool,
    waits: &[(Op<'c>, Val<'c>)],
    empty: Val<'c>,
    buffers: &[Val<'c>],
    others: &[Op<'c>],
    report: &mut impl FnMut(ProtocolError),
) {
    let releases: Vec<(Op<'c>, Val<'c>)> = others
        .iter()
        .filter_map(|op| match GpuOp::of(*op) {
            Some(GpuOp::MbarrierArrive { barriers, slot, .. }) if barriers == empty => Some((*op, slot)),
            _ => None,
        })
        .collect();
    // Of the loops, one waits for the ring and releases it; what is outside was taken out of it.
    // A copy in no loop at all is waited for and released once.
    let in_loop =
        |(op, _): &&(Op<'c>, Val<'c>)| op.parent_operation().is_some_and(|p| name_of(p) == "scf.for");
    let (waits_inside, waits_outside): (Vec<_>, Vec<_>) = match is_in_loop {
        true => waits.iter().partition(in_loop),
        false => (waits.iter().collect(), Vec::new()),
    };
    let &[&(wait, _)] = &waits_inside[..] else {
        return report(ProtocolError::FullWaits(waits_inside.len()));
    };
    let (inside, outside): (Vec<_>, Vec<_>) =
        releases.iter().partition(|(release, _)| release.block() == wait.block());
    let &[&(release, released)] = &inside[..] else { return report(ProtocolError::Releases(inside.len())) };
    let expected = waits_outside.len() + usize::from(starts_without_slot(release, released));
    if outside.len() != expected {
        report(ProtocolError::LastReleases { found: outside.len(), expected });
    }
    let position = |op: Op<'c>, body: &[Op<'c>]| body.iter().position(|o| holds(*o, op));
    for read in others.iter().filter(|op| reads(**op, buffers)) {
        let slots = read_slots(*read, buffers);
        if !slots.iter().all(|slot| is_full(*slot, *read, waits, &releases)) {
            report(ProtocolError::Unprotected);
        }
        for (release, slot) in &releases {
            let is_next = handed_to(*release, *slot).is_some_and(|slot| slots.contains(&slot));
            if is_next && !is_done_next(*read, *release) {
                report(ProtocolError::Unfinished);
            }
            let body: Vec<Op<'c>> = release.block().map(ops_of).into_iter().flatten().collect();
            let (Some(read_at), Some(at)) = (position(*read, &body), position(*release, &body)) else {
                continue;
            };
            if slots.contains(slot) && at < read_at {
                report(ProtocolError::Unprotected);
            } else if slots.contains(slot) && !is_done(*read, *release) {
                report(ProtocolError::Unfinished);
            }
        }
    }
}

/// The slots of some buffers that an operation reads.
fn read_slots<'c>(op: Op<'c>, buffers: &[Val<'c>]) -> Vec<Val<'c>> {
    let of_operand = |operand: MmaOperand<'c>| match operand {
        MmaOperand::Shared { smem, slot, .. } => buffers.contains(&smem).then_some(slot),
        MmaOperand::Registers(_) => None,
    };
    match GpuOp::of(op) {
        Some(GpuOp::LocalLoad { slot, .. }) => vec![slot],
        Some(
            GpuOp::MmaSync { lhs, rhs, .. }
            | GpuOp::MmaScaledSync { lhs, rhs, .. }
            | GpuOp::Wgmma { lhs, rhs, .. },
        ) => [lhs, rhs].into_iter().filter_map(of_operand).collect(),
        _ => Vec::new(),
    }
}

/// Whether a slot is waited for in front of an operation; where a loop hands its number on, in front of the loop
/// and in each iteration for the next, and not released there.
fn is_full<'c>(
    slot: Val<'c>,
    at: Op<'c>,
    waits: &[(Op<'c>, Val<'c>)],
    releases: &[(Op<'c>, Val<'c>)],
) -> bool {
    let is_in_front = |wait: Op<'c>, at: Op<'c>| {
        let body: Vec<Op<'c>> = wait.block().map(ops_of).into_iter().flatten().collect();
        let position = |op: Op<'c>| body.iter().position(|o| holds(*o, op));
        position(at).zip(position(wait)).is_some_and(|(at, wait)| wait < at)
    };
    let is_waited = |slot: Val<'c>, at: Op<'c>| {
        waits.iter().any(|(wait, waited)| *waited == slot && is_in_front(*wait, at))
    };
    let is_handed_on = |(around, number): (Op<'c>, usize)| {
        let Some(end) = ops_of(blocks_of(around)[0]).last() else { return false };
        let (first, next) = (operands_of(around)[number + 3], operands_of(end)[number]);
        let is_kept = releases.iter().all(|(_, released)| *released != first && *released != next);
        is_kept && is_waited(first, around) && is_waited(next, end)
    };
    is_waited(slot, at) || carried(slot, at).is_some_and(is_handed_on)
}

/// The loop that carries a value which an operation in it or behind it uses, and the value's number.
fn carried<'c>(value: Val<'c>, user: Op<'c>) -> Option<(Op<'c>, usize)> {
    let (op, number) = if let Some(op) = defining_op(value) {
        (op, results_of(op).iter().position(|r| *r == value)?)
    } else {
        let around = std::iter::successors(user.parent_operation(), |op| op.parent_operation());
        let argument = |op: Op<'c>| {
            let block = blocks_of(op).first().copied()?;
            Some((op, args_of(block).iter().position(|a| *a == value)?.checked_sub(1)?))
        };
        around.filter(|op| name_of(*op) == "scf.for").find_map(argument)?
    };
    (name_of(op) == "scf.for").then_some((op, number))
}

/// Whether a read is over in front of an operation behind it: a product is when so many are waited for that it is not
/// among those still allowed, in its own block or in one around it.
fn is_done<'c>(read: Op<'c>, at: Op<'c>) -> bool {
    if !matches!(GpuOp::of(read), Some(GpuOp::Wgmma { .. })) {
        return true;
    }
    let mut reader = read;
    loop {
        let behind = reader.block().map(ops_of).into_iter().flatten().skip_while(|op| *op != reader).skip(1);
        if is_waited_for(behind.take_while(|op| *op != at)) {
            return true;
        }
        match reader.parent_operation().filter(|_| reader.block() != at.block()) {
            Some(parent) => reader = parent,
            None => return false,
        }
    }
}

/// What the next iteration of the loop around a release knows as the slot that is released.
fn handed_to<'c>(release: Op<'c>, slot: Val<'c>) -> Option<Val<'c>> {
    let block = release.block()?;
    let number = args_of(block).iter().position(|a| *a == slot)?.checked_sub(1)?;
    operands_of(ops_of(block).last()?).get(number).copied()
}

/// Whether a read of an iteration is over in front of an operation of the next, as in [`is_done`].
fn is_done_next<'c>(read: Op<'c>, at: Op<'c>) -> bool {
    if !matches!(GpuOp::of(read), Some(GpuOp::Wgmma { .. })) || read.block() != at.block() {
        return true;
    }
    let body: Vec<Op<'c>> = at.block().map(ops_of).into_iter().flatten().collect();
    let behind = body.iter().skip_while(|op| **op != read).skip(1);
    is_waited_for(behind.chain(body.iter().take_while(|op| **op != at)).copied())
}

/// Whether operations behind a product wait until it is over.
fn is_waited_for<'c>(behind: impl Iterator<Item = Op<'c>>) -> bool {
    let mut started = 0;
    for op in behind {
        match GpuOp::of(op) {
            Some(GpuOp::Wgmma { .. }) => started += 1,
            Some(GpuOp::WgmmaWait { pending, .. }) if pending <= started => return true,
            _ => {}
        }
    }
    false
}

/// Whether a loop's release is of a slot that the loop carries and starts without, so that one release is left for
/// behind it.
fn starts_without_slot<'c>(release: Op<'c>, slot: Val<'c>) -> bool {
    let arguments = release.block().map(args_of).unwrap_or_default();
    let Some((number, parent)) = arguments.iter().position(|a| *a == slot).zip(release.parent_operation())
    else {
        return false;
    };
    // The loop's operands begin with its bounds, its block's arguments with the variable.
    let first = operands_of(parent).get(number + 2).copied().and_then(defining_op);
    first.is_some_and(|op| int_attr(op, "value") == Some(-1))
}

/// Whether an operation is another or inside of it.
fn holds<'c>(outer: Op<'c>, op: Op<'c>) -> bool {
    outer == op || blocks_of(outer).iter().any(|block| ops_of(*block).any(|inner| holds(inner, op)))
}

/// Whether an operation itself reads one of some buffers.
fn reads<'c>(op: Op<'c>, buffers: &[Val<'c>]) -> bool {
    let is_read = |operand: MmaOperand<'c>| match operand {
        MmaOperand::Shared { smem, .. } => buffers.contains(&smem),
        MmaOperand::Registers(_) => false,
    };
    match GpuOp::of(op) {
        Some(GpuOp::LocalLoad { smem, .. }) => buffers.contains(&smem),
        Some(
            GpuOp::MmaSync { lhs, rhs, .. }
            | GpuOp::MmaScaledSync { lhs, rhs, .. }
            | GpuOp::Wgmma { lhs, rhs, .. },
        ) => is_read(lhs) || is_read(rhs),
        _ => false,
    }
}
