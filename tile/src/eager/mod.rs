//! Tiles on the CPU: what a kernel's body runs on without a GPU or LLVM.
//!
//! A [`Tile`] is a handle into the running program's arena ([`mark`], [`release`]); its dtype is in the Rust type,
//! its shape is a value. Mistakes that only shapes can show stop the program with the kernel's source line.

mod arena;
mod arrivals;
mod element;
mod elementwise;
mod fault;
mod grid;
mod mma;
mod reduce;
mod shape;
mod small_float;
mod tile;
mod view;

pub use arena::{Carried, mark, release};
pub use element::{Bits, Element, Factor, Float, Numeric, Scalar};
pub use elementwise::{Operand, div_rn, fma, maximum, minimum, select};
pub(crate) use grid::{Shadow, run_grid};
pub use grid::{cdiv, check, checking, num_programs, program_id};
pub use mma::{mma, mma_scaled};
pub use small_float::{F4E2M1FN, F8E4M3FN, f4E2M1FN, f8E4M3FN};
pub use tile::{Tile, full, iota, ones, zeros};
pub(crate) use view::View;
pub use view::{Tensor, TensorMut};
