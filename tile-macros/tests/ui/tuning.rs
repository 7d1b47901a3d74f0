//! Tuning spaces that say nothing useful.

use tile::prelude::*;

#[tile_kernel(tune(M in [64, 128], num_stage in [2, 3], N in [64], K in [32]))]
fn tune_unknown_axis<T: Float, const M: usize, const N: usize, const K: usize>(
    a: Tensor<T, 2>,
    b: Tensor<T, 2>,
    c: TensorMut<T, 2>,
) {
    c.store([0, 0], a.load([0, 0], [M, N]) + b.load([0, 0], [M, N]));
}

#[tile_kernel(tune(M in [64], N in [64], K in [0], num_warps in [4, 6]))]
fn tune_bad_candidate<T: Float, const M: usize, const N: usize, const K: usize>(
    a: Tensor<T, 2>,
    b: Tensor<T, 2>,
    c: TensorMut<T, 2>,
) {
    c.store([0, 0], a.load([0, 0], [M, N]) + b.load([0, 0], [M, N]));
}

#[tile_kernel(tune(M in [64], N in [64], K in [32] where M * TILE <= 4096))]
fn tune_constraint<T: Float, const M: usize, const N: usize, const K: usize>(
    a: Tensor<T, 2>,
    b: Tensor<T, 2>,
    c: TensorMut<T, 2>,
) {
    c.store([0, 0], a.load([0, 0], [M, N]) + b.load([0, 0], [M, N]));
}

#[tile_kernel(tune(M = [64], N in [64], K in [32]))]
fn tune_syntax<T: Float, const M: usize, const N: usize, const K: usize>(
    a: Tensor<T, 2>,
    b: Tensor<T, 2>,
    c: TensorMut<T, 2>,
) {
    c.store([0, 0], a.load([0, 0], [M, N]) + b.load([0, 0], [M, N]));
}

fn main() {}
