//! What operations do besides computing their results.

use crate::module::Module;
use crate::ops::TileOp;
use crate::types::{Op, Val, defining_op, name_of, nested_ops, operands_of, root_view};
use std::collections::HashSet;

/// What an operation does besides computing its results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect<'c> {
    /// Nothing; it may run any number of times, also where the program would not.
    Pure,
    /// Nothing, but it must not run where the program would not: a division whose divisor may be zero.
    Guarded,
    /// Reads a tensor argument, or a part of it.
    Read(Val<'c>),
    /// Writes a tensor argument, or a part of it.
    Write(Val<'c>),
    /// Control flow: it has the effects of the operations inside it.
    Nested,
    /// Ends a block, checks a condition, arrives at a counter, or is unknown.
    Fixed,
}

/// The effect of one operation.
pub fn effect<'c>(op: Op<'c>) -> Effect<'c> {
    match TileOp::of(op) {
        Some(TileOp::Load { view, .. } | TileOp::Gather { view, .. } | TileOp::At { view, .. }) => {
            return Effect::Read(root_view(view));
        }
        Some(TileOp::Store { view, .. } | TileOp::Scatter { view, .. }) => {
            return Effect::Write(root_view(view));
        }
        // Stores and loads stay on their side of an arrival: passes move neither writes nor reads of what is written.
        Some(TileOp::Check { .. } | TileOp::ArriveLast { .. } | TileOp::JoinParts { .. }) => {
            return Effect::Fixed;
        }
        Some(_) => return Effect::Pure,
        None => {}
    }
    let name = name_of(op);
    match name.as_str() {
        "arith.divsi" | "arith.divui" | "arith.remsi" | "arith.remui" => {
            match operands_of(op).get(1).is_some_and(|d| is_nonzero_constant(*d)) {
                true => Effect::Pure,
                false => Effect::Guarded,
            }
        }
        "scf.for" | "scf.if" | "scf.while" => Effect::Nested,
        _ if name.starts_with("arith.") || name.starts_with("math.") => Effect::Pure,
        _ => Effect::Fixed,
    }
}

/// True for an integer constant whose elements are not 0 (and not -1, whose quotient may overflow).
fn is_nonzero_constant(value: Val) -> bool {
    let Some(number) = defining_op(value).and_then(super::canonicalize::int_constant) else { return false };
    number != 0 && number != -1
}

/// The tensors that the kernel writes.
pub fn written_views<'c>(module: &Module<'c>) -> Vec<Val<'c>> {
    let mut seen = HashSet::new();
    nested_ops(module.function())
        .into_iter()
        .filter_map(|op| match effect(op) {
            Effect::Write(view) => Some(view),
            _ => None,
        })
        .filter(|view| seen.insert(raw(*view)))
        .collect()
}

/// A value's identity.
pub(super) fn raw(value: Val) -> usize {
    use melior::ir::ValueLike;
    value.to_raw().ptr as usize
}

/// True when the operation, with everything inside it, writes nothing.
pub(super) fn only_computes(op: Op) -> bool {
    match effect(op) {
        Effect::Pure | Effect::Guarded | Effect::Read(_) => true,
        // A loop that may not end must stay, so that the program does what its text says.
        Effect::Nested => {
            name_of(op) != "scf.while"
                && nested_ops(op).into_iter().all(|o| is_terminator(o) || only_computes(o))
        }
        Effect::Write(_) | Effect::Fixed => false,
    }
}

/// True for the operations that end blocks of loops and branches.
pub(super) fn is_terminator(op: Op) -> bool {
    matches!(name_of(op).as_str(), "scf.yield" | "scf.condition")
}
