//! Warps with roles, rings of mbarriers, and products in flight.

use crate::compile::{assemble, build, fmha, options};
use crate::support::{kernel, lower};
use codegen_ptx::gpu::dialect;
use codegen_ptx::gpu::launch::LaunchNeeds;
use codegen_ptx::gpu::ops::GpuOp;
use codegen_ptx::gpu::passes::PassContext;
use codegen_ptx::gpu::protocol::ProtocolError;
use codegen_ptx::gpu::resources::copying_warps;
use codegen_ptx::gpu::verify::{Rule, verify};
use codegen_ptx::{CompileOptions, Switches, Target};
use melior::ir::operation::OperationLike;
use tile_ir::types::{
    Op, blocks_of, defining_op, name_of, nested_ops, operands_of, ops_of, shape_of, type_of,
};
use tile_ir::{Module, TileContext};
use tile_lang::{Config, DType};

const MATMUL: &str = include_str!("../kernels/matmul.mlir");
const FMHA: &str = include_str!("../kernels/fmha.mlir");

fn parse<'c>(context: &'c TileContext, text: &str) -> Module<'c> {
    Module::parse(context, text).unwrap()
}

fn count<'c>(module: &Module<'c>, wanted: impl Fn(GpuOp<'c>) -> bool) -> usize {
    nested_ops(module.function()).into_iter().filter_map(GpuOp::of).filter(|op| wanted(op.clone())).count()
}

#[test]
fn operands_of_one_product_share_a_ring() {
    let context = dialect::context(&[]);
    let (module, remarks) = lower(&parse(&context, MATMUL), |cx| cx.switches.bulk_stores = false);
    assert!(remarks.iter().any(|r| r.contains("a warp of its own makes 2 copies, in 1 ring of 3 slots")));
    assert!(remarks.iter().any(|r| r.contains("a product runs while")), "{remarks:#?}");
    assert_eq!(count(&module, |op| matches!(op, GpuOp::Mbarriers { .. })), 2);
    assert_eq!(count(&module, |op| matches!(op, GpuOp::AsyncCopy { .. } | GpuOp::Barrier)), 0);
    let needs = LaunchNeeds::of(&module);
    assert_eq!(needs.producer_warps, 1);
    let maps: Vec<_> =
        needs.tensor_maps.iter().map(|m| (m.tensor, m.box_shape.clone(), m.swizzle_bytes)).collect();
    assert_eq!(maps, [(0, vec![128, 64], 128), (1, vec![128, 64], 128)]);
}

#[test]
fn keys_and_values_are_waited_for_apart() {
    let context = dialect::context(&[]);
    let (module, remarks) = lower(&parse(&context, FMHA), |cx| cx.switches.bulk_stores = false);
    // The queries, which are loaded once, come the same way, so that the threads that use them copy nothing.
    assert_eq!(count(&module, |op| matches!(op, GpuOp::Mbarriers { .. })), 6);
    assert!(remarks.iter().any(|r| r.contains("and 1 in front of the loop")), "{remarks:#?}");
    assert_eq!(count(&module, |op| matches!(op, GpuOp::AsyncCopy { .. } | GpuOp::FenceAsync)), 0);
    assert_eq!(LaunchNeeds::of(&module).tensor_maps.len(), 3);
    // The first scores are started in front of the loop, those of the next block in each iteration.
    assert!(remarks.iter().any(|r| r.contains("is started in the one before")), "{remarks:#?}");
    assert_eq!(count(&module, |op| matches!(op, GpuOp::Wgmma { .. })), 4);
}

/// The slot is released behind the branch; not to wait in it is a mistake.
#[test]
fn a_product_in_a_branch_is_waited_for_there() {
    let context = dialect::context(&[]);
    let (module, remarks) =
        lower(&kernel(&context, "branching", DType::BF16, &[("TILE", 64)]), |cx| cx.num_stages = 2);
    assert!(remarks.iter().any(|r| r.contains("a warp of its own makes 1 copy")), "{remarks:#?}");
    let text = module.to_text();
    let (before, product) = text.rsplit_once("tgpu.wgmma\"").expect("a product");
    let waited = product.replacen("pending = 0", "pending = 1", 1);
    let without = format!("{before}tgpu.wgmma\"{waited}");
    let broken = Module::parse(&context, &without).expect("still parses");
    let violations = verify(&broken).expect_err("nobody waits");
    let is_unfinished = |rule: &Rule| matches!(rule, Rule::Protocol(ProtocolError::Unfinished));
    assert!(violations.iter().any(|v| is_unfinished(&v.rule)), "{violations:?}");
}

/// What the loop with two products does, in order: products, waits, barriers, and what costs most of the rest.
fn loop_of_products(module: &Module) -> Vec<String> {
    loop_with(module, 2)
}

/// What the loop with so many products does.
fn loop_with(module: &Module, products: usize) -> Vec<String> {
    let is_product = |op: &Op| name_of(*op) == "tgpu.wgmma";
    let loops = nested_ops(module.function()).into_iter().filter(|op| name_of(*op) == "scf.for");
    let body = |op| ops_of(blocks_of(op)[0]).collect::<Vec<_>>();
    let body =
        loops.map(body).find(|body| body.iter().filter(|op| is_product(op)).count() == products).unwrap();
    let told = |op: &Op| match GpuOp::of(*op) {
        Some(GpuOp::WgmmaWait { pending, .. }) => Some(format!("wait {pending}")),
        Some(
            GpuOp::Wgmma { .. }
            | GpuOp::MbarrierWait { .. }
            | GpuOp::MbarrierArrive { .. }
            | GpuOp::TakeTurn
            | GpuOp::GiveTurn,
        ) => Some(name_of(*op).trim_start_matches("tgpu.").to_owned()),
        _ if ["math.exp2", "arith.truncf"].contains(&name_of(*op).as_str()) => Some(name_of(*op)),
        _ => None,
    };
    body.iter().filter_map(told).collect()
}

#[test]
fn weights_are_computed_under_the_product_of_the_last_ones() {
    let context = dialect::context(&[]);
    let (module, remarks) = lower(&parse(&context, FMHA), |_| {});
    assert!(remarks.iter().any(|r| r.contains("next to the second one of that")), "{remarks:#?}");
    let expected = [
        "mbarrier_wait",
        "wgmma",
        "wgmma",
        "wait 1",
        "mbarrier_arrive",
        "math.exp2",
        "math.exp2",
        "mbarrier_wait",
        "wait 0",
        "mbarrier_arrive",
        "arith.truncf",
    ];
    assert_eq!(loop_of_products(&module), expected, "{}", module.to_text());
}

#[test]
fn a_sum_that_the_loop_uses_starts_the_first_product_alone() {
    let context = dialect::context(&[]);
    let text = FMHA.replace("%old = arith.mulf %acc, %rescales", "%old = arith.mulf %rescales, %rescales");
    let text = text.replace(
        "scf.yield %new, %new_max",
        "%used = arith.addf %new, %acc : tensor<64x64xf32>\n    scf.yield %used, %new_max",
    );
    let (module, remarks) = lower(&parse(&context, &text), |_| {});
    assert!(remarks.iter().any(|r| r.contains("and alone: the sum is")), "{remarks:#?}");
    assert!(!loop_of_products(&module).contains(&"wait 1".to_owned()), "{}", module.to_text());
}

/// Attention by two warpgroups, which take turns if they are to.
fn two_warpgroups(ping_pong: bool) -> impl FnOnce(&mut PassContext) {
    move |cx| {
        cx.num_warps = 8;
        cx.switches.ping_pong = ping_pong;
    }
}

/// Attention with blocks of 128 queries.
fn wide_fmha() -> String {
    FMHA.replace("64x64xf32", "128x64xf32").replace("64x64xi32", "128x64xi32").replace("64x64xi1", "128x64xi1")
        .replace("64x1x", "128x1x")
        .replace("%queries4 = \"tile.load\"(%q, %batch, %head, %m, %c0) : (!tile.view<4 : i64, bf16>, index, index, index, index) -> tensor<1x1x64x64xbf16>", "%queries4 = \"tile.load\"(%q, %batch, %head, %m, %c0) : (!tile.view<4 : i64, bf16>, index, index, index, index) -> tensor<1x1x128x64xbf16>")
        .replace("\"tile.reshape\"(%queries4) : (tensor<1x1x64x64xbf16>) -> tensor<64x64xbf16>", "\"tile.reshape\"(%queries4) : (tensor<1x1x128x64xbf16>) -> tensor<128x64xbf16>")
        .replace("\"tile.mma\"(%queries, %keys_t, %dots_zero) : (tensor<64x64xbf16>", "\"tile.mma\"(%queries, %keys_t, %dots_zero) : (tensor<128x64xbf16>")
        .replace("to tensor<64x64xbf16>", "to tensor<128x64xbf16>")
        .replace("\"tile.mma\"(%p, %values, %old) : (tensor<64x64xbf16>", "\"tile.mma\"(%p, %values, %old) : (tensor<128x64xbf16>")
        .replace("\"tile.reshape\"(%o16) : (tensor<64x64xbf16>) -> tensor<1x1x64x64xbf16>", "\"tile.reshape\"(%o16) : (tensor<128x64xbf16>) -> tensor<1x1x128x64xbf16>")
        .replace("index, index, index, index, tensor<1x1x64x64xbf16>) -> ()", "index, index, index, index, tensor<1x1x128x64xbf16>) -> ()")
        .replace("%places1 = arith.addi %iota, %firsts : tensor<64xi32>", "%iota_m = \"tile.iota\"() : () -> tensor<128xi32>\n  %places1 = arith.addi %iota_m, %firsts : tensor<128xi32>")
        .replace("%firsts = \"tile.splat\"(%first) : (i32) -> tensor<64xi32>", "%firsts = \"tile.splat\"(%first) : (i32) -> tensor<128xi32>")
        .replace("\"tile.reshape\"(%places1) : (tensor<64xi32>)", "\"tile.reshape\"(%places1) : (tensor<128xi32>)")
}

#[test]
fn two_warpgroups_take_turns_at_starting_products() {
    let context = dialect::context(&[]);
    let (module, remarks) = lower(&parse(&context, &wide_fmha()), two_warpgroups(true));
    assert!(remarks.iter().any(|r| r.contains("two warpgroups take turns")), "{remarks:#?}");
    let order = loop_of_products(&module);
    assert_eq!(order[..5], ["mbarrier_wait", "take_turn", "wgmma", "wgmma", "give_turn"], "{order:?}");
    for op in [GpuOp::OpenTurns, GpuOp::TakeTurn, GpuOp::GiveTurn, GpuOp::CloseTurns] {
        assert_eq!(count(&module, |found| found == op), 1, "{op:?}");
    }
    let (module, remarks) = lower(&parse(&context, &wide_fmha()), two_warpgroups(false));
    assert!(remarks.iter().any(|r| r.contains("take-turns: switched off by ping_pong=0")), "{remarks:#?}");
    assert_eq!(count(&module, |op| matches!(op, GpuOp::OpenTurns | GpuOp::TakeTurn)), 0);
}

#[test]
fn warpgroups_without_turns_say_why() {
    let context = dialect::context(&[]);
    for (text, warps, why) in
        [(FMHA, 4, "for two warpgroups"), (MATMUL, 8, "is waited for before the next one")]
    {
        let (module, remarks) = lower(&parse(&context, text), |cx| {
            cx.num_warps = warps;
            cx.switches.ping_pong = true;
        });
        assert!(remarks.iter().any(|r| r.contains("no turns are taken") && r.contains(why)), "{remarks:#?}");
        assert_eq!(count(&module, |op| matches!(op, GpuOp::OpenTurns | GpuOp::TakeTurn)), 0);
    }
}

/// The mask's branch neither keeps the copies from a warp of their own nor the scores from starting ahead.
#[test]
fn masks_are_branches_that_only_compute() {
    let context = dialect::context(&[]);
    let source = parse(&context, FMHA);
    let branches = |module: &Module| {
        let in_loop = |op: &Op| op.parent_operation().is_some_and(|p| name_of(p) == "scf.for");
        // A vote's branch is one for a factor of 1.
        let is_vote = |by: Op| matches!(GpuOp::of(by), Some(GpuOp::AllOnes { .. }));
        let branches = nested_ops(module.function())
            .into_iter()
            .filter(|op| name_of(*op) == "scf.if" && !defining_op(operands_of(*op)[0]).is_some_and(is_vote));
        branches.filter(in_loop).count()
    };
    let (module, remarks) = lower(&source, |_| {});
    assert!(remarks.iter().any(|r| r.contains("applied only in iterations that need it")), "{remarks:#?}");
    assert!(remarks.iter().any(|r| r.contains("is started in the one before")), "{remarks:#?}");
    assert_eq!(branches(&module), 1, "{}", module.to_text());
    let compute = nested_ops(module.function()).into_iter().filter(|op| name_of(*op) == "arith.select");
    let masks = compute.filter(|op| shape_of(type_of(operands_of(*op)[0])).is_some_and(|s| s[1] > 1));
    for mask in masks {
        assert_eq!(name_of(mask.parent_operation().unwrap()), "scf.if", "{}", module.to_text());
    }
    let (module, remarks) = lower(&source, |cx| cx.switches.split_masks = false);
    assert!(remarks.iter().any(|r| r.contains("switched off by split_masks=0")), "{remarks:#?}");
    assert_eq!(branches(&module), 0);
}

/// Registers of a CTA's threads when the numbers handed over are in force.
fn handed_over(num_warps: usize, copying: usize, [few, many]: [usize; 2]) -> usize {
    32 * (copying * few + num_warps * many)
}

#[test]
fn warps_hand_over_no_more_registers_than_they_have() {
    let mut ways = Vec::new();
    for target in Target::all().iter().filter(|target| target.has_setmaxnreg()) {
        for num_warps in [1, 2, 4, 8, 16] {
            for occupancy in 1..=4 {
                let (copying, registers) = copying_warps(target, num_warps, occupancy);
                let Some([few, many]) = registers else {
                    assert_eq!(copying, 1, "{target} {num_warps} {occupancy}");
                    continue;
                };
                let threads = 32 * (num_warps + copying);
                // What a thread is launched with is a multiple of 8, of as many as the SM has for all of them.
                let launched = target.limits.registers_per_sm as usize / occupancy / threads / 8 * 8;
                let case = format!("{target} {num_warps} {occupancy}: {launched}, then {few} and {many}");
                assert!(handed_over(num_warps, copying, [few, many]) <= launched * threads, "{case}");
                // They gain by it, and by numbers that can be asked for.
                assert!(few < launched && launched < many, "{case}");
                assert!([few, many].iter().all(|n| n % 8 == 0 && (24..=256).contains(n)), "{case}");
                ways.push((target.part, num_warps, occupancy));
            }
        }
    }
    assert!([8, 16].iter().all(|warps| ways.contains(&("sm_90", *warps, 1))), "{ways:?}");
}

/// The assembler says with how many registers a thread is launched.
#[test]
fn the_launch_has_the_registers_that_warps_hand_over() {
    for (num_warps, rows) in [(4, 64), (8, 128), (16, 256)] {
        let switches = Switches::of(&Config::default());
        let options = CompileOptions { num_warps, switches, ..options("sm_90", 2) };
        let compiled = build(&fmha([rows, 64, 64]), options, true).unwrap_or_else(|e| panic!("{e}"));
        let asked = |change: &str| {
            let (_, rest) = compiled.ptx.split_once(&format!("setmaxnreg.{change}.sync.aligned.u32 "))?;
            rest.split_once(';')?.0.parse::<usize>().ok()
        };
        let registers = [asked("dec"), asked("inc")];
        assert_eq!(registers.map(|n| n.is_some()), [num_warps > 4; 2], "{num_warps}");
        let [Some(few), Some(many)] = registers else { continue };
        let Some((report, _)) = assemble(&compiled) else { continue };
        let launched = report.registers as usize * compiled.num_threads as usize;
        let copying = compiled.num_threads as usize / 32 - num_warps as usize;
        let handed = handed_over(num_warps as usize, copying, [few, many]);
        assert!(handed <= launched, "{num_warps} warps: {few} and {many} of {} registers", report.registers);
    }
}

#[test]
fn an_outer_loop_carries_the_turn() {
    let context = dialect::context(&[]);
    let module = kernel(&context, "persistent", DType::F16, &[("TILE", 64)]);
    let (module, remarks) = lower(&module, |_| {});
    assert!(remarks.iter().any(|r| r.contains("a warp of its own makes")), "{remarks:#?}");
    // Both roles run both loops.
    let loops = nested_ops(module.function()).into_iter().filter(|op| name_of(*op) == "scf.for").count();
    assert_eq!(loops, 4, "{}", module.to_text());
}

#[test]
fn what_allows_no_bulk_copies_says_why() {
    let context = dialect::context(&[]);
    for (why, change) in [
        ("multiples of 16 bytes", (|cx| cx.facts[0].stride_divisor[0] = 4) as fn(&mut PassContext)),
        ("multiples of 16 bytes", |cx| cx.facts[1].align_bytes = 8),
        ("make some copies themselves", |cx| cx.facts[1].unit_stride = None),
    ] {
        let (module, remarks) = lower(&parse(&context, MATMUL), |cx| {
            cx.switches.bulk_stores = false;
            change(cx);
        });
        assert!(
            remarks.iter().any(|r| r.contains("no warp of its own copies") && r.contains(why)),
            "{remarks:#?}"
        );
        assert_eq!(LaunchNeeds::of(&module), LaunchNeeds::default());
    }
    let (module, _) = lower(&parse(&context, MATMUL), |cx| {
        (cx.switches.warp_specialize, cx.switches.bulk_stores) = (false, false);
    });
    assert_eq!(LaunchNeeds::of(&module), LaunchNeeds::default());
    assert_eq!(
        count(&module, |op| matches!(op, GpuOp::FenceAsync)),
        1,
        "threads wrote what the product reads"
    );
}

#[test]
fn tiles_of_half_bytes_are_bulk_copies_of_bytes() {
    let context = dialect::context(&[]);
    let module = kernel(&context, "narrow_weights", DType::BF16, &[("M", 8), ("N", 64), ("K", 512)]);
    let (module, remarks) = lower(&module, |_| {});
    assert!(remarks.iter().any(|r| r.contains("a warp of its own makes 3 copies")), "{remarks:#?}");
    assert_eq!(count(&module, |op| matches!(op, GpuOp::AsyncCopy { .. } | GpuOp::Barrier)), 0);
    let needs = LaunchNeeds::of(&module);
    let weights = needs.tensor_maps.iter().find(|m| m.tensor == 1).expect("a map of the weights");
    // Rows of 256 bytes, in two panels.
    assert_eq!((&weights.box_shape[..], weights.swizzle_bytes), (&[64, 128][..], 128));
    // Half a byte that a row might end with has no place in a map.
    let module = kernel(&context, "narrow_weights", DType::BF16, &[("M", 8), ("N", 64), ("K", 512)]);
    let (module, _) = lower(&module, |cx| cx.facts[1].dim_divisor[1] = 1);
    assert!(LaunchNeeds::of(&module).tensor_maps.iter().all(|m| m.tensor != 1));
}

#[test]
fn operands_widened_for_many_columns_go_to_wgmma() {
    let context = dialect::context(&[]);
    let build = |m: i64| kernel(&context, "narrow_weights", DType::BF16, &[("M", m), ("N", 128), ("K", 64)]);
    let (module, remarks) = lower(&build(128), |cx| cx.num_warps = 8);
    assert_eq!(count(&module, |op| matches!(op, GpuOp::Wgmma { .. })), 1, "{remarks:#?}");
    // Scales of 4 bytes a row are no bulk copies, which would keep the others from being some.
    assert!(remarks.iter().any(|r| r.contains("a warp of its own makes 2 copies")), "{remarks:#?}");
    // The next weights would go where the product reads these.
    assert!(remarks.iter().any(|r| r.contains("registers that it reads")), "{remarks:#?}");
    assert!(!remarks.iter().any(|r| r.contains("changes layout in a loop")), "{remarks:#?}");
    // Without that warp, threads copy the scales too.
    let (module, _) = lower(&build(128), |cx| {
        cx.num_warps = 8;
        cx.switches.warp_specialize = false;
    });
    assert_eq!(count(&module, |op| matches!(op, GpuOp::GlobalLoad { .. })), 0);
    // For few columns, widening where the weights lie is cheaper.
    let (module, _) = lower(&build(32), |cx| cx.num_warps = 8);
    assert_eq!(count(&module, |op| matches!(op, GpuOp::Wgmma { .. })), 0);
}

/// Weights of 4 bits, widened for products by two warpgroups.
fn widened(context: &TileContext) -> Module<'_> {
    kernel(context, "narrow_weights", DType::BF16, &[("M", 128), ("N", 128), ("K", 64)])
}

/// Two warpgroups, which compute what they multiply ahead.
fn ahead(cx: &mut PassContext) {
    (cx.num_warps, cx.switches.compute_ahead) = (8, true);
}

#[test]
fn weights_are_widened_under_the_other_half_of_a_product() {
    let context = dialect::context(&[]);
    let (module, remarks) = lower(&widened(&context), ahead);
    assert!(remarks.iter().any(|r| r.contains("while the other half's lhs is computed")), "{remarks:#?}");
    assert_eq!(count(&module, |op| matches!(op, GpuOp::Wgmma { .. })), 2);
    let expected = ["mbarrier_wait", "wgmma", "wait 1", "mbarrier_arrive", "wgmma", "wait 1"];
    assert_eq!(loop_with(&module, 2), expected, "{}", module.to_text());
    // Scales, whose rows are too short for bulk copies, are loaded in front of the loop and for the next iteration.
    assert_eq!(count(&module, |op| matches!(op, GpuOp::GlobalLoad { .. })), 2);
    // Without rings there is nothing to wait for in between.
    let (module, remarks) = lower(&widened(&context), |cx| {
        ahead(cx);
        cx.switches.warp_specialize = false;
    });
    assert!(remarks.iter().any(|r| r.contains("not in rings of mbarriers")), "{remarks:#?}");
    assert_eq!(count(&module, |op| matches!(op, GpuOp::Wgmma { .. })), 1);
    // One step of K has no halves.
    let one_step = kernel(&context, "narrow_weights", DType::BF16, &[("M", 128), ("N", 128), ("K", 16)]);
    let (_, remarks) = lower(&one_step, ahead);
    assert!(remarks.iter().any(|r| r.contains("one step along K")), "{remarks:#?}");
}

#[test]
fn slots_of_what_is_computed_ahead_are_protected() {
    let context = dialect::context(&[]);
    let (module, _) = lower(&widened(&context), ahead);
    let text = module.to_text();
    let of = |with, times| errors(&context, &repeated(&text, with, times));
    assert!(of("tgpu.mbarrier_arrive", 0).contains(&ProtocolError::Releases(0)));
    assert!(of("tgpu.mbarrier_arrive", 2).contains(&ProtocolError::Releases(2)));
    assert!(of("tgpu.mbarrier_wait", 2).contains(&ProtocolError::FullWaits(2)));
    let late = text.replace("{pending = 1 : i64}", "{pending = 2 : i64}");
    assert!(errors(&context, &late).contains(&ProtocolError::Unfinished));
}

#[test]
fn products_that_wgmma_cannot_do_say_why() {
    let context = dialect::context(&[]);
    let (module, remarks) = lower(&parse(&context, MATMUL), |cx| cx.num_warps = 2);
    assert!(remarks.iter().any(|r| r.contains("is no wgmma: it takes 64 rows")), "{remarks:#?}");
    assert_eq!(count(&module, |op| matches!(op, GpuOp::MmaSync { .. })), 1);
}

#[test]
fn blocks_are_stored_out_of_shared_memory() {
    let context = dialect::context(&[]);
    for (kernel, tensor, box_shape) in [(MATMUL, 2, vec![128, 64]), (FMHA, 3, vec![1, 1, 64, 64])] {
        let (module, remarks) = lower(&parse(&context, kernel), |_| {});
        assert!(remarks.iter().any(|r| r.contains("is stored by bulk copies of")), "{remarks:#?}");
        assert_eq!(count(&module, |op| matches!(op, GpuOp::BulkStore { .. })), 1);
        assert_eq!(
            count(&module, |op| matches!(op, GpuOp::GlobalStore { .. } | GpuOp::ConvertLayout { .. })),
            0
        );
        let maps = LaunchNeeds::of(&module).tensor_maps;
        let stores: Vec<_> = maps.iter().filter(|m| m.tensor == tensor).collect();
        let [map] = stores[..] else { panic!("{maps:?}") };
        assert_eq!((&map.box_shape, map.swizzle_bytes), (&box_shape, 128));
    }
}

/// Each warpgroup stores what it holds: rows of a product, or columns of a transposed one, which are boxes of their own.
#[test]
fn warpgroups_store_their_own_parts() {
    let context = dialect::context(&[]);
    let transposed = MATMUL
        .replace(
            "%r = arith.truncf %acc",
            "%t = \"tile.transpose\"(%acc) {perm = array<i64: 1, 0>} : (tensor<128x128xf32>) -> tensor<128x128xf32>
            %r = arith.truncf %t",
        )
        .replace("(%out, %m, %n, %r)", "(%out, %n, %m, %r)");
    assert_ne!(transposed, MATMUL);
    for (kernel, num_warps, expected) in [
        (MATMUL, 4, (vec![128, 64], 1)),
        (MATMUL, 8, (vec![64, 64], 2)),
        (&transposed, 4, (vec![128, 64], 1)),
        (&transposed, 8, (vec![128, 64], 2)),
    ] {
        let (module, remarks) = lower(&parse(&context, kernel), |cx| cx.num_warps = num_warps);
        let stores = nested_ops(module.function()).into_iter().filter_map(|op| match GpuOp::of(op)? {
            GpuOp::BulkStore { box_shape, groups, .. } => Some((box_shape, groups)),
            _ => None,
        });
        assert_eq!(stores.collect::<Vec<_>>(), std::slice::from_ref(&expected), "{remarks:#?}");
        if expected.1 == 2 {
            assert!(remarks.iter().any(|r| r.contains("by each warpgroup")), "{remarks:#?}");
            let text = module.to_text();
            let of = |text: &str| errors(&context, text);
            assert_eq!(of(&repeated(&text, "tgpu.group_barrier", 0)), [ProtocolError::StoreTooEarly]);
            // If one thread stored all, all threads would have to meet.
            assert_eq!(of(&text.replace("groups = 2", "groups = 1")), [ProtocolError::StoreTooEarly]);
        }
    }
}

#[test]
fn stores_in_loops_wait_for_the_one_before() {
    let context = dialect::context(&[]);
    let module = kernel(&context, "persistent", DType::F16, &[("TILE", 64)]);
    let (module, remarks) = lower(&module, |_| {});
    assert!(remarks.iter().any(|r| r.contains("is stored by bulk copies of [64, 64]")), "{remarks:#?}");
    let waits = |wanted| count(&module, |op| matches!(op, GpuOp::BulkWait { read, .. } if read == wanted));
    assert_eq!((waits(false), waits(true)), (1, 1));
}

#[test]
fn blocks_that_the_threads_store_say_why() {
    let context = dialect::context(&[]);
    for (why, change) in [
        ("multiples of 16 bytes", (|cx| cx.facts[2].stride_divisor[0] = 4) as fn(&mut PassContext)),
        ("multiples of 16 bytes", |cx| cx.facts[2].align_bytes = 8),
        ("not known to be contiguous", |cx| cx.facts[2].unit_stride = None),
    ] {
        let (module, remarks) = lower(&parse(&context, MATMUL), change);
        assert!(
            remarks.iter().any(|r| r.contains("stored by the threads") && r.contains(why)),
            "{remarks:#?}"
        );
        assert_eq!(count(&module, |op| matches!(op, GpuOp::GlobalStore { .. })), 1);
        assert_eq!(count(&module, |op| matches!(op, GpuOp::BulkStore { .. })), 0);
    }
    // What is read, too, would have to be ordered with the stores.
    let read_too = MATMUL.replace(
        "  return",
        "    %kept = \"tile.load\"(%out, %c0, %c0) : (!tile.view<2 : i64, bf16>, index, index) -> tensor<128x128xbf16>
    \"tile.store\"(%out, %c0, %c0, %kept) : (!tile.view<2 : i64, bf16>, index, index, tensor<128x128xbf16>) -> ()
    return",
    );
    let (module, remarks) = lower(&parse(&context, &read_too), |_| {});
    assert!(remarks.iter().any(|r| r.contains("the tensor is used elsewhere, too")), "{remarks:#?}");
    assert_eq!(count(&module, |op| matches!(op, GpuOp::BulkStore { .. })), 0);
}

#[test]
fn stores_out_of_step_are_found() {
    let context = dialect::context(&[]);
    let once = |kernel, with, times| broken(&context, kernel, with, times);
    assert_eq!(once(MATMUL, "tgpu.fence_async", 0), [ProtocolError::StoreTooEarly]);
    assert_eq!(once(MATMUL, "tgpu.local_store", 0), [ProtocolError::StoreTooEarly]);
    assert_eq!(once(MATMUL, "tgpu.barrier", 0), [ProtocolError::StoreTooEarly]);
    assert_eq!(once(MATMUL, "tgpu.bulk_wait", 0), [ProtocolError::StoreNotDone]);
    let module = kernel(&context, "persistent", DType::F16, &[("TILE", 64)]);
    let persistent = module.to_text();
    assert_eq!(once(&persistent, "read = false", 0), [ProtocolError::StoreOverwritten]);
}

/// What the verifier says after lines that contain some text are dropped or doubled.
fn broken(context: &TileContext, kernel: &str, with: &str, times: usize) -> Vec<ProtocolError> {
    let (module, _) = lower(&parse(context, kernel), |_| {});
    let text = module.to_text();
    assert!(text.contains(with), "{text}");
    errors(context, &repeated(&text, with, times))
}

/// A text in which the lines that contain another are there `times` times.
fn repeated(text: &str, with: &str, times: usize) -> String {
    let lines = text.lines();
    let lines = lines.flat_map(|line| std::iter::repeat_n(line, if line.contains(with) { times } else { 1 }));
    lines.collect::<Vec<_>>().join("\n")
}

/// What the verifier says of barriers.
fn errors(context: &TileContext, text: &str) -> Vec<ProtocolError> {
    let module = Module::parse(context, text).expect("still parses");
    let violations = verify(&module).expect_err("the barriers are out of step");
    violations
        .into_iter()
        .filter_map(|v| match v.rule {
            Rule::Protocol(error) => Some(error),
            _ => None,
        })
        .collect()
}

#[test]
fn barriers_out_of_step_are_found() {
    let context = dialect::context(&[]);
    let once = |kernel, with, times| broken(&context, kernel, with, times);
    assert!(once(FMHA, "tgpu.mbarrier_arrive", 0).contains(&ProtocolError::Releases(0)));
    assert!(once(FMHA, "tgpu.mbarrier_arrive", 2).contains(&ProtocolError::Releases(2)));
    assert!(once(MATMUL, "tgpu.mbarrier_arrive", 2).contains(&ProtocolError::Releases(2)));
    assert!(once(MATMUL, "tgpu.mbarrier_wait", 0).contains(&ProtocolError::NoEmptyWait));
    assert!(once(FMHA, "tgpu.mbarrier_wait", 2).contains(&ProtocolError::FullWaits(2)));
    let bytes = ProtocolError::Bytes { expected: 2 * 128 * 64 * 2, copied: 0 };
    assert!(once(MATMUL, "tgpu.tma_copy", 0).contains(&bytes));
}

#[test]
fn a_slot_released_under_its_product_is_found() {
    let context = dialect::context(&[]);
    let (module, _) = lower(&parse(&context, FMHA), |_| {});
    let text = module.to_text();
    // Two products may be left unfinished: the first of them as well.
    let late = text.replace("{pending = 1 : i64}", "{pending = 2 : i64}");
    assert_ne!(late, text);
    assert_eq!(errors(&context, &late), [ProtocolError::Unfinished]);
}

#[test]
fn turns_out_of_step_are_found() {
    let context = dialect::context(&[]);
    let (module, _) = lower(&parse(&context, &wide_fmha()), two_warpgroups(true));
    let text = module.to_text();
    let of = |with, times| errors(&context, &repeated(&text, with, times));
    assert_eq!(of("tgpu.take_turn", 0), [ProtocolError::TurnOrder]);
    assert_eq!(of("tgpu.take_turn", 2), [ProtocolError::TurnOrder]);
    assert_eq!(of("tgpu.give_turn", 2), [ProtocolError::TurnOrder]);
    assert!(of("tgpu.give_turn", 0).contains(&ProtocolError::TurnOrder));
    assert!(of("tgpu.give_turn", 0).contains(&ProtocolError::TurnWaits("tgpu.wgmma_wait".to_owned())));
    assert_eq!(of("tgpu.open_turns", 0), [ProtocolError::Turns { opened: 0, closed: 1 }]);
    assert_eq!(of("tgpu.close_turns", 2), [ProtocolError::Turns { opened: 1, closed: 2 }]);
}
