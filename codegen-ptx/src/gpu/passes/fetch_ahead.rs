//! What of a loop's loads the copying warp brings into L2 ahead.
//!
//! The computing warps hold what they load from global memory themselves, such as scales, in registers: that can come no
//! more than an iteration ahead, which is less time than DRAM takes. The warp that copies is ahead of them by the slots
//! of its rings, and has begun a program before they have ended the last. In front of its loop it starts to fetch what
//! the loop's first iterations load, as many as a box has room for, and in the first iteration of each box the next one.
//! What the first program loads first is fetched before anything else.

use super::PassContext;
use super::persist::{EQUAL, PROGRAM_ID, UNSIGNED_LESS, compare};
use super::rewrite::{Renamed, address_of, clone_op, is_inside};
use super::tensor_maps::fetched_by;
use crate::gpu::launch::TensorMap;
use crate::gpu::ops::{GpuBuilder, GpuOp};
use std::convert::Infallible;
use tile_ir::passes::int_constant;
use tile_ir::types::{
    Op, Val, args_of, attr, blocks_of, defining_op, int_attr, name_of, nested_ops, operands_of, results_of,
    shape_of, type_of,
};
use tile_ir::{Builder, Module};

/// Iterations of a box at most: what is fetched much ahead of its use may leave L2 before.
const MAX_ITERATIONS: usize = 64;

/// A load to be fetched ahead.
pub(super) struct Fetched<'c> {
    view: Val<'c>,
    pub index: Vec<Val<'c>>,
    tile_shape: Vec<usize>,
    /// The dimension along which each iteration loads the next block.
    along: usize,
    /// Iterations whose blocks are a box.
    iterations: usize,
    pub map: TensorMap,
    /// The map's number among those of the launch.
    pub number: usize,
    first: Option<First<'c>>,
}

/// What is fetched before anything else: the first box of the first program, as far as its place is quickly told. Where
/// CTAs walk over programs, it takes the first to be that of the CTA's number, from its first block on. Elsewhere in the
/// tensor the fetch is of no use, but does no harm.
struct First<'c> {
    /// What the load's index is computed by, in order.
    ops: Vec<Op<'c>>,
    /// The first iteration, where it was told.
    low: Option<Val<'c>>,
}

impl<'c> First<'c> {
    fn of(module: &Module<'c>, index: &[Val<'c>], low: Val<'c>) -> Option<First<'c>> {
        let mut ops = sources(module, index)?;
        let low = sources(module, &[low]).map(|more| {
            ops.extend(more);
            low
        });
        let ops = nested_ops(module.function()).into_iter().filter(|op| ops.contains(op)).collect();
        Some(First { ops, low })
    }
}

/// What values are computed by, up to where the program is; none where that is more than arithmetic on what the kernel
/// is given.
fn sources<'c>(module: &Module<'c>, values: &[Val<'c>]) -> Option<Vec<Op<'c>>> {
    let (mut pending, mut found) = (values.to_vec(), Vec::new());
    while let Some(value) = pending.pop() {
        let Some(op) = defining_op(value) else {
            if args_of(module.entry()).contains(&value) {
                continue;
            }
            return None;
        };
        if !found.contains(&op) {
            found.push(op);
            if attr(op, PROGRAM_ID).is_none() {
                let name = name_of(op);
                let is_known = ["tile.dim", "tile.program_id", "tile.num_programs"].contains(&name.as_str());
                if !is_known && !name.starts_with("arith.") {
                    return None;
                }
                pending.extend(operands_of(op));
            }
        }
    }
    Some(found)
}

/// How a load of a loop's body is fetched ahead; none where its blocks do not follow one another, or where the tensor
/// has no map for it.
pub(super) fn plan<'c>(
    module: &Module<'c>,
    cx: &PassContext,
    op: Op<'c>,
    load: Op<'c>,
) -> Option<Fetched<'c>> {
    let Some(GpuOp::GlobalLoad { view, index, .. }) = GpuOp::of(load) else { return None };
    let body = blocks_of(op)[0];
    let (variable, step) = (args_of(body)[0], operands_of(op)[2]);
    let along = index.iter().position(|i| *i == variable)?;
    let others = index.iter().enumerate().filter(|(dim, _)| *dim != along);
    let outside: Vec<Val> = others.map(|(_, i)| *i).collect();
    let steps_by_one = defining_op(step).and_then(int_constant) == Some(1);
    if !steps_by_one || outside.iter().any(|i| is_inside(body, *i)) {
        return None;
    }
    let tile_shape = shape_of(type_of(results_of(load)[0]))?;
    let (iterations, map) = fetched_by(module, cx, view, (&tile_shape, along), MAX_ITERATIONS)?;
    let first = First::of(module, &outside, operands_of(op)[0]);
    Some(Fetched { view, index, tile_shape, along, iterations, map, number: 0, first })
}

impl<'c> Fetched<'c> {
    /// Starts to fetch the box that an iteration begins, by the thread that copies; `index` is that of its load.
    pub fn fetch(&self, b: &Builder<'c>, index: &[Val<'c>]) {
        b.prefetch((self.view, index), (&self.tile_shape, &self.map.box_shape), (self.number, false));
    }

    /// Starts to fetch the first box, where all threads come by.
    pub fn fetch_first(&self, b: &Builder<'c>) {
        let Some(First { ops, low }) = &self.first else { return };
        let (mut renamed, start) = (Renamed::new(), b.index(0));
        for op in ops {
            match int_attr(*op, PROGRAM_ID) {
                Some(axis) => {
                    let id = if axis == 0 { b.program_id(0) } else { start };
                    renamed.insert(address_of(results_of(*op)[0]), id);
                }
                None => clone_op(b, *op, &mut renamed),
            }
        }
        let value = |value: &Val<'c>| renamed.get(&address_of(*value)).copied().unwrap_or(*value);
        let mut index: Vec<Val> = self.index.iter().map(value).collect();
        index[self.along] = low.as_ref().map_or(start, value);
        b.prefetch((self.view, &index), (&self.tile_shape, &self.map.box_shape), (self.number, true));
    }

    /// In the first of a box's iterations, `at`, of those from `low` to `high`, starts to fetch the next box.
    pub fn fetch_next(&self, b: &Builder<'c>, [at, low, high]: [Val<'c>; 3], index: &[Val<'c>]) {
        let iterations = b.index(self.iterations as i64);
        let done = b.same("arith.subi", &[at, low]);
        let begins = compare(b, EQUAL, b.same("arith.remui", &[done, iterations]), b.index(0));
        let next = b.same("arith.addi", &[at, iterations]);
        let wanted = b.same("arith.andi", &[begins, compare(b, UNSIGNED_LESS, next, high)]);
        let made = b.if_else(
            wanted,
            &[],
            |b| {
                let mut index = index.to_vec();
                index[self.along] = next;
                self.fetch(b, &index);
                Ok::<_, Infallible>(Vec::new())
            },
            |_| Ok(Vec::new()),
        );
        let Ok(_) = made;
    }
}
