//! Kernels from source text to the tile dialect, and from there to the gpu level.

use codegen_ptx::gpu::passes::{PassContext, Switches, run_passes};
use codegen_ptx::{Ptxas, Target};
use proc_macro2::TokenStream;
use std::io::Write;
use std::str::FromStr;
use tile_ir::types::{args_of, type_of, view_of};
use tile_ir::{Module, TileContext};
use tile_lang::ast::{Function, FunctionKind};
use tile_lang::check::Mode;
use tile_lang::config::TensorFacts;
use tile_lang::parse::parse_function;
use tile_lang::{Bindings, Config, DType, Library};

/// The assembler; where there is none, says on the standard error, past the harness, that the current test checks
/// less or nothing without it.
pub fn assembler() -> Option<Ptxas> {
    let found = Ptxas::find(None);
    if let Err(error) = &found {
        let thread = std::thread::current();
        let (test, reason) = (thread.name().unwrap_or("a test"), error.to_string());
        let reason = reason.lines().next().unwrap_or_default();
        writeln!(std::io::stderr(), "SKIPPED {test}: {reason}").expect("standard error is writable");
    }
    found.ok()
}

/// Kernels to test with.
const ZOO: &str = include_str!("../kernels/zoo.rs");

/// The functions of the zoo.
fn items() -> impl Iterator<Item = syn::ItemFn> {
    let file: syn::File = syn::parse2(TokenStream::from_str(ZOO).expect("Rust tokens")).expect("Rust items");
    file.items.into_iter().filter_map(|item| match item {
        syn::Item::Fn(item) => Some(item),
        _ => None,
    })
}

/// The names of the kernels of the zoo.
pub fn kernels() -> Vec<String> {
    items().map(|item| item.sig.ident.to_string()).collect()
}

/// The kernel of the zoo with a name.
fn function(name: &str) -> Function {
    let mut item =
        items().find(|item| item.sig.ident == name).unwrap_or_else(|| panic!("the zoo has no {name}"));
    item.attrs.clear();
    let (function, _, diagnostics) = parse_function(TokenStream::new(), &item, FunctionKind::Kernel);
    assert!(diagnostics.is_empty(), "{diagnostics:#?}");
    function
}

/// A kernel of the zoo in the tile dialect, optimized.
pub fn kernel<'c>(context: &'c TileContext, name: &str, dtype: DType, consts: &[(&str, i64)]) -> Module<'c> {
    let bindings = Bindings {
        consts: consts.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect(),
        dtypes: [("T".to_owned(), dtype)].into_iter().collect(),
    };
    let library = Library::new(function(name));
    let program = library.check(&bindings, Mode::Bound).unwrap_or_else(|e| panic!("{name}: {e:#?}"));
    let tensors =
        program.params.iter().filter(|p| matches!(p.kind, tile_lang::typed::ParamKind::Tensor { .. }));
    let facts = vec![TensorFacts::ALIGNED; tensors.count()];
    let mut module = tile_ir::lower_program(&program, &facts, context).expect("the kernel lowers");
    tile_ir::run_passes(&mut module, tile_ir::STANDARD_PASSES).expect("the passes keep the module valid");
    module
}

/// What passes are told for a module, with the switches that a configuration has by itself.
pub fn context_of(target: &'static Target, module: &Module) -> PassContext {
    PassContext {
        target,
        num_warps: 4,
        num_stages: 3,
        occupancy: 1,
        num_ctas: 1,
        front_stages: 2,
        switches: Switches::of(&Config::default()),
        facts: facts(module, true),
        remarks: Vec::new(),
    }
}

/// Runs the passes of sm_90; returns the module, which is the same when it is read back from its text, and what they
/// said.
pub fn lower<'c>(module: &Module<'c>, change: impl FnOnce(&mut PassContext)) -> (Module<'c>, Vec<String>) {
    let target = Target::from_name("sm_90").expect("a target");
    let mut cx = context_of(target, module);
    change(&mut cx);
    let module = run_passes(target.passes, module, &mut cx).unwrap_or_else(|e| panic!("{e}"));
    let text = module.to_text();
    assert_eq!(Module::parse(module.context(), &text).expect("still parses").to_text(), text);
    (module, cx.remarks.iter().map(ToString::to_string).collect())
}

/// Facts about the tensors of a module: aligned rows, or nothing.
pub fn facts(module: &Module, aligned: bool) -> Vec<codegen_ptx::gpu::facts::TensorFacts> {
    use codegen_ptx::gpu::facts::TensorFacts;
    let views = args_of(module.entry()).into_iter().filter_map(|a| view_of(type_of(a)));
    let of = |view: tile_ir::types::View| {
        let bits = view.dtype.bits() as usize;
        if aligned { TensorFacts::aligned(view.rank, bits) } else { TensorFacts::none(view.rank, bits) }
    };
    views.map(of).collect()
}
