//! From the tile dialect to PTX.

pub mod layout;
