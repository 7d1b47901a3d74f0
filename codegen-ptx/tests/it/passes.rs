//! Properties of the gpu level that the passes make.

use codegen_ptx::gpu::dialect;
use codegen_ptx::gpu::facts::TensorFacts;
use codegen_ptx::gpu::passes::{Pass, PassContext, PassError, run_passes};
use codegen_ptx::target::Target;
use tile_ir::types::{args_of, type_of, view_of};
use tile_ir::{Module, TileContext};

const MATMUL: &str = include_str!("../kernels/matmul.mlir");
const FMHA: &str = include_str!("../kernels/fmha.mlir");

/// What a kernel is compiled with.
struct Settings {
    target: &'static str,
    num_warps: usize,
    num_stages: usize,
    occupancy: usize,
    aligned: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { target: "sm_121", num_warps: 4, num_stages: 2, occupancy: 1, aligned: true }
    }
}

/// The module after some passes, as text, and the remarks.
struct Ran {
    text: String,
    remarks: Vec<String>,
}

fn run_in<'c>(
    context: &'c TileContext,
    passes: &[Pass],
    kernel: &str,
    settings: &Settings,
) -> Result<(Module<'c>, Vec<String>), PassError> {
    let module = Module::parse(context, kernel).unwrap();
    tile_ir::verify(&module).unwrap();
    let views = args_of(module.entry()).into_iter().filter_map(|a| view_of(type_of(a)));
    let facts = views.map(|view| {
        let bytes = (view.dtype.bits() as usize).div_ceil(8);
        if settings.aligned {
            TensorFacts::aligned(view.rank, bytes)
        } else {
            TensorFacts::none(view.rank, bytes)
        }
    });
    let mut cx = PassContext {
        target: Target::from_name(settings.target).unwrap(),
        num_warps: settings.num_warps,
        num_stages: settings.num_stages,
        occupancy: settings.occupancy,
        facts: facts.collect(),
        remarks: Vec::new(),
    };
    let module = run_passes(passes, &module, &mut cx)?;
    Ok((module, cx.remarks.iter().map(ToString::to_string).collect()))
}

fn run(passes: &[Pass], kernel: &str, settings: &Settings) -> Ran {
    let context = dialect::context(&[]);
    let (module, remarks) = run_in(&context, passes, kernel, settings).unwrap_or_else(|e| panic!("{e}"));
    let text = module.to_text();
    assert_eq!(Module::parse(&context, &text).unwrap().to_text(), text, "the text round-trips");
    Ran { text, remarks }
}

#[test]
fn dump() {
    for kernel in [MATMUL, FMHA] {
        let ran = run(&Pass::ALL, kernel, &Settings::default());
        println!("{}\n{}", ran.text, ran.remarks.join("\n"));
    }
}
