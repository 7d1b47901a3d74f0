//! Operands that `mma` cannot multiply.

use tile::prelude::*;

#[tile_kernel]
fn mma_inner_dimensions<T: Float, const M: usize, const N: usize, const K: usize>(
    a: Tensor<T, 2>,
    b: Tensor<T, 2>,
    c: TensorMut<T, 2>,
) {
    let lhs = a.load([0, 0], [M, K]);
    let rhs = b.load([0, 0], [N, K]);
    let acc = mma(lhs, rhs, zeros::<f32>([M, N]));
    c.store([0, 0], acc.cast::<T>());
}

#[tile_kernel]
fn mma_accumulator_shape<T: Float, const M: usize, const N: usize, const K: usize>(
    a: Tensor<T, 2>,
    b: Tensor<T, 2>,
    c: TensorMut<T, 2>,
) {
    let lhs = a.load([0, 0], [M, K]);
    let rhs = b.load([0, 0], [K, N]);
    let acc = mma(lhs, rhs, zeros::<f32>([N, M]));
    c.store([0, 0], acc.cast::<T>());
}

#[tile_kernel]
fn mma_rank<T: Float, const M: usize, const N: usize, const K: usize>(
    a: Tensor<T, 2>,
    b: Tensor<T, 2>,
    c: TensorMut<T, 2>,
) {
    let acc = mma(a.load([0, 0], [M, K]).reshape([M, 1, K]), b.load([0, 0], [K, N]), zeros::<f32>([M, N]));
    c.store([0, 0], acc.cast::<T>());
}

#[tile_kernel]
fn mma_accumulator_dtype<T: Float, const M: usize, const N: usize, const K: usize>(
    a: Tensor<T, 2>,
    b: Tensor<T, 2>,
    c: TensorMut<T, 2>,
) {
    let lhs = a.load([0, 0], [M, K]);
    let acc = mma(lhs, b.load([0, 0], [K, N]), zeros::<T>([M, N]));
    c.store([0, 0], acc);
}

fn main() {}
