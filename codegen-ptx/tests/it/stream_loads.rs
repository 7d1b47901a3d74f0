//! Tensors whose blocks a launch reads once, and the L2 policy of their loads.

use crate::support::{assembler, context_of, facts, kernel};
use codegen_ptx::gpu::dialect;
use codegen_ptx::gpu::passes::{Pass, PassContext, Switches, run_passes};
use codegen_ptx::{CompileOptions, Compiled, Target, compile, with_context};
use tile_ir::Module;
use tile_ir::types::array_attr;
use tile_lang::{Config, DType};

fn switches(stream_loads: bool) -> Switches {
    Switches { stream_loads, ..Switches::of(&Config::default()) }
}

/// The numbers of the arguments that stream, and what the pass says.
fn streamed(module: &Module, switches: Switches) -> (Vec<i64>, Vec<String>) {
    let mut cx =
        PassContext { switches, ..context_of(Target::from_name("sm_90").expect("a target"), module) };
    let module = run_passes(&[Pass::StreamLoads], module, &mut cx).unwrap_or_else(|e| panic!("{e}"));
    let numbers = array_attr(module.function(), "tgpu.streamed").unwrap_or_default();
    (numbers, cx.remarks.iter().map(ToString::to_string).collect())
}

/// A kernel of the zoo, its consts, and the arguments that stream.
type Case<'a> = (&'a str, Vec<(&'a str, i64)>, &'a [i64]);

#[test]
fn tensors_whose_places_tell_programs_and_iterations_apart_stream() {
    let tiles = |names: &[&'static str]| names.iter().map(|name| (*name, 64)).collect::<Vec<_>>();
    let cases: [Case<'_>; 12] = [
        // Each row of blocks is read by all programs of a row.
        ("matmul", [tiles(&["TILE_M", "TILE_N", "TILE_K"]), vec![("RHS_IS_NK", 1)]].concat(), &[]),
        // Queries are read once; heads that share keys read them again.
        ("fmha", [tiles(&["HEAD_DIM", "TILE_M", "TILE_N"]), vec![("CAUSAL", 1)]].concat(), &[0]),
        ("softmax", tiles(&["ROWS", "COLS"]), &[0]),
        ("add", tiles(&["N"]), &[0, 1]),
        ("swap_axes", tiles(&["A", "B", "C"]), &[0]),
        // A loop's rows and a program's columns.
        ("column_means", tiles(&["ROWS", "COLS"]), &[0]),
        // Programs start the loop at different rows; all read the rhs and the bias.
        ("persistent", tiles(&["TILE"]), &[0]),
        ("scaled_lhs", tiles(&["TILE"]), &[0]),
        // The pages that a table names and the rows from a sequence's end on, but no single elements.
        ("paged", tiles(&["TILE"]), &[0, 1]),
        // Rows that are gathered may be the same.
        ("embed", tiles(&["N", "D"]), &[0]),
        // Read back what is written, and in a loop that need not end.
        ("powers", tiles(&["TILE"]), &[]),
        ("branching", tiles(&["TILE"]), &[]),
    ];
    let context = dialect::context(&[]);
    for (name, consts, expected) in cases {
        let module = kernel(&context, name, DType::BF16, &consts);
        let (numbers, remarks) = streamed(&module, switches(true));
        assert_eq!(numbers, expected, "{name}: {remarks:?}");
        let said = remarks.iter().filter(|r| r.contains("is read once, and leaves L2 first")).count();
        assert_eq!(said, expected.len(), "{name}: {remarks:?}");
        let (numbers, remarks) = streamed(&module, switches(false));
        assert!(numbers.is_empty() && remarks[0].contains("switched off by stream_loads=0"), "{remarks:?}");
    }
}

/// Quotients, remainders and clamps of what tells programs apart may be the same for several.
#[test]
fn places_that_may_coincide_tell_nothing() {
    const ROWS: &str = r#"
func.func @rows(%x: !tile.view<2 : i64, f32>, %out: !tile.view<2 : i64, f32>) {
  %c0 = arith.constant 0 : index
  %c2 = arith.constant 2 : index
  %m = "tile.program_id"() {axis = 0 : i64} : () -> index
  %at = arith.addi %m, %c2 : index
  %tile = "tile.load"(%x, %at, %c0) : (!tile.view<2 : i64, f32>, index, index) -> tensor<4x64xf32>
  "tile.store"(%out, %m, %c0, %tile) : (!tile.view<2 : i64, f32>, index, index, tensor<4x64xf32>) -> ()
  return
}
"#;
    let context = dialect::context(&[]);
    for (op, expected) in [
        ("addi", &[0][..]),
        ("subi", &[0]),
        ("muli", &[0]),
        ("divui", &[]),
        ("remui", &[]),
        ("minui", &[]),
        ("maxui", &[]),
    ] {
        let text = ROWS.replace("arith.addi", &format!("arith.{op}"));
        let module = Module::parse(&context, &text).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(streamed(&module, switches(true)).0, expected, "{op}");
    }
    // Another axis that the place does not tell apart, asked for by the store alone.
    let text = ROWS
        .replace("(%out, %m, %c0", "(%out, %m, %n")
        .replace("%at =", "%n = \"tile.program_id\"() {axis = 1 : i64} : () -> index\n  %at =");
    let module = Module::parse(&context, &text).unwrap_or_else(|e| panic!("{e}"));
    assert!(streamed(&module, switches(true)).0.is_empty());
}

/// A kernel of the zoo whose tensors are aligned.
fn build(name: &str, consts: &[(&str, i64)], target: &'static Target, switches: Switches) -> Compiled {
    with_context(|context| {
        let module = kernel(context, name, DType::BF16, consts);
        let options = CompileOptions {
            target,
            num_warps: 4,
            num_stages: 2,
            occupancy: 1,
            num_ctas: 1,
            switches,
            facts: facts(&module, true),
            keep_stages: false,
        };
        compile(&module, &options).unwrap_or_else(|e| panic!("{name} {target}: {e}"))
    })
}

/// Loads to registers, copies by all threads and bulk copies.
#[test]
fn loads_of_what_streams_have_a_policy() {
    let hopper = Target::from_name("sm_90").expect("a target");
    let products = [("TILE", 64)];
    let all = Target::all().iter().flat_map(|&target| {
        [
            ("softmax", &[("ROWS", 4), ("COLS", 128)][..], target, false, "ld.global.L2::cache_hint.v"),
            ("persistent", &products, target, false, "cp.async.cg.shared.global.L2::cache_hint ["),
        ]
    });
    let bulk = "mbarrier::complete_tx::bytes.L2::cache_hint [";
    for (name, consts, target, warp_specialize, load) in
        all.chain([("persistent", &products[..], hopper, true, bulk)])
    {
        let [on, off] = [true, false].map(|stream_loads| {
            let switches = Switches { warp_specialize, ..switches(stream_loads) };
            build(name, consts, target, switches).ptx
        });
        assert_eq!(on.matches("createpolicy.fractional.L2::evict_first.b64").count(), 1, "{name} {target}");
        assert!(on.contains(load), "{name} {target}: no `{load}`");
        assert!(!off.contains("createpolicy") && !off.contains("cache_hint"), "{name} {target}");
        // What several programs read has none.
        let plain = load.replace(".L2::cache_hint", "");
        assert_eq!(on.contains(&plain), name == "persistent", "{name} {target}");
    }
}

/// The uniform registers in descriptors of `LDGSTS`, by number.
fn descriptors(sass: &str) -> Vec<usize> {
    let copies = sass.lines().filter(|line| line.contains("LDGSTS"));
    let number = |line: &str| line.split_once("desc[UR")?.1.split_once(']')?.0.parse().ok();
    copies.filter_map(number).collect()
}

/// A descriptor is a pair of uniform registers, of which the first has an even number: an odd one says that the assembler
/// has encoded the address wrongly.
#[test]
fn copies_under_a_policy_are_encoded_rightly() {
    if assembler().is_none() {
        return;
    }
    for &target in Target::all() {
        for (name, consts) in [("persistent", [("TILE", 64)]), ("paged", [("TILE", 64)])] {
            let switches = Switches { warp_specialize: false, ..switches(true) };
            let compiled = build(name, &consts, target, switches);
            assert!(compiled.ptx.contains("cp.async.cg.shared.global.L2::cache_hint"), "{name} {target}");
            let (_, sass) = crate::compile::assemble(&compiled).expect("an assembler");
            let numbers = descriptors(&sass);
            assert!(
                !numbers.is_empty() && numbers.iter().all(|n| n % 2 == 0),
                "{name} {target}: {numbers:?}"
            );
        }
    }
}
