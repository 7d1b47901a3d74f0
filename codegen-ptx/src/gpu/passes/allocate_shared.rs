//! Gives every buffer in shared memory its offset.
//!
//! Input: a gpu-level module. Output: the same with `offset` on every `tgpu.alloc`, `scratch_offset` on every
//! layout conversion and reduction that needs one, and the size of it all in `tgpu.shared_bytes`. Invariant: two
//! buffers share bytes only if one is done with before the other is first used, and then a barrier is in between.
//!
//! A buffer lives from its first to its last use, and throughout every loop that uses it; scratch lives during
//! its operation, which has its own barrier in front. Barriers of memory that other CTAs arrive at live to the end,
//! since the others may be late. Larger buffers are placed first, each as low as it fits.

use super::{Pass, PassContext, PassError};
use crate::gpu::cluster::ctas_of;
use crate::gpu::dialect::{Smem, layout_of};
use crate::gpu::ops::{GpuBuilder, GpuOp};
use crate::layout::{conversion, reduce_scratch_bytes};
use melior::ir::attribute::IntegerAttribute;
use melior::ir::operation::OperationLike;
use melior::ir::r#type::IntegerType;
use melior::ir::{Attribute, ValueLike};
use std::collections::HashMap;
use std::ops::Range;
use tile_ir::types::{Blk, Op, blocks_of, dtype_of, is_loop, ops_of, results_of, set_attr, type_of};
use tile_ir::{Builder, Module};

/// Buffers start at multiples of this: what a TMA copy with the widest swizzle asks for.
const ALIGN_BYTES: usize = 1024;
/// Scratch starts at multiples of this.
const SCRATCH_ALIGN_BYTES: usize = 16;

/// A stretch of shared memory in use.
struct Buffer<'c> {
    /// The allocation, or the operation that needs scratch.
    op: Op<'c>,
    bytes: usize,
    align: usize,
    /// Steps of the kernel during which it is in use.
    life: Range<usize>,
    /// For an allocation, the operation of the function's block that uses it first.
    first_use: Option<Op<'c>>,
    offset: usize,
}

impl Buffer<'_> {
    fn end(&self) -> usize {
        self.offset + self.bytes
    }
}

/// Runs the pass.
pub(super) fn run<'c>(module: Module<'c>, cx: &mut PassContext) -> Result<Module<'c>, PassError> {
    let mut search = Search { step: 0, allocs: HashMap::new(), buffers: Vec::new() };
    for op in ops_of(module.entry()) {
        search.visit(op, op, None);
    }
    let mut buffers = search.buffers;
    if ctas_of(module.function()) > 1 {
        for buffer in &mut buffers {
            if matches!(GpuOp::of(buffer.op), Some(GpuOp::Mbarriers { .. })) {
                buffer.life.end = usize::MAX;
            }
        }
    }
    buffers.retain(|b| !b.life.is_empty());
    let total = place(&mut buffers);
    // Second slots are not worth a CTA less on an SM.
    let available = match cx.front_stages {
        1 => cx.target.limits.smem_per_cta_bytes,
        _ => cx.shared_memory_per_cta(),
    };
    if total > available {
        return Err(PassError::SharedMemory { needed: total, available, target: cx.target.part });
    }
    let number = |value: usize| -> Attribute<'c> {
        IntegerAttribute::new(IntegerType::new(module.context(), 64).into(), value as i64).into()
    };
    for buffer in &buffers {
        let name = if buffer.first_use.is_some() { "offset" } else { "scratch_offset" };
        set_attr(buffer.op, name, number(buffer.offset));
        let reuses = |other: &&Buffer| {
            other.life.end <= buffer.life.start && other.offset < buffer.end() && buffer.offset < other.end()
        };
        if let (Some(first_use), Some(_)) = (buffer.first_use, buffers.iter().find(reuses)) {
            Builder::before(module.context(), first_use).barrier();
            let message = format!("{} bytes at {} are used again", buffer.bytes, buffer.offset);
            cx.remark(Pass::AllocateShared, tile_ir::context::Place::of(first_use.location()), message);
        }
    }
    set_attr(module.function(), "tgpu.shared_bytes", number(total));
    Ok(module)
}

/// Gives each buffer the lowest offset at which no other that is in use at the same time lies; returns the end of
/// the last.
fn place(buffers: &mut [Buffer]) -> usize {
    let mut order: Vec<usize> = (0..buffers.len()).collect();
    order.sort_by_key(|&i| (std::cmp::Reverse(buffers[i].bytes), buffers[i].life.start));
    let mut placed: Vec<usize> = Vec::new();
    for &i in &order {
        let life = buffers[i].life.clone();
        let overlaps = |j: &&usize| buffers[**j].life.start < life.end && life.start < buffers[**j].life.end;
        let mut taken: Vec<(usize, usize)> =
            placed.iter().filter(overlaps).map(|&j| (buffers[j].offset, buffers[j].end())).collect();
        taken.sort_unstable();
        let mut offset = 0;
        for (start, end) in taken {
            if offset + buffers[i].bytes > start {
                offset = offset.max(end.next_multiple_of(buffers[i].align));
            }
        }
        buffers[i].offset = offset;
        placed.push(i);
    }
    buffers.iter().map(Buffer::end).max().unwrap_or(0)
}

struct Search<'c> {
    step: usize,
    /// Index of the buffer by address of the allocation's result.
    allocs: HashMap<usize, usize>,
    buffers: Vec<Buffer<'c>>,
}

impl<'c> Search<'c> {
    /// Visits an operation under `top`, an operation of the function's block; inside of a loop, collects the
    /// buffers that it uses.
    fn visit(&mut self, op: Op<'c>, top: Op<'c>, mut in_loop: Option<&mut Vec<usize>>) {
        self.step += 1;
        let start = self.step;
        for operand in op.operands() {
            if let Some(&index) = self.allocs.get(&(operand.to_raw().ptr as usize)) {
                self.used(index, start, top);
                if let Some(list) = in_loop.as_deref_mut() {
                    list.push(index);
                }
            }
        }
        if is_loop(op) {
            let mut inside = Vec::new();
            blocks_of(op).into_iter().for_each(|block| self.visit_block(block, top, Some(&mut inside)));
            self.step += 1;
            for &index in &inside {
                self.used(index, start, top);
                self.used(index, self.step, top);
            }
            if let Some(list) = in_loop {
                list.extend(inside);
            }
            return;
        }
        for block in blocks_of(op) {
            self.visit_block(block, top, in_loop.as_deref_mut());
        }
        self.needs(op, start);
    }

    fn visit_block(&mut self, block: Blk<'c>, top: Op<'c>, mut in_loop: Option<&mut Vec<usize>>) {
        for op in ops_of(block) {
            self.visit(op, top, in_loop.as_deref_mut());
        }
    }

    /// Extends a buffer's life to a step.
    fn used(&mut self, index: usize, step: usize, top: Op<'c>) {
        let buffer = &mut self.buffers[index];
        if buffer.life.is_empty() {
            buffer.life = step..step + 1;
            buffer.first_use = Some(top);
        } else {
            buffer.life = buffer.life.start.min(step)..buffer.life.end.max(step + 1);
        }
    }

    /// Records what an operation needs.
    fn needs(&mut self, op: Op<'c>, step: usize) {
        let result = || results_of(op)[0];
        let (bytes, align, life) = match GpuOp::of(op) {
            Some(GpuOp::Alloc { .. } | GpuOp::Mbarriers { .. }) => {
                self.allocs.insert(result().to_raw().ptr as usize, self.buffers.len());
                let smem = Smem::of(type_of(result())).expect("an allocation is of shared memory");
                let is_mbarriers = matches!(GpuOp::of(op), Some(GpuOp::Mbarriers { .. }));
                let align = if is_mbarriers { SCRATCH_ALIGN_BYTES } else { ALIGN_BYTES };
                (smem.bytes(), align, 0..0)
            }
            Some(GpuOp::ConvertLayout { .. } | GpuOp::Reduce { .. }) => {
                (scratch_bytes(op), SCRATCH_ALIGN_BYTES, step..step + 1)
            }
            _ => return,
        };
        if bytes > 0 {
            self.buffers.push(Buffer { op, bytes, align, life, first_use: None, offset: 0 });
        }
    }
}

/// Bytes that an operation needs to itself while it runs.
pub(in crate::gpu) fn scratch_bytes(op: Op) -> usize {
    match GpuOp::of(op) {
        Some(GpuOp::ConvertLayout { tile, .. }) => {
            let layouts = layout_of(type_of(tile)).zip(layout_of(type_of(results_of(op)[0])));
            layouts.zip(dtype_of(type_of(tile))).map_or(0, |((from, to), dtype)| {
                conversion(&from, &to).scratch_bytes(from.num_elements(), dtype.bits())
            })
        }
        Some(GpuOp::Reduce { tile, axis, .. }) => {
            layout_of(type_of(tile)).map_or(0, |layout| reduce_scratch_bytes(&layout, axis))
        }
        _ => 0,
    }
}
