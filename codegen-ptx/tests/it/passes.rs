//! Properties of the gpu level that the passes make.

use crate::support::{context_of, facts, kernel};
use codegen_ptx::gpu::dialect::{self, Smem, layout_of};
use codegen_ptx::gpu::ops::{GpuOp, MmaOperand};
use codegen_ptx::gpu::passes::{Pass, PassContext, PassError, run_passes};
use codegen_ptx::layout::{Conversion, conversion};
use codegen_ptx::target::Target;
use melior::ir::operation::OperationLike;
use tile_ir::types::{Op, args_of, blocks_of, int_attr, name_of, nested_ops, ops_of, results_of, type_of};
use tile_ir::{Module, TileContext};
use tile_lang::DType;

const MATMUL: &str = include_str!("../kernels/matmul.mlir");
const FMHA: &str = include_str!("../kernels/fmha.mlir");

/// What a kernel is compiled with.
#[derive(Clone, Copy, Debug)]
struct Settings {
    target: &'static str,
    num_warps: usize,
    num_stages: usize,
    occupancy: usize,
    aligned: bool,
}

const SETTINGS: Settings =
    Settings { target: "sm_121", num_warps: 4, num_stages: 2, occupancy: 1, aligned: true };

/// Runs all passes, with the verifier after each; the result's text must round-trip.
fn lower<'c>(module: &Module<'c>, settings: Settings) -> Result<(Module<'c>, Vec<String>), PassError> {
    let mut cx = PassContext {
        num_warps: settings.num_warps,
        num_stages: settings.num_stages,
        occupancy: settings.occupancy,
        facts: facts(module, settings.aligned),
        ..context_of(Target::from_name(settings.target).unwrap(), module)
    };
    (cx.switches.warp_specialize, cx.switches.bulk_stores) = (false, false);
    let module = run_passes(&Pass::ALL, module, &mut cx)?;
    let text = module.to_text();
    assert_eq!(Module::parse(module.context(), &text).unwrap().to_text(), text);
    Ok((module, cx.remarks.iter().map(ToString::to_string).collect()))
}

fn parse<'c>(context: &'c TileContext, text: &str) -> Module<'c> {
    let module = Module::parse(context, text).unwrap();
    tile_ir::verify(&module).unwrap();
    module
}

/// The function's loops, outer first.
fn loops<'c>(module: &Module<'c>) -> Vec<Op<'c>> {
    nested_ops(module.function()).into_iter().filter(|op| name_of(*op) == "scf.for").collect()
}

fn gpu_ops<'c>(op: Op<'c>) -> Vec<GpuOp<'c>> {
    nested_ops(op).into_iter().filter_map(GpuOp::of).collect()
}

fn count<'c>(op: Op<'c>, wanted: impl Fn(&GpuOp<'c>) -> bool) -> usize {
    gpu_ops(op).iter().filter(|op| wanted(op)).count()
}

/// Conversions that move data between threads.
fn conversions(op: Op) -> usize {
    nested_ops(op)
        .into_iter()
        .filter(|op| {
            let Some(GpuOp::ConvertLayout { tile, .. }) = GpuOp::of(*op) else { return false };
            let (from, to) = (layout_of(type_of(tile)), layout_of(type_of(results_of(*op)[0])));
            !matches!(
                conversion(&from.unwrap(), &to.unwrap()),
                Conversion::Identity | Conversion::Registers(_)
            )
        })
        .count()
}

const BARRIER: fn(&GpuOp) -> bool = |op| matches!(op, GpuOp::Barrier);

#[test]
fn attention_keeps_its_tiles_in_registers() {
    let context = dialect::context(&[]);
    for num_stages in [1, 2, 3] {
        let (module, remarks) = lower(&parse(&context, FMHA), Settings { num_stages, ..SETTINGS }).unwrap();
        let inner = loops(&module)[0];
        // P is an accumulator that becomes a lhs; row statistics stay where the rows are.
        assert_eq!(conversions(inner), 0, "{}", module.to_text());
        assert_eq!(count(inner, |op| matches!(op, GpuOp::LocalStore { .. } | GpuOp::LocalLoad { .. })), 0);
        // Q's fragments are read once, in front of the loop; K and V stay in shared memory.
        assert_eq!(count(module.function(), |op| matches!(op, GpuOp::LocalLoad { .. })), 1);
        let operands: Vec<_> = gpu_ops(inner)
            .into_iter()
            .filter_map(|op| match op {
                GpuOp::MmaSync { lhs, rhs, warps, .. } => Some((lhs, rhs, warps)),
                _ => None,
            })
            .collect();
        assert_eq!(operands.len(), 2);
        for (lhs, rhs, warps) in operands {
            assert!(matches!(lhs, MmaOperand::Registers(_)) && matches!(rhs, MmaOperand::Shared { .. }));
            assert_eq!(warps, [4, 1]);
        }
        assert!(remarks.iter().any(|r| r.contains("read once, into 16 registers")), "{remarks:#?}");
    }
}

#[test]
fn every_conversion_in_a_loop_is_remarked_on() {
    let context = dialect::context(&[]);
    let module = kernel(&context, "widened_rhs", DType::BF16, &[("TILE", 64)]);
    let (module, remarks) = lower(&module, SETTINGS).unwrap();
    let inside: usize = loops(&module)
        .into_iter()
        .map(|op| nested_ops(op).into_iter().filter(|op| name_of(*op) == "tgpu.convert_layout").count())
        .sum();
    let told = remarks.iter().filter(|r| r.contains("changes layout in a loop")).count();
    assert_eq!(inside, told, "{remarks:#?}");
}

/// The ring: waits, barriers and slots of a pipelined loop.
#[test]
fn copies_run_ahead_in_a_ring() {
    let context = dialect::context(&[]);
    for (text, buffers) in [(MATMUL, 2), (FMHA, 2)] {
        for num_stages in [2usize, 3] {
            let (module, _) = lower(&parse(&context, text), Settings { num_stages, ..SETTINGS }).unwrap();
            let inner = loops(&module)[0];
            assert_eq!(count(inner, BARRIER), 1, "one barrier an iteration");
            assert_eq!(count(inner, |op| matches!(op, GpuOp::Commit)), 1);
            let mut body = ops_of(blocks_of(inner)[0]);
            assert_eq!(GpuOp::of(body.next().unwrap()), Some(GpuOp::Wait { pending: num_stages - 2 }));
            assert_eq!(GpuOp::of(body.next().unwrap()), Some(GpuOp::Barrier));
            let rings = ops_of(module.entry())
                .filter(|op| matches!(GpuOp::of(*op), Some(GpuOp::Alloc { .. })))
                .filter(|op| Smem::of(type_of(results_of(*op)[0])).unwrap().slots == num_stages);
            assert_eq!(rings.count(), buffers);
            // What is read is the slot that the loop carries, never the one that is written.
            let carried = *args_of(blocks_of(inner)[0]).last().unwrap();
            for op in gpu_ops(inner) {
                match op {
                    GpuOp::AsyncCopy { slot, .. } => assert!(slot != carried),
                    GpuOp::MmaSync { rhs: MmaOperand::Shared { slot, .. }, .. } => assert!(slot == carried),
                    _ => {}
                }
            }
            // Every copy, in front of the loop and inside, is guarded by the trip count: no trip, no copy.
            for op in nested_ops(module.function()) {
                if let Some(GpuOp::AsyncCopy { smem, .. }) = GpuOp::of(op)
                    && Smem::of(type_of(smem)).unwrap().slots > 1
                {
                    assert_eq!(name_of(op.parent_operation().unwrap()), "scf.if");
                }
            }
        }
    }
}

#[test]
fn one_stage_starts_copies_together_and_waits_for_each() {
    let context = dialect::context(&[]);
    let one = Settings { num_stages: 1, ..SETTINGS };
    let (module, _) = lower(&parse(&context, FMHA), one).unwrap();
    let waits = |module: &Module| -> Vec<usize> {
        let pending = |op| if let GpuOp::Wait { pending } = op { Some(pending) } else { None };
        gpu_ops(loops(module)[0]).into_iter().filter_map(pending).collect()
    };
    // V may still be on its way while scores are computed.
    assert_eq!(waits(&module), [1, 0]);
    assert_eq!(count(loops(&module)[0], BARRIER), 3);
    let (module, _) = lower(&parse(&context, MATMUL), one).unwrap();
    assert_eq!(waits(&module), [0]);
    assert_eq!(count(loops(&module)[0], BARRIER), 2);
}

#[test]
fn an_inner_ring_is_not_refilled_while_it_is_read() {
    let context = dialect::context(&[]);
    let module = kernel(&context, "persistent", DType::F16, &[("TILE", 64)]);
    let (module, _) = lower(&module, SETTINGS).unwrap();
    let [outer, inner] = loops(&module)[..] else { panic!("two loops") };
    let before: Vec<_> = ops_of(blocks_of(outer)[0]).take_while(|op| *op != inner).collect();
    let barrier = before.iter().position(|op| GpuOp::of(*op) == Some(GpuOp::Barrier)).expect("a barrier");
    let copies = |op: &Op| count(*op, |o| matches!(o, GpuOp::AsyncCopy { .. })) > 0;
    assert!(before[..barrier].iter().all(|op| !copies(op)), "{}", module.to_text());
}

/// What other threads wrote is read after a barrier, and never ahead of time.
#[test]
fn tensors_that_are_updated_are_read_in_order() {
    let context = dialect::context(&[]);
    let module = kernel(&context, "powers", DType::BF16, &[("TILE", 64)]);
    let (module, remarks) = lower(&module, SETTINGS).unwrap();
    assert!(remarks.iter().any(|r| r.contains("copies wait in every iteration")), "{remarks:#?}");
    let ops: Vec<_> = gpu_ops(loops(&module)[0]);
    let store = ops.iter().position(|op| matches!(op, GpuOp::GlobalStore { .. })).unwrap();
    assert_eq!((&ops[store - 1], &ops[store + 1]), (&GpuOp::Barrier, &GpuOp::Barrier));
    assert_eq!(count(module.function(), |op| matches!(op, GpuOp::Wait { pending } if *pending > 0)), 0);
}

#[test]
fn only_innermost_loops_get_a_ring() {
    let context = dialect::context(&[]);
    let module = kernel(&context, "outer_operand", DType::BF16, &[("TILE", 64), ("DEPTH", 64)]);
    let (module, remarks) = lower(&module, Settings { num_stages: 3, ..SETTINGS }).unwrap();
    let slots: Vec<_> = nested_ops(module.function())
        .into_iter()
        .filter(|op| name_of(*op) == "tgpu.alloc")
        .map(|op| Smem::of(type_of(results_of(op)[0])).unwrap().slots)
        .collect();
    assert_eq!(slots, [1, 3], "{remarks:#?}");
}

#[test]
fn buffers_share_memory_when_their_lives_do_not_meet() {
    let context = dialect::context(&[]);
    let (module, _) = lower(&parse(&context, MATMUL), SETTINGS).unwrap();
    // The result's 32 KiB of scratch lie where the 64 KiB ring was.
    assert_eq!(int_attr(module.function(), "tgpu.shared_bytes"), Some(65536));
    let big = Settings { num_stages: 4, ..SETTINGS };
    let error = lower(&parse(&context, MATMUL), big).unwrap_err();
    let expected = PassError::SharedMemory { needed: 131072, available: 101376, target: "sm_121" };
    assert_eq!(error, expected);
}

#[test]
fn wide_stores_are_coalesced() {
    let context = dialect::context(&[]);
    let (module, _) = lower(&parse(&context, MATMUL), SETTINGS).unwrap();
    let stores: Vec<_> = gpu_ops(module.function())
        .into_iter()
        .filter_map(|op| match op {
            GpuOp::GlobalStore { tile, vec_bytes, .. } => {
                Some((layout_of(type_of(tile)).unwrap(), vec_bytes))
            }
            _ => None,
        })
        .collect();
    assert_eq!(stores.len(), 1);
    assert_eq!((stores[0].0.contiguous_registers(1), stores[0].1), (8, 16));
}

/// What cannot be copied asynchronously is copied by the threads, between barriers.
#[test]
fn unaligned_operands_are_copied_by_the_threads() {
    let context = dialect::context(&[]);
    let (module, remarks) = lower(&parse(&context, MATMUL), Settings { aligned: false, ..SETTINGS }).unwrap();
    let inner = loops(&module)[0];
    assert_eq!(count(inner, |op| matches!(op, GpuOp::AsyncCopy { .. })), 0);
    assert_eq!(count(inner, |op| matches!(op, GpuOp::Copy { vec_bytes: 2, .. })), 2);
    let ops = gpu_ops(inner);
    for (i, op) in ops.iter().enumerate() {
        if matches!(op, GpuOp::Copy { .. }) {
            assert_eq!((&ops[i - 1], &ops[i + 1]), (&GpuOp::Barrier, &GpuOp::Barrier));
        }
    }
    assert!(
        remarks.iter().any(|r| r.contains("not asynchronous: its accesses are of 2 bytes")),
        "{remarks:#?}"
    );
}

/// A kernel's name, its dtype and its const parameters.
type Case = (&'static str, DType, Vec<(&'static str, i64)>);

/// Every kernel of the zoo in many shapes keeps the rules of the gpu level.
#[test]
fn every_kernel_gets_layouts() {
    let context = dialect::context(&[]);
    let cube = |names: [&'static str; 3], sizes: [i64; 3]| -> Vec<(&'static str, i64)> {
        names.into_iter().zip(sizes).collect()
    };
    let mut cases: Vec<Case> = Vec::new();
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for sizes in [[1, 1, 1], [8, 8, 8], [16, 8, 16], [128, 64, 32], [2, 128, 64]] {
            for nk in [0, 1] {
                let mut consts = cube(["TILE_M", "TILE_N", "TILE_K"], sizes);
                consts.push(("RHS_IS_NK", nk));
                cases.push(("matmul", dtype, consts));
            }
        }
        for sizes in [[64, 64, 64], [128, 16, 64], [64, 128, 32], [32, 1, 8]] {
            let mut consts = cube(["HEAD_DIM", "TILE_M", "TILE_N"], sizes);
            consts.push(("CAUSAL", 1));
            cases.push(("fmha", dtype, consts));
        }
        for name in ["scaled_lhs", "computed_rhs", "widened_rhs", "persistent", "powers", "paged"] {
            for tile in [1, 16, 64] {
                cases.push((name, dtype, vec![("TILE", tile)]));
            }
        }
        for (tile, depth) in [(16, 32), (64, 64), (64, 256)] {
            cases.push(("outer_operand", dtype, vec![("TILE", tile), ("DEPTH", depth)]));
            cases.push(("branching", dtype, vec![("TILE", tile)]));
        }
        for name in ["softmax", "column_means"] {
            for (rows, cols) in [(1, 1), (1, 1024), (64, 64), (128, 2)] {
                cases.push((name, dtype, vec![("ROWS", rows), ("COLS", cols)]));
            }
        }
        for n in [1, 32, 4096] {
            cases.extend(["add", "spread", "newton"].map(|name| (name, dtype, vec![("N", n)])));
            cases.push(("embed", dtype, vec![("N", n.min(64)), ("D", 64)]));
        }
        cases.push(("swap_axes", dtype, cube(["A", "B", "C"], [2, 16, 32])));
    }
    for dtype in [DType::F16, DType::BF16] {
        for sizes in [[1, 16, 16], [8, 64, 256], [64, 64, 64], [32, 128, 128]] {
            cases.push(("narrow_weights", dtype, cube(["M", "N", "K"], sizes)));
        }
    }
    for sizes in [[1, 1, 16], [16, 8, 64], [64, 64, 256], [128, 32, 32]] {
        cases.push(("scaled_product", DType::F32, cube(["M", "N", "K"], sizes)));
    }
    cases.extend([1, 2, 64, 4096].map(|n| ("half_bytes", DType::F32, vec![("N", n)])));
    cases.extend([1, 8, 64].map(|tile| ("fp8_matmul", DType::F32, vec![("TILE", tile)])));
    for (name, dtype, consts) in cases {
        let module = kernel(&context, name, dtype, &consts);
        for (target, num_warps, num_stages, aligned) in
            [("sm_80", 1, 1, true), ("sm_121", 4, 2, true), ("sm_90", 8, 3, true), ("sm_100", 4, 2, false)]
        {
            let settings = Settings { target, num_warps, num_stages, aligned, ..SETTINGS };
            let fits = |e: &PassError| !matches!(e, PassError::SharedMemory { .. });
            if let Some(error) = lower(&module, settings).err().filter(fits) {
                panic!("{name} {dtype} {consts:?} {settings:?}: {error}\n{}", module.to_text());
            }
        }
    }
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let context = dialect::context(&[]);
    let module = parse(&context, MATMUL);
    let error = lower(&module, Settings { num_warps: 3, ..SETTINGS }).unwrap_err();
    assert_eq!(error, PassError::NumWarps(3));
}

#[test]
fn copies_of_pages_run_ahead_with_the_table_s_entries() {
    let context = dialect::context(&[]);
    let module = kernel(&context, "paged", DType::BF16, &[("TILE", 64)]);
    let (module, remarks) = lower(&module, Settings { num_stages: 3, ..SETTINGS }).unwrap();
    assert!(remarks.iter().any(|r| r.contains("2 copies run ahead in 3 slots")), "{remarks:#?}");
    // The iteration itself reads no entry: each copy that starts ahead has its own, under the guard of the trip
    // count.
    let inner = loops(&module)[0];
    let reads = |op: Op| nested_ops(op).into_iter().filter(|o| name_of(*o) == "tile.at").count();
    let in_body = ops_of(blocks_of(inner)[0]).filter(|op| name_of(*op) == "tile.at").count();
    assert_eq!((in_body, reads(inner)), (0, 1), "{}", module.to_text());
    assert_eq!(reads(module.function()), 2 + 2 + 1, "two ahead of the loop; the length and the gain");
}
