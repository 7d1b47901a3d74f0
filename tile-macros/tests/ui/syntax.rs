//! Rust that the tile language does not have.

use tile::prelude::*;

#[tile_kernel]
fn break_in_loop<T: Float, const M: usize, const N: usize, const K: usize>(
    a: Tensor<T, 2>,
    b: Tensor<T, 2>,
    c: TensorMut<T, 2>,
) {
    for k in 0..a.dim(0) {
        if k > 3 {
            break;
        }
    }
}

#[tile_kernel]
fn match_expression<T: Float, const M: usize, const N: usize, const K: usize>(
    a: Tensor<T, 2>,
    b: Tensor<T, 2>,
    c: TensorMut<T, 2>,
) {
    let i = match program_id(0) {
        0 => 1,
        n => n,
    };
    c.store([i, 0], a.load([0, 0], [M, N]));
}

#[tile_kernel]
fn indexing<T: Float, const M: usize, const N: usize, const K: usize>(
    a: Tensor<T, 2>,
    b: Tensor<T, 2>,
    c: TensorMut<T, 2>,
) {
    let first = a[0];
}

#[tile_kernel]
fn closure<T: Float, const M: usize, const N: usize, const K: usize>(
    a: Tensor<T, 2>,
    b: Tensor<T, 2>,
    c: TensorMut<T, 2>,
) {
    let twice = |x: Tile<T>| x + x;
    c.store([0, 0], twice(a.load([0, 0], [M, N])));
}

#[tile_kernel]
fn inclusive_range<T: Float, const M: usize, const N: usize, const K: usize>(
    a: Tensor<T, 2>,
    b: Tensor<T, 2>,
    c: TensorMut<T, 2>,
) {
    for k in 0..=a.dim(0) {
        c.store([k, 0], a.load([k, 0], [M, N]));
    }
}

fn main() {}
