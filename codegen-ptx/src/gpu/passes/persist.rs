//! Lets each CTA run several programs, one after the other.
//!
//! Input: the tile dialect, one program of the grid. Output: the same function with the three extents of the grid as
//! further arguments and the attribute `tgpu.persistent`, for a launch of CTAs along x alone. The programs, in the
//! grid's linear order, in which x runs fastest and z slowest, are dealt out in rounds of as many as there are CTAs:
//! forwards in even rounds, backwards in odd ones. Where work grows or falls along the grid, as in causal attention,
//! each CTA so gets light and heavy programs in turn. Invariant: every program runs once, whatever the number of CTAs;
//! `program_id` and `num_programs` are those of the grid.
//!
//! With `num_ctas`, clusters walk: dealt out are groups of as many programs, neighbours along x, of each of which a CTA
//! of the cluster runs one. The extents of grid and launch along x are to be multiples of it. So the CTAs of a cluster
//! run equally many programs, which differ in x alone; the attribute `tgpu.num_ctas` has the kernel launched so.
//!
//! Later passes see a loop like any other: a warp that copies runs it too, so that the first blocks of the next
//! program come while the present one is stored. The loop counts in 32 bits, so that a launch must see to it that
//! programs and CTAs together are fewer than 2^31. A kernel with checks stays as it is, since a failed check tells
//! its program by the CTA.

use super::rewrite::{EQUAL, UNSIGNED_LESS, compare};
use super::split_tail::{self, Share, Sum};
use super::{Pass, PassContext};
use crate::gpu::cluster::NUM_CTAS;
use crate::gpu::launch::PERSISTENT;
use melior::ir::BlockLike;
use melior::ir::attribute::{ArrayAttribute, StringAttribute, TypeAttribute};
use melior::ir::operation::OperationLike;
use melior::ir::r#type::FunctionType;
use melior::ir::{Attribute, Identifier, Type};
use std::convert::Infallible;
use tile_ir::context::Place;
use tile_ir::types::{
    Op, Val, args_of, attr, element_type, erase, move_before, nested_ops, ops_of, replace_uses, results_of,
    set_attr, type_of,
};
use tile_ir::{Builder, Module, TileOp};
use tile_lang::DType;

/// The grid's extents among the function's arguments.
const EXTENTS: [&str; 3] = ["grid.x", "grid.y", "grid.z"];
/// The addresses of the parts of split sums and of the counters that join them, among the function's arguments.
const WORKSPACE: [&str; 2] = ["parts", "counters"];

/// Runs the pass.
pub(super) fn run<'c>(module: Module<'c>, cx: &mut PassContext) -> Module<'c> {
    if !cx.switches.persistent {
        return module;
    }
    let ops: Vec<Op> = ops_of(module.entry()).collect();
    let Some((_, program)) = ops.split_last() else { return module };
    let Some(&first) = program.first() else { return module };
    let inside = nested_ops(module.function());
    if inside.iter().any(|op| matches!(TileOp::of(*op), Some(TileOp::Check { .. }))) {
        cx.remark(Pass::Persist, None, "each program has a CTA of its own: the kernel has checks");
        return module;
    }
    let split = splittable(&module, program, cx);
    let extents = add_arguments(&module, &EXTENTS, Type::index(module.context()));
    let workspace = split.as_ref().map(|_| {
        let address = element_type(module.context(), DType::I64);
        add_arguments(&module, &WORKSPACE, address)
    });
    let [x, y, z] = extents;
    let mut b = Builder::before(module.context(), first);
    b.set_location(module.function().location());
    let size = (cx.num_ctas > 1).then(|| b.index(cx.num_ctas as i64));
    let in_groups = |count: Val<'c>| size.map_or(count, |size| b.same("arith.divui", &[count, size]));
    // From here on those that walk, and what they are dealt: CTAs and programs, or clusters and groups.
    let x = in_groups(x);
    let programs = b.same("arith.muli", &[b.same("arith.muli", &[x, y]), z]);
    let (along_x, launched) = (b.program_id(0), b.num_programs(0));
    let own = size.map(|size| (size, b.same("arith.remui", &[along_x, size])));
    let (cta, ctas) = (in_groups(along_x), in_groups(launched));
    let [zero, one, two] = [0, 1, 2].map(|n| b.index(n));
    let mirrored = b.same("arith.subi", &[b.same("arith.subi", &[ctas, one]), cta]);
    let place = |b: &Builder<'c>, round: Val<'c>| {
        let is_even = compare(b, EQUAL, b.same("arith.remui", &[round, two]), zero);
        b.value("arith.select", &[is_even, cta, mirrored], type_of(cta), &[])
    };
    // The last round may be short of programs for some.
    let whole = b.same("arith.divui", &[programs, ctas]);
    let left = b.same("arith.remui", &[programs, ctas]);
    let has_more = compare(&b, UNSIGNED_LESS, place(&b, whole), left);
    let more = b.value("arith.select", &[has_more, one, zero], type_of(one), &[]);
    let rounds = b.same("arith.addi", &[whole, more]);
    let share = split.as_ref().map(|sum| {
        let shares_round = cx.switches.split_tail > 1;
        Share::new(&b, (sum, shares_round), extents, [cta, ctas], [whole, left])
    });
    let rounds = share.as_ref().map_or(rounds, |(_, turns)| *turns);
    let mut turn = None;
    let mut ids = extents;
    let Ok(_) = b.for_loop([zero, rounds, one], &[], |b, round, _| {
        let mut number = b.same("arith.addi", &[b.same("arith.muli", &[round, ctas]), place(b, round)]);
        if let Some((share, _)) = &share {
            number = share.program(b, round, number);
            turn = Some(round);
        }
        let row = b.same("arith.divui", &[number, x]);
        let group = b.same("arith.remui", &[number, x]);
        let of_group = |(size, own)| b.same("arith.addi", &[b.same("arith.muli", &[group, size]), own]);
        ids =
            [own.map_or(group, of_group), b.same("arith.remui", &[row, y]), b.same("arith.divui", &[row, y])];
        Ok::<_, Infallible>(Vec::new())
    });
    for op in inside {
        let value = match TileOp::of(op) {
            Some(TileOp::ProgramId { axis }) => ids[axis],
            Some(TileOp::NumPrograms { axis }) => extents[axis],
            _ => continue,
        };
        replace_uses(results_of(op)[0], value);
    }
    let walk = ops_of(module.entry()).take_while(|op| *op != first).last().expect("the loop was just made");
    let end = ops_of(tile_ir::types::blocks_of(walk)[0]).last().expect("a loop's body has a terminator");
    program.iter().for_each(|op| move_before(*op, end));
    nested_ops(walk).into_iter().filter(|op| is_id(*op)).for_each(erase);
    if let (Some(sum), Some((share, _)), Some(turn), Some(workspace)) = (&split, &share, turn, workspace) {
        share.rewrite(&Builder::before(module.context(), sum.adds), sum, turn, workspace);
    }
    set_attr(module.function(), PERSISTENT, b.int(1));
    if cx.num_ctas > 1 {
        set_attr(module.function(), NUM_CTAS, b.int(cx.num_ctas as i64));
    }
    module
}

/// Whether an operation asks for the place of the program in its grid.
fn is_id(op: Op) -> bool {
    matches!(TileOp::of(op), Some(TileOp::ProgramId { .. } | TileOp::NumPrograms { .. }))
}

/// The program as a sum that may be split, where that was asked for.
fn splittable<'c>(module: &Module<'c>, program: &[Op<'c>], cx: &mut PassContext) -> Option<Sum<'c>> {
    if cx.switches.split_tail == 0 {
        return None;
    }
    let found = match cx.num_ctas {
        1 => split_tail::sum(program),
        _ => Err("CTAs of a cluster run equally many programs"),
    };
    let place = Place::of(module.function().location());
    match found {
        Ok(sum) => {
            let message = match cx.switches.split_tail {
                1 => "the sums of programs that do not fill a round are split over the CTAs",
                _ => "the sums of the last round and of programs left over are shared out to the CTAs",
            };
            cx.remark(Pass::Persist, place, message);
            Some(sum)
        }
        Err(why) => {
            cx.remark(Pass::Persist, place, format!("each program is one CTA's: {why}"));
            None
        }
    }
}

/// Adds arguments of a type to the function's.
fn add_arguments<'c, const N: usize>(module: &Module<'c>, names: &[&str; N], ty: Type<'c>) -> [Val<'c>; N] {
    let (context, function, entry) = (module.context(), module.function(), module.entry());
    let added = names.map(|_| -> Val { entry.add_argument(ty, function.location()) });
    let types: Vec<Type> = args_of(entry).into_iter().map(type_of).collect();
    let ty = FunctionType::new(context, &types, &[]);
    set_attr(function, "function_type", TypeAttribute::new(ty.into()).into());
    if let Some(Ok(known)) = attr(function, "arg_attrs").map(ArrayAttribute::try_from) {
        let named = names.map(|name| -> Attribute {
            let entry = (Identifier::new(context, "tile.name"), StringAttribute::new(context, name).into());
            melior::ir::attribute::DictionaryAttribute::new(context, &[entry]).into()
        });
        let all: Vec<Attribute> =
            (0..known.len()).filter_map(|i| known.element(i).ok()).chain(named).collect();
        set_attr(function, "arg_attrs", ArrayAttribute::new(context, &all).into());
    }
    added
}
