//! What of a loop's loads the copying warp brings into L2 ahead.
//!
//! The computing warps hold what they load from global memory themselves, such as scales, in registers: that can come no
//! more than an iteration ahead, which is less time than DRAM takes. The warp that copies is ahead of them by the slots
//! of its rings, and has begun a program before they have ended the last. In front of its loop it starts to fetch what
//! the loop's first iterations load, as many as a box has room for, and in the first iteration of each box the next one.

use super::PassContext;
use super::rewrite::{EQUAL, UNSIGNED_LESS, compare, is_inside};
use super::tensor_maps::fetched_by;
use crate::gpu::launch::TensorMap;
use crate::gpu::ops::{GpuBuilder, GpuOp};
use std::convert::Infallible;
use tile_ir::passes::int_constant;
use tile_ir::types::{Op, Val, args_of, blocks_of, defining_op, operands_of, results_of, shape_of, type_of};
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
    map: TensorMap,
    /// The map's number among those of the launch.
    number: usize,
}

/// How a load of a loop's body is fetched ahead; none where its blocks do not follow one another, where its tensor has no
/// map for it, or where `numbered` has no number for the view's map.
pub(super) fn plan<'c>(
    module: &Module<'c>,
    cx: &PassContext,
    [op, load]: [Op<'c>; 2],
    numbered: impl FnOnce(Val<'c>, &TensorMap) -> Option<usize>,
) -> Option<Fetched<'c>> {
    let Some(GpuOp::GlobalLoad { view, index, .. }) = GpuOp::of(load) else { return None };
    let body = blocks_of(op)[0];
    let (variable, step) = (args_of(body)[0], operands_of(op)[2]);
    let along = index.iter().position(|i| *i == variable)?;
    let mut others = index.iter().enumerate().filter(|(dim, _)| *dim != along);
    let steps_by_one = defining_op(step).and_then(int_constant) == Some(1);
    if !steps_by_one || others.any(|(_, i)| is_inside(body, *i)) {
        return None;
    }
    let tile_shape = shape_of(type_of(results_of(load)[0]))?;
    let (iterations, map) = fetched_by(module, cx, view, (&tile_shape, along), MAX_ITERATIONS)?;
    let number = numbered(view, &map)?;
    Some(Fetched { view, index, tile_shape, along, iterations, map, number })
}

impl<'c> Fetched<'c> {
    /// Starts to fetch the box that an iteration begins, by the thread that copies; `index` is that of its load.
    pub fn fetch(&self, b: &Builder<'c>, index: &[Val<'c>]) {
        b.prefetch((self.view, index), (&self.tile_shape, &self.map.box_shape), self.number);
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
