//! How to make each operation of the `tgpu` dialect.

use super::dialect::{Smem, distributed_type, layout_of};
use super::ops::MmaOperand;
use crate::layout::LinearLayout;
use crate::layout::mma::KOrder;
use melior::ir::Type;
use melior::ir::attribute::{
    Attribute, BoolAttribute, DenseElementsAttribute, DenseI32ArrayAttribute, DenseI64ArrayAttribute,
    StringAttribute,
};
use tile_ir::Builder;
use tile_ir::ops::{ReduceKind, reduce_name};
use tile_ir::types::{Op, Val, dtype_of, element_type, results_of, type_of, view_of};
use tile_lang::DType;

/// The dtype of a tile or scalar that a pass made or verified.
fn dtype(value: Val) -> DType {
    dtype_of(type_of(value)).expect("a value with a dtype")
}

/// Makes operations of the tgpu dialect with a [`Builder`].
///
/// # Panics
/// The methods panic on operands of the wrong kind, which is a mistake in the pass that calls them.
pub trait GpuBuilder<'c> {
    /// The builder of the place.
    fn builder(&self) -> &Builder<'c>;

    /// The type of a tile in registers.
    fn distributed(&self, dtype: DType, layout: &LinearLayout) -> Type<'c> {
        distributed_type(self.builder().context(), dtype, layout)
    }

    /// `tgpu.alloc`.
    fn alloc(&self, smem: Smem) -> Val<'c> {
        self.builder().value("tgpu.alloc", &[], smem.ty(self.builder().context()), &[])
    }

    /// `tgpu.async_copy`, or `tgpu.copy` when the threads are to copy themselves.
    fn copy_to_shared(
        &self,
        asynchronous: bool,
        (view, index): (Val<'c>, &[Val<'c>]),
        (smem, slot): (Val<'c>, Val<'c>),
        tile_shape: &[usize],
        vec_bytes: usize,
    ) -> Op<'c> {
        let b = self.builder();
        let operands: Vec<_> = [view].iter().chain(index).chain(&[smem, slot]).copied().collect();
        let attributes = [("tile_shape", sizes_attr(b, tile_shape)), ("vec_bytes", b.int(vec_bytes as i64))];
        let name = if asynchronous { "tgpu.async_copy" } else { "tgpu.copy" };
        b.op(name, &operands, &[], &attributes)
    }

    /// `tgpu.commit`.
    fn commit(&self) -> Op<'c> {
        self.builder().op("tgpu.commit", &[], &[], &[])
    }

    /// `tgpu.wait`.
    fn wait(&self, pending: usize) -> Op<'c> {
        self.builder().op("tgpu.wait", &[], &[], &[("pending", self.builder().int(pending as i64))])
    }

    /// `tgpu.barrier`.
    fn barrier(&self) -> Op<'c> {
        self.builder().op("tgpu.barrier", &[], &[], &[])
    }

    /// `tgpu.group_barrier`.
    fn group_barrier(&self) -> Op<'c> {
        self.builder().op("tgpu.group_barrier", &[], &[], &[])
    }

    /// `tgpu.local_load`.
    fn local_load(&self, smem: Val<'c>, slot: Val<'c>, transposed: bool, layout: &LinearLayout) -> Val<'c> {
        let b = self.builder();
        let element = Smem::of(type_of(smem)).expect("shared memory").dtype;
        let flag = BoolAttribute::new(b.context(), transposed).into();
        b.value("tgpu.local_load", &[smem, slot], self.distributed(element, layout), &[("transposed", flag)])
    }

    /// `tgpu.local_store`.
    fn local_store(&self, tile: Val<'c>, smem: Val<'c>, slot: Val<'c>) -> Op<'c> {
        self.builder().op("tgpu.local_store", &[tile, smem, slot], &[], &[])
    }

    /// `tgpu.global_load`.
    fn global_load(
        &self,
        view: Val<'c>,
        index: &[Val<'c>],
        vec_bytes: usize,
        layout: &LinearLayout,
    ) -> Val<'c> {
        let b = self.builder();
        let element = view_of(type_of(view)).expect("a view").dtype;
        let operands: Vec<_> = [view].iter().chain(index).copied().collect();
        let attributes = [("vec_bytes", b.int(vec_bytes as i64))];
        b.value("tgpu.global_load", &operands, self.distributed(element, layout), &attributes)
    }

    /// `tgpu.global_store`.
    fn global_store(&self, view: Val<'c>, index: &[Val<'c>], tile: Val<'c>, vec_bytes: usize) -> Op<'c> {
        let b = self.builder();
        let operands: Vec<_> = [view].iter().chain(index).chain(&[tile]).copied().collect();
        b.op("tgpu.global_store", &operands, &[], &[("vec_bytes", b.int(vec_bytes as i64))])
    }

    /// `tgpu.gather`.
    fn gather_tile(
        &self,
        view: Val<'c>,
        index: &[Val<'c>],
        mask: Option<Val<'c>>,
        layout: &LinearLayout,
    ) -> Val<'c> {
        let b = self.builder();
        let element = view_of(type_of(view)).expect("a view").dtype;
        let operands: Vec<_> = [view].iter().chain(index).chain(&mask).copied().collect();
        let segments = segments_attr(b, &[1, index.len(), usize::from(mask.is_some())]);
        b.value("tgpu.gather", &operands, self.distributed(element, layout), &[segments])
    }

    /// `tgpu.scatter`.
    fn scatter_tile(
        &self,
        view: Val<'c>,
        index: &[Val<'c>],
        value: Val<'c>,
        mask: Option<Val<'c>>,
    ) -> Op<'c> {
        let b = self.builder();
        let operands: Vec<_> = [view].iter().chain(index).chain(&[value]).chain(&mask).copied().collect();
        let segments = segments_attr(b, &[1, index.len(), 1, usize::from(mask.is_some())]);
        b.op("tgpu.scatter", &operands, &[], &[segments])
    }

    /// `tgpu.convert_layout`.
    fn convert_layout(&self, tile: Val<'c>, layout: &LinearLayout) -> Val<'c> {
        self.builder().value("tgpu.convert_layout", &[tile], self.distributed(dtype(tile), layout), &[])
    }

    /// `tgpu.mma_sync`.
    fn mma_sync(
        &self,
        lhs: MmaOperand<'c>,
        rhs: MmaOperand<'c>,
        acc: Val<'c>,
        warps: [usize; 2],
        order: &KOrder,
    ) -> Val<'c> {
        let b = self.builder();
        let (operands, mut attributes) = product_parts(b, [lhs, rhs], &[acc], ("warps", warps));
        if *order != KOrder::default() {
            attributes.push(("k_order", sizes_attr(b, &order.0)));
        }
        b.value("tgpu.mma_sync", &operands, type_of(acc), &attributes)
    }

    /// `tgpu.wgmma`.
    fn wgmma(&self, lhs: MmaOperand<'c>, rhs: MmaOperand<'c>, acc: Val<'c>, groups: [usize; 2]) -> Val<'c> {
        self.wgmma_of_rows(lhs, (rhs, 0), acc, groups)
    }

    /// `tgpu.wgmma` of an lhs and as many rows of the rhs, from `k_first` on.
    fn wgmma_of_rows(
        &self,
        lhs: MmaOperand<'c>,
        (rhs, k_first): (MmaOperand<'c>, usize),
        acc: Val<'c>,
        groups: [usize; 2],
    ) -> Val<'c> {
        let b = self.builder();
        let (operands, mut attributes) = product_parts(b, [lhs, rhs], &[acc], ("groups", groups));
        if k_first > 0 {
            attributes.push(("k_first", b.int(k_first as i64)));
        }
        b.value("tgpu.wgmma", &operands, type_of(acc), &attributes)
    }

    /// The type of `count` columns of a tile; none where other than register bits tell the columns apart.
    fn columns_type(&self, tile: Val<'c>, count: usize) -> Option<Type<'c>> {
        let layout = layout_of(type_of(tile))?.first_columns(count)?;
        Some(self.distributed(dtype(tile), &layout))
    }

    /// `tgpu.columns`.
    fn columns(&self, tile: Val<'c>, first: usize, count: usize) -> Val<'c> {
        let b = self.builder();
        let ty = self.columns_type(tile, count).expect("columns that register bits tell apart");
        b.value("tgpu.columns", &[tile], ty, &[("first", b.int(first as i64))])
    }

    /// `tgpu.wgmma_wait`.
    fn wgmma_wait(&self, tiles: &[Val<'c>], pending: usize) -> Vec<Val<'c>> {
        let b = self.builder();
        let types: Vec<Type> = tiles.iter().map(|t| type_of(*t)).collect();
        results_of(b.op("tgpu.wgmma_wait", tiles, &types, &[("pending", b.int(pending as i64))]))
    }

    /// `tgpu.prefetch`.
    fn prefetch(
        &self,
        (view, index): (Val<'c>, &[Val<'c>]),
        (tile_shape, box_shape): (&[usize], &[usize]),
        map: usize,
    ) -> Op<'c> {
        let b = self.builder();
        let operands: Vec<_> = [view].iter().chain(index).copied().collect();
        b.op("tgpu.prefetch", &operands, &[], &box_attributes(b, (tile_shape, box_shape), map))
    }

    /// `tgpu.fence_async`.
    fn fence_async(&self) -> Op<'c> {
        self.builder().op("tgpu.fence_async", &[], &[], &[])
    }

    /// `tgpu.open_turns`.
    fn open_turns(&self) -> Op<'c> {
        self.builder().op("tgpu.open_turns", &[], &[], &[])
    }

    /// `tgpu.take_turn`.
    fn take_turn(&self) -> Op<'c> {
        self.builder().op("tgpu.take_turn", &[], &[], &[])
    }

    /// `tgpu.give_turn`.
    fn give_turn(&self) -> Op<'c> {
        self.builder().op("tgpu.give_turn", &[], &[], &[])
    }

    /// `tgpu.close_turns`.
    fn close_turns(&self) -> Op<'c> {
        self.builder().op("tgpu.close_turns", &[], &[], &[])
    }

    /// `tgpu.bulk_store`.
    fn bulk_store(
        &self,
        (view, index): (Val<'c>, &[Val<'c>]),
        (smem, slot): (Val<'c>, Val<'c>),
        (tile_shape, box_shape): (&[usize], &[usize]),
        (map, groups): (usize, usize),
    ) -> Op<'c> {
        let b = self.builder();
        let operands: Vec<_> = [view].iter().chain(index).chain(&[smem, slot]).copied().collect();
        let mut attributes = box_attributes(b, (tile_shape, box_shape), map);
        attributes.push(("groups", b.int(groups as i64)));
        b.op("tgpu.bulk_store", &operands, &[], &attributes)
    }

    /// `tgpu.bulk_wait`.
    fn bulk_wait(&self, smem: Val<'c>, read: bool) -> Op<'c> {
        let b = self.builder();
        let flag = BoolAttribute::new(b.context(), read).into();
        b.op("tgpu.bulk_wait", &[smem], &[], &[("read", flag)])
    }

    /// `tgpu.mbarriers`.
    fn mbarriers(&self, count: usize, arrivals: usize) -> Val<'c> {
        let b = self.builder();
        let ty = Smem::new(1, count, DType::I64, 1).ty(b.context());
        b.value("tgpu.mbarriers", &[], ty, &[("arrivals", b.int(arrivals as i64))])
    }

    /// `tgpu.producer`.
    fn producer(&self, warps: usize, registers: Option<[usize; 2]>) -> Val<'c> {
        let b = self.builder();
        let ty = tile_ir::types::element_type(b.context(), DType::Bool);
        let registers = registers.map(|counts| ("registers", sizes_attr(b, &counts)));
        let attributes: Vec<_> = [("warps", b.int(warps as i64))].into_iter().chain(registers).collect();
        b.value("tgpu.producer", &[], ty, &attributes)
    }

    /// `tgpu.enter_cluster`.
    fn enter_cluster(&self) -> Op<'c> {
        self.builder().op("tgpu.enter_cluster", &[], &[], &[])
    }

    /// `tgpu.expect`.
    fn expect(&self, barriers: Val<'c>, slot: Val<'c>, bytes: usize) -> Op<'c> {
        let b = self.builder();
        b.op("tgpu.expect", &[barriers, slot], &[], &[("bytes", b.int(bytes as i64))])
    }

    /// `tgpu.tma_copy`.
    fn tma_copy(
        &self,
        (view, index): (Val<'c>, &[Val<'c>]),
        [smem, barriers, slot]: [Val<'c>; 3],
        (tile_shape, box_shape): (&[usize], &[usize]),
        (map, rounds): (usize, bool),
    ) -> Op<'c> {
        let b = self.builder();
        let operands: Vec<_> = [view].iter().chain(index).chain(&[smem, barriers, slot]).copied().collect();
        let mut attributes = box_attributes(b, (tile_shape, box_shape), map);
        if rounds {
            attributes.push(("rounds", BoolAttribute::new(b.context(), true).into()));
        }
        b.op("tgpu.tma_copy", &operands, &[], &attributes)
    }

    /// `tgpu.mbarrier_wait`.
    fn mbarrier_wait(&self, barriers: Val<'c>, slot: Val<'c>, parity: Val<'c>) -> Op<'c> {
        self.builder().op("tgpu.mbarrier_wait", &[barriers, slot, parity], &[], &[])
    }

    /// `tgpu.mbarrier_arrive`.
    fn mbarrier_arrive(&self, barriers: Val<'c>, slot: Val<'c>, loaded: bool) -> Op<'c> {
        let b = self.builder();
        let loaded = loaded.then(|| ("loaded", BoolAttribute::new(b.context(), true).into()));
        b.op("tgpu.mbarrier_arrive", &[barriers, slot], &[], loaded.as_slice())
    }

    /// `tgpu.has_rows`.
    fn has_rows(&self, first: Val<'c>, extent: Val<'c>, steps: &[usize]) -> Val<'c> {
        let b = self.builder();
        let ty = tile_ir::types::element_type(b.context(), DType::Bool);
        b.value("tgpu.has_rows", &[first, extent], ty, &[("steps", sizes_attr(b, steps))])
    }

    /// `tgpu.mma_scaled_sync`.
    fn mma_scaled_sync(
        &self,
        operands: [MmaOperand<'c>; 2],
        scales: [Val<'c>; 2],
        acc: Val<'c>,
        warps: [usize; 2],
    ) -> Val<'c> {
        let b = self.builder();
        let (operands, attributes) =
            product_parts(b, operands, &[scales[0], scales[1], acc], ("warps", warps));
        b.value("tgpu.mma_scaled_sync", &operands, type_of(acc), &attributes)
    }

    /// `tgpu.reduce`.
    fn reduce_tile(&self, tile: Val<'c>, axis: usize, kind: ReduceKind) -> Val<'c> {
        let b = self.builder();
        let layout = layout_of(type_of(tile)).expect("a tile with a layout").slice(axis);
        let name = StringAttribute::new(b.context(), reduce_name(kind)).into();
        let attributes = [("axis", b.int(axis as i64)), ("kind", name)];
        b.value("tgpu.reduce", &[tile], self.distributed(dtype(tile), &layout), &attributes)
    }

    /// `tgpu.reduce_registers`, along an axis that no warps share.
    fn reduce_registers(&self, tile: Val<'c>, axis: usize, kind: ReduceKind) -> Val<'c> {
        let b = self.builder();
        let layout = layout_of(type_of(tile)).expect("a tile with a layout");
        let layout = layout.slice_within_threads(axis).expect("an axis that no warps share");
        let name = StringAttribute::new(b.context(), reduce_name(kind)).into();
        let attributes = [("axis", b.int(axis as i64)), ("kind", name)];
        b.value("tgpu.reduce_registers", &[tile], self.distributed(dtype(tile), &layout), &attributes)
    }

    /// `tgpu.put_part`.
    fn put_part(&self, tile: Val<'c>, parts: Val<'c>, slot: Val<'c>) -> Op<'c> {
        self.builder().op("tgpu.put_part", &[tile, parts, slot], &[], &[])
    }

    /// `tgpu.get_part` of a type.
    fn get_part(&self, ty: Type<'c>, parts: Val<'c>, slot: Val<'c>) -> Val<'c> {
        self.builder().value("tgpu.get_part", &[parts, slot], ty, &[])
    }

    /// `tgpu.arrive_at`.
    fn arrive_at(&self, counters: Val<'c>, place: Val<'c>, count: Val<'c>) -> Val<'c> {
        let b = self.builder();
        b.value("tgpu.arrive_at", &[counters, place, count], element_type(b.context(), DType::Bool), &[])
    }

    /// `tgpu.others_arrived`.
    fn others_arrived(&self, counters: Val<'c>, place: Val<'c>, count: Val<'c>) -> Val<'c> {
        let b = self.builder();
        let ty = element_type(b.context(), DType::Bool);
        b.value("tgpu.others_arrived", &[counters, place, count], ty, &[])
    }

    /// A constant tile of zeros, f32.
    fn zeros(&self, layout: &LinearLayout) -> Val<'c> {
        let (b, ty) = (self.builder(), self.distributed(DType::F32, layout));
        let zeros = DenseElementsAttribute::splat(ty, b.number(DType::F32, 0.0));
        b.value("arith.constant", &[], ty, &[("value", zeros.into())])
    }

    /// `tgpu.splat`.
    fn splat_tile(&self, scalar: Val<'c>, layout: &LinearLayout) -> Val<'c> {
        self.builder().value("tgpu.splat", &[scalar], self.distributed(dtype(scalar), layout), &[])
    }

    /// `tgpu.iota`.
    fn iota_tile(&self, layout: &LinearLayout) -> Val<'c> {
        self.builder().value("tgpu.iota", &[], self.distributed(DType::I32, layout), &[])
    }

    /// `tgpu.broadcast`.
    fn broadcast_tile(&self, tile: Val<'c>, layout: &LinearLayout) -> Val<'c> {
        self.builder().value("tgpu.broadcast", &[tile], self.distributed(dtype(tile), layout), &[])
    }

    /// `tgpu.all_ones`.
    fn all_ones(&self, tile: Val<'c>) -> Val<'c> {
        let b = self.builder();
        b.value("tgpu.all_ones", &[tile], element_type(b.context(), DType::Bool), &[])
    }

    /// `tgpu.reshape`.
    fn reshape_tile(&self, tile: Val<'c>, shape: &[usize]) -> Val<'c> {
        let layout = layout_of(type_of(tile)).expect("a tile with a layout").reshape(shape);
        self.builder().value("tgpu.reshape", &[tile], self.distributed(dtype(tile), &layout), &[])
    }

    /// `tgpu.transpose`.
    fn transpose_tile(&self, tile: Val<'c>, perm: &[usize]) -> Val<'c> {
        let b = self.builder();
        let layout = layout_of(type_of(tile)).expect("a tile with a layout").transpose(perm);
        let attributes = [("perm", sizes_attr(b, perm))];
        b.value("tgpu.transpose", &[tile], self.distributed(dtype(tile), &layout), &attributes)
    }
}

impl<'c> GpuBuilder<'c> for Builder<'c> {
    fn builder(&self) -> &Builder<'c> {
        self
    }
}

/// Attributes by name.
type Attributes<'c> = Vec<(&'static str, Attribute<'c>)>;

/// Operands and attributes of a product: lhs, rhs, `others`, then the slots of those in shared memory.
fn product_parts<'c>(
    b: &Builder<'c>,
    operands: [MmaOperand<'c>; 2],
    others: &[Val<'c>],
    (split_name, split): (&'static str, [usize; 2]),
) -> (Vec<Val<'c>>, Attributes<'c>) {
    let mut slots = Vec::new();
    let [(lhs, lhs_transposed), (rhs, rhs_transposed)] = operands.map(|operand| match operand {
        MmaOperand::Registers(tile) => (tile, false),
        MmaOperand::Shared { smem, slot, transposed } => {
            slots.push(slot);
            (smem, transposed)
        }
    });
    let flag = |value| BoolAttribute::new(b.context(), value).into();
    let attributes = vec![
        ("lhs_transposed", flag(lhs_transposed)),
        ("rhs_transposed", flag(rhs_transposed)),
        (split_name, sizes_attr(b, &split)),
    ];
    ([lhs, rhs].iter().chain(others).chain(&slots).copied().collect(), attributes)
}

/// A block, the boxes that it is taken in, and the number of the map that they are boxes of.
fn box_attributes<'c>(
    b: &Builder<'c>,
    (tile_shape, box_shape): (&[usize], &[usize]),
    map: usize,
) -> Attributes<'c> {
    vec![
        ("tile_shape", sizes_attr(b, tile_shape)),
        ("box_shape", sizes_attr(b, box_shape)),
        ("map", b.int(map as i64)),
    ]
}

/// Sizes as a dense array attribute.
pub(super) fn sizes_attr<'c>(b: &Builder<'c>, sizes: &[usize]) -> Attribute<'c> {
    let sizes: Vec<i64> = sizes.iter().map(|&s| s as i64).collect();
    DenseI64ArrayAttribute::new(b.context(), &sizes).into()
}

/// The sizes of operand groups.
fn segments_attr<'c>(b: &Builder<'c>, sizes: &[usize]) -> (&'static str, Attribute<'c>) {
    let sizes: Vec<i32> = sizes.iter().map(|&s| s as i32).collect();
    ("operandSegmentSizes", DenseI32ArrayAttribute::new(b.context(), &sizes).into())
}
