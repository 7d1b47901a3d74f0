//! Sums of rows that threads share are added up behind loops, where that is the same sum.

use crate::support::{context_of, kernel};
use codegen_ptx::gpu::dialect::{self, layout_of};
use codegen_ptx::gpu::ops::GpuOp;
use codegen_ptx::gpu::passes::{Pass, PassContext, run_passes};
use codegen_ptx::gpu::verify::verify;
use codegen_ptx::target::Target;
use tile_ir::ops::ReduceKind;
use tile_ir::types::{Op, Val, defining_op, name_of, nested_ops, results_of, type_of};
use tile_ir::{Module, TileContext};
use tile_lang::DType;

/// A loop that adds rows up as attention does: four lanes share a row.
const SUM: &str = r##"
#tile = #tgpu.layout<"register 0,1 8,0 lane 0,2 0,4 1,0 2,0 4,0 warp 16,0">
#rows = #tgpu.layout<"register 8,0 lane 0,0 0,0 1,0 2,0 4,0 warp 16,0">
func.func @kernel(%v: !tile.view<2 : i64, f32>, %w: !tile.view<2 : i64, f32>) attributes {tgpu.num_warps = 2 : i64} {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %n = "tile.dim"(%v) {axis = 1 : i64} : (!tile.view<2 : i64, f32>) -> index
  %zero = arith.constant dense<0.0> : tensor<32x1xf32, #rows>
  %one = arith.constant dense<1.0> : tensor<32x1xf32, #rows>
  %sum = scf.for %i = %c0 to %n step %c1 iter_args(%before = %zero) -> (tensor<32x1xf32, #rows>) {
    %p = "tgpu.global_load"(%v, %c0, %i) {vec_bytes = 4 : i64} : (!tile.view<2 : i64, f32>, index, index) -> tensor<32x8xf32, #tile>
    %factor = "tgpu.reduce"(%p) {axis = 1 : i64, kind = "max"} : (tensor<32x8xf32, #tile>) -> tensor<32x1xf32, #rows>
    %kept = arith.mulf %before, %factor : tensor<32x1xf32, #rows>
    %part = "tgpu.reduce"(%p) {axis = 1 : i64, kind = "sum"} : (tensor<32x8xf32, #tile>) -> tensor<32x1xf32, #rows>
    %after = arith.addf %kept, %part : tensor<32x1xf32, #rows>
    scf.yield %after : tensor<32x1xf32, #rows>
  }
  "tgpu.global_store"(%w, %c0, %c0, %sum) {vec_bytes = 4 : i64} : (!tile.view<2 : i64, f32>, index, index, tensor<32x1xf32, #rows>) -> ()
  return
}
"##;

const KEPT: &str = "%kept = arith.mulf %before, %factor";
const AFTER: &str = "%after = arith.addf %kept, %part";

fn is_sum(op: Op) -> bool {
    matches!(GpuOp::of(op), Some(GpuOp::Reduce { kind: ReduceKind::Sum, .. }))
}

/// Sums between lanes in the loop and behind it, the shape of what the loop carries, and the remark, for the loop with
/// some text of it replaced.
fn deferred(changes: &[(&str, &str)]) -> ([usize; 2], Vec<usize>, String) {
    let context = dialect::context(&[]);
    let mut text = SUM.to_owned();
    for (from, to) in changes {
        assert!(text.contains(from), "{from}");
        text = text.replace(from, to);
    }
    let module = Module::parse(&context, &text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    verify(&module).unwrap_or_else(|e| panic!("{e:?}\n{text}"));
    let mut cx = context_of(Target::from_name("sm_80").unwrap(), &module);
    let module = run_passes(&[Pass::DeferSums], &module, &mut cx).unwrap_or_else(|e| panic!("{e}"));
    verify(&module).unwrap_or_else(|e| panic!("{e:?}\n{}", module.to_text()));
    let text = module.to_text();
    assert_eq!(Module::parse(&context, &text).expect("still parses").to_text(), text);
    let all = nested_ops(module.function());
    let the_loop = *all.iter().find(|op| name_of(**op) == "scf.for").expect("a loop");
    let sums = |ops: &[Op]| ops.iter().filter(|op| is_sum(**op)).count();
    let inside = sums(&nested_ops(the_loop));
    let carried = layout_of(type_of(results_of(the_loop)[0])).expect("a layout").shape;
    let [remark] = &cx.remarks[..] else { panic!("{:?}", cx.remarks) };
    ([inside, sums(&all) - inside], carried, remark.to_string())
}

#[test]
fn lanes_carry_their_own_sums() {
    let forms: [&[(&str, &str)]; 6] = [
        &[],
        &[(KEPT, "%kept = arith.mulf %factor, %before"), (AFTER, "%after = arith.addf %part, %kept")],
        &[(KEPT, "%unused = arith.mulf %factor, %factor"), (AFTER, "%after = arith.addf %before, %part")],
        &[
            (KEPT, "%unused = arith.mulf %factor, %factor"),
            (AFTER, "%after = math.fma %before, %factor, %part"),
        ],
        &[
            (KEPT, "%unused = arith.mulf %factor, %factor"),
            (AFTER, "%after = math.fma %factor, %before, %part"),
        ],
        // The factor may come from anywhere and be used by others.
        &[(
            KEPT,
            "%unused = arith.negf %factor : tensor<32x1xf32, #rows>\n    %kept = arith.mulf %before, %one",
        )],
    ];
    for changes in forms {
        let (sums, carried, remark) = deferred(changes);
        assert_eq!((sums, &carried[..]), ([0, 1], &[32, 4][..]), "{changes:?}");
        assert!(remark.contains("behind the loop"), "{remark}");
    }
}

/// Two warps that share rows of 16 elements.
const WARPS_SHARE: [(&str, &str); 4] = [
    ("4,0 warp 16,0\">\n#rows", "4,0 warp 0,8\">\n#rows"),
    ("warp 16,0\">\nfunc", "warp 0,0\">\nfunc"),
    ("32x8x", "16x16x"),
    ("32x1x", "16x1x"),
];

#[test]
fn warps_that_share_rows_carry_their_own_sums() {
    let (sums, carried, remark) = deferred(&WARPS_SHARE);
    assert_eq!((sums, &carried[..]), ([0, 1], &[16, 8][..]));
    assert!(remark.contains("the threads that share a row add up its sum behind the loop"), "{remark}");
}

#[test]
fn sums_that_would_be_others_stay() {
    let elsewhere = "the loop uses it elsewhere";
    let forms: [(&[(&str, &str)], &str); 7] = [
        (&[("%before = %zero", "%before = %one")], "it does not start at zero"),
        (&[("kind = \"sum\"", "kind = \"max\"")], "no loop adds up sums of rows"),
        (&[(KEPT, "%kept = arith.mulf %before, %before")], elsewhere),
        (
            &[(
                AFTER,
                "%used = arith.negf %kept : tensor<32x1xf32, #rows>\n    %after = arith.addf %kept, %part",
            )],
            elsewhere,
        ),
        (&[("f32", "bf16")], "narrow dtype"),
        // Two warps that share rows hold the same elements.
        (
            &[
                ("4,0 warp 16,0\">\n#rows", "4,0 warp 0,4\">\n#rows"),
                ("warp 16,0\">\nfunc", "warp 0,0\">\nfunc"),
                ("32x8x", "16x8x"),
                ("32x1x", "16x1x"),
            ],
            "threads hold elements more than once",
        ),
        // Each thread has a row of its own.
        (
            &[
                (
                    "register 0,1 8,0 lane 0,2 0,4 1,0 2,0 4,0 warp 16,0",
                    "register 0,1 0,2 lane 1,0 2,0 4,0 8,0 16,0 warp 32,0",
                ),
                (
                    "register 8,0 lane 0,0 0,0 1,0 2,0 4,0 warp 16,0",
                    "register lane 1,0 2,0 4,0 8,0 16,0 warp 32,0",
                ),
                ("32x8x", "64x4x"),
                ("32x1x", "64x1x"),
            ],
            "no threads share rows",
        ),
    ];
    for (changes, why) in forms {
        let (_, carried, remark) = deferred(changes);
        assert!(carried[1] == 1 && remark.contains(why), "{changes:?}: {remark}");
    }
}

/// Whatever the products' instructions and whoever copies.
#[test]
fn attention_exchanges_no_sums_in_its_loop() {
    let context = dialect::context(&[]);
    let consts = [("HEAD_DIM", 64), ("TILE_M", 64), ("TILE_N", 64), ("CAUSAL", 1)];
    let module = kernel(&context, "fmha", DType::BF16, &consts);
    for target in Target::all() {
        for warp_specialize in [false, true] {
            let mut cx = context_of(target, &module);
            cx.switches.warp_specialize = warp_specialize;
            cx.switches.persistent = false;
            let lowered = run_passes(target.passes, &module, &mut cx).unwrap_or_else(|e| panic!("{e}"));
            let loops = nested_ops(lowered.function()).into_iter().filter(|op| name_of(*op) == "scf.for");
            let inside: Vec<Op> = loops.flat_map(nested_ops).collect();
            let own = inside.iter().filter(|op| name_of(**op) == "tgpu.reduce_registers").count();
            assert_eq!(inside.iter().filter(|op| is_sum(**op)).count(), 0, "{target}: {}", lowered.to_text());
            assert!(own > 0, "{target}: {:#?}", cx.remarks);
        }
    }
}

/// A product of 64 x 8 for eight warps.
fn of_few_columns(context: &TileContext) -> Module<'_> {
    kernel(context, "narrow_weights", DType::BF16, &[("M", 8), ("N", 64), ("K", 256)])
}

#[test]
fn warps_left_over_add_up_parts_of_k() {
    let context = dialect::context(&[]);
    let module = of_few_columns(&context);
    for target in Target::all() {
        let mut cx = PassContext { num_warps: 8, ..context_of(target, &module) };
        let lowered = run_passes(target.passes, &module, &mut cx).unwrap_or_else(|e| panic!("{e}"));
        let remarks: Vec<String> = cx.remarks.iter().map(ToString::to_string).collect();
        assert!(remarks.iter().any(|r| r.contains("warps 4x1 and 2 parts of K")), "{target}: {remarks:#?}");
        let all = nested_ops(lowered.function());
        let loops = all.iter().filter(|op| name_of(**op) == "scf.for");
        let inside: Vec<Op> = loops.flat_map(|op| nested_ops(*op)).collect();
        let sums = |ops: &[Op]| ops.iter().filter(|op| is_sum(**op)).count();
        assert_eq!((sums(&inside), sums(&all)), (0, 1), "{target}: {}", lowered.to_text());
        // The parts' accumulators are those of the instructions, which add to them.
        let [product] =
            inside.iter().filter_map(|op| GpuOp::of(*op)).filter_map(acc_of).collect::<Vec<_>>()[..]
        else {
            panic!("{target}: {}", lowered.to_text())
        };
        assert_eq!(layout_of(type_of(product)).expect("a layout").shape, [2, 64, 8], "{target}");
        assert!(defining_op(product).is_none(), "{target}: the loop carries it");
    }
}

/// The accumulator of a product of warps.
fn acc_of(op: GpuOp<'_>) -> Option<Val<'_>> {
    match op {
        GpuOp::MmaSync { acc, .. } => Some(acc),
        _ => None,
    }
}

/// What is added to something else than zero at first has its parts added up where they are made.
#[test]
fn parts_of_k_whose_sum_does_not_start_at_zero_are_added_up_at_once() {
    let context = dialect::context(&[]);
    let module = of_few_columns(&context);
    let text = module.to_text();
    assert_eq!(text.matches("dense<0.000000e+00> : tensor<64x8xf32>").count(), 1, "{text}");
    let text =
        text.replace("dense<0.000000e+00> : tensor<64x8xf32>", "dense<1.000000e+00> : tensor<64x8xf32>");
    let module = Module::parse(&context, &text).expect("still parses");
    let mut cx =
        PassContext { num_warps: 8, ..context_of(Target::from_name("sm_80").expect("a target"), &module) };
    let lowered = run_passes(cx.target.passes, &module, &mut cx).unwrap_or_else(|e| panic!("{e}"));
    let loops = nested_ops(lowered.function()).into_iter().filter(|op| name_of(*op) == "scf.for");
    let inside: Vec<Op> = loops.flat_map(nested_ops).collect();
    assert_eq!(inside.iter().filter(|op| is_sum(**op)).count(), 1, "{}", lowered.to_text());
    assert!(cx.remarks.iter().any(|r| r.to_string().contains("does not start at zero")), "{:#?}", cx.remarks);
}
