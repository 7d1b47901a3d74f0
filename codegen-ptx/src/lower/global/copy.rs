//! Copies to shared memory that threads make themselves, where rows are too narrow or badly aligned for
//! asynchronous ones.

use super::super::value::elem_bytes;
use super::{Lowering, shared_offset};
use crate::error::LowerError;
use crate::layout::blocked;
use tile_ir::types::{Op, Val};

/// Accesses in flight at a time: enough to hide latency, few enough not to run out of registers.
const BATCH: usize = 16;

impl<'c> Lowering<'c> {
    /// Copies a block to a slot, a batch of loads and then their stores at a time.
    pub(in super::super) fn lower_copy(
        &mut self,
        op: Op<'c>,
        (view, index): (Val<'c>, &[Val<'c>]),
        (smem, slot): (Val<'c>, Val<'c>),
        tile_shape: &[usize],
        vec_bytes: usize,
    ) -> Result<(), LowerError> {
        self.order_access(view, false);
        let shared = self.shared(op, smem)?;
        let bytes = elem_bytes(shared.dtype);
        let order: Vec<usize> = (0..tile_shape.len()).rev().collect();
        let layout = blocked(tile_shape, self.num_warps(op)?, (vec_bytes / bytes).max(1), &order);
        let mut block = self.block(op, view, index, &layout)?;
        let elems = Self::vector_elems(&block.view, &layout, vec_bytes);
        let free = layout.free_variable_masks();
        let once = self.e.threads_without(free.lane, free.warp);
        let at = self.shared_thread_offset(&shared, &layout, false);
        let base = self.slot_base(op, &shared, slot)?;
        let registers: Vec<usize> = (0..layout.num_registers()).step_by(elems).collect();
        for batch in registers.chunks(BATCH) {
            let mut loaded = Vec::with_capacity(batch.len());
            for &register in batch {
                let offset = layout.apply(register as u32, 0, 0);
                let inside = self.all_inside(&mut block, &offset);
                let (address, constant) = self.address(&mut block, &offset);
                loaded.push((offset, self.load(address, constant, elems * bytes, inside)));
            }
            for (offset, words) in loaded {
                let target = shared_offset(&shared.layout, &layout, &offset, false);
                let (target, constant) = self.shared_address_of(base, at, target as u32);
                self.shared_store(target, constant, &words, elems * bytes, once);
            }
        }
        Ok(())
    }
}
