//! A warp: 32 threads in step, their registers, and what they have under way.

use crate::cluster::in_cluster;
use crate::fault::Wrong;
use crate::memory::SHARED_BASE;
use crate::op::{Arg, Inst, Op, Product, Slot, Special};
use crate::order::Knowledge;
use crate::shared::{By, newborn};
use smallvec::SmallVec;
use std::collections::VecDeque;

/// Threads of a warp.
pub(crate) const LANES: usize = 32;

/// A value of each thread.
pub(crate) type Lanes = [u64; LANES];

/// Threads that are at one place.
#[derive(Clone, Copy, Debug)]
struct Group {
    pc: usize,
    mask: u32,
    /// They wait for the others before an instruction of all threads.
    parked: bool,
}

/// What a warp waits for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum State {
    Ready,
    /// A barrier of threads.
    Barrier(u64),
    /// The phase of an mbarrier.
    Mbarrier {
        address: u64,
        parity: u64,
    },
    /// The cluster's barrier.
    Cluster,
    Done,
}

/// A copy of some bytes by a thread, from global to shared memory.
#[derive(Debug)]
pub(crate) struct Copy {
    pub to: u64,
    pub from: u64,
    pub bytes: usize,
    /// Bytes that are read; the others become zero.
    pub valid: usize,
}

/// A bulk store.
#[derive(Debug)]
pub(crate) struct BulkStore {
    /// Address of the map.
    pub map: u64,
    pub coordinates: Vec<i64>,
    pub from: u64,
}

/// An operand of a `wgmma` in shared memory or registers.
#[derive(Clone, Debug)]
pub(crate) enum Lhs {
    Shared(u64),
    Registers(Vec<Slot>),
}

/// A `wgmma` in flight.
#[derive(Clone, Debug)]
pub(crate) struct Wgmma {
    pub product: Product,
    pub acc: Vec<Slot>,
    pub lhs: Lhs,
    pub rhs: u64,
    /// The old accumulator is added.
    pub adds: bool,
    /// Operands whose contiguous dimension is not K.
    pub transposed: [bool; 2],
    /// Sources with a minus sign.
    pub negative: [bool; 2],
}

/// Work that is committed in groups and waited for by their number.
#[derive(Debug)]
pub(crate) struct Groups<T> {
    open: Vec<T>,
    committed: VecDeque<Vec<T>>,
}

impl<T> Default for Groups<T> {
    fn default() -> Self {
        Groups { open: Vec::new(), committed: VecDeque::new() }
    }
}

impl<T> Groups<T> {
    pub fn push(&mut self, work: T) {
        self.open.push(work);
    }

    pub fn commit(&mut self) {
        self.committed.push_back(std::mem::take(&mut self.open));
    }

    /// What is to be done so that at most `pending` groups are left.
    pub fn retire(&mut self, pending: usize) -> Vec<T> {
        let count = self.committed.len().saturating_sub(pending);
        self.committed.drain(..count).flatten().collect()
    }

    pub fn is_empty(&self) -> bool {
        self.open.is_empty() && self.committed.iter().all(Vec::is_empty)
    }
}

/// What a `wgmma` in flight does with a register.
const READS: u8 = 1;
const WRITES: u8 = 2;

/// A warp.
#[derive(Debug)]
pub(crate) struct Warp {
    pub number: usize,
    /// Its number among all who access the shared memory of a cluster.
    pub agent: usize,
    /// How often it has come to the cluster's barrier.
    pub meetings: u64,
    pub state: State,
    pub knows: Knowledge,
    pub copies: Groups<Copy>,
    pub stores: Groups<BulkStore>,
    pub products: Groups<Wgmma>,
    registers: Vec<Lanes>,
    groups: SmallVec<[Group; 4]>,
    /// What products in flight do with each register; the shape whose accumulator it is.
    busy: Vec<(u8, Option<Product>)>,
    in_flight: bool,
    /// When each register was last written but by a product, in executed instructions.
    touched: Vec<u64>,
    fenced: u64,
    pub executed: u64,
}

/// What depends on the launch and the CTA.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub threads: u32,
    pub cta: [u32; 3],
    pub grid: [u32; 3],
    /// The number of the CTA in its cluster.
    pub rank: u32,
}

impl Warp {
    pub fn new(number: usize, agent: usize, registers: usize) -> Warp {
        Warp {
            number,
            agent,
            meetings: 0,
            state: State::Ready,
            knows: newborn(agent),
            copies: Groups::default(),
            stores: Groups::default(),
            products: Groups::default(),
            registers: vec![[0; LANES]; registers],
            groups: SmallVec::from_slice(&[Group { pc: 0, mask: u32::MAX, parked: false }]),
            busy: vec![(0, None); registers],
            in_flight: false,
            touched: vec![0; registers],
            fenced: 0,
            executed: 0,
        }
    }

    /// How it accesses shared memory.
    pub fn by(&self, is_async: bool) -> By<'_> {
        By { agent: self.agent, knows: &self.knows, is_async }
    }

    /// The step that it is in.
    pub fn step(&self) -> u32 {
        self.knows.clock.get(self.agent)
    }

    /// Threads that have not returned.
    pub fn live(&self) -> u32 {
        self.groups.iter().fold(0, |mask, group| mask | group.mask)
    }

    /// The threads that go on next and where they are: those furthest behind, so that others meet them again.
    pub fn current(&self) -> Result<(usize, u32), Wrong> {
        let behind = self.groups.iter().filter(|group| !group.parked).min_by_key(|group| group.pc);
        let stuck = || Wrong::Divergent { found: self.groups[0].mask, wanted: self.live() };
        behind.map(|group| (group.pc, group.mask)).ok_or_else(stuck)
    }

    /// Where the warp is, for messages.
    pub fn pc(&self) -> Option<usize> {
        self.groups.iter().map(|group| group.pc).min()
    }

    /// Has threads wait until the others are where they are.
    pub fn park(&mut self, mask: u32) {
        self.groups.iter_mut().filter(|group| group.mask == mask).for_each(|group| group.parked = true);
    }

    /// Moves threads of one group: those in `taken` to `target`, the others on. `None` ends them.
    pub fn advance(&mut self, mask: u32, taken: u32, target: Option<usize>) {
        let at = self.groups.iter().position(|group| group.mask == mask).expect("the threads are a group");
        let Group { pc, .. } = self.groups.swap_remove(at);
        let moved = [(Some(pc + 1), mask & !taken), (target, mask & taken)];
        for (pc, mask) in moved {
            let Some(pc) = pc.filter(|_| mask != 0) else { continue };
            match self.groups.iter_mut().find(|group| group.pc == pc) {
                Some(group) => *group = Group { pc, mask: group.mask | mask, parked: false },
                None => self.groups.push(Group { pc, mask, parked: false }),
            }
        }
        if self.groups.is_empty() {
            self.state = State::Done;
        } else if taken != 0 && target.is_none() {
            // Who waited for threads that are gone may have all now.
            self.groups.iter_mut().for_each(|group| group.parked = false);
        }
    }

    /// The threads that execute an instruction.
    pub fn guarded(&self, inst: &Inst, mask: u32) -> u32 {
        match inst.guard {
            Some((slot, negated)) => {
                let holds = self.predicate(&self.registers[slot as usize]);
                mask & if negated { !holds } else { holds }
            }
            None => mask,
        }
    }

    /// The lanes whose value is not zero.
    pub fn predicate(&self, values: &Lanes) -> u32 {
        values.iter().enumerate().fold(0, |mask, (lane, &value)| mask | u32::from(value != 0) << lane)
    }

    /// The value of an operand in each thread.
    #[inline]
    pub fn get(&self, arg: &Arg, place: &Place) -> Lanes {
        match arg {
            Arg::Reg(slot) => self.registers[*slot as usize],
            Arg::Not(slot) => self.registers[*slot as usize].map(|value| u64::from(value == 0)),
            Arg::Imm(value) => [*value; LANES],
            Arg::Special(special) => self.special(*special, place),
            _ => unreachable!("an operand that is no value was decoded as one"),
        }
    }

    fn special(&self, special: Special, place: &Place) -> Lanes {
        let lane = |f: &dyn Fn(u64) -> u64| std::array::from_fn(|lane| f(lane as u64));
        match special {
            Special::Tid(0) => lane(&|lane| (self.number * LANES) as u64 + lane),
            Special::Tid(_) => [0; LANES],
            Special::Ntid(0) => [place.threads.into(); LANES],
            Special::Ntid(_) => [1; LANES],
            Special::Ctaid(axis) => [place.cta[axis].into(); LANES],
            Special::Nctaid(axis) => [place.grid[axis].into(); LANES],
            Special::LaneId => lane(&|lane| lane),
            Special::ClusterRank => [place.rank.into(); LANES],
            Special::SharedBase => [in_cluster(SHARED_BASE, place.rank.into()); LANES],
            Special::WarpId => [self.number as u64; LANES],
        }
    }

    /// A register of all threads.
    pub fn register(&self, slot: Slot) -> &Lanes {
        &self.registers[slot as usize]
    }

    /// Writes the register that an operand is, in some threads.
    #[inline]
    pub fn set(&mut self, arg: &Arg, mask: u32, values: &Lanes) {
        match arg {
            Arg::Reg(slot) => self.set_register(*slot, mask, values),
            Arg::Sink => {}
            _ => unreachable!("an operand that is no register was decoded as a result"),
        }
    }

    #[inline]
    pub fn set_register(&mut self, slot: Slot, mask: u32, values: &Lanes) {
        let register = &mut self.registers[slot as usize];
        if mask == u32::MAX {
            *register = *values;
        } else {
            for (lane, (old, new)) in register.iter_mut().zip(values).enumerate() {
                if mask >> lane & 1 != 0 {
                    *old = *new;
                }
            }
        }
        self.touched[slot as usize] = self.executed;
    }

    /// Writes a register by a product.
    pub fn set_product(&mut self, slot: Slot, values: Lanes) {
        self.registers[slot as usize] = values;
    }

    /// `wgmma.fence`.
    pub fn fence(&mut self) {
        self.fenced = self.executed;
    }

    /// Starts a product: its registers are not to be touched until it is waited for.
    pub fn start_product(&mut self, product: Wgmma, names: &[String]) -> Result<(), Wrong> {
        let lhs: &[Slot] = match &product.lhs {
            Lhs::Registers(slots) => slots,
            Lhs::Shared(_) => &[],
        };
        let name = |slot: &Slot| names[*slot as usize].clone();
        let late = |slot: &&Slot| self.touched[**slot as usize] > self.fenced;
        // An accumulator that is not read need not be written before.
        let read = lhs.iter().chain(product.acc.iter().filter(|_| product.adds));
        if let Some(slot) = read.clone().find(late) {
            return Err(Wrong::Unfenced { register: name(slot) });
        }
        for slot in &product.acc {
            let (use_, shape) = self.busy[*slot as usize];
            // Products of one shape that share an accumulator follow each other.
            if use_ & READS != 0 || use_ & WRITES != 0 && shape != Some(product.product) {
                return Err(Wrong::RegisterInFlight { register: name(slot) });
            }
        }
        if let Some(slot) = lhs.iter().find(|slot| self.busy[**slot as usize].0 & WRITES != 0) {
            return Err(Wrong::RegisterInFlight { register: name(slot) });
        }
        self.in_flight = true;
        product.acc.iter().for_each(|slot| self.busy[*slot as usize] = (WRITES, Some(product.product)));
        lhs.iter().for_each(|slot| self.busy[*slot as usize].0 |= READS);
        self.products.push(product);
        Ok(())
    }

    /// Marks anew what the products that are left use.
    pub fn products_retired(&mut self) {
        self.busy.fill((0, None));
        self.in_flight = !self.products.is_empty();
        let left = self.products.committed.iter().flatten().chain(&self.products.open);
        for product in left {
            product.acc.iter().for_each(|slot| self.busy[*slot as usize] = (WRITES, Some(product.product)));
            if let Lhs::Registers(slots) = &product.lhs {
                slots.iter().for_each(|slot| self.busy[*slot as usize].0 |= READS);
            }
        }
    }

    /// That an instruction leaves the registers of products in flight alone.
    pub fn spares_products(&self, inst: &Inst, names: &[String]) -> Result<(), Wrong> {
        if !self.in_flight || matches!(inst.op, Op::Wgmma(_)) {
            return Ok(());
        }
        let mut found = None;
        for (i, arg) in inst.args.iter().enumerate() {
            let writes = i == 0 && !matches!(inst.op, Op::Store { .. } | Op::StoreMatrix { .. });
            each_register(arg, &mut |slot| {
                let use_ = self.busy[slot as usize].0;
                if use_ & WRITES != 0 || use_ & READS != 0 && writes {
                    found = Some(slot);
                }
            });
        }
        match found {
            Some(slot) => Err(Wrong::RegisterInFlight { register: names[slot as usize].clone() }),
            None => Ok(()),
        }
    }
}

/// The registers in an operand.
fn each_register(arg: &Arg, f: &mut impl FnMut(Slot)) {
    match arg {
        Arg::Reg(slot) | Arg::Not(slot) => f(*slot),
        Arg::Pair(a, b) => {
            f(*a);
            f(*b);
        }
        Arg::Vector(parts) => parts.iter().for_each(|part| each_register(part, f)),
        Arg::Memory { base, coordinates, .. } => {
            each_register(base, f);
            coordinates.iter().for_each(|part| each_register(part, f));
        }
        Arg::Imm(_) | Arg::Special(_) | Arg::Sink | Arg::Target(_) => {}
    }
}
