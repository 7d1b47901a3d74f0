//! Runs the barriers of a module: each CTA of a cluster with its copying thread and its other warps, interleaved at
//! random, copies landing late. Finds warps that wait forever, slots overwritten while they are read or read before
//! they are full, barriers with more arrivals than they count to, and CTAs that end too early.

use codegen_ptx::gpu::dialect::Smem;
use codegen_ptx::gpu::ops::{GpuOp, MmaOperand};
use melior::ir::ValueLike;
use std::collections::{HashMap, VecDeque};
use tile_ir::types::{
    Blk, Op, Val, args_of, blocks_of, bool_attr, int_attr, name_of, nested_ops, operands_of, ops_of,
    results_of, type_of, view_of,
};
use tile_ir::{Module, TileOp};

/// What a thread or warp does that others see.
#[derive(Clone, Debug)]
enum Step {
    Wait {
        barriers: usize,
        slot: i64,
        parity: i64,
    },
    Expect {
        barriers: usize,
        slot: i64,
        bytes: i64,
    },
    Copy {
        smem: usize,
        barriers: usize,
        slot: i64,
        bytes: i64,
        cluster: bool,
        block: Vec<i64>,
    },
    Arrive {
        barriers: usize,
        slot: i64,
        cluster: bool,
    },
    /// Reads what the copy with this number brought to a buffer.
    Read {
        smem: usize,
        slot: i64,
        number: usize,
    },
}

/// How a run ends badly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Nobody can go on.
    Deadlock,
    /// A slot holds something else than what is read.
    WrongBlock,
    /// More arrivals in a phase than the barrier counts to.
    TooManyArrivals,
    /// Something reaches the memory of a CTA that has ended.
    CtaEnded,
}

fn key(value: Val) -> usize {
    value.to_raw().ptr as usize
}

/// The steps of one role in the program at a place of the grid.
struct Trace {
    program: [i64; 3],
    /// CTAs along x.
    launched: i64,
    extent: i64,
    /// The warp; none for the thread that copies.
    warp: Option<usize>,
    scalars: HashMap<usize, i64>,
    /// Buffers that the copying thread fills, with their barriers and slots.
    rings: HashMap<usize, (usize, usize)>,
    steps: Vec<Step>,
    /// How often each slot was waited for.
    waits: HashMap<(usize, i64), usize>,
    in_flight: VecDeque<Vec<Step>>,
    is_done: bool,
}

impl Trace {
    fn of(module: &Module, [cta, ctas]: [usize; 2], extent: i64, warp: Option<usize>) -> Vec<Step> {
        let filled = nested_ops(module.function()).into_iter().filter_map(|op| match GpuOp::of(op) {
            Some(GpuOp::TmaCopy { smem, barriers, .. }) => {
                Some((key(smem), (key(barriers), Smem::of(type_of(smem)).unwrap().slots)))
            }
            _ => None,
        });
        // Where clusters walk: two of them, over a grid of three groups along x and two along y and z.
        let walks = int_attr(module.function(), "tgpu.persistent").is_some();
        let arguments = args_of(module.entry());
        let extents = arguments.iter().rev().zip([2, 2, 3 * ctas as i64]).filter(|_| walks);
        let program = if walks { [cta as i64, 0, 0] } else { [cta as i64, 1, 1] };
        let mut trace = Trace {
            program,
            launched: 2 * ctas as i64,
            extent,
            warp,
            rings: filled.collect(),
            scalars: extents.map(|(argument, extent)| (key(*argument), extent)).collect(),
            steps: Vec::new(),
            waits: HashMap::new(),
            in_flight: VecDeque::new(),
            is_done: false,
        };
        trace.block(module.entry());
        trace.steps
    }

    fn scalar(&self, value: Val) -> i64 {
        *self.scalars.get(&key(value)).unwrap_or_else(|| panic!("a scalar is known: {value}"))
    }

    /// Hands values on, as far as they are known.
    fn hand(&mut self, from: &[Val], to: &[Val]) {
        let values: Vec<_> = from.iter().map(|v| self.scalars.get(&key(*v)).copied()).collect();
        for (value, to) in values.into_iter().zip(to) {
            match value {
                Some(value) => self.scalars.insert(key(*to), value),
                None => self.scalars.remove(&key(*to)),
            };
        }
    }

    fn block(&mut self, block: Blk) {
        for op in ops_of(block) {
            self.op(op);
            if self.is_done {
                return;
            }
        }
    }

    fn op(&mut self, op: Op) {
        let operands = operands_of(op);
        match name_of(op).as_str() {
            "scf.for" => self.run_loop(op),
            "scf.if" => {
                let role = tile_ir::types::defining_op(operands[0]).and_then(GpuOp::of);
                if matches!(role, Some(GpuOp::Producer { .. })) {
                    if self.warp.is_none() {
                        self.block(blocks_of(op)[0]);
                        self.is_done = true;
                    }
                    return;
                }
                let taken = usize::from(self.scalar(operands[0]) == 0);
                if let Some(block) = blocks_of(op).get(taken).copied() {
                    self.block(block);
                    let yielded = operands_of(ops_of(block).last().unwrap());
                    self.hand(&yielded, &results_of(op));
                }
            }
            // What tiles hold is not known; the branches that it decides do nothing but compute.
            "tgpu.all_ones" => {
                self.scalars.insert(key(results_of(op)[0]), 0);
            }
            "tgpu.has_rows" => {
                let has = i64::from(self.has_rows(op));
                self.scalars.insert(key(results_of(op)[0]), has);
            }
            name if name.starts_with("tgpu.") => self.gpu(GpuOp::of(op).expect("well-formed")),
            _ => {
                if let Some(value) = self.compute(op) {
                    self.scalars.insert(key(results_of(op)[0]), value);
                }
            }
        }
    }

    /// Whether the warp's warpgroup has rows.
    fn has_rows(&self, op: Op) -> bool {
        let Some(GpuOp::HasRows { first, extent, steps }) = GpuOp::of(op) else { panic!("well-formed") };
        let group = self.warp.expect("a warp that computes") / 4;
        let set = |bit: usize| (group >> bit & 1) as i64;
        let moved: i64 = steps.iter().enumerate().map(|(bit, step)| set(bit) * *step as i64).sum();
        self.scalar(first) + moved < self.scalar(extent)
    }

    fn run_loop(&mut self, op: Op) {
        let operands = operands_of(op);
        let [low, high, by] = [0, 1, 2].map(|i| self.scalar(operands[i]));
        let body = blocks_of(op)[0];
        let arguments = args_of(body);
        self.hand(&operands[3..], &arguments[1..]);
        let mut at = low;
        while at < high {
            self.scalars.insert(key(arguments[0]), at);
            self.block(body);
            self.hand(&operands_of(ops_of(body).last().unwrap()), &arguments[1..]);
            at += by;
        }
        self.hand(&arguments[1..], &results_of(op));
    }

    /// The value of scalar arithmetic.
    fn compute(&self, op: Op) -> Option<i64> {
        match TileOp::of(op) {
            Some(TileOp::ProgramId { axis }) => return Some(self.program[axis]),
            Some(TileOp::Dim { .. }) => return Some(self.extent),
            Some(TileOp::NumPrograms { .. }) => return Some(self.launched),
            _ => {}
        }
        let operands: Option<Vec<i64>> =
            operands_of(op).iter().map(|v| self.scalars.get(&key(*v)).copied()).collect();
        let operands = operands?;
        let both = |f: fn(i64, i64) -> i64| Some(f(operands[0], operands[1]));
        match name_of(op).as_str() {
            "arith.constant" => int_attr(op, "value").or(bool_attr(op, "value").map(i64::from)),
            "arith.addi" => both(|a, b| a + b),
            "arith.subi" => both(|a, b| a - b),
            "arith.muli" => both(|a, b| a * b),
            "arith.xori" => both(|a, b| a ^ b),
            "arith.andi" => both(|a, b| a & b),
            "arith.ori" => both(|a, b| a | b),
            "arith.remui" => both(|a, b| a % b),
            "arith.divui" => both(|a, b| a / b),
            "arith.ceildivui" => both(|a, b| (a + b - 1) / b),
            "arith.minui" | "arith.minsi" => both(i64::min),
            "arith.index_cast" | "arith.extsi" => Some(operands[0]),
            "arith.select" => Some(if operands[0] != 0 { operands[1] } else { operands[2] }),
            "arith.cmpi" => {
                let (a, b) = (operands[0], operands[1]);
                let holds = match int_attr(op, "predicate")? {
                    0 => a == b,
                    1 => a != b,
                    2 | 6 => a < b,
                    3 | 7 => a <= b,
                    4 | 8 => a > b,
                    _ => a >= b,
                };
                Some(i64::from(holds))
            }
            _ => None,
        }
    }

    fn gpu(&mut self, op: GpuOp) {
        match op {
            GpuOp::MbarrierWait { barriers, slot, parity } => {
                let (slot, parity) = (self.scalar(slot), self.scalar(parity));
                *self.waits.entry((key(barriers), slot)).or_default() += 1;
                self.steps.push(Step::Wait { barriers: key(barriers), slot, parity });
            }
            GpuOp::Expect { barriers, slot, bytes } => {
                let slot = self.scalar(slot);
                self.steps.push(Step::Expect { barriers: key(barriers), slot, bytes: bytes as i64 });
            }
            GpuOp::TmaCopy { view, index, smem, barriers, slot, box_shape, tile_shape, cluster, .. } => {
                assert_eq!(index.len(), view_of(type_of(view)).unwrap().rank);
                let layout = Smem::of(type_of(smem)).unwrap().layout;
                let rows = |shape: &[usize]| shape[..shape.len() - 1].iter().product::<usize>();
                let bytes = (layout.bytes() * rows(&box_shape) / rows(&tile_shape)) as i64;
                let block = index.iter().map(|i| self.scalar(*i)).collect();
                let (slot, smem, barriers) = (self.scalar(slot), key(smem), key(barriers));
                self.steps.push(Step::Copy { smem, barriers, slot, bytes, cluster, block });
            }
            GpuOp::MbarrierArrive { barriers, slot, cluster, .. } => {
                let slot = self.scalar(slot);
                if slot >= 0 {
                    self.steps.push(Step::Arrive { barriers: key(barriers), slot, cluster });
                }
            }
            GpuOp::Wgmma { lhs, rhs, .. } => {
                let reads: Vec<Step> =
                    [lhs, rhs].into_iter().filter_map(|operand| self.read(operand)).collect();
                self.steps.extend(reads.iter().cloned());
                self.in_flight.push_back(reads);
            }
            // Until then a product reads its operands.
            GpuOp::WgmmaWait { pending, .. } => {
                while self.in_flight.len() > pending {
                    self.steps.extend(self.in_flight.pop_front().into_iter().flatten());
                }
            }
            _ => {}
        }
    }

    fn read(&mut self, operand: MmaOperand) -> Option<Step> {
        let MmaOperand::Shared { smem, slot, .. } = operand else { return None };
        // Threads fill the others.
        let &(full, slots) = self.rings.get(&key(smem))?;
        let slot = self.scalar(slot);
        // A slot is read when it was waited for, and filled in turn.
        let round = self.waits.get(&(full, slot)).copied().unwrap_or_default();
        let number = (round.max(1) - 1) * slots + slot as usize;
        Some(Step::Read { smem: key(smem), slot, number })
    }
}

/// An mbarrier.
#[derive(Clone, Copy)]
struct Barrier {
    count: i64,
    pending: i64,
    bytes: i64,
    phase: i64,
}

/// A copy under way to a CTA.
struct Landing {
    cta: usize,
    step: Step,
    number: usize,
    from: usize,
}

struct Cluster {
    traces: Vec<Vec<Step>>,
    at: Vec<usize>,
    ctas: usize,
    roles: usize,
    counts: HashMap<usize, i64>,
    barriers: HashMap<(usize, usize, i64), Barrier>,
    /// What a slot of a CTA holds: the number of the copy that each part is of.
    slots: HashMap<(usize, usize, i64), Vec<Option<usize>>>,
    /// Copies that a CTA has made to a buffer.
    made: HashMap<(usize, usize), usize>,
    landings: Vec<Landing>,
}

impl Cluster {
    fn has_ended(&self, cta: usize) -> bool {
        (0..self.roles).all(|role| {
            let thread = cta * self.roles + role;
            self.at[thread] == self.traces[thread].len()
        })
    }

    fn barrier(&mut self, cta: usize, barriers: usize, slot: i64) -> &mut Barrier {
        let count = self.counts[&barriers];
        let fresh = Barrier { count, pending: count, bytes: 0, phase: 0 };
        self.barriers.entry((cta, barriers, slot)).or_insert(fresh)
    }

    /// Counts arrivals and bytes, and begins the next phase when this one is over.
    fn count(&mut self, at: (usize, usize, i64), arrivals: i64, bytes: i64) -> Result<(), Failure> {
        if self.has_ended(at.0) {
            return Err(Failure::CtaEnded);
        }
        let barrier = self.barrier(at.0, at.1, at.2);
        barrier.pending -= arrivals;
        barrier.bytes += bytes;
        if barrier.pending < 0 {
            return Err(Failure::TooManyArrivals);
        }
        if (barrier.pending, barrier.bytes) == (0, 0) {
            (barrier.pending, barrier.phase) = (barrier.count, barrier.phase + 1);
        }
        Ok(())
    }

    /// Makes a thread's next step; whether it could.
    fn step(&mut self, thread: usize) -> Result<bool, Failure> {
        let cta = thread / self.roles;
        let Some(step) = self.traces[thread].get(self.at[thread]).cloned() else { return Ok(false) };
        match step {
            Step::Wait { barriers, slot, parity } => {
                if self.barrier(cta, barriers, slot).phase & 1 == parity {
                    return Ok(false);
                }
            }
            Step::Expect { barriers, slot, bytes } => self.count((cta, barriers, slot), 1, bytes)?,
            Step::Arrive { barriers, slot, cluster } => {
                let to = if cluster { 0..self.ctas } else { cta..cta + 1 };
                for cta in to {
                    self.count((cta, barriers, slot), 1, 0)?;
                }
            }
            Step::Copy { smem, cluster, .. } => {
                let made = self.made.entry((cta, smem)).or_default();
                let number = *made;
                *made += 1;
                let to = if cluster { 0..self.ctas } else { cta..cta + 1 };
                self.landings.extend(to.map(|to| Landing { cta: to, step: step.clone(), number, from: cta }));
            }
            Step::Read { smem, slot, number } => {
                let parts = self.slots.get(&(cta, smem, slot));
                if parts.is_none_or(|parts| parts.iter().any(|part| *part != Some(number))) {
                    return Err(Failure::WrongBlock);
                }
            }
        }
        self.at[thread] += 1;
        Ok(true)
    }

    fn land(&mut self, landing: Landing) -> Result<(), Failure> {
        let Step::Copy { smem, barriers, slot, bytes, cluster, .. } = landing.step else { return Ok(()) };
        if self.has_ended(landing.cta) {
            return Err(Failure::CtaEnded);
        }
        let parts = if cluster { self.ctas } else { 1 };
        let held = self.slots.entry((landing.cta, smem, slot)).or_insert_with(|| vec![None; parts]);
        held[if cluster { landing.from } else { 0 }] = Some(landing.number);
        self.count((landing.cta, barriers, slot), 0, -bytes)
    }
}

/// Runs a cluster of `ctas` CTAs from a program on; `extent` is that of every tensor.
pub fn run(module: &Module, ctas: usize, extent: i64, seed: u64) -> Result<(), Failure> {
    let warps = int_attr(module.function(), "tgpu.num_warps").unwrap() as usize;
    let mut traces = Vec::new();
    for cta in 0..ctas {
        // The first cluster, or the second.
        let place = [cta + (seed % 2) as usize * ctas, ctas];
        traces.push(Trace::of(module, place, extent, None));
        traces.extend((0..warps).map(|warp| Trace::of(module, place, extent, Some(warp))));
    }
    // Parts that CTAs send to each other are of one block.
    let sent = |cta: usize| {
        let steps = traces[cta * (warps + 1)].iter();
        let parts = steps.filter_map(|step| match step {
            Step::Copy { cluster: true, block, slot, .. } => Some((block.clone(), *slot)),
            _ => None,
        });
        parts.collect::<Vec<_>>()
    };
    assert!((1..ctas).all(|cta| sent(cta) == sent(0)), "CTAs send parts of different blocks");
    let mut counts = HashMap::new();
    for op in ops_of(module.entry()) {
        if let Some(GpuOp::Mbarriers { arrivals, .. }) = GpuOp::of(op) {
            counts.insert(key(results_of(op)[0]), arrivals as i64);
        }
    }
    let (at, roles) = (vec![0; traces.len()], warps + 1);
    let (barriers, slots, made, landings) = Default::default();
    let mut cluster = Cluster { traces, at, ctas, roles, counts, barriers, slots, made, landings };
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 33) as usize % below
    };
    // One CTA is slow, in some runs, and so are copies in others.
    let (slow, late) = (random(2 * ctas), random(8));
    loop {
        let threads = cluster.traces.len();
        let first = random(threads);
        let mut moved = false;
        for thread in (0..threads).map(|i| (first + i) % threads) {
            if thread / roles == slow && random(16) > 0 {
                continue;
            }
            moved |= cluster.step(thread)?;
            if moved {
                break;
            }
        }
        if !cluster.landings.is_empty() && (!moved || random(8) >= late) {
            let landing = cluster.landings.swap_remove(random(cluster.landings.len()));
            cluster.land(landing)?;
            moved = true;
        }
        if !moved {
            // Whoever was slow gets a turn before it is said that nobody can go on.
            let mut any = false;
            for thread in 0..threads {
                any |= cluster.step(thread)?;
            }
            if !any {
                break;
            }
        }
    }
    match (0..ctas).all(|cta| cluster.has_ended(cta)) {
        true => Ok(()),
        false => Err(Failure::Deadlock),
    }
}
