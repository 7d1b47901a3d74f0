//! From the tile dialect to PTX.
//!
//! A kernel arrives in the tile dialect. Passes give every tile a layout and make shared memory, copies and
//! barriers explicit; [`lower`] then writes what one thread does in the LLVM dialect, and [`llvm`] turns that
//! into PTX, all in process. [`compile()`] is the whole way; [`ptxas`] assembles the result where the assembler
//! is installed.

pub mod compile;
pub mod error;
pub mod gpu;
pub mod layout;
pub mod llvm;
pub mod lower;
pub mod ptxas;
pub mod target;

pub use compile::{CompileOptions, Compiled, Timing, compile, with_context};
pub use error::LowerError;
pub use gpu::facts::TensorFacts;
pub use gpu::launch::TensorMap;
pub use gpu::passes::{Remark, Switches};
pub use gpu::resources::Resources;
pub use ptxas::{Ptxas, PtxasError, Report};
pub use target::Target;
