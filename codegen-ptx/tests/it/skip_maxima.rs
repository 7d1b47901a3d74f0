//! Maxima of rows that lanes exchange only where one has grown too far.

use crate::support::{context_of, lower};
use codegen_ptx::gpu::dialect;
use codegen_ptx::gpu::ops::GpuOp;
use codegen_ptx::gpu::passes::{Pass, PassContext, run_passes};
use codegen_ptx::gpu::verify::verify;
use codegen_ptx::target::Target;
use melior::ir::operation::OperationLike;
use tile_ir::Module;
use tile_ir::ops::ReduceKind;
use tile_ir::types::{
    Op, args_of, blocks_of, defining_op, dtype_of, name_of, nested_ops, operands_of, ops_of, type_of,
};
use tile_lang::DType;

const FMHA: &str = include_str!("../kernels/fmha.mlir");
const DONE: &str = "lanes exchange the maxima of their rows only where one has grown";

/// A loop that keeps a row's base until its maximum is far ahead: four lanes and no warps share a row. What scales the
/// maxima, and one value a row beside the base, come from outside.
const KEPT: &str = r##"
#tile = #tgpu.layout<"register 0,1 8,0 lane 0,2 0,4 1,0 2,0 4,0 warp 16,0">
#rows = #tgpu.layout<"register 8,0 lane 0,0 0,0 1,0 2,0 4,0 warp 16,0">
func.func @kernel(%v: !tile.view<2 : i64, f32>, %w: !tile.view<2 : i64, f32>) attributes {tgpu.num_warps = 2 : i64} {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %n = "tile.dim"(%v) {axis = 1 : i64} : (!tile.view<2 : i64, f32>) -> index
  %low = arith.constant dense<-1.0e+30> : tensor<32x1xf32, #rows>
  %zero = arith.constant dense<0.0> : tensor<32x1xf32, #rows>
  %scale = arith.constant dense<0.5> : tensor<32x1xf32, #rows>
  %limit = arith.constant dense<8.0> : tensor<32x1xf32, #rows>
  %r:2 = scf.for %i = %c0 to %n step %c1 iter_args(%old = %low, %sum = %zero) -> (tensor<32x1xf32, #rows>, tensor<32x1xf32, #rows>) {
    %p = "tgpu.global_load"(%v, %c0, %i) {vec_bytes = 4 : i64} : (!tile.view<2 : i64, f32>, index, index) -> tensor<32x8xf32, #tile>
    %reduced = "tgpu.reduce"(%p) {axis = 1 : i64, kind = "max"} : (tensor<32x8xf32, #tile>) -> tensor<32x1xf32, #rows>
    %scaled = arith.mulf %reduced, %scale : tensor<32x1xf32, #rows>
    %new = arith.maximumf %old, %scaled : tensor<32x1xf32, #rows>
    %grown = arith.subf %new, %old : tensor<32x1xf32, #rows>
    %is_kept = arith.cmpf ole, %grown, %limit : tensor<32x1xf32, #rows>
    %base = arith.select %is_kept, %old, %new : tensor<32x1xi1, #rows>, tensor<32x1xf32, #rows>
    %bases = "tgpu.broadcast"(%base) : (tensor<32x1xf32, #rows>) -> tensor<32x8xf32, #tile>
    %shifted = arith.subf %p, %bases : tensor<32x8xf32, #tile>
    %part = "tgpu.reduce"(%shifted) {axis = 1 : i64, kind = "sum"} : (tensor<32x8xf32, #tile>) -> tensor<32x1xf32, #rows>
    %change = arith.subf %old, %base : tensor<32x1xf32, #rows>
    %factor = math.exp2 %change : tensor<32x1xf32, #rows>
    %before = arith.mulf %sum, %factor : tensor<32x1xf32, #rows>
    %after = arith.addf %before, %part : tensor<32x1xf32, #rows>
    scf.yield %base, %after : tensor<32x1xf32, #rows>, tensor<32x1xf32, #rows>
  }
  "tgpu.global_store"(%w, %c0, %c0, %r#1) {vec_bytes = 4 : i64} : (!tile.view<2 : i64, f32>, index, index, tensor<32x1xf32, #rows>) -> ()
  return
}
"##;

/// Whether an operation is a branch that a vote on conditions decides.
fn is_vote(op: Op<'_>) -> bool {
    let asked = |by: Op<'_>| match GpuOp::of(by) {
        Some(GpuOp::AllOnes { tile }) => dtype_of(type_of(tile)) == Some(DType::Bool),
        _ => false,
    };
    name_of(op) == "scf.if" && defining_op(operands_of(op)[0]).is_some_and(asked)
}

fn is_max(op: &Op<'_>) -> bool {
    matches!(GpuOp::of(*op), Some(GpuOp::Reduce { kind: ReduceKind::Max, .. }))
}

/// What a branch does, by name.
fn names(vote: Op<'_>, branch: usize) -> Vec<String> {
    ops_of(blocks_of(vote)[branch]).map(name_of).collect()
}

/// The loop after the pass with some text of it replaced, and the remark.
fn skipped(changes: &[(&str, &str)], check: impl FnOnce(Op<'_>, &str)) {
    let context = dialect::context(&[]);
    let mut text = KEPT.to_owned();
    for (from, to) in changes {
        assert!(text.contains(from), "{from}");
        text = text.replace(from, to);
    }
    let module = Module::parse(&context, &text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    verify(&module).unwrap_or_else(|e| panic!("{e:?}\n{text}"));
    let mut cx =
        PassContext { num_warps: 2, ..context_of(Target::from_name("sm_80").expect("a target"), &module) };
    let module = run_passes(&[Pass::SkipMaxima], &module, &mut cx).unwrap_or_else(|e| panic!("{e}"));
    verify(&module).unwrap_or_else(|e| panic!("{e:?}\n{}", module.to_text()));
    let text = module.to_text();
    assert_eq!(Module::parse(&context, &text).expect("still parses").to_text(), text);
    let all = nested_ops(module.function());
    let the_loop = *all.iter().find(|op| name_of(**op) == "scf.for").expect("a loop");
    let [remark] = &cx.remarks[..] else { panic!("{:?}", cx.remarks) };
    check(the_loop, &remark.to_string());
}

#[test]
fn lanes_ask_before_they_exchange() {
    let unscaled = [("%scaled = arith.mulf %reduced, %scale", "%other = arith.mulf %sum, %scale")];
    let forms: [(&[(&str, &str)], bool); 3] = [
        (&[], true),
        (&[("%old, %scaled", "%scaled, %old")], true),
        (&[unscaled[0], ("%scaled", "%reduced")], false),
    ];
    for (changes, is_scaled) in forms {
        skipped(changes, |the_loop, remark| {
            assert!(remark.contains(DONE), "{changes:?}: {remark}");
            let inside = nested_ops(the_loop);
            let votes: Vec<Op> = inside.iter().copied().filter(|op| is_vote(*op)).collect();
            let [vote] = votes[..] else { panic!("{changes:?}: {} votes", votes.len()) };
            // A row that keeps its base has nothing left to compute: not even what its sum is multiplied by.
            assert_eq!(names(vote, 0), ["scf.yield"], "{changes:?}");
            let given = operands_of(ops_of(blocks_of(vote)[0]).next().expect("a yield"));
            assert_eq!(given[0], args_of(blocks_of(the_loop)[0])[1], "the old base");
            let is_before = |op: Op<'_>| op.block() == vote.block();
            assert!(given[1..].iter().all(|value| defining_op(*value).is_some_and(is_before)));
            // The sum of the block, and what it is added to, depend on more than rows.
            let scaled: &[&str] = if is_scaled { &["arith.mulf"] } else { &[] };
            let chosen = ["arith.maximumf", "arith.subf", "arith.cmpf", "arith.select"];
            let by_row = ["arith.subf", "math.exp2", "arith.mulf", "scf.yield"];
            assert_eq!(names(vote, 1), [&["tgpu.reduce"], scaled, &chosen, &by_row].concat(), "{changes:?}");
            assert_eq!(given.len(), by_row.len(), "{changes:?}");
            // Nothing else exchanges maxima.
            assert_eq!(inside.iter().filter(|op| is_max(op)).count(), 1, "{changes:?}");
        });
    }
}

#[test]
fn maxima_of_which_more_is_known_are_exchanged_as_ever() {
    let idle = "no loop keeps a maximum that has grown little";
    let forms: [&[(&str, &str)]; 13] = [
        // Comparisons that NaN passes, or that ask for something else.
        &[("cmpf ole", "cmpf ule")],
        &[("cmpf ole", "cmpf olt")],
        &[("cmpf ole", "cmpf oge")],
        &[("arith.subf %new, %old", "arith.subf %old, %new")],
        &[("select %is_kept, %old, %new", "select %is_kept, %new, %old")],
        &[("ole, %grown, %limit", "ole, %grown, %sum")],
        &[("kind = \"max\"", "kind = \"min\"")],
        // What is used elsewhere is needed whether it has grown or not.
        &[("arith.subf %old, %base", "arith.subf %reduced, %base")],
        &[("arith.subf %old, %base", "arith.subf %new, %base")],
        // What is kept is not what the loop carries.
        &[
            ("maximumf %old", "maximumf %low"),
            ("subf %new, %old", "subf %new, %low"),
            ("%is_kept, %old", "%is_kept, %low"),
        ],
        &[("f32", "bf16")],
        // Two warps share a row of 16 elements.
        &[
            ("4,0 warp 16,0\">\n#rows", "4,0 warp 0,8\">\n#rows"),
            ("warp 16,0\">\nfunc", "warp 0,0\">\nfunc"),
            ("32x8x", "16x16x"),
            ("32x1x", "16x1x"),
        ],
        // Each thread has rows of its own.
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
    ];
    for changes in forms {
        skipped(changes, |the_loop, remark| {
            assert!(remark.contains(idle), "{changes:?}: {remark}");
            let inside = nested_ops(the_loop);
            assert!(!inside.iter().any(|op| is_vote(*op)), "{changes:?}");
        });
    }
}

/// Attention that raises the base of a row's weights only where its maximum is far ahead.
fn lazy_fmha() -> String {
    let raised = "%new_max = arith.maximumf %row_max, %block_max : tensor<64x1xf32>";
    let kept = "%greater = arith.maximumf %row_max, %block_max : tensor<64x1xf32>
    %grown = arith.subf %greater, %row_max : tensor<64x1xf32>
    %is_kept = arith.cmpf ole, %grown, %rows_limit : tensor<64x1xf32>
    %new_max = arith.select %is_kept, %row_max, %greater : tensor<64x1xi1>, tensor<64x1xf32>";
    let zero = "%rows_zero = arith.constant dense<0.0> : tensor<64x1xf32>";
    let limit = "%rows_limit = arith.constant dense<8.0> : tensor<64x1xf32>";
    assert!(FMHA.contains(raised) && FMHA.contains(zero));
    FMHA.replace(raised, kept).replace(zero, &format!("{zero}\n  {limit}"))
}

#[test]
fn attention_exchanges_maxima_in_a_branch() {
    let context = dialect::context(&[]);
    for warp_specialize in [false, true] {
        let switch = |cx: &mut PassContext| cx.switches.warp_specialize = warp_specialize;
        let (module, remarks) = lower(&Module::parse(&context, &lazy_fmha()).unwrap(), switch);
        assert!(remarks.iter().any(|r| r.contains(DONE)), "{remarks:#?}");
        let loops = nested_ops(module.function()).into_iter().filter(|op| name_of(*op) == "scf.for");
        let inside: Vec<Op> = loops.flat_map(nested_ops).collect();
        let exchanges: Vec<Op> = inside.iter().copied().filter(is_max).collect();
        let [exchange] = exchanges[..] else { panic!("{}", module.to_text()) };
        let vote = *inside.iter().find(|op| is_vote(**op)).expect("a vote");
        assert_eq!(names(vote, 0), ["scf.yield"]);
        assert_eq!(exchange.block(), Some(blocks_of(vote)[1]), "{}", module.to_text());
    }
    // One that raises its bases whenever it can has nothing to ask.
    let (_, remarks) = lower(&Module::parse(&context, FMHA).unwrap(), |_| {});
    assert!(!remarks.iter().any(|r| r.contains(DONE)), "{remarks:#?}");
}
