//! The operations of the `tgpu` dialect: how to read one, and in [`GpuBuilder`] how to make each.

pub use super::builder::GpuBuilder;
pub(super) use super::builder::sizes_attr;

use super::dialect::Smem;
use crate::layout::mma::KOrder;
use tile_ir::ops::{ReduceKind, reduce_name};
use tile_ir::types::{
    Op, Val, array_attr, attr, bool_attr, int_attr, name_of, operands_of, str_attr, type_of, view_of,
};

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
    /// Starts to bring a box into L2, the first element of which is that of a block.
    Prefetch {
        view: Val<'c>,
        index: Vec<Val<'c>>,
        tile_shape: Vec<usize>,
        box_shape: Vec<usize>,
        map: usize,
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
        /// Warpgroups each of which stores a part; 1 where one thread stores all.
        groups: usize,
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
            "prefetch" => {
                let (view, index) = block(0)?;
                let (tile_shape, box_shape, map) = (sizes("tile_shape")?, sizes("box_shape")?, size("map")?);
                GpuOp::Prefetch { view, index, tile_shape, box_shape, map }
            }
            "fence_async" => GpuOp::FenceAsync,
            "open_turns" => GpuOp::OpenTurns,
            "take_turn" => GpuOp::TakeTurn,
            "give_turn" => GpuOp::GiveTurn,
            "close_turns" => GpuOp::CloseTurns,
            "bulk_store" => {
                let (view, index) = block(2)?;
                let &[smem, slot] = operands.get(index.len() + 1..)? else { return None };
                let (tile_shape, box_shape, map) = (sizes("tile_shape")?, sizes("box_shape")?, size("map")?);
                let groups = size("groups")?;
                GpuOp::BulkStore { view, index, smem, slot, tile_shape, box_shape, map, groups }
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
