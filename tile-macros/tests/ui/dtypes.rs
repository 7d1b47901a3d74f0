//! Operations on dtypes that do not have them.

use tile::prelude::*;

#[tile_kernel]
fn condition_is_a_tile<T: Float, const M: usize, const N: usize, const K: usize>(
    a: Tensor<T, 2>,
    b: Tensor<T, 2>,
    c: TensorMut<T, 2>,
) {
    let tile = a.load([0, 0], [M, N]);
    if tile.gt(0.0) {
        c.store([0, 0], tile);
    }
}

#[tile_kernel]
fn comparison_operator<T: Float, const M: usize, const N: usize, const K: usize>(
    a: Tensor<T, 2>,
    b: Tensor<T, 2>,
    c: TensorMut<T, 2>,
) {
    let tile = a.load([0, 0], [M, N]);
    c.store([0, 0], select(tile > 0.0, tile, zeros::<T>([M, N])));
}

#[tile_kernel]
fn integer_literal_beside_float_tile<T: Float, const M: usize, const N: usize, const K: usize>(
    a: Tensor<T, 2>,
    b: Tensor<T, 2>,
    c: TensorMut<T, 2>,
) {
    c.store([0, 0], a.load([0, 0], [M, N]) * 2);
}

#[tile_kernel]
fn tensor_in_arithmetic<T: Float, const M: usize, const N: usize, const K: usize>(
    a: Tensor<T, 2>,
    b: Tensor<T, 2>,
    c: TensorMut<T, 2>,
) {
    c.store([0, 0], a + b.load([0, 0], [M, N]));
}

#[tile_kernel]
fn storage_dtype_arithmetic<T: Float, const M: usize, const N: usize, const K: usize>(
    a: Tensor<T, 2>,
    b: Tensor<T, 2>,
    c: TensorMut<T, 2>,
    f: Tensor<F8E4M3FN, 2>,
) {
    c.store([0, 0], (f.load([0, 0], [M, N]) * 2.0).cast::<T>());
}

#[tile_kernel]
fn unbounded_dtype_arithmetic<T: Element, const M: usize, const N: usize, const K: usize>(
    a: Tensor<T, 2>,
    b: Tensor<T, 2>,
    c: TensorMut<T, 2>,
) {
    let tile = a.load([0, 0], [M, N]);
    c.store([0, 0], tile + tile);
}

#[tile_kernel]
fn missing_dtype<T: Float, const M: usize, const N: usize, const K: usize>(
    a: Tensor<T, 2>,
    b: Tensor<T, 2>,
    c: TensorMut<T, 2>,
) {
    let tile: Tile<T> = zeros([M, N]);
    c.store([0, 0], tile);
}

fn main() {}
