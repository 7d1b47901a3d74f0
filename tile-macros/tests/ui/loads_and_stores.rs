//! Accesses that do not fit their tensor.

use tile::prelude::*;

#[tile_kernel]
fn store_rank<T: Float, const M: usize, const N: usize, const K: usize>(
    a: Tensor<T, 2>,
    b: Tensor<T, 2>,
    c: TensorMut<T, 2>,
) {
    let sums = a.load([0, 0], [M, N]).reduce_sum(1).squeeze(1);
    c.store([0, 0], sums);
}

#[tile_kernel]
fn store_to_input<T: Float, const M: usize, const N: usize, const K: usize>(
    a: Tensor<T, 2>,
    b: Tensor<T, 2>,
    c: TensorMut<T, 2>,
) {
    let tile = b.load([0, 0], [M, N]);
    a.store([0, 0], tile);
    c.store([0, 0], tile);
}

#[tile_kernel]
fn store_dtype<T: Float, const M: usize, const N: usize, const K: usize>(
    a: Tensor<T, 2>,
    b: Tensor<T, 2>,
    c: TensorMut<T, 2>,
) {
    let lhs = a.load([0, 0], [M, K]);
    c.store([0, 0], mma(lhs, b.load([0, 0], [K, N]), zeros::<f32>([M, N])));
}

#[tile_kernel]
fn load_index_count<T: Float, const M: usize, const N: usize, const K: usize>(
    a: Tensor<T, 2>,
    b: Tensor<T, 2>,
    c: TensorMut<T, 2>,
) {
    c.store([0, 0], a.load([program_id(0)], [M, N]));
}

#[tile_kernel]
fn load_shape_count<T: Float, const M: usize, const N: usize, const K: usize>(
    a: Tensor<T, 2>,
    b: Tensor<T, 2>,
    c: TensorMut<T, 2>,
) {
    c.store([0, 0], a.load([0, 0], [M]));
}

#[tile_kernel]
fn load_index_type<T: Float, const M: usize, const N: usize, const K: usize>(
    a: Tensor<T, 2>,
    b: Tensor<T, 2>,
    c: TensorMut<T, 2>,
) {
    let i = program_id(0) as i32;
    c.store([0, 0], a.load([i, i], [M, N]));
}

#[tile_kernel]
fn element_index_dtype<T: Float, const M: usize, const N: usize, const K: usize>(
    a: Tensor<T, 2>,
    b: Tensor<T, 2>,
    c: TensorMut<T, 2>,
) {
    let rows = iota(M).expand_dims(1).cast::<f32>();
    let cols = iota(N);
    c.store([0, 0], a.gather([rows, cols]));
}

#[tile_kernel]
fn program_axis<T: Float, const M: usize, const N: usize, const K: usize>(
    a: Tensor<T, 2>,
    b: Tensor<T, 2>,
    c: TensorMut<T, 2>,
) {
    c.store([program_id(3), 0], a.load([0, 0], [M, N]));
}

fn main() {}
