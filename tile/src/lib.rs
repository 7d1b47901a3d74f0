//! Write a GPU kernel once as a Rust function over tiles; run it on the CPU or compile it to PTX.
//!
//! ```
//! use tile::prelude::*;
//!
//! /// y = a x + y, one block of TILE elements a program.
//! #[tile_kernel(tune(TILE in [256, 512, 1024]))]
//! pub fn axpy<const TILE: usize>(x: Tensor<f32, 1>, y: TensorMut<f32, 1>, a: f32) {
//!     let i = program_id(0);
//!     y.store([i], x.load([i], [TILE]) * a + y.load([i], [TILE]));
//! }
//!
//! let x = TensorBuf::from_vec([3], vec![1.0, 2.0, 3.0])?;
//! let mut y = TensorBuf::full([3], 1.0);
//! let config = axpy::Config::default();
//! axpy(&x, &mut y, 2.0).grid([x.len().div_ceil(config.tile)]).config(config).launch(&Device::cpu())?;
//! assert_eq!(y.to_vec(), [3.0, 5.0, 7.0]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Features
//! `jit` (default): compile kernels to PTX in process; needs LLVM. Without it nothing here depends on LLVM.
//! `cuda` (default): launch on GPUs. The driver is loaded at run time; nothing of CUDA is needed to build.
//!
//! # GPUs
//! `Device::cuda(0)` in place of `Device::cpu()`, and tensors moved there (`to_device`), or made there
//! (`TensorBuf::zeros_on`), or lent by whoever owns the memory (`TensorBuf::from_raw`). The module `cuda` has
//! streams, events, graphs, prepared launches and buffers. Variables of the environment that launches read:
//!
//! | variable | meaning |
//! |---|---|
//! | `TILEWRIGHT_CACHE` | the folder for compiled kernels, or `off`; the user's cache folder if absent |
//! | `TILEWRIGHT_CACHE_MIB` | what the folder may hold, 512 if absent |
//! | `TILEWRIGHT_PTXAS` | the assembler to use, or `off` to leave it to the driver; looked for if absent |

pub mod contract;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod device;
pub mod dynamic;
pub mod eager;
pub mod error;
#[cfg(feature = "jit")]
pub mod jit;
pub mod launch;
pub mod registry;
mod steps;
pub mod tensor;
pub mod tuning;

pub use device::Device;
pub use error::{DeviceError, KernelError, LaunchError, TensorError};
pub use tensor::TensorBuf;
pub use tile_lang::{Bindings, Config, DType};
pub use tile_macros::{tile_fn, tile_kernel};

/// Everything that a file with kernels needs.
pub mod prelude {
    pub use crate::device::Device;
    pub use crate::eager::{
        Element, F4E2M1FN, F8E4M3FN, Factor, Float, Tensor, TensorMut, Tile, cdiv, check, div_rn, f4E2M1FN,
        f8E4M3FN, fma, full, iota, maximum, minimum, mma, mma_scaled, num_programs, ones, program_id, select,
        zeros,
    };
    pub use crate::error::{LaunchError, TensorError};
    pub use crate::tensor::TensorBuf;
    pub use half::{bf16, f16};
    pub use tile_macros::{tile_fn, tile_kernel};
}

/// What the macros' expansions name. Not part of the interface.
#[doc(hidden)]
pub mod private {
    pub use crate::eager::{
        Carried, Element, F4E2M1FN, F8E4M3FN, Factor, Float, Tensor, TensorMut, Tile, checking, mark, release,
    };
    pub use crate::error::LaunchError;
    pub use crate::launch::{Argument, EagerCall, Launch, TypedConfig};
    pub use crate::registry::{HelperDef, KernelDef, KernelEntry};
    pub use crate::tensor::TensorBuf;
    pub use crate::tuning::{InputDesc, tuned};
    pub use half::{bf16, f16};
    pub use inventory;
    pub use tile_lang::{Config, DType};

    /// The body of a kernel; implemented beside the kernel, where the names it uses resolve.
    pub trait KernelBody {
        /// The helpers it calls.
        fn helpers() -> &'static [(&'static str, &'static HelperDef)];
        /// Runs it on the CPU.
        fn run(call: &EagerCall<'_>) -> Result<(), LaunchError>;
    }

    /// The helpers that a helper calls.
    pub trait HelperBody {
        /// Path as written, and what it names.
        fn helpers() -> &'static [(&'static str, &'static HelperDef)];
    }
}

/// The README's example is a test.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
