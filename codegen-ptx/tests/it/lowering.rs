//! Kernels of the gpu level, written by hand, down to machine code for every target.

use crate::support::assembler;
use codegen_ptx::gpu::dialect::{context, layout_attr};
use codegen_ptx::gpu::facts::TensorFacts;
use codegen_ptx::layout::{LinearLayout, blocked, mma};
use codegen_ptx::llvm::LlvmModule;
use codegen_ptx::lower::{LowerOptions, lower_to_llvm};
use codegen_ptx::ptxas::Report;
use codegen_ptx::target::Target;
use melior::ir::operation::OperationLike;
use std::fmt::Write;
use tile_lang::DType;

/// Lowers a module and returns its PTX.
fn ptx(text: &str, facts: &[TensorFacts], target: &'static Target) -> String {
    let context = context(&[]);
    melior::utility::register_all_llvm_translations(&context);
    let module = tile_ir::Module::parse(&context, text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let options = LowerOptions { target, facts, occupancy: 1 };
    let lowered = lower_to_llvm(&module, options).unwrap_or_else(|e| panic!("{e}")).module;
    assert!(lowered.as_operation().verify(), "{:?}\n{}", context.take_messages(), lowered.as_operation());
    let mut llvm = LlvmModule::translate(&lowered, target).expect("translates");
    llvm.optimize().expect("optimizes");
    llvm.emit_ptx().expect("emits")
}

/// PTX for a target and, where there is an assembler, its report and the machine code.
type Built = (&'static Target, String, Option<(Report, String)>);

/// Assembles for every target; returns PTX, report and machine code where there is an assembler.
fn everywhere(text: &str, facts: &[TensorFacts]) -> Vec<Built> {
    let assembler = assembler();
    Target::all()
        .iter()
        .map(|&target| {
            let ptx = ptx(text, facts, target);
            let built = assembler.as_ref().map(|assembler| {
                let report = assembler.assemble(&ptx, target).unwrap_or_else(|e| panic!("{e}"));
                assert_eq!((report.stack_bytes, report.spill_load_bytes), (0, 0), "{target}");
                let sass = assembler.disassemble(&report.cubin).unwrap_or_else(|e| panic!("{e}"));
                (report, sass)
            });
            (target, ptx, built)
        })
        .collect()
}

/// The type of a tile in registers.
fn tile(dtype: DType, layout: &LinearLayout) -> String {
    let context = context(&[]);
    let dims: String = layout.shape.iter().map(|d| format!("{d}x")).collect();
    let dtype = if dtype == DType::Bool { "i1" } else { dtype.name() };
    format!("tensor<{dims}{dtype}, {}>", layout_attr(&context, layout))
}

/// `C = A Bᵀ` over blocks of 64x64, K by 32, without pipelining.
fn matmul(dtype: DType, rhs_transposed: bool) -> String {
    let name = dtype.name();
    let acc_layout = mma::acc(64, 64, [2, 2]);
    let out_layout = blocked(&[64, 64], 4, 16 / (dtype.bits() as usize / 8), &[1, 0]);
    let (acc, narrow, out) =
        (tile(DType::F32, &acc_layout), tile(dtype, &acc_layout), tile(dtype, &out_layout));
    let span = (32 * dtype.bits() as usize / 8).min(128);
    let lhs = format!("!tgpu.smem<64 : i64, 32 : i64, {name}, {span} : i64, {span} : i64, 1 : i64>");
    let (rows, cols) = if rhs_transposed { (64, 32) } else { (32, 64) };
    let rhs_pitch = cols * dtype.bits() as usize / 8;
    let rhs_span = rhs_pitch.min(128);
    let rhs = format!(
        "!tgpu.smem<{rows} : i64, {cols} : i64, {name}, {rhs_span} : i64, {rhs_pitch} : i64, 1 : i64>"
    );
    let rhs_index = if rhs_transposed { "%n, %k" } else { "%k, %n" };
    let view = format!("!tile.view<2 : i64, {name}>");
    let mut body = String::new();
    let cast = if dtype == DType::F32 {
        "%c".to_owned()
    } else {
        let _ = writeln!(body, "%narrow = arith.truncf %c : {acc} to {narrow}");
        "%narrow".to_owned()
    };
    format!(
        r#"func.func @matmul(%a: {view}, %b: {view}, %out: {view}) attributes {{tgpu.num_warps = 4 : i64}} {{
  %m = "tile.program_id"() {{axis = 0 : i64}} : () -> index
  %n = "tile.program_id"() {{axis = 1 : i64}} : () -> index
  %depth = "tile.dim"(%a) {{axis = 1 : i64}} : ({view}) -> index
  %zero = arith.constant 0 : index
  %one = arith.constant 1 : index
  %step = arith.constant 32 : index
  %slot = arith.constant 0 : i32
  %count = arith.ceildivsi %depth, %step : index
  %lhs = "tgpu.alloc"() {{offset = 0 : i64}} : () -> {lhs}
  %rhs = "tgpu.alloc"() {{offset = 8192 : i64}} : () -> {rhs}
  %start = arith.constant dense<0.0> : {acc}
  %c = scf.for %k = %zero to %count step %one iter_args(%sum = %start) -> ({acc}) {{
    "tgpu.async_copy"(%a, %m, %k, %lhs, %slot) {{tile_shape = array<i64: 64, 32>, vec_bytes = 16 : i64}} : ({view}, index, index, {lhs}, i32) -> ()
    "tgpu.async_copy"(%b, {rhs_index}, %rhs, %slot) {{tile_shape = array<i64: {rows}, {cols}>, vec_bytes = 16 : i64}} : ({view}, index, index, {rhs}, i32) -> ()
    "tgpu.commit"() : () -> ()
    "tgpu.wait"() {{pending = 0 : i64}} : () -> ()
    "tgpu.barrier"() : () -> ()
    %next = "tgpu.mma_sync"(%lhs, %rhs, %sum, %slot, %slot) {{lhs_transposed = false, rhs_transposed = {rhs_transposed}, warps = array<i64: 2, 2>}} : ({lhs}, {rhs}, {acc}, i32, i32) -> {acc}
    "tgpu.barrier"() : () -> ()
    scf.yield %next : {acc}
  }}
  {body}
  %moved = "tgpu.convert_layout"({cast}) {{scratch_offset = 0 : i64}} : ({narrow}) -> {out}
  "tgpu.global_store"(%out, %m, %n, %moved) {{vec_bytes = 16 : i64}} : ({view}, index, index, {out}) -> ()
  return
}}"#
    )
}

#[test]
fn matmul_uses_tensor_cores_and_asynchronous_copies_everywhere() {
    for (dtype, rhs_transposed) in
        [(DType::F16, true), (DType::BF16, false), (DType::F32, true), (DType::F8E4M3FN, true)]
    {
        let bits = dtype.bits() as usize;
        let facts: Vec<_> = (0..3).map(|_| TensorFacts::aligned(2, bits)).collect();
        for (target, _, built) in everywhere(&matmul(dtype, rhs_transposed), &facts) {
            let Some((report, sass)) = built else { continue };
            for wanted in ["LDSM", "LDGSTS.E.BYPASS.LTC128B.128", "STG.E.128", "MMA"] {
                let plain = wanted.replace(".LTC128B", "");
                assert!(
                    sass.contains(wanted) || sass.contains(&plain),
                    "{target} {dtype}: no {wanted}\n{sass}"
                );
            }
            assert!(!sass.contains("LDL") && !sass.contains("STL"), "{target} {dtype}");
            assert!(report.registers <= 168, "{target} {dtype}: {} registers", report.registers);
        }
    }
}
