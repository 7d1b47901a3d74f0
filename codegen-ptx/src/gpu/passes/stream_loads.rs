//! Finds the tensors whose blocks a launch reads once, so that L2 need not keep them.
//!
//! Input: the tile dialect, one program of the grid. Output: the same, with the attribute `tgpu.streamed` on the
//! function: the numbers of the arguments whose loads get an L2 policy of `evict_first` (PTX ISA 9.0, 9.7.9.2, cache
//! eviction priority hints). What streams through L2 then leaves in front of what a kernel before has left there, be it
//! to be read again or to be written back. That pays where a launch reads about as much as L2 holds; longer streams
//! reach a few percent less of the memory's bandwidth under a policy, so that this pass is off unless set.
//!
//! A tensor streams where one load in the kernel reads it, and where the place of the block tells apart the programs
//! along every axis that the kernel asks for and the iterations of every loop around that load. What a place tells apart
//! is read off its sums and products; quotients, remainders and clamps are taken to tell nothing. Elements read from a
//! tensor, as the numbers of pages, are taken to differ where their own places do. It is a hint: a wrong one costs speed
//! alone.

use super::{Pass, PassContext};
use crate::gpu::facts::argument_of;
use crate::gpu::launch::STREAMED;
use melior::ir::ValueLike;
use melior::ir::attribute::DenseI64ArrayAttribute;
use melior::ir::operation::OperationLike;
use std::collections::{BTreeSet, HashMap};
use tile_ir::context::Place;
use tile_ir::types::{Op, Val, args_of, defining_op, name_of, nested_ops, operands_of, root_view, set_attr};
use tile_ir::{Module, TileOp};

/// Runs the pass.
pub(super) fn run<'c>(module: Module<'c>, cx: &mut PassContext) -> Module<'c> {
    if !cx.switches.stream_loads {
        return module;
    }
    let key = |value: Val| value.to_raw().ptr as usize;
    let mut accesses: HashMap<usize, Vec<Op>> = HashMap::new();
    for op in nested_ops(module.function()) {
        let view = match TileOp::of(op) {
            Some(
                TileOp::Load { view, .. }
                | TileOp::At { view, .. }
                | TileOp::Gather { view, .. }
                | TileOp::Store { view, .. }
                | TileOp::Scatter { view, .. }
                | TileOp::ArriveLast { view, .. },
            ) => view,
            _ => continue,
        };
        accesses.entry(key(root_view(view))).or_default().push(op);
    }
    let asked: BTreeSet<Atom> = nested_ops(module.function())
        .into_iter()
        .filter_map(|op| match TileOp::of(op) {
            Some(TileOp::ProgramId { axis }) => Some(Atom::Programs(axis)),
            _ => None,
        })
        .collect();
    let mut streamed = Vec::new();
    for (number, tensor) in args_of(module.entry()).into_iter().enumerate() {
        let Some([access]) = accesses.get(&key(tensor)).map(Vec::as_slice) else { continue };
        if is_read_once(*access, &asked) {
            streamed.push(number as i64);
            let message = format!("each block of argument {number} is read once, and leaves L2 first");
            cx.remark(Pass::StreamLoads, Place::of(access.location()), message);
        }
    }
    if !streamed.is_empty() {
        set_attr(
            module.function(),
            STREAMED,
            DenseI64ArrayAttribute::new(module.context(), &streamed).into(),
        );
    }
    module
}

/// What a place can tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Atom {
    /// Programs along an axis of the grid.
    Programs(usize),
    /// Iterations of the loop at this address.
    Iterations(usize),
}

/// Whether the place of a load differs in all programs, which differ along the axes asked for, and all iterations.
fn is_read_once<'c>(load: Op<'c>, asked: &BTreeSet<Atom>) -> bool {
    let Some(TileOp::Load { view: mut part, index: mut places }) = TileOp::of(load) else { return false };
    while let Some(TileOp::Slice { view, start, .. }) = defining_op(part).and_then(TileOp::of) {
        places.push(start);
        part = view;
    }
    let mut told = BTreeSet::new();
    places.into_iter().for_each(|place| tell(place, &mut told));
    let mut around = std::iter::successors(load.parent_operation(), |op| op.parent_operation());
    asked.is_subset(&told)
        && around.all(|op| match name_of(op).as_str() {
            "scf.for" => told.contains(&Atom::Iterations(op.to_raw().ptr as usize)),
            "scf.while" => false,
            _ => true,
        })
}

/// Adds what a scalar tells apart.
fn tell(value: Val, told: &mut BTreeSet<Atom>) {
    let Some(op) = defining_op(value) else {
        let (Some(parent), number) = argument_of(value) else { return };
        if name_of(parent) == "scf.for"
            && number == 0
            && told.insert(Atom::Iterations(parent.to_raw().ptr as usize))
        {
            // Programs that start a loop at different places go on at different places.
            tell(operands_of(parent)[0], told);
        }
        return;
    };
    match TileOp::of(op) {
        Some(TileOp::ProgramId { axis }) => {
            told.insert(Atom::Programs(axis));
        }
        Some(TileOp::At { index, .. }) => index.into_iter().for_each(|place| tell(place, told)),
        Some(TileOp::Cast { value }) => tell(value, told),
        Some(_) => {}
        None => {
            const KEEPS: [&str; 8] = [
                "arith.addi",
                "arith.subi",
                "arith.muli",
                "arith.index_cast",
                "arith.index_castui",
                "arith.extsi",
                "arith.extui",
                "arith.trunci",
            ];
            if KEEPS.contains(&name_of(op).as_str()) {
                operands_of(op).into_iter().for_each(|operand| tell(operand, told));
            }
        }
    }
}
