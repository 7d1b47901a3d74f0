//! Warpgroups that have no rows inside of the tensor that they store to.

use crate::compile::fmha;
use crate::simulate::{Failure, run};
use crate::support::lower;
use codegen_ptx::gpu::dialect;
use codegen_ptx::gpu::ops::GpuOp;
use codegen_ptx::gpu::passes::PassContext;
use codegen_ptx::gpu::protocol::ProtocolError;
use codegen_ptx::gpu::verify::{Rule, verify};
use tile_ir::types::{Op, blocks_of, defining_op, name_of, nested_ops, operands_of, ops_of};
use tile_ir::{Module, TileContext};

const MATMUL: &str = include_str!("../kernels/matmul.mlir");
/// What the pass says where it puts a loop in a branch.
const SKIPPED: &str = "skip-idle: a warpgroup without rows only waits";

fn parse<'c>(context: &'c TileContext, text: &str) -> Module<'c> {
    Module::parse(context, text).unwrap_or_else(|e| panic!("{e}"))
}

/// Two warpgroups, each with 64 of 128 rows.
fn two(cx: &mut PassContext) {
    cx.num_warps = 8;
}

/// Attention over three blocks of keys, however long the tensors are.
fn full_fmha() -> String {
    fmha([128, 64, 64])
        .replace("%end = arith.divui %up, %keys_index : index", "%end = arith.constant 3 : index")
}

/// The branch on whether a warpgroup has rows.
fn branch<'c>(module: &Module<'c>) -> Op<'c> {
    let decides = |op: &Op<'c>| {
        let condition = operands_of(*op).first().copied().and_then(defining_op).and_then(GpuOp::of);
        name_of(*op) == "scf.if" && matches!(condition, Some(GpuOp::HasRows { .. }))
    };
    let found: Vec<Op> = nested_ops(module.function()).into_iter().filter(decides).collect();
    let &[branch] = &found[..] else { panic!("{} branches: {}", found.len(), module.to_text()) };
    branch
}

/// Names of the operations of the gpu level in one of its blocks, in order.
fn names(op: Op, number: usize) -> Vec<String> {
    let ops = ops_of(blocks_of(op)[number]).flat_map(|op| std::iter::once(op).chain(nested_ops(op)));
    ops.map(name_of).filter(|name| name.starts_with("tgpu.")).collect()
}

#[test]
fn warpgroups_without_rows_wait_and_release_alone() {
    let context = dialect::context(&[]);
    for (text, rings, persistent) in
        [(MATMUL, 1, false), (MATMUL, 1, true), (&full_fmha(), 2, false), (&full_fmha(), 2, true)]
    {
        let (module, remarks) = lower(&parse(&context, text), |cx| {
            two(cx);
            cx.switches.persistent = persistent;
        });
        assert!(remarks.iter().any(|r| r.contains(SKIPPED)), "{remarks:#?}");
        let branch = branch(&module);
        let condition = operands_of(branch).first().copied().and_then(defining_op).and_then(GpuOp::of);
        let Some(GpuOp::HasRows { steps, .. }) = condition else { panic!("{condition:?}") };
        assert_eq!(steps, [64]);
        let expected = ["tgpu.mbarrier_wait", "tgpu.mbarrier_arrive"].repeat(rings);
        assert_eq!(names(branch, 1), expected, "{}", module.to_text());
        // Products run ahead in the branch of those that have rows.
        assert!(
            remarks.iter().any(|r| r.contains("is started in the one before") || r.contains("runs while"))
        );
        assert!(names(branch, 0).iter().filter(|name| *name == "tgpu.wgmma").count() > 0);
    }
}

/// Where products are split by columns, too, the bits for those move by no rows.
#[test]
fn bits_of_columns_move_no_rows() {
    let context = dialect::context(&[]);
    let (module, remarks) = lower(&parse(&context, MATMUL), |cx| cx.num_warps = 16);
    assert!(remarks.iter().any(|r| r.contains(SKIPPED)), "{remarks:#?}");
    let condition = operands_of(branch(&module)).first().copied().and_then(defining_op).and_then(GpuOp::of);
    assert!(
        matches!(&condition, Some(GpuOp::HasRows { steps, .. }) if steps[..] == [0, 64]),
        "{condition:?}"
    );
}

#[test]
fn kernels_whose_warpgroups_all_multiply_say_why() {
    let context = dialect::context(&[]);
    let alone = |text: &str, why: &str, change: fn(&mut PassContext)| {
        let (module, remarks) = lower(&parse(&context, text), |cx| {
            two(cx);
            change(cx);
        });
        let told = remarks.iter().any(|r| r.contains("all warpgroups multiply") && r.contains(why));
        assert!(told, "{why}: {remarks:#?}");
        let found = nested_ops(module.function()).into_iter().filter(|op| name_of(*op) == "tgpu.has_rows");
        assert_eq!(found.count(), 0, "{why}");
    };
    alone(MATMUL, "where there is one alone", |cx| cx.num_warps = 4);
    alone(MATMUL, "they may take turns", |cx| cx.switches.ping_pong = true);
    alone(MATMUL, "the loop holds tgpu.", |cx| cx.switches.warp_specialize = false);
    alone(MATMUL, "blocks divide the tensor", |cx| cx.facts[2].dim_divisor[0] = 128);
    // Both warpgroups have all 64 rows.
    let narrow = MATMUL.replace(
        "(%lhs, %m, %i) : (!tile.view<2 : i64, bf16>, index, index) -> tensor<128x64xbf16>",
        "(%lhs, %m, %i) : (!tile.view<2 : i64, bf16>, index, index) -> tensor<64x64xbf16>",
    );
    let narrow = narrow
        .replace("128x128x", "64x128x")
        .replace("(%a, %bt, %sum) : (tensor<128x64xbf16>", "(%a, %bt, %sum) : (tensor<64x64xbf16>");
    alone(&narrow, "all have rows of each block", |_| {});
    let store = "  \"tile.store\"(%out, %m, %n, %r) :";
    // A row that is stored depends on all others.
    let mixed = MATMUL.replace(
        store,
        &format!(
            "  %top1 = \"tile.reduce\"(%acc) {{axis = 0 : i64, kind = \"max\"}} : (tensor<128x128xf32>) -> tensor<1x128xf32>
  %top = \"tile.broadcast\"(%top1) : (tensor<1x128xf32>) -> tensor<128x128xf32>
  %added = arith.addf %acc, %top : tensor<128x128xf32>
  %r2 = arith.truncf %added : tensor<128x128xf32> to tensor<128x128xbf16>
{}",
            store.replace("%r)", "%r2)")
        ),
    );
    assert_ne!(mixed, MATMUL);
    alone(&mixed, "rows of its results meet in tgpu.reduce", |_| {});
    let twice = MATMUL.replace(
        "  return",
        "  \"tile.store\"(%out, %n, %m, %r) : (!tile.view<2 : i64, bf16>, index, index, tensor<128x128xbf16>) -> ()
  return",
    );
    alone(&twice, "stored at different places", |_| {});
}

/// A text without one of its lines.
fn without(text: &str, number: usize) -> String {
    let lines = text.lines().enumerate().filter(|(i, _)| *i != number);
    lines.map(|(_, line)| line).collect::<Vec<_>>().join("\n")
}

/// What the verifier says of barriers.
fn errors(context: &TileContext, text: &str) -> Vec<ProtocolError> {
    let violations = verify(&parse(context, text)).err().unwrap_or_default();
    let protocol = violations.into_iter().filter_map(|v| match v.rule {
        Rule::Protocol(error) => Some(error),
        _ => None,
    });
    protocol.collect()
}

/// The verifier misses each wait and arrival, on whichever side of a branch it is.
#[test]
fn either_side_has_to_be_in_step() {
    let context = dialect::context(&[]);
    for (text, lines) in [(MATMUL, 6), (&full_fmha(), 14)] {
        let (module, _) = lower(&parse(&context, text), two);
        let text = module.to_text();
        assert_eq!(errors(&context, &text), []);
        let of_ring = |line: &str| {
            ["tgpu.mbarrier_wait", "tgpu.mbarrier_arrive"].iter().any(|name| line.contains(name))
        };
        let all: Vec<usize> =
            text.lines().enumerate().filter(|(_, line)| of_ring(line)).map(|(i, _)| i).collect();
        assert!(all.len() >= lines, "{}: {text}", all.len());
        for number in all {
            let line = text.lines().nth(number).unwrap();
            assert_ne!(errors(&context, &without(&text, number)), [], "nobody misses {line} in {text}");
        }
    }
}

#[test]
fn what_all_warpgroups_run_stands_in_no_branch_of_some() {
    let context = dialect::context(&[]);
    let (module, _) = lower(&parse(&context, MATMUL), two);
    let text = module.to_text();
    let wait = text.lines().rfind(|line| line.contains("tgpu.mbarrier_wait")).expect("a wait").to_owned();
    let with = |more: &str| text.replace(&wait, &format!("{more}\n{wait}"));
    let apart = |name: &str| ProtocolError::Apart(name.to_owned());
    assert_eq!(errors(&context, &with("\"tgpu.barrier\"() : () -> ()")), [apart("tgpu.barrier")]);
    assert_eq!(errors(&context, &with("\"tgpu.fence_async\"() : () -> ()")), [apart("tgpu.fence_async")]);
    let steps = text.replace("steps = array<i64: 64>", "steps = array<i64: 64, 128>");
    assert_ne!(steps, text);
    assert_eq!(errors(&context, &steps), [ProtocolError::ApartWarps(8)]);
    let condition = text.lines().find(|line| line.contains("tgpu.has_rows")).expect("a condition");
    let name = condition.trim().split(' ').next().expect("a name");
    let used = text.replace(condition, &format!("{condition}\n%other = arith.xori {name}, {name} : i1"));
    assert_eq!(errors(&context, &used), [apart("arith.xori")]);
}

/// CTAs whose warpgroups have rows, some of which have, and none.
#[test]
fn clusters_run_to_their_end_where_some_have_no_rows() {
    let context = dialect::context(&[]);
    for text in [MATMUL, &full_fmha()] {
        for (persistent, ctas, stages) in [(false, 2, 2), (true, 2, 3), (true, 4, 2)] {
            let (module, remarks) = lower(&parse(&context, text), |cx| {
                two(cx);
                (cx.num_ctas, cx.num_stages, cx.switches.persistent) = (ctas, stages, persistent);
            });
            assert!(remarks.iter().any(|r| r.contains(SKIPPED)), "{remarks:#?}");
            for extent in [1, 64, 65, 150, 300, 600] {
                for seed in 0..6 {
                    let ended = run(&module, ctas, extent, seed);
                    assert_eq!(ended, Ok(()), "{ctas} CTAs, {stages} stages, {extent}, seed {seed}");
                }
            }
        }
    }
}

/// A run misses what a warpgroup without rows has to do, too.
#[test]
fn clusters_without_the_arrivals_of_some_do_not_end() {
    let context = dialect::context(&[]);
    let (module, _) = lower(&parse(&context, MATMUL), |cx| {
        two(cx);
        cx.num_ctas = 4;
    });
    let text = module.to_text();
    let drained = |name: &str| {
        let branch = text.find("tgpu.has_rows").expect("a branch");
        let other = branch + text[branch..].find("} else {").expect("two sides");
        let at = other + text[other..].find(name).expect("a loop that waits");
        parse(&context, &without(&text, text[..at].lines().count() - 1))
    };
    // Of 300 rows the third block has 44, the fourth none.
    let ends = |module: &Module| -> Vec<Failure> {
        (0..200).filter_map(|seed| run(module, 4, 300, seed).err()).collect()
    };
    assert!(ends(&drained("tgpu.mbarrier_arrive")).contains(&Failure::Deadlock));
    assert!(!ends(&drained("tgpu.mbarrier_wait")).is_empty());
    assert_eq!(ends(&module), []);
}
