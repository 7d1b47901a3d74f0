//! Whether a warpgroup has rows inside of a tensor.

use super::Lowering;
use super::emitter::Cmp;
use super::value::Lowered;
use crate::error::LowerError;
use tile_ir::types::{Op, Val};

impl<'c> Lowering<'c> {
    /// Compares the first of this warpgroup's rows with the extent.
    pub(super) fn lower_has_rows(
        &mut self,
        op: Op<'c>,
        [first, extent]: [Val<'c>; 2],
        steps: &[usize],
    ) -> Result<(), LowerError> {
        let (mut row, extent) = (self.scalar(op, first)?, self.scalar(op, extent)?);
        let group = self.warpgroup();
        let e = &mut self.e;
        for (bit, &step) in steps.iter().enumerate().filter(|(_, step)| **step > 0) {
            let set = e.shift(group, -(bit as i32));
            let set = e.and_const(set, 1);
            let step = e.i32(step as i64);
            let distance = e.mul(set, step);
            row = e.add(row, distance);
        }
        let has = e.icmp(Cmp::Slt, row, extent);
        self.set_result(op, Lowered::Scalar(has));
        Ok(())
    }
}
