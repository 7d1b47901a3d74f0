//! The NVFP4 kernels: eager CPU runs and interpreted IR against the references, in both orders of scales, on ragged
//! shapes; and what they do with the ends of the formats.

use crate::support::{agree, config, problem, run_eager};
use tile::contract::{Contract, random_inputs};
use tile::dynamic::DynTensor;
use tile_lang::DType;
use tilegym_kernels::{Nvfp4GemmContract, Nvfp4QuantizeContract};

fn gemm([m, n, k]: [i64; 3], [tile_m, tile_n, tile_k, splits]: [i64; 4]) {
    for order in [0, 1] {
        // Blocks of scales are of 128 rows by 4.
        let (tile_n, tile_k) = if order == 1 { (tile_n.max(128), tile_k.max(64)) } else { (tile_n, tile_k) };
        for contract in [Nvfp4GemmContract::WEIGHTS, Nvfp4GemmContract::BOTH] {
            let both = contract.kernel().name == "nvfp4_gemm_scaled";
            let tile_m = if both && order == 1 { tile_m.max(128) } else { tile_m };
            for &dtype in contract.dtypes() {
                let sizes = [("m", m), ("n", n), ("k", k), ("scales_128x4", order)];
                let tiles = [("TILE_M", tile_m), ("TILE_N", tile_n), ("TILE_K", tile_k), ("SPLITS", splits)];
                agree(&contract, dtype, &sizes, &tiles);
            }
        }
    }
}

#[test]
fn gemm_smaller_than_a_tile() {
    gemm([1, 1, 16], [8, 16, 64, 1]);
    gemm([8, 16, 48], [8, 64, 128, 1]);
}

#[test]
fn gemm_ragged_everywhere() {
    gemm([13, 200, 80], [16, 64, 64, 1]);
    gemm([33, 130, 272], [8, 128, 128, 1]);
    gemm([16, 257, 16 * 33], [16, 32, 16, 1]);
}

#[test]
fn gemm_in_several_parts() {
    for splits in [2, 3, 8] {
        gemm([9, 129, 16 * 21], [16, 64, 64, splits]);
    }
}

#[test]
fn quantize_matches_its_reference_bit_for_bit() {
    for (m, k) in [(1, 16), (33, 80), (128, 64), (130, 16 * 19), (300, 128)] {
        for order in [0, 1] {
            for &dtype in Nvfp4QuantizeContract.dtypes() {
                agree(&Nvfp4QuantizeContract, dtype, &[("m", m), ("k", k), ("scales_128x4", order)], &[]);
            }
        }
    }
}

/// The elements and scale of one group.
fn quantized(values: &[f64], global: f64) -> (Vec<f64>, f64) {
    let sizes = [("m", 1), ("k", 16), ("scales_128x4", 0)];
    let problem = problem(&Nvfp4QuantizeContract, DType::F32, &sizes);
    let config = config(&Nvfp4QuantizeContract, &problem, &[]);
    let mut inputs = random_inputs(&Nvfp4QuantizeContract, &problem, 1);
    let mut group = vec![0.0; 16];
    group[..values.len()].copy_from_slice(values);
    inputs[0] = DynTensor::from_f64(DType::F32, &[1, 16], &group);
    inputs[1] = DynTensor::from_f64(DType::F32, &[1], &[global]);
    let found = run_eager(&Nvfp4QuantizeContract, &problem, &config, &inputs);
    (found[0][..values.len()].to_vec(), found[1][0])
}

#[test]
fn quantize_rounds_to_even_and_saturates() {
    // The largest is 6, so the scale is 1 and every value is rounded as it is: ties go to even codes.
    let values = [6.0, 0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, -5.0, -0.3];
    assert_eq!(quantized(&values, 1.0), (vec![6.0, 0.0, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0, -4.0, -0.5], 1.0));
    // Scales end at 448: what is larger saturates.
    assert_eq!(quantized(&[1e6, 448.0 * 3.0, -1e9], 1.0), (vec![6.0, 3.0, -6.0], 448.0));
    assert_eq!(quantized(&[f64::INFINITY, 1.0], 1.0), (vec![6.0, 0.0], 448.0));
}

#[test]
fn quantize_gives_zeros_where_there_is_no_scale() {
    assert_eq!(quantized(&[0.0, -0.0], 1.0), (vec![0.0, 0.0], 0.0));
    // 2^-10 is halfway between 0 and the smallest scale, and goes to 0.
    assert_eq!(quantized(&[6.0 * 2f64.powi(-10), 1e-9], 1.0), (vec![0.0, 0.0], 0.0));
    let (elements, scale) = quantized(&[f64::NAN, 1.0], 1.0);
    assert!(scale.is_nan() && elements == [0.0, 0.0]);
}

/// A group is what its elements times its scale say, within half a step of the format.
#[test]
fn gemm_with_the_unit_matrix_gives_the_weights_back() {
    let sizes = [("m", 32), ("n", 24), ("k", 32), ("scales_128x4", 1)];
    let problem = problem(&Nvfp4GemmContract::WEIGHTS, DType::F16, &sizes);
    let tiles = [("TILE_M", 32), ("TILE_N", 128), ("TILE_K", 64)];
    let config = config(&Nvfp4GemmContract::WEIGHTS, &problem, &tiles);
    let mut inputs = random_inputs(&Nvfp4GemmContract::WEIGHTS, &problem, 5);
    let unit: Vec<f64> = (0..32 * 32).map(|i| f64::from(u8::from(i % 33 == 0))).collect();
    inputs[0] = DynTensor::from_f64(DType::F16, &[32, 32], &unit);
    let (weights, scales) = (inputs[1].to_f64(), inputs[2].to_f64());
    let out = &run_eager(&Nvfp4GemmContract::WEIGHTS, &problem, &config, &inputs)[0];
    for (k, n) in (0..32).flat_map(|k| (0..24).map(move |n| (k, n))) {
        assert_eq!(out[k * 24 + n], weights[n * 32 + k] * scales[n * 16 + k / 16] * 0.0625, "[{n}, {k}]");
    }
}
