//! Kernels written in the tile language, each with its launch contract and a naive reference.
//!
//! Linking this crate registers its kernels and contracts: `tile-tune` and [`tile::contract::contracts`] find
//! them by name.

mod activations;
mod attention;
mod check;
mod gated;
mod host;
mod kernels;
mod nvfp4;
mod oracle;
mod products;
mod rows;
mod splits;

pub use gated::GatedContract;
pub use host::PreparedError;
pub use kernels::decode_attention::{decode_attention, num_splits};
pub use kernels::decode_attention_contract::DecodeAttentionContract;
pub use kernels::decode_attention_host::{CacheElement, DecodeAttention, DecodeSizes, KvCache};
pub use kernels::fmha::{FmhaContract, fmha};
pub use kernels::fmha_extended::{FmhaExtendedContract, fmha_extended};
pub use kernels::fmha_varlen::{FmhaVarlenContract, fmha_varlen};
pub use kernels::gelu_and_mul::{GELU_AND_MUL, gelu_and_mul};
pub use kernels::layer_norm::{LayerNormContract, layer_norm};
pub use kernels::linear::{LinearContract, linear};
pub use kernels::matmul::{MatmulContract, matmul};
pub use kernels::matmul_batched::{MatmulBatchedContract, matmul_batched};
pub use kernels::matmul_splitk::{MatmulSplitkContract, matmul_splitk};
pub use kernels::matmul_splitk_host::{MatmulSplitk, ProductSizes};
pub use kernels::nvfp4_gemm::{Nvfp4GemmContract, nvfp4_gemm, nvfp4_gemm_scaled};
pub use kernels::nvfp4_quantize::{Nvfp4QuantizeContract, nvfp4_quantize};
pub use kernels::rms_norm::{RmsNormContract, add_rms_norm, rms_norm};
pub use kernels::rope::{RopeContract, rope};
pub use kernels::silu_and_mul::{SILU_AND_MUL, silu_and_mul};
pub use kernels::softmax::{SoftmaxContract, softmax};
pub use kernels::splitk_reduce::{SplitkReduceContract, splitk_reduce};
