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
                println!(
                    "{name} {target} {stages} {aligned} smem {} {:?}",
                    compiled.smem_bytes, compiled.timing
                );
                if let Ok(folder) = std::env::var("DUMP") {
                    std::fs::write(format!("{folder}/{name}-{target}-{stages}-{aligned}.ptx"), &compiled.ptx)
                        .unwrap();
                    std::fs::write(
                        format!("{folder}/{name}-{target}-{stages}-{aligned}.gpu"),
                        compiled.gpu.as_ref().unwrap(),
                    )
                    .unwrap();
                    std::fs::write(
                        format!("{folder}/{name}-{target}-{stages}-{aligned}.ll"),
                        compiled.llvm.as_ref().unwrap(),
                    )
                    .unwrap();
                }
                let Some((report, sass)) = assemble(&compiled) else { continue };
                if let Ok(folder) = std::env::var("DUMP") {
                    std::fs::write(format!("{folder}/{name}-{target}-{stages}-{aligned}.sass"), &sass)
                        .unwrap();
                }
                println!(
                    "{name} {target} {stages} {aligned} registers {} spills {}",
                    report.registers, report.spill_load_bytes
                );
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
