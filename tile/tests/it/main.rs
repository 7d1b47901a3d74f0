//! Kernels through the macro on the CPU device.

mod bad_launches;
mod dynamic;
mod language;
mod matmul;
mod operations;
mod races;
