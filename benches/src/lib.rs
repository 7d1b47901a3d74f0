//! Criterion benches of the compiler and the kernels.

pub mod cases;
