//! The SiLU-gated product.

use crate::activations::{silu, silu_reference};
use crate::gated::GatedContract;
use tile::prelude::*;

/// `y = silu(gate) * value`, with `silu(g) = g / (1 + exp(-g))`, one `TILE_M x TILE_N` block of `y` a program, in f32.
///
/// A NaN gives NaN in its place. A gate of -inf gives NaN, one of +inf gives the value times infinity.
///
/// # Shapes
/// x `[rows, 2, columns]`: of each row the gates, then the values; y `[rows, columns]`
/// # Grid
/// `[ceil(rows / TILE_M) * ceil(columns / TILE_N)]`
/// # Dtypes
/// f16 | bf16 | f32
#[tile_kernel(tune(
    TILE_M in [1, 2, 4],
    TILE_N in [2048, 512, 1024, 4096],
    num_warps in [4, 2, 8],
    num_stages in [1],
    occupancy in [2, 4]
    where TILE_M * TILE_N <= 1024 * num_warps, TILE_M * TILE_N >= 256 * num_warps
))]
pub fn silu_and_mul<T: Float, const TILE_M: usize, const TILE_N: usize>(x: Tensor<T, 3>, y: TensorMut<T, 2>) {
    let blocks = cdiv(y.dim(1), TILE_N);
    let (m, n) = (program_id(0) / blocks, program_id(0) % blocks);
    let gate = x.load([m, 0, n], [TILE_M, 1, TILE_N]).reshape([TILE_M, TILE_N]).cast::<f32>();
    let value = x.load([m, 1, n], [TILE_M, 1, TILE_N]).reshape([TILE_M, TILE_N]).cast::<f32>();
    y.store([m, n], (silu(gate) * value).cast::<T>());
}

/// The contract of [`silu_and_mul`].
pub const SILU_AND_MUL: GatedContract = GatedContract {
    kernel: &silu_and_mul::KERNEL,
    summary: "y = silu(gate) * value, gates and values side by side in x",
    activation: silu_reference,
};

tile::register_contract!(SILU_AND_MUL);
