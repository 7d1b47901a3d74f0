//! CTAs of a cluster that share copies.

use crate::compile::{assemble, build, options};
use crate::simulate::{Failure, run};
use crate::support::{self, kernel};
use codegen_ptx::gpu::dialect;
use codegen_ptx::gpu::launch::LaunchNeeds;
use codegen_ptx::gpu::ops::GpuOp;
use codegen_ptx::gpu::passes::{PassContext, Switches};
use codegen_ptx::gpu::protocol::ProtocolError;
use codegen_ptx::gpu::verify::{Rule, verify};
use codegen_ptx::{CompileOptions, LowerError, Target};
use tile_ir::types::{Op, blocks_of, erase, int_attr, name_of, nested_ops, ops_of, results_of, type_of};
use tile_ir::{Module, TileContext};
use tile_lang::{Config, DType};

const MATMUL: &str = include_str!("../kernels/matmul.mlir");
const FMHA: &str = include_str!("../kernels/fmha.mlir");

/// Attention in which the number of key blocks is the same for all queries of a head.
fn full_fmha() -> String {
    let text = FMHA.replace("%end = arith.addi %m, %c1", "%end = arith.addi %head, %c3");
    text.replace("%c64 = arith", "%c3 = arith.constant 3 : index\n  %c64 = arith")
}

/// Runs the passes for clusters; returns the module and what they said.
fn lower<'c>(
    module: &Module<'c>,
    num_ctas: usize,
    change: impl FnOnce(&mut PassContext),
) -> (Module<'c>, Vec<String>) {
    let (module, mut remarks) = support::lower(module, |cx| {
        cx.num_ctas = num_ctas;
        change(cx);
    });
    remarks.retain(|remark| remark.starts_with("multicast"));
    (module, remarks)
}

fn parse<'c>(context: &'c TileContext, text: &str) -> Module<'c> {
    Module::parse(context, text).unwrap()
}

fn count(module: &Module, wanted: impl Fn(&GpuOp) -> bool) -> usize {
    nested_ops(module.function())
        .into_iter()
        .filter(|op| GpuOp::of(*op).is_some_and(|op| wanted(&op)))
        .count()
}

/// Tensor and box of each map.
fn maps(module: &Module) -> Vec<(usize, Vec<usize>)> {
    LaunchNeeds::of(module).tensor_maps.into_iter().map(|map| (map.tensor, map.box_shape)).collect()
}

#[test]
fn blocks_that_do_not_depend_on_x_are_copied_once() {
    let context = dialect::context(&[]);
    for (ctas, rows) in [(2, 64), (4, 32), (8, 16)] {
        let (module, remarks) = lower(&parse(&context, MATMUL), ctas, |cx| cx.switches.bulk_stores = false);
        let expected = [
            "multicast-copies: argument 0 is copied by each CTA for itself: its blocks differ along x"
                .to_owned(),
            format!(
                "multicast-copies: argument 1 is copied once for {ctas} CTAs, in boxes of [{rows}, 64] by each"
            ),
        ];
        assert_eq!(remarks, expected);
        assert_eq!(LaunchNeeds::of(&module).cluster, Some(ctas));
        assert_eq!(maps(&module), [(0, vec![128, 64]), (1, vec![rows, 64])]);
        // One ring: what fills it is released by the warps of all.
        assert_eq!(
            count(&module, |op| matches!(op, GpuOp::Mbarriers { arrivals, .. } if *arrivals == 4 * ctas)),
            1
        );
        assert_eq!(count(&module, |op| matches!(op, GpuOp::MbarrierArrive { cluster: false, .. })), 0);
        assert_eq!(count(&module, |op| matches!(op, GpuOp::EnterCluster)), 1);
    }
}

#[test]
fn clusters_walk_over_groups_of_programs() {
    let context = dialect::context(&[]);
    let walk = |cx: &mut PassContext| cx.switches.persistent = true;
    let (module, remarks) = lower(&parse(&context, MATMUL), 2, walk);
    assert!(remarks[1].contains("argument 1 is copied once for 2 CTAs"), "{remarks:#?}");
    // Causal attention shares nothing; its programs are dealt out by groups all the same.
    let (module_of_causal, remarks) = lower(&parse(&context, FMHA), 2, walk);
    assert!(remarks[1..].iter().all(|r| r.contains("how many blocks there are differs")), "{remarks:#?}");
    for module in [module, module_of_causal] {
        let needs = LaunchNeeds::of(&module);
        assert_eq!((needs.persistent, needs.cluster), (true, Some(2)));
    }
}

#[test]
fn keys_and_values_of_a_head_are_copied_once() {
    let context = dialect::context(&[]);
    let (module, remarks) = lower(&parse(&context, &full_fmha()), 2, |_| {});
    let once = remarks.iter().filter(|r| r.contains("once for 2 CTAs, in boxes of [1, 1, 32, 64]"));
    assert_eq!((once.count(), remarks.len()), (2, 3), "{remarks:#?}");
    // The queries are each CTA's own.
    assert!(remarks[0].contains("argument 0 is copied by each CTA for itself: its blocks differ along x"));
    assert_eq!(count(&module, |op| matches!(op, GpuOp::MbarrierArrive { cluster: true, .. })), 2 + 2);
    let [queries, keys, values, out] = &maps(&module)[..] else { panic!("four maps") };
    let (whole, part) = (vec![1, 1, 64, 64], vec![1, 1, 32, 64]);
    assert_eq!((queries, out), (&(0, whole.clone()), &(3, whole)));
    assert_eq!((keys, values), (&(1, part.clone()), &(2, part)));
}

#[test]
fn kernels_that_share_nothing_stay_as_they_are_and_say_why() {
    let context = dialect::context(&[]);
    let alone = |text: &str, why: &str, change: fn(&mut PassContext)| {
        let (clustered, remarks) = lower(&parse(&context, text), 2, change);
        assert!(remarks.iter().any(|r| r.contains(why)), "{why}: {remarks:#?}");
        let (plain, _) = lower(&parse(&context, text), 1, change);
        assert_eq!(clustered.to_text(), plain.to_text(), "{why}");
        assert_eq!(LaunchNeeds::of(&clustered).cluster, None, "{why}");
    };
    // Causal: a later block of queries sees more keys.
    alone(FMHA, "how many blocks there are differs along x", |_| {});
    let along_x = MATMUL.replace("{axis = 1 : i64} : () -> index", "{axis = 0 : i64} : () -> index");
    alone(&along_x, "argument 1 is copied by each CTA for itself: its blocks differ along x", |_| {});
    alone(MATMUL, "no warp of its own copies", |cx| cx.switches.warp_specialize = false);
    let checked = MATMUL.replace(
        "  %acc = scf.for",
        "  %fits = arith.cmpi ult, %c0, %k : index
  \"tile.check\"(%fits) {message = \"nothing to sum\"} : (i1) -> ()
  %acc = scf.for",
    );
    alone(&checked, "the kernel has checks", |_| {});
    let narrow = kernel(&context, "persistent", DType::F16, &[("TILE", 64)]);
    let (module, remarks) = lower(&narrow, 2, |_| {});
    assert!(
        remarks.iter().all(|r| r.contains("differs along x") || r.contains("differ along x")),
        "{remarks:#?}"
    );
    assert_eq!(LaunchNeeds::of(&module).cluster, None);
}

#[test]
fn parts_keep_the_swizzle_whole() {
    let context = dialect::context(&[]);
    // 32 rows are four times eight.
    let text = MATMUL
        .replace("tensor<128x64xbf16>\n    %bt", "tensor<32x64xbf16>\n    %bt")
        .replace("(tensor<128x64xbf16>) -> tensor<64x128xbf16>", "(tensor<32x64xbf16>) -> tensor<64x32xbf16>")
        .replace("tensor<64x128xbf16>", "tensor<64x32xbf16>")
        .replace("128x128x", "128x32x");
    let (module, _) = lower(&parse(&context, &text), 4, |_| {});
    assert_eq!(LaunchNeeds::of(&module).cluster, Some(4));
    let (module, remarks) = lower(&parse(&context, &text), 8, |_| {});
    assert!(remarks.iter().any(|r| r.contains("fewer rows than a swizzle takes to repeat")), "{remarks:#?}");
    assert_eq!(LaunchNeeds::of(&module).cluster, None);
}

/// A loop around the product's, whose trips are the same in all CTAs.
fn nested<'c>(context: &'c TileContext) -> Module<'c> {
    let module = kernel(context, "persistent", DType::F16, &[("TILE", 64)]);
    let text = module.to_text().replace("tile.program_id\"() {axis = 0", "tile.program_id\"() {axis = 1");
    let text = text.replace("tile.program_id\"() <{axis = 0", "tile.program_id\"() <{axis = 1");
    parse(context, &text)
}

/// Kernels that share copies, by name.
fn shared<'c>(context: &'c TileContext) -> Vec<(&'static str, Module<'c>)> {
    vec![
        ("matmul", parse(context, MATMUL)),
        ("attention", parse(context, &full_fmha())),
        ("loops in loops", nested(context)),
        // What is copied in front of the loop is the same, too.
        (
            "queries",
            parse(
                context,
                &full_fmha().replace("(%q, %batch, %head, %m, %c0)", "(%q, %batch, %head, %c1, %c0)"),
            ),
        ),
    ]
}

#[test]
fn clusters_run_to_their_end_in_whatever_order() {
    let context = dialect::context(&[]);
    let all = shared(&context)
        .into_iter()
        .flat_map(|(name, source)| [false, true].map(|persistent| (name, source.clone(), persistent)));
    for (name, source, persistent) in all {
        for (ctas, stages) in [(2, 2), (2, 3), (4, 2), (8, 4)] {
            let (module, remarks) = lower(&source, ctas, |cx| {
                (cx.num_stages, cx.switches.persistent) = (stages, persistent);
            });
            assert_eq!(LaunchNeeds::of(&module).persistent, persistent);
            let copies = count(&module, |op| matches!(op, GpuOp::TmaCopy { cluster: true, .. }));
            assert!(copies > if name == "queries" && ctas < 8 { 2 } else { 0 }, "{name}: {remarks:#?}");
            assert_eq!(LaunchNeeds::of(&module).cluster, Some(ctas), "{name}: {remarks:#?}");
            // No iteration, fewer than there are slots, and more.
            for extent in [0, 1, 64, 150, 600] {
                for seed in 0..12 {
                    let ended = run(&module, ctas, extent, seed);
                    assert_eq!(ended, Ok(()), "{name}, {ctas} CTAs, {stages} stages, {extent}, seed {seed}");
                }
            }
        }
    }
}

/// How runs of a module end, one in which something is amiss.
fn failures(module: &Module) -> Vec<Failure> {
    let mut found: Vec<Failure> = (0..200).filter_map(|seed| run(module, 2, 600, seed).err()).collect();
    found.sort_by_key(|failure| *failure as usize);
    found.dedup();
    found
}

/// What the verifier says of barriers.
fn errors(context: &TileContext, text: &str) -> Vec<ProtocolError> {
    let module = Module::parse(context, text).expect("still parses");
    let violations = verify(&module).err().unwrap_or_default();
    let protocol = violations.into_iter().filter_map(|v| match v.rule {
        Rule::Protocol(error) => Some(error),
        _ => None,
    });
    protocol.collect()
}

/// The verifier and a run agree on what a cluster must not lack.
#[test]
fn clusters_out_of_step_are_found() {
    let context = dialect::context(&[]);
    let (module, _) = lower(&parse(&context, MATMUL), 2, |_| {});
    let text = module.to_text();
    assert_eq!((errors(&context, &text), failures(&module)), (vec![], vec![]));
    let arrive = text.lines().find(|line| line.contains("tgpu.mbarrier_arrive")).expect("an arrival");
    let alone = arrive.replace("cluster = true", "cluster = false");
    assert_ne!(alone, arrive);
    let broken = |text: &str| (errors(&context, text), failures(&parse(&context, text)));

    // Nobody tells the other CTA that a slot is free.
    let (found, ends) = broken(&text.replace(arrive, &alone));
    assert!(found.contains(&ProtocolError::Receivers), "{found:?}");
    assert_eq!(ends, [Failure::Deadlock]);
    // The same, and nobody waits for it.
    let fewer = text.replace(arrive, &alone).replace("arrivals = 8", "arrivals = 4");
    let (found, ends) = broken(&fewer);
    assert!(found.contains(&ProtocolError::Arrivals { found: 4, expected: 8 }), "{found:?}");
    assert!(ends.contains(&Failure::WrongBlock), "{ends:?}");
    // A CTA ends when its own warps are done.
    let (found, ends) = broken(&undrained(&context, &text));
    assert_eq!(found, [ProtocolError::NotDrained { found: 0, expected: 3 }]);
    assert_eq!(ends, [Failure::CtaEnded]);
    let unmet: Vec<&str> = text.lines().filter(|line| !line.contains("tgpu.enter_cluster")).collect();
    let unmet = unmet.join("\n");
    // CTAs that do not meet are not seen by a run, which begins with all barriers set up.
    assert_eq!(errors(&context, &unmet), [ProtocolError::NotEntered]);
    let size = text.replace("tgpu.num_ctas = 2", "tgpu.num_ctas = 3");
    assert!(errors(&context, &size).contains(&ProtocolError::ClusterSize(3)));
    // A block that differs.
    let differs = text.replace("axis = 1 : i64} : () -> index", "axis = 0 : i64} : () -> index");
    assert_ne!(differs, text);
    assert_eq!(errors(&context, &differs), [ProtocolError::Differs]);
}

/// The text without the waits behind the copying warp's loop.
fn undrained(context: &TileContext, text: &str) -> String {
    let module = parse(context, text);
    let branch =
        ops_of(module.entry()).find(|op| name_of(*op) == "scf.if").expect("a branch of the warp that copies");
    let drains: Vec<Op> =
        ops_of(blocks_of(branch)[0]).filter(|op| name_of(*op) == "tgpu.mbarrier_wait").collect();
    assert_eq!(drains.len(), 3, "one for each slot");
    drains.into_iter().for_each(erase);
    module.to_text()
}

/// Others may arrive at a CTA's barriers while it stores.
#[test]
fn barriers_share_their_bytes_with_nothing() {
    let context = dialect::context(&[]);
    for (name, source) in shared(&context) {
        let (module, _) = lower(&source, 2, |_| {});
        let mut barriers = Vec::new();
        let mut others = Vec::new();
        for op in nested_ops(module.function()) {
            let smem = results_of(op).first().and_then(|result| dialect::Smem::of(type_of(*result)));
            if let Some((offset, smem)) = int_attr(op, "offset").zip(smem) {
                let bytes = offset as usize..offset as usize + smem.bytes();
                match GpuOp::of(op) {
                    Some(GpuOp::Mbarriers { .. }) => barriers.push(bytes),
                    _ => others.push(bytes),
                }
            }
            others.extend(int_attr(op, "scratch_offset").map(|at| at as usize..at as usize + 1));
        }
        assert!(!barriers.is_empty(), "{name}");
        for bytes in &barriers {
            assert!(
                others.iter().all(|o| o.end <= bytes.start || bytes.end <= o.start),
                "{name}: {others:?}"
            );
        }
    }
}

fn clustered(num_ctas: u32) -> CompileOptions {
    CompileOptions { num_ctas, switches: Switches::of(&Config::default()), ..options("sm_90", 3) }
}

#[test]
fn shared_copies_are_multicast() {
    for ctas in [2, 4, 8] {
        let compiled = build(MATMUL, clustered(ctas), true).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(compiled.num_ctas, ctas);
        assert!(compiled.ptx.contains(&format!(".reqnctapercluster {ctas}")), "{}", compiled.ptx);
        let Some((report, sass)) = assemble(&compiled) else { continue };
        let count = |what: &str| sass.lines().filter(|line| line.contains(what)).count();
        assert_eq!((count("UTMALDG.2D.MULTICAST"), count("UTMALDG.2D ")), (1, 1), "{sass}");
        assert!(count("UCGABAR_WAIT") == 1, "{sass}");
        // Neither arrivals nor waits fence the GPU's memory: only the one meeting in front does.
        assert!(count("MEMBAR.ALL.GPU") <= 1, "{sass}");
        assert_eq!(report.spill_load_bytes, 0);
    }
    let compiled = build(&full_fmha(), clustered(2), true).unwrap_or_else(|e| panic!("{e}"));
    let Some((_, sass)) = assemble(&compiled) else { return };
    assert_eq!(sass.lines().filter(|line| line.contains("UTMALDG.4D.MULTICAST")).count(), 2, "{sass}");
}

#[test]
fn a_kernel_that_shares_nothing_has_no_cluster() {
    let compiled = build(FMHA, clustered(2), true).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(compiled.num_ctas, 1);
    assert_eq!(compiled.ptx, build(FMHA, clustered(1), true).unwrap().ptx);
}

#[test]
fn clusters_that_cannot_be_are_refused() {
    let refuse = |options: CompileOptions| build(MATMUL, options, true).unwrap_err();
    for ctas in [0, 3, 16] {
        let error = refuse(clustered(ctas));
        assert_eq!(error.to_string(), format!("num_ctas is {ctas}; it must be 1, 2, 4 or 8"));
    }

    for target in Target::all().iter().filter(|target| target.part != "sm_90") {
        let error = refuse(CompileOptions { num_ctas: 2, ..options(target.part, 2) });
        assert!(
            matches!(&error, LowerError::Unsupported { target: on, .. } if *on == target.part),
            "{error}"
        );
        assert!(!error.is_bug() && error.to_string().contains("num_ctas = 2"), "{error}");
    }
}
