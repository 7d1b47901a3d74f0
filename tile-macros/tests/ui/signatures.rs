//! Parameters and results that a kernel cannot have.

use tile::prelude::*;

#[tile_kernel]
fn parameter_type<T: Float, const M: usize, const N: usize>(a: Tensor<T, 2>, b: &[f32], c: TensorMut<T, 2>) {
    c.store([0, 0], a.load([0, 0], [M, N]));
}

#[tile_kernel]
fn kernel_returns_a_value<const M: usize>(a: Tensor<f32, 1>) -> Tile<f32> {
    a.load([0], [M])
}

#[tile_kernel]
fn const_parameter_type<const M: u32>(a: Tensor<f32, 1>, c: TensorMut<f32, 1>) {
    c.store([0], a.load([0], [16]));
}

fn main() {}
