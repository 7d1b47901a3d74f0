//! Turns of two warpgroups, and meetings of the threads of one, by a named barrier for each.
//!
//! Whose turn it is, is who may pass its barrier: it waits there (`bar.sync`) until the other one has arrived
//! (`bar.arrive`), each with all its threads.

use super::Lowering;
use crate::gpu::turns::WARPGROUPS;
use crate::layout::wgmma;
use tile_ir::types::Val;

/// The first warpgroup's barrier, the other one's follows; those before are the CTA's and that of the warps that
/// compute.
const FIRST_BARRIER: usize = 2;
/// The barrier at which the threads of the first warpgroup meet alone; those of the others follow.
const FIRST_GROUP_BARRIER: usize = FIRST_BARRIER + WARPGROUPS;
/// Threads that meet at a barrier of turns, those that wait and those that arrive.
const THREADS: usize = WARPGROUPS * wgmma::WARPS * 32;

impl<'c> Lowering<'c> {
    /// The number of this thread's warpgroup.
    pub(super) fn warpgroup(&mut self) -> Val<'c> {
        let warp = self.e.uniform_warp();
        self.e.shift(warp, -(wgmma::WARP_BITS as i32))
    }

    /// The threads of this warpgroup meet.
    pub(super) fn lower_group_barrier(&mut self) {
        let (group, first) = (self.warpgroup(), self.e.i32(FIRST_GROUP_BARRIER as i64));
        let barrier = self.e.add(first, group);
        let threads = wgmma::WARPS * 32;
        self.e.asm(&format!("bar.sync $0, {threads};"), "r,~{memory}", &[barrier], &[]);
    }

    /// The turn is the first warpgroup's: the other one gives it.
    pub(super) fn lower_open_turns(&mut self) {
        let group = self.warpgroup();
        let text =
            format!("{{ .reg .pred p; setp.eq.u32 p, $0, 1; @p bar.arrive {FIRST_BARRIER}, {THREADS}; }}");
        self.e.asm(&text, "r,~{memory}", &[group], &[]);
    }

    /// Waits for this warpgroup's turn.
    pub(super) fn lower_take_turn(&mut self) {
        let (group, first) = (self.warpgroup(), self.e.i32(FIRST_BARRIER as i64));
        let barrier = self.e.add(first, group);
        self.e.asm(&format!("bar.sync $0, {THREADS};"), "r,~{memory}", &[barrier], &[]);
    }

    /// Gives the other warpgroup its turn.
    pub(super) fn lower_give_turn(&mut self) {
        let (group, last) = (self.warpgroup(), self.e.i32((FIRST_BARRIER + 1) as i64));
        let barrier = self.e.binary("llvm.sub", last, group);
        self.e.asm(&format!("bar.arrive $0, {THREADS};"), "r,~{memory}", &[barrier], &[]);
    }

    /// The first warpgroup takes the turn that the other one has given last, and keeps it.
    pub(super) fn lower_close_turns(&mut self) {
        let group = self.warpgroup();
        let text =
            format!("{{ .reg .pred p; setp.eq.u32 p, $0, 0; @p bar.sync {FIRST_BARRIER}, {THREADS}; }}");
        self.e.asm(&text, "r,~{memory}", &[group], &[]);
    }
}
