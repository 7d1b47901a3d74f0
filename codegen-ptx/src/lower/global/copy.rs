//! Copies to shared memory that threads make themselves, where rows are too narrow or badly aligned for
//! asynchronous ones.

use super::Lowering;
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
        let order: Vec<usize> = (0..tile_shape.len()).rev().collect();
        let vector = (vec_bytes * 8 / shared.elem_bits()).max(1);
        let layout = blocked(tile_shape, self.num_warps(op)?, vector, &order);
        let mut block = self.block(op, view, index, &layout)?;
        let run = Self::global_run(&block.view, &layout, vec_bytes).leading();
        let (elems, bytes) = (run.len(), run.len() * shared.elem_bits() / 8);
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
                loaded.push((offset, self.load((address, block.view.policy), constant, bytes, inside)));
            }
            for (offset, words) in loaded {
                let target = shared.offset(&layout, &offset, false);
                let (target, constant) = self.shared_address_of(base, at, target as u32);
                self.shared_store(target, constant, &words, bytes, once);
            }
        }
        Ok(())
    }
}
