//! The kernels over rows and blocks of a matrix: eager CPU runs and interpreted IR against the f64 references, on
//! ragged and degenerate shapes, in one block a row and in several; and what they do with NaN and infinities.

use crate::support::{agree, config, problem, run_eager};
use tile::contract::{Contract, random_inputs};
use tile::dynamic::DynTensor;
use tile_lang::DType;
use tilegym_kernels::{
    GELU_AND_MUL, LayerNormContract, RmsNormContract, RopeContract, SILU_AND_MUL, SoftmaxContract,
    SplitkReduceContract,
};

/// Rows, columns and tiles: whole rows in one block, then rows of several blocks, each also ragged.
const ROW_CASES: [([i64; 2], [i64; 2]); 9] = [
    ([1, 1], [1, 64]),
    ([3, 64], [2, 64]),
    ([5, 100], [2, 128]),
    ([9, 1000], [8, 1024]),
    ([2, 5120], [1, 8192]),
    ([1, 65], [1, 16]),
    ([5, 128], [2, 32]),
    ([3, 1000], [4, 64]),
    ([2, 20000], [1, 4096]),
];

fn rows_agree(contract: &dyn Contract) {
    for ([rows, columns], [tile_m, tile_n]) in ROW_CASES {
        for &dtype in contract.dtypes() {
            let sizes = [("rows", rows), ("columns", columns)];
            agree(contract, dtype, &sizes, &[("ROWS", tile_m), ("TILE_N", tile_n)]);
        }
    }
}

#[test]
fn rms_norm_agrees() {
    rows_agree(&RmsNormContract::PLAIN);
}

#[test]
fn add_rms_norm_agrees() {
    rows_agree(&RmsNormContract::ADDING);
}

#[test]
fn layer_norm_agrees() {
    rows_agree(&LayerNormContract);
}

#[test]
fn softmax_agrees() {
    rows_agree(&SoftmaxContract);
}

/// Rows, columns and tiles of the kernels that go block by block.
const BLOCK_CASES: [([i64; 2], [i64; 2]); 5] = [
    ([1, 1], [1, 128]),
    ([3, 128], [2, 64]),
    ([5, 100], [2, 32]),
    ([7, 1001], [4, 256]),
    ([2, 4096], [1, 2048]),
];

#[test]
fn gated_activations_agree() {
    for contract in [&SILU_AND_MUL, &GELU_AND_MUL] {
        for ([rows, columns], [tile_m, tile_n]) in BLOCK_CASES {
            for &dtype in contract.dtypes() {
                let sizes = [("rows", rows), ("columns", columns)];
                agree(contract, dtype, &sizes, &[("TILE_M", tile_m), ("TILE_N", tile_n)]);
            }
        }
    }
}

#[test]
fn splitk_reduce_agrees() {
    for ([rows, columns], [tile_m, tile_n]) in BLOCK_CASES {
        for (splits, at_once) in [(1, 1), (3, 2), (8, 8), (5, 8)] {
            for &dtype in SplitkReduceContract.dtypes() {
                let sizes = [("splits", splits), ("rows", rows), ("columns", columns)];
                let tiles = [("TILE_M", tile_m), ("TILE_N", tile_n), ("SPLITS", at_once)];
                agree(&SplitkReduceContract, dtype, &sizes, &tiles);
            }
        }
    }
}

/// A mean that is large against the deviation: squares of f32 alone would cancel to nothing.
#[test]
fn layer_norm_keeps_small_deviations_of_a_large_mean() {
    for tile_n in [1024, 128] {
        let problem = problem(&LayerNormContract, DType::F32, &[("rows", 1), ("columns", 1000)]);
        let config = config(&LayerNormContract, &problem, &[("ROWS", 1), ("TILE_N", tile_n)]);
        let mut inputs = random_inputs(&LayerNormContract, &problem, 3);
        let shifted: Vec<f64> = inputs[0].to_f64().iter().map(|v| v + 4096.0).collect();
        inputs[0] = DynTensor::from_f64(DType::F32, &inputs[0].shape, &shifted);
        let widened: Vec<_> = inputs.iter().map(DynTensor::to_f64).collect();
        let reference = LayerNormContract.oracle(&problem, &widened);
        let found = run_eager(&LayerNormContract, &problem, &config, &inputs);
        let error = tile::contract::relative_error(&found[0], &reference[0]);
        // The mean itself is known to 2^-12 of the deviation.
        assert!(error < 1e-3, "TILE_N = {tile_n}: {error:.2e}");
    }
}

/// The first output for three rows of 100 columns, of which row 1 has `special` at column 70.
fn with_special(contract: &dyn Contract, special: f64, tile_n: i64) -> Vec<Vec<f64>> {
    let problem = problem(contract, DType::F32, &[("rows", 3), ("columns", 100)]);
    let config = config(contract, &problem, &[("ROWS", 2), ("TILE_N", tile_n)]);
    let mut inputs = random_inputs(contract, &problem, 3);
    let mut x = inputs[0].to_f64();
    x[170] = special;
    inputs[0] = DynTensor::from_f64(DType::F32, &inputs[0].shape, &x);
    run_eager(contract, &problem, &config, &inputs)[0].chunks(100).map(<[f64]>::to_vec).collect()
}

const ROW_KERNELS: [&dyn Contract; 4] =
    [&RmsNormContract::PLAIN, &RmsNormContract::ADDING, &LayerNormContract, &SoftmaxContract];

#[test]
fn nan_makes_its_row_nan_and_no_other() {
    for contract in ROW_KERNELS {
        for tile_n in [128, 32] {
            let out = with_special(contract, f64::NAN, tile_n);
            let name = contract.kernel().name;
            assert!(out[1].iter().all(|v| v.is_nan()), "{name}, TILE_N = {tile_n}");
            assert!(out[0].iter().chain(&out[2]).all(|v| v.is_finite()), "{name}, TILE_N = {tile_n}");
        }
    }
}

#[test]
fn infinities_do_as_documented() {
    for tile_n in [128, 32] {
        for contract in [&RmsNormContract::PLAIN, &RmsNormContract::ADDING] {
            let out = with_special(contract, f64::INFINITY, tile_n);
            assert!(out[1].iter().enumerate().all(|(i, v)| if i == 70 { v.is_nan() } else { *v == 0.0 }));
            assert!(out[0].iter().chain(&out[2]).all(|v| v.is_finite()));
        }
        for contract in [&LayerNormContract as &dyn Contract, &SoftmaxContract] {
            let out = with_special(contract, f64::INFINITY, tile_n);
            assert!(out[1].iter().all(|v| v.is_nan()), "{}", contract.kernel().name);
            assert!(out[0].iter().chain(&out[2]).all(|v| v.is_finite()), "{}", contract.kernel().name);
        }
        let out = with_special(&SoftmaxContract, f64::NEG_INFINITY, tile_n);
        assert_eq!(out[1][70], 0.0);
        let sum: f64 = out[1].iter().sum();
        assert!((sum - 1.0).abs() < 1e-5, "{sum}");
    }
}

#[test]
fn softmax_of_nothing_but_negative_infinity_is_nan() {
    for tile_n in [128, 32] {
        let problem = problem(&SoftmaxContract, DType::F32, &[("rows", 1), ("columns", 100)]);
        let config = config(&SoftmaxContract, &problem, &[("ROWS", 1), ("TILE_N", tile_n)]);
        let inputs = [DynTensor::from_f64(DType::F32, &[1, 100], &[f64::NEG_INFINITY; 100])];
        let out = &run_eager(&SoftmaxContract, &problem, &config, &inputs)[0];
        assert!(out.iter().all(|v| v.is_nan()), "TILE_N = {tile_n}");
    }
}

/// A row's first block may hold nothing but -inf.
#[test]
fn softmax_skips_blocks_of_negative_infinity() {
    let problem = problem(&SoftmaxContract, DType::F32, &[("rows", 1), ("columns", 100)]);
    let config = config(&SoftmaxContract, &problem, &[("ROWS", 1), ("TILE_N", 32)]);
    let x: Vec<f64> =
        (0..100).map(|i| if i < 64 { f64::NEG_INFINITY } else { f64::from(i) / 50.0 }).collect();
    let inputs = [DynTensor::from_f64(DType::F32, &[1, 100], &x)];
    let out = &run_eager(&SoftmaxContract, &problem, &config, &inputs)[0];
    let reference = &SoftmaxContract.oracle(&problem, &[inputs[0].to_f64()])[0];
    assert!(tile::contract::relative_error(out, reference) < 1e-5);
}

#[test]
fn gates_that_are_not_finite_do_as_documented() {
    for contract in [&SILU_AND_MUL, &GELU_AND_MUL] {
        let problem = problem(contract, DType::F32, &[("rows", 1), ("columns", 4)]);
        let config = config(contract, &problem, &[("TILE_M", 1), ("TILE_N", 128)]);
        let gates = [f64::NAN, f64::NEG_INFINITY, f64::INFINITY, -1e30];
        let x = [&gates[..], &[2.0; 4]].concat();
        let out =
            &run_eager(contract, &problem, &config, &[DynTensor::from_f64(DType::F32, &[1, 2, 4], &x)])[0];
        assert!(out[0].is_nan() && out[1].is_nan(), "{out:?}");
        assert_eq!(out[2..], [f64::INFINITY, 0.0]);
    }
}

#[test]
fn rope_agrees() {
    for interleaved in [0, 1] {
        for (tokens, heads, head_dim, tiles) in
            [(1, 1, 2, [1, 1]), (5, 3, 64, [2, 2]), (3, 9, 96, [1, 4]), (4, 8, 128, [4, 8])]
        {
            for &dtype in RopeContract.dtypes() {
                let sizes = [
                    ("tokens", tokens),
                    ("heads", heads),
                    ("head_dim", head_dim),
                    ("positions", 50),
                    ("interleaved", interleaved),
                ];
                agree(&RopeContract, dtype, &sizes, &[("TOKENS", tiles[0]), ("HEADS", tiles[1])]);
            }
        }
    }
}

#[test]
fn rope_beyond_its_tables_gives_zeros() {
    let sizes = [("tokens", 3), ("heads", 1), ("head_dim", 4), ("positions", 7)];
    let problem = problem(&RopeContract, DType::F32, &sizes);
    let config = config(&RopeContract, &problem, &[]);
    let mut inputs = random_inputs(&RopeContract, &problem, 3);
    inputs[1] = DynTensor::from_f64(DType::I32, &[3], &[7.0, 6.0, -1.0]);
    let out = &run_eager(&RopeContract, &problem, &config, &inputs)[0];
    assert_eq!([&out[..4], &out[8..]].concat(), [0.0; 8]);
    assert!(out[4..8].iter().all(|v| *v != 0.0));
}
