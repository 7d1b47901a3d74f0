//! Shapes that do not fit together, and sizes no tile can have.

use tile::prelude::*;

#[tile_kernel]
fn broadcast_row_for_column<T: Float, const M: usize, const N: usize, const K: usize>(
    a: Tensor<T, 2>,
    b: Tensor<T, 2>,
    c: TensorMut<T, 2>,
) {
    let tile = a.load([0, 0], [M, N]);
    let scale = tile.reduce_max(1).squeeze(1);
    c.store([0, 0], tile / scale);
}

#[tile_kernel]
fn broadcast_unequal<T: Float, const M: usize, const N: usize, const K: usize>(
    a: Tensor<T, 2>,
    b: Tensor<T, 2>,
    c: TensorMut<T, 2>,
) {
    c.store([0, 0], a.load([0, 0], [M, N]) + b.load([0, 0], [M, K]));
}

#[tile_kernel]
fn loop_carried_shape<T: Float, const M: usize, const N: usize, const K: usize>(
    a: Tensor<T, 2>,
    b: Tensor<T, 2>,
    c: TensorMut<T, 2>,
) {
    let mut sum = zeros::<T>([M, 1]);
    for k in 0..cdiv(a.dim(1), N) {
        sum += a.load([0, k], [M, N]);
    }
    c.store([0, 0], sum);
}

#[tile_kernel]
fn reshape_element_count<T: Float, const M: usize, const N: usize, const K: usize>(
    a: Tensor<T, 2>,
    b: Tensor<T, 2>,
    c: TensorMut<T, 2>,
) {
    c.store([0, 0], a.load([0, 0], [M, N]).reshape([M, K]));
}

#[tile_kernel]
fn squeeze_not_one<T: Float, const M: usize, const N: usize, const K: usize>(
    a: Tensor<T, 2>,
    b: Tensor<T, 2>,
    c: TensorMut<T, 2>,
) {
    let tile = a.load([0, 0], [M, N]).squeeze(0);
    c.store([0, 0], tile.expand_dims(0));
}

#[tile_kernel]
fn reduce_axis<T: Float, const M: usize, const N: usize, const K: usize>(
    a: Tensor<T, 2>,
    b: Tensor<T, 2>,
    c: TensorMut<T, 2>,
) {
    c.store([0, 0], a.load([0, 0], [M, N]).reduce_sum(2));
}

#[tile_kernel]
fn branches_disagree<T: Float, const M: usize, const N: usize, const K: usize>(
    a: Tensor<T, 2>,
    b: Tensor<T, 2>,
    c: TensorMut<T, 2>,
) {
    let tile = if a.dim(0) > 8 { a.load([0, 0], [M, N]) } else { a.load([0, 0], [N, M]) };
    c.store([0, 0], tile);
}

#[tile_kernel]
fn tile_size_not_a_power_of_two<T: Float, const M: usize, const N: usize, const K: usize>(
    a: Tensor<T, 2>,
    b: Tensor<T, 2>,
    c: TensorMut<T, 2>,
) {
    c.store([0, 0], a.load([0, 0], [M, 96]));
}

#[tile_kernel]
fn tile_size_at_run_time<T: Float, const M: usize, const N: usize, const K: usize>(
    a: Tensor<T, 2>,
    b: Tensor<T, 2>,
    c: TensorMut<T, 2>,
) {
    c.store([0, 0], a.load([0, 0], [M, a.dim(1)]));
}

fn main() {}
