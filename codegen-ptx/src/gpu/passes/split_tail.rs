//! Splits the sums of the programs that do not fill a round of CTAs.
//!
//! `persist` uses it for kernels whose program is one loop that adds up products, followed by what is done with the
//! sum. Of the last round's programs, which are fewer than there are CTAs, each is split along its loop over as many CTAs
//! as there are for it. With `split_tail = 2`, where there is a whole round, its iterations and those of what is left are
//! dealt out in order, as many to each CTA: it gets the end of a program that another begins, whole ones, and the start
//! of a program that the next ends (the hybrid of Osama et al., "Stream-K: Work-centric Parallel Decomposition for Dense
//! Matrix-Matrix Multiplication on the GPU", 2023). A CTA's end of a program comes before its start of another, so that
//! who does the start of a program finds its end there. So less of parts moves through memory, but CTAs read different
//! blocks at a time, which L2 serves worse.
//!
//! Every CTA but the last to get to a program leaves its part of the sum in global memory; the last adds the parts up in
//! their order, so that the result does not depend on who was last, and does what follows. Nobody waits.
//!
//! Here are the scalars: which iterations are whose. `tile.join_parts` marks where parts meet, and becomes loads, stores
//! and an arrival in `join_parts`, where the sum has a layout.

use super::rewrite::{Renamed, UNSIGNED_LESS, address_of, clone_op, compare, is_zero, set_operand};
use crate::gpu::resources::LEAST_PART_ITERATIONS;
use melior::ir::operation::OperationLike;
use std::convert::Infallible;
use tile_ir::passes::{Effect, effect, int_constant};
use tile_ir::types::{
    Op, Val, args_of, blocks_of, defining_op, dtype_of, erase, is_tile, move_before, name_of, nested_ops,
    operands_of, ops_of, results_of, type_of,
};
use tile_ir::{Builder, TileOp};
use tile_lang::DType;

/// A program that is one sum.
pub(super) struct Sum<'c> {
    /// The loop that adds it up, from 0 in steps of 1.
    pub adds: Op<'c>,
    /// What its bound is computed by, in order.
    bound: Vec<Op<'c>>,
}

/// Reads a program, its operations without the terminator, as one sum; or says why it is none.
pub(super) fn sum<'c>(program: &[Op<'c>]) -> Result<Sum<'c>, &'static str> {
    let loops: Vec<Op> = program.iter().copied().filter(|op| op.region_count() > 0).collect();
    let [adds] = loops[..] else { return Err("a program is not one loop and what follows") };
    let number = |value| defining_op(value).and_then(int_constant);
    if name_of(adds) != "scf.for" {
        return Err("a program is not one loop and what follows");
    }
    let (operands, body) = (operands_of(adds), blocks_of(adds)[0]);
    if number(operands[0]) != Some(0) || number(operands[2]) != Some(1) {
        return Err("its loop does not count from 0 in steps of 1");
    }
    let ([_, carried], [_, _, _, zero]) = (&args_of(body)[..], &operands[..]) else {
        return Err("its loop carries more than a sum");
    };
    let end = ops_of(body).last().ok_or("its loop is empty")?;
    let added = defining_op(operands_of(end)[0]).ok_or("its loop adds nothing")?;
    let adds_to_it = match TileOp::of(added) {
        Some(TileOp::Mma { acc, .. } | TileOp::MmaScaled { acc, .. }) => acc == *carried,
        _ => name_of(added) == "arith.addf" && operands_of(added).contains(carried),
    };
    let uses = nested_ops(adds).into_iter().flat_map(operands_of).filter(|v| v == carried).count();
    let is_f32 = is_tile(type_of(*carried)) && dtype_of(type_of(*carried)) == Some(DType::F32);
    if !adds_to_it || uses != 1 || !is_f32 || !is_zero(*zero) {
        return Err("what its loop carries is not a sum that starts at zero");
    }
    let before = program.iter().copied().take_while(|op| *op != adds);
    let mut early = before.chain([adds]).flat_map(|op| [vec![op], nested_ops(op)].concat());
    if early.any(|op| matches!(effect(op), Effect::Write(_) | Effect::Fixed) && !is_frame(op)) {
        return Err("it stores before it has its sum");
    }
    let mut wanted = vec![operands[1]];
    let mut bound: Vec<Op> = Vec::new();
    while let Some(value) = wanted.pop() {
        let Some(op) = defining_op(value) else { continue };
        let is_same_for_all = match TileOp::of(op) {
            Some(TileOp::NumPrograms { .. } | TileOp::Dim { .. }) => true,
            Some(_) => false,
            None => name_of(op).starts_with("arith."),
        };
        if !is_same_for_all {
            return Err("the length of its loop is not the same for all programs");
        }
        if !bound.contains(&op) {
            bound.push(op);
            wanted.extend(operands_of(op));
        }
    }
    let bound = program.iter().copied().filter(|op| bound.contains(op)).collect();
    Ok(Sum { adds, bound })
}

/// True for what only holds others.
fn is_frame(op: Op) -> bool {
    name_of(op).starts_with("scf.")
}

/// Index arithmetic.
struct Indices<'a, 'c>(&'a Builder<'c>);

impl<'c> Indices<'_, 'c> {
    fn number(&self, number: i64) -> Val<'c> {
        self.0.index(number)
    }

    fn op(&self, name: &str, a: Val<'c>, b: Val<'c>) -> Val<'c> {
        self.0.same(name, &[a, b])
    }

    fn add(&self, a: Val<'c>, b: Val<'c>) -> Val<'c> {
        self.op("arith.addi", a, b)
    }

    fn mul(&self, a: Val<'c>, b: Val<'c>) -> Val<'c> {
        self.op("arith.muli", a, b)
    }

    fn div(&self, a: Val<'c>, b: Val<'c>) -> Val<'c> {
        self.op("arith.divui", a, b)
    }

    fn rem(&self, a: Val<'c>, b: Val<'c>) -> Val<'c> {
        self.op("arith.remui", a, b)
    }

    fn sub(&self, a: Val<'c>, b: Val<'c>) -> Val<'c> {
        self.op("arith.subi", a, b)
    }

    fn min(&self, a: Val<'c>, b: Val<'c>) -> Val<'c> {
        self.op("arith.minui", a, b)
    }

    fn max(&self, a: Val<'c>, b: Val<'c>) -> Val<'c> {
        self.op("arith.maxui", a, b)
    }

    fn less(&self, a: Val<'c>, b: Val<'c>) -> Val<'c> {
        compare(self.0, UNSIGNED_LESS, a, b)
    }

    fn select(&self, cond: Val<'c>, a: Val<'c>, b: Val<'c>) -> Val<'c> {
        self.0.value("arith.select", &[cond, a, b], type_of(a), &[])
    }
}

/// A part of a program's sum.
struct Part<'c> {
    /// Its iterations.
    from: Val<'c>,
    to: Val<'c>,
    /// The counter where the program's parts meet, how many these are, the slot of the first, and its own.
    place: Val<'c>,
    count: Val<'c>,
    first: Val<'c>,
    slot: Val<'c>,
}

/// What a CTA does: rounds of whole programs, the end of a program, more whole ones, the start or a part of one. Any may
/// be missing.
pub(super) struct Share<'c> {
    /// Iterations of a whole program.
    bound: Val<'c>,
    /// How many programs it does the end of, and that part.
    heads: Val<'c>,
    head: Part<'c>,
    /// Rounds of whole programs.
    rounds: Val<'c>,
    /// The program of the turn behind them.
    start: Val<'c>,
    /// The turn of the last part, and that.
    last: Val<'c>,
    tail: Part<'c>,
}

impl<'c> Share<'c> {
    /// Computes it, in front of the walk, and the number of turns that the walk takes. There are `whole` rounds of
    /// programs and some `left`; where a whole round is to be shared out with these, `shares_round` says so.
    pub fn new(
        b: &Builder<'c>,
        (sum, shares_round): (&Sum<'c>, bool),
        extents: [Val<'c>; 3],
        [cta, ctas]: [Val<'c>; 2],
        [whole, left]: [Val<'c>; 2],
    ) -> (Share<'c>, Val<'c>) {
        let mut renamed = Renamed::new();
        for op in &sum.bound {
            match TileOp::of(*op) {
                Some(TileOp::NumPrograms { axis }) => {
                    renamed.insert(address_of(results_of(*op)[0]), extents[axis]);
                }
                _ => clone_op(b, *op, &mut renamed),
            }
        }
        let asked = operands_of(sum.adds)[1];
        let bound = renamed.get(&address_of(asked)).copied().unwrap_or(asked);
        let i = Indices(b);
        let [zero, one, two, least] = [0, 1, 2, LEAST_PART_ITERATIONS].map(|n| i.number(n));
        let flag = |condition| i.select(condition, one, zero);
        let next = i.add(cta, one);
        // Where a CTA's iterations start, of some that are dealt out in order.
        let begin = |cta, [each, longer]: [Val<'c>; 2]| i.add(i.mul(cta, each), i.min(cta, longer));

        // What is left alone: as many CTAs for each program as there are.
        let parts = i.max(i.min(i.div(ctas, i.max(left, one)), i.div(bound, least)), one);
        let (program, part) = (i.div(cta, parts), i.rem(cta, parts));
        let deal = [i.div(bound, parts), i.rem(bound, parts)];
        let (from, to) = (begin(part, deal), begin(i.add(part, one), deal));
        let has_part = flag(i.less(cta, i.mul(left, parts)));

        // With the last round: each CTA the same number of iterations, at least a program's, so that two at most meet in
        // one. What would be a small part goes to the other CTA.
        let ends = if shares_round { i.mul(i.min(whole, one), i.min(left, one)) } else { zero };
        let rounds = i.sub(whole, ends);
        let total = i.mul(i.mul(ends, i.add(ctas, left)), bound);
        let deal = [i.div(total, ctas), i.rem(total, ctas)];
        let length = i.max(bound, one);
        let cut = |cta| {
            let at = begin(cta, deal);
            let (program, inside) = (i.div(at, length), i.rem(at, length));
            let is_start = flag(i.less(inside, least));
            let is_next = i.mul(flag(i.less(i.sub(length, inside), least)), i.sub(one, is_start));
            let is_inside = i.less(i.add(is_next, is_start), one);
            (i.add(program, is_next), i.select(is_inside, inside, zero))
        };
        let ((begun, head), (end, tail)) = (cut(cta), cut(next));
        let heads = i.min(head, one);
        let first = i.add(begun, heads);

        let shares_none = i.less(ends, one);
        let choose = |alone, shared| i.select(shares_none, alone, shared);
        let last = i.add(i.add(heads, rounds), i.sub(end, first));
        let turns = i.add(last, choose(has_part, i.min(tail, one)));
        let slot = i.mul(cta, two);
        let head =
            Part { from: head, to: bound, place: cta, count: two, first: slot, slot: i.add(slot, one) };
        let slot = i.mul(next, two);
        let tail = Part {
            from: choose(from, zero),
            to: choose(to, tail),
            place: choose(program, next),
            count: choose(parts, two),
            first: choose(i.mul(program, parts), slot),
            slot: choose(cta, slot),
        };
        let start = i.add(i.mul(rounds, ctas), choose(program, first));
        (Share { bound, heads, head, rounds, start, last, tail }, turns)
    }

    /// The program of turn `number`, in which a round of whole programs would take `dealt`.
    pub fn program(&self, b: &Builder<'c>, number: Val<'c>, dealt: Val<'c>) -> Val<'c> {
        let i = Indices(b);
        let behind = i.add(self.start, i.sub(i.sub(number, self.rounds), self.heads));
        i.select(i.less(number, self.rounds), dealt, behind)
    }

    /// Rewrites the program, which is in the walk's body by now, in turn `number`: its loop runs over the CTA's
    /// iterations, and what follows is done by the last CTA of the program. `workspace` are the addresses of parts and
    /// counters.
    pub fn rewrite(&self, b: &Builder<'c>, sum: &Sum<'c>, number: Val<'c>, workspace: [Val<'c>; 2]) {
        let i = Indices(b);
        let is_in_front = i.less(number, self.last);
        // Only the turn behind the rounds, and only where there is a head: the difference wraps around before it.
        let is_head = i.less(i.sub(number, self.rounds), self.heads);
        let (head, tail) = (&self.head, &self.tail);
        let of_part = |head, tail, whole| i.select(is_head, head, i.select(is_in_front, whole, tail));
        set_operand(sum.adds, 0, of_part(head.from, tail.from, i.number(0)));
        set_operand(sum.adds, 1, i.select(is_in_front, self.bound, tail.to));
        let count = of_part(head.count, tail.count, i.number(1));
        let [place, first, slot] =
            [(head.place, tail.place), (head.first, tail.first), (head.slot, tail.slot)]
                .map(|(head, tail)| i.select(is_head, head, tail));

        let following = sum.adds.next_in_block().expect("a walk's body has a terminator");
        let body = sum.adds.block().expect("the loop is in the walk");
        let rest: Vec<Op> = ops_of(body).skip_while(|op| *op != following).collect();
        let Some((_, rest)) = rest.split_last() else { return };
        let mut at = Builder::before(b.context(), following);
        at.set_location(sum.adds.location());
        let is_last = at.join_parts(workspace, [place, count, first, slot]);
        let mut end = None;
        let Ok(_) = at.if_else(
            is_last,
            &[],
            |b| {
                end = Some(b.index(0));
                Ok::<_, Infallible>(Vec::new())
            },
            |_| Ok(Vec::new()),
        );
        let marker = end.and_then(defining_op).expect("the branch has it");
        rest.iter().for_each(|op| move_before(*op, marker));
        erase(marker);
    }
}
