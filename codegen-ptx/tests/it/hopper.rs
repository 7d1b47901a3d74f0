//! Warps with roles, rings of mbarriers, and products in flight.

use crate::support::{facts, kernel};
use codegen_ptx::gpu::dialect;
use codegen_ptx::gpu::launch::LaunchNeeds;
use codegen_ptx::gpu::ops::GpuOp;
use codegen_ptx::gpu::passes::{PassContext, Switches, run_passes};
use codegen_ptx::gpu::protocol::ProtocolError;
use codegen_ptx::gpu::verify::{Rule, verify};
use codegen_ptx::target::Target;
use tile_ir::types::{name_of, nested_ops};
use tile_ir::{Module, TileContext};
use tile_lang::{Config, DType};

const MATMUL: &str = include_str!("../kernels/matmul.mlir");
const FMHA: &str = include_str!("../kernels/fmha.mlir");

/// Runs the target's passes; returns the module and what they said.
fn lower<'c>(module: &Module<'c>, change: impl FnOnce(&mut PassContext)) -> (Module<'c>, Vec<String>) {
    let target = Target::from_name("sm_90").unwrap();
    let mut cx = PassContext {
        target,
        num_warps: 4,
        num_stages: 3,
        occupancy: 1,
        switches: Switches::of(&Config::default()),
        facts: facts(module, true),
        remarks: Vec::new(),
    };
    change(&mut cx);
    let module = run_passes(target.passes, module, &mut cx).unwrap_or_else(|e| panic!("{e}"));
    let text = module.to_text();
    assert_eq!(Module::parse(module.context(), &text).unwrap().to_text(), text);
    (module, cx.remarks.iter().map(ToString::to_string).collect())
}

fn parse<'c>(context: &'c TileContext, text: &str) -> Module<'c> {
    Module::parse(context, text).unwrap()
}

fn count<'c>(module: &Module<'c>, wanted: impl Fn(GpuOp<'c>) -> bool) -> usize {
    nested_ops(module.function()).into_iter().filter_map(GpuOp::of).filter(|op| wanted(op.clone())).count()
}

#[test]
fn operands_of_one_product_share_a_ring() {
    let context = dialect::context(&[]);
    let (module, remarks) = lower(&parse(&context, MATMUL), |_| {});
    assert!(
        remarks.iter().any(|r| r.contains("2 copies are made by a warp of their own, in 1 rings of 3 slots"))
    );
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
    let (module, remarks) = lower(&parse(&context, FMHA), |_| {});
    assert_eq!(count(&module, |op| matches!(op, GpuOp::Mbarriers { .. })), 4);
    // The queries, which are loaded once, stay with the warps that use them.
    assert_eq!(count(&module, |op| matches!(op, GpuOp::AsyncCopy { .. })), 1);
    assert_eq!(count(&module, |op| matches!(op, GpuOp::FenceAsync)), 1);
    // The first scores are started in front of the loop, those of the next block in each iteration.
    assert!(remarks.iter().any(|r| r.contains("is started in the one before")), "{remarks:#?}");
    assert_eq!(count(&module, |op| matches!(op, GpuOp::Wgmma { .. })), 4);
}

#[test]
fn an_outer_loop_carries_the_turn() {
    let context = dialect::context(&[]);
    let module = kernel(&context, "persistent", DType::F16, &[("TILE", 64)]);
    let (module, remarks) = lower(&module, |_| {});
    assert!(remarks.iter().any(|r| r.contains("made by a warp of their own")), "{remarks:#?}");
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
        let (module, remarks) = lower(&parse(&context, MATMUL), change);
        assert!(
            remarks.iter().any(|r| r.contains("no warp of its own copies") && r.contains(why)),
            "{remarks:#?}"
        );
        assert_eq!(LaunchNeeds::of(&module), LaunchNeeds::default());
    }
    let (module, _) = lower(&parse(&context, MATMUL), |cx| cx.switches.warp_specialize = false);
    assert_eq!(LaunchNeeds::of(&module), LaunchNeeds::default());
    assert_eq!(
        count(&module, |op| matches!(op, GpuOp::FenceAsync)),
        1,
        "threads wrote what the product reads"
    );
}

#[test]
fn products_that_wgmma_cannot_do_say_why() {
    let context = dialect::context(&[]);
    let (module, remarks) = lower(&parse(&context, MATMUL), |cx| cx.num_warps = 2);
    assert!(remarks.iter().any(|r| r.contains("is no wgmma: it takes 64 rows")), "{remarks:#?}");
    assert_eq!(count(&module, |op| matches!(op, GpuOp::MmaSync { .. })), 1);
}

/// What the verifier says after lines that contain some text are dropped or doubled.
fn broken(context: &TileContext, kernel: &str, with: &str, times: usize) -> Vec<ProtocolError> {
    let (module, _) = lower(&parse(context, kernel), |_| {});
    let text = module.to_text();
    assert!(text.contains(with), "{text}");
    let lines: Vec<&str> = text
        .lines()
        .flat_map(|line| std::iter::repeat_n(line, if line.contains(with) { times } else { 1 }))
        .collect();
    let module = Module::parse(context, &lines.join("\n")).expect("still parses");
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
