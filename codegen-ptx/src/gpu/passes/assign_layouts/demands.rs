//! In which layouts each value is wanted, and in which of them its operation makes it.

use super::graph::{Graph, Key, Kind, LoadedOperand, carried, key, loaded_operand, op_key, tile_of};
use super::homes::{Homes, Strength, coalesced, row_major, vec_bytes};
use super::products::{Product, Products, Split};
use super::{LayoutId, Layouts, PASS, PassContext};
use crate::layout::LinearLayout;
use melior::ir::operation::OperationLike;
use std::collections::{HashMap, HashSet};
use tile_ir::TileOp;
use tile_ir::context::Place;
use tile_ir::types::{Blk, Op, Val, blocks_of, is_tile, operands_of, ops_of, results_of, type_of};
use tile_lang::DType;

/// The narrowest asynchronous copy.
pub(super) const MIN_ASYNC_BYTES: usize = 4;
/// The shortest rows that bulk copies take.
const MIN_BULK_BYTES: usize = 16;
/// Registers a thread needs besides the tiles of a product's loop.
const OTHER_REGISTERS: usize = 40;

/// How a product gets an operand.
#[derive(Clone, Copy, Debug)]
pub(super) enum OperandPlan<'c> {
    /// From registers, in the fragment layout.
    Registers,
    /// From the shared memory that the load fills, step by step along K.
    Shared(LoadedOperand<'c>),
}

/// A value that is a load's tile in other words, kept in registers as fragments of a product.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fragments<'c> {
    /// The product's operand.
    pub operand: Val<'c>,
    /// It is the transpose of the loaded matrix.
    pub transposed: bool,
    /// Its layout.
    pub layout: LayoutId,
}

/// What the analysis decides.
#[derive(Default)]
pub(super) struct Demands<'c> {
    /// Layouts in which the operation itself makes a value; none for a value nobody needs.
    pub made: HashMap<Key, Vec<LayoutId>>,
    /// All layouts in which a value is used; those that are not made are converted to.
    pub wanted: HashMap<Key, Vec<LayoutId>>,
    /// Layouts of the tiles that loops and branches pass on, by block argument and result.
    pub carried: HashMap<Key, LayoutId>,
    /// The layout of the tile that a store, scatter or reduction takes.
    pub taken: HashMap<Key, LayoutId>,
    /// Loads that go through shared memory, with the fragments to read at once.
    pub staged: HashMap<Key, Vec<Fragments<'c>>>,
    /// Operands of products: lhs, rhs.
    pub operands: HashMap<Key, [OperandPlan<'c>; 2]>,
}

/// Walks the kernel backward.
pub(super) fn collect<'c>(
    graph: &Graph<'c>,
    products: &Products,
    homes: &Homes,
    cx: &mut PassContext,
    layouts: &mut Layouts,
) -> Demands<'c> {
    let fragments = products
        .values()
        .flat_map(|p| [p.lhs, p.rhs].into_iter().chain(p.scales.into_iter().flatten()))
        .collect();
    let of_groups =
        products.values().filter(|p| matches!(p.split, Split::Groups(_))).map(|p| p.lhs).collect();
    let found = Demands::default();
    let mut walk = Walk { graph, products, homes, cx, layouts, fragments, of_groups, found };
    walk.block(graph.entry);
    walk.found
}

struct Walk<'a, 'c> {
    graph: &'a Graph<'c>,
    products: &'a Products,
    homes: &'a Homes,
    cx: &'a mut PassContext,
    layouts: &'a mut Layouts,
    /// Fragment layouts, also as seen through reshapes and transposes.
    fragments: HashSet<LayoutId>,
    /// Those of operands that `wgmma` takes from registers.
    of_groups: HashSet<LayoutId>,
    found: Demands<'c>,
}

/// The layout of a broadcast's operand that is spread to `layout` within threads.
pub(super) fn before_broadcast(layout: &LinearLayout, shape: &[usize]) -> LinearLayout {
    (0..shape.len())
        .filter(|&dim| shape[dim] == 1 && layout.shape[dim] != 1)
        .fold(layout.clone(), |layout, dim| layout.slice(dim))
}

/// The layout of a transpose's operand.
pub(super) fn before_transpose(layout: &LinearLayout, perm: &[usize]) -> LinearLayout {
    let mut inverse = vec![0; perm.len()];
    perm.iter().enumerate().for_each(|(to, &from)| inverse[from] = to);
    layout.transpose(&inverse)
}

impl<'c> Walk<'_, 'c> {
    fn block(&mut self, block: Blk<'c>) {
        let ops: Vec<Op<'c>> = ops_of(block).collect();
        for op in ops.into_iter().rev() {
            match self.graph.kind(op).clone() {
                kind @ (Kind::For | Kind::While | Kind::If) => self.control_flow(op, &kind),
                Kind::Constant | Kind::Elementwise => self.elementwise(op),
                Kind::Tile(tile_op) => self.tile_op(op, &tile_op),
                Kind::Scalar | Kind::Terminator => {}
            }
        }
    }

    fn want(&mut self, value: Val<'c>, layout: LayoutId) {
        let wanted = self.found.wanted.entry(key(value)).or_default();
        if !wanted.contains(&layout) {
            wanted.push(layout);
        }
    }

    fn wanted(&self, value: Val<'c>) -> Vec<LayoutId> {
        self.found.wanted.get(&key(value)).cloned().unwrap_or_default()
    }

    fn home(&self, value: Val<'c>) -> Option<(Strength, LayoutId)> {
        self.homes.get(&key(value)).copied()
    }

    fn guess(&mut self, value: Val<'c>) -> LayoutId {
        let (shape, _) = tile_of(value);
        self.layouts.id(row_major(&shape, self.cx.num_warps, 1))
    }

    /// The layouts in which an operation that is not bound to one makes its result.
    fn choose(&self, result: Val<'c>) -> Vec<LayoutId> {
        let wanted = self.wanted(result);
        match self.home(result) {
            _ if wanted.is_empty() => wanted,
            None => wanted,
            Some((Strength::Guess | Strength::Loaded, _)) if wanted.len() == 1 => wanted,
            Some((_, home)) => vec![home],
        }
    }

    fn control_flow(&mut self, op: Op<'c>, kind: &Kind<'c>) {
        let variables = carried(op, kind);
        for variable in &variables {
            let first = variable.values[0];
            let known = self.home(first).map(|(_, id)| id);
            let asked = variable.values.iter().find_map(|v| self.wanted(*v).first().copied());
            let id = match known.or(asked) {
                Some(id) => id,
                None => self.guess(first),
            };
            for value in &variable.values {
                self.found.carried.insert(key(*value), id);
            }
            for source in &variable.sources {
                self.want(*source, id);
            }
        }
        for block in blocks_of(op).into_iter().rev() {
            self.block(block);
        }
    }

    fn elementwise(&mut self, op: Op<'c>) {
        let result = results_of(op)[0];
        let made = self.choose(result);
        for layout in &made {
            for operand in operands_of(op).into_iter().filter(|o| is_tile(type_of(*o))) {
                self.want(operand, *layout);
            }
        }
        self.found.made.insert(key(result), made);
    }

    fn tile_op(&mut self, op: Op<'c>, tile_op: &TileOp<'c>) {
        let result = results_of(op).first().copied();
        let wanted = result.map(|r| self.wanted(r)).unwrap_or_default();
        if result.is_some() && wanted.is_empty() && !matches!(tile_op, TileOp::Load { .. }) {
            return;
        }
        let made = match tile_op {
            TileOp::Store { view, value, .. } => return self.store(op, *view, *value),
            TileOp::Scatter { index, value, mask, .. } => {
                let tiles: Vec<_> = [*value].iter().chain(index).chain(mask).copied().collect();
                let layout = self.common_home(&tiles);
                tiles.into_iter().for_each(|tile| self.want(tile, layout));
                self.found.taken.insert(op_key(op), layout);
                return;
            }
            TileOp::Load { view, .. } => self.load(op, *view, &wanted),
            TileOp::Splat { .. } | TileOp::Iota => wanted,
            TileOp::Broadcast { tile } => {
                let (shape, _) = tile_of(*tile);
                for id in &wanted {
                    let operand = before_broadcast(&self.layouts.get(*id), &shape);
                    let operand = self.layouts.id(operand);
                    self.follow(*id, operand);
                    self.want(*tile, operand);
                }
                wanted
            }
            TileOp::Reshape { tile } => {
                let (shape, _) = tile_of(*tile);
                self.rename(*tile, &wanted, |layout| layout.reshape(&shape));
                wanted
            }
            TileOp::Transpose { tile, perm } => {
                self.rename(*tile, &wanted, |layout| before_transpose(layout, perm));
                wanted
            }
            TileOp::Reduce { tile, axis, .. } => {
                let from = match self.home(*tile) {
                    Some((_, id)) => id,
                    None => self.guess(*tile),
                };
                self.want(*tile, from);
                self.found.taken.insert(op_key(op), from);
                vec![self.layouts.id(self.layouts.get(from).slice(*axis))]
            }
            TileOp::Gather { index, mask, .. } => {
                let tiles: Vec<_> = index.iter().chain(mask).copied().collect();
                let free = tiles.iter().all(|t| self.home(*t).is_none());
                let layout = match (free, &wanted[..]) {
                    (true, [only]) => *only,
                    _ => self.common_home(&[result.unwrap_or(tiles[0])]),
                };
                tiles.into_iter().for_each(|tile| self.want(tile, layout));
                vec![layout]
            }
            TileOp::Mma { lhs, rhs, acc } => {
                let product = self.products[&op_key(op)].clone();
                self.want(*acc, product.acc);
                let plans = [
                    self.operand(op, &product, *lhs, product.lhs),
                    self.operand(op, &product, *rhs, product.rhs),
                ];
                self.found.operands.insert(op_key(op), plans);
                vec![product.acc]
            }
            TileOp::MmaScaled { lhs, lhs_scales, rhs, rhs_scales, acc } => {
                let product = self.products[&op_key(op)].clone();
                self.want(*acc, product.acc);
                let plans = [
                    self.operand(op, &product, *lhs, product.lhs),
                    self.operand(op, &product, *rhs, product.rhs),
                ];
                self.found.operands.insert(op_key(op), plans);
                let layouts = product.scales.into_iter().flatten();
                for (scales, layout) in [*lhs_scales, *rhs_scales].into_iter().zip(layouts) {
                    self.want(scales, layout);
                }
                vec![product.acc]
            }
            TileOp::ProgramId { .. }
            | TileOp::NumPrograms { .. }
            | TileOp::Dim { .. }
            | TileOp::At { .. }
            | TileOp::Slice { .. }
            | TileOp::ArriveLast { .. }
            | TileOp::JoinParts { .. }
            | TileOp::Check { .. }
            | TileOp::Cast { .. } => {
                return;
            }
        };
        if let Some(result) = result {
            self.found.made.insert(key(result), made);
        }
    }

    /// The strongest home among tiles of one shape.
    fn common_home(&mut self, tiles: &[Val<'c>]) -> LayoutId {
        let strongest =
            tiles.iter().filter_map(|t| self.home(*t)).rev().max_by_key(|(strength, _)| *strength);
        match strongest {
            Some((_, id)) => id,
            None => self.guess(tiles[0]),
        }
    }

    /// Wants the operand of a reshape or transpose in the layouts that become those wanted of the result.
    fn rename(&mut self, tile: Val<'c>, wanted: &[LayoutId], back: impl Fn(&LinearLayout) -> LinearLayout) {
        for id in wanted {
            let before = back(&self.layouts.get(*id));
            let before = self.layouts.id(before);
            self.follow(*id, before);
            self.want(tile, before);
        }
    }

    /// A layout that becomes a fragment's by renaming is one too.
    fn follow(&mut self, id: LayoutId, before: LayoutId) {
        for set in [&mut self.fragments, &mut self.of_groups] {
            if set.contains(&id) {
                set.insert(before);
            }
        }
    }

    /// A store takes the tile as it is, unless that gives narrow accesses where wide ones are possible.
    fn store(&mut self, op: Op<'c>, view: Val<'c>, value: Val<'c>) {
        let (shape, dtype) = tile_of(value);
        let widest = vec_bytes(self.graph, view, &shape, dtype, self.cx);
        let best = coalesced(self.graph, view, &shape, dtype, self.cx);
        let last = shape.len() - 1;
        let width = |layout: &LinearLayout| {
            (layout.contiguous_registers(last) * dtype.bits() as usize / 8).min(widest)
        };
        let layout = match self.home(value) {
            Some((_, home)) if width(&self.layouts.get(home)) >= width(&best) => home,
            _ => self.layouts.id(best),
        };
        self.want(value, layout);
        self.found.taken.insert(op_key(op), layout);
    }

    /// A load that products read goes through shared memory, and so does one that is wanted as fragments;
    /// others are made in the one layout wanted, or at home.
    fn load(&mut self, op: Op<'c>, view: Val<'c>, wanted: &[LayoutId]) -> Vec<LayoutId> {
        let result = results_of(op)[0];
        let is_fragment = wanted.iter().any(|id| self.fragments.contains(id));
        if is_fragment && self.can_be_staged(view, result) && !self.is_better_read(result, wanted) {
            self.found.staged.entry(op_key(op)).or_default();
        }
        let staged = self.found.staged.contains_key(&op_key(op));
        match (wanted, self.home(result)) {
            (many, Some((_, home))) if many.len() > 1 && !staged => vec![home],
            _ => wanted.to_vec(),
        }
    }

    /// Whether threads should read a tile themselves: for `wgmma`, whose loops have a warp that copies as long as all
    /// their copies can be bulk copies, if its rows are too short for one.
    fn is_better_read(&self, tile: Val<'c>, wanted: &[LayoutId]) -> bool {
        let (shape, dtype) = tile_of(tile);
        let row_bytes = shape.last().map_or(1, |cols| cols * dtype.bits() as usize / 8);
        let copied = self.cx.switches.warp_specialize && self.cx.num_stages > 1;
        copied && row_bytes < MIN_BULK_BYTES && wanted.iter().any(|id| self.of_groups.contains(id))
    }

    /// Whether a tile can lie in shared memory as it does in the tensor: 4-bit elements only if no copy splits a
    /// byte.
    fn can_be_staged(&self, view: Val<'c>, tile: Val<'c>) -> bool {
        let (shape, dtype) = tile_of(tile);
        dtype != DType::F4E2M1FN || vec_bytes(self.graph, view, &shape, dtype, self.cx) >= MIN_ASYNC_BYTES
    }

    /// Plans an operand of a product: loads stay in shared memory, or are read once when they are invariant in
    /// the product's loop and registers suffice; computed tiles are in registers.
    fn operand(
        &mut self,
        op: Op<'c>,
        product: &Product,
        operand: Val<'c>,
        fragment: LayoutId,
    ) -> OperandPlan<'c> {
        let (_, dtype) = tile_of(operand);
        let loaded = loaded_operand(self.graph, operand).filter(|_| dtype == product.dtype);
        let loaded = loaded.filter(|loaded| match self.graph.kind(loaded.load) {
            Kind::Tile(TileOp::Load { view, .. }) => self.can_be_staged(*view, results_of(loaded.load)[0]),
            _ => false,
        });
        let Some(loaded) = loaded else {
            self.want(operand, fragment);
            return OperandPlan::Registers;
        };
        let staged = op_key(loaded.load);
        let by_wgmma = matches!(product.split, Split::Groups(_));
        if !by_wgmma && self.graph.depth(loaded.load) < self.graph.depth(op) {
            let registers = self.layouts.get(fragment).num_registers() * dtype.bits() as usize / 32;
            let (used, available) = (self.loop_registers(op), self.cx.registers_per_thread());
            let place = Place::of(loaded.load.location());
            if registers + used <= available {
                self.cx.remark(PASS, place, format!("operand is read once, into {registers} registers"));
                let fragments = Fragments { operand, transposed: loaded.transposed, layout: fragment };
                let list = self.found.staged.entry(staged).or_default();
                if !list.iter().any(|f| f.operand == operand && f.layout == fragment) {
                    list.push(fragments);
                }
                return OperandPlan::Registers;
            }
            let why = format!(
                "operand stays in shared memory: {registers} registers on top of {used} are more than {available}"
            );
            self.cx.remark(PASS, place, why);
        }
        self.found.staged.entry(staged).or_default();
        OperandPlan::Shared(loaded)
    }

    /// Registers for the accumulators of the loop that a product is in, and what else a thread needs.
    fn loop_registers(&self, op: Op<'c>) -> usize {
        let parent = op.parent_operation();
        let in_loop = self.graph.ops.iter().filter(|(other, ..)| other.parent_operation() == parent);
        let products = in_loop.filter_map(|(other, ..)| self.products.get(&op_key(*other)));
        products.map(|p| self.layouts.get(p.acc).num_registers()).sum::<usize>() + OTHER_REGISTERS
    }
}
