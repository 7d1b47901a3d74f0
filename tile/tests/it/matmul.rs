//! The kernel of the README against a naive product in f64.

use tile::prelude::*;

/// C = A Bᵀ, one TILE_M x TILE_N block of C a program.
#[tile_kernel(tune(TILE_M in [64, 128, 256], TILE_N in [64, 128, 256], TILE_K in [32, 64, 128],
                   occupancy in [1, 2], num_stages in [2, 3, 4]))]
pub fn matmul<T: Float, const TILE_M: usize, const TILE_N: usize, const TILE_K: usize>(
    a: Tensor<T, 2>,
    b: Tensor<T, 2>,
    c: TensorMut<T, 2>,
) {
    let (m, n) = (program_id(0), program_id(1));
    let mut acc = zeros::<f32>([TILE_M, TILE_N]);
    for k in 0..cdiv(a.dim(1), TILE_K) {
        let lhs = a.load([m, k], [TILE_M, TILE_K]);
        let rhs = b.load([n, k], [TILE_N, TILE_K]);
        acc = mma(lhs, rhs.t(), acc);
    }
    c.store([m, n], acc.cast::<T>());
}

/// Values in [-1, 1] that differ from place to place.
pub fn noise(seed: usize, i: usize) -> f64 {
    let mixed = (seed.wrapping_mul(0x9e37_79b9) ^ i.wrapping_mul(0x85eb_ca6b)).wrapping_mul(0xc2b2_ae35);
    ((mixed >> 7) % 2001) as f64 / 1000.0 - 1.0
}

fn check<T: Float>([m, n, k]: [usize; 3], tile: [usize; 3], tolerance: f64) {
    let a = TensorBuf::from_fn([m, k], |[i, j]| T::from_f64(noise(1, i * k + j)));
    let b = TensorBuf::from_fn([n, k], |[i, j]| T::from_f64(noise(2, i * k + j)));
    let mut c = TensorBuf::<T, 2>::full([m, n], T::from_f64(-7.0));
    let config = matmul::Config { tile_m: tile[0], tile_n: tile[1], tile_k: tile[2], ..Default::default() };
    let grid = [m.div_ceil(tile[0]), n.div_ceil(tile[1])];
    matmul(&a, &b, &mut c).grid(grid).config(config).launch(&Device::cpu()).unwrap();
    let (mut error, mut norm) = (0.0, 0.0);
    for i in 0..m {
        for j in 0..n {
            let expected: f64 = (0..k).map(|l| a.get([i, l]).to_f64() * b.get([j, l]).to_f64()).sum();
            error += (c.get([i, j]).to_f64() - expected).powi(2);
            norm += expected.powi(2);
        }
    }
    let relative = (error / norm).sqrt();
    assert!(relative < tolerance, "{m}x{n}x{k} in tiles {tile:?}: {relative:e}");
}

#[test]
fn every_dtype_and_ragged_edges_agree_with_the_naive_product() {
    for (shape, tile) in [
        ([1, 1, 1], [16, 16, 16]),
        ([8, 8, 8], [16, 8, 32]),
        ([257, 129, 65], [64, 32, 32]),
        ([64, 64, 64], [64, 64, 64]),
        ([33, 100, 200], [1, 128, 64]),
    ] {
        check::<f32>(shape, tile, 1e-6);
        check::<f16>(shape, tile, 1e-3);
        check::<bf16>(shape, tile, 8e-3);
    }
}
