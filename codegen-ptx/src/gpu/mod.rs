//! The gpu level: tiles have layouts; shared memory, copies and barriers are explicit.
//!
//! [`dialect`] and [`ops`] define it, [`verify`] checks what the definition cannot say, and [`passes`] lead to it
//! from the tile dialect.

mod apart;
mod builder;
pub(crate) mod cluster;
pub mod dialect;
pub mod facts;
pub mod launch;
pub mod ops;
pub mod passes;
pub mod protocol;
pub mod resources;
pub mod rounding;
pub(crate) mod staging;
pub(crate) mod turns;
pub mod verify;
