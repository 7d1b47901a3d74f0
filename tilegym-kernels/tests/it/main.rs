//! Every kernel against its reference.

mod agreement;
mod attention;
#[cfg(feature = "cuda")]
mod cuda;
mod decode_attention;
mod emulated;
mod emulator;
mod matmul_splitk;
mod nvfp4;
mod resources;
mod rows;
mod support;
