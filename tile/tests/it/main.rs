//! Kernels through the macro on the CPU device.

mod bad_launches;
#[cfg(feature = "jit")]
mod cache;
#[cfg(feature = "jit")]
mod compiled;
#[cfg(feature = "cuda")]
mod cuda;
mod dynamic;
mod language;
mod matmul;
mod operations;
mod races;
mod views;
