//! The verifier of the gpu level finds what is wrong and says where.

use codegen_ptx::gpu::dialect;
use codegen_ptx::gpu::verify::{Rule, verify};
use tile_ir::Module;

/// A correct function of one warp: a 16x8x16 product with one operand in registers, and a reduction of it.
const GOOD: &str = r##"
#acc = #tgpu.layout<"register 0,1 8,0 lane 0,2 0,4 1,0 2,0 4,0 warp">
#lhs = #tgpu.layout<"register 0,1 8,0 0,8 lane 0,2 0,4 1,0 2,0 4,0 warp">
#row = #tgpu.layout<"register 8,0 lane 0,0 0,0 1,0 2,0 4,0 warp">
!smem = !tgpu.smem<8 : i64, 16 : i64, bf16, 32 : i64, 32 : i64, 2 : i64>
#own = #tgpu.layout<"register 8,0 lane 0,1 0,2 1,0 2,0 4,0 warp">
func.func @kernel(%v: !tile.view<2 : i64, bf16>, %w: !tile.view<2 : i64, f32>) attributes {tgpu.num_warps = 1 : i64} {
  %c0 = arith.constant 0 : index
  %slot = arith.constant 0 : i32
  %acc = arith.constant dense<0.0> : tensor<16x8xf32, #acc>
  %lhs = "tgpu.global_load"(%v, %c0, %c0) {vec_bytes = 4 : i64}
     : (!tile.view<2 : i64, bf16>, index, index) -> tensor<16x16xbf16, #lhs>
  %rhs = "tgpu.alloc"() : () -> !smem
  "tgpu.async_copy"(%v, %c0, %c0, %rhs, %slot) {tile_shape = array<i64: 8, 16>, vec_bytes = 16 : i64}
     : (!tile.view<2 : i64, bf16>, index, index, !smem, i32) -> ()
  %r = "tgpu.mma_sync"(%lhs, %rhs, %acc, %slot)
     {lhs_transposed = false, rhs_transposed = true, warps = array<i64: 1, 1>}
     : (tensor<16x16xbf16, #lhs>, !smem, tensor<16x8xf32, #acc>, i32) -> tensor<16x8xf32, #acc>
  %max = "tgpu.reduce"(%r) {axis = 1 : i64, kind = "max"} : (tensor<16x8xf32, #acc>) -> tensor<16x1xf32, #row>
  %all = "tgpu.broadcast"(%max) : (tensor<16x1xf32, #row>) -> tensor<16x8xf32, #acc>
  %low = arith.subf %r, %all : tensor<16x8xf32, #acc>
  %own = "tgpu.reduce_registers"(%r) {axis = 1 : i64, kind = "sum"} : (tensor<16x8xf32, #acc>) -> tensor<16x4xf32, #own>
  "tgpu.global_store"(%w, %c0, %c0, %low) {vec_bytes = 8 : i64}
     : (!tile.view<2 : i64, f32>, index, index, tensor<16x8xf32, #acc>) -> () loc("kernel.rs":7:3)
  return
}
"##;

/// The rules that the function breaks after some text in it is replaced.
fn broken(changes: &[(&str, &str)]) -> Vec<(String, Rule)> {
    let context = dialect::context(&[]);
    let mut text = GOOD.to_owned();
    for (from, to) in changes {
        assert!(text.contains(from), "{from}");
        text = text.replace(from, to);
    }
    let module = Module::parse(&context, &text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let violations = verify(&module).err().unwrap_or_default();
    violations.into_iter().map(|v| (v.op, v.rule)).collect()
}

#[test]
fn a_correct_function_passes() {
    assert_eq!(broken(&[]), []);
}

#[test]
fn layouts_must_fit_the_instruction() {
    let swapped = "#tgpu.layout<\"register 0,1 0,8 8,0 lane 0,2 0,4 1,0 2,0 4,0 warp\">";
    let found = broken(&[(
        "#lhs = #tgpu.layout<\"register 0,1 8,0 0,8 lane 0,2 0,4 1,0 2,0 4,0 warp\">",
        &format!("#lhs = {swapped}"),
    )]);
    assert!(
        matches!(&found[..], [(op, Rule::Mismatch { value: "the lhs", .. })] if op == "tgpu.mma_sync"),
        "{found:?}"
    );
}

#[test]
fn layouts_must_cover_their_tile_with_all_warps() {
    let partial = [("#row = #tgpu.layout<\"register 8,0 lane", "#row = #tgpu.layout<\"register 4,0 lane")];
    assert!(broken(&partial).iter().all(|(_, rule)| matches!(rule, Rule::Layout(_))));
    assert_eq!(broken(&partial).len(), 2, "the reduction and the broadcast");
    let warps = broken(&[("tgpu.num_warps = 1", "tgpu.num_warps = 2")]);
    assert_eq!(warps.len(), 8, "every operation on tiles: {warps:?}");
}

#[test]
fn a_reduction_has_the_slice_of_its_operand() {
    let found = broken(&[("lane 0,0 0,0 1,0 2,0 4,0 warp", "lane 1,0 2,0 4,0 0,0 0,0 warp")]);
    let reduce = found.iter().find(|(op, _)| op == "tgpu.reduce").map(|(_, rule)| rule);
    assert!(matches!(reduce, Some(Rule::Mismatch { value: "the result", .. })), "{found:?}");
    assert!(found.iter().any(|(op, _)| op == "tgpu.broadcast"), "{found:?}");
}

#[test]
fn a_reduction_within_threads_has_an_element_for_each_lane() {
    let found = broken(&[("lane 0,1 0,2 1,0 2,0 4,0 warp", "lane 0,2 0,1 1,0 2,0 4,0 warp")]);
    let [(op, Rule::Mismatch { value: "the result", .. })] = &found[..] else { panic!("{found:?}") };
    assert_eq!(op, "tgpu.reduce_registers");
}

#[test]
fn copies_and_operands_have_the_buffer_s_shape() {
    let found = broken(&[("tile_shape = array<i64: 8, 16>", "tile_shape = array<i64: 16, 8>")]);
    assert_eq!(found, [("tgpu.async_copy".to_owned(), Rule::Types("view, tile and shared memory"))]);
    let found = broken(&[("rhs_transposed = true", "rhs_transposed = false")]);
    assert_eq!(found, [("tgpu.mma_sync".to_owned(), Rule::Types("operands and accumulator"))]);
    let found = broken(&[("vec_bytes = 16", "vec_bytes = 2")]);
    assert_eq!(found, [("tgpu.async_copy".to_owned(), Rule::Width { found: 2, expected: &[4, 8, 16] })]);
}

/// All violations are reported, each with the kernel's line.
#[test]
fn violations_name_the_kernel_s_line() {
    let context = dialect::context(&[]);
    let text = GOOD.replace("vec_bytes = 8", "vec_bytes = 3").replace("vec_bytes = 4", "vec_bytes = 5");
    let violations = verify(&Module::parse(&context, &text).unwrap()).unwrap_err();
    let messages: Vec<_> = violations.iter().map(ToString::to_string).collect();
    assert_eq!(messages.len(), 2, "{messages:?}");
    assert_eq!(
        messages[1],
        "kernel.rs:7:3: tgpu.global_store accesses of 3 bytes; expected one of [1, 2, 4, 8, 16]"
    );
}
