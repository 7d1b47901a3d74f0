//! Writes the gpu-level module that the analyses decided on.

use super::demands::{Demands, MIN_ASYNC_BYTES, OperandPlan, before_broadcast, before_transpose};
use super::graph::{Graph, Key, Kind, key, op_key, tile_of};
use super::homes::vec_bytes;
use super::products::{Products, Split};
use super::{LayoutId, Layouts, PASS, PassContext, PassError};
use crate::gpu::dialect::{Smem, distributed_type};
use crate::gpu::ops::{GpuBuilder, MmaOperand};
use crate::gpu::passes::rewrite::like;
use crate::layout::{Conversion, conversion};
use melior::ir::attribute::DenseElementsAttribute;
use melior::ir::operation::OperationLike;
use melior::ir::{Block, BlockLike, Region, RegionLike, Type};
use std::collections::HashMap;
use tile_ir::context::Place;
use tile_ir::ops::ReduceKind;
use tile_ir::types::{
    Blk, Op, Val, args_of, attr, blocks_of, is_tile, operands_of, ops_of, results_of, set_attr, type_of,
};
use tile_ir::{Builder, Module, TileContext, TileOp};
use tile_lang::DType;

/// Writes the module.
pub(super) fn emit<'c>(
    source: &Module<'c>,
    graph: &Graph<'c>,
    products: &Products,
    demands: &Demands<'c>,
    cx: &mut PassContext,
    layouts: &mut Layouts,
) -> Result<Module<'c>, PassError> {
    let context = source.context();
    let module = Module::empty(context, source.mlir().as_operation().location());
    let function = source.function();
    let mut emitter = Emitter {
        context,
        graph,
        products,
        demands,
        cx,
        layouts,
        types: HashMap::new(),
        tiles: HashMap::new(),
        scalars: HashMap::new(),
        shared: HashMap::new(),
        entry: None,
    };
    let region = Region::new();
    let arguments: Vec<_> =
        args_of(graph.entry).into_iter().map(|a| (type_of(a), function.location())).collect();
    let block = region.append_block(Block::new(&arguments));
    // SAFETY: the region, which the function takes, owns the block.
    let block = unsafe { Blk::from_raw(block.to_raw()) };
    for (old, new) in args_of(graph.entry).into_iter().zip(args_of(block)) {
        emitter.scalars.insert(key(old), new);
    }
    emitter.entry = Some(block);
    let mut builder = Builder::at_end(context, block, function.location());
    emitter.block(&mut builder, graph.entry);
    builder.set_location(function.location());
    builder.op("func.return", &[], &[], &[]);
    let top = Builder::at_end(context, module.top(), function.location());
    let emitted = like(&top, function, &[], &[], vec![region]);
    for (name, value) in [("tgpu.num_warps", emitter.cx.num_warps), ("tgpu.min_ctas", emitter.cx.occupancy)] {
        set_attr(emitted, name, top.int(value as i64));
    }
    let target = melior::ir::attribute::StringAttribute::new(context, emitter.cx.target.name);
    set_attr(emitted, "tgpu.target", target.into());
    Ok(module)
}

struct Emitter<'a, 'c> {
    context: &'c TileContext,
    graph: &'a Graph<'c>,
    products: &'a Products,
    demands: &'a Demands<'c>,
    cx: &'a mut PassContext,
    layouts: &'a mut Layouts,
    types: HashMap<(DType, LayoutId), Type<'c>>,
    tiles: HashMap<(Key, LayoutId), Val<'c>>,
    scalars: HashMap<Key, Val<'c>>,
    /// Shared memory by load.
    shared: HashMap<Key, Val<'c>>,
    entry: Option<Blk<'c>>,
}

impl<'c> Emitter<'_, 'c> {
    fn block(&mut self, b: &mut Builder<'c>, block: Blk<'c>) {
        for op in ops_of(block) {
            b.set_location(op.location());
            match self.graph.kind(op).clone() {
                Kind::For => self.for_loop(b, op),
                Kind::While => self.while_loop(b, op),
                Kind::If => self.branch(b, op),
                Kind::Terminator => {}
                Kind::Scalar => {
                    let results: Vec<Type> = results_of(op).into_iter().map(type_of).collect();
                    let copy = self.copy(b, op, &results, |this, operand| this.scalars[&key(operand)]);
                    for (old, new) in results_of(op).into_iter().zip(results_of(copy)) {
                        self.scalars.insert(key(old), new);
                    }
                }
                Kind::Constant => self.constant(b, op),
                Kind::Elementwise => {
                    let at = *b;
                    self.make(b, op, |this, id, ty| {
                        results_of(this.copy(&at, op, &[ty], |this, operand| this.value(operand, id)))[0]
                    });
                }
                Kind::Tile(tile_op) => self.tile_op(b, op, &tile_op),
            }
        }
    }

    /// Copies an operation with other operands and result types.
    fn copy(
        &self,
        b: &Builder<'c>,
        op: Op<'c>,
        results: &[Type<'c>],
        operand: impl Fn(&Self, Val<'c>) -> Val<'c>,
    ) -> Op<'c> {
        let operands: Vec<Val> = op.operands().map(|o| operand(self, o)).collect();
        like(b, op, &operands, results, Vec::new())
    }

    fn ty(&mut self, dtype: DType, id: LayoutId) -> Type<'c> {
        let layout = self.layouts.get(id);
        let context = self.context;
        *self.types.entry((dtype, id)).or_insert_with(|| distributed_type(context, dtype, &layout))
    }

    /// A tile in a layout, or a scalar.
    fn value(&self, old: Val<'c>, id: LayoutId) -> Val<'c> {
        if is_tile(type_of(old)) { self.tiles[&(key(old), id)] } else { self.scalars[&key(old)] }
    }

    fn made(&self, value: Val<'c>) -> Vec<LayoutId> {
        self.demands.made.get(&key(value)).cloned().unwrap_or_default()
    }

    fn define(&mut self, old: Val<'c>, id: LayoutId, new: Val<'c>) {
        self.tiles.insert((key(old), id), new);
    }

    /// Converts a value from a layout in which it exists to those in which it is wanted.
    fn convert(&mut self, b: &Builder<'c>, value: Val<'c>, from: LayoutId, depth: usize) {
        for to in self.demands.wanted.get(&key(value)).cloned().unwrap_or_default() {
            if self.tiles.contains_key(&(key(value), to)) {
                continue;
            }
            let source = self.tiles[&(key(value), from)];
            let ty = self.ty(tile_of(value).1, to);
            let converted = b.value("tgpu.convert_layout", &[source], ty, &[]);
            self.define(value, to, converted);
            let (before, after) = (self.layouts.get(from), self.layouts.get(to));
            let way = match conversion(&before, &after) {
                Conversion::Identity | Conversion::Registers(_) => "within threads",
                Conversion::Shuffle(_) => "through shuffles",
                Conversion::Shared => "through shared memory",
            };
            let place = if depth > 0 { "in a loop" } else { "outside of loops" };
            let message = format!("a tile of shape {:?} changes layout {place}, {way}", before.shape);
            self.cx.remark(PASS, Place::of(b.location()), message);
        }
    }

    /// Makes a value in each layout in which its operation is to make it, then converts it to the others.
    fn make(
        &mut self,
        b: &Builder<'c>,
        op: Op<'c>,
        mut emit: impl FnMut(&mut Self, LayoutId, Type<'c>) -> Val<'c>,
    ) {
        let result = results_of(op)[0];
        let made = self.made(result);
        for &id in &made {
            let ty = self.ty(tile_of(result).1, id);
            let new = emit(self, id, ty);
            self.define(result, id, new);
        }
        if let Some(first) = made.first() {
            self.convert(b, result, *first, self.graph.depth(op));
        }
    }

    /// Writes to a view. If the kernel also reads it, every thread has done its earlier reads by then, and later
    /// reads see what every thread has written.
    fn between_barriers(&self, b: &Builder<'c>, view: Val<'c>, write: impl FnOnce(&Self)) {
        let updated = self.graph.is_updated(view);
        if updated {
            b.barrier();
        }
        write(self);
        if updated {
            b.barrier();
        }
    }

    fn tile_op(&mut self, b: &Builder<'c>, op: Op<'c>, tile_op: &TileOp<'c>) {
        let scalars = |this: &Self, values: &[Val<'c>]| -> Vec<Val<'c>> {
            values.iter().map(|v| this.scalars[&key(*v)]).collect()
        };
        match tile_op {
            TileOp::Load { view, index } => {
                let (view_new, index) = (self.scalars[&key(*view)], scalars(self, index));
                self.load(b, op, (*view, view_new), &index);
            }
            TileOp::Store { view, index, value } => {
                let (shape, dtype) = tile_of(*value);
                let width = vec_bytes(self.graph, *view, &shape, dtype, self.cx);
                let tile = self.value(*value, self.demands.taken[&op_key(op)]);
                self.between_barriers(b, *view, |this| {
                    b.global_store(this.scalars[&key(*view)], &scalars(this, index), tile, width);
                });
            }
            TileOp::Gather { view, index, mask } => self.make(b, op, |this, id, _| {
                let index: Vec<_> = index.iter().map(|i| this.value(*i, id)).collect();
                let mask = mask.map(|m| this.value(m, id));
                b.gather_tile(this.scalars[&key(*view)], &index, mask, &this.layouts.get(id))
            }),
            TileOp::Scatter { view, index, value, mask } => {
                let id = self.demands.taken[&op_key(op)];
                let index: Vec<_> = index.iter().map(|i| self.value(*i, id)).collect();
                let (value, mask) = (self.value(*value, id), mask.map(|m| self.value(m, id)));
                self.between_barriers(b, *view, |this| {
                    b.scatter_tile(this.scalars[&key(*view)], &index, value, mask);
                });
            }
            TileOp::Splat { scalar } => {
                self.make(b, op, |this, _, ty| b.value("tgpu.splat", &[this.scalars[&key(*scalar)]], ty, &[]))
            }
            TileOp::Iota => self.make(b, op, |_, _, ty| b.value("tgpu.iota", &[], ty, &[])),
            TileOp::Broadcast { tile } => self.make(b, op, |this, id, ty| {
                let before = before_broadcast(&this.layouts.get(id), &tile_of(*tile).0);
                let from = this.layouts.id(before);
                b.value("tgpu.broadcast", &[this.value(*tile, from)], ty, &[])
            }),
            TileOp::Reshape { tile } => self.make(b, op, |this, id, ty| {
                let before = this.layouts.get(id).reshape(&tile_of(*tile).0);
                let from = this.layouts.id(before);
                b.value("tgpu.reshape", &[this.value(*tile, from)], ty, &[])
            }),
            TileOp::Transpose { tile, perm } => self.make(b, op, |this, id, ty| {
                let before = before_transpose(&this.layouts.get(id), perm);
                let from = this.layouts.id(before);
                let perm = attr(op, "perm").expect("a transpose has a permutation");
                b.value("tgpu.transpose", &[this.value(*tile, from)], ty, &[("perm", perm)])
            }),
            TileOp::Reduce { tile, axis, kind } => self.make(b, op, |this, _, _| {
                let from = this.demands.taken[&op_key(op)];
                b.reduce_tile(this.value(*tile, from), *axis, *kind)
            }),
            TileOp::Mma { lhs, rhs, acc } => self.make(b, op, |this, id, ty| {
                let product = this.products[&op_key(op)].clone();
                let plans = this.demands.operands[&op_key(op)];
                let lhs = this.operand(b, *lhs, plans[0], product.lhs, product.dtype);
                let rhs = this.operand(b, *rhs, plans[1], product.rhs, product.dtype);
                let acc = this.value(*acc, id);
                match (product.split, product.parts) {
                    (Split::Warps(warps), Some(parts)) => {
                        let zeros = b.zeros(&this.layouts.get(parts));
                        let parts = b.mma_sync(lhs, rhs, zeros, warps, &product.order);
                        let sum = b.reduce_tile(parts, 0, ReduceKind::Sum);
                        b.same("arith.addf", &[acc, b.value("tgpu.reshape", &[sum], ty, &[])])
                    }
                    (Split::Warps(warps), None) => b.mma_sync(lhs, rhs, acc, warps, &product.order),
                    (Split::Groups(groups), _) if product.dtype == DType::F8E4M3FN => {
                        // Sums of 8-bit products keep 14 bits in the tensor cores: each starts from zero and is
                        // added up in f32.
                        let zeros = b.zeros(&this.layouts.get(id));
                        let sum = b.wgmma_wait(&[b.wgmma(lhs, rhs, zeros, groups)], 0)[0];
                        b.same("arith.addf", &[acc, sum])
                    }
                    (Split::Groups(groups), _) => b.wgmma_wait(&[b.wgmma(lhs, rhs, acc, groups)], 0)[0],
                }
            }),
            TileOp::MmaScaled { lhs, lhs_scales, rhs, rhs_scales, acc } => self.make(b, op, |this, id, _| {
                let product = this.products[&op_key(op)].clone();
                let plans = this.demands.operands[&op_key(op)];
                let lhs = this.operand(b, *lhs, plans[0], product.lhs, product.dtype);
                let rhs = this.operand(b, *rhs, plans[1], product.rhs, product.dtype);
                let [of_lhs, of_rhs] = product.scales.expect("a product with scales");
                let scales = [this.value(*lhs_scales, of_lhs), this.value(*rhs_scales, of_rhs)];
                let Split::Warps(warps) = product.split else {
                    unreachable!("products with scales are of warps")
                };
                b.mma_scaled_sync([lhs, rhs], scales, this.value(*acc, id), warps)
            }),
            TileOp::ProgramId { .. }
            | TileOp::NumPrograms { .. }
            | TileOp::Dim { .. }
            | TileOp::At { .. }
            | TileOp::Slice { .. }
            | TileOp::ArriveLast { .. }
            | TileOp::JoinParts { .. }
            | TileOp::Check { .. }
            | TileOp::Cast { .. } => {
                unreachable!("an operation on scalars or elements")
            }
        }
    }

    /// An operand of a product; f8 where no instruction takes it is widened to f16, which is exact.
    fn operand(
        &mut self,
        b: &Builder<'c>,
        operand: Val<'c>,
        plan: OperandPlan<'c>,
        fragment: LayoutId,
        dtype: DType,
    ) -> MmaOperand<'c> {
        if let OperandPlan::Shared(loaded) = plan {
            let smem = self.shared[&op_key(loaded.load)];
            let slot = b.int_const(DType::I32, 0);
            return MmaOperand::Shared { smem, slot, transposed: loaded.transposed };
        }
        let tile = self.value(operand, fragment);
        if tile_of(operand).1 == dtype {
            return MmaOperand::Registers(tile);
        }
        let wide = b.value("tile.cast", &[tile], self.ty(DType::F32, fragment), &[]);
        MmaOperand::Registers(b.value("arith.truncf", &[wide], self.ty(dtype, fragment), &[]))
    }

    /// A load: into registers, or into shared memory and from there to where it is wanted.
    fn load(&mut self, b: &Builder<'c>, op: Op<'c>, (old_view, view): (Val<'c>, Val<'c>), index: &[Val<'c>]) {
        let (shape, dtype) = tile_of(results_of(op)[0]);
        let width = vec_bytes(self.graph, old_view, &shape, dtype, self.cx);
        let Some(fragments) = self.demands.staged.get(&op_key(op)) else {
            return self.make(b, op, |this, id, _| b.global_load(view, index, width, &this.layouts.get(id)));
        };
        let cols = shape.last().copied().unwrap_or(1);
        let rows = shape.iter().product::<usize>() / cols;
        let entry = self.entry.expect("the function is being written");
        // What descriptors and tensor maps describe is cut into panels.
        let panels = self.cx.target.has_wgmma();
        let smem = if panels { Smem::panels(rows, cols, dtype, 1) } else { Smem::new(rows, cols, dtype, 1) };
        let smem = Builder::at_end(self.context, entry, b.location()).alloc(smem);
        let slot = b.int_const(DType::I32, 0);
        if self.graph.depth(op) > 0 {
            // The slot is written again: everyone must be done with it.
            b.barrier();
        }
        let asynchronous = width >= MIN_ASYNC_BYTES;
        b.copy_to_shared(asynchronous, (view, index), (smem, slot), &shape, width);
        if asynchronous {
            b.commit();
            b.wait(0);
        } else {
            let message =
                format!("a copy to shared memory is not asynchronous: its accesses are of {width} bytes");
            self.cx.remark(PASS, Place::of(op.location()), message);
        }
        b.barrier();
        self.shared.insert(op_key(op), smem);
        for fragment in fragments {
            let tile = b.local_load(smem, slot, fragment.transposed, &self.layouts.get(fragment.layout));
            self.define(fragment.operand, fragment.layout, tile);
        }
        self.make(b, op, |this, id, _| {
            let matrix = this.layouts.get(id).reshape(&[rows, cols]);
            let tile = b.local_load(smem, slot, false, &matrix);
            if shape.len() == 2 { tile } else { b.reshape_tile(tile, &shape) }
        });
    }

    fn constant(&mut self, b: &Builder<'c>, op: Op<'c>) {
        let value = attr(op, "value").expect("a constant has a value");
        let dense = DenseElementsAttribute::try_from(value).expect("a constant tile is dense");
        self.make(b, op, |_, _, ty| {
            b.value("arith.constant", &[], ty, &[("value", dense.reshape(ty).into())])
        });
    }

    /// A value as a loop or branch passes it on for `variable`, one of its results or block arguments.
    fn passed(&self, value: Val<'c>, variable: Val<'c>) -> Val<'c> {
        if is_tile(type_of(value)) {
            self.tiles[&(key(value), self.demands.carried[&key(variable)])]
        } else {
            self.scalars[&key(value)]
        }
    }

    fn passed_all(&self, values: &[Val<'c>], variables: &[Val<'c>]) -> Vec<Val<'c>> {
        values.iter().zip(variables).map(|(value, variable)| self.passed(*value, *variable)).collect()
    }

    fn variable_type(&mut self, variable: Val<'c>) -> Type<'c> {
        match self.demands.carried.get(&key(variable)) {
            Some(&id) => self.ty(tile_of(variable).1, id),
            None => type_of(variable),
        }
    }

    /// Makes block arguments or results known, in every layout in which they are wanted.
    fn bind(&mut self, b: &Builder<'c>, old: &[Val<'c>], new: &[Val<'c>], depth: usize) {
        for (&old, &new) in old.iter().zip(new) {
            match self.demands.carried.get(&key(old)).copied() {
                Some(id) => {
                    self.define(old, id, new);
                    self.convert(b, old, id, depth);
                }
                None => {
                    self.scalars.insert(key(old), new);
                }
            }
        }
    }

    /// A region with the operations of `block`, which ends with what `end` adds.
    fn region(
        &mut self,
        b: &Builder<'c>,
        block: Blk<'c>,
        depth: usize,
        end: impl FnOnce(&mut Self, &Builder<'c>, Op<'c>),
    ) -> Region<'c> {
        let old = args_of(block);
        let types: Vec<_> = old.iter().map(|a| (self.variable_type(*a), b.location())).collect();
        let region = Region::new();
        let new = region.append_block(Block::new(&types));
        // SAFETY: the region, which an operation of the module takes, owns the block.
        let new = unsafe { Blk::from_raw(new.to_raw()) };
        let mut inner = Builder::at_end(self.context, new, b.location());
        self.bind(&inner, &old, &args_of(new), depth);
        self.block(&mut inner, block);
        let terminator = ops_of(block).last().expect("a block has a terminator");
        inner.set_location(terminator.location());
        end(self, &inner, terminator);
        region
    }

    /// Adds the loop or branch itself and binds its results.
    fn finish(&mut self, b: &Builder<'c>, op: Op<'c>, operands: &[Val<'c>], regions: Vec<Region<'c>>) {
        let results = results_of(op);
        let types: Vec<Type> = results.iter().map(|r| self.variable_type(*r)).collect();
        let new = like(b, op, operands, &types, regions);
        self.bind(b, &results, &results_of(new), self.graph.depth(op));
    }

    fn for_loop(&mut self, b: &Builder<'c>, op: Op<'c>) {
        let (body, operands, results) = (blocks_of(op)[0], operands_of(op), results_of(op));
        let mut new: Vec<Val> = operands[..3].iter().map(|v| self.scalars[&key(*v)]).collect();
        new.extend(self.passed_all(&operands[3..], &results));
        let region = self.region(b, body, self.graph.depth(op) + 1, |this, b, end| {
            let values = this.passed_all(&operands_of(end), &results);
            b.op("scf.yield", &values, &[], &[]);
        });
        self.finish(b, op, &new, vec![region]);
    }

    fn while_loop(&mut self, b: &Builder<'c>, op: Op<'c>) {
        let (before, after) = (blocks_of(op)[0], blocks_of(op)[1]);
        let (results, variables) = (results_of(op), args_of(before));
        let depth = self.graph.depth(op) + 1;
        let new = self.passed_all(&operands_of(op), &variables);
        let test = self.region(b, before, depth, |this, b, end| {
            let operands = operands_of(end);
            let mut values = vec![this.scalars[&key(operands[0])]];
            values.extend(this.passed_all(&operands[1..], &results));
            b.op("scf.condition", &values, &[], &[]);
        });
        let body = self.region(b, after, depth, |this, b, end| {
            let values = this.passed_all(&operands_of(end), &variables);
            b.op("scf.yield", &values, &[], &[]);
        });
        self.finish(b, op, &new, vec![test, body]);
    }

    fn branch(&mut self, b: &Builder<'c>, op: Op<'c>) {
        let (results, depth) = (results_of(op), self.graph.depth(op));
        let mut regions = Vec::new();
        for block in blocks_of(op) {
            regions.push(self.region(b, block, depth, |this, b, end| {
                let values = this.passed_all(&operands_of(end), &results);
                b.op("scf.yield", &values, &[], &[]);
            }));
        }
        regions.resize_with(2, Region::new);
        let condition = self.scalars[&key(operands_of(op)[0])];
        self.finish(b, op, &[condition], regions);
    }
}
