//! One file a kernel: the function, its contract, its reference.

pub mod fmha;
pub mod matmul;
