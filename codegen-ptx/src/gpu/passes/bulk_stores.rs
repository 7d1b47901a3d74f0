//! Stores a block by bulk copies out of shared memory.
//!
//! Input: a gpu-level module. Output: the same, where a block that would change its layout through shared memory only
//! to be stored in wide rows is written once to a staging buffer, from which one thread starts bulk copies to the
//! tensor: write, fence, barrier, bulk store. Where each warpgroup holds rows or columns of its own, it stores them on its
//! own, so that one may go on while another still computes. Invariant: nothing writes the buffer until the store before has
//! read it. In a loop, the threads wait for that and meet in front of the write; at the kernel's end they wait for the
//! last.
//!
//! The bulk copies are not ordered with the threads' own accesses to the tensor, nor with one another. So the tensor
//! must have no other use, and in a loop a store waits until the one before is complete.

use super::tensor_maps::{map_of, part_box};
use super::{Pass, PassContext, PassError};
use crate::gpu::dialect::{Smem, layout_of};
use crate::gpu::facts::never_negative;
use crate::gpu::launch::{LaunchNeeds, TensorMap};
use crate::gpu::ops::{GpuBuilder, GpuOp};
use crate::gpu::staging::Share;
use crate::layout::{Conversion, conversion};
use melior::ir::operation::OperationLike;
use tile_ir::context::Place;
use tile_ir::types::{
    Op, Val, defining_op, dtype_of, erase, is_loop, is_unused, name_of, nested_ops, operands_of, ops_of,
    results_of, root_view, shape_of, type_of, view_of,
};
use tile_ir::{Builder, Module};
use tile_lang::DType;

const PASS: Pass = Pass::BulkStores;

/// A store that becomes a bulk store.
struct Staged<'c> {
    store: Op<'c>,
    view: Val<'c>,
    index: Vec<Val<'c>>,
    /// The tile as it is before its layout changes.
    tile: Val<'c>,
    tile_shape: Vec<usize>,
    smem: Smem,
    map: TensorMap,
    /// Warpgroups that store a part each; 1 where all store together.
    groups: usize,
}

/// Runs the pass.
pub(super) fn run<'c>(module: Module<'c>, cx: &mut PassContext) -> Result<Module<'c>, PassError> {
    if !cx.switches.bulk_stores || !cx.target.has_tma() {
        return Ok(module);
    }
    let mut chosen: Option<Staged> = None;
    for op in nested_ops(module.function()) {
        let Some(GpuOp::GlobalStore { view, index, tile, .. }) = GpuOp::of(op) else { continue };
        let place = Place::of(op.location());
        let planned = match &chosen {
            // A buffer for each would take the room of more stages.
            Some(_) => Err("another block has the staging buffer".to_owned()),
            None => plan(&module, op, (view, index, tile), cx),
        };
        match planned {
            Ok(staged) => {
                let by = if staged.groups > 1 { " by each warpgroup" } else { "" };
                let message = format!("a block is stored by bulk copies of {:?}{by}", staged.map.box_shape);
                cx.remark(PASS, place, message);
                chosen = Some(staged);
            }
            Err(why) => cx.remark(PASS, place, format!("a block is stored by the threads: {why}")),
        }
    }
    if let Some(staged) = chosen {
        rewrite(&module, staged);
    }
    Ok(module)
}

/// How a store becomes a bulk store, or why it stays.
fn plan<'c>(
    module: &Module<'c>,
    store: Op<'c>,
    (view, index, tile): (Val<'c>, Vec<Val<'c>>, Val<'c>),
    cx: &PassContext,
) -> Result<Staged<'c>, String> {
    let uses = |op: &Op<'c>| {
        let of_view = |v: Val<'c>| view_of(type_of(v)).is_some() && root_view(v) == view;
        *op != store && name_of(*op) != "tile.dim" && op.operands().any(of_view)
    };
    if nested_ops(module.function()).iter().any(uses) {
        return Err("the tensor is used elsewhere, too".to_owned());
    }
    if !index.iter().all(|i| never_negative(*i)) {
        return Err("its place may be negative".to_owned());
    }
    let tile_shape = shape_of(type_of(tile)).ok_or("it is no tile")?;
    let dtype = dtype_of(type_of(tile)).ok_or("it is no tile")?;
    let cols = tile_shape.last().copied().unwrap_or(1);
    let smem = Smem::panels(tile_shape.iter().product::<usize>() / cols, cols, dtype, 1);
    let mut map = map_of(module, cx, view, (&smem, &tile_shape, false), "it goes to a part of a tensor")?;
    let source = before_conversion(tile).ok_or("it needs no way through shared memory")?;
    let matrix = layout_of(type_of(source)).map(|layout| layout.reshape(&[smem.layout.rows, cols]));
    let boxes = smem.layout.cols / map.box_shape.last().copied().unwrap_or(1);
    let mut groups = 1;
    match matrix.as_ref().and_then(Share::of_warpgroups) {
        Some(share) if share.of_rows => {
            if let Ok(part) = part_box(&smem, &tile_shape, &map.box_shape, share.groups) {
                (groups, map.box_shape) = (share.groups, part);
            }
        }
        Some(share) if boxes.is_multiple_of(share.groups) => groups = share.groups,
        _ => {}
    }
    Ok(Staged { store, view, index, tile: source, tile_shape, smem, map, groups })
}

/// A tile before a change of layout through shared memory; none where there is no such change.
fn before_conversion(tile: Val) -> Option<Val> {
    let op = defining_op(tile)?;
    match GpuOp::of(op)? {
        GpuOp::Reshape { tile } => before_conversion(tile),
        GpuOp::ConvertLayout { tile, .. } => {
            let (from, to) = layout_of(type_of(tile)).zip(layout_of(type_of(results_of(op)[0])))?;
            (conversion(&from, &to) == Conversion::Shared).then_some(tile)
        }
        _ => None,
    }
}

/// Puts the staging buffer and the bulk store in the store's place, and the waits where they belong.
fn rewrite<'c>(module: &Module<'c>, staged: Staged<'c>) {
    let Staged { store, view, index, tile, tile_shape, smem, map, groups } = staged;
    let context = module.context();
    let number = LaunchNeeds::of(module).tensor_maps.len();
    let mut inside_loop = false;
    let mut top = store;
    while let Some(parent) = top.parent_operation().filter(|p| *p != module.function()) {
        inside_loop |= is_loop(parent);
        top = parent;
    }
    let mut front = Builder::before(context, top);
    front.set_location(store.location());
    let buffer = front.alloc(smem);

    let mut b = Builder::before(context, store);
    b.set_location(store.location());
    let matrix = [smem.layout.rows, smem.cols()];
    let matrix = match shape_of(type_of(tile)) {
        Some(shape) if shape == matrix => tile,
        _ => b.reshape_tile(tile, &matrix),
    };
    let meet = |b: &Builder<'c>| if groups > 1 { b.group_barrier() } else { b.barrier() };
    if inside_loop {
        b.bulk_wait(buffer, false);
        meet(&b);
    }
    let slot = b.int_const(DType::I32, 0);
    b.local_store(matrix, buffer, slot);
    b.fence_async();
    meet(&b);
    b.bulk_store((view, &index), (buffer, slot), (&tile_shape, &map.box_shape), (number, groups));
    let end = ops_of(module.entry()).last().expect("a function has a terminator");
    Builder::before(context, end).bulk_wait(buffer, true);

    // What changed the layout has no use any more, unless something else needs it, too.
    let mut stored = operands_of(store).pop();
    erase(store);
    while let Some((value, op)) = stored.and_then(|value| Some((value, defining_op(value)?))) {
        if value == tile || !is_unused(value) {
            break;
        }
        stored = op.operands().next();
        erase(op);
    }
}
