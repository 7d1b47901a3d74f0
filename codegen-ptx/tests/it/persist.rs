//! CTAs that walk over the programs of a grid.

use crate::compile::{assemble, build, fmha, options};
use crate::support::{context_of, kernel};
use codegen_ptx::gpu::dialect::{self, Smem};
use codegen_ptx::gpu::launch::LaunchNeeds;
use codegen_ptx::gpu::ops::GpuOp;
use codegen_ptx::gpu::passes::{Pass, PassContext, PassError, Switches, run_passes};
use codegen_ptx::gpu::protocol::ProtocolError;
use codegen_ptx::gpu::verify::{Rule, verify};
use codegen_ptx::{CompileOptions, Target};
use proptest::prelude::*;
use tile_ir::interpret::{Arg, HostTensor, Interpreter, Scalar};
use tile_ir::types::{
    Op, Val, args_of, blocks_of, defining_op, int_attr, name_of, nested_ops, operands_of, ops_of, results_of,
    type_of,
};
use tile_ir::{Module, TileContext};
use tile_lang::{Config, DType};

const MATMUL: &str = include_str!("../kernels/matmul.mlir");
const FMHA: &str = include_str!("../kernels/fmha.mlir");

/// Adds to an element of its own what tells a program from the others, once more where z is odd.
const IDS: &str = r#"
func.func @ids(%out: !tile.view<1 : i64, i32>) {
  %x = "tile.program_id"() {axis = 0 : i64} : () -> index
  %y = "tile.program_id"() {axis = 1 : i64} : () -> index
  %z = "tile.program_id"() {axis = 2 : i64} : () -> index
  %nx = "tile.num_programs"() {axis = 0 : i64} : () -> index
  %ny = "tile.num_programs"() {axis = 1 : i64} : () -> index
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %c2 = arith.constant 2 : index
  %plane = arith.muli %z, %ny : index
  %row = arith.addi %plane, %y : index
  %rows = arith.muli %row, %nx : index
  %at = arith.addi %rows, %x : index
  %odd = arith.remui %z, %c2 : index
  %times = arith.addi %odd, %c1 : index
  scf.for %i = %c0 to %times step %c1 {
    %old = "tile.load"(%out, %at) : (!tile.view<1 : i64, i32>, index) -> tensor<1xi32>
    %number = arith.index_cast %at : index to i32
    %tile = "tile.splat"(%number) : (i32) -> tensor<1xi32>
    %new = arith.addi %old, %tile : tensor<1xi32>
    "tile.store"(%out, %at, %new) : (!tile.view<1 : i64, i32>, index, tensor<1xi32>) -> ()
  }
  return
}
"#;

/// What passes are told for `sm_90`, with CTAs that walk.
fn walking(module: &Module) -> PassContext {
    let mut cx = context_of(Target::from_name("sm_90").unwrap(), module);
    cx.switches.persistent = true;
    cx
}

fn parse<'c>(context: &'c TileContext, text: &str) -> Module<'c> {
    let module = Module::parse(context, text).unwrap();
    tile_ir::verify(&module).unwrap();
    module
}

/// The module after the pass alone.
fn persist<'c>(module: &Module<'c>) -> Module<'c> {
    run_passes(&[Pass::Persist], module, &mut walking(module)).unwrap()
}

/// The module after all passes, with the verifier after each.
fn lower<'c>(module: &Module<'c>) -> Module<'c> {
    let mut cx = walking(module);
    let module = run_passes(cx.target.passes, module, &mut cx).unwrap_or_else(|e| panic!("{e}"));
    let text = module.to_text();
    assert_eq!(Module::parse(module.context(), &text).unwrap().to_text(), text);
    module
}

/// Runs a kernel as a grid of programs, or as CTAs that walk over it; returns its last tensor.
fn run(
    module: &Module,
    tensors: &[HostTensor],
    scalars: &[Scalar],
    grid: [usize; 3],
    ctas: Option<usize>,
) -> Vec<f64> {
    let mut tensors = tensors.to_vec();
    let mut args: Vec<Arg> = tensors.iter_mut().map(Arg::Tensor).collect();
    args.extend(scalars.iter().map(|s| Arg::Scalar(*s)));
    if ctas.is_some() {
        args.extend(grid.map(|extent| Arg::Scalar(Scalar::Index(extent))));
    }
    let launched = ctas.map_or(grid, |ctas| [ctas, 1, 1]);
    Interpreter::new(module).unwrap().run(&mut args, launched).unwrap();
    tensors.last().unwrap().to_f64()
}

/// Numbers without a pattern.
fn tensor(shape: &[usize], seed: usize) -> HostTensor {
    let numbers: Vec<f64> = (0..shape.iter().product())
        .map(|i: usize| ((i * 7919 + seed * 31) % 61) as f64 / 30.0 - 1.0)
        .collect();
    HostTensor::from_f64(DType::BF16, shape, &numbers)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn every_program_runs_once(x in 1usize..7, y in 1usize..6, z in 1usize..5, ctas in 1usize..40) {
        let context = dialect::context(&[]);
        let plain = parse(&context, IDS);
        let out = [HostTensor::zeros(DType::I32, &[x * y * z])];
        let expected = run(&plain, &out, &[], [x, y, z], None);
        let walked = run(&persist(&parse(&context, IDS)), &out, &[], [x, y, z], Some(ctas.min(x * y * z)));
        prop_assert_eq!(expected, walked);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn every_program_of_a_group_runs_once(
        groups in 1usize..4, y in 1usize..6, z in 1usize..5, clusters in 1usize..12, log in 1u32..4,
    ) {
        let context = dialect::context(&[]);
        let (size, plain) = (1 << log, parse(&context, IDS));
        let grid = [groups * size, y, z];
        let out = [HostTensor::zeros(DType::I32, &[grid.iter().product()])];
        let expected = run(&plain, &out, &[], grid, None);
        let mut cx = PassContext { num_ctas: size, ..walking(&plain) };
        let walked = run_passes(&[Pass::Persist], &plain, &mut cx).unwrap();
        let walked = run(&walked, &out, &[], grid, Some(clusters.min(groups * y * z) * size));
        prop_assert_eq!(expected, walked);
    }
}

#[test]
fn attention_whose_programs_differ_in_length_stays_the_same() {
    let context = dialect::context(&[]);
    let shape = [2, 2, 150, 64];
    let tensors =
        [tensor(&shape, 1), tensor(&shape, 2), tensor(&shape, 3), HostTensor::zeros(DType::BF16, &shape)];
    let (scale, grid) = ([Scalar::F32(0.125)], [3, 2, 2]);
    let expected = run(&parse(&context, FMHA), &tensors, &scale, grid, None);
    for ctas in [1, 5, 12] {
        let walked = persist(&parse(&context, FMHA));
        assert_eq!(run(&walked, &tensors, &scale, grid, Some(ctas)), expected, "{ctas} CTAs");
    }
}

#[test]
fn a_kernel_with_checks_has_a_cta_for_each_program() {
    let context = dialect::context(&[]);
    let checked = IDS.replace(
        "  return",
        "  %ok = arith.cmpi ult, %x, %nx : index\n  \"tile.check\"(%ok) {message = \"x\"} : (i1) -> ()\n  return",
    );
    let module = parse(&context, &checked);
    let mut cx = walking(&module);
    let before = module.to_text();
    assert_eq!(run_passes(&[Pass::Persist], &module, &mut cx).unwrap().to_text(), before);
    assert!(cx.remarks.iter().any(|r| r.to_string().contains("has checks")), "{:?}", cx.remarks);
}

fn is_for(op: Op) -> bool {
    name_of(op) == "scf.for"
}

/// The loops of a block and those right inside of them, outer first.
fn nests<'c>(ops: impl Iterator<Item = Op<'c>>) -> Vec<[Op<'c>; 2]> {
    let inner = |outer: Op<'c>| nested_ops(outer).into_iter().find(|op| is_for(*op));
    ops.filter(|op| is_for(*op)).filter_map(|outer| Some([outer, inner(outer)?])).collect()
}

/// The values that a block's waits of `kernel`'s rings take as slot and parity at first, as what the loop around
/// carries.
fn handed<'c>([outer, inner]: [Op<'c>; 2]) -> Vec<Val<'c>> {
    let wait = nested_ops(inner)
        .into_iter()
        .find_map(|op| match GpuOp::of(op) {
            Some(GpuOp::MbarrierWait { slot, parity, .. }) => Some([slot, parity]),
            _ => None,
        })
        .expect("the loop waits");
    let carried = args_of(blocks_of(inner)[0]);
    let place = |value: Val<'c>| carried.iter().position(|a| *a == value).expect("a turn is carried");
    let from_outer = args_of(blocks_of(outer)[0]);
    // The loop's operands begin with its bounds, its block's arguments with the variable.
    let handed: Vec<Val> = wait.map(|value| operands_of(inner)[place(value) + 2]).to_vec();
    assert!(handed.iter().all(|value| from_outer.contains(value)), "a ring starts anew in each program");
    handed
}

#[test]
fn both_roles_of_a_matmul_walk_and_keep_their_turns() {
    let context = dialect::context(&[]);
    let module = lower(&parse(&context, MATMUL));
    assert!(LaunchNeeds::of(&module).persistent);
    let role = ops_of(module.entry()).find(|op| name_of(*op) == "scf.if").expect("the copying warp's branch");
    let (producer, consumer) = (nests(ops_of(blocks_of(role)[0])), nests(ops_of(module.entry())));
    assert_eq!((producer.len(), consumer.len()), (1, 1), "{}", module.to_text());
    for nest in producer.iter().chain(&consumer) {
        assert_eq!(handed(*nest).len(), 2);
        // What the inner loop ends with is what the next program starts with.
        let end = ops_of(blocks_of(nest[0])[0]).last().unwrap();
        let from_inner = operands_of(end).into_iter().filter(|v| defining_op(*v) == Some(nest[1]));
        assert_eq!(from_inner.count(), 2, "{}", module.to_text());
    }
    // Both count alike.
    let bounds = |nest: &[Op]| {
        operands_of(nest[0])[..3].iter().filter_map(|v| defining_op(*v)).map(name_of).collect::<Vec<_>>()
    };
    assert_eq!(bounds(&producer[0]), bounds(&consumer[0]));
    // The last slot of a program is released before the next program.
    let arrivals = |op: Op| {
        ops_of(blocks_of(op)[0])
            .filter(|op| matches!(GpuOp::of(*op), Some(GpuOp::MbarrierArrive { .. })))
            .count()
    };
    assert_eq!((arrivals(consumer[0][0]), arrivals(consumer[0][1])), (1, 1));
}

#[test]
fn the_next_queries_come_while_the_present_program_ends() {
    let context = dialect::context(&[]);
    let module = lower(&parse(&context, FMHA));
    let walk = ops_of(module.entry()).find(|op| is_for(*op)).expect("the consumers walk");
    let body: Vec<Op> = ops_of(blocks_of(walk)[0]).collect();
    let at = |wanted: &dyn Fn(&GpuOp) -> bool| -> Vec<usize> {
        (0..body.len()).filter(|i| GpuOp::of(body[*i]).is_some_and(|op| wanted(&op))).collect()
    };
    // The threads wait for the queries, release them behind the blocks of keys, and only then store.
    let waits = at(&|op| matches!(op, GpuOp::MbarrierWait { .. }));
    let releases = at(&|op| matches!(op, GpuOp::MbarrierArrive { .. }));
    let stores = at(&|op| matches!(op, GpuOp::GlobalStore { .. } | GpuOp::BulkStore { .. }));
    let order = [waits[0], releases[0], stores[0]];
    assert!(waits.len() == 1 && releases.len() == 1 && order.is_sorted(), "{}", module.to_text());
    let products = (waits[0]..releases[0]).filter(|i| nested_ops(body[*i]).iter().any(|op| is_for(*op)));
    assert_eq!(products.count(), 1, "{}", module.to_text());
    // The slot's parity changes from program to program.
    let Some(GpuOp::MbarrierWait { parity, .. }) = GpuOp::of(body[waits[0]]) else { panic!("a wait") };
    assert!(args_of(blocks_of(walk)[0]).contains(&parity));
}

/// What the pass that gives copies to a warp of their own says of attention, and how many slots the queries have.
fn queries_of_attention(change: impl FnOnce(&mut PassContext)) -> (String, usize) {
    let context = dialect::context(&[]);
    let module = parse(&context, FMHA);
    let mut cx = walking(&module);
    change(&mut cx);
    let module = run_passes(cx.target.passes, &module, &mut cx).unwrap_or_else(|e| panic!("{e}"));
    let said: Vec<String> = cx.remarks.iter().map(ToString::to_string).collect();
    let said: Vec<&String> = said.iter().filter(|r| r.contains("a warp of its own makes")).collect();
    let [remark] = said[..] else { panic!("{said:#?}") };
    let queries = args_of(module.entry())[0];
    let slots = nested_ops(module.function()).into_iter().find_map(|op| match GpuOp::of(op) {
        Some(GpuOp::TmaCopy { view, smem, .. }) if view == queries => Some(Smem::of(type_of(smem))?.slots),
        _ => None,
    });
    (remark.clone(), slots.expect("queries are bulk copies"))
}

#[test]
fn the_next_queries_have_a_slot_where_there_is_room() {
    // Keys and values are 16 KB a stage, a slot of queries and the block that is stored 8 KB each.
    for (persistent, occupancy, num_stages, expected) in [
        (true, 1, 3, 2),
        // 224 KB of a CTA's 227, or 8 KB more.
        (true, 1, 12, 2),
        (true, 1, 13, 1),
        // A second slot would leave no room for the other of two CTAs, of 113 KB each.
        (true, 2, 5, 2),
        (true, 2, 6, 1),
        // More than a CTA's share without it.
        (true, 2, 8, 1),
        // Without a next program there are no next queries.
        (false, 1, 3, 1),
    ] {
        let (remark, slots) = queries_of_attention(|cx| {
            (cx.occupancy, cx.num_stages, cx.switches.persistent) = (occupancy, num_stages, persistent);
        });
        let case = format!("persistent={persistent} occupancy={occupancy} num_stages={num_stages}: {remark}");
        assert_eq!(slots, expected, "{case}");
        let plural = if expected == 1 { "slot" } else { "slots" };
        let copies = format!("a warp of its own makes 2 copies, in 2 rings of {num_stages} slots");
        assert!(remark.contains(&copies), "{case}");
        assert!(remark.ends_with(&format!("; and 1 in front of the loop, of {expected} {plural}")), "{case}");
    }
}

#[test]
fn what_does_not_fit_with_one_slot_is_refused() {
    let context = dialect::context(&[]);
    let module = parse(&context, FMHA);
    let mut cx = PassContext { num_stages: 15, occupancy: 2, ..walking(&module) };
    let Err(error) = run_passes(cx.target.passes, &module, &mut cx) else { panic!("240 KB do not fit") };
    // What a CTA can have, whatever its share at the wanted occupancy.
    let limit = cx.target.limits.smem_per_cta_bytes;
    assert!(matches!(error, PassError::SharedMemory { available, .. } if available == limit), "{error}");
}

/// What is kept from one program to the next, or written by the copying warp while others still store, shares its
/// bytes with nothing.
#[test]
fn rings_and_scratch_lie_apart() {
    let context = dialect::context(&[]);
    for text in [MATMUL, FMHA] {
        let module = lower(&parse(&context, text));
        let (mut rings, mut scratch) = (Vec::new(), Vec::new());
        for op in nested_ops(module.function()) {
            if let Some(offset) = int_attr(op, "offset") {
                let bytes = Smem::of(type_of(results_of(op)[0])).unwrap().bytes();
                rings.push(offset as usize..offset as usize + bytes);
            }
            scratch.extend(int_attr(op, "scratch_offset").map(|offset| offset as usize));
        }
        assert!(!rings.is_empty());
        for (i, a) in rings.iter().enumerate() {
            assert!(rings[..i].iter().all(|b| a.end <= b.start || b.end <= a.start), "{rings:?}");
            assert!(scratch.iter().all(|at| !a.contains(at)), "{rings:?} {scratch:?}");
        }
    }
}

/// What the verifier says after lines that contain some text are dropped or doubled.
fn broken(context: &TileContext, kernel: &str, with: &str, times: usize) -> Vec<ProtocolError> {
    let text = lower(&parse(context, kernel)).to_text();
    let lines: Vec<&str> = text
        .lines()
        .flat_map(|line| std::iter::repeat_n(line, if line.contains(with) { times } else { 1 }))
        .collect();
    let module = Module::parse(context, &lines.join("\n")).expect("still parses");
    let violations = verify(&module).expect_err("the barriers are out of step");
    let errors = violations.into_iter().filter_map(|v| match v.rule {
        Rule::Protocol(error) => Some(error),
        _ => None,
    });
    errors.collect()
}

#[test]
fn barriers_out_of_step_are_found_in_nests() {
    let context = dialect::context(&[]);
    let once = |kernel, with, times| broken(&context, kernel, with, times);
    assert!(once(FMHA, "tgpu.mbarrier_arrive", 0).contains(&ProtocolError::Releases(0)));
    assert!(once(MATMUL, "tgpu.mbarrier_arrive", 2).contains(&ProtocolError::Releases(2)));
    assert!(once(MATMUL, "tgpu.mbarrier_wait", 0).contains(&ProtocolError::NoEmptyWait));
    assert!(once(FMHA, "tgpu.mbarrier_wait", 2).contains(&ProtocolError::FullWaits(2)));
}

#[test]
fn kernels_that_walk_assemble_without_spills_on_every_target() {
    for (name, kernel) in [("matmul", MATMUL.to_owned()), ("fmha", FMHA.to_owned())] {
        for target in Target::all() {
            let switches = Switches { persistent: true, ..Switches::of(&Config::default()) };
            let compiled = build(&kernel, CompileOptions { switches, ..options(target.part, 2) }, true)
                .unwrap_or_else(|e| panic!("{name} {target}: {e}"));
            assert!(compiled.persistent);
            let Some((report, _)) = assemble(&compiled) else { continue };
            assert_eq!(report.spill_load_bytes, 0, "{name} {target}: {} registers", report.registers);
        }
    }
    let switches = Switches { persistent: true, ..Switches::of(&Config::default()) };
    let options = CompileOptions { num_warps: 8, switches, ..options("sm_90", 2) };
    let compiled = build(&fmha([128, 128, 128]), options, true).unwrap_or_else(|e| panic!("{e}"));
    assert!(!compiled.tensor_maps.is_empty());
    if let Some((report, _)) = assemble(&compiled) {
        assert_eq!(report.spill_load_bytes, 0, "{} registers", report.registers);
    }
}

/// The product with blocks of 128 by 256.
fn wide_matmul() -> String {
    let widen = |line: &str| {
        let line = line.replace("64x128xbf16", "64x256xbf16").replace("128x128x", "128x256x");
        let is_rhs = line.contains("%b = ") || line.contains("%bt = ");
        if is_rhs { line.replace("<128x64xbf16>", "<256x64xbf16>") } else { line }
    };
    MATMUL.lines().map(|line| widen(line) + "\n").collect()
}

#[test]
fn wide_blocks_fit_beside_their_store() {
    for persistent in [false, true] {
        let switches = Switches { persistent, ..Switches::of(&Config::default()) };
        let options = CompileOptions { num_warps: 8, switches, ..options("sm_90", 3) };
        let compiled = build(&wide_matmul(), options, true).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(compiled.tensor_maps.len(), 3, "both operands and the result go in bulk");
        let Some((report, sass)) = assemble(&compiled) else { continue };
        assert_eq!(report.spill_load_bytes, 0, "{persistent}: {} registers", report.registers);
        let count = |what: &str| sass.lines().filter(|line| line.contains(what)).count();
        assert_eq!(count("HGMMA.64x256x16"), 4, "{persistent}");
    }
}

/// Kernels without products, and with loops of other kinds, walk as well.
#[test]
fn the_zoo_walks() {
    let context = dialect::context(&[]);
    for (name, consts) in [
        ("softmax", vec![("ROWS", 4), ("COLS", 128)]),
        ("column_means", vec![("ROWS", 16), ("COLS", 64)]),
        ("persistent", vec![("TILE", 64)]),
    ] {
        let module = lower(&kernel(&context, name, DType::F16, &consts));
        assert!(LaunchNeeds::of(&module).persistent, "{name}");
        assert!(ops_of(module.entry()).any(is_for), "{name}");
    }
}
