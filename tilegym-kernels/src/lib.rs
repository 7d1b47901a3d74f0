//! Kernels written in the tile language, each with its launch contract and a naive reference.
//!
//! Linking this crate registers its kernels and contracts: `tile-tune` and [`tile::contract::contracts`] find
//! them by name.

mod check;
mod kernels;
mod oracle;

pub use kernels::fmha::{FmhaContract, fmha};
pub use kernels::matmul::{MatmulContract, matmul};
