//! Operands of f32 that go to `wgmma`, rounded to tf32 by tensor maps.

use crate::compile::assemble;
use crate::support::{self, facts, kernel};
use codegen_ptx::gpu::dialect;
use codegen_ptx::gpu::facts::TensorFacts;
use codegen_ptx::gpu::launch::LaunchNeeds;
use codegen_ptx::gpu::ops::GpuOp;
use codegen_ptx::gpu::passes::{PassContext, Switches};
use codegen_ptx::gpu::rounding::RoundingError;
use codegen_ptx::gpu::verify::{Rule, verify};
use codegen_ptx::lower::{LowerOptions, lower_to_llvm};
use codegen_ptx::target::Target;
use codegen_ptx::{CompileOptions, Compiled, compile, with_context};
use tile_ir::types::nested_ops;
use tile_ir::{Module, TileContext};
use tile_lang::{Config, DType};

const ON: Switches = Switches {
    warp_specialize: true,
    split_masks: true,
    ping_pong: false,
    bulk_stores: true,
    persistent: false,
    tf32_wgmma: true,
    compute_ahead: false,
    stream_loads: false,
    split_tail: 0,
};

/// A product of f32, of an rhs that is contiguous along K or not.
fn matmul(context: &TileContext, rhs_is_nk: i64) -> Module<'_> {
    let consts = [("TILE_M", 128), ("TILE_N", 128), ("TILE_K", 32), ("RHS_IS_NK", rhs_is_nk)];
    kernel(context, "matmul", DType::F32, &consts)
}

/// Runs the target's passes, switched on; returns the module and what they said.
fn lower<'c>(module: &Module<'c>, change: impl FnOnce(&mut PassContext)) -> (Module<'c>, Vec<String>) {
    support::lower(module, |cx| {
        (cx.num_warps, cx.switches) = (8, ON);
        change(cx);
    })
}

/// How many products of f32 there are by warpgroups, and by warps.
fn products(module: &Module) -> [usize; 2] {
    let ops: Vec<_> = nested_ops(module.function()).into_iter().filter_map(GpuOp::of).collect();
    let count = |wanted: fn(&GpuOp) -> bool| ops.iter().filter(|op| wanted(op)).count();
    [count(|op| matches!(op, GpuOp::Wgmma { .. })), count(|op| matches!(op, GpuOp::MmaSync { .. }))]
}

/// Each map's tensor, box, and whether it rounds.
fn maps(module: &Module) -> Vec<(usize, Vec<usize>, bool)> {
    LaunchNeeds::of(module).tensor_maps.into_iter().map(|m| (m.tensor, m.box_shape, m.rounds)).collect()
}

#[test]
fn operands_that_maps_round_go_to_wgmma() {
    let context = dialect::context(&[]);
    let (module, remarks) = lower(&matmul(&context, 1), |_| {});
    assert_eq!(products(&module), [1, 0], "{remarks:#?}");
    assert!(
        remarks.iter().any(|r| r.contains("mma 128x128x32 of f32: wgmma by warpgroups 2x1")),
        "{remarks:#?}"
    );
    assert!(remarks.iter().any(|r| r.contains("a product runs while")), "{remarks:#?}");
    // What is stored is not rounded; each warpgroup stores its rows.
    let expected = [(0, vec![128, 32], true), (1, vec![128, 32], true), (2, vec![64, 32], false)];
    assert_eq!(maps(&module), expected);
}

#[test]
fn a_loop_in_a_loop_keeps_its_operands_rounded() {
    let context = dialect::context(&[]);
    let (module, remarks) = lower(&matmul(&context, 1), |cx| cx.switches.persistent = true);
    assert_eq!(products(&module), [1, 0], "{remarks:#?}");
    assert_eq!(maps(&module).iter().filter(|(.., rounds)| *rounds).count(), 2);
}

#[test]
fn operands_that_no_map_rounds_stay_with_warps() {
    let context = dialect::context(&[]);
    type Change = fn(&mut PassContext);
    let cases = [
        ("tf32_wgmma is 0", 1, (|cx| cx.switches = Switches::of(&Config::default())) as Change),
        ("warp_specialize is 0", 1, |cx| cx.switches.warp_specialize = false),
        ("num_stages is 1", 1, |cx| cx.num_stages = 1),
        ("multiples of 16 bytes", 1, |cx| cx.facts[0].stride_divisor[0] = 2),
        ("multiples of 16 bytes", 1, |cx| cx.facts[1].align_bytes = 8),
        ("not known to be contiguous", 1, |cx| cx.facts[1].unit_stride = None),
        ("no descriptor describes its rhs", 0, |_| {}),
        ("it takes 64 rows", 1, |cx| cx.num_warps = 2),
    ];
    for (why, rhs_is_nk, change) in cases {
        let (module, remarks) = lower(&matmul(&context, rhs_is_nk), change);
        assert_eq!(products(&module), [0, 1], "{why}: {remarks:#?}");
        let said = |r: &&String| r.contains("of f32 is no wgmma") && r.contains(why);
        assert_eq!(remarks.iter().filter(said).count(), 1, "{why}: {remarks:#?}");
        assert!(maps(&module).iter().all(|(.., rounds)| !rounds), "{why}");
    }
}

#[test]
fn operands_that_are_computed_or_needed_as_they_are_stay_with_warps() {
    let context = dialect::context(&[]);
    let said = |remarks: &[String], why: &str| {
        assert!(remarks.iter().any(|r| r.contains("of f32 is no wgmma") && r.contains(why)), "{remarks:#?}");
    };
    let sums = kernel(&context, "product_and_sums", DType::F32, &[("TILE", 128), ("K", 32)]);
    let (module, remarks) = lower(&sums, |_| {});
    assert_eq!(products(&module), [0, 1]);
    said(&remarks, "something else needs an operand as it is");
    // Attention's weights are computed; its queries, read once, are no bulk copy.
    let consts = [("HEAD_DIM", 64), ("TILE_M", 128), ("TILE_N", 64), ("CAUSAL", 0)];
    let (module, remarks) = lower(&kernel(&context, "fmha", DType::F32, &consts), |_| {});
    assert_eq!(products(&module), [0, 2]);
    said(&remarks, "its rows are reduced or multiplied again");
    assert!(maps(&module).iter().all(|(.., rounds)| !rounds));
}

/// The lhs is read by both products, which want it rounded. The rhs has a map for each way in which it is read.
#[test]
fn a_tensor_may_have_a_map_that_rounds_and_one_that_does_not() {
    let context = dialect::context(&[]);
    let module = kernel(&context, "both_ways", DType::F32, &[("TILE", 64)]);
    let (module, remarks) = lower(&module, |cx| (cx.num_warps, cx.switches.bulk_stores) = (4, false));
    assert_eq!(products(&module), [1, 1], "{remarks:#?}");
    let expected = [(0, vec![64, 32], true), (1, vec![64, 32], true), (1, vec![64, 32], false)];
    assert_eq!(maps(&module), expected);
}

/// One operand that would be cut keeps all products of f32 from `wgmma`.
#[test]
fn a_loop_without_bulk_copies_has_no_such_products() {
    let context = dialect::context(&[]);
    let module = kernel(&context, "two_loops", DType::F32, &[("TILE", 64)]);
    let (all, remarks) = lower(&module, |cx| cx.num_warps = 4);
    assert_eq!(products(&all), [2, 0], "{remarks:#?}");
    let (none, remarks) = lower(&module, |cx| {
        cx.num_warps = 4;
        cx.facts[2].align_bytes = 8;
    });
    assert_eq!(products(&none), [0, 2], "{remarks:#?}");
    // The maps are numbered from 0 though the first loop, which has one, is left as it is.
    let numbers = |op| match GpuOp::of(op) {
        Some(GpuOp::TmaCopy { map, .. }) => Some(map),
        _ => None,
    };
    let numbers: Vec<usize> = nested_ops(none.function()).into_iter().filter_map(numbers).collect();
    assert_eq!(numbers, [0, 0]);
}

/// What the verifier says of rounding after some text is replaced.
fn broken(context: &TileContext, module: &Module, from: &str, to: &str) -> Vec<RoundingError> {
    let text = module.to_text();
    assert!(text.contains(from), "{text}");
    let module = Module::parse(context, &text.replace(from, to)).expect("still parses");
    let violations = verify(&module).err().unwrap_or_default();
    let errors = violations.into_iter().filter_map(|v| match v.rule {
        Rule::Rounding(error) => Some(error),
        _ => None,
    });
    errors.collect()
}

#[test]
fn operands_that_are_not_rounded_are_found() {
    let context = dialect::context(&[]);
    let (rounded, _) = lower(&matmul(&context, 1), |_| {});
    assert_eq!(broken(&context, &rounded, "rounds = true, ", ""), [RoundingError::Unrounded]);
    let sums = kernel(&context, "product_and_sums", DType::F32, &[("TILE", 128), ("K", 32)]);
    let (exact, _) = lower(&sums, |_| {});
    let found = broken(&context, &exact, "map = 0 : i64,", "map = 0 : i64, rounds = true,");
    assert_eq!(found, [RoundingError::Rounded]);
    let half = [("TILE_M", 128), ("TILE_N", 128), ("TILE_K", 32), ("RHS_IS_NK", 1)];
    let (half, _) = lower(&kernel(&context, "matmul", DType::BF16, &half), |_| {});
    let found = broken(&context, &half, "map = 0 : i64,", "map = 0 : i64, rounds = true,");
    assert_eq!(found, [RoundingError::Dtype]);
}

/// Lowering looks, too, whatever passes have run.
#[test]
fn what_would_be_cut_is_not_lowered() {
    let context = dialect::context(&[]);
    let (module, _) = lower(&matmul(&context, 1), |_| {});
    let text = module.to_text().replace("rounds = true, ", "");
    let module = Module::parse(&context, &text).unwrap();
    let facts = facts(&matmul(&context, 1), true);
    let options = LowerOptions { target: Target::from_name("sm_90").unwrap(), facts: &facts, occupancy: 1 };
    let error = lower_to_llvm(&module, options).map(|_| ()).unwrap_err();
    assert!(error.is_bug() && error.to_string().contains("no tensor map rounds"), "{error}");
}

fn build(switches: Switches) -> Compiled {
    with_context(|context| {
        let options = CompileOptions {
            target: Target::from_name("sm_90").unwrap(),
            num_warps: 8,
            num_stages: 3,
            occupancy: 1,
            num_ctas: 1,
            switches,
            facts: vec![TensorFacts::aligned(2, 32); 3],
            keep_stages: false,
        };
        compile(&matmul(context, 1), &options).unwrap_or_else(|e| panic!("{e}"))
    })
}

/// The threads round nothing: the maps have done it. The kernel that stands in where a tensor has no map rounds all.
#[test]
fn rounded_operands_are_multiplied_as_they_are() {
    let compiled = build(ON);
    assert_eq!(compiled.tensor_maps.iter().map(|m| m.rounds).collect::<Vec<_>>(), [true, true, false]);
    assert!(compiled.ptx.contains("m64n128k8.f32.tf32.tf32") && !compiled.ptx.contains("cvt.rna.tf32"));
    let without_maps = build(Switches { warp_specialize: false, bulk_stores: false, ..ON });
    assert!(without_maps.tensor_maps.is_empty());
    assert!(!without_maps.ptx.contains("wgmma") && without_maps.ptx.contains("cvt.rna.tf32"));
    for (compiled, wgmma) in [(&compiled, true), (&without_maps, false)] {
        let Some((report, sass)) = assemble(compiled) else { continue };
        let count = |what: &str| sass.lines().filter(|line| line.contains(what)).count();
        // One product has 4 steps of 8 along K; none waits for the one before.
        assert_eq!(count("HGMMA.64x128x8.F32.TF32"), if wgmma { 4 } else { 0 });
        assert_eq!(count("HMMA.1688.F32.TF32") > 0, !wgmma);
        assert!(count("WARPGROUP.DEPBAR") <= 2);
        assert_eq!(report.spill_load_bytes + report.spill_store_bytes, 0);
    }
}
