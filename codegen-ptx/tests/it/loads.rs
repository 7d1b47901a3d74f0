//! Loads from global memory to registers: what is made once, and what the copying warp fetches into L2 ahead.

use crate::support::{kernel, lower};
use codegen_ptx::gpu::dialect;
use codegen_ptx::gpu::launch::{LaunchNeeds, TensorMap};
use codegen_ptx::gpu::ops::GpuOp;
use codegen_ptx::gpu::passes::PassContext;
use melior::ir::operation::OperationLike;
use tile_ir::types::{Op, args_of, name_of, nested_ops, operands_of};
use tile_ir::{Module, TileContext};
use tile_lang::DType;

/// Multiplies the first block of `out` by that of `scale`, twice.
const IN_PLACE: &str = r#"
func.func @in_place(%scale: !tile.view<1 : i64, f32>, %out: !tile.view<1 : i64, f32>) {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %c2 = arith.constant 2 : index
  scf.for %i = %c0 to %c2 step %c1 {
    %by = "tile.load"(%scale, %c0) : (!tile.view<1 : i64, f32>, index) -> tensor<128xf32>
    %old = "tile.load"(%out, %c0) : (!tile.view<1 : i64, f32>, index) -> tensor<128xf32>
    %new = arith.mulf %old, %by : tensor<128xf32>
    "tile.store"(%out, %c0, %new) : (!tile.view<1 : i64, f32>, index, tensor<128xf32>) -> ()
  }
  return
}
"#;

/// For each load of a tensor to registers, whether a loop is around it.
fn loads_in_loops(module: &Module, tensor: usize) -> Vec<bool> {
    let view = args_of(module.entry())[tensor];
    let is_load =
        |op: &Op| matches!(GpuOp::of(*op), Some(GpuOp::GlobalLoad { .. })) && operands_of(*op)[0] == view;
    let in_loop = |op: Op| {
        let around = std::iter::successors(op.parent_operation(), |op| op.parent_operation());
        around.into_iter().any(|op| name_of(op) == "scf.for")
    };
    nested_ops(module.function()).into_iter().filter(is_load).map(in_loop).collect()
}

#[test]
fn a_small_block_is_loaded_once() {
    let context = dialect::context(&[]);
    let module = kernel(&context, "scaled_whole", DType::F32, &[("N", 256)]);
    let (module, remarks) = lower(&module, |cx| cx.switches.persistent = true);
    // The scale is one element for every thread; of x each program has its own.
    assert_eq!((loads_in_loops(&module, 1), loads_in_loops(&module, 0)), (vec![false], vec![true]));
    assert!(remarks.iter().any(|r| r.contains("loaded once, in front of the loop")), "{remarks:#?}");
    let module = Module::parse(&context, IN_PLACE).expect("parses");
    let (hoisted, _) = lower(&module, |_| {});
    assert_eq!((loads_in_loops(&hoisted, 0), loads_in_loops(&hoisted, 1)), (vec![false], vec![true]));
    // Of more, no thread keeps all.
    let wide = Module::parse(&context, &IN_PLACE.replace("128", "1024")).expect("parses");
    assert_eq!(loads_in_loops(&lower(&wide, |_| {}).0, 0), [true]);
}

/// Weights of 4 bits with scales, which are loaded to registers.
fn widened<'c>(context: &'c TileContext, change: impl FnOnce(&mut PassContext)) -> (Module<'c>, Vec<String>) {
    let module = kernel(context, "narrow_weights", DType::BF16, &[("M", 128), ("N", 128), ("K", 64)]);
    lower(&module, |cx| {
        (cx.num_warps, cx.switches.compute_ahead) = (8, true);
        change(cx);
    })
}

fn fetches(module: &Module) -> usize {
    let ops = nested_ops(module.function()).into_iter();
    ops.filter(|op| matches!(GpuOp::of(*op), Some(GpuOp::Prefetch { .. }))).count()
}

#[test]
fn scales_are_fetched_ahead() {
    let context = dialect::context(&[]);
    for persistent in [false, true] {
        let (module, remarks) = widened(&context, |cx| cx.switches.persistent = persistent);
        assert!(
            remarks.iter().any(|r| r.contains("fetches into L2 ahead what 1 load of the loop will read")),
            "{remarks:#?}"
        );
        // In front of the copying loop, and in it.
        assert_eq!(fetches(&module), 2);
        // 4 scales of a row for an iteration, 64 iterations at once.
        let maps = LaunchNeeds::of(&module).tensor_maps;
        let expected = TensorMap { tensor: 2, box_shape: vec![128, 256], swizzle_bytes: 0, rounds: false };
        assert_eq!(maps.iter().filter(|map| map.tensor == 2).collect::<Vec<_>>(), [&expected]);
    }
}

#[test]
fn what_has_no_map_is_not_fetched() {
    let context = dialect::context(&[]);
    for change in [
        (|cx| cx.facts[2].align_bytes = 4) as fn(&mut PassContext),
        |cx| cx.facts[2].stride_divisor[0] = 4,
        |cx| cx.facts[2].unit_stride = None,
    ] {
        let (module, _) = widened(&context, change);
        assert_eq!(fetches(&module), 0);
        assert_eq!(LaunchNeeds::of(&module).tensor_maps.len(), 2, "x and weights");
    }
    // Nobody is there to do it.
    let (module, _) = widened(&context, |cx| cx.switches.warp_specialize = false);
    assert_eq!(fetches(&module), 0);
}
