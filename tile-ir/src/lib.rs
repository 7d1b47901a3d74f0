//! The tile MLIR dialect, its verifier, target-independent passes and interpreter.
//!
//! [`lower_program`] turns a checked kernel into a [`Module`], [`run_passes`] rewrites it, [`verify::verify`] checks
//! the rules that the dialect definition cannot state, [`interpret`] runs it on the CPU.

pub mod context;
pub mod interpret;
pub mod lower_ast;
pub mod module;
pub mod numeric;
pub mod ops;
pub mod passes;
pub mod types;
pub mod verify;

pub use context::{Message, TileContext, with_context};
pub use lower_ast::{LowerError, lower_program};
pub use module::{Module, ParseError};
pub use ops::{Builder, TileOp};
pub use passes::{Pass, PassError, STANDARD_PASSES, run_passes};
pub use verify::{VerifyError, verify};
