//! Activations as kernels compute them, in f32, and as their references do.

use tile::prelude::*;

/// `x / (1 + exp(-x))`.
#[tile_fn]
pub(crate) fn silu(x: Tile<f32>) -> Tile<f32> {
    x / ((x * -std::f32::consts::LOG2_E).exp2() + 1.0)
}

/// `x (1 + tanh(u)) / 2` with `u = sqrt(2 / pi) (x + 0.044715 x³)` (Hendrycks and Gimpel, 2016), computed as
/// `x / (1 + exp(-2u))`, which is the same and loses nothing where `tanh` nears -1.
#[tile_fn]
pub(crate) fn gelu(x: Tile<f32>) -> Tile<f32> {
    // -2 sqrt(2 / pi) log2(e), and that times 0.044715.
    x / ((x * (x * x * -0.102_943_24 - 2.302_208_2)).exp2() + 1.0)
}

/// The reference of [`silu`].
pub(crate) fn silu_reference(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

/// The reference of [`gelu`].
pub(crate) fn gelu_reference(x: f64) -> f64 {
    let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
    0.5 * x * (1.0 + u.tanh())
}
