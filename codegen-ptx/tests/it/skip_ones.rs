//! Multiplications of accumulators that are skipped where the factors are 1.

use crate::support::lower;
use codegen_ptx::gpu::dialect;
use codegen_ptx::gpu::ops::GpuOp;
use tile_ir::types::{Op, blocks_of, defining_op, name_of, nested_ops, operands_of, ops_of, results_of};
use tile_ir::{Module, TileContext};

const FMHA: &str = include_str!("../kernels/fmha.mlir");
const DONE: &str = "an accumulator is multiplied only where a factor is not 1";

fn run<'c>(context: &'c TileContext, text: &str) -> (Module<'c>, bool) {
    let (module, remarks) = lower(&Module::parse(context, text).unwrap(), |_| {});
    let fired = remarks.iter().any(|r| r.contains(DONE));
    (module, fired)
}

/// The branches that a vote decides.
fn votes<'c>(module: &Module<'c>) -> Vec<Op<'c>> {
    let is_vote = |op: &Op<'c>| {
        name_of(*op) == "scf.if"
            && defining_op(operands_of(*op)[0])
                .is_some_and(|by| matches!(GpuOp::of(by), Some(GpuOp::AllOnes { .. })))
    };
    nested_ops(module.function()).into_iter().filter(is_vote).collect()
}

#[test]
fn accumulators_of_attention_are_multiplied_in_a_branch() {
    let context = dialect::context(&[]);
    let (module, fired) = run(&context, FMHA);
    let votes = votes(&module);
    assert!(fired && !votes.is_empty(), "{}", module.to_text());
    for vote in votes {
        let blocks = blocks_of(vote);
        let names = |i: usize| ops_of(blocks[i]).map(name_of).collect::<Vec<_>>();
        assert_eq!(names(0), ["scf.yield"]);
        assert_eq!(names(1), ["tgpu.broadcast", "arith.mulf", "scf.yield"]);
        // What is left as it is, is what would be multiplied.
        let multiplied = ops_of(blocks[1]).nth(1).unwrap();
        let kept = operands_of(ops_of(blocks[0]).next().unwrap())[0];
        assert_eq!(operands_of(multiplied)[0], kept);
        let accumulates = nested_ops(module.function())
            .into_iter()
            .any(|op| matches!(GpuOp::of(op), Some(GpuOp::Wgmma { acc, .. }) if acc == results_of(vote)[0]));
        assert!(accumulates, "{}", module.to_text());
    }
}

#[test]
fn what_is_no_factor_a_row_or_no_accumulator_is_multiplied_as_ever() {
    let context = dialect::context(&[]);
    let by_itself = FMHA.replace("%old = arith.mulf %acc, %rescales", "%old = arith.mulf %acc, %acc");
    let (module, fired) = run(&context, &by_itself);
    assert!(!fired && votes(&module).is_empty(), "{}", module.to_text());
    let used_again = FMHA.replace("%p, %values, %old)", "%p, %values, %acc)").replace(
        "scf.yield %new, %new_max",
        "%sum = arith.addf %new, %old : tensor<64x64xf32>\n    scf.yield %sum, %new_max",
    );
    let (module, fired) = run(&context, &used_again);
    assert!(!fired && votes(&module).is_empty(), "{}", module.to_text());
}
