//! Arrivals at counters in global memory.
//!
//! All threads of the CTA have stored when they meet; then one of them counts, with release and acquire at the scope
//! of the GPU, and when they meet again all know what it found. So a store of any thread of any CTA that arrived
//! comes before every load of every thread of the last one: the barriers order the threads of a CTA, the counter
//! the CTAs, and such orders add up (the PTX ISA's causality order).
//!
//! The counter goes from `count - 1` back to zero, so that the next launch finds it as this one did. Nobody waits for
//! another CTA, so CTAs need not be resident at the same time.

use super::emitter::Cmp;
use super::value::Lowered;
use super::{Lowering, internal};
use crate::error::LowerError;
use tile_ir::types::{Op, Val};

impl<'c> Lowering<'c> {
    /// Counts, and tells all threads whether this CTA is the last one.
    pub(super) fn lower_arrival(
        &mut self,
        op: Op<'c>,
        view: Val<'c>,
        index: &[Val<'c>],
        count: Val<'c>,
    ) -> Result<(), LowerError> {
        let (address, _, inside) = self.element_address(op, view, index)?;
        let count = self.scalar(op, count)?;
        self.arrive(op, address, inside, count)
    }

    /// Counts at an address, where `inside` holds.
    pub(super) fn arrive(
        &mut self,
        op: Op<'c>,
        address: Val<'c>,
        inside: Option<Val<'c>>,
        count: Val<'c>,
    ) -> Result<(), LowerError> {
        self.barrier();
        let first_thread = self.e.threads_without(u32::MAX, u32::MAX);
        let counts = self.e.both(inside, first_thread).ok_or_else(|| internal(op, "no thread counts"))?;
        let e = &mut self.e;
        let minus_one = e.i32(-1);
        let last = e.binary("llvm.add", count, minus_one);
        let text = "mov.b32 $0, 0; @$3 atom.acq_rel.gpu.global.inc.u32 $0, [$1], $2;";
        let found = e.asm(text, "=&r,l,r,b,~{memory}", &[address, last, counts], &[e.types.i32])[0];
        let fills = e.icmp(Cmp::Eq, found, last);
        let fills = e.binary("llvm.and", fills, counts);
        let is_last = e.barrier_any(fills);
        self.written.clear();
        self.set_result(op, Lowered::Scalar(is_last));
        Ok(())
    }

    /// Tells all threads whether this CTA is the only one that has not counted at an address, of two; then the counter
    /// is back at zero, as if it had.
    pub(super) fn other_arrived(
        &mut self,
        op: Op<'c>,
        address: Val<'c>,
        count: Val<'c>,
    ) -> Result<(), LowerError> {
        let first_thread = self.e.threads_without(u32::MAX, u32::MAX);
        let asks = first_thread.ok_or_else(|| internal(op, "no thread asks"))?;
        let e = &mut self.e;
        let (zero, two) = (e.i32(0), e.i32(2));
        let is_pair = e.icmp(Cmp::Eq, count, two);
        let asks = e.binary("llvm.and", asks, is_pair);
        let text = "mov.b32 $0, 0; @$2 ld.acquire.gpu.global.b32 $0, [$1];";
        let found = e.asm(text, "=&r,l,b,~{memory}", &[address, asks], &[e.types.i32])[0];
        let is_there = e.icmp(Cmp::Ult, zero, found);
        e.asm("@$1 st.relaxed.gpu.global.b32 [$0], 0;", "l,b,~{memory}", &[address, is_there], &[]);
        let is_alone = e.barrier_any(is_there);
        self.written.clear();
        self.set_result(op, Lowered::Scalar(is_alone));
        Ok(())
    }
}
