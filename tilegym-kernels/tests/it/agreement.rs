//! Eager CPU runs and interpreted IR against the f64 references, on ragged and degenerate shapes.
//!
//! Tolerances are the contracts': relative Frobenius error 1e-5 for f32, 1e-3 for f16, 6e-3 for bf16 and what is
//! stored as bf16.

use crate::support::{agree, config, problem, run_eager};
use tile::contract::Contract;
use tile::dynamic::DynTensor;
use tile_lang::DType;
use tilegym_kernels::{FmhaContract, LinearContract, MatmulBatchedContract, MatmulContract};

const FLOATS: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

fn matmul(m: i64, n: i64, k: i64, is_nk: i64, tiles: [i64; 3]) {
    let sizes = [("m", m), ("n", n), ("k", k), ("rhs_is_nk", is_nk)];
    let tiles = [("TILE_M", tiles[0]), ("TILE_N", tiles[1]), ("TILE_K", tiles[2])];
    for &dtype in MatmulContract.dtypes() {
        agree(&MatmulContract, dtype, &sizes, &tiles);
    }
}

#[test]
fn matmul_large_with_ragged_k() {
    matmul(1024, 1024, 1023, 1, [128, 128, 64]);
    matmul(1024, 1024, 1023, 0, [128, 128, 64]);
}

#[test]
fn matmul_smaller_than_a_tile() {
    for is_nk in [0, 1] {
        matmul(8, 8, 8, is_nk, [16, 16, 16]);
        matmul(1, 1, 1, is_nk, [16, 16, 16]);
        matmul(1, 1, 1, is_nk, [1, 1, 1]);
    }
}

#[test]
fn matmul_ragged_everywhere() {
    for is_nk in [0, 1] {
        matmul(257, 129, 65, is_nk, [64, 64, 32]);
        matmul(257, 129, 65, is_nk, [16, 128, 64]);
    }
}

/// Blocks of rows in groups: 6 groups of 16 and one group of 7.
#[test]
fn matmul_groups_its_blocks() {
    for (m, groups) in [(96 * 16 - 3, 6), (7 * 16, 1)] {
        let sizes = [("m", m), ("n", 20), ("k", 16)];
        let problem = problem(&MatmulContract, DType::F32, &sizes);
        let tiles = [("TILE_M", 16), ("TILE_N", 16), ("TILE_K", 16)];
        assert_eq!(MatmulContract.grid(&problem, &config(&MatmulContract, &problem, &tiles))[2], groups);
        agree(&MatmulContract, DType::F32, &sizes, &tiles);
    }
}

#[test]
fn linear_adds_its_bias_and_activates() {
    for (m, n, k) in [(1, 1, 1), (33, 70, 65)] {
        for bias in [0, 1] {
            for activation in 0..4 {
                for &dtype in LinearContract.dtypes() {
                    let sizes = [("m", m), ("n", n), ("k", k), ("bias", bias), ("activation", activation)];
                    agree(&LinearContract, dtype, &sizes, &[("TILE_M", 16), ("TILE_N", 32), ("TILE_K", 32)]);
                }
            }
        }
    }
    agree(&LinearContract, DType::BF16, &[("m", 40), ("n", 50), ("k", 60), ("rhs_is_nk", 0)], &[]);
}

#[test]
fn linear_reads_its_problem_off_the_inputs() {
    let matrix = |shape: &[usize]| (DType::BF16, shape.to_vec());
    let given = indexmap::IndexMap::new();
    let mut inputs = std::collections::BTreeMap::from([
        ("lhs".to_owned(), matrix(&[3, 5])),
        ("rhs".to_owned(), matrix(&[4, 5])),
    ]);
    let problem = LinearContract.from_inputs(&inputs, &given).unwrap();
    assert_eq!((problem.size("n"), problem.size("bias")), (4, 0));
    inputs.insert("bias".to_owned(), matrix(&[4]));
    assert_eq!(LinearContract.from_inputs(&inputs, &given).unwrap().size("bias"), 1);
    inputs.insert("bias".to_owned(), matrix(&[5]));
    let message = LinearContract.from_inputs(&inputs, &given).unwrap_err().to_string();
    assert_eq!(message, "`bias` has shape [5]; expected [4], as many as out has columns");
}

#[test]
fn matmul_batched_agrees() {
    for is_nk in [0, 1] {
        for (batch, m, n, k) in [(1, 1, 1, 1), (3, 33, 70, 65), (5, 16, 16, 16)] {
            for &dtype in MatmulBatchedContract.dtypes() {
                let sizes = [("batch", batch), ("m", m), ("n", n), ("k", k), ("rhs_is_nk", is_nk)];
                let tiles = [("TILE_M", 16), ("TILE_N", 32), ("TILE_K", 32)];
                agree(&MatmulBatchedContract, dtype, &sizes, &tiles);
            }
        }
    }
}

struct Attention {
    batch: i64,
    heads: i64,
    kv_heads: i64,
    seq_q: i64,
    seq_k: i64,
    head_dim: i64,
    causal: i64,
    tiles: [i64; 2],
}

const SMALL: Attention = Attention {
    batch: 1,
    heads: 1,
    kv_heads: 1,
    seq_q: 9,
    seq_k: 9,
    head_dim: 128,
    causal: 0,
    tiles: [16, 16],
};

fn attention(case: &Attention) {
    let sizes = [
        ("batch", case.batch),
        ("heads", case.heads),
        ("kv_heads", case.kv_heads),
        ("seq_q", case.seq_q),
        ("seq_k", case.seq_k),
        ("head_dim", case.head_dim),
        ("causal", case.causal),
    ];
    for dtype in FLOATS {
        agree(&FmhaContract, dtype, &sizes, &[("TILE_M", case.tiles[0]), ("TILE_N", case.tiles[1])]);
    }
}

#[test]
fn fmha_shorter_than_a_tile() {
    for causal in [0, 1] {
        for tiles in [[16, 16], [64, 64]] {
            attention(&Attention { causal, tiles, ..SMALL });
        }
    }
}

#[test]
fn fmha_long_ragged_causal() {
    let case =
        Attention { heads: 32, kv_heads: 32, seq_q: 2047, seq_k: 2047, causal: 1, tiles: [128, 64], ..SMALL };
    attention(&case);
}

#[test]
fn fmha_few_queries_over_more_keys() {
    for seq_q in [1, 15, 32] {
        for seq_k in [32, 63] {
            for causal in [0, 1] {
                attention(&Attention {
                    batch: 2,
                    seq_q,
                    seq_k,
                    head_dim: 64,
                    causal,
                    tiles: [16, 32],
                    ..SMALL
                });
            }
        }
    }
}

#[test]
fn fmha_grouped_heads() {
    for kv_heads in [8, 2, 1] {
        attention(&Attention {
            batch: 2,
            heads: 8,
            kv_heads,
            seq_q: 33,
            seq_k: 70,
            causal: 1,
            tiles: [32, 32],
            ..SMALL
        });
    }
}

#[test]
fn fmha_queries_before_every_key_give_zeros() {
    let sizes = [("heads", 1), ("kv_heads", 1), ("batch", 1), ("seq_q", 40), ("seq_k", 5), ("head_dim", 64)];
    let problem = problem(&FmhaContract, DType::F32, &sizes);
    let config = config(&FmhaContract, &problem, &[("TILE_M", 16), ("TILE_N", 16)]);
    let inputs = tile::contract::random_inputs(&FmhaContract, &problem, 3);
    let out = &run_eager(&FmhaContract, &problem, &config, &inputs)[0];
    assert!(out[..35 * 64].iter().all(|&x| x == 0.0));
    assert!(out[35 * 64..].iter().all(|&x| x != 0.0));
}

#[test]
fn fmha_nan_stays_in_its_row() {
    let sizes = [("heads", 1), ("kv_heads", 1), ("batch", 1), ("seq_q", 20), ("seq_k", 20), ("head_dim", 64)];
    let problem = problem(&FmhaContract, DType::F32, &sizes);
    let config = config(&FmhaContract, &problem, &[("TILE_M", 16), ("TILE_N", 16)]);
    let mut inputs = tile::contract::random_inputs(&FmhaContract, &problem, 3);
    let mut q = inputs[0].to_f64();
    q[7 * 64] = f64::NAN;
    inputs[0] = DynTensor::from_f64(DType::F32, &inputs[0].shape, &q);
    let out = &run_eager(&FmhaContract, &problem, &config, &inputs)[0];
    for (i, row) in out.chunks(64).enumerate() {
        assert_eq!(row.iter().all(|x| x.is_nan()), i == 7, "row {i}");
        assert_eq!(row.iter().any(|x| x.is_nan()), i == 7, "row {i}");
    }
}

#[test]
fn contracts_count_the_visible_pairs() {
    let flops = |seq_q, seq_k, causal| {
        let sizes = [
            ("heads", 1),
            ("kv_heads", 1),
            ("batch", 1),
            ("seq_q", seq_q),
            ("seq_k", seq_k),
            ("causal", causal),
        ];
        FmhaContract.flops(&problem(&FmhaContract, DType::BF16, &sizes)) / (4.0 * 128.0)
    };
    assert_eq!(flops(4, 4, 0), 16.0);
    assert_eq!(flops(4, 4, 1), 10.0);
    assert_eq!(flops(2, 5, 1), 4.0 + 5.0);
    assert_eq!(flops(5, 2, 1), 1.0 + 2.0);
}
