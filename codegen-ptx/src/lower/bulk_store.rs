//! Bulk stores: one thread copies a block from shared memory to a tensor, or one of each warpgroup its part.

use super::Lowering;
use super::emitter::Cmp;
use super::internal;
use crate::error::LowerError;
use crate::layout::wgmma;
use tile_ir::types::{Op, Val};

impl<'c> Lowering<'c> {
    /// The boxes of a block, as one group of the elected thread of the first warp, or of each warpgroup's first one. It
    /// is the same at every store: only the thread that starts a group can wait for it.
    pub(super) fn lower_bulk_store(
        &mut self,
        op: Op<'c>,
        index: &[Val<'c>],
        (smem, slot): (Val<'c>, Val<'c>),
        (tile_shape, box_shape): (&[usize], &[usize]),
        (map, groups): (usize, usize),
    ) -> Result<(), LowerError> {
        let shared = self.shared(op, smem)?;
        let map = *self.tensor_maps.get(map).ok_or_else(|| internal(op, "the kernel takes no such map"))?;
        let part = (groups > 1).then(|| (self.warpgroup(), groups));
        let (mut warp, zero) = (self.e.uniform_warp(), self.e.i32(0));
        if part.is_some() {
            warp = self.e.and_const(warp, wgmma::WARPS as i64 - 1);
        }
        let is_first = self.e.icmp(Cmp::Eq, warp, zero);
        let (first, run) = (self.e.add_block(&[]), self.e.add_block(&[]));
        let done = self.e.add_block(&[]);
        self.e.branch_if(is_first, (first, &[]), (done, &[]));
        self.e.switch_to(first);
        let elected = self.e.elect();
        self.e.branch_if(elected, (run, &[]), (done, &[]));
        self.e.switch_to(run);
        let base = self.slot_base(op, &shared, slot)?;
        let rank = tile_shape.len();
        for (source, at) in self.boxes(op, index, (&shared, base), (tile_shape, box_shape), part)? {
            let list: Vec<String> = (0..rank).map(|i| format!("${}", 2 + i)).collect();
            let text = format!(
                "cp.async.bulk.tensor.{rank}d.global.shared::cta.tile.bulk_group [$1, {{{}}}], [$0];",
                list.join(", ")
            );
            let constraints = format!("r,l,{},~{{memory}}", vec!["r"; rank].join(","));
            let operands: Vec<Val> = [source, map].into_iter().chain(at).collect();
            self.e.asm(&text, &constraints, &operands, &[]);
        }
        self.e.asm("cp.async.bulk.commit_group;", "~{memory}", &[], &[]);
        self.e.branch(done, &[]);
        self.e.switch_to(done);
        Ok(())
    }

    /// Threads that have started no group go on at once.
    pub(super) fn lower_bulk_wait(&mut self, read: bool) {
        let read = if read { ".read" } else { "" };
        self.e.asm(&format!("cp.async.bulk.wait_group{read} 0;"), "~{memory}", &[], &[]);
    }
}
