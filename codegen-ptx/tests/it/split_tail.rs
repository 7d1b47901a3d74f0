//! Sums of the programs that do not fill a round, split over CTAs.

use crate::support::{kernel, lower};
use codegen_ptx::gpu::dialect;
use codegen_ptx::gpu::launch::LaunchNeeds;
use codegen_ptx::gpu::ops::GpuOp;
use tile_ir::types::{Op, blocks_of, name_of, nested_ops, ops_of};
use tile_ir::{Module, TileContext};
use tile_lang::DType;

/// The module with sums split, and what `persist` says of it.
fn split<'c>(module: &Module<'c>, num_ctas: usize) -> (Module<'c>, String) {
    split_as(module, num_ctas, 1)
}

fn split_as<'c>(module: &Module<'c>, num_ctas: usize, split_tail: u32) -> (Module<'c>, String) {
    let (module, remarks) = lower(module, |cx| {
        (cx.switches.persistent, cx.switches.split_tail) = (true, split_tail);
        (cx.num_warps, cx.num_ctas) = (8, num_ctas);
    });
    let said = remarks.into_iter().find(|remark| remark.contains("persist: "));
    (module, said.unwrap_or_default())
}

fn matmul(context: &TileContext) -> Module<'_> {
    let consts = [("TILE_M", 128), ("TILE_N", 128), ("TILE_K", 64), ("RHS_IS_NK", 1)];
    kernel(context, "matmul", DType::BF16, &consts)
}

fn count(module: &Module, wanted: impl Fn(GpuOp) -> bool) -> usize {
    nested_ops(module.function()).into_iter().filter_map(GpuOp::of).filter(|op| wanted(op.clone())).count()
}

/// Whether an operation is inside of one of some name.
fn is_in(op: Op, name: &str) -> bool {
    use melior::ir::operation::OperationLike;
    std::iter::successors(op.parent_operation(), |op| op.parent_operation()).any(|op| name_of(op) == name)
}

#[test]
fn parts_of_a_product_meet_behind_its_loop() {
    let context = dialect::context(&[]);
    let (module, said) = split(&matmul(&context), 1);
    assert!(said.contains("the sums of programs that do not fill a round are split over the CTAs"), "{said}");
    assert_eq!(count(&module, |op| matches!(op, GpuOp::PutPart { .. })), 1);
    assert_eq!(count(&module, |op| matches!(op, GpuOp::ArriveAt { .. })), 1);
    // The first part, and each one behind it.
    assert_eq!(count(&module, |op| matches!(op, GpuOp::GetPart { .. })), 2);
    // 128x128 sums of 32 bits.
    assert_eq!(LaunchNeeds::of(&module).part_bytes, Some(128 * 128 * 4));
    // A part is put and got in a branch, and so is what only the last CTA does.
    let stores = |op: &Op| {
        matches!(
            GpuOp::of(*op),
            Some(GpuOp::PutPart { .. } | GpuOp::BulkStore { .. } | GpuOp::GlobalStore { .. })
        )
    };
    let stores: Vec<Op> = nested_ops(module.function()).into_iter().filter(stores).collect();
    assert!(stores.len() > 1 && stores.iter().all(|op| is_in(*op, "scf.if")), "{}", module.to_text());
    // The joining branch does nothing where a program is whole.
    let put = nested_ops(module.function()).into_iter().find(|op| name_of(*op) == "tgpu.put_part").unwrap();
    let branch = melior::ir::operation::OperationLike::parent_operation(&put).unwrap();
    let whole: Vec<String> = ops_of(blocks_of(branch)[1]).map(name_of).collect();
    assert_eq!(whole, ["scf.yield"]);
}

#[test]
fn a_part_whose_counterpart_is_there_is_not_put() {
    let context = dialect::context(&[]);
    let (module, said) = split_as(&matmul(&context), 1, 2);
    assert!(said.contains("of the last round and of programs left over are shared out"), "{said}");
    // The other one of two where it is there; else the first part, and each one behind it.
    assert_eq!(count(&module, |op| matches!(op, GpuOp::OthersArrived { .. })), 1);
    assert_eq!(count(&module, |op| matches!(op, GpuOp::GetPart { .. })), 3);
    assert_eq!(count(&module, |op| matches!(op, GpuOp::PutPart { .. })), 1);
    // Two of 128x128 sums of 32 bits.
    assert_eq!(LaunchNeeds::of(&module).part_bytes, Some(2 * 128 * 128 * 4));
}

#[test]
fn what_is_not_one_sum_is_not_split() {
    let context = dialect::context(&[]);
    let attention = Module::parse(&context, include_str!("../kernels/fmha.mlir")).unwrap();
    let cases = [
        (split(&matmul(&context), 2), "CTAs of a cluster run equally many programs"),
        (split(&attention, 1), "its loop carries more than a sum"),
    ];
    for ((module, said), why) in cases {
        assert!(said.contains(&format!("each program is one CTA's: {why}")), "{said}");
        assert_eq!(count(&module, |op| matches!(op, GpuOp::PutPart { .. })), 0);
        assert_eq!(LaunchNeeds::of(&module).part_bytes, None);
    }
}

#[test]
fn sums_are_whole_unless_asked_for() {
    let context = dialect::context(&[]);
    let (module, _) = lower(&matmul(&context), |cx| (cx.switches.persistent, cx.num_warps) = (true, 8));
    assert_eq!(count(&module, |op| matches!(op, GpuOp::PutPart { .. })), 0);
    assert_eq!(LaunchNeeds::of(&module).part_bytes, None);
}
