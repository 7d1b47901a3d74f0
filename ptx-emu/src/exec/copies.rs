//! Asynchronous copies.
//!
//! All are done as late as the kernel allows: the bytes that they write are in flight until something waits for them,
//! and those that they read, too.

use super::{Cta, Launched, aligned, first, lanes};
use crate::cluster::{Sent, What};
use crate::fault::Wrong;
use crate::memory::Memory;
use crate::op::{Arg, Inst};
use crate::order::{Clock, Knowledge};
use crate::shared::By;
use crate::tensor_map::TensorMap;
use crate::warp::{BulkStore, Copy, Warp};

/// A bulk load under way.
#[derive(Clone, Debug)]
pub(crate) struct BulkLoad {
    map: u64,
    coordinates: Vec<i64>,
    to: u64,
    mbarrier: u64,
}

/// The thread that makes a bulk copy, which one alone does.
fn one_lane(mask: u32) -> Result<usize, Wrong> {
    match mask.count_ones() {
        1 => Ok(first(mask)),
        _ => Err(Wrong::Unsupported("a bulk copy by more than one thread".to_owned())),
    }
}

/// The places of a block's bytes in shared memory, in chunks that lie together, with their offsets in the block.
fn chunks(map: &TensorMap, start: u64) -> impl Iterator<Item = (u64, usize)> {
    (0..map.block_bytes()).step_by(16).map(move |offset| (map.place(start, offset), offset))
}

impl Cta {
    /// The block that a bulk copy's operand names: the address of its map, and its coordinates.
    fn block(&self, w: usize, arg: &Arg, lane: usize, at: &Launched<'_>) -> Result<(u64, Vec<i64>), Wrong> {
        let map = self.addresses(w, arg, at)[lane];
        let given: &[Arg] = if let Arg::Memory { coordinates, .. } = arg { coordinates } else { &[] };
        if given.len() != at.params.map(map)?.rank() {
            let what = "as many coordinates as this tensor map does not have";
            return Err(Wrong::Unsupported(what.to_owned()));
        }
        let coordinate = |arg| i64::from(self.warps[w].get(arg, &at.place)[lane] as u32 as i32);
        Ok((map, given.iter().map(coordinate).collect()))
    }

    /// `cp.async`.
    pub(super) fn start_copies(
        &mut self,
        w: usize,
        inst: &Inst,
        mask: u32,
        bytes: usize,
        at: &Launched<'_>,
    ) -> Result<(), Wrong> {
        let (to, from) = (self.shared_addresses(w, &inst.args[0], at), self.addresses(w, &inst.args[1], at));
        let whole = bytes as u64;
        let valid = match inst.args.get(3) {
            // A predicate: where it is true, the source is ignored.
            Some(ignored @ Arg::Not(_)) => {
                self.warps[w].get(ignored, &at.place).map(|i| if i == 0 { whole } else { 0 })
            }
            Some(valid) => self.warps[w].get(valid, &at.place),
            None => [whole; 32],
        };
        for lane in lanes(mask) {
            let copy =
                Copy { to: to[lane], from: from[lane], bytes, valid: (valid[lane] as usize).min(bytes) };
            aligned(copy.to, bytes)?;
            aligned(copy.from, bytes)?;
            self.shared.start_write(copy.to, bytes, self.warps[w].by(false))?;
            self.warps[w].copies.push(copy);
        }
        Ok(())
    }

    /// `cp.async.wait_group`: does the copies of all but the last `pending` groups.
    pub(super) fn finish_copies(
        &mut self,
        w: usize,
        pending: usize,
        memory: &Memory<'_>,
    ) -> Result<(), Wrong> {
        let (agent, step) = (self.warps[w].agent, self.warps[w].step());
        for copy in self.warps[w].copies.retire(pending) {
            let mut data = vec![0; copy.bytes];
            if copy.valid != 0 {
                data[..copy.valid].copy_from_slice(memory.read(copy.from, copy.valid)?);
            }
            self.shared.finish_write(copy.to, &data, agent, step);
        }
        Ok(())
    }

    /// `cp.async.bulk.tensor` to shared memory.
    pub(super) fn start_bulk_load(
        &mut self,
        w: usize,
        inst: &Inst,
        mask: u32,
        cluster: bool,
        at: &Launched<'_>,
    ) -> Result<(), Wrong> {
        let lane = one_lane(mask)?;
        let (map, coordinates) = self.block(w, &inst.args[1], lane, at)?;
        let [to, mbarrier] = [0, 2].map(|i| self.shared_addresses(w, &inst.args[i], at)[lane]);
        aligned(to, at.params.map(map)?.shared_align())?;
        let load = BulkLoad { map, coordinates, to, mbarrier };
        let Warp { agent, knows, .. } = &self.warps[w];
        let (agent, knows) = (*agent, knows.clone());
        if cluster {
            let mask = self.warps[w].get(&inst.args[3], &at.place)[lane];
            self.sent.push(Sent { what: What::Load(load, mask), agent, knows });
            return Ok(());
        }
        self.receive_load(load, By { agent, knows: &knows, is_async: true }, at)
    }

    /// Starts a bulk load to this CTA, by itself or by another one of its cluster.
    pub fn receive_load(&mut self, load: BulkLoad, by: By<'_>, at: &Launched<'_>) -> Result<(), Wrong> {
        self.shared.uses_mbarrier(load.mbarrier, by)?;
        self.mbarrier(load.mbarrier)?;
        for (place, _) in chunks(at.params.map(load.map)?, load.to) {
            self.shared.start_write(place, 16, by)?;
        }
        self.loads.push(load);
        Ok(())
    }

    /// Does one of the bulk loads under way.
    pub fn finish_bulk_load(
        &mut self,
        index: usize,
        at: &Launched<'_>,
        memory: &Memory<'_>,
    ) -> Result<(), Wrong> {
        let load = self.loads.swap_remove(index);
        let map = at.params.map(load.map)?;
        let data = map.load(&load.coordinates, memory)?;
        self.loaded += 1;
        let engine = self.shared.engine();
        for (place, offset) in chunks(map, load.to) {
            self.shared.finish_write(place, &data[offset..offset + 16], engine, self.loaded);
        }
        let mut knows = Knowledge { clock: Clock::default(), fenced: Clock::default() };
        knows.clock.set(engine, self.loaded);
        self.mbarrier(load.mbarrier)?.complete(data.len() as u64, &knows);
        Ok(())
    }

    /// `cp.async.bulk.tensor` from shared memory.
    pub(super) fn start_bulk_store(
        &mut self,
        w: usize,
        inst: &Inst,
        mask: u32,
        at: &Launched<'_>,
    ) -> Result<(), Wrong> {
        let lane = one_lane(mask)?;
        let (map, coordinates) = self.block(w, &inst.args[0], lane, at)?;
        let from = self.shared_addresses(w, &inst.args[1], at)[lane];
        let described = at.params.map(map)?;
        aligned(from, described.shared_align())?;
        for (place, _) in chunks(described, from) {
            self.shared.start_read(place, 16, self.warps[w].by(true))?;
        }
        self.warps[w].stores.push(BulkStore { map, coordinates, from });
        Ok(())
    }

    /// `cp.async.bulk.prefetch.tensor`: nothing can tell what it has brought into L2. Rows of the block start at
    /// multiples of 16 bytes: on an H200 others are an illegal instruction.
    pub(super) fn bulk_prefetch(
        &self,
        w: usize,
        inst: &Inst,
        mask: u32,
        at: &Launched<'_>,
    ) -> Result<(), Wrong> {
        let (map, coordinates) = self.block(w, &inst.args[0], one_lane(mask)?, at)?;
        aligned(at.params.map(map)?.row_start(&coordinates), 16)
    }

    /// `cp.async.bulk.wait_group`: does all but the last `pending` groups of bulk stores.
    pub(super) fn finish_bulk_stores(
        &mut self,
        w: usize,
        pending: usize,
        at: &Launched<'_>,
        memory: &mut Memory<'_>,
    ) -> Result<(), Wrong> {
        let (agent, step) = (self.warps[w].agent, self.warps[w].step());
        for store in self.warps[w].stores.retire(pending) {
            let map = at.params.map(store.map)?;
            let mut data = vec![0; map.block_bytes()];
            for (place, offset) in chunks(map, store.from) {
                data[offset..offset + 16].copy_from_slice(self.shared.finish_read(place, 16, agent, step));
            }
            map.store(&store.coordinates, &data, memory)?;
        }
        Ok(())
    }
}
