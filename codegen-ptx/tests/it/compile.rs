//! Whole kernels from the tile dialect to machine code.

use codegen_ptx::{
    CompileOptions, Compiled, LowerError, Ptxas, Report, Target, TensorFacts, compile, with_context,
};
use tile_ir::Module;
use tile_ir::types::{args_of, type_of, view_of};

const MATMUL: &str = include_str!("../kernels/matmul.mlir");
const FMHA: &str = include_str!("../kernels/fmha.mlir");

/// Options with which the kernels are compiled unless a test says otherwise.
fn options(target: &str, num_stages: u32) -> CompileOptions {
    CompileOptions {
        target: Target::from_name(target).unwrap(),
        num_warps: 4,
        num_stages,
        occupancy: 1,
        num_ctas: 1,
        facts: Vec::new(),
        keep_stages: true,
    }
}

/// Compiles a kernel whose tensors are all aligned, or not at all.
fn build(kernel: &str, mut options: CompileOptions, aligned: bool) -> Result<Compiled, LowerError> {
    with_context(|context| {
        let module = Module::parse(context, kernel).unwrap_or_else(|e| panic!("{e}"));
        let views = args_of(module.entry()).into_iter().filter_map(|a| view_of(type_of(a)));
        options.facts = views
            .map(|view| {
                let bytes = (view.dtype.bits() as usize).div_ceil(8);
                let none = TensorFacts::none(view.rank, bytes);
                let ragged = TensorFacts { unit_stride: view.rank.checked_sub(1), ..none };
                if aligned { TensorFacts::aligned(view.rank, bytes) } else { ragged }
            })
            .collect();
        compile(&module, &options)
    })
}

/// Assembles; nothing where there is no assembler.
fn assemble(compiled: &Compiled) -> Option<(Report, String)> {
    let assembler = Ptxas::find(None).map_err(|e| println!("skipped the assembler: {e}")).ok()?;
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
                assert!(sass.contains("HMMA.16816") && sass.contains("LDSM"), "{name} {target}");
                if aligned {
                    assert!(sass.contains("LDGSTS.E.BYPASS"), "{name} {target}");
                }
            }
        }
    }
}

/// Attention with blocks of `rows` queries by `keys` keys.
fn fmha([rows, keys, depth]: [usize; 3]) -> String {
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
