//! Attention's wider heads, f8 inputs, windows, sinks, soft caps and packed sequences against the f64 references, run
//! eagerly and interpreted; and what NaN, infinities and rows without a key give.

use crate::support::{agree, config, problem, run_eager};
use tile::contract::{Contract, random_inputs};
use tile::dynamic::{CpuOptions, DynArg, DynTensor};
use tile_lang::DType;
use tilegym_kernels::{FmhaContract, FmhaExtendedContract, FmhaVarlenContract};

const ALL: [DType; 4] = [DType::F32, DType::F16, DType::BF16, DType::F8E4M3FN];

/// Sizes with some replaced or added.
fn with<'a>(base: &[(&'a str, i64)], changed: &[(&'a str, i64)]) -> Vec<(&'a str, i64)> {
    let kept = base.iter().filter(|(name, _)| changed.iter().all(|(other, _)| other != name));
    kept.chain(changed).copied().collect()
}

const SMALL: &[(&str, i64)] =
    &[("batch", 2), ("heads", 4), ("kv_heads", 2), ("seq_q", 33), ("seq_k", 70), ("head_dim", 64)];

#[test]
fn fmha_of_every_head_size_and_dtype() {
    for head_dim in [64, 96, 128, 256] {
        for causal in [0, 1] {
            let sizes = with(SMALL, &[("head_dim", head_dim), ("causal", causal)]);
            for dtype in ALL {
                agree(&FmhaContract, dtype, &sizes, &[("TILE_M", 16), ("TILE_N", 32)]);
            }
        }
    }
}

#[test]
fn extended_fmha_with_every_switch() {
    for bits in 0..16 {
        let bit = |i: i64| bits >> i & 1;
        let switches = [("causal", bit(0)), ("window", 20 * bit(1)), ("soft_cap", bit(2)), ("sinks", bit(3))];
        let sizes = with(SMALL, &switches);
        for dtype in [DType::F32, ALL[1 + bits as usize % 3]] {
            agree(&FmhaExtendedContract, dtype, &sizes, &[("TILE_M", 16), ("TILE_N", 16)]);
        }
    }
}

#[test]
fn windows_narrower_and_wider_than_blocks() {
    for window in [1, 3, 16, 50, 1000] {
        for (seq_q, seq_k) in [(1, 1), (40, 40), (50, 17), (5, 90)] {
            for causal in [0, 1] {
                let changed = [("window", window), ("seq_q", seq_q), ("seq_k", seq_k), ("causal", causal)];
                let sizes = with(SMALL, &changed);
                agree(&FmhaExtendedContract, DType::F32, &sizes, &[("TILE_M", 16), ("TILE_N", 16)]);
            }
        }
    }
}

#[test]
fn packed_sequences_of_different_lengths() {
    let base = &[("batch", 5), ("heads", 4), ("kv_heads", 2), ("head_dim", 64), ("max_seq_q", 40)];
    for (total_q, total_k) in [(97, 130), (5, 3), (200, 60)] {
        for (causal, window) in [(0, 0), (1, 0), (1, 9), (0, 9)] {
            let changed =
                [("total_q", total_q), ("total_k", total_k), ("causal", causal), ("window", window)];
            for dtype in [DType::F32, DType::BF16, DType::F8E4M3FN] {
                let sizes = with(base, &changed);
                agree(&FmhaVarlenContract, dtype, &sizes, &[("TILE_M", 16), ("TILE_N", 16)]);
            }
        }
    }
}

/// The outputs of a problem of one head, with some inputs changed.
fn run(
    contract: &dyn Contract,
    sizes: &[(&str, i64)],
    change: impl Fn(&mut [Vec<f64>]),
) -> (Vec<Vec<f64>>, Vec<Vec<f64>>) {
    let problem = problem(contract, DType::F32, sizes);
    let config = config(contract, &problem, &[("TILE_M", 16), ("TILE_N", 16)]);
    let inputs = random_inputs(contract, &problem, 5);
    let mut values: Vec<Vec<f64>> = inputs.iter().map(DynTensor::to_f64).collect();
    change(&mut values);
    let changed: Vec<DynTensor> = inputs
        .iter()
        .zip(&values)
        .map(|(tensor, values)| DynTensor::from_f64(tensor.dtype, &tensor.shape, values))
        .collect();
    (run_eager(contract, &problem, &config, &changed), contract.oracle(&problem, &values))
}

const ONE_HEAD: &[(&str, i64)] =
    &[("batch", 1), ("heads", 1), ("kv_heads", 1), ("seq_q", 20), ("seq_k", 20), ("head_dim", 64)];

#[test]
fn rows_without_a_key_give_zeros_and_minus_infinity_or_the_sink() {
    let sizes = with(ONE_HEAD, &[("seq_k", 5), ("sinks", 0)]);
    let (found, reference) = run(&FmhaExtendedContract, &sizes, |_| ());
    assert!(found[0][..15 * 64].iter().all(|&x| x == 0.0));
    assert_eq!(found[1][..15], [f64::NEG_INFINITY; 15]);
    assert_eq!(reference[1][..15], [f64::NEG_INFINITY; 15]);
    assert!(found[1][15..].iter().all(|x| x.is_finite()));
    let sizes = with(&sizes, &[("sinks", 1)]);
    let (found, _) = run(&FmhaExtendedContract, &sizes, |inputs| inputs[3][0] = 2.0);
    assert!(found[0][..15 * 64].iter().all(|&x| x == 0.0));
    assert!(found[1][..15].iter().all(|x| (x - 2.0).abs() < 1e-6), "{:?}", &found[1][..15]);
}

#[test]
fn a_sink_of_minus_infinity_is_as_none() {
    let (without, _) = run(&FmhaExtendedContract, ONE_HEAD, |_| ());
    let sizes = with(ONE_HEAD, &[("sinks", 1)]);
    let (found, _) = run(&FmhaExtendedContract, &sizes, |inputs| inputs[3][0] = f64::NEG_INFINITY);
    assert_eq!(found, without);
}

#[test]
fn nan_stays_where_it_is_seen() {
    let nan_rows = |found: &[Vec<f64>]| -> Vec<usize> {
        (0..20)
            .filter(|i| {
                let row = &found[0][i * 64..][..64];
                assert_eq!(row.iter().any(|x| x.is_nan()), row.iter().all(|x| x.is_nan()), "row {i}");
                assert_eq!(row[0].is_nan(), found[1][*i].is_nan(), "row {i}");
                row[0].is_nan()
            })
            .collect()
    };
    let windowed = with(ONE_HEAD, &[("window", 4)]);
    let (found, _) = run(&FmhaExtendedContract, &windowed, |inputs| inputs[0][7 * 64] = f64::NAN);
    assert_eq!(nan_rows(&found), [7]);
    let (found, _) = run(&FmhaExtendedContract, &windowed, |inputs| inputs[1][7 * 64 + 3] = f64::NAN);
    assert_eq!(nan_rows(&found), [7, 8, 9, 10], "the rows whose window holds key 7");
    let capped = with(ONE_HEAD, &[("soft_cap", 1)]);
    let (found, _) = run(&FmhaExtendedContract, &capped, |inputs| inputs[0][7 * 64] = f64::NAN);
    assert_eq!(nan_rows(&found), [7]);
    let sinks = with(ONE_HEAD, &[("sinks", 1)]);
    let (found, _) = run(&FmhaExtendedContract, &sinks, |inputs| inputs[3][0] = f64::NAN);
    assert_eq!(nan_rows(&found).len(), 20);
}

#[test]
fn sequences_that_go_down_are_told_in_checked_runs() {
    let sizes = [
        ("batch", 2),
        ("heads", 1),
        ("kv_heads", 1),
        ("head_dim", 64),
        ("max_seq_q", 16),
        ("total_q", 8),
        ("total_k", 8),
    ];
    let problem = problem(&FmhaVarlenContract, DType::F32, &sizes);
    let config = config(&FmhaVarlenContract, &problem, &[("TILE_M", 16), ("TILE_N", 16)]);
    let mut tensors = random_inputs(&FmhaVarlenContract, &problem, 1);
    tensors[4] = DynTensor::from_f64(DType::I32, &[3], &[0.0, 9.0, 8.0]);
    tensors.push(DynTensor::zeros(DType::F32, &[8, 1, 64]));
    let mut args: Vec<DynArg> = tensors.iter_mut().map(DynArg::Tensor).collect();
    args.extend(FmhaVarlenContract.scalars(&problem).into_iter().map(DynArg::Scalar));
    let options = CpuOptions { checked: true, ..CpuOptions::default() };
    let bindings = FmhaVarlenContract.bindings(&problem, &config);
    let grid = FmhaVarlenContract.grid(&problem, &config);
    let kernel = FmhaVarlenContract.kernel();
    let error = kernel.run_cpu(&mut args, &config, &bindings, grid, options).unwrap_err().to_string();
    assert!(error.contains("program [0, 0, 0]: check failed: cu_seqlens_k ends with the keys"), "{error}");
}
