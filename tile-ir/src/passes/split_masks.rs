//! `split-masks`: applies masks only in the iterations that need them.
//!
//! Input and output: the tile level. In a loop, `select(cond, x, fill)` whose condition compares ranges of numbers
//! becomes a branch: a scalar says beforehand that the condition holds for every element, and then the branch gives
//! `x` itself; otherwise it gives the select, with whatever was computed for the condition alone. All threads decide
//! alike. The scalar comes from intervals: the condition `lhs <= rhs` holds everywhere if the largest element of
//! lhs is at most the smallest of rhs. Invariant: every value keeps its bits.
//!
//! Elements are i32 and wrap; bounds are computed in 64 bits. Where an operation might wrap, the scalar also says
//! that its bounds fit 32 bits, so that no size of a tensor makes a bound wrong: a tile that does wrap is masked.

use super::effects::{Effect, effect, raw};
use crate::context::Place;
use crate::module::Module;
use crate::ops::{Builder, TileOp};
use crate::types::{
    Op, Val, defining_op, dtype_of, element_type, erase, int_attr, is_loop, is_tile, name_of, nested_ops,
    operands_of, replace_uses, results_of, shape_of, type_of,
};
use melior::ir::operation::OperationLike;
use std::collections::HashMap;
use std::convert::Infallible;
use std::rc::Rc;
use tile_lang::DType;

/// Elements below which masking costs less than a branch, whatever the warps.
const LEAST_ELEMS: usize = 2048;
const I32: [i64; 2] = [i32::MIN as i64, i32::MAX as i64];
/// `sle` among the predicates of `arith.cmpi`.
const SIGNED_LESS_EQUAL: i64 = 3;

pub(super) fn run(module: &mut Module) {
    split_masks(module);
}

/// Runs the pass, and says of each mask in a loop what became of it: `Err` is why it is applied in every iteration.
pub fn split_masks(module: &mut Module) -> Vec<(Option<Place>, Result<(), String>)> {
    let in_loop = |op: &Op| {
        let around = std::iter::successors(op.parent_operation(), |o| o.parent_operation());
        around.into_iter().any(is_loop)
    };
    let is_mask = |op: &Op| name_of(*op) == "arith.select" && is_tile(type_of(operands_of(*op)[0]));
    let mut found = Vec::new();
    for op in nested_ops(module.function()).into_iter().filter(is_mask).filter(in_loop) {
        let shape = shape_of(type_of(results_of(op)[0])).unwrap_or_default();
        if shape.iter().product::<usize>() < LEAST_ELEMS {
            continue;
        }
        let guards = always(operands_of(op)[0]).and_then(undecided);
        found.push((Place::of(op.location()), guards.map(|guards| split(module, op, &guards))));
    }
    found
}

/// Puts a select into a branch that is taken unless all guards hold.
fn split<'c>(module: &Module<'c>, op: Op<'c>, guards: &[Guard<'c>]) {
    let b = Builder::before(module.context(), op);
    let bool_type = element_type(b.context(), DType::Bool);
    let predicate = [("predicate", b.int(SIGNED_LESS_EQUAL))];
    let mut all = None;
    for guard in guards {
        let holds = match guard {
            Guard::Is(scalar) => *scalar,
            Guard::AtMost(low, high) => {
                b.value("arith.cmpi", &[low.emit(&b), high.emit(&b)], bool_type, &predicate)
            }
        };
        all = Some(all.map_or(holds, |all| b.same("arith.andi", &[all, holds])));
    }
    let all = all.unwrap_or_else(|| b.int_const(DType::Bool, 1));
    let (masked, shown) = (results_of(op)[0], operands_of(op)[1]);
    let made = b.if_else(
        all,
        &[type_of(masked)],
        |_| Ok::<_, Infallible>(vec![shown]),
        |b| {
            let mut copied = HashMap::new();
            let operands: Vec<Val> =
                operands_of(op).into_iter().map(|v| copy(b, v, op, &mut copied)).collect();
            Ok(vec![b.value("arith.select", &operands, type_of(masked), &[])])
        },
    );
    let Ok(made) = made;
    replace_uses(masked, made[0]);
    erase(op);
}

/// A copy of how a mask is computed in its block, which needs no operation in front of the branch; what else uses
/// the original keeps it.
fn copy<'c>(b: &Builder<'c>, value: Val<'c>, mask: Op<'c>, copied: &mut HashMap<usize, Val<'c>>) -> Val<'c> {
    if let Some(known) = copied.get(&raw(value)) {
        return *known;
    }
    let is_of_mask = |op: &Op| {
        let computes =
            matches!(dtype_of(type_of(value)), Some(DType::I32 | DType::Bool)) && effect(*op) == Effect::Pure;
        op.block() == mask.block() && is_tile(type_of(value)) && computes && op.region_count() == 0
    };
    let Some(op) = defining_op(value).filter(is_of_mask) else { return value };
    let operands: Vec<Val> = operands_of(op).into_iter().map(|v| copy(b, v, mask, copied)).collect();
    let attributes: Vec<_> = op
        .attributes()
        .map(|(name, value)| (name.as_string_ref().as_str().unwrap_or_default().to_owned(), value))
        .collect();
    let attributes: Vec<_> = attributes.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    let mut b = *b;
    b.set_location(op.location());
    let copy = b.value(&name_of(op), &operands, type_of(value), &attributes);
    copied.insert(raw(value), copy);
    copy
}

/// What makes a condition hold for every element.
#[derive(Clone, Debug, PartialEq)]
enum Guard<'c> {
    /// A scalar condition.
    Is(Val<'c>),
    /// The first is at most the second.
    AtMost(Bound<'c>, Bound<'c>),
}

/// The guards that are not known to hold, or that one never does.
fn undecided(guards: Vec<Guard>) -> Result<Vec<Guard>, String> {
    let number = |bound: &Bound| if let Bound::Const(number) = bound { Some(*number) } else { None };
    let known = |guard: &Guard| match guard {
        Guard::Is(_) => None,
        Guard::AtMost(low, high) => number(low).zip(number(high)).map(|(low, high)| low <= high),
    };
    if guards.iter().any(|guard| known(guard) == Some(false)) {
        return Err("it is not known ever to show all elements".to_owned());
    }
    Ok(guards.into_iter().filter(|guard| known(guard).is_none()).collect())
}

/// A number in 64 bits.
#[derive(Clone, Debug, PartialEq)]
enum Bound<'c> {
    Const(i64),
    /// An i32 scalar.
    Scalar(Val<'c>),
    /// An operation, by name.
    Op(&'static str, Rc<[Bound<'c>; 2]>),
}

impl<'c> Bound<'c> {
    /// An operation; constants are computed at once.
    fn op(name: &'static str, a: Bound<'c>, b: Bound<'c>) -> Bound<'c> {
        match (&a, &b) {
            (Bound::Const(a), Bound::Const(b)) => Bound::Const(match name {
                // What leaves 64 bits has left 32, which a guard says.
                "arith.addi" => a.saturating_add(*b),
                "arith.subi" => a.saturating_sub(*b),
                "arith.muli" => a.saturating_mul(*b),
                "arith.minsi" => *a.min(b),
                _ => *a.max(b),
            }),
            (other, Bound::Const(0)) if matches!(name, "arith.addi" | "arith.subi") => other.clone(),
            (Bound::Const(0), other) if name == "arith.addi" => other.clone(),
            _ => Bound::Op(name, Rc::new([a, b])),
        }
    }

    /// What it is at least and at most, given that the results of the operations below it fit 32 bits.
    fn range(&self) -> [i64; 2] {
        match self {
            Bound::Const(number) => [*number; 2],
            Bound::Scalar(_) => I32,
            Bound::Op(name, operands) => {
                let [a, b] = [&operands[0], &operands[1]].map(|o| o.range().map(|n| n.clamp(I32[0], I32[1])));
                match *name {
                    "arith.addi" => [a[0] + b[0], a[1] + b[1]],
                    "arith.subi" => [a[0] - b[1], a[1] - b[0]],
                    "arith.muli" => {
                        let all = [a[0] * b[0], a[0] * b[1], a[1] * b[0], a[1] * b[1]];
                        all.into_iter().fold([i64::MAX, i64::MIN], |[low, high], n| [low.min(n), high.max(n)])
                    }
                    "arith.minsi" => [a[0].min(b[0]), a[1].min(b[1])],
                    _ => [a[0].max(b[0]), a[1].max(b[1])],
                }
            }
        }
    }

    fn emit(&self, b: &Builder<'c>) -> Val<'c> {
        match self {
            Bound::Const(number) => b.int_const(DType::I64, *number),
            Bound::Scalar(scalar) => {
                b.value("arith.extsi", &[*scalar], element_type(b.context(), DType::I64), &[])
            }
            Bound::Op(name, operands) => b.same(name, &[operands[0].emit(b), operands[1].emit(b)]),
        }
    }
}

/// The least and the greatest element of an i32 tile, and what must hold for that.
struct Interval<'c> {
    low: Bound<'c>,
    high: Bound<'c>,
    guards: Vec<Guard<'c>>,
}

/// That a bound is not below what 32 bits hold, and that it is not above, where they are not known to.
fn fits<'c>(low: &Bound<'c>, high: &Bound<'c>) -> Vec<Guard<'c>> {
    let not_below = (low.range()[0] < I32[0]).then(|| Guard::AtMost(Bound::Const(I32[0]), low.clone()));
    let not_above = (high.range()[1] > I32[1]).then(|| Guard::AtMost(high.clone(), Bound::Const(I32[1])));
    not_below.into_iter().chain(not_above).collect()
}

impl<'c> Interval<'c> {
    fn new(low: Bound<'c>, high: Bound<'c>) -> Interval<'c> {
        Interval { low, high, guards: Vec::new() }
    }

    /// The interval of a tile, or why there is none.
    fn of(tile: Val<'c>) -> Result<Interval<'c>, String> {
        let what = |op: Op| format!("its condition depends on what {} gives", name_of(op));
        let op = defining_op(tile).ok_or("its condition depends on a tile that a loop carries")?;
        if dtype_of(type_of(tile)) != Some(DType::I32) {
            return Err("its condition does not compare i32".to_owned());
        }
        let operands = operands_of(op);
        match TileOp::of(op) {
            Some(TileOp::Iota) => {
                let len = shape_of(type_of(tile)).and_then(|s| s.first().copied()).unwrap_or(1) as i64;
                return Ok(Interval::new(Bound::Const(0), Bound::Const(len - 1)));
            }
            Some(TileOp::Splat { scalar }) => {
                let bound = match defining_op(scalar).and_then(super::int_constant) {
                    Some(number) => Bound::Const(number),
                    None => Bound::Scalar(scalar),
                };
                return Ok(Interval::new(bound.clone(), bound));
            }
            Some(TileOp::Broadcast { tile } | TileOp::Reshape { tile } | TileOp::Transpose { tile, .. }) => {
                return Interval::of(tile);
            }
            Some(_) => return Err(what(op)),
            None => {}
        }
        if let Some(number) = super::int_constant(op) {
            return Ok(Interval::new(Bound::Const(number), Bound::Const(number)));
        }
        let name = match name_of(op).as_str() {
            "arith.addi" => "arith.addi",
            "arith.subi" => "arith.subi",
            "arith.muli" => "arith.muli",
            "arith.minsi" => "arith.minsi",
            "arith.maxsi" => "arith.maxsi",
            _ => return Err(what(op)),
        };
        let (a, b) = (Interval::of(operands[0])?, Interval::of(operands[1])?);
        let (low, high) = match (name, &a.low, &b.low) {
            ("arith.subi", ..) => (Bound::op(name, a.low, b.high), Bound::op(name, a.high, b.low)),
            ("arith.muli", _, Bound::Const(by)) if b.low == b.high => scaled(a.low, a.high, *by),
            ("arith.muli", Bound::Const(by), _) if a.low == a.high => scaled(b.low, b.high, *by),
            ("arith.muli", ..) => return Err("its condition multiplies by what is no constant".to_owned()),
            _ => (Bound::op(name, a.low, b.low), Bound::op(name, a.high, b.high)),
        };
        let guards = a.guards.into_iter().chain(b.guards).chain(fits(&low, &high)).collect();
        Ok(Interval { low, high, guards })
    }
}

/// The bounds of a tile times a number.
fn scaled<'c>(low: Bound<'c>, high: Bound<'c>, by: i64) -> (Bound<'c>, Bound<'c>) {
    let (low, high) = if by < 0 { (high, low) } else { (low, high) };
    let times = |bound| Bound::op("arith.muli", bound, Bound::Const(by));
    (times(low), times(high))
}

/// What makes a condition hold for every element, or why that is not known.
fn always(cond: Val<'_>) -> Result<Vec<Guard<'_>>, String> {
    let op = defining_op(cond).ok_or("its condition is a tile that a loop carries")?;
    match TileOp::of(op) {
        Some(TileOp::Splat { scalar }) => return Ok(vec![Guard::Is(scalar)]),
        Some(TileOp::Broadcast { tile } | TileOp::Reshape { tile } | TileOp::Transpose { tile, .. }) => {
            return always(tile);
        }
        _ => {}
    }
    let operands = operands_of(op);
    match name_of(op).as_str() {
        "arith.andi" => Ok(join(always(operands[0])?, always(operands[1])?)),
        "arith.cmpi" => {
            let (a, b) = (Interval::of(operands[0])?, Interval::of(operands[1])?);
            let (mut less, mut more, strict) = match int_attr(op, "predicate") {
                Some(2) => (a, b, true),
                Some(3) => (a, b, false),
                Some(4) => (b, a, true),
                Some(5) => (b, a, false),
                _ => return Err("its condition compares otherwise than by order".to_owned()),
            };
            // That the one fits 32 bits above and the other below follows from the comparison.
            let above = Guard::AtMost(less.high.clone(), Bound::Const(I32[1]));
            let below = Guard::AtMost(Bound::Const(I32[0]), more.low.clone());
            less.guards.retain(|guard| *guard != above);
            more.guards.retain(|guard| *guard != below);
            // In 64 bits, one more does not wrap.
            let high = match strict {
                true => Bound::op("arith.addi", less.high, Bound::Const(1)),
                false => less.high,
            };
            Ok(join(join(less.guards, more.guards), vec![Guard::AtMost(high, more.low)]))
        }
        other => Err(format!("its condition is what {other} gives")),
    }
}

/// All guards of two lists, each once.
fn join<'c>(mut guards: Vec<Guard<'c>>, others: Vec<Guard<'c>>) -> Vec<Guard<'c>> {
    for guard in others {
        if !guards.contains(&guard) {
            guards.push(guard);
        }
    }
    guards
}
