//! The tile language: syntax tree, symbolic shapes, data types and diagnostics.
//!
//! A kernel is recorded by `tile-macros` as an [`ast::Function`], checked by [`check()`] into a
//! [`typed::Program`], once with symbolic tile sizes (inside the macro, so that errors appear at
//! `cargo check`) and once with every size and dtype bound (before compilation).
//! No LLVM, no CUDA and no I/O here.

pub mod ast;
pub mod builtins;
pub mod check;
pub mod config;
pub mod diag;
pub mod dim;
pub mod disjoint;
pub mod dtype;
mod library;
mod nearest;
#[cfg(feature = "parse")]
pub mod parse;
pub mod space;
pub mod typed;

pub use check::{Mode, check};
pub use config::{Bindings, Config};
pub use diag::{Diagnostic, Span};
pub use dim::Dim;
pub use dtype::DType;
pub use library::Library;
pub use nearest::nearest;
