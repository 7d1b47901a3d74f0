//! Bulk copies by a warp of their own, and the mbarriers that connect it with the warps that compute.

use super::emitter::{Cmp, Emitter};
use super::policy::Hint;
use super::value::{Lowered, Shared};
use super::{Lowering, internal};
use crate::error::LowerError;
use crate::gpu::cluster::cut_dim;
use crate::gpu::dialect::Smem;
use tile_ir::types::{Op, Val, blocks_of, results_of, type_of, view_of};

/// Bytes of an mbarrier.
const MBARRIER_BYTES: i64 = 8;

impl<'c> Lowering<'c> {
    pub(super) fn lower_mbarriers(
        &mut self,
        op: Op<'c>,
        offset: Option<usize>,
        arrivals: usize,
    ) -> Result<(), LowerError> {
        let offset = offset.ok_or_else(|| internal(op, "shared memory was not allocated"))?;
        let result = results_of(op).first().copied().ok_or_else(|| internal(op, "no result"))?;
        let smem = Smem::of(type_of(result)).ok_or_else(|| internal(op, "not a type of buffer"))?;
        let base = self.shared_address(offset);
        let e = &mut self.e;
        let thread = e.special_register("tid.x");
        let zero = e.i32(0);
        let first = e.icmp(Cmp::Eq, thread, zero);
        let text: String = (0..smem.layout.cols as i64)
            .map(|i| format!("@$1 mbarrier.init.shared::cta.b64 [$0 + {}], {arrivals}; ", i * MBARRIER_BYTES))
            .collect();
        e.asm(&text, "r,b,~{memory}", &[base, first], &[]);
        let slot_bytes = smem.slot_bytes();
        self.set(
            result,
            Lowered::Shared(Shared { dtype: smem.dtype, layout: smem.layout, per_byte: 1, base, slot_bytes }),
        );
        Ok(())
    }

    /// The branch of the warps that copy, which ends their work; the others go on.
    pub(super) fn lower_producer(
        &mut self,
        op: Op<'c>,
        warps: usize,
        registers: Option<[usize; 2]>,
    ) -> Result<(), LowerError> {
        let first = self.num_warps.ok_or_else(|| internal(op, "the number of warps is not known"))?;
        let body = blocks_of(op).first().copied().ok_or_else(|| internal(op, "no body"))?;
        let e = &mut self.e;
        if !self.has_met {
            e.asm("fence.mbarrier_init.release.cluster;", "~{memory}", &[], &[]);
            e.barrier();
        }
        let warp = e.uniform_warp();
        let count = e.i32(first as i64);
        let consumes = e.icmp(Cmp::Slt, warp, count);
        let (role, rest) = (e.add_block(&[]), e.add_block(&[]));
        let (run, done) = (e.add_block(&[]), e.add_block(&[]));
        e.branch_if(consumes, (rest, &[]), (role, &[]));

        let set = |e: &mut Emitter<'c>, change: &str, count: usize| {
            e.asm(&format!("setmaxnreg.{change}.sync.aligned.u32 {count};"), "~{memory}", &[], &[]);
        };
        e.switch_to(rest);
        if let Some([_, count]) = registers {
            set(e, "inc", count);
        }
        e.switch_to(role);
        if let Some([count, _]) = registers {
            set(e, "dec", count);
        }
        let mut elected = e.elect();
        if warps > 1 {
            let is_first = e.icmp(Cmp::Eq, warp, count);
            elected = e.binary("llvm.and", elected, is_first);
        }
        e.branch_if(elected, (run, &[]), (done, &[]));
        e.switch_to(run);
        self.lower_block(body)?;
        self.e.branch(done, &[]);
        self.e.switch_to(done);
        self.e.op("llvm.return", &[], &[], &[], &[]);
        self.e.switch_to(rest);
        self.e.barrier_threads = Some(first * 32);
        Ok(())
    }

    /// The CTAs of a cluster meet; what set up barriers comes before what others do with them.
    pub(super) fn lower_enter_cluster(&mut self) {
        let text = "fence.mbarrier_init.release.cluster; barrier.cluster.arrive.release.aligned; \
                    barrier.cluster.wait.acquire.aligned;";
        self.e.asm(text, "~{memory}", &[], &[]);
        self.has_met = true;
    }

    /// The address of a slot's mbarrier.
    fn mbarrier(&mut self, op: Op, barriers: Val<'c>, slot: Val<'c>) -> Result<Val<'c>, LowerError> {
        let base = self.shared(op, barriers)?.base;
        let slot = self.scalar(op, slot)?;
        let size = self.e.i32(MBARRIER_BYTES);
        let distance = self.e.mul(slot, size);
        Ok(self.e.add(base, distance))
    }

    pub(super) fn lower_expect(
        &mut self,
        op: Op<'c>,
        barriers: Val<'c>,
        slot: Val<'c>,
        bytes: usize,
    ) -> Result<(), LowerError> {
        let barrier = self.mbarrier(op, barriers, slot)?;
        let text = format!("mbarrier.arrive.expect_tx.shared::cta.b64 _, [$0], {bytes};");
        self.e.asm(&text, "r,~{memory}", &[barrier], &[]);
        Ok(())
    }

    pub(super) fn lower_mbarrier_wait(
        &mut self,
        op: Op<'c>,
        barriers: Val<'c>,
        [slot, parity]: [Val<'c>; 2],
    ) -> Result<(), LowerError> {
        let barrier = self.mbarrier(op, barriers, slot)?;
        let parity = self.scalar(op, parity)?;
        let text = "{ .reg .pred over; again: mbarrier.try_wait.parity.shared::cta.b64 over, [$0], $1; \
                    @!over bra.uni again; }";
        self.e.asm(text, "r,r,~{memory}", &[barrier, parity], &[]);
        Ok(())
    }

    pub(super) fn lower_mbarrier_arrive(
        &mut self,
        op: Op<'c>,
        barriers: Val<'c>,
        slot: Val<'c>,
        [cluster, loaded]: [bool; 2],
    ) -> Result<(), LowerError> {
        if loaded {
            // An arrival does not wait for the warp's loads to end, and a bulk copy may overtake them.
            self.e.asm("fence.proxy.async.shared::cta;", "~{memory}", &[], &[]);
        }
        let barrier = self.mbarrier(op, barriers, slot)?;
        let slot = self.scalar(op, slot)?;
        let ctas = self.num_ctas;
        let e = &mut self.e;
        let lane = e.lane();
        let is_one = match cluster {
            true => {
                let count = e.i32(ctas as i64);
                e.icmp(Cmp::Slt, lane, count)
            }
            false => {
                let zero = e.i32(0);
                e.icmp(Cmp::Eq, lane, zero)
            }
        };
        let minus_one = e.i32(-1);
        let any = e.icmp(Cmp::Slt, minus_one, slot);
        let arrives = e.binary("llvm.and", is_one, any);
        if cluster {
            // Each lane at the barrier of one CTA. The products that read the slot are over, and nothing is handed
            // over but that: the default scope does, which spares a fence of the whole GPU.
            let text = "bar.warp.sync -1; { .reg .b32 remote; @$1 mapa.shared::cluster.u32 remote, $0, $2; \
                        @$1 mbarrier.arrive.shared::cluster.b64 _, [remote]; }";
            e.asm(text, "r,b,r,~{memory}", &[barrier, arrives, lane], &[]);
            return Ok(());
        }
        let text = "bar.warp.sync -1; @$1 mbarrier.arrive.shared::cta.b64 _, [$0];";
        e.asm(text, "r,b,~{memory}", &[barrier, arrives], &[]);
        Ok(())
    }

    pub(super) fn lower_tma_copy(
        &mut self,
        op: Op<'c>,
        (view, index): (Val<'c>, &[Val<'c>]),
        [smem, barriers, slot]: [Val<'c>; 3],
        (tile_shape, box_shape): (&[usize], &[usize]),
        (map, cluster): (usize, bool),
    ) -> Result<(), LowerError> {
        let shared = self.shared(op, smem)?;
        let base = self.slot_base(op, &shared, slot)?;
        let barrier = self.mbarrier(op, barriers, slot)?;
        let map = *self.tensor_maps.get(map).ok_or_else(|| internal(op, "the kernel takes no such map"))?;
        let rank = tile_shape.len();
        let part =
            cluster.then(|| (self.e.in_prologue(|e| e.special_register("cluster.ctarank")), self.num_ctas));
        let (multicast, mask) = match cluster {
            true => (".multicast::cluster", format!(", {}", (1 << self.num_ctas) - 1)),
            false => ("", String::new()),
        };
        let hint = Hint::of(self.view(op, view)?.policy, 3 + rank);
        for (target, at) in self.boxes(op, index, (&shared, base), (tile_shape, box_shape), part)? {
            let list: Vec<String> = (0..rank).map(|i| format!("${}", 3 + i)).collect();
            let text = format!(
                "cp.async.bulk.tensor.{rank}d.shared::cluster.global.tile.mbarrier::complete_tx::bytes{multicast}{} \
                 [$0], [$1, {{{}}}], [$2]{mask}{};",
                hint.modifier,
                list.join(", "),
                hint.operand
            );
            let constraints = format!("r,l,r,{}{},~{{memory}}", vec!["r"; rank].join(","), hint.constraint);
            let operands: Vec<Val> =
                [target, map, barrier].into_iter().chain(at).chain(hint.policy).collect();
            self.e.asm(&text, &constraints, &operands, &[]);
        }
        Ok(())
    }

    /// Starts to bring a box into L2 (PTX ISA, `cp.async.bulk.prefetch.tensor`). Its rows start at a multiple of 16 bytes,
    /// the next one down: an H200 takes the instruction for an illegal one where they do not.
    pub(super) fn lower_prefetch(
        &mut self,
        op: Op<'c>,
        (view, index): (Val<'c>, &[Val<'c>]),
        tile_shape: &[usize],
        map: usize,
    ) -> Result<(), LowerError> {
        let elems = view_of(type_of(view)).map_or(1, |view| 16 * 8 / view.dtype.bits() as usize);
        let map = *self.tensor_maps.get(map).ok_or_else(|| internal(op, "the kernel takes no such map"))?;
        let rank = tile_shape.len();
        let mut at = self.corner(op, index, tile_shape, 1)?;
        at.reverse();
        if tile_shape.last().is_none_or(|size| !size.is_multiple_of(elems)) {
            at[0] = self.e.and_const(at[0], -(elems as i64));
        }
        let list: Vec<String> = (1..=rank).map(|i| format!("${i}")).collect();
        let text =
            format!("cp.async.bulk.prefetch.tensor.{rank}d.L2.global.tile [$0, {{{}}}];", list.join(", "));
        let operands: Vec<Val> = [map].into_iter().chain(at).collect();
        self.e.asm(&text, &format!("l,{}", vec!["r"; rank].join(",")), &operands, &[]);
        Ok(())
    }

    /// The place of a block's first element, outermost dimension first, in elements of a map that counts `per_byte` of
    /// the innermost as one.
    fn corner(
        &mut self,
        op: Op,
        index: &[Val<'c>],
        tile_shape: &[usize],
        per_byte: usize,
    ) -> Result<Vec<Val<'c>>, LowerError> {
        let mut corner = Vec::new();
        for (dim, (&index, &size)) in index.iter().zip(tile_shape).enumerate() {
            let index = self.scalar(op, index)?;
            let size = if dim + 1 == tile_shape.len() { size / per_byte } else { size };
            let size = self.e.i32(size as i64);
            corner.push(self.e.mul(index, size));
        }
        Ok(corner)
    }

    /// The boxes of a block: where each lies in shared memory, and its first element's coordinates, innermost first. Of
    /// a block that is cut into parts, those of one.
    pub(super) fn boxes(
        &mut self,
        op: Op,
        index: &[Val<'c>],
        (shared, base): (&Shared<'c>, Val<'c>),
        (tile_shape, box_shape): (&[usize], &[usize]),
        part: Option<(Val<'c>, usize)>,
    ) -> Result<Vec<(Val<'c>, Vec<Val<'c>>)>, LowerError> {
        let (mut base, mut corner) = (base, self.corner(op, index, tile_shape, shared.per_byte)?);
        let Some(&inner) = box_shape.last() else {
            return Err(internal(op, "a tile without dimensions"));
        };
        let (e, panel_bytes) = (&mut self.e, shared.layout.panel_bytes());
        let mut panels = shared.layout.cols / inner;
        if let Some((part, parts)) = part {
            let rows = cut_dim(tile_shape).filter(|dim| box_shape[*dim] < tile_shape[*dim]);
            let (dim, step, bytes) = match rows {
                Some(dim) => (dim, box_shape[dim], panel_bytes * box_shape[dim] / tile_shape[dim]),
                None => {
                    panels /= parts;
                    (tile_shape.len() - 1, panels * inner, panels * panel_bytes)
                }
            };
            let [step, bytes] = [step, bytes].map(|size| e.i32(size as i64));
            let (step, bytes) = (e.mul(part, step), e.mul(part, bytes));
            corner[dim] = e.add(corner[dim], step);
            base = e.add(base, bytes);
        }
        corner.reverse();
        let mut panel = |panel: usize| {
            let offset = e.i32((panel * panel_bytes) as i64);
            let distance = e.i32((panel * inner) as i64);
            let mut at = corner.clone();
            let address = e.add(base, offset);
            at[0] = e.add(at[0], distance);
            (address, at)
        };
        Ok((0..panels).map(&mut panel).collect())
    }
}
