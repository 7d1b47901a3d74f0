//! Kernels over 4-bit elements, down to machine code for every target.

use crate::support::{assembler, facts, kernel};
use codegen_ptx::{CompileOptions, Compiled, Switches, Target, compile, with_context};
use tile_lang::{Config, DType};

/// A kernel of the zoo for a target, with its machine code where there is an assembler.
fn build(
    name: &str,
    dtype: DType,
    consts: &[(&str, i64)],
    target: &'static Target,
    aligned: bool,
) -> (Compiled, Option<String>) {
    let switches = Switches { warp_specialize: false, ..Switches::of(&Config::default()) };
    build_with(name, dtype, consts, (target, 4, switches), aligned)
}

/// The same by a number of warps and with some switches.
fn build_with(
    name: &str,
    dtype: DType,
    consts: &[(&str, i64)],
    (target, num_warps, switches): (&'static Target, u32, Switches),
    aligned: bool,
) -> (Compiled, Option<String>) {
    let compiled = with_context(|context| {
        let module = kernel(context, name, dtype, consts);
        let options = CompileOptions {
            target,
            num_warps,
            num_stages: 3,
            occupancy: 1,
            num_ctas: 1,
            switches,
            facts: facts(&module, aligned),
            keep_stages: false,
        };
        compile(&module, &options).unwrap_or_else(|e| panic!("{name} {target}: {e}"))
    });
    let sass = assembler().map(|assembler| {
        let report =
            assembler.assemble(&compiled.ptx, target).unwrap_or_else(|e| panic!("{name} {target}: {e}"));
        assert_eq!((report.spill_load_bytes, report.stack_bytes), (0, 0), "{name} {target}");
        assembler.disassemble(&report.cubin).unwrap_or_else(|e| panic!("{e}"))
    });
    (compiled, sass)
}

/// Weights are copied 16 bytes at a time, read in runs, and widened and scaled by one product for two.
#[test]
fn narrow_weights_are_widened_in_pairs() {
    for target in Target::all() {
        let consts = [("M", 8), ("N", 64), ("K", 256)];
        let (_, sass) = build("narrow_weights", DType::BF16, &consts, target, true);
        let Some(sass) = sass else { return };
        let count = |what: &str| sass.matches(what).count();
        // Of 64 x 256 weights a thread has 64 pairs; its 8 scales for each of two rows take a few more products.
        let products = count("HMUL2.BF16") + count("HFMA2.BF16") + count("HFMA2.MMA.BF16");
        assert!((64..=88).contains(&products), "{target}: {products} products\n{sass}");
        assert!(count("LDS.64") >= 8 && count("LDS.128") >= 8, "{target}\n{sass}");
        let copies = count("LDGSTS.E.BYPASS.128") + count("LDGSTS.E.BYPASS.LTC128B.128");
        assert!(copies >= 7, "{target}: {copies} copies");
        assert_eq!(count("HMMA.16816.F32.BF16"), 16, "{target}");
    }
}

/// Half of a product is always in flight. The assembler would wait after each instruction if it saw weights written to
/// registers that a product in flight may read.
#[test]
fn weights_are_widened_while_half_a_product_runs() {
    let target = Target::from_name("sm_90").expect("a target");
    let switches = Switches { compute_ahead: true, ..Switches::of(&Config::default()) };
    let consts = [("M", 128), ("N", 128), ("K", 64)];
    let (_, sass) = build_with("narrow_weights", DType::BF16, &consts, (target, 8, switches), true);
    let Some(sass) = sass else { return };
    let told = |line: &&str| line.contains("HGMMA.64x128x16") || line.contains("WARPGROUP.DEPBAR");
    let told: Vec<_> = sass.lines().filter(told).collect();
    let is_wait = |line: &str, pending: &str| line.contains("DEPBAR") && line.contains(pending);
    // Two steps of K each, and behind the loop a wait for all.
    let [a, b, between, c, d, behind, last] = told[..] else { panic!("{told:#?}") };
    assert!([a, b, c, d].iter().all(|line| line.contains("HGMMA")), "{told:#?}");
    assert!(is_wait(between, "0x1") && is_wait(behind, "0x1") && is_wait(last, "0x0"), "{told:#?}");
    // A thread reads 32 weights, two at a time.
    assert!(sass.matches("LDS.U8").count() >= 16, "{sass}");
}

/// What a pair of bf16 costs: two masks, a product that places signs and the rest, and a product with the scale.
#[test]
fn weights_are_placed_by_a_product() {
    let target = Target::from_name("sm_90").expect("a target");
    let (_, sass) = build("narrow_weights", DType::BF16, &[("M", 8), ("N", 64), ("K", 256)], target, true);
    let Some(sass) = sass else { return };
    let count = |what: &str| sass.matches(what).count();
    let placed = count(", 0x1040, RZ") + count(", 0x104, RZ");
    assert_eq!((placed, count("0x81c081c0, RZ")), (64, 64), "{sass}");
}

#[test]
fn products_with_scales_use_the_instruction_where_there_is_one() {
    for target in Target::all() {
        let consts = [("M", 64), ("N", 64), ("K", 128)];
        let (compiled, sass) = build("scaled_product", DType::F32, &consts, target, true);
        let native = target.has_block_scaled_mma();
        assert_eq!(compiled.ptx.contains("kind::mxf4nvf4.block_scale"), native, "{target}");
        let Some(sass) = sass else { continue };
        assert_eq!(sass.contains("OMMA.SF.16864"), native, "{target}");
        assert_eq!(sass.contains("HMMA.16816"), !native, "{target}");
        if native {
            // 2 steps of K, 2 x 4 tiles a warp; each operand by few ldmatrix, nothing widened.
            assert_eq!(sass.matches("OMMA.SF.16864").count(), 16, "{target}");
            assert!(sass.contains("LDSM.16.M88.4") && !sass.contains("HMUL2"), "{target}");
        }
    }
}

/// The build of the code for sm_121a that another GPU runs: the same but for the one instruction.
#[test]
fn the_stand_in_for_the_instruction_assembles() {
    let target = Target::sm_121a_on_sm_90a();
    let (compiled, sass) =
        build("scaled_product", DType::F32, &[("M", 32), ("N", 32), ("K", 64)], target, true);
    assert!(compiled.ptx.contains(".target sm_90a") && !compiled.ptx.contains("mxf4nvf4"));
    assert!(compiled.ptx.contains("ldmatrix") && compiled.ptx.contains("shfl.sync.idx"));
    if let Some(sass) = sass {
        // Four products stand for one.
        assert!(sass.contains("LDSM") && sass.matches("HMMA.16816").count() == 8);
    }
}

/// Single elements, whose neighbours in the byte others write, go to memory without touching them.
#[test]
fn half_bytes_are_stored_apart() {
    for target in Target::all() {
        for n in [1, 64, 512] {
            for aligned in [true, false] {
                let (compiled, _) = build("half_bytes", DType::F32, &[("N", n)], target, aligned);
                let (and, or) =
                    (compiled.ptx.contains("red.global.and.b32"), compiled.ptx.contains("red.global.or.b32"));
                assert!(and && or, "{target} {n}");
            }
        }
    }
}
