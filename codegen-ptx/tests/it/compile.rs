//! Whole kernels from the tile dialect to machine code.

use crate::support::assembler;
use codegen_ptx::gpu::passes::PassError;
use codegen_ptx::{
    CompileOptions, Compiled, LowerError, PtxasError, Report, Switches, Target, TensorFacts, compile,
    with_context,
};
use tile_ir::Module;
use tile_ir::types::{args_of, type_of, view_of};
use tile_lang::Config;

const MATMUL: &str = include_str!("../kernels/matmul.mlir");
const FMHA: &str = include_str!("../kernels/fmha.mlir");

/// Options with which the kernels are compiled unless a test says otherwise.
pub fn options(target: &str, num_stages: u32) -> CompileOptions {
    CompileOptions {
        target: Target::from_name(target).unwrap(),
        num_warps: 4,
        num_stages,
        occupancy: 1,
        num_ctas: 1,
        switches: Switches { warp_specialize: false, ..Switches::of(&Config::default()) },
        facts: Vec::new(),
        keep_stages: true,
    }
}

/// Compiles a kernel whose tensors are all aligned, or not at all.
pub fn build(kernel: &str, mut options: CompileOptions, aligned: bool) -> Result<Compiled, LowerError> {
    with_context(|context| {
        let module = Module::parse(context, kernel).unwrap_or_else(|e| panic!("{e}"));
        let views = args_of(module.entry()).into_iter().filter_map(|a| view_of(type_of(a)));
        options.facts = views
            .map(|view| {
                let bits = view.dtype.bits() as usize;
                let none = TensorFacts::none(view.rank, bits);
                let ragged = TensorFacts { unit_stride: view.rank.checked_sub(1), ..none };
                if aligned { TensorFacts::aligned(view.rank, bits) } else { ragged }
            })
            .collect();
        compile(&module, &options)
    })
}

/// Assembles; nothing where there is no assembler.
pub fn assemble(compiled: &Compiled) -> Option<(Report, String)> {
    let assembler = assembler()?;
    let report = assembler.assemble(&compiled.ptx, compiled.target).unwrap_or_else(|e| panic!("{e}"));
    let sass = assembler.disassemble(&report.cubin).unwrap_or_else(|e| panic!("{e}"));
    Some((report, sass))
}

#[test]
fn kernels_assemble_without_spills_on_every_target() {
    for (name, kernel) in [("matmul", MATMUL), ("fmha", FMHA)] {
        for target in Target::all() {
            for (stages, aligned) in [(1, true), (2, true), (2, false)] {
                let compiled =
                    build(kernel, options(target.part, stages), aligned).unwrap_or_else(|e| panic!("{e}"));
                let Some((report, sass)) = assemble(&compiled) else { continue };
                let free_of_spills = (report.spill_load_bytes, report.stack_bytes) == (0, 0);
                assert!(free_of_spills || !aligned, "{name} {target} {stages} {aligned}");
                if target.has_wgmma() {
                    assert!(sass.contains("HGMMA.64x") && !sass.contains("HMMA.16816"), "{name} {target}");
                } else {
                    assert!(sass.contains("HMMA.16816") && sass.contains("LDSM"), "{name} {target}");
                }
                if aligned {
                    assert!(sass.contains("LDGSTS.E.BYPASS"), "{name} {target}");
                }
            }
        }
    }
}

/// Each product is as many instructions as it has steps, none of which waits for the one before.
#[test]
fn copies_and_products_are_asynchronous_on_hopper() {
    for (name, kernel, products) in
        [("matmul", MATMUL.to_owned(), 2 * 4), ("fmha", fmha([128, 128, 128]), 8 + 8)]
    {
        let num_warps = if name == "fmha" { 8 } else { 4 };
        for warp_specialize in [false, true] {
            let bulk_stores = warp_specialize;
            let switches = Switches { warp_specialize, bulk_stores, ..Switches::of(&Config::default()) };
            let options = CompileOptions { num_warps, switches, ..options("sm_90", 2) };
            let compiled = build(&kernel, options, true).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(compiled.tensor_maps.is_empty(), !warp_specialize, "{name}");
            let Some((report, sass)) = assemble(&compiled) else { continue };
            let count = |what: &str| sass.lines().filter(|line| line.contains(what)).count();
            // Attention's loop starts its products ahead; its last iteration stands behind it.
            let copies = if name == "fmha" && warp_specialize { 2 } else { 1 };
            assert_eq!(count("HGMMA.64x"), copies * products, "{name} {warp_specialize}");
            assert_eq!(count("UTMALDG") > 0, warp_specialize, "{name}");
            // Panels of 64 columns are stored, and what is stored is written by matrices of 8 rows.
            assert_eq!(count("UTMASTG"), if bulk_stores { 2 } else { 0 }, "{name}");
            assert_eq!(
                (count("STSM.16.M88.4") > 0, count("STG.E") == 0),
                (bulk_stores, bulk_stores),
                "{name}"
            );
            assert_eq!(report.spill_load_bytes, 0, "{name} {warp_specialize}");
            // The assembler would wait after each instruction if it saw the accumulators touched in between.
            assert!(count("WARPGROUP.DEPBAR") <= 4, "{name} {warp_specialize}");
        }
    }
}

/// What a product reads in registers stays there until it is waited for: each 64x64 weights of bf16 are 16 registers of
/// a thread, and the statement that waits takes them beside the 32 sums.
#[test]
fn the_wait_for_a_product_takes_the_registers_that_it_reads() {
    for warp_specialize in [false, true] {
        let switches = Switches { warp_specialize, ..Switches::of(&Config::default()) };
        let compiled = build(FMHA, CompileOptions { switches, ..options("sm_90", 2) }, true);
        let llvm = compiled.unwrap_or_else(|e| panic!("{e}")).llvm.expect("stages are kept");
        let takes = |line: &&str| {
            line.contains("wgmma.wait_group")
                && line.matches("=r").count() == 16
                && line.matches("=f").count() == 32
        };
        let products = llvm
            .lines()
            .filter(|line| line.contains("wgmma.mma_async") && line.contains(",r,r,r,r,"))
            .count();
        assert!(products > 0, "weights are an lhs in registers");
        assert_eq!(llvm.lines().filter(takes).count(), products, "{warp_specialize}: {llvm}");
    }
}

/// Operands of 8 bits, too, go to `wgmma` out of rings that a warp of its own fills; their sums are added up outside
/// of the tensor cores. f32 operands, which it would cut, do not.
#[test]
fn operands_of_8_bits_multiply_by_wgmma() {
    let kernel = |element: &str| {
        MATMUL
            .replace("rhs: !tile.view<2 : i64, bf16>", &format!("rhs: !tile.view<2 : i64, {element}>"))
            .replace("lhs: !tile.view<2 : i64, bf16>", &format!("lhs: !tile.view<2 : i64, {element}>"))
            .replace(
                "(!tile.view<2 : i64, bf16>) -> index",
                &format!("(!tile.view<2 : i64, {element}>) -> index"),
            )
            .replace("bf16>, index, index) -> tensor", &format!("{element}>, index, index) -> tensor"))
            .replace("128x64xbf16", &format!("128x64x{element}"))
            .replace("64x128xbf16", &format!("64x128x{element}"))
    };
    // A thread of one warpgroup would have no registers for both sums. Two steps of 32 along K.
    for (element, instruction, products, adds) in [("f8E4M3FN", "QGMMA.64x", 2, 64), ("f32", "GMMA", 0, 0)] {
        let switches = Switches::of(&Config::default());
        let options = CompileOptions { num_warps: 8, switches, ..options("sm_90", 2) };
        let compiled = build(&kernel(element), options, true).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(compiled.tensor_maps.len(), 3, "{element}: {:#?}", compiled.remarks);
        let Some((report, sass)) = assemble(&compiled) else { continue };
        let count = |what: &str| sass.lines().filter(|line| line.contains(what)).count();
        assert_eq!(count(instruction), products, "{element}");
        assert!(count("FADD") >= adds, "{element}");
        assert_eq!(report.spill_load_bytes, 0, "{element}");
    }
}

/// Attention with blocks of `rows` queries by `keys` keys.
pub fn fmha([rows, keys, depth]: [usize; 3]) -> String {
    include_str!("../kernels/fmha_any.mlir")
        .replace("ROWS", &rows.to_string())
        .replace("KEYS", &keys.to_string())
        .replace("DEPTH", &depth.to_string())
}

#[test]
fn attention_fits_the_registers_of_its_table_entries() {
    for (target, shape, num_warps, occupancy) in [
        ("sm_121", [64, 64, 64], 4, 2),
        ("sm_121", [64, 64, 128], 4, 2),
        ("sm_121", [64, 64, 128], 4, 1),
        ("sm_100", [128, 128, 128], 8, 1),
        ("sm_100", [128, 128, 64], 8, 1),
        ("sm_90", [128, 64, 128], 8, 1),
        ("sm_90", [128, 128, 128], 8, 1),
        ("sm_80", [128, 64, 128], 8, 1),
        ("sm_120", [128, 64, 128], 8, 1),
    ] {
        let options = CompileOptions { num_warps, occupancy, ..options(target, 1) };
        let compiled =
            build(&fmha(shape), options, true).unwrap_or_else(|e| panic!("{target} {shape:?}: {e}"));
        let Some((report, _)) = assemble(&compiled) else { continue };
        assert_eq!(report.spill_load_bytes, 0, "{target} {shape:?}: {} registers", report.registers);
    }
}

#[test]
fn options_that_no_target_can_run_are_refused() {
    let refuse = |options: CompileOptions| build(MATMUL, options, true).unwrap_err();
    let message = |error: LowerError| {
        assert!(!error.is_bug(), "{error}");
        error.to_string()
    };
    let warps = refuse(CompileOptions { num_warps: 3, ..options("sm_121", 1) });
    assert_eq!(message(warps), "num_warps is 3; it must be 1, 2, 4, 8 or 16");
    let stages = refuse(options("sm_121", 9));
    assert_eq!(message(stages), "num_stages is 9; it must be 1 to 8");
    let resident = refuse(CompileOptions { num_warps: 16, occupancy: 4, ..options("sm_121", 1) });
    assert!(message(resident).starts_with("occupancy is 4"));
    let error = refuse(options("sm_121", 4));
    assert!(
        matches!(error, LowerError::Pass(PassError::SharedMemory { available: 101_376, .. })),
        "four stages of 32 KB do not fit: {error}"
    );
}

#[test]
fn sizes_past_31_bits_are_refused_where_they_stand() {
    let kernel = MATMUL.replace("arith.constant 63 : index", "arith.constant 3000000000 : index");
    let error = build(&kernel, options("sm_80", 1), true).unwrap_err();
    assert!(matches!(&error, LowerError::Unsupported { place: Some(_), .. }), "{error}");
    assert!(error.to_string().contains("the size 3000000000"), "{error}");
}

#[test]
fn modules_of_other_contexts_are_copied() {
    let here = build(MATMUL, options("sm_80", 2), true).unwrap();
    let there = tile_ir::with_context(|context| {
        let module = Module::parse(context, MATMUL).unwrap();
        let facts = vec![TensorFacts::aligned(2, 16); 3];
        compile(&module, &CompileOptions { facts, ..options("sm_80", 2) }).unwrap()
    });
    assert_eq!(here.ptx, there.ptx);
    assert_eq!((there.entry.as_str(), there.num_threads), ("matmul", 128));
}

#[test]
fn rejected_code_is_kept_with_the_command() {
    let Some(assembler) = assembler() else { return };
    let target = Target::from_name("sm_80").unwrap();
    let error =
        assembler.assemble(".version 8.0\n.target sm_80\n.entry k() { nonsense; }", target).unwrap_err();
    let PtxasError::Rejected { log, command, .. } = &error else { panic!("{error}") };
    assert!(log.contains("nonsense") || log.contains("syntax error"), "{log}");
    let file = command.split(' ').find(|w| w.ends_with(".ptx")).expect("the command names the file");
    assert!(std::path::Path::new(file).is_file());
    std::fs::remove_dir_all(std::path::Path::new(file).parent().unwrap()).unwrap();
}
