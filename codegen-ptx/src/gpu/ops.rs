//! The operations of the `tgpu` dialect: how to read one, and how to make each.

use super::dialect::{Smem, distributed_type, layout_of};
use crate::layout::LinearLayout;
use crate::layout::mma::KOrder;
use melior::ir::Type;
use melior::ir::attribute::{
    Attribute, BoolAttribute, DenseElementsAttribute, DenseI32ArrayAttribute, DenseI64ArrayAttribute,
    StringAttribute,
};
use tile_ir::Builder;
use tile_ir::ops::{ReduceKind, reduce_name};
use tile_ir::types::{
    Op, Val, array_attr, attr, bool_attr, dtype_of, element_type, int_attr, name_of, operands_of, results_of,
    str_attr, type_of, view_of,
};
use tile_lang::DType;

/// Where an operand of a product lies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum MmaOperand<'c> {
    /// In registers, in the fragment layout.
    Registers(Val<'c>),
    /// In a slot of shared memory, to be loaded step by step along K.
    Shared {
        /// The memory.
        smem: Val<'c>,
        /// The slot, an i32.
        slot: Val<'c>,
        /// The operand is the transpose of the slot's tile.
        transposed: bool,
    },
}

/// An operation of the tgpu dialect, taken apart. Shapes, dtypes and layouts are those of its values.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum GpuOp<'c> {
    Alloc {
        offset: Option<usize>,
    },
    AsyncCopy {
        view: Val<'c>,
        index: Vec<Val<'c>>,
        smem: Val<'c>,
        slot: Val<'c>,
        tile_shape: Vec<usize>,
        vec_bytes: usize,
    },
    Copy {
        view: Val<'c>,
        index: Vec<Val<'c>>,
        smem: Val<'c>,
        slot: Val<'c>,
        tile_shape: Vec<usize>,
        vec_bytes: usize,
    },
    Commit,
    Wait {
        pending: usize,
    },
    Barrier,
    GroupBarrier,
    LocalLoad {
        smem: Val<'c>,
        slot: Val<'c>,
        transposed: bool,
    },
    LocalStore {
        tile: Val<'c>,
        smem: Val<'c>,
        slot: Val<'c>,
    },
    GlobalLoad {
        view: Val<'c>,
        index: Vec<Val<'c>>,
        vec_bytes: usize,
    },
    GlobalStore {
        view: Val<'c>,
        index: Vec<Val<'c>>,
        tile: Val<'c>,
        vec_bytes: usize,
    },
    Gather {
        view: Val<'c>,
        index: Vec<Val<'c>>,
        mask: Option<Val<'c>>,
    },
    Scatter {
        view: Val<'c>,
        index: Vec<Val<'c>>,
        value: Val<'c>,
        mask: Option<Val<'c>>,
    },
    ConvertLayout {
        tile: Val<'c>,
        scratch_offset: Option<usize>,
    },
    MmaSync {
        lhs: MmaOperand<'c>,
        rhs: MmaOperand<'c>,
        acc: Val<'c>,
        warps: [usize; 2],
        order: KOrder,
    },
    MmaScaledSync {
        lhs: MmaOperand<'c>,
        rhs: MmaOperand<'c>,
        scales: [Val<'c>; 2],
        acc: Val<'c>,
        warps: [usize; 2],
    },
    Wgmma {
        lhs: MmaOperand<'c>,
        rhs: MmaOperand<'c>,
        acc: Val<'c>,
        groups: [usize; 2],
        /// The first row of the rhs that an lhs in registers is multiplied by.
        k_first: usize,
    },
    WgmmaWait {
        tiles: Vec<Val<'c>>,
        pending: usize,
    },
    FenceAsync,
    OpenTurns,
    TakeTurn,
    GiveTurn,
    CloseTurns,
    BulkStore {
        view: Val<'c>,
        index: Vec<Val<'c>>,
        smem: Val<'c>,
        slot: Val<'c>,
        tile_shape: Vec<usize>,
        box_shape: Vec<usize>,
        map: usize,
    },
    BulkWait {
        smem: Val<'c>,
        /// Only until the slot has been read.
        read: bool,
    },
    Mbarriers {
        offset: Option<usize>,
        arrivals: usize,
    },
    Producer {
        warps: usize,
        /// Registers of a thread that copies, and of the others, once the roles are known.
        registers: Option<[usize; 2]>,
    },
    Expect {
        barriers: Val<'c>,
        slot: Val<'c>,
        bytes: usize,
    },
    TmaCopy {
        view: Val<'c>,
        index: Vec<Val<'c>>,
        smem: Val<'c>,
        barriers: Val<'c>,
        slot: Val<'c>,
        tile_shape: Vec<usize>,
        box_shape: Vec<usize>,
        map: usize,
        /// A part of the block, to all CTAs of the cluster.
        cluster: bool,
        /// The map rounds f32 to tf32.
        rounds: bool,
    },
    EnterCluster,
    MbarrierWait {
        barriers: Val<'c>,
        slot: Val<'c>,
        parity: Val<'c>,
    },
    MbarrierArrive {
        barriers: Val<'c>,
        slot: Val<'c>,
        /// At the barriers of all CTAs of the cluster.
        cluster: bool,
        /// Threads have loaded from the slot, which bulk copies overwrite next.
        loaded: bool,
    },
    HasRows {
        first: Val<'c>,
        extent: Val<'c>,
        /// Rows by which each bit of the warpgroup's number moves.
        steps: Vec<usize>,
    },
    Reduce {
        tile: Val<'c>,
        axis: usize,
        kind: ReduceKind,
        scratch_offset: Option<usize>,
    },
    ReduceRegisters {
        tile: Val<'c>,
        axis: usize,
        kind: ReduceKind,
    },
    PutPart {
        tile: Val<'c>,
        parts: Val<'c>,
        slot: Val<'c>,
    },
    GetPart {
        parts: Val<'c>,
        slot: Val<'c>,
    },
    OthersArrived {
        counters: Val<'c>,
        place: Val<'c>,
        count: Val<'c>,
    },
    ArriveAt {
        counters: Val<'c>,
        place: Val<'c>,
        count: Val<'c>,
    },
    Columns {
        tile: Val<'c>,
        first: usize,
    },
    Splat {
        scalar: Val<'c>,
    },
    Iota,
    /// Of the elements that a warp holds.
    AllOnes {
        tile: Val<'c>,
    },
    Broadcast {
        tile: Val<'c>,
    },
    Reshape {
        tile: Val<'c>,
    },
    Transpose {
        tile: Val<'c>,
        perm: Vec<usize>,
    },
}

impl<'c> GpuOp<'c> {
    /// Takes an operation apart; none when it is of another dialect or malformed.
    pub fn of(op: Op<'c>) -> Option<GpuOp<'c>> {
        let name = name_of(op);
        let name = name.strip_prefix("tgpu.")?;
        let operands = operands_of(op);
        let size = |attribute: &str| usize::try_from(int_attr(op, attribute)?).ok();
        let at = |index: usize| operands.get(index).copied();
        let sizes = |attribute: &str| -> Option<Vec<usize>> {
            array_attr(op, attribute)?.into_iter().map(|s| usize::try_from(s).ok()).collect()
        };
        let rank = |view: Val<'c>| Some(view_of(type_of(view))?.rank);
        let cluster = bool_attr(op, "cluster").unwrap_or(false);
        // View and index of an operation that has `more` operands behind them.
        let block = |more: usize| -> Option<(Val<'c>, Vec<Val<'c>>)> {
            let view = at(0)?;
            let rank = rank(view)?;
            (operands.len() == 1 + rank + more).then(|| (view, operands[1..=rank].to_vec()))
        };
        Some(match name {
            "alloc" => GpuOp::Alloc { offset: size("offset") },
            "async_copy" | "copy" => {
                let (view, index) = block(2)?;
                let (smem, slot) = (operands[index.len() + 1], operands[index.len() + 2]);
                let (tile_shape, vec_bytes) = (sizes("tile_shape")?, size("vec_bytes")?);
                match name {
                    "copy" => GpuOp::Copy { view, index, smem, slot, tile_shape, vec_bytes },
                    _ => GpuOp::AsyncCopy { view, index, smem, slot, tile_shape, vec_bytes },
                }
            }
            "commit" => GpuOp::Commit,
            "wait" => GpuOp::Wait { pending: size("pending")? },
            "barrier" => GpuOp::Barrier,
            "group_barrier" => GpuOp::GroupBarrier,
            "local_load" => {
                GpuOp::LocalLoad { smem: at(0)?, slot: at(1)?, transposed: bool_attr(op, "transposed")? }
            }
            "local_store" => GpuOp::LocalStore { tile: at(0)?, smem: at(1)?, slot: at(2)? },
            "global_load" => {
                let (view, index) = block(0)?;
                GpuOp::GlobalLoad { view, index, vec_bytes: size("vec_bytes")? }
            }
            "global_store" => {
                let (view, index) = block(1)?;
                GpuOp::GlobalStore { view, index, tile: *operands.last()?, vec_bytes: size("vec_bytes")? }
            }
            "gather" => {
                let rank = rank(at(0)?)?;
                GpuOp::Gather { view: at(0)?, index: operands.get(1..=rank)?.to_vec(), mask: at(rank + 1) }
            }
            "scatter" => {
                let rank = rank(at(0)?)?;
                let index = operands.get(1..=rank)?.to_vec();
                GpuOp::Scatter { view: at(0)?, index, value: at(rank + 1)?, mask: at(rank + 2) }
            }
            "convert_layout" => GpuOp::ConvertLayout { tile: at(0)?, scratch_offset: size("scratch_offset") },
            "mma_sync" | "mma_scaled_sync" | "wgmma" => {
                let scales = if name == "mma_scaled_sync" { 2 } else { 0 };
                let mut slots = operands.get(3 + scales..)?.iter().copied();
                let mut operand = |value: Val<'c>, flag: &str| {
                    Some(if Smem::of(type_of(value)).is_some() {
                        let transposed = bool_attr(op, flag)?;
                        MmaOperand::Shared { smem: value, slot: slots.next()?, transposed }
                    } else {
                        MmaOperand::Registers(value)
                    })
                };
                let lhs = operand(at(0)?, "lhs_transposed")?;
                let rhs = operand(at(1)?, "rhs_transposed")?;
                let acc = at(2 + scales)?;
                let split = |name: &str| -> Option<[usize; 2]> { sizes(name)?.try_into().ok() };
                match name {
                    "wgmma" => {
                        let k_first = size("k_first").unwrap_or(0);
                        GpuOp::Wgmma { lhs, rhs, acc, groups: split("groups")?, k_first }
                    }
                    "mma_scaled_sync" => {
                        let scales = [at(2)?, at(3)?];
                        GpuOp::MmaScaledSync { lhs, rhs, scales, acc, warps: split("warps")? }
                    }
                    _ => {
                        let order = KOrder(sizes("k_order").unwrap_or_default());
                        GpuOp::MmaSync { lhs, rhs, acc, warps: split("warps")?, order }
                    }
                }
            }
            "wgmma_wait" => GpuOp::WgmmaWait { tiles: operands, pending: size("pending")? },
            "fence_async" => GpuOp::FenceAsync,
            "open_turns" => GpuOp::OpenTurns,
            "take_turn" => GpuOp::TakeTurn,
            "give_turn" => GpuOp::GiveTurn,
            "close_turns" => GpuOp::CloseTurns,
            "bulk_store" => {
                let (view, index) = block(2)?;
                let &[smem, slot] = operands.get(index.len() + 1..)? else { return None };
                let (tile_shape, box_shape, map) = (sizes("tile_shape")?, sizes("box_shape")?, size("map")?);
                GpuOp::BulkStore { view, index, smem, slot, tile_shape, box_shape, map }
            }
            "bulk_wait" => GpuOp::BulkWait { smem: at(0)?, read: bool_attr(op, "read")? },
            "mbarriers" => GpuOp::Mbarriers { offset: size("offset"), arrivals: size("arrivals")? },
            "producer" => {
                let registers = sizes("registers").and_then(|r| r.try_into().ok());
                GpuOp::Producer { warps: size("warps")?, registers }
            }
            "enter_cluster" => GpuOp::EnterCluster,
            "expect" => GpuOp::Expect { barriers: at(0)?, slot: at(1)?, bytes: size("bytes")? },
            "tma_copy" => {
                let (view, index) = block(3)?;
                let &[smem, barriers, slot] = operands.get(index.len() + 1..)? else { return None };
                let (tile_shape, box_shape, map) = (sizes("tile_shape")?, sizes("box_shape")?, size("map")?);
                let rounds = bool_attr(op, "rounds").unwrap_or(false);
                GpuOp::TmaCopy {
                    view,
                    index,
                    smem,
                    barriers,
                    slot,
                    tile_shape,
                    box_shape,
                    map,
                    cluster,
                    rounds,
                }
            }
            "mbarrier_wait" => GpuOp::MbarrierWait { barriers: at(0)?, slot: at(1)?, parity: at(2)? },
            "mbarrier_arrive" => {
                let loaded = attr(op, "loaded").is_some();
                GpuOp::MbarrierArrive { barriers: at(0)?, slot: at(1)?, cluster, loaded }
            }
            "has_rows" => GpuOp::HasRows { first: at(0)?, extent: at(1)?, steps: sizes("steps")? },
            "reduce" | "reduce_registers" => {
                let kind = [ReduceKind::Sum, ReduceKind::Max, ReduceKind::Min]
                    .into_iter()
                    .find(|k| str_attr(op, "kind").as_deref() == Some(reduce_name(*k)))?;
                let (tile, axis) = (at(0)?, size("axis")?);
                match name {
                    "reduce" => GpuOp::Reduce { tile, axis, kind, scratch_offset: size("scratch_offset") },
                    _ => GpuOp::ReduceRegisters { tile, axis, kind },
                }
            }
            "put_part" => GpuOp::PutPart { tile: at(0)?, parts: at(1)?, slot: at(2)? },
            "get_part" => GpuOp::GetPart { parts: at(0)?, slot: at(1)? },
            "others_arrived" => GpuOp::OthersArrived { counters: at(0)?, place: at(1)?, count: at(2)? },
            "arrive_at" => GpuOp::ArriveAt { counters: at(0)?, place: at(1)?, count: at(2)? },
            "columns" => GpuOp::Columns { tile: at(0)?, first: size("first")? },
            "splat" => GpuOp::Splat { scalar: at(0)? },
            "iota" => GpuOp::Iota,
            "all_ones" => GpuOp::AllOnes { tile: at(0)? },
            "broadcast" => GpuOp::Broadcast { tile: at(0)? },
            "reshape" => GpuOp::Reshape { tile: at(0)? },
            "transpose" => GpuOp::Transpose { tile: at(0)?, perm: sizes("perm")? },
            _ => return None,
        })
    }
}

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
        map: usize,
    ) -> Op<'c> {
        let b = self.builder();
        let operands: Vec<_> = [view].iter().chain(index).chain(&[smem, slot]).copied().collect();
        let attributes = [
            ("tile_shape", sizes_attr(b, tile_shape)),
            ("box_shape", sizes_attr(b, box_shape)),
            ("map", b.int(map as i64)),
        ];
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
        let mut attributes = vec![
            ("tile_shape", sizes_attr(b, tile_shape)),
            ("box_shape", sizes_attr(b, box_shape)),
            ("map", b.int(map as i64)),
        ];
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
