//! From the tile dialect to PTX.

pub mod gpu;
pub mod layout;
