//! Names that are nowhere, and calls with too few arguments.

use tile::prelude::*;

#[tile_kernel]
fn unknown_method<T: Float, const M: usize, const N: usize, const K: usize>(
    a: Tensor<T, 2>,
    b: Tensor<T, 2>,
    c: TensorMut<T, 2>,
) {
    c.store([0, 0], a.load([0, 0], [M, N]).exp_2());
}

#[tile_kernel]
fn unknown_variable<T: Float, const M: usize, const N: usize, const K: usize>(
    a: Tensor<T, 2>,
    b: Tensor<T, 2>,
    c: TensorMut<T, 2>,
) {
    let tile = a.load([0, 0], [M, N]);
    c.store([0, 0], tiles);
}

#[tile_kernel]
fn argument_count<T: Float, const M: usize, const N: usize, const K: usize>(
    a: Tensor<T, 2>,
    b: Tensor<T, 2>,
    c: TensorMut<T, 2>,
) {
    c.store([0, 0], a.load([program_id(), 0], [M, N]));
}

fn main() {}
