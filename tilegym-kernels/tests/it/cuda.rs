//! Every kernel on a GPU against its f64 reference. Without a GPU each test says that it is skipped, and why.
//!
//! Tolerances are the contracts' for tensor cores.

use crate::support::{agree_on_devices, config, problem, run_on};
use std::io::Write;
use tile::contract::{self, Contract, random_inputs};
use tile::{DType, Device};
use tilegym_kernels::{
    FmhaContract, FmhaExtendedContract, FmhaVarlenContract, GELU_AND_MUL, LayerNormContract, LinearContract,
    MatmulBatchedContract, MatmulContract, MatmulSplitkContract, RmsNormContract, RopeContract, SILU_AND_MUL,
    SoftmaxContract, SplitkReduceContract,
};
use tilegym_kernels::{Nvfp4GemmContract, Nvfp4QuantizeContract};

/// The first GPU; where there is none, says on the standard error that `test` is skipped.
pub fn gpu(test: &str) -> Option<Device> {
    let found = Device::cuda(0);
    if let Err(reason) = &found {
        // Not `eprintln`, which the harness captures.
        writeln!(std::io::stderr(), "SKIPPED {test}: {reason}").expect("standard error is writable");
    }
    found.ok()
}

fn agree(device: &Device, contract: &dyn Contract, sizes: &[(&str, i64)], consts: &[(&str, i64)]) {
    for &dtype in contract.dtypes() {
        let problem = problem(contract, dtype, sizes);
        let config = config(contract, &problem, consts);
        let inputs = random_inputs(contract, &problem, 11);
        agree_on_devices([device], contract, &problem, &config, &inputs);
    }
}

#[test]
fn matmul_agrees_with_its_reference() {
    let Some(device) = gpu("matmul_agrees_with_its_reference") else { return };
    for (m, n, k) in [(1, 1, 1), (8, 8, 8), (257, 129, 65), (256, 256, 256), (512, 384, 1023), (1, 512, 768)]
    {
        for is_nk in [0, 1] {
            let sizes = [("m", m), ("n", n), ("k", k), ("rhs_is_nk", is_nk)];
            agree(&device, &MatmulContract, &sizes, &[]);
            agree(&device, &MatmulContract, &sizes, &[("TILE_M", 16), ("TILE_N", 128), ("TILE_K", 32)]);
        }
    }
}

/// Operands that tensor maps round on their way to `wgmma`; of 1023 columns there are no maps.
#[test]
fn products_of_rounded_operands_agree_with_their_references() {
    let Some(device) = gpu("products_of_rounded_operands_agree_with_their_references") else { return };
    for (m, n, k) in [(64, 64, 4), (257, 129, 64), (512, 384, 1024), (300, 200, 1023)] {
        let contracts: [&dyn Contract; 3] = [&MatmulContract, &LinearContract, &MatmulBatchedContract];
        for contract in contracts {
            let problem = problem(contract, DType::F32, &[("m", m), ("n", n), ("k", k), ("rhs_is_nk", 1)]);
            let inputs = random_inputs(contract, &problem, 11);
            for persistent in [0, 1] {
                let options =
                    [("num_warps", 8), ("num_stages", 3), ("tf32_wgmma", 1), ("persistent", persistent)];
                let tiles = [("TILE_M", 128), ("TILE_N", 128), ("TILE_K", 32)];
                let config = config(contract, &problem, &[&tiles[..], &options].concat());
                agree_on_devices([&device], contract, &problem, &config, &inputs);
            }
        }
    }
}

#[test]
fn matmul_variants_agree_with_their_references() {
    let Some(device) = gpu("matmul_variants_agree_with_their_references") else { return };
    for (m, n, k) in [(3, 8, 5), (257, 129, 65), (1024, 256, 512)] {
        let sizes = [("m", m), ("n", n), ("k", k)];
        for bias in [0, 1] {
            for activation in 0..4 {
                let switches = [("bias", bias), ("activation", activation)];
                agree(&device, &LinearContract, &[&sizes[..], &switches].concat(), &[]);
            }
        }
        for is_nk in [0, 1] {
            let batch = [("batch", 3), ("rhs_is_nk", is_nk)];
            agree(&device, &MatmulBatchedContract, &[&sizes[..], &batch].concat(), &[]);
        }
    }
}

/// Operands in shared memory with M or N innermost too, of CTAs of every rank, that walk or do not.
#[test]
fn clusters_agree_with_their_references() {
    let name = "clusters_agree_with_their_references";
    let Some(device) = gpu(name) else { return };
    if device.target().is_none_or(|target| !target.has_wgmma()) {
        let mut to = std::io::stderr();
        return writeln!(to, "SKIPPED {name}: clusters are launched on Hopper alone")
            .expect("standard error is writable");
    }
    let bf16 = |contract: &dyn Contract, sizes: &[(&str, i64)], settings: &[(&str, i64)]| {
        let problem = problem(contract, DType::BF16, sizes);
        let config = config(contract, &problem, settings);
        let inputs = random_inputs(contract, &problem, 11);
        agree_on_devices([&device], contract, &problem, &config, &inputs);
    };
    for num_ctas in [2, 4] {
        for persistent in [0, 1] {
            let walks = [("num_ctas", num_ctas), ("persistent", persistent), ("num_warps", 8)];
            let tiles = [("TILE_M", 128), ("TILE_N", 128), ("occupancy", 1), ("num_stages", 2)];
            let settings = [&tiles[..], &walks].concat();
            for is_nk in [0, 1] {
                let sizes = [("m", 1000), ("n", 520), ("k", 328), ("rhs_is_nk", is_nk)];
                bf16(&MatmulContract, &sizes, &[&settings[..], &[("TILE_K", 64)]].concat());
            }
            for (head_dim, causal) in [(128, 0), (64, 0), (128, 1)] {
                let heads = [("batch", 2), ("heads", 4), ("kv_heads", 2), ("head_dim", head_dim)];
                let lens = [("seq_q", 1024), ("seq_k", 1000), ("causal", causal)];
                bf16(&FmhaContract, &[&heads[..], &lens].concat(), &settings);
            }
        }
    }
}

/// In any number of parts, fewer tiles of K than parts among them; and twice the same bits.
#[test]
fn matmul_splitk_agrees_with_its_reference() {
    let Some(device) = gpu("matmul_splitk_agrees_with_its_reference") else { return };
    let contract = &MatmulSplitkContract;
    for (m, n, k) in [(1, 1, 1), (3, 8, 4104), (257, 129, 65), (256, 384, 2048), (130, 257, 1023)] {
        for is_nk in [0, 1] {
            let sizes = [("m", m), ("n", n), ("k", k), ("rhs_is_nk", is_nk)];
            agree(&device, contract, &sizes, &[]);
            for splits in [1, 3, 12] {
                let tiles = [("TILE_M", 128), ("TILE_N", 128), ("SPLITS", splits)];
                agree(&device, contract, &sizes, &tiles);
            }
        }
    }
    for &dtype in contract.dtypes() {
        let problem = problem(contract, dtype, &[("m", 512), ("n", 512), ("k", 16384)]);
        let config = config(contract, &problem, &[]);
        assert!(config.consts["SPLITS"] > 1);
        let inputs = random_inputs(contract, &problem, 11);
        let first = run_on(&device, contract, &problem, &config, &inputs);
        for _ in 0..3 {
            assert!(run_on(&device, contract, &problem, &config, &inputs) == first, "{dtype}");
        }
    }
}

#[test]
fn fmha_agrees_with_its_reference() {
    let Some(device) = gpu("fmha_agrees_with_its_reference") else { return };
    for (heads, kv_heads, seq_q, seq_k) in
        [(1, 1, 9, 9), (4, 4, 256, 256), (8, 2, 33, 70), (4, 1, 1, 63), (2, 2, 511, 511)]
    {
        for head_dim in [64, 96, 128, 256] {
            for causal in [0, 1] {
                let sizes = [
                    ("batch", 2),
                    ("heads", heads),
                    ("kv_heads", kv_heads),
                    ("seq_q", seq_q),
                    ("seq_k", seq_k),
                    ("head_dim", head_dim),
                    ("causal", causal),
                ];
                agree(&device, &FmhaContract, &sizes, &[]);
            }
        }
    }
}

#[test]
fn fmha_variants_agree_with_their_references() {
    let Some(device) = gpu("fmha_variants_agree_with_their_references") else { return };
    for (head_dim, seq_q, seq_k) in [(64, 33, 70), (96, 200, 200), (128, 300, 511), (256, 70, 130)] {
        let shared = [("heads", 4), ("kv_heads", 2), ("head_dim", head_dim)];
        let lens = [("batch", 2), ("seq_q", seq_q), ("seq_k", seq_k)];
        for bits in 0..16 {
            let bit = |i: i64| bits >> i & 1;
            let switches =
                [("causal", bit(0)), ("window", 40 * bit(1)), ("soft_cap", bit(2)), ("sinks", bit(3))];
            agree(&device, &FmhaExtendedContract, &[&shared[..], &lens, &switches].concat(), &[]);
        }
        let packed = [("batch", 5), ("max_seq_q", 2 * seq_q), ("total_q", 3 * seq_q), ("total_k", 4 * seq_k)];
        for (causal, window) in [(0, 0), (1, 0), (1, 40)] {
            let switches = [("causal", causal), ("window", window)];
            agree(&device, &FmhaVarlenContract, &[&shared[..], &packed, &switches].concat(), &[]);
        }
    }
}

#[test]
fn row_kernels_agree_with_their_references() {
    let Some(device) = gpu("row_kernels_agree_with_their_references") else { return };
    let contracts: [&dyn Contract; 4] =
        [&RmsNormContract::PLAIN, &RmsNormContract::ADDING, &LayerNormContract, &SoftmaxContract];
    for contract in contracts {
        for (rows, columns) in [(1, 1), (3, 64), (33, 100), (9, 1000), (5, 5120), (17, 8192), (3, 20001)] {
            agree(&device, contract, &[("rows", rows), ("columns", columns)], &[]);
        }
        // Rows of several blocks.
        agree(&device, contract, &[("rows", 5), ("columns", 1000)], &[("ROWS", 4), ("TILE_N", 64)]);
    }
}

#[test]
fn block_kernels_agree_with_their_references() {
    let Some(device) = gpu("block_kernels_agree_with_their_references") else { return };
    for (rows, columns) in [(1, 1), (3, 128), (5, 100), (7, 1001), (33, 4096)] {
        let sizes = [("rows", rows), ("columns", columns)];
        for contract in [&SILU_AND_MUL, &GELU_AND_MUL] {
            agree(&device, contract, &sizes, &[]);
            agree(&device, contract, &sizes, &[("TILE_M", 4), ("TILE_N", 256)]);
        }
        for splits in [1, 3, 8] {
            let sizes = [("splits", splits), sizes[0], sizes[1]];
            agree(&device, &SplitkReduceContract, &sizes, &[]);
        }
    }
}

/// Loads to registers, copies by all threads and bulk copies, under a policy.
#[test]
fn kernels_whose_loads_stream_agree_with_their_references() {
    let Some(device) = gpu("kernels_whose_loads_stream_agree_with_their_references") else { return };
    let stream = ("stream_loads", 1);
    let contracts: [&dyn Contract; 4] =
        [&RmsNormContract::PLAIN, &RmsNormContract::ADDING, &LayerNormContract, &SoftmaxContract];
    for contract in contracts {
        for (rows, columns) in [(3, 64), (33, 100), (17, 8192)] {
            agree(&device, contract, &[("rows", rows), ("columns", columns)], &[stream]);
        }
    }
    for (warp_specialize, persistent) in [(0, 0), (1, 0), (1, 1)] {
        let options = [("warp_specialize", warp_specialize), ("persistent", persistent), stream];
        let shape = [("batch", 2), ("heads", 4), ("kv_heads", 2), ("head_dim", 64)];
        let sizes = [&shape[..], &[("seq_q", 300), ("seq_k", 511), ("causal", 1)]].concat();
        agree(&device, &FmhaContract, &sizes, &options);
    }
}

#[test]
fn rope_agrees_with_its_reference() {
    let Some(device) = gpu("rope_agrees_with_its_reference") else { return };
    for (tokens, heads, head_dim) in [(1, 1, 2), (5, 3, 64), (33, 9, 96), (40, 32, 128), (7, 4, 256)] {
        for interleaved in [0, 1] {
            let sizes = [("tokens", tokens), ("heads", heads), ("head_dim", head_dim)];
            agree(&device, &RopeContract, &[&sizes[..], &[("interleaved", interleaved)]].concat(), &[]);
        }
    }
}

/// Shapes of NVFP4 products: m, n, k.
const NVFP4_SHAPES: [(i64, i64, i64); 5] =
    [(1, 1, 16), (1, 4096, 512), (13, 1000, 1040), (16, 300, 16 * 33), (130, 257, 528)];

#[test]
fn nvfp4_gemm_agrees_with_its_reference() {
    let Some(device) = gpu("nvfp4_gemm_agrees_with_its_reference") else { return };
    for contract in [Nvfp4GemmContract::WEIGHTS, Nvfp4GemmContract::BOTH] {
        for (m, n, k) in NVFP4_SHAPES {
            for order in [0, 1] {
                let sizes = [("m", m), ("n", n), ("k", k), ("scales_128x4", order)];
                agree(&device, &contract, &sizes, &[]);
                let tile_m = if contract.kernel().name == "nvfp4_gemm_scaled" { 128 } else { 16 };
                let tiles = [("TILE_M", tile_m), ("TILE_N", 128), ("TILE_K", 64), ("SPLITS", 3)];
                agree(&device, &contract, &sizes, &tiles);
            }
        }
    }
}

/// Weights that are widened under the product before, of programs with many blocks of K, one, or none.
#[test]
fn nvfp4_gemm_that_computes_ahead_agrees_with_its_reference() {
    let Some(device) = gpu("nvfp4_gemm_that_computes_ahead_agrees_with_its_reference") else { return };
    for (m, n, k) in [(130, 257, 528), (256, 300, 4096), (70, 140, 1280), (128, 128, 16), (64, 200, 128)] {
        for (splits, order) in [(1, 0), (8, 0), (8, 1)] {
            let tiles = [("TILE_M", 128), ("TILE_N", 128), ("TILE_K", 64), ("SPLITS", splits)];
            let options = [
                ("num_warps", 8),
                ("num_stages", 3),
                ("warp_specialize", 1),
                ("compute_ahead", 1),
                ("occupancy", 1),
            ];
            let sizes = [("m", m), ("n", n), ("k", k), ("scales_128x4", order)];
            agree(&device, &Nvfp4GemmContract::WEIGHTS, &sizes, &[&tiles[..], &options].concat());
        }
    }
}

/// Sums that are split over CTAs have the same bits whoever joins them; and so many CTAs on an SM, loading as fast as
/// they can, leave no load behind that its slot's next copy could overtake.
#[test]
fn split_sums_are_the_same_every_time() {
    let Some(device) = gpu("split_sums_are_the_same_every_time") else { return };
    let contract = &Nvfp4GemmContract::WEIGHTS;
    let tiles = [("TILE_M", 64), ("TILE_N", 64), ("TILE_K", 128), ("SPLITS", 1), ("num_warps", 4)];
    for (n, k) in [(3584, 18944), (37888, 3584)] {
        let problem = problem(contract, DType::BF16, &[("m", 64), ("n", n), ("k", k)]);
        let inputs = random_inputs(contract, &problem, 3);
        for (occupancy, split, stages) in [(3, 1, 3), (3, 0, 3), (2, 1, 3), (2, 2, 3), (2, 1, 4), (3, 1, 2)] {
            let options = [
                ("num_stages", stages),
                ("occupancy", occupancy),
                ("warp_specialize", 1),
                ("persistent", 1),
                ("split_tail", split),
            ];
            let config = config(contract, &problem, &[&tiles[..], &options].concat());
            let run = || contract::run(contract, &problem, &config, &device, &inputs).expect("it runs");
            let first = run();
            for round in 0..10 {
                assert!(run() == first, "{problem:?} {config:?}: other bits in round {round}");
            }
        }
    }
}

/// The code for sm_121a, with the product of 4-bit elements replaced by a sequence that this GPU has.
#[test]
fn nvfp4_gemm_built_for_sm_121a_agrees_with_its_reference() {
    let Some(device) = gpu("nvfp4_gemm_built_for_sm_121a_agrees_with_its_reference") else { return };
    if device.target().is_none_or(|target| target.part != "sm_90") {
        writeln!(
            std::io::stderr(),
            "SKIPPED nvfp4_gemm_built_for_sm_121a_agrees_with_its_reference: the stand-in is built for sm_90"
        )
        .expect("standard error is writable");
        return;
    }
    tile::jit::compiling_for(codegen_ptx::Target::sm_121a_on_sm_90a(), || {
        for (m, n, k) in NVFP4_SHAPES {
            for order in [0, 1] {
                let sizes = [("m", m), ("n", n), ("k", k), ("scales_128x4", order)];
                agree(&device, &Nvfp4GemmContract::WEIGHTS, &sizes, &[]);
                let tile_m = if order == 1 { 128 } else { 32 };
                for tile_k in [64, 128] {
                    let tiles = [("TILE_M", tile_m), ("TILE_N", 128), ("TILE_K", tile_k)];
                    agree(&device, &Nvfp4GemmContract::BOTH, &sizes, &tiles);
                }
            }
        }
    });
}

#[test]
fn nvfp4_quantize_agrees_with_its_reference() {
    let Some(device) = gpu("nvfp4_quantize_agrees_with_its_reference") else { return };
    for (m, k) in [(1, 16), (33, 80), (130, 304), (512, 4096)] {
        for order in [0, 1] {
            let sizes = [("m", m), ("k", k), ("scales_128x4", order)];
            agree(&device, &Nvfp4QuantizeContract, &sizes, &[]);
        }
    }
}
