//! One instruction of a warp.

mod alu;
mod copies;
mod matrix;

use crate::cluster::{Sent, What, in_cluster, own};
use crate::fault::Wrong;
use crate::memory::{Memory, Params};
use crate::op::{Arg, Atomic, Inst, Op, POLICY, Shuffle, Space, Type};
use crate::order::Knowledge;
use crate::parse::Entry;
use crate::shared::{By, Shared, release};
use crate::sync::{Mbarrier, Named};
use crate::warp::{LANES, Lanes, Place, State, Warp};
pub(crate) use copies::BulkLoad;
use std::collections::HashMap;

/// A CTA that runs.
#[derive(Debug)]
pub(crate) struct Cta {
    pub warps: Vec<Warp>,
    pub shared: Shared,
    pub mbarriers: HashMap<u64, Mbarrier>,
    named: HashMap<u64, Named>,
    /// Bulk loads under way.
    pub loads: Vec<BulkLoad>,
    /// Bulk loads that are over.
    loaded: u32,
    /// What is for other CTAs of the cluster.
    pub sent: Vec<Sent>,
    /// How often the cluster's barrier has opened, and what was known to those who were there.
    pub meetings: u64,
    pub met: Knowledge,
}

/// What a launch runs and on what.
pub(crate) struct Launched<'a> {
    pub entry: &'a Entry,
    pub params: &'a Params,
    pub place: Place,
}

impl Cta {
    /// The CTA with a rank in a cluster of so many.
    pub fn new(entry: &Entry, threads: u32, shared_bytes: usize, [rank, ctas]: [usize; 2]) -> Cta {
        let warps = threads as usize / LANES;
        let agent = |w| rank * (warps + 1) + w;
        Cta {
            warps: (0..warps).map(|w| Warp::new(w, agent(w), entry.registers.len())).collect(),
            shared: Shared::new(shared_bytes, warps, [rank, ctas]),
            mbarriers: HashMap::new(),
            named: HashMap::new(),
            loads: Vec::new(),
            loaded: 0,
            sent: Vec::new(),
            meetings: 0,
            met: Knowledge::default(),
        }
    }

    /// Executes a warp's next instruction.
    pub fn step(&mut self, w: usize, at: &Launched<'_>, memory: &mut Memory<'_>) -> Result<(), Wrong> {
        let warp = &mut self.warps[w];
        let (pc, group) = warp.current()?;
        let Some(inst) = at.entry.code.get(pc) else {
            warp.advance(group, group, None);
            return Ok(());
        };
        let mask = warp.guarded(inst, group);
        if inst.op.is_collective() && group != warp.live() {
            warp.park(group);
            return Ok(());
        }
        if inst.op.is_collective() && mask != 0 && mask != group {
            return Err(Wrong::Divergent { found: mask, wanted: group });
        }
        warp.executed += 1;
        warp.spares_products(inst, &at.entry.registers)?;
        match inst.op {
            Op::Branch => {
                let [Arg::Target(target)] = inst.args[..] else { unreachable!("labels are resolved") };
                warp.advance(group, mask, Some(target));
                return Ok(());
            }
            Op::Return => {
                warp.advance(group, mask, None);
                return Ok(());
            }
            _ if mask == 0 => {}
            _ => {
                if !self.execute(w, inst, mask, at, memory)? {
                    return Ok(());
                }
            }
        }
        self.warps[w].advance(group, 0, None);
        Ok(())
    }

    /// Executes an instruction in some threads; false when the warp has to try again later.
    fn execute(
        &mut self,
        w: usize,
        inst: &Inst,
        mask: u32,
        at: &Launched<'_>,
        memory: &mut Memory<'_>,
    ) -> Result<bool, Wrong> {
        if let Some(policy) = &inst.policy {
            let policies = self.warps[w].get(policy, &at.place);
            if let Some(lane) = lanes(mask).find(|lane| policies[*lane] != POLICY) {
                return Err(Wrong::Policy { found: policies[lane] });
            }
        }
        match inst.op {
            Op::Load { space, bytes, signed } => {
                self.load(w, inst, mask, space, bytes, signed, at, memory)?
            }
            Op::Store { space, bytes } => self.store(w, inst, mask, space, bytes, at, memory)?,
            Op::Atomic { kind, ty, returns } => {
                self.atomic(w, inst, mask, (kind, ty, returns), at, memory)?
            }
            Op::Barrier { waits } => return self.barrier(w, inst, waits, None, at),
            Op::BarrierReduce { any } => return self.barrier(w, inst, true, Some(any), at),
            Op::Mma(product) => matrix::mma(&mut self.warps[w], inst, product, at)?,
            Op::LoadMatrix { transposed } => self.load_matrix(w, inst, transposed, at)?,
            Op::StoreMatrix { transposed } => self.store_matrix(w, inst, transposed, at)?,
            Op::CopyAsync { bytes } => self.start_copies(w, inst, mask, bytes, at)?,
            Op::CopyCommit => self.warps[w].copies.commit(),
            Op::CopyWait { all } => {
                if all {
                    self.warps[w].copies.commit();
                }
                let pending = if all { 0 } else { immediate(&inst.args[0])? };
                self.finish_copies(w, pending, memory)?;
            }
            Op::MbarrierInit => {
                let address = self.shared_addresses(w, &inst.args[0], at)[first(mask)];
                let count = self.warps[w].get(&inst.args[1], &at.place)[first(mask)];
                self.shared.write(address, 8, self.warps[w].by(false))?;
                self.mbarriers.insert(address, Mbarrier::new(count as u32));
            }
            Op::MbarrierArrive { expects } => self.mbarrier_arrive(w, inst, mask, expects, at)?,
            Op::MbarrierTryWait => return self.mbarrier_wait(w, inst, mask, at),
            Op::FenceProxyAsync => {
                let Warp { agent, knows, .. } = &mut self.warps[w];
                knows.fence();
                // What the warp writes from now on is not fenced.
                let step = knows.clock.get(*agent);
                knows.clock.set(*agent, step + 1);
            }
            Op::BulkLoad { cluster } => self.start_bulk_load(w, inst, mask, cluster, at)?,
            Op::ClusterMbarrierArrive => {
                let addresses = self.addresses(w, &inst.args[1], at);
                let Warp { agent, knows, .. } = &mut self.warps[w];
                let handed = release(*agent, knows);
                let arrivals = lanes(mask).map(|lane| Sent {
                    what: What::Arrival(addresses[lane]),
                    agent: *agent,
                    knows: handed.clone(),
                });
                self.sent.extend(arrivals);
            }
            Op::ClusterArrive => {
                let Warp { agent, knows, meetings, .. } = &mut self.warps[w];
                *meetings += 1;
                self.sent.push(Sent { what: What::Meeting, agent: *agent, knows: release(*agent, knows) });
            }
            Op::ClusterWait => {
                let warp = &mut self.warps[w];
                if self.meetings < warp.meetings {
                    warp.state = State::Cluster;
                    return Ok(false);
                }
                warp.knows.join(&self.met);
            }
            Op::BulkStore => self.start_bulk_store(w, inst, mask, at)?,
            Op::BulkPrefetch => self.bulk_prefetch(w, inst, mask, at)?,
            Op::BulkCommit => self.warps[w].stores.commit(),
            Op::BulkWait { .. } => self.finish_bulk_stores(w, immediate(&inst.args[0])?, at, memory)?,
            Op::WgmmaFence => self.warps[w].fence(),
            Op::Wgmma(product) => self.start_wgmma(w, inst, product, at)?,
            Op::WgmmaCommit => self.warps[w].products.commit(),
            Op::WgmmaWait => self.finish_wgmmas(w, immediate(&inst.args[0])?),
            Op::Nothing | Op::WarpBarrier => {}
            Op::Trap => {
                return Err(Wrong::Unsupported("the kernel stopped itself; what it does then".to_owned()));
            }
            _ => scalar(&mut self.warps[w], inst, mask, at)?,
        }
        Ok(true)
    }

    /// The addresses that an operand in brackets is.
    fn addresses(&self, w: usize, arg: &Arg, at: &Launched<'_>) -> Lanes {
        match arg {
            Arg::Memory { base, offset, .. } => {
                self.warps[w].get(base, &at.place).map(|base| base.wrapping_add(*offset))
            }
            other => self.warps[w].get(other, &at.place),
        }
    }

    /// Addresses of the CTA's own shared memory.
    fn shared_addresses(&self, w: usize, arg: &Arg, at: &Launched<'_>) -> Lanes {
        self.addresses(w, arg, at).map(|address| own(address, at.place.rank))
    }

    #[allow(clippy::too_many_arguments)]
    fn load(
        &mut self,
        w: usize,
        inst: &Inst,
        mask: u32,
        space: Space,
        bytes: usize,
        signed: bool,
        at: &Launched<'_>,
        memory: &Memory<'_>,
    ) -> Result<(), Wrong> {
        let addresses = self.addresses(w, &inst.args[1], at);
        let targets = vector(&inst.args[0]);
        let mut values = vec![[0u64; LANES]; targets.len()];
        let size = bytes * targets.len();
        for lane in lanes(mask) {
            let address = window(space, addresses[lane], at);
            aligned(address, size)?;
            let found = match space {
                Space::Param => at.params.read(address, size)?,
                Space::Global => memory.read(address, size)?,
                Space::Shared => self.shared.read(address, size, self.warps[w].by(false))?,
            };
            for (value, part) in values.iter_mut().zip(found.chunks_exact(bytes)) {
                let word = part.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte));
                let unused = 64 - 8 * bytes as u32;
                value[lane] = if signed { ((word << unused) as i64 >> unused) as u64 } else { word };
            }
        }
        for (target, value) in targets.iter().zip(&values) {
            self.warps[w].set(target, mask, value);
        }
        Ok(())
    }

    #[allow(clippy::too_many_arguments)]
    fn store(
        &mut self,
        w: usize,
        inst: &Inst,
        mask: u32,
        space: Space,
        bytes: usize,
        at: &Launched<'_>,
        memory: &mut Memory<'_>,
    ) -> Result<(), Wrong> {
        let addresses = self.addresses(w, &inst.args[0], at);
        let sources: Vec<Lanes> =
            vector(&inst.args[1]).iter().map(|part| self.warps[w].get(part, &at.place)).collect();
        let size = bytes * sources.len();
        for lane in lanes(mask) {
            let address = window(space, addresses[lane], at);
            aligned(address, size)?;
            let target = match space {
                Space::Global => memory.write(address, size)?,
                Space::Shared => self.shared.write(address, size, self.warps[w].by(false))?,
                Space::Param => return Err(Wrong::Unsupported("a store to parameters".to_owned())),
            };
            for (part, source) in target.chunks_exact_mut(bytes).zip(&sources) {
                part.copy_from_slice(&source[lane].to_le_bytes()[..bytes]);
            }
        }
        Ok(())
    }

    fn atomic(
        &mut self,
        w: usize,
        inst: &Inst,
        mask: u32,
        (kind, ty, returns): (Atomic, Type, bool),
        at: &Launched<'_>,
        memory: &mut Memory<'_>,
    ) -> Result<(), Wrong> {
        let first = usize::from(returns);
        let addresses = self.addresses(w, &inst.args[first], at);
        let operands: Vec<Lanes> =
            inst.args[first + 1..].iter().map(|arg| self.warps[w].get(arg, &at.place)).collect();
        let bytes = match ty {
            Type::Int(int) => int.bits as usize / 8,
            Type::Float(crate::numeric::Float::F32) | Type::Pair(_) => 4,
            _ => return Err(Wrong::Unsupported("an atomic operation of this type".to_owned())),
        };
        let mut before = [0; LANES];
        for lane in lanes(mask) {
            let address = addresses[lane];
            aligned(address, bytes)?;
            let target = memory.write(address, bytes)?;
            let old = target.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte));
            let value = operands[0][lane];
            let alu = |arith| alu::arith(arith, ty, old, value);
            let new = match kind {
                Atomic::Add => alu(crate::op::Arith::Add)?,
                Atomic::Min => alu(crate::op::Arith::Min)?,
                Atomic::Max => alu(crate::op::Arith::Max)?,
                Atomic::And => alu(crate::op::Arith::And)?,
                Atomic::Or => alu(crate::op::Arith::Or)?,
                Atomic::Xor => alu(crate::op::Arith::Xor)?,
                Atomic::Inc => {
                    if old >= value {
                        0
                    } else {
                        old + 1
                    }
                }
                Atomic::Exch => value,
                Atomic::Cas => {
                    if old == value {
                        operands[1][lane]
                    } else {
                        old
                    }
                }
            };
            target.copy_from_slice(&new.to_le_bytes()[..bytes]);
            before[lane] = old;
        }
        if returns {
            self.warps[w].set(&inst.args[0], mask, &before);
        }
        Ok(())
    }

    /// `bar.sync`, `bar.arrive` and, with the way predicates are joined, `bar.red`.
    fn barrier(
        &mut self,
        w: usize,
        inst: &Inst,
        waits: bool,
        any: Option<bool>,
        at: &Launched<'_>,
    ) -> Result<bool, Wrong> {
        let warp = &mut self.warps[w];
        // Results first, then the barrier, the threads, the predicate.
        let (result, operands) = if any.is_some() { inst.args.split_at(1) } else { inst.args.split_at(0) };
        let id = warp.get(&operands[0], &at.place)[0];
        let counted = operands.len() - usize::from(any.is_some()) > 1;
        let threads = if counted { warp.get(&operands[1], &at.place)[0] as u32 } else { at.place.threads };
        let predicates = match any {
            Some(_) => {
                let values = warp.get(operands.last().expect("a predicate"), &at.place);
                warp.predicate(&values)
            }
            None => 0,
        };
        let live = warp.live();
        let handed = release(warp.agent, &mut warp.knows);
        let joined = [predicates & live != 0, predicates & live == live];
        let opened = self.named.entry(id).or_default().arrive(w, waits, threads, &handed, joined)?;
        if waits {
            self.warps[w].state = State::Barrier(id);
        }
        if let Some(opened) = opened {
            for other in opened.warps {
                let warp = &mut self.warps[other];
                warp.state = State::Ready;
                warp.knows.join(&opened.knowledge);
                if let (Some(any), Some(result)) = (any, result.first()) {
                    let value = if any { opened.any } else { opened.all };
                    warp.set(result, warp.live(), &[u64::from(value); LANES]);
                }
            }
        }
        Ok(true)
    }

    fn mbarrier(&mut self, address: u64) -> Result<&mut Mbarrier, Wrong> {
        let missing = Wrong::Mbarrier { address, what: "was not initialized" };
        self.mbarriers.get_mut(&address).ok_or(missing)
    }

    fn mbarrier_arrive(
        &mut self,
        w: usize,
        inst: &Inst,
        mask: u32,
        expects: bool,
        at: &Launched<'_>,
    ) -> Result<(), Wrong> {
        let addresses = self.shared_addresses(w, &inst.args[1], at);
        let bytes = if expects { self.warps[w].get(&inst.args[2], &at.place) } else { [0; LANES] };
        let Warp { agent, knows, .. } = &mut self.warps[w];
        let handed = release(*agent, knows);
        for lane in lanes(mask) {
            let address = addresses[lane];
            self.shared.uses_mbarrier(address, self.warps[w].by(false))?;
            let arrived = self.mbarrier(address)?.arrive(bytes[lane], &handed);
            arrived.map_err(|what| Wrong::Mbarrier { address, what })?;
        }
        Ok(())
    }

    /// An arrival from a CTA of the cluster.
    pub fn receive_arrival(&mut self, address: u64, by: By<'_>) -> Result<(), Wrong> {
        self.shared.uses_mbarrier(address, by)?;
        let arrived = self.mbarrier(address)?.arrive(0, by.knows);
        arrived.map_err(|what| Wrong::Mbarrier { address, what })
    }

    /// `try_wait`, which here says yes or is tried again.
    fn mbarrier_wait(&mut self, w: usize, inst: &Inst, mask: u32, at: &Launched<'_>) -> Result<bool, Wrong> {
        let address = self.shared_addresses(w, &inst.args[1], at)[first(mask)];
        let parity = self.warps[w].get(&inst.args[2], &at.place)[first(mask)];
        self.shared.uses_mbarrier(address, self.warps[w].by(false))?;
        let barrier = self.mbarrier(address)?;
        if !barrier.is_over(parity) {
            self.warps[w].state = State::Mbarrier { address, parity };
            return Ok(false);
        }
        let over = barrier.over().clone();
        self.warps[w].knows.join(&over);
        self.warps[w].set(&inst.args[0], mask, &[1; LANES]);
        Ok(true)
    }
}

/// The lanes of a mask.
fn lanes(mask: u32) -> impl Iterator<Item = usize> {
    (0..LANES).filter(move |lane| mask >> lane & 1 != 0)
}

fn first(mask: u32) -> usize {
    mask.trailing_zeros() as usize
}

fn immediate(arg: &Arg) -> Result<usize, Wrong> {
    match arg {
        Arg::Imm(value) => Ok(*value as usize),
        _ => Err(Wrong::Unsupported("a register where a number must be".to_owned())),
    }
}

/// An address as its space takes it: those of shared memory have 32 bits.
fn window(space: Space, address: u64, at: &Launched<'_>) -> u64 {
    if space == Space::Shared { own(address & 0xffff_ffff, at.place.rank) } else { address }
}

fn aligned(address: u64, align: usize) -> Result<(), Wrong> {
    if address.is_multiple_of(align as u64) { Ok(()) } else { Err(Wrong::Misaligned { address, align }) }
}

/// The operands in braces.
fn vector(arg: &Arg) -> &[Arg] {
    match arg {
        Arg::Vector(parts) => parts,
        other => std::slice::from_ref(other),
    }
}

/// An instruction that each thread executes on its own registers, or on those of its warp.
fn scalar(warp: &mut Warp, inst: &Inst, mask: u32, at: &Launched<'_>) -> Result<(), Wrong> {
    let args = &inst.args;
    let get = |i: usize| warp.get(&args[i], &at.place);
    let mut out = [0u64; LANES];
    // What lanes outside of the mask compute is dropped, errors too.
    let active = |lane: usize| mask >> lane & 1 != 0;
    macro_rules! each {
        (|$lane:ident| $value:expr) => {
            for $lane in 0..LANES {
                if active($lane) {
                    out[$lane] = $value;
                }
            }
        };
    }
    match inst.op {
        Op::Mov(bits) => {
            moved(warp, inst, mask, bits as usize, at);
            return Ok(());
        }
        Op::Arith(arith, ty) => {
            let (a, b) = (get(1), get(2));
            each!(|lane| alu::arith(arith, ty, a[lane], b[lane])?);
            if let Some(third) = args.get(3) {
                let c = warp.get(third, &at.place);
                each!(|lane| alu::arith(arith, ty, out[lane], c[lane])?);
            }
        }
        Op::MulWide(ty) => {
            let (a, b) = (get(1), get(2));
            each!(|lane| (ty.value(a[lane]) * ty.value(b[lane])) as u64 & wide_mask(ty.bits));
        }
        Op::Mad { ty, wide } => {
            let (a, b, c) = (get(1), get(2), get(3));
            let bits = if wide { wide_mask(ty.bits) } else { ty.wrap(u64::MAX) };
            each!(|lane| {
                let product = ty.value(a[lane]).wrapping_mul(ty.value(b[lane])) as u64;
                product.wrapping_add(c[lane]) & bits
            });
        }
        Op::Fma(ty) => {
            let (a, b, c) = (get(1), get(2), get(3));
            each!(|lane| alu::fma(ty, [a[lane], b[lane], c[lane]])?);
        }
        Op::MixedSum { short, subtracts } => {
            let (a, c) = (get(1), get(2));
            each!(|lane| {
                let (a, c) = (short.value(a[lane]), f64::from(f32::from_bits(c[lane] as u32)));
                ((if subtracts { a - c } else { a + c }) as f32).to_bits().into()
            });
        }
        Op::MixedFma(short) => {
            let (a, b, c) = (get(1), get(2), get(3));
            each!(|lane| {
                let [a, b] = [a[lane], b[lane]].map(|bits| short.value(bits) as f32);
                a.mul_add(b, f32::from_bits(c[lane] as u32)).to_bits().into()
            });
        }
        Op::Function { function, ty, ftz } => {
            let a = get(1);
            each!(|lane| alu::function(function, ty, ftz, a[lane])?);
        }
        Op::MapShared => {
            let (address, rank) = (get(1), get(2));
            each!(|lane| in_cluster(address[lane], rank[lane]));
        }
        Op::BitField(ty) => {
            let (a, b, c) = (get(1), get(2), get(3));
            each!(|lane| alu::bit_field(ty, a[lane], b[lane], c[lane]));
        }
        Op::Permute => {
            let (a, b, c) = (get(1), get(2), get(3));
            each!(|lane| alu::permute(a[lane], b[lane], c[lane]));
        }
        Op::Logic3 => {
            let (a, b, c, table) = (get(1), get(2), get(3), get(4));
            each!(|lane| alu::logic3(a[lane], b[lane], c[lane], table[lane]));
        }
        Op::Funnel { left, wrap } => {
            let (a, b, c) = (get(1), get(2), get(3));
            each!(|lane| alu::funnel(left, wrap, a[lane], b[lane], c[lane]));
        }
        Op::SetPredicate { compare, ty, unordered, with } => {
            let (a, b) = (get(1), get(2));
            let c = if with.is_some() { get(3) } else { [0; LANES] };
            each!(|lane| {
                let holds = u64::from(alu::compare(compare, ty, unordered, a[lane], b[lane]));
                match with {
                    Some(with) => alu::arith(with, Type::Pred, holds, c[lane])?,
                    None => holds,
                }
            });
        }
        Op::SetNan { ty, nan } => {
            let (a, b) = (get(1), get(2));
            each!(|lane| u64::from((ty.value(a[lane]).is_nan() || ty.value(b[lane]).is_nan()) == nan));
        }
        Op::Select => {
            let (a, b, p) = (get(1), get(2), get(3));
            each!(|lane| if p[lane] != 0 { a[lane] } else { b[lane] });
        }
        Op::Convert { to, from, round, relu } => {
            let a = get(1);
            let b = if args.len() > 2 { get(2) } else { [0; LANES] };
            each!(|lane| alu::convert(to, from, round, relu, a[lane], b[lane])?);
        }
        Op::Shuffle(kind) => return shuffle(warp, inst, kind, at),
        Op::VoteAll => {
            let holds = get(1);
            out = [u64::from(lanes(mask).all(|lane| holds[lane] != 0)); LANES];
        }
        Op::CreatePolicy => out = [POLICY; LANES],
        Op::Elect => {
            let Arg::Pair(leader, elected) = args[0] else {
                return Err(Wrong::Unsupported("elect.sync with one result".to_owned()));
            };
            let lane = first(mask);
            warp.set_register(leader, mask, &[lane as u64; LANES]);
            out[lane] = 1;
            warp.set_register(elected, mask, &out);
            return Ok(());
        }
        op => return Err(Wrong::Unsupported(format!("{op:?}"))),
    }
    warp.set(&args[0], mask, &out);
    Ok(())
}

fn wide_mask(bits: u32) -> u64 {
    u64::MAX >> (64 - 2 * bits)
}

/// `mov`, which also joins the parts of a word and takes it apart.
fn moved(warp: &mut Warp, inst: &Inst, mask: u32, bits: usize, at: &Launched<'_>) {
    match (&inst.args[0], &inst.args[1]) {
        (Arg::Vector(parts), source) => {
            let word = warp.get(source, &at.place);
            let bits = bits / parts.len();
            for (i, part) in parts.iter().enumerate() {
                let value = word.map(|word| word >> (bits * i) & (u64::MAX >> (64 - bits)));
                warp.set(part, mask, &value);
            }
        }
        (target, Arg::Vector(parts)) => {
            let bits = bits / parts.len();
            let mut word = [0; LANES];
            for (i, part) in parts.iter().enumerate() {
                let value = warp.get(part, &at.place);
                for (word, value) in word.iter_mut().zip(value) {
                    *word |= value << (bits * i);
                }
            }
            warp.set(target, mask, &word);
        }
        (target, source) => {
            let value = warp.get(source, &at.place).map(|word| word & (u64::MAX >> (64 - bits)));
            warp.set(target, mask, &value);
        }
    }
}

/// `shfl.sync`.
///
/// Source: PTX ISA, "shfl.sync": the segment and clamp in operand `c`.
fn shuffle(warp: &mut Warp, inst: &Inst, kind: Shuffle, at: &Launched<'_>) -> Result<(), Wrong> {
    let [a, b, c] = [1, 2, 3].map(|i| warp.get(&inst.args[i], &at.place));
    let mut inside = [0; LANES];
    let mut out = [0; LANES];
    for lane in 0..LANES {
        let (clamp, segment) = ((c[lane] & 31) as usize, (c[lane] >> 8 & 31) as usize);
        let distance = (b[lane] & 31) as usize;
        let last = lane & segment | clamp & !segment;
        let lowest = lane & segment;
        let (source, within) = match kind {
            Shuffle::Up => (lane.wrapping_sub(distance), lane >= distance + last),
            Shuffle::Down => (lane + distance, lane + distance <= last),
            Shuffle::Bfly => (lane ^ distance, lane ^ distance <= last),
            Shuffle::Idx => (lowest | distance & !segment, lowest | distance & !segment <= last),
        };
        let within = within && source < LANES;
        out[lane] = a[if within { source } else { lane }];
        inside[lane] = u64::from(within);
    }
    match inst.args[0] {
        Arg::Pair(value, predicate) => {
            warp.set_register(value, u32::MAX, &out);
            warp.set_register(predicate, u32::MAX, &inside);
        }
        ref target => warp.set(target, u32::MAX, &out),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::{Fault, Launch, Memory, Module, Param, TensorMap, Wrong};

    /// Each thread has 16 bytes, which it reads, and writes 512 bytes on.
    const KERNEL: &str = "
.version 8.0
.target sm_80
.address_size 64
.extern .shared .align 1024 .b8 smem[];
.visible .entry k(.param .u64 k_param_0) {
  .reg .b32 %r<8>; .reg .b64 %rd<8>;
  ld.param.b64 %rd1, [k_param_0];
  mov.u32 %r1, %tid.x;
  mul.wide.u32 %rd2, %r1, 16;
  add.s64 %rd3, %rd1, %rd2;
  mov.b32 %r2, smem;
  shl.b32 %r3, %r1, 4;
  add.s32 %r2, %r2, %r3;
  createpolicy.fractional.L2::evict_first.b64 %rd4;
  BODY
  st.global.v4.b32 [%rd3 + 512], {%r4, %r5, %r6, %r7};
  ret;
}";

    const LOAD: &str = "ld.global.L2::cache_hint.v4.b32 {%r4, %r5, %r6, %r7}, [%rd3], %rd4;";
    const COPY: &str = "cp.async.cg.shared.global.L2::cache_hint [%r2 + 0], [%rd3 + 0], 16, %rd4;
  cp.async.wait_all;
  ld.shared.v4.b32 {%r4, %r5, %r6, %r7}, [%r2];";

    /// What the threads write.
    fn run(body: &str, change: impl FnOnce(String) -> String) -> Result<Vec<u8>, Fault> {
        let text = change(KERNEL.replace("BODY", body));
        // With room to start at a multiple of 16.
        let mut bytes = vec![0; 1024 + 16];
        let start = bytes.as_ptr().align_offset(16);
        let bytes = &mut bytes[start..][..1024];
        bytes[..512].copy_from_slice(&read(16));
        let mut memory = Memory::new();
        let address = memory.lend(bytes);
        let module = Module::parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
        let launch = Launch { shared_bytes: 512, ..Launch::new([1, 1, 1], 32) };
        module.entry("k").unwrap().run(&launch, &[Param::Word(address)], &mut memory)?;
        drop(memory);
        Ok(bytes[512..].to_vec())
    }

    /// The first `count` of each thread's bytes, and zeros behind them.
    fn read(count: usize) -> Vec<u8> {
        (0..32).flat_map(|i| (0..16).map(move |byte| if byte < count { i + 1 } else { 0 })).collect()
    }

    #[test]
    fn loads_and_copies_under_a_policy_are_as_without() {
        for body in [LOAD, COPY] {
            assert_eq!(run(body, |text| text).unwrap(), read(16), "{body}");
            let plain = body.replace(".L2::cache_hint", "").replace(", %rd4", "");
            assert_eq!(run(&plain, |text| text).unwrap(), read(16), "{plain}");
        }
        // The policy stands behind the number of bytes that there are.
        let part = COPY.replace("16, %rd4", "16, %r1, %rd4").replacen("cp", "mov.b32 %r1, 4; cp", 1);
        assert_eq!(run(&part, |text| text).unwrap(), read(4));
        // So does a predicate that ignores the source.
        let half = COPY.replace("16, %rd4", "16, !p, %rd4");
        let half = format!("{{ .reg .pred p; setp.lt.u32 p, %r1, 16; {half} }}");
        let (copied, zeros) = (&read(16)[..256], [0; 256]);
        assert_eq!(run(&half, |text| text).unwrap(), [copied, &zeros].concat());
    }

    #[test]
    fn a_policy_that_nothing_made_is_none() {
        for body in [LOAD, COPY] {
            for (instead, found) in [("mov.b64 %rd4, 7;", 7), ("mov.b64 %rd4, %rd2;", 0)] {
                let fault = run(body, |text| {
                    text.replace("createpolicy.fractional.L2::evict_first.b64 %rd4;", instead)
                });
                assert_eq!(fault.unwrap_err().what, Wrong::Policy { found }, "{body} {instead}");
            }
        }
    }

    #[test]
    fn rows_of_a_box_to_prefetch_start_at_16_bytes() {
        let text = "
.version 8.0
.target sm_90a
.address_size 64
.visible .entry k(.param .align 64 .b8 k_param_0[128], .param .b32 k_param_1) {
  .reg .b32 %r<3>; .reg .b64 %rd<3>; .reg .pred %p<2>;
  mov.b64 %rd1, k_param_0;
  cvta.param.u64 %rd2, %rd1;
  ld.param.b32 %r2, [k_param_1];
  mov.u32 %r1, %tid.x;
  setp.eq.b32 %p1, %r1, 0;
  @%p1 cp.async.bulk.prefetch.tensor.2d.L2.global.tile [%rd2, {%r2, %r1}];
  ret;
}";
        let module = Module::parse(text).unwrap_or_else(|e| panic!("{e}"));
        let run = |column| {
            let map = TensorMap::of_tensor(0x1000, 16, (&[8, 64], &[64, 1]), &[8, 32], 0).unwrap();
            let params = [Param::Map(map), Param::Word(column)];
            module.entry("k").unwrap().run(&Launch::new([1, 1, 1], 32), &params, &mut Memory::new())
        };
        run(0).unwrap();
        run(24).unwrap();
        let fault = run(4).unwrap_err();
        assert_eq!(fault.what, Wrong::Misaligned { address: 8, align: 16 });
    }
}
