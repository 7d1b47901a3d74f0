//! The layout in which each value is computed, unless all its uses agree on another.

use super::graph::{Graph, Key, Kind, carried, key, op_key, tile_of};
use super::products::Products;
use super::{LayoutId, Layouts, PassContext};
use crate::gpu::facts::TensorFacts;
use crate::layout::{LinearLayout, blocked};
use std::collections::HashMap;
use tile_ir::TileOp;
use tile_ir::types::{Op, Val, is_tile, operands_of, results_of, type_of};
use tile_lang::DType;

/// How much speaks for a layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Strength {
    /// Any layout does.
    Guess,
    /// A load or gather is coalesced in it.
    Loaded,
    /// An accumulator has it.
    Product,
}

/// Homes by value. Values that cost nothing to make in any layout have none.
pub(super) type Homes = HashMap<Key, (Strength, LayoutId)>;

/// The layout of whole vectors of `vec_elems` in row-major order, spread over as many threads as there are.
pub(super) fn row_major(shape: &[usize], num_warps: usize, vec_elems: usize) -> LinearLayout {
    let order: Vec<usize> = (0..shape.len()).rev().collect();
    // Wider vectors than there are elements for each thread would leave threads idle.
    let share = (shape.iter().product::<usize>() / (32 * num_warps)).max(1);
    blocked(shape, num_warps, vec_elems.min(share).max(1), &order)
}

/// The layout in which a block of a view is moved best.
pub(super) fn coalesced(
    graph: &Graph,
    view: Val,
    shape: &[usize],
    dtype: DType,
    cx: &PassContext,
) -> LinearLayout {
    let (bytes, bits) = (vec_bytes(graph, view, shape, dtype, cx), dtype.bits() as usize);
    let elems = bytes * 8 / bits;
    match (dtype, bytes) {
        // Rows of 4-bit elements may start with either half of a byte.
        (DType::F4E2M1FN, 1) => row_major(shape, cx.num_warps, 1),
        // Idle threads are better than accesses of less than a byte.
        (DType::F4E2M1FN, _) => {
            let share = shape.iter().product::<usize>() / (32 * cx.num_warps);
            let order: Vec<usize> = (0..shape.len()).rev().collect();
            blocked(shape, cx.num_warps, elems.min(share.max(4)), &order)
        }
        _ => row_major(shape, cx.num_warps, elems),
    }
}

/// The widest access to blocks of a view.
pub(super) fn vec_bytes(graph: &Graph, view: Val, shape: &[usize], dtype: DType, cx: &PassContext) -> usize {
    let (bytes, bits) = ((dtype.bits() as usize).div_ceil(8), dtype.bits() as usize);
    TensorFacts::of_view(&cx.facts, &graph.views, view).map_or(bytes, |f| f.vec_bytes(shape, bits))
}

/// Spreads layouts forward until nothing changes.
pub(super) fn spread(graph: &Graph, products: &Products, cx: &PassContext, layouts: &mut Layouts) -> Homes {
    let mut spread = Spread { graph, products, cx, layouts, homes: Homes::new() };
    while spread.round() || spread.guess_carried() {}
    spread.homes
}

struct Spread<'a, 'c> {
    graph: &'a Graph<'c>,
    products: &'a Products,
    cx: &'a PassContext,
    layouts: &'a mut Layouts,
    homes: Homes,
}

impl<'c> Spread<'_, 'c> {
    /// One pass over all operations; true when a home changed. Homes only get stronger, so this ends.
    fn round(&mut self) -> bool {
        let mut changed = false;
        for (op, kind, _) in &self.graph.ops {
            match kind {
                Kind::For | Kind::While | Kind::If => {
                    for variable in carried(*op, kind) {
                        let known = variable.sources.iter().chain(&variable.values);
                        let Some(home) = self.strongest(known.copied()) else { continue };
                        for value in variable.values {
                            changed |= self.settle(value, home);
                        }
                    }
                }
                Kind::Constant | Kind::Scalar | Kind::Terminator => {}
                Kind::Elementwise | Kind::Tile(_) => {
                    let Some(result) = results_of(*op).into_iter().find(|r| is_tile(type_of(*r))) else {
                        continue;
                    };
                    if let Some(home) = self.home_of(*op, kind) {
                        changed |= self.settle(result, home);
                    }
                }
            }
        }
        changed
    }

    /// Gives one carried tile that nothing has a layout for a layout; false when there is none.
    fn guess_carried(&mut self) -> bool {
        for (op, kind, _) in &self.graph.ops {
            if !matches!(kind, Kind::For | Kind::While) {
                continue;
            }
            for variable in carried(*op, kind) {
                if !self.homes.contains_key(&key(variable.values[0])) {
                    let (shape, _) = tile_of(variable.values[0]);
                    let id = self.layouts.id(row_major(&shape, self.cx.num_warps, 1));
                    return self.settle(variable.values[0], (Strength::Guess, id));
                }
            }
        }
        false
    }

    /// Sets a home that is stronger than what is known.
    fn settle(&mut self, value: Val<'c>, home: (Strength, LayoutId)) -> bool {
        let known = self.homes.entry(key(value));
        match known {
            std::collections::hash_map::Entry::Occupied(mut entry) => {
                let stronger = home.0 > entry.get().0;
                if stronger {
                    entry.insert(home);
                }
                stronger
            }
            std::collections::hash_map::Entry::Vacant(entry) => {
                entry.insert(home);
                true
            }
        }
    }

    /// The first of the strongest homes.
    fn strongest(&self, values: impl Iterator<Item = Val<'c>>) -> Option<(Strength, LayoutId)> {
        let mut best: Option<(Strength, LayoutId)> = None;
        for value in values {
            if let Some(&home) = self.homes.get(&key(value))
                && best.is_none_or(|b| home.0 > b.0)
            {
                best = Some(home);
            }
        }
        best
    }

    /// The home that follows from the operands.
    fn home_of(&mut self, op: Op<'c>, kind: &Kind<'c>) -> Option<(Strength, LayoutId)> {
        let result = results_of(op)[0];
        let (shape, dtype) = tile_of(result);
        let operand_home = |homes: &Homes, tile: Val<'c>| homes.get(&key(tile)).copied();
        match kind {
            Kind::Tile(TileOp::Mma { .. } | TileOp::MmaScaled { .. }) => {
                Some((Strength::Product, self.products[&op_key(op)].acc))
            }
            Kind::Tile(TileOp::Load { view, .. }) => {
                let layout = coalesced(self.graph, *view, &shape, dtype, self.cx);
                Some((Strength::Loaded, self.layouts.id(layout)))
            }
            Kind::Tile(TileOp::Gather { .. }) => {
                let from_index = self.strongest(operands_of(op).into_iter());
                let coalesced = || row_major(&shape, self.cx.num_warps, 1);
                Some(match from_index {
                    // Indices that were broadcast lie in each thread; its elements are each read by one.
                    Some(home) if home.0 > Strength::Guess => home,
                    _ => (Strength::Loaded, self.layouts.id(coalesced())),
                })
            }
            Kind::Tile(TileOp::Reshape { tile }) => {
                let (strength, id) = operand_home(&self.homes, *tile)?;
                Some((strength, self.layouts.id(self.layouts.get(id).reshape(&shape))))
            }
            Kind::Tile(TileOp::Transpose { tile, perm }) => {
                let (strength, id) = operand_home(&self.homes, *tile)?;
                Some((strength, self.layouts.id(self.layouts.get(id).transpose(perm))))
            }
            Kind::Tile(TileOp::Broadcast { tile }) => {
                let (_, id) = operand_home(&self.homes, *tile)?;
                let layout = self.layouts.get(id).broadcast(&shape)?;
                Some((Strength::Guess, self.layouts.id(layout)))
            }
            Kind::Tile(TileOp::Reduce { tile, axis, .. }) => {
                let (strength, id) = match operand_home(&self.homes, *tile) {
                    Some(home) => home,
                    None => {
                        let (from, _) = tile_of(*tile);
                        (Strength::Guess, self.layouts.id(row_major(&from, self.cx.num_warps, 1)))
                    }
                };
                Some((strength, self.layouts.id(self.layouts.get(id).slice(*axis))))
            }
            Kind::Elementwise => {
                let tiles = operands_of(op).into_iter().filter(|v| is_tile(type_of(*v)));
                self.strongest(tiles)
            }
            _ => None,
        }
    }
}
