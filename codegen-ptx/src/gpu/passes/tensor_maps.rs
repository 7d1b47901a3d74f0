//! Which tensors have maps for bulk copies and bulk stores of a tile, and in what boxes these go.

use super::PassContext;
use crate::gpu::cluster::part_of;
use crate::gpu::dialect::Smem;
use crate::gpu::facts::TensorFacts;
use crate::gpu::launch::TensorMap;
use tile_ir::Module;
use tile_ir::types::{Val, args_of, type_of, view_of};
use tile_lang::DType;

/// Strides and addresses of tensors with maps are multiples of this.
const ALIGN_BYTES: usize = 16;
/// Spans after which a swizzle repeats, which has to be at the start of each panel.
const SWIZZLE_ROWS: usize = 8;
/// Elements of a box in one dimension.
const MAX_BOX: usize = 256;
/// Dimensions of a tensor map.
const MAX_RANK: usize = 5;

/// The map by which a tile in shared memory goes to or comes from a block of `view`, rounded to tf32 with `rounds`;
/// `not_an_argument`, or why the tensor has no map for it.
pub(super) fn map_of<'c>(
    module: &Module<'c>,
    cx: &PassContext,
    view: Val<'c>,
    (smem, tile_shape, rounds): (&Smem, &[usize], bool),
    not_an_argument: &str,
) -> Result<TensorMap, String> {
    let tensor = number_of(module, view).ok_or(not_an_argument)?;
    let box_shape = box_of(&cx.facts[tensor], smem, tile_shape)
        .map_err(|why| format!("argument {tensor} allows no bulk copies: {why}"))?;
    Ok(TensorMap { tensor, box_shape, swizzle_bytes: smem.layout.span_bytes, rounds })
}

/// The map by which blocks of `view` that follow one another along a dimension are fetched into L2, and how many of them
/// at once, `most` at most; none where the tensor has no map for it.
pub(super) fn fetched_by<'c>(
    module: &Module<'c>,
    cx: &PassContext,
    view: Val<'c>,
    (tile_shape, along): (&[usize], usize),
    most: usize,
) -> Option<(usize, TensorMap)> {
    let tensor = number_of(module, view)?;
    let dtype = view_of(type_of(view))?.dtype;
    let blocks = most.min(MAX_BOX / tile_shape[along]);
    let mut box_shape = tile_shape.to_vec();
    box_shape[along] *= blocks;
    let row_bytes = box_shape.last()? * dtype.bits() as usize / 8;
    let fits = allows_maps(&cx.facts[tensor], dtype).is_ok()
        && dtype.bits() >= 8
        && blocks > 0
        && row_bytes.is_multiple_of(ALIGN_BYTES)
        && box_shape.iter().all(|&size| size <= MAX_BOX);
    fits.then_some((blocks, TensorMap { tensor, box_shape, swizzle_bytes: 0, rounds: false }))
}

/// The number of a view among the tensor arguments.
fn number_of<'c>(module: &Module<'c>, view: Val<'c>) -> Option<usize> {
    let mut views = args_of(module.entry()).into_iter().filter(|a| view_of(type_of(*a)).is_some());
    views.position(|v| v == view)
}

/// Bytes after which the swizzle of a tile in shared memory repeats; boxes start at multiples of it.
pub(super) fn swizzle_repeats(smem: &Smem) -> usize {
    SWIZZLE_ROWS * smem.layout.span_bytes.max(ALIGN_BYTES)
}

/// The box of one of as many parts of a block, or why it has none.
pub(super) fn part_box(
    smem: &Smem,
    tile_shape: &[usize],
    box_shape: &[usize],
    parts: usize,
) -> Result<Vec<usize>, &'static str> {
    let few = "a part has fewer rows than a swizzle takes to repeat";
    if !(smem.layout.panel_bytes() / parts).is_multiple_of(swizzle_repeats(smem)) {
        return Err(few);
    }
    let mut part = part_of(tile_shape, parts).ok_or(few)?;
    if let Some((last, width)) = part.last_mut().zip(box_shape.last()) {
        *last = *width;
    }
    Ok(part)
}

/// Whether a tensor has maps, or why not.
fn allows_maps(facts: &TensorFacts, dtype: DType) -> Result<(), &'static str> {
    let rank = facts.stride_divisor.len();
    if !matches!(
        dtype,
        DType::F32 | DType::F16 | DType::BF16 | DType::F8E4M3FN | DType::F4E2M1FN | DType::I32
    ) {
        return Err("its elements have no form in tensor maps");
    }
    if rank > MAX_RANK {
        return Err("it has more than 5 dimensions");
    }
    if facts.unit_stride != Some(rank - 1) {
        return Err("its last dimension is not known to be contiguous");
    }
    // Two 4-bit elements are copied as one.
    if dtype == DType::F4E2M1FN && !facts.dim_divisor[rank - 1].is_multiple_of(2) {
        return Err("its rows are not known to be whole bytes");
    }
    let aligned = |bytes: usize| bytes.is_multiple_of(ALIGN_BYTES);
    let row_bytes = |elems: &usize| elems * dtype.bits() as usize / 8;
    let strides = &facts.stride_divisor[..rank - 1];
    if !facts.align_bytes.is_multiple_of(ALIGN_BYTES) || !strides.iter().map(row_bytes).all(aligned) {
        return Err("its address and strides are not known to be multiples of 16 bytes");
    }
    Ok(())
}

/// The boxes of a tile that lies in shared memory, one a panel; or why the tensor has no map for it.
fn box_of(facts: &TensorFacts, smem: &Smem, tile_shape: &[usize]) -> Result<Vec<usize>, &'static str> {
    allows_maps(facts, smem.dtype)?;
    let (elem_bytes, rank) = (smem.layout.elem_bytes, tile_shape.len());
    let mut box_shape = tile_shape.to_vec();
    box_shape[rank - 1] = smem.layout.pitch_bytes / elem_bytes;
    if !smem.layout.pitch_bytes.is_multiple_of(ALIGN_BYTES) || box_shape.iter().any(|&size| size > MAX_BOX) {
        return Err("a box has rows under 16 bytes, or more than 256 of them");
    }
    if !smem.layout.panel_bytes().is_multiple_of(swizzle_repeats(smem)) {
        return Err("a tile has fewer rows than a swizzle takes to repeat");
    }
    Ok(box_shape)
}
