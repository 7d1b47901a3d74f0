//! Gives the copies of loops to a warp of their own, which runs ahead of the warps that compute.
//!
//! Input: a gpu-level module in which each copy to shared memory is waited for where it is made. Output: the same,
//! where the copies of innermost loops go to rings of `num_stages` slots, filled by bulk copies of one thread of an
//! additional warp. Copies with no product or reduction in between share a ring, with two mbarriers for
//! each slot: one thread waits until a slot is `empty`, expects the bytes on its `full` barrier and starts the copies;
//! the other warps wait until it is `full`, read it, and arrive at `empty` after the last read. Copies in front of such
//! a loop, as of attention's queries, are made by the same warp: where CTAs walk over programs, those of the next one
//! come while the present one runs, into a second slot if there is room for it. Invariant: in every iteration both
//! sides wait and arrive once at each ring, so that slot and parity of an iteration are the same on both sides.
//!
//! The additional warp runs a copy of what the addresses and the loops' bounds are computed by. A loop is left as
//! it is where that is not arithmetic on scalars alone, or where a tensor does not allow bulk copies.
//!
//! Copies of f32 to where a `wgmma` reads round to tf32; [`rounds_operands`] says beforehand whether all of those will
//! be bulk copies.

use super::copies::{Copy, address, copies, is_scalar_arithmetic, reads, use_slot, written_views};
use super::fetch_ahead::{self, Fetched};
use super::rewrite::{EQUAL, Renamed, address_of, carry_more, clone_op, compare};
use super::tensor_maps::map_of;
use super::{Pass, PassContext, PassError};
use crate::gpu::dialect::Smem;
use crate::gpu::launch::TensorMap;
use crate::gpu::ops::{GpuBuilder, GpuOp};
use crate::gpu::resources::copying_warps;
use crate::gpu::rounding;
use melior::ir::operation::OperationLike;
use melior::ir::{BlockLike, ValueLike};
use std::collections::HashSet;
use std::convert::Infallible;
use tile_ir::context::Place;
use tile_ir::types::{
    Blk, Op, Val, args_of, blocks_of, defining_op, element_type, erase, is_loop, move_before, name_of,
    nested_ops, operands_of, ops_of, results_of, root_view, type_of,
};
use tile_ir::{Builder, Module};
use tile_lang::DType;

const PASS: Pass = Pass::WarpSpecialize;

/// A copy, what computes its address in the innermost loop, and its tensor map by number.
struct Filled<'c> {
    copy: Copy<'c>,
    address: Vec<Op<'c>>,
    number: usize,
    map: TensorMap,
}

/// Copies that complete on one barrier.
struct Ring<'c> {
    copies: Vec<Filled<'c>>,
    full: Option<Val<'c>>,
    empty: Option<Val<'c>>,
}

/// Copies that are taken out of a block: all of an innermost loop, or one in front of such a loop.
struct Plan<'c> {
    /// The loops it is in, outermost first.
    nest: Vec<Op<'c>>,
    rings: Vec<Ring<'c>>,
    /// What its loop loads otherwise, to be fetched ahead.
    fetched: Vec<Fetched<'c>>,
    /// Slots of its rings.
    stages: usize,
    /// It is one copy in front of another plan's loop.
    is_in_front: bool,
}

impl<'c> Plan<'c> {
    /// One of its copies.
    fn a_copy(&self) -> Op<'c> {
        self.rings[0].copies[0].copy.copy
    }
}

/// The loops around an operation, outermost first; none where something else is around it.
fn nest_of<'c>(module: &Module<'c>, op: Op<'c>) -> Option<Vec<Op<'c>>> {
    let around = std::iter::successors(op.parent_operation(), |op| op.parent_operation());
    let mut nest: Vec<Op> = around.take_while(|op| *op != module.function()).collect();
    nest.reverse();
    nest.iter().all(|op| name_of(*op) == "scf.for").then_some(nest)
}

/// A loop with its plan, behind those of the copies in front of it; or why its copies stay.
type Planned<'c> = (Op<'c>, Result<Vec<Plan<'c>>, String>);

/// Why there is no ring.
const ONE_STAGE: &str = "num_stages is 1, and a ring takes 2 slots";

/// Runs the pass.
pub(super) fn run<'c>(module: Module<'c>, cx: &mut PassContext) -> Result<Module<'c>, PassError> {
    let plans = specialize(&module, cx);
    if !plans.iter().any(|plan| plan.is_in_front && plan.stages > 1) {
        cx.front_stages = 1;
    }
    for plan in plans {
        consume(&module, plan);
    }
    Ok(module)
}

/// Plans every loop, says so, and writes the branch of the warp that copies; the warps that compute are left.
fn specialize<'c>(module: &Module<'c>, cx: &mut PassContext) -> Vec<Plan<'c>> {
    if !cx.switches.warp_specialize {
        return Vec::new();
    }
    if cx.num_stages < 2 {
        cx.remark(PASS, None, format!("no warp of its own copies: {ONE_STAGE}"));
        return Vec::new();
    }
    let (planned, needed) = plan_loops(module, cx);
    let mut plans = Vec::new();
    for (op, planned) in planned {
        let place = Place::of(op.location());
        match planned {
            Ok(planned) => {
                let Some((plan, front)) = planned.split_last() else { continue };
                let copies = plan.rings.iter().map(|r| r.copies.len()).sum();
                let mut message = format!(
                    "a warp of its own makes {}, in {} of {} slots",
                    counted(copies, ["copy", "copies"]),
                    counted(plan.rings.len(), ["ring", "rings"]),
                    cx.num_stages
                );
                if let Some(Plan { stages, .. }) = front.first() {
                    let slots = counted(*stages, ["slot", "slots"]);
                    message += &format!("; and {} in front of the loop, of {slots}", front.len());
                }
                if !plan.fetched.is_empty() {
                    let loads = counted(plan.fetched.len(), ["load", "loads"]);
                    message += &format!("; and fetches into L2 ahead what {loads} of the loop will read");
                }
                cx.remark(PASS, place, message);
                plans.extend(planned);
            }
            Err(why) => cx.remark(PASS, place, format!("no warp of its own copies: {why}")),
        }
    }
    if !plans.is_empty() {
        start(module, &mut plans, &needed, cx);
    }
    plans
}

/// A number of things, whose name is given for one and for more.
fn counted(number: usize, [one, more]: [&str; 2]) -> String {
    format!("{number} {}", if number == 1 { one } else { more })
}

/// Whether the pass will make every copy to where a `wgmma` reads f32 a bulk copy, which rounds; or why not.
pub(super) fn rounds_operands<'c>(module: &Module<'c>, cx: &PassContext) -> Result<(), String> {
    let buffers = rounding::buffers(module);
    if buffers.is_empty() {
        return Ok(());
    }
    if !cx.switches.warp_specialize {
        return Err("warp_specialize is 0".to_owned());
    }
    if cx.num_stages < 2 {
        return Err(ONE_STAGE.to_owned());
    }
    let (planned, _) = plan_loops(module, cx);
    let plans = planned.iter().filter_map(|(_, plans)| plans.as_ref().ok()).flatten();
    let filled: Vec<Val<'c>> =
        plans.flat_map(|p| &p.rings).flat_map(|r| &r.copies).map(|f| f.copy.smem).collect();
    let Some(left) = buffers.into_iter().find(|buffer| !filled.contains(buffer)) else { return Ok(()) };
    let holds = |op: Op<'c>| copies(blocks_of(op)[0]).iter().any(|copy| copy.smem == left);
    let why = planned.into_iter().find(|(op, _)| holds(*op)).and_then(|(_, plans)| plans.err());
    Err(why
        .unwrap_or_else(|| "an operand is copied neither in an innermost loop nor in front of it".to_owned()))
}

/// Plans each innermost loop that copies, and what is copied in front of it; also what the copying warp computes for all of them.
fn plan_loops<'c>(module: &Module<'c>, cx: &PassContext) -> (Vec<Planned<'c>>, HashSet<usize>) {
    let mut planner = Planner {
        module,
        written: written_views(module),
        rounded: rounding::buffers(module),
        maps: Vec::new(),
        needed: HashSet::new(),
        taken: Vec::new(),
    };
    let mut planned = Vec::new();
    for op in nested_ops(module.function()).into_iter().filter(|op| name_of(*op) == "scf.for") {
        let holds_loop = nested_ops(op).into_iter().any(is_loop);
        if !holds_loop && !copies(blocks_of(op)[0]).is_empty() {
            let known = planner.maps.len();
            let plans = planner.plan(op, cx).map(|plan| {
                let mut plans = planner.in_front(&plan, cx);
                plans.push(plan);
                plans
            });
            if plans.is_err() {
                // Maps are numbered without gaps.
                planner.maps.truncate(known);
            }
            planned.push((op, plans));
        }
    }
    (planned, planner.needed)
}

struct Planner<'a, 'c> {
    module: &'a Module<'c>,
    written: Vec<Val<'c>>,
    /// Buffers whose elements are to be rounded to tf32.
    rounded: Vec<Val<'c>>,
    maps: Vec<TensorMap>,
    /// What the copying warp computes, by address of the operation.
    needed: HashSet<usize>,
    /// Outer loops that hold a plan already.
    taken: Vec<Op<'c>>,
}

/// The address of an operation.
fn op_address(op: Op) -> usize {
    op.to_raw().ptr as usize
}

impl<'c> Planner<'_, 'c> {
    /// Plans a loop, or says why its copies stay.
    fn plan(&mut self, op: Op<'c>, cx: &PassContext) -> Result<Plan<'c>, String> {
        let mut nest = nest_of(self.module, op).ok_or("the loop is not in loops alone")?;
        nest.push(op);
        if nest.iter().any(|op| self.taken.contains(op)) {
            return Err("a loop around it holds another that copies".to_owned());
        }
        let body = blocks_of(op)[0];
        let order: Vec<Op> = ops_of(body).collect();
        if order.iter().any(|op| matches!(GpuOp::of(*op), Some(GpuOp::Copy { .. }))) {
            return Err("the threads that compute make some copies themselves".to_owned());
        }
        let position = |op: Op<'c>| order.iter().position(|o| *o == op).unwrap_or(order.len());
        let (mut needed, mut rings): (HashSet<usize>, Vec<Ring>) = (HashSet::new(), Vec::new());
        for copy in copies(body) {
            let known = address(copy.copy, body, |op| is_scalar_arithmetic(op, &self.written));
            let known = known.filter(|_| !self.written.contains(&root_view(copy.view)));
            let address = known.ok_or("what a copy reads is not known ahead")?;
            let (number, map) = self.map(&copy, cx)?;
            self.close(operands_of(copy.copy), &nest, &mut needed)?;
            let shares = rings.last().and_then(|r| r.copies.last()).is_some_and(|last| {
                let between = &order[position(last.copy.after)..position(copy.wait)];
                !between.iter().any(|op| is_worth_a_wait(*op))
            });
            let filled = Filled { copy, address, number, map };
            match rings.last_mut().filter(|_| shares) {
                Some(ring) => ring.copies.push(filled),
                None => rings.push(Ring { copies: vec![filled], full: None, empty: None }),
            }
        }
        for op in &nest {
            self.close(operands_of(*op)[..3].to_vec(), &nest, &mut needed)?;
        }
        let module = self.module;
        let mut fetched = Vec::new();
        for load in order {
            let planned = fetch_ahead::plan(module, cx, [op, load], |view, map| {
                let mut for_load = HashSet::new();
                let is_known = !self.written.contains(&root_view(view))
                    && self.close(operands_of(load), &nest, &mut for_load).is_ok();
                is_known.then(|| {
                    needed.extend(for_load);
                    self.number(map)
                })
            });
            fetched.extend(planned);
        }
        self.needed.extend(needed);
        self.taken.extend(&nest);
        Ok(Plan { nest, rings, fetched, stages: cx.num_stages, is_in_front: false })
    }

    /// Plans the copies in front of a loop, in the blocks around it, whose addresses and maps allow it.
    fn in_front(&mut self, plan: &Plan<'c>, cx: &PassContext) -> Vec<Plan<'c>> {
        let mut found = Vec::new();
        for (level, inner) in plan.nest.iter().enumerate() {
            let (nest, Some(block)) = (&plan.nest[..level], inner.block()) else { continue };
            for copy in copies(block) {
                let is_in_front = ops_of(block).take_while(|op| op != inner).any(|op| op == copy.copy);
                let mut needed = HashSet::new();
                if !is_in_front
                    || self.written.contains(&root_view(copy.view))
                    || self.close(operands_of(copy.copy), nest, &mut needed).is_err()
                {
                    continue;
                }
                let Ok((number, map)) = self.map(&copy, cx) else { continue };
                self.needed.extend(needed);
                let filled = Filled { copy, address: Vec::new(), number, map };
                let ring = Ring { copies: vec![filled], full: None, empty: None };
                let stages = if nest.is_empty() { 1 } else { cx.front_stages };
                let (nest, rings, fetched) = (nest.to_vec(), vec![ring], Vec::new());
                found.push(Plan { nest, rings, fetched, stages, is_in_front: true });
            }
        }
        found
    }

    /// Adds what values are computed by, which must be arithmetic on what the function is given and what the loops
    /// count.
    fn close(
        &self,
        values: Vec<Val<'c>>,
        nest: &[Op<'c>],
        needed: &mut HashSet<usize>,
    ) -> Result<(), String> {
        let blocks: Vec<Blk> = nest.iter().map(|op| blocks_of(*op)[0]).chain([self.module.entry()]).collect();
        let mut pending = values;
        while let Some(value) = pending.pop() {
            let Some(op) = defining_op(value) else {
                let counted = nest.iter().any(|op| args_of(blocks_of(*op)[0])[0] == value);
                if counted || args_of(self.module.entry()).contains(&value) {
                    continue;
                }
                return Err("what a copy reads depends on what a loop carries".to_owned());
            };
            if matches!(GpuOp::of(op), Some(GpuOp::Alloc { .. })) {
                continue;
            }
            if !is_scalar_arithmetic(op, &self.written) || !op.block().is_some_and(|b| blocks.contains(&b)) {
                return Err(format!("what a copy reads depends on {}", name_of(op)));
            }
            if needed.insert(op_address(op)) {
                pending.extend(op.operands());
            }
        }
        Ok(())
    }

    /// The tensor map of a copy, with its number.
    fn map(&mut self, copy: &Copy<'c>, cx: &PassContext) -> Result<(usize, TensorMap), String> {
        let Some(GpuOp::AsyncCopy { view, smem, tile_shape, .. }) = GpuOp::of(copy.copy) else {
            return Err("it is no copy".to_owned());
        };
        let rounds = self.rounded.contains(&smem);
        let smem = Smem::of(type_of(smem)).ok_or("it is no copy to shared memory")?;
        let block = (&smem, &tile_shape[..], rounds);
        let map = map_of(self.module, cx, view, block, "a copy is not from an argument")?;
        Ok((self.number(&map), map))
    }

    /// The number of a tensor map, a new one where it has none.
    fn number(&mut self, map: &TensorMap) -> usize {
        let known = self.maps.iter().position(|m| m == map);
        known.unwrap_or_else(|| {
            self.maps.push(map.clone());
            self.maps.len() - 1
        })
    }
}

/// True for what is better begun before the copies behind it have arrived. What else a loop does between copies only
/// readies operands, and a wait in the midst of it would keep those in registers.
fn is_worth_a_wait(op: Op) -> bool {
    let works = |op: Op| {
        matches!(
            GpuOp::of(op),
            Some(
                GpuOp::MmaSync { .. }
                    | GpuOp::MmaScaledSync { .. }
                    | GpuOp::Wgmma { .. }
                    | GpuOp::Reduce { .. }
                    | GpuOp::ReduceRegisters { .. }
            )
        )
    };
    works(op) || nested_ops(op).into_iter().any(works)
}

/// Slot and parity of an iteration's phase.
pub(super) type Turn<'c> = [Val<'c>; 2];

/// The turn of the iteration after.
pub(super) fn next<'c>(b: &Builder<'c>, [slot, parity]: Turn<'c>, stages: usize) -> Turn<'c> {
    let number = |value: usize| b.int_const(DType::I32, value as i64);
    let one = number(1);
    let after = b.same("arith.addi", &[slot, one]);
    let around = compare(b, EQUAL, after, number(stages));
    let flipped = b.same("arith.xori", &[parity, one]);
    let select = |a, other| b.value("arith.select", &[around, a, other], type_of(slot), &[]);
    [select(number(0), after), select(flipped, parity)]
}

/// Puts barriers, buffers and the copying warp's branch in front of everything.
fn start<'c>(module: &Module<'c>, plans: &mut [Plan<'c>], needed: &HashSet<usize>, cx: &PassContext) {
    let first = ops_of(module.entry()).next().expect("a function has a terminator");
    let b = Builder::before(module.context(), first);
    let rings = plans.iter_mut().flat_map(|p| p.rings.iter_mut().map(|ring| (ring, p.stages)));
    for (ring, stages) in rings {
        ring.full = Some(b.mbarriers(stages, 1));
        ring.empty = Some(b.mbarriers(stages, cx.num_warps));
        for Filled { copy, .. } in &ring.copies {
            let one = Smem::of(type_of(copy.smem)).expect("a copy goes to shared memory");
            copy.smem.set_type(Smem { slots: stages, ..one }.ty(module.context()));
            if let Some(alloc) = defining_op(copy.smem).filter(|alloc| *alloc != first) {
                move_before(alloc, first);
            }
        }
    }
    let (warps, registers) = copying_warps(cx.target, cx.num_warps, cx.occupancy);
    let role = b.producer(warps, registers);
    let made = b.if_else(
        role,
        &[],
        |b| {
            let mut producer = Producer { plans, needed, renamed: Renamed::new() };
            let (slot, parity) = (b.int_const(DType::I32, 0), b.int_const(DType::I32, 1));
            let mut turns: Vec<Turn> = vec![[slot, parity]; producer.plans.len()];
            producer.block(b, module.entry(), &mut turns);
            Ok::<_, Infallible>(Vec::new())
        },
        |_| Ok(Vec::new()),
    );
    let Ok(_) = made;
}

/// Writes the copying warp's branch.
struct Producer<'a, 'c> {
    plans: &'a [Plan<'c>],
    needed: &'a HashSet<usize>,
    renamed: Renamed<'c>,
}

impl<'c> Producer<'_, 'c> {
    fn value(&self, value: Val<'c>) -> Val<'c> {
        self.renamed.get(&address_of(value)).copied().unwrap_or(value)
    }

    fn values(&self, values: &[Val<'c>]) -> Vec<Val<'c>> {
        values.iter().map(|value| self.value(*value)).collect()
    }

    /// What of a block's operations is needed, the copies in front of loops, and those loops; `turns` are each plan's.
    fn block(&mut self, b: &Builder<'c>, block: Blk<'c>, turns: &mut Vec<Turn<'c>>) {
        for op in ops_of(block) {
            if self.needed.contains(&op_address(op)) {
                clone_op(b, op, &mut self.renamed);
            } else if let Some(number) = self.plans.iter().position(|p| p.is_in_front && p.a_copy() == op) {
                turns[number] = self.fill(b, number, turns[number]);
            } else if self.plans.iter().any(|p| p.nest.contains(&op)) {
                self.nest(b, op, turns);
            }
        }
    }

    fn nest(&mut self, b: &Builder<'c>, op: Op<'c>, turns: &mut Vec<Turn<'c>>) {
        let bounds = self.values(&operands_of(op)[..3]);
        let body = blocks_of(op)[0];
        let number = self.plans.iter().position(|p| !p.is_in_front && p.nest.last() == Some(&op));
        let fetched = number.map_or(&[][..], |number| &self.plans[number].fetched);
        self.renamed.insert(address_of(args_of(body)[0]), bounds[0]);
        for load in fetched {
            load.fetch(b, &self.values(&load.index));
        }
        let flat: Vec<Val> = turns.concat();
        let loops = b.for_loop([bounds[0], bounds[1], bounds[2]], &flat, |b, variable, carried| {
            self.renamed.insert(address_of(args_of(body)[0]), variable);
            let mut turns: Vec<Turn> = carried.chunks(2).map(|pair| [pair[0], pair[1]]).collect();
            for load in fetched {
                load.fetch_next(b, [variable, bounds[0], bounds[1]], &self.values(&load.index));
            }
            match number {
                Some(number) => turns[number] = self.fill(b, number, turns[number]),
                None => self.block(b, body, &mut turns),
            }
            Ok::<_, Infallible>(turns.concat())
        });
        let Ok(results) = loops;
        *turns = results.chunks(2).map(|pair| [pair[0], pair[1]]).collect();
    }

    /// One iteration's copies.
    fn fill(&mut self, b: &Builder<'c>, number: usize, [slot, parity]: Turn<'c>) -> Turn<'c> {
        let plans = self.plans;
        for ring in &plans[number].rings {
            let (Some(full), Some(empty)) = (ring.full, ring.empty) else { continue };
            let bytes = |filled: &Filled| Smem::of(type_of(filled.copy.smem)).map_or(0, |s| s.layout.bytes());
            b.mbarrier_wait(empty, slot, parity);
            b.expect(full, slot, ring.copies.iter().map(bytes).sum());
            for filled in &ring.copies {
                let Some(GpuOp::AsyncCopy { view, index, smem, tile_shape, .. }) =
                    GpuOp::of(filled.copy.copy)
                else {
                    continue;
                };
                for op in &filled.address {
                    clone_op(b, *op, &mut self.renamed);
                }
                let index = self.values(&index);
                let Filled { number, map, .. } = filled;
                let shapes = (&tile_shape[..], &map.box_shape[..]);
                b.tma_copy((view, &index), [smem, full, slot], shapes, (*number, map.rounds));
            }
        }
        next(b, [slot, parity], plans[number].stages)
    }
}

/// Rewrites a plan's block to wait for its rings and release them, and the loops around it to carry the turn.
fn consume<'c>(module: &Module<'c>, plan: Plan<'c>) {
    let context = module.context();
    let i32_type = element_type(context, DType::I32);
    // Other plans may have replaced the loops since.
    let (Some(nest), Some(block)) = (nest_of(module, plan.a_copy()), plan.a_copy().block()) else { return };
    let front = Builder::before(context, nest.first().copied().unwrap_or(plan.a_copy()));
    let first: Turn = [(); 2].map(|()| front.int_const(DType::I32, 0));
    // Each loop's turn at the start of an iteration, and what it is handed at first.
    let turns: Vec<Turn> = nest
        .iter()
        .map(|op| [(); 2].map(|()| -> Val { blocks_of(*op)[0].add_argument(i32_type, op.location()) }))
        .collect();
    let turn = turns.last().copied().unwrap_or(first);
    for ring in plan.rings {
        let (Some(full), Some(empty), Some(first)) = (ring.full, ring.empty, ring.copies.first()) else {
            continue;
        };
        Builder::before(context, first.copy.wait).mbarrier_wait(full, turn[0], turn[1]);
        release_after_reads(module, block, &ring.copies, (empty, turn[0]));
        for Filled { copy, .. } in ring.copies {
            use_slot(block, copy.smem, turn[0]);
            for op in copy.before.into_iter().chain([copy.after, copy.wait, copy.commit, copy.copy]) {
                erase(op);
            }
        }
    }
    // From the inside out, each loop hands the turn to the one in it.
    for (level, op) in nest.iter().enumerate().rev() {
        if level + 1 == nest.len() {
            let end = ops_of(block).last().expect("a loop's body has a terminator");
            let following = next(&Builder::before(context, end), turn, plan.stages);
            yield_more(module, block, &following);
        }
        let handed = if level == 0 { first } else { turns[level - 1] };
        let results = carry_more(&Builder::before(context, *op), *op, &operands_of(*op), &handed);
        if let Some(around) = level.checked_sub(1) {
            yield_more(module, blocks_of(nest[around])[0], &results);
        }
    }
}

/// Makes a loop's body yield more values.
fn yield_more<'c>(module: &Module<'c>, body: Blk<'c>, values: &[Val<'c>]) {
    let end = ops_of(body).last().expect("a loop's body has a terminator");
    let yielded: Vec<Val> = operands_of(end).iter().chain(values).copied().collect();
    Builder::before(module.context(), end).op("scf.yield", &yielded, &[], &[]);
    erase(end);
}

/// Arrives at the empty barrier after the last operation that reads a ring, asynchronous ones waited for.
fn release_after_reads<'c>(
    module: &Module<'c>,
    body: Blk<'c>,
    copies: &[Filled<'c>],
    (empty, slot): (Val<'c>, Val<'c>),
) {
    let order: Vec<Op> = ops_of(body).collect();
    let ours = |op: &Op<'c>| copies.iter().any(|f| [f.copy.copy, f.copy.commit, f.copy.wait].contains(op));
    let is_read = |op: &Op<'c>| !ours(op) && copies.iter().any(|f| reads(*op, f.copy.smem));
    let loads = |op: &Op<'c>| is_read(op) && !matches!(GpuOp::of(*op), Some(GpuOp::Wgmma { .. }));
    let loaded = order.iter().any(loads);
    // Nothing reads what no product or load takes: it is free at once.
    let last = order.iter().rposition(is_read);
    let wait = copies.last().and_then(|f| order.iter().position(|o| *o == f.copy.after));
    let mut at = last.or(wait).unwrap_or(0);
    if matches!(GpuOp::of(order[at]), Some(GpuOp::Wgmma { .. })) {
        let result = results_of(order[at])[0];
        let waits = |op: &Op<'c>| matches!(GpuOp::of(*op), Some(GpuOp::WgmmaWait { ref tiles, .. }) if tiles.contains(&result));
        at = order.iter().position(waits).unwrap_or(at);
    }
    Builder::before(module.context(), order[at + 1]).mbarrier_arrive(empty, slot, loaded);
}
