//! Decode attention against its f64 reference: grouped heads, ragged and empty sequences, pages, narrow caches.

use crate::support::{agree_on, agree_on_devices, config, problem, run_eager};
use codegen_ptx::{Compiled, Ptxas, Target};
use std::io::Write;
use tile::contract::{Contract, Problem, random_inputs, run_steps};
use tile::dynamic::{CpuOptions, DynTensor};
use tile::{Config, Device};
use tile_lang::DType;
use tilegym_kernels::DecodeAttentionContract;

/// Places of the inputs that the tests change.
const K: usize = 1;
const V: usize = 2;
const LENGTHS: usize = 3;
const TABLE: usize = 4;

/// Lengths that a batch of four has: all keys, none, one, an odd number.
const LENGTHS_OF_FOUR: [usize; 4] = [75, 0, 1, 37];

/// A batch of four over 75 keys, with other sizes on top.
fn small(dtype: DType, sizes: &[(&str, i64)]) -> Problem {
    let defaults = [("batch", 4), ("heads", 4), ("kv_heads", 2), ("seq_k", 75), ("head_dim", 64)];
    let others = defaults.iter().filter(|(name, _)| sizes.iter().all(|(given, _)| given != name));
    problem(&DecodeAttentionContract, dtype, &[sizes, &others.copied().collect::<Vec<_>>()].concat())
}

/// Random inputs with sequences of these lengths, and NaN in the cache beyond them.
fn ragged(p: &Problem, lengths: &[usize]) -> Vec<DynTensor> {
    let mut inputs = random_inputs(&DecodeAttentionContract, p, 5);
    let values: Vec<f64> = lengths.iter().map(|&n| n as f64).collect();
    inputs[LENGTHS] = DynTensor::from_f64(DType::I32, &[lengths.len()], &values);
    let table = inputs[TABLE].to_f64();
    let columns = inputs[TABLE].shape[1];
    let [_, page, kv_heads, dim] = inputs[K].shape[..] else { panic!("a cache has four dimensions") };
    for cache in [K, V] {
        let mut values = inputs[cache].to_f64();
        for (sequence, &length) in lengths.iter().enumerate() {
            for i in length..columns * page {
                let home = match p.size("page_size") {
                    0 => sequence,
                    _ => table[sequence * columns + i / page] as usize,
                };
                values[(home * page + i % page) * kv_heads * dim..][..kv_heads * dim].fill(f64::NAN);
            }
        }
        inputs[cache] = DynTensor::from_f64(inputs[cache].dtype, &inputs[cache].shape, &values);
    }
    inputs
}

fn agree(sizes: &[(&str, i64)], consts: &[(&str, i64)]) {
    for &dtype in DecodeAttentionContract.dtypes() {
        let problem = small(dtype, sizes);
        let config = config(&DecodeAttentionContract, &problem, consts);
        agree_on(&DecodeAttentionContract, &problem, &config, &ragged(&problem, &LENGTHS_OF_FOUR));
    }
}

#[test]
fn ragged_lengths_in_one_or_several_splits() {
    for splits in [1, 2, 3, 8] {
        for tile_n in [16, 32] {
            agree(&[], &[("TILE_N", tile_n), ("NUM_SPLITS", splits)]);
        }
    }
    agree(&[("head_dim", 128)], &[("TILE_N", 64), ("NUM_SPLITS", 2)]);
}

#[test]
fn grouped_heads_share_a_tile() {
    for (heads, kv_heads) in [(3, 3), (8, 2), (7, 1), (16, 2), (20, 1)] {
        for splits in [1, 2] {
            agree(&[("heads", heads), ("kv_heads", kv_heads)], &[("TILE_N", 32), ("NUM_SPLITS", splits)]);
        }
    }
}

#[test]
fn pages_in_any_order() {
    for page_size in [16, 32, 64, 128] {
        for (tile_n, splits) in [(16, 1), (16, 3), (page_size, 2)] {
            agree(&[("page_size", page_size)], &[("TILE_N", tile_n), ("NUM_SPLITS", splits)]);
        }
    }
}

#[test]
fn narrow_caches_with_scales() {
    for head_scales in [0, 1] {
        for page_size in [0, 16] {
            let sizes = [("f8_cache", 1), ("head_scales", head_scales), ("page_size", page_size)];
            for splits in [1, 2] {
                agree(&sizes, &[("TILE_N", 16), ("NUM_SPLITS", splits)]);
            }
        }
    }
}

#[test]
fn a_sequence_without_keys_gives_zeros() {
    let problem = small(DType::BF16, &[]);
    for splits in [1, 4] {
        let config = config(&DecodeAttentionContract, &problem, &[("NUM_SPLITS", splits)]);
        let inputs = ragged(&problem, &[0, 75, 0, 0]);
        let found = run_eager(&DecodeAttentionContract, &problem, &config, &inputs);
        let (out, lse) = (found[0].chunks(4 * 64), found[1].chunks(4));
        for (sequence, (out, lse)) in out.zip(lse).enumerate() {
            assert_eq!(out.iter().all(|&x| x == 0.0), sequence != 1, "sequence {sequence}");
            assert_eq!(lse.iter().all(|&x| x == f64::NEG_INFINITY), sequence != 1, "sequence {sequence}");
        }
    }
}

/// Runs on the CPU with checks; the message of the one that fails.
fn checked(problem: &Problem, config: &Config, inputs: &[DynTensor]) -> String {
    let contract = &DecodeAttentionContract;
    let mut tensors = tile::contract::make_tensors(contract, problem, config, inputs);
    let options = CpuOptions { checked: true, ..CpuOptions::default() };
    match run_steps(&contract.steps(problem, config), &Device::cpu(), &mut tensors, options) {
        Ok(()) => String::new(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn checks_name_bad_lengths_and_pages() {
    let problem = small(DType::BF16, &[("page_size", 16)]);
    let config = config(&DecodeAttentionContract, &problem, &[("TILE_N", 16), ("NUM_SPLITS", 2)]);
    let good = ragged(&problem, &LENGTHS_OF_FOUR);
    assert_eq!(checked(&problem, &config, &good), "");

    let change = |input: usize, place: usize, value: f64| {
        let mut inputs = good.clone();
        let mut values = inputs[input].to_f64();
        values[place] = value;
        inputs[input] = DynTensor::from_f64(DType::I32, &inputs[input].shape, &values);
        inputs
    };
    let beyond = checked(&problem, &config, &change(LENGTHS, 3, 81.0));
    assert!(beyond.contains("a length is beyond the cache"), "{beyond}");
    let negative = checked(&problem, &config, &change(LENGTHS, 2, -1.0));
    assert!(negative.contains("a length is negative"), "{negative}");
    for page in [-1.0, 20.0] {
        let page = checked(&problem, &config, &change(TABLE, 1, page));
        assert!(page.contains("a page index is out of range"), "{page}");
    }
    // The second sequence has no keys, so that its pages do not matter.
    assert_eq!(checked(&problem, &config, &change(TABLE, 7, 20.0)), "");
}

#[test]
fn programs_write_apart() {
    let problem = small(DType::F16, &[("page_size", 16)]);
    for splits in [1, 3] {
        let config = config(&DecodeAttentionContract, &problem, &[("TILE_N", 16), ("NUM_SPLITS", splits)]);
        let inputs = ragged(&problem, &LENGTHS_OF_FOUR);
        let mut tensors = tile::contract::make_tensors(&DecodeAttentionContract, &problem, &config, &inputs);
        let options = CpuOptions { check_races: true, ..CpuOptions::default() };
        let steps = DecodeAttentionContract.steps(&problem, &config);
        run_steps(&steps, &Device::cpu(), &mut tensors, options).unwrap_or_else(|e| panic!("{e}"));
    }
}

#[cfg(feature = "cuda")]
#[test]
fn a_gpu_agrees_with_the_reference() {
    let Some(device) = crate::cuda::gpu("decode_attention::a_gpu_agrees_with_the_reference") else { return };
    let contract = &DecodeAttentionContract;
    for (heads, kv_heads) in [(2, 2), (8, 2), (7, 1), (16, 2), (40, 2)] {
        for (page_size, f8_cache) in [(0, 0), (16, 0), (64, 0), (0, 1), (128, 1)] {
            for head_dim in [64, 128] {
                let sizes = [
                    ("heads", heads),
                    ("kv_heads", kv_heads),
                    ("seq_k", 300),
                    ("head_dim", head_dim),
                    ("page_size", page_size),
                    ("f8_cache", f8_cache),
                    ("head_scales", f8_cache),
                ];
                for &dtype in contract.dtypes() {
                    let problem = small(dtype, &sizes);
                    let inputs = ragged(&problem, &[300, 0, 1, 133]);
                    for (splits, stream_loads) in [(1, 0), (1, 1), (3, 0), (3, 1)] {
                        let consts = [("NUM_SPLITS", splits), ("stream_loads", stream_loads)];
                        let config = config(contract, &problem, &consts);
                        agree_on_devices([&device], contract, &problem, &config, &inputs);
                    }
                }
            }
        }
    }
}

#[test]
fn emulated_gpus_agree_with_the_reference() {
    let contract = &DecodeAttentionContract;
    for (heads, kv_heads, head_dim) in [(4, 2, 64), (7, 1, 128)] {
        for (page_size, f8_cache) in [(0, 0), (16, 0), (64, 1)] {
            let shape = [("heads", heads), ("kv_heads", kv_heads), ("head_dim", head_dim), ("seq_k", 150)];
            let cache = [("page_size", page_size), ("f8_cache", f8_cache), ("head_scales", f8_cache)];
            for &dtype in contract.dtypes() {
                let problem = small(dtype, &[&shape[..], &cache].concat());
                let inputs = ragged(&problem, &[150, 0, 1, 133]);
                for (splits, stream_loads) in [(1, 0), (1, 1), (3, 0), (3, 1)] {
                    let consts = [("NUM_SPLITS", splits), ("stream_loads", stream_loads)];
                    let config = config(contract, &problem, &consts);
                    crate::emulated::agree_on(Target::all(), contract, &problem, &config, &inputs);
                }
            }
        }
    }
}

/// The assembler; where there is none, says on the standard error that `test` is skipped.
fn assembler(test: &str) -> Option<Ptxas> {
    let found = Ptxas::find(None);
    if let Err(error) = &found {
        let reason = error.to_string();
        let reason = reason.lines().next().unwrap_or_default();
        writeln!(std::io::stderr(), "SKIPPED {test}: {reason}").expect("standard error is writable");
    }
    found.ok()
}

/// The one kernel of a problem.
fn compiled(problem: &Problem, config: &Config, target: &'static Target) -> Compiled {
    let steps = DecodeAttentionContract.steps(problem, config);
    let [step] = &steps[..] else { panic!("one launch") };
    let facts = vec![tile_lang::config::TensorFacts::ALIGNED; step.tensors().count()];
    let made = tile::jit::compile(step.kernel, &step.bindings, &step.config, target, &facts, false);
    made.unwrap_or_else(|e| panic!("{target} {config:?}: {e}")).compiled
}

/// Stores, the count with release and acquire for the whole GPU, its answer for all threads, the merge.
#[test]
fn the_merge_is_ordered_behind_the_arrival() {
    let Some(assembler) = assembler("the_merge_is_ordered_behind_the_arrival") else { return };
    let problem = small(DType::BF16, &[("head_dim", 128), ("seq_k", 8192)]);
    for target in Target::all() {
        let consts = [("TILE_N", 64), ("NUM_SPLITS", 16)];
        let mut config = config(&DecodeAttentionContract, &problem, &consts);
        (config.num_warps, config.num_stages, config.occupancy) = (4, 2, 1);
        let compiled = compiled(&problem, &config, target);
        let ptx = &compiled.ptx;
        assert_eq!(ptx.matches("atom.acq_rel.gpu.global.inc.u32").count(), 1, "{target}");
        assert!(!ptx.contains("ld.global.nc"), "{target}");
        let report = assembler.assemble(ptx, target).unwrap_or_else(|e| panic!("{target}: {e}"));
        assert_eq!((report.stack_bytes, report.spill_load_bytes), (0, 0), "{target}");
        let sass = assembler.disassemble(&report.cubin).unwrap_or_else(|e| panic!("{e}"));
        let place = |word: &str| sass.lines().position(|line| line.contains(word));
        let order = ["MEMBAR", "ATOMG", "CCTL.IVALL", "BAR.RED"].map(|word| place(word).expect(word));
        assert!(order.is_sorted(), "{target}: {order:?}");
    }
}

/// Keys and values stream where each program has its own, in one run or in pages as long as tiles. Of `desc[UR4][R2.64]`,
/// the pair from UR4 on is a descriptor: an odd number says that the assembler has encoded the address wrongly.
#[test]
fn keys_and_values_stream() {
    let streams = |compiled: &Compiled| {
        let said = compiled.remarks.iter().filter(|r| r.fired).map(ToString::to_string);
        said.filter_map(|r| Some(r.split_once("each block of argument ")?.1.split(' ').next()?.to_owned()))
            .collect::<Vec<_>>()
    };
    let assembler = assembler("keys_and_values_stream");
    for target in Target::all() {
        for (page_size, f8_cache, expected) in [(0, 0, true), (0, 1, true), (64, 0, true), (128, 0, false)] {
            let sizes =
                [("head_dim", 128), ("seq_k", 8192), ("page_size", page_size), ("f8_cache", f8_cache)];
            let problem = small(DType::BF16, &sizes);
            let consts = [("TILE_N", 64), ("NUM_SPLITS", 16), ("stream_loads", 1)];
            let mut config = config(&DecodeAttentionContract, &problem, &consts);
            (config.num_warps, config.num_stages, config.occupancy) = (4, 3, 1);
            let compiled = compiled(&problem, &config, target);
            let case = format!("{target} {sizes:?}");
            let found = streams(&compiled);
            assert_eq!(found == [K, V].map(|n| n.to_string()), expected, "{case}: {found:?}");
            assert_eq!(compiled.ptx.contains("createpolicy"), expected, "{case}");
            let copies = "cp.async.cg.shared.global.L2::cache_hint";
            assert_eq!(compiled.ptx.contains(copies), expected, "{case}");
            let Some(assembler) = assembler.as_ref().filter(|_| expected) else { continue };
            let report = assembler.assemble(&compiled.ptx, target).unwrap_or_else(|e| panic!("{case}: {e}"));
            let sass = assembler.disassemble(&report.cubin).unwrap_or_else(|e| panic!("{e}"));
            let copies = sass.lines().filter(|line| line.contains("LDGSTS"));
            let number = |line: &str| line.split_once("desc[UR")?.1.split_once(']')?.0.parse::<usize>().ok();
            let numbers: Vec<Option<usize>> = copies.map(number).collect();
            assert!(
                numbers.iter().flatten().all(|n| n % 2 == 0) && !numbers.is_empty(),
                "{case}: {numbers:?}"
            );
        }
    }
}
