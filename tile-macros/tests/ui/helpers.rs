//! Mistakes in a helper by itself.

use tile::prelude::*;

#[tile_fn]
fn helper_shapes<const M: usize, const N: usize>(scale: f32) -> Tile<f32> {
    let rows = full::<f32>([M, 1], scale);
    rows.t() + zeros::<f32>([M, N]) * iota(M).cast::<f32>()
}

fn main() {}
