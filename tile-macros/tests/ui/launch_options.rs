//! A const parameter that would be a launch option's field.

use tile::prelude::*;

#[tile_kernel(tune(TILE in [4]))]
fn const_named_as_an_option<const TILE: usize, const NUM_STAGES: usize>(c: TensorMut<f32, 1>) {
    c.store([program_id(0)], zeros::<f32>([TILE]));
}

fn main() {}
