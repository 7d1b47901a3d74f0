//! Layouts: where each element of a tile lives.
//!
//! One formalism serves everything: a [`LinearLayout`] maps the bits of (register, lane, warp) to tile
//! coordinates linearly over F2. Fragments of `mma` instructions, blocked layouts for global memory, slices
//! after reductions and swizzled shared memory are all instances, and a conversion between two of them is a
//! question of linear algebra ([`Conversion`]).

mod blocked;
mod conversion;
mod linear;
pub mod mma;
mod swizzle;
pub mod wgmma;

pub use blocked::blocked;
pub use conversion::{Conversion, Shuffle, conversion, reduce_scratch_bytes};
pub use linear::{FreeVariables, LayoutError, LinearLayout};
pub use swizzle::SharedLayout;
