//! Slices, single elements and checks that do not fit.

use tile::prelude::*;

#[tile_kernel]
fn element_index_type<const N: usize>(lens: Tensor<i32, 1>, y: TensorMut<f32, 1>) {
    let first = lens.at([0]);
    y.store([lens.at([first]) as usize], zeros::<f32>([N]));
}

#[tile_kernel]
fn element_of_any_dtype<T: Element, const N: usize>(x: Tensor<T, 1>, y: TensorMut<f32, 1>) {
    y.store([0], full::<f32>([N], x.at([0])));
}

#[tile_kernel]
fn slice_bounds<const N: usize>(lens: Tensor<i32, 1>, y: TensorMut<f32, 1>) {
    y.slice(0, lens.at([0]), N).store([0], zeros::<f32>([N]));
}

#[tile_kernel]
fn slice_axis<const N: usize>(x: Tensor<f32, 2>, y: TensorMut<f32, 2>) {
    y.store([0, 0], x.slice(2, 0, N).load([0, 0], [N, N]));
}

#[tile_kernel]
fn check_of_a_tile<const N: usize>(x: Tensor<f32, 1>, y: TensorMut<f32, 1>) {
    let tile = x.load([0], [N]);
    check(tile.gt(0.0), "all are positive");
    y.store([0], tile);
}

#[tile_kernel]
fn check_message<const N: usize>(x: Tensor<f32, 1>, y: TensorMut<f32, 1>) {
    check(x.dim(0) > 0, N);
    y.store([0], x.load([0], [N]));
}

fn main() {}
