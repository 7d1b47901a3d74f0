//! What a launch of a kernel needs beside its arguments.

use super::cluster::ctas_of;
use super::dialect::{Smem, layout_of};
use super::ops::GpuOp;
use serde::{Deserialize, Serialize};
use tile_ir::Module;
use tile_ir::types::{Op, Val, args_of, int_attr, nested_ops, type_of, view_of};

/// Attribute of a function whose CTAs walk over the programs of a grid, the extents of which are its last arguments.
pub(crate) const PERSISTENT: &str = "tgpu.persistent";

/// Attribute of a function: the numbers of the arguments each block of which a launch reads once.
pub(crate) const STREAMED: &str = "tgpu.streamed";

/// A map of a tensor argument, from which bulk copies take blocks and to which they store them. The host encodes it,
/// for the tensor's address, extents and strides, with zeros where a block leaves the tensor; the kernel takes it as a
/// parameter of 128 bytes after its arguments.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TensorMap {
    /// Number of the tensor among the tensor arguments.
    pub tensor: usize,
    /// Elements of one copy in each dimension, outermost first; of 4-bit ones, pairs in the last.
    pub box_shape: Vec<usize>,
    /// Bytes of the span within which 16-byte chunks are permuted in shared memory: 128, 64, 32, or 0 for none.
    pub swizzle_bytes: usize,
    /// Elements, of f32, are rounded to tf32 on their way to shared memory.
    pub rounds: bool,
}

/// The tensor map that an operation goes through, with its number; `views` are the tensor arguments.
pub(crate) fn tensor_map<'c>(views: &[Val<'c>], op: Op<'c>) -> Option<(usize, TensorMap)> {
    let (view, smem, box_shape, map, rounds) = match GpuOp::of(op)? {
        GpuOp::TmaCopy { view, smem, box_shape, map, rounds, .. } => {
            (view, Some(smem), box_shape, map, rounds)
        }
        GpuOp::BulkStore { view, smem, box_shape, map, .. } => (view, Some(smem), box_shape, map, false),
        GpuOp::Prefetch { view, box_shape, map, .. } => (view, None, box_shape, map, false),
        _ => return None,
    };
    let swizzle_bytes =
        smem.and_then(|smem| Smem::of(type_of(smem))).map_or(0, |smem| smem.layout.span_bytes);
    let tensor = views.iter().position(|v| *v == view)?;
    Some((map, TensorMap { tensor, box_shape, swizzle_bytes, rounds }))
}

/// What a launch needs beside arguments and shared memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LaunchNeeds {
    /// Warps beside those that tiles are spread over.
    pub producer_warps: usize,
    /// The tensor maps, by number.
    pub tensor_maps: Vec<TensorMap>,
    /// Each CTA walks over programs of the grid.
    pub persistent: bool,
    /// CTAs of a cluster along x, where they are launched in clusters.
    pub cluster: Option<usize>,
    /// Bytes of parts for a CTA, where sums are split over CTAs: behind the grid's extents the kernel takes the address
    /// of so many for each, and of a 32-bit counter for each, zero before and after.
    pub part_bytes: Option<usize>,
}

impl LaunchNeeds {
    /// Reads a module of the gpu level.
    pub fn of(module: &Module) -> LaunchNeeds {
        let arguments = args_of(module.entry());
        let views: Vec<_> = arguments.into_iter().filter(|a| view_of(type_of(*a)).is_some()).collect();
        let persistent = int_attr(module.function(), PERSISTENT).is_some();
        let cluster = Some(ctas_of(module.function())).filter(|ctas| *ctas > 1);
        let mut needs = LaunchNeeds { persistent, cluster, ..LaunchNeeds::default() };
        let mut maps = Vec::new();
        // Where two CTAs meet in a program, each has the end of one and the start of another.
        let mut parts = 1;
        for op in nested_ops(module.function()) {
            match GpuOp::of(op) {
                Some(GpuOp::Producer { warps, .. }) => needs.producer_warps = warps,
                Some(GpuOp::OthersArrived { .. }) => parts = 2,
                Some(GpuOp::PutPart { tile, .. }) => {
                    let warps = int_attr(module.function(), "tgpu.num_warps").unwrap_or(1) as usize;
                    let registers = layout_of(type_of(tile)).map_or(0, |layout| layout.num_registers());
                    needs.part_bytes = Some(registers * warps * 32 * 4);
                }
                _ => maps.extend(tensor_map(&views, op)),
            }
        }
        needs.part_bytes = needs.part_bytes.map(|bytes| parts * bytes);
        maps.sort_by_key(|(number, _)| *number);
        maps.dedup();
        needs.tensor_maps = maps.into_iter().map(|(_, map)| map).collect();
        needs
    }
}
