//! Every kernel's PTX for every target, executed on an emulated GPU, against its f64 reference.
//!
//! Tolerances are the contracts' for tensor cores.

use crate::support::{agree_on_devices, config, found_agrees, problem, run_on};
use codegen_ptx::Target;
use tile::contract::{self, Contract, Problem, contracts, random_inputs};
use tile::dynamic::DynTensor;
use tile::jit::{self, TensorFacts};
use tile::{Config, Device, LaunchError};
use tile_lang::DType;
use tilegym_kernels::{
    FmhaContract, FmhaExtendedContract, FmhaVarlenContract, LinearContract, MatmulBatchedContract,
    MatmulContract, MatmulSplitkContract, Nvfp4GemmContract,
};

/// Emulated GPUs agree with the reference.
pub fn agree_on(
    targets: &[&'static Target],
    contract: &dyn Contract,
    problem: &Problem,
    config: &Config,
    inputs: &[DynTensor],
) {
    let devices: Vec<_> = (1..).zip(targets).map(|(seed, target)| Device::emulated(target, seed)).collect();
    agree_on_devices(&devices, contract, problem, config, inputs);
}

fn agree(
    targets: &[&'static Target],
    contract: &dyn Contract,
    sizes: &[(&str, i64)],
    settings: &[(&str, i64)],
) {
    for &dtype in contract.dtypes() {
        let problem = problem(contract, dtype, sizes);
        let config = config(contract, &problem, settings);
        agree_on(targets, contract, &problem, &config, &random_inputs(contract, &problem, 11));
    }
}

/// Agreement on Hopper under many settings: each takes its turn with one of the contract's dtypes.
struct InTurn(usize);

impl InTurn {
    fn agree(&mut self, contract: &dyn Contract, sizes: &[(&str, i64)], settings: &[(&str, i64)]) {
        let dtypes: &[DType] = contract.dtypes();
        let problem = problem(contract, dtypes[self.0 % dtypes.len()], sizes);
        let config = config(contract, &problem, settings);
        let inputs = random_inputs(contract, &problem, 11);
        agree_on(&[hopper()], contract, &problem, &config, &inputs);
        self.0 += 1;
    }
}

fn hopper() -> &'static Target {
    Target::from_name("sm_90").expect("a target")
}

/// Small problems of a kernel: one whose tiles are whole, others where they are not.
fn small(kernel: &str) -> Vec<Vec<(&'static str, i64)>> {
    let attention = |head_dim, seq_q, seq_k, causal| {
        vec![
            ("batch", 1),
            ("heads", 2),
            ("kv_heads", 1),
            ("head_dim", head_dim),
            ("seq_q", seq_q),
            ("seq_k", seq_k),
            ("causal", causal),
        ]
    };
    let product = |m, n, k| vec![("m", m), ("n", n), ("k", k)];
    match kernel {
        "fmha" => vec![
            attention(64, 128, 128, 1),
            attention(64, 33, 70, 0),
            attention(96, 70, 70, 1),
            attention(128, 130, 200, 1),
            attention(256, 40, 96, 0),
        ],
        "fmha_extended" => [
            [("causal", 1), ("window", 40), ("soft_cap", 1), ("sinks", 1)],
            [("causal", 0), ("window", 40), ("soft_cap", 0), ("sinks", 0)],
        ]
        .map(|switches| [attention(64, 70, 90, 0)[..6].to_vec(), switches.to_vec()].concat())
        .to_vec(),
        "fmha_varlen" => {
            let lens = [("batch", 3), ("heads", 2), ("kv_heads", 1), ("head_dim", 64)];
            let packed = [("max_seq_q", 70), ("total_q", 150), ("total_k", 180)];
            [(1, 0), (0, 0), (1, 40)]
                .map(|(causal, window)| {
                    [&lens[..], &packed, &[("causal", causal), ("window", window)]].concat()
                })
                .to_vec()
        }
        "matmul" | "matmul_batched" => [product(128, 128, 128), product(130, 136, 72), product(33, 65, 17)]
            .into_iter()
            .flat_map(|sizes| [0, 1].map(|is_nk| [&sizes[..], &[("rhs_is_nk", is_nk)]].concat()))
            .map(|sizes| if kernel == "matmul" { sizes } else { [&[("batch", 2)], &sizes[..]].concat() })
            .collect(),
        "matmul_splitk" => [product(64, 128, 640), product(130, 136, 328), product(33, 65, 17)]
            .into_iter()
            .flat_map(|sizes| [0, 1].map(|is_nk| [&sizes[..], &[("rhs_is_nk", is_nk)]].concat()))
            .collect(),
        "linear" => (0..4)
            .map(|activation| {
                let switches = [("bias", activation % 2), ("activation", activation)];
                [product(70, 136, 72), switches.to_vec()].concat()
            })
            .collect(),
        "nvfp4_gemm" | "nvfp4_gemm_scaled" => [(1, 256, 512), (13, 200, 528), (130, 257, 272)]
            .into_iter()
            .flat_map(|(m, n, k)| {
                [0, 1].map(|order| [product(m, n, k), vec![("scales_128x4", order)]].concat())
            })
            .collect(),
        "nvfp4_quantize" => [(33, 80), (130, 304)]
            .into_iter()
            .flat_map(|(m, k)| [0, 1].map(|order| vec![("m", m), ("k", k), ("scales_128x4", order)]))
            .collect(),
        "rms_norm" | "add_rms_norm" | "layer_norm" | "softmax" => [(1, 1), (5, 100), (3, 1024), (2, 20_001)]
            .map(|(rows, columns)| vec![("rows", rows), ("columns", columns)])
            .to_vec(),
        "silu_and_mul" | "gelu_and_mul" => [(1, 1), (5, 100), (7, 1024)]
            .map(|(rows, columns)| vec![("rows", rows), ("columns", columns)])
            .to_vec(),
        "splitk_reduce" => {
            [1, 3, 8].map(|splits| vec![("splits", splits), ("rows", 5), ("columns", 100)]).to_vec()
        }
        "rope" => [(0, 64), (1, 96), (1, 2)]
            .map(|(interleaved, dim)| {
                vec![("tokens", 5), ("heads", 3), ("head_dim", dim), ("interleaved", interleaved)]
            })
            .to_vec(),
        // Its lengths are no random numbers; see there.
        "decode_attention" => Vec::new(),
        other => panic!("kernel `{other}` has no small problems to emulate"),
    }
}

fn default_configurations(is_wanted: impl Fn(&str) -> bool) {
    for contract in contracts().into_iter().filter(|contract| is_wanted(contract.kernel().name)) {
        for sizes in small(contract.kernel().name) {
            agree(Target::all(), contract, &sizes, &[]);
        }
    }
}

#[test]
fn products_on_every_target() {
    default_configurations(|kernel| kernel.starts_with("matmul") || kernel == "linear");
}

#[test]
fn attention_on_every_target() {
    default_configurations(|kernel| kernel.starts_with("fmha"));
}

#[test]
fn nvfp4_on_every_target() {
    default_configurations(|kernel| kernel.starts_with("nvfp4"));
}

#[test]
fn other_kernels_on_every_target() {
    let others = ["matmul", "linear", "fmha", "nvfp4"];
    default_configurations(|kernel| others.iter().all(|other| !kernel.starts_with(other)));
}

/// The switches of passes, as bits: copies by a warp of their own, bulk stores, CTAs that walk, turns of warpgroups.
fn switches(bits: i64) -> [(&'static str, i64); 4] {
    let bit = |i: i64| bits >> i & 1;
    [("warp_specialize", bit(0)), ("bulk_stores", bit(1)), ("persistent", bit(2)), ("ping_pong", bit(3))]
}

/// Random members of the kernels' tuning spaces, under random switches, on random targets. What a target has no room
/// for is refused, which is no disagreement. `TILEWRIGHT_EMULATE_CASES` says how many.
#[test]
fn random_configurations_agree() {
    let cases = std::env::var("TILEWRIGHT_EMULATE_CASES").map_or(80, |text| text.parse().expect("a number"));
    let mut state = 0x7a5e_u64;
    let mut below = |end: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % end
    };
    let contracts: Vec<_> = contracts().into_iter().filter(|c| !small(c.kernel().name).is_empty()).collect();
    let mut ran = 0;
    for case in 0..cases {
        let contract = contracts[below(contracts.len())];
        let shapes = small(contract.kernel().name);
        let dtypes = contract.dtypes();
        let problem = problem(contract, dtypes[below(dtypes.len())], &shapes[below(shapes.len())]);
        let space = tile_lang::space::candidates(contract.kernel().ast(), &contract.consts(&problem));
        let space = space.expect("the contract fixes what the space lacks");
        let mut config = space[below(space.len())].clone();
        let target = Target::all()[below(Target::all().len())];
        let switches = [
            "split_masks",
            "bulk_stores",
            "persistent",
            "ping_pong",
            "tf32_wgmma",
            "compute_ahead",
            "split_tail",
            "stream_loads",
        ];
        for name in switches {
            if below(2) == 0 {
                config.set(name, below(2) as i64);
            }
        }
        config.split_tail *= 1 + below(2) as u32;
        if target.has_wgmma() {
            config.num_ctas = 1 << below(3);
        }
        let inputs = random_inputs(contract, &problem, case);
        let device = Device::emulated(target, case);
        let kernel = contract.kernel().name;
        match contract::run(contract, &problem, &config, &device, &inputs) {
            Ok(found) => {
                let widened: Vec<_> = inputs.iter().map(DynTensor::to_f64).collect();
                let found: Vec<_> = found.iter().map(DynTensor::to_f64).collect();
                let reference = contract.oracle(&problem, &widened);
                found_agrees(contract, &problem, &config, &device, (&found, &reference));
                ran += 1;
            }
            Err(LaunchError::Check { .. }) => {}
            Err(LaunchError::Jit(error)) if !error.is_bug() => {}
            Err(error) => panic!("{kernel} {target} {problem:?} {config:?}: {error}"),
        }
    }
    assert!(2 * ran > cases, "only {ran} of {cases} configurations fit their targets");
}

#[test]
fn ctas_that_walk_on_every_target() {
    let walks = [("persistent", 1), ("TILE_M", 64), ("TILE_N", 64), ("TILE_K", 32)];
    agree(Target::all(), &MatmulContract, &[("m", 150), ("n", 140), ("k", 72)], &walks);
}

/// Programs beside the three CTAs that run at once: none, one or two that do not fill a round, of more iterations
/// than CTAs and fewer.
#[test]
fn split_sums_on_every_target() {
    let tiles = [("TILE_M", 64), ("TILE_N", 64), ("TILE_K", 32)];
    for (m, n, k) in [(60, 60, 300), (130, 70, 72), (190, 64, 130), (250, 64, 32), (300, 64, 130)] {
        for split_tail in [1, 2] {
            let share = [("persistent", 1), ("split_tail", split_tail)];
            agree(
                Target::all(),
                &MatmulContract,
                &[("m", m), ("n", n), ("k", k)],
                &[&share[..], &tiles].concat(),
            );
        }
    }
    // Four, five and seven programs for three CTAs, whose parts are long enough to be parts.
    for m in [250, 300, 430] {
        let share = [("persistent", 1), ("split_tail", 2)];
        agree(
            Target::all(),
            &MatmulContract,
            &[("m", m), ("n", 64), ("k", 650)],
            &[&share[..], &tiles].concat(),
        );
    }
}

#[test]
fn split_sums_of_warpgroups() {
    let mut turn = InTurn(0);
    let share = [("persistent", 1), ("split_tail", 1), ("num_warps", 8)];
    for (m, n, k) in [(120, 120, 640), (250, 140, 200), (250, 350, 330)] {
        for stages in [2, 4] {
            let tiles = [("TILE_M", 128), ("TILE_N", 128), ("TILE_K", 64), ("num_stages", stages)];
            turn.agree(&MatmulContract, &[("m", m), ("n", n), ("k", k)], &[&share[..], &tiles].concat());
        }
    }
    for (tile_m, stages, ahead) in [(128, 2, 0), (256, 4, 1)] {
        let tiles =
            [("TILE_M", tile_m), ("TILE_N", 128), ("TILE_K", 64), ("SPLITS", 1), ("num_stages", stages)];
        let ways = [("warp_specialize", 1), ("compute_ahead", ahead)];
        let settings = [&share[..], &tiles, &ways].concat();
        turn.agree(&Nvfp4GemmContract::WEIGHTS, &[("m", 140), ("n", 500), ("k", 528)], &settings);
    }
}

#[test]
fn products_with_every_switch() {
    let mut turn = InTurn(0);
    let tiles = [
        [("TILE_M", 128), ("TILE_N", 128), ("TILE_K", 64), ("num_warps", 8), ("num_stages", 2)],
        [("TILE_M", 64), ("TILE_N", 256), ("TILE_K", 32), ("num_warps", 4), ("num_stages", 2)],
        [("TILE_M", 256), ("TILE_N", 64), ("TILE_K", 32), ("num_warps", 8), ("num_stages", 3)],
    ];
    for tiles in tiles {
        for bits in 0..8 {
            for is_nk in [0, 1] {
                let settings = [&tiles[..], &switches(bits)].concat();
                let sizes = [("m", 300), ("n", 272), ("k", 200), ("rhs_is_nk", is_nk)];
                turn.agree(&MatmulContract, &sizes, &settings);
                let sizes = [&[("batch", 3)], &sizes[..]].concat();
                turn.agree(&MatmulBatchedContract, &sizes, &settings);
            }
            let sizes = [("m", 130), ("n", 272), ("k", 200), ("bias", 1), ("activation", 2)];
            turn.agree(&LinearContract, &sizes, &[&tiles[..], &switches(bits)].concat());
        }
    }
}

/// Operands of f32 that go to `wgmma` rounded. The last problem's rows have no tensor maps.
#[test]
fn products_of_rounded_operands() {
    let tiles = [
        [("TILE_M", 128), ("TILE_N", 64), ("TILE_K", 32), ("num_warps", 8), ("num_stages", 3)],
        [("TILE_M", 64), ("TILE_N", 128), ("TILE_K", 64), ("num_warps", 4), ("num_stages", 2)],
    ];
    for tiles in tiles {
        for bits in [0b001, 0b011, 0b111] {
            let settings = [&tiles[..], &switches(bits), &[("tf32_wgmma", 1)]].concat();
            for (m, n, k) in [(128, 128, 128), (150, 140, 72), (70, 65, 17)] {
                let sizes = [("m", m), ("n", n), ("k", k), ("rhs_is_nk", 1)];
                let contracts: [&dyn Contract; 2] = [&MatmulContract, &LinearContract];
                for contract in contracts {
                    let problem = problem(contract, DType::F32, &sizes);
                    let config = config(contract, &problem, &settings);
                    let inputs = random_inputs(contract, &problem, 11);
                    agree_on(&[hopper()], contract, &problem, &config, &inputs);
                }
            }
        }
    }
}

/// An operand between two numbers of tf32, nearer to the upper one, times ones: cut it would be 1.
#[test]
fn operands_of_f32_are_rounded_not_cut() {
    let ulp = 2f64.powi(-10);
    let filled = |value: f64| DynTensor::from_f64(DType::F32, &[128, 128], &[value; 128 * 128]);
    let sizes = [("m", 128), ("n", 128), ("k", 128), ("rhs_is_nk", 1)];
    let tiles = [("TILE_M", 64), ("TILE_N", 64), ("TILE_K", 32), ("num_warps", 4), ("num_stages", 3)];
    let problem = problem(&MatmulContract, DType::F32, &sizes);
    for tf32_wgmma in [0, 1] {
        let settings = [&tiles[..], &[("tf32_wgmma", tf32_wgmma)]].concat();
        let config = config(&MatmulContract, &problem, &settings);
        for [lhs, rhs] in [[1.0 + 0.75 * ulp, 1.0], [1.0, 1.0 + 0.75 * ulp]] {
            let device = Device::emulated(hopper(), 1);
            let found = run_on(&device, &MatmulContract, &problem, &config, &[filled(lhs), filled(rhs)]);
            assert!(found[0].iter().all(|sum| *sum == 128.0 * (1.0 + ulp)), "{config:?}: {}", found[0][0]);
        }
    }
}

#[test]
fn split_products_with_every_switch() {
    let mut turn = InTurn(0);
    for splits in [1, 3, 8] {
        for bits in 0..8 {
            let tiles =
                [("TILE_M", 64), ("TILE_N", 128), ("TILE_K", 64), ("num_warps", 4), ("num_stages", 2)];
            let settings = [&tiles[..], &switches(bits), &[("SPLITS", splits)]].concat();
            // Fewer blocks of K than splits, and more.
            for k in [72, 640] {
                turn.agree(&MatmulSplitkContract, &[("m", 70), ("n", 136), ("k", k)], &settings);
            }
        }
    }
}

#[test]
fn attention_with_every_switch() {
    let mut turn = InTurn(0);
    let tiles = [
        [("TILE_M", 128), ("TILE_N", 128), ("num_warps", 8), ("num_stages", 2)],
        [("TILE_M", 64), ("TILE_N", 64), ("num_warps", 4), ("num_stages", 3)],
    ];
    for tiles in tiles {
        for bits in 0..16 {
            // Queries stream: each is read by one program.
            for (split_masks, stream_loads) in [(0, 0), (1, 0), (1, 1)] {
                let more = [("split_masks", split_masks), ("stream_loads", stream_loads)];
                let settings = [&tiles[..], &switches(bits), &more].concat();
                let shape = [("batch", 1), ("heads", 2), ("kv_heads", 1), ("head_dim", 64)];
                let lens = [("seq_q", 200), ("seq_k", 328), ("causal", 1)];
                turn.agree(&FmhaContract, &[&shape[..], &lens].concat(), &settings);
                if split_masks == 1 {
                    let more = [("window", 90), ("soft_cap", 1), ("sinks", 1)];
                    let sizes = [&shape[..], &lens, &more].concat();
                    turn.agree(&FmhaExtendedContract, &sizes, &settings);
                    let packed = [("max_seq_q", 90), ("total_q", 200), ("total_k", 300), ("causal", 1)];
                    let sizes = [&[("batch", 3)], &shape[1..], &packed].concat();
                    turn.agree(&FmhaVarlenContract, &sizes, &settings);
                }
            }
        }
    }
}

#[test]
fn nvfp4_products_of_many_rows() {
    let mut turn = InTurn(0);
    for (tile_m, tile_n, tile_k, warps) in
        [(64, 128, 256, 4), (128, 128, 64, 8), (256, 128, 64, 8), (64, 64, 128, 4)]
    {
        for stages in [2, 4] {
            for order in [0, 1] {
                let settings = [
                    ("TILE_M", tile_m),
                    ("TILE_N", tile_n.max(128 * order)),
                    ("TILE_K", tile_k),
                    ("num_warps", warps),
                    ("num_stages", stages),
                    ("warp_specialize", 1),
                ];
                let sizes = [("m", 200), ("n", 272), ("k", 528), ("scales_128x4", order)];
                turn.agree(&Nvfp4GemmContract::WEIGHTS, &sizes, &settings);
            }
        }
    }
}

/// CTAs that share copies, and grids that do not fill clusters.
#[test]
fn clusters_share_what_they_copy() {
    let mut turn = InTurn(0);
    for num_ctas in [2, 4, 8] {
        for persistent in [0, 1] {
            for (tile_n, stages) in [(128, 2), (64, 3)] {
                let shared = [("num_ctas", num_ctas), ("persistent", persistent), ("num_stages", stages)];
                let tiles = [("TILE_M", 64), ("TILE_N", tile_n), ("TILE_K", 64), ("num_warps", 4)];
                let settings = [&tiles[..], &shared].concat();
                for (m, is_nk) in [(256, 1), (500, 0), (300, 1)] {
                    let sizes = [("m", m), ("n", 272), ("k", 328), ("rhs_is_nk", is_nk)];
                    turn.agree(&MatmulContract, &sizes, &settings);
                }
                let sizes = [("batch", 2), ("m", 256), ("n", 136), ("k", 72), ("rhs_is_nk", 1)];
                turn.agree(&MatmulBatchedContract, &sizes, &settings);
                let tiles = [("TILE_M", 64), ("TILE_N", 64), ("num_warps", 4)];
                let shape = [("batch", 1), ("heads", 2), ("kv_heads", 1), ("head_dim", 64)];
                for causal in [0, 1] {
                    let lens = [("seq_q", 250), ("seq_k", 328), ("causal", causal)];
                    turn.agree(&FmhaContract, &[&shape[..], &lens].concat(), &[&tiles[..], &shared].concat());
                }
            }
        }
    }
}

/// CTAs that walk and share keys and values, with the next program's queries on their way.
#[test]
fn clusters_that_walk_attend() {
    for num_ctas in [2, 4] {
        for (tile_m, warps, head_dim) in [(128, 8, 128), (64, 4, 64)] {
            for (heads, kv_heads, seq_q) in [(3, 3, 512), (2, 1, 512)] {
                let shape = [("batch", 2), ("heads", heads), ("kv_heads", kv_heads), ("head_dim", head_dim)];
                let lens = [("seq_q", seq_q), ("seq_k", 200), ("causal", 0)];
                let tiles = [("TILE_M", tile_m), ("TILE_N", 128), ("num_warps", warps), ("num_stages", 2)];
                let walks = [("occupancy", 1), ("persistent", 1), ("num_ctas", num_ctas)];
                let problem = problem(&FmhaContract, DType::BF16, &[&shape[..], &lens].concat());
                let config = config(&FmhaContract, &problem, &[&tiles[..], &walks].concat());
                let inputs = random_inputs(&FmhaContract, &problem, 11);
                agree_on(&[hopper()], &FmhaContract, &problem, &config, &inputs);
            }
        }
    }
}

/// Scores that grow from block to block, so that what was summed is often brought down, by much or by little.
#[test]
fn attention_over_growing_scores() {
    let sizes = [("batch", 1), ("heads", 2), ("kv_heads", 1), ("head_dim", 64), ("causal", 0)];
    let problem =
        problem(&FmhaContract, DType::F16, &[&sizes[..], &[("seq_q", 130), ("seq_k", 520)]].concat());
    let given = random_inputs(&FmhaContract, &problem, 11);
    for (scale, growth) in [(1.0, 8.0), (4.0, 2.0), (30.0, 1.0)] {
        let mut inputs = given.clone();
        let scaled = |tensor: &DynTensor, by: &dyn Fn(usize) -> f64| {
            let values = tensor.to_f64().into_iter().enumerate();
            let values: Vec<_> = values.map(|(i, value)| value * by(i / 64 % tensor.shape[2])).collect();
            DynTensor::from_f64(tensor.dtype, &tensor.shape, &values)
        };
        inputs[0] = scaled(&given[0], &|_| scale);
        inputs[1] = scaled(&given[1], &|key| 1.0 + growth * key as f64 / 520.0);
        for (tile_m, warps) in [(64, 4), (128, 8)] {
            let tiles = [("TILE_M", tile_m), ("TILE_N", 64), ("num_warps", warps)];
            let config = config(&FmhaContract, &problem, &tiles);
            agree_on(Target::all(), &FmhaContract, &problem, &config, &inputs);
            agree_on_devices([&Device::cpu()], &FmhaContract, &problem, &config, &inputs);
        }
    }
}

/// Attention asks lanes before they exchange maxima, whatever the inputs' dtype.
#[test]
fn attention_votes_on_maxima() {
    let contracts: [&dyn Contract; 3] = [&FmhaContract, &FmhaExtendedContract, &FmhaVarlenContract];
    for contract in contracts {
        for sizes in small(contract.kernel().name) {
            for &dtype in contract.dtypes() {
                let problem = problem(contract, dtype, &sizes);
                let config = config(contract, &problem, &[]);
                assert!(fires("skip-maxima", contract, &problem, &config), "{problem:?}");
            }
        }
    }
}

/// Kernels that read rows or queries once, with a policy for them, on every target; the others read nothing once.
#[test]
fn kernels_whose_loads_stream() {
    let mut streams = Vec::new();
    for contract in contracts() {
        for sizes in small(contract.kernel().name).into_iter().take(2) {
            let problem = problem(contract, contract.dtypes()[0], &sizes);
            let stream = [("stream_loads", 1)];
            if fires("stream-loads", contract, &problem, &config(contract, &problem, &stream)) {
                agree(Target::all(), contract, &sizes, &stream);
                streams.push(contract.kernel().name);
            }
        }
    }
    streams.sort_unstable();
    streams.dedup();
    let rows = ["add_rms_norm", "layer_norm", "nvfp4_quantize", "rms_norm", "rope", "softmax"];
    let mut expected = [&rows[..], &["fmha", "fmha_extended", "fmha_varlen"]].concat();
    expected.sort_unstable();
    assert_eq!(streams, expected);
}

/// Weights that are widened under the product before, of programs with many blocks of K, one, or none; and where rows of
/// scales allow bulk copies, so that they are fetched ahead, of programs whose first scales lie at no multiple of 16
/// bytes.
#[test]
fn nvfp4_products_computed_ahead() {
    let mut turn = InTurn(0);
    for (tile_m, tile_n, tile_k, stages) in [(128, 128, 64, 2), (64, 128, 128, 3)] {
        for (splits, k) in [(1, 528), (1, 16), (8, 272), (8, 1280)] {
            for order in [0, 1] {
                let settings = [
                    ("TILE_M", tile_m),
                    ("TILE_N", tile_n),
                    ("TILE_K", tile_k),
                    ("SPLITS", splits),
                    ("num_warps", 8),
                    ("num_stages", stages),
                    ("warp_specialize", 1),
                    ("compute_ahead", 1),
                ];
                let sizes = [("m", 140), ("n", 272), ("k", k), ("scales_128x4", order)];
                turn.agree(&Nvfp4GemmContract::WEIGHTS, &sizes, &settings);
            }
        }
    }
}

/// Whether a pass has changed a kernel of the problem on Hopper.
fn fires(pass: &str, contract: &dyn Contract, problem: &Problem, config: &Config) -> bool {
    contract.steps(problem, config).iter().any(|step| {
        let facts = vec![TensorFacts::ALIGNED; step.tensors().count()];
        let made = jit::compile(step.kernel, &step.bindings, config, hopper(), &facts, false);
        let remarks = made.unwrap_or_else(|e| panic!("{config:?}: {e}")).compiled.remarks;
        remarks.iter().any(|remark| remark.fired && remark.to_string().contains(pass))
    })
}

/// Agreement where warpgroups without rows skip products, on several seeds, with each of some dtypes in turn.
struct Skipping(&'static [DType], usize);

impl Skipping {
    fn agree(&mut self, contract: &dyn Contract, sizes: &[(&str, i64)], settings: &[(&str, i64)]) {
        let problem = problem(contract, self.0[self.1 % self.0.len()], sizes);
        let config = config(contract, &problem, settings);
        assert!(fires("skip-idle", contract, &problem, &config), "{problem:?} {config:?}");
        let inputs = random_inputs(contract, &problem, 11);
        agree_on(&[hopper(); 2], contract, &problem, &config, &inputs);
        self.1 += 1;
    }
}

/// Products whose last block has rows for one of two warpgroups alone, walking or not, and in clusters whose other CTAs
/// have rows for both.
#[test]
fn products_of_warpgroups_without_rows() {
    let mut skipping = Skipping(&[DType::BF16, DType::F8E4M3FN, DType::F16], 0);
    let tiles = |m, n, stages| {
        [("TILE_M", m), ("TILE_N", n), ("TILE_K", 64), ("num_warps", 8), ("num_stages", stages)]
    };
    for (m, tiles) in [
        (1, tiles(128, 128, 3)),
        (64, tiles(128, 64, 2)),
        (129, tiles(128, 128, 3)),
        (320, tiles(128, 256, 3)),
        (300, tiles(256, 64, 2)),
    ] {
        for (num_ctas, bits) in [(1, 0b001), (1, 0b011), (1, 0b111), (2, 0b011), (2, 0b111), (4, 0b101)] {
            let settings = [&tiles[..], &switches(bits), &[("num_ctas", num_ctas)]].concat();
            let sizes = [("m", m), ("n", 272), ("k", 208), ("rhs_is_nk", 1)];
            skipping.agree(&MatmulContract, &sizes, &settings);
            // No more blocks of K than the ring has slots.
            let sizes = [("m", m), ("n", 144), ("k", 48), ("bias", 1), ("activation", 2)];
            skipping.agree(&LinearContract, &sizes, &settings);
        }
        let settings = [&tiles[..], &switches(0b111)].concat();
        let sizes = [("batch", 3), ("m", m), ("n", 272), ("k", 208), ("rhs_is_nk", 1)];
        skipping.agree(&MatmulBatchedContract, &sizes, &settings);
    }
}

/// Attention whose last block has queries for one of two warpgroups alone: of causal attention the one with the most
/// keys. What is stored beside the results has as many rows.
#[test]
fn attention_of_warpgroups_without_queries() {
    let mut skipping = Skipping(&[DType::BF16, DType::F16], 0);
    for (seq_q, seq_k) in [(30, 200), (64, 64), (150, 328), (190, 190)] {
        for bits in [0b001, 0b011, 0b101, 0b111] {
            for (causal, split_masks, num_ctas) in [(1, 1, 1), (1, 0, 1), (0, 1, 1), (0, 1, 2)] {
                let tiles = [("TILE_M", 128), ("TILE_N", 64), ("num_warps", 8), ("num_stages", 2)];
                let more = [("split_masks", split_masks), ("num_ctas", num_ctas)];
                let settings = [&tiles[..], &switches(bits), &more].concat();
                let shape = [("batch", 2), ("heads", 2), ("kv_heads", 1), ("head_dim", 64)];
                let lens = [("seq_q", seq_q), ("seq_k", seq_k), ("causal", causal)];
                skipping.agree(&FmhaContract, &[&shape[..], &lens].concat(), &settings);
            }
        }
    }
    let tiles = [("TILE_M", 128), ("TILE_N", 128), ("num_warps", 8), ("num_stages", 2)];
    for bits in [0b011, 0b111] {
        let settings = [&tiles[..], &switches(bits)].concat();
        let shape = [("batch", 1), ("heads", 2), ("kv_heads", 2), ("head_dim", 128)];
        let lens = [("seq_q", 141), ("seq_k", 300), ("causal", 1)];
        skipping.agree(&FmhaContract, &[&shape[..], &lens].concat(), &settings);
        let more = [("window", 90), ("soft_cap", 1), ("sinks", 1)];
        skipping.agree(&FmhaExtendedContract, &[&shape[..], &lens, &more].concat(), &settings);
    }
}
