//! One file a kernel: the function, its contract, its reference.

pub mod decode_attention;
pub mod decode_attention_contract;
pub mod decode_attention_host;
pub mod fmha;
pub mod fmha_extended;
pub mod fmha_varlen;
pub mod gelu_and_mul;
pub mod layer_norm;
pub mod linear;
pub mod matmul;
pub mod matmul_batched;
pub mod matmul_splitk;
pub mod matmul_splitk_host;
pub mod nvfp4_gemm;
pub mod nvfp4_quantize;
pub mod rms_norm;
pub mod rope;
pub mod silu_and_mul;
pub mod softmax;
pub mod splitk_reduce;
