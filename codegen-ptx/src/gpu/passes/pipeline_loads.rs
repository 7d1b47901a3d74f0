//! Lets the copies of a loop run ahead of the iteration that reads them.
//!
//! Input: a gpu-level module in which each copy to shared memory is waited for where it is made. Output: the same,
//! where the copies of a loop whose addresses are known ahead, from tensors the kernel does not write, go to a ring of `num_stages` slots. With S stages,
//! an iteration waits for its own slot, meets the other warps, starts the copies of S - 1 iterations later, and
//! computes. Invariant: one barrier an iteration proves both that the slot to be read is complete and that
//! nobody still reads the slot to be written, which is the one of the iteration before.
//!
//! Only loops that hold no other loop get a ring. The first S - 1 iterations' copies start before the loop; copies beyond the last iteration are not made, but
//! their empty groups are committed, so that the count of pending groups is the same in every iteration. With
//! one slot, the copies of an iteration start together at its top, and each is waited for where it was made.
//!
//! What is copied before the loop and read into registers is waited for after the first copies of the loop have
//! started, if shared memory has room for both.

use super::copies::{Copy, address, copies, is_scalar_arithmetic, reads, use_slot, written_views};
use super::rewrite::{EQUAL, Renamed, SIGNED_LESS, address_of, carry_more, clone_op, compare};
use super::{Pass, PassContext, PassError};
use crate::gpu::dialect::Smem;
use crate::gpu::ops::{GpuBuilder, GpuOp};
use melior::ir::operation::OperationLike;
use melior::ir::{BlockLike, ValueLike};
use tile_ir::context::Place;
use tile_ir::types::{
    Op, Val, args_of, blocks_of, defining_op, erase, is_loop, is_unused, move_before, name_of, nested_ops,
    operands_of, ops_of, results_of, root_view, set_attr, type_of,
};
use tile_ir::{Builder, Module};
use tile_lang::DType;

const PASS: Pass = Pass::PipelineLoads;

/// Runs the pass.
pub(super) fn run<'c>(module: Module<'c>, cx: &mut PassContext) -> Result<Module<'c>, PassError> {
    let loops: Vec<Op> =
        nested_ops(module.function()).into_iter().filter(|op| name_of(*op) == "scf.for").collect();
    let written = written_views(&module);
    // Inner loops first: rebuilding an outer loop would otherwise lose them.
    for op in loops.into_iter().rev() {
        let body = blocks_of(op)[0];
        let (mut ready, mut fixed) = (Vec::new(), 0);
        for copy in copies(body) {
            let fixed_source = !written.contains(&root_view(copy.view));
            let address =
                address(copy.copy, body, |op| is_scalar_arithmetic(op, &written)).filter(|_| fixed_source);
            match address {
                Some(address) => ready.push((copy, address)),
                None => fixed += 1,
            }
        }
        let place = Place::of(op.location());
        if fixed > 0 {
            let message =
                format!("{fixed} copies wait in every iteration: what they read is not known ahead");
            cx.remark(PASS, place.clone(), message);
        }
        if ready.is_empty() {
            continue;
        }
        let holds_loop = nested_ops(op).into_iter().any(is_loop);
        if holds_loop && cx.num_stages > 1 {
            // Its iterations are long: a ring would hide little and cost its slots all along.
            cx.remark(PASS, place.clone(), "the loop holds another, so its copies get one slot");
        }
        if cx.num_stages > 1 && !holds_loop {
            let message = format!("{} copies run ahead in {} slots", ready.len(), cx.num_stages);
            cx.remark(PASS, place, message);
            pipeline(&module, op, ready, cx);
        } else {
            cx.remark(PASS, place, format!("{} copies start at the top of the iteration", ready.len()));
            start_together(&module, ready);
        }
    }
    Ok(module)
}

/// A copy and the operations that compute its address.
type Ready<'c> = (Copy<'c>, Vec<Op<'c>>);

/// Starts a copy with some values renamed.
fn start<'c>(b: &Builder<'c>, (copy, slice): &Ready<'c>, renamed: &mut Renamed<'c>) {
    for op in slice {
        clone_op(b, *op, renamed);
    }
    clone_op(b, copy.copy, renamed);
}

/// Starts all copies of the iteration at `at` if there is one, and closes their group.
fn start_if_any<'c>(b: &Builder<'c>, copies: &[Ready<'c>], [variable, at, end, slot]: [Val<'c>; 4]) {
    let any = compare(b, SIGNED_LESS, at, end);
    let made = b.if_else(
        any,
        &[],
        |b| {
            for ready in copies {
                let written = operands_of(ready.0.copy).last().copied().map(|old| (address_of(old), slot));
                let slice = ready.1.iter().filter(|op| {
                    results_of(**op).iter().all(|r| Some(address_of(*r)) != written.map(|w| w.0))
                });
                let mut renamed = Renamed::from([(address_of(variable), at)]);
                renamed.extend(written);
                slice.for_each(|op| clone_op(b, *op, &mut renamed));
                clone_op(b, ready.0.copy, &mut renamed);
            }
            Ok::<_, std::convert::Infallible>(Vec::new())
        },
        |_| Ok(Vec::new()),
    );
    let Ok(_) = made;
    b.commit();
}

/// Turns a loop into a pipelined one.
fn pipeline<'c>(module: &Module<'c>, op: Op<'c>, copies: Vec<Ready<'c>>, cx: &mut PassContext) {
    let (context, stages) = (module.context(), cx.num_stages);
    let body = blocks_of(op)[0];
    let operands = operands_of(op);
    let [low, high, step] = operands[..3] else { return };
    let variable = args_of(body)[0];
    for (copy, _) in &copies {
        let one = Smem::of(type_of(copy.smem)).expect("a copy goes to shared memory");
        let ring = Smem { slots: stages, ..one };
        copy.smem.set_type(ring.ty(context));
    }

    // Before the loop.
    let before = Builder::before(context, op);
    let late = late_reads(op, cx, module, stages);
    if op.parent_operation() != Some(module.function()) {
        before.barrier();
    }
    let mut at = low;
    for stage in 0..stages - 1 {
        let slot = before.int_const(DType::I32, stage as i64);
        start_if_any(&before, &copies, [variable, at, high, slot]);
        at = before.same("arith.addi", &[at, step]);
    }
    if let Some(late) = late {
        late.move_before(op);
        set_attr(late.wait, "pending", before.int((stages - 1) as i64));
        let message = "the first copies start before what is read once is waited for";
        cx.remark(PASS, Place::of(late.wait.location()), message);
    }

    // The loop carries the slot to read.
    let first = before.int_const(DType::I32, 0);
    let slot: Val = body.add_argument(type_of(first), op.location());
    let end = ops_of(body).last().expect("a loop's body has a terminator");
    let mut top = Builder::before(context, ops_of(body).next().expect("a loop's body has operations"));
    top.set_location(op.location());
    top.wait(stages - 2);
    top.barrier();
    let is = |b: &Builder<'c>, value: Val<'c>, number: i64| {
        compare(b, EQUAL, value, b.int_const(DType::I32, number))
    };
    let (one, last) = (top.int_const(DType::I32, 1), top.int_const(DType::I32, stages as i64 - 1));
    let previous = top.same("arith.subi", &[slot, one]);
    let written = top.value("arith.select", &[is(&top, slot, 0), last, previous], type_of(slot), &[]);
    let mut ahead = variable;
    for _ in 0..stages - 1 {
        ahead = top.same("arith.addi", &[ahead, step]);
    }
    start_if_any(&top, &copies, [variable, ahead, high, written]);
    for (copy, address) in copies {
        use_slot(body, copy.smem, slot);
        for op in copy.before.into_iter().chain([copy.after, copy.wait, copy.commit, copy.copy]) {
            erase(op);
        }
        for op in address.into_iter().rev().filter(|op| results_of(*op).into_iter().all(is_unused)) {
            erase(op);
        }
    }
    let bottom = Builder::before(context, end);
    let (one, zero) = (bottom.int_const(DType::I32, 1), bottom.int_const(DType::I32, 0));
    let next = bottom.same("arith.addi", &[slot, one]);
    let around = is(&bottom, next, stages as i64);
    let next = bottom.value("arith.select", &[around, zero, next], type_of(slot), &[]);
    let yielded: Vec<Val> = operands_of(end).into_iter().chain([next]).collect();
    bottom.op("scf.yield", &yielded, &[], &[]);
    erase(end);
    carry_more(&before, op, &operands, &[first]);
}

/// A wait in front of a loop, with its barrier and the reads behind it, none of which is needed before the loop.
struct LateReads<'c> {
    wait: Op<'c>,
    barrier: Op<'c>,
    reads: Vec<Op<'c>>,
}

impl<'c> LateReads<'c> {
    /// Moves all of it to the front of the loop.
    fn move_before(&self, op: Op<'c>) {
        for moved in [self.wait, self.barrier].iter().chain(&self.reads) {
            move_before(*moved, op);
        }
    }
}

/// The last wait in front of a loop, if it can be made right before the loop and all buffers fit side by side.
fn late_reads<'c>(op: Op<'c>, cx: &PassContext, module: &Module<'c>, stages: usize) -> Option<LateReads<'c>> {
    let limits = &cx.target.limits;
    let share = limits.smem_per_sm_bytes / cx.occupancy.max(1) - limits.smem_reserved_per_cta_bytes;
    let allocs = ops_of(module.entry()).filter(|op| matches!(GpuOp::of(*op), Some(GpuOp::Alloc { .. })));
    let bytes: usize = allocs.filter_map(|op| Smem::of(type_of(results_of(op)[0]))).map(|s| s.bytes()).sum();
    if stages < 2 || bytes > share.min(limits.smem_per_cta_bytes) {
        return None;
    }
    let preceding: Vec<Op> = ops_of(op.block()?).take_while(|o| *o != op).collect();
    let at = preceding.iter().rposition(|o| matches!(GpuOp::of(*o), Some(GpuOp::Wait { .. })))?;
    let (wait, barrier) = (preceding[at], *preceding.get(at + 1)?);
    if GpuOp::of(barrier) != Some(GpuOp::Barrier) {
        return None;
    }
    let mut reads: Vec<Op> = Vec::new();
    for &other in &preceding[at + 2..] {
        let gpu_op = GpuOp::of(other);
        if matches!(gpu_op, Some(GpuOp::LocalLoad { .. })) {
            reads.push(other);
            continue;
        }
        let name = name_of(other);
        let scalar = ["arith.", "math.", "tile."].iter().any(|dialect| name.starts_with(dialect));
        let pure = (scalar && name != "tile.arrive_last")
            || matches!(
                gpu_op,
                Some(
                    GpuOp::Alloc { .. }
                        | GpuOp::Splat { .. }
                        | GpuOp::Iota
                        | GpuOp::Broadcast { .. }
                        | GpuOp::Reshape { .. }
                        | GpuOp::Transpose { .. }
                )
            );
        let needed = other.operands().any(|v| defining_op(v).is_some_and(|d| reads.contains(&d)));
        if !pure || needed {
            return None;
        }
    }
    Some(LateReads { wait, barrier, reads })
}

/// Starts the copies of an iteration at its top and waits for each where it was made, unless the next one is
/// waited for before anything reads it.
fn start_together<'c>(module: &Module<'c>, copies: Vec<Ready<'c>>) {
    let Some(body) = copies.first().and_then(|(c, _)| c.copy.block()) else { return };
    let order: Vec<Op> = ops_of(body).collect();
    let position = |op: Op<'c>| order.iter().position(|o| *o == op).unwrap_or(order.len());
    let read_between = |from: Op<'c>, to: Op<'c>, smem: Val<'c>| {
        order[position(from) + 1..position(to)].iter().any(|op| reads(*op, smem))
    };
    let b = Builder::before(module.context(), order[0]);
    b.barrier();
    for ready in &copies {
        start(&b, ready, &mut Renamed::new());
        b.commit();
    }
    for (i, (copy, _)) in copies.iter().enumerate() {
        let pending = copies.len() - 1 - i;
        set_attr(copy.wait, "pending", b.int(pending as i64));
        let next = copies.get(i + 1).map(|(next, _)| next.wait);
        if next.is_some_and(|next| !read_between(copy.after, next, copy.smem)) {
            erase(copy.wait);
            erase(copy.after);
        }
        for op in copy.before.into_iter().chain([copy.commit, copy.copy]) {
            erase(op);
        }
    }
}
